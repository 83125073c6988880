//! What a collection of the store must leave alone: the results of recent runs, and of lock files, in every workspace that
//! uses the store.

use std::{fs, io, path::PathBuf};

use natron_cache::{StageKey, Store, clock, collect::Roots};

use crate::{LockFile, RunError, Workspace, history::RunRecord};

const DAY_MS: u64 = 86_400_000;
/// A workspace that cannot be seen stays registered for so long: it may be on a disk that is not mounted.
const VANISHED_MS: u64 = 30 * DAY_MS;
/// A run that began when its workspace was last seen may have gone on for so long.
const LONGEST_RUN_MS: u64 = 7 * DAY_MS;

/// A workspace that uses the store and cannot be asked what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// Where it was.
    pub path: PathBuf,
    /// When it was last seen, in milliseconds since 1970-01-01 in UTC.
    pub last_seen_ms: u64,
    /// Why it cannot be asked.
    pub reason: String,
}

/// The roots of `store`: all results of the newest `runs` runs of each workspace, and of the lock files in its `pipelines`.
///
/// A workspace that the store knows, that was there in the last 30 days and cannot be read now, may need anything that was
/// made until it was last seen, and some days after: all of that stays, and the workspace is among the doubts.
pub fn roots(
    store: &Store,
    workspace: &Workspace,
    runs: usize,
) -> Result<(Roots, Vec<Doubt>), RunError> {
    let mut roots = Roots::default();
    let mut doubts = Vec::new();
    add(&mut roots, workspace, runs)?;
    for other in store.workspaces()? {
        if other.path == workspace.root() {
            continue;
        }
        let added = if is_there(&other.path) {
            add(&mut roots, &Workspace::new(&other.path, None), runs)
        } else {
            Err(io::Error::other("there is no workspace"))
        };
        let age_ms = clock::unix_ms().saturating_sub(other.last_seen_ms);
        if let Err(error) = added
            && age_ms < VANISHED_MS
        {
            let until_ms = other.last_seen_ms.saturating_add(LONGEST_RUN_MS);
            roots.until_ms = roots.until_ms.max(until_ms);
            doubts.push(Doubt {
                path: other.path,
                last_seen_ms: other.last_seen_ms,
                reason: error.to_string(),
            });
        }
    }
    Ok((roots, doubts))
}

/// Whether a workspace is at `path`: an empty folder may be one in which a disk is not mounted.
fn is_there(path: &std::path::Path) -> bool {
    path.join(".natron").is_dir() || path.join("pipelines").is_dir()
}

fn add(roots: &mut Roots, workspace: &Workspace, runs: usize) -> io::Result<()> {
    for run in RunRecord::newest(workspace, runs)? {
        for stage in run.stages {
            roots.keys.extend(stage.key.map(StageKey::new));
            let files = stage.outputs.values().flat_map(|manifest| &manifest.files);
            roots.objects.extend(files.map(|file| file.digest));
        }
    }
    let Ok(entries) = fs::read_dir(workspace.root().join("pipelines")) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "lock") {
            // A lock file that does not parse protects nothing, and everybody who uses it says so.
            roots
                .keys
                .extend(LockFile::read(&path).iter().flat_map(LockFile::keys));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Digest;
    use natron_cache::Durability;

    use super::*;
    use crate::{
        Outcome,
        history::{RunFolder, StageRecord},
    };

    #[test]
    fn recent_runs_are_roots_and_old_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        for name in ["old", "new"] {
            let run = RunFolder::create(&workspace).unwrap();
            let mut record = run.record();
            record.stages.push(StageRecord {
                name: name.into(),
                kind: "k".into(),
                key: Some(Digest::of(name.as_bytes())),
                outcome: Outcome::Ran,
                seconds: 1.0,
                outputs: std::collections::BTreeMap::new(),
                error: None,
                ignored: false,
            });
            run.finish(&record).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let store = Store::open(workspace.cache(), Durability::default()).unwrap();

        let (roots, doubts) = roots(&store, &workspace, 1).unwrap();
        assert_eq!(doubts, []);
        let keys = roots.keys;
        assert_eq!(
            keys.into_iter().collect::<Vec<_>>(),
            [StageKey::new(Digest::of(b"new"))]
        );
    }

    #[test]
    fn who_vanished_is_given_the_benefit_of_the_doubt_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let [here, gone] = ["here", "gone"].map(|name| folder.path().join(name));
        let workspace = Workspace::new(&here, Some(folder.path().join("cache")));
        let store = Store::open(workspace.cache(), Durability::None).unwrap();
        let now = clock::unix_ms();
        store.register(&gone).unwrap();

        let (found, doubts) = roots(&store, &workspace, 1).unwrap();
        assert_eq!(doubts.len(), 1);
        assert_eq!(doubts[0].path, gone);
        assert!(found.until_ms >= now + LONGEST_RUN_MS);

        // A folder without a workspace in it is a disk that is not mounted; with one it can be asked.
        fs::create_dir(&gone).unwrap();
        assert_eq!(roots(&store, &workspace, 1).unwrap().1.len(), 1);
        fs::create_dir(gone.join("pipelines")).unwrap();
        let (found, doubts) = roots(&store, &workspace, 1).unwrap();
        assert_eq!((found.until_ms, doubts.len()), (0, 0));

        // Long ago.
        fs::remove_dir_all(&gone).unwrap();
        let entry = fs::read_dir(store.root().join("roots")).unwrap().next();
        let path = entry.unwrap().unwrap().path();
        let old = natron_cache::Workspace {
            path: gone.clone(),
            last_seen_ms: now - VANISHED_MS - 1,
        };
        fs::write(path, serde_json::to_vec(&old).unwrap()).unwrap();
        assert_eq!(roots(&store, &workspace, 1).unwrap().1, []);
        assert!(store.unregister(&gone).unwrap());
        assert!(!store.unregister(&gone).unwrap());
    }
}
