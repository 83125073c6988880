//! The only writer of the program: data to the standard output, everything for people to the standard error.
//!
//! A reader who has gone away (`natron show bars | head -1`) is a fact, not a mistake: the rest of the output is dropped and
//! the command ends as it would have. An output that cannot take data (a full disk) is an error of its own. Nothing that goes
//! wrong with the standard error has any effect.

use std::{
    env,
    io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::style::Style;

/// When to use colours. `Auto`: on terminals, unless `NO_COLOR` is set; elsewhere only if `CLICOLOR_FORCE` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Color {
    // No doc comments: `--help` would spend a line on each.
    #[default]
    Auto,
    Always,
    Never,
}

/// The number in every JSON object that says which form it has.
pub(crate) const JSON_VERSION: u64 = 1;

/// Columns of an output that is no terminal.
const WIDTH_OF_FILES: usize = 160;

/// See the module.
pub(crate) struct Output {
    json: bool,
    stdout_style: Style,
    stderr_style: Style,
    stderr_is_terminal: bool,
    stdout: Mutex<Data>,
}

struct Data {
    writer: BufWriter<Stdout>,
    /// The first failure that was not a reader gone away.
    error: Option<io::Error>,
    closed: bool,
}

impl Output {
    /// An output; `json` says that data goes out as JSON.
    pub(crate) fn new(color: Color, json: bool) -> Self {
        let style = |is_terminal: bool| Style {
            colored: match color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => colored_by_environment(is_terminal, |name| {
                    env::var_os(name)
                        .is_some_and(|v| !v.is_empty() && (name == "NO_COLOR" || v != "0"))
                }),
            },
        };
        let stderr_is_terminal = io::stderr().is_terminal();
        Self {
            json,
            stdout_style: style(io::stdout().is_terminal()),
            stderr_style: style(stderr_is_terminal),
            stderr_is_terminal,
            stdout: Mutex::new(Data {
                writer: BufWriter::with_capacity(1 << 16, io::stdout()),
                error: None,
                closed: false,
            }),
        }
    }

    /// Whether data goes out as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// How to paint what goes to the standard output.
    pub(crate) fn data_style(&self) -> Style {
        self.stdout_style
    }

    /// How to paint what goes to the standard error.
    pub(crate) fn note_style(&self) -> Style {
        self.stderr_style
    }

    /// Whether a person looks at the standard error.
    pub(crate) fn is_interactive(&self) -> bool {
        self.stderr_is_terminal
    }

    fn lock(&self) -> MutexGuard<'_, Data> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes bytes of data to the standard output. Returns whether anyone still reads.
    pub(crate) fn data_bytes(&self, bytes: &[u8]) -> bool {
        let mut data = self.lock();
        data.attempt(|writer| writer.write_all(bytes));
        !data.closed
    }

    /// Writes one line (or several) of data to the standard output.
    pub(crate) fn data(&self, text: &str) {
        let mut data = self.lock();
        data.attempt(|writer| {
            writer.write_all(text.as_bytes())?;
            if text.ends_with('\n') {
                Ok(())
            } else {
                writer.write_all(b"\n")
            }
        });
    }

    /// Writes one JSON object: `fields` and the `version` of its form.
    pub(crate) fn json(&self, fields: Value) {
        let mut object = Map::new();
        object.insert("version".into(), JSON_VERSION.into());
        match fields {
            Value::Object(fields) => object.extend(fields),
            other => {
                object.insert("value".into(), other);
            }
        }
        let text = serde_json::to_string_pretty(&Value::Object(object));
        self.data(&text.expect("a JSON value serializes"));
    }

    /// Writes one line (or several) for people to the standard error, after the data so far.
    pub(crate) fn note(&self, text: &str) {
        self.lock().attempt(Write::flush);
        note(text);
    }

    /// A warning, one line.
    pub(crate) fn warn(&self, text: &str) {
        let style = self.stderr_style;
        self.note(&format!("{}: {text}", style.yellow("warning")));
    }

    /// Writes out what is held back.
    ///
    /// # Errors
    ///
    /// The first failure to write data, unless it was that nobody reads any more.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut data = self.lock();
        data.attempt(Write::flush);
        data.error.take().map_or(Ok(()), Err)
    }
}

/// Columns of the terminal, or enough for a file.
pub(crate) fn terminal_width() -> usize {
    let size = console::Term::stdout().size_checked();
    size.map_or(WIDTH_OF_FILES, |(_, columns)| usize::from(columns).max(20))
}

/// Writes one line (or several) for people to the standard error. Whoever cannot be told cannot be told that either.
pub(crate) fn note(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = stderr.write_all(b"\n");
    }
    let _ = stderr.flush();
}

impl Data {
    fn attempt(&mut self, write: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>) {
        if self.closed {
            return;
        }
        if let Err(error) = write(&mut self.writer) {
            self.closed = true;
            if error.kind() != ErrorKind::BrokenPipe {
                self.error = Some(error);
            }
        }
    }
}

/// <https://no-color.org>, <https://bixense.com/clicolors>.
fn colored_by_environment(is_terminal: bool, is_set: impl Fn(&str) -> bool) -> bool {
    if is_set("NO_COLOR") {
        return false;
    }
    is_set("CLICOLOR_FORCE") || (is_terminal && env::var_os("TERM").is_none_or(|t| t != "dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_wins_over_force() {
        assert!(!colored_by_environment(true, |_| true));
        assert!(colored_by_environment(false, |name| name == "CLICOLOR_FORCE"));
        assert!(!colored_by_environment(false, |_| false));
    }
}
