//! The store as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use natron_artifacts::{Artifact, Bytes, Digest, Manifest, Sealed};
use serde::{Deserialize, Serialize};

use crate::{
    DamagedRecord, Disk, Durability, Entry, EntryKind, Execution, Hit, Ingredients, Lease, Record,
    StageKey, Storage, StoreError,
    actions::{self, Actions},
    clock,
    commits::{Commits, Waiting},
    lease::Leases,
    mutants,
    objects::Objects,
    storage::{open_regular, read_regular},
    writer::{self, Writer},
};

/// Version of the layout.
const VERSION: u32 = 2;
/// Objects that are smaller lie in the records that name them: many small results cost no files.
const CARRIED_BELOW_BYTES: usize = 4096;
/// A record carries no more than this; the rest has files of its own.
const MOST_CARRIED_BYTES: usize = 1 << 20;
/// Segments are read again after a miss, but not more often than this: other processes are rarely that quick.
const REFRESH_EVERY: Duration = Duration::from_millis(50);
/// When the store has more small segments of records than this, whoever opens it alone makes one of them.
const MOST_SEGMENTS: usize = 32;
/// A workspace that registered within this time need not do so again.
const REGISTERED_MS: u64 = 3_600_000;

/// A content-addressed store with the records of what made its content. Any number of processes may share one; all methods
/// may be called from any thread.
#[derive(Debug)]
pub struct Store {
    /// The `v2` directory.
    root: PathBuf,
    storage: Arc<dyn Storage>,
    durability: Durability,
    /// Nothing when there is no store, which is then read as an empty one.
    generation: Option<File>,
    /// Nothing when the store is read-only, like `commits`.
    writer: Option<Arc<Writer>>,
    objects: Arc<Objects>,
    actions: Arc<Actions>,
    leases: Arc<Leases>,
    commits: Option<Arc<Commits>>,
    refreshed: Mutex<Option<Instant>>,
    next_scratch: AtomicU64,
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

/// Results that collection leaves alone, whatever their age.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name.
    pub name: String,
    /// The keys of the results.
    pub keys: Vec<StageKey>,
    /// When it was made, in milliseconds since 1970-01-01 in UTC.
    pub unix_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    natron_store: u32,
    created_unix_ms: u64,
}

