//! What a stage declares before it runs.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Column, Kind};

/// What is known of an artifact before it exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortSchema {
    /// Its kind.
    pub kind: Kind,
    /// A table's columns; `None` when they are only known afterwards.
    pub columns: Option<Vec<Column>>,
    /// How many later bars the values look at: 0 for features, the horizon for labels.
    pub lookahead_bars: u32,
    /// Whatever else consumers check before the run, as the length of windows.
    pub facts: BTreeMap<String, Value>,
}

impl PortSchema {
    /// Something of this kind, nothing else known.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            columns: None,
            lookahead_bars: 0,
            facts: BTreeMap::new(),
        }
    }

    /// A table with these columns.
    pub fn table(columns: Vec<Column>) -> Self {
        Self {
            columns: Some(columns),
            ..Self::of(Kind::Table)
        }
    }

    /// The same, looking `bars` ahead.
    #[must_use]
    pub fn lookahead(mut self, bars: u32) -> Self {
        self.lookahead_bars = bars;
        self
    }

    /// The same with a fact.
    #[must_use]
    pub fn fact(mut self, name: impl Into<String>, value: Value) -> Self {
        self.facts.insert(name.into(), value);
        self
    }

    /// The column called `name`, if the columns are known and it is among them.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns
            .as_ref()?
            .iter()
            .find(|column| column.name == name)
    }
}

/// What is known of a stage's inputs, by port. A port that gathers has several.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schemas(BTreeMap<String, Vec<PortSchema>>);

impl Schemas {
    /// Nothing known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what is known of one more input at `port`.
    pub fn push(&mut self, port: impl Into<String>, schema: PortSchema) {
        self.0.entry(port.into()).or_default().push(schema);
    }

    /// The schema of the (first) input at `port`.
    pub fn get(&self, port: &str) -> Option<&PortSchema> {
        self.0.get(port)?.first()
    }

    /// The schemas of all inputs at `port`.
    pub fn all(&self, port: &str) -> &[PortSchema] {
        self.0.get(port).map_or(&[], Vec::as_slice)
    }

    /// The ports that have inputs.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The largest lookahead of all inputs, in bars.
    pub fn lookahead_bars(&self) -> u32 {
        self.0
            .values()
            .flatten()
            .map(|schema| schema.lookahead_bars)
            .max()
            .unwrap_or(0)
    }
}

/// Which columns of an input table a stage reads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum InputColumns {
    /// Whatever is there; the key holds the whole table.
    #[default]
    Any,
    /// These must be there; the stage sees the whole table, and the key holds it.
    Required(Vec<String>),
    /// Only these and the time index `ts_ns`, where there is one: the stage sees no others, and the key holds no others.
    Only(Vec<String>),
}

/// An input port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputPort {
    /// Name below `inputs`.
    pub name: String,
    /// Accepted kind.
    pub kind: Kind,
    /// The columns of a table that are read.
    pub columns: InputColumns,
    /// Whether several artifacts may come in (a gathered matrix).
    pub many: bool,
    /// Whether the input may be missing.
    pub optional: bool,
}

/// An output port and what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputPort {
    /// Name after the dot in `stage.output`.
    pub name: String,
    /// What is known of it.
    pub schema: PortSchema,
}

/// A file or folder outside the store that a stage reads. Its content is part of the key; its path is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Name to ask the context by. A top-level parameter of this name is the path, and so is left out of the key.
    pub name: String,
    /// The path, relative to the workspace or absolute.
    pub path: PathBuf,
}

/// How many threads a stage wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Threads {
    /// One.
    #[default]
    One,
    /// At most this many.
    Count(u32),
    /// All that the run has.
    All,
}

/// Whether a stage wants a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gpu {
    /// No.
    #[default]
    Never,
    /// If there is one, unless the run says otherwise.
    Auto,
    /// It cannot run without.
    Required,
}

/// What a stage needs to run. Never part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Threads.
    pub threads: Threads,
    /// Memory in bytes, beyond what the inputs take; 0 when small.
    pub memory_bytes: u64,
    /// GPU.
    pub gpu: Gpu,
}

