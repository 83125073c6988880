//! From single instances to the graph: signatures in topological order, and every check that needs them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    path::{Path, PathBuf},
};

use natron_artifacts::{Gpu, InputColumns, InputPort, Kind, PortSchema, Schemas, Signature};
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use crate::{
    AwaitedAxis, Deferred, Diagnostic, EdgeLabel, InputEdge, Instance, LoadOptions, Part, Place,
    code,
    did_you_mean::{listed, nearest, suggestion_or},
    document::Node,
    drafts::{Draft, DraftPort, Source, StageDrafts},
    interpolate::Coordinates,
    parameters, part,
    settings::automatic_seed,
    wiring::{self, Id, Resolved},
};

/// Instances in topological order, their edges, and what is not known yet.
pub(crate) struct Connected {
    pub(crate) instances: Vec<Instance>,
    pub(crate) edges: DiGraph<usize, EdgeLabel>,
    pub(crate) awaited: Vec<AwaitedAxis>,
    pub(crate) deferred: Vec<Deferred>,
}

/// Connects all instances. Nothing after a mistake.
pub(crate) fn connect(
    stages: BTreeMap<String, StageDrafts>,
    root_seed: u64,
    options: &LoadOptions,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Connected> {
    let before = mistakes.len();
    let cyclic = wiring::cyclic_stages(&stages, mistakes);
    let mut connector = Connector {
        stages: &stages,
        options,
        nodes: BTreeMap::new(),
        files: BTreeMap::new(),
        mistakes,
    };
    connector.wire(&cyclic);
    let order = connector.order();
    for id in &order {
        connector.check(id);
    }
    connector.check_views();
    let listed = connector.listed_axes(&cyclic);
    let nodes = connector.nodes;
    if mistakes.len() > before {
        return None;
    }
    let position = |id: &Id| order.iter().position(|other| other == id);
    let awaited = listed
        .into_iter()
        .map(|(id, axis)| {
            Some(AwaitedAxis {
                instance: position(&id)?,
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
    let (instances, edges) = assemble(stages, nodes, &order, root_seed, options)?;
    Some(Connected {
        instances,
        edges,
        awaited,
        deferred,
    })
}

/// What is known of an instance besides its draft.
#[derive(Default)]
struct Wired {
    inputs: BTreeMap<String, Vec<WiredSource>>,
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
    node: Node,
    what: WiredInput,
    part: Part,
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
    stages: &'a BTreeMap<String, StageDrafts>,
    options: &'a LoadOptions,
    nodes: BTreeMap<Id, Wired>,
    /// Whether each path asked for exists.
    files: BTreeMap<PathBuf, bool>,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Connector<'_> {
    fn draft(&self, id: &Id) -> &Draft {
        &self.stages[&id.0]
            .drafts
            .as_ref()
            .expect("wired instances have drafts")[id.1]
    }

    /// Finds what every input reads.
    fn wire(&mut self, cyclic: &BTreeSet<String>) {
        let stages = self.stages;
        for (name, stage) in stages {
            for (position, draft) in stage.drafts.iter().flatten().enumerate() {
                if !draft.is_on {
                    continue;
                }
                let mut wired = Wired::default();
                for (port, ports) in &draft.inputs {
                    self.wire_port(port, ports, draft, cyclic, &mut wired);
                }
                self.nodes.insert((name.clone(), position), wired);
            }
        }
    }

    fn wire_port(
        &mut self,
        port: &str,
        draft_port: &DraftPort,
        draft: &Draft,
        cyclic: &BTreeSet<String>,
        wired: &mut Wired,
    ) {
        let mut sources = Vec::new();
        let mut quiet = draft_port.is_broken.then_some(Quiet::Broken);
        for source in &draft_port.sources {
            match &source.what {
                Source::File(path) => {
                    let path = self.options.workspace.join(path);
                    let node = source.node.at(&["file"]).unwrap_or(&source.node);
                    if !self.exists(&path) {
                        self.missing_file(&path, node);
                        quiet = Some(Quiet::Broken);
                        continue;
                    }
                    let kind = if path.is_dir() {
                        Kind::Files
                    } else {
                        Kind::File
                    };
                    sources.push(WiredSource {
                        node: source.node.clone(),
                        what: WiredInput::File { path, kind },
                        part: Part::default(),
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
                        Resolved::Instances(_) if cyclic.contains(&reference.stage) => {
                            quiet = Some(Quiet::Broken);
                        }
                        Resolved::Instances(ids) => {
                            sources.extend(ids.into_iter().map(|id| WiredSource {
                                node: source.node.clone(),
                                part: source.part.clone(),
                                what: WiredInput::Instance {
                                    id,
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
            wired.inputs.insert(port.to_owned(), sources);
        }
    }

    /// All instances, producers before consumers, otherwise by name.
    fn order(&self) -> Vec<Id> {
        let mut waiting: BTreeMap<&Id, usize> = BTreeMap::new();
        let mut consumers: BTreeMap<&Id, Vec<&Id>> = BTreeMap::new();
        for (id, wired) in &self.nodes {
            let producers: BTreeSet<&Id> = wired
                .inputs
                .values()
                .flatten()
                .filter_map(|source| match &source.what {
                    WiredInput::Instance { id, .. } => Some(id),
                    WiredInput::File { .. } => None,
                })
                .collect();
            waiting.insert(id, producers.len());
            for producer in producers {
                consumers.entry(producer).or_default().push(id);
            }
        }
        // Kahn (1962); the heap makes the order one of the names, not of the file.
        let mut ready: BinaryHeap<Reverse<(&str, &Id)>> = waiting
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(id, _)| Reverse((self.draft(id).name.as_str(), *id)))
            .collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id.clone());
            for consumer in consumers.get(id).into_iter().flatten() {
                let count = waiting.get_mut(consumer).expect("every instance waits");
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse((self.draft(consumer).name.as_str(), consumer)));
                }
            }
        }
        order
    }

    /// Asks an instance for its signature and checks its inputs against it.
    fn check(&mut self, id: &Id) {
        let stages = self.stages;
        let drafts = stages[&id.0]
            .drafts
            .as_ref()
            .expect("wired instances have drafts");
        let draft = &drafts[id.1];
        let mut wired = self.nodes.remove(id).expect("ordered instances are wired");
        let schemas = self.schemas(&id.0, &mut wired);
        self.sign(id, draft, &schemas, &mut wired);
        self.nodes.insert(id.clone(), wired);
    }

    fn sign(&mut self, id: &Id, draft: &Draft, schemas: &Found, wired: &mut Wired) {
        let (Some(kind), Some(parameters)) = (&draft.kind, &draft.parameters) else {
            wired.is_tainted = true;
            return;
        };
        let Some(parsed) = &parameters.parsed else {
            wired.is_tainted = true;
            // Whatever the parameters are, the ports mostly have the same names.
            if let Some(typical) = parameters::typical_signature(kind) {
                self.check_unknown_ports(&id.0, draft, &typical);
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
        self.check_ports(&id.0, draft, &signature, wired);
        for port in &signature.inputs {
            if let Some(known) = schemas.by_port.get(&port.name) {
                self.check_port(&kind.name, port, &wired.inputs[&port.name], known);
            }
        }
        self.check_sources(draft, &parameters.with, &signature, wired);
        self.check_outputs(&id.0, draft, &signature);
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
    fn schemas(&mut self, stage: &str, wired: &mut Wired) -> Found {
        let mut found = Found::default();
        let mut tainted = wired.is_tainted;
        for (port, sources) in &mut wired.inputs {
            for source in sources {
                let schema = match &mut source.what {
                    WiredInput::File { kind, .. } => Some((PortSchema::of(*kind), None)),
                    WiredInput::Instance { id, output } => {
                        let producer = &self.nodes[id];
                        tainted |= producer.is_tainted;
                        match &producer.signature {
                            None => None,
                            Some(signature) => {
                                let chosen = choose_output(
                                    (stage, port),
                                    &id.0,
                                    signature,
                                    output.as_deref(),
                                    &source.node,
                                );
                                match chosen {
                                    Ok((name, mut schema)) => {
                                        *output = Some(name.clone());
                                        if producer.is_tainted {
                                            schema.columns = None;
                                        }
                                        let consumer = (stage, port.as_str());
                                        match in_part(
                                            consumer,
                                            schema,
                                            &source.part,
                                            &id.0,
                                            &source.node,
                                        ) {
                                            Ok(schema) => Some((schema, Some(name))),
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
                if let Some((schema, _)) = &schema {
                    found.schemas.push(port.clone(), schema.clone());
                }
                found
                    .by_port
                    .entry(port.clone())
                    .or_default()
                    .push(schema.map(|(schema, _)| schema));
            }
        }
        wired.is_tainted = tainted;
        found
    }

    /// What the axes that artifacts list and that are not known yet wait for; checks all of them.
    fn listed_axes(&mut self, cyclic: &BTreeSet<String>) -> Vec<(Id, AwaitedAxis)> {
        let stages = self.stages;
        let mut awaited: BTreeMap<String, (Id, AwaitedAxis)> = BTreeMap::new();
        for axis in stages.values().flat_map(|stage| &stage.axes) {
            let reference = &axis.reference;
            let is_waiting = stages
                .get(&reference.stage)
                .is_some_and(|stage| stage.waits_for.is_some());
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
                Resolved::Instances(ids) => match <[Id; 1]>::try_from(ids) {
                    Ok([id]) => id,
                    Err(ids) => {
                        let message = format!(
                            "axis `{}` is listed by one artifact, and {} are named",
                            axis.axis,
                            ids.len()
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
            let Some(signature) = &self.nodes[&id].signature else {
                continue;
            };
            let consumer = (axis.axis.as_str(), axis.axis.as_str());
            let output = reference.output.as_deref();
            match choose_output(consumer, &id.0, signature, output, &axis.node) {
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

    /// Which ports are given that are unknown, and which are needed that are not given.
    fn check_ports(&mut self, stage: &str, draft: &Draft, signature: &Signature, wired: &Wired) {
        self.check_unknown_ports(stage, draft, signature);
        for port in &signature.inputs {
            if port.optional || wired.inputs.contains_key(&port.name) {
                continue;
            }
            let name = &port.name;
            match wired.quiet.get(name) {
                Some(Quiet::Broken) => {}
                Some(Quiet::Off(producer)) => {
                    let place = &draft.inputs[name].sources[0].node.place;
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
                    let is_misspelled = draft.inputs.keys().any(|given| {
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
                    self.mistakes.push(
                        Diagnostic::error(
                            code::MISSING_INPUT,
                            message,
                            &self.stages[stage].key,
                            "",
                        )
                        .help(format!("add `inputs.{name} = \"STAGE\"`")),
                    );
                }
            }
        }
    }

    fn check_unknown_ports(&mut self, stage: &str, draft: &Draft, signature: &Signature) {
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
                sources[0]
                    .node
                    .mistake(code::SEVERAL_INPUTS, message, "")
                    .help("choose one, as `stage[axis=value]`"),
            );
        }
        for (source, schema) in sources.iter().zip(schemas) {
            let Some(schema) = schema else { continue };
            if schema.kind != port.kind {
                let message = format!(
                    "`{kind}` takes {} at `{name}`, but {} is {}",
                    with_article(port.kind),
                    shown(source),
                    with_article(schema.kind)
                );
                let help = match (&source.what, port.kind) {
                    (WiredInput::File { .. }, Kind::Table) => {
                        "read the file with a stage, as `uses = \"load.csv\"`"
                    }
                    _ => "",
                };
                self.mistakes.push(
                    source
                        .node
                        .mistake(code::WRONG_KIND, message, with_article(schema.kind))
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
                    self.mistakes
                        .push(missing_columns(kind, name, source, &missing, &there));
                }
            }
        }
    }

    fn check_outputs(&mut self, stage: &str, draft: &Draft, signature: &Signature) {
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
        draft: &Draft,
        with: &Node,
        signature: &Signature,
        wired: &mut Wired,
    ) {
        for source in &signature.sources {
            let path = self.options.workspace.join(&source.path);
            if !self.exists(&path) {
                let node = with
                    .at(&source.name.split('.').collect::<Vec<_>>())
                    .filter(|node| node.as_str().is_some())
                    .or_else(|| find_text(with, &source.path))
                    .cloned()
                    .unwrap_or_else(|| {
                        Node::new(draft.uses.clone(), crate::document::Content::Broken)
                    });
                self.missing_file(&path, &node);
            }
            wired.sources.insert(source.name.clone(), path);
        }
    }

    fn exists(&mut self, path: &Path) -> bool {
        if let Some(exists) = self.files.get(path) {
            return *exists;
        }
        let exists = path.exists();
        self.files.insert(path.to_owned(), exists);
        exists
    }

    fn missing_file(&mut self, path: &Path, node: &Node) {
        let written = path.strip_prefix(&self.options.workspace).unwrap_or(path);
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
        self.mistakes.push(
            node.mistake(code::MISSING_FILE, message, "no such file or folder")
                .help(help),
        );
    }

    /// No two views show at one path, and none inside another.
    fn check_views(&mut self) {
        let mut by_path: BTreeMap<&str, (&str, &Place)> = BTreeMap::new();
        for stage in self.stages.values() {
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

#[derive(Default)]
struct Found {
    schemas: Schemas,
    /// Per source; `None` where nothing is known.
    by_port: BTreeMap<String, Vec<Option<PortSchema>>>,
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

fn shown(source: &WiredSource) -> String {
    match &source.what {
        WiredInput::Instance { id, output } => match output {
            Some(output) => format!("`{}.{output}`", id.0),
            None => format!("`{}`", id.0),
        },
        WiredInput::File { path, .. } => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            format!("`{}`", name.to_string_lossy())
        }
    }
}

fn missing_columns(
    kind: &str,
    port: &str,
    source: &WiredSource,
    missing: &[&str],
    there: &[&str],
) -> Diagnostic {
    let some = listed(missing.iter().take(5).copied());
    let columns = match missing.len() {
        1 => format!("the column {some}"),
        2..=5 => format!("the columns {some}"),
        count => format!("the columns {some} and {} more", count - 5),
    };
    let message = format!(
        "{} lacks {columns}, which `{kind}` reads at `{port}`",
        shown(source)
    );
    source
        .node
        .mistake(code::MISSING_COLUMN, message, "")
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
    stages: BTreeMap<String, StageDrafts>,
    mut nodes: BTreeMap<Id, Wired>,
    order: &[Id],
    root_seed: u64,
    options: &LoadOptions,
) -> Option<(Vec<Instance>, DiGraph<usize, EdgeLabel>)> {
    let positions: BTreeMap<&Id, usize> =
        order.iter().enumerate().map(|(at, id)| (id, at)).collect();
    let mut drafts: BTreeMap<Id, Draft> = BTreeMap::new();
    for (name, stage) in stages {
        if stage.waits_for.is_some() {
            continue; // It has no instances yet.
        }
        for (position, draft) in stage.drafts?.into_iter().enumerate() {
            drafts.insert((name.clone(), position), draft);
        }
    }
    let mut edges = DiGraph::new();
    let mut instances = Vec::with_capacity(order.len());
    for (position, id) in order.iter().enumerate() {
        edges.add_node(position);
        let draft = drafts.remove(id)?;
        let wired = nodes.remove(id)?;
        let mut inputs: BTreeMap<String, Vec<InputEdge>> = BTreeMap::new();
        let mut parts = BTreeMap::new();
        for (port, sources) in wired.inputs {
            let mut list = Vec::with_capacity(sources.len());
            if sources.iter().any(|source| !source.part.is_whole()) {
                let of_port: Vec<Part> = sources.iter().map(|s| s.part.clone()).collect();
                parts.insert(port.clone(), of_port);
            }
            for source in sources {
                list.push(match source.what {
                    WiredInput::File { path, .. } => InputEdge::File { path },
                    WiredInput::Instance { id, output } => {
                        let producer = positions[&id];
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
        let instance = instance(
            id,
            draft,
            wired.signature?,
            wired.sources,
            inputs,
            root_seed,
            options,
        )?;
        instances.push(Instance { parts, ..instance });
    }
    Some((instances, edges))
}

fn instance(
    id: &Id,
    draft: Draft,
    signature: Signature,
    sources: BTreeMap<String, PathBuf>,
    inputs: BTreeMap<String, Vec<InputEdge>>,
    root_seed: u64,
    options: &LoadOptions,
) -> Option<Instance> {
    let kind = draft.kind?;
    let parsed = draft.parameters?.parsed?;
    let settings = draft.settings;
    let mut key_parameters = parsed.parameters.clone();
    if let Value::Object(map) = &mut key_parameters {
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
        stage: id.0.clone(),
        coordinates: draft
            .coordinates
            .iter()
            .map(|(axis, value)| (axis.clone(), value.to_json(&mut |_| ())))
            .collect(),
        kind: kind.name,
        code: kind.code,
        parsed,
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
        parts: BTreeMap::new(),
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
