//! The checked graph of a pipeline: every instance of every stage, what it reads and what it makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use natron_artifacts::{Digest, Hasher, Limits, Registry, Resources, Signature, Stage};
use natron_cache::SharedValue;
use petgraph::graph::DiGraph;
use serde_json::Value;

use crate::{
    AxisValues, Diagnostic, Part, Place, Reproducible, SourceText, Take, code,
    connect::{self, Connected},
    definition, document,
    document::Node,
    drafts, overrides,
};

/// What to load besides the file.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Which of `[profiles]` to lay over the file.
    pub profile: Option<String>,
    /// Assignments `params.NAME=VALUE` or `STAGE.NAME=VALUE`, laid over the profile in this order.
    pub sets: Vec<String>,
    /// More instances than this are a mistake.
    pub max_instances: usize,
    /// What paths are relative to.
    pub workspace: PathBuf,
    /// What is known of axes that artifacts list, by [`AwaitedAxis::id`].
    pub axes: BTreeMap<String, AxisValues>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            profile: None,
            sets: Vec::new(),
            max_instances: 10_000,
            workspace: PathBuf::from("."),
            axes: BTreeMap::new(),
        }
    }
}

/// Which numbers are the same where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numeric {
    /// The same bits on every x86-64 CPU with AVX2 and FMA.
    #[default]
    Portable,
    /// Whatever is fastest here; until there is something faster, the portable numbers under a key of their own.
    Native,
}

/// Where stages compute that would like a GPU and whose `resources` say nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// On the CPU.
    #[default]
    Cpu,
    /// On a GPU if there is one.
    Auto,
    /// On a GPU; without one it is an error.
    Cuda,
}

/// What happens to the rest when a stage fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Nothing more starts.
    #[default]
    Stop,
    /// What does not need it goes on; the run fails in the end.
    Continue,
    /// What does not need it goes on; the run does not fail for it.
    Ignore,
}

/// A pipeline, checked as far as it can be without running.
#[derive(Clone)]
pub struct Graph {
    /// Name of the pipeline.
    pub name: String,
    /// Root of all seeds that stages do not choose themselves.
    pub seed: u64,
    /// Numeric mode.
    pub numeric: Numeric,
    /// Device.
    pub device: DeviceChoice,
    /// All instances: producers before consumers, otherwise by name.
    pub instances: Vec<Instance>,
    /// Producer -> consumer. A node's index and its weight are the position in `instances`.
    pub edges: DiGraph<usize, EdgeLabel>,
    /// What of the file it was read of.
    pub(crate) text: Arc<SourceText>,
    /// The names in `[params]` that each stage uses, where it uses any; under no name those used elsewhere.
    pub(crate) used_params: BTreeMap<String, BTreeSet<String>>,
    /// Digest of the file's bytes.
    pub file_digest: Digest,
    /// Digest of the file, the profile's name and the assignments.
    pub text_digest: Digest,
    /// What is odd but not wrong.
    pub warnings: Vec<Diagnostic>,
    /// The profile laid over the file.
    pub profile: Option<String>,
    /// The assignments laid over it.
    pub sets: Vec<String>,
    /// `[params]` with everything filled in.
    pub params: Value,
    /// How many there are of each named token; of others there is one.
    pub tokens: BTreeMap<String, u32>,
    /// Axes that artifacts list and whose values were not known.
    pub awaited: Vec<AwaitedAxis>,
    /// Stages that have no instances yet, since an axis is awaited.
    pub deferred: Vec<Deferred>,
}

/// An axis whose values an artifact lists.
#[derive(Debug, Clone)]
pub struct AwaitedAxis {
    /// What [`LoadOptions::axes`] calls it.
    pub id: String,
    /// Position in [`Graph::instances`] of the instance that makes the artifact.
    pub instance: usize,
    /// Its output port.
    pub output: String,
    /// What of the artifact are the values.
    pub take: Take,
}

