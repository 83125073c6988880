//! The tree of a TOML text that uses the plain part of the language, read in one pass.
//!
//! Plain are headers and keys of bare words, strings on one line, decimal numbers, booleans, lists and inline tables on one
//! or several lines: nearly all of nearly every pipeline file. The `toml` crate reads all of the language and words the
//! mistakes, but builds a second tree on the way, in five times the time. What is not plain, is not TOML, or comes in an
//! unusual order is left to it: [`read`] then says nothing. What it reads is what `toml` reads, as the tests have it.

use std::{ops::Range, sync::Arc};

use crate::{
    Place, SourceText,
    document::{Content, Entry, Node, Table},
};

/// Deeper trees are left to `toml`.
const MAX_DEPTH: usize = 24;

/// A dotted key that goes on with a table this many entries back is left to `toml`.
const LOOK_BACK: usize = 32;

/// The document in `file`, if it is plain.
pub(crate) fn read(file: &Arc<SourceText>) -> Option<Node> {
    let mut reader = Reader {
        file,
        text: &file.text,
        at: 0,
    };
    let mut root = reader.node(0..file.text.len(), Content::Table(Table::new()));
    // The path of the last header; nothing else is open.
    let mut open: Vec<&str> = Vec::new();
    loop {
        reader.skip_lines();
        match reader.peek() {
            None => break,
            Some(b'[') => {
                let start = reader.at;
                reader.at += 1;
                let path = reader.path()?;
                reader.expect(b']')?;
                let header = start..reader.at;
                reader.end_of_line()?;
                reader.open(&mut root, &open, &path, header)?;
                open.clear();
                open.extend(path.iter().map(|(name, _)| *name));
            }
            Some(_) => {
                let table = last_open(&mut root, open.len())?;
                reader.key_and_value(table, open.len())?;
                reader.end_of_line()?;
            }
        }
    }
    settle(&mut root).then_some(root)
}

/// The table that `depth` headers and implicit tables lead to, each the last of its parent.
fn last_open(root: &mut Node, depth: usize) -> Option<&mut Table> {
    let mut table = table_of(root)?;
    for _ in 0..depth {
        table = table_of(&mut table.last_mut()?.node)?;
    }
    Some(table)
}

fn table_of(node: &mut Node) -> Option<&mut Table> {
    match &mut node.content {
        Content::Table(table) => Some(table),
        _ => None,
    }
}

/// Puts the keys of all tables in order; whether none occurs twice.
fn settle(node: &mut Node) -> bool {
    match &mut node.content {
        Content::Table(table) => {
            table.settle() && table.values_mut().all(|entry| settle(&mut entry.node))
        }
        Content::Array(items) => items.iter_mut().all(settle),
        _ => true,
    }
}

/// A key as it is written, each part with its place.
type Path<'t> = Vec<(&'t str, Range<usize>)>;

