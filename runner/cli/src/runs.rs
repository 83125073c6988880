//! `natron runs`.

use clap::{Args, ValueEnum};
use natron_runner::{RunEnd, RunEntry, RunList, did_you_mean};
use serde_json::{Map, Value, json};

use crate::{
    explain::words::value_text,
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    style::{Style, printable},
    units,
};

mod condition;

use condition::{Condition, Since, has_set};

const EXAMPLES: &str = "\
Examples:
  natron runs
  natron runs --metric evaluate.backtest.test.signals.sharpe_ratio --param finetune.learning_rate
  natron runs --where 'evaluate.auc > 0.6' --sort -evaluate.auc --limit 10
  natron runs --outcome failed --since 2d
  natron runs --limit 0 --csv > runs.csv

In --where, --sort and --param a name is a metric (`evaluate.auc`), a parameter of the pipeline (`lr` or `params.lr`) or of a
stage (`train.lr`), or one of `seconds`, `stages`, `ran`, `hit`, `failed`, `started`, `pipeline`, `profile`.";

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Outcome {
    Ok,
    Failed,
    Interrupted,
    Killed,
    Running,
}

/// List the runs of this workspace, newest first.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Show this metric of each run: STAGE.PATH, or STAGE.OUTPUT.PATH. May be repeated.
    #[arg(long, short, value_name = "NAME")]
    metric: Vec<String>,
    /// Show this parameter of each run: NAME, or STAGE.NAME. May be repeated.
    #[arg(long, value_name = "NAME")]
    param: Vec<String>,
    /// Only runs of this pipeline.
    #[arg(long, short, value_name = "NAME")]
    pipeline: Option<String>,
    /// Only runs with this profile; `none` for those without one.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Only runs that ended so.
    #[arg(long, value_enum, value_name = "HOW")]
    outcome: Option<Outcome>,
    /// Only runs since then: `90min`, `12h`, `14d`, `2026-01-31`, or a time in RFC 3339.
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Only runs with this parameter: `--set lr=0.1` as it was given, or as the pipeline resolved it. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Only runs of which this is true: `NAME OP VALUE` with `<`, `<=`, `>`, `>=`, `==` or `!=`. May be repeated.
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<Condition>,
    /// Sort by this, smallest first; with `-` in front, largest first.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Show at most this many; 0 shows all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Write CSV to the standard output.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    let list = RunList::read(&workspace)
        .map_err(|error| Failure::file("read", &workspace.state().join("runs"), &error))?;
    for id in &list.unreadable {
        let text = format!("the record of run `{}` cannot be read", printable(id));
        program.output.warn(&text);
    }
    warn_of_unknown(program, arguments, &list);
    let mut runs: Vec<&RunEntry> = list
        .runs
        .iter()
        .filter(|run| is_wanted(arguments, &list, run))
        .collect();
    if let Some(sort) = &arguments.sort {
        let name = sort.strip_prefix('-').unwrap_or(sort);
        condition::sort(&mut runs, sort.starts_with('-'), |run| {
            condition::value(&list, run, name)
        });
    }
    let n_matching = runs.len();
    if arguments.limit > 0 {
        runs.truncate(arguments.limit);
    }
    let output = &program.output;
    if output.is_json() {
        let n_runs = list.runs.len();
        let runs: Vec<Value> = runs
            .iter()
            .map(|run| to_json(&list, run, arguments))
            .collect();
        output.json(json!({ "runs": runs, "matching": n_matching, "runs_in_all": n_runs }));
        return Ok(());
    }
    if arguments.csv {
        return csv(program, &list, &runs, arguments);
    }
    if runs.is_empty() {
        let text = match list.runs.len() {
            0 => "no runs in this workspace yet; `natron run` makes one".to_owned(),
            n => format!("none of {} is so", units::plural(n, "run")),
        };
        output.note(&text);
        return Ok(());
    }
    let style = output.data_style();
    let mut rows = vec![header(arguments, style)];
    rows.extend(runs.iter().map(|run| row(&list, run, arguments, style)));
    let mut align = vec![Align::Left, Align::Left, Align::Right, Align::Left];
    align.extend(arguments.metric.iter().map(|_| Align::Right));
    align.extend(arguments.param.iter().map(|_| Align::Right));
    for line in columns(&rows, &align) {
        output.data(&line);
    }
    if n_matching > runs.len() {
        output.note(&style.dim(&format!(
            "{} more; --limit shows more, 0 all",
            units::count((n_matching - runs.len()) as u64)
        )));
    }
    Ok(())
}

fn is_wanted(arguments: &Arguments, list: &RunList, run: &RunEntry) -> bool {
    let is_profile = |wanted: &String| match &run.profile {
        Some(profile) => profile == wanted,
        None => wanted == "none",
    };
    let is_outcome = |wanted: Outcome| {
        run.end()
            == match wanted {
                Outcome::Ok => RunEnd::Ok,
                Outcome::Failed => RunEnd::Failed,
                Outcome::Interrupted => RunEnd::Interrupted,
                Outcome::Killed => RunEnd::Killed,
                Outcome::Running => RunEnd::Running,
            }
    };
    arguments
        .pipeline
        .as_ref()
        .is_none_or(|name| *name == run.pipeline)
        && arguments.profile.as_ref().is_none_or(is_profile)
        && arguments.outcome.is_none_or(is_outcome)
        && arguments.since.is_none_or(|since| since.holds(run))
        && arguments.set.iter().all(|set| has_set(list, run, set))
        && arguments.conditions.iter().all(|c| c.holds(list, run))
}

