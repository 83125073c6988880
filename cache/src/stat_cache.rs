//! Which file held which content, so that unchanged files are not read again.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use natron_artifacts::{Digest, Hasher};
use nix::sys::statfs::{self, statfs};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{mutants, storage::read_regular};

/// Two changes that are further apart than this have different times on a local file system.
const LOCAL_GRANULARITY_NS: i64 = 10_000_000;
/// The same on network file systems, on FAT, and where times hold whole seconds only.
const COARSE_GRANULARITY_NS: i64 = 2_000_000_000;
/// Allowance for the clock of a file system that we cannot touch: its server's may differ from ours.
const FOREIGN_CLOCK_NS: i64 = 600_000_000_000;
/// The file system's clock is not asked more often than this: to ask it costs a file.
const TOUCH_EVERY: Duration = Duration::from_millis(5);
/// What programs leave in folders as they run; no digest of a folder holds them.
const IGNORED: [&str; 3] = [".git", ".natron", "__pycache__"];

const MAGIC: &[u8; 8] = b"NATstat\x01";

/// What the system knows of a file without opening it. Equal tuples that are not recent mean equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Device.
    pub dev: u64,
    /// Number on the device.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime_ns: i64,
    /// Last change of anything; no program can set it.
    pub ctime_ns: i64,
}

impl FileStat {
    /// The tuple of the file at `path`, following links.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    fn newest_ns(&self) -> i64 {
        self.mtime_ns.max(self.ctime_ns)
    }
}

impl From<&Metadata> for FileStat {
    fn from(metadata: &Metadata) -> Self {
        let ns =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.len(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: if mutants::is("no_change_time") {
                ns(metadata.mtime(), metadata.mtime_nsec())
            } else {
                ns(metadata.ctime(), metadata.ctime_nsec())
            },
        }
    }
}

/// Why a file or folder has no digest.
#[derive(Debug, Clone, Error)]
pub enum StatError {
    /// The system refused.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: Arc<io::Error>,
    },
    /// The file changed twice while it was read.
    #[error("`{}` changed while it was read; run again when nothing writes to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A pipe, socket or device.
    #[error("`{}` is neither a file nor a folder", path.display())]
    Special {
        /// Where it is.
        path: PathBuf,
    },
}

impl StatError {
    /// Whether there is nothing at the path.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

/// Digests of files by path and [`FileStat`]. Any number of threads may ask at once.
///
/// An entry is trusted when device, number, size and both times are equal, and it is only made when the newer of the
/// times was older than the file system's own clock by more than its granularity before the file was read: a change
/// in the same tick would otherwise go unseen.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    is_paranoid: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<PathBuf, (FileStat, Digest)>,
    is_dirty: bool,
    hashed_files: u64,
    /// Granularity by device.
    granularity: BTreeMap<u64, Granularity>,
    /// The latest time that the probe was given, and its device.
    clock: Option<(u64, i64)>,
    /// When that was.
    touched: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Granularity {
    ns: i64,
    is_network: bool,
}

impl StatCache {
    /// The cache kept at `path`; an empty one if there is none or it is damaged. A paranoid cache trusts nothing it knows.
    pub fn load(path: &Path, is_paranoid: bool) -> Self {
        let entries = read_regular(path)
            .ok()
            .and_then(|bytes| decode(&bytes))
            .unwrap_or_default();
        let state = State {
            entries,
            ..State::default()
        };
        Self {
            path: path.to_owned(),
            is_paranoid,
            state: Mutex::new(state),
        }
    }

    /// Writes what was learned, whole or not at all. A loss of power may lose it: then files are read again.
    pub fn save(&self) -> Result<(), StatError> {
        let mut state = self.state();
        if !state.is_dirty {
            return Ok(());
        }
        let temporary = self.beside("new");
        fs::write(&temporary, encode(&state.entries)).map_err(StatError::io(&temporary))?;
        fs::rename(&temporary, &self.path).map_err(StatError::io(&self.path))?;
        state.is_dirty = false;
        Ok(())
    }

    /// How many files were read until now.
    pub fn hashed_files(&self) -> u64 {
        self.state().hashed_files
    }

