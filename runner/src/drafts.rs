//! Every instance of every stage by itself, before they are connected.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
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
pub(crate) struct StageDrafts<'r> {
    /// Where the stage's name stands.
    pub(crate) key: Place,
    /// The instances; `None` when the matrix is broken, or not known yet.
    pub(crate) drafts: Option<Vec<Draft<'r>>>,
    /// The instances by their places on the axes.
    pub(crate) index: OnceLock<Index>,
    /// The stages that it reads, each with the first place that says so.
    pub(crate) reads: Vec<(String, Place)>,
    /// Where axes of its matrix take their values from.
    pub(crate) axes: Vec<AxisSource>,
    /// What it waits for, when its instances are not known yet.
    pub(crate) waits_for: Option<String>,
}

/// One instance, not yet connected.
pub(crate) struct Draft<'r> {
    pub(crate) name: String,
    pub(crate) coordinates: Coordinates,
    /// Whether `when` lets it run.
    pub(crate) is_on: bool,
    /// Where `uses` stands.
    pub(crate) uses: Place,
    pub(crate) kind: Option<&'r StageKind>,
    pub(crate) parameters: Option<Parameters>,
    /// Whether there is a `with`.
    pub(crate) has_with: bool,
    /// The ports by name, in order, and what they read.
    pub(crate) inputs: Vec<(String, DraftPort)>,
    pub(crate) settings: Settings,
}

/// All stages, in order of their names.
pub(crate) type Stages<'r> = Vec<(String, StageDrafts<'r>)>;

impl Draft<'_> {
    /// What the port `name` reads.
    pub(crate) fn input(&self, name: &str) -> Option<&DraftPort> {
        let mut inputs = self.inputs.iter();
        inputs.find(|(port, _)| port == name).map(|(_, port)| port)
    }
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
struct Made<'r> {
    expansion: Expansion,
    drafts: Option<Vec<Draft<'r>>>,
    /// Whether it is one of a list of instances.
    has_matrix: bool,
    used: BTreeSet<String>,
    mistakes: Vec<Diagnostic>,
}

/// The instances of one stage; its table is used up if there are any.
fn of_stage<'r>(
    name: &str,
    stage: &mut StageDefinition,
    definition: &Definition,
    registry: &'r Registry,
    options: &LoadOptions,
) -> Made<'r> {
    let has_matrix = stage.table.contains_key("matrix");
    let mut used = BTreeSet::new();
    let mut mistakes = Vec::new();
    let mut expansion = if stage.is_broken {
        Expansion::default()
    } else {
        expand(name, stage, definition, options, &mut used, &mut mistakes)
    };
    let drafts = expansion.instances.take().map(|instances| {
        let mut table = std::mem::take(&mut stage.table);
        table.remove("matrix");
        let when = table.remove("when").map(|entry| entry.node);
        let last = instances.len().saturating_sub(1);
        let drafts = instances.into_iter().enumerate();
        drafts
            .map(|(nth, coordinates)| {
                let mut maker = Maker {
                    stage: name,
                    filler: Filler::new(&definition.params, Some(&coordinates)),
                    coordinates: &coordinates,
                    definition,
                    registry,
                    mistakes: &mut mistakes,
                };
                let table = if nth == last {
                    std::mem::take(&mut table)
                } else {
                    table.clone()
                };
                let draft = maker.draft(&stage.key, table, when.as_ref());
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
        has_matrix,
        used,
        mistakes,
    }
}

/// All instances by stage, and the names of `[params]` that each stage uses, where it uses any. Nothing when there are too
/// many. The stages of `definition` are used up.
pub(crate) fn make<'r>(
    definition: &mut Definition,
    registry: &'r Registry,
    options: &LoadOptions,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<(Stages<'r>, BTreeMap<String, BTreeSet<String>>)> {
    let mut list = std::mem::take(&mut definition.stages);
    let definition = &*definition;
    let of = |(name, stage): &mut (String, StageDefinition)| {
        of_stage(name, stage, definition, registry, options)
    };
    let made: Vec<Made<'r>> = if list.len() < WORTH_THREADS {
        list.iter_mut().map(of).collect()
    } else {
        list.par_iter_mut().map(of).collect()
    };
    let mut used = BTreeMap::new();
    let mut stages = Vec::with_capacity(list.len());
    let mut total = 0;
    let known = |name: &str| find(&list, name).is_some();
    for ((name, stage), mut made) in list.iter().zip(made) {
        mistakes.append(&mut made.mistakes);
        let (expansion, drafts) = (made.expansion, made.drafts);
        // What the file lists one by one may be as much as it likes.
        if made.has_matrix {
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
                    .flat_map(|draft| &draft.inputs)
                    .flat_map(|(_, port)| &port.sources)
                {
                    if let Source::Stage(reference) = &source.what {
                        note_first(&mut reads, &reference.stage, &source.node.place);
                    }
                }
            }
            None => unexpanded_reads(stage, definition, known, &mut reads, &mut made.used),
        }
        for axis in &expansion.axes {
            note_first(&mut reads, &axis.reference.stage, &axis.node.place);
        }
        if !made.used.is_empty() {
            used.insert(name.clone(), made.used);
        }
        stages.push((
            name.clone(),
            StageDrafts {
                key: stage.key.clone(),
                drafts,
                index: OnceLock::new(),
                reads,
                axes: expansion.axes,
                waits_for: expansion.waits_for,
            },
        ));
    }
    defer_readers(&mut stages);
    Some((stages, used))
}

