//! The store as a whole.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use natron_artifacts::{Artifact, Bytes, Digest, Manifest, Sealed};
use serde::{Deserialize, Serialize};

use crate::{
    Disk, Durability, EntryKind, Execution, Ingredients, Lease, Record, StageKey, Storage,
    StoreError,
    actions::Actions,
    clock,
    objects::{Objects, Staged},
    writer::{self, Writer},
};

/// Version of the layout.
const VERSION: u32 = 1;
/// Segments are read again after a miss, but not more often than this: other processes are rarely that quick.
const REFRESH_EVERY: Duration = Duration::from_millis(50);
/// Staged results are flushed together, at the latest when this many files wait (each holds a descriptor).
const FLUSH_FILES: usize = 128;

/// A content-addressed store with the records of what made its content. Any number of processes may share one; all methods
/// may be called from any thread.
#[derive(Debug)]
pub struct Store {
    /// The `v1` directory.
    root: PathBuf,
    storage: Arc<dyn Storage>,
    durability: Durability,
    generation: File,
    /// Nothing when the store is read-only.
    writer: Option<Writer>,
    objects: Objects,
    actions: Actions,
    refreshed: Mutex<Option<Instant>>,
    queue: Mutex<Queue>,
    /// Held while a batch is flushed: those who wait for it find their own results flushed, too.
    flushing: Mutex<()>,
    next_scratch: AtomicU64,
}

/// Results that are written but not flushed.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    files: usize,
    next_ticket: u64,
    failed: BTreeMap<u64, StoreError>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    objects: Vec<Staged>,
    record: Option<Record>,
}

/// A committed result.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The record.
    pub record: Arc<Record>,
    /// An earlier record of the same key whose outputs hold something else: the stage is not reproducible.
    pub contradicts: Option<Arc<Record>>,
}

/// A workspace that has used the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Where it is.
    pub path: PathBuf,
    /// When it was last seen, in milliseconds since 1970-01-01 in UTC.
    pub last_seen_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    natron_store: u32,
    created_unix_ms: u64,
}

impl Store {
    /// Opens the store at `root`, making it if there is none, and sweeps what dead processes left unfinished.
    ///
    /// A store that cannot be written is opened read-only, see [`Self::is_read_only`].
    pub fn open(root: &Path, durability: Durability) -> Result<Self, StoreError> {
        Self::open_on(Arc::new(Disk), root, durability)
    }

