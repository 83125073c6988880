//! From single instances to the graph: signatures in topological order, and every check that needs them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use natron_artifacts::{
    Gpu, InputColumns, InputPort, Kind, ParsedStage, PortSchema, Schemas, Signature,
};
use natron_cache::SharedValue;
use petgraph::graph::{DiGraph, NodeIndex};
use rayon::prelude::*;
use serde_json::Value;

use crate::{
    AwaitedAxis, Deferred, DeviceChoice, Diagnostic, EdgeLabel, InputEdge, Instance, LoadOptions,
    Parsed, Part, Place, code,
    did_you_mean::{listed, nearest, suggestion_or},
    document::Node,
    drafts::{self, Draft, DraftPort, DraftSource, Source, Stages},
    interpolate::Coordinates,
    parameters, part,
    settings::automatic_seed,
    wiring::{self, Resolved},
};

/// Fewer instances than this are checked by one thread.
const WORTH_THREADS: usize = 64;

/// Instances in topological order, their edges, and what is not known yet.
pub(crate) struct Connected {
    pub(crate) instances: Vec<Instance>,
    pub(crate) edges: DiGraph<usize, EdgeLabel>,
    pub(crate) awaited: Vec<AwaitedAxis>,
    pub(crate) deferred: Vec<Deferred>,
}

