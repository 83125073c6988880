//! `natron status`.

use clap::Args;
use natron_artifacts::Manifest;
use natron_runner::{Forecast, RunOptions, Standing, standings};
use serde_json::{Value, json};

use crate::{
    arguments::Pipeline,
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    style::Style,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron status
  natron status pipelines/natron_v2.toml --profile quick";

/// Show for each stage whether its result is in the cache or it would run.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let pipeline = &arguments.pipeline;
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let standings = standings(&loaded.graph, &loaded.workspace, &RunOptions::default())?;
    if program.output.is_json() {
        let stages: Vec<Value> = standings.iter().map(to_json).collect();
        program
            .output
            .json(json!({ "pipeline": loaded.graph.name, "stages": stages }));
        return Ok(());
    }
    let style = program.output.data_style();
    let rows: Vec<Vec<String>> = standings
        .iter()
        .map(|standing| row(standing, style))
        .collect();
    let align = [
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
    ];
    for line in columns(&rows, &align) {
        program.output.data(&line);
    }
    let count = |forecast: Forecast| standings.iter().filter(|s| s.forecast == forecast).count();
    let (hits, open) = (
        count(Forecast::Hit),
        count(Forecast::Run) + count(Forecast::Maybe),
    );
    let size: u64 = standings.iter().map(size).sum();
    program.output.data(&style.dim(&format!(
        "{hits} in the cache ({}), {} would run, {} perhaps",
        units::bytes(size),
        count(Forecast::Run),
        open - count(Forecast::Run)
    )));
    Ok(())
}

fn size(standing: &Standing) -> u64 {
    standing.outputs.values().map(Manifest::size).sum()
}

fn row(standing: &Standing, style: Style) -> Vec<String> {
    let key = standing
        .key
        .as_ref()
        .map_or_else(|| "-".to_owned(), natron_cache::StageKey::short);
    let size = match standing.forecast {
        Forecast::Hit => units::bytes(size(standing)),
        _ => "-".to_owned(),
    };
    vec![
        forecast(standing.forecast, style),
        standing.name.clone(),
        style.dim(&standing.kind),
        style.dim(&key),
        size,
        standing
            .expected_seconds
            .map_or_else(|| "-".to_owned(), units::seconds),
    ]
}

/// What a run would do, in a word.
pub(crate) fn forecast(forecast: Forecast, style: Style) -> String {
    match forecast {
        Forecast::Hit => style.green("hit"),
        Forecast::Run => style.yellow("run"),
        Forecast::Maybe => style.cyan("maybe"),
    }
}

fn to_json(standing: &Standing) -> Value {
    json!({
        "name": standing.name, "kind": standing.kind, "forecast": standing.forecast,
        "key": standing.key.map(|key| key.to_string()), "size": size(standing),
        "expected_seconds": standing.expected_seconds,
    })
}
