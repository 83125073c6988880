//! Which results were computed again, and how alike they came out.
//!
//! `verified/<writer>.jsonl`: lines of a CRC-32 in hexadecimal, a blank and JSON, appended by one writer each and flushed one
//! by one. A line that is torn or damaged is not counted; a count that is too low is the worst that a crash can do. When
//! there are many files, whoever has the store alone makes one of them: its first line names those that it replaces, so that
//! nothing counts twice wherever it is interrupted.
//!
//! Nothing here decides whether a result is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{StageKey, StorageFile, Store, StoreError};

/// More files than this become one.
const MOST_FILES: usize = 64;

/// A result that came out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The key.
    pub key: StageKey,
    /// How alike: `bytes`, `logical`, `numeric`.
    pub class: String,
    /// Name of the machine that computed it again.
    pub host: String,
    /// When, in milliseconds since 1970-01-01 in UTC.
    pub unix_ms: u64,
    /// How often; more than one where lines were put together.
    #[serde(default = "once")]
    pub times: u64,
}

fn once() -> u64 {
    1
}

/// How often a result came out again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Confirmed {
    /// How often in all.
    pub times: u64,
    /// How often on each machine.
    pub hosts: BTreeMap<String, u64>,
    /// How often with each class.
    pub classes: BTreeMap<String, u64>,
    /// When last, in milliseconds since 1970-01-01 in UTC.
    pub last_unix_ms: u64,
}

/// The first line of a file that was made of others.
#[derive(Debug, Serialize, Deserialize)]
struct Replaces {
    replaces: BTreeSet<String>,
}

/// Keeps confirmations, each on the disk before the next.
#[derive(Debug)]
pub struct ConfirmationLog<'a> {
    store: &'a Store,
    file: Option<(PathBuf, Box<dyn StorageFile>)>,
}

impl<'a> ConfirmationLog<'a> {
    /// A log in `store`. Nothing is written before the first confirmation.
    pub fn new(store: &'a Store) -> Self {
        Self { store, file: None }
    }

    /// Keeps one more.
    pub fn add(&mut self, confirmation: &Confirmation) -> Result<(), StoreError> {
        if self.file.is_none() {
            if names(self.store)?.len() > MOST_FILES {
                // Nothing is lost when somebody else is at work: the next one does it.
                self.store.exclusively(|| put_together(self.store))?;
            }
            self.file = Some(create(self.store)?);
        }
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        file.write_all(&line(confirmation))
            .map_err(StoreError::io("write", path))?;
        file.sync().map_err(StoreError::io("flush", path))
    }
}

impl Store {
    /// How often each result came out again.
    pub fn confirmed(&self) -> Result<BTreeMap<StageKey, Confirmed>, StoreError> {
        let mut confirmed: BTreeMap<StageKey, Confirmed> = BTreeMap::new();
        for confirmation in read(self)?.1 {
            let entry = confirmed.entry(confirmation.key).or_default();
            entry.times += confirmation.times;
            *entry.hosts.entry(confirmation.host).or_default() += confirmation.times;
            *entry.classes.entry(confirmation.class).or_default() += confirmation.times;
            entry.last_unix_ms = entry.last_unix_ms.max(confirmation.unix_ms);
        }
        Ok(confirmed)
    }
}

fn directory(store: &Store) -> PathBuf {
    store.root().join("verified")
}

fn names(store: &Store) -> Result<Vec<String>, StoreError> {
    let directory = directory(store);
    let failed = StoreError::io("list", &directory);
    match store.storage().entry(&directory) {
        Ok(None) => return Ok(Vec::new()),
        Ok(Some(_)) => {}
        Err(error) => return Err(failed(error)),
    }
    let entries = store.storage().list(&directory).map_err(failed)?;
    Ok(entries
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name.rsplit('.').next() == Some("jsonl"))
        .collect())
}

fn create(store: &Store) -> Result<(PathBuf, Box<dyn StorageFile>), StoreError> {
    let path = fresh_path(store)?;
    let file = store.storage().create(&path);
    let file = file.map_err(StoreError::io("create", &path))?;
    Ok((path, file))
}

/// A path that nobody has used before, as a writer may keep several logs.
fn fresh_path(store: &Store) -> Result<PathBuf, StoreError> {
    let (directory, writer) = (directory(store), store.writer()?);
    store
        .storage()
        .create_directory(&directory)
        .map_err(StoreError::io("create", &directory))?;
    let fresh = writer.fresh_path();
    let number = fresh.file_name().unwrap_or_default().to_string_lossy();
    Ok(directory.join(format!("{}-{number}.jsonl", writer.name)))
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_string(value).expect("plain structs serialize");
    format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes())).into_bytes()
}

/// The names of the files that were read, and what is in those that no other replaces.
fn read(store: &Store) -> Result<(BTreeSet<String>, Vec<Confirmation>), StoreError> {
    let directory = directory(store);
    let mut files = BTreeMap::new();
    let mut replaced = BTreeSet::new();
    for name in names(store)? {
        // One that vanished was put together with others; the counts are right again next time.
        let Ok((bytes, _)) = store.storage().read_all(&directory.join(&name)) else {
            continue;
        };
        let mut confirmations = Vec::new();
        for body in bytes.split(|&byte| byte == b'\n').filter_map(sound) {
            if let Ok(confirmation) = serde_json::from_slice::<Confirmation>(body) {
                confirmations.push(confirmation);
            } else if let Ok(header) = serde_json::from_slice::<Replaces>(body) {
                replaced.extend(header.replaces);
            }
        }
        files.insert(name, confirmations);
    }
    let names = files.keys().cloned().collect();
    files.retain(|name, _| !replaced.contains(name));
    Ok((names, files.into_values().flatten().collect()))
}

