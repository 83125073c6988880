//! Mistakes in a pipeline, as text with the source in it, or as JSON.

use std::collections::BTreeMap;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use natron_runner::{Diagnostic, Label, Severity};
use serde_json::{Value, json};

use crate::style::{Style, printable};

/// The diagnostic as a compiler would print it: message, the line with the place marked, how to mend it.
pub(crate) fn text(diagnostic: &Diagnostic, style: Style, width: usize) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(printable(&diagnostic.message)));
    for (name, labels) in by_file(&diagnostic.labels) {
        if labels[0].file.text.is_empty() {
            // A file that cannot be read has nothing to show.
            continue;
        }
        let source = safe(&labels[0].file.text);
        let annotations: Vec<_> = labels
            .iter()
            .map(|label| {
                let kind = if label.primary {
                    AnnotationKind::Primary
                } else {
                    AnnotationKind::Context
                };
                let annotation = kind.span(span_of(label));
                if label.text.is_empty() {
                    annotation
                } else {
                    annotation.label(printable(&label.text))
                }
            })
            .collect();
        group = group.element(
            Snippet::source(source)
                .path(printable(name))
                .annotations(annotations),
        );
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(printable(help)));
    }
    let renderer = if style.colored {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let rendered = renderer.term_width(width.max(60)).render(&[group]);
    without_bar_before_help(&rendered)
}

/// The source with characters that would move a terminal's cursor replaced by ones of the same length, so that spans stay.
fn safe(source: &str) -> String {
    source
        .chars()
        .flat_map(|c| {
            let n = if c.is_control() && !matches!(c, '\n' | '\r' | '\t') {
                c.len_utf8()
            } else {
                0
            };
            let shown = if n == 0 { Some(c) } else { None };
            shown.into_iter().chain(std::iter::repeat_n('?', n))
        })
        .collect()
}

/// The labels of each text, the text of the primary label first.
fn by_file(labels: &[Label]) -> Vec<(&str, Vec<&Label>)> {
    let mut files: Vec<(&str, Vec<&Label>)> = Vec::new();
    let primary_first = labels
        .iter()
        .filter(|l| l.primary)
        .chain(labels.iter().filter(|l| !l.primary));
    for label in primary_first {
        match files
            .iter_mut()
            .find(|(_, of_file)| of_file[0].file == label.file)
        {
            Some((_, of_file)) => of_file.push(label),
            None => files.push((&label.file.name, vec![label])),
        }
    }
    files
}

/// The span, kept inside the text and on the borders of its characters.
fn span_of(label: &Label) -> std::ops::Range<usize> {
    let text = &label.file.text;
    let border = |mut i: usize| {
        i = i.min(text.len());
        while !text.is_char_boundary(i) {
            i -= 1;
        }
        i
    };
    let start = border(label.span.start);
    start..border(label.span.end).max(start)
}

