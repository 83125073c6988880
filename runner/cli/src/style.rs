//! Colours, where the reader's terminal has them.

use std::fmt::Write as _;

/// Paints text, or leaves it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether to paint.
    pub(crate) colored: bool,
}

impl Style {
    /// No colours.
    pub(crate) const PLAIN: Self = Self { colored: false };

    fn paint(self, code: &str, text: &str) -> String {
        if self.colored {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// What the eye should find first.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What the eye may skip.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What went well.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What needs attention.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What went wrong.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// Names.
    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }
}

/// The text with control characters (escape sequences of a terminal among them) written out, so that what a stage, a file or
/// a name says cannot move the cursor or pass for a line of ours. Line breaks become ` / `.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' => out.push_str(" / "),
            '\t' => out.push(' '),
            '\r' => {}
            c if c.is_control() || is_bidirectional(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Characters that reorder the text around them.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// How many cells of a terminal the text takes, control sequences of [`Style`] not counted. Wide characters count 2.
pub(crate) fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// The text, cut to `cells` with an ellipsis.
pub(crate) fn truncated(text: &str, cells: usize) -> String {
    console::truncate_str(text, cells, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_stays_one_harmless_line() {
        assert_eq!(
            printable("a\x1b]0;title\x07\r\nb\u{202e}c\n"),
            "a\\u{1b}]0;title\\u{7} / b\\u{202e}c"
        );
    }

    #[test]
    fn plain_style_changes_nothing() {
        assert_eq!(Style::PLAIN.red("x"), "x");
        assert_eq!(Style { colored: true }.bold("x"), "\x1b[1mx\x1b[0m");
    }
}
