//! All that a running stage can reach.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Artifact, Bytes, Conditions, Digest, Files, Kind, Limits, Metrics, Model, Signature,
    StageError, Stream, Streams, Table,
};

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, where known.
    pub total: Option<u64>,
    /// What a unit is: `rows`, `steps`.
    pub unit: &'static str,
    /// The current loss, while training.
    pub loss: Option<f64>,
    /// What is being done, a few words.
    pub note: String,
}

/// How loud a line of a stage's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For whoever reads the log.
    Info,
    /// For whoever runs the pipeline.
    Warning,
}

/// Whoever watches a stage run. Nothing it is told may depend on when it is told.
pub trait Observer: Send + Sync {
    /// The stage has come further.
    fn progress(&self, progress: &Progress);
    /// The stage measured something on the way; `step` counts within the series `name`.
    fn metric(&self, name: &str, step: u64, value: f64);
    /// The stage has something to say.
    fn log(&self, level: Level, message: &str);
    /// The stage's work was done by a process of its own, which had at most so many bytes of memory.
    fn peak_memory(&self, _bytes: u64) {}
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _: &Progress) {}
    fn metric(&self, _: &str, _: u64, _: f64) {}
    fn log(&self, _: Level, _: &str) {}
}

/// A flag that asks stages to stop. A clone is the same flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The device that a stage may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceGrant {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device of this ordinal.
    Cuda(u32),
    /// Several CUDA devices: bit `i` stands for the device of ordinal `i`.
    CudaSet(u64),
}

impl DeviceGrant {
    /// The grant of the CUDA devices of these ordinals; of none, the CPU.
    ///
    /// # Panics
    ///
    /// When an ordinal of several is 64 or more.
    pub fn cuda(ordinals: &[u32]) -> Self {
        match ordinals {
            [] => Self::Cpu,
            [one] => Self::Cuda(*one),
            several => Self::CudaSet(several.iter().fold(0, |set, ordinal| {
                assert!(*ordinal < 64, "device {ordinal} does not fit a set");
                set | 1 << ordinal
            })),
        }
    }

    /// The ordinals of the granted CUDA devices, in order.
    pub fn ordinals(self) -> Vec<u32> {
        match self {
            Self::Cpu => Vec::new(),
            Self::Cuda(ordinal) => vec![ordinal],
            Self::CudaSet(set) => (0..64).filter(|i| set >> i & 1 == 1).collect(),
        }
    }
}

/// One stage of the graph above a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LineageStage {
    /// Instance name in the pipeline.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Parameters, defaults filled in, without paths.
    pub parameters: Value,
    /// The instance names of the stages whose outputs it reads, sorted.
    pub reads: Vec<String>,
}

/// The graph above a stage, the stage itself last, in a topological order.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// Name of the pipeline.
    pub pipeline: String,
    /// The stages.
    pub stages: Vec<LineageStage>,
}

/// One artifact that comes in at a port.
#[derive(Debug, Clone)]
pub struct Input {
    /// The instance that made it and the output, as `evaluate[fold=1].metrics`.
    pub label: String,
    /// The artifact; of a table, the columns that the port declares.
    pub artifact: Artifact,
    /// Digest of its content.
    pub logical: Digest,
}

/// What a [`StageContext`] is made of. The runner and tests of stages fill it in.
pub struct StageContextParts {
    /// Artifacts by port; several at a port that gathers.
    pub inputs: BTreeMap<String, Vec<Input>>,
    /// Files from outside, by name: where they are.
    pub sources: BTreeMap<String, PathBuf>,
    /// The stage's seed.
    pub seed: u64,
    /// What this computation is: the stage key. Checkpoints are bound to it.
    pub identity: Digest,
    /// Threads that the stage may use; the rayon pool it runs in has as many.
    pub threads: usize,
    /// Device that the stage may use.
    pub device: DeviceGrant,
    /// Directory that survives a crash and is there again when the same computation starts anew.
    pub checkpoints: PathBuf,
    /// Empty directory that is gone afterwards.
    pub scratch: PathBuf,
    /// The workspace, for programs that stages start.
    pub workspace: PathBuf,
    /// The graph above, if the signature asks for it.
    pub lineage: Option<Lineage>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// The request to stop.
    pub cancel: Cancel,
    /// What programs that the stage starts may take.
    pub limits: Limits,
}

