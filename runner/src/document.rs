//! The tree of a TOML text, every key and value with its place.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use crate::{Diagnostic, Place, SourceText, code, plain_toml};

/// Nested deeper than this is a mistake. Dotted keys inside inline tables could nest thousands deep otherwise, and every
/// walk over the tree is recursive.
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Where; for a table with a header the header, for a table made by a dotted key that key.
    pub(crate) place: Place,
    /// Where the value came from when `${...}` brought it here.
    pub(crate) origin: Option<Place>,
    /// The value.
    pub(crate) content: Content,
}

/// A TOML value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// Text.
    String(String),
    /// Whole number; always within `i64` or `u64`.
    Integer(i128),
    /// Number, NaN and the infinities included.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Date, time or both, as TOML writes it.
    Datetime(String),
    /// List.
    Array(Vec<Node>),
    /// Table.
    Table(Table),
    /// A value that was complained about already; nothing more is said about it.
    Broken,
}

pub(crate) use crate::table::Table;

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Where the key stands.
    pub(crate) key: Place,
    /// The value.
    pub(crate) node: Node,
}

impl Node {
    /// `content` at `place`.
    pub(crate) fn new(place: Place, content: Content) -> Self {
        Self {
            place,
            origin: None,
            content,
        }
    }

    /// What TOML calls the type, with its article.
    pub(crate) fn type_name(&self) -> &'static str {
        match self.content {
            Content::String(_) => "a string",
            Content::Integer(_) => "an integer",
            Content::Float(_) => "a float",
            Content::Bool(_) => "a boolean",
            Content::Datetime(_) => "a date or time",
            Content::Array(_) => "a list",
            Content::Table(_) => "a table",
            Content::Broken => "broken",
        }
    }

    /// A mistake in this value. What `--set` brought here is blamed where it was written.
    pub(crate) fn mistake(
        &self,
        code: &'static str,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Diagnostic {
        match &self.origin {
            None => Diagnostic::error(code, message, &self.place, label),
            Some(origin) if Arc::ptr_eq(&origin.file, &self.place.file) => {
                Diagnostic::error(code, message, &self.place, label)
                    .also(origin, "its value is written here")
            }
            Some(origin) => {
                Diagnostic::error(code, message, origin, label).also(&self.place, "it is used here")
            }
        }
    }

    /// The same without its content, complained about already.
    pub(crate) fn broken(&self) -> Self {
        Self {
            content: Content::Broken,
            ..self.clone()
        }
    }

    /// Whether it was complained about already.
    pub(crate) fn is_broken(&self) -> bool {
        self.content == Content::Broken
    }

    /// The text of a scalar, as names of instances and longer strings show it; nothing for lists and tables.
    pub(crate) fn scalar_text(&self) -> Option<String> {
        match &self.content {
            Content::String(text) | Content::Datetime(text) => Some(text.clone()),
            Content::Integer(integer) => Some(integer.to_string()),
            Content::Float(float) if *float != 0.0 && float.abs() < 1e-3 => {
                Some(format!("{float:e}"))
            }
            Content::Float(float) => Some(float.to_string()),
            Content::Bool(truth) => Some(truth.to_string()),
            Content::Array(_) | Content::Table(_) | Content::Broken => None,
        }
    }

    /// The text, if it is one.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::String(text) => Some(text),
            _ => None,
        }
    }

    /// The entries, if it is a table.
    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.content {
            Content::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The part at `path`: names in tables, positions in lists.
    pub(crate) fn at<S: AsRef<str>>(&self, path: &[S]) -> Option<&Self> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self);
        };
        match &self.content {
            Content::Table(table) => table.get(first.as_ref())?.node.at(rest),
            Content::Array(items) => items.get(first.as_ref().parse::<usize>().ok()?)?.at(rest),
            _ => None,
        }
    }

    /// Takes the part at `path` out; whether it was there.
    pub(crate) fn remove<S: AsRef<str>>(&mut self, path: &[S]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        let first = first.as_ref();
        match &mut self.content {
            Content::Table(table) if rest.is_empty() => table.remove(first).is_some(),
            Content::Table(table) => table
                .get_mut(first)
                .is_some_and(|entry| entry.node.remove(rest)),
            Content::Array(items) => match first.parse::<usize>() {
                Ok(index) if index < items.len() && rest.is_empty() => {
                    items.remove(index);
                    true
                }
                Ok(index) => items.get_mut(index).is_some_and(|item| item.remove(rest)),
                Err(_) => false,
            },
            _ => false,
        }
    }

    /// The value as JSON: dates as strings. Each NaN and infinity becomes null and is handed to `not_finite`.
    pub(crate) fn to_json(&self, not_finite: &mut impl FnMut(&Self)) -> Value {
        match &self.content {
            Content::String(text) | Content::Datetime(text) => Value::String(text.clone()),
            Content::Integer(integer) => i64::try_from(*integer)
                .map(Value::from)
                .or_else(|_| u64::try_from(*integer).map(Value::from))
                .unwrap_or(Value::Null),
            Content::Float(float) => serde_json::Number::from_f64(*float).map_or_else(
                || {
                    not_finite(self);
                    Value::Null
                },
                Value::Number,
            ),
            Content::Bool(truth) => Value::Bool(*truth),
            Content::Broken => Value::Null,
            Content::Array(items) => {
                Value::Array(items.iter().map(|item| item.to_json(not_finite)).collect())
            }
            Content::Table(table) => Value::Object(
                table
                    .iter()
                    .map(|(name, entry)| (name.clone(), entry.node.to_json(not_finite)))
                    .collect(),
            ),
        }
    }

    /// Calls `visit` for the node and everything below it.
    pub(crate) fn walk(&self, visit: &mut impl FnMut(&Self)) {
        visit(self);
        match &self.content {
            Content::Array(items) => items.iter().for_each(|item| item.walk(visit)),
            Content::Table(table) => table.values().for_each(|entry| entry.node.walk(visit)),
            _ => {}
        }
    }
}

