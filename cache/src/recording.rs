//! What a loss of power can leave of the store: all effects on the file system are recorded, and every state that a disk
//! may be in after any prefix of them is built anew, for a test to open.
//!
//! The model: bytes that were not flushed may be lost, cut in half, zero or there; names that were not flushed may be lost,
//! there up to a point, there from a point on (disks reorder), or all there. What was flushed is there. A rename is one step.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use natron_artifacts::{Bytes, Digest};

use crate::{Disk, Entry, Storage, StorageFile, StorageReader};

/// One effect on the file system. Paths are relative to the recorder's root; files are numbered as they are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A directory appears.
    CreateDirectory(PathBuf),
    /// An empty file appears.
    Create(PathBuf, usize),
    /// Bytes are appended to a file.
    Write(usize, Vec<u8>),
    /// A file's bytes are on the disk.
    Sync(usize),
    /// Something gets another name.
    Rename(PathBuf, PathBuf),
    /// A file goes.
    Remove(PathBuf),
    /// A directory goes with all below it.
    RemoveDirectory(PathBuf),
    /// A directory's names are on the disk.
    SyncDirectory(PathBuf),
    /// A test's note of what has been promised until here.
    Mark(String),
}

/// A storage that does everything on the disk and notes it down.
#[derive(Debug)]
pub struct Recorder {
    root: PathBuf,
    log: Log,
}

type Log = Arc<Mutex<Noted>>;

#[derive(Debug, Default)]
struct Noted {
    effects: Vec<Effect>,
    files: usize,
    /// Effects asked for, the refused ones included.
    asked: usize,
    refused: Option<usize>,
}