/// A name that no run knows is a slip more often than a fact.
fn warn_of_unknown(program: &Program, arguments: &Arguments, list: &RunList) {
    if list.runs.is_empty() {
        return;
    }
    let known = |name: &str| {
        let runs = list.runs.iter().take(200);
        runs.map(|run| condition::value(list, run, name))
            .any(|v| v.is_some())
    };
    let names = arguments.metric.iter().chain(&arguments.param);
    let conditions = arguments.conditions.iter().map(|c| &c.name);
    for name in names.chain(conditions) {
        if known(name) {
            continue;
        }
        let newest = list
            .runs
            .iter()
            .find(|run| !list.metric_names(run).is_empty());
        let mut candidates = newest.map(|run| list.metric_names(run)).unwrap_or_default();
        if let Some(params) = list.runs.iter().find_map(|run| run.params.as_object()) {
            candidates.extend(params.keys().cloned());
        }
        let near = did_you_mean(name, candidates.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        program.output.warn(&format!(
            "no run here has a metric or parameter `{}`{near}",
            printable(name)
        ));
    }
}

fn header(arguments: &Arguments, style: Style) -> Vec<String> {
    let mut row: Vec<String> = ["run", "pipeline", "time", "stages"]
        .map(|title| style.dim(title))
        .into();
    let names = arguments.metric.iter().chain(&arguments.param);
    row.extend(names.map(|name| style.dim(&printable(name))));
    row.push(style.dim("changes"));
    row
}

fn row(list: &RunList, run: &RunEntry, arguments: &Arguments, style: Style) -> Vec<String> {
    let mut changes: Vec<String> = run
        .profile
        .iter()
        .map(|profile| format!("--profile {profile}"))
        .collect();
    changes.extend(run.set.iter().map(|set| format!("--set {set}")));
    let time = match run.end() {
        RunEnd::Killed | RunEnd::Running => "-".to_owned(),
        _ => units::seconds(run.seconds),
    };
    let mut row = vec![
        printable(&run.id),
        style.cyan(&printable(&run.pipeline)),
        time,
        outcomes(run, style),
    ];
    row.extend(arguments.metric.iter().map(|name| {
        let value = list.metric(run, name);
        value.map_or_else(|| "-".to_owned(), units::number)
    }));
    row.extend(arguments.param.iter().map(|name| {
        let value = list.parameter(run, name);
        value.map_or_else(|| "-".to_owned(), |value| value_text(&value))
    }));
    row.push(printable(&changes.join(" ")));
    row
}

fn outcomes(run: &RunEntry, style: Style) -> String {
    match run.end() {
        RunEnd::Killed => return style.red("killed"),
        RunEnd::Running => return style.cyan("running"),
        _ => {}
    }
    let n = run.outcomes;
    if n.hit == run.n_stages {
        return style.dim(&format!("{} hit", units::count(n.hit as u64)));
    }
    let parts = [
        (n.failed, style.red("failed")),
        (n.interrupted, style.yellow("stopped")),
        (n.skipped, style.yellow("not started")),
        (n.ran + n.unchanged, style.green("ran")),
        (n.hit, "hit".to_owned()),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{} {word}", units::count(n as u64)))
        .collect();
    parts.join(", ")
}

fn to_json(list: &RunList, run: &RunEntry, arguments: &Arguments) -> Value {
    let metrics: Map<String, Value> = arguments
        .metric
        .iter()
        .map(|name| (name.clone(), json!(list.metric(run, name))))
        .collect();
    let parameters: Map<String, Value> = arguments
        .param
        .iter()
        .map(|name| (name.clone(), json!(list.parameter(run, name))))
        .collect();
    json!({
        "id": run.id, "pipeline": run.pipeline, "file": run.file, "profile": run.profile, "set": run.set,
        "params": run.params, "started": run.started, "seconds": run.seconds, "host": run.host,
        "natron": run.natron, "outcome": run.end(), "n_stages": run.n_stages, "stages": run.outcomes,
        "failure": run.failure.as_ref().map(|(stage, error)| json!({ "stage": stage, "error": error })),
        "same_as": run.same_as, "metrics": metrics, "parameters": parameters,
    })
}

fn csv(
    program: &Program,
    list: &RunList,
    runs: &[&RunEntry],
    arguments: &Arguments,
) -> Result<(), Failure> {
    let failed = |error: csv::Error| Failure::store(format!("cannot write CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut titles: Vec<&str> = vec![
        "run", "pipeline", "profile", "set", "started", "seconds", "outcome", "stages", "ran",
        "hit", "failed",
    ];
    let names: Vec<&String> = arguments.metric.iter().chain(&arguments.param).collect();
    titles.extend(names.iter().map(|name| name.as_str()));
    writer.write_record(&titles).map_err(failed)?;
    for run in runs {
        let end = json!(run.end());
        let mut fields = vec![
            run.id.clone(),
            run.pipeline.clone(),
            run.profile.clone().unwrap_or_default(),
            run.set.join(" "),
            run.started.clone(),
            run.seconds.to_string(),
            end.as_str().unwrap_or_default().to_owned(),
            run.n_stages.to_string(),
            (run.outcomes.ran + run.outcomes.unchanged).to_string(),
            run.outcomes.hit.to_string(),
            run.outcomes.failed.to_string(),
        ];
        let plain = |value: Option<Value>| match value {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
        };
        fields.extend(
            arguments
                .metric
                .iter()
                .map(|name| plain(list.metric(run, name).map(Value::from))),
        );
        fields.extend(
            arguments
                .param
                .iter()
                .map(|name| plain(list.parameter(run, name))),
        );
        writer.write_record(&fields).map_err(failed)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| Failure::store(format!("cannot write CSV: {error}")))?;
    program.output.data_bytes(&bytes);
    Ok(())
}