/// A stage without instances, because the values of an axis are not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferred {
    /// Its name in the file.
    pub stage: String,
    /// What it waits for: the output that lists an axis of its own, or a stage that waits.
    pub waits_for: String,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph")
            .field("name", &self.name)
            .field("instances", &self.instances.len())
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// Position of the instance called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.instances.iter().position(|i| i.name == name)
    }

    /// Positions of all instances of the stage `stage` (its name in the file).
    pub fn of_stage<'a>(&'a self, stage: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.instances
            .iter()
            .enumerate()
            .filter(move |(_, instance)| instance.stage == stage)
            .map(|(position, _)| position)
    }
}

/// What flows along an edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EdgeLabel {
    /// Output port of the producer.
    pub output: String,
    /// Input port of the consumer.
    pub port: String,
}

/// One source of an input port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputEdge {
    /// What another instance makes.
    Output {
        /// Its position in [`Graph::instances`].
        instance: usize,
        /// Its output port.
        output: String,
    },
    /// A file or folder of the workspace.
    File {
        /// Its path, joined to the workspace.
        path: PathBuf,
    },
}

/// One instance of a stage.
#[derive(Clone)]
pub struct Instance {
    /// `train`, or `train[fold=0,lr=1e-4]` with the axes in order.
    pub name: String,
    /// Name of the stage in the file.
    pub stage: String,
    /// Value on each axis of the matrix.
    pub coordinates: BTreeMap<String, Value>,
    /// Kind, as `uses` names it.
    pub kind: String,
    /// Fingerprint of the kind's code.
    pub code: String,
    /// The stage.
    pub parsed: Parsed,
    /// Its declaration.
    pub signature: Signature,
    /// Sources of each input port; several when gathered.
    pub inputs: BTreeMap<String, Vec<InputEdge>>,
    /// Parameters with defaults, without those that are paths of `sources`.
    pub key_parameters: SharedValue,
    /// Files read from outside the store, joined to the workspace.
    pub sources: BTreeMap<String, PathBuf>,
    /// Seed.
    pub seed: u64,
    /// Output port -> path where it is shown, joined to the workspace.
    pub views: BTreeMap<String, PathBuf>,
    /// What it needs: the signature's, or what the file says instead.
    pub resources: Resources,
    /// Named tokens it holds while it runs.
    pub tokens: BTreeMap<String, u32>,
    /// Which part of each source of an input is read, where a port reads a part; in the order of `inputs`.
    pub parts: BTreeMap<String, Vec<Part>>,
    /// How many GPUs it wants.
    pub gpus: u32,
    /// Memory that each of them has, in bytes.
    pub gpu_memory_bytes: u64,
    /// How often it is tried again.
    pub retries: u32,
    /// How long to wait before the first retry; twice as long before each further one.
    pub backoff: Duration,
    /// By what the memory that it wants grows with each attempt.
    pub memory_growth: f64,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Whether it runs in a process of its own.
    pub isolated: bool,
    /// What its process may take.
    pub limits: Limits,
    /// What a failure does to the rest.
    pub on_failure: OnFailure,
    /// Part of the key, to disown a family of results.
    pub salt: Option<String>,
    /// How alike its outputs have to come out when it is executed again.
    pub reproducible: Reproducible,
    /// Where `uses` stands, for messages.
    pub place: Place,
}

/// A stage with its parameters.
#[derive(Clone)]
pub struct Parsed {
    /// The stage.
    pub stage: Arc<dyn Stage>,
    /// Its parameters with all defaults filled in.
    pub parameters: SharedValue,
}

/// The graph of the pipeline file at `path`.
///
/// # Errors
///
/// All mistakes, in order of their places.
pub fn load(
    path: &Path,
    options: &LoadOptions,
    registry: &Registry,
) -> Result<Graph, Vec<Diagnostic>> {
    let name = path.display().to_string();
    let unreadable = |message: String, text: String, at: usize| {
        let place = Place {
            file: SourceText::new(name.clone(), text),
            span: at..at,
        };
        vec![Diagnostic::error(code::UNREADABLE, message, &place, "")]
    };
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("cannot read `{name}`: {error}");
        unreadable(message, String::new(), 0)
    })?;
    if bytes.len() > MAX_BYTES {
        let message = format!("`{name}` is larger than {} MiB", MAX_BYTES >> 20);
        return Err(unreadable(message, String::new(), 0));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => load_text(&name, text, options, registry),
        Err(error) => {
            // Up to there the lossy text and the bytes are the same.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let message = format!("`{name}` is not UTF-8");
            Err(unreadable(message, text, error.valid_up_to()))
        }
    }
}

