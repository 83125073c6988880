//! Stages that only have signatures. Those called like real kinds have their ports and the parameters that tests use.

use std::{collections::BTreeMap, path::PathBuf};

use natron_artifacts::{
    Column, ColumnType, Kind, PortSchema, Registry, Schemas, Signature, Stage, StageContext,
    StageError, Threads,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const BARS: [&str; 5] = ["open", "high", "low", "close", "volume"];

pub(crate) fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.register::<LoadCsv>("load.csv", "toy");
    registry.register::<LoadSynthetic>("load.synthetic", "toy");
    registry.register::<Features>("features", "toy");
    registry.register::<Command>("command", "toy");
    registry.register::<Train>("toy.train", "toy");
    registry.register::<Evaluate>("toy.evaluate", "toy");
    registry.register::<Summarize>("toy.summarize", "toy");
    registry
}

fn bars() -> PortSchema {
    let mut columns = vec![Column::time_index()];
    columns.extend(BARS.map(|name| Column::new(name, ColumnType::F64)));
    PortSchema::table(columns)
}

macro_rules! does_not_run {
    () => {
        fn run(&self, _: &mut StageContext) -> Result<(), StageError> {
            Err(StageError::data("toys do not run"))
        }
    };
}

/// Reads candles.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoadCsv {
    /// The file.
    path: PathBuf,
}

impl Stage for LoadCsv {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .source("path", &self.path)
            .output("candles", bars())
            .output("statistics", PortSchema::of(Kind::Metrics)))
    }

    does_not_run!();
}

/// Makes candles up.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoadSynthetic {
    /// How many bars.
    #[serde(default = "default_rows")]
    rows: u32,
    /// Price before the first bar.
    #[serde(default = "default_start_price")]
    start_price: f64,
    /// When the first bar opens.
    #[serde(default = "default_start")]
    start: String,
}

fn default_rows() -> u32 {
    4000
}

fn default_start_price() -> f64 {
    30_000.0
}

fn default_start() -> String {
    "2024-01-01".into()
}

impl Stage for LoadSynthetic {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        if self.rows == 0 {
            let message = "`rows` is 0, and must be from 1 to 100000000";
            return Err(StageError::parameter("rows", message));
        }
        Ok(Signature::new()
            .output("candles", bars())
            .output("statistics", PortSchema::of(Kind::Metrics)))
    }

    does_not_run!();
}

/// Columns of features.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Features {
    /// Which columns.
    set: Option<String>,
}

impl Stage for Features {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        let columns = vec![
            Column::time_index(),
            Column::new("rsi_14", ColumnType::F64),
            Column::new("ema_20", ColumnType::F64),
        ];
        Ok(Signature::new()
            .input_columns("candles", BARS)
            .output("features", PortSchema::table(columns))
            .threads(Threads::All))
    }

    does_not_run!();
}

/// Any program.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Command {
    /// The program and its arguments.
    run: Vec<String>,
    /// Port -> kind.
    outputs: BTreeMap<String, Kind>,
    /// Code it reads.
    #[serde(default)]
    sources: Vec<PathBuf>,
}

impl Stage for Command {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        let mut signature = Signature {
            open_inputs: true,
            ..Signature::new()
        };
        for (index, path) in self.sources.iter().enumerate() {
            signature = signature.source(&format!("sources.{index}"), path);
        }
        Ok(self
            .outputs
            .iter()
            .fold(signature, |signature, (name, kind)| {
                signature.output(name, PortSchema::of(*kind))
            }))
    }

    does_not_run!();
}

/// How it learns.
#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
struct Optimizer {
    /// Step size.
    #[serde(default)]
    rate: f64,
    /// Which one.
    #[serde(default)]
    name: Rule,
}

#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
enum Rule {
    #[default]
    Adam,
    Momentum,
}

/// Learns a model from features.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Train {
    /// Passes over the data.
    epochs: u32,
    /// Width of each layer.
    #[serde(default)]
    layers: Vec<u32>,
    /// How it learns.
    #[serde(default)]
    optimizer: Optimizer,
    /// Anything.
    #[serde(default)]
    extra: Value,
}

impl Stage for Train {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        if inputs.get("features").is_some_and(|f| f.lookahead_bars > 0) {
            return Err(StageError::data("the features look ahead"));
        }
        if self.optimizer.rate < 0.0 {
            return Err(
                StageError::parameter("optimizer.rate", "the rate is below 0")
                    .with_help("1e-4 is usual"),
            );
        }
        Ok(Signature::new()
            .input_table("features", ["rsi_14"])
            .optional_input("encoder", Kind::Model)
            .output("model", PortSchema::of(Kind::Model))
            .output("log", PortSchema::of(Kind::Metrics)))
    }

    does_not_run!();
}

/// Judges a model.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Evaluate {}

impl Stage for Evaluate {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .input_of("model", Kind::Model)
            .output("metrics", PortSchema::of(Kind::Metrics)))
    }

    does_not_run!();
}

/// Brings metrics together.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Summarize {}

impl Stage for Summarize {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new()
            .gathered_input("results", Kind::Metrics)
            .output("report", PortSchema::of(Kind::Report)))
    }

    does_not_run!();
}