    /// The same on another file system.
    pub fn open_on(
        storage: Arc<dyn Storage>,
        root: &Path,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let root = root.join("v1");
        let prepared = prepare(&*storage, &root, durability);
        let is_read_only = match prepared {
            Ok(()) => false,
            Err(StoreError::Io { ref source, .. })
                if is_refused(source.kind()) && root.join("FORMAT").is_file() =>
            {
                check_format(&root)?;
                true
            }
            Err(error) => return Err(error),
        };
        let generation_path = root.join("generation");
        let generation = if is_read_only {
            File::open(&generation_path)
        } else {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true);
            options.open(&generation_path)
        };
        let generation = generation.map_err(StoreError::io("open", &generation_path))?;
        match generation.lock_shared() {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                return Err(StoreError::io("lock", &generation_path)(error));
            }
            _ => {}
        }
        let tmp = root.join("tmp");
        let writer = if is_read_only {
            None
        } else {
            writer::sweep(&tmp).map_err(StoreError::io("sweep", &tmp))?;
            Some(Writer::enlist(&tmp).map_err(StoreError::io("enlist in", &tmp))?)
        };
        let actions = Actions::new(Arc::clone(&storage), durability, root.join("ac"));
        actions.refresh()?;
        Ok(Self {
            objects: Objects::new(Arc::clone(&storage), durability, root.clone()),
            actions,
            storage,
            durability,
            generation,
            writer,
            refreshed: Mutex::new(Some(Instant::now())),
            queue: Mutex::default(),
            flushing: Mutex::default(),
            next_scratch: AtomicU64::new(0),
            root,
        })
    }

    /// Whether results cannot be kept.
    pub fn is_read_only(&self) -> bool {
        self.writer.is_none()
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The record of `key`, if there is one and all objects of its outputs are present.
    ///
    /// Segments that others have appended to are read when nothing is found, at most every 50 ms; after waiting for a
    /// lease use [`Self::lookup_fresh`].
    pub fn lookup(&self, key: &StageKey) -> Result<Option<Record>, StoreError> {
        if let Some(record) = self.hit(key) {
            return Ok(Some(record));
        }
        let is_due = {
            let refreshed = self
                .refreshed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            refreshed.is_none_or(|at| at.elapsed() >= REFRESH_EVERY)
        };
        if is_due {
            return self.lookup_fresh(key);
        }
        Ok(None)
    }

    /// As [`Self::lookup`], after reading all that others have committed until now.
    pub fn lookup_fresh(&self, key: &StageKey) -> Result<Option<Record>, StoreError> {
        self.refresh()?;
        Ok(self.hit(key))
    }

    /// The latest record of `key`, whether or not its objects are still present.
    pub fn record(&self, key: &StageKey) -> Option<Record> {
        self.actions.get(key)
    }

    /// All keys that have a record, and when it was committed, in milliseconds since 1970-01-01 in UTC.
    pub fn keys(&self) -> Vec<(StageKey, u64)> {
        self.actions.keys()
    }

    /// Whether all objects of an artifact are present. Their content is checked when they are read.
    pub fn has(&self, manifest: &Manifest) -> bool {
        manifest
            .files
            .iter()
            .all(|file| self.objects.is_present(&file.digest, file.size))
    }

    /// The artifact that `manifest` describes. Every byte is hashed on the way.
    ///
    /// # Errors
    ///
    /// Those that [`StoreError::is_missing`] names call for making the artifact anew; what was damaged is out of the way.
    pub fn open_artifact(&self, manifest: &Manifest) -> Result<Artifact, StoreError> {
        let contents = manifest
            .files
            .iter()
            .map(|file| self.read(&file.digest))
            .collect::<Result<Vec<_>, _>>()?;
        Artifact::open(manifest, contents).map_err(|error| StoreError::Unreadable {
            digest: manifest.bytes,
            reason: error.to_string(),
        })
    }

    /// The bytes of one object, hashed on the way.
    ///
    /// # Errors
    ///
    /// As [`Self::open_artifact`].
    pub fn read(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        match self.objects.read(digest) {
            Err(StoreError::Missing { .. }) if self.has_waiting() => {
                // It may be staged.
                self.flush()?;
                self.objects.read(digest)
            }
            other => other,
        }
    }

    /// Where the bytes of an object lie, for programs that map or copy them; they are read-only and not checked.
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        self.objects.path(digest)
    }

    /// Keeps a result: its objects, then its record. Returns when both are on the disk, together with whatever else was
    /// [staged](Self::stage).
    ///
    /// `log` becomes an object of its own unless it is empty.
    pub fn commit(
        &self,
        ingredients: Ingredients,
        outputs: &BTreeMap<String, Sealed>,
        execution: Execution,
        log: &[u8],
    ) -> Result<Committed, StoreError> {
        let mut waiting = self.write(ingredients, outputs, execution, log)?;
        // Each thread flushes its own files, so that large ones do not hold up others.
        for i in 0..waiting.objects.len() {
            if let Err(error) = self.objects.sync(&mut waiting.objects[i]) {
                self.discard(waiting);
                return Err(error);
            }
        }
        let record = waiting.record.clone().expect("results have records");
        let contradicts = self.contradiction(&record);
        let ticket = self.enqueue(waiting);
        self.flush_batch();
        self.failure(ticket)?;
        Ok(Committed {
            record: Arc::new(record),
            contradicts,
        })
    }

    /// As [`Self::commit`], but returns as soon as the bytes are written: the record exists only after [`Self::flush`],
    /// which is called for many results at once. Nobody, not even this process, sees the result before.
    pub fn stage(
        &self,
        ingredients: Ingredients,
        outputs: &BTreeMap<String, Sealed>,
        execution: Execution,
        log: &[u8],
    ) -> Result<Committed, StoreError> {
        let waiting = self.write(ingredients, outputs, execution, log)?;
        let record = waiting.record.clone().expect("results have records");
        let contradicts = self.contradiction(&record);
        self.enqueue(waiting);
        if self.queue().files >= FLUSH_FILES {
            self.flush()?;
        }
        Ok(Committed {
            record: Arc::new(record),
            contradicts,
        })
    }

    /// Brings everything staged to the disk: objects first, then records.
    ///
    /// # Errors
    ///
    /// The first failure. What failed is not kept and will not be tried again.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.flush_batch();
        match self.queue().failed.pop_first() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Appends a record whose objects are present already, as when results are accepted under a new key.
    pub fn append(&self, record: Record) -> Result<(), StoreError> {
        if let Some((digest, _)) = record
            .objects()
            .find(|(digest, size)| !self.objects.is_present(digest, *size))
        {
            return Err(StoreError::Missing { digest });
        }
        let ticket = self.enqueue(Waiting {
            ticket: 0,
            objects: Vec::new(),
            record: Some(record),
        });
        self.flush_batch();
        self.failure(ticket)
    }

    /// Keeps bytes without a record; collection removes them unless a root names them. Returns when they are on the disk.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let staged = self.objects.stage(self.writer()?, "", bytes, &digest)?;
        let ticket = self.enqueue(Waiting {
            ticket: 0,
            objects: vec![staged],
            record: None,
        });
        self.flush_batch();
        self.failure(ticket)?;
        Ok(digest)
    }

    /// The lease of `key`, or nothing if somebody else is computing it.
    pub fn try_lease(&self, key: &StageKey) -> Result<Option<Lease>, StoreError> {
        Lease::try_acquire(&self.root.join("lease"), key)
    }

    /// Waits for the lease of `key`; nothing if `is_cancelled` says so first. Then look the key up again, with
    /// [`Self::lookup_fresh`]: whoever held the lease has probably committed.
    pub fn lease(
        &self,
        key: &StageKey,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Lease>, StoreError> {
        Lease::acquire(&self.root.join("lease"), key, is_cancelled)
    }

    /// The process id of whoever computes `key`, for messages.
    pub fn lease_holder(&self, key: &StageKey) -> Option<u32> {
        Lease::holder(&self.root.join("lease"), key)
    }

    /// The directory for checkpoints of `key`: it survives a crash and is there again for the same key.
    pub fn checkpoints(&self, key: &StageKey) -> Result<PathBuf, StoreError> {
        self.writer()?;
        let path = self.root.join("ckpt").join(key.to_string());
        self.storage
            .create_directory(&path)
            .map_err(StoreError::io("create", &path))?;
        Ok(path)
    }

    /// Removes the checkpoints of `key`, when its result is committed.
    pub fn remove_checkpoints(&self, key: &StageKey) -> Result<(), StoreError> {
        let path = self.root.join("ckpt").join(key.to_string());
        match self.storage.remove_directory(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// A new empty directory on the store's file system, gone when dropped, or swept after a crash.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        let n = self.next_scratch.fetch_add(1, Ordering::Relaxed);
        let path = self.writer()?.directory.join(format!("s{n}"));
        fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(Scratch { path, keep: false })
    }

    /// Notes that the workspace at `path` uses the store, so that its runs are roots for collection.
    pub fn register(&self, path: &Path) -> Result<(), StoreError> {
        let writer = self.writer()?;
        let workspace = Workspace {
            path: path.to_owned(),
            last_seen_ms: clock::unix_ms(),
        };
        let id = Digest::of(path.as_os_str().as_encoded_bytes()).to_hex();
        let target = self.root.join("roots").join(&id[..32]);
        let text = serde_json::to_vec(&workspace)
            .map_err(|error| StoreError::io("register", path)(error.into()))?;
        replace(
            &*self.storage,
            self.durability,
            &writer.fresh_path(),
            &target,
            &text,
        )
    }

    /// All registered workspaces.
    pub fn workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        let directory = self.root.join("roots");
        let failed = |error| StoreError::io("list", &directory)(error);
        let mut workspaces = Vec::new();
        for entry in self.storage.list(&directory).map_err(failed)? {
            let bytes = self
                .storage
                .read(&directory.join(&entry.name), 0, entry.size);
            // An unreadable one is treated as gone; its next run registers it anew.
            if let Ok(workspace) = serde_json::from_slice(&bytes.unwrap_or_default()) {
                workspaces.push(workspace);
            }
        }
        Ok(workspaces)
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    pub(crate) fn actions(&self) -> &Actions {
        &self.actions
    }

    pub(crate) fn generation(&self) -> &File {
        &self.generation
    }

    pub(crate) fn writer(&self) -> Result<&Writer, StoreError> {
        self.writer.as_ref().ok_or_else(|| StoreError::ReadOnly {
            path: self.root.clone(),
        })
    }

    /// Reads what others have committed.
    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        self.actions.refresh()?;
        let mut refreshed = self
            .refreshed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *refreshed = Some(Instant::now());
        Ok(())
    }

    fn hit(&self, key: &StageKey) -> Option<Record> {
        let record = self.actions.get(key)?;
        let is_whole = record
            .objects()
            .all(|(digest, size)| self.objects.is_present(&digest, size));
        is_whole.then_some(record)
    }

    fn contradiction(&self, record: &Record) -> Option<Arc<Record>> {
        let earlier = self.actions.get(&record.key)?;
        (!earlier.has_outputs_of(record)).then(|| Arc::new(earlier))
    }

    fn write(
        &self,
        ingredients: Ingredients,
        outputs: &BTreeMap<String, Sealed>,
        mut execution: Execution,
        log: &[u8],
    ) -> Result<Waiting, StoreError> {
        let writer = self.writer()?;
        let mut waiting = Waiting {
            ticket: 0,
            objects: Vec::new(),
            record: None,
        };
        let mut parts: Vec<(&str, &[u8], Digest)> = Vec::new();
        for (port, sealed) in outputs {
            let files = &sealed.manifest.files;
            if files.len() != sealed.contents.len() {
                return Err(StoreError::Mismatch {
                    output: port.clone(),
                    expected: format!("{} files", files.len()),
                    found: format!("{} files", sealed.contents.len()),
                });
            }
            for (file, content) in files.iter().zip(&sealed.contents) {
                if file.size != content.len() as u64 {
                    return Err(StoreError::Mismatch {
                        output: port.clone(),
                        expected: format!("{} bytes", file.size),
                        found: format!("{} bytes", content.len()),
                    });
                }
                parts.push((port, content, file.digest));
            }
        }
        if !log.is_empty() {
            let digest = Digest::of(log);
            execution.log = Some(digest);
            parts.push(("log", log, digest));
        }
        for (port, content, digest) in parts {
            match self.objects.stage(writer, port, content, &digest) {
                Ok(staged) => waiting.objects.push(staged),
                Err(error) => {
                    self.discard(waiting);
                    return Err(error);
                }
            }
        }
        waiting.record = Some(Record {
            key: ingredients.key(),
            ingredients,
            outputs: outputs
                .iter()
                .map(|(port, sealed)| (port.clone(), sealed.manifest.clone()))
                .collect(),
            execution,
        });
        Ok(waiting)
    }

    fn enqueue(&self, mut waiting: Waiting) -> u64 {
        let mut queue = self.queue();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        waiting.ticket = ticket;
        queue.files += waiting.objects.len();
        queue.waiting.push(waiting);
        ticket
    }

    fn has_waiting(&self) -> bool {
        !self.queue().waiting.is_empty()
    }

    /// Publishes whatever waits. Failures are kept by ticket.
    fn flush_batch(&self) {
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = {
            let mut queue = self.queue();
            queue.files = 0;
            std::mem::take(&mut queue.waiting)
        };
        let mut published = Vec::new();
        for mut waiting in batch {
            match self.objects.publish(&mut waiting.objects) {
                Ok(()) => published.push(waiting),
                Err(error) => {
                    let ticket = waiting.ticket;
                    self.discard(waiting);
                    self.queue().failed.insert(ticket, error);
                }
            }
        }
        let committed_ms = clock::unix_ms();
        let frames: Vec<_> = published
            .iter()
            .filter_map(|waiting| waiting.record.as_ref())
            .map(|record| (record.key, committed_ms, record.frame(committed_ms)))
            .collect();
        let appended = self
            .writer()
            .and_then(|writer| self.actions.append(&writer.name, &frames));
        if let Err(error) = appended {
            let mut queue = self.queue();
            for waiting in published {
                queue.failed.insert(waiting.ticket, error.clone());
            }
        }
    }

    fn failure(&self, ticket: u64) -> Result<(), StoreError> {
        self.queue().failed.remove(&ticket).map_or(Ok(()), Err)
    }

    fn discard(&self, waiting: Waiting) {
        for staged in waiting.objects {
            self.objects.discard(staged);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.has_waiting() {
            // Whoever needs to know whether it worked calls `flush`.
            self.flush_batch();
        }
    }
}

/// A directory that is removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the directory to `path` on the same file system, for someone to look at after a failure.
    pub fn keep_at(mut self, path: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, path).map_err(StoreError::io("move to", path))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = writer::remove_stubborn(&self.path);
        }
    }
}