impl StageContextParts {
    /// Parts without inputs, for tests: seed 0, one thread, nobody watches, directories below `directory`.
    pub fn for_test(directory: &Path) -> Self {
        Self {
            inputs: BTreeMap::new(),
            sources: BTreeMap::new(),
            seed: 0,
            identity: Digest::of(b"test"),
            threads: 1,
            device: DeviceGrant::Cpu,
            checkpoints: directory.join("checkpoints"),
            scratch: directory.join("scratch"),
            workspace: directory.to_owned(),
            lineage: None,
            observer: Arc::new(Silent),
            cancel: Cancel::new(),
            limits: Limits::default(),
        }
    }

    /// Adds an input.
    #[must_use]
    pub fn input(mut self, port: &str, artifact: impl Into<Artifact>) -> Self {
        let artifact = artifact.into();
        let logical = artifact
            .seal()
            .expect("a test's artifact is sound")
            .manifest
            .logical;
        self.inputs.entry(port.into()).or_default().push(Input {
            label: port.into(),
            artifact,
            logical,
        });
        self
    }
}

/// What a running stage reads and writes.
pub struct StageContext {
    parts: StageContextParts,
    signature: Signature,
    conditions: Conditions,
    outputs: BTreeMap<String, Artifact>,
}

impl StageContext {
    /// A context for one run of a stage with `signature`.
    pub fn new(parts: StageContextParts, signature: Signature) -> Self {
        Self {
            parts,
            signature,
            conditions: Conditions::default(),
            outputs: BTreeMap::new(),
        }
    }

    /// The same under other conditions.
    #[must_use]
    pub fn under(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }

    /// What surrounds programs that the stage starts.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// The one artifact at `port`.
    ///
    /// # Errors
    ///
    /// When nothing comes in there; the runner has seen to it that required ports have inputs.
    pub fn input(&self, port: &str) -> Result<&Artifact, StageError> {
        self.optional(port)
            .ok_or_else(|| StageError::data(format!("nothing comes in at `{port}`")))
    }

    /// The artifact at `port`, if one comes in.
    pub fn optional(&self, port: &str) -> Option<&Artifact> {
        self.parts
            .inputs
            .get(port)?
            .first()
            .map(|input| &input.artifact)
    }

