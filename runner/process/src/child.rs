//! Runs a program to its end, and passes on what it writes.

use std::{
    fmt, io,
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::libc;
use thiserror::Error;

use crate::{
    MARK, Mechanism, Program,
    cgroup::Group,
    keeper::{Keeper, duty::step},
    processes,
    request::{self, KILL, OwnLimits, REPLY_BYTES, Reply, TERMINATE},
};

/// Time between asking a program to end and killing it.
pub const GRACE: Duration = Duration::from_secs(5);

/// Longest time between two looks at whether the program is to end.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// More is not read from one pipe after the program's end; nobody is left who could write more than a pipe holds.
const MOST_READS_AFTER_END: usize = 64;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
    /// Descriptor 3.
    Messages,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal, which was not ours.
    Killed(i32),
    /// Because we were asked to stop it.
    Stopped,
    /// Because its time was over.
    TimedOut,
    /// The system killed it, because its control group was at its limit.
    OutOfMemory {
        /// The limit.
        limit_bytes: u64,
        /// The most that its processes had at a time, where known.
        peak_bytes: Option<u64>,
    },
    /// It was killed, because its control group could take no more processes.
    TooManyProcesses {
        /// The limit.
        limit: u64,
    },
}

impl fmt::Display for End {
    /// What is to be said of the program, as `was killed by signal 11`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(status) => write!(f, "ended with exit status {status}"),
            Self::Killed(9) => {
                f.write_str("was killed by signal 9, which may mean that memory ran out")
            }
            Self::Killed(signal @ libc::SIGXCPU) => {
                write!(
                    f,
                    "was killed by signal {signal}: its processor time is used up"
                )
            }
            Self::Killed(signal) => write!(f, "was killed by signal {signal}"),
            Self::Stopped => f.write_str("was stopped"),
            Self::TimedOut => f.write_str("was stopped because its time was over"),
            Self::OutOfMemory {
                limit_bytes,
                peak_bytes,
            } => {
                let limit = shown_bytes(limit_bytes);
                write!(f, "was killed by the system: memory (limit {limit}")?;
                if let Some(peak) = peak_bytes {
                    write!(f, ", peak {}", shown_bytes(peak))?;
                }
                f.write_str(")")
            }
            Self::TooManyProcesses { limit } => write!(
                f,
                "was killed: it wanted more than the {limit} processes that it may have"
            ),
        }
    }
}

/// Bytes for people, exact where they are a whole number of a unit.
fn shown_bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|&(shift, _)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(shift, unit)| {
            let whole = bytes >> shift;
            if whole << shift == bytes {
                format!("{whole} {unit}")
            } else {
                format!("{:.1} {unit}", bytes as f64 / f64::from(1_u32 << shift))
            }
        },
    )
}

/// The end of a program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// How many processes it left running; they are killed.
    pub left_behind: u32,
    /// The most memory that it had: all of its processes in a control group, else the largest of them.
    pub peak_bytes: u64,
    /// Processor time of all its processes, in seconds.
    pub cpu_seconds: f64,
    /// What holds its limits on memory, if it has any.
    pub memory_held_by: Option<Mechanism>,
}