/// A stage's declaration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Signature {
    /// Input ports.
    pub inputs: Vec<InputPort>,
    /// Whether any other inputs may come in too, under any names.
    pub open_inputs: bool,
    /// Output ports.
    pub outputs: Vec<OutputPort>,
    /// Files read from outside the store.
    pub sources: Vec<SourceFile>,
    /// Environment variables that take part in the result, by value.
    pub environment: BTreeMap<String, String>,
    /// Whether the stage reads the graph above it (see [`crate::Lineage`]); then that graph is part of the key.
    pub lineage: bool,
    /// Needs.
    pub resources: Resources,
    /// Whether all its work is done by a program that it starts: the context's limits hold for that, and a process of the
    /// stage's own would add nothing.
    #[serde(default)]
    pub own_process: bool,
}

impl Signature {
    /// No ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input table that must have `columns`; the stage sees the whole table.
    #[must_use]
    pub fn input_table<S: Into<String>>(
        self,
        name: &str,
        columns: impl IntoIterator<Item = S>,
    ) -> Self {
        let columns = InputColumns::Required(columns.into_iter().map(Into::into).collect());
        self.input(InputPort {
            name: name.into(),
            kind: Kind::Table,
            columns,
            many: false,
            optional: false,
        })
    }

    /// Adds an input table of which only `columns` and the time index are seen.
    #[must_use]
    pub fn input_columns<S: Into<String>>(
        self,
        name: &str,
        columns: impl IntoIterator<Item = S>,
    ) -> Self {
        let columns = InputColumns::Only(columns.into_iter().map(Into::into).collect());
        self.input(InputPort {
            name: name.into(),
            kind: Kind::Table,
            columns,
            many: false,
            optional: false,
        })
    }

    /// Adds an input of any kind that must be given.
    #[must_use]
    pub fn input_of(self, name: &str, kind: Kind) -> Self {
        self.input(InputPort {
            name: name.into(),
            kind,
            columns: InputColumns::Any,
            many: false,
            optional: false,
        })
    }

    /// Adds an input that may be left out.
    #[must_use]
    pub fn optional_input(self, name: &str, kind: Kind) -> Self {
        self.input(InputPort {
            name: name.into(),
            kind,
            columns: InputColumns::Any,
            many: false,
            optional: true,
        })
    }

    /// Adds an input that gathers several artifacts.
    #[must_use]
    pub fn gathered_input(self, name: &str, kind: Kind) -> Self {
        self.input(InputPort {
            name: name.into(),
            kind,
            columns: InputColumns::Any,
            many: true,
            optional: false,
        })
    }

    /// Adds an input port.
    #[must_use]
    pub fn input(mut self, port: InputPort) -> Self {
        self.inputs.push(port);
        self
    }

    /// Adds an output port.
    #[must_use]
    pub fn output(mut self, name: &str, schema: PortSchema) -> Self {
        self.outputs.push(OutputPort {
            name: name.into(),
            schema,
        });
        self
    }

    /// Adds a file or folder that the stage reads from outside the store.
    #[must_use]
    pub fn source(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.sources.push(SourceFile {
            name: name.into(),
            path: path.into(),
        });
        self
    }

    /// Asks for threads.
    #[must_use]
    pub fn threads(mut self, threads: Threads) -> Self {
        self.resources.threads = threads;
        self
    }

    /// Asks for memory.
    #[must_use]
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.resources.memory_bytes = bytes;
        self
    }

    /// Asks for a GPU.
    #[must_use]
    pub fn gpu(mut self, gpu: Gpu) -> Self {
        self.resources.gpu = gpu;
        self
    }

    /// Asks for the graph above the stage.
    #[must_use]
    pub fn with_lineage(mut self) -> Self {
        self.lineage = true;
        self
    }

    /// The output port called `name`.
    pub fn output_port(&self, name: &str) -> Option<&OutputPort> {
        self.outputs.iter().find(|port| port.name == name)
    }
}
