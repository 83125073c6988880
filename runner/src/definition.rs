//! The parts of a pipeline file: known keys, good names, `[pipeline]` and `[params]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    DeviceChoice, Diagnostic, Numeric, Place, SourceText, code,
    did_you_mean::{listed, nearest, suggestion_or},
    document::{Content, Entry, Node, Table},
    interpolate::{self, Filler},
    names, settings,
};

const ROOT_KEYS: [&str; 4] = ["pipeline", "params", "stages", "profiles"];
const PIPELINE_KEYS: [&str; 5] = ["name", "seed", "numeric", "device", "tokens"];
const PROFILE_KEYS: [&str; 3] = ["pipeline", "params", "stages"];

/// What the runner knows below `[stages.NAME]`.
pub(crate) const STAGE_KEYS: [&str; 16] = [
    "uses",
    "inputs",
    "with",
    "views",
    "matrix",
    "resources",
    "retries",
    "timeout",
    "when",
    "on_failure",
    "seed",
    "seed_axes",
    "salt",
    "isolation",
    "limits",
    "reproducible",
];

/// A pipeline file whose parts are where they belong.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) numeric: Numeric,
    pub(crate) device: DeviceChoice,
    /// How many there are of each token, where the file says so.
    pub(crate) tokens: Option<BTreeMap<String, u32>>,
    /// `[params]` without references.
    pub(crate) params: Node,
    /// Keys of the entries of `[params]` that were referred to.
    pub(crate) used_params: BTreeSet<String>,
    /// In order of their names.
    pub(crate) stages: Vec<(String, StageDefinition)>,
}

/// One `[stages.NAME]`, references not yet filled in.
pub(crate) struct StageDefinition {
    /// Where its name stands.
    pub(crate) key: Place,
    pub(crate) table: Table,
    /// Whether it is no table at all.
    pub(crate) is_broken: bool,
}

/// Checks what profiles hide or bring: the keys of the root and of all profiles.
pub(crate) fn check_structure(root: &Node, mistakes: &mut Vec<Diagnostic>) {
    let Some(table) = root.as_table() else { return };
    check_keys("the file", table, &ROOT_KEYS, mistakes);
    let Some(profiles) = table_at(table, "profiles", "`[profiles]`", mistakes) else {
        return;
    };
    let known_params = table.get("params").and_then(|entry| entry.node.as_table());
    let known_stages = table.get("stages").and_then(|entry| entry.node.as_table());
    for (name, entry) in profiles {
        mistakes.extend(names::check("a profile", name, &entry.key).err());
        let what = format!("profile `{name}`");
        let Some(profile) = expect_table(&what, &entry.node, mistakes) else {
            continue;
        };
        check_keys(&what, profile, &PROFILE_KEYS, mistakes);
        if let Some(pipeline) = table_at(profile, "pipeline", &what, mistakes) {
            check_keys("`[pipeline]`", pipeline, &PIPELINE_KEYS, mistakes);
        }
        if let Some(params) = table_at(profile, "params", &what, mistakes) {
            for (param, entry) in params {
                if known_params.is_none_or(|known| !known.contains_key(param)) {
                    let near = known_params.into_iter().flat_map(Table::keys);
                    let message = format!("{what} sets `{param}`, which is not in `[params]`");
                    mistakes.push(
                        Diagnostic::error(code::UNKNOWN_REFERENCE, message, &entry.key, "").help(
                            suggestion_or(
                                param,
                                near.map(String::as_str),
                                "give it a value in `[params]` first",
                            ),
                        ),
                    );
                }
            }
        }
        let Some(stages) = table_at(profile, "stages", &what, mistakes) else {
            continue;
        };
        for (stage, entry) in stages {
            let what = format!("stage `{stage}` of {what}");
            let Some(table) = expect_table(&what, &entry.node, mistakes) else {
                continue;
            };
            check_keys(&what, table, &STAGE_KEYS, mistakes);
            let is_known = known_stages.is_some_and(|known| known.contains_key(stage));
            if !is_known && !table.contains_key("uses") {
                let near = known_stages.into_iter().flat_map(Table::keys);
                let message = format!("there is no stage `{stage}` to lay this over");
                mistakes.push(
                    Diagnostic::error(code::UNKNOWN_STAGE, message, &entry.key, "").help(
                        suggestion_or(
                            stage,
                            near.map(String::as_str),
                            "a stage that only the profile has needs `uses`",
                        ),
                    ),
                );
            }
        }
    }
}

/// The parts of `root`, profile and assignments laid over it. `default_name` is for files that do not say theirs.
pub(crate) fn read(root: Node, default_name: &str, mistakes: &mut Vec<Diagnostic>) -> Definition {
    let Node { place, content, .. } = root;
    let mut table = match content {
        Content::Table(table) => table,
        _ => Table::new(),
    };
    let raw_params = match table.get("params") {
        Some(entry) => entry.node.clone(),
        None => Node::new(place.clone(), Content::Table(Table::new())),
    };
    if let Some(params) = expect_table("`[params]`", &raw_params, mistakes) {
        for (name, entry) in params {
            mistakes.extend(names::check("a parameter", name, &entry.key).err());
        }
    }
    let (mut params, used_params, mut found) = interpolate::resolve_params(&raw_params);
    mistakes.append(&mut found);
    refuse_not_finite(&mut params, mistakes);
    let mut definition = Definition {
        name: default_name.to_owned(),
        seed: 0,
        numeric: Numeric::default(),
        device: DeviceChoice::default(),
        tokens: None,
        params,
        used_params,
        stages: Vec::new(),
    };
    read_pipeline(&table, &mut definition, mistakes);
    read_stages(&place.file, &mut table, &mut definition, mistakes);
    definition
}

