//! A whole invocation: load the pipeline file, run it, compare with or write the lock file, keep the views, leave a record.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use natron_artifacts::{Cancel, Level, Registry};
use natron_cache::{StatCache, Store};
use thiserror::Error;

use crate::{
    Diagnostic, Event, Graph, LoadOptions, LockDifference, LockEntry, LockError, LockFile,
    RunError, RunOptions, RunSummary, Watcher, Workspace, history::RunFolder, load, lock,
    lock_path, noop, run, standings, verify_locked, views,
};

/// What an invocation does with the lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockMode {
    /// Nothing.
    #[default]
    Ignore,
    /// Compare: any difference makes the run fail.
    Require,
    /// Write what the run gave.
    Write,
}

/// Why an invocation did not come to its end.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The pipeline has mistakes; nothing ran.
    #[error("the pipeline has {} mistakes", .0.len())]
    Pipeline(Vec<Diagnostic>),
    /// See there.
    #[error(transparent)]
    Run(#[from] RunError),
    /// See there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A view could not be written.
    #[error("cannot write the view `{}`: {source}", path.display())]
    View {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What an invocation gave.
#[derive(Debug, Clone)]
pub struct SessionSummary {
    /// The run.
    pub run: RunSummary,
    /// How it differs from the lock file, where that was asked for.
    pub differences: Vec<LockDifference>,
    /// Whether the fast path saw that nothing had moved.
    pub at_a_glance: bool,
    /// What is odd about the pipeline but not wrong.
    pub warnings: Vec<Diagnostic>,
}

/// What somebody asks for: a pipeline file and what to do with it.
#[derive(Clone, Copy)]
pub struct Invocation<'a> {
    /// The pipeline file.
    pub file: &'a Path,
    /// The stage kinds that there are.
    pub registry: &'a Registry,
    /// Profile, overrides, workspace of the pipeline.
    pub load: &'a LoadOptions,
    /// How to run.
    pub options: &'a RunOptions,
    /// What to do with the lock file.
    pub lock: LockMode,
    /// Where.
    pub workspace: &'a Workspace,
}

/// Runs a pipeline file.
pub fn run_file(
    asked: &Invocation<'_>,
    watcher: &Arc<dyn Watcher>,
    cancel: &Cancel,
) -> Result<SessionSummary, SessionError> {
    let Invocation {
        file,
        registry,
        load: load_options,
        options,
        lock: lock_mode,
        workspace,
    } = *asked;
    let started = Instant::now();
    let invocation = noop::invocation(file, load_options, registry).ok();
    let is_plain = lock_mode == LockMode::Ignore
        && options.force.is_empty()
        && options.until.is_empty()
        && options.from.is_empty()
        && !options.paranoid;
    if let Some(invocation) = &invocation
        && is_plain
        && let Some(mut record) = noop::unchanged(workspace, invocation)
    {
        record.seconds = started.elapsed().as_secs_f64();
        if !options.unrecorded {
            let folder = RunFolder::create(workspace).map_err(RunError::State)?;
            record = crate::history::RunRecord {
                id: folder.id.clone(),
                started: folder.started.clone(),
                ..record
            };
            folder.finish(&record).map_err(RunError::State)?;
        }
        watcher.event(&Event::Planned {
            stages: record.stages.len(),
        });
        return Ok(SessionSummary {
            run: RunSummary {
                record,
                interrupted: false,
            },
            differences: Vec::new(),
            at_a_glance: true,
            warnings: Vec::new(),
        });
    }
    let graph = load(file, load_options, registry).map_err(SessionError::Pipeline)?;
    let lock_file = lock_path(file);
    let locked = match lock_mode {
        LockMode::Ignore | LockMode::Write => None,
        LockMode::Require => {
            let lock = LockFile::read(&lock_file)?;
            Some(lock.required_entries(&graph, &lock_file)?.clone())
        }
    };
    if let Some(entries) = &locked {
        // What can be seen without running anything is seen first.
        let differences = verify_locked(&graph, workspace, entries)?;
        if !differences.is_empty() {
            let record = RunFolder::nowhere().record();
            return Ok(SessionSummary {
                run: RunSummary {
                    record,
                    interrupted: false,
                },
                differences,
                at_a_glance: false,
                warnings: graph.warnings,
            });
        }
    }
    let options = &RunOptions {
        file: file.display().to_string(),
        ..options.clone()
    };
    let summary = run(&graph, workspace, options, watcher, cancel)?;
    let mut differences = Vec::new();
    if summary.succeeded() {
        show_views(&graph, workspace, &summary, watcher)?;
        match (&locked, lock_mode) {
            (Some(entries), _) => differences = compare(&graph, workspace, options, entries)?,
            (None, LockMode::Write) => write_lock(&graph, workspace, options, &lock_file)?,
            (None, _) => {}
        }
        if let Some(invocation) = &invocation
            && options.until.is_empty()
            && options.from.is_empty()
        {
            let path = workspace.state().join("stat.bin");
            let stat_cache = StatCache::load(&path, false);
            noop::remember(workspace, invocation, &graph, &summary.record, &stat_cache);
            let _ = stat_cache.save();
        }
    }
    Ok(SessionSummary {
        run: summary,
        differences,
        at_a_glance: false,
        warnings: graph.warnings,
    })
}

fn compare(
    graph: &Graph,
    workspace: &Workspace,
    options: &RunOptions,
    entries: &BTreeMap<String, LockEntry>,
) -> Result<Vec<LockDifference>, SessionError> {
    let mut differences = Vec::new();
    for standing in standings(graph, workspace, &without_force(options))? {
        if let (Some(entry), Some(ingredients)) =
            (entries.get(&standing.name), &standing.ingredients)
        {
            let outputs = Some(&standing.outputs);
            differences.extend(lock::differences(
                &standing.name,
                entry,
                ingredients,
                outputs,
            ));
        }
    }
    Ok(differences)
}

fn write_lock(
    graph: &Graph,
    workspace: &Workspace,
    options: &RunOptions,
    path: &Path,
) -> Result<(), SessionError> {
    let mut lock = LockFile::read_or_empty(path)?;
    let mut entries = BTreeMap::new();
    for standing in standings(graph, workspace, &without_force(options))? {
        if let Some(ingredients) = &standing.ingredients {
            entries.insert(
                standing.name,
                LockEntry::new(ingredients, &standing.outputs),
            );
        }
    }
    lock.set_entries(graph, entries);
    Ok(lock.write(path)?)
}

fn without_force(options: &RunOptions) -> RunOptions {
    RunOptions {
        force: Vec::new(),
        unrecorded: true,
        ..options.clone()
    }
}

/// Brings the workspace paths that show outputs up to date. What somebody has edited there is replaced, with a warning.
fn show_views(
    graph: &Graph,
    workspace: &Workspace,
    summary: &RunSummary,
    watcher: &Arc<dyn Watcher>,
) -> Result<(), SessionError> {
    let mut store = None;
    let stat_path = workspace.state().join("stat.bin");
    let stat_cache = StatCache::load(&stat_path, false);
    for instance in graph
        .instances
        .iter()
        .filter(|instance| !instance.views.is_empty())
    {
        let Some(stage) = summary.record.stage(&instance.name) else {
            continue;
        };
        for (port, path) in &instance.views {
            let Some(manifest) = stage.outputs.get(port) else {
                continue;
            };
            let mut digest = |path: &Path| stat_cache.digest(path).ok();
            if views::is_current(manifest, path, &mut digest) {
                continue;
            }
            let existed = path.exists();
            let store = match &mut store {
                Some(store) => store,
                none => none.insert(
                    Store::open(workspace.cache(), natron_cache::Durability::default())
                        .map_err(RunError::from)?,
                ),
            };
            let artifact = store.open_artifact(manifest).map_err(RunError::from)?;
            views::write_view(manifest, &artifact, path).map_err(|source| SessionError::View {
                path: path.clone(),
                source,
            })?;
            if existed && stage.outcome == crate::Outcome::Hit {
                let message = format!(
                    "`{}` differed from the result and was restored",
                    path.display()
                );
                let stage = instance.name.as_str();
                watcher.event(&Event::Log {
                    stage,
                    level: Level::Warning,
                    message: &message,
                });
            }
        }
    }
    let _ = stat_cache.save();
    Ok(())
}
