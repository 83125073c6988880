//! `${params.x}` and `${matrix.axis}` inside values.
//!
//! A string that is exactly one reference takes the type of what it names; inside a longer string only scalars fit. The
//! value stays where it stands in the file. `${inputs.x}` and `${outputs.x}` are left for the stage, `$${` is `${`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Diagnostic, Place, code,
    did_you_mean::suggestion_or,
    document::{Content, Node},
};

/// References nested deeper than this are a mistake; the walk is recursive.
const MAX_REFERENCES: usize = 64;

/// All replaced values of one pipeline together, in nodes and letters. Doubling references would fill the memory otherwise.
const MAX_SIZE: usize = 4_000_000;

/// Values on the axes of one instance.
pub(crate) type Coordinates = BTreeMap<String, Node>;

/// Fills references in.
pub(crate) struct Filler<'a> {
    params: &'a Node,
    /// Whether `params` itself has references.
    params_are_raw: bool,
    coordinates: Option<&'a Coordinates>,
    resolved: BTreeMap<String, Node>,
    /// What is being resolved: name, and where it is referred to.
    stack: Vec<(String, Place)>,
    size: usize,
    /// Top-level names of `params` that were referred to.
    pub(crate) used: BTreeSet<String>,
    /// Mistakes found so far.
    pub(crate) mistakes: Vec<Diagnostic>,
}

enum Piece {
    Text(String),
    Reference { name: String, nth: usize },
}

impl<'a> Filler<'a> {
    /// Fills in from `params`, which hold no references any more, and the axes of an instance.
    pub(crate) fn new(params: &'a Node, coordinates: Option<&'a Coordinates>) -> Self {
        Self {
            params,
            params_are_raw: false,
            coordinates,
            resolved: BTreeMap::new(),
            stack: Vec::new(),
            size: 0,
            used: BTreeSet::new(),
            mistakes: Vec::new(),
        }
    }

    /// `node` with all references filled in; [`Content::Broken`] where that failed.
    pub(crate) fn fill(&mut self, node: &Node) -> Node {
        let mut filled = node.clone();
        self.fill_in(&mut filled);
        filled
    }

    /// Fills all references of `node` in; [`Content::Broken`] where that fails.
    pub(crate) fn fill_in(&mut self, node: &mut Node) {
        match &mut node.content {
            Content::String(text) if text.contains("${") => {
                let text = std::mem::take(text);
                *node = self.fill_text(node, &text);
            }
            Content::Array(items) => items.iter_mut().for_each(|item| self.fill_in(item)),
            Content::Table(table) => table
                .values_mut()
                .for_each(|entry| self.fill_in(&mut entry.node)),
            _ => {}
        }
    }

