//! A whole invocation: load the pipeline file, run it, compare with or write the lock file, keep the views, leave a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use natron_artifacts::{Cancel, Digest, Level, Registry};
use natron_cache::{StatCache, Store};
use thiserror::Error;

use crate::{
    Diagnostic, Event, Graph, LoadOptions, LockDifference, LockEntry, LockError, LockFile, Outcome,
    RunError, RunOptions, RunSummary, Watcher, Workspace,
    execute::{AtHand, run_within, select},
    expand, gpus,
    history::{LastResult, RunFolder, RunRecord, StageRecord, has_record},
    load_text, lock, lock_path,
    noop::{self, Glance},
    outline::{Edited, Outline},
    verify_locked,
    views::{self, Written},
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
    /// A view must not be written where it is to be shown.
    #[error("the view `{}` cannot be shown: {why}", path.display())]
    ViewRefused {
        /// Where.
        path: PathBuf,
        /// Why not, and how to mend it.
        why: String,
    },
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
    /// The run. Its record may leave out stages that were seen to have their results, see [`RunRecord::fill_in`].
    pub run: RunSummary,
    /// How it differs from the lock file, where that was asked for.
    pub differences: Vec<LockDifference>,
    /// Whether the fast path saw that nothing had moved.
    pub at_a_glance: bool,
    /// What is odd about the pipeline but not wrong.
    pub warnings: Vec<Diagnostic>,
    /// The pipeline, if the run came to its end and had to read it; of an edited one the stages that had to be looked at.
    pub graph: Option<Box<Graph>>,
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
    let invocation = noop::invocation(file, load_options, registry);
    let is_plain = lock_mode == LockMode::Ignore
        && options.force.is_empty()
        && options.until.is_empty()
        && options.from.is_empty()
        && !options.paranoid;
    if is_plain && let Some(summary) = not_all(asked, &invocation, started, watcher, cancel) {
        return summary;
    }
    let mut phases = Phases {
        asked,
        options: RunOptions {
            file: file.display().to_string(),
            ..options.clone()
        },
        load: load_options.clone(),
        watcher,
        cancel,
        folder: None,
        ran: BTreeMap::new(),
    };
    let mut graph = match phases.graph()? {
        ControlFlow::Continue(graph) => graph,
        ControlFlow::Break(failed) => return Ok(*failed),
    };
    let lock_file = lock_path(file);
    let locked = match lock_mode {
        LockMode::Ignore => None,
        LockMode::Write => {
            // A file that cannot be read is found before anything runs.
            LockFile::read_or_empty(&lock_file)?;
            None
        }
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
                    ingredients: BTreeMap::new(),
                },
                differences,
                at_a_glance: false,
                warnings: graph.warnings,
                graph: None,
            });
        }
    }
    views::check(&graph, workspace, file)?;
    // What the lock names may be replaced by what the run makes: it is looked for before.
    let kept = match &locked {
        Some(entries) => lock::kept_results(workspace, entries).map_err(RunError::from)?,
        None => BTreeMap::new(),
    };
    let summary = phases.run(&graph, started)?;
    let mut differences = Vec::new();
    // What is done is shown, whatever became of the rest.
    let shown = show_views(&graph, workspace, &summary, watcher);
    if summary.succeeded() {
        shown?;
        match (&locked, lock_mode) {
            (Some(entries), _) => {
                differences = lock::compare_run(&graph, workspace, &summary, entries, &kept)
                    .map_err(RunError::from)?;
            }
            (None, LockMode::Write) => write_lock(&graph, &summary, &lock_file)?,
            (None, _) => {}
        }
        let is_whole = summary.record.stages.iter().all(|s| s.outcome.is_done());
        let is_seen = !graph
            .instances
            .iter()
            .any(gpus::decide_by_more_than_their_number);
        if is_whole && is_seen && options.until.is_empty() && options.from.is_empty() {
            noop::remember(workspace, &invocation, file, &graph, &summary, None);
            if let Some(outline) = Outline::of(&graph, file, &summary.record.id) {
                outline.write(workspace, &invocation);
            }
        }
    }
    Ok(SessionSummary {
        run: summary,
        differences,
        at_a_glance: false,
        warnings: std::mem::take(&mut graph.warnings),
        graph: Some(Box::new(graph)),
    })
}

