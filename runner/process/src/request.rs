//! What goes over the socket between us and a keeper.
//!
//! To the keeper: [`START`] with a length and a [`Request`], [`TERMINATE`], [`KILL`]. From the keeper: one [`Reply`] for
//! each `START`. Both ends are the same executable, so there are no versions.

use std::{ffi::CStr, io, os::unix::ffi::OsStrExt};

use crate::{MARK, Program};

/// Start a program; the length of the request and the request follow.
pub(crate) const START: u8 = b'S';

/// Ask the program to end.
pub(crate) const TERMINATE: u8 = b'T';

/// Kill the program.
pub(crate) const KILL: u8 = b'K';

const NUMBERS: usize = 6;

/// Which numbers stand where at the head of a request.
#[derive(Clone, Copy)]
enum Number {
    AddressSpace,
    CpuSeconds,
    Processes,
    Groups,
    Arguments,
    Variables,
}

/// Limits that every process sets for itself; 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OwnLimits {
    /// Bytes of address space.
    pub(crate) address_space: u64,
    /// Seconds of processor time.
    pub(crate) cpu_seconds: u64,
    /// Processes of the user.
    pub(crate) processes: u64,
}

/// The bytes that ask a keeper to start `program`, and to put it into the control groups with these `cgroup.procs` files.
pub(crate) fn encode(
    program: &Program,
    limits: OwnLimits,
    groups: &[std::path::PathBuf],
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![START, 0, 0, 0, 0];
    let numbers = [
        limits.address_space,
        limits.cpu_seconds,
        limits.processes,
        groups.len() as u64,
        program.arguments.len() as u64 + 1,
        program.environment.len() as u64 + 1,
    ];
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    let mut string = |parts: &[&[u8]]| {
        if parts.iter().any(|part| part.contains(&0)) {
            let message = "a path, argument or variable holds a zero byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        bytes.extend(parts.iter().copied().flatten());
        bytes.push(0);
        Ok(())
    };
    let path = program.path.as_os_str().as_bytes();
    let directory = program.directory.as_os_str().as_bytes();
    string(&[directory])?;
    string(&[program
        .input
        .as_ref()
        .map_or(b"/dev/null".as_slice(), |path| path.as_os_str().as_bytes())])?;
    string(&[path])?;
    for group in groups {
        string(&[group.as_os_str().as_bytes()])?;
    }
    string(&[path])?;
    for argument in &program.arguments {
        string(&[argument.as_bytes()])?;
    }
    string(&[MARK.as_bytes(), b"=", directory])?;
    for (name, value) in &program.environment {
        string(&[name.as_bytes(), b"=", value.as_bytes()])?;
    }
    let length = u32::try_from(bytes.len() - 5)
        .map_err(|_| io::Error::from_raw_os_error(nix::libc::E2BIG))?;
    bytes[1..5].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// A request as the keeper reads it.
pub(crate) struct Request<'a> {
    pub(crate) limits: OwnLimits,
    pub(crate) directory: &'a CStr,
    pub(crate) input: &'a CStr,
    pub(crate) path: &'a CStr,
    pub(crate) groups: Vec<&'a CStr>,
    /// Beginning with the program's name.
    pub(crate) arguments: Vec<&'a CStr>,
    pub(crate) environment: Vec<&'a CStr>,
}

/// The request that follows [`START`] and its length; nothing if it is not whole.
pub(crate) fn decode(bytes: &[u8]) -> Option<Request<'_>> {
    let (head, mut rest) = bytes.split_at_checked(NUMBERS * 8)?;
    let number = |which: Number| {
        let at = which as usize * 8;
        Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?))
    };
    let mut next = || {
        let string = CStr::from_bytes_until_nul(rest).ok()?;
        rest = rest.get(string.count_bytes() + 1..)?;
        Some(string)
    };
    let (directory, input, path) = (next()?, next()?, next()?);
    let mut several = |which: Number| {
        (0..number(which)?)
            .map(|_| next())
            .collect::<Option<Vec<_>>>()
    };
    Some(Request {
        directory,
        input,
        path,
        groups: several(Number::Groups)?,
        arguments: several(Number::Arguments)?,
        environment: several(Number::Variables)?,
        limits: OwnLimits {
            address_space: number(Number::AddressSpace)?,
            cpu_seconds: number(Number::CpuSeconds)?,
            processes: number(Number::Processes)?,
        },
    })
}

