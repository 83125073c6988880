//! From `with` to a stage: every parameter that does not fit is reported, not only the first.

use std::collections::BTreeSet;

use natron_artifacts::{ParameterError, ParsedStage, Schemas, Signature, StageKind};
use serde_json::Value;

use crate::{
    Diagnostic, Place, code,
    did_you_mean::{listed, nearest, suggestion_and},
    document::{Content, Node, Table},
};

/// More mistakes than this in one `with` are not looked for.
const MAX_MISTAKES: usize = 100;

/// A stage made of a `with`.
pub(crate) struct Parameters {
    /// The stage, when what remained without the mistakes was enough to make one.
    pub(crate) parsed: Option<ParsedStage>,
    /// `with` without the mistakes.
    pub(crate) with: Node,
    /// Whether all of `with` was good.
    pub(crate) is_good: bool,
}

/// Parses `with` (of the stage whose `uses` stands at `uses`) as parameters of `kind`.
pub(crate) fn parse(
    kind: &StageKind,
    with: Option<Node>,
    uses: &Place,
    mistakes: &mut Vec<Diagnostic>,
) -> Parameters {
    let mut reader = Reader {
        kind,
        uses,
        has_with: with.is_some(),
        with: with.unwrap_or_else(|| Node::new(uses.clone(), Content::Table(Table::new()))),
        dropped: BTreeSet::new(),
        found: 0,
        mistakes,
    };
    let is_table = reader.with.as_table().is_some();
    if !is_table {
        // The structure check has said so.
        return Parameters {
            parsed: None,
            with: reader.with,
            is_good: false,
        };
    }
    reader.drop_broken();
    let parsed = reader.parse();
    Parameters {
        parsed,
        is_good: reader.found == 0 && reader.dropped.is_empty(),
        with: reader.with,
    }
}

