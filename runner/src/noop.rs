//! The fast path: when nothing that a run depends on has moved, nothing is parsed, no key computed and no result opened.
//!
//! A run in which every stage has its outputs leaves a list of the files that it depended on or showed results at, with
//! their stat tuples and digests, in one binary file per invocation. The next run asks the system for the tuples, on
//! several threads when there are many. A file that has moved is read; if its content is the same, nothing has changed.
//!
//! Layout of the file, see [`crate::binary`]: invocation (32 bytes), number of stages (u64), name of the run and of the
//! pipeline, what is known of the store (three parts), number of paths (u64), then for each: flags (u8), stat tuple (5 x 8),
//! digest (32), the path (a part; below the workspace it is relative to it).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt},
    path::{Path, PathBuf},
};

use natron_artifacts::{Digest, Hasher, Registry};
use natron_cache::{FileStat, InputIngredient, StatCache, read_regular};
use nix::{fcntl::AtFlags, sys::stat::fstatat};

use crate::{
    Graph, InputEdge, LoadOptions, RunSummary, Workspace,
    binary::{Reader, Writer},
    history::{Flush, write_whole},
};

const MAGIC: [u8; 8] = *b"NATnoop\x03";
/// The tuple says all: it was taken when the file had stood still for long enough.
const SETTLED: u8 = 1;
/// Fewer paths than this are not worth a second thread.
const PATHS_PER_THREAD: usize = 2_000;
/// More threads than this wait for the same locks of the kernel.
const MOST_THREADS: usize = 8;

/// That nothing has moved since a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unchanged {
    /// The run whose results still hold.
    pub(crate) run: String,
    /// Its pipeline.
    pub(crate) pipeline: String,
    /// How many stages it had.
    pub(crate) stages: usize,
}

/// What a successful run leaves behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// See [`invocation`].
    invocation: Digest,
    pub(crate) found: Unchanged,
    /// The store, as far as a glance can tell whether something was taken from it.
    store: Vec<u8>,
    /// Files and folders that the results depend on or are shown at.
    tracked: Vec<Tracked>,
}

#[derive(Debug, PartialEq, Eq)]
struct Tracked {
    /// Relative to the workspace where it lies below.
    path: PathBuf,
    /// Nothing for folders, and for files that had been written to just before.
    stat: Option<FileStat>,
    digest: Digest,
}

/// Digest of all that decides what a run does, but for the content of the pipeline file and of the paths that it names: the
/// options, the program's stage kinds and their code.
pub(crate) fn invocation(file: &Path, options: &LoadOptions, registry: &Registry) -> Digest {
    let mut hasher = Hasher::new("natron invocation v2")
        .part(env!("CARGO_PKG_VERSION").as_bytes())
        .part(file.as_os_str().as_encoded_bytes())
        .part(options.profile.as_deref().unwrap_or_default().as_bytes())
        .part(&[u8::from(options.profile.is_some())])
        // Programs that stages run are found there.
        .part(
            std::env::var_os("PATH")
                .unwrap_or_default()
                .as_encoded_bytes(),
        );
    // Where there are none, stages with `gpu = "auto"` have other keys.
    let gpus = crate::gpus::found().len() as u64;
    hasher = hasher.part(&gpus.to_le_bytes());
    for set in &options.sets {
        hasher = hasher.part(set.as_bytes());
    }
    for kind in registry.kinds() {
        hasher = hasher.part(kind.name.as_bytes()).part(kind.code.as_bytes());
    }
    hasher.finish()
}

/// What can be seen at a glance.
pub(crate) enum Glance {
    /// The run whose results still hold.
    Same(Unchanged),
    /// Nothing has moved but the pipeline file, which says something else: what was remembered.
    Edited(Memory),
    /// Nothing.
    Moved,
}

