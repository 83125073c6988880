//! Every instance of every stage by itself, before they are connected.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use natron_artifacts::{Registry, StageKind};
use rayon::prelude::*;

use crate::{
    Diagnostic, LoadOptions, Part, Place,
    axis::{self, AxisSource},
    code,
    condition::{self, Mistake},
    definition::{Definition, StageDefinition, check_keys, expect_str, expect_table, wrong_type},
    did_you_mean::suggestion_and,
    document::{Content, Entry, Node, Table},
    interpolate::{Coordinates, Filler},
    matrix, names,
    parameters::{self, Parameters},
    part,
    references::{self, Reference},
    settings::{self, Settings},
    wiring::Index,
};

/// The instances of one stage.
pub(crate) struct StageDrafts {
    /// Where the stage's name stands.
    pub(crate) key: Place,
    /// The instances; `None` when the matrix is broken, or not known yet.
    pub(crate) drafts: Option<Vec<Draft>>,
    /// The instances by their places on the axes.
    pub(crate) index: OnceCell<Index>,
    /// The stages that it reads, each with the first place that says so.
    pub(crate) reads: Vec<(String, Place)>,
    /// Where axes of its matrix take their values from.
    pub(crate) axes: Vec<AxisSource>,
    /// What it waits for, when its instances are not known yet.
    pub(crate) waits_for: Option<String>,
}

/// One instance, not yet connected.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) coordinates: Coordinates,
    /// Whether `when` lets it run.
    pub(crate) is_on: bool,
    /// Where `uses` stands.
    pub(crate) uses: Place,
    pub(crate) kind: Option<StageKind>,
    pub(crate) parameters: Option<Parameters>,
    /// Whether there is a `with`.
    pub(crate) has_with: bool,
    /// Port -> what it reads.
    pub(crate) inputs: BTreeMap<String, DraftPort>,
    pub(crate) settings: Settings,
}

/// One entry of `inputs`.
pub(crate) struct DraftPort {
    /// Where the port's name stands.
    pub(crate) key: Place,
    /// What it reads.
    pub(crate) sources: Vec<DraftSource>,
    /// Whether something in it was complained about.
    pub(crate) is_broken: bool,
}

/// One thing that a port reads.
pub(crate) struct DraftSource {
    pub(crate) node: Node,
    pub(crate) what: Source,
    /// What of a table is read.
    pub(crate) part: Part,
}

pub(crate) enum Source {
    Stage(Reference),
    File(String),
}

/// A pipeline with fewer stages than this is not worth a second thread.
const WORTH_THREADS: usize = 64;

/// What became of one stage.
struct Made {
    expansion: Expansion,
    drafts: Option<Vec<Draft>>,
    used: BTreeSet<String>,
    mistakes: Vec<Diagnostic>,
}

fn of_stage(
    name: &str,
    stage: &StageDefinition,
    definition: &Definition,
    registry: &Registry,
    options: &LoadOptions,
) -> Made {
    let mut used = BTreeSet::new();
    let mut mistakes = Vec::new();
    let mut expansion = if stage.is_broken {
        Expansion::default()
    } else {
        expand(name, stage, definition, options, &mut used, &mut mistakes)
    };
    let drafts = expansion.instances.take().map(|instances| {
        instances
            .into_iter()
            .map(|coordinates| {
                let mut maker = Maker {
                    stage: name,
                    filler: Filler::new(&definition.params, Some(&coordinates)),
                    coordinates: &coordinates,
                    definition,
                    registry,
                    mistakes: &mut mistakes,
                };
                let draft = maker.draft(stage);
                used.append(&mut maker.filler.used);
                let mut found = std::mem::take(&mut maker.filler.mistakes);
                mistakes.append(&mut found);
                draft
            })
            .collect::<Vec<_>>()
    });
    if drafts.is_none() {
        check_kind_of_broken(stage, registry, &mut mistakes);
    }
    Made {
        expansion,
        drafts,
        used,
        mistakes,
    }
}

