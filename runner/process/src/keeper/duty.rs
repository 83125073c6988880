//! What a keeper does: one program at a time, and nothing of it left over.
//!
//! This runs in a process of its own, entered before `main` (see [`ENTRY`]) and never left but by its end. It has one
//! thread, so what is not `async-signal-safe` is allowed outside [`start`].

use std::{
    ffi::{CStr, c_char, c_void},
    time::{Duration, Instant},
};

use nix::libc;

use super::{ENVIRONMENT, ERRORS, MESSAGES, OUTPUT, SOCKET};
use crate::{
    processes,
    request::{self, KILL, REPLY_BYTES, Reply, Request, START, TERMINATE},
};

/// What a keeper is called in lists of processes: not like its parent, so that `pkill` of that one spares the keepers.
const NAME: &CStr = c"stage-keeper";

/// A process that is still there after being killed for so long is given up.
const UNKILLABLE: Duration = Duration::from_secs(10);

/// Time between two rounds of killing, in milliseconds.
const ROUND_MS: i32 = 5;

/// Stack of a program between its birth and `exec`.
const STACK_BYTES: usize = 64 * 1024;

/// The descriptor on which a program writes messages.
const PROGRAM_MESSAGES: i32 = 3;

/// Signals that a keeper ignores and a program does not.
const IGNORED: [i32; 7] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// The loader calls this in every process of an executable that holds this crate.
///
/// It is how a keeper comes into being in any executable, a test's as well as a user's own, without a word in its `main`.
#[used]
// SAFETY: the section holds pointers to functions that take what they want of the loader's arguments and return.
#[unsafe(link_section = ".init_array")]
pub(super) static ENTRY: extern "C" fn() = enter;

extern "C" fn enter() {
    // SAFETY: the name is a string; nobody else runs yet who could change the environment.
    if unsafe { libc::getenv(ENVIRONMENT.as_ptr()) }.is_null() {
        return;
    }
    let mut kind: libc::c_int = 0;
    let mut length = size_of_val(&kind) as libc::socklen_t;
    // SAFETY: the pointers are to locals of the lengths told.
    let result = unsafe {
        libc::getsockopt(
            SOCKET,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    // The variable alone, set by a user, is no reason to become a keeper.
    if result == 0 && kind == libc::SOCK_STREAM {
        keep();
    }
}

/// Serves until the socket ends.
fn keep() -> ! {
    let signals = prepare();
    let mut keeper = Keeper {
        // SAFETY: a plain system call.
        own: unsafe { libc::getpid() },
        signals,
        stack: vec![0; STACK_BYTES],
        usage: Usage::default(),
    };
    let mut buffer = vec![0; 64 * 1024];
    while let Some(length) = receive(&mut buffer) {
        let Some(request) = request::decode(&buffer[..length]) else {
            break;
        };
        let (reply, orphaned) = keeper.run(&request);
        if orphaned || !send(&reply.to_bytes()) || reply.survivors > 0 {
            break;
        }
    }
    keeper.kill_all(0);
    // SAFETY: ends the process without running what the executable registered for its own end.
    unsafe { libc::_exit(0) }
}

/// Puts signals, session and descriptors in order. The descriptor that tells of children's ends.
fn prepare() -> i32 {
    // SAFETY: plain system calls; the pointers are to locals that outlive them.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        // Nothing that was open when the parent started us may stay open through us: locks, pipes, the terminal.
        libc::syscall(libc::SYS_close_range, MESSAGES + 1, libc::c_uint::MAX, 0);
        for fd in [SOCKET, OUTPUT, ERRORS, MESSAGES] {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        // By hand, because the library refuses those that it has for itself, and they may have come to us ignored.
        let default = [0_u64; 4];
        for signal in 1..=64 {
            let (old, set_bytes) = (std::ptr::null::<u64>(), 8);
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                old,
                set_bytes,
            );
        }
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }
}

/// Reads messages up to the next request, and that into `buffer`. Its length; nothing at the end.
fn receive(buffer: &mut Vec<u8>) -> Option<usize> {
    loop {
        let n = read(SOCKET, buffer)?;
        // A word to a program that had ended before it arrived.
        let Some(start) = buffer[..n].iter().position(|&byte| byte == START) else {
            continue;
        };
        buffer.copy_within(start..n, 0);
        let mut filled = n - start;
        while filled < 5 {
            filled += read(SOCKET, &mut buffer[filled..])?;
        }
        let length = u32::from_le_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
        if buffer.len() < length + 5 {
            buffer.resize(length + 5, 0);
        }
        while filled < length + 5 {
            filled += read(SOCKET, &mut buffer[filled..length + 5])?;
        }
        buffer.copy_within(5..length + 5, 0);
        return Some(length);
    }
}

/// Bytes read; nothing at the end or after an error.
fn read(fd: i32, buffer: &mut [u8]) -> Option<usize> {
    loop {
        // SAFETY: the pointer and the length are the buffer's.
        let n = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        if n > 0 {
            return Some(n as usize);
        }
        if n == 0 || errno() != libc::EINTR {
            return None;
        }
    }
}

fn send(bytes: &[u8; REPLY_BYTES]) -> bool {
    // SAFETY: the pointer and the length are the array's.
    let n = unsafe { libc::write(SOCKET, bytes.as_ptr().cast(), REPLY_BYTES) };
    n == REPLY_BYTES as isize
}

fn errno() -> i32 {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or_default()
}

#[derive(Default)]
struct Usage {
    peak_bytes: u64,
    cpu_us: u64,
}

struct Keeper {
    own: i32,
    signals: i32,
    stack: Vec<u8>,
    usage: Usage,
}

/// All that a program needs between its birth and `exec`, where nothing may be allocated.
struct Birth<'a> {
    request: &'a Request<'a>,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    keeper: i32,
    failed_step: u32,
    errno: i32,
}

