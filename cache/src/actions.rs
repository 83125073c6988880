//! Action records: which computation made which artifacts.
//!
//! Every writer appends to a segment of its own; [`crate::frame`] says how. Small objects lie in the frame of each record
//! that names them, so that a record and what it carries come and go together.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use natron_artifacts::{Bytes, Digest, Manifest};
use serde::{Deserialize, Serialize};

use crate::{
    Durability, EntryKind, Ingredients, StageKey, Storage, StorageFile, StorageReader, StoreError,
    frame::{self, Directory, Header, Place},
    index::{Index, ObjectPlace, RecordPlace},
    mutants,
    store::list,
    writer::Writer,
};

/// How much of a segment is read at a time while it is searched for records.
const WINDOW_BYTES: usize = 1 << 15;
/// Segments that are kept open for reading; the others are opened each time.
const MOST_OPEN: usize = 24;
/// A compaction that gives up nothing leaves segments of this size alone.
const LARGE_SEGMENT_BYTES: u64 = 16 << 20;
/// Records of a compacted segment lie in groups of so many, or of so many bytes.
const GROUP_RECORDS: usize = 1024;
const GROUP_BYTES: usize = 8 << 20;

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
    /// Threads that it had; 0 where that is not known.
    #[serde(default)]
    pub threads: u32,
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
    /// Texts that were kept for `explain`, such as those of programs: objects of the store, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Digest>,
    /// Where the result comes from, if it was not computed for this key but accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
}

/// That somebody took a result for that of another key, because what differs does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The key that it was computed for.
    pub from: StageKey,
    /// When that was said, in milliseconds since 1970-01-01 in UTC.
    pub unix_ms: u64,
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

/// What a look-up gives: a [`Record`] without the ingredients, which only explanations need.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The key.
    pub key: StageKey,
    /// The outputs by port.
    pub outputs: BTreeMap<String, Manifest>,
    /// How it went.
    pub execution: Execution,
}

#[derive(Serialize)]
struct HeadOf<'a> {
    outputs: &'a BTreeMap<String, Manifest>,
    execution: &'a Execution,
}

#[derive(Deserialize)]
struct Head {
    outputs: BTreeMap<String, Manifest>,
    execution: Execution,
}

/// Digests and sizes of the files of outputs.
pub(crate) fn files(outputs: &BTreeMap<String, Manifest>) -> impl Iterator<Item = (Digest, u64)> {
    outputs
        .values()
        .flat_map(|manifest| &manifest.files)
        .map(|file| (file.digest, file.size))
}

impl Record {
    /// Digests and sizes of all objects of the outputs.
    pub fn objects(&self) -> impl Iterator<Item = (Digest, u64)> {
        files(&self.outputs)
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

    /// The record as a frame of a segment that carries `objects`.
    pub(crate) fn frame(&self, objects: &[(Digest, Bytes)]) -> Vec<u8> {
        let head = HeadOf {
            outputs: &self.outputs,
            execution: &self.execution,
        };
        let head = serde_json::to_vec(&head).expect("plain structs serialize");
        let ingredients = serde_json::to_vec(&self.ingredients).expect("plain structs serialize");
        frame::encode(&self.key, &head, &ingredients, objects)
    }
}

/// A record's place in the store, for those who count and collect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    pub(crate) key: StageKey,
    pub(crate) committed_ms: u64,
    /// Length of the frame, what it carries included.
    pub(crate) length: u64,
}

/// What is wrong with a part of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRecord {
    /// The segment.
    pub segment: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How long the damaged part is, in bytes.
    pub length: u64,
    /// The record's key, if that much can be read.
    pub key: Option<StageKey>,
    /// What is wrong.
    pub reason: &'static str,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    segments: Vec<Segment>,
    by_name: BTreeMap<Arc<str>, u32>,
    open: usize,
}