struct Reader<'t> {
    file: &'t Arc<SourceText>,
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place {
            file: Arc::clone(self.file),
            span,
        }
    }

    fn node(&self, span: Range<usize>, content: Content) -> Node {
        Node::new(self.place(span), content)
    }

    /// Goes on while `is_part` says so; how far it came.
    fn skip(&mut self, is_part: impl Fn(u8) -> bool) -> Range<usize> {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        self.at += rest
            .iter()
            .position(|byte| !is_part(*byte))
            .unwrap_or(rest.len());
        start..self.at
    }

    fn skip_blanks(&mut self) {
        self.skip(|byte| byte == b' ' || byte == b'\t');
    }

    /// Goes past blanks, ends of lines and comments. What is wrong with a comment stops it there.
    fn skip_lines(&mut self) {
        loop {
            self.skip(|byte| matches!(byte, b' ' | b'\t' | b'\n'));
            if self.peek() != Some(b'#') {
                return;
            }
            self.skip(is_printable);
            if self.peek().is_some_and(|byte| byte != b'\n') {
                return;
            }
        }
    }

    /// Goes past what may follow on the line.
    fn end_of_line(&mut self) -> Option<()> {
        self.skip_blanks();
        if self.peek() == Some(b'#') {
            self.skip(is_printable);
        }
        matches!(self.peek(), None | Some(b'\n')).then_some(())
    }

    fn path(&mut self) -> Option<Path<'t>> {
        let mut path = Vec::with_capacity(2);
        loop {
            let span =
                self.skip(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
            if span.is_empty() || path.len() == MAX_DEPTH {
                return None;
            }
            path.push((&self.text[span.clone()], span));
            if self.expect(b'.').is_none() {
                return Some(path);
            }
        }
    }

    /// Opens the table of a header below what it shares with the header before.
    fn open(
        &self,
        root: &mut Node,
        before: &[&str],
        path: &Path<'t>,
        header: Range<usize>,
    ) -> Option<()> {
        let shared = before
            .iter()
            .zip(path)
            .take_while(|(open, (name, _))| *open == name)
            .count();
        let (last, implicit) = path[shared..].split_last()?;
        let mut table = last_open(root, shared)?;
        for (name, span) in implicit {
            table = self.implicit(table, name, span)?;
        }
        let (name, span) = last;
        table.push((*name).to_owned(), self.entry(span, header, Table::new()));
        Some(())
    }

    fn entry(&self, key: &Range<usize>, place: Range<usize>, table: Table) -> Entry {
        Entry {
            key: self.place(key.clone()),
            node: self.node(place, Content::Table(table)),
        }
    }

    /// A new table in `table` that only its name says.
    fn implicit<'n>(
        &self,
        table: &'n mut Table,
        name: &str,
        span: &Range<usize>,
    ) -> Option<&'n mut Table> {
        table.push(
            name.to_owned(),
            self.entry(span, span.clone(), Table::new()),
        );
        table_of(&mut table.last_mut()?.node)
    }

    /// Reads `a.b = value` into `table`.
    fn key_and_value(&mut self, mut table: &mut Table, depth: usize) -> Option<()> {
        let path = self.path()?;
        self.skip_blanks();
        self.expect(b'=')?;
        self.skip_blanks();
        let node = self.value(depth + path.len())?;
        let ((name, span), dotted) = path.split_last()?;
        for (name, span) in dotted {
            let is_known = table.among_last(LOOK_BACK, name).is_some();
            table = if is_known {
                let entry = table.among_last(LOOK_BACK, name)?;
                // A dotted key made it, no value.
                if entry.node.place.span != entry.key.span {
                    return None;
                }
                table_of(&mut entry.node)?
            } else {
                self.implicit(table, name, span)?
            };
        }
        let entry = Entry {
            key: self.place(span.clone()),
            node,
        };
        table.push((*name).to_owned(), entry);
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        let start = self.at;
        let content = match self.peek()? {
            b'"' => Content::String(self.basic_string()?),
            b'\'' => Content::String(self.literal_string()?),
            b'[' => Content::Array(self.list(depth)?),
            b'{' => Content::Table(self.inline_table(depth)?),
            _ => self.word()?,
        };
        Some(self.node(start..self.at, content))
    }

    fn basic_string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut text = String::new();
        loop {
            let plain = self.skip(|byte| is_printable(byte) && byte != b'"' && byte != b'\\');
            let plain = &self.text[plain];
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    if text.is_empty() {
                        // Two quotes and a third one open a text of several lines.
                        let is_long = plain.is_empty() && self.peek() == Some(b'"');
                        return (!is_long).then(|| plain.to_owned());
                    }
                    text.push_str(plain);
                    return Some(text);
                }
                b'\\' => {
                    text.push_str(plain);
                    self.at += 1;
                    text.push(match self.peek()? {
                        b'"' => '"',
                        b'\\' => '\\',
                        b'n' => '\n',
                        b't' => '\t',
                        _ => return None,
                    });
                    self.at += 1;
                }
                _ => return None,
            }
        }
    }

    fn literal_string(&mut self) -> Option<String> {
        self.expect(b'\'')?;
        let text = self.skip(|byte| is_printable(byte) && byte != b'\'');
        self.expect(b'\'')?;
        let is_long = text.is_empty() && self.peek() == Some(b'\'');
        (!is_long).then(|| self.text[text].to_owned())
    }

    fn list(&mut self, depth: usize) -> Option<Vec<Node>> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        loop {
            self.skip_lines();
            if self.expect(b']').is_some() {
                items.shrink_to_fit();
                return Some(items);
            }
            items.push(self.value(depth + 1)?);
            self.skip_lines();
            if self.expect(b',').is_none() && self.peek()? != b']' {
                return None;
            }
        }
    }

    /// On one line: that it may go on over several is new in TOML 1.1.
    fn inline_table(&mut self, depth: usize) -> Option<Table> {
        self.expect(b'{')?;
        let mut table = Table::new();
        self.skip_blanks();
        if self.expect(b'}').is_some() {
            return Some(table);
        }
        loop {
            self.skip_blanks();
            self.key_and_value(&mut table, depth)?;
            self.skip_blanks();
            if self.expect(b'}').is_some() {
                return Some(table);
            }
            self.expect(b',')?;
        }
    }

    /// A boolean or a number.
    fn word(&mut self) -> Option<Content> {
        let word = self.skip(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_' | b':')
        });
        match &self.text[word] {
            "true" => Some(Content::Bool(true)),
            "false" => Some(Content::Bool(false)),
            number => number_of(number),
        }
    }
}