/// Connects all instances. Nothing after a mistake.
pub(crate) fn connect(
    stages: Stages<'_>,
    root_seed: u64,
    device: DeviceChoice,
    options: &LoadOptions,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Connected> {
    let before = mistakes.len();
    let cyclic = wiring::cyclic_stages(&stages, mistakes);
    let mut connector = Connector::new(&stages, options, mistakes);
    connector.wire(&cyclic);
    let order = connector.order();
    connector.check(&order);
    connector.check_views();
    let listed = connector.listed_axes(&cyclic);
    let nodes = connector.nodes;
    if mistakes.len() > before {
        return None;
    }
    let position = |id: Id| order.iter().position(|other| *other == id);
    let awaited = listed
        .into_iter()
        .map(|(id, axis)| {
            Some(AwaitedAxis {
                instance: position(id)?,
                ..axis
            })
        })
        .collect::<Option<_>>()?;
    let deferred = stages.iter().filter_map(|(name, stage)| {
        Some(Deferred {
            stage: name.clone(),
            waits_for: stage.waits_for.clone()?,
        })
    });
    let deferred = deferred.collect();
    let (instances, edges) = assemble(stages, nodes, &order, (root_seed, device), options)?;
    Some(Connected {
        instances,
        edges,
        awaited,
        deferred,
    })
}

/// An instance: its position among those of all stages, on or off, stages in order of their names.
type Id = usize;

/// What is known of an instance besides its draft.
#[derive(Default)]
struct Wired {
    /// Of each port that reads something, by position in [`Draft::inputs`].
    inputs: Vec<(usize, Vec<WiredSource>)>,
    /// Ports whose sources are switched off or complained about: nothing comes in, and nothing is missing.
    quiet: BTreeMap<String, Quiet>,
    /// Whether a mistake here or above may have changed what the signature says.
    is_tainted: bool,
    signature: Option<Signature>,
    sources: BTreeMap<String, PathBuf>,
}

#[derive(Clone)]
enum Quiet {
    Broken,
    /// The name of the stage that is switched off.
    Off(String),
}

struct WiredSource {
    /// Position in [`DraftPort::sources`].
    nth: usize,
    what: WiredInput,
}

enum WiredInput {
    /// The output is found when the producer's signature is known.
    Instance {
        id: Id,
        output: Option<String>,
    },
    File {
        path: PathBuf,
        kind: Kind,
    },
}

struct Connector<'a> {
    stages: &'a Stages<'a>,
    options: &'a LoadOptions,
    /// The instances of all stages, each with the position of its stage.
    drafts: Vec<(usize, &'a Draft<'a>)>,
    /// The first instance of each stage.
    first: Vec<Id>,
    /// The instances that are on.
    nodes: Vec<Option<Wired>>,
    /// What each path asked for is, if it exists.
    files: Mutex<BTreeMap<PathBuf, Option<Kind>>>,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl<'a> Connector<'a> {
    fn new(
        stages: &'a Stages<'a>,
        options: &'a LoadOptions,
        mistakes: &'a mut Vec<Diagnostic>,
    ) -> Self {
        let mut drafts = Vec::with_capacity(stages.len());
        let mut first = Vec::with_capacity(stages.len());
        for (position, (_, stage)) in stages.iter().enumerate() {
            first.push(drafts.len());
            drafts.extend(stage.drafts.iter().flatten().map(|draft| (position, draft)));
        }
        Self {
            stages,
            options,
            nodes: Vec::with_capacity(drafts.len()),
            drafts,
            first,
            files: Mutex::default(),
            mistakes,
        }
    }

    fn draft(&self, id: Id) -> &'a Draft<'a> {
        self.drafts[id].1
    }

    /// The name of an instance's stage.
    fn stage(&self, id: Id) -> &'a str {
        &self.stages[self.drafts[id].0].0
    }

    /// Finds what every input reads.
    fn wire(&mut self, cyclic: &BTreeSet<String>) {
        for id in 0..self.drafts.len() {
            let draft = self.draft(id);
            let wired = draft.is_on.then(|| {
                let mut wired = Wired::default();
                for (at, (port, draft_port)) in draft.inputs.iter().enumerate() {
                    self.wire_port((at, port), draft_port, draft, cyclic, &mut wired);
                }
                wired
            });
            self.nodes.push(wired);
        }
    }

    /// Finds what the port reads that is called `port` and comes at position `at`.
    fn wire_port(
        &mut self,
        (at, port): (usize, &str),
        draft_port: &DraftPort,
        draft: &Draft,
        cyclic: &BTreeSet<String>,
        wired: &mut Wired,
    ) {
        let mut sources = Vec::new();
        let mut quiet = draft_port.is_broken.then_some(Quiet::Broken);
        for (nth, source) in draft_port.sources.iter().enumerate() {
            match &source.what {
                Source::File(path) => {
                    let path = self.options.workspace.join(path);
                    let node = source.node.at(&["file"]).unwrap_or(&source.node);
                    let Some(kind) = self.kind_of(&path) else {
                        self.mistakes.push(missing_file(self.options, &path, node));
                        quiet = Some(Quiet::Broken);
                        continue;
                    };
                    sources.push(WiredSource {
                        nth,
                        what: WiredInput::File { path, kind },
                    });
                }
                Source::Stage(reference) => {
                    let resolved = wiring::resolve(
                        self.stages,
                        &source.node,
                        reference,
                        &draft.coordinates,
                        self.mistakes,
                    );
                    match resolved {
                        Resolved::Broken => quiet = Some(Quiet::Broken),
                        Resolved::Off => {
                            quiet.get_or_insert_with(|| Quiet::Off(reference.stage.clone()));
                        }
                        Resolved::Instances(..) if cyclic.contains(&reference.stage) => {
                            quiet = Some(Quiet::Broken);
                        }
                        Resolved::Instances(stage, positions) => {
                            let first = self.first[stage];
                            sources.extend(positions.into_iter().map(|position| WiredSource {
                                nth,
                                what: WiredInput::Instance {
                                    id: first + position,
                                    output: reference.output.clone(),
                                },
                            }));
                        }
                    }
                }
            }
        }
        if let Some(quiet) = quiet {
            wired.is_tainted |= matches!(quiet, Quiet::Broken);
            if sources.is_empty() || matches!(quiet, Quiet::Broken) {
                wired.quiet.insert(port.to_owned(), quiet);
            }
        }
        if !sources.is_empty() {
            sources.shrink_to_fit();
            wired.inputs.push((at, sources));
        }
    }

    /// All instances, producers before consumers, otherwise by name.
    fn order(&self) -> Vec<Id> {
        let mut waiting = vec![0; self.nodes.len()];
        let mut consumers: Vec<Vec<Id>> = vec![Vec::new(); self.nodes.len()];
        for (id, wired) in self.nodes.iter().enumerate() {
            let sources = wired.iter().flat_map(|wired| &wired.inputs);
            let producers: BTreeSet<Id> = sources
                .flat_map(|(_, sources)| sources)
                .filter_map(|source| match &source.what {
                    WiredInput::Instance { id, .. } => Some(*id),
                    WiredInput::File { .. } => None,
                })
                .collect();
            waiting[id] = producers.len();
            for producer in producers {
                consumers[producer].push(id);
            }
        }
        let name = |id: Id| self.draft(id).name.as_str();
        // Kahn (1962); the heap makes the order one of the names, not of the file.
        let mut ready: BinaryHeap<Reverse<(&str, Id)>> = (0..self.nodes.len())
            .filter(|id| waiting[*id] == 0 && self.nodes[*id].is_some())
            .map(|id| Reverse((name(id), id)))
            .collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for &consumer in &consumers[id] {
                waiting[consumer] -= 1;
                if waiting[consumer] == 0 {
                    ready.push(Reverse((name(consumer), consumer)));
                }
            }
        }
        order
    }

    /// What is known of an instance that is on.
    fn node(&self, id: Id) -> &Wired {
        self.nodes[id].as_ref().expect("only what is on is read")
    }

    /// Asks the instances, producers before consumers, for their signatures and checks their inputs against them: those
    /// together of which none reads another.
    fn check(&mut self, order: &[Id]) {
        let mut rest = order;
        let mut batch_of = vec![0; self.nodes.len()];
        for number in 1.. {
            let reads_batch = |id: Id, batch_of: &[usize]| {
                let inputs = self.node(id).inputs.iter();
                let mut sources = inputs.flat_map(|(_, sources)| sources);
                sources.any(|source| match &source.what {
                    WiredInput::Instance { id, .. } => batch_of[*id] == number,
                    WiredInput::File { .. } => false,
                })
            };
            let mut length = 0;
            while let Some(id) = rest.get(length)
                && !reads_batch(*id, &batch_of)
            {
                batch_of[*id] = number;
                length += 1;
            }
            let (batch, after) = rest.split_at(length);
            if batch.is_empty() {
                return;
            }
            rest = after;
            self.check_batch(batch);
        }
    }

    fn check_batch(&mut self, batch: &[Id]) {
        let taken: Vec<(Id, Wired)> = batch
            .iter()
            .map(|id| {
                (
                    *id,
                    self.nodes[*id].take().expect("only what is on is ordered"),
                )
            })
            .collect();
        let this = &*self;
        let check = |(id, mut wired): (Id, Wired)| {
            let (stage, draft) = (this.stage(id), this.draft(id));
            let mut checker = Checker {
                connector: this,
                mistakes: Vec::new(),
            };
            let schemas = checker.schemas(stage, draft, &mut wired);
            checker.sign(stage, draft, &schemas, &mut wired);
            (id, wired, checker.mistakes)
        };
        let checked: Vec<(Id, Wired, Vec<Diagnostic>)> = if batch.len() < WORTH_THREADS {
            taken.into_iter().map(check).collect()
        } else {
            taken.into_par_iter().map(check).collect()
        };
        for (id, wired, mut mistakes) in checked {
            self.nodes[id] = Some(wired);
            self.mistakes.append(&mut mistakes);
        }
    }

    /// What is at `path`; nothing if there is nothing.
    fn kind_of(&self, path: &Path) -> Option<Kind> {
        let files = || self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files().get(path) {
            return *known;
        }
        let kind = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Some(Kind::Files),
            Ok(_) => Some(Kind::File),
            Err(_) => None,
        };
        files().insert(path.to_owned(), kind);
        kind
    }

    /// What the axes that artifacts list and that are not known yet wait for; checks all of them.
    fn listed_axes(&mut self, cyclic: &BTreeSet<String>) -> Vec<(Id, AwaitedAxis)> {
        let stages = self.stages;
        let mut awaited: BTreeMap<String, (Id, AwaitedAxis)> = BTreeMap::new();
        for axis in stages.iter().flat_map(|(_, stage)| &stage.axes) {
            let reference = &axis.reference;
            let is_waiting = drafts::find(stages, &reference.stage)
                .is_some_and(|position| stages[position].1.waits_for.is_some());
            if is_waiting || cyclic.contains(&reference.stage) {
                continue;
            }
            let none = Coordinates::new();
            let resolved = wiring::resolve(stages, &axis.node, reference, &none, self.mistakes);
            let id = match resolved {
                Resolved::Broken => continue,
                Resolved::Off => {
                    let (name, producer) = (&axis.axis, &reference.stage);
                    let message =
                        format!("axis `{name}` needs `{producer}`, which is switched off");
                    self.mistakes
                        .push(axis.node.mistake(code::BAD_MATRIX, message, ""));
                    continue;
                }
                Resolved::Instances(stage, positions) => match positions.as_slice() {
                    [position] => self.first[stage] + position,
                    positions => {
                        let message = format!(
                            "axis `{}` is listed by one artifact, and {} are named",
                            axis.axis,
                            positions.len()
                        );
                        self.mistakes.push(
                            axis.node
                                .mistake(code::BAD_MATRIX, message, "")
                                .help("choose one, as `stage[axis=value].output`"),
                        );
                        continue;
                    }
                },
            };
            let Some(signature) = &self.node(id).signature else {
                continue;
            };
            let consumer = (axis.axis.as_str(), axis.axis.as_str());
            let output = reference.output.as_deref();
            match choose_output(consumer, self.stage(id), signature, output, &axis.node) {
                Err(mistake) => self.mistakes.push(*mistake),
                Ok((output, schema)) => {
                    if let Some(help) = axis.take.misfit(schema.kind) {
                        let kind = with_article(schema.kind);
                        let message = format!("axis `{}` finds no values in {kind}", axis.axis);
                        self.mistakes.push(
                            axis.node
                                .mistake(code::BAD_MATRIX, message, kind)
                                .help(help),
                        );
                        continue;
                    }
                    if self.options.axes.contains_key(&axis.id) {
                        continue;
                    }
                    let axis = AwaitedAxis {
                        id: axis.id.clone(),
                        instance: 0,
                        output,
                        take: axis.take.clone(),
                    };
                    awaited.insert(axis.id.clone(), (id, axis));
                }
            }
        }
        awaited.into_values().collect()
    }

    /// No two views show at one path, and none inside another.
    fn check_views(&mut self) {
        let mut by_path: BTreeMap<&str, (&str, &Place)> = BTreeMap::new();
        for (_, stage) in self.stages {
            for draft in stage.drafts.iter().flatten() {
                for view in draft.settings.views.values() {
                    let place = &view.node.place;
                    let folders = view.path.match_indices('/').map(|(at, _)| &view.path[..at]);
                    let below = format!("{}/", view.path);
                    let clash = folders
                        .chain([view.path.as_str()])
                        .find_map(|path| by_path.get_key_value(path))
                        .or_else(|| {
                            let next = by_path.range(below.as_str()..).next();
                            next.filter(|(other, _)| other.starts_with(&below))
                        });
                    if let Some((other, (owner, other_place))) = clash {
                        let what = if view.path == **other {
                            format!("shows at `{}` too", view.path)
                        } else {
                            format!("shows at `{other}`, and one is inside the other")
                        };
                        let mut mistake = view
                            .node
                            .mistake(code::BAD_VIEW, format!("`{owner}` {what}"), "")
                            .help("every view has a path of its own; instances of a matrix name an axis in it, as `${matrix.fold}`");
                        if *other_place != place {
                            mistake = mistake.also(other_place, "the other view");
                        }
                        self.mistakes.push(mistake);
                    } else {
                        by_path.insert(&view.path, (&draft.name, place));
                    }
                }
            }
        }
    }
}