/// The document in `file`, or everything that keeps it from being TOML.
pub(crate) fn parse(file: &Arc<SourceText>) -> Result<Node, Vec<Diagnostic>> {
    plain_toml::read(file).map_or_else(|| parse_all(file), Ok)
}

/// The same, whatever the text uses of the language.
pub(crate) fn parse_all(file: &Arc<SourceText>) -> Result<Node, Vec<Diagnostic>> {
    let (table, mut errors) = DeTable::parse_recoverable(&file.text);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let whole = 0..file.text.len();
    if errors.is_empty() {
        let reader = Reader { file, offset: 0 };
        let content = reader
            .table(table.get_ref(), 0)
            .map_err(|error| vec![error])?;
        return Ok(Node::new(
            Place {
                file: Arc::clone(file),
                span: whole,
            },
            content,
        ));
    }
    let mut mistakes = Vec::new();
    let mut lines = BTreeSet::new();
    for error in &errors {
        let place = Place {
            file: Arc::clone(file),
            span: error.span().unwrap_or(whole.clone()),
        };
        // One slip makes the parser stumble several times on a line.
        if lines.insert(place.line_and_column().0) {
            mistakes.push(syntax_error(error.message(), &place));
        }
    }
    // After a list that does not end, everything looks wrong.
    let is_cut = |error: &Error| {
        ["unclosed array", "unclosed inline table"]
            .iter()
            .any(|start| error.message().starts_with(start))
    };
    if errors.iter().any(is_cut) {
        mistakes.truncate(1);
        let first = mistakes.pop().into_iter();
        return Err(first
            .map(|mistake| mistake.help("something before this is not closed"))
            .collect());
    }
    Err(mistakes)
}

/// The value written in `span` of `file`, or what keeps it from being a TOML value.
pub(crate) fn parse_value(file: &Arc<SourceText>, span: Range<usize>) -> Result<Node, Diagnostic> {
    let reader = Reader {
        file,
        offset: span.start,
    };
    let text = file.text.get(span.clone()).unwrap_or_default();
    let value = DeValue::parse(text).map_err(|error| {
        let inside = error.span().unwrap_or(0..text.len());
        syntax_error(error.message(), &reader.place(inside))
    })?;
    reader.node(&value, 0)
}

fn syntax_error(message: &str, place: &Place) -> Diagnostic {
    let is_unquoted = message.starts_with("string values must be quoted")
        // `uses = features` begins like `false`.
        || message.starts_with("invalid boolean");
    let (message, help) = if is_unquoted && place.text().trim().is_empty() {
        ("a value is missing", "")
    } else if is_unquoted {
        ("a string without quotes", "strings stand in double quotes")
    } else if message.starts_with("duplicate key") {
        (message, "a key or table is written once; merge the two")
    } else {
        (message, "")
    };
    Diagnostic::error(
        code::SYNTAX,
        format!("not valid TOML: {message}"),
        place,
        "",
    )
    .help(help)
}