/// All instances by stage, and the names of `[params]` that they use. Nothing when there are too many.
pub(crate) fn make(
    definition: &Definition,
    registry: &Registry,
    options: &LoadOptions,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<(BTreeMap<String, StageDrafts>, BTreeSet<String>)> {
    let list: Vec<(&String, &StageDefinition)> = definition.stages.iter().collect();
    let of = |&(name, stage): &(&String, &StageDefinition)| {
        of_stage(name, stage, definition, registry, options)
    };
    let made: Vec<Made> = if list.len() < WORTH_THREADS {
        list.iter().map(of).collect()
    } else {
        list.par_iter().map(of).collect()
    };
    let mut used = BTreeSet::new();
    let mut stages = BTreeMap::new();
    let mut total = 0;
    for ((name, stage), mut made) in list.into_iter().zip(made) {
        used.append(&mut made.used);
        mistakes.append(&mut made.mistakes);
        let (expansion, drafts) = (made.expansion, made.drafts);
        // What the file lists one by one may be as much as it likes.
        if stage.table.contains_key("matrix") {
            total += drafts.as_ref().map_or(1, Vec::len);
        }
        if total > options.max_instances {
            let message = format!(
                "the matrices of the pipeline make more than {} instances",
                options.max_instances
            );
            mistakes.push(
                Diagnostic::error(code::TOO_MANY_INSTANCES, message, &stage.key, "")
                    .help("shorten an axis, or raise the limit with `--max-instances`"),
            );
            return None;
        }
        let mut reads = Vec::new();
        match &drafts {
            Some(drafts) => {
                for source in drafts
                    .iter()
                    .flat_map(|draft| draft.inputs.values())
                    .flat_map(|port| &port.sources)
                {
                    if let Source::Stage(reference) = &source.what {
                        note_first(&mut reads, &reference.stage, &source.node.place);
                    }
                }
            }
            None => unexpanded_reads(stage, definition, &mut reads, &mut used),
        }
        for axis in &expansion.axes {
            note_first(&mut reads, &axis.reference.stage, &axis.node.place);
        }
        stages.insert(
            name.clone(),
            StageDrafts {
                key: stage.key.clone(),
                drafts,
                index: OnceCell::new(),
                reads,
                axes: expansion.axes,
                waits_for: expansion.waits_for,
            },
        );
    }
    defer_readers(&mut stages);
    Some((stages, used))
}

fn note_first(reads: &mut Vec<(String, Place)>, stage: &str, place: &Place) {
    match reads.binary_search_by(|(known, _)| known.as_str().cmp(stage)) {
        Ok(i) if place.span.start < reads[i].1.span.start => reads[i].1 = place.clone(),
        Ok(_) => {}
        Err(i) => {
            if reads.is_empty() {
                reads.reserve_exact(1); // There may be a hundred thousand stages, most of which read one.
            }
            reads.insert(i, (stage.to_owned(), place.clone()));
        }
    }
}

/// What a stage reads whose instances are not known: as far as its inputs are written without axes.
fn unexpanded_reads(
    stage: &StageDefinition,
    definition: &Definition,
    reads: &mut Vec<(String, Place)>,
    used: &mut BTreeSet<String>,
) {
    let mut filler = Filler::new(&definition.params, None);
    for (key, entry) in &stage.table {
        let filled = filler.fill(&entry.node);
        if key != "inputs" {
            continue;
        }
        filled.walk(&mut |node| {
            if let Some(Ok(reference)) = node.as_str().map(references::parse)
                && definition.stages.contains_key(&reference.stage)
            {
                note_first(reads, &reference.stage, &node.place);
            }
        });
    }
    used.append(&mut filler.used);
}

/// Takes the instances away from all that reads a stage without instances.
fn defer_readers(stages: &mut BTreeMap<String, StageDrafts>) {
    if stages.values().all(|stage| stage.waits_for.is_none()) {
        return;
    }
    loop {
        let waiting: Vec<(String, String)> = stages
            .iter()
            .filter(|(_, stage)| stage.waits_for.is_none())
            .filter_map(|(name, stage)| {
                let reads = stage.reads.iter().map(|(read, _)| read);
                let mut waiting = reads.filter(|read| {
                    stages
                        .get(*read)
                        .is_some_and(|other| other.waits_for.is_some())
                });
                Some((name.clone(), waiting.next()?.clone()))
            })
            .collect();
        if waiting.is_empty() {
            return;
        }
        for (name, producer) in waiting {
            let stage = stages.get_mut(&name).expect("it was just found");
            stage.drafts = None;
            stage.waits_for = Some(producer);
        }
    }
}

/// What a matrix comes to.
#[derive(Default)]
struct Expansion {
    /// `None` after a mistake, or when an axis is not known yet.
    instances: Option<Vec<Coordinates>>,
    axes: Vec<AxisSource>,
    waits_for: Option<String>,
}

fn expand(
    name: &str,
    stage: &StageDefinition,
    definition: &Definition,
    options: &LoadOptions,
    used: &mut BTreeSet<String>,
    mistakes: &mut Vec<Diagnostic>,
) -> Expansion {
    let mut expansion = Expansion::default();
    let Some(entry) = stage.table.get("matrix") else {
        expansion.instances = Some(vec![Coordinates::new()]);
        return expansion;
    };
    let mut filler = Filler::new(&definition.params, None);
    let mut entry = Entry {
        key: entry.key.clone(),
        node: filler.fill(&entry.node),
    };
    used.append(&mut filler.used);
    let before = mistakes.len();
    mistakes.append(&mut filler.mistakes);
    if let Content::Table(table) = &mut entry.node.content {
        for (axis, entry) in table.iter_mut() {
            let is_listed = entry
                .node
                .as_table()
                .is_some_and(|t| t.contains_key("from"));
            if matrix::SPECIAL.contains(&axis.as_str()) || !is_listed {
                continue;
            }
            let Some(source) = axis::read(axis, &entry.node, mistakes) else {
                entry.node.content = Content::Broken;
                continue;
            };
            entry.node = listed_axis(&source, &entry.node, options, &mut expansion, mistakes);
            expansion.axes.push(source);
        }
    }
    if expansion.waits_for.is_none() && mistakes.len() == before {
        let instances = matrix::expand(name, &entry, options.max_instances, mistakes);
        expansion.instances = instances.filter(|_| mistakes.len() == before);
    }
    expansion
}

/// The axis as a list, where its values are known.
fn listed_axis(
    source: &AxisSource,
    node: &Node,
    options: &LoadOptions,
    expansion: &mut Expansion,
    mistakes: &mut Vec<Diagnostic>,
) -> Node {
    let axis = &source.axis;
    let from = source.node.as_str().unwrap_or_default();
    match options.axes.get(&source.id) {
        None => {
            expansion.waits_for.get_or_insert_with(|| from.to_owned());
            node.broken()
        }
        Some(Err(why)) => {
            let message = format!("axis `{axis}` finds no values in `{from}`: {why}");
            mistakes.push(source.node.mistake(code::BAD_MATRIX, message, ""));
            node.broken()
        }
        Some(Ok(values)) if values.is_empty() => {
            let message = format!("axis `{axis}` is empty: `{from}` lists no values");
            mistakes.push(
                source
                    .node
                    .mistake(code::EMPTY_MATRIX, message, "")
                    .help("the stage that makes it has to list at least one"),
            );
            node.broken()
        }
        Some(Ok(values)) => axis::as_list(&source.node.place, values),
    }
}

/// A stage without instances still says whether its kind exists.
fn check_kind_of_broken(
    stage: &StageDefinition,
    registry: &Registry,
    mistakes: &mut Vec<Diagnostic>,
) {
    if let Some(uses) = stage.table.get("uses")
        && let Some(kind) = uses.node.as_str()
        && !kind.contains("${")
    {
        look_up(kind, &uses.node, registry, mistakes);
    }
}

fn look_up(
    kind: &str,
    node: &Node,
    registry: &Registry,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<StageKind> {
    let found = registry.get(kind).cloned();
    if found.is_none() {
        let names = registry.kinds().map(|kind| kind.name.as_str());
        let help = suggestion_and(kind, names, "`natron stages` lists all of them");
        let message = format!("unknown stage kind `{}`", kind.escape_debug());
        mistakes.push(
            node.mistake(code::UNKNOWN_KIND, message, "no stage kind is called this")
                .help(help),
        );
    }
    found
}

struct Maker<'a> {
    stage: &'a str,
    filler: Filler<'a>,
    coordinates: &'a Coordinates,
    definition: &'a Definition,
    registry: &'a Registry,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Maker<'_> {
    fn draft(&mut self, stage: &StageDefinition) -> Draft {
        let filled: Table = stage
            .table
            .iter()
            .filter(|(key, _)| !["matrix", "when"].contains(&key.as_str()))
            .map(|(key, entry)| {
                let node = self.filler.fill(&entry.node);
                let key_place = entry.key.clone();
                (
                    key.clone(),
                    Entry {
                        key: key_place,
                        node,
                    },
                )
            })
            .collect();
        let is_on = self.condition(&stage.table);
        let uses = filled
            .get("uses")
            .map_or(&stage.key, |entry| &entry.node.place)
            .clone();
        let mut draft = Draft {
            name: matrix::instance_name(self.stage, self.coordinates),
            coordinates: self.coordinates.clone(),
            is_on,
            uses,
            kind: None,
            parameters: None,
            has_with: filled.contains_key("with"),
            inputs: BTreeMap::new(),
            settings: Settings::default(),
        };
        if !is_on {
            return draft; // What is switched off may lack things that only its instance would have.
        }
        if let Some(entry) = filled.get("uses")
            && let Some(kind) = expect_str("uses", &entry.node, self.mistakes)
        {
            draft.kind = look_up(kind, &entry.node, self.registry, self.mistakes);
        }
        let with = filled.get("with").map(|entry| &entry.node);
        if let Some(with) = with {
            expect_table("`with`", with, self.mistakes);
        }
        if let Some(kind) = &draft.kind {
            draft.parameters = Some(parameters::parse(kind, with, &draft.uses, self.mistakes));
        }
        if let Some(entry) = filled.get("inputs")
            && let Some(table) = expect_table("`inputs`", &entry.node, self.mistakes)
        {
            draft.inputs = self.inputs(table);
        }
        draft.settings = settings::read(
            &filled,
            self.coordinates,
            self.definition.tokens.as_ref(),
            self.mistakes,
        );
        draft
    }

    fn condition(&mut self, table: &Table) -> bool {
        let Some(entry) = table.get("when") else {
            return true;
        };
        let node = &entry.node;
        let help = "`when = \"${params.NAME}\"` takes a boolean, `when = \"${matrix.AXIS} == 'a'\"` compares";
        match &node.content {
            Content::Bool(truth) => *truth,
            Content::Broken => true,
            Content::String(text) => {
                let filler = &mut self.filler;
                let mut reference = |written: &str| {
                    filler.fill(&Node {
                        content: Content::String(written.to_owned()),
                        ..node.clone()
                    })
                };
                match condition::evaluate(text, &mut reference) {
                    Ok(truth) => truth,
                    Err(Mistake::Reported) => true,
                    Err(Mistake::At(at, message)) => {
                        let message = format!("`when`: {message}");
                        let mut place = node.clone();
                        // Between quotes without escapes, the letters of the value are those of the file.
                        if node.origin.is_none()
                            && node.place.text().get(1..=text.len()) == Some(text)
                        {
                            let start = node.place.span.start + 1;
                            place.place.span = start + at..start + text.len().max(at);
                        }
                        self.mistakes
                            .push(place.mistake(code::BAD_CONDITION, message, "").help(help));
                        true
                    }
                }
            }
            _ => {
                let message = format!("`when` is {}, expected a boolean", node.type_name());
                self.mistakes.push(
                    node.mistake(code::BAD_CONDITION, message, "expected `true` or `false`")
                        .help(help),
                );
                true
            }
        }
    }

    fn inputs(&mut self, table: &Table) -> BTreeMap<String, DraftPort> {
        let mut inputs = BTreeMap::new();
        for (port, entry) in table {
            if let Err(mistake) = names::check("an input", port, &entry.key) {
                self.mistakes.push(mistake);
                continue;
            }
            let mut draft = DraftPort {
                key: entry.key.clone(),
                sources: Vec::new(),
                is_broken: false,
            };
            match &entry.node.content {
                Content::Array(items) if items.is_empty() => {
                    draft.is_broken = true;
                    self.mistakes.push(
                        entry
                            .node
                            .mistake(code::BAD_INPUT, format!("input `{port}` reads nothing"), "")
                            .help(references::SHAPES),
                    );
                }
                Content::Array(items) => {
                    for item in items {
                        self.source(port, item, &mut draft);
                    }
                }
                _ => self.source(port, &entry.node, &mut draft),
            }
            inputs.insert(port.clone(), draft);
        }
        inputs
    }

    fn source(&mut self, port: &str, node: &Node, draft: &mut DraftPort) {
        let mut part = Part::default();
        let what = match &node.content {
            Content::String(text) => self.reference(port, node, text),
            Content::Table(table) if table.contains_key("from") => {
                match self.part(port, table, &mut part) {
                    Some(from) => {
                        let text = from.as_str().unwrap_or_default();
                        self.reference(port, from, text)
                    }
                    None => None,
                }
            }
            Content::Table(table) => self.file(port, node, table),
            _ => {
                let what = format!("input `{port}`");
                wrong_type(&what, node, "the name of a stage or a file", self.mistakes);
                None
            }
        };
        // Mistakes of the reference are shown at the reference.
        let node = node.at(&["from"]).unwrap_or(node);
        match what {
            Some(what) => draft.sources.push(DraftSource {
                node: node.clone(),
                what,
                part,
            }),
            None => draft.is_broken = true,
        }
    }

    fn reference(&mut self, port: &str, node: &Node, text: &str) -> Option<Source> {
        match references::parse(text) {
            Ok(reference) => Some(Source::Stage(reference)),
            Err(why) => {
                let help = if text.contains('/') {
                    format!("a file is read by `{port} = {{ file = \"{text}\" }}`")
                } else {
                    references::SHAPES.to_owned()
                };
                self.mistakes
                    .push(node.mistake(code::BAD_INPUT, why, "").help(help));
                None
            }
        }
    }

    /// `{ from = "stage", columns = [...], window = ... }`: the value of `from`.
    fn part<'t>(&mut self, port: &str, table: &'t Table, part: &mut Part) -> Option<&'t Node> {
        let before = self.mistakes.len();
        let keys = ["from", "columns", "window"];
        check_keys(&format!("input `{port}`"), table, &keys, self.mistakes);
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let from = value("from")?;
        expect_str("from", from, self.mistakes)?;
        let is_broken = ["columns", "window"]
            .iter()
            .filter_map(|key| value(key))
            .any(has_broken);
        if is_broken {
            return None; // Complained about already.
        }
        *part = part::read(port, value("columns"), value("window"), self.mistakes)?;
        (self.mistakes.len() == before).then_some(from)
    }

    fn file(&mut self, port: &str, node: &Node, table: &Table) -> Option<Source> {
        let keys = ["file", "from", "columns", "window"];
        check_keys(&format!("input `{port}`"), table, &keys, self.mistakes);
        let Some(entry) = table.get("file") else {
            if table.is_empty() || keys.iter().any(|key| table.contains_key(key)) {
                let message = format!("input `{port}` names neither a stage nor a file");
                self.mistakes.push(
                    node.mistake(code::BAD_INPUT, message, "")
                        .help(references::SHAPES),
                );
            }
            return None;
        };
        if let Some(other) = table.get("columns").or_else(|| table.get("window")) {
            let message = format!("input `{port}` is a file, which has no columns and windows");
            self.mistakes.push(
                Diagnostic::error(code::BAD_INPUT, message, &other.key, "")
                    .help("read the file with a stage, and its table with `from`"),
            );
            return None;
        }
        let path = expect_str("file", &entry.node, self.mistakes)?;
        if path.is_empty() || path.contains('\0') {
            let message = format!("`{}` is no path of a file", path.escape_debug());
            self.mistakes
                .push(entry.node.mistake(code::BAD_INPUT, message, ""));
            return None;
        }
        Some(Source::File(path.to_owned()))
    }
}

fn has_broken(node: &Node) -> bool {
    let mut found = false;
    node.walk(&mut |part| found |= part.is_broken());
    found
}