impl Noted {
    /// Counts one more effect, and refuses it if it is the one to be refused.
    fn ask(&mut self) -> io::Result<()> {
        self.asked += 1;
        if self.refused == Some(self.asked) {
            Err(io::Error::from_raw_os_error(nix::libc::EIO))
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
struct RecordedFile {
    inner: Box<dyn StorageFile>,
    number: usize,
    log: Log,
}

impl Recorder {
    /// A recorder of what happens below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            log: Log::default(),
        }
    }

    /// Notes that something has been promised.
    pub fn mark(&self, what: impl Into<String>) {
        self.note(Effect::Mark(what.into()));
    }

    /// All that happened.
    pub fn effects(&self) -> Vec<Effect> {
        lock(&self.log).effects.clone()
    }

    /// Makes the `n`th effect from now on fail, counted from 1, with an error of the disk.
    pub fn refuse(&self, n: usize) {
        let mut log = lock(&self.log);
        log.refused = Some(log.asked + n);
    }

    /// Whether the effect to be refused has been asked for.
    pub fn has_refused(&self) -> bool {
        let log = lock(&self.log);
        log.refused.is_some_and(|n| log.asked >= n)
    }

    fn ask(&self) -> io::Result<()> {
        lock(&self.log).ask()
    }

    fn note(&self, effect: Effect) {
        lock(&self.log).effects.push(effect);
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }
}

fn lock(log: &Log) -> MutexGuard<'_, Noted> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Write for RecordedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let asked = lock(&self.log).ask();
        if let Err(error) = asked {
            // A full disk takes a part.
            let part = bytes[..bytes.len() / 2].to_vec();
            self.inner.write_all(&part)?;
            lock(&self.log)
                .effects
                .push(Effect::Write(self.number, part));
            return Err(error);
        }
        let n = self.inner.write(bytes)?;
        let effect = Effect::Write(self.number, bytes[..n].to_vec());
        lock(&self.log).effects.push(effect);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl StorageFile for RecordedFile {
    fn sync(&mut self) -> io::Result<()> {
        // The disk is not asked: only what was asked of it counts here.
        let mut log = lock(&self.log);
        log.ask()?;
        log.effects.push(Effect::Sync(self.number));
        Ok(())
    }
}

impl Storage for Recorder {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.ask()?;
        let is_new = !path.exists();
        Disk.create_directory(path)?;
        if is_new {
            self.note(Effect::CreateDirectory(self.relative(path)));
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.ask()?;
        let inner = Disk.create(path)?;
        let mut log = lock(&self.log);
        let number = log.files;
        log.files += 1;
        log.effects
            .push(Effect::Create(self.relative(path), number));
        Ok(Box::new(RecordedFile {
            inner,
            number,
            log: Arc::clone(&self.log),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageReader>> {
        Disk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask()?;
        Disk.rename(from, to)?;
        self.note(Effect::Rename(self.relative(from), self.relative(to)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask()?;
        Disk.remove(path)?;
        self.note(Effect::Remove(self.relative(path)));
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.ask()?;
        Disk.remove_directory(path)?;
        self.note(Effect::RemoveDirectory(self.relative(path)));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.ask()?;
        self.note(Effect::SyncDirectory(self.relative(path)));
        Ok(())
    }

    fn set_read_only(&self, path: &Path) -> io::Result<()> {
        Disk.set_read_only(path)
    }

    fn entry(&self, path: &Path) -> io::Result<Option<Entry>> {
        Disk.entry(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        Disk.list(path)
    }

    fn read(&self, path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        Disk.read(path, offset, length)
    }

    fn read_all(&self, path: &Path) -> io::Result<(Bytes, Digest)> {
        Disk.read_all(path)
    }
}

/// A state that the disk may be in: directories, and files with their bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Image {
    /// By path; nothing for a directory.
    pub entries: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Image {
    /// Builds the state below `root`.
    pub fn write_to(&self, root: &Path) -> io::Result<()> {
        for (path, content) in &self.entries {
            match content {
                None => fs::create_dir_all(root.join(path))?,
                Some(bytes) => fs::write(root.join(path), bytes)?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Unflushed {
    Lost,
    Half,
    Zero,
    /// So many thousandths.
    Part(usize),
    There,
}

#[derive(Debug, Clone, Copy)]
enum Names {
    Lost,
    FirstHalf,
    LastHalf,
    There,
}

/// Every state after every prefix of `effects`, each once for each set of promises made until then.
pub fn crash_states(effects: &[Effect]) -> Vec<(Image, Vec<String>)> {
    crash_states_from(effects, 0)
}

/// The same for prefixes of at least `first` effects: what comes before was there when the program started.
pub fn crash_states_from(effects: &[Effect], first: usize) -> Vec<(Image, Vec<String>)> {
    let mut states = BTreeSet::new();
    for end in first..=effects.len() {
        let prefix = &effects[..end];
        let promises = promises(prefix);
        let open = open_names(prefix);
        let half = open.len().div_ceil(2);
        for unflushed in [
            Unflushed::Lost,
            Unflushed::Half,
            Unflushed::Zero,
            Unflushed::There,
        ] {
            let contents = contents(prefix, |_| unflushed);
            for names in [Names::Lost, Names::FirstHalf, Names::LastHalf, Names::There] {
                let lost: BTreeSet<usize> = match names {
                    Names::Lost => open.iter().copied().collect(),
                    Names::FirstHalf => open[half..].iter().copied().collect(),
                    Names::LastHalf => open[..half].iter().copied().collect(),
                    Names::There => BTreeSet::new(),
                };
                states.insert((image(prefix, &contents, &lost), promises.clone()));
            }
        }
    }
    states.into_iter().collect()
}

/// Up to `n` states after random prefixes of at least `first` effects, in which every file and every name that was not
/// flushed has its own fate. `random(m)` gives a number below `m`.
pub fn random_crash_states(
    effects: &[Effect],
    first: usize,
    n: usize,
    random: &mut dyn FnMut(usize) -> usize,
) -> Vec<(Image, Vec<String>)> {
    let mut states = BTreeSet::new();
    for _ in 0..n {
        let end = first + random(effects.len() - first + 1);
        let prefix = &effects[..end];
        let contents = contents(prefix, |_| match random(5) {
            0 => Unflushed::Lost,
            1 => Unflushed::Half,
            2 => Unflushed::Zero,
            3 => Unflushed::Part(random(1000)),
            _ => Unflushed::There,
        });
        let often = 2 + random(4);
        let lost = open_names(prefix)
            .into_iter()
            .filter(|_| random(often) == 0)
            .collect();
        states.insert((image(prefix, &contents, &lost), promises(prefix)));
    }
    states.into_iter().collect()
}

fn promises(effects: &[Effect]) -> Vec<String> {
    let marks = effects.iter().filter_map(|effect| match effect {
        Effect::Mark(what) => Some(what.clone()),
        _ => None,
    });
    marks.collect()
}

/// The changes of names that are not on the disk for sure: their directory was not flushed later.
fn open_names(effects: &[Effect]) -> Vec<usize> {
    let mut last_flush: BTreeMap<&Path, usize> = BTreeMap::new();
    for (i, effect) in effects.iter().enumerate() {
        if let Effect::SyncDirectory(path) = effect {
            last_flush.insert(path, i);
        }
    }
    let is_open = |&i: &usize| match &effects[i] {
        Effect::CreateDirectory(path)
        | Effect::Create(path, _)
        | Effect::Remove(path)
        | Effect::RemoveDirectory(path)
        | Effect::Rename(_, path) => path
            .parent()
            .is_some_and(|directory| last_flush.get(directory).is_none_or(|&at| at < i)),
        _ => false,
    };
    (0..effects.len()).filter(is_open).collect()
}

fn image(effects: &[Effect], contents: &BTreeMap<usize, Vec<u8>>, lost: &BTreeSet<usize>) -> Image {
    // What every name means as the program saw it, and what it means on the disk.
    let mut seen: BTreeMap<&Path, Option<usize>> = BTreeMap::new();
    let mut kept: BTreeMap<&Path, Option<usize>> = BTreeMap::new();
    for (i, effect) in effects.iter().enumerate() {
        let is_kept = !lost.contains(&i);
        match effect {
            Effect::CreateDirectory(path) => {
                seen.insert(path, None);
                if is_kept {
                    kept.insert(path, None);
                }
            }
            Effect::Create(path, number) => {
                seen.insert(path, Some(*number));
                if is_kept {
                    kept.insert(path, Some(*number));
                }
            }
            Effect::Rename(from, to) => {
                let what = seen.remove(from.as_path()).flatten();
                seen.insert(to, what);
                if is_kept {
                    kept.remove(from.as_path());
                    kept.insert(to, what);
                }
            }
            Effect::Remove(path) => {
                seen.remove(path.as_path());
                if is_kept {
                    kept.remove(path.as_path());
                }
            }
            Effect::RemoveDirectory(path) => {
                seen.retain(|name, _| !name.starts_with(path));
                if is_kept {
                    kept.retain(|name, _| !name.starts_with(path));
                }
            }
            _ => {}
        }
    }
    // Names below a directory that is not there are not there.
    let mut image = Image::default();
    for (path, what) in kept {
        let above = path.parent().unwrap_or(Path::new(""));
        if above == Path::new("") || image.entries.contains_key(above) {
            let content = what.map(|number| contents[&number].clone());
            image.entries.insert(path.to_owned(), content);
        }
    }
    image
}

fn contents(
    effects: &[Effect],
    mut unflushed: impl FnMut(usize) -> Unflushed,
) -> BTreeMap<usize, Vec<u8>> {
    let mut files: BTreeMap<usize, (Vec<u8>, usize)> = BTreeMap::new();
    for effect in effects {
        match effect {
            Effect::Create(_, number) => {
                files.insert(*number, (Vec::new(), 0));
            }
            Effect::Write(number, bytes) => {
                let file = files.entry(*number).or_default();
                file.0.extend(bytes);
            }
            Effect::Sync(number) => {
                let file = files.entry(*number).or_default();
                file.1 = file.0.len();
            }
            _ => {}
        }
    }
    let mut after_crash = |number, (mut bytes, flushed): (Vec<u8>, usize)| {
        let open = bytes.len() - flushed;
        match unflushed(number) {
            Unflushed::Lost => bytes.truncate(flushed),
            Unflushed::Half => bytes.truncate(flushed + open / 2),
            Unflushed::Part(thousandths) => bytes.truncate(flushed + open * thousandths / 1000),
            Unflushed::Zero => bytes[flushed..].fill(0),
            Unflushed::There => {}
        }
        bytes
    };
    files
        .into_iter()
        .map(|(number, file)| (number, after_crash(number, file)))
        .collect()
}
