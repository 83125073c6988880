//! Who writes: one name per opened store, alive as long as its kernel lock is held.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{Storage, mutants, storage::open_regular};

/// A name of its own among all processes that share the store, and a directory for what is not finished.
///
/// The lock tells the living from the dead also where process ids do not, as between containers.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    lock_path: PathBuf,
    _lock: File,
    next: AtomicU64,
}

static OPENED: AtomicU64 = AtomicU64::new(0);

impl Writer {
    /// Enlists below `tmp`.
    pub(crate) fn enlist(storage: &dyn Storage, tmp: &Path) -> io::Result<Self> {
        let process = process_identity();
        loop {
            let name = format!("{process}-{}", OPENED.fetch_add(1, Ordering::Relaxed));
            let lock_path = tmp.join(format!("{name}.lock"));
            let lock = match File::create_new(&lock_path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                // Somebody swept it before it was locked.
                Err(TryLockError::WouldBlock) => continue,
                // No kernel locks here: nobody will be able to tell that this writer is dead, so nothing is swept.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if !is_still_at(&lock, &lock_path) {
                continue;
            }
            let directory = tmp.join(&name);
            storage.create_directory(&directory)?;
            return Ok(Self {
                name,
                directory,
                lock_path,
                _lock: lock,
                next: AtomicU64::new(0),
            });
        }
    }

    /// A path in the writer's directory that was never given out before.
    pub(crate) fn fresh_path(&self) -> PathBuf {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        self.directory.join(n.to_string())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whatever stays is swept by the next writer.
        if fs::remove_dir_all(&self.directory).is_ok() {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

/// Removes what dead writers left below `tmp`. Trouble with one of them is left to the next sweep.
pub(crate) fn sweep(tmp: &Path) -> io::Result<()> {
    if mutants::is("no_sweep") {
        return Ok(());
    }
    for entry in fs::read_dir(tmp)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "lock")
        {
            let Ok(lock) = open_regular(&path) else {
                continue;
            };
            if lock.try_lock().is_err() && !mutants::is("sweep_the_living") {
                continue;
            }
            let directory = path.with_extension("");
            if !directory.exists() || remove_stubborn(&directory).is_ok() {
                let _ = fs::remove_file(&path);
            }
        } else if !path.with_extension("lock").exists() {
            // The lock is made before the directory and removed after it.
            let _ = remove_stubborn(&path);
        }
    }
    Ok(())
}

/// Removes a directory even if a stage took the right to write from directories in it.
pub(crate) fn remove_stubborn(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path).or_else(|_| {
        make_writable(path)?;
        fs::remove_dir_all(path)
    })
}

fn make_writable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether `file` is what `path` names.
pub(crate) fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}

/// Boot, process id and start time: the same for no two processes of a machine.
fn process_identity() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(12)
        .collect();
    let start = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| {
            // The name in brackets may hold anything; the 20th field after it is the start time.
            let after = stat.rsplit_once(')')?.1;
            after.split_whitespace().nth(19).map(str::to_owned)
        })
        .unwrap_or_default();
    format!("{boot}-{}-{start}", process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Disk;

    #[test]
    fn the_dead_are_swept_and_the_living_are_not() {
        let tmp = tempfile::tempdir().unwrap();
        let living = Writer::enlist(&Disk, tmp.path()).unwrap();
        fs::write(living.fresh_path(), "half").unwrap();
        fs::create_dir(tmp.path().join("1-2-3")).unwrap();
        fs::write(tmp.path().join("1-2-3/0"), "half").unwrap();
        fs::write(tmp.path().join("1-2-3.lock"), "").unwrap();
        fs::create_dir(tmp.path().join("no-lock")).unwrap();

        sweep(tmp.path()).unwrap();

        let mut left: Vec<_> = fs::read_dir(tmp.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        left.sort();
        assert_eq!(left, [living.directory.clone(), living.lock_path.clone()]);
        assert!(living.directory.join("0").exists());
        drop(living);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_writers_of_a_process_have_two_names() {
        let tmp = tempfile::tempdir().unwrap();
        let a = Writer::enlist(&Disk, tmp.path()).unwrap();
        let b = Writer::enlist(&Disk, tmp.path()).unwrap();

        assert_ne!(a.name, b.name);
    }
}
