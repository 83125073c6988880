//! Runs a graph: decides what hits, starts what does not, in parallel, and writes down what happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use natron_artifacts::{
    Artifact, Cancel, Conditions, DeviceGrant, Digest, Level, Manifest, StageError,
};
use natron_cache::{
    Durability, Hit, Ingredients, InputIngredient, StageKey, StatCache, Store, StoreError,
};
use rayon::prelude::*;
use thiserror::Error;

use crate::{
    DeviceChoice, Event, Graph, InputEdge, Instance, OnFailure, Outcome, Part, Watcher, Workspace,
    gpus,
    history::{LastResult, RunFolder, RunRecord, StageRecord, host},
    ingredients::{
        Bound, Seen, SourceError, Sources, lineage, output_ingredient, source_digest, with_inputs,
    },
    ready::ReadyQueue,
    schedule::{Capacity, Grant, Pool, Wanted, available_memory_bytes, remaining_seconds},
    source_text::SourceTexts,
    worker::{Executed, Job, JobError, Shared, open},
    workers::Hall,
};

/// Fewer stages than this are looked up by one thread.
const WORTH_THREADS: usize = 64;

/// A run has at most this many threads for each core, whatever it was asked for.
const MOST_THREADS_PER_CORE: usize = 4;

/// No retry waits longer than this.
const LONGEST_BACKOFF: Duration = Duration::from_hours(1);

/// What a run shall do beyond the graph.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Threads in all; the machine's by default.
    pub jobs: Option<usize>,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Stages (or instances) to execute even if their results are there.
    pub force: Vec<String>,
    /// Stages (or instances) to stop at; only what they need runs.
    pub until: Vec<String>,
    /// Stages (or instances) to start at: only they and what depends on them may run, the rest has to be in the store.
    pub from: Vec<String>,
    /// Hash every source again, whatever the stat cache remembers.
    pub paranoid: bool,
    /// Whether results survive a power cut.
    pub durability: Durability,
    /// What surrounds the stages, as far as they can tell.
    pub conditions: Conditions,
    /// Do not write a run record.
    pub unrecorded: bool,
    /// The pipeline file as the user named it, for the run record.
    pub file: String,
}

