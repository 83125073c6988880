//! Objects: immutable bytes named by their digest.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use natron_artifacts::{Bytes, Digest};

use crate::{Durability, EntryKind, Storage, StorageFile, StoreError, mutants, writer::Writer};

/// How much is written and hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Objects {
    storage: Arc<dyn Storage>,
    durability: Durability,
    /// The `v1` directory.
    root: PathBuf,
    /// Shards whose directories are known to be on the disk.
    shards: Mutex<BTreeSet<u8>>,
    next_quarantine: AtomicU64,
}

/// An object that is written but not published.
#[derive(Debug)]
pub(crate) struct Staged {
    digest: Digest,
    size: u64,
    /// Nothing when the object was there already.
    temporary: Option<(PathBuf, Option<Box<dyn StorageFile>>)>,
}

impl Objects {
    pub(crate) fn new(storage: Arc<dyn Storage>, durability: Durability, root: PathBuf) -> Self {
        Self {
            storage,
            durability,
            root,
            shards: Mutex::default(),
            next_quarantine: AtomicU64::new(0),
        }
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.root.join("cas").join(&hex[..2]).join(&hex[2..])
    }

    /// Whether an object of that size is there. Its content is checked when it is read.
    pub(crate) fn is_present(&self, digest: &Digest, size: u64) -> bool {
        let entry = self.storage.entry(&self.path(digest));
        matches!(entry, Ok(Some(entry)) if entry.kind == EntryKind::File && entry.size == size)
    }

    /// Writes `bytes` to a temporary file. Nobody sees it before [`Self::publish`].
    pub(crate) fn stage(
        &self,
        writer: &Writer,
        output: &str,
        bytes: &[u8],
        expected: &Digest,
    ) -> Result<Staged, StoreError> {
        if self.is_present(expected, bytes.len() as u64) {
            return Ok(Staged {
                digest: *expected,
                size: bytes.len() as u64,
                temporary: None,
            });
        }
        let path = writer.fresh_path();
        let mut file = self
            .storage
            .create(&path)
            .map_err(StoreError::io("create", &path))?;
        let mut hasher = blake3::Hasher::new();
        for chunk in bytes.chunks(CHUNK_BYTES) {
            hasher.update(chunk);
            if let Err(error) = file.write_all(chunk) {
                drop(file);
                let _ = self.storage.remove(&path);
                return Err(StoreError::io("write", &path)(error));
            }
        }
        let found = Digest::from_bytes(*hasher.finalize().as_bytes());
        if found != *expected {
            let _ = self.storage.remove(&path);
            return Err(StoreError::Mismatch {
                output: output.to_owned(),
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
        Ok(Staged {
            digest: *expected,
            size: bytes.len() as u64,
            temporary: Some((path, Some(file))),
        })
    }

    /// Brings a staged object's bytes to the disk.
    ///
    /// # Errors
    ///
    /// The object is gone then, and can only be staged anew: a second flush would report success for pages that the
    /// system has dropped.
    pub(crate) fn sync(&self, staged: &mut Staged) -> Result<(), StoreError> {
        let Some((path, file)) = &mut staged.temporary else {
            return Ok(());
        };
        let Some(mut file) = file.take() else {
            return Ok(());
        };
        if self.durability == Durability::None || mutants::is("no_flush_of_files") {
            return Ok(());
        }
        let mut flushed = file.sync();
        if mutants::is("flush_again") && flushed.is_err() {
            flushed = file.sync();
        }
        flushed.map_err(|error| {
            let _ = self.storage.remove(path);
            StoreError::io("flush", path)(error)
        })
    }

    /// Gives a staged object its name, and says in which directory. That has to be [flushed](Self::sync_shard) next.
    pub(crate) fn publish(&self, object: &mut Staged) -> Result<u8, StoreError> {
        self.sync(object)?;
        let target = self.path(&object.digest);
        let shard = object.digest.as_bytes()[0];
        self.ensure_shard(shard, target.parent().expect("objects lie in shards"))?;
        if let Some((path, _)) = object.temporary.take() {
            self.storage
                .set_read_only(&path)
                .map_err(StoreError::io("protect", &path))?;
            let there = self.storage.entry(&target);
            if matches!(there, Ok(Some(entry)) if entry.kind != EntryKind::File || entry.size != object.size)
            {
                // Damage is kept, not replaced in silence.
                self.quarantine(&object.digest);
            }
            if mutants::is("write_in_place") {
                self.write_in_place(&path, &target)
                    .map_err(StoreError::io("write", &target))?;
                return Ok(shard);
            }
            self.storage
                .rename(&path, &target)
                .map_err(StoreError::io("rename to", &target))?;
        }
        // Also for one that was there: whoever made it may not have come to the flush yet.
        Ok(shard)
    }

    /// Brings the names of a directory of objects to the disk.
    pub(crate) fn sync_shard(&self, shard: u8) -> Result<(), StoreError> {
        self.sync_directory(&self.root.join("cas").join(format!("{shard:02x}")))
    }

    /// The object, hashed while it is read.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        let path = self.path(digest);
        let failed = |error| StoreError::io("read", &path)(error);
        let Some(entry) = self.storage.entry(&path).map_err(failed)? else {
            return Err(StoreError::Missing { digest: *digest });
        };
        if entry.kind == EntryKind::File {
            match self.storage.read_all(&path) {
                Ok((bytes, found)) if found == *digest || mutants::is("no_hash_on_read") => {
                    return Ok(bytes);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::Missing { digest: *digest });
                }
                // A bad sector is damage, too.
                Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(StoreError::Damaged {
            digest: *digest,
            quarantined: self.quarantine(digest),
        })
    }

    /// Moves whatever has the object's name out of the way, and says where to.
    fn quarantine(&self, digest: &Digest) -> Option<PathBuf> {
        if mutants::is("quarantine_nothing") {
            return None;
        }
        let directory = self.root.join("quarantine");
        let stamp = crate::clock::unix_ms();
        let n = self.next_quarantine.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let target = directory.join(format!("{digest}.{stamp}.{pid}.{n}"));
        self.storage
            .rename(&self.path(digest), &target)
            .ok()
            .map(|()| target)
    }

    fn ensure_shard(&self, shard: u8, directory: &Path) -> Result<(), StoreError> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if !shards.contains(&shard) {
            self.storage
                .create_directory(directory)
                .map_err(StoreError::io("create", directory))?;
            self.sync_directory(&self.root.join("cas"))?;
            shards.insert(shard);
        }
        Ok(())
    }

    /// Only for a mutant.
    fn write_in_place(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (bytes, _) = self.storage.read_all(from)?;
        let _ = self.storage.remove(to);
        self.storage.create(to)?.write_all(&bytes)?;
        self.storage.remove(from)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), StoreError> {
        if self.durability == Durability::None || mutants::is("no_flush_of_directories") {
            return Ok(());
        }
        self.storage
            .sync_directory(path)
            .map_err(StoreError::io("flush", path))
    }

    /// Removes the temporary file of an object that will not be published.
    pub(crate) fn discard(&self, staged: Staged) {
        if let Some((path, _)) = staged.temporary {
            let _ = self.storage.remove(&path);
        }
    }
}