/// The renderer separates the help from the source by a line with nothing but a bar; the help line stands out without.
fn without_bar_before_help(rendered: &str) -> String {
    let lines: Vec<&str> = rendered.lines().collect();
    let plain: Vec<String> = lines
        .iter()
        .map(|line| console::strip_ansi_codes(line).trim().to_owned())
        .collect();
    let mut out = String::with_capacity(rendered.len());
    for (i, line) in lines.iter().enumerate() {
        let before_help = plain
            .get(i + 1)
            .is_some_and(|next| next.starts_with("= help:"));
        if !(before_help && plain[i] == "|") {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

/// The diagnostic for machines. Lines and columns count from 1, columns in characters; `end` is exclusive.
pub(crate) fn json(diagnostic: &Diagnostic) -> Value {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let labels: Vec<Value> = diagnostic
        .labels
        .iter()
        .map(|label| {
            let (line, column) = label.file.line_and_column(label.span.start);
            let (end_line, end_column) = label.file.line_and_column(label.span.end);
            json!({
                "file": label.file.name, "line": line, "column": column,
                "end_line": end_line, "end_column": end_column,
                "start_byte": label.span.start, "end_byte": label.span.end,
                "text": label.text, "primary": label.primary,
            })
        })
        .collect();
    let mut object: BTreeMap<&str, Value> = [
        ("severity", severity.into()),
        ("code", diagnostic.code.into()),
        ("message", diagnostic.message.clone().into()),
        ("help", diagnostic.help.clone().into()),
        ("labels", labels.into()),
    ]
    .into();
    if let Some((file, line, column)) = diagnostic.position() {
        object.extend([
            ("file", file.into()),
            ("line", line.into()),
            ("column", column.into()),
        ]);
    }
    json!(object)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use natron_runner::SourceText;

    use super::*;

    const MOMENTUM: &str = "[stages.mean]\nuses = \"roling_mean\"\ninputs.bars = \"policy\"\n";

    fn label(file: &Arc<SourceText>, piece: &str, text: &str, primary: bool) -> Label {
        let start = file.text.find(piece).unwrap();
        Label {
            file: Arc::clone(file),
            span: start..start + piece.len(),
            text: text.into(),
            primary,
        }
    }

    fn unknown_kind(labels: Vec<Label>) -> Diagnostic {
        Diagnostic {
            code: "N0012",
            message: "unknown stage kind `roling_mean`".into(),
            labels,
            help: Some("did you mean `rolling_mean`? `natron stages` lists all of them".into()),
            severity: Severity::Error,
        }
    }

    #[test]
    fn looks_like_a_compilers_message() {
        let file = SourceText::new("pipelines/momentum.toml", MOMENTUM);
        let diagnostic = unknown_kind(vec![label(
            &file,
            "\"roling_mean\"",
            "no stage kind is called this",
            true,
        )]);

        assert_eq!(
            text(&diagnostic, Style::PLAIN, 100),
            "\
error: unknown stage kind `roling_mean`
 --> pipelines/momentum.toml:2:8
  |
2 | uses = \"roling_mean\"
  |        ^^^^^^^^^^^^^ no stage kind is called this
  = help: did you mean `rolling_mean`? `natron stages` lists all of them
"
        );
    }

    #[test]
    fn other_texts_follow_the_first() {
        let file = SourceText::new("p.toml", MOMENTUM);
        let set = SourceText::new("--set", "mean.window=x");
        let diagnostic = unknown_kind(vec![
            label(&file, "\"policy\"", "read here", false),
            label(&set, "x", "set here", true),
        ]);

        let text = text(&diagnostic, Style::PLAIN, 100);
        let (set, file) = (
            text.find("--> --set:1:13").unwrap(),
            text.find("p.toml:3:15").unwrap(),
        );
        assert!(set < file, "{text}");
    }

    #[test]
    fn no_text_can_break_it() {
        let file = SourceText::new("bell\u{7}.toml", "\u{feff}a = \"\u{1b}[31mé\u{9b}\"\r\n\tb");
        for (start, end) in [(0, 1), (6, 7), (9, 999), (500, 400), (15, 16), (3, 3)] {
            let label = Label {
                file: Arc::clone(&file),
                span: start..end,
                text: "x\ny\u{1b}".into(),
                primary: true,
            };
            let text = text(&unknown_kind(vec![label]), Style::PLAIN, 80);
            assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{text:?}");
        }
        assert!(text(&unknown_kind(Vec::new()), Style::PLAIN, 80).contains("= help: did you mean"));
    }

    #[test]
    fn json_counts_characters() {
        let file = SourceText::new("p.toml", "é = ü");
        let json = json(&unknown_kind(vec![label(&file, "ü", "", true)]));

        assert_eq!((&json["line"], &json["column"]), (&json!(1), &json!(5)));
        assert_eq!(json["labels"][0]["start_byte"], 5);
    }
}
