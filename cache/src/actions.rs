//! Action records: which computation made which artifacts.
//!
//! Every writer appends to a segment of its own. A frame is: magic (4 bytes), length of the body (u32), time of the commit
//! (u64, milliseconds), key (32 bytes), CRC-32 of all that but the magic and of the body (u32), body (JSON). Numbers are
//! little-endian. The magic holds a byte that JSON cannot, so that a reader finds the next frame behind a damaged one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use natron_artifacts::{Digest, Manifest};
use serde::{Deserialize, Serialize};

use crate::{
    Durability, EntryKind, Ingredients, StageKey, Storage, StorageFile, StoreError, writer::Writer,
};

const MAGIC: [u8; 4] = [0xF7, b'N', b'A', 1];
const HEADER: usize = 4 + 4 + 8 + 32 + 4;
/// No record is nearly as long; a longer length is damage.
const LONGEST_BODY: u32 = 1 << 28;

/// What is worth knowing of an execution. Nothing of it is part of a key or an artifact.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Execution {
    /// Duration.
    pub seconds: f64,
    /// Peak of the memory in use, in bytes, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Name of the machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Version of the program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub runner_version: String,
    /// When it started, in milliseconds since 1970-01-01 in UTC.
    #[serde(default)]
    pub started_unix_ms: u64,
    /// The log, an object of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Digest>,
    /// The numbers that the outputs of kind `metrics` hold, by output and path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

/// Stage key -> outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The key.
    pub key: StageKey,
    /// What the key is made of.
    pub ingredients: Ingredients,
    /// The outputs by port.
    pub outputs: BTreeMap<String, Manifest>,
    /// How it went.
    pub execution: Execution,
}

impl Record {
    /// Digests and sizes of all objects that the record names but the log.
    pub fn objects(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.outputs
            .values()
            .flat_map(|manifest| &manifest.files)
            .map(|file| (file.digest, file.size))
    }

    /// The sum of the outputs' lengths, in bytes.
    pub fn size(&self) -> u64 {
        self.outputs.values().map(Manifest::size).sum()
    }

    /// Whether the outputs are those of `other`, whatever their layout in bytes.
    pub fn has_outputs_of(&self, other: &Self) -> bool {
        self.outputs.len() == other.outputs.len()
            && self.outputs.iter().all(|(port, manifest)| {
                other
                    .outputs
                    .get(port)
                    .is_some_and(|other| other.logical == manifest.logical)
            })
    }

    /// The record as one frame of a segment.
    pub(crate) fn frame(&self, committed_ms: u64) -> Vec<u8> {
        let body = serde_json::to_vec(self).expect("plain structs serialize");
        let mut frame = Vec::with_capacity(HEADER + body.len());
        frame.extend(MAGIC);
        frame.extend((body.len() as u32).to_le_bytes());
        frame.extend(committed_ms.to_le_bytes());
        frame.extend(self.key.digest().as_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&frame[MAGIC.len()..]);
        crc.update(&body);
        frame.extend(crc.finalize().to_le_bytes());
        frame.extend(body);
        frame
    }
}

/// Where a record lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Location {
    pub(crate) committed_ms: u64,
    segment: Arc<str>,
    offset: u64,
    length: u64,
}

#[derive(Debug, Default)]
struct Index {
    latest: BTreeMap<StageKey, Location>,
    /// How far each segment has been read.
    scanned: BTreeMap<Arc<str>, u64>,
}

/// The segment that this writer appends to.
#[derive(Debug)]
struct Segment {
    name: Arc<str>,
    file: Box<dyn StorageFile>,
    length: u64,
}

#[derive(Debug)]
pub(crate) struct Actions {
    storage: Arc<dyn Storage>,
    durability: Durability,
    directory: PathBuf,
    index: Mutex<Index>,
    /// The open segment, and how many there were.
    own: Mutex<(Option<Segment>, u64)>,
}