/// Why there was no run, or why it broke off.
#[derive(Debug, Error)]
pub enum RunError {
    /// A stage that an option names does not exist.
    #[error("no stage is called `{name}`")]
    UnknownStage {
        /// The name.
        name: String,
        /// The nearest one.
        did_you_mean: Option<String>,
    },
    /// A stage above those to start at has no result.
    #[error("stage `{stage}` lies above those to start at, and its result is not in the cache")]
    NotCached {
        /// Instance name.
        stage: String,
    },
    /// The pipeline asks for a GPU that nothing would use.
    #[error("the pipeline says `device = \"cuda\"`, and none of its stages can compute on a GPU")]
    NoGpu,
    /// A stage wants more GPUs than there are.
    #[error("stage `{stage}` wants {wanted}, and this machine has {found}")]
    TooFewGpus {
        /// Instance name.
        stage: String,
        /// How many, with how much memory.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A source could not be read.
    #[error("stage `{stage}`: {message}")]
    Source {
        /// Instance name.
        stage: String,
        /// Which file, and why.
        message: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the program's own state could not be written.
    #[error("cannot write below `.natron`: {0}")]
    State(#[from] std::io::Error),
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// Its record.
    pub record: RunRecord,
    /// Whether it was stopped.
    pub interrupted: bool,
    /// What the keys were made of, by instance name, where they became known.
    pub ingredients: BTreeMap<String, Ingredients>,
}

impl RunSummary {
    /// Whether every stage has its outputs.
    pub fn succeeded(&self) -> bool {
        self.record
            .stages
            .iter()
            .all(|stage| stage.outcome.is_done() || stage.ignored)
    }
}

/// How the stages of a graph stand before a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Instance name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Key, where it is known already.
    pub key: Option<StageKey>,
    /// The key's ingredients, where they are known already.
    pub ingredients: Option<Ingredients>,
    /// What a run would do.
    pub forecast: Forecast,
    /// Outputs of a hit.
    pub outputs: BTreeMap<String, Manifest>,
    /// Seconds that it took when it last ran, where known.
    pub expected_seconds: Option<f64>,
}

/// What a run would do with a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Forecast {
    /// Its result is there.
    Hit,
    /// It will run.
    Run,
    /// It will run if what is above it gives something new.
    Maybe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Some producers are not done.
    Waiting,
    /// Its key is known and not in the store.
    Ready,
    Running,
    /// It failed and is tried again after a while.
    Resting,
    Done,
    Failed,
    Skipped,
    Interrupted,
    /// Not part of this run.
    Left,
}

struct Node {
    state: State,
    key: Option<StageKey>,
    ingredients: Option<Ingredients>,
    outputs: BTreeMap<String, Manifest>,
    outcome: Outcome,
    seconds: f64,
    error: Option<String>,
    /// Executions so far.
    attempts: u32,
    /// Execute even if a result is there.
    forced: bool,
}

/// Runs the graph.
pub fn run(
    graph: &Graph,
    workspace: &Workspace,
    options: &RunOptions,
    watcher: &Arc<dyn Watcher>,
    cancel: &Cancel,
) -> Result<RunSummary, RunError> {
    let started = Instant::now();
    let folder = Arc::new(if options.unrecorded {
        RunFolder::nowhere()
    } else {
        RunFolder::create(workspace)?
    });
    let mut summary = run_within(graph, workspace, options, None, &folder, watcher, cancel)?;
    summary.record.seconds = started.elapsed().as_secs_f64();
    folder.finish(&summary.record)?;
    Ok(summary)
}

/// What is known before a run of some stages of a pipeline.
pub(crate) struct AtHand {
    /// How many other stages there are, of which it was seen at a glance that they have their results.
    pub(crate) stages: usize,
    /// The newest results in earlier runs.
    pub(crate) last: BTreeMap<String, LastResult>,
}

/// Runs the graph as a part of the run whose folder this is. The record is left to the caller to write.
pub(crate) fn run_within(
    graph: &Graph,
    workspace: &Workspace,
    options: &RunOptions,
    at_hand: Option<AtHand>,
    folder: &Arc<RunFolder>,
    watcher: &Arc<dyn Watcher>,
    cancel: &Cancel,
) -> Result<RunSummary, RunError> {
    let started = Instant::now();
    let (shared, watching) = (Arc::clone(folder), Arc::clone(watcher));
    let mut run = Run::open(graph, workspace, options, at_hand, shared, watching, false)?;
    let selected = run
        .nodes
        .iter()
        .filter(|node| node.state != State::Left)
        .count();
    run.shared.folder.begin(&run.head())?;
    watcher.event(&Event::Planned {
        stages: run.n_at_hand + selected,
        at_hand: run.n_at_hand,
    });
    let executed = run.execute(options, cancel);
    let ingredients = run.take_ingredients();
    run.save_stat_cache();
    let record = run.record(started.elapsed().as_secs_f64());
    let interrupted = match executed {
        Ok(interrupted) => interrupted,
        Err(error) => {
            // What it did until then is worth knowing; the error is worth more than another one.
            let _ = folder.finish(&record);
            return Err(error);
        }
    };
    Ok(RunSummary {
        record,
        interrupted,
        ingredients,
    })
}

/// How each selected stage stands, without running any.
pub fn standings(
    graph: &Graph,
    workspace: &Workspace,
    options: &RunOptions,
) -> Result<Vec<Standing>, RunError> {
    let unwatched = Arc::new(crate::events::Unwatched);
    let mut run = Run::open(
        graph,
        workspace,
        options,
        None,
        Arc::new(RunFolder::nowhere()),
        unwatched,
        true,
    )?;
    run.settle_all()?;
    run.save_stat_cache();
    let standings = graph
        .instances
        .iter()
        .zip(&run.nodes)
        .filter(|(_, node)| node.state != State::Left);
    Ok(standings
        .map(|(instance, node)| Standing {
            name: instance.name.clone(),
            kind: instance.kind.clone(),
            key: node.key,
            ingredients: node.ingredients.clone(),
            forecast: match node.state {
                State::Done => Forecast::Hit,
                State::Ready => Forecast::Run,
                _ => Forecast::Maybe,
            },
            outputs: node.outputs.clone(),
            expected_seconds: run.last.get(&instance.name).map(|stage| stage.seconds),
        })
        .collect())
}

/// The indices of the instances that `names` mean: a stage's name means all its instances.
pub fn select(graph: &Graph, names: &[String]) -> Result<BTreeSet<usize>, RunError> {
    let mut selected = BTreeSet::new();
    for name in names {
        let before = selected.len();
        let matching = graph.instances.iter().enumerate();
        selected.extend(
            matching
                .filter(|(_, i)| i.name == *name || i.stage == *name)
                .map(|(index, _)| index),
        );
        if selected.len() == before
            && !graph
                .instances
                .iter()
                .any(|i| i.name == *name || i.stage == *name)
        {
            let known = graph.instances.iter();
            let known = known.flat_map(|i| [i.name.as_str(), i.stage.as_str()]);
            let did_you_mean = crate::did_you_mean::nearest(name, known).map(str::to_owned);
            return Err(RunError::UnknownStage {
                name: name.clone(),
                did_you_mean,
            });
        }
    }
    Ok(selected)
}

/// `indices` and all that they read from, however far.
pub fn with_producers(graph: &Graph, indices: &BTreeSet<usize>) -> BTreeSet<usize> {
    let mut wanted = BTreeSet::new();
    let mut open: Vec<usize> = indices.iter().copied().collect();
    while let Some(next) = open.pop() {
        if wanted.insert(next) {
            open.extend(graph.instances[next].producers());
        }
    }
    wanted
}

/// `indices` and all that reads from them, however far.
fn with_consumers(graph: &Graph, indices: &BTreeSet<usize>) -> BTreeSet<usize> {
    let mut reached = indices.clone();
    // Producers come first in the list, so one pass reaches everything.
    for (index, instance) in graph.instances.iter().enumerate() {
        if instance
            .producers()
            .any(|producer| reached.contains(&producer))
        {
            reached.insert(index);
        }
    }
    reached
}

/// What a look at a stage found.
struct Looked {
    key: StageKey,
    ingredients: Ingredients,
    hit: Option<Hit>,
}

pub(crate) struct Run<'a> {
    graph: &'a Graph,
    shared: Arc<Shared>,
    nodes: Vec<Node>,
    consumers: Vec<Vec<usize>>,
    /// For each stage, how many of its producers are not done.
    missing: Vec<usize>,
    /// For each stage, how many of its consumers may still read its outputs.
    readers: Vec<usize>,
    remaining: Vec<f64>,
    ready: ReadyQueue,
    /// The newest results of each stage in earlier runs.
    last: BTreeMap<String, LastResult>,
    /// See [`AtHand::stages`].
    n_at_hand: usize,
    /// Those that may be executed; the others have to be in the store.
    allowed: BTreeSet<usize>,
    file: String,
    /// Stages that are tried again at a time.
    resting: Vec<(Instant, usize)>,
    /// What keys hold of parts of tables, by the table and the part.
    seen_rows: Mutex<BTreeMap<(Digest, String), InputIngredient>>,
}