/// Looks whether what the pipeline `file` depends on has moved.
pub(crate) fn glance(workspace: &Workspace, invocation: &Digest, file: &Path) -> Glance {
    seen(workspace, invocation, file).unwrap_or(Glance::Moved)
}

fn seen(workspace: &Workspace, invocation: &Digest, file: &Path) -> Option<Glance> {
    let path = path(workspace, invocation);
    let mut memory = Memory::decode(&read_regular(&path).ok()?)?;
    if memory.invocation != *invocation || !still_holds(workspace, &memory.store) {
        return None;
    }
    let moved = moved(workspace, &memory.tracked)?;
    if !moved.is_empty() {
        let file = std::path::absolute(file).ok()?;
        let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), false);
        let mut is_edited = false;
        let are_same = moved.iter().all(|&i| {
            let tracked = &mut memory.tracked[i];
            let path = workspace.resolve(&tracked.path);
            let is_same = stat_cache.digest(&path).ok() == Some(tracked.digest);
            tracked.stat = stat_cache.known(&path).map(|(stat, _)| stat);
            let is_file = path == file;
            is_edited |= is_file && !is_same;
            is_same || is_file
        });
        // What is lost is read again next time.
        let _ = stat_cache.save();
        if !are_same {
            return None;
        }
        if is_edited {
            return Some(Glance::Edited(memory));
        }
        let _ = write_whole(&path, &memory.encode(), Flush::Never);
    }
    Some(Glance::Same(memory.found))
}

/// Remembers a run in which every stage has its outputs. A failure to do so costs speed, nothing else. Of a run that looked
/// at some stages only, `before` is what was remembered of all.
///
/// What counts as a source's content is what went into the keys: a file that was changed during the run is seen to have
/// moved next time.
pub(crate) fn remember(
    workspace: &Workspace,
    invocation: &Digest,
    file: &Path,
    graph: &Graph,
    summary: &RunSummary,
    before: Option<Memory>,
) {
    if let Some(before) = &before
        && !still_holds(workspace, &before.store)
    {
        return; // The results of the other stages may be gone.
    }
    let store = glances(workspace);
    let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), false);
    // By their bytes: to compare paths part by part takes long.
    let mut tracked: BTreeMap<&OsStr, Digest> = BTreeMap::new();
    let Ok(file) = std::path::absolute(file) else {
        return;
    };
    tracked.insert(file.as_os_str(), graph.file_digest);
    for instance in &graph.instances {
        let Some(ingredients) = summary.ingredients.get(&instance.name) else {
            return;
        };
        for (name, path) in &instance.sources {
            let Some(digest) = ingredients.sources.get(name) else {
                return;
            };
            tracked.insert(path.as_os_str(), *digest);
        }
        for (port, edges) in &instance.inputs {
            let known = ingredients.inputs.get(port).into_iter().flatten();
            for (edge, ingredient) in edges.iter().zip(known) {
                if let (InputEdge::File { path }, InputIngredient::Bytes { digest }) =
                    (edge, ingredient)
                {
                    tracked.insert(path.as_os_str(), *digest);
                }
            }
        }
        for path in instance.views.values() {
            let Ok(digest) = stat_cache.digest(path) else {
                return;
            };
            tracked.insert(path.as_os_str(), digest);
        }
    }
    let root = workspace.root();
    let tracked = tracked.into_iter().map(|(path, digest)| {
        let path = Path::new(path);
        // Asking makes it known; what has moved meanwhile has another digest and counts as moved next time.
        let _ = stat_cache.digest(path);
        let known = stat_cache.known(path).filter(|known| known.1 == digest);
        Tracked {
            path: path.strip_prefix(root).unwrap_or(path).to_owned(),
            stat: known.map(|(stat, _)| stat),
            digest,
        }
    });
    let mut tracked: Vec<Tracked> = tracked.collect();
    if let Some(before) = before {
        let new: BTreeSet<&OsStr> = tracked.iter().map(|new| new.path.as_os_str()).collect();
        let is_left = |old: &Tracked| !new.contains(old.path.as_os_str());
        let rest: Vec<Tracked> = before.tracked.into_iter().filter(is_left).collect();
        tracked.extend(rest);
    }
    let memory = Memory {
        invocation: *invocation,
        found: Unchanged {
            run: summary.record.id.clone(),
            pipeline: graph.name.clone(),
            stages: summary.record.n_stages,
        },
        store,
        tracked,
    };
    let _ = write_whole(&path(workspace, invocation), &memory.encode(), Flush::Never);
    let _ = stat_cache.save();
}