impl Actions {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        durability: Durability,
        directory: PathBuf,
    ) -> Self {
        Self {
            storage,
            durability,
            directory,
            index: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// The latest record of `key`, as far as segments have been read.
    pub(crate) fn get(&self, key: &StageKey) -> Option<Record> {
        let location = self.index().latest.get(key)?.clone();
        let record = self.read(key, &location);
        if record.is_none() {
            let mut index = self.index();
            if index.latest.get(key) == Some(&location) {
                index.latest.remove(key);
            }
        }
        record
    }

    /// All keys and when they were last committed, as far as segments have been read.
    pub(crate) fn keys(&self) -> Vec<(StageKey, u64)> {
        let index = self.index();
        index
            .latest
            .iter()
            .map(|(key, location)| (*key, location.committed_ms))
            .collect()
    }

    fn read(&self, key: &StageKey, location: &Location) -> Option<Record> {
        let path = self.directory.join(&*location.segment);
        let bytes = self
            .storage
            .read(&path, location.offset, location.length)
            .ok()?;
        let (frame, _) = Frame::parse(&bytes)?;
        let record: Record = serde_json::from_slice(frame.body).ok()?;
        (record.key == *key && record.ingredients.key() == *key).then_some(record)
    }

    /// Reads what was appended since, by this writer and others.
    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("list", &self.directory)(error);
        let entries = self.storage.list(&self.directory).map_err(failed)?;
        let mut index = self.index();
        for entry in entries {
            let is_segment = Path::new(&entry.name)
                .extension()
                .is_some_and(|extension| extension == "seg");
            if entry.kind != EntryKind::File || !is_segment {
                continue;
            }
            let from = index.scanned.get(entry.name.as_str()).copied().unwrap_or(0);
            if entry.size <= from {
                continue;
            }
            let path = self.directory.join(&entry.name);
            let bytes = match self.storage.read(&path, from, entry.size - from) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("read", &path)(error)),
            };
            let name: Arc<str> = entry.name.into();
            let valid = scan(&bytes, |frame, start, length| {
                let location = Location {
                    committed_ms: frame.committed_ms,
                    segment: Arc::clone(&name),
                    offset: from + start as u64,
                    length: length as u64,
                };
                index.insert(frame.key, location);
            });
            // What follows the last whole frame is read again when the segment has grown: it may be on its way.
            index.scanned.insert(name, from + valid as u64);
        }
        Ok(())
    }

    /// Appends records in one piece and brings them to the disk.
    pub(crate) fn append(
        &self,
        writer: &str,
        frames: &[(StageKey, u64, Vec<u8>)],
    ) -> Result<(), StoreError> {
        if frames.is_empty() {
            return Ok(());
        }
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (segment, made) = &mut *own;
        let mut current = match segment.take() {
            Some(segment) => segment,
            None => self.new_segment(writer, made)?,
        };
        let path = self.directory.join(&*current.name);
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(_, _, frame)| frame)
            .copied()
            .collect();
        // After an error the segment is left as it is: its end is in doubt, and the next record starts a new one.
        current
            .file
            .write_all(&bytes)
            .map_err(StoreError::io("append to", &path))?;
        if self.durability == Durability::Full {
            current
                .file
                .sync()
                .map_err(StoreError::io("flush", &path))?;
        }
        let mut index = self.index();
        for (key, committed_ms, frame) in frames {
            let location = Location {
                committed_ms: *committed_ms,
                segment: Arc::clone(&current.name),
                offset: current.length,
                length: frame.len() as u64,
            };
            index.insert(*key, location);
            current.length += frame.len() as u64;
        }
        index
            .scanned
            .insert(Arc::clone(&current.name), current.length);
        *segment = Some(current);
        Ok(())
    }

    /// How many segments there are.
    pub(crate) fn segments(&self) -> usize {
        self.index().scanned.len()
    }

    /// Puts the latest records that `keep` names into one new segment and removes all others. Nobody else may be at work.
    pub(crate) fn compact(
        &self,
        writer: &Writer,
        keep: impl Fn(&StageKey) -> bool,
    ) -> Result<(), StoreError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (segment, made) = &mut *own;
        let old: Vec<_> = self.index().scanned.keys().cloned().collect();
        let temporary = writer.fresh_path();
        let written = self.write_compacted(&temporary, keep);
        if written.is_err() {
            let _ = self.storage.remove(&temporary);
        }
        written?;
        let name = format!("{}.{made}.seg", writer.name);
        *made += 1;
        let path = self.directory.join(name);
        self.storage
            .rename(&temporary, &path)
            .map_err(StoreError::io("rename to", &path))?;
        self.sync_directory()?;
        // From here on the old segments say nothing that the new one does not, or that is to be forgotten.
        *segment = None;
        for name in old {
            let path = self.directory.join(&*name);
            self.storage
                .remove(&path)
                .map_err(StoreError::io("remove", &path))?;
        }
        self.sync_directory()?;
        *self.index() = Index::default();
        self.refresh()
    }

    fn write_compacted(
        &self,
        temporary: &Path,
        keep: impl Fn(&StageKey) -> bool,
    ) -> Result<(), StoreError> {
        let mut locations: Vec<_> = {
            let index = self.index();
            let kept = index.latest.iter().filter(|(key, _)| keep(key));
            kept.map(|(_, location)| location.clone()).collect()
        };
        // In the order in which they lie, so that each segment is read from front to back.
        locations.sort_by(|a, b| (&a.segment, a.offset).cmp(&(&b.segment, b.offset)));
        let mut file = self
            .storage
            .create(temporary)
            .map_err(StoreError::io("create", temporary))?;
        for location in locations {
            let path = self.directory.join(&*location.segment);
            let frame = self
                .storage
                .read(&path, location.offset, location.length)
                .map_err(StoreError::io("read", &path))?;
            file.write_all(&frame)
                .map_err(StoreError::io("write", temporary))?;
        }
        if self.durability == Durability::Full {
            file.sync().map_err(StoreError::io("flush", temporary))?;
        }
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), StoreError> {
        if self.durability == Durability::None {
            return Ok(());
        }
        self.storage
            .sync_directory(&self.directory)
            .map_err(StoreError::io("flush", &self.directory))
    }

    fn new_segment(&self, writer: &str, made: &mut u64) -> Result<Segment, StoreError> {
        let name = format!("{writer}.{made}.seg");
        *made += 1;
        let path = self.directory.join(&name);
        let file = self
            .storage
            .create(&path)
            .map_err(StoreError::io("create", &path))?;
        self.sync_directory()?;
        Ok(Segment {
            name: name.into(),
            file,
            length: 0,
        })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn insert(&mut self, key: StageKey, location: Location) {
        let latest = self.latest.entry(key).or_insert_with(|| location.clone());
        if *latest < location {
            *latest = location;
        }
    }
}

