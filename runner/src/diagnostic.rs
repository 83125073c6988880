//! What is wrong with a pipeline file, where, and how to mend it.

use std::{fmt, ops::Range, sync::Arc};

/// A text that a user wrote: the pipeline file, or one `--set`.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    /// What it is called in messages: the path as given, or `--set`.
    pub name: String,
    /// All of it.
    pub text: String,
}

impl SourceText {
    /// A shared text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            text: text.into(),
        })
    }

    /// Line and column of byte `offset`, both counted from 1, the column in characters.
    pub fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub file: Arc<SourceText>,
    /// The piece, in bytes.
    pub span: Range<usize>,
}

impl Place {
    /// The piece of text.
    pub fn text(&self) -> &str {
        self.file.text.get(self.span.clone()).unwrap_or_default()
    }

    /// Line and column of its start, both counted from 1, the column in characters.
    pub fn line_and_column(&self) -> (usize, usize) {
        self.file.line_and_column(self.span.start)
    }
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing runs.
    Error,
    /// It runs, but perhaps not as meant.
    Warning,
}

/// A marked piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The text.
    pub file: Arc<SourceText>,
    /// The piece, in bytes.
    pub span: Range<usize>,
    /// What to say there; may be empty.
    pub text: String,
    /// Whether this is the place of the mistake; others only explain it.
    pub primary: bool,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// One of [`code`].
    pub code: &'static str,
    /// What is wrong: lower case, no full stop, literals in back-ticks.
    pub message: String,
    /// Where. The first one is primary.
    pub labels: Vec<Label>,
    /// How to mend it.
    pub help: Option<String>,
    /// Error or warning.
    pub severity: Severity,
}

impl Diagnostic {
    /// An error at `place`, with `label` said there.
    pub fn error(
        code: &'static str,
        message: impl Into<String>,
        place: &Place,
        label: impl Into<String>,
    ) -> Self {
        Self {
            code,
            message: message.into(),
            labels: vec![Label {
                file: Arc::clone(&place.file),
                span: place.span.clone(),
                text: label.into(),
                primary: true,
            }],
            help: None,
            severity: Severity::Error,
        }
    }

    /// A warning at `place`, with `label` said there.
    pub fn warning(
        code: &'static str,
        message: impl Into<String>,
        place: &Place,
        label: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, message, place, label)
        }
    }

    /// The same with another place that explains it.
    #[must_use]
    pub fn also(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.labels.push(Label {
            file: Arc::clone(&place.file),
            span: place.span.clone(),
            text: label.into(),
            primary: false,
        });
        self
    }

    /// The same with a help line; an empty one is none.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        self.help = (!text.is_empty()).then_some(text);
        self
    }

    /// The label at the place of the mistake.
    pub fn primary(&self) -> Option<&Label> {
        self.labels.iter().find(|label| label.primary)
    }

    /// Name of the text, line and column of the mistake, counted from 1, the column in characters.
    pub fn position(&self) -> Option<(&str, usize, usize)> {
        let label = self.primary()?;
        let (line, column) = label.file.line_and_column(label.span.start);
        Some((&label.file.name, line, column))
    }
}