/// Checks one instance; what it reads has been checked before.
struct Checker<'c> {
    connector: &'c Connector<'c>,
    mistakes: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn sign(&mut self, stage: &str, draft: &Draft<'_>, schemas: &Found, wired: &mut Wired) {
        let (Some(kind), Some(parameters)) = (draft.kind, &draft.parameters) else {
            wired.is_tainted = true;
            return;
        };
        let Some(parsed) = &parameters.parsed else {
            wired.is_tainted = true;
            // Whatever the parameters are, the ports mostly have the same names.
            if let Some(typical) = parameters::typical_signature(kind) {
                self.check_unknown_ports(stage, draft, &typical);
            }
            return;
        };
        wired.is_tainted |= !parameters.is_good;
        let signature = match parsed.stage.signature(&schemas.schemas) {
            Ok(signature) => signature,
            Err(error) => {
                // With inputs or parameters missing the refusal may be their consequence.
                if !wired.is_tainted {
                    self.mistakes.push(parameters::refusal(
                        &kind.name,
                        &error,
                        &parameters.with,
                        draft.has_with,
                        &draft.uses,
                    ));
                }
                wired.is_tainted = true;
                return;
            }
        };
        self.check_ports(stage, draft, &signature, wired);
        for port in &signature.inputs {
            for ((at, sources), known) in wired.inputs.iter().zip(&schemas.by_port) {
                let (name, draft_port) = &draft.inputs[*at];
                if *name == port.name {
                    self.check_port(&kind.name, port, draft_port, sources, known);
                }
            }
        }
        self.check_sources(draft, &parameters.with, &signature, wired);
        self.check_outputs(stage, draft, &signature);
        if let Some(request) = &draft.settings.gpu
            && request.policy == Gpu::Required
            && !uses_gpus(&signature)
        {
            let message = format!("`{}` computes on the CPU and cannot use a GPU", kind.name);
            self.mistakes.push(
                request
                    .node
                    .mistake(code::BAD_VALUE, message, "")
                    .help("take `gpu` away; programs can use one, by `uses = \"command\"`"),
            );
        }
        wired.signature = Some(signature);
    }

    /// What is known of the inputs; names the outputs that are taken.
    fn schemas(&mut self, stage: &str, draft: &Draft<'_>, wired: &mut Wired) -> Found {
        let mut found = Found::default();
        let mut tainted = wired.is_tainted;
        for (at, sources) in &mut wired.inputs {
            let (port, draft_port) = &draft.inputs[*at];
            let mut schemas = Vec::with_capacity(sources.len());
            for source in sources {
                let DraftSource { node, part, .. } = &draft_port.sources[source.nth];
                let schema = match &mut source.what {
                    WiredInput::File { kind, .. } => Some(PortSchema::of(*kind)),
                    WiredInput::Instance { id, output } => {
                        let producer = self.connector.node(*id);
                        tainted |= producer.is_tainted;
                        match &producer.signature {
                            None => None,
                            Some(signature) => {
                                let consumer = (stage, port.as_str());
                                let name = self.connector.stage(*id);
                                let chosen = choose_output(
                                    consumer,
                                    name,
                                    signature,
                                    output.as_deref(),
                                    node,
                                );
                                match chosen {
                                    Ok((chosen, mut schema)) => {
                                        *output = Some(chosen);
                                        if producer.is_tainted {
                                            schema.columns = None;
                                        }
                                        match in_part(consumer, schema, part, name, node) {
                                            Ok(schema) => Some(schema),
                                            Err(mistake) => {
                                                self.mistakes.push(*mistake);
                                                None
                                            }
                                        }
                                    }
                                    Err(mistake) => {
                                        self.mistakes.push(*mistake);
                                        None
                                    }
                                }
                            }
                        }
                    }
                };
                tainted |= schema.is_none();
                if let Some(schema) = &schema {
                    found.schemas.push(port.clone(), schema.clone());
                }
                schemas.push(schema);
            }
            found.by_port.push(schemas);
        }
        wired.is_tainted = tainted;
        found
    }

    /// Which ports are given that are unknown, and which are needed that are not given.
    fn check_ports(
        &mut self,
        stage: &str,
        draft: &Draft<'_>,
        signature: &Signature,
        wired: &Wired,
    ) {
        self.check_unknown_ports(stage, draft, signature);
        for port in &signature.inputs {
            let mut given = wired.inputs.iter().map(|(at, _)| &draft.inputs[*at].0);
            if port.optional || given.any(|given| *given == port.name) {
                continue;
            }
            let name = &port.name;
            match wired.quiet.get(name) {
                Some(Quiet::Broken) => {}
                Some(Quiet::Off(producer)) => {
                    let given = draft.input(name).expect("what is quiet is given");
                    let place = &given.sources[0].node.place;
                    let message =
                        format!("stage `{stage}` needs `{name}`, but `{producer}` is switched off");
                    self.mistakes.push(
                        Diagnostic::error(code::MISSING_INPUT, message, place, "").help(format!(
                            "the `when` of `{producer}` is false; switch `{stage}` off too, or read another stage"
                        )),
                    );
                }
                None => {
                    // A misspelled port is reported as such; it would only be missing twice.
                    let is_misspelled = draft.inputs.iter().any(|(given, _)| {
                        signature.inputs.iter().all(|other| other.name != *given)
                            && nearest(given, [name.as_str()]).is_some()
                    });
                    if is_misspelled {
                        continue;
                    }
                    let message = format!(
                        "stage `{stage}` lacks the input `{name}`, {}",
                        with_article(port.kind)
                    );
                    let position = drafts::find(self.connector.stages, stage);
                    let key = position.map_or(&draft.uses, |at| &self.connector.stages[at].1.key);
                    self.mistakes.push(
                        Diagnostic::error(code::MISSING_INPUT, message, key, "")
                            .help(format!("add `inputs.{name} = \"STAGE\"`")),
                    );
                }
            }
        }
    }

    fn check_unknown_ports(&mut self, stage: &str, draft: &Draft<'_>, signature: &Signature) {
        let known = signature.inputs.iter().map(|port| port.name.as_str());
        if !signature.open_inputs {
            for (name, port) in &draft.inputs {
                if known.clone().all(|other| other != name) {
                    let otherwise = parameters::known_names("inputs", known.clone());
                    self.mistakes.push(
                        Diagnostic::error(
                            code::UNKNOWN_INPUT,
                            format!("stage `{stage}` has no input `{name}`"),
                            &port.key,
                            "unknown input",
                        )
                        .help(suggestion_or(
                            name,
                            known.clone(),
                            &otherwise,
                        )),
                    );
                }
            }
        }
    }

    /// Kinds, columns and number of what comes into a port.
    fn check_port(
        &mut self,
        kind: &str,
        port: &InputPort,
        draft: &DraftPort,
        sources: &[WiredSource],
        schemas: &[Option<PortSchema>],
    ) {
        let name = &port.name;
        if sources.len() > 1 && !port.many {
            let message = format!(
                "`{kind}` takes one {} at `{name}`, and {} come in",
                port.kind,
                sources.len()
            );
            self.mistakes.push(
                draft.sources[sources[0].nth]
                    .node
                    .mistake(code::SEVERAL_INPUTS, message, "")
                    .help("choose one, as `stage[axis=value]`"),
            );
        }
        for (source, schema) in sources.iter().zip(schemas) {
            let Some(schema) = schema else { continue };
            let node = &draft.sources[source.nth].node;
            if schema.kind != port.kind {
                let message = format!(
                    "`{kind}` takes {} at `{name}`, but {} is {}",
                    with_article(port.kind),
                    self.shown(source),
                    with_article(schema.kind)
                );
                let help = match (&source.what, port.kind) {
                    (WiredInput::File { .. }, Kind::Table) => {
                        "read the file with a stage, as `uses = \"load.csv\"`"
                    }
                    _ => "",
                };
                self.mistakes.push(
                    node.mistake(code::WRONG_KIND, message, with_article(schema.kind))
                        .help(help),
                );
                continue;
            }
            if let InputColumns::Required(wanted) | InputColumns::Only(wanted) = &port.columns
                && let Some(columns) = &schema.columns
            {
                let missing: Vec<&str> = wanted
                    .iter()
                    .map(String::as_str)
                    .filter(|wanted| columns.iter().all(|column| column.name != *wanted))
                    .collect();
                if !missing.is_empty() {
                    let there: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                    let shown = self.shown(source);
                    let mistake = missing_columns(kind, name, (&shown, node), &missing, &there);
                    self.mistakes.push(mistake);
                }
            }
        }
    }

    fn shown(&self, source: &WiredSource) -> String {
        match &source.what {
            WiredInput::Instance { id, output } => match output {
                Some(output) => format!("`{}.{output}`", self.connector.stage(*id)),
                None => format!("`{}`", self.connector.stage(*id)),
            },
            WiredInput::File { path, .. } => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                format!("`{}`", name.to_string_lossy())
            }
        }
    }

    fn check_outputs(&mut self, stage: &str, draft: &Draft<'_>, signature: &Signature) {
        let known = signature.outputs.iter().map(|port| port.name.as_str());
        for (port, view) in &draft.settings.views {
            if known.clone().all(|name| name != port) {
                let otherwise = parameters::known_names("outputs", known.clone());
                let message = format!("stage `{stage}` has no output `{port}` to show");
                self.mistakes.push(
                    Diagnostic::error(code::BAD_VIEW, message, &view.port, "").help(suggestion_or(
                        port,
                        known.clone(),
                        &otherwise,
                    )),
                );
            }
        }
    }

    /// Whether the files that the stage reads are there.
    fn check_sources(
        &mut self,
        draft: &Draft<'_>,
        with: &Node,
        signature: &Signature,
        wired: &mut Wired,
    ) {
        for source in &signature.sources {
            let path = self.connector.options.workspace.join(&source.path);
            if self.connector.kind_of(&path).is_none() {
                let node = with
                    .at(&source.name.split('.').collect::<Vec<_>>())
                    .filter(|node| node.as_str().is_some())
                    .or_else(|| find_text(with, &source.path))
                    .cloned()
                    .unwrap_or_else(|| {
                        Node::new(draft.uses.clone(), crate::document::Content::Broken)
                    });
                let mistake = missing_file(self.connector.options, &path, &node);
                self.mistakes.push(mistake);
            }
            wired.sources.insert(source.name.clone(), path);
        }
    }
}