impl Keeper {
    /// Runs a program to its end, and whether our parent went away meanwhile.
    fn run(&mut self, request: &Request<'_>) -> (Reply, bool) {
        let mut reply = Reply::default();
        let program = match self.give_birth(request) {
            Ok(program) => program,
            Err((failed_step, errno)) => {
                let reply = Reply {
                    failed_step,
                    errno,
                    ..reply
                };
                return (reply, false);
            }
        };
        self.usage = Usage::default();
        let mut orphaned = false;
        loop {
            let [child, word] = wait(self.signals, Some(SOCKET), -1);
            if child {
                self.clear_signals();
                let (status, are_children_left) = self.reap(program);
                if let Some(status) = status {
                    reply.status = status;
                    if are_children_left {
                        (reply.left_behind, reply.survivors) = self.kill_all(program);
                    }
                    break;
                }
            }
            if word {
                let mut bytes = [0; 64];
                let Some(n) = read(SOCKET, &mut bytes) else {
                    orphaned = true;
                    self.kill_all(program);
                    break;
                };
                for &byte in &bytes[..n] {
                    obey(byte, program);
                }
            }
        }
        reply.peak_bytes = self.usage.peak_bytes;
        reply.cpu_us = self.usage.cpu_us;
        (reply, orphaned)
    }

    /// The process number of the program, or the step that failed and why.
    fn give_birth(&mut self, request: &Request<'_>) -> Result<i32, (u32, i32)> {
        let pointers = |strings: &[&CStr]| -> Vec<*const c_char> {
            let strings = strings.iter().map(|string| string.as_ptr());
            strings.chain([std::ptr::null()]).collect()
        };
        let arguments = pointers(&request.arguments);
        let environment = pointers(&request.environment);
        // A program may have made its end of a pipe non-blocking, for all who hold it.
        for fd in [OUTPUT, ERRORS, MESSAGES] {
            // SAFETY: a plain system call on integers.
            unsafe { libc::fcntl(fd, libc::F_SETFL, 0) };
        }
        let mut birth = Birth {
            request,
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            keeper: self.own,
            failed_step: 0,
            errno: 0,
        };
        let top = self.stack.as_mut_ptr_range().end;
        // SAFETY: CLONE_VFORK stops us until the child has executed a program or ended, so `birth`, what it points to and
        // the stack outlive its use of them; the top of the stack is aligned below.
        let child = unsafe {
            libc::clone(
                start,
                top.map_addr(|address| address & !15).cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                (&raw mut birth).cast(),
            )
        };
        if child == -1 {
            return Err((step::BIRTH, errno()));
        }
        // SAFETY: the child, which knew its address, has written to it while we were stopped.
        let (failed_step, error) = unsafe {
            (
                (&raw const birth.failed_step).read_volatile(),
                (&raw const birth.errno).read_volatile(),
            )
        };
        if failed_step != 0 {
            self.reap(child);
            return Err((failed_step, error));
        }
        Ok(child)
    }

    fn clear_signals(&self) {
        let mut buffer = [0; 4 * size_of::<libc::signalfd_siginfo>()];
        // One signal may stand for several children, and reading fewer than there are wakes us once more.
        let _ = read(self.signals, &mut buffer);
    }