/// Forgets all that was remembered: the next run looks at everything again.
pub fn forget(workspace: &Workspace) -> std::io::Result<()> {
    let folder = workspace.state().join("noop");
    // Another run may be writing into it: under another name nobody does.
    let aside = folder.with_extension(format!("{}.gone", std::process::id()));
    match fs::rename(&folder, &aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            // What a last writer leaves there is of no use to anybody.
            let _ = fs::remove_dir_all(&aside);
            Ok(())
        }
    }
}

/// Forgets what was remembered of one invocation.
pub(crate) fn forget_one(workspace: &Workspace, invocation: &Digest) {
    let _ = fs::remove_file(path(workspace, invocation));
}

pub(crate) fn path(workspace: &Workspace, invocation: &Digest) -> PathBuf {
    workspace.state().join("noop").join(invocation.short())
}

/// Positions of the paths whose stat tuple is not what it was.
fn moved(workspace: &Workspace, tracked: &[Tracked]) -> Option<Vec<usize>> {
    let root = File::open(workspace.root()).ok()?;
    let stands = |tracked: &Tracked| {
        let Some(before) = tracked.stat else {
            return false;
        };
        // Relative to the open folder the kernel walks one or two names, not all of them.
        fstatat(&root, &tracked.path, AtFlags::empty()).is_ok_and(|now| tuple(&now) == before)
    };
    let of = |from: usize, some: &[Tracked]| -> Vec<usize> {
        let positions = some.iter().enumerate();
        positions
            .filter(|(_, tracked)| !stands(tracked))
            .map(|(i, _)| from + i)
            .collect()
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_THREADS)
        .min(tracked.len() / PATHS_PER_THREAD)
        .max(1);
    if threads == 1 {
        return Some(of(0, tracked));
    }
    let size = tracked.len().div_ceil(threads);
    let parts = std::thread::scope(|scope| {
        let parts: Vec<_> = tracked
            .chunks(size)
            .enumerate()
            .map(|(i, chunk)| scope.spawn(move || of(i * size, chunk)))
            .collect();
        parts
            .into_iter()
            .map(|part| part.join().ok())
            .collect::<Option<Vec<_>>>()
    });
    Some(parts?.concat())
}