/// That there is nothing at `path`, which `node` names.
fn missing_file(options: &LoadOptions, path: &Path, node: &Node) -> Diagnostic {
    let written = path.strip_prefix(&options.workspace).unwrap_or(path);
    let name = path.file_name().and_then(|name| name.to_str());
    let neighbours: Vec<String> = path
        .parent()
        .and_then(|folder| std::fs::read_dir(folder).ok())
        .into_iter()
        .flatten()
        .take(1000)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let near = name.and_then(|name| nearest(name, neighbours.iter().map(String::as_str)));
    let help = match near {
        Some(near) => format!("did you mean `{}`?", written.with_file_name(near).display()),
        None => "paths are relative to the workspace".to_owned(),
    };
    let message = format!("`{}` does not exist", written.display());
    node.mistake(code::MISSING_FILE, message, "no such file or folder")
        .help(help)
}

#[derive(Default)]
struct Found {
    schemas: Schemas,
    /// Per port that is wired, per source; `None` where nothing is known.
    by_port: Vec<Vec<Option<PortSchema>>>,
}

/// Whether a stage can use a GPU: a program may, and a kind that says so.
fn uses_gpus(signature: &Signature) -> bool {
    signature.open_inputs || signature.resources.gpu != Gpu::Never
}

fn with_article(kind: Kind) -> &'static str {
    match kind {
        Kind::Table => "a table",
        Kind::Model => "a model",
        Kind::Metrics => "metrics",
        Kind::Report => "a report",
        Kind::File => "a file",
        Kind::Files => "a folder",
    }
}