    /// Waits for all children that are dead. The status of `program` if it is among them, and whether any child is left.
    fn reap(&mut self, program: i32) -> (Option<i32>, bool) {
        let mut found = None;
        loop {
            let mut status = 0;
            // SAFETY: zeroes are a sound `rusage`, and both pointers are to locals.
            let (child, usage) = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                let child = libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage);
                (child, usage)
            };
            if child == 0 {
                return (found, true);
            }
            if child == -1 {
                return (found, errno() == libc::EINTR);
            }
            let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
            self.usage.cpu_us += micros(usage.ru_utime) + micros(usage.ru_stime);
            self.usage.peak_bytes = self.usage.peak_bytes.max(usage.ru_maxrss as u64 * 1024);
            if child == program {
                found = Some(status);
            }
        }
    }

    /// Kills whatever runs below us. How many that were, and how many of them live on.
    fn kill_all(&mut self, program: i32) -> (u32, u32) {
        let begun = Instant::now();
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let (_, are_children_left) = self.reap(program);
            if !are_children_left {
                return (seen.len() as u32, 0);
            }
            let family = processes::descendants(self.own);
            seen.extend(family.iter().map(|process| process.id));
            processes::kill(&family, self.own);
            if begun.elapsed() > UNKILLABLE {
                return (seen.len() as u32, family.len() as u32);
            }
            wait(self.signals, None, ROUND_MS);
            self.clear_signals();
        }
    }
}

/// Does what our parent says.
fn obey(word: u8, program: i32) {
    // SAFETY: plain system calls on integers. The program has not been waited for, so its number and that of its group are
    // nobody else's.
    unsafe {
        match word {
            TERMINATE => {
                libc::kill(-program, libc::SIGTERM);
                // A process that was stopped would not notice.
                libc::kill(-program, libc::SIGCONT);
            }
            KILL => {
                libc::kill(-program, libc::SIGKILL);
                libc::kill(program, libc::SIGKILL);
            }
            _ => {}
        }
    }
}

/// Waits until there is something to read; which of the two has something.
fn wait(first: i32, second: Option<i32>, timeout_ms: i32) -> [bool; 2] {
    let entry = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // A negative descriptor is not looked at.
    let mut entries = [entry(first), entry(second.unwrap_or(-1))];
    // SAFETY: the pointer and the count are the array's.
    unsafe { libc::poll(entries.as_mut_ptr(), 2, timeout_ms) };
    entries.map(|entry| entry.revents != 0)
}

/// The steps from birth to program, as replies number them.
pub(crate) mod step {
    /// A process could not be made.
    pub(crate) const BIRTH: u32 = 1;
    /// Its parent had died.
    pub(crate) const PARENT: u32 = 2;
    /// A control group did not take it.
    pub(crate) const GROUP: u32 = 3;
    /// A limit was refused.
    pub(crate) const LIMIT: u32 = 4;
    /// Its directory is not there.
    pub(crate) const DIRECTORY: u32 = 5;
    /// Its input is not there.
    pub(crate) const INPUT: u32 = 6;
    /// The program could not be executed.
    pub(crate) const PROGRAM: u32 = 7;
}

/// What a program's process does before it is the program.
extern "C" fn start(argument: *mut c_void) -> i32 {
    // SAFETY: the argument is the `Birth` that our parent holds still for us.
    let birth = unsafe { &mut *argument.cast::<Birth<'_>>() };
    birth.failed_step = become_program(birth);
    birth.errno = errno();
    // SAFETY: ends the process at once; its memory is our parent's.
    unsafe { libc::_exit(127) }
}

/// Executes the program, or returns the step that failed. Only system calls: the memory is our parent's.
fn become_program(birth: &Birth<'_>) -> u32 {
    let request = birth.request;
    // SAFETY: system calls on integers and on strings and arrays that our parent holds still for us.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // It may have died before that took effect.
        if libc::getppid() != birth.keeper {
            return step::PARENT;
        }
        for group in &request.groups {
            let file = libc::open(group.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file == -1 || libc::write(file, b"0".as_ptr().cast(), 1) != 1 {
                return step::GROUP;
            }
        }
        let own = &request.limits;
        for (resource, limit) in [
            (libc::RLIMIT_AS, own.address_space),
            (libc::RLIMIT_CPU, own.cpu_seconds),
            (libc::RLIMIT_NPROC, own.processes),
        ] {
            let limits = libc::rlimit {
                rlim_cur: limit,
                rlim_max: limit,
            };
            if limit > 0 && libc::setrlimit(resource, &raw const limits) == -1 {
                return step::LIMIT;
            }
        }
        if libc::chdir(request.directory.as_ptr()) == -1 {
            return step::DIRECTORY;
        }
        let input = libc::open(request.input.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if input == -1 {
            return step::INPUT;
        }
        // `input` is no number below these: a keeper has all of them open.
        libc::dup2(input, 0);
        libc::dup2(OUTPUT, 1);
        libc::dup2(ERRORS, 2);
        libc::dup2(MESSAGES, PROGRAM_MESSAGES);
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        libc::execve(request.path.as_ptr(), birth.arguments, birth.environment);
    }
    step::PROGRAM
}