/// What the run gives, if not all stages have to be looked at.
fn not_all(
    asked: &Invocation<'_>,
    invocation: &Digest,
    started: Instant,
    watcher: &Arc<dyn Watcher>,
    cancel: &Cancel,
) -> Option<Result<SessionSummary, SessionError>> {
    match noop::glance(asked.workspace, invocation, asked.file) {
        Glance::Same(unchanged) => Some(at_a_glance(asked, unchanged, started, watcher)),
        Glance::Edited(memory) => {
            let edited = EditedRun::prepare(asked, invocation, memory)?;
            Some(edited.run(asked, invocation, started, watcher, cancel))
        }
        Glance::Moved => None,
    }
}

/// Watches the last part of a run: what earlier parts executed has been reported.
struct Continued {
    watcher: Arc<dyn Watcher>,
    ran: BTreeSet<String>,
}

impl Watcher for Continued {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Finished {
                stage,
                outcome: Outcome::Hit,
                ..
            } if self.ran.contains(*stage) => {}
            event => self.watcher.event(event),
        }
    }
}

/// The parts of a run: first, as often as it takes, the stages that list axes; then all of it.
struct Phases<'a> {
    asked: &'a Invocation<'a>,
    options: RunOptions,
    /// With the values of axes that are known by now.
    load: LoadOptions,
    watcher: &'a Arc<dyn Watcher>,
    cancel: &'a Cancel,
    /// Where all parts are recorded, once there is something to record.
    folder: Option<Arc<RunFolder>>,
    /// What was executed in earlier parts.
    ran: BTreeMap<String, StageRecord>,
}

