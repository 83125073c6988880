//! What a collection of the store must leave alone: the results of recent runs, and of lock files, in every workspace that
//! uses the store.

use std::fs;

use natron_cache::{StageKey, Store, clock, collect::Roots};

use crate::{LockFile, RunError, Workspace, history::RunRecord};

/// A workspace that cannot be seen stays registered for so long: it may be on a disk that is not mounted.
const VANISHED_DAYS: u64 = 30;

/// The roots of `store`: all results of the newest `runs` runs of each workspace, and of the lock files in its `pipelines`.
///
/// # Errors
///
/// When a workspace that the store knows was seen lately and is not there now: its results cannot be told from rubbish.
pub fn roots(store: &Store, workspace: &Workspace, runs: usize) -> Result<Roots, RunError> {
    let mut roots = Roots::default();
    add(&mut roots, workspace, runs)?;
    for other in store.workspaces()? {
        if other.path == workspace.root() {
            continue;
        }
        if other.path.is_dir() {
            add(&mut roots, &Workspace::new(other.path, None), runs)?;
        } else if clock::unix_ms().saturating_sub(other.last_seen_ms) < VANISHED_DAYS * 86_400_000 {
            let path = other.path.display();
            let message =
                format!("`{path}` uses this store, but is not there; what it needs cannot be told");
            return Err(std::io::Error::other(message).into());
        }
    }
    Ok(roots)
}

fn add(roots: &mut Roots, workspace: &Workspace, runs: usize) -> Result<(), RunError> {
    for run in RunRecord::all(workspace)?.into_iter().take(runs) {
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

        let keys = roots(&store, &workspace, 1).unwrap().keys;
        assert_eq!(
            keys.into_iter().collect::<Vec<_>>(),
            [StageKey::new(Digest::of(b"new"))]
        );
    }
}