struct Reader<'a> {
    file: &'a Arc<SourceText>,
    offset: usize,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place {
            file: Arc::clone(self.file),
            span: span.start + self.offset..span.end + self.offset,
        }
    }

    fn table(&self, table: &DeTable<'_>, depth: usize) -> Result<Content, Diagnostic> {
        table
            .iter()
            .map(|(name, value)| {
                let entry = Entry {
                    key: self.place(name.span()),
                    node: self.node(value, depth + 1)?,
                };
                Ok((name.get_ref().to_string(), entry))
            })
            .collect::<Result<_, _>>()
            .map(Content::Table)
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Diagnostic> {
        let place = self.place(value.span());
        if depth > MAX_DEPTH {
            return Err(Diagnostic::error(
                code::SYNTAX,
                format!("nested more than {MAX_DEPTH} deep"),
                &place,
                "",
            ));
        }
        let content = match value.get_ref() {
            DeValue::String(text) => Content::String(text.to_string()),
            DeValue::Integer(integer) => {
                let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
                let fits = |n: &i128| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(n);
                Content::Integer(number.filter(fits).ok_or_else(|| {
                    Diagnostic::error(code::SYNTAX, "integer beyond 64 bits", &place, "")
                })?)
            }
            DeValue::Float(float) => {
                let text = float.as_str();
                let number: Option<f64> = text.parse().ok();
                let overflows = |n: &f64| n.is_infinite() && !text.contains("inf");
                Content::Float(number.filter(|n| !overflows(n)).ok_or_else(|| {
                    Diagnostic::error(code::SYNTAX, "float beyond 64 bits", &place, "")
                })?)
            }
            DeValue::Boolean(truth) => Content::Bool(*truth),
            DeValue::Datetime(datetime) => Content::Datetime(datetime.to_string()),
            DeValue::Array(items) => Content::Array(
                items
                    .iter()
                    .map(|item| self.node(item, depth + 1))
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(table) => self.table(table, depth)?,
        };
        Ok(Node::new(place, content))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Node {
        parse(&SourceText::new("p.toml", text)).unwrap()
    }

    #[test]
    fn keeps_the_place_of_every_value() {
        let root = read("[a.b]\nx = [1, {y = \"é\", z = 2.5}]\n");

        let z = root.at(&["a", "b", "x", "1", "z"]).unwrap();
        assert_eq!(z.place.text(), "2.5");
        assert_eq!(z.place.line_and_column(), (2, 23));
        assert_eq!(root.at(&["a", "b"]).unwrap().place.text(), "[a.b]");
    }

    #[test]
    fn turns_into_json() {
        let root = read(
            "a = 1\nb = 0xff\nc = 18446744073709551615\nd = 1.0\ne = 2020-01-02\nf = nan\ng = -inf",
        );
        let mut odd = Vec::new();

        let value = root.to_json(&mut |node| odd.push(node.place.text().to_owned()));

        assert_eq!(
            value,
            json!({"a": 1, "b": 255, "c": u64::MAX, "d": 1.0, "e": "2020-01-02", "f": null, "g": null})
        );
        assert_eq!(odd, ["nan", "-inf"]);
    }

    #[test]
    fn reports_several_syntax_errors() {
        let errors = parse(&SourceText::new("p.toml", "a = \nb = 1\nb = 2\n[c\n")).unwrap_err();

        assert!(errors.len() >= 2, "{errors:?}");
    }

    #[test]
    fn refuses_numbers_beyond_64_bits() {
        for text in ["a = 99999999999999999999", "a = 1e999"] {
            let errors = parse(&SourceText::new("p.toml", text)).unwrap_err();
            assert!(errors[0].message.contains("beyond 64 bits"), "{errors:?}");
        }
    }

    #[test]
    fn refuses_bottomless_nesting() {
        let key = vec!["a"; 60].join(".");
        let text = format!("{key} = {{ {key} = {{ {key} = 1 }} }}");

        let errors = parse(&SourceText::new("p.toml", text)).unwrap_err();

        assert!(errors[0].message.contains("nested"), "{errors:?}");
    }

    #[test]
    fn removes_parts() {
        let mut root = read("a = { x = [1, 2, 3] }");

        assert!(root.remove(&["a", "x", "1"]));
        assert!(!root.remove(&["a", "y"]));

        assert_eq!(root.to_json(&mut |_| ()), json!({"a": {"x": [1, 3]}}));
    }

    #[test]
    fn reads_a_value_inside_a_text() {
        let file = SourceText::new("--set", "a.b=[1, 2]");

        let node = parse_value(&file, 4..10).unwrap();

        assert_eq!(node.at(&["1"]).unwrap().place.span, 8..9);
        assert!(parse_value(&SourceText::new("--set", "a=b c"), 2..5).is_err());
    }
}
