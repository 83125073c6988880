//! The store as a whole.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
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
/// When the store has more segments of records than this, whoever opens it alone makes one of them.
const MOST_SEGMENTS: usize = 64;

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

/// The directory below `root` that holds a store of this version.
pub fn layout_root(root: &Path) -> PathBuf {
    root.join(format!("v{VERSION}"))
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
        let root = layout_root(root);
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
            Some(Writer::enlist(&*storage, &tmp).map_err(StoreError::io("enlist in", &tmp))?)
        };
        let actions = Actions::new(Arc::clone(&storage), durability, root.join("ac"));
        actions.refresh()?;
        let store = Self {
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
        };
        if let Ok(writer) = store.writer()
            && store.actions.segments() > MOST_SEGMENTS
        {
            // Nothing is lost when somebody else is at work: the next one to open the store alone does it.
            store.exclusively(|| {
                store.actions.refresh()?;
                store.actions.compact(writer, |_| true)
            })?;
        }
        Ok(store)
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
                // It may be staged. Failures stay for `flush` to report.
                self.flush_batch();
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

    pub(crate) fn actions(&self) -> &Actions {
        &self.actions
    }

    /// Does something while nobody else has the store open; nothing if somebody has.
    ///
    /// Others may come in between the two locks, but then the second one is refused.
    pub(crate) fn exclusively<T>(
        &self,
        action: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let path = self.root.join("generation");
        self.generation
            .unlock()
            .map_err(StoreError::io("unlock", &path))?;
        let result = match self.generation.try_lock() {
            Ok(()) => {
                let result = action().map(Some);
                let _ = self.generation.unlock();
                result
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
        };
        self.generation
            .lock_shared()
            .map_err(StoreError::io("lock", &path))?;
        result
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

/// Removes a file, link or directory.
pub(crate) fn remove_any(storage: &dyn Storage, path: &Path) -> Result<(), StoreError> {
    let removed = match storage.entry(path) {
        Ok(None) => Ok(()),
        Ok(Some(entry)) if entry.kind == EntryKind::Directory => storage.remove_directory(path),
        Ok(Some(_)) => storage.remove(path),
        Err(error) => Err(error),
    };
    removed.map_err(StoreError::io("remove", path))
}

fn is_refused(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
    )
}

/// Several threads of one process may make the same store at once.
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

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
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let temporary = root.join(format!("FORMAT.{}.{attempt}", std::process::id()));
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use natron_artifacts::{FileContent, Files, Kind, Metrics};
    use serde_json::json;

    use super::*;

    fn ingredients(seed: u64) -> Ingredients {
        let mut ingredients = Ingredients::new("toy", "c0de");
        ingredients.parameters = json!({"learning_rate": 1e-4});
        ingredients.seed = seed;
        ingredients.outputs.insert("files".into(), Kind::Files);
        ingredients
    }

    fn files(content: &str) -> Artifact {
        let mut files = Files::new();
        for (name, text) in [("a.txt", content), ("b/c.txt", "always")] {
            let content = FileContent {
                bytes: Bytes::from(text.as_bytes()),
                executable: false,
            };
            files.insert(name, content).unwrap();
        }
        files.into()
    }

    fn outputs(content: &str) -> BTreeMap<String, Sealed> {
        let mut metrics = Metrics::new();
        metrics.set("auc", 0.5).unwrap();
        BTreeMap::from([
            ("files".to_owned(), files(content).seal().unwrap()),
            (
                "metrics".to_owned(),
                Artifact::from(metrics).seal().unwrap(),
            ),
        ])
    }

    fn open(root: &Path) -> Store {
        Store::open(root, Durability::None).unwrap()
    }

    fn commit(store: &Store, seed: u64, content: &str) -> Committed {
        let execution = Execution {
            seconds: 1.5,
            ..Execution::default()
        };
        store
            .commit(ingredients(seed), &outputs(content), execution, b"a log")
            .unwrap()
    }

    fn object_file(store: &Store, record: &Record) -> PathBuf {
        store.object_path(&record.outputs["files"].files[0].digest)
    }

    #[test]
    fn a_committed_result_is_a_hit_for_everybody() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (open(root.path()), open(root.path()));
        let key = ingredients(1).key();
        assert_eq!(b.lookup(&key).unwrap(), None);

        let committed = commit(&a, 1, "x");

        assert_eq!(a.lookup(&key).unwrap().unwrap(), *committed.record);
        assert_eq!(b.lookup_fresh(&key).unwrap().unwrap(), *committed.record);
        let c = open(root.path());
        let record = c.lookup(&key).unwrap().unwrap();
        assert_eq!(
            c.open_artifact(&record.outputs["files"]).unwrap(),
            files("x")
        );
        assert_eq!(&*c.read(&record.execution.log.unwrap()).unwrap(), b"a log");
        assert_eq!(c.lookup(&ingredients(2).key()).unwrap(), None);
        let mode = fs::metadata(object_file(&c, &record))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o444);
    }

    #[test]
    fn another_result_for_the_same_key_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());

        let first = commit(&store, 1, "x");
        assert!(first.contradicts.is_none());
        assert!(commit(&store, 1, "x").contradicts.is_none());
        let third = commit(&store, 1, "y");
        assert_eq!(third.contradicts.unwrap().outputs, first.record.outputs);
        let latest = store.lookup(&ingredients(1).key()).unwrap().unwrap();
        assert_eq!(latest, *third.record);
    }

    #[test]
    fn damage_is_noticed_quarantined_and_healed() {
        for damage in ["flip", "cut", "grow", "empty", "gone", "link", "folder"] {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path());
            let record = commit(&store, 1, "content").record;
            let key = record.key;
            let path = object_file(&store, &record);
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            fs::remove_file(&path).unwrap();
            match damage {
                "flip" => fs::write(&path, "cOntent").unwrap(),
                "cut" => fs::write(&path, "conten").unwrap(),
                "grow" => fs::write(&path, "contents").unwrap(),
                "empty" => fs::write(&path, "").unwrap(),
                "link" => std::os::unix::fs::symlink("/etc/hostname", &path).unwrap(),
                "folder" => fs::create_dir(&path).unwrap(),
                _ => {}
            }
            if damage == "flip" {
                // Size and time are what they were: only the content tells.
                let file = File::options().write(true).open(&path).unwrap();
                file.set_modified(modified).unwrap();
                assert!(store.lookup(&key).unwrap().is_some());
            } else {
                assert_eq!(store.lookup(&key).unwrap(), None, "{damage}");
            }

            let error = store.open_artifact(&record.outputs["files"]).unwrap_err();
            assert!(error.is_missing(), "{damage}: {error}");
            if damage == "gone" {
                assert!(matches!(error, StoreError::Missing { .. }));
            } else {
                let StoreError::Damaged { quarantined, .. } = error else {
                    panic!("{damage}: {error}")
                };
                let there = quarantined.unwrap();
                assert!(there.symlink_metadata().is_ok(), "{damage}");
            }
            assert_eq!(store.lookup(&key).unwrap(), None, "{damage}");

            commit(&store, 1, "content");
            let again = store.lookup(&key).unwrap().unwrap();
            assert_eq!(
                store.open_artifact(&again.outputs["files"]).unwrap(),
                files("content")
            );
        }
    }

    #[test]
    fn what_a_commit_finds_damaged_is_kept_aside() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let record = commit(&store, 1, "content").record;
        let path = object_file(&store, &record);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "something else").unwrap();

        commit(&store, 1, "content");

        assert_eq!(fs::read(&path).unwrap(), b"content");
        let kept = fs::read_dir(store.root().join("quarantine")).unwrap();
        let kept: Vec<_> = kept
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert_eq!(kept, [b"something else"]);
    }

    #[test]
    fn staged_results_appear_with_the_flush() {
        let root = tempfile::tempdir().unwrap();
        let (store, other) = (open(root.path()), open(root.path()));
        for seed in 0..10 {
            let content = seed.to_string();
            store
                .stage(
                    ingredients(seed),
                    &outputs(&content),
                    Execution::default(),
                    b"",
                )
                .unwrap();
        }
        assert_eq!(store.lookup(&ingredients(3).key()).unwrap(), None);

        // A reader of the same process may ask for an object before.
        let sealed = files("4").seal().unwrap();
        assert_eq!(store.open_artifact(&sealed.manifest).unwrap(), files("4"));
        store.flush().unwrap();

        for seed in 0..10 {
            assert!(store.lookup(&ingredients(seed).key()).unwrap().is_some());
            let found = other.lookup_fresh(&ingredients(seed).key()).unwrap();
            assert!(found.is_some());
        }
    }

    #[test]
    fn a_manifest_that_lies_is_not_committed() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let mut lying = outputs("x");
        let sealed = lying.get_mut("files").unwrap();
        sealed.contents[0] = Bytes::from(&b"y"[..]);

        let error = store
            .commit(ingredients(1), &lying, Execution::default(), b"")
            .unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
        assert_eq!(store.lookup(&ingredients(1).key()).unwrap(), None);
        let writer = &store.writer().unwrap().directory;
        assert_eq!(fs::read_dir(writer).unwrap().count(), 0);
    }

    #[test]
    fn threads_commit_together() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let store = &store;
                scope.spawn(move || {
                    for i in 0..10 {
                        // Half of the keys are everybody's.
                        let seed = if i % 2 == 0 { i } else { 100 * thread + i };
                        commit(store, seed, &seed.to_string());
                    }
                });
            }
        });

        let again = open(root.path());
        assert_eq!(again.keys().len(), 5 + 8 * 5);
        for (key, _) in again.keys() {
            let record = again.lookup(&key).unwrap().unwrap();
            again.open_artifact(&record.outputs["files"]).unwrap();
        }
    }

    #[test]
    fn a_store_of_another_version_is_refused() {
        let root = tempfile::tempdir().unwrap();
        drop(open(root.path()));
        let format = root.path().join("v1/FORMAT");

        fs::write(&format, r#"{"natron_store":2,"created_unix_ms":0}"#).unwrap();
        let error = Store::open(root.path(), Durability::None).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
        fs::write(&format, "nonsense").unwrap();
        let error = Store::open(root.path(), Durability::None).unwrap_err();
        assert!(error.to_string().contains("does not parse"), "{error}");
    }

    #[test]
    fn checkpoints_stay_and_scratch_goes() {
        let root = tempfile::tempdir().unwrap();
        let key = ingredients(1).key();
        let store = open(root.path());
        let checkpoints = store.checkpoints(&key).unwrap();
        fs::write(checkpoints.join("1"), "state").unwrap();
        let scratch = store.scratch().unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("x"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
        drop(store);

        let store = open(root.path());
        assert!(store.checkpoints(&key).unwrap().join("1").exists());
        store.remove_checkpoints(&key).unwrap();
        store.remove_checkpoints(&key).unwrap();
        assert!(!checkpoints.exists());
    }

    #[test]
    fn workspaces_are_registered_once() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        for path in ["/a", "/b", "/a"] {
            store.register(Path::new(path)).unwrap();
        }

        let mut paths: Vec<_> = store
            .workspaces()
            .unwrap()
            .into_iter()
            .map(|workspace| workspace.path)
            .collect();
        paths.sort();
        assert_eq!(paths, [Path::new("/a"), Path::new("/b")]);
    }
}