/// A segment as a reader knows it.
#[derive(Debug)]
struct Segment {
    name: Arc<str>,
    /// How far it has been searched.
    scanned: u64,
    reader: Option<Arc<dyn StorageReader>>,
}

/// The segment that this writer appends to.
#[derive(Debug)]
struct OwnSegment {
    name: Arc<str>,
    file: Box<dyn StorageFile>,
    length: u64,
}

#[derive(Debug)]
pub(crate) struct Actions {
    storage: Arc<dyn Storage>,
    durability: Durability,
    directory: PathBuf,
    state: Mutex<State>,
    /// The open segment, and how many there were.
    own: Mutex<(Option<OwnSegment>, u64)>,
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
            state: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// The latest record of `key`, as far as segments have been read. Everything in it is checked, the key included.
    pub(crate) fn record(&self, key: &StageKey) -> Option<Record> {
        let place = self.state().index.record(key)?;
        let (header, bytes) = self.read_record(&place, place.objects).ok()??;
        let ingredients = &bytes[header.ingredients_at()..];
        let record = parse_head(&header, &bytes).and_then(|head| {
            let ingredients = parse_ingredients(&header, ingredients)?;
            Some(Record {
                key: *key,
                ingredients,
                outputs: head.outputs,
                execution: head.execution,
            })
        });
        if record.is_none() {
            self.state().index.forget_record(&place);
        }
        record
    }

    /// The outputs of the latest record of `key`.
    pub(crate) fn hit(&self, key: &StageKey) -> Option<Hit> {
        let place = self.state().index.record(key)?;
        let (header, bytes) = self.read_record(&place, place.ingredients).ok()??;
        let Some(head) = parse_head(&header, &bytes) else {
            self.state().index.forget_record(&place);
            return None;
        };
        Some(Hit {
            key: *key,
            outputs: head.outputs,
            execution: head.execution,
        })
    }