/// What may stand in comments and strings.
fn is_printable(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// A decimal number as both TOML and Rust write it.
fn number_of(text: &str) -> Option<Content> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let is_plain = digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)));
    if !is_plain {
        return None;
    }
    if fraction.is_none() && exponent.is_none() {
        return Some(Content::Integer(text.parse::<i64>().ok()?.into()));
    }
    let float: f64 = text.parse().ok()?;
    float.is_finite().then_some(Content::Float(float))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::parse_all;

    /// Whether the text is read, and then as `toml` reads it.
    fn is_read(text: &str) -> bool {
        let file = SourceText::new("p.toml", text);
        let read = read(&file);
        if let Some(read) = &read {
            assert_eq!(parse_all(&file).as_ref(), Ok(read), "{text}");
        }
        read.is_some()
    }

    #[test]
    fn reads_what_is_plain() {
        for text in [
            "",
            "# nothing\n\n",
            "a = 1 # one\nb.c = -2.5e-3\nb.d = 'x'\nb.e.f = true\n",
            "a = [1, [2, 'x'], # two\n  { b = \"y\\\"\\\\\\n\\t\", c.d = 1, c.e = {} },\n]",
            "[a.b]\nx = \"é # \"\n[a.b.c]\ny = ''\n[a.d]\nz = \"\"\n[e]\n",
            "[a] # b\nb = 9223372036854775807\nc = -0\nd = 0.0\ne = -0.0\nf = 1E5",
        ] {
            assert!(is_read(text), "{text}");
        }
    }

    #[test]
    fn leaves_the_rest_to_toml() {
        for text in [
            "a = 1\na = 2",
            "[a]\n[a]",
            "[a.b]\n[a]",
            "[a]\n[b]\n[a.c]",
            "a.b = 1\n[a.c]",
            "a = {}\na.b = 1",
            "a = []\na.b = 1",
            "a = 'x'\na.b = 1",
            "a = { b = 1, b.c = 1 }",
            "a = { b = 1, }",
            "a = { b = 1\n}",
            "a = [1 2]",
            "a = [,]",
            "a = [1",
            "a = \"\"\"x\"\"\"",
            "a = '''x'''",
            "a = \"\\u00e9\"",
            "a = 'x",
            "a = 1_000",
            "a = 0x1f",
            "a = 01",
            "a = 1.",
            "a = .5",
            "a = +1",
            "a = inf",
            "a = 1e999",
            "a = 99999999999999999999",
            "a = 2020-01-02",
            "a = x",
            "a =",
            "a",
            "= 1",
            "\"a\" = 1",
            "a . b = 1",
            "[[a]]",
            "[ a ]",
            "[a",
            "[a] b = 1",
            "a = 1 b = 2",
            "a = 1\r\n",
            "# \u{1}\n",
            "\u{feff}a = 1",
        ] {
            assert!(!is_read(text), "{text}");
        }
    }

    #[test]
    fn leaves_what_is_deep_to_toml() {
        let deep = |n: usize| format!("a = {}{}", "[".repeat(n), "]".repeat(n));

        assert!(is_read(&deep(10)) && !is_read(&deep(1000)));
    }

    /// Pieces of texts, so that many of their orders are TOML, and many are not.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-c]",
            "[a-c]\\.[a-c]",
            "\\[[a-c](\\.[a-c]){0,2}\\]\n",
            "[a-c](\\.[a-c]){0,2} = (1|'x'|\"y\"|true|\\{\\}|\\{ b = 1, c\\.a = 2 \\}|\\[1, 2\\])\n",
            "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{1,2})?",
            "[\\[\\]{}=,.\"'#\n\t\\\\ é\r_:+-]",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn reads_as_toml_does(pieces in prop::collection::vec(piece(), 0..14)) {
            is_read(&pieces.concat());
        }
    }

    /// Every pipeline of the project and of its examples, whole and with one piece taken out or doubled.
    #[test]
    fn reads_changed_pipelines_as_toml_does() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines");
        let mut n_read = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            n_read += usize::from(is_read(&text));
            let cuts: Vec<usize> = text
                .char_indices()
                .map(|(at, _)| at)
                .step_by(1 + text.len() / 200)
                .collect();
            for (i, from) in cuts.iter().enumerate() {
                let to = cuts[(i * 7 + 3) % cuts.len()].max(*from);
                is_read(&format!("{}{}", &text[..*from], &text[to..]));
                is_read(&format!("{}{}", &text[..to], &text[*from..]));
            }
        }
        assert!(n_read > 0);
    }
}
