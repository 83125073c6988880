//! The fast path: when nothing that a run depends on has moved, nothing is parsed, no key computed and no result opened.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use natron_artifacts::{Digest, Hasher, Registry};
use natron_cache::{InputIngredient, StatCache};
use serde::{Deserialize, Serialize};

use crate::{
    Graph, InputEdge, LoadOptions, Outcome, RunSummary, Workspace,
    history::{RunRecord, write_atomically},
};

/// What a successful run leaves behind, so that the next one can see that nothing moved.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    /// See [`invocation`].
    invocation: Digest,
    /// The run whose results still hold.
    run: String,
    /// The store, as far as a glance can tell whether something was taken from it.
    store: Vec<Glance>,
    /// Files and folders that the results depend on or are shown at, with their content.
    tracked: Vec<(PathBuf, Digest)>,
}

/// Identity and change time of a folder or file; nothing when it is not there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Glance(Option<(u64, u64, i64, i64)>);

/// Digest of all that decides what a run does, but for the content of the paths that the pipeline names: the pipeline's
/// text, the options, the program's stage kinds and their code.
pub(crate) fn invocation(
    file: &Path,
    options: &LoadOptions,
    registry: &Registry,
) -> std::io::Result<Digest> {
    let mut hasher = Hasher::new("natron invocation v1")
        .part(env!("CARGO_PKG_VERSION").as_bytes())
        .part(file.as_os_str().as_encoded_bytes())
        .part(&fs::read(file)?)
        .part(options.profile.as_deref().unwrap_or_default().as_bytes())
        .part(&[u8::from(options.profile.is_some())])
        // Programs that stages run are found there.
        .part(
            std::env::var_os("PATH")
                .unwrap_or_default()
                .as_encoded_bytes(),
        );
    for set in &options.sets {
        hasher = hasher.part(set.as_bytes());
    }
    for kind in registry.kinds() {
        hasher = hasher.part(kind.name.as_bytes()).part(kind.code.as_bytes());
    }
    Ok(hasher.finish())
}

/// The record of the run whose results still hold, if that can be seen at a glance.
pub(crate) fn unchanged(workspace: &Workspace, invocation: &Digest) -> Option<RunRecord> {
    let text = fs::read(path(workspace, invocation)).ok()?;
    let memory: Memory = serde_json::from_slice(&text).ok()?;
    if memory.invocation != *invocation || memory.store != glances(workspace) {
        return None;
    }
    let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), false);
    for (path, digest) in &memory.tracked {
        if stat_cache.digest(path).ok()? != *digest {
            return None;
        }
    }
    let mut record = RunRecord::read(workspace, &memory.run).ok()?;
    for stage in &mut record.stages {
        stage.outcome = Outcome::Hit;
    }
    Some(record)
}

/// Remembers a run in which every stage has its outputs. A failure to do so costs speed, nothing else.
///
/// What counts as a source's content is what went into the keys: a file that was changed during the run is seen to have
/// moved next time.
pub(crate) fn remember(
    workspace: &Workspace,
    invocation: &Digest,
    graph: &Graph,
    summary: &RunSummary,
    stat_cache: &StatCache,
) {
    let mut tracked = BTreeMap::new();
    for instance in &graph.instances {
        let Some(ingredients) = summary.ingredients.get(&instance.name) else {
            return;
        };
        for (name, path) in &instance.sources {
            let Some(digest) = ingredients.sources.get(name) else {
                return;
            };
            tracked.insert(path.clone(), *digest);
        }
        for (port, edges) in &instance.inputs {
            let known = ingredients.inputs.get(port).into_iter().flatten();
            for (edge, ingredient) in edges.iter().zip(known) {
                if let (InputEdge::File { path }, InputIngredient::Bytes { digest }) =
                    (edge, ingredient)
                {
                    tracked.insert(path.clone(), *digest);
                }
            }
        }
        for path in instance.views.values() {
            let Ok(digest) = stat_cache.digest(path) else {
                return;
            };
            tracked.insert(path.clone(), digest);
        }
    }
    let memory = Memory {
        invocation: *invocation,
        run: summary.record.id.clone(),
        store: glances(workspace),
        tracked: tracked.into_iter().collect(),
    };
    if let Ok(text) = serde_json::to_vec(&memory) {
        let _ = write_atomically(&path(workspace, invocation), &text);
    }
}

/// Forgets all that was remembered: the next run looks at everything again.
pub fn forget(workspace: &Workspace) -> std::io::Result<()> {
    match fs::remove_dir_all(workspace.state().join("noop")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(workspace: &Workspace, invocation: &Digest) -> PathBuf {
    workspace.state().join("noop").join(invocation.short())
}

/// Folders of the store whose entries change when something is taken out of it.
fn glances(workspace: &Workspace) -> Vec<Glance> {
    let root = workspace.cache().join(natron_cache::LAYOUT);
    let folders = [
        root.join("FORMAT"),
        root.join("cas"),
        root.join("quarantine"),
        root.join("trash"),
    ];
    folders
        .iter()
        .map(|path| {
            let stat = fs::metadata(path).ok();
            Glance(stat.map(|s| (s.dev(), s.ino(), s.mtime(), s.mtime_nsec())))
        })
        .collect()
}