    /// All records, in order of their keys, as far as segments have been read.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let mut listed: Vec<_> = self
            .state()
            .index
            .records()
            .map(|place| Listed {
                key: place.key,
                committed_ms: place.committed_ms,
                length: u64::from(place.length),
            })
            .collect();
        listed.sort_by_key(|item| item.key);
        listed
    }

    /// Whether a record carries an object of that size.
    pub(crate) fn carries(&self, digest: &Digest, size: u64) -> bool {
        let place = self.state().index.object(digest);
        place.is_some_and(|place| u64::from(place.size) == size)
    }

    /// Digests' beginnings and sizes of what the latest record of `key` carries.
    pub(crate) fn carried_by(&self, key: &StageKey) -> Vec<(frame::Prefix, u32)> {
        let Some(place) = self.state().index.record(key) else {
            return Vec::new();
        };
        let read = self.read_record(&place, place.head).ok().flatten();
        read.map_or_else(Vec::new, |(header, _)| header.table)
    }

    /// An object that a record carries, hashed; nothing if none does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] if all copies are; the object counts as missing from then on.
    pub(crate) fn object(&self, digest: &Digest) -> Option<Result<Bytes, StoreError>> {
        let place = self.state().index.object(digest)?;
        Some(self.read_any_copy(digest, &place))
    }

    fn read_any_copy(&self, digest: &Digest, place: &ObjectPlace) -> Result<Bytes, StoreError> {
        if let Some(bytes) = self.read_object(digest, place)? {
            return Ok(bytes);
        }
        // Another record may carry it, too. This is slow, but what is damaged is rare.
        for copy in self.copies(place)? {
            if let Some(bytes) = self.read_object(digest, &copy)? {
                self.state().index.replace_object(place, Some(copy));
                return Ok(bytes);
            }
        }
        self.state().index.replace_object(place, None);
        Err(StoreError::Damaged {
            digest: *digest,
            quarantined: None,
        })
    }

    /// The bytes at `place`; nothing if they are damaged.
    fn read_object(
        &self,
        digest: &Digest,
        place: &ObjectPlace,
    ) -> Result<Option<Bytes>, StoreError> {
        let (name, reader) = self.reader(place.segment)?;
        match reader.read_at(place.offset, place.size as usize) {
            Ok(bytes) if Digest::of(&bytes) == *digest || mutants::is("no_hash_on_read") => {
                Ok(Some(Bytes::from(bytes)))
            }
            Err(error) if !is_damage(&error) => {
                Err(StoreError::io("read", &self.directory.join(&*name))(error))
            }
            _ => Ok(None),
        }
    }

    /// Other places of a carried object, as far as segments have been read.
    fn copies(&self, place: &ObjectPlace) -> Result<Vec<ObjectPlace>, StoreError> {
        let segments: Vec<_> = {
            let state = self.state();
            let scanned = state.segments.iter().map(|segment| segment.scanned);
            scanned.enumerate().collect()
        };
        let mut copies = Vec::new();
        for (segment, end) in segments {
            let segment = segment as u32;
            let (name, reader) = self.reader(segment)?;
            scan(&*reader, &name, 0, end, &mut |header, offset| {
                let carried = ObjectPlace::of(&header, segment, offset);
                copies.extend(carried.filter(|other| other.is_copy_of(place)));
            })
            .map_err(StoreError::io("read", &self.directory.join(&*name)))?;
        }
        Ok(copies)
    }

    /// When the latest record of `key` was committed, or disowned.
    pub(crate) fn newest_ms(&self, key: &StageKey) -> Option<u64> {
        self.state().index.newest_ms(key)
    }

    /// The sound header of a record and the frame's first `length` bytes; nothing, and the record forgotten, if it is damaged.
    fn read_record(
        &self,
        place: &RecordPlace,
        length: u32,
    ) -> Result<Option<(Header, Vec<u8>)>, StoreError> {
        let (name, reader) = self.reader(place.segment)?;
        let bytes = match reader.read_at(place.offset, length as usize) {
            Err(error) if !is_damage(&error) => {
                return Err(StoreError::io("read", &self.directory.join(&*name))(error));
            }
            read => read.unwrap_or_default(),
        };
        let at = Place {
            segment: &name,
            offset: place.offset,
        };
        let header = Header::parse(&bytes, &at)
            .filter(|header| header.key == place.key && bytes.len() == length as usize);
        if header.is_none() {
            self.state().index.forget_record(place);
        }
        Ok(header.map(|header| (header, bytes)))
    }

    fn reader(&self, segment: u32) -> Result<(Arc<str>, Arc<dyn StorageReader>), StoreError> {
        let mut state = self.state();
        let there = &state.segments[segment as usize];
        let name = Arc::clone(&there.name);
        if let Some(reader) = &there.reader {
            return Ok((name, Arc::clone(reader)));
        }
        let path = self.directory.join(&*name);
        let reader = self
            .storage
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        if state.open < MOST_OPEN {
            state.open += 1;
            state.segments[segment as usize].reader = Some(Arc::clone(&reader));
        }
        Ok((name, reader))
    }

    /// Reads what was appended since, by this writer and others.
    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        for (name, size) in self.list_segments()? {
            let (segment, from) = {
                let mut state = self.state();
                let segment = state.number(&name);
                (segment, state.segments[segment as usize].scanned)
            };
            if size <= from {
                continue;
            }
            let path = self.directory.join(&*name);
            let reader = match self.reader(segment) {
                Ok((_, reader)) => reader,
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut found = Vec::new();
            let valid = scan(&*reader, &name, from, size, &mut |header, offset| {
                found.push((header, offset));
            })
            .map_err(StoreError::io("read", &path))?;
            let mut state = self.state();
            for (header, offset) in found {
                state.insert(&header, segment, offset);
            }
            // What follows the last whole frame is read again when the segment has grown: it may be on its way.
            let scanned = &mut state.segments[segment as usize].scanned;
            *scanned = valid.max(*scanned);
        }
        Ok(())
    }

    fn list_segments(&self) -> Result<Vec<(Arc<str>, u64)>, StoreError> {
        let entries = list(&*self.storage, &self.directory)?;
        let is_segment = |name: &str| {
            Path::new(name)
                .extension()
                .is_some_and(|extension| extension == "seg")
        };
        Ok(entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::File && is_segment(&entry.name))
            .map(|entry| (Arc::from(entry.name), entry.size))
            .collect())
    }

    /// Appends records in one piece and brings them to the disk.
    pub(crate) fn append(&self, writer: &str, frames: Vec<Vec<u8>>) -> Result<(), StoreError> {
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
        let place = Place {
            segment: &current.name,
            offset: current.length,
        };
        let (bytes, headers) = frame::group(frames, &place);
        // After an error the segment is left as it is: its end is in doubt, and the next record starts a new one.
        if let Err(error) = current.file.write_all(&bytes) {
            if mutants::is("append_after_error") {
                *segment = Some(current);
            }
            return Err(StoreError::io("append to", &path)(error));
        }
        if self.durability == Durability::Full && !mutants::is("no_flush_of_files") {
            let mut flushed = current.file.sync();
            if mutants::is("flush_again") && flushed.is_err() {
                flushed = current.file.sync();
            }
            flushed.map_err(StoreError::io("flush", &path))?;
        }
        let mut state = self.state();
        let number = state.number(&current.name);
        for (at, header) in &headers {
            state.insert(header, number, current.length + at);
        }
        current.length += bytes.len() as u64;
        state.segments[number as usize].scanned = current.length;
        *segment = Some(current);
        Ok(())
    }

    /// How many segments there are that are not large already.
    pub(crate) fn small_segments(&self) -> usize {
        let state = self.state();
        let small = |segment: &&Segment| segment.scanned < LARGE_SEGMENT_BYTES;
        state.segments.iter().filter(small).count()
    }

    /// Puts the latest records into one new segment and removes those that they were in. Nobody else may be at work.
    ///
    /// With `keep` every segment is written anew and holds only what it names; without, large ones stay as they are.
    pub(crate) fn compact(
        &self,
        writer: &Writer,
        keep: Option<&dyn Fn(&StageKey) -> bool>,
    ) -> Result<(), StoreError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (segment, made) = &mut *own;
        let (old, mut places, disowned): (Vec<Arc<str>>, Vec<RecordPlace>, Vec<_>) = {
            let state = self.state();
            let goes = |segment: &Segment| keep.is_some() || segment.scanned < LARGE_SEGMENT_BYTES;
            let places = state.index.records().filter(|place| {
                goes(&state.segments[place.segment as usize])
                    && keep.is_none_or(|keep| keep(&place.key))
            });
            let names = state.segments.iter().filter(|segment| goes(segment));
            (
                names.map(|segment| Arc::clone(&segment.name)).collect(),
                places.copied().collect(),
                // What they disown may lie in a segment that stays.
                if keep.is_none() {
                    state.index.disowned().collect()
                } else {
                    Vec::new()
                },
            )
        };
        // In the order in which they lie, so that each segment is read from front to back.
        places.sort_by_key(|place| (place.segment, place.offset));
        let temporary = writer.fresh_path();
        let name = format!("{}.{made}.seg", writer.name);
        *made += 1;
        let written = self.write_compacted(&temporary, &name, &places, &disowned);
        if written.is_err() {
            let _ = self.storage.remove(&temporary);
        }
        written?;
        let path = self.directory.join(name);
        self.storage
            .rename(&temporary, &path)
            .map_err(StoreError::io("rename to", &path))?;
        self.sync_directory()?;
        // From here on the old segments say nothing that the new one does not, or that is to be forgotten.
        *segment = None;
        for name in old {
            let path = self.directory.join(&*name);
            match self.storage.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        self.sync_directory()?;
        *self.state() = State::default();
        self.refresh()
    }

    fn write_compacted(
        &self,
        temporary: &Path,
        name: &str,
        places: &[RecordPlace],
        disowned: &[(StageKey, u64)],
    ) -> Result<(), StoreError> {
        let mut file = self
            .storage
            .create(temporary)
            .map_err(StoreError::io("create", temporary))?;
        let mut offset = 0;
        let tombstones = disowned.iter().map(|(key, committed_ms)| {
            let mut frame = frame::tombstone(key);
            frame::date(&mut frame, committed_ms + 1);
            frame
        });
        let mut frames: Vec<Vec<u8>> = tombstones.collect();
        let mut bytes = 0;
        for i in 0..=places.len() {
            if let Some(place) = places.get(i)
                && let Some((header, frame)) = self.read_record(place, place.length)?
            {
                if is_sound(&header, &frame) {
                    bytes += frame.len();
                    frames.push(frame);
                } else {
                    // It is a miss already, and is kept aside for whoever wants to know why.
                    let segment = self.name_of(place.segment);
                    self.put_aside(&segment, place.offset, u64::from(place.length));
                }
            }
            let is_full = frames.len() >= GROUP_RECORDS || bytes >= GROUP_BYTES;
            if (is_full || i == places.len()) && !frames.is_empty() {
                let place = Place {
                    segment: name,
                    offset,
                };
                let (group, _) = frame::group(std::mem::take(&mut frames), &place);
                bytes = 0;
                offset += group.len() as u64;
                file.write_all(&group)
                    .map_err(StoreError::io("write", temporary))?;
            }
        }
        if self.durability == Durability::Full {
            file.sync().map_err(StoreError::io("flush", temporary))?;
        }
        Ok(())
    }

    fn name_of(&self, segment: u32) -> Arc<str> {
        Arc::clone(&self.state().segments[segment as usize].name)
    }

    /// Keeps a copy of a damaged part of a segment, if that is possible.
    pub(crate) fn put_aside(&self, segment: &str, offset: u64, length: u64) {
        let root = self.directory.parent().expect("below the store's root");
        let target = root.join("quarantine").join(format!("{segment}.{offset}"));
        let bytes = self
            .storage
            .read(&self.directory.join(segment), offset, length);
        if let Ok(bytes) = bytes
            && let Ok(mut file) = self.storage.create(&target)
        {
            let _ = file.write_all(&bytes);
        }
    }

    /// Whether what was found at a place of a segment is the latest record of its key.
    pub(crate) fn is_latest(&self, damaged: &DamagedRecord) -> bool {
        let state = self.state();
        let place = damaged.key.and_then(|key| state.index.record(&key));
        place.is_some_and(|place| {
            place.offset == damaged.offset
                && damaged.segment.file_name().is_some_and(|name| {
                    name == std::ffi::OsStr::new(&*state.segments[place.segment as usize].name)
                })
        })
    }

    /// Reads every segment from front to back and says what in it is damaged.
    pub(crate) fn damage(&self) -> Result<Vec<DamagedRecord>, StoreError> {
        let mut damaged = Vec::new();
        for (name, size) in self.list_segments()? {
            let path = self.directory.join(&*name);
            let reader = self
                .storage
                .open(&path)
                .map_err(StoreError::io("open", &path))?;
            let mut found = Vec::new();
            scan(&*reader, &name, 0, size, &mut |header, offset| {
                found.push((header, offset));
            })
            .map_err(StoreError::io("read", &path))?;
            let mut report = |offset, end, key, reason| {
                damaged.push(DamagedRecord {
                    segment: path.clone(),
                    offset,
                    length: end - offset,
                    key,
                    reason,
                });
            };
            let mut end = 0;
            for (header, offset) in &found {
                if *offset > end && !is_directory(&*reader, &name, end, *offset) {
                    report(end, *offset, None, "no record begins here");
                }
                end = offset + u64::from(header.length);
                if let Some(reason) = flaw(&*reader, &name, header, *offset) {
                    report(*offset, end, Some(header.key), reason);
                }
            }
            if end < size && !is_cut_off(&*reader, &name, end, size) {
                report(end, size, None, "no record begins here");
            }
        }
        Ok(damaged)
    }

    fn sync_directory(&self) -> Result<(), StoreError> {
        if self.durability == Durability::None || mutants::is("no_flush_of_directories") {
            return Ok(());
        }
        self.storage
            .sync_directory(&self.directory)
            .map_err(StoreError::io("flush", &self.directory))
    }

    fn new_segment(&self, writer: &str, made: &mut u64) -> Result<OwnSegment, StoreError> {
        let name = format!("{writer}.{made}.seg");
        *made += 1;
        let path = self.directory.join(&name);
        let file = self
            .storage
            .create(&path)
            .map_err(StoreError::io("create", &path))?;
        self.sync_directory()?;
        Ok(OwnSegment {
            name: name.into(),
            file,
            length: 0,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The number of the segment called `name`.
    fn number(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let number = self.segments.len() as u32;
        self.segments.push(Segment {
            name: Arc::clone(name),
            scanned: 0,
            reader: None,
        });
        self.by_name.insert(Arc::clone(name), number);
        number
    }

    fn insert(&mut self, header: &Header, segment: u32, offset: u64) {
        let segments = &self.segments;
        let name = &segments[segment as usize].name;
        self.index.insert(header, segment, offset, |there| {
            // Of one moment: any order will do that everybody sees.
            (&segments[there.segment as usize].name, there.offset) < (name, offset)
        });
    }
}

fn parse_head(header: &Header, bytes: &[u8]) -> Option<Head> {
    let head = bytes.get(header.head_at()..header.ingredients_at())?;
    if crc32fast::hash(head) != header.head_crc && !mutants::is("no_checksum_of_records") {
        return None;
    }
    serde_json::from_slice(head).ok()
}

fn parse_ingredients(header: &Header, bytes: &[u8]) -> Option<Ingredients> {
    if crc32fast::hash(bytes) != header.ingredients_crc && !mutants::is("no_checksum_of_records") {
        return None;
    }
    let ingredients: Ingredients = serde_json::from_slice(bytes).ok()?;
    (ingredients.key() == header.key).then_some(ingredients)
}

/// Whether a sound directory lies from `from` to `to`, and nothing else.
fn is_directory(reader: &dyn StorageReader, name: &str, from: u64, to: u64) -> bool {
    let Ok(bytes) = reader.read_at(from, (to - from) as usize) else {
        return false;
    };
    let place = Place {
        segment: name,
        offset: from,
    };
    Directory::peek(&bytes).is_some_and(|directory| {
        directory.length == bytes.len() && directory.parse(&bytes, &place).is_some()
    })
}

/// Whether what is left from `from` to `end` is the beginning of a group, as a writer leaves it that is killed: that is no damage.
fn is_cut_off(reader: &dyn StorageReader, name: &str, from: u64, end: u64) -> bool {
    let Ok(bytes) = reader.read_at(from, (end - from) as usize) else {
        return false;
    };
    let place = Place {
        segment: name,
        offset: from,
    };
    // A loss of power may leave room without content.
    if bytes.iter().all(|byte| *byte == 0) || bytes.len() < frame::HEADER {
        return true;
    }
    if let Some(directory) = Directory::peek(&bytes) {
        return directory.length > bytes.len()
            || (directory.parse(&bytes, &place).is_some()
                && directory.length as u64 + directory.records > end - from);
    }
    Header::end(&bytes).is_some_and(|length| {
        length > bytes.len()
            || Header::parse(&bytes, &place)
                .is_some_and(|header| u64::from(header.length) > end - from)
    })
}

/// What is wrong with a record whose header is sound.
fn flaw(
    reader: &dyn StorageReader,
    name: &str,
    header: &Header,
    offset: u64,
) -> Option<&'static str> {
    let Ok(bytes) = reader.read_at(offset, header.length as usize) else {
        return Some("the system cannot read it");
    };
    let place = Place {
        segment: name,
        offset,
    };
    if bytes.len() != header.length as usize || Header::parse(&bytes, &place).is_none() {
        return Some("its header is damaged");
    }
    if is_sound(header, &bytes) {
        return None;
    }
    Some(if parse_head(header, &bytes).is_none() {
        "its outputs are damaged"
    } else if carried_are_sound(header, &bytes) {
        "its ingredients are damaged"
    } else {
        "an object that it carries is damaged"
    })
}

/// Whether all of a frame with a sound header is what was written.
fn is_sound(header: &Header, frame: &[u8]) -> bool {
    let ingredients = &frame[header.ingredients_at()..header.objects_at()];
    header.is_tombstone()
        || (parse_head(header, frame).is_some()
            && parse_ingredients(header, ingredients).is_some()
            && carried_are_sound(header, frame))
}

fn carried_are_sound(header: &Header, frame: &[u8]) -> bool {
    let mut at = header.objects_at();
    header.table.iter().all(|(prefix, size)| {
        let object = &frame[at..at + *size as usize];
        at += object.len();
        frame::prefix(&Digest::of(object)) == *prefix
    })
}

/// A bad sector is damage; other refusals may pass.
fn is_damage(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EIO)
}

