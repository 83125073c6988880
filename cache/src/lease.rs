//! Leases: who computes a key right now.
//!
//! All leases of a store are bytes of one file, locked by the kernel for an open file (an OFD lock) at a place that follows
//! from the key. Within a process a set of keys tells threads apart, as they share the open file. A second file says who
//! holds them, for messages, and when somebody last committed.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::{StageKey, mutants};

const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(25);
/// Whoever waits longer than this is told for whom.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// Places in the file of holders; keys that share one overwrite each other's, which only spoils a message.
const SLOTS: u64 = 1 << 16;
/// Process id (u32), unused (u32), beginning of the key (u64).
const SLOT_BYTES: u64 = 16;

/// The leases of one opened store.
#[derive(Debug)]
pub(crate) struct Leases {
    files: Option<Files>,
    /// Keys whose leases this process holds by way of this store.
    held: Mutex<BTreeSet<StageKey>>,
    freed: Condvar,
    /// The stamp of the latest commits that are known here.
    seen: AtomicU64,
}

#[derive(Debug)]
struct Files {
    locks: File,
    /// The stamp of the latest commit (u64), then the slots of the holders.
    holders: File,
}

/// The right to compute a key, for as long as it is held. The kernel takes it back when the process dies.
///
/// It saves work and nothing else: two processes that compute one key commit the same record.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    key: StageKey,
}

impl Lease {
    /// What may be computed.
    pub fn key(&self) -> &StageKey {
        &self.key
    }
}

impl Leases {
    /// The leases in `directory`. Where files cannot be made there, only threads of this process keep out of each other's way.
    pub(crate) fn open(directory: &Path, is_read_only: bool) -> Self {
        let open = |name: &str| {
            let path = directory.join(name);
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            // Nothing that could make us wait for ever.
            let is_odd = path.symlink_metadata().is_ok_and(|there| !there.is_file());
            (!is_odd).then(|| options.open(path).ok())?
        };
        let files = if is_read_only {
            None
        } else {
            open("keys")
                .zip(open("holders"))
                .map(|(locks, holders)| Files { locks, holders })
        };
        Self {
            files,
            held: Mutex::default(),
            freed: Condvar::new(),
            seen: AtomicU64::new(0),
        }
    }

    /// The lease of `key`, or nothing if somebody else holds it.
    pub(crate) fn try_acquire(self: &Arc<Self>, key: &StageKey) -> Option<Lease> {
        let lease = || Lease {
            leases: Arc::clone(self),
            key: *key,
        };
        if mutants::is("no_lease") {
            return Some(lease());
        }
        if !self.held().insert(*key) {
            return None;
        }
        let Some(files) = &self.files else {
            return Some(lease());
        };
        match lock(&files.locks, key, libc::F_WRLCK) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                self.forget(key);
                return None;
            }
            // No such locks here, or no room for one: work may be done twice, and no more.
            Err(_) => return Some(lease()),
        }
        let mut slot = [0; SLOT_BYTES as usize];
        slot[..4].copy_from_slice(&std::process::id().to_le_bytes());
        slot[8..].copy_from_slice(&start(key).to_le_bytes());
        let _ = files.holders.write_at(&slot, slot_at(key));
        Some(lease())
    }

    /// Waits for the lease of `key`; nothing if `is_cancelled` says so first. `tell` is called once when that takes long, with
    /// the process that holds it.
    pub(crate) fn acquire(
        self: &Arc<Self>,
        key: &StageKey,
        is_cancelled: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(Option<u32>),
    ) -> Option<Lease> {
        let mut wait = FIRST_WAIT;
        let mut tell = Some(tell);
        let mut since = None;
        loop {
            if let Some(lease) = self.try_acquire(key) {
                return Some(lease);
            }
            if is_cancelled() {
                return None;
            }
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() >= TELL_AFTER
                && let Some(tell) = tell.take()
            {
                tell(self.holder(key));
            }
            // Threads are woken, other processes are asked again.
            let held = self.held();
            if held.contains(key) {
                let waited = self.freed.wait_timeout(held, LONGEST_WAIT);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(held);
                std::thread::sleep(wait);
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }

    /// The process id of whoever holds the lease of `key`, or held it last.
    pub(crate) fn holder(&self, key: &StageKey) -> Option<u32> {
        let mut slot = [0; SLOT_BYTES as usize];
        let holders = &self.files.as_ref()?.holders;
        holders.read_exact_at(&mut slot, slot_at(key)).ok()?;
        let pid = u32::from_le_bytes(std::array::from_fn(|i| slot[i]));
        (slot[8..] == start(key).to_le_bytes() && pid > 0).then_some(pid)
    }

    /// Whether anybody holds the lease of `key`.
    pub(crate) fn is_held(&self, key: &StageKey) -> bool {
        if self.held().contains(key) {
            return true;
        }
        let Some(files) = &self.files else {
            return false;
        };
        let mut asked = range(key, libc::F_WRLCK);
        let answer = fcntl(&files.locks, FcntlArg::F_OFD_GETLK(&mut asked));
        answer.is_ok() && i32::from(asked.l_type) != libc::F_UNLCK
    }

    /// Tells everybody that something was committed. Call it before the leases of what was committed are given back.
    pub(crate) fn stamp(&self, stamp: u64) {
        if let Some(files) = &self.files {
            let _ = files.holders.write_at(&stamp.to_le_bytes(), 0);
        }
    }

    /// Whether anybody may have committed since [`Self::saw`]; then the stamp to be noted once the records have been read.
    pub(crate) fn news(&self) -> Option<u64> {
        let mut stamp = [0; 8];
        let read = self
            .files
            .as_ref()
            .is_some_and(|files| files.holders.read_exact_at(&mut stamp, 0).is_ok());
        let stamp = u64::from_le_bytes(stamp);
        // Without stamps one has to look each time.
        (!read || stamp == 0 || stamp != self.seen.load(Ordering::SeqCst)).then_some(stamp)
    }

    /// Notes that all commits up to `stamp` have been read.
    pub(crate) fn saw(&self, stamp: u64) {
        self.seen.store(stamp, Ordering::SeqCst);
    }

    fn forget(&self, key: &StageKey) {
        self.held().remove(key);
        self.freed.notify_all();
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<StageKey>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // While the set still holds the key: another thread's lock would be the same one.
        if let Some(files) = &self.leases.files {
            let _ = lock(&files.locks, &self.key, libc::F_UNLCK);
        }
        self.leases.forget(&self.key);
    }
}

fn lock(file: &File, key: &StageKey, kind: i32) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(key, kind))).map(|_| ())
}