    /// All artifacts at `port`, in the order of their instances.
    pub fn inputs(&self, port: &str) -> &[Input] {
        self.parts.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// Ports that have inputs.
    pub fn input_ports(&self) -> impl Iterator<Item = &str> {
        self.parts.inputs.keys().map(String::as_str)
    }

    /// The table at `port`.
    pub fn table(&self, port: &str) -> Result<Arc<Table>, StageError> {
        match self.input(port)? {
            Artifact::Table(table) => Ok(Arc::clone(table)),
            other => Err(wrong_kind(port, Kind::Table, other)),
        }
    }

    /// The model at `port`.
    pub fn model(&self, port: &str) -> Result<Arc<Model>, StageError> {
        match self.input(port)? {
            Artifact::Model(model) => Ok(Arc::clone(model)),
            other => Err(wrong_kind(port, Kind::Model, other)),
        }
    }

    /// The metrics at `port`.
    pub fn metrics(&self, port: &str) -> Result<Arc<Metrics>, StageError> {
        match self.input(port)? {
            Artifact::Metrics(metrics) => Ok(Arc::clone(metrics)),
            other => Err(wrong_kind(port, Kind::Metrics, other)),
        }
    }

    /// The files at `port`.
    pub fn files(&self, port: &str) -> Result<Arc<Files>, StageError> {
        match self.input(port)? {
            Artifact::Files(files) => Ok(Arc::clone(files)),
            other => Err(wrong_kind(port, Kind::Files, other)),
        }
    }

    /// Digest of the content of the one artifact at `port`.
    pub fn input_digest(&self, port: &str) -> Option<Digest> {
        self.parts
            .inputs
            .get(port)?
            .first()
            .map(|input| input.logical)
    }

    /// Where the declared source called `name` is.
    pub fn source_path(&self, name: &str) -> Result<&Path, StageError> {
        let path = self.parts.sources.get(name);
        path.map(PathBuf::as_path)
            .ok_or_else(|| StageError::data(format!("no source is called `{name}`")))
    }

    /// The content of the declared source file called `name`.
    pub fn source(&self, name: &str) -> Result<Bytes, StageError> {
        let path = self.source_path(name)?;
        let read = Bytes::read_any(path)
            .map_err(|e| StageError::io(format!("cannot read `{}`", path.display()), e));
        Ok(read?.0)
    }

    /// Hands over the output of `port`.
    ///
    /// # Errors
    ///
    /// When the signature declares no such output, of another kind, or with a column that is missing or of another type.
    pub fn write(&mut self, port: &str, artifact: impl Into<Artifact>) -> Result<(), StageError> {
        let artifact = artifact.into();
        let declared = self.signature.output_port(port);
        let declared = declared.ok_or_else(|| {
            StageError::data(format!("the signature declares no output `{port}`"))
        })?;
        if declared.schema.kind != artifact.kind() {
            return Err(wrong_kind(port, declared.schema.kind, &artifact));
        }
        if let (Artifact::Table(table), Some(columns)) = (&artifact, &declared.schema.columns) {
            let list = |columns: &[crate::Column]| {
                columns
                    .iter()
                    .map(|c| format!("{} {}", c.name, c.column_type))
                    .collect::<Vec<_>>()
            };
            let (expected, found) = (list(columns), list(table.columns()));
            if expected != found {
                let first =
                    (0..expected.len().max(found.len())).find(|&i| expected.get(i) != found.get(i));
                let name = |columns: &[String]| {
                    first
                        .and_then(|i| columns.get(i).cloned())
                        .unwrap_or_else(|| "nothing".into())
                };
                let (expected, found) = (name(&expected), name(&found));
                return Err(StageError::data(format!(
                    "output `{port}`: the signature declares column {expected} where the table has {found}"
                )));
            }
        }
        self.outputs.insert(port.into(), artifact);
        Ok(())
    }

    /// The stage's seed.
    pub fn seed(&self) -> u64 {
        self.parts.seed
    }

    /// The random stream called `name`, from its beginning.
    pub fn stream(&self, name: &str) -> Stream {
        Streams::new(self.parts.seed).stream(name)
    }

    /// The source of all the stage's random streams.
    pub fn streams(&self) -> Streams {
        Streams::new(self.parts.seed)
    }

    /// What this computation is: bind checkpoints to it.
    pub fn identity(&self) -> Digest {
        self.parts.identity
    }

    /// Threads that the stage may use; the rayon pool it runs in has as many. Results must not depend on it.
    pub fn threads(&self) -> usize {
        self.parts.threads
    }

    /// Device that the stage may use.
    pub fn device(&self) -> DeviceGrant {
        self.parts.device
    }

    /// Directory that survives a crash and is there again when the same computation starts anew. Created on first use.
    pub fn checkpoints(&self) -> Result<&Path, StageError> {
        made(&self.parts.checkpoints)
    }

    /// Where [`checkpoints`](Self::checkpoints) is or will be.
    pub fn checkpoints_path(&self) -> &Path {
        &self.parts.checkpoints
    }

    /// Empty directory that is gone afterwards. Created on first use.
    pub fn scratch(&self) -> Result<&Path, StageError> {
        made(&self.parts.scratch)
    }

    /// The directory in which [`scratch`](Self::scratch) lies, for a stage that keeps directories of its own there. It may
    /// not be there yet, and is gone some time after the run.
    pub fn scratch_parent(&self) -> &Path {
        let scratch = &self.parts.scratch;
        scratch.parent().unwrap_or(scratch)
    }

    /// The workspace, for programs that the stage starts.
    pub fn workspace(&self) -> &Path {
        &self.parts.workspace
    }

    /// The graph above the stage, if the signature asks for it.
    pub fn lineage(&self) -> Option<&Lineage> {
        self.parts.lineage.as_ref()
    }

    /// Reports how far the stage is.
    pub fn progress(&self, progress: &Progress) {
        self.parts.observer.progress(progress);
    }

    /// Reports a measurement on the way.
    pub fn metric(&self, name: &str, step: u64, value: f64) {
        self.parts.observer.metric(name, step, value);
    }

    /// Writes a line to the stage's log.
    pub fn log(&self, message: &str) {
        self.parts.observer.log(Level::Info, message);
    }

    /// Warns whoever runs the pipeline.
    pub fn warn(&self, message: &str) {
        self.parts.observer.log(Level::Warning, message);
    }

    /// Whoever watches, for threads of the stage's own.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.parts.observer)
    }