/// Why there is no [`Ended`].
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The program could not be started; the error is that of executing it.
    #[error("the program cannot be started: {0}")]
    Program(#[source] io::Error),
    /// What it needs could not be prepared.
    #[error("cannot {what}: {error}")]
    Setup {
        /// What could not be done.
        what: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The process that watched over the program is gone, and with it the program.
    #[error("the process that watches over the program was killed; so was what it had started")]
    KeeperLost,
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> ProcessError {
    move |error| ProcessError::Setup { what, error }
}

/// Runs `program` until it has ended and nothing that it started is left, and hands what it writes to `take`.
///
/// It is asked to end when `is_cancelled` says so, which is asked about 20 times a second.
pub fn run(
    program: &Program,
    is_cancelled: &dyn Fn() -> bool,
    take: &mut dyn FnMut(Channel, &[u8]),
) -> Result<Ended, ProcessError> {
    let group = Group::create(&program.limits);
    let limits = &program.limits;
    let holds_memory = group.as_ref().is_some_and(Group::holds_memory);
    let holds_processes = group.as_ref().is_some_and(Group::holds_processes);
    let own = OwnLimits {
        address_space: limits
            .memory_bytes
            .filter(|_| !holds_memory)
            .unwrap_or_default(),
        processes: limits
            .processes
            .filter(|_| !holds_processes)
            .unwrap_or_default(),
        cpu_seconds: limits.cpu_seconds.unwrap_or_default(),
    };
    let members = group.as_ref().map(Group::members).unwrap_or_default();
    let request = request::encode(program, own, &members).map_err(ProcessError::Program)?;
    let keeper = Keeper::take().map_err(setup("start a process that watches over the program"))?;
    let mut watch = Watch {
        keeper,
        program,
        group: group.as_ref(),
        started: Instant::now(),
        asked: None,
        why: None,
    };
    let watched = watch.run(&request, is_cancelled, take);
    let why = watch.why;
    let Some(reply) = watched else {
        watch.lost();
        return Err(ProcessError::KeeperLost);
    };
    if reply.survivors == 0 {
        watch.keeper.give_back();
    }
    if reply.failed_step != 0 {
        return Err(not_started(reply));
    }
    let from_status = match reply.status & 0x7f {
        0 => End::Exited((reply.status >> 8) & 0xff),
        signal => End::Killed(signal),
    };
    let group_peak = group.as_ref().and_then(Group::peak_bytes);
    let end = match why {
        Some(end) => end,
        // The last look at the group may have been before it happened.
        None => group
            .as_ref()
            .and_then(|group| group.verdict(limits))
            .unwrap_or(from_status),
    };
    Ok(Ended {
        end,
        left_behind: reply.left_behind,
        peak_bytes: group_peak.unwrap_or(reply.peak_bytes),
        cpu_seconds: reply.cpu_us as f64 / 1e6,
        memory_held_by: limits.memory_bytes.map(|_| {
            if holds_memory {
                Mechanism::ControlGroup
            } else {
                Mechanism::OwnLimit
            }
        }),
    })
}

fn not_started(reply: Reply) -> ProcessError {
    let error = io::Error::from_raw_os_error(reply.errno);
    let what = match reply.failed_step {
        step::PROGRAM => return ProcessError::Program(error),
        step::GROUP => "put the program into its control group",
        step::LIMIT => "set the program's limits",
        step::DIRECTORY => "enter the program's folder",
        step::INPUT => "open the program's input",
        _ => "make a process for the program",
    };
    ProcessError::Setup { what, error }
}

struct Watch<'a> {
    keeper: Keeper,
    program: &'a Program,
    group: Option<&'a Group>,
    started: Instant,
    /// When the program was asked to end.
    asked: Option<Instant>,
    /// Why it was made to end.
    why: Option<End>,
}

impl Watch<'_> {
    /// The keeper's reply; nothing if the keeper is gone.
    fn run(
        &mut self,
        request: &[u8],
        is_cancelled: &dyn Fn() -> bool,
        take: &mut dyn FnMut(Channel, &[u8]),
    ) -> Option<Reply> {
        if !self.send(request) {
            return None;
        }
        let mut looked = Instant::now();
        loop {
            let (has_reply, _) = self.read(self.pause(), take);
            if has_reply {
                let reply = self.reply()?;
                for _ in 0..MOST_READS_AFTER_END {
                    if !self.read(Duration::ZERO, take).1 {
                        break;
                    }
                }
                return Some(reply);
            }
            let now = Instant::now();
            // Not after every line of a chatty program.
            if now - looked >= Duration::from_millis(1) {
                looked = now;
                self.look(now, is_cancelled);
            }
        }
    }

    /// Ends the program if it is time.
    fn look(&mut self, now: Instant, is_cancelled: &dyn Fn() -> bool) {
        if let Some(asked) = self.asked {
            if now - asked >= GRACE {
                self.send(&[KILL]);
            }
            return;
        }
        if is_cancelled() {
            self.why = Some(End::Stopped);
            self.send(&[TERMINATE]);
        } else if self
            .deadline()
            .is_some_and(|deadline| self.started + deadline <= now)
        {
            self.why = Some(End::TimedOut);
            self.send(&[TERMINATE]);
        } else if let Some(end) = self
            .group
            .and_then(|group| group.verdict(&self.program.limits))
        {
            self.why = Some(end);
            self.send(&[KILL]);
        } else {
            return;
        }
        self.asked = Some(now);
    }

    fn deadline(&self) -> Option<Duration> {
        self.program.limits.timeout
    }

    /// How long to wait for something to read.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let next = match (self.asked, self.deadline()) {
            (Some(asked), _) => Some(asked + GRACE),
            (None, Some(deadline)) => Some(self.started + deadline),
            (None, None) => None,
        };
        next.map_or(LONGEST_PAUSE, |next| {
            next.saturating_duration_since(now)
                .clamp(Duration::from_millis(1), LONGEST_PAUSE)
        })
    }

    /// Waits for at most `pause` and reads once from each pipe that holds something. Whether there is a reply, and whether
    /// there was something in a pipe.
    fn read(&mut self, pause: Duration, take: &mut dyn FnMut(Channel, &[u8])) -> (bool, bool) {
        let entry = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let [output, errors, messages] = self.keeper.pipes.each_ref().map(AsRawFd::as_raw_fd);
        let mut entries = [self.keeper.socket.as_raw_fd(), output, errors, messages].map(entry);
        // Rounded up: a pause of less than a millisecond is none.
        let pause_ms = pause.as_micros().div_ceil(1000) as i32;
        // SAFETY: the pointer and the count are the array's.
        unsafe { libc::poll(entries.as_mut_ptr(), 4, pause_ms) };
        let [socket, pipes @ ..] = entries;
        let mut was_something = false;
        let channels = [Channel::Output, Channel::Errors, Channel::Messages];
        for (pipe, channel) in pipes.iter().zip(channels) {
            if pipe.revents & libc::POLLIN != 0 {
                let n = read(pipe.fd, &mut self.keeper.buffer);
                if n > 0 {
                    was_something = true;
                    take(channel, &self.keeper.buffer[..n]);
                }
            }
        }
        (socket.revents != 0, was_something)
    }

    fn reply(&self) -> Option<Reply> {
        let mut bytes = [0; REPLY_BYTES];
        let mut filled = 0;
        while filled < REPLY_BYTES {
            match read(self.keeper.socket.as_raw_fd(), &mut bytes[filled..]) {
                0 => return None,
                n => filled += n,
            }
        }
        Some(Reply::from_bytes(&bytes))
    }

    fn send(&self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let socket = self.keeper.socket.as_raw_fd();
            // SAFETY: the pointer and the length are the slice's.
            let n =
                unsafe { libc::send(socket, rest.as_ptr().cast(), rest.len(), libc::MSG_NOSIGNAL) };
            if n > 0 {
                rest = &rest[n as usize..];
            } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return false;
            }
        }
        true
    }

    /// Kills what a keeper left that was killed itself. Its orphans are our children now, as far as their own parents are
    /// dead.
    fn lost(self) {
        let mark = [
            MARK.as_bytes(),
            b"=",
            self.program.directory.as_os_str().as_encoded_bytes(),
        ]
        .concat();
        let session = self.keeper.id;
        drop(self.keeper);
        for _ in 0..1000 {
            let strays = processes::strays(session, &mark);
            if strays.is_empty() {
                break;
            }
            processes::kill(&strays, 0);
            std::thread::sleep(Duration::from_millis(2));
            for stray in strays {
                // SAFETY: a plain system call; nobody wants the status. It is an error where the stray is not our child.
                unsafe { libc::waitpid(stray.id, std::ptr::null_mut(), libc::WNOHANG) };
            }
        }
    }
}