fn range(key: &StageKey, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (start(key) >> 2) as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

fn slot_at(key: &StageKey) -> u64 {
    SLOT_BYTES * (1 + start(key) % SLOTS)
}

/// The key's first 8 bytes.
fn start(key: &StageKey) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| key.digest().as_bytes()[i]))
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU32, thread};

    use natron_artifacts::Digest;

    use super::*;

    fn key() -> StageKey {
        StageKey::new(Digest::of(b"key"))
    }

    fn open(directory: &Path) -> Arc<Leases> {
        Arc::new(Leases::open(directory, false))
    }

    fn acquire(leases: &Arc<Leases>) -> Lease {
        let lease = leases.acquire(&key(), &|| false, &mut |_| {});
        lease.unwrap()
    }

    #[test]
    fn one_holder_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        // Two opened stores and two threads of each.
        let opened = [open(directory.path()), open(directory.path())];
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for leases in opened.iter().chain(&opened) {
                let inside = &inside;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let lease = acquire(leases);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lease);
                    }
                });
            }
        });
    }

    #[test]
    fn says_who_holds_it_and_stops_waiting_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let (mine, other) = (open(directory.path()), open(directory.path()));
        let lease = mine.try_acquire(&key()).unwrap();

        for leases in [&mine, &other] {
            let waited = leases.acquire(&key(), &|| true, &mut |_| {});
            assert!(waited.is_none());
            assert_eq!(leases.holder(&key()), Some(std::process::id()));
            assert!(leases.is_held(&key()));
            assert!(!leases.is_held(&StageKey::new(Digest::of(b"another"))));
        }
        drop(lease);
        assert!(!mine.is_held(&key()) && !other.is_held(&key()));
        assert!(other.try_acquire(&key()).is_some());
    }

    #[test]
    fn who_waits_long_is_told_for_whom() {
        let directory = tempfile::tempdir().unwrap();
        let (mine, other) = (open(directory.path()), open(directory.path()));
        let lease = mine.try_acquire(&key()).unwrap();
        let mut told = Vec::new();
        let since = Instant::now();
        let is_late = || since.elapsed() > TELL_AFTER + Duration::from_millis(100);

        let waited = other.acquire(&key(), &is_late, &mut |pid| told.push(pid));

        assert!(waited.is_none());
        assert_eq!(told, [Some(std::process::id())]);
        drop(lease);
    }

    #[test]
    fn works_without_files() {
        let leases = Arc::new(Leases::open(Path::new("/nonexistent"), false));
        let lease = leases.try_acquire(&key()).unwrap();
        assert!(leases.try_acquire(&key()).is_none());
        drop(lease);
        assert!(leases.try_acquire(&key()).is_some());
    }

    #[test]
    fn a_stamp_is_news_once() {
        let directory = tempfile::tempdir().unwrap();
        let (mine, other) = (open(directory.path()), open(directory.path()));
        assert_eq!(other.news(), Some(0));

        mine.stamp(7);
        assert_eq!(other.news(), Some(7));
        other.saw(7);
        assert_eq!(other.news(), None);
        other.stamp(8);
        assert_eq!(other.news(), Some(8));
    }
}