/// The directory below `root` that holds a store of this version; it changes with the layout, so that older stores are left
/// alone.
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
        Self::assemble(storage, root, durability, is_read_only)
    }

    /// Opens the store at `root` to read it: nothing is made or written, and one that is not there is empty.
    pub fn open_to_read(root: &Path) -> Result<Self, StoreError> {
        let root = layout_root(root);
        check_format(&root)?;
        Self::assemble(Arc::new(Disk), root, Durability::None, true)
    }

    fn assemble(
        storage: Arc<dyn Storage>,
        root: PathBuf,
        durability: Durability,
        is_read_only: bool,
    ) -> Result<Self, StoreError> {
        let generation = open_generation(&root, is_read_only)?;
        let tmp = root.join("tmp");
        let writer = if is_read_only {
            None
        } else {
            writer::sweep(&tmp).map_err(StoreError::io("sweep", &tmp))?;
            let writer = Writer::enlist(&*storage, &tmp);
            Some(Arc::new(writer.map_err(StoreError::io("enlist in", &tmp))?))
        };
        let objects = Objects::new(Arc::clone(&storage), durability, root.clone());
        let actions = Actions::new(Arc::clone(&storage), durability, root.join("ac"));
        let leases = Leases::open(&root.join("lease"), is_read_only);
        let (objects, actions, leases) = (Arc::new(objects), Arc::new(actions), Arc::new(leases));
        let commits = writer.as_ref().map(|writer| {
            Arc::new(Commits::new(
                Arc::clone(&storage),
                Arc::clone(&objects),
                Arc::clone(&actions),
                Arc::clone(&leases),
                Arc::clone(writer),
                root.join("ckpt"),
            ))
        });
        let store = Self {
            objects,
            actions,
            leases,
            commits,
            storage,
            durability,
            generation,
            writer,
            refreshed: Mutex::new(None),
            next_scratch: AtomicU64::new(0),
            root,
        };
        store.refresh()?;
        if let Ok(writer) = store.writer()
            && store.actions.small_segments() > MOST_SEGMENTS
        {
            // Nothing is lost when somebody else is at work: the next one to open the store alone does it.
            store.exclusively(|| {
                store.actions.refresh()?;
                store.actions.compact(writer, None)
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

    /// The outputs of `key`, if there is a record of it and all objects of its outputs are present.
    ///
    /// Segments that others have appended to are read when nothing is found, at most every 50 ms; after waiting for a
    /// lease use [`Self::lookup_fresh`].
    pub fn lookup(&self, key: &StageKey) -> Result<Option<Hit>, StoreError> {
        if let Some(hit) = self.hit(key) {
            return Ok(Some(hit));
        }
        if self.is_refresh_due() {
            self.refresh()?;
            return Ok(self.hit(key));
        }
        Ok(None)
    }

    /// As [`Self::lookup`], after reading all that others have committed until now.
    pub fn lookup_fresh(&self, key: &StageKey) -> Result<Option<Hit>, StoreError> {
        // A writer that was killed may have appended without telling, hence also now and then without news.
        if self.leases.news().is_some() || self.is_refresh_due() {
            self.refresh()?;
        }
        Ok(self.hit(key))
    }

    /// The latest record of `key` with its ingredients, all of it checked, whether or not its objects are still present.
    pub fn record(&self, key: &StageKey) -> Option<Record> {
        self.actions.record(key)
    }

    /// All keys that have a record, and when it was committed, in milliseconds since 1970-01-01 in UTC.
    pub fn keys(&self) -> Vec<(StageKey, u64)> {
        let listed = self.actions.list().into_iter();
        listed.map(|item| (item.key, item.committed_ms)).collect()
    }

    /// Whether all objects of an artifact are present. Their content is checked when they are read.
    pub fn has(&self, manifest: &Manifest) -> bool {
        manifest
            .files
            .iter()
            .all(|file| self.is_present(&file.digest, file.size))
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

    /// The bytes of one object, hashed on the way. What this process has [handed over](Self::commit_later) is there, too.
    ///
    /// # Errors
    ///
    /// As [`Self::open_artifact`].
    pub fn read(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        let on_its_way = self
            .commits
            .as_ref()
            .and_then(|commits| commits.read(digest));
        if let Some(bytes) = on_its_way {
            return Ok(bytes);
        }
        match self.actions.object(digest) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(damaged)) => self.objects.read(digest).map_err(|_| damaged),
            None => self.objects.read(digest),
        }
    }

    /// Where the bytes of an object lie that has a file of its own, for programs that map or copy it; it is read-only and
    /// not checked. Small objects have none: [read](Self::read) them.
    pub fn object_path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.objects.path(digest);
        matches!(self.storage.entry(&path), Ok(Some(entry)) if entry.kind == EntryKind::File)
            .then_some(path)
    }

    /// Keeps a result: its objects, then its record. Returns when both are on the disk, together with whatever else was
    /// [handed over](Self::commit_later).
    ///
    /// `log` becomes an object of its own unless it is empty.
    pub fn commit(
        &self,
        ingredients: Ingredients,
        outputs: &BTreeMap<String, Sealed>,
        execution: Execution,
        log: &[u8],
    ) -> Result<Committed, StoreError> {
        let key = ingredients.key();
        let (waiting, record) =
            self.prepare(key, ingredients, outputs, execution, log, Vec::new())?;
        let contradicts = self.contradiction(&record);
        self.commits()?.commit(waiting)?;
        Ok(Committed {
            record: Arc::new(record),
            contradicts,
        })
    }

    /// Keeps a result as [`Self::commit`] does, but returns as soon as it is handed over: a thread of the store brings it to
    /// the disk within some 50 ms, many results at once. Only then do others find the record, only then is `lease` given back
    /// and are checkpoints of the key removed. This process may [read](Self::read) the outputs at once.
    ///
    /// `extra` are texts to be kept along with the record, which names them in [`Execution::sources`].
    ///
    /// # Errors
    ///
    /// What shows at once; the rest is told by [`Self::flush`]. Blocks while more than 256 MiB are on their way.
    pub fn commit_later(
        &self,
        ingredients: Ingredients,
        outputs: &BTreeMap<String, Sealed>,
        execution: Execution,
        log: &[u8],
        extra: Vec<(Digest, Bytes)>,
        lease: Lease,
    ) -> Result<Committed, StoreError> {
        let key = *lease.key();
        debug_assert_eq!(key, ingredients.key(), "the lease of another key");
        let (mut waiting, record) =
            self.prepare(key, ingredients, outputs, execution, log, extra)?;
        let contradicts = self.contradiction(&record);
        waiting.lease = Some(lease);
        for sealed in outputs.values() {
            let digests = sealed.manifest.files.iter().map(|file| file.digest);
            waiting
                .contents
                .extend(digests.zip(sealed.contents.iter().cloned()));
        }
        self.commits()?.commit_later(waiting);
        Ok(Committed {
            record: Arc::new(record),
            contradicts,
        })
    }

    /// Brings everything handed over to the disk: objects first, then records.
    ///
    /// # Errors
    ///
    /// The first failure since the last time, as [`StoreError::NotKept`]. What failed is not kept and will not be tried again.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.commits
            .as_ref()
            .map_or(Ok(()), |commits| commits.flush())
    }

    /// The results that were handed over and could not be kept, and why; each is told once, here or by [`Self::flush`].
    pub fn failures(&self) -> Vec<(StageKey, StoreError)> {
        self.commits
            .as_ref()
            .map_or_else(Vec::new, |commits| commits.failures())
    }

    /// Appends a record whose objects are present already, as when results are accepted under a new key.
    pub fn append(&self, record: &Record) -> Result<(), StoreError> {
        let named: BTreeSet<Digest> = record
            .objects()
            .map(|(digest, _)| digest)
            .chain(record.execution.log)
            .chain(record.execution.sources.iter().copied())
            .collect();
        let mut carried = Vec::new();
        for digest in named {
            // Those with files of their own stay where they are.
            if self.object_path(&digest).is_none() {
                carried.push((digest, self.read(&digest)?));
            }
        }
        self.commits()?.commit(Waiting {
            key: Some(record.key),
            frame: Some(record.frame(&carried)),
            ..Waiting::default()
        })
    }

    /// Keeps bytes without a record; collection removes them unless a root names them. Returns when they are on the disk.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let staged = self.objects.stage(self.writer()?, "", bytes, &digest)?;
        self.commits()?.commit(Waiting {
            objects: vec![staged],
            ..Waiting::default()
        })?;
        Ok(digest)
    }

    /// The lease of `key`, or nothing if somebody else is computing it.
    pub fn try_lease(&self, key: &StageKey) -> Option<Lease> {
        self.leases.try_acquire(key)
    }

    /// Waits for the lease of `key`; nothing if `is_cancelled` says so first. Then look the key up again, with
    /// [`Self::lookup_fresh`]: whoever held the lease has probably committed.
    pub fn lease(&self, key: &StageKey, is_cancelled: &dyn Fn() -> bool) -> Option<Lease> {
        self.leases.acquire(key, is_cancelled, &mut |_| {})
    }

    /// As [`Self::lease`]; after waiting for a second, `tell` is called once with the process that computes the key, if it is
    /// known: our own when another thread does.
    pub fn lease_telling(
        &self,
        key: &StageKey,
        is_cancelled: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(Option<u32>),
    ) -> Option<Lease> {
        self.leases.acquire(key, is_cancelled, tell)
    }

    /// The process id of whoever computes `key` or did so last, for messages.
    pub fn lease_holder(&self, key: &StageKey) -> Option<u32> {
        self.leases.holder(key)
    }

    /// Whether somebody is computing `key`.
    pub fn is_leased(&self, key: &StageKey) -> bool {
        self.leases.is_held(key)
    }

    /// Where checkpoints of `key` are or would be: they survive a crash and are there again for the same key. The directory is
    /// made by whoever first writes one.
    pub fn checkpoints_path(&self, key: &StageKey) -> PathBuf {
        self.root.join("ckpt").join(key.to_string())
    }

    /// Removes the checkpoints of `key`, when its result is committed.
    pub fn remove_checkpoints(&self, key: &StageKey) -> Result<(), StoreError> {
        let path = self.checkpoints_path(key);
        if matches!(self.storage.entry(&path), Ok(None)) {
            return Ok(());
        }
        match self.storage.remove_directory(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// A name for a new directory on the store's file system, which whoever needs it makes. If it is there, it is gone when
    /// dropped, or swept after a crash.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        let n = self.next_scratch.fetch_add(1, Ordering::Relaxed);
        let path = self.writer()?.directory.join(format!("s{n}"));
        Ok(Scratch { path, keep: false })
    }

    /// Notes that the workspace at `path` uses the store, so that its runs are roots for collection. A store that cannot be
    /// written is left alone.
    pub fn register(&self, path: &Path) -> Result<(), StoreError> {
        let Ok(writer) = self.writer() else {
            return Ok(());
        };
        let now = clock::unix_ms();
        let id = Digest::of(path.as_os_str().as_encoded_bytes()).to_hex();
        let target = self.root.join("roots").join(&id[..32]);
        let known = read_regular(&target)
            .ok()
            .and_then(|text| serde_json::from_slice::<Workspace>(&text).ok());
        if known.is_some_and(|known| {
            known.path == path && now.abs_diff(known.last_seen_ms) < REGISTERED_MS
        }) {
            return Ok(());
        }
        let workspace = Workspace {
            path: path.to_owned(),
            last_seen_ms: now,
        };
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
        // An unreadable one is treated as gone; its next run registers it anew.
        self.read_all("roots")
    }

    /// Forgets that the workspace at `path` uses the store. Whether it was known.
    pub fn unregister(&self, path: &Path) -> Result<bool, StoreError> {
        self.writer()?;
        let id = Digest::of(path.as_os_str().as_encoded_bytes()).to_hex();
        self.remove_if_there(&self.root.join("roots").join(&id[..32]))
    }

    /// Keeps results from collection until they are [unpinned](Self::unpin). A pin of the same name is replaced.
    pub fn pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let text = serde_json::to_vec(pin).expect("plain structs serialize");
        let temporary = self.writer()?.fresh_path();
        let target = self.pin_path(&pin.name);
        replace(&*self.storage, self.durability, &temporary, &target, &text)
    }

    /// Removes a pin. Whether there was one of that name.
    pub fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        self.writer()?;
        self.remove_if_there(&self.pin_path(name))
    }

    /// All pins, by name.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let mut pins: Vec<Pin> = self.read_all("pins")?;
        pins.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pins)
    }

    fn pin_path(&self, name: &str) -> PathBuf {
        let id = Digest::of(name.as_bytes()).to_hex();
        self.root.join("pins").join(&id[..32])
    }

    fn remove_if_there(&self, path: &Path) -> Result<bool, StoreError> {
        match self.storage.remove(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", path)(error)),
        }
    }

    /// All small files of a directory that parse.
    fn read_all<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, StoreError> {
        let directory = self.root.join(name);
        let mut all = Vec::new();
        for entry in list(&*self.storage, &directory)? {
            if entry.kind != EntryKind::File {
                continue;
            }
            let path = directory.join(&entry.name);
            let bytes = self.storage.read(&path, 0, entry.size);
            if let Ok(item) = serde_json::from_slice(&bytes.unwrap_or_default()) {
                all.push(item);
            }
        }
        Ok(all)
    }

    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(crate) fn actions(&self) -> &Actions {
        &self.actions
    }

    /// Every object that has a file of its own.
    pub(crate) fn list_objects(&self) -> Result<BTreeMap<Digest, Entry>, StoreError> {
        let cas = self.root.join("cas");
        let list = |path: &Path| list(&*self.storage, path);
        let mut objects = BTreeMap::new();
        for shard in list(&cas)? {
            if shard.kind != EntryKind::Directory {
                continue;
            }
            for entry in list(&cas.join(&shard.name))? {
                if let Ok(digest) = format!("{}{}", shard.name, entry.name).parse() {
                    objects.insert(digest, entry);
                }
            }
        }
        Ok(objects)
    }

    /// The bytes of an object that has a file of its own.
    pub(crate) fn read_file(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        self.objects.read(digest)
    }

    /// Writes all segments anew, without what is damaged or superseded, unless others have the store open.
    pub(crate) fn compact_if_alone(&self) -> Result<(), StoreError> {
        let writer = self.writer()?;
        self.exclusively(|| {
            self.actions.refresh()?;
            self.actions.compact(writer, Some(&|_| true))
        })
        .map(|_| ())
    }

    /// Appends a tombstone.
    pub(crate) fn disown(&self, key: StageKey, tombstone: Vec<u8>) -> Result<(), StoreError> {
        self.commits()?.commit(Waiting {
            key: Some(key),
            frame: Some(tombstone),
            ..Waiting::default()
        })
    }

    /// What in the segments of records is damaged. Nothing is changed.
    pub fn damaged_records(&self) -> Result<Vec<DamagedRecord>, StoreError> {
        self.actions.damage()
    }

    /// Does something while nobody else has the store open; nothing if somebody has.
    ///
    /// Others may come in between the two locks, but then the second one is refused.
    pub(crate) fn exclusively<T>(
        &self,
        action: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let path = self.root.join("generation");
        self.writer()?;
        let Some(generation) = &self.generation else {
            return action().map(Some);
        };
        generation
            .unlock()
            .map_err(StoreError::io("unlock", &path))?;
        let result = match generation.try_lock() {
            Ok(()) => {
                let result = action().map(Some);
                let _ = generation.unlock();
                result
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
        };
        generation
            .lock_shared()
            .map_err(StoreError::io("lock", &path))?;
        result
    }

    pub(crate) fn writer(&self) -> Result<&Writer, StoreError> {
        self.writer.as_deref().ok_or_else(|| StoreError::ReadOnly {
            path: self.root.clone(),
        })
    }

    fn commits(&self) -> Result<&Arc<Commits>, StoreError> {
        self.commits.as_ref().ok_or_else(|| StoreError::ReadOnly {
            path: self.root.clone(),
        })
    }

    /// Reads what others have committed.
    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        // Before reading: what is committed meanwhile is news again.
        let stamp = self.leases.news();
        self.actions.refresh()?;
        if let Some(stamp) = stamp {
            self.leases.saw(stamp);
        }
        let mut refreshed = self
            .refreshed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *refreshed = Some(Instant::now());
        Ok(())
    }

    fn is_refresh_due(&self) -> bool {
        let refreshed = self
            .refreshed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        refreshed.is_none_or(|at| at.elapsed() >= REFRESH_EVERY)
    }

    fn hit(&self, key: &StageKey) -> Option<Hit> {
        let hit = self.actions.hit(key)?;
        let is_whole = mutants::is("no_look_for_objects")
            || actions::files(&hit.outputs).all(|(digest, size)| self.is_present(&digest, size));
        is_whole.then_some(hit)
    }

    fn is_present(&self, digest: &Digest, size: u64) -> bool {
        self.actions.carries(digest, size)
            || self
                .commits
                .as_ref()
                .and_then(|commits| commits.read(digest))
                .is_some()
            || self.objects.is_present(digest, size)
    }

    fn contradiction(&self, record: &Record) -> Option<Arc<Record>> {
        let earlier = self.actions.record(&record.key)?;
        (!earlier.has_outputs_of(record)).then(|| Arc::new(earlier))
    }

    /// Checks a result, writes what gets files of its own to `tmp/`, and puts the rest into a frame.
    fn prepare(
        &self,
        key: StageKey,
        ingredients: Ingredients,
        outputs: &BTreeMap<String, Sealed>,
        mut execution: Execution,
        log: &[u8],
        extra: Vec<(Digest, Bytes)>,
    ) -> Result<(Waiting, Record), StoreError> {
        let writer = self.writer()?;
        let mut parts: Vec<(&str, Bytes, Digest)> = Vec::new();
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
                parts.push((port, content.clone(), file.digest));
            }
        }
        if !log.is_empty() {
            let digest = Digest::of(log);
            execution.log = Some(digest);
            parts.push(("log", Bytes::from(log), digest));
        }
        execution.sources = extra.iter().map(|(digest, _)| *digest).collect();
        let extra = extra.into_iter();
        parts.extend(extra.map(|(digest, content)| ("source text", content, digest)));

        let mut waiting = Waiting {
            key: Some(key),
            ..Waiting::default()
        };
        let mut carried: Vec<(Digest, Bytes)> = Vec::new();
        let mut carried_bytes = 0;
        let mut seen = BTreeSet::new();
        for (output, content, digest) in parts {
            if !seen.insert(digest) {
                continue;
            }
            let size = content.len();
            let done = if size < CARRIED_BELOW_BYTES && carried_bytes + size <= MOST_CARRIED_BYTES {
                let found = Digest::of(&content);
                carried_bytes += size;
                carried.push((digest, content));
                (found == digest)
                    .then_some(())
                    .ok_or_else(|| StoreError::Mismatch {
                        output: output.to_owned(),
                        expected: digest.to_string(),
                        found: found.to_string(),
                    })
            } else {
                let staged = self.objects.stage(writer, output, &content, &digest);
                staged.map(|staged| waiting.objects.push(staged))
            };
            if let Err(error) = done {
                self.commits()?.discard(waiting.objects);
                return Err(error);
            }
        }
        let record = Record {
            key,
            ingredients,
            outputs: outputs
                .iter()
                .map(|(port, sealed)| (port.clone(), sealed.manifest.clone()))
                .collect(),
            execution,
        };
        waiting.frame = Some(record.frame(&carried));
        Ok((waiting, record))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(commits) = &self.commits {
            // Whoever needs to know whether it worked calls `flush`.
            commits.close();
        }
    }
}

