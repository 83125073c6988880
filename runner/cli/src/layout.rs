//! Text in lines and columns.

use crate::style::width;

/// Lines that grow into one text.
#[derive(Debug, Default)]
pub(crate) struct Block(String);

impl Block {
    /// Adds a line, without blanks at its end.
    pub(crate) fn line(&mut self, line: &str) {
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    /// Adds lines, `cells` cells in from the left.
    pub(crate) fn lines(&mut self, cells: usize, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            self.line(&format!("{:cells$}{line}", ""));
        }
    }

    /// The text, without empty lines at its end.
    pub(crate) fn text(self) -> String {
        let mut text = self.0;
        while text.ends_with("\n\n") {
            text.pop();
        }
        text
    }
}

/// Words in lines of at most `cells` cells. A longer word has a line of its own.
pub(crate) fn wrapped(text: &str, cells: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= cells => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// On which side of a column its cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Rows with aligned columns, two blanks between them. The cells may be painted.
pub(crate) fn columns(rows: &[Vec<String>], align: &[Align]) -> Vec<String> {
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n)
        .map(|i| {
            rows.iter()
                .filter_map(|row| row.get(i))
                .map(|cell| width(cell))
                .max()
                .unwrap_or(0)
        })
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                if i > 0 {
                    line.push_str("  ");
                }
                let padding = " ".repeat(widths[i] - width(cell));
                if align.get(i) == Some(&Align::Right) {
                    line.push_str(&padding);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&padding);
                }
            }
            line.truncate(line.trim_end().len());
            line
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_paint() {
        let row = |cells: &[&str]| {
            cells
                .iter()
                .map(|&cell| cell.to_owned())
                .collect::<Vec<_>>()
        };
        let rows = [
            row(&["a", "10"]),
            row(&["\x1b[1mbcd\x1b[0m", "7"]),
            row(&["é"]),
        ];

        let lines = columns(&rows, &[Align::Left, Align::Right]);
        assert_eq!(lines, ["a    10", "\x1b[1mbcd\x1b[0m   7", "é"]);
    }

    #[test]
    fn wraps_at_words() {
        assert_eq!(
            wrapped("one two  three\nfour", 8),
            ["one two", "three", "four"]
        );
    }
}