/// Larger files are no pipelines.
const MAX_BYTES: usize = 256 << 20;

/// The graph of the pipeline file that holds `text` and is called `name`.
///
/// # Errors
///
/// All mistakes, in order of their places.
pub fn load_text(
    name: &str,
    text: &str,
    options: &LoadOptions,
    registry: &Registry,
) -> Result<Graph, Vec<Diagnostic>> {
    let file = SourceText::new(name, text);
    let mut files = vec![Arc::clone(&file)];
    let mut mistakes = Vec::new();
    let mut root = match document::parse(&file) {
        Ok(root) => root,
        Err(mistakes) => return Err(in_order(mistakes, &files)),
    };
    definition::check_structure(&root, &mut mistakes);
    if let Some(profile) = &options.profile {
        overrides::apply_profile(&mut root, profile, &mut mistakes);
    }
    for set in &options.sets {
        files.push(overrides::apply_set(&mut root, set, &mut mistakes));
    }
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str());
    let mut definition = definition::read(root, stem.unwrap_or("pipeline"), &mut mistakes);
    let drafts = drafts::make(&mut definition, registry, options, &mut mistakes);
    let Some((stages, mut used_params)) = drafts else {
        return Err(in_order(mistakes, &files));
    };
    used_params.insert(String::new(), std::mem::take(&mut definition.used_params));
    let used = used_params.values().flatten().cloned().collect();
    let is_good = mistakes.is_empty();
    let connected = connect::connect(
        stages,
        definition.seed,
        definition.device,
        options,
        &mut mistakes,
    );
    let Some(Connected {
        instances,
        edges,
        awaited,
        deferred,
    }) = connected.filter(|_| is_good)
    else {
        return Err(in_order(mistakes, &files));
    };
    Ok(Graph {
        seed: definition.seed,
        numeric: definition.numeric,
        device: definition.device,
        instances,
        edges,
        text: file,
        used_params,
        file_digest: Digest::of(text.as_bytes()),
        text_digest: text_digest(text, options),
        warnings: in_order(unused(&definition.params, &used), &files),
        profile: options.profile.clone(),
        sets: options.sets.clone(),
        params: definition.params.to_json(&mut |_| ()),
        tokens: definition.tokens.unwrap_or_default(),
        awaited,
        deferred,
        name: definition.name,
    })
}

/// Sorted by file and place, each once.
fn in_order(mut mistakes: Vec<Diagnostic>, files: &[Arc<SourceText>]) -> Vec<Diagnostic> {
    let key = |mistake: &Diagnostic| {
        let label = mistake.primary();
        let file = label.and_then(|label| files.iter().position(|f| Arc::ptr_eq(f, &label.file)));
        let span = label.map_or(0..0, |label| label.span.clone());
        (
            file.unwrap_or(usize::MAX),
            span.start,
            mistake.code,
            mistake.message.clone(),
            span.end,
        )
    };
    mistakes.sort_by_cached_key(key);
    mistakes.dedup();
    mistakes
}

fn unused(params: &Node, used: &BTreeSet<String>) -> Vec<Diagnostic> {
    params
        .as_table()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !used.contains(*name))
        .map(|(name, entry)| {
            let message = format!("nothing reads the parameter `{name}`");
            Diagnostic::warning(code::UNUSED_PARAMETER, message, &entry.key, "")
                .help(format!("use it as `${{params.{name}}}`, or take it away"))
        })
        .collect()
}

pub(crate) fn text_digest(text: &str, options: &LoadOptions) -> Digest {
    let mut hasher = Hasher::new("natron pipeline text v1")
        .part(text.as_bytes())
        .part(&[u8::from(options.profile.is_some())])
        .part(options.profile.as_deref().unwrap_or_default().as_bytes());
    for set in &options.sets {
        hasher = hasher.part(set.as_bytes());
    }
    hasher.finish()
}