/// A directory that is removed when dropped, if anybody made it.
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
        if !self.keep && self.path.symlink_metadata().is_ok() {
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
        "pins",
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
    if let (Durability::Full, Some(above)) = (durability, path.parent())
        && !mutants::is("no_flush_of_directories")
    {
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

/// The entries of a directory; none if it is not there.
pub(crate) fn list(storage: &dyn Storage, path: &Path) -> Result<Vec<Entry>, StoreError> {
    match storage.list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(StoreError::io("list", path)),
    }
}

/// Opens and locks the file that everybody locks who has the store open; nothing if there is no store.
fn open_generation(root: &Path, is_read_only: bool) -> Result<Option<File>, StoreError> {
    let path = root.join("generation");
    let failed = |action| StoreError::io(action, &path);
    match fs::symlink_metadata(&path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(StoreError::Format {
                path: root.to_owned(),
                reason:
                    "its `generation` is not a regular file; move the directory away to start anew"
                        .into(),
            });
        }
        _ => {}
    }
    let opened = if is_read_only {
        open_regular(&path)
    } else {
        let mut options = OpenOptions::new();
        // What becomes a pipe meanwhile is not waited for.
        options.custom_flags(nix::libc::O_NONBLOCK);
        options.create(true).truncate(false).write(true);
        options.open(&path)
    };
    let generation = match opened {
        Err(error) if is_read_only && error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("open"))?,
    };
    match generation.lock_shared() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(failed("lock")(error)),
        _ => Ok(Some(generation)),
    }
}