/// Reports and breaks every NaN and infinity, so that their uses are not reported too.
fn refuse_not_finite(node: &mut Node, mistakes: &mut Vec<Diagnostic>) {
    match &mut node.content {
        Content::Float(float) if !float.is_finite() => {
            let message = format!("a parameter is {float}");
            mistakes.push(
                node.mistake(code::NOT_FINITE, message, "not a finite number")
                    .help("parameters are finite numbers"),
            );
            node.content = Content::Broken;
        }
        Content::Array(items) => {
            for item in items {
                refuse_not_finite(item, mistakes);
            }
        }
        Content::Table(table) => {
            for entry in table.values_mut() {
                refuse_not_finite(&mut entry.node, mistakes);
            }
        }
        _ => {}
    }
}

fn read_pipeline(table: &Table, definition: &mut Definition, mistakes: &mut Vec<Diagnostic>) {
    let Some(raw) = table_at(table, "pipeline", "`[pipeline]`", mistakes) else {
        return;
    };
    check_keys("`[pipeline]`", raw, &PIPELINE_KEYS, mistakes);
    let params = definition.params.clone();
    let mut filler = Filler::new(&params, None);
    for (key, entry) in raw {
        let node = filler.fill(&entry.node);
        match key.as_str() {
            "name" => {
                if let Some(name) = expect_str("name", &node, mistakes) {
                    if is_file_name(name) {
                        name.clone_into(&mut definition.name);
                    } else {
                        let message = format!("`{}` cannot name a pipeline", name.escape_debug());
                        mistakes.push(node.mistake(code::BAD_NAME, message, "").help(
                            "names have 1 to 128 letters, digits, `.`, `_` and `-`, and no leading dot",
                        ));
                    }
                }
            }
            "seed" => {
                definition.seed = expect_seed("seed", &node, mistakes).unwrap_or_default();
            }
            "tokens" => definition.tokens = Some(settings::tokens(&node, mistakes)),
            "numeric" => {
                let choices = [("portable", Numeric::Portable), ("native", Numeric::Native)];
                if let Some(choice) = expect_choice("numeric", &node, &choices, mistakes) {
                    definition.numeric = choice;
                }
            }
            "device" => {
                let choices = [
                    ("cpu", DeviceChoice::Cpu),
                    ("auto", DeviceChoice::Auto),
                    ("cuda", DeviceChoice::Cuda),
                ];
                if let Some(choice) = expect_choice("device", &node, &choices, mistakes) {
                    definition.device = choice;
                }
            }
            _ => {}
        }
    }
    mistakes.append(&mut filler.mistakes);
    definition.used_params.append(&mut filler.used);
}

/// Moves the stages of the file `file`, whose root is `table`, into `definition`.
fn read_stages(
    file: &Arc<SourceText>,
    table: &mut Table,
    definition: &mut Definition,
    mistakes: &mut Vec<Diagnostic>,
) {
    let Some(entry) = table.remove("stages") else {
        if has_or_means(table, "stages", &ROOT_KEYS) {
            return;
        }
        let start = Place {
            file: Arc::clone(file),
            span: 0..0,
        };
        mistakes.push(
            Diagnostic::error(code::MISSING_KEY, "the file has no stages", &start, "").help(
                "add `[stages.NAME]` with `uses = \"KIND\"`; `natron stages` lists all kinds",
            ),
        );
        return;
    };
    let Some(stages) = expect_table("`[stages]`", &entry.node, mistakes) else {
        return;
    };
    if stages.is_empty() {
        mistakes.push(
            Diagnostic::error(code::MISSING_KEY, "the file has no stages", &entry.key, "").help(
                "add `[stages.NAME]` with `uses = \"KIND\"`; `natron stages` lists all kinds",
            ),
        );
    }
    let mut by_case: BTreeMap<String, (&String, &Place)> = BTreeMap::new();
    for (name, entry) in stages {
        if let Err(mistake) = names::check("a stage", name, &entry.key) {
            mistakes.push(mistake);
        } else if names::RESERVED.contains(&name.as_str()) {
            let message = format!("`{name}` cannot name a stage");
            mistakes.push(
                Diagnostic::error(code::BAD_NAME, message, &entry.key, "")
                    .help("`--set` would take it for a part of the file; choose another name"),
            );
        } else if let Some((other, place)) = by_case.get(&name.to_ascii_lowercase()) {
            let message = format!("stages `{other}` and `{name}` differ only in case");
            mistakes.push(
                Diagnostic::error(code::BAD_NAME, message, &entry.key, "")
                    .also(place, "the other one")
                    .help("rename one; some file systems cannot tell them apart"),
            );
        }
        by_case.insert(name.to_ascii_lowercase(), (name, &entry.key));
        let what = format!("stage `{name}`");
        let table = expect_table(&what, &entry.node, mistakes);
        if let Some(table) = table {
            check_keys(&what, table, &STAGE_KEYS, mistakes);
        }
        if table.is_some_and(|table| !has_or_means(table, "uses", &STAGE_KEYS)) {
            mistakes.push(
                Diagnostic::error(
                    code::MISSING_KEY,
                    format!("{what} does not say what it uses"),
                    &entry.key,
                    "",
                )
                .help("add `uses = \"KIND\"`; `natron stages` lists all kinds"),
            );
        }
    }
    if let Content::Table(stages) = entry.node.content {
        definition.stages = stages.into_iter().map(stage_definition).collect();
    }
}