fn tuple(stat: &nix::sys::stat::FileStat) -> FileStat {
    let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    FileStat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size as u64,
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// What can be seen of the store without opening it: folders are others when they were replaced, and change when something
/// is put aside or taken out.
fn glances(workspace: &Workspace) -> Vec<u8> {
    let folders = folders(workspace);
    let mut bytes = (folders.len() as u32).to_le_bytes().to_vec();
    bytes.extend(folders);
    let root = natron_cache::layout_root(workspace.cache());
    for entry in fs::read_dir(root.join("ac"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Ok(metadata) = entry.metadata()
            && metadata.is_file()
        {
            let name = entry.file_name();
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(metadata.len().to_le_bytes());
        }
    }
    bytes
}

/// Whether nothing was taken out of the store since it looked like `then`: segments of records may come and grow.
fn still_holds(workspace: &Workspace, then: &[u8]) -> bool {
    fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *bytes = rest;
        Some(part)
    }
    let mut rest = then;
    if part(&mut rest) != Some(&folders(workspace)[..]) {
        return false;
    }
    let segments = natron_cache::layout_root(workspace.cache()).join("ac");
    while !rest.is_empty() {
        let Some(name) = part(&mut rest) else {
            return false;
        };
        let Some((size, after)) = rest.split_first_chunk::<8>() else {
            return false;
        };
        rest = after;
        let there = fs::symlink_metadata(segments.join(OsStr::from_bytes(name)));
        if !there.is_ok_and(|there| there.is_file() && there.len() >= u64::from_le_bytes(*size)) {
            return false;
        }
    }
    true
}

fn folders(workspace: &Workspace) -> Vec<u8> {
    let root = natron_cache::layout_root(workspace.cache());
    let mut bytes = Vec::new();
    for (name, with_time) in [
        ("FORMAT", false),
        ("ac", false),
        ("cas", false),
        ("quarantine", true),
        ("trash", true),
    ] {
        if let Ok(stat) = fs::metadata(root.join(name)) {
            bytes.extend(name.as_bytes());
            bytes.extend(stat.dev().to_le_bytes());
            bytes.extend(stat.ino().to_le_bytes());
            if with_time {
                bytes.extend(stat.mtime().to_le_bytes());
                bytes.extend(stat.mtime_nsec().to_le_bytes());
            }
        }
    }
    bytes
}

impl Memory {
    fn encode(&self) -> Vec<u8> {
        let mut file = Writer::new(MAGIC, 256 + 128 * self.tracked.len());
        file.digest(&self.invocation);
        file.u64(self.found.stages as u64);
        file.part(self.found.run.as_bytes());
        file.part(self.found.pipeline.as_bytes());
        file.part(&self.store);
        file.u64(self.tracked.len() as u64);
        for Tracked { path, stat, digest } in &self.tracked {
            file.u8(if stat.is_some() { SETTLED } else { 0 });
            let stat = stat.unwrap_or(FileStat {
                dev: 0,
                ino: 0,
                size: 0,
                mtime_ns: 0,
                ctime_ns: 0,
            });
            for number in [stat.dev, stat.ino, stat.size] {
                file.u64(number);
            }
            for time in [stat.mtime_ns, stat.ctime_ns] {
                file.u64(time as u64);
            }
            file.digest(digest);
            file.part(path.as_os_str().as_bytes());
        }
        file.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut file = Reader::open(bytes, MAGIC)?;
        let invocation = file.digest()?;
        let stages = file.u64()? as usize;
        let (run, pipeline) = (file.text()?, file.text()?);
        let store = file.part()?.to_vec();
        let n = file.u64()?;
        let mut tracked = Vec::new();
        for _ in 0..n {
            let is_settled = file.u8()? == SETTLED;
            let stat = FileStat {
                dev: file.u64()?,
                ino: file.u64()?,
                size: file.u64()?,
                mtime_ns: file.u64()? as i64,
                ctime_ns: file.u64()? as i64,
            };
            tracked.push(Tracked {
                digest: file.digest()?,
                stat: is_settled.then_some(stat),
                path: PathBuf::from(OsStr::from_bytes(file.part()?)),
            });
        }
        let found = Unchanged {
            run,
            pipeline,
            stages,
        };
        file.is_empty().then_some(Self {
            invocation,
            found,
            store,
            tracked,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(workspace: &Workspace, files: &[&str]) -> Memory {
        let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), false);
        let tracked = files.iter().map(|name| {
            let path = workspace.resolve(Path::new(name));
            let digest = stat_cache.digest(&path).unwrap();
            Tracked {
                path: PathBuf::from(name),
                stat: stat_cache.known(&path).map(|(stat, _)| stat),
                digest,
            }
        });
        Memory {
            invocation: Digest::of(b"invocation"),
            found: Unchanged {
                run: "a run".into(),
                pipeline: "p".into(),
                stages: 7,
            },
            store: glances(workspace),
            tracked: tracked.collect(),
        }
    }

    fn workspace() -> (tempfile::TempDir, Workspace) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".natron")).unwrap();
        fs::create_dir(folder.path().join("folder")).unwrap();
        for name in ["a", "b", "folder/c"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        // Their times are then settled.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let workspace = Workspace::new(folder.path(), None);
        (folder, workspace)
    }

    #[test]
    fn what_is_read_is_what_was_written_and_damage_is_nothing() {
        let (_folder, workspace) = workspace();
        let memory = memory(&workspace, &["a", "b", "folder"]);
        assert!(memory.tracked[0].stat.is_some() && memory.tracked[2].stat.is_none());
        let bytes = memory.encode();
        assert_eq!(Memory::decode(&bytes).unwrap(), memory);
        for i in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[i] ^= 1;
            assert_eq!(Memory::decode(&damaged), None, "byte {i}");
            assert_eq!(Memory::decode(&bytes[..i]), None, "cut at {i}");
        }
    }

    #[test]
    fn only_another_content_counts_as_a_change() {
        let (folder, workspace) = workspace();
        let memory = memory(&workspace, &["a", "b", "folder"]);
        let path = path(&workspace, &memory.invocation);
        write_whole(&path, &memory.encode(), Flush::Never).unwrap();
        let glance = |invocation: &Digest, file: &str| {
            super::glance(&workspace, invocation, &folder.path().join(file))
        };
        let look = || match glance(&memory.invocation, "p.toml") {
            Glance::Same(found) => Some(found),
            Glance::Edited(_) => panic!("it is not tracked"),
            Glance::Moved => None,
        };
        assert_eq!(look(), Some(memory.found.clone()));
        assert!(matches!(
            glance(&Digest::of(b"another"), "p.toml"),
            Glance::Moved
        ));

        let file = File::options().write(true).open(folder.path().join("a"));
        file.unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(look(), Some(memory.found.clone()), "touched");
        // The same size, and the time put back: only the time of the change tells.
        fs::write(folder.path().join("b"), "B").unwrap();
        let time = memory.tracked[1].stat.unwrap().mtime_ns;
        let file = File::options().write(true).open(folder.path().join("b"));
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(time as u64);
        file.unwrap().set_modified(time).unwrap();
        assert_eq!(look(), None, "edited");
        assert!(matches!(glance(&memory.invocation, "b"), Glance::Edited(_)));
        fs::write(folder.path().join("folder/c"), "C").unwrap();
        assert!(matches!(glance(&memory.invocation, "b"), Glance::Moved));
        fs::write(folder.path().join("folder/c"), "folder/c").unwrap();
        fs::write(folder.path().join("b"), "b").unwrap();
        assert_eq!(look(), Some(memory.found.clone()), "put back");
        fs::write(folder.path().join("folder/c"), "C").unwrap();
        assert_eq!(look(), None, "edited in a folder");
        fs::write(folder.path().join("folder/c"), "folder/c").unwrap();
        assert_eq!(look(), Some(memory.found.clone()));
        fs::remove_file(folder.path().join("a")).unwrap();
        assert_eq!(look(), None, "gone");
    }

    #[test]
    fn many_paths_are_looked_at_by_several_threads() {
        let (folder, workspace) = workspace();
        let names: Vec<String> = (0..=2 * PATHS_PER_THREAD)
            .map(|i| format!("f{i}"))
            .collect();
        for name in &names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let memory = memory(&workspace, &names);
        assert!(moved(&workspace, &memory.tracked).unwrap().is_empty());
        for i in [0, PATHS_PER_THREAD + 5, 2 * PATHS_PER_THREAD] {
            fs::write(folder.path().join(names[i]), "x").unwrap();
        }
        let expected = [0, PATHS_PER_THREAD + 5, 2 * PATHS_PER_THREAD];
        assert_eq!(moved(&workspace, &memory.tracked).unwrap(), expected);
    }
}
