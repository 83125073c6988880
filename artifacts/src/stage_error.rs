//! Why a stage did not finish.

use std::{error::Error, io, ops::Range};

use thiserror::Error;

use crate::ArtifactError;

/// Why a stage did not finish, or why it cannot be planned.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StageError {
    /// The data are not what the stage needs.
    #[error("{}{message}", place(row.as_ref(), column.as_deref()))]
    Data {
        /// What is wrong with them.
        message: String,
        /// Row of the input, counted from 0, where there is one.
        row: Option<u64>,
        /// Column of the input, where there is one.
        column: Option<String>,
        /// How to mend it; empty when there is nothing to add.
        help: String,
    },
    /// A parameter's value makes no sense, alone or with these inputs.
    #[error("{message}")]
    Parameters {
        /// Dotted path of the parameter below `with`; empty for all of them.
        parameter: String,
        /// What is wrong with it.
        message: String,
        /// How to mend it; empty when there is nothing to add.
        help: String,
        /// The piece of the parameter's text that is wrong, in bytes, where it is a text and not all of it is.
        at: Option<Range<usize>>,
    },
    /// The run was stopped; what the checkpoint directory holds is good.
    #[error("interrupted")]
    Interrupted,
    /// Something the stage needs is not there or not enough: memory, a GPU, a program.
    #[error("{message}")]
    Resource {
        /// What is missing.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{message}: {source}")]
    Io {
        /// Which file, and what for.
        message: String,
        /// What the system said.
        source: io::Error,
    },
    /// A computation left the finite numbers.
    #[error("{message}")]
    NonFinite {
        /// Where: step, tensor, value.
        message: String,
    },
    /// The stage's code broke.
    #[error("the stage panicked: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
    /// Anything else.
    #[error("{message}")]
    Other {
        /// What happened.
        message: String,
        /// Why.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

fn place(row: Option<&u64>, column: Option<&str>) -> String {
    match (row, column) {
        (Some(row), Some(column)) => format!("row {row}, column `{column}`: "),
        (Some(row), None) => format!("row {row}: "),
        (None, Some(column)) => format!("column `{column}`: "),
        (None, None) => String::new(),
    }
}

impl StageError {
    /// Wrong data, without a place.
    pub fn data(message: impl Into<String>) -> Self {
        Self::Data {
            message: message.into(),
            row: None,
            column: None,
            help: String::new(),
        }
    }

    /// Wrong data at a row and column.
    pub fn data_at(row: u64, column: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Data {
            message: message.into(),
            row: Some(row),
            column: Some(column.into()),
            help: String::new(),
        }
    }

    /// A wrong parameter.
    pub fn parameter(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Parameters {
            parameter: parameter.into(),
            message: message.into(),
            help: String::new(),
            at: None,
        }
    }

    /// A file that could not be read or written.
    pub fn io(message: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            message: message.into(),
            source,
        }
    }

    /// Something the stage lacks.
    pub fn resource(message: impl Into<String>) -> Self {
        Self::Resource {
            message: message.into(),
        }
    }

    /// Any other failure with its cause.
    pub fn other(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Other {
            message: message.into(),
            source: Some(source.into()),
        }
    }

    /// The same error with a help line, where its kind has one.
    #[must_use]
    pub fn with_help(mut self, text: impl Into<String>) -> Self {
        if let Self::Data { help, .. } | Self::Parameters { help, .. } = &mut self {
            *help = text.into();
        }
        self
    }

    /// The same error about a piece of the parameter's text, in bytes.
    #[must_use]
    pub fn at(mut self, bytes: Range<usize>) -> Self {
        if let Self::Parameters { at, .. } = &mut self {
            *at = Some(bytes);
        }
        self
    }

    /// How to mend it, where known.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Data { help, .. } | Self::Parameters { help, .. } if !help.is_empty() => {
                Some(help)
            }
            _ => None,
        }
    }
}

impl From<ArtifactError> for StageError {
    fn from(error: ArtifactError) -> Self {
        Self::data(error.to_string())
    }
}