/// Bytes read; 0 at the end and after an error.
fn read(fd: i32, buffer: &mut [u8]) -> usize {
    loop {
        // SAFETY: the pointer and the length are the buffer's, and the descriptor is open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        match nix::unistd::read(fd, buffer) {
            Ok(n) => return n,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 0,
        }
    }
}

/// `cgroup.procs` files, for a request.
pub(crate) type Members = Vec<PathBuf>;

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[derive(Debug)]
    struct Run {
        ended: Ended,
        output: Vec<u8>,
        errors: Vec<u8>,
        messages: Vec<u8>,
        seconds: f64,
    }

    fn shell_program(script: &str, directory: &Path) -> Program {
        let mut program = Program::new(Path::new("/bin/sh"), directory);
        program.arguments = vec!["-c".into(), script.into()];
        let path = std::env::var_os("PATH").unwrap();
        program.environment.insert("PATH".into(), path);
        program
    }

    fn run_in(program: &Program, is_cancelled: &dyn Fn() -> bool) -> Result<Run, ProcessError> {
        let mut bytes = [Vec::new(), Vec::new(), Vec::new()];
        let start = Instant::now();
        let ended = run(program, is_cancelled, &mut |channel, new| {
            bytes[channel as usize].extend_from_slice(new);
        })?;
        let [output, errors, messages] = bytes;
        Ok(Run {
            ended,
            output,
            errors,
            messages,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn shell(script: &str, is_cancelled: bool) -> Run {
        let directory = tempfile::tempdir().unwrap();
        let program = shell_program(script, directory.path());
        let run = run_in(&program, &|| is_cancelled).unwrap();
        assert_eq!(marked(directory.path()), 0);
        run
    }

    /// How many processes are left that were started in `directory`.
    fn marked(directory: &Path) -> usize {
        let mark = format!("{MARK}={}", directory.display());
        processes::strays(-1, mark.as_bytes()).len()
    }

    #[test]
    fn each_channel_arrives_whole() {
        let run = shell("echo out; echo err >&2; echo message >&3; exit 7", false);

        assert_eq!(run.ended.end, End::Exited(7));
        assert_eq!(run.ended.left_behind, 0);
        assert_eq!(run.output, b"out\n");
        assert_eq!(run.errors, b"err\n");
        assert_eq!(run.messages, b"message\n");
    }

    #[test]
    fn a_mebibyte_on_every_pipe_does_not_block() {
        let flood = "head -c 1048576 /dev/zero";
        let run = shell(&format!("{flood} >&2; {flood} >&3; {flood}"), false);

        assert_eq!(run.ended.end, End::Exited(0));
        for bytes in [run.output, run.errors, run.messages] {
            assert_eq!(bytes.len(), 1 << 20);
        }
    }

    #[test]
    fn what_escapes_and_keeps_the_pipes_is_killed_and_not_waited_for() {
        let run = shell(
            "sleep 60 & setsid sleep 61 & (setsid sh -c 'exec 0<&- 1>&- 2>&- 3>&-; env -i sleep 62' &) ; sleep 0.2; echo done",
            false,
        );

        assert_eq!(run.ended.end, End::Exited(0));
        assert!(run.ended.left_behind >= 3, "{run:?}");
        assert_eq!(run.output, b"done\n");
        assert!(run.seconds < 30.0, "{}", run.seconds);
    }

    #[test]
    fn a_program_has_what_it_was_given_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("in"), "read me").unwrap();
        let mut program = shell_program("cat; echo; env; ls /proc/self/fd; trap", directory.path());
        program.input = Some("in".into());
        let file = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: a plain system call on an open descriptor.
        let inherited = unsafe { libc::dup(file.as_raw_fd()) };

        let run = run_in(&program, &|| false).unwrap();
        // SAFETY: it was duplicated above.
        unsafe { libc::close(inherited) };
        let text = String::from_utf8(run.output).unwrap();
        let mut lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("PATH="))
            .collect();
        lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("NATRON_SANDBOX="));
        // `ls` has the folder open as well.
        assert_eq!(lines, ["read me", "0", "1", "2", "3", "4"], "{text}");
    }

    #[test]
    fn signals_are_as_at_the_start_of_a_session() {
        let run = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status", false);

        let text = String::from_utf8(run.output).unwrap();
        let zero = "0000000000000000";
        assert_eq!(text, format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\n"));
    }

    #[test]
    fn a_signal_is_told_from_a_status() {
        for signal in [1, 2, 6, 9, 11, 15] {
            let run = shell(&format!("kill -{signal} $$"), false);
            assert_eq!(run.ended.end, End::Killed(signal));
        }
    }

    #[test]
    fn a_stop_ends_it_in_good_order() {
        let run = shell(
            "trap 'echo saved; exit 0' TERM; while :; do sleep 0.05; done",
            true,
        );

        assert_eq!(run.ended.end, End::Stopped);
        assert!(run.seconds < 4.0, "{}", run.seconds);
    }

    #[test]
    fn a_program_that_ignores_the_stop_is_killed_after_a_while() {
        let run = shell("trap '' TERM; while :; do sleep 1; done", true);

        assert_eq!(run.ended.end, End::Stopped);
        assert!((4.0..30.0).contains(&run.seconds), "{}", run.seconds);
    }

    #[test]
    fn time_that_is_over_stops_even_a_stopped_program() {
        let directory = tempfile::tempdir().unwrap();
        let mut program = shell_program("kill -STOP $$; echo went on", directory.path());
        program.limits.timeout = Some(Duration::from_millis(100));

        let run = run_in(&program, &|| false).unwrap();
        assert_eq!(run.ended.end, End::TimedOut);
        assert_eq!(run.output, b"");
        assert!(run.seconds < 4.0, "{}", run.seconds);
    }

    #[test]
    fn a_program_that_kills_its_keeper_takes_nothing_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let script = "setsid sleep 60 & sleep 61 & kill -9 $PPID; sleep 62";

        let error = run_in(&shell_program(script, directory.path()), &|| false).unwrap_err();
        assert!(matches!(error, ProcessError::KeeperLost), "{error}");
        assert_eq!(marked(directory.path()), 0);
        assert_eq!(shell("echo next", false).output, b"next\n");
    }

    #[test]
    fn what_cannot_start_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Program::new(Path::new("/no/such/program"), directory.path());
        let error = run_in(&missing, &|| false).unwrap_err();
        assert!(
            matches!(&error, ProcessError::Program(e) if e.kind() == io::ErrorKind::NotFound),
            "{error}"
        );

        let nowhere = Program::new(Path::new("/bin/sh"), Path::new("/no/such/folder"));
        let error = run_in(&nowhere, &|| false).unwrap_err();
        assert!(
            error.to_string().contains("enter the program's folder"),
            "{error}"
        );

        let mut long = shell_program("true", directory.path());
        long.arguments.push("x".repeat(3 << 20).into());
        let error = run_in(&long, &|| false).unwrap_err();
        assert!(
            matches!(&error, ProcessError::Program(e) if e.raw_os_error() == Some(libc::E2BIG)),
            "{error}"
        );
        assert_eq!(shell("echo next", false).output, b"next\n");
    }

    #[test]
    fn many_at_once_do_not_mix() {
        let failed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let failed = &failed;
                scope.spawn(move || {
                    for i in 0..20 {
                        let text = format!("{thread} {i}");
                        let run = shell(&format!("echo {text}; exit {thread}"), false);
                        if run.output != format!("{text}\n").as_bytes()
                            || run.ended.end != End::Exited(thread)
                        {
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });

        assert!(!failed.load(Ordering::Relaxed));
    }

    #[test]
    fn tells_the_programs_own_memory_and_time() {
        let small = shell("true", false).ended;
        let large = shell(
            "head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null",
            false,
        )
        .ended;

        assert!(small.peak_bytes < 20 << 20, "{small:?}");
        assert!(large.peak_bytes > 40 << 20, "{large:?}");
        assert!(
            large.cpu_seconds > 0.0 && large.cpu_seconds < 60.0,
            "{large:?}"
        );
    }

    #[test]
    fn a_stop_in_the_middle_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let seen = RefCell::new(0);
        let is_cancelled = || {
            *seen.borrow_mut() += 1;
            *seen.borrow() > 3
        };

        let run = run_in(&shell_program("sleep 60", directory.path()), &is_cancelled).unwrap();
        assert_eq!(run.ended.end, End::Stopped);
    }
}
