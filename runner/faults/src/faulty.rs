//! A disk for the store, in process, that fails or lies at its n-th operation. Quicker than `strace`, and able to do what no
//! system call can be made to do: a flush that fails and loses what was written, and that works the second time (`PostgreSQL`
//! found that Linux behaves so, 2018).

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use natron_artifacts::{Bytes, Digest};
use natron_cache::{
    Disk, Durability, Entry, Storage, StorageFile, StorageReader, Store,
    collect::{Policy, Roots, collect},
};
use nix::libc;

use crate::{
    Checked, While,
    crash::{artifacts, commit, commit_later, key},
    sweep::Family,
};

/// What the disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// This error.
    Error(i32),
    /// Nothing, and says that all is well.
    Lie,
    /// A flush fails, and what was not flushed is lost; the next one works. Other operations give `EIO`.
    LoseAtFlush,
    /// All writes take a part only, and are interrupted now and then.
    Short,
    /// A write takes half, then says that the disk is full.
    Half,
}

const FAULTS: [Fault; 12] = [
    Fault::Error(libc::EIO),
    Fault::Error(libc::ENOSPC),
    Fault::Error(libc::EDQUOT),
    Fault::Error(libc::EACCES),
    Fault::Error(libc::EROFS),
    Fault::Error(libc::EMFILE),
    Fault::Error(libc::ENOMEM),
    Fault::Error(libc::ESTALE),
    Fault::Lie,
    Fault::LoseAtFlush,
    Fault::Short,
    Fault::Half,
];

#[derive(Debug)]
struct Shared {
    fault: Fault,
    at: usize,
    asked: AtomicUsize,
    fired: AtomicUsize,
}

impl Shared {
    /// Whether this operation is the one.
    fn is_now(&self) -> bool {
        let n = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let is_now = n == self.at && self.fault != Fault::Short;
        if is_now {
            self.fired.fetch_add(1, Ordering::SeqCst);
        }
        is_now
    }