fn stage_definition((name, Entry { key, node }): (String, Entry)) -> (String, StageDefinition) {
    let (table, is_broken) = match node.content {
        Content::Table(table) => (table, false),
        _ => (Table::new(), true),
    };
    let stage = StageDefinition {
        key,
        table,
        is_broken,
    };
    (name, stage)
}

fn is_file_name(name: &str) -> bool {
    natron_artifacts::safe_name(name) && !name.contains('/')
}

/// Whether `table` has `key`, or an unknown key that is reported as a slip for it.
fn has_or_means(table: &Table, key: &str, known: &[&str]) -> bool {
    table.keys().any(|other| {
        other == key
            || (!known.contains(&other.as_str())
                && nearest(other, known.iter().copied()) == Some(key))
    })
}

/// Reports the keys of `table` that `known` does not have.
pub(crate) fn check_keys(
    what: &str,
    table: &Table,
    known: &[&str],
    mistakes: &mut Vec<Diagnostic>,
) {
    for (key, entry) in table {
        if !known.contains(&key.as_str()) {
            let otherwise = format!("its keys are {}", listed(known.iter().copied()));
            mistakes.push(
                Diagnostic::error(
                    code::UNKNOWN_KEY,
                    format!("{what} has no key `{}`", key.escape_debug()),
                    &entry.key,
                    "unknown key",
                )
                .help(suggestion_or(key, known.iter().copied(), &otherwise)),
            );
        }
    }
}

/// The table `key` of `table`, if it is there.
fn table_at<'t>(
    table: &'t Table,
    key: &str,
    what: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<&'t Table> {
    let what = if what.contains('[') {
        what.to_owned()
    } else {
        format!("`{key}` of {what}")
    };
    table
        .get(key)
        .and_then(|entry: &Entry| expect_table(&what, &entry.node, mistakes))
}

/// The entries of `node`, which is `what`.
pub(crate) fn expect_table<'n>(
    what: &str,
    node: &'n Node,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<&'n Table> {
    let table = node.as_table();
    if table.is_none() {
        wrong_type(what, node, "a table", mistakes);
    }
    table
}

/// The text of `key`.
pub(crate) fn expect_str<'n>(
    key: &str,
    node: &'n Node,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<&'n str> {
    let text = node.as_str();
    if text.is_none() {
        wrong_type(&format!("`{key}`"), node, "a string", mistakes);
    }
    text
}

/// The whole number of `key`, 0 to 2^64 - 1.
pub(crate) fn expect_seed(key: &str, node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<u64> {
    let Content::Integer(integer) = node.content else {
        wrong_type(
            &format!("`{key}`"),
            node,
            "a whole number, 0 or more",
            mistakes,
        );
        return None;
    };
    let number = u64::try_from(integer).ok();
    if number.is_none() {
        let message = format!("`{key}` is {integer}, expected a whole number, 0 or more");
        mistakes.push(node.mistake(code::BAD_VALUE, message, ""));
    }
    number
}

/// The one of `choices` that `key` names.
pub(crate) fn expect_choice<T: Copy>(
    key: &str,
    node: &Node,
    choices: &[(&str, T)],
    mistakes: &mut Vec<Diagnostic>,
) -> Option<T> {
    let text = expect_str(key, node, mistakes)?;
    let found = choices.iter().find(|(name, _)| *name == text);
    if found.is_none() {
        let names = choices.iter().map(|(name, _)| *name);
        let message = format!("`{key}` cannot be `{}`", text.escape_debug());
        let otherwise = format!("it is one of {}", listed(names.clone()));
        mistakes.push(
            node.mistake(code::BAD_VALUE, message, "")
                .help(suggestion_or(text, names, &otherwise)),
        );
    }
    found.map(|(_, choice)| *choice)
}

/// Reports that `what` has the wrong type.
pub(crate) fn wrong_type(what: &str, node: &Node, expected: &str, mistakes: &mut Vec<Diagnostic>) {
    if !node.is_broken() {
        let message = format!("{what} is {}, expected {expected}", node.type_name());
        mistakes.push(node.mistake(code::WRONG_TYPE, message, format!("expected {expected}")));
    }
}
