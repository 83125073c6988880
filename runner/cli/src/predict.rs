//! `natron predict`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use natron_artifacts::{
    Artifact, DeviceGrant, Digest, Kind, Model, ModelCard, Registry, Schemas, Silent, StageContext,
    StageContextParts, StageError, Table,
};
use natron_runner::Workspace;
use natron_stages::predict::{Bars, Forecast, Prediction, Predictor, checked_candles};
use serde_json::{Map, Value, json};

use crate::{
    arguments::PipelineOption,
    cells,
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    results::{self, StageOutput},
    show,
    style::Style,
};

const EXAMPLES: &str = "\
Examples:
  natron predict finetune.model --candles data/btcusd.csv
  natron predict my-model --candles today.csv --all --csv > predictions.csv
  natron predict finetune.model --candles mt5.csv --load delimiter=\";\"

Nothing here is advice: for research and education.";

/// Predict from candles with a trained model.
///
/// One prediction for the last window of the candles, or with --all for each window that has enough candles before it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A stage or its output (`stage.output`), or a folder that `export` wrote.
    #[arg(value_name = "MODEL")]
    model: String,
    /// The candles: a file of CSV, Parquet or Arrow.
    #[arg(long, value_name = "FILE")]
    candles: PathBuf,
    /// How to read the candles: a parameter of `load.csv` or `load.parquet`, its value as JSON or text. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    load: Vec<String>,
    /// Take candles of another interval than the model was trained on.
    #[arg(long)]
    any_interval: bool,
    /// Predict for each window, not only the last.
    #[arg(long)]
    all: bool,
    /// Write CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    pipeline: PipelineOption,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let candles = candles(&program.registry, &arguments.candles, &arguments.load)?;
    let model = model(program, arguments)?;
    let mut predictor = Predictor::load(&model).map_err(|error| refused(&error))?;
    if arguments.any_interval {
        predictor = predictor.any_interval();
    }
    let bars = Bars {
        ts_ns: candles.ts_ns()?,
        open: &candles.f64("open")?,
        high: &candles.f64("high")?,
        low: &candles.f64("low")?,
        close: &candles.f64("close")?,
        volume: &candles.f64("volume")?,
    };
    let predictions = if arguments.all {
        predictor.predict(bars)
    } else {
        predictor
            .predict_last(bars)
            .map(|prediction| vec![prediction])
    };
    let predictions =
        predictions.map_err(|error| with_help(Failure::stage(error.to_string()), &error))?;
    let output = &program.output;
    if output.is_json() {
        let predictions: Vec<Value> = predictions
            .iter()
            .map(|p| to_json(p, &model.card))
            .collect();
        output.json(json!({ "model": model.logical_digest(), "predictions": predictions }));
    } else if arguments.csv {
        output.data(&csv_header(&model.card));
        for prediction in &predictions {
            output.data(&csv_line(prediction, &model.card));
        }
    } else {
        for line in lines(&predictions, &model.card, output.data_style()) {
            output.data(&line);
        }
    }
    Ok(())
}

/// A model or parameters that are not taken: nothing ran.
fn refused(error: &StageError) -> Failure {
    with_help(Failure::usage(error.to_string()), error)
}

fn with_help(failure: Failure, error: &StageError) -> Failure {
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn model(program: &Program, arguments: &Arguments) -> Result<Arc<Model>, Failure> {
    let name = &arguments.model;
    let artifact = if show::is_model_folder(Path::new(name)) {
        show::read_file(Path::new(name))?
    } else {
        let (workspace, output) = model_output(program, &arguments.pipeline, name)?;
        output.open(&workspace)?
    };
    match artifact {
        Artifact::Model(model) => Ok(model),
        other => Err(Failure::usage(format!(
            "`{name}` is a {}, not a model",
            other.kind()
        ))),
    }
}

/// The output that `name` means; of a stage with several, its `model`.
fn model_output(
    program: &Program,
    pipeline: &PipelineOption,
    name: &str,
) -> Result<(Workspace, StageOutput), Failure> {
    let (workspace, mut outputs) = results::outputs(program, pipeline, name)?;
    let position = outputs
        .iter()
        .position(|output| output.manifest.kind == Kind::Model);
    match position {
        Some(position) => Ok((workspace, outputs.remove(position))),
        None => Err(Failure::usage(format!(
            "`{name}` has no model among its outputs"
        ))),
    }
}

/// The candles of a file, read and checked as the `load` stages do.
fn candles(registry: &Registry, path: &Path, parameters: &[String]) -> Result<Arc<Table>, Failure> {
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    if matches!(ending.as_str(), "arrow" | "feather" | "ipc") {
        if let Some(parameter) = parameters.first() {
            return Err(Failure::usage(format!(
                "--load: `{parameter}` has no meaning for a file of Arrow"
            ))
            .help("`--load` is for CSV and Parquet; write the candles as one of these"));
        }
        return match show::read_file(path)? {
            Artifact::Table(table) => checked_candles(&table, &path.display().to_string())
                .map(Arc::new)
                .map_err(|error| with_help(Failure::stage(error.to_string()), &error)),
            _ => Err(Failure::usage(format!("`{}` is no table", path.display()))),
        };
    }
    let name = if ending == "parquet" {
        "load.parquet"
    } else {
        "load.csv"
    };
    let kind = registry
        .get(name)
        .ok_or_else(|| Failure::usage(format!("this program has no stage kind `{name}`")))?;
    let mut with = Map::new();
    with.insert("path".into(), path.display().to_string().into());
    for parameter in parameters {
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(Failure::usage(format!(
                "--load: `{parameter}` is not KEY=VALUE"
            )));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        set(&mut with, key, value);
    }
    let parsed = kind.parse(&Value::Object(with)).map_err(|error| {
        Failure::usage(format!("--load: {error}"))
            .help(format!("`natron stages {name}` describes the parameters"))
    })?;
    let signature = parsed
        .stage
        .signature(&Schemas::new())
        .map_err(|error| refused(&error))?;
    let sources: BTreeMap<String, PathBuf> = signature
        .sources
        .iter()
        .map(|source| (source.name.clone(), source.path.clone()))
        .collect();
    let nowhere = PathBuf::new();
    let mut context = StageContext::new(
        StageContextParts {
            inputs: BTreeMap::new(),
            sources,
            seed: 0,
            identity: Digest::of(b"predict"),
            threads: 1,
            device: DeviceGrant::Cpu,
            checkpoints: nowhere.clone(),
            scratch: nowhere.clone(),
            workspace: nowhere,
            lineage: None,
            observer: Arc::new(Silent),
            cancel: natron_artifacts::Cancel::new(),
            limits: natron_artifacts::Limits::default(),
        },
        signature,
    );
    let outputs = parsed
        .stage
        .run(&mut context)
        .and_then(|()| context.finish());
    let mut outputs = outputs.map_err(|error| {
        let (file, text) = (path.display().to_string(), error.to_string());
        let text = if text.contains(&file) {
            text
        } else {
            format!("`{file}`: {text}")
        };
        match error.help() {
            Some(help) => Failure::stage(text).help(format!("{help}; here as `--load KEY=VALUE`")),
            None => Failure::stage(text),
        }
    })?;
    match outputs.remove("candles") {
        Some(Artifact::Table(table)) => Ok(table),
        _ => Err(Failure::usage(format!("`{name}` gave no candles"))),
    }
}

/// Sets `a.b.c` in nested tables.
fn set(fields: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            fields.insert(key.to_owned(), value);
        }
        Some((table, rest)) => {
            let table = fields
                .entry(table)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(table) = table {
                set(table, rest, value);
            }
        }
    }
}