impl Phases<'_> {
    fn folder(&mut self) -> Result<Arc<RunFolder>, RunError> {
        if let Some(folder) = &self.folder {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(if self.options.unrecorded {
            RunFolder::nowhere()
        } else {
            RunFolder::create(self.asked.workspace)?
        });
        self.folder = Some(Arc::clone(&folder));
        Ok(folder)
    }

    fn expanded(&mut self) -> Result<Graph, SessionError> {
        let Invocation {
            file,
            registry,
            workspace,
            ..
        } = *self.asked;
        expand::expanded(file, &mut self.load, registry, workspace).map_err(SessionError::Pipeline)
    }

    /// The graph with all axes that the run needs; the summary of the run when it ended before they were known.
    fn graph(&mut self) -> Result<ControlFlow<Box<SessionSummary>, Graph>, SessionError> {
        let workspace = self.asked.workspace;
        let mut graph = self.expanded()?;
        while awaits_axes(&graph, &self.options) {
            let mut producers = expand::producers(&graph);
            if !self.options.from.is_empty() {
                // What lies above the stages to start at has to be there already.
                let stage = producers.swap_remove(0);
                return Err(RunError::NotCached { stage }.into());
            }
            let listing = RunOptions {
                until: producers,
                force: self.still_forced(&graph),
                ..self.options.clone()
            };
            let folder = self.folder()?;
            let (watcher, cancel) = (self.watcher, self.cancel);
            let summary = run_within(&graph, workspace, &listing, None, &folder, watcher, cancel)?;
            if !summary.succeeded() || summary.interrupted {
                folder.finish(&summary.record).map_err(RunError::State)?;
                return Ok(ControlFlow::Break(Box::new(SessionSummary {
                    run: summary,
                    differences: Vec::new(),
                    at_a_glance: false,
                    warnings: graph.warnings,
                    graph: None,
                })));
            }
            let stages = &summary.record.stages;
            let outputs = stages.iter().map(|s| (s.name.clone(), s.outputs.clone()));
            let values = expand::values(&graph, workspace, &outputs.collect())?;
            if values.is_empty() {
                return Err(RunError::Source {
                    stage: listing.until.join(", "),
                    message: "what it made is not in the store any more".to_owned(),
                }
                .into());
            }
            let executed = stages.iter().filter(|stage| stage.outcome != Outcome::Hit);
            self.ran
                .extend(executed.map(|stage| (stage.name.clone(), stage.clone())));
            self.load.axes.extend(values);
            graph = match self.expanded() {
                Ok(graph) => graph,
                Err(mistakes) => {
                    // The values do not fit; what ran has run.
                    folder.finish(&summary.record).map_err(RunError::State)?;
                    return Err(mistakes);
                }
            };
        }
        Ok(ControlFlow::Continue(graph))
    }

    /// Runs the whole graph and writes the record.
    fn run(&mut self, graph: &Graph, started: Instant) -> Result<RunSummary, SessionError> {
        // A name that means nothing is a mistake, also where what it was to name ran already.
        select(graph, &self.options.force)?;
        let last = RunOptions {
            force: self.still_forced(graph),
            ..self.options.clone()
        };
        let (workspace, folder) = (self.asked.workspace, self.folder()?);
        let watcher: Arc<dyn Watcher> = if self.ran.is_empty() {
            Arc::clone(self.watcher)
        } else {
            Arc::new(Continued {
                watcher: Arc::clone(self.watcher),
                ran: self.ran.keys().cloned().collect(),
            })
        };
        let mut summary = run_within(
            graph,
            workspace,
            &last,
            None,
            &folder,
            &watcher,
            self.cancel,
        )?;
        // What ran to list an axis has run, although it hits by now.
        for stage in &mut summary.record.stages {
            if stage.outcome == Outcome::Hit
                && let Some(earlier) = self.ran.remove(&stage.name)
            {
                *stage = earlier;
            }
        }
        summary.record.seconds = started.elapsed().as_secs_f64();
        folder.finish(&summary.record).map_err(RunError::State)?;
        Ok(summary)
    }

    /// The stages to execute anyway that are known and have not been executed yet.
    fn still_forced(&self, graph: &Graph) -> Vec<String> {
        let force = &self.options.force;
        let wanted = graph.instances.iter().filter(|instance| {
            let is_named = force
                .iter()
                .any(|name| *name == instance.name || *name == instance.stage);
            is_named && !self.ran.contains_key(&instance.name)
        });
        wanted.map(|instance| instance.name.clone()).collect()
    }
}

/// Whether axes have to be listed before the run that was asked for: not when it stops at stages that are known, and not
/// when it names one that there will never be.
fn awaits_axes(graph: &Graph, options: &RunOptions) -> bool {
    let is_known = |name: &String| {
        let mut instances = graph.instances.iter();
        instances.any(|instance| instance.name == *name || instance.stage == *name)
    };
    let is_deferred = |name: &String| {
        let stage = name.split('[').next().unwrap_or_default();
        graph
            .deferred
            .iter()
            .any(|deferred| deferred.stage == stage)
    };
    let stops_before = !options.until.is_empty() && options.until.iter().all(is_known);
    let mut named = options
        .until
        .iter()
        .chain(&options.force)
        .chain(&options.from);
    let is_mistaken = named.any(|name| !is_known(name) && !is_deferred(name));
    !graph.awaited.is_empty() && !stops_before && !is_mistaken
}

/// The summary of a run that saw at a glance that nothing had moved. Its record lists no stages, see
/// [`RunRecord::fill_in`].
fn at_a_glance(
    asked: &Invocation<'_>,
    unchanged: noop::Unchanged,
    started: Instant,
    watcher: &Arc<dyn Watcher>,
) -> Result<SessionSummary, SessionError> {
    let folder = if asked.options.unrecorded {
        RunFolder::nowhere()
    } else {
        RunFolder::create(asked.workspace).map_err(RunError::State)?
    };
    watcher.event(&Event::Planned {
        stages: unchanged.stages,
        at_hand: unchanged.stages,
    });
    let record = RunRecord {
        pipeline: unchanged.pipeline,
        file: asked.options.file.clone(),
        profile: asked.load.profile.clone(),
        sets: asked.load.sets.clone(),
        same_as: Some(unchanged.run),
        n_stages: unchanged.stages,
        seconds: started.elapsed().as_secs_f64(),
        ..folder.record()
    };
    folder.finish(&record).map_err(RunError::State)?;
    Ok(SessionSummary {
        run: RunSummary {
            record,
            interrupted: false,
            ingredients: BTreeMap::new(),
        },
        differences: Vec::new(),
        at_a_glance: true,
        warnings: Vec::new(),
        graph: None,
    })
}