    /// The error of an operation, if it is the one; `Ok(true)` when it is to lie.
    fn ask(&self) -> io::Result<bool> {
        if !self.is_now() {
            return Ok(false);
        }
        match self.fault {
            Fault::Error(code) => Err(io::Error::from_raw_os_error(code)),
            Fault::Lie => Ok(true),
            Fault::LoseAtFlush | Fault::Half | Fault::Short => {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
    }
}

/// The disk.
#[derive(Debug)]
struct Faulty(Arc<Shared>);

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn StorageFile>,
    path: PathBuf,
    flushed: u64,
    written: u64,
    shared: Arc<Shared>,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shared.fault == Fault::Short {
            let n = self.shared.asked.fetch_add(1, Ordering::SeqCst);
            self.shared.fired.store(1, Ordering::SeqCst);
            if n % 3 == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let n = self.inner.write(&bytes[..bytes.len().div_ceil(2)])?;
            self.written += n as u64;
            return Ok(n);
        }
        if self.shared.is_now() {
            match self.shared.fault {
                Fault::Lie => return Ok(bytes.len()),
                Fault::Error(code) => return Err(io::Error::from_raw_os_error(code)),
                Fault::Half => {
                    self.inner.write_all(&bytes[..bytes.len() / 2])?;
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                Fault::LoseAtFlush | Fault::Short => {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
            }
        }
        let n = self.inner.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl StorageFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        if self.shared.is_now() {
            match self.shared.fault {
                Fault::Lie => return Ok(()),
                Fault::Error(code) => return Err(io::Error::from_raw_os_error(code)),
                _ => {
                    // What was not on the disk is gone, and nobody will be told again: zeros are in its place.
                    let mut bytes = fs::read(&self.path)?;
                    let from = (self.flushed as usize).min(bytes.len());
                    bytes[from..].fill(0);
                    fs::write(&self.path, bytes)?;
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
            }
        }
        self.inner.sync()?;
        self.flushed = self.written;
        Ok(())
    }
}

impl Storage for Faulty {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if self.0.ask()? {
            Ok(())
        } else {
            Disk.create_directory(path)
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        // A file that is not there cannot be pretended.
        let _ = self.0.ask()?;
        Ok(Box::new(FaultyFile {
            inner: Disk.create(path)?,
            path: path.to_owned(),
            flushed: 0,
            written: 0,
            shared: Arc::clone(&self.0),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageReader>> {
        let _ = self.0.ask()?;
        Disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.0.ask()? {
            Ok(())
        } else {
            Disk.rename(from, to)
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.0.ask()? {
            Ok(())
        } else {
            Disk.remove(path)
        }
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        if self.0.ask()? {
            Ok(())
        } else {
            Disk.remove_directory(path)
        }
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        if self.0.ask()? {
            Ok(())
        } else {
            Disk.sync_directory(path)
        }
    }

    fn set_read_only(&self, path: &Path) -> io::Result<()> {
        if self.0.ask()? {
            Ok(())
        } else {
            Disk.set_read_only(path)
        }
    }

    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        let _ = self.0.ask()?;
        Disk.entry(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let _ = self.0.ask()?;
        Disk.list(path)
    }

    fn read(&self, path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let _ = self.0.ask()?;
        Disk.read(path, offset, length)
    }

    fn read_all(&self, path: &Path) -> io::Result<(Bytes, Digest)> {
        let _ = self.0.ask()?;
        Disk.read_all(path)
    }
}

const PROTOCOLS: [&str; 4] = ["commits", "group", "collect", "open"];

/// Runs every protocol with every fault at every operation.
pub(crate) fn run(family: &Family<'_>) {
    let most = family.plan.size(60, 400);
    let step = family.plan.size(7, 1);
    let jobs = PROTOCOLS
        .iter()
        .flat_map(|protocol| FAULTS.map(|fault| (*protocol, fault)));
    let jobs: Vec<_> = jobs.collect();
    family.each(jobs, |(protocol, fault)| {
        for at in (1..=most).step_by(step) {
            let id = format!("{protocol} {fault:?} {at}");
            let fired = family.case(&id, |root| judge(root, protocol, fault, at));
            if fired == Some(false) || family.is_over() {
                break;
            }
            if fired == Some(true) {
                family.count(
                    if fault == Fault::Lie {
                        "lies"
                    } else {
                        "errors"
                    },
                    1,
                );
                family.point(id);
            }
            if fault == Fault::Short {
                break;
            }
        }
    });
}

#[expect(clippy::too_many_lines, reason = "one story, told from top to bottom")]
fn judge(root: &Path, protocol: &str, fault: Fault, at: usize) -> Checked<bool> {
    fs::create_dir_all(root).at("create")?;
    {
        let store = Store::open(root, Durability::None).at("open")?;
        commit(&store, 50).at("commit")?;
        commit(&store, 51).at("commit")?;
    }
    let shared = Arc::new(Shared {
        fault,
        at,
        asked: AtomicUsize::new(0),
        fired: AtomicUsize::new(0),
    });
    let promised = Mutex::new(vec![50, 51]);
    let promise = |seed| {
        if let Ok(mut promised) = promised.lock() {
            promised.push(seed);
        }
    };
    let storage: Arc<dyn Storage> = Arc::new(Faulty(Arc::clone(&shared)));
    // Errors are answers here; what matters is what is there afterwards.
    if let Ok(store) = Store::open_on(storage, root, Durability::Full) {
        match protocol {
            "commits" => {
                for seed in [3, 4, 5] {
                    if commit(&store, seed).is_ok() {
                        promise(seed);
                    }
                }
            }
            "group" => {
                let mut handed_over = Vec::new();
                for seed in [3, 4, 6] {
                    if commit_later(&store, seed).is_ok() {
                        handed_over.push(seed);
                    }
                }
                if store.flush().is_ok() {
                    handed_over.into_iter().for_each(promise);
                }
                if commit(&store, 7).is_ok() {
                    promise(7);
                }
            }
            "collect" => {
                if commit(&store, 3).is_ok() {
                    promise(3);
                }
                let roots = Roots {
                    keys: [key(50), key(3)].into(),
                    ..Roots::default()
                };
                let policy = Policy {
                    max_bytes: Some(0),
                    ..Policy::default()
                };
                if let Ok(mut promised) = promised.lock() {
                    promised.retain(|seed| *seed != 51);
                }
                let _ = collect(&store, &roots, &policy);
                if commit(&store, 9).is_ok() {
                    promise(9);
                }
            }
            _ => {
                let _ = store.lookup_fresh(&key(50));
                let _ = store.register(Path::new("/somewhere"));
                let _ = store.put(b"bytes");
                let _ = store.workspaces();
            }
        }
    }
    let has_fired = shared.fired.load(Ordering::SeqCst) > 0;
    let store = Store::open(root, Durability::None).at("the store does not open again")?;
    let promised = promised.into_inner().unwrap_or_default();
    for (key, _) in store.keys() {
        let Ok(Some(hit)) = store.lookup(&key) else {
            continue;
        };
        let Some(record) = store.record(&key) else {
            continue;
        };
        for (port, expected) in artifacts(record.ingredients.seed) {
            match store.open_artifact(&hit.outputs[&port]) {
                Ok(found) if found == expected => {}
                Ok(_) => return Err(format!("wrong hit: {key} {port}")),
                Err(error) if fault == Fault::Lie && error.is_missing() => {}
                Err(error) => return Err(format!("{key} {port}: {error}")),
            }
        }
    }
    if fault != Fault::Lie {
        for seed in promised {
            if store.lookup(&key(seed)).at("lookup")?.is_none() {
                return Err(format!("{seed} was committed and is not there"));
            }
        }
    }
    for seed in [3, 4, 8] {
        commit(&store, seed).at("committing again")?;
        let hit = store
            .lookup(&key(seed))
            .at("lookup")?
            .ok_or("committing again does not help")?;
        for (port, expected) in artifacts(seed) {
            let found = store
                .open_artifact(&hit.outputs[&port])
                .at("after committing again")?;
            if found != expected {
                return Err(format!("wrong after committing again: {seed} {port}"));
            }
        }
    }
    Ok(has_fired)
}