/// Why it is not known what comes in at a port.
enum Unbound {
    Source(SourceError),
    Job(JobError),
}

impl From<SourceError> for Unbound {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl<'a> Run<'a> {
    fn open(
        graph: &'a Graph,
        workspace: &Workspace,
        options: &RunOptions,
        at_hand: Option<AtHand>,
        folder: Arc<RunFolder>,
        watcher: Arc<dyn Watcher>,
        only_looks: bool,
    ) -> Result<Self, RunError> {
        let uses_gpus = graph.instances.iter().any(|instance| instance.gpus > 0);
        if graph.device == DeviceChoice::Cuda && !uses_gpus && graph.deferred.is_empty() {
            return Err(RunError::NoGpu);
        }
        let open_store = || -> Result<Store, RunError> {
            if only_looks {
                return Ok(Store::open_to_read(workspace.cache())?);
            }
            std::fs::create_dir_all(workspace.state())?;
            let store = Store::open(workspace.cache(), options.durability)?;
            store.register(workspace.root())?;
            Ok(store)
        };
        let last = || LastResult::of(workspace, &graph.name);
        let n_at_hand = at_hand.as_ref().map_or(0, |at_hand| at_hand.stages);
        let (store, last) = match at_hand {
            Some(at_hand) => (open_store(), at_hand.last),
            None if graph.instances.len() < WORTH_THREADS => (open_store(), last()),
            None => rayon::join(open_store, last),
        };
        let store = store?;
        let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), options.paranoid);
        let forced = select(graph, &options.force)?;
        let until = select(graph, &options.until)?;
        let mut selected: BTreeSet<usize> = if options.until.is_empty() {
            (0..graph.instances.len()).collect()
        } else {
            with_producers(graph, &until)
        };
        let allowed = if options.from.is_empty() {
            selected.clone()
        } else {
            let below = with_consumers(graph, &select(graph, &options.from)?);
            &selected & &below
        };
        selected = &selected & &with_producers(graph, &allowed);
        let mut consumers = vec![Vec::new(); graph.instances.len()];
        for (index, instance) in graph.instances.iter().enumerate() {
            for producer in distinct_producers(instance) {
                consumers[producer].push(index);
            }
        }
        let seconds: Vec<f64> = graph
            .instances
            .iter()
            .map(|instance| last.get(&instance.name).map_or(1.0, |stage| stage.seconds))
            .collect();
        let nodes = (0..graph.instances.len()).map(|index| Node {
            state: if selected.contains(&index) {
                State::Waiting
            } else {
                State::Left
            },
            key: None,
            ingredients: None,
            outputs: BTreeMap::new(),
            outcome: Outcome::Skipped,
            seconds: 0.0,
            error: None,
            attempts: 0,
            forced: forced.contains(&index),
        });
        let nodes: Vec<Node> = nodes.collect();
        let mut missing = vec![0; nodes.len()];
        let mut readers = vec![0; nodes.len()];
        for (producer, consumers) in consumers.iter().enumerate() {
            for &consumer in consumers {
                missing[consumer] += 1;
                readers[producer] += usize::from(nodes[consumer].state != State::Left);
            }
        }
        Ok(Self {
            graph,
            nodes,
            missing,
            readers,
            remaining: remaining_seconds(&seconds, &consumers),
            ready: ReadyQueue::default(),
            consumers,
            last,
            n_at_hand,
            allowed,
            file: options.file.clone(),
            resting: Vec::new(),
            seen_rows: Mutex::default(),
            shared: Arc::new(Shared {
                workspace: workspace.clone(),
                store,
                stat_cache,
                conditions: options.conditions.clone(),
                live: Mutex::default(),
                folder,
                watcher,
                host: host(),
                source_texts: SourceTexts::new(workspace.root()),
            }),
        })
    }

    /// Settles every stage whose producers are done, until nothing changes.
    fn settle_all(&mut self) -> Result<(), RunError> {
        let mut level: Vec<usize> = (0..self.nodes.len())
            .filter(|&index| self.can_be_settled(index))
            .collect();
        // Nothing runs yet: what many stages read is looked at once.
        let shared = Arc::clone(&self.shared);
        let sources = Sources::together(&shared.stat_cache);
        while !level.is_empty() {
            let this = &*self;
            let look = |&index: &usize| this.look(index, &sources);
            let looked: Vec<_> = if level.len() < WORTH_THREADS {
                level.iter().map(look).collect()
            } else {
                level.par_iter().map(look).collect()
            };
            let mut next = Vec::new();
            for (index, looked) in level.into_iter().zip(looked) {
                // One before it may have found that its producer has to run again.
                if !self.can_be_settled(index) {
                    continue;
                }
                self.settle(index, looked)?;
                if self.nodes[index].state == State::Done {
                    let consumers = self.consumers[index].iter().copied();
                    next.extend(consumers.filter(|&consumer| self.can_be_settled(consumer)));
                }
            }
            level = next;
        }
        Ok(())
    }

    fn can_be_settled(&self, index: usize) -> bool {
        self.nodes[index].state == State::Waiting && self.missing[index] == 0
    }

    /// Settles what became possible when the stage `index` ended.
    fn settle_below(&mut self, index: usize) -> Result<(), RunError> {
        let mut open = vec![index];
        while let Some(done) = open.pop() {
            if self.nodes[done].state != State::Done {
                continue;
            }
            for position in 0..self.consumers[done].len() {
                let consumer = self.consumers[done][position];
                if self.can_be_settled(consumer) {
                    let looked = self.look(consumer, &Sources::new(&self.shared.stat_cache));
                    self.settle(consumer, looked)?;
                    open.push(consumer);
                }
            }
        }
        Ok(())
    }

    /// Computes the key of a stage whose inputs are known, and looks it up. Changes nothing, so that many can be looked at
    /// at once.
    fn look(&self, index: usize, sources: &Sources<'_>) -> Result<Looked, Unbound> {
        let instance = &self.graph.instances[index];
        let inputs = self.inputs(index, sources)?;
        let ingredients = with_inputs(self.graph, instance, inputs, sources)?;
        let key = ingredients.key();
        let hit = if self.nodes[index].forced {
            None
        } else {
            let found = self.shared.store.lookup(&key);
            found.map_err(|error| Unbound::Job(error.into()))?
        };
        Ok(Looked {
            key,
            ingredients,
            hit,
        })
    }

    /// Takes in what a look at a stage found.
    fn settle(&mut self, index: usize, looked: Result<Looked, Unbound>) -> Result<(), RunError> {
        let instance = &self.graph.instances[index];
        let Looked {
            key,
            ingredients,
            hit,
        } = match looked {
            Ok(looked) => looked,
            Err(Unbound::Source(error)) => {
                return Err(RunError::Source {
                    stage: instance.name.clone(),
                    message: error.to_string(),
                });
            }
            Err(Unbound::Job(JobError::Store(error))) => return Err(error.into()),
            Err(Unbound::Job(JobError::LostInput {
                port,
                position,
                warning,
            })) => {
                self.rerun_producer(index, &port, position, warning.as_deref());
                return Ok(());
            }
            Err(Unbound::Job(JobError::Stage(error))) => {
                self.fail(index, &describe(&error));
                return Ok(());
            }
        };
        let node = &mut self.nodes[index];
        node.key = Some(key);
        node.ingredients = Some(ingredients);
        if let Some(hit) = hit {
            self.finish(index, Outcome::Hit, hit.outputs, hit.execution.seconds);
        } else if self.allowed.contains(&index) {
            self.make_ready(index);
        } else {
            let stage = instance.name.clone();
            return Err(RunError::NotCached { stage });
        }
        Ok(())
    }

    fn make_ready(&mut self, index: usize) {
        self.nodes[index].state = State::Ready;
        let instance = &self.graph.instances[index];
        let wanted = Wanted::of(instance, self.nodes[index].attempts + 1);
        self.ready.push(index, self.remaining[index], wanted);
    }

    /// Notes that a stage will read nothing more.
    fn release_inputs(&mut self, index: usize) {
        for producer in distinct_producers(&self.graph.instances[index]) {
            self.readers[producer] -= 1;
            if self.readers[producer] == 0 {
                self.drop_outputs(producer);
            }
        }
    }

    /// What the key holds of what comes in at each port.
    fn inputs(
        &self,
        index: usize,
        sources: &Sources<'_>,
    ) -> Result<BTreeMap<String, Vec<InputIngredient>>, Unbound> {
        let instance = &self.graph.instances[index];
        let mut inputs = BTreeMap::new();
        for (port, edges) in &instance.inputs {
            let mut list = Vec::with_capacity(edges.len());
            for (position, edge) in edges.iter().enumerate() {
                list.push(match edge {
                    InputEdge::File { path } => InputIngredient::Bytes {
                        digest: sources.digest(path)?,
                    },
                    InputEdge::Output {
                        instance: producer,
                        output,
                    } => {
                        let manifest = self.output(*producer, output);
                        let seen = Seen::of(instance, port, position);
                        match seen.rows() {
                            None => output_ingredient(&seen, manifest),
                            Some(part) => self
                                .rows_seen(&seen, part, manifest, port, position)
                                .map_err(Unbound::Job)?,
                        }
                    }
                });
            }
            inputs.insert(port.clone(), list);
        }
        Ok(inputs)
    }

    /// An output of a stage that is done.
    fn output(&self, producer: usize, output: &str) -> &Manifest {
        let manifest = self.nodes[producer].outputs.get(output);
        manifest.expect("a done stage has all declared outputs")
    }

    /// What comes in at each port, with labels.
    fn bound(&self, index: usize) -> Result<BTreeMap<String, Vec<(String, Bound)>>, Unbound> {
        let instance = &self.graph.instances[index];
        let mut bound: BTreeMap<String, Vec<(String, Bound)>> = BTreeMap::new();
        for (port, edges) in &instance.inputs {
            let list = bound.entry(port.clone()).or_default();
            for (position, edge) in edges.iter().enumerate() {
                list.push(match edge {
                    InputEdge::Output { instance, output } => {
                        let producer = &self.graph.instances[*instance];
                        let manifest = self.output(*instance, output);
                        let label = format!("{}.{output}", producer.name);
                        let seen = Seen::of(&self.graph.instances[index], port, position);
                        let bound = match seen.rows() {
                            None => Bound::Output(manifest.clone()),
                            Some(part) => Bound::Rows {
                                manifest: manifest.clone(),
                                ingredient: self
                                    .rows_seen(&seen, part, manifest, port, position)
                                    .map_err(Unbound::Job)?,
                            },
                        };
                        (label, bound)
                    }
                    InputEdge::File { path } => {
                        let stat_cache = &self.shared.stat_cache;
                        let digest = source_digest(stat_cache, path)?;
                        let label = path.file_name().map_or_else(
                            || "file".into(),
                            |name| name.to_string_lossy().into_owned(),
                        );
                        (
                            label,
                            Bound::File {
                                path: path.clone(),
                                digest,
                            },
                        )
                    }
                });
            }
        }
        Ok(bound)
    }

    /// What the key holds of some rows of a table: the table has to be opened for it, once.
    fn rows_seen(
        &self,
        seen: &Seen<'_>,
        part: &Part,
        manifest: &Manifest,
        port: &str,
        position: usize,
    ) -> Result<InputIngredient, JobError> {
        let known = (manifest.bytes, format!("{part:?} {:?}", seen.columns()));
        let known_rows = || {
            self.seen_rows
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(ingredient) = known_rows().get(&known) {
            return Ok(ingredient.clone());
        }
        let lost = |warning| JobError::LostInput {
            port: port.to_owned(),
            position,
            warning,
        };
        let artifact = seen.project(open(&self.shared, manifest, lost)?)?;
        let Artifact::Table(table) = artifact else {
            unreachable!("only tables have parts");
        };
        let ingredient = Part::ingredient(&table);
        known_rows().insert(known, ingredient.clone());
        Ok(ingredient)
    }

    fn finish(
        &mut self,
        index: usize,
        outcome: Outcome,
        outputs: BTreeMap<String, Manifest>,
        seconds: f64,
    ) {
        let node = &mut self.nodes[index];
        node.state = State::Done;
        node.outcome = outcome;
        node.outputs = outputs;
        node.seconds = seconds;
        node.error = None;
        for &consumer in &self.consumers[index] {
            self.missing[consumer] -= 1;
        }
        self.release_inputs(index);
        if self.readers[index] == 0 {
            self.drop_outputs(index);
        }
        let stage = &self.graph.instances[index].name;
        self.shared.watcher.event(&Event::Finished {
            stage,
            outcome,
            seconds,
        });
    }

    /// Executes what has to be. Returns whether it was stopped.
    fn execute(&mut self, options: &RunOptions, cancel: &Cancel) -> Result<bool, RunError> {
        let threads = options
            .jobs
            .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
            .unwrap_or(1)
            // More only get in each other's way, and cost minutes when there are thousands.
            .clamp(1, MOST_THREADS_PER_CORE * cores());
        let wants_memory = |instance: &Instance| instance.gpu_memory_bytes > 0;
        let gpus = if self.graph.instances.iter().any(wants_memory) {
            gpus::with_memory(gpus::found())
        } else {
            gpus::found().to_vec()
        };
        let capacity = Capacity {
            threads,
            memory_bytes: available_memory_bytes(),
            gpus,
            tokens: self.graph.tokens.clone(),
        };
        self.settle_all()?;
        self.check_gpus(&capacity)?;
        let pool = Pool::new(capacity);
        let shared = Arc::clone(&self.shared);
        let ended = Hall::new(self, &shared, pool, threads, options.keep_going, cancel).run();
        let flushed = shared.store.flush();
        if let Err(StoreError::NotKept { key, source }) = &flushed {
            self.unkept(*key, source);
        }
        for (key, error) in shared.store.failures() {
            self.unkept(key, &error);
        }
        ended?;
        flushed?;
        for index in 0..self.nodes.len() {
            if matches!(
                self.nodes[index].state,
                State::Waiting | State::Ready | State::Resting
            ) {
                self.nodes[index].state = State::Skipped;
                let stage = &self.graph.instances[index].name;
                self.shared.watcher.event(&Event::Finished {
                    stage,
                    outcome: Outcome::Skipped,
                    seconds: 0.0,
                });
            }
        }
        Ok(cancel.is_set())
    }

    /// The next stage that fits what is free, ready to be executed.
    pub(crate) fn next(&mut self, pool: &mut Pool) -> Option<(usize, Grant, Job<'a>)> {
        loop {
            let nodes = &self.nodes;
            let (index, grant) = self.ready.pop(
                |index| nodes[index].state == State::Ready,
                |wanted| pool.take(wanted),
            )?;
            let graph = self.graph;
            let instance = &graph.instances[index];
            let Ok(bound) = self.bound(index) else {
                // The source vanished since the key was made; the next look says which.
                pool.give_back(&grant);
                self.fail(index, "a source vanished");
                continue;
            };
            let node = &mut self.nodes[index];
            node.state = State::Running;
            node.attempts += 1;
            let job = Job {
                instance,
                key: node.key.expect("a ready stage has a key"),
                ingredients: node
                    .ingredients
                    .clone()
                    .expect("a ready stage has ingredients"),
                bound,
                lineage: instance
                    .signature
                    .lineage
                    .then(|| lineage(self.graph, instance)),
                threads: grant.threads,
                device: DeviceGrant::cuda(&grant.gpus),
                attempt: node.attempts,
                cancel: Cancel::new(),
                look_up: !node.forced,
            };
            return Some((index, grant, job));
        }
    }

    /// Before anything starts: whether there are the GPUs that every stage needs that may have to run.
    fn check_gpus(&self, capacity: &Capacity) -> Result<(), RunError> {
        for (instance, node) in self.graph.instances.iter().zip(&self.nodes) {
            let wanted = Wanted::of(instance, 1);
            let may_run = matches!(node.state, State::Waiting | State::Ready);
            if !may_run || wanted.gpu_is_optional || capacity.has_gpus(&wanted) {
                continue;
            }
            let count = |n: usize| match n {
                1 => "1 GPU".to_owned(),
                n => format!("{n} GPUs"),
            };
            let with_memory = match wanted.gpu_memory_bytes {
                0 => String::new(),
                bytes => format!(" with {:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            };
            return Err(RunError::TooFewGpus {
                stage: instance.name.clone(),
                wanted: count(wanted.gpus as usize) + &with_memory,
                found: match capacity.gpus.len() {
                    0 => "none".to_owned(),
                    n => count(n),
                },
            });
        }
        Ok(())
    }

    /// Whether some stage could start but for resources.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether some stage is tried again after a while.
    pub(crate) fn has_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Makes the stages ready that have rested until `now`; whether there are any.
    pub(crate) fn wake(&mut self, now: Instant) -> bool {
        let (rested, resting) = self.resting.drain(..).partition(|(until, _)| *until <= now);
        self.resting = resting;
        let rested: Vec<(Instant, usize)> = rested;
        for (_, index) in &rested {
            self.make_ready(*index);
        }
        !rested.is_empty()
    }

    /// Takes a worker's result in and settles what became possible. Returns whether the stage failed for good.
    pub(crate) fn take_in(
        &mut self,
        index: usize,
        result: Result<Executed, JobError>,
        timed_out: bool,
    ) -> Result<bool, RunError> {
        let has_failed = self.take_result(index, result, timed_out)?;
        self.settle_below(index)?;
        Ok(has_failed)
    }

    /// Takes a worker's result in. Returns whether the stage failed for good.
    fn take_result(
        &mut self,
        index: usize,
        result: Result<Executed, JobError>,
        timed_out: bool,
    ) -> Result<bool, RunError> {
        let instance: &Instance = &self.graph.instances[index];
        match result {
            Ok(executed) => {
                let unchanged = self.last.get(&instance.name).is_some_and(|last| {
                    let outputs = executed.outputs.iter();
                    last.outputs
                        .iter()
                        .map(|(port, digest)| (port, digest))
                        .eq(outputs.map(|(port, manifest)| (port, &manifest.logical)))
                });
                let outcome = match (executed.hit, unchanged) {
                    (true, _) => Outcome::Hit,
                    (false, true) => Outcome::Unchanged,
                    (false, false) => Outcome::Ran,
                };
                self.nodes[index].forced = false;
                self.finish(index, outcome, executed.outputs, executed.seconds);
                Ok(false)
            }
            Err(JobError::Stage(StageError::Interrupted)) if !timed_out => {
                self.nodes[index].state = State::Interrupted;
                self.nodes[index].outcome = Outcome::Interrupted;
                let stage = &instance.name;
                let outcome = Outcome::Interrupted;
                self.shared.watcher.event(&Event::Finished {
                    stage,
                    outcome,
                    seconds: 0.0,
                });
                Ok(true)
            }
            Err(JobError::LostInput {
                port,
                position,
                warning,
            }) => {
                self.rerun_producer(index, &port, position, warning.as_deref());
                Ok(false)
            }
            Err(JobError::Store(error)) => Err(error.into()),
            Err(JobError::Stage(error)) => {
                let message = if timed_out {
                    let limit = instance.timeout.unwrap_or_default().as_secs_f64();
                    format!("timed out after {limit} s")
                } else {
                    describe(&error)
                };
                if self.nodes[index].attempts <= instance.retries {
                    let text = format!("attempt {} failed: {message}", self.nodes[index].attempts);
                    self.say(&instance.name, Level::Warning, &text);
                    self.rest(index);
                    return Ok(false);
                }
                self.fail(index, &message);
                Ok(instance.on_failure == OnFailure::Stop)
            }
        }
    }

    /// Tries a stage again, after the time that its next attempt waits.
    fn rest(&mut self, index: usize) {
        let backoff = self.graph.instances[index].backoff;
        if backoff.is_zero() {
            self.make_ready(index);
            return;
        }
        let doublings = (self.nodes[index].attempts - 1).min(16);
        let wait = backoff.saturating_mul(1 << doublings).min(LONGEST_BACKOFF);
        self.nodes[index].state = State::Resting;
        self.resting.push((Instant::now() + wait, index));
    }

    /// A hit whose object is gone or damaged is a miss: its stage runs again, then the consumer.
    fn rerun_producer(&mut self, index: usize, port: &str, position: usize, warning: Option<&str>) {
        let instance = &self.graph.instances[index];
        let InputEdge::Output {
            instance: producer, ..
        } = &instance.inputs[port][position]
        else {
            unreachable!("only outputs of stages are in the store");
        };
        let producer = *producer;
        self.nodes[index].state = State::Waiting;
        if self.nodes[producer].state != State::Done {
            // Another consumer has missed it too, and was first.
            return;
        }
        let name = &self.graph.instances[producer].name;
        let why = warning.unwrap_or("its result is not in the store any more");
        self.say(name, Level::Warning, &format!("runs again: {why}"));
        self.nodes[producer].forced = true;
        for above in distinct_producers(&self.graph.instances[producer]) {
            self.readers[above] += 1;
        }
        for position in 0..self.consumers[producer].len() {
            let consumer = self.consumers[producer][position];
            self.missing[consumer] += 1;
            if self.nodes[consumer].state == State::Ready {
                self.nodes[consumer].state = State::Waiting;
            }
        }
        if self.missing[producer] == 0 {
            self.make_ready(producer);
        } else {
            self.nodes[producer].state = State::Waiting;
        }
    }

    fn fail(&mut self, index: usize, message: &str) {
        let node = &mut self.nodes[index];
        node.state = State::Failed;
        node.outcome = Outcome::Failed;
        node.error = Some(message.to_owned());
        self.release_inputs(index);
        let stage = &self.graph.instances[index].name;
        self.shared.folder.log(stage, message);
        let outcome = Outcome::Failed;
        self.shared.watcher.event(&Event::Finished {
            stage,
            outcome,
            seconds: 0.0,
        });
    }

    /// Notes that the result of `key` could not be brought to the disk.
    fn unkept(&mut self, key: StageKey, error: &StoreError) {
        for node in self.nodes.iter_mut().filter(|node| node.key == Some(key)) {
            node.state = State::Failed;
            node.outcome = Outcome::Failed;
            node.error = Some(format!("its result was not kept: {error}"));
        }
    }

    fn say(&self, stage: &str, level: Level, message: &str) {
        self.shared.folder.log(stage, message);
        self.shared.watcher.event(&Event::Log {
            stage,
            level,
            message,
        });
    }

    /// Drops the outputs of a stage from memory: nobody in this run will read them any more.
    fn drop_outputs(&self, index: usize) {
        let mut live = self
            .shared
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for manifest in self.nodes[index].outputs.values() {
            live.remove(&(manifest.kind, manifest.bytes));
        }
    }

    fn save_stat_cache(&self) {
        // What is lost is read again next time.
        let _ = self.shared.stat_cache.save();
    }

    fn take_ingredients(&mut self) -> BTreeMap<String, Ingredients> {
        let nodes = self.graph.instances.iter().zip(&mut self.nodes);
        nodes
            .filter_map(|(instance, node)| Some((instance.name.clone(), node.ingredients.take()?)))
            .collect()
    }

    /// What is known of the run before it ends.
    fn head(&self) -> RunRecord {
        RunRecord {
            pipeline: self.graph.name.clone(),
            file: self.file.clone(),
            profile: self.graph.profile.clone(),
            sets: self.graph.sets.clone(),
            params: self.graph.params.clone(),
            n_stages: self.n_at_hand + self.graph.instances.len(),
            ..self.shared.folder.record()
        }
    }

    /// The stages that have no outputs, and whose lack of them the pipeline does not mind.
    fn ignored(&self) -> BTreeSet<usize> {
        let mut ignored = BTreeSet::new();
        // Producers come first in the list, so one pass reaches everything.
        for (index, (instance, node)) in self.graph.instances.iter().zip(&self.nodes).enumerate() {
            let is_ignored = match node.state {
                State::Failed => instance.on_failure == OnFailure::Ignore,
                State::Skipped => {
                    let mut missing = instance
                        .producers()
                        .filter(|p| !matches!(self.nodes[*p].state, State::Done | State::Left))
                        .peekable();
                    missing.peek().is_some() && missing.all(|p| ignored.contains(&p))
                }
                _ => false,
            };
            if is_ignored {
                ignored.insert(index);
            }
        }
        ignored
    }

    fn record(self, seconds: f64) -> RunRecord {
        let head = self.head();
        let ignored = self.ignored();
        let stages = self.graph.instances.iter().zip(self.nodes).enumerate();
        let stages = stages.filter(|(_, (_, node))| node.state != State::Left);
        RunRecord {
            seconds,
            stages: stages
                .map(|(index, (instance, node))| StageRecord {
                    ignored: ignored.contains(&index),
                    name: instance.name.clone(),
                    kind: instance.kind.clone(),
                    key: node.key.map(|key| key.digest()),
                    outcome: node.outcome,
                    seconds: node.seconds,
                    outputs: node.outputs,
                    error: node.error,
                })
                .collect(),
            ..head
        }
    }
}

/// Each instance that `instance` reads from, once.
fn distinct_producers(instance: &Instance) -> BTreeSet<usize> {
    instance.producers().collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// An error with its causes and its help, for people.
fn describe(error: &StageError) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = source.source();
    }
    if let Some(help) = error.help() {
        text.push_str("\nhelp: ");
        text.push_str(help);
    }
    text
}