struct Reader<'a> {
    kind: &'a StageKind,
    uses: &'a Place,
    with: Node,
    has_with: bool,
    /// Paths of what was taken out of `with`.
    dropped: BTreeSet<Vec<String>>,
    found: usize,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn report(&mut self, mistake: Diagnostic) {
        self.found += 1;
        self.mistakes.push(mistake);
    }

    fn drop_part(&mut self, path: &[String]) -> bool {
        let removed = self.with.remove(path);
        if removed {
            self.dropped.insert(path.to_vec());
        }
        removed
    }

    /// Takes out what was complained about already and what is not finite.
    fn drop_broken(&mut self) {
        let mut paths = Vec::new();
        find_broken(&self.with, &mut Vec::new(), &mut paths);
        // From the back, so that positions in lists stay true.
        for path in paths.iter().rev() {
            let Some(node) = self.with.at(path).cloned() else {
                continue;
            };
            if let Content::Float(float) = node.content {
                let name = path.join(".");
                let message = format!("{}: `{name}` is {float}", self.kind.name);
                self.report(
                    node.mistake(code::NOT_FINITE, message, "not a finite number")
                        .help("parameters are finite numbers"),
                );
            }
            self.drop_part(path);
        }
    }

    fn parse(&mut self) -> Option<ParsedStage> {
        loop {
            let value = self.with.to_json(&mut |_| ());
            let error = match self.kind.parse(&value) {
                Ok(parsed) => return Some(parsed),
                Err(error) => error,
            };
            if self.found >= MAX_MISTAKES {
                return None;
            }
            if let Some(name) = quoted(&error.message, "unknown field `") {
                if !self.unknown(&error, &name) {
                    return None;
                }
            } else if let Some(name) = quoted(&error.message, "missing field `") {
                self.missing(&error, &name);
                return None;
            } else if !self.wrong(&error) {
                return None;
            }
        }
    }

    /// An entry that the stage does not know. Whether the rest can be tried.
    fn unknown(&mut self, error: &ParameterError, name: &str) -> bool {
        let mut path = error.path.clone();
        if path.last().map(String::as_str) != Some(name) {
            path.push(name.to_owned());
        }
        let parent = path[..path.len() - 1].to_vec();
        let entry = self
            .with
            .at(&parent)
            .and_then(Node::as_table)
            .and_then(|table| table.get(name))
            .cloned();
        let known = names_in(&error.message, name);
        let place = entry.as_ref().map_or(self.uses, |entry| &entry.key).clone();
        let owner = if parent.is_empty() {
            format!("`{}`", self.kind.name)
        } else {
            format!("`{}` of `{}`", parent.join("."), self.kind.name)
        };
        let otherwise = if known.is_empty() {
            format!("it has no parameters; {}", self.describes())
        } else {
            self.describes()
        };
        let help = suggestion_and(name, known.iter().map(String::as_str), &otherwise);
        let message = format!("{owner} has no parameter `{name}`");
        self.report(
            Diagnostic::error(
                code::UNKNOWN_PARAMETER,
                message,
                &place,
                "unknown parameter",
            )
            .help(help),
        );
        self.drop_part(&path)
    }

    fn missing(&mut self, error: &ParameterError, name: &str) {
        let mut path = error.path.clone();
        let place = self
            .with
            .at(&path)
            .filter(|_| self.has_with)
            .map_or(self.uses, |node| &node.place)
            .clone();
        let mut names = vec![name.to_owned()];
        if path.is_empty()
            && let Some(required) = self.kind.schema().get("required").and_then(Value::as_array)
            && let Some(table) = self.with.as_table()
        {
            let others = required.iter().filter_map(Value::as_str);
            names.extend(
                others
                    .filter(|other| *other != name && !table.contains_key(other))
                    .map(str::to_owned),
            );
        }
        for name in names {
            path.push(name.clone());
            if !self.was_meant(&path) {
                let message = format!("{}: missing parameter `{}`", self.kind.name, path.join("."));
                let about = self.description(&path);
                let help = format!("add `with.{} = ...`; {}", path.join("."), self.describes());
                self.report(
                    Diagnostic::error(code::MISSING_PARAMETER, message, &place, about).help(help),
                );
            }
            path.pop();
        }
    }

    /// Whether something taken out of `with` was the parameter at `path`, perhaps misspelled.
    fn was_meant(&self, path: &[String]) -> bool {
        self.dropped.iter().any(|dropped| {
            let (Some(name), Some(other)) = (path.last(), dropped.last()) else {
                return false;
            };
            dropped[..dropped.len() - 1] == path[..path.len() - 1]
                && (name == other || nearest(other, [name.as_str()]).is_some())
        })
    }

    /// A value that does not fit. Whether the rest can be tried.
    fn wrong(&mut self, error: &ParameterError) -> bool {
        // The path may go on into what is not there, as a variant's name.
        let known = (0..=error.path.len())
            .rev()
            .find(|length| self.with.at(&error.path[..*length]).is_some())
            .unwrap_or(0);
        let path = error.path[..known].to_vec();
        let is_consequence = self.dropped.iter().any(|dropped| {
            dropped.len() > path.len() && dropped.starts_with(&path) && !path.is_empty()
        });
        if !is_consequence {
            let node = self.with.at(&path).cloned();
            let help = if error.message.starts_with("unknown variant `") {
                let given = quoted(&error.message, "unknown variant `").unwrap_or_default();
                let known = names_in(&error.message, &given);
                suggestion_and(&given, known.iter().map(String::as_str), &self.describes())
            } else {
                self.describes()
            };
            let message = format!("{}: {}", self.kind.name, in_words(&error.message));
            let mistake = match node {
                Some(node) if !path.is_empty() => {
                    let about = self.description(&path);
                    node.mistake(code::PARAMETER_TYPE, message, about)
                }
                Some(node) if self.has_with => {
                    Diagnostic::error(code::PARAMETER_TYPE, message, &node.place, "")
                }
                _ => Diagnostic::error(code::PARAMETER_TYPE, message, self.uses, ""),
            };
            self.report(mistake.help(help));
        }
        !path.is_empty() && self.drop_part(&path)
    }

    fn describes(&self) -> String {
        format!(
            "`natron stages {}` describes its parameters",
            self.kind.name
        )
    }

    /// First line of what the schema says about the parameter at `path`.
    fn description(&self, path: &[String]) -> String {
        let mut schema = self.kind.schema();
        for part in path {
            let next = schema
                .get("properties")
                .and_then(|properties| properties.get(part))
                .or_else(|| schema.get("items"));
            match next {
                Some(next) => schema = next,
                None => return String::new(),
            }
        }
        let text = schema.get("description").and_then(Value::as_str);
        let line = text
            .and_then(|text| text.lines().next())
            .unwrap_or_default();
        match path.last() {
            Some(name) if !line.is_empty() => {
                format!("`{name}`: {}", line.trim_end_matches('.'))
            }
            _ => String::new(),
        }
    }
}

