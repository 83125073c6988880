//! What is to be run, and how much of the machine it may take.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

/// Name of the variable by which the descendants of a program are known if their keeper is lost; its value is the
/// program's directory.
pub const MARK: &str = "NATRON_SANDBOX";

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file to execute, absolute or relative to `directory`; nothing is looked for on `PATH`.
    pub path: PathBuf,
    /// The arguments after the program's name.
    pub arguments: Vec<OsString>,
    /// All of its environment but [`MARK`].
    pub environment: BTreeMap<OsString, OsString>,
    /// Its current directory, which no other running program shares.
    pub directory: PathBuf,
    /// The file that is its standard input, absolute or relative to `directory`; without one `/dev/null`.
    pub input: Option<PathBuf>,
    /// What it may take.
    pub limits: Limits,
}

impl Program {
    /// The program `path` in `directory`, without arguments, environment, input and limits.
    pub fn new(path: &Path, directory: &Path) -> Self {
        Self {
            path: path.to_owned(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            directory: directory.to_owned(),
            input: None,
            limits: Limits::default(),
        }
    }
}

/// How much a program with all that it starts may take. Nothing is limited by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Memory in bytes: of all its processes in a control group; without control groups, of the address space of each.
    pub memory_bytes: Option<u64>,
    /// Processes and threads at a time: of its own in a control group; without control groups, of its user.
    pub processes: Option<u64>,
    /// Seconds of processor time of each of its processes.
    pub cpu_seconds: Option<u64>,
    /// Time from its start until it is asked to end.
    pub timeout: Option<Duration>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
