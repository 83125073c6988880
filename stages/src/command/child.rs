//! A child process that cannot outlive, block or flood us.
//!
//! It leads a process group of its own, which is what a stop reaches, and dies with the thread that started it. One loop
//! reads its three pipes without ever blocking, so neither unread output nor a grandchild that keeps a pipe open holds
//! anything up. Descendants that left the group are found by a variable in their environment.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, PipeReader, Read},
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use natron_artifacts::Cancel;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

/// Time between asking to end and killing.
const GRACE: Duration = Duration::from_secs(5);

/// Longest time between two looks at whether the child lives and whether we are to stop.
const MAX_PAUSE_MS: i32 = 20;

/// Bytes read from one pipe before the others have their turn.
const MAX_BYTES_AT_ONCE: usize = 1 << 20;

/// The descriptor that the child writes messages to.
const MESSAGES: RawFd = 3;

/// Name of the variable by which descendants are found; its value is the sandbox.
pub(super) const MARK: &str = "NATRON_SANDBOX";

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
    /// Descriptor 3.
    Messages,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal, which was not ours.
    Killed(i32),
    /// Because we were asked to stop.
    Stopped,
}

/// The end of a child.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// How.
    pub(super) end: End,
    /// How many processes it left running; they are killed.
    pub(super) left_behind: usize,
}

/// A running child.
pub(super) struct Child {
    process: std::process::Child,
    pipes: Vec<Pipe>,
    mark: String,
    is_reaped: bool,
}

struct Pipe {
    channel: Channel,
    reader: PipeReader,
}