    /// What `text`, the content of `node`, comes to.
    fn fill_text(&mut self, node: &Node, text: &str) -> Node {
        let mut pieces = match pieces(text) {
            Ok(pieces) => pieces,
            Err(rest) => {
                let message = format!("`{}` is not closed by `}}`", first_line(rest));
                self.mistakes.push(
                    Diagnostic::error(code::BAD_INTERPOLATION, message, &node.place, "")
                        .help("a literal `${` is written `$${`"),
                );
                return node.broken();
            }
        };
        if let [Piece::Reference { name, nth }] = pieces.as_slice() {
            let place = reference_place(node, name, *nth);
            return match self.look_up(name, &place) {
                Some(value) => Node {
                    place: node.place.clone(),
                    origin: Some(value.origin.unwrap_or(value.place)),
                    content: value.content,
                },
                None => node.broken(),
            };
        }
        if let [Piece::Text(filled)] = pieces.as_mut_slice() {
            let content = Content::String(std::mem::take(filled));
            return Node::new(node.place.clone(), content);
        }
        let mut filled = String::new();
        let mut origin = None;
        let mut is_broken = false;
        for piece in &pieces {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Reference { name, nth } => {
                    let place = reference_place(node, name, *nth);
                    let Some(value) = self.look_up(name, &place) else {
                        is_broken = true;
                        continue;
                    };
                    let mut has_broken = false;
                    value.walk(&mut |part| has_broken |= part.is_broken());
                    if has_broken {
                        is_broken = true;
                    } else if let Some(text) = value.scalar_text() {
                        filled.push_str(&text);
                        origin = origin.or(Some(value.origin.unwrap_or(value.place)));
                    } else {
                        is_broken = true;
                        let message = format!(
                            "`${{{name}}}` is {}, and inside a longer string only strings, numbers, booleans and dates fit",
                            value.type_name()
                        );
                        self.mistakes.push(
                            Diagnostic::error(code::BAD_INTERPOLATION, message, &place, "")
                                .also(&value.place, "its value")
                                .help("a string that is only the reference takes its type"),
                        );
                    }
                }
            }
        }
        if is_broken {
            return node.broken();
        }
        Node {
            place: node.place.clone(),
            origin,
            content: Content::String(filled),
        }
    }

    /// What `name` stands for; a mistake otherwise.
    fn look_up(&mut self, name: &str, place: &Place) -> Option<Node> {
        let found = match name.split_once('.') {
            Some(("params", path)) => self.parameter(path, place),
            Some(("matrix", axis)) if !self.params_are_raw => {
                self.coordinates.and_then(|c| c.get(axis)).cloned()
            }
            _ => None,
        };
        let Some(found) = found else {
            self.mistakes.push(self.unknown(name, place));
            return None;
        };
        self.size += size(&found);
        if self.size > MAX_SIZE {
            let message = format!("the references expand to more than {MAX_SIZE} letters");
            self.mistakes.push(Diagnostic::error(
                code::BAD_INTERPOLATION,
                message,
                place,
                "",
            ));
            return None;
        }
        Some(found)
    }

    fn parameter(&mut self, path: &str, place: &Place) -> Option<Node> {
        let parts: Vec<&str> = path.split('.').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        self.used.insert(parts[0].to_owned());
        if !self.params_are_raw {
            return self.params.at(&parts).cloned();
        }
        // `a.b` may name a part of what `a` itself refers to.
        let known = (1..=parts.len())
            .rev()
            .find(|length| self.params.at(&parts[..*length]).is_some())?;
        let value = self.resolve(&parts[..known], place)?;
        value.at(&parts[known..]).cloned()
    }

    /// The entry of raw `params` at `path` with its own references filled in.
    fn resolve(&mut self, path: &[&str], place: &Place) -> Option<Node> {
        let name = path.join(".");
        if let Some(resolved) = self.resolved.get(&name) {
            return Some(resolved.clone());
        }
        let raw = self.params.at(path)?;
        if let Some(start) = self.stack.iter().position(|(other, _)| *other == name) {
            let mistake = self.cycle(start, place);
            self.mistakes.push(mistake);
            return Some(raw.broken());
        }
        if self.stack.len() == MAX_REFERENCES {
            let message = format!("parameters refer to each other more than {MAX_REFERENCES} deep");
            self.mistakes.push(Diagnostic::error(
                code::BAD_INTERPOLATION,
                message,
                place,
                "",
            ));
            return Some(raw.broken());
        }
        self.stack.push((name.clone(), place.clone()));
        let filled = self.fill(raw);
        self.stack.pop();
        self.resolved.insert(name, filled.clone());
        Some(filled)
    }

    fn cycle(&self, start: usize, place: &Place) -> Diagnostic {
        let around: Vec<&str> = self.stack[start..]
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let message = format!(
            "parameters form a cycle: {} -> {}",
            around.join(" -> "),
            around[0]
        );
        let mut mistake = Diagnostic::error(
            code::PARAMETER_CYCLE,
            message,
            place,
            format!("`{}` needs `{}`", around[around.len() - 1], around[0]),
        );
        for pair in self.stack[start..].windows(2) {
            mistake = mistake.also(&pair[1].1, format!("`{}` needs `{}`", pair[0].0, pair[1].0));
        }
        mistake.help("give one of them a value of its own")
    }

    fn unknown(&self, name: &str, place: &Place) -> Diagnostic {
        let mut names = Vec::new();
        if let Some(table) = self.params.as_table() {
            for (name, entry) in table {
                collect_names(&format!("params.{name}"), &entry.node, &mut names);
            }
        }
        if !self.params_are_raw {
            let axes = self.coordinates.iter().flat_map(|c| c.keys());
            names.extend(axes.map(|axis| format!("matrix.{axis}")));
        }
        let is_matrix = name == "matrix" || name.starts_with("matrix.");
        let has_axes = self.coordinates.is_some_and(|c| !c.is_empty());
        let otherwise = if is_matrix && self.params_are_raw {
            "parameters are the same for all instances: no `${matrix...}` in `[params]`".to_owned()
        } else if is_matrix && !has_axes {
            "there is no `matrix` here".to_owned()
        } else if name.starts_with("params.") {
            "parameters are declared in `[params]`".to_owned()
        } else {
            format!(
                "known are `${{params.NAME}}` and `${{matrix.AXIS}}`; a literal `${{{name}}}` is written `$${{{name}}}`"
            )
        };
        let bare = format!("params.{name}");
        let help = if names.contains(&bare) {
            format!("did you mean `{bare}`?")
        } else {
            suggestion_or(name, names.iter().map(String::as_str), &otherwise)
        };
        let message = format!("`${{{name}}}` names nothing");
        Diagnostic::error(code::UNKNOWN_REFERENCE, message, place, "").help(help)
    }
}