/// What is known of the part of an output that the port `consumer` (stage, port) reads.
fn in_part(
    consumer: (&str, &str),
    mut schema: PortSchema,
    part: &Part,
    producer: &str,
    node: &Node,
) -> Result<PortSchema, Box<Diagnostic>> {
    if part.is_whole() {
        return Ok(schema);
    }
    let mistake = |code, message: String| node.mistake(code, message, "");
    if schema.kind != Kind::Table {
        let kind = with_article(schema.kind);
        let message = format!("`{producer}` is {kind}, and only tables have columns and windows");
        return Err(Box::new(mistake(code::WRONG_KIND, message)));
    }
    schema.facts.clear();
    let Some(columns) = &schema.columns else {
        return Ok(schema);
    };
    if part.needs_times() && !part::has_time_index(columns) {
        let message = format!("`{producer}` has no time index `ts_ns` for the window");
        return Err(Box::new(
            mistake(code::MISSING_COLUMN, message)
                .help("a window may count rows, as `{ last = 1000 }`"),
        ));
    }
    let there: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let wanted = part.columns.iter().flatten().map(String::as_str);
    let missing: Vec<&str> = wanted.filter(|name| !there.contains(name)).collect();
    if !missing.is_empty() {
        let (stage, port) = consumer;
        let message = format!(
            "`{producer}` lacks the column {}, which `{stage}` asks for at `{port}`",
            listed(missing.iter().take(5).copied())
        );
        return Err(Box::new(
            mistake(code::MISSING_COLUMN, message).help(column_help(&missing, &there)),
        ));
    }
    schema.columns = Some(part.schema(columns));
    Ok(schema)
}