/// The names of what a prediction says, as `direction.up`.
fn names(card: &ModelCard) -> Vec<String> {
    if let Some(actions) = card.heads.get("action") {
        return actions
            .iter()
            .map(|action| format!("action.{action}"))
            .collect();
    }
    if card.heads.contains_key("position") {
        return vec!["position".to_owned()];
    }
    let mut all = Vec::new();
    for (head, outputs) in [("buy", 1), ("sell", 1), ("direction", 3), ("regime", 6)] {
        let names = card.heads.get(head).filter(|names| names.len() == outputs);
        all.extend((0..outputs).map(|i| match names {
            _ if outputs == 1 => head.to_owned(),
            Some(names) => format!("{head}.{}", names[i]),
            None => format!("{head}.{i}"),
        }));
    }
    all.push("confidence".to_owned());
    all
}

/// What a prediction says, with its names.
fn named(prediction: &Prediction, card: &ModelCard) -> Vec<(String, f32)> {
    let values: Vec<f32> = match &prediction.probabilities {
        Forecast::Heads(p) => [p.buy, p.sell]
            .into_iter()
            .chain(p.direction)
            .chain(p.regime)
            .chain([p.confidence()])
            .collect(),
        Forecast::Actions(actions) => actions.to_vec(),
        Forecast::Position(position) => vec![*position],
    };
    names(card).into_iter().zip(values).collect()
}

fn to_json(prediction: &Prediction, card: &ModelCard) -> Value {
    let mut fields = Map::new();
    fields.insert("row".into(), prediction.row.into());
    fields.insert("ts_ns".into(), prediction.ts_ns.into());
    fields.insert("time".into(), cells::time(prediction.ts_ns).into());
    for (name, value) in named(prediction, card) {
        set(&mut fields, &name, single(value));
    }
    Value::Object(fields)
}

/// The shortest decimal number that reads back to the same single-precision value.
fn single(value: f32) -> Value {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Value::Null, Value::from)
}

fn csv_header(card: &ModelCard) -> String {
    let names = names(card).into_iter();
    let names: Vec<String> = ["ts_ns".to_owned()].into_iter().chain(names).collect();
    names.join(",")
}

fn csv_line(prediction: &Prediction, card: &ModelCard) -> String {
    let values = named(prediction, card)
        .into_iter()
        .map(|(_, value)| value.to_string());
    let values: Vec<String> = [cells::time(prediction.ts_ns)]
        .into_iter()
        .chain(values)
        .collect();
    values.join(",")
}

fn lines(predictions: &[Prediction], card: &ModelCard, style: Style) -> Vec<String> {
    if let [only] = predictions {
        let mut rows = vec![vec![style.bold(&cells::time(only.ts_ns)), String::new()]];
        rows.extend(
            named(only, card)
                .into_iter()
                .map(|(name, value)| vec![style.cyan(&name), percent(value)]),
        );
        return columns(&rows, &[Align::Left, Align::Right]);
    }
    let mut rows = Vec::new();
    for prediction in predictions {
        let named = named(prediction, card);
        if rows.is_empty() {
            let names = named
                .iter()
                .map(|(name, _)| style.dim(name.rsplit('.').next().unwrap_or(name)));
            rows.push(
                [style.dim("window up to")]
                    .into_iter()
                    .chain(names)
                    .collect(),
            );
        }
        let values = named.iter().map(|(_, value)| percent(*value));
        rows.push(
            [cells::time(prediction.ts_ns)]
                .into_iter()
                .chain(values)
                .collect::<Vec<String>>(),
        );
    }
    let mut align = vec![Align::Left];
    align.resize(rows.first().map_or(1, Vec::len), Align::Right);
    columns(&rows, &align)
}

fn percent(probability: f32) -> String {
    format!("{:.1}%", probability * 100.0)
}
