//! Toy stages: small enough to follow, with every habit that a real one has.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
};

use natron_artifacts::{
    Column, ColumnType, Gpu, Kind, Metrics, PortSchema, Registry, Schemas, Signature, Stage,
    StageContext, StageError, Table, Threads,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often any toy stage of this process was executed.
pub(crate) static EXECUTED: AtomicUsize = AtomicUsize::new(0);

/// The toys' registry.
pub(crate) fn registry() -> Registry {
    registry_with("1")
}

/// The same, with `code` for the code of `scale`.
pub(crate) fn registry_with(code: &str) -> Registry {
    let mut registry = Registry::new();
    registry.register::<Numbers>("numbers", "1");
    registry.register::<Scale>("scale", code);
    registry.register::<Sum>("sum", "1");
    registry.register::<Clock>("clock", "1");
    registry.register::<Steps>("steps", "1");
    registry.register::<Jitter>("jitter", "1");
    registry.register::<Panics>("panics", "1");
    registry.register::<Graphics>("graphics", "1");
    registry
}

fn numbers_table(a: Vec<f64>, b: Vec<f64>) -> Result<Table, StageError> {
    let table = Table::builder()
        .f64(Column::new("a", ColumnType::F64), a)
        .f64(Column::new("b", ColumnType::F64), b)
        .build()?;
    Ok(table)
}

fn two_columns() -> PortSchema {
    PortSchema::table(vec![
        Column::new("a", ColumnType::F64),
        Column::new("b", ColumnType::F64),
    ])
}

/// Reads pairs of numbers, one pair a line.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Numbers {
    /// The file.
    path: String,
}

impl Stage for Numbers {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .source("path", &self.path)
            .output("numbers", two_columns()))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        EXECUTED.fetch_add(1, Ordering::SeqCst);
        let text = String::from_utf8(context.source("path")?.to_vec()).unwrap();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (row, line) in text.lines().enumerate() {
            let mut parts = line.split_whitespace().map(str::parse::<f64>);
            let (Some(Ok(x)), Some(Ok(y))) = (parts.next(), parts.next()) else {
                return Err(StageError::data_at(
                    row as u64,
                    "a",
                    format!("`{line}` is no pair"),
                ));
            };
            a.push(x);
            b.push(y);
        }
        context.write("numbers", numbers_table(a, b)?)
    }
}

/// Multiplies column `a`, the only one that it reads.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Scale {
    /// By what.
    #[serde(default = "two")]
    factor: f64,
    /// Rounds to whole numbers.
    #[serde(default)]
    round: bool,
}

fn two() -> f64 {
    2.0
}

impl Stage for Scale {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        let signature = Signature::new().input_columns("numbers", ["a"]);
        Ok(signature
            .output("scaled", two_columns())
            .threads(Threads::All))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        EXECUTED.fetch_add(1, Ordering::SeqCst);
        let table = context.table("numbers")?;
        assert!(!table.has("b"), "only the declared columns are seen");
        let a: Vec<f64> = table.f64("a")?.iter().map(|x| x * self.factor).collect();
        let a: Vec<f64> = if self.round {
            a.iter().map(|x| x.round()).collect()
        } else {
            a
        };
        context.write("scaled", numbers_table(a.clone(), a)?)
    }
}

/// Adds up everything.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sum {}

impl Stage for Sum {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        let schema = PortSchema::of(Kind::Metrics);
        Ok(Signature::new()
            .gathered_input("tables", Kind::Table)
            .output("metrics", schema))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        EXECUTED.fetch_add(1, Ordering::SeqCst);
        let mut total = 0.0;
        for input in context.inputs("tables") {
            let natron_artifacts::Artifact::Table(table) = &input.artifact else {
                unreachable!()
            };
            total += table.f64("a")?.iter().sum::<f64>();
        }
        let mut metrics = Metrics::new();
        metrics.set("total", total).map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}

/// Breaks the contract: its output depends on how often it was executed.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Clock {}

impl Stage for Clock {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("metrics", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let mut metrics = Metrics::new();
        let n = EXECUTED.fetch_add(1, Ordering::SeqCst);
        metrics.set("ticks", n as f64).map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}

/// As [`Clock`], with a table.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Jitter {}

impl Stage for Jitter {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("numbers", two_columns()))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let n = EXECUTED.fetch_add(1, Ordering::SeqCst) as f64;
        context.write("numbers", numbers_table(vec![n, 1.0], vec![2.0, 3.0])?)
    }
}

/// Works in steps, each of which it remembers in a checkpoint.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Steps {
    /// How many.
    steps: u64,
    /// How long one takes.
    #[serde(default)]
    milliseconds: u64,
}

impl Stage for Steps {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("metrics", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        EXECUTED.fetch_add(1, Ordering::SeqCst);
        let path = context.checkpoints()?.join("state");
        let mut stream = context.stream("steps");
        let (mut step, mut total) = (0_u64, 0.0);
        if let Ok(text) = fs::read_to_string(&path) {
            let mut parts = text.split_whitespace();
            step = parts.next().unwrap().parse().unwrap();
            total = f64::from_bits(parts.next().unwrap().parse().unwrap());
            stream.seek(parts.next().unwrap().parse().unwrap());
            context.log(&format!("continues at step {step}"));
        }
        while step < self.steps {
            if context.cancel().is_set() {
                let text = format!("{step} {} {}", f64::to_bits(total), stream.position());
                fs::write(&path, text).map_err(|e| StageError::io("checkpoint", e))?;
                return Err(StageError::Interrupted);
            }
            std::thread::sleep(std::time::Duration::from_millis(self.milliseconds));
            total += stream.uniform();
            step += 1;
        }
        let mut metrics = Metrics::new();
        metrics.set("total", total).map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}

/// Panics.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Panics {}

impl Stage for Panics {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("metrics", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, _: &mut StageContext) -> Result<(), StageError> {
        panic!("as declared");
    }
}

/// Counts the GPUs that it is given, and would like one.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Graphics {}

impl Stage for Graphics {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .output("metrics", PortSchema::of(Kind::Metrics))
            .gpu(Gpu::Auto))
    }

    fn gpu_class(&self) -> Result<String, StageError> {
        Ok("toy_1".to_owned())
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let mut metrics = Metrics::new();
        let gpus = context.device().ordinals().len() as u64;
        metrics.set_count("gpus", gpus).map_err(StageError::data)?;
        context.write("metrics", metrics)
    }
}