    /// The request to stop.
    pub fn cancel(&self) -> &Cancel {
        &self.parts.cancel
    }

    /// What programs that the stage starts may take.
    pub fn limits(&self) -> Limits {
        self.parts.limits
    }

    /// Stops here if somebody asked to.
    ///
    /// # Errors
    ///
    /// [`StageError::Interrupted`] then.
    pub fn check_cancelled(&self) -> Result<(), StageError> {
        if self.parts.cancel.is_set() {
            Err(StageError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// The signature that the run was planned with.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The outputs.
    ///
    /// # Errors
    ///
    /// When a declared output has not been written.
    pub fn finish(self) -> Result<BTreeMap<String, Artifact>, StageError> {
        for port in &self.signature.outputs {
            if !self.outputs.contains_key(&port.name) {
                return Err(StageError::data(format!(
                    "the stage ended without writing its output `{}`",
                    port.name
                )));
            }
        }
        Ok(self.outputs)
    }
}

fn made(directory: &Path) -> Result<&Path, StageError> {
    std::fs::create_dir_all(directory)
        .map_err(|e| StageError::io(format!("cannot create `{}`", directory.display()), e))?;
    Ok(directory)
}

fn wrong_kind(port: &str, expected: Kind, found: &Artifact) -> StageError {
    StageError::data(format!("`{port}` is a {expected}, not a {}", found.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, ColumnType, PortSchema};

    fn context() -> (tempfile::TempDir, StageContext) {
        let directory = tempfile::tempdir().unwrap();
        let columns = vec![Column::time_index(), Column::new("mean", ColumnType::F64)];
        let signature = Signature::new().output("features", PortSchema::table(columns));
        let context = StageContext::new(StageContextParts::for_test(directory.path()), signature);
        (directory, context)
    }

    #[test]
    fn an_output_that_breaks_its_declaration_is_an_error() {
        let (_directory, mut context) = context();
        let table = |name: &str| {
            Table::builder()
                .time_index(vec![1])
                .f64(Column::new(name, ColumnType::F64), vec![0.5])
                .build()
                .unwrap()
        };

        let error = context.write("features", table("median")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("declares column mean f64 where the table has median f64"),
            "{error}"
        );
        assert!(
            context
                .write("labels", table("mean"))
                .unwrap_err()
                .to_string()
                .contains("no output `labels`")
        );
        assert!(
            context
                .write("features", Metrics::new())
                .unwrap_err()
                .to_string()
                .contains("not a metrics")
        );
        context.write("features", table("mean")).unwrap();
        assert_eq!(context.finish().unwrap().len(), 1);
    }

    #[test]
    fn a_missing_output_is_an_error() {
        let (_directory, context) = context();

        assert!(
            context
                .finish()
                .unwrap_err()
                .to_string()
                .contains("without writing its output `features`")
        );
    }
}
