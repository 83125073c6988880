//! Keepers as their parent sees them: starting, lending and dismissing them.

pub(crate) mod duty;

use std::{
    ffi::{CStr, CString, c_char, c_void},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStringExt,
    },
    sync::{Mutex, Once, PoisonError},
};

use nix::libc;

/// The variable that makes an executable a keeper.
const ENVIRONMENT: &CStr = c"NATRON_KEEPER";

/// Descriptors of a keeper: the socket to its parent, and where its programs write.
const SOCKET: RawFd = 3;
const OUTPUT: RawFd = 4;
const ERRORS: RawFd = 5;
const MESSAGES: RawFd = 6;

/// Stack of a keeper between its birth and `exec`.
const STACK_BYTES: usize = 64 * 1024;

/// How much is read from a pipe at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Keepers without a program.
static IDLE: Mutex<Vec<Keeper>> = Mutex::new(Vec::new());

/// Keepers that were dismissed and not yet waited for.
static DISMISSED: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());

/// A keeper that runs a program or waits for one.
pub(crate) struct Keeper {
    pub(crate) id: libc::pid_t,
    pub(crate) socket: OwnedFd,
    /// Where its programs write: output, errors, messages.
    pub(crate) pipes: [OwnedFd; 3],
    /// For what is read from the pipes.
    pub(crate) buffer: Vec<u8>,
}

impl Keeper {
    /// One that has nothing to do, or a new one.
    pub(crate) fn take() -> io::Result<Self> {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(Self::start, Ok)
    }

    /// Gives it back: nothing runs below it, and its pipes are empty.
    pub(crate) fn give_back(self) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self);
    }

    fn start() -> io::Result<Self> {
        static REAPER: Once = Once::new();
        // What a keeper leaves that is killed by its own program comes to us, and not to the whole machine's first process.
        REAPER.call_once(|| {
            // SAFETY: a plain system call on integers.
            unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        });
        reap_dismissed();
        let (socket, far_socket) = socket_pair()?;
        let (output, far_output) = pipe()?;
        let (errors, far_errors) = pipe()?;
        let (messages, far_messages) = pipe()?;
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        let library_path = std::env::var_os("LD_LIBRARY_PATH").map(|path| {
            let mut variable = b"LD_LIBRARY_PATH=".to_vec();
            variable.extend(path.into_vec());
            CString::new(variable).unwrap_or_default()
        });
        let birth = Birth {
            descriptors: [
                nothing.as_raw_fd(),
                nothing.as_raw_fd(),
                nothing.as_raw_fd(),
                far_socket.as_raw_fd(),
                far_output.as_raw_fd(),
                far_errors.as_raw_fd(),
                far_messages.as_raw_fd(),
            ],
            environment: [
                c"NATRON_KEEPER=1".as_ptr(),
                library_path
                    .as_ref()
                    .map_or(std::ptr::null(), |path| path.as_ptr()),
                std::ptr::null(),
            ],
        };
        let id = birth.give()?;
        Ok(Self {
            id,
            socket,
            pipes: [output, errors, messages],
            buffer: vec![0; BUFFER_BYTES],
        })
    }
}

impl Drop for Keeper {
    /// Dismisses it. The end of the socket, which comes right after this, is how it knows.
    fn drop(&mut self) {
        let mut dismissed = DISMISSED.lock().unwrap_or_else(PoisonError::into_inner);
        dismissed.push(self.id);
    }
}

/// Waits for those dismissed keepers that have ended.
fn reap_dismissed() {
    let mut dismissed = DISMISSED.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a plain system call; nobody wants the status.
    dismissed.retain(|&id| unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::WNOHANG) } == 0);
}

/// All that a keeper's process needs between its birth and `exec`, where nothing may be allocated.
struct Birth {
    /// What becomes descriptors 0, 1, 2 and so on.
    descriptors: [RawFd; 7],
    environment: [*const c_char; 3],
}

impl Birth {
    /// The new process.
    fn give(&self) -> io::Result<libc::pid_t> {
        // The linker keeps what is used; this is what makes the executable a keeper.
        // SAFETY: a sound reference to a static.
        let _ = unsafe { (&raw const duty::ENTRY).read_volatile() };
        let mut stack = vec![0_u8; STACK_BYTES];
        let top = stack.as_mut_ptr_range().end;
        let argument: *const Self = self;
        // SAFETY: CLONE_VFORK stops this thread until the child has executed a program or ended, so `self` and the stack
        // outlive its use of them; the top of the stack is aligned below. All signals are blocked meanwhile, so that no
        // handler of ours runs in the child, on our memory.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let id = libc::clone(
                become_keeper,
                top.map_addr(|address| address & !15).cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                argument.cast_mut().cast(),
            );
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
            if id == -1 { Err(error) } else { Ok(id) }
        }
    }
}

/// What a keeper's process does before it is a keeper. Only system calls: the memory is our parent's.
extern "C" fn become_keeper(argument: *mut c_void) -> i32 {
    // SAFETY: the argument is the `Birth` that our parent holds still for us; the calls are on integers and on arrays and
    // strings that end as they should.
    unsafe {
        let birth = &*argument.cast::<Birth>();
        let mut high = birth.descriptors;
        // Out of the way of the numbers that they are to have.
        for fd in &mut high {
            *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 64);
        }
        for (wanted, fd) in high.into_iter().enumerate() {
            if libc::dup2(fd, wanted as RawFd) == -1 {
                libc::_exit(126);
            }
        }
        let arguments = [c"stage-keeper".as_ptr(), std::ptr::null()];
        libc::execve(
            c"/proc/self/exe".as_ptr(),
            arguments.as_ptr(),
            birth.environment.as_ptr(),
        );
        // Our parent finds the socket ended.
        libc::_exit(127)
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(|fds| {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: the pointer is to two integers.
        unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds) }
    })
}

/// The end to read from, and the end to write to.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: the pointer is to two integers.
    pair(|fds| unsafe { libc::pipe2(fds, libc::O_CLOEXEC) })
}

fn pair(make: impl FnOnce(*mut RawFd) -> i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    if make(fds.as_mut_ptr()) == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just made both, and nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}