/// A run of a pipeline of which some stages were edited and nothing else has moved: only of those, and of what has to do with
/// them, something has to be found out.
struct EditedRun {
    edited: Edited,
    /// The edited stages, what lies below them, and what those read.
    graph: Graph,
    /// What was remembered of all stages.
    memory: noop::Memory,
    outline: Outline,
    last: BTreeMap<String, LastResult>,
    /// The stages that the run before recorded.
    carried: Vec<StageRecord>,
}

impl EditedRun {
    /// Nothing if all stages have to be looked at.
    fn prepare(asked: &Invocation<'_>, invocation: &Digest, memory: noop::Memory) -> Option<Self> {
        let Invocation {
            file,
            registry,
            load,
            options,
            workspace,
            ..
        } = *asked;
        let outline = Outline::read(workspace, invocation)?;
        if options.unrecorded || outline.run != memory.found.run {
            return None;
        }
        let (last, loaded) = rayon::join(
            || {
                // The record of this run goes on from that one.
                has_record(workspace, &outline.whole)
                    .then(|| LastResult::of(workspace, &outline.pipeline))
            },
            || {
                let edited = outline.edited(std::fs::read_to_string(file).ok()?)?;
                let name = file.display().to_string();
                let graph = load_text(&name, &edited.reduced, load, registry).ok()?;
                Some((edited.accept(graph, file, load)?, edited))
            },
        );
        let (last, (graph, edited)) = (last?, loaded?);
        let mut carried = Vec::new();
        if outline.whole != outline.run {
            carried = RunRecord::read_own(workspace, &outline.run).ok()?.stages;
        }
        let is_worth_it = outline.is_worth(carried.len() + edited.others().len());
        is_worth_it.then_some(Self {
            edited,
            graph,
            memory,
            outline,
            last,
            carried,
        })
    }

    fn run(
        self,
        asked: &Invocation<'_>,
        invocation: &Digest,
        started: Instant,
        watcher: &Arc<dyn Watcher>,
        cancel: &Cancel,
    ) -> Result<SessionSummary, SessionError> {
        let (workspace, graph) = (asked.workspace, self.graph);
        let options = RunOptions {
            file: asked.file.display().to_string(),
            ..asked.options.clone()
        };
        let at_hand = AtHand {
            stages: self.outline.len() - self.edited.len(),
            last: self.last,
        };
        let folder = Arc::new(RunFolder::create(workspace).map_err(RunError::State)?);
        let mut summary = run_within(
            &graph,
            workspace,
            &options,
            Some(at_hand),
            &folder,
            watcher,
            cancel,
        )?;
        let record = &mut summary.record;
        record.same_as = Some(self.outline.whole.clone());
        let others = self.edited.others();
        let is_other =
            |stage: &StageRecord| stage.outcome != Outcome::Hit || others.contains(&stage.name);
        // What had to be made again may be other than what stages read that were not looked at.
        let has_made_again = record
            .stages
            .iter()
            .any(|stage| stage.outcome != Outcome::Hit && !others.contains(&stage.name));
        record.stages.retain(is_other);
        for stage in self.carried {
            if record.stage(&stage.name).is_none() {
                record.stages.push(StageRecord {
                    outcome: Outcome::Hit,
                    ..stage
                });
            }
        }
        record.seconds = started.elapsed().as_secs_f64();
        folder.finish(record).map_err(RunError::State)?;
        if has_made_again {
            noop::forget_one(workspace, invocation);
        } else if record.stages.iter().all(|stage| stage.outcome.is_done()) {
            let (file, memory) = (asked.file, Some(self.memory));
            noop::remember(workspace, invocation, file, &graph, &summary, memory);
            let outline = self.outline.after(&self.edited, &graph, &summary.record.id);
            if let Some(outline) = outline {
                outline.write(workspace, invocation);
            }
        }
        Ok(SessionSummary {
            run: summary,
            differences: Vec::new(),
            at_a_glance: false,
            warnings: Vec::new(),
            graph: Some(Box::new(graph)),
        })
    }
}

