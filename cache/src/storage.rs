//! Every effect on the file system that a commit depends on.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use natron_artifacts::{Bytes, Digest};

/// Whether commits outlive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// What is committed is on the disk.
    #[default]
    Full,
    /// What is committed is with the system: it outlives the process, not the machine. For tests.
    None,
}

/// A file that is being written.
pub trait StorageFile: Write + Send + Debug {
    /// Waits until everything written is on the disk. An error is final: never call it again on the same file.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read at any place, by any number of threads.
pub trait StorageReader: Send + Sync + Debug {
    /// Up to `length` bytes from `offset`, fewer at the end of the file.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link, pipe, socket or device: nothing that the store makes or reads.
    Other,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Name, without the directory.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes.
    pub size: u64,
    /// When its content last changed, in milliseconds since 1970-01-01 in UTC.
    pub modified_ms: u64,
}

/// The file system as the store sees it. One trait, so that a test can record all effects and replay any part of them.
pub trait Storage: Send + Sync + Debug {
    /// Creates one directory; fine if it is there. The one above must exist.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Creates a file that must not exist.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Opens a file for reading. What is appended to it later is seen, too.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageReader>>;
    /// Renames within the file system, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all below it.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;
    /// Waits until the entries of a directory are on the disk.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Takes the right to write from everybody.
    fn set_read_only(&self, path: &Path) -> io::Result<()>;
    /// What is at `path`, not following links; nothing if there is nothing.
    fn entry(&self, path: &Path) -> io::Result<Option<Entry>>;
    /// The entries of a directory, sorted by name. Names that are not UTF-8 are left out: the store makes none.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// `length` bytes from `offset`, fewer at the end of the file.
    fn read(&self, path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>>;
    /// A whole file and its digest.
    fn read_all(&self, path: &Path) -> io::Result<(Bytes, Digest)>;
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl StorageFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl StorageReader for File {
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match FileExt::read_at(self, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

impl Storage for Disk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            other => other,
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        let file = options
            .append(true)
            .create_new(true)
            .mode(0o644)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageReader>> {
        Ok(Arc::new(open_regular(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn set_read_only(&self, path: &Path) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o444))
    }

    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => {
                let name = path.file_name().unwrap_or_default();
                Ok(Some(entry(name.to_string_lossy().into_owned(), &metadata)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for item in fs::read_dir(path)? {
            let item = item?;
            let metadata = match item.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // Gone meanwhile.
                other => other?,
            };
            if let Ok(name) = item.file_name().into_string() {
                entries.push(entry(name, &metadata));
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn read(&self, path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut file = open_regular(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read_all(&self, path: &Path) -> io::Result<(Bytes, Digest)> {
        Bytes::read_any(path)
    }
}

/// Opens a file to be read. What is no regular file is refused: nobody waits for the other end of a pipe.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it is not a regular file; move it away",
    ))
}

/// All bytes of a regular file, opened so that nothing is waited for.
///
/// # Errors
///
/// Also for whatever is there and not a regular file.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn entry(name: String, metadata: &fs::Metadata) -> Entry {
    let milliseconds = metadata.mtime().saturating_mul(1000) + metadata.mtime_nsec() / 1_000_000;
    Entry {
        name,
        kind: if metadata.is_file() {
            EntryKind::File
        } else if metadata.is_dir() {
            EntryKind::Directory
        } else {
            EntryKind::Other
        },
        size: metadata.len(),
        modified_ms: milliseconds.max(0) as u64,
    }
}