/// `FILE:LINE:COLUMN: error[CODE]: MESSAGE (HELP)`, for logs; the program draws it with the source.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, line, column)) = self.position() {
            write!(f, "{name}:{line}:{column}: ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: {}", self.code, self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

/// The codes of all mistakes and warnings. A code keeps its meaning for ever.
pub mod code {
    /// The file is not TOML.
    pub const SYNTAX: &str = "N0001";
    /// A key that means nothing here.
    pub const UNKNOWN_KEY: &str = "N0002";
    /// A value of the wrong type, under a key of the runner.
    pub const WRONG_TYPE: &str = "N0003";
    /// Something that must be there is not: `uses`, a stage.
    pub const MISSING_KEY: &str = "N0004";
    /// A name with characters that names cannot have, a reserved one, or two that differ only in case.
    pub const BAD_NAME: &str = "N0005";
    /// A value of the right type that makes no sense, under a key of the runner.
    pub const BAD_VALUE: &str = "N0006";
    /// `--profile` names no profile.
    pub const UNKNOWN_PROFILE: &str = "N0007";
    /// A `--set` that cannot be understood or sets nothing that is there.
    pub const BAD_SET: &str = "N0008";
    /// `${...}` names nothing.
    pub const UNKNOWN_REFERENCE: &str = "N0009";
    /// Entries of `[params]` that refer to themselves.
    pub const PARAMETER_CYCLE: &str = "N0010";
    /// `${...}` where it cannot stand, or one that does not end.
    pub const BAD_INTERPOLATION: &str = "N0011";
    /// `uses` names no stage kind.
    pub const UNKNOWN_KIND: &str = "N0012";
    /// `with` has an entry that the kind does not know.
    pub const UNKNOWN_PARAMETER: &str = "N0013";
    /// A parameter does not fit its type.
    pub const PARAMETER_TYPE: &str = "N0014";
    /// The stage refuses its parameters or inputs.
    pub const REFUSED: &str = "N0015";
    /// NaN or an infinity among the parameters.
    pub const NOT_FINITE: &str = "N0016";
    /// An input that is written wrongly.
    pub const BAD_INPUT: &str = "N0017";
    /// An input names no stage.
    pub const UNKNOWN_STAGE: &str = "N0018";
    /// An input names no output of the stage.
    pub const UNKNOWN_OUTPUT: &str = "N0019";
    /// An input names no output, and the stage has none or several.
    pub const AMBIGUOUS_OUTPUT: &str = "N0020";
    /// An input that the stage needs is not given.
    pub const MISSING_INPUT: &str = "N0021";
    /// An input that the stage does not know.
    pub const UNKNOWN_INPUT: &str = "N0022";
    /// An input of the wrong kind.
    pub const WRONG_KIND: &str = "N0023";
    /// An input table lacks columns.
    pub const MISSING_COLUMN: &str = "N0024";
    /// Several artifacts at an input that takes one.
    pub const SEVERAL_INPUTS: &str = "N0025";
    /// Stages that need each other.
    pub const STAGE_CYCLE: &str = "N0026";
    /// A file that is not there.
    pub const MISSING_FILE: &str = "N0027";
    /// A matrix without instances.
    pub const EMPTY_MATRIX: &str = "N0028";
    /// A matrix that is written wrongly.
    pub const BAD_MATRIX: &str = "N0029";
    /// More instances than allowed.
    pub const TOO_MANY_INSTANCES: &str = "N0030";
    /// `[axis=value]` that fits no instance.
    pub const UNKNOWN_INSTANCE: &str = "N0031";
    /// An input reads a matrix stage without saying which instances.
    pub const INSTANCES_NOT_CHOSEN: &str = "N0032";
    /// `when` is not true or false.
    pub const BAD_CONDITION: &str = "N0033";
    /// A view of nothing, of a bad path, or of a path that another view has.
    pub const BAD_VIEW: &str = "N0034";
    /// The pipeline file cannot be read.
    pub const UNREADABLE: &str = "N0035";
    /// A parameter is missing.
    pub const MISSING_PARAMETER: &str = "N0036";

    /// Warning: nothing reads an entry of `[params]`.
    pub const UNUSED_PARAMETER: &str = "N0101";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_columns_in_characters() {
        let text = SourceText::new("p.toml", "a\nbé = ü\n");

        assert_eq!(text.line_and_column(0), (1, 1));
        assert_eq!(text.line_and_column(text.text.find('ü').unwrap()), (2, 6));
        assert_eq!(text.line_and_column(999), (3, 1));
        assert_eq!(
            text.line_and_column(4),
            (2, 2),
            "the middle of a letter is its start"
        );
    }

    #[test]
    fn displays_on_one_line() {
        let place = Place {
            file: SourceText::new("p.toml", "x = 1"),
            span: 4..5,
        };

        let error = Diagnostic::error(code::BAD_VALUE, "too small", &place, "").help("say 2");

        assert_eq!(
            error.to_string(),
            "p.toml:1:5: error[N0006]: too small (say 2)"
        );
    }
}