/// Position of the stage called `name` in a list in order of the names.
pub(crate) fn find<T>(stages: &[(String, T)], name: &str) -> Option<usize> {
    stages
        .binary_search_by(|(known, _)| known.as_str().cmp(name))
        .ok()
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
    is_known: impl Fn(&str) -> bool,
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
                && is_known(&reference.stage)
            {
                note_first(reads, &reference.stage, &node.place);
            }
        });
    }
    used.append(&mut filler.used);
}

/// Takes the instances away from all that reads a stage without instances.
fn defer_readers(stages: &mut Stages<'_>) {
    if stages.iter().all(|(_, stage)| stage.waits_for.is_none()) {
        return;
    }
    loop {
        let waiting: Vec<(usize, String)> = stages
            .iter()
            .enumerate()
            .filter(|(_, (_, stage))| stage.waits_for.is_none())
            .filter_map(|(position, (_, stage))| {
                let reads = stage.reads.iter().map(|(read, _)| read);
                let mut waiting = reads.filter(|read| {
                    find(stages, read).is_some_and(|other| stages[other].1.waits_for.is_some())
                });
                Some((position, waiting.next()?.clone()))
            })
            .collect();
        if waiting.is_empty() {
            return;
        }
        for (position, producer) in waiting {
            let stage = &mut stages[position].1;
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

fn look_up<'r>(
    kind: &str,
    node: &Node,
    registry: &'r Registry,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<&'r StageKind> {
    let found = registry.get(kind);
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

struct Maker<'a, 'r> {
    stage: &'a str,
    filler: Filler<'a>,
    coordinates: &'a Coordinates,
    definition: &'a Definition,
    registry: &'r Registry,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl<'r> Maker<'_, 'r> {
    /// The instance that `filled`, all but `matrix` and `when` of the stage whose name stands at `key`, describes.
    fn draft(&mut self, key: &Place, mut filled: Table, when: Option<&Node>) -> Draft<'r> {
        for entry in filled.values_mut() {
            self.filler.fill_in(&mut entry.node);
        }
        let is_on = when.is_none_or(|when| self.condition(when));
        let uses = filled
            .get("uses")
            .map_or(key, |entry| &entry.node.place)
            .clone();
        let mut draft = Draft {
            name: matrix::instance_name(self.stage, self.coordinates),
            coordinates: self.coordinates.clone(),
            is_on,
            uses,
            kind: None,
            parameters: None,
            has_with: filled.contains_key("with"),
            inputs: Vec::new(),
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
        let with = filled.remove("with").map(|entry| entry.node);
        if let Some(with) = &with {
            expect_table("`with`", with, self.mistakes);
        }
        if let Some(kind) = draft.kind {
            draft.parameters = Some(parameters::parse(kind, with, &draft.uses, self.mistakes));
        }
        if let Some(Entry { node, .. }) = filled.remove("inputs") {
            expect_table("`inputs`", &node, self.mistakes);
            if let Content::Table(table) = node.content {
                draft.inputs = self.inputs(table);
            }
        }
        draft.settings = settings::read(
            &filled,
            self.coordinates,
            self.definition.tokens.as_ref(),
            self.mistakes,
        );
        draft
    }

    /// Whether the `when` that `node` is lets the instance run.
    fn condition(&mut self, node: &Node) -> bool {
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

    fn inputs(&mut self, table: Table) -> Vec<(String, DraftPort)> {
        let mut inputs = Vec::with_capacity(table.keys().count());
        for (port, Entry { key, node }) in table {
            if let Err(mistake) = names::check("an input", &port, &key) {
                self.mistakes.push(mistake);
                continue;
            }
            let mut draft = DraftPort {
                key,
                sources: Vec::new(),
                is_broken: false,
            };
            match node.content {
                Content::Array(ref items) if items.is_empty() => {
                    draft.is_broken = true;
                    self.mistakes.push(
                        node.mistake(code::BAD_INPUT, format!("input `{port}` reads nothing"), "")
                            .help(references::SHAPES),
                    );
                }
                Content::Array(items) => {
                    for item in items {
                        self.source(&port, item, &mut draft);
                    }
                }
                _ => self.source(&port, node, &mut draft),
            }
            draft.sources.shrink_to_fit();
            inputs.push((port, draft));
        }
        inputs
    }

    fn source(&mut self, port: &str, node: Node, draft: &mut DraftPort) {
        let mut part = Part::default();
        let what = match &node.content {
            Content::String(text) => self.reference(port, &node, text),
            Content::Table(table) if table.contains_key("from") => {
                match self.part(port, table, &mut part) {
                    Some(from) => {
                        let text = from.as_str().unwrap_or_default();
                        self.reference(port, from, text)
                    }
                    None => None,
                }
            }
            Content::Table(table) => self.file(port, &node, table),
            _ => {
                let what = format!("input `{port}`");
                wrong_type(&what, &node, "the name of a stage or a file", self.mistakes);
                None
            }
        };
        // Mistakes of the reference are shown at the reference.
        let from = node.at(&["from"]).cloned();
        match what {
            Some(what) => draft.sources.push(DraftSource {
                node: from.unwrap_or(node),
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
