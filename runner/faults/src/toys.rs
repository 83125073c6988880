//! Stages that take no time and still have every habit that a real one has: tables, files, metrics, sources, gathered
//! inputs, checkpoints, failures.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    thread,
    time::Duration,
};

use natron_artifacts::{
    Artifact, Bytes, Column, ColumnType, Digest, FileContent, Files, Kind, Metrics, PortSchema,
    Registry, Schemas, Signature, Stage, StageContext, StageError, Table,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a toy notes that it was executed, one line each; not part of any key.
pub const TALLY: &str = "NATRON_FAULTS_TALLY";

/// The built-in stages and the toys.
pub fn registry() -> Registry {
    let mut registry = natron_stages::registry();
    register(&mut registry);
    registry
}

/// Adds the toys.
pub fn register(registry: &mut Registry) {
    registry.register::<Make>("toy.make", "1");
    registry.register::<Scale>("toy.scale", "1");
    registry.register::<Write_>("toy.files", "1");
    registry.register::<Sum>("toy.sum", "1");
    registry.register::<Steps>("toy.steps", "1");
    registry.register::<Read>("toy.read", "1");
}

fn tally(context: &StageContext) {
    let Some(path) = std::env::var_os(TALLY) else {
        return;
    };
    let line = format!("{}\n", context.identity());
    let file = OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        context.warn(&format!("the tally was not written: {error}"));
    }
}

fn schema() -> PortSchema {
    PortSchema::table(vec![
        Column::new("a", ColumnType::F64),
        Column::new("b", ColumnType::F64),
    ])
}

fn table(a: Vec<f64>, b: Vec<f64>) -> Result<Table, StageError> {
    let table = Table::builder()
        .f64(Column::new("a", ColumnType::F64), a)
        .f64(Column::new("b", ColumnType::F64), b)
        .build()?;
    Ok(table)
}

/// Makes a table up.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Make {
    /// How many rows.
    rows: u32,
    /// Makes results differ.
    #[serde(default)]
    salt: u64,
    /// How long it takes.
    #[serde(default)]
    milliseconds: u64,
}

impl Stage for Make {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("table", schema()))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        tally(context);
        thread::sleep(Duration::from_millis(self.milliseconds));
        let a: Vec<f64> = (0..self.rows)
            .map(|row| f64::from(row) + self.salt as f64)
            .collect();
        let mut stream = context.stream("b");
        let b = a.iter().map(|_| stream.uniform()).collect();
        context.log(&format!("{} rows", self.rows));
        context.write("table", table(a, b)?)
    }
}

/// Multiplies column `a`, the only one that it reads.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Scale {
    /// By what.
    factor: f64,
}

impl Stage for Scale {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .input_columns("table", ["a"])
            .output("table", schema()))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        tally(context);
        let input = context.table("table")?;
        let a: Vec<f64> = input.f64("a")?.iter().map(|x| x * self.factor).collect();
        context.write("table", table(a.clone(), a)?)
    }
}

/// Writes two files.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Write_ {
    /// Length of the first one; the second is short.
    bytes: usize,
    /// Makes results differ.
    #[serde(default)]
    salt: u64,
}

impl Stage for Write_ {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("files", PortSchema::of(Kind::Files)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        tally(context);
        let mut files = Files::new();
        let long: Vec<u8> = (0..self.bytes)
            .map(|i| (i as u64).wrapping_mul(31).wrapping_add(self.salt) as u8)
            .collect();
        let short = format!("short {}", self.salt).into_bytes();
        for (name, bytes) in [("long.bin", long), ("sub/short.txt", short)] {
            let content = FileContent {
                bytes: Bytes::from(bytes),
                executable: false,
            };
            files.insert(name, content).map_err(StageError::data)?;
        }
        context.write("files", files)
    }
}

/// Adds up column `a` of everything.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sum {}

impl Stage for Sum {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .gathered_input("tables", Kind::Table)
            .output("metrics", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        tally(context);
        let mut total = 0.0;
        for input in context.inputs("tables") {
            let Artifact::Table(table) = &input.artifact else {
                return Err(StageError::data("not a table"));
            };
            total += table.f64("a")?.iter().sum::<f64>();
        }
        let mut metrics = Metrics::new();
        metrics.set("total", total).map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}

/// Reads a file of the workspace.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Read {
    /// The file.
    path: String,
}

impl Stage for Read {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .source("path", &self.path)
            .output("metrics", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        tally(context);
        let bytes = context.source("path")?;
        let mut metrics = Metrics::new();
        let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
        metrics
            .set_count("bytes", bytes.len() as u64)
            .and_then(|()| metrics.set_count("sum", sum))
            .map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}

/// Works in steps, and writes a numbered checkpoint after each.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "it is the parameter's name")]
struct Steps {
    /// How many.
    steps: u64,
    /// How long one takes.
    #[serde(default)]
    milliseconds: u64,
    /// Makes results differ.
    #[serde(default)]
    salt: u64,
}

/// Where a [`Steps`] stands. The total is kept as bits: text would round it.
#[derive(Serialize, Deserialize, Default)]
struct State {
    step: u64,
    total: u64,
    position: u64,
}

const KEPT_CHECKPOINTS: u64 = 2;

impl State {
    fn write(&self, folder: &Path, identity: Digest) -> std::io::Result<()> {
        let body = serde_json::to_string(self)?;
        let digest = Digest::of(format!("{identity}{body}").as_bytes());
        let temporary = folder.join("new");
        let mut file = fs::File::create(&temporary)?;
        write!(file, "{digest}\n{body}")?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(format!("{:06}", self.step)))?;
        fs::File::open(folder)?.sync_all()?;
        if let Some(old) = self.step.checked_sub(KEPT_CHECKPOINTS) {
            let _ = fs::remove_file(folder.join(format!("{old:06}")));
        }
        Ok(())
    }

    /// The newest state that is whole and of this stage.
    fn newest(folder: &Path, identity: Digest) -> Self {
        let mut paths: Vec<_> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        let read = |path: &std::path::PathBuf| {
            let metadata = fs::symlink_metadata(path).ok()?;
            if !metadata.is_file() {
                return None;
            }
            let text = fs::read_to_string(path).ok()?;
            let (digest, body) = text.split_once('\n')?;
            let expected = Digest::of(format!("{identity}{body}").as_bytes());
            (digest == expected.to_string()).then(|| serde_json::from_str(body).ok())?
        };
        paths.iter().rev().find_map(read).unwrap_or_default()
    }
}

impl Stage for Steps {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("metrics", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        tally(context);
        let folder = context.checkpoints()?.to_owned();
        let identity = context.identity();
        let mut stream = context.stream("steps");
        let mut state = State::newest(&folder, identity);
        stream.seek(state.position);
        if state.step > 0 {
            context.log(&format!("continues at step {}", state.step));
        }
        while state.step < self.steps {
            context.check_cancelled()?;
            thread::sleep(Duration::from_millis(self.milliseconds));
            let total = f64::from_bits(state.total) + stream.uniform();
            state = State {
                step: state.step + 1,
                total: total.to_bits(),
                position: stream.position(),
            };
            state
                .write(&folder, identity)
                .map_err(|error| StageError::io("cannot write a checkpoint", error))?;
        }
        let mut metrics = Metrics::new();
        metrics
            .set("total", f64::from_bits(state.total))
            .map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}