    /// The digest of a file's bytes, or of a folder's sorted listing.
    ///
    /// `path` is followed if it is a link; links inside a folder count as what they say, not as what they lead to.
    /// Of files in a folder the right to be run counts, too. Folders called `.git`, `.natron` and `__pycache__` are left
    /// out.
    pub fn digest(&self, path: &Path) -> Result<Digest, StatError> {
        let metadata = fs::metadata(path).map_err(StatError::io(path))?;
        if metadata.is_dir() {
            self.folder_digest(path)
        } else if metadata.is_file() {
            self.file_digest(path, &metadata)
        } else {
            Err(StatError::Special {
                path: path.to_owned(),
            })
        }
    }

    /// The tuple and digest by which the file at `path` is known; nothing when it would have to be read again, and for
    /// folders.
    pub fn known(&self, path: &Path) -> Option<(FileStat, Digest)> {
        self.state().entries.get(path).copied()
    }

    fn folder_digest(&self, path: &Path) -> Result<Digest, StatError> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(StatError::io(path))? {
            let entry = entry.map_err(StatError::io(path))?;
            entries.push(entry.file_name());
        }
        entries.sort();
        let mut hasher = Hasher::new("natron folder v1");
        for name in entries {
            if IGNORED.iter().any(|ignored| name == *ignored) {
                continue;
            }
            let path = path.join(&name);
            let metadata = fs::symlink_metadata(&path).map_err(StatError::io(&path))?;
            hasher = hasher.part(name.as_bytes());
            hasher = if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(StatError::io(&path))?;
                hasher.part(b"link").part(target.as_os_str().as_bytes())
            } else if metadata.is_dir() {
                hasher
                    .part(b"folder")
                    .part(self.folder_digest(&path)?.as_bytes())
            } else if metadata.is_file() {
                let may_run = metadata.permissions().mode() & 0o100 != 0;
                let digest = self.file_digest(&path, &metadata)?;
                hasher
                    .part(if may_run { b"program" } else { b"file" })
                    .part(digest.as_bytes())
            } else {
                return Err(StatError::Special { path });
            };
        }
        Ok(hasher.finish())
    }

    fn file_digest(&self, path: &Path, metadata: &Metadata) -> Result<Digest, StatError> {
        let before = FileStat::from(metadata);
        if !self.is_paranoid
            && let Some((stat, digest)) = self.state().entries.get(path)
            && *stat == before
        {
            return Ok(*digest);
        }
        self.read(path, before, &mut hash)
    }

    fn read(
        &self,
        path: &Path,
        mut before: FileStat,
        hash: &mut dyn FnMut(&Path) -> io::Result<Digest>,
    ) -> Result<Digest, StatError> {
        for _ in 0..2 {
            let is_settled = self.is_settled(path, &before);
            let digest = hash(path).map_err(StatError::io(path))?;
            let after = FileStat::of(path).map_err(StatError::io(path))?;
            if before == after {
                let mut state = self.state();
                state.hashed_files += 1;
                if is_settled {
                    state.entries.insert(path.to_owned(), (after, digest));
                    state.is_dirty = true;
                } else if state.entries.remove(path).is_some() {
                    state.is_dirty = true;
                }
                return Ok(digest);
            }
            before = after;
        }
        Err(StatError::Changed {
            path: path.to_owned(),
        })
    }

    /// Whether a change from now on would show in the file's times.
    fn is_settled(&self, path: &Path, stat: &FileStat) -> bool {
        let mut state = self.state();
        let granularity = *state
            .granularity
            .entry(stat.dev)
            .or_insert_with(|| granularity(path));
        let has_whole_seconds =
            stat.mtime_ns % 1_000_000_000 == 0 && stat.ctime_ns % 1_000_000_000 == 0;
        let ns = if has_whole_seconds {
            COARSE_GRANULARITY_NS
        } else {
            granularity.ns
        };
        let is_older = |clock: Option<(u64, i64)>| {
            clock.is_some_and(|(dev, now)| {
                let is_own_clock = dev == stat.dev || !granularity.is_network;
                let ns = if is_own_clock { ns } else { FOREIGN_CLOCK_NS };
                stat.newest_ns().saturating_add(ns) < now
            })
        };
        // An earlier reading of the clock is on the safe side.
        if is_older(state.clock) {
            return true;
        }
        // What was written just now will not have settled a moment later either.
        if state.touched.is_some_and(|at| at.elapsed() < TOUCH_EVERY) {
            return false;
        }
        state.clock = self.touch().ok();
        state.touched = Some(Instant::now());
        is_older(state.clock)
    }

    /// Writes to a file beside the cache: its new time is the file system's own clock.
    fn touch(&self) -> io::Result<(u64, i64)> {
        let path = self.beside("probe");
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)?;
        file.write_all(b"?")?;
        let stat = FileStat::from(&file.metadata()?);
        let _ = fs::remove_file(&path);
        Ok((stat.dev, stat.newest_ns()))
    }

    /// A path of this process and cache alone.
    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{}.{what}", std::process::id()));
        name.into()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0_u8; 1 << 18];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Digest::from_bytes(*hasher.finalize().as_bytes())),
            Ok(n) => {
                hasher.update(&chunk[..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn granularity(path: &Path) -> Granularity {
    let kind = statfs(path).ok().map(|info| info.filesystem_type());
    let network = [
        statfs::NFS_SUPER_MAGIC,
        statfs::SMB_SUPER_MAGIC,
        // CIFS, SMB2, 9P, Ceph; nix has no names for these.
        statfs::FsType(0xFF53_4D42),
        statfs::FsType(0xFE53_4D42),
        statfs::FsType(0x0102_1997),
        statfs::FsType(0x00C3_6400),
        statfs::FUSE_SUPER_MAGIC,
    ];
    let is_network = kind.is_none_or(|kind| network.contains(&kind));
    let is_coarse = is_network || kind == Some(statfs::MSDOS_SUPER_MAGIC);
    let ns = if is_coarse {
        COARSE_GRANULARITY_NS
    } else {
        LOCAL_GRANULARITY_NS
    };
    Granularity { ns, is_network }
}

fn encode(entries: &BTreeMap<PathBuf, (FileStat, Digest)>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (path, (stat, digest)) in entries {
        let path = path.as_os_str().as_bytes();
        bytes.extend((path.len() as u32).to_le_bytes());
        bytes.extend(path);
        for number in [
            stat.dev,
            stat.ino,
            stat.size,
            stat.mtime_ns.cast_unsigned(),
            stat.ctime_ns.cast_unsigned(),
        ] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(digest.as_bytes());
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<PathBuf, (FileStat, Digest)>> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = content.strip_prefix(MAGIC)?;
    let mut entries = BTreeMap::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (path, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        let mut number = || -> Option<u64> {
            let (bytes, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Some(u64::from_le_bytes(*bytes))
        };
        let stat = FileStat {
            dev: number()?,
            ino: number()?,
            size: number()?,
            mtime_ns: number()?.cast_signed(),
            ctime_ns: number()?.cast_signed(),
        };
        let (digest, after) = rest.split_first_chunk::<32>()?;
        rest = after;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        entries.insert(path, (stat, Digest::from_bytes(*digest)));
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, thread, time::Duration};

    use super::*;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("data")).unwrap();
            Self { folder }
        }

        fn cache(&self) -> StatCache {
            StatCache::load(&self.folder.path().join("stat.bin"), false)
        }

        fn file(&self, name: &str, content: &str) -> PathBuf {
            let path = self.folder.path().join("data").join(name);
            fs::write(&path, content).unwrap();
            path
        }

        fn data(&self) -> PathBuf {
            self.folder.path().join("data")
        }
    }

    fn settle() {
        thread::sleep(Duration::from_millis(40));
    }

    #[test]
    fn an_unchanged_file_is_read_once() {
        let place = Place::new();
        let path = place.file("a.csv", "1,2");
        settle();

        let cache = place.cache();
        assert_eq!(cache.digest(&path).unwrap(), Digest::of(b"1,2"));
        assert_eq!(cache.digest(&path).unwrap(), Digest::of(b"1,2"));
        assert_eq!(cache.hashed_files(), 1);
        cache.save().unwrap();

        let again = place.cache();
        assert_eq!(again.digest(&path).unwrap(), Digest::of(b"1,2"));
        assert_eq!(again.hashed_files(), 0);
        let paranoid = StatCache::load(&place.folder.path().join("stat.bin"), true);
        assert_eq!(paranoid.digest(&path).unwrap(), Digest::of(b"1,2"));
        assert_eq!(paranoid.hashed_files(), 1);
    }

    #[test]
    fn a_file_that_was_just_written_is_not_trusted() {
        let place = Place::new();
        let cache = place.cache();
        // Many times, in the hope that two writes share a tick.
        for i in 0..200 {
            let text = format!("{i:04}");
            let path = place.file("a.csv", &text);
            assert_eq!(cache.digest(&path).unwrap(), Digest::of(text.as_bytes()));
        }
    }

    #[test]
    fn a_change_with_size_and_mtime_restored_is_seen() {
        let place = Place::new();
        let path = place.file("a.csv", "1,2");
        settle();
        let cache = place.cache();
        cache.digest(&path).unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();

        fs::write(&path, "1,3").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();

        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
        assert_eq!(cache.digest(&path).unwrap(), Digest::of(b"1,3"));
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one() {
        let place = Place::new();
        let path = place.file("a.csv", "1,2");
        settle();
        let cache = place.cache();
        cache.digest(&path).unwrap();
        cache.save().unwrap();
        let file = place.folder.path().join("stat.bin");
        let good = fs::read(&file).unwrap();

        for cut in 0..good.len() {
            fs::write(&file, &good[..cut]).unwrap();
            assert!(place.cache().state().entries.is_empty(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, &bad).unwrap();
            assert!(place.cache().state().entries.is_empty(), "flipped at {at}");
        }
        fs::write(&file, &good).unwrap();
        assert_eq!(place.cache().state().entries.len(), 1);
    }

    #[test]
    fn a_folder_is_its_names_contents_links_and_rights() {
        let place = Place::new();
        fs::create_dir(place.data().join("lib")).unwrap();
        place.file("lib/a.py", "x = 1");
        let program = place.file("run.sh", "true");
        symlink("lib/a.py", place.data().join("link")).unwrap();
        let cache = place.cache();
        let mut seen = std::collections::BTreeSet::new();
        let digest = || cache.digest(&place.data()).unwrap();
        assert!(seen.insert(digest()));
        assert!(!seen.insert(digest()));

        place.file("lib/a.py", "x = 2");
        assert!(seen.insert(digest()), "content");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(seen.insert(digest()), "right to run");
        fs::remove_file(place.data().join("link")).unwrap();
        symlink("nowhere", place.data().join("link")).unwrap();
        assert!(seen.insert(digest()), "where a link leads");
        fs::rename(&program, place.data().join("walk.sh")).unwrap();
        assert!(seen.insert(digest()), "name");
        fs::create_dir(place.data().join("empty")).unwrap();
        assert!(seen.insert(digest()), "empty folder");
        fs::create_dir(place.data().join("lib/__pycache__")).unwrap();
        assert!(!seen.insert(digest()), "what python leaves behind");
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again_once() {
        for changes in [0, 1, 2] {
            let place = Place::new();
            let path = place.file("a.csv", "1,2");
            let cache = place.cache();
            let mut reads = 0;
            let mut slow_hash = |path: &Path| {
                let digest = hash(path);
                reads += 1;
                if reads <= changes {
                    let mut file = File::options().append(true).open(path)?;
                    file.write_all(b",3")?;
                }
                digest
            };

            let before = FileStat::of(&path).unwrap();
            let digest = cache.read(&path, before, &mut slow_hash);
            match changes {
                0 => assert_eq!(digest.unwrap(), Digest::of(b"1,2")),
                1 => assert_eq!(digest.unwrap(), Digest::of(b"1,2,3")),
                _ => assert!(matches!(digest, Err(StatError::Changed { .. }))),
            }
        }
    }

    #[test]
    fn what_is_no_file_is_an_error() {
        let place = Place::new();
        let cache = place.cache();

        assert!(
            cache
                .digest(&place.data().join("none"))
                .unwrap_err()
                .is_not_found()
        );
        let error = cache.digest(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, StatError::Special { .. }));
    }
}