/// The output of `producer` that the port `consumer` (stage, port) reads: the one that is named, the only one, or the one
/// that is called like the port.
fn choose_output(
    consumer: (&str, &str),
    producer: &str,
    signature: &Signature,
    output: Option<&str>,
    node: &Node,
) -> Result<(String, PortSchema), Box<Diagnostic>> {
    let names = signature.outputs.iter().map(|port| port.name.as_str());
    if let Some(name) = output {
        if let Some(port) = signature.output_port(name) {
            return Ok((name.to_owned(), port.schema.clone()));
        }
        let otherwise = parameters::known_names("outputs", names.clone());
        let message = format!("stage `{producer}` has no output `{name}`");
        return Err(Box::new(
            node.mistake(code::UNKNOWN_OUTPUT, message, "")
                .help(suggestion_or(name, names, &otherwise)),
        ));
    }
    match signature.outputs.as_slice() {
        [port] => Ok((port.name.clone(), port.schema.clone())),
        [] => {
            let message = format!(
                "stage `{producer}` makes nothing that `{}` could read",
                consumer.0
            );
            Err(Box::new(node.mistake(code::AMBIGUOUS_OUTPUT, message, "")))
        }
        [first, ..] => {
            if let Some(port) = signature.output_port(consumer.1) {
                return Ok((port.name.clone(), port.schema.clone()));
            }
            let message = format!("stage `{producer}` has several outputs: {}", listed(names));
            let written = node.as_str().unwrap_or(producer);
            Err(Box::new(
                node.mistake(code::AMBIGUOUS_OUTPUT, message, "which one?")
                    .help(format!("name one, as `{written}.{}`", first.name)),
            ))
        }
    }
}