struct Frame<'a> {
    key: StageKey,
    committed_ms: u64,
    body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with, and its length.
    fn parse(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let header = bytes.get(..HEADER)?;
        if header[..4] != MAGIC {
            return None;
        }
        let length = u32::from_le_bytes(header[4..8].try_into().ok()?);
        if length > LONGEST_BODY {
            return None;
        }
        let end = HEADER + length as usize;
        let body = bytes.get(HEADER..end)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[4..48]);
        crc.update(body);
        if header[48..52] != crc.finalize().to_le_bytes() {
            return None;
        }
        let frame = Self {
            key: StageKey::new(Digest::from_bytes(header[16..48].try_into().ok()?)),
            committed_ms: u64::from_le_bytes(header[8..16].try_into().ok()?),
            body,
        };
        Some((frame, end))
    }
}

/// Hands out every whole frame with its start and length, and returns where the last one ends.
fn scan(bytes: &[u8], mut each: impl FnMut(Frame<'_>, usize, usize)) -> usize {
    let mut valid = 0;
    let mut at = 0;
    while at < bytes.len() {
        if let Some((frame, length)) = Frame::parse(&bytes[at..]) {
            each(frame, at, length);
            at += length;
            valid = at;
        } else {
            let next = bytes[at + 1..]
                .windows(4)
                .position(|window| window == MAGIC);
            let Some(skipped) = next else {
                break;
            };
            at += 1 + skipped;
        }
    }
    valid
}
