//! Every instance of every stage by itself, before they are connected.

use std::collections::{BTreeMap, BTreeSet};

use natron_artifacts::{Registry, StageKind};

use crate::{
    Diagnostic, LoadOptions, Place, code,
    definition::{Definition, StageDefinition, check_keys, expect_str, expect_table, wrong_type},
    did_you_mean::suggestion_and,
    document::{Content, Entry, Node, Table},
    interpolate::{Coordinates, Filler},
    matrix, names,
    parameters::{self, Parameters},
    references::{self, Reference},
    settings::{self, Settings},
};

/// The instances of one stage.
pub(crate) struct StageDrafts {
    /// Where the stage's name stands.
    pub(crate) key: Place,
    /// The instances; `None` when the matrix is broken.
    pub(crate) drafts: Option<Vec<Draft>>,
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
}

pub(crate) enum Source {
    Stage(Reference),
    File(String),
}

/// All instances by stage, and the names of `[params]` that they use. Nothing when there are too many.
pub(crate) fn make(
    definition: &Definition,
    registry: &Registry,
    options: &LoadOptions,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<(BTreeMap<String, StageDrafts>, BTreeSet<String>)> {
    let mut used = BTreeSet::new();
    let mut stages = BTreeMap::new();
    let mut total = 0;
    for (name, stage) in &definition.stages {
        let expanded = if stage.is_broken {
            None
        } else {
            expand(name, stage, definition, options, &mut used, mistakes)
        };
        let drafts = expanded.map(|instances| {
            instances
                .into_iter()
                .map(|coordinates| {
                    let mut maker = Maker {
                        stage: name,
                        filler: Filler::new(&definition.params, Some(&coordinates)),
                        coordinates: &coordinates,
                        registry,
                        mistakes: &mut *mistakes,
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
            check_kind_of_broken(stage, registry, mistakes);
        }
        // Stages that somebody wrote one by one are as many as they are meant to be; a product of axes may not be.
        let made = drafts.as_ref().map_or(0, Vec::len);
        total += if made > 1 { made } else { 0 };
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
        stages.insert(
            name.clone(),
            StageDrafts {
                key: stage.key.clone(),
                drafts,
            },
        );
    }
    Some((stages, used))
}

fn expand(
    name: &str,
    stage: &StageDefinition,
    definition: &Definition,
    options: &LoadOptions,
    used: &mut BTreeSet<String>,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Vec<Coordinates>> {
    let Some(entry) = stage.table.get("matrix") else {
        return Some(vec![Coordinates::new()]);
    };
    let mut filler = Filler::new(&definition.params, None);
    let entry = Entry {
        key: entry.key.clone(),
        node: filler.fill(&entry.node),
    };
    used.append(&mut filler.used);
    let is_good = filler.mistakes.is_empty();
    mistakes.append(&mut filler.mistakes);
    matrix::expand(name, &entry, options.max_instances, mistakes).filter(|_| is_good)
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
    registry: &'a Registry,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Maker<'_> {
    fn draft(&mut self, stage: &StageDefinition) -> Draft {
        let filled: Table = stage
            .table
            .iter()
            .filter(|(key, _)| *key != "matrix")
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
        let is_on = self.condition(&filled);
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
        draft.settings = settings::read(&filled, self.coordinates, self.mistakes);
        draft
    }

    fn condition(&mut self, table: &Table) -> bool {
        let Some(entry) = table.get("when") else {
            return true;
        };
        match entry.node.content {
            Content::Bool(truth) => truth,
            Content::Broken => true,
            _ => {
                let message = format!("`when` is {}, expected a boolean", entry.node.type_name());
                self.mistakes.push(
                    entry
                        .node
                        .mistake(code::BAD_CONDITION, message, "expected `true` or `false`")
                        .help(
                            "`when = \"${params.NAME}\"` or `when = \"${matrix.AXIS}\"` takes a boolean from there",
                        ),
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
        let what = match &node.content {
            Content::String(text) => match references::parse(text) {
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
            },
            Content::Table(table) => self.file(port, node, table),
            _ => {
                let what = format!("input `{port}`");
                wrong_type(&what, node, "the name of a stage or a file", self.mistakes);
                None
            }
        };
        match what {
            Some(what) => draft.sources.push(DraftSource {
                node: node.clone(),
                what,
            }),
            None => draft.is_broken = true,
        }
    }

    fn file(&mut self, port: &str, node: &Node, table: &Table) -> Option<Source> {
        check_keys(&format!("input `{port}`"), table, &["file"], self.mistakes);
        let Some(entry) = table.get("file") else {
            if table.is_empty() {
                let message = format!("input `{port}` names no file");
                self.mistakes.push(
                    node.mistake(code::BAD_INPUT, message, "")
                        .help(references::SHAPES),
                );
            }
            return None;
        };
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
