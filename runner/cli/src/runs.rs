//! `natron runs`.

use clap::Args;
use natron_artifacts::Kind;
use natron_cache::{StageKey, Store};
use natron_runner::{
    Outcome, Workspace,
    history::{RunRecord, StageRecord},
};
use serde_json::{Map, Value, json};

use crate::{
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    style::{Style, printable},
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron runs
  natron runs --limit 5 --metric evaluate.backtest.test.signals.sharpe_ratio
  natron runs --json";

/// List the runs of this workspace, newest first.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Show this metric of each run: STAGE.PATH, or STAGE.OUTPUT.PATH. May be repeated.
    #[arg(long, short, value_name = "NAME")]
    metric: Vec<String>,
    /// Show at most this many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    let mut runs = RunRecord::all(&workspace)
        .map_err(|error| Failure::file("read", &workspace.state().join("runs"), &error))?;
    let n_runs = runs.len();
    runs.truncate(arguments.limit);
    let metrics: Vec<Vec<Option<f64>>> = runs
        .iter()
        .map(|run| metric_values(&workspace, run, &arguments.metric))
        .collect::<Result<_, _>>()?;
    let output = &program.output;
    for (i, name) in arguments.metric.iter().enumerate() {
        if !runs.is_empty() && metrics.iter().all(|values| values[i].is_none()) {
            let near = nearest_metric(&workspace, &runs, name)?;
            let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            output.warn(&format!(
                "none of these runs has a metric `{}`{near}",
                printable(name)
            ));
        }
    }
    if output.is_json() {
        let runs: Vec<Value> = runs
            .iter()
            .zip(&metrics)
            .map(|(run, values)| to_json(run, &arguments.metric, values))
            .collect();
        output.json(json!({ "runs": runs, "runs_in_all": n_runs }));
        return Ok(());
    }
    if n_runs == 0 {
        output.note("no runs in this workspace yet; `natron run` makes one");
        return Ok(());
    }
    let style = output.data_style();
    let mut rows = vec![header(&arguments.metric, style)];
    rows.extend(
        runs.iter()
            .zip(&metrics)
            .map(|(run, values)| row(run, values, style)),
    );
    let mut align = vec![Align::Left, Align::Left, Align::Right, Align::Left];
    align.extend(arguments.metric.iter().map(|_| Align::Right));
    for line in columns(&rows, &align) {
        output.data(&line);
    }
    if n_runs > runs.len() {
        output.note(&style.dim(&format!(
            "{} older; --limit shows more",
            n_runs - runs.len()
        )));
    }
    Ok(())
}

fn header(metrics: &[String], style: Style) -> Vec<String> {
    let mut row: Vec<String> = ["run", "pipeline", "time", "stages"]
        .map(|title| style.dim(title))
        .into();
    row.extend(metrics.iter().map(|name| style.dim(name)));
    row.push(style.dim("changes"));
    row
}

fn row(run: &RunRecord, metrics: &[Option<f64>], style: Style) -> Vec<String> {
    let mut changes: Vec<String> = run
        .profile
        .iter()
        .map(|profile| format!("--profile {profile}"))
        .collect();
    changes.extend(run.sets.iter().map(|set| format!("--set {set}")));
    let mut row = vec![
        run.id.clone(),
        style.cyan(&printable(&run.pipeline)),
        units::seconds(run.seconds),
        outcomes(run, style),
    ];
    row.extend(
        metrics
            .iter()
            .map(|value| value.map_or_else(|| "-".to_owned(), units::number)),
    );
    row.push(printable(&changes.join(" ")));
    row
}

fn outcomes(run: &RunRecord, style: Style) -> String {
    let n = |outcomes: &[Outcome]| {
        run.stages
            .iter()
            .filter(|s| outcomes.contains(&s.outcome))
            .count()
    };
    let hits = n(&[Outcome::Hit]);
    if hits == run.stages.len() {
        return style.dim(&format!("{hits} hit"));
    }
    let parts = [
        (n(&[Outcome::Failed]), style.red("failed")),
        (n(&[Outcome::Interrupted]), style.yellow("stopped")),
        (n(&[Outcome::Skipped]), style.yellow("not started")),
        (n(&[Outcome::Ran, Outcome::Unchanged]), style.green("ran")),
        (hits, "hit".to_owned()),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    parts.join(", ")
}

fn to_json(run: &RunRecord, names: &[String], values: &[Option<f64>]) -> Value {
    let metrics: Map<String, Value> = names
        .iter()
        .zip(values)
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let stages: Vec<Value> = run
        .stages
        .iter()
        .map(|stage| {
            json!({
                "name": stage.name, "kind": stage.kind, "key": stage.key,
                "outcome": stage.outcome, "seconds": stage.seconds, "error": stage.error,
            })
        })
        .collect();
    json!({
        "id": run.id, "pipeline": run.pipeline, "file": run.file, "profile": run.profile, "set": run.sets,
        "started": run.started, "seconds": run.seconds, "host": run.host, "natron": run.natron,
        "stages": stages, "metrics": metrics,
    })
}

fn metric_values(
    workspace: &Workspace,
    run: &RunRecord,
    names: &[String],
) -> Result<Vec<Option<f64>>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let store = Store::open_to_read(workspace.cache())?;
    Ok(names
        .iter()
        .map(|name| metric_value(&store, run, name))
        .collect())
}

/// The metric of the newest run whose name is nearest to `name`.
fn nearest_metric(
    workspace: &Workspace,
    runs: &[RunRecord],
    name: &str,
) -> Result<Option<String>, Failure> {
    let store = Store::open_to_read(workspace.cache())?;
    let mut names = Vec::new();
    for stage in runs.first().map_or(&[][..], |run| &run.stages) {
        let record = stage.key.and_then(|key| store.record(&StageKey::new(key)));
        let metrics = record
            .map(|record| record.execution.metrics)
            .unwrap_or_default();
        names.extend(metrics.keys().map(|path| {
            // The output's name need not be said.
            let path = path.strip_prefix("metrics.").unwrap_or(path);
            format!("{}.{path}", stage.name)
        }));
    }
    let near = natron_runner::did_you_mean(name, names.iter().map(String::as_str));
    Ok(near.map(str::to_owned))
}

/// The number that `name` means in `run`, as far as its record is still there.
fn metric_value(store: &Store, run: &RunRecord, name: &str) -> Option<f64> {
    let stage = run
        .stages
        .iter()
        .filter(|stage| {
            name.strip_prefix(&stage.name)
                .is_some_and(|rest| rest.starts_with('.'))
        })
        .max_by_key(|stage| stage.name.len())?;
    let path = &name[stage.name.len() + 1..];
    stage_metric(store, stage, path)
}

/// The metric at `path` (with or without the output's name in front) of a stage's outputs.
pub(crate) fn stage_metric(store: &Store, stage: &StageRecord, path: &str) -> Option<f64> {
    let record = store.record(&StageKey::new(stage.key?))?;
    let metrics = &record.execution.metrics;
    metrics.get(path).copied().or_else(|| {
        let ports = stage
            .outputs
            .iter()
            .filter(|(_, manifest)| manifest.kind == Kind::Metrics);
        ports
            .map(|(port, _)| format!("{port}.{path}"))
            .find_map(|path| metrics.get(&path).copied())
    })
}