/// `params` with their references to each other filled in, the names that were referred to, and the mistakes.
pub(crate) fn resolve_params(params: &Node) -> (Node, BTreeSet<String>, Vec<Diagnostic>) {
    let mut filler = Filler::new(params, None);
    filler.params_are_raw = true;
    if params.as_table().is_none() {
        return (params.broken(), BTreeSet::new(), Vec::new());
    }
    let mut resolved = params.clone();
    if let Content::Table(entries) = &mut resolved.content {
        for (name, entry) in entries.iter_mut() {
            let place = &entry.key;
            if let Some(node) = filler.resolve(&[name], place) {
                entry.node = node;
            }
        }
    }
    (resolved, filler.used, filler.mistakes)
}

/// `text` cut at its references; the unclosed rest as an error.
fn pieces(text: &str) -> Result<Vec<Piece>, &str> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    let mut seen: Vec<&str> = Vec::new();
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            plain.push_str(&rest[..start - 1]);
            plain.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        plain.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            return Err(&rest[start..]);
        };
        let whole = &rest[start..=start + length];
        let name = &whole[2..whole.len() - 1];
        rest = &rest[start + length + 1..];
        let scope = name.split('.').next().unwrap_or_default();
        if scope == "inputs" || scope == "outputs" {
            plain.push_str(whole);
            continue;
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        let nth = seen.iter().filter(|other| **other == name).count();
        seen.push(name);
        pieces.push(Piece::Reference {
            name: name.to_owned(),
            nth,
        });
    }
    plain.push_str(rest);
    if !plain.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// Where the `nth` `${name}` of `node` stands; all of it when escapes hide the place.