fn missing_columns(
    kind: &str,
    port: &str,
    (shown, node): (&str, &Node),
    missing: &[&str],
    there: &[&str],
) -> Diagnostic {
    let some = listed(missing.iter().take(5).copied());
    let columns = match missing.len() {
        1 => format!("the column {some}"),
        2..=5 => format!("the columns {some}"),
        count => format!("the columns {some} and {} more", count - 5),
    };
    let message = format!("{shown} lacks {columns}, which `{kind}` reads at `{port}`");
    node.mistake(code::MISSING_COLUMN, message, "")
        .help(column_help(missing, there))
}

fn column_help(missing: &[&str], there: &[&str]) -> String {
    let near = missing
        .iter()
        .find_map(|name| nearest(name, there.iter().copied()));
    match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if there.len() <= 20 => format!("its columns are {}", listed(there.iter().copied())),
        None => format!(
            "its {} columns begin with {}",
            there.len(),
            listed(there.iter().take(10).copied())
        ),
    }
}

/// The string below `node` that is `path`.
fn find_text<'n>(node: &'n Node, path: &Path) -> Option<&'n Node> {
    use crate::document::Content;
    match &node.content {
        Content::String(text) if Path::new(text) == path => Some(node),
        Content::Array(items) => items.iter().find_map(|item| find_text(item, path)),
        Content::Table(table) => table
            .values()
            .find_map(|entry| find_text(&entry.node, path)),
        _ => None,
    }
}