/// Writes what the run itself found: files that were changed meanwhile do not matter.
fn write_lock(graph: &Graph, summary: &RunSummary, path: &Path) -> Result<(), SessionError> {
    let mut lock = LockFile::read_or_empty(path)?;
    let stages = summary.record.stages.iter();
    let entries = stages
        .filter(|stage| stage.outcome.is_done())
        .filter_map(|stage| {
            let ingredients = summary.ingredients.get(&stage.name)?;
            Some((
                stage.name.clone(),
                LockEntry::new(ingredients, &stage.outputs),
            ))
        });
    lock.set_entries(graph, entries.collect());
    Ok(lock.write(path)?)
}

/// Brings the workspace paths that show outputs up to date. What somebody has edited there is replaced, with a warning;
/// what no run has written there is left alone, with an error.
fn show_views(
    graph: &Graph,
    workspace: &Workspace,
    summary: &RunSummary,
    watcher: &Arc<dyn Watcher>,
) -> Result<(), SessionError> {
    if graph
        .instances
        .iter()
        .all(|instance| instance.views.is_empty())
    {
        return Ok(());
    }
    let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), false);
    let mut written = Written::read(workspace);
    let mut is_changed = false;
    let mut outdated = Vec::new();
    for instance in &graph.instances {
        let Some(stage) = summary.record.stage(&instance.name) else {
            continue;
        };
        for (port, path) in &instance.views {
            let Some(manifest) = stage.outputs.get(port) else {
                continue;
            };
            let mut digest = |path: &Path| stat_cache.digest(path).ok();
            if views::is_current(manifest, path, &mut digest) {
                let found = stat_cache.digest(path).ok();
                is_changed |= !written.says(path, found);
                written.note(path, found);
                continue;
            }
            let found = stat_cache.digest(path).ok();
            if path.symlink_metadata().is_ok() && !written.knows(path) {
                let why = "something is there that no run has written; move it away, or name another path";
                return Err(SessionError::ViewRefused {
                    path: path.clone(),
                    why: why.to_owned(),
                });
            }
            if found.is_some() && !written.is_as_left(path, found) {
                let message = format!(
                    "`{}` was edited and is replaced by the result",
                    path.display()
                );
                let stage = instance.name.as_str();
                watcher.event(&Event::Log {
                    stage,
                    level: Level::Warning,
                    message: &message,
                });
            }
            outdated.push((manifest, path));
        }
    }
    if !outdated.is_empty() {
        // A run that is killed here leaves views that are half written; the next one must know them for ours.
        for (_, path) in &outdated {
            written.announce(path);
        }
        written.save(workspace).map_err(RunError::State)?;
        is_changed = true;
        let store = Store::open(workspace.cache(), natron_cache::Durability::default())
            .map_err(RunError::from)?;
        for (manifest, path) in outdated {
            let artifact = store.open_artifact(manifest).map_err(RunError::from)?;
            views::write_view(manifest, &artifact, path).map_err(|source| SessionError::View {
                path: path.clone(),
                source,
            })?;
            // A disk may say that it has written and not have done so; nobody would look again.
            if !views::is_current(manifest, path, &mut |path| stat_cache.digest(path).ok()) {
                let source = std::io::Error::other("what is there is not what was written");
                return Err(SessionError::View {
                    path: path.clone(),
                    source,
                });
            }
            written.note(path, stat_cache.digest(path).ok());
        }
    }
    if is_changed {
        written.save(workspace).map_err(RunError::State)?;
    }
    // What is lost is read again next time.
    let _ = stat_cache.save();
    Ok(())
}