fn reference_place(node: &Node, name: &str, nth: usize) -> Place {
    let written = format!("${{{name}}}");
    let raw = node.place.text();
    let found = raw.match_indices(&written).nth(nth);
    found.map_or_else(
        || node.place.clone(),
        |(start, _)| {
            let start = node.place.span.start + start;
            Place {
                file: Arc::clone(&node.place.file),
                span: start..start + written.len(),
            }
        },
    )
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn collect_names(prefix: &str, node: &Node, names: &mut Vec<String>) {
    names.push(prefix.to_owned());
    if let Some(table) = node.as_table() {
        for (name, entry) in table {
            collect_names(&format!("{prefix}.{name}"), &entry.node, names);
        }
    }
}

/// Nodes and letters of `node`.
fn size(node: &Node) -> usize {
    let mut size = 0;
    node.walk(&mut |part| size += 1 + part.as_str().map_or(0, str::len));
    size
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{SourceText, document};

    fn fill(text: &str) -> (serde_json::Value, Vec<Diagnostic>) {
        let root = document::parse(&SourceText::new("p.toml", text)).unwrap();
        let (params, _, mut mistakes) = resolve_params(root.at(&["params"]).unwrap());
        let mut filler = Filler::new(&params, None);
        let filled = root.at(&["with"]).map(|with| filler.fill(with));
        mistakes.append(&mut filler.mistakes);
        let value = filled.map_or(json!(null), |filled| filled.to_json(&mut |_| ()));
        (value, mistakes)
    }

    #[test]
    fn whole_references_take_the_type() {
        let (with, mistakes) = fill(
            "[params]\nn = 3\nxs = [1, \"${params.n}\"]\nt = { a = { b = true } }\nu = \"${params.t}\"\n\
             [with]\na = \"${params.n}\"\nb = \"n=${params.n}, ${params.t.a.b}\"\nc = \"${params.xs}\"\nd = \"${params.u.a.b}\"",
        );

        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(
            with,
            json!({"a": 3, "b": "n=3, true", "c": [1, 3], "d": true})
        );
    }

    #[test]
    fn leaves_ports_and_escapes() {
        let (with, mistakes) =
            fill("[params]\n[with]\na = \"${inputs.raw} $${HOME} ${outputs.x}\"\nb = \"$${x}\"");

        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(
            with,
            json!({"a": "${inputs.raw} ${HOME} ${outputs.x}", "b": "${x}"})
        );
    }

    #[test]
    fn an_escape_in_a_parameter_is_not_read_twice() {
        let (with, mistakes) = fill("[params]\na = \"$${b}\"\n[with]\na = \"${params.a}\"");

        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(with, json!({"a": "${b}"}));
    }

    #[test]
    fn points_at_the_reference_itself() {
        let (_, mistakes) = fill("[params]\nlimit = 1\n[with]\na = \"x ${params.limti}\"");

        assert_eq!(mistakes[0].position(), Some(("p.toml", 4, 8)));
        assert_eq!(
            mistakes[0].help.as_deref(),
            Some("did you mean `params.limit`?")
        );
    }

    #[test]
    fn reports_a_cycle_once() {
        let (_, mistakes) = fill(
            "[params]\na = \"${params.b}\"\nb = \"x${params.c}\"\nc = [\"${params.a}\"]\n[with]\nx = \"${params.a}\"",
        );

        let cycles: Vec<_> = mistakes.iter().map(|m| m.message.as_str()).collect();
        assert_eq!(cycles, ["parameters form a cycle: a -> b -> c -> a"]);
        assert_eq!(mistakes[0].labels.len(), 3);
    }

    #[test]
    fn a_part_may_refer_to_its_neighbour() {
        let (with, mistakes) =
            fill("[params]\na = { x = 1, y = \"${params.a.x}\" }\n[with]\nx = \"${params.a.y}\"");

        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(with, json!({"x": 1}));
    }

    #[test]
    fn doubling_references_end() {
        let lines = (1..60).map(|i| {
            let before = format!("${{params.a{}}}", i - 1);
            format!("a{i} = \"{before}{before}\"\n")
        });
        let text = format!(
            "[params]\na0 = \"xxxxxxxxxx\"\n{}",
            lines.collect::<String>()
        );

        let (_, mistakes) = fill(&text);

        assert!(mistakes.iter().any(|m| m.message.contains("expand to")));
    }

    #[test]
    fn a_long_chain_of_references_ends() {
        let lines = (0..5000).map(|i| format!("b{i:04} = \"${{params.b{:04}}}\"\n", i + 1));
        let text = format!("[params]\nb5000 = 1\n{}", lines.collect::<String>());

        let (_, mistakes) = fill(&text);

        assert!(mistakes.iter().any(|m| m.message.contains("deep")));
    }
}