fn find_broken(node: &Node, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match &node.content {
        Content::Broken => found.push(path.clone()),
        Content::Float(float) if !float.is_finite() => found.push(path.clone()),
        Content::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                path.push(index.to_string());
                find_broken(item, path, found);
                path.pop();
            }
        }
        Content::Table(table) => {
            for (name, entry) in table {
                path.push(name.clone());
                find_broken(&entry.node, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// What serde says of types, in the words of people who write pipeline files.
fn in_words(message: &str) -> String {
    let Some((given, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let words = match expected {
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64"
        | "a nonzero usize" => "a whole number, 1 or more",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a table",
        "path string" => "a path",
        other if other.starts_with("struct ") => "a table",
        other if other.starts_with("internally tagged enum") => "a table",
        other => other,
    };
    let given = given
        .replace("invalid type: sequence", "invalid type: list")
        .replace("invalid type: map", "invalid type: table")
        .replace("invalid type: floating point `", "invalid type: number `")
        .replace("invalid type: null", "nothing");
    format!("{given}, expected {words}")
}

/// A signature of `kind`, for descriptions and for what can be said of its ports when the parameters are not good: with
/// defaults, and something of the right type for each parameter that has none.
pub fn typical_signature(kind: &StageKind) -> Option<Signature> {
    let parsed = kind.parse(&typical(kind.schema())).ok()?;
    parsed.stage.signature(&Schemas::new()).ok()
}

/// Some value that the schema allows; of an object only what it requires.
fn typical(schema: &Value) -> Value {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    if let Some(example) = schema.get("examples").and_then(|examples| examples.get(0)) {
        return example.clone();
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(first) = schema.get(choice).and_then(|choices| choices.get(0)) {
            return typical(first);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        other => other.and_then(Value::as_str),
    };
    match kind {
        Some("string") => "x".into(),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| 1.into()),
        Some("boolean") => false.into(),
        Some("array") => match (schema.get("items"), schema.get("minItems")) {
            (Some(items), Some(least)) if least.as_u64() > Some(0) => vec![typical(items)].into(),
            _ => Value::Array(Vec::new()),
        },
        Some("object") => {
            let required = schema.get("required").and_then(Value::as_array);
            let names = required.into_iter().flatten().filter_map(Value::as_str);
            let part = |name: &str| {
                let part = schema.get("properties").and_then(|parts| parts.get(name));
                (name.to_owned(), part.map_or(Value::Null, typical))
            };
            Value::Object(names.map(part).collect())
        }
        _ => Value::Null,
    }
}

/// The name that follows `prefix` at the start of `message`.
fn quoted(message: &str, prefix: &str) -> Option<String> {
    let rest = message.strip_prefix(prefix)?;
    Some(rest[..rest.find('`')?].to_owned())
}

/// All names in back-ticks that `message` has after the first, which is `given`.
fn names_in(message: &str, given: &str) -> Vec<String> {
    let mut names: Vec<String> = message
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    if names.first().is_some_and(|name| name == given) {
        names.remove(0);
    }
    names
}

/// What a stage that refuses its parameters or inputs says, at the parameter it names.
pub(crate) fn refusal(
    kind: &str,
    error: &natron_artifacts::StageError,
    with: &Node,
    has_with: bool,
    uses: &Place,
) -> Diagnostic {
    let message = format!("{kind}: {error}");
    let help = error.help().map_or_else(
        || format!("`natron stages {kind}` describes its parameters"),
        str::to_owned,
    );
    let natron_artifacts::StageError::Parameters { parameter, at, .. } = error else {
        return Diagnostic::error(code::REFUSED, message, uses, "")
            .help(error.help().unwrap_or_default());
    };
    let path: Vec<&str> = parameter
        .split('.')
        .filter(|part| !part.is_empty())
        .collect();
    let known = (1..=path.len())
        .rev()
        .find_map(|length| with.at(&path[..length]));
    match known {
        Some(node) => piece(node, at.as_ref()).mistake(code::REFUSED, message, ""),
        None if has_with && path.is_empty() => {
            Diagnostic::error(code::REFUSED, message, &with.place, "")
        }
        None if path.is_empty() => Diagnostic::error(code::REFUSED, message, uses, ""),
        None => {
            let label = format!("`{parameter}` has its default");
            Diagnostic::error(code::REFUSED, message, uses, label)
        }
    }
    .help(help)
}

/// The bytes `at` of a text, where its letters are those of the file: between quotes, without escapes.
fn piece(node: &Node, at: Option<&std::ops::Range<usize>>) -> Node {
    let mut piece = node.clone();
    if let (Content::String(text), Some(at)) = (&node.content, at)
        && node.origin.is_none()
        && node.place.text().get(1..=text.len()) == Some(text)
        && text.get(at.clone()).is_some()
    {
        let start = node.place.span.start + 1;
        piece.place.span = start + at.start..start + at.end;
    }
    piece
}

/// `known` names as a help, when nothing is near.
pub(crate) fn known_names<'a>(what: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    if names.clone().next().is_none() {
        format!("it has no {what}")
    } else {
        format!("its {what} are {}", listed(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_in_words() {
        for (message, words) in [
            (
                "invalid type: string \"20\", expected u32",
                "invalid type: string \"20\", expected a whole number, 0 or more",
            ),
            (
                "invalid value: integer `-1`, expected u64",
                "invalid value: integer `-1`, expected a whole number, 0 or more",
            ),
            (
                "invalid type: sequence, expected struct Optimizer",
                "invalid type: list, expected a table",
            ),
            (
                "invalid type: map, expected f64",
                "invalid type: table, expected a number",
            ),
            ("something else", "something else"),
        ] {
            assert_eq!(in_words(message), words);
        }
    }
}