fn assemble(
    stages: Stages<'_>,
    mut nodes: Vec<Option<Wired>>,
    order: &[Id],
    general: (u64, DeviceChoice),
    options: &LoadOptions,
) -> Option<(Vec<Instance>, DiGraph<usize, EdgeLabel>)> {
    let mut positions = vec![usize::MAX; nodes.len()];
    for (at, id) in order.iter().enumerate() {
        positions[*id] = at;
    }
    let mut drafts: Vec<Option<(String, Draft<'_>)>> = Vec::with_capacity(nodes.len());
    for (name, stage) in stages {
        if stage.waits_for.is_some() {
            continue; // It has no instances yet.
        }
        let of_stage = stage.drafts?.into_iter();
        drafts.extend(of_stage.map(|draft| Some((name.clone(), draft))));
    }
    let mut edges = DiGraph::with_capacity(order.len(), 0);
    let mut instances = Vec::with_capacity(order.len());
    for (position, &id) in order.iter().enumerate() {
        edges.add_node(position);
        let (stage, mut draft) = drafts[id].take()?;
        let wired = nodes[id].take()?;
        let mut inputs: BTreeMap<String, Vec<InputEdge>> = BTreeMap::new();
        let mut parts = BTreeMap::new();
        for (at, sources) in wired.inputs {
            let (port, draft_port) = &mut draft.inputs[at];
            let port = std::mem::take(port);
            let part = |source: &WiredSource| &draft_port.sources[source.nth].part;
            let mut list = Vec::with_capacity(sources.len());
            if sources.iter().any(|source| !part(source).is_whole()) {
                let of_port: Vec<Part> = sources.iter().map(|s| part(s).clone()).collect();
                parts.insert(port.clone(), of_port);
            }
            for source in sources {
                list.push(match source.what {
                    WiredInput::File { path, .. } => InputEdge::File { path },
                    WiredInput::Instance { id, output } => {
                        let producer = positions[id];
                        let output = output?;
                        edges.add_edge(
                            NodeIndex::new(producer),
                            NodeIndex::new(position),
                            EdgeLabel {
                                output: output.clone(),
                                port: port.clone(),
                            },
                        );
                        InputEdge::Output {
                            instance: producer,
                            output,
                        }
                    }
                });
            }
            inputs.insert(port, list);
        }
        let wired = Connections {
            signature: wired.signature?,
            sources: wired.sources,
            inputs,
            parts,
        };
        instances.push(instance(stage, draft, wired, general, options)?);
    }
    Some((instances, edges))
}

/// What an instance has beyond its draft.
struct Connections {
    signature: Signature,
    sources: BTreeMap<String, PathBuf>,
    inputs: BTreeMap<String, Vec<InputEdge>>,
    parts: BTreeMap<String, Vec<Part>>,
}

fn instance(
    stage: String,
    draft: Draft<'_>,
    wired: Connections,
    (root_seed, device): (u64, DeviceChoice),
    options: &LoadOptions,
) -> Option<Instance> {
    let Connections {
        signature,
        sources,
        inputs,
        parts,
    } = wired;
    let kind = draft.kind?;
    let ParsedStage {
        stage: program,
        parameters,
    } = draft.parameters?.parsed?;
    let parameters = SharedValue::from(parameters);
    let settings = draft.settings;
    let mut key_parameters = parameters.clone();
    if sources.keys().any(|name| parameters.get(name).is_some())
        && let Value::Object(map) = &mut *key_parameters
    {
        map.retain(|name, _| !sources.contains_key(name));
    }
    let mut resources = signature.resources;
    if let Some(threads) = settings.threads {
        resources.threads = threads;
    }
    if let Some(bytes) = settings.memory_bytes {
        resources.memory_bytes = bytes;
    }
    let can_use_a_gpu = uses_gpus(&signature);
    // A stage that would like a GPU gets what the pipeline says, unless its own `resources` say something.
    if resources.gpu == Gpu::Auto {
        resources.gpu = match device {
            DeviceChoice::Cpu => Gpu::Never,
            DeviceChoice::Auto => Gpu::Auto,
            DeviceChoice::Cuda => Gpu::Required,
        };
    }
    let mut gpus = u32::from(resources.gpu != Gpu::Never);
    let mut gpu_memory_bytes = 0;
    if let Some(request) = settings.gpu {
        resources.gpu = request.policy;
        gpus = request.count;
        gpu_memory_bytes = request.memory_bytes;
    }
    if !can_use_a_gpu {
        gpus = 0;
    }
    let seed = settings.seed.unwrap_or_else(|| {
        automatic_seed(
            root_seed,
            &kind.name,
            &settings.seed_axes,
            &draft.coordinates,
        )
    });
    let own_process = signature.own_process;
    Some(Instance {
        name: draft.name,
        stage,
        coordinates: draft
            .coordinates
            .iter()
            .map(|(axis, value)| (axis.clone(), value.to_json(&mut |_| ())))
            .collect(),
        kind: kind.name.clone(),
        code: kind.code.clone(),
        parsed: Parsed {
            stage: program,
            parameters,
        },
        signature,
        inputs,
        key_parameters,
        sources,
        seed,
        views: settings
            .views
            .into_iter()
            .map(|(port, view)| (port, options.workspace.join(view.path)))
            .collect(),
        resources,
        tokens: settings.tokens,
        parts,
        gpus,
        gpu_memory_bytes,
        retries: settings.retries,
        backoff: settings.backoff,
        memory_growth: settings.memory_growth,
        timeout: settings.timeout,
        // A limit holds for a process, so a stage with limits has one.
        isolated: !own_process && (settings.isolated || !settings.limits.is_none()),
        limits: settings.limits,
        on_failure: settings.on_failure,
        salt: settings.salt,
        reproducible: settings.reproducible,
        place: draft.uses,
    })
}
