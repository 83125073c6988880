//! Runs the program.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// What one call gave.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// The answer, if the exit code is `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// The standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout));
        assert_eq!(value["version"], 1);
        value
    }
}

/// A call of the program, in a quiet environment.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_natron"));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    for name in [
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "NATRON_CACHE",
        "NATRON_PROGRESS",
        "NATRON_PERTURBED",
    ] {
        command.env_remove(name);
    }
    command
}

/// Calls the program in `folder`.
pub(crate) fn natron(folder: &Path, arguments: &[&str]) -> Answer {
    let output = command(folder, arguments).output().unwrap();
    answer(output)
}

/// What a finished call gave.
pub(crate) fn answer(output: Output) -> Answer {
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A workspace with one pipeline.
pub(crate) struct Workspace {
    folder: TempDir,
}

impl Workspace {
    /// A workspace whose `pipelines/p.toml` holds `text`.
    pub(crate) fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pipelines")).unwrap();
        std::fs::write(folder.path().join("pipelines/p.toml"), text).unwrap();
        Self { folder }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Calls the program in it.
    pub(crate) fn natron(&self, arguments: &[&str]) -> Answer {
        natron(self.folder.path(), arguments)
    }

    /// A call of the program in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command(self.folder.path(), arguments)
    }
}