/// A part of a segment, read ahead.
struct Window<'a> {
    reader: &'a dyn StorageReader,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// `length` bytes from `at`, fewer at the end, or more.
    fn get(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let length = (length as u64).min(self.end.saturating_sub(at)) as usize;
        let is_there =
            at >= self.start && at + length as u64 <= self.start + self.bytes.len() as u64;
        if !is_there {
            let ahead = (length.max(WINDOW_BYTES) as u64).min(self.end - at) as usize;
            self.bytes = self.reader.read_at(at, ahead)?;
            self.start = at;
        }
        let skip = (at - self.start) as usize;
        Ok(self.bytes.get(skip..).unwrap_or_default())
    }
}

/// Hands out the header of every whole record between `from` and `end`, and returns where the last one ends.
fn scan(
    reader: &dyn StorageReader,
    name: &str,
    from: u64,
    end: u64,
    each: &mut dyn FnMut(Header, u64),
) -> io::Result<u64> {
    let mut window = Window {
        reader,
        end,
        start: from,
        bytes: Vec::new(),
    };
    let (mut at, mut valid) = (from, from);
    while at < end {
        let place = Place {
            segment: name,
            offset: at,
        };
        let bytes = window.get(at, frame::HEADER)?;
        if let Some(directory) = Directory::peek(bytes) {
            let after = at
                .saturating_add(directory.length as u64)
                .saturating_add(directory.records);
            if after <= end
                && let Some(headers) = directory.parse(window.get(at, directory.length)?, &place)
            {
                for (offset, header) in headers {
                    each(header, at + offset);
                }
                at = after;
                valid = at;
                continue;
            }
        } else if let Some(length) = Header::end(bytes)
            && let Some(header) = Header::parse(window.get(at, length)?, &place)
        {
            let after = at + u64::from(header.length);
            if after > end {
                break;
            }
            each(header, at);
            at = after;
            valid = at;
            continue;
        }
        at = next_magic(&mut window, at + 1)?;
    }
    Ok(valid)
}

/// Where the next frame may begin, at `at` or after it.
fn next_magic(window: &mut Window<'_>, mut at: u64) -> io::Result<u64> {
    while at < window.end {
        let bytes = window.get(at, frame::MAGIC.len())?;
        let found = bytes
            .windows(frame::MAGIC.len())
            .position(|pair| pair == frame::MAGIC);
        match found {
            Some(skip) => return Ok(at + skip as u64),
            None if bytes.len() <= 1 => break,
            // The last byte may be the first one of a magic.
            None => at += bytes.len() as u64 - 1,
        }
    }
    Ok(window.end)
}
