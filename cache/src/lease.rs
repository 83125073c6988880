//! Leases: who computes a key right now.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{StageKey, StoreError, writer::is_still_at};

const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// The right to compute a key, for as long as it is held. The kernel takes it back when the process dies.
///
/// It saves work and nothing else: two processes that compute one key commit the same record.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
}

impl Lease {
    /// The lease of `key`, or nothing if somebody else holds it.
    pub(crate) fn try_acquire(
        directory: &Path,
        key: &StageKey,
    ) -> Result<Option<Self>, StoreError> {
        let path = lease_path(directory, key);
        let failed = |error: io::Error| StoreError::io("lock", &path)(error);
        loop {
            let shard = path.parent().expect("leases lie in shards");
            match fs::create_dir(shard) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed(error));
                }
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            let mut file = options.open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Whoever held it may have removed the file in between.
            if is_still_at(&file, &path) {
                let _ = file
                    .set_len(0)
                    .and_then(|()| file.seek(SeekFrom::Start(0)))
                    .and_then(|_| write!(file, "{}", std::process::id()));
                return Ok(Some(Self { path, file }));
            }
        }
    }

    /// Waits for the lease of `key`; nothing if `is_cancelled` says so first.
    pub(crate) fn acquire(
        directory: &Path,
        key: &StageKey,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, StoreError> {
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(lease) = Self::try_acquire(directory, key)? {
                return Ok(Some(lease));
            }
            if is_cancelled() {
                return Ok(None);
            }
            thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// The process id of whoever holds the lease of `key`, for messages.
    pub(crate) fn holder(directory: &Path, key: &StageKey) -> Option<u32> {
        let mut text = String::new();
        let file = File::open(lease_path(directory, key)).ok()?;
        file.take(16).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // First the name, then the lock: whoever locks a file without a name tries again.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn lease_path(directory: &Path, key: &StageKey) -> PathBuf {
    let hex = key.digest().to_hex();
    directory.join(&hex[..2]).join(&hex[2..])
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use natron_artifacts::Digest;

    use super::*;

    fn key() -> StageKey {
        StageKey::new(Digest::of(b"key"))
    }

    #[test]
    fn one_holder_at_a_time() {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let inside = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (directory, inside) = (Arc::clone(&directory), Arc::clone(&inside));
                thread::spawn(move || {
                    for _ in 0..20 {
                        let lease = Lease::acquire(directory.path(), &key(), &|| false)
                            .unwrap()
                            .unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lease);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn says_who_holds_it_and_stops_waiting_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let _lease = Lease::try_acquire(directory.path(), &key())
            .unwrap()
            .unwrap();

        let waited = Lease::acquire(directory.path(), &key(), &|| true).unwrap();
        assert!(waited.is_none());
        assert_eq!(
            Lease::holder(directory.path(), &key()),
            Some(std::process::id())
        );
    }
}