/// The JSON of a line, if its sum is right.
fn sound(line: &[u8]) -> Option<&[u8]> {
    let (sum, body) = (line.get(..8)?, line.get(9..)?);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (line[8] == b' ' && sum == crc32fast::hash(body)).then_some(body)
}

fn put_together(store: &Store) -> Result<(), StoreError> {
    let (replaces, confirmations) = read(store)?;
    let mut sums: BTreeMap<(StageKey, String, String), Confirmation> = BTreeMap::new();
    for confirmation in confirmations {
        let Confirmation {
            key, class, host, ..
        } = &confirmation;
        let of = (*key, class.clone(), host.clone());
        match sums.get_mut(&of) {
            None => {
                sums.insert(of, confirmation);
            }
            Some(sum) => {
                sum.times += confirmation.times;
                sum.unix_ms = sum.unix_ms.max(confirmation.unix_ms);
            }
        }
    }
    // Whole under a name that nobody reads, and swept if it stays there; then under its own.
    let temporary = store.writer()?.fresh_path();
    let mut bytes = line(&Replaces {
        replaces: replaces.clone(),
    });
    bytes.extend(sums.values().flat_map(line));
    let path = fresh_path(store)?;
    let storage = store.storage();
    let mut file = storage
        .create(&temporary)
        .map_err(StoreError::io("create", &temporary))?;
    file.write_all(&bytes)
        .and_then(|()| file.sync())
        .and_then(|()| storage.rename(&temporary, &path))
        .and_then(|()| storage.sync_directory(&directory(store)))
        .map_err(StoreError::io("write", &path))?;
    for name in replaces {
        let path = directory(store).join(name);
        store
            .storage()
            .remove(&path)
            .map_err(StoreError::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Digest;

    use super::*;
    use crate::Durability;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Durability::None).unwrap();
        (folder, store)
    }

    fn confirmation(key: &[u8], host: &str) -> Confirmation {
        Confirmation {
            key: StageKey::new(Digest::of(key)),
            class: "bytes".into(),
            host: host.into(),
            unix_ms: 1000 + host.len() as u64,
            times: 1,
        }
    }

    #[test]
    fn counts_by_key_host_and_class() {
        let (_folder, store) = store();
        assert_eq!(store.confirmed().unwrap(), BTreeMap::new());
        let (mut one, mut other) = (ConfirmationLog::new(&store), ConfirmationLog::new(&store));

        one.add(&confirmation(b"x", "a")).unwrap();
        for _ in 0..2 {
            other.add(&confirmation(b"x", "bb")).unwrap();
        }
        one.add(&Confirmation {
            class: "numeric".into(),
            ..confirmation(b"y", "a")
        })
        .unwrap();

        let confirmed = store.confirmed().unwrap();
        let x = &confirmed[&StageKey::new(Digest::of(b"x"))];
        assert_eq!((x.times, x.last_unix_ms), (3, 1002));
        assert_eq!(x.hosts, BTreeMap::from([("a".into(), 1), ("bb".into(), 2)]));
        let y = &confirmed[&StageKey::new(Digest::of(b"y"))];
        assert_eq!(y.classes, BTreeMap::from([("numeric".into(), 1)]));
    }

    #[test]
    fn a_torn_or_damaged_line_does_not_count() {
        let (_folder, store) = store();
        let mut log = ConfirmationLog::new(&store);
        for _ in 0..3 {
            log.add(&confirmation(b"x", "a")).unwrap();
        }
        let path = directory(&store).join(&names(&store).unwrap()[0]);
        let whole = std::fs::read(&path).unwrap();

        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let times: u64 = store.confirmed().unwrap().values().map(|c| c.times).sum();
            let lines = whole[..cut].split(|&b| b == b'\n').count() as u64 - 1;
            let is_whole_but_for_its_end = whole[cut] == b'\n';
            assert_eq!(times, lines + u64::from(is_whole_but_for_its_end), "{cut}");
        }
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let times: u64 = store.confirmed().unwrap().values().map(|c| c.times).sum();
            assert!((1..=2).contains(&times), "{i}: {times}");
        }
    }

    #[test]
    fn many_files_become_one_and_count_the_same_wherever_that_stops() {
        let (_folder, store) = store();
        for i in 0..=MOST_FILES {
            let host = if i % 2 == 0 { "a" } else { "b" };
            let mut log = ConfirmationLog::new(&store);
            log.add(&confirmation(b"x", host)).unwrap();
        }
        let before = store.confirmed().unwrap();
        let old: Vec<(PathBuf, Vec<u8>)> = names(&store)
            .unwrap()
            .into_iter()
            .map(|name| directory(&store).join(name))
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();

        put_together(&store).unwrap();
        assert_eq!(names(&store).unwrap().len(), 1);
        assert_eq!(store.confirmed().unwrap(), before);
        for (path, bytes) in old {
            std::fs::write(path, bytes).unwrap();
            assert_eq!(store.confirmed().unwrap(), before, "killed while removing");
        }
        put_together(&store).unwrap();
        assert_eq!(names(&store).unwrap().len(), 1);
        assert_eq!(store.confirmed().unwrap(), before);
        ConfirmationLog::new(&store)
            .add(&confirmation(b"x", "a"))
            .unwrap();
        let after = store.confirmed().unwrap();
        assert_eq!(after.values().next().unwrap().times, 66);
    }
}