/// Whether `FORMAT` is there; an error when it is not ours.
fn check_format(root: &Path) -> Result<bool, StoreError> {
    let wrong = |reason: String| StoreError::Format {
        path: root.to_owned(),
        reason,
    };
    let path = root.join("FORMAT");
    let text = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(metadata) if !metadata.is_file() => {
            return Err(wrong(
                "its `FORMAT` is not a regular file; move the directory away to start anew".into(),
            ));
        }
        _ => fs::read(&path).map_err(StoreError::io("read", &path))?,
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
    if durability == Durability::Full && !mutants::is("no_flush_of_files") {
        file.sync().map_err(StoreError::io("flush", temporary))?;
    }
    storage
        .rename(temporary, path)
        .map_err(StoreError::io("rename to", path))?;
    let directory = path.parent().expect("files lie in directories");
    if durability == Durability::Full && !mutants::is("no_flush_of_directories") {
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
        ingredients.parameters = json!({"learning_rate": 1e-4}).into();
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

    /// Content that is too large to lie in a record.
    fn large(content: &str) -> String {
        content.repeat(CARRIED_BELOW_BYTES.div_ceil(content.len()))
    }

    fn object_file(store: &Store, record: &Record) -> PathBuf {
        let digest = record.outputs["files"].files[0].digest;
        store.object_path(&digest).unwrap()
    }

    #[test]
    fn a_committed_result_is_a_hit_for_everybody() {
        for content in ["x".to_owned(), large("x")] {
            let root = tempfile::tempdir().unwrap();
            let (a, b) = (open(root.path()), open(root.path()));
            let key = ingredients(1).key();
            assert_eq!(b.lookup(&key).unwrap(), None);

            let committed = commit(&a, 1, &content);

            for store in [&a, &b, &open(root.path())] {
                let hit = store.lookup_fresh(&key).unwrap().unwrap();
                assert_eq!(hit.outputs, committed.record.outputs);
                assert_eq!(store.record(&key).unwrap(), *committed.record);
                assert!(store.has(&hit.outputs["files"]));
                let found = store.open_artifact(&hit.outputs["files"]).unwrap();
                assert_eq!(found, files(&content));
                let log = hit.execution.log.unwrap();
                assert_eq!(&*store.read(&log).unwrap(), b"a log");
                assert_eq!(store.lookup(&ingredients(2).key()).unwrap(), None);
            }
        }
    }

    #[test]
    fn only_large_objects_are_files() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        commit(&store, 1, "x");
        let cas = layout_root(root.path()).join("cas");
        assert_eq!(fs::read_dir(&cas).unwrap().count(), 0);

        let record = commit(&store, 2, &large("x")).record;

        assert_eq!(fs::read_dir(&cas).unwrap().count(), 1);
        let path = object_file(&store, &record);
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
    }

    #[test]
    fn a_damaged_object_in_a_record_is_noticed_and_healed() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let record = commit(&store, 1, "some content").record;
        let manifest = &record.outputs["files"];
        let segment = fs::read_dir(store.root().join("ac")).unwrap().next();
        let segment = segment.unwrap().unwrap().path();
        let mut bytes = fs::read(&segment).unwrap();
        let at = bytes.windows(12).position(|w| w == b"some content");
        bytes[at.unwrap()] ^= 1;
        fs::write(&segment, &bytes).unwrap();

        let damaged = store.damaged_records().unwrap();
        assert_eq!(damaged.len(), 1);
        assert_eq!(damaged[0].key, Some(record.key));
        let error = store.open_artifact(manifest).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(store.lookup(&record.key).unwrap(), None);

        commit(&store, 1, "some content");
        for store in [&store, &open(root.path())] {
            assert!(store.lookup(&record.key).unwrap().is_some());
            let found = store.open_artifact(manifest).unwrap();
            assert_eq!(found, files("some content"));
        }
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
        let latest = store.record(&ingredients(1).key()).unwrap();
        assert_eq!(latest, *third.record);
    }

    #[test]
    fn damage_is_noticed_quarantined_and_healed() {
        for damage in ["flip", "cut", "grow", "empty", "gone", "link", "folder"] {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path());
            let content = large("content");
            let record = commit(&store, 1, &content).record;
            let key = record.key;
            let path = object_file(&store, &record);
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            fs::remove_file(&path).unwrap();
            match damage {
                "flip" => fs::write(&path, large("cOntent")).unwrap(),
                "cut" => fs::write(&path, &content[1..]).unwrap(),
                "grow" => fs::write(&path, format!("{content}s")).unwrap(),
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

            commit(&store, 1, &content);
            let again = store.lookup(&key).unwrap().unwrap();
            assert_eq!(
                store.open_artifact(&again.outputs["files"]).unwrap(),
                files(&content)
            );
        }
    }

    #[test]
    fn what_a_commit_finds_damaged_is_kept_aside() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let content = large("content");
        let record = commit(&store, 1, &content).record;
        let path = object_file(&store, &record);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "something else").unwrap();

        commit(&store, 1, &content);

        assert_eq!(fs::read(&path).unwrap(), content.as_bytes());
        let kept = fs::read_dir(store.root().join("quarantine")).unwrap();
        let kept: Vec<_> = kept
            .map(|entry| fs::read(entry.unwrap().path()).unwrap())
            .collect();
        assert_eq!(kept, [b"something else"]);
    }

    /// Hands a result over.
    fn commit_later(store: &Store, seed: u64, content: &str) -> Committed {
        let ingredients = ingredients(seed);
        let lease = store.try_lease(&ingredients.key()).unwrap();
        let text = Bytes::from(format!("program {seed}"));
        let extra = vec![(text.digest(), text)];
        let execution = Execution::default();
        store
            .commit_later(ingredients, &outputs(content), execution, b"", extra, lease)
            .unwrap()
    }

    #[test]
    fn results_handed_over_can_be_read_at_once_and_are_kept_soon() {
        let root = tempfile::tempdir().unwrap();
        let (store, other) = (open(root.path()), open(root.path()));
        for seed in 0..100 {
            let content = large(&seed.to_string());
            let committed = commit_later(&store, seed, &content);
            let manifest = &committed.record.outputs["files"];
            assert!(store.has(manifest));
            assert_eq!(store.open_artifact(manifest).unwrap(), files(&content));
        }
        let since = Instant::now();
        let last = ingredients(99).key();
        while other.lookup(&last).unwrap().is_none() {
            assert!(since.elapsed() < Duration::from_secs(10), "never kept");
            std::thread::sleep(Duration::from_millis(1));
        }
        store.flush().unwrap();

        for store in [&store, &other, &open(root.path())] {
            for seed in 0..100 {
                let hit = store.lookup_fresh(&ingredients(seed).key());
                let hit = hit.unwrap().unwrap();
                store.open_artifact(&hit.outputs["files"]).unwrap();
                let text = store.read(&hit.execution.sources[0]).unwrap();
                assert_eq!(&*text, format!("program {seed}").as_bytes());
            }
        }
    }

    #[test]
    fn a_lease_is_given_back_with_the_result_and_checkpoints_go() {
        let root = tempfile::tempdir().unwrap();
        let (store, other) = (open(root.path()), open(root.path()));
        let key = ingredients(1).key();
        let checkpoints = store.checkpoints_path(&key);
        fs::create_dir(&checkpoints).unwrap();
        fs::write(checkpoints.join("1"), "state").unwrap();

        commit_later(&store, 1, "x");
        let lease = other.lease(&key, &|| false).unwrap();

        assert!(other.lookup_fresh(&key).unwrap().is_some());
        assert!(!checkpoints.exists());
        drop(lease);
    }

    #[test]
    fn what_cannot_be_kept_is_told_by_key() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        commit_later(&store, 1, "x");
        store.flush().unwrap();
        // A file where a directory of objects has to be.
        let content = large("y");
        let shard = Digest::of(content.as_bytes()).to_hex()[..2].to_owned();
        fs::write(store.root().join("cas").join(shard), "").unwrap();

        commit_later(&store, 2, &content);
        commit_later(&store, 3, "z");

        let error = store.flush().unwrap_err();
        let StoreError::NotKept { key, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(key, ingredients(2).key());
        store.flush().unwrap();
        assert!(store.failures().is_empty());
        assert_eq!(store.lookup(&key).unwrap(), None);
        assert!(!store.is_leased(&key));
        assert!(store.lookup(&ingredients(3).key()).unwrap().is_some());
        let writer = &store.writer().unwrap().directory;
        assert_eq!(fs::read_dir(writer).unwrap().count(), 0);
    }

    #[test]
    fn a_failure_is_told_to_whoever_waits_for_it() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let content = large("y");
        let shard = Digest::of(content.as_bytes()).to_hex()[..2].to_owned();
        fs::write(store.root().join("cas").join(shard), "").unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);

        std::thread::scope(|scope| {
            // Somebody who flushes all the time, but whose results are fine.
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    store.flush().unwrap();
                }
            });
            let outputs = outputs(&content);
            let n_failed = (0..200)
                .map(|seed| store.commit(ingredients(seed), &outputs, Execution::default(), b""))
                .filter(Result::is_err)
                .count();
            is_over.store(true, Ordering::SeqCst);
            assert_eq!(n_failed, 200);
        });
    }

    #[test]
    fn a_store_that_is_closed_keeps_what_was_handed_over() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        commit_later(&store, 1, "x");
        drop(store);

        let store = open(root.path());
        assert!(store.lookup(&ingredients(1).key()).unwrap().is_some());
        assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 2);
    }

    #[test]
    fn an_accepted_record_carries_its_objects_with_it() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let first = commit(&store, 1, "x").record;
        let mut accepted = (*first).clone();
        accepted.ingredients.code = "c1de".into();
        accepted.key = accepted.ingredients.key();
        let key = accepted.key;
        store.append(&accepted).unwrap();
        let roots = crate::collect::Roots {
            keys: [key].into(),
            ..crate::collect::Roots::default()
        };
        let policy = crate::collect::Policy {
            grace: Duration::ZERO,
            ..crate::collect::Policy::default()
        };
        crate::collect::collect(&store, &roots, &policy).unwrap();

        assert_eq!(store.lookup(&first.key).unwrap(), None);
        let hit = store.lookup(&key).unwrap().unwrap();
        assert_eq!(
            store.open_artifact(&hit.outputs["files"]).unwrap(),
            files("x")
        );
    }

    #[test]
    fn many_small_segments_become_one() {
        let root = tempfile::tempdir().unwrap();
        let n = MOST_SEGMENTS as u64 + 2;
        for seed in 0..n {
            commit(&open(root.path()), seed, &seed.to_string());
        }

        let store = open(root.path());
        let segments = fs::read_dir(store.root().join("ac")).unwrap();
        assert!(segments.count() <= 3);
        assert_eq!(store.keys().len(), n as usize);
        assert!(store.damaged_records().unwrap().is_empty());
        for seed in 0..n {
            let record = store.record(&ingredients(seed).key()).unwrap();
            let found = store.open_artifact(&record.outputs["files"]).unwrap();
            assert_eq!(found, files(&seed.to_string()));
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
        let format = layout_root(root.path()).join("FORMAT");

        fs::write(&format, r#"{"natron_store":3,"created_unix_ms":0}"#).unwrap();
        let error = Store::open(root.path(), Durability::None).unwrap_err();
        assert!(error.to_string().contains("version 3"), "{error}");
        fs::write(&format, "nonsense").unwrap();
        let error = Store::open(root.path(), Durability::None).unwrap_err();
        assert!(error.to_string().contains("does not parse"), "{error}");
    }

    #[test]
    fn checkpoints_stay_and_scratch_goes() {
        let root = tempfile::tempdir().unwrap();
        let key = ingredients(1).key();
        let store = open(root.path());
        let checkpoints = store.checkpoints_path(&key);
        fs::create_dir(&checkpoints).unwrap();
        fs::write(checkpoints.join("1"), "state").unwrap();
        let (scratch, unused) = (store.scratch().unwrap(), store.scratch().unwrap());
        let path = scratch.path().to_owned();
        assert!(!path.exists() && path != unused.path());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "x").unwrap();
        drop((scratch, unused));
        assert!(!path.exists());
        drop(store);

        let store = open(root.path());
        assert!(store.checkpoints_path(&key).join("1").exists());
        store.remove_checkpoints(&key).unwrap();
        store.remove_checkpoints(&key).unwrap();
        assert!(!checkpoints.exists());
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        for name in ["FORMAT", "generation"] {
            for is_pipe in [true, false] {
                let root = tempfile::tempdir().unwrap();
                drop(open(root.path()));
                let path = layout_root(root.path()).join(name);
                fs::remove_file(&path).unwrap();
                if is_pipe {
                    let mode = nix::sys::stat::Mode::S_IRWXU;
                    nix::unistd::mkfifo(&path, mode).unwrap();
                } else {
                    fs::create_dir(&path).unwrap();
                }

                for result in [
                    Store::open(root.path(), Durability::None),
                    Store::open_to_read(root.path()),
                ] {
                    let error = result.unwrap_err().to_string();
                    assert!(error.contains("not a regular file"), "{name}: {error}");
                    assert!(error.contains("start anew"), "{name}: {error}");
                }
            }
        }
    }

    #[test]
    fn reading_makes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        let nothing = Store::open_to_read(&root).unwrap();
        assert!(nothing.keys().is_empty() && nothing.is_read_only());
        assert_eq!(nothing.lookup(&ingredients(1).key()).unwrap(), None);
        assert!(nothing.workspaces().unwrap().is_empty());
        assert!(nothing.pins().unwrap().is_empty());
        nothing.register(Path::new("/w")).unwrap();
        assert!(matches!(
            nothing.scratch().unwrap_err(),
            StoreError::ReadOnly { .. }
        ));
        drop(nothing);
        assert!(!root.exists());

        let store = open(&root);
        let content = large("x");
        let record = commit(&store, 1, &content).record;
        let reader = Store::open_to_read(&root).unwrap();
        let hit = reader.lookup(&record.key).unwrap().unwrap();
        let found = reader.open_artifact(&hit.outputs["files"]).unwrap();
        assert_eq!(found, files(&content));
        assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 2);
        commit(&store, 2, "y");
        assert!(
            reader
                .lookup_fresh(&ingredients(2).key())
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn pins_are_replaced_and_removed_by_name() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let pin = |name: &str, seed| Pin {
            name: name.into(),
            keys: vec![ingredients(seed).key()],
            unix_ms: seed,
        };
        for (name, seed) in [("b", 1), ("a", 2), ("b", 3)] {
            store.pin(&pin(name, seed)).unwrap();
        }

        assert_eq!(store.pins().unwrap(), [pin("a", 2), pin("b", 3)]);
        assert!(store.unpin("b").unwrap());
        assert!(!store.unpin("b").unwrap());
        assert_eq!(open(root.path()).pins().unwrap(), [pin("a", 2)]);
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
