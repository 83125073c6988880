//! Why a command did not succeed, and the exit code that says so.

use std::{io, path::Path};

use natron_artifacts::ArtifactError;
use natron_cache::StoreError;
use natron_runner::{LockError, RunError};
use serde_json::{Value, json};

use crate::{output::Output, style::printable};

/// The exit codes, as `--help` prints them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    a stage failed
  2    wrong usage, or a mistake in the pipeline; nothing ran
  3    results differ (`verify`, `--locked`), or `accept` refuses
  5    trouble with the store, a disk or another file
  130  interrupted
  143  terminated";

/// A command's failure. What has been said already is not said again.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command cannot mean what it says; nothing ran.
    Usage(Message),
    /// Mistakes in the pipeline, reported already; nothing ran.
    Pipeline,
    /// A stage failed.
    Stage(Option<Message>),
    /// Results differ from what they should be.
    Differs(Option<Message>),
    /// The store, a disk or a file gave trouble.
    Store(Message),
    /// Interrupted; finished work stays.
    Interrupted,
    /// Asked to terminate; finished work stays.
    Terminated,
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match &error {
            RunError::UnknownStage { did_you_mean, .. } => {
                let failure = Self::usage(error.to_string());
                match did_you_mean {
                    Some(near) => failure.help(format!("did you mean `{near}`?")),
                    None => failure.help("`natron graph` shows the stages"),
                }
            }
            RunError::NoGpu => {
                Self::usage(error.to_string()).help("say `device = \"cpu\"` or `\"auto\"`")
            }
            RunError::TooFewGpus { .. } => Self::usage(error.to_string()).help(
                "run it where there is one, or ask for `gpu = \"auto\"` or `device = \"auto\"`; GPUs are found by `/dev/nvidia0`, `/dev/nvidia1` ... and `CUDA_VISIBLE_DEVICES`, or name them in `NATRON_GPUS`",
            ),
            RunError::NotCached { stage } => Self::usage(error.to_string())
                .help(format!("`natron run --until {stage}` makes it")),
            _ => Self::store(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::store(error.to_string())
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        Self::store(error.to_string())
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Io { .. } => Self::store(error.to_string()),
            _ => Self::usage(error.to_string()),
        }
    }
}

/// What is wrong, and how to mend it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    text: String,
    help: Option<String>,
}

impl Failure {
    /// A wrong use of the program.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(Message::new(text))
    }

    /// Data that a stage does not take.
    pub(crate) fn stage(text: impl Into<String>) -> Self {
        Self::Stage(Some(Message::new(text)))
    }

    /// Trouble with the store or a file.
    pub(crate) fn store(text: impl Into<String>) -> Self {
        Self::Store(Message::new(text))
    }

    /// Trouble with the file at `path`; `action` says what was tried, as `read` or `write`.
    pub(crate) fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        let text = format!("cannot {action} `{}`: {error}", path.display());
        match error.kind() {
            io::ErrorKind::NotFound if action == "read" => {
                Self::usage(text).help("is the path right? It is taken from the current directory")
            }
            _ => Self::store(text),
        }
    }

    /// The same failure with a way to mend it.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        match &mut self {
            Self::Usage(message)
            | Self::Store(message)
            | Self::Stage(Some(message))
            | Self::Differs(Some(message)) => message.help = Some(help.into()),
            _ => {}
        }
        self
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Stage(_) => 1,
            Self::Usage(_) | Self::Pipeline => 2,
            Self::Differs(_) => 3,
            Self::Store(_) => 5,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    fn message(&self) -> Option<&Message> {
        match self {
            Self::Usage(message) | Self::Store(message) => Some(message),
            Self::Stage(message) | Self::Differs(message) => message.as_ref(),
            Self::Pipeline | Self::Interrupted | Self::Terminated => None,
        }
    }

    /// Says it, to people, and to machines if they asked.
    pub(crate) fn report(&self, output: &Output) {
        let Some(message) = self.message() else {
            return;
        };
        if output.is_json() {
            output.json(json!({ "error": message.to_json(), "exit_code": self.code() }));
        }
        let style = output.note_style();
        output.note(&format!("{}: {}", style.red("error"), message.text));
        if let Some(help) = &message.help {
            output.note(&format!("  {} help: {help}", style.cyan("=")));
        }
    }
}

impl Message {
    /// A message. Line breaks and control characters in it are made harmless.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: printable(&text.into()),
            help: None,
        }
    }

    fn to_json(&self) -> Value {
        json!({ "message": self.text, "help": self.help })
    }
}