/// Length of a reply in bytes.
pub(crate) const REPLY_BYTES: usize = 48;

/// How a program ended, from the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reply {
    /// Which step before the program failed; 0 if it started.
    pub(crate) failed_step: u32,
    /// The system's number of that error.
    pub(crate) errno: i32,
    /// As `wait` gives it.
    pub(crate) status: i32,
    /// Processes that were still there when the program had ended.
    pub(crate) left_behind: u32,
    /// Of these, how many could not be killed.
    pub(crate) survivors: u32,
    /// The largest resident set of one of its processes.
    pub(crate) peak_bytes: u64,
    /// Processor time of all of its processes that were waited for, in microseconds.
    pub(crate) cpu_us: u64,
}

impl Reply {
    pub(crate) fn to_bytes(self) -> [u8; REPLY_BYTES] {
        let mut bytes = [0; REPLY_BYTES];
        bytes[0..4].copy_from_slice(&self.failed_step.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.errno.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.left_behind.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.survivors.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.peak_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.cpu_us.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; REPLY_BYTES]) -> Self {
        let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let eight = |at: usize| {
            let (low, high) = (
                u32::from_le_bytes(four(at)),
                u32::from_le_bytes(four(at + 4)),
            );
            u64::from(low) | u64::from(high) << 32
        };
        Self {
            failed_step: u32::from_le_bytes(four(0)),
            errno: i32::from_le_bytes(four(4)),
            status: i32::from_le_bytes(four(8)),
            left_behind: u32::from_le_bytes(four(12)),
            survivors: u32::from_le_bytes(four(16)),
            peak_bytes: eight(24),
            cpu_us: eight(32),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn what_is_asked_arrives() {
        let mut program = Program::new(Path::new("/bin/sh"), Path::new("/tmp/x"));
        program.arguments = vec!["-c".into(), String::new().into()];
        program.environment.insert("A".into(), "b=c".into());
        let limits = OwnLimits {
            cpu_seconds: u64::MAX,
            ..OwnLimits::default()
        };
        let bytes = encode(&program, limits, &[PathBuf::from("/g/cgroup.procs")]).unwrap();

        let request = decode(&bytes[5..]).unwrap();
        assert_eq!(request.limits, limits);
        assert_eq!(request.directory, c"/tmp/x");
        assert_eq!(request.input, c"/dev/null");
        assert_eq!(request.groups, [c"/g/cgroup.procs"]);
        assert_eq!(request.arguments, [c"/bin/sh", c"-c", c""]);
        assert_eq!(request.environment, [c"NATRON_SANDBOX=/tmp/x", c"A=b=c"]);
        for length in 0..bytes.len() - 5 {
            assert!(decode(&bytes[5..5 + length]).is_none(), "{length}");
        }
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let mut program = Program::new(Path::new("/bin/sh"), Path::new("/tmp"));
        program.arguments = vec!["a\0b".into()];

        assert!(encode(&program, OwnLimits::default(), &[]).is_err());
    }

    #[test]
    fn a_reply_arrives() {
        let reply = Reply {
            failed_step: 1,
            errno: -2,
            status: 3,
            left_behind: 4,
            survivors: 5,
            peak_bytes: 1 << 40,
            cpu_us: u64::MAX,
        };

        assert_eq!(Reply::from_bytes(&reply.to_bytes()), reply);
    }
}