impl Child {
    /// Starts `program` in `directory` with exactly this environment and [`MARK`], and `input` as standard input.
    pub(super) fn spawn(
        program: &Path,
        arguments: &[String],
        environment: &BTreeMap<OsString, OsString>,
        directory: &Path,
        input: File,
    ) -> io::Result<Self> {
        // The first pipe made takes descriptor 3 if it is free, so that no pipe of the standard library's does.
        let (messages, messages_writer) = io::pipe()?;
        let (output, output_writer) = io::pipe()?;
        let (errors, errors_writer) = io::pipe()?;
        let writer = messages_writer.as_raw_fd();
        let parent = std::process::id();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment)
            .env(MARK, directory)
            .current_dir(directory)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output_writer))
            .stderr(Stdio::from(errors_writer))
            .process_group(0);
        // SAFETY: between fork and exec only these async-signal-safe calls run; they allocate nothing and take no lock.
        // `writer` is open until `messages_writer` is dropped below, after the fork.
        unsafe {
            command.pre_exec(move || prepare(writer, parent));
        }
        let process = command.spawn()?;
        drop(messages_writer);
        // The command holds our ends of the pipes that the child writes to.
        drop(command);
        let pipes = [
            (Channel::Output, output),
            (Channel::Errors, errors),
            (Channel::Messages, messages),
        ];
        let mut child = Self {
            process,
            pipes: Vec::new(),
            mark: format!("{MARK}={}", directory.display()),
            is_reaped: false,
        };
        for (channel, reader) in pipes {
            fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            child.pipes.push(Pipe { channel, reader });
        }
        Ok(child)
    }

    /// Waits for the end and hands what the child writes to `take`; asks the child to end when `cancel` is set.
    pub(super) fn watch(
        mut self,
        cancel: &Cancel,
        take: &mut dyn FnMut(Channel, &[u8]),
    ) -> io::Result<Ended> {
        let group = self.group();
        let mut asked: Option<Instant> = None;
        let mut pause_ms = 1;
        loop {
            let has_read = self.read(pause_ms, take)?;
            // Without WNOWAIT its number, and with it the group's, could go to somebody else before the group is killed.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            match waitid(Id::Pid(group), flags) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
            if cancel.is_set() {
                match asked {
                    None => {
                        let _ = killpg(group, Signal::SIGTERM);
                        asked = Some(Instant::now());
                    }
                    Some(time) if time.elapsed() >= GRACE => {
                        let _ = killpg(group, Signal::SIGKILL);
                    }
                    Some(_) => {}
                }
            }
            pause_ms = if has_read {
                1
            } else {
                (pause_ms * 2).min(MAX_PAUSE_MS)
            };
        }
        let left_behind = self.kill_descendants();
        let status = self.process.wait()?;
        self.is_reaped = true;
        self.read(0, take)?;
        let end = match (asked, status.code()) {
            (Some(_), _) => End::Stopped,
            (None, Some(code)) => End::Exited(code),
            (None, None) => End::Killed(status.signal().unwrap_or_default()),
        };
        Ok(Ended { end, left_behind })
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// Reads what there is, after at most `pause_ms` of waiting for it; whether there was anything.
    fn read(&mut self, pause_ms: i32, take: &mut dyn FnMut(Channel, &[u8])) -> io::Result<bool> {
        wait_for_input(&self.pipes, pause_ms)?;
        let mut buffer = vec![0; 1 << 16];
        let mut has_read = false;
        let mut open = Vec::new();
        for mut pipe in self.pipes.drain(..) {
            let mut budget = MAX_BYTES_AT_ONCE;
            let is_open = loop {
                match pipe.reader.read(&mut buffer) {
                    Ok(0) => break false,
                    Ok(n) => {
                        has_read = true;
                        take(pipe.channel, &buffer[..n]);
                        budget = budget.saturating_sub(n);
                        if budget == 0 {
                            break true;
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break true,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            };
            if is_open {
                open.push(pipe);
            }
        }
        self.pipes = open;
        Ok(has_read)
    }

    /// Kills all that the child started and that still runs; how many these were.
    fn kill_descendants(&self) -> usize {
        let mut killed = 0;
        // Once more, because what is about to die may have forked; not for ever, because it may go on doing so.
        for _ in 0..3 {
            let found = marked(&self.mark, self.group());
            let _ = killpg(self.group(), Signal::SIGKILL);
            for &pid in &found {
                let _ = kill(pid, Signal::SIGKILL);
            }
            killed += found.len();
            if found.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        killed
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill_descendants();
            let _ = self.process.wait();
        }
    }
}

/// Runs in the child between fork and exec.
fn prepare(writer: RawFd, parent: u32) -> io::Result<()> {
    let checked = |result: i32| {
        if result == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: plain system calls on integers.
    unsafe {
        checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The parent may have died before that took effect.
        if libc::getppid() as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        if writer == MESSAGES {
            // Duplicating a descriptor to itself would leave it marked to be closed.
            checked(libc::fcntl(writer, libc::F_SETFD, 0))
        } else {
            checked(libc::dup2(writer, MESSAGES))
        }
    }
}

fn wait_for_input(pipes: &[Pipe], pause_ms: i32) -> io::Result<()> {
    let mut waiting: Vec<libc::pollfd> = pipes
        .iter()
        .map(|pipe| libc::pollfd {
            fd: pipe.reader.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: the pointer and the count describe `waiting`, whose descriptors `pipes` keeps open.
    let result = unsafe {
        libc::poll(
            waiting.as_mut_ptr(),
            waiting.len() as libc::nfds_t,
            pause_ms,
        )
    };
    match Errno::result(result) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Living processes, other than `leader`, whose environment holds `mark`.
fn marked(mark: &str, leader: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|&pid| pid != leader)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|text| text.split(|&b| b == 0).any(|v| v == mark.as_bytes()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Run {
        ended: Ended,
        output: Vec<u8>,
        errors: Vec<u8>,
        messages: Vec<u8>,
        seconds: f64,
    }

    fn shell(script: &str, cancel: &Cancel) -> Run {
        let directory = tempfile::tempdir().unwrap();
        let input = File::open("/dev/null").unwrap();
        let environment = [("PATH".into(), std::env::var_os("PATH").unwrap())].into();
        let arguments = ["-c".to_owned(), script.to_owned()];
        let start = Instant::now();
        let child = Child::spawn(
            Path::new("/bin/sh"),
            &arguments,
            &environment,
            directory.path(),
            input,
        )
        .unwrap();
        let mut bytes = [Vec::new(), Vec::new(), Vec::new()];
        let ended = child
            .watch(cancel, &mut |channel, new| {
                bytes[channel as usize].extend_from_slice(new);
            })
            .unwrap();
        let [output, errors, messages] = bytes;
        Run {
            ended,
            output,
            errors,
            messages,
            seconds: start.elapsed().as_secs_f64(),
        }
    }

    #[test]
    fn each_channel_arrives_whole() {
        let run = shell(
            "echo out; echo err >&2; echo message >&3; exit 7",
            &Cancel::new(),
        );

        assert_eq!(run.ended.end, End::Exited(7));
        assert_eq!(run.output, b"out\n");
        assert_eq!(run.errors, b"err\n");
        assert_eq!(run.messages, b"message\n");
    }

    #[test]
    fn a_mebibyte_on_every_pipe_does_not_block() {
        let flood = "head -c 1048576 /dev/zero";
        let run = shell(
            &format!("{flood} >&2; {flood} >&3; {flood}"),
            &Cancel::new(),
        );

        assert_eq!(run.ended.end, End::Exited(0));
        for bytes in [run.output, run.errors, run.messages] {
            assert_eq!(bytes.len(), 1 << 20);
        }
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipes_is_killed_and_not_waited_for() {
        let run = shell(
            "sleep 60 & setsid sleep 61 & sleep 0.2; echo done",
            &Cancel::new(),
        );

        assert_eq!(run.ended.end, End::Exited(0));
        assert_eq!(run.ended.left_behind, 2);
        assert_eq!(run.output, b"done\n");
        assert!(run.seconds < 30.0, "{}", run.seconds);
    }

    #[test]
    fn a_signal_is_told_from_a_status() {
        assert_eq!(
            shell("kill -9 $$", &Cancel::new()).ended.end,
            End::Killed(9)
        );
    }

    #[test]
    fn a_stop_ends_it_in_good_order() {
        let cancel = Cancel::new();
        cancel.set();

        let run = shell(
            "trap 'echo saved; exit 0' TERM; while :; do sleep 0.05; done",
            &cancel,
        );
        assert_eq!(run.ended.end, End::Stopped);
        assert!(run.seconds < 4.0, "{}", run.seconds);
    }

    #[test]
    fn a_child_that_ignores_the_stop_is_killed() {
        let cancel = Cancel::new();
        cancel.set();

        let run = shell("trap '' TERM; while :; do sleep 1; done", &cancel);
        assert_eq!(run.ended.end, End::Stopped);
        assert!((4.0..30.0).contains(&run.seconds), "{}", run.seconds);
    }
}