fn is_refused(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

/// Makes the directories, and `FORMAT` last.
fn prepare(storage: &dyn Storage, root: &Path, durability: Durability) -> Result<(), StoreError> {
    let mut missing = Vec::new();
    let mut above = Some(root);
    while let Some(path) = above.filter(|path| !path.as_os_str().is_empty() && !path.exists()) {
        missing.push(path);
        above = path.parent();
    }
    for path in missing.into_iter().rev() {
        create(storage, path, durability)?;
    }
    let has_format = check_format(root)?;
    for name in [
        "cas",
        "ac",
        "ckpt",
        "tmp",
        "lease",
        "quarantine",
        "roots",
        "trash",
    ] {
        let path = root.join(name);
        let there = storage
            .entry(&path)
            .map_err(StoreError::io("look at", &path))?;
        if there.is_none_or(|entry| entry.kind != EntryKind::Directory) {
            create(storage, &path, durability)?;
        }
    }
    if !has_format {
        let format = Format {
            natron_store: VERSION,
            created_unix_ms: clock::unix_ms(),
        };
        let path = root.join("FORMAT");
        let text = serde_json::to_vec(&format).expect("plain structs serialize");
        let temporary = root.join(format!("FORMAT.{}", std::process::id()));
        let _ = storage.remove(&temporary);
        replace(storage, durability, &temporary, &path, &text)?;
    }
    Ok(())
}

fn create(storage: &dyn Storage, path: &Path, durability: Durability) -> Result<(), StoreError> {
    storage
        .create_directory(path)
        .map_err(StoreError::io("create", path))?;
    if let (Durability::Full, Some(above)) = (durability, path.parent()) {
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        storage
            .sync_directory(above)
            .map_err(StoreError::io("flush", above))?;
    }
    Ok(())
}

/// Whether `FORMAT` is there; an error when it is not ours.
fn check_format(root: &Path) -> Result<bool, StoreError> {
    let wrong = |reason: String| StoreError::Format {
        path: root.to_owned(),
        reason,
    };
    let path = root.join("FORMAT");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let format: Format = serde_json::from_slice(&text).map_err(|_| {
        wrong("its `FORMAT` file does not parse; move the directory away to start anew".into())
    })?;
    if format.natron_store != VERSION {
        let version = format.natron_store;
        return Err(wrong(format!(
            "it has version {version}, this program writes version {VERSION}; use the program that made it"
        )));
    }
    Ok(true)
}

/// Puts `bytes` at `path` whole or not at all.
fn replace(
    storage: &dyn Storage,
    durability: Durability,
    temporary: &Path,
    path: &Path,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let mut file = storage
        .create(temporary)
        .map_err(StoreError::io("create", temporary))?;
    file.write_all(bytes)
        .map_err(StoreError::io("write", temporary))?;
    if durability == Durability::Full {
        file.sync().map_err(StoreError::io("flush", temporary))?;
    }
    storage
        .rename(temporary, path)
        .map_err(StoreError::io("rename to", path))?;
    let directory = path.parent().expect("files lie in directories");
    if durability == Durability::Full {
        storage
            .sync_directory(directory)
            .map_err(StoreError::io("flush", directory))?;
    }
    Ok(())
}
