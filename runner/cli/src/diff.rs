//! `natron diff`.

use clap::Args;
use natron_runner::{
    Change, Changed, MetricDiff, Presence, RunDiff, RunHead, StageDiff, did_you_mean, find_run,
    run_diff,
};
use serde_json::{Value, json};

use crate::{
    explain::words::{artifact_lines, change_lines, change_text},
    failure::Failure,
    layout::{Align, Block, columns},
    program::Program,
    style::{Style, printable},
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron diff latest~1                    the newest run against the one before
  natron diff 20260102T1 20260103T0 --metrics-only
  natron diff latest~5 latest --stage train --json";

/// So many names of stages are listed in a row.
const MOST_NAMES: usize = 12;

/// Compare two runs: parameters, inputs, code, artifacts, metrics, times.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A run: its id, the start of it, `latest`, or `latest~N` for the Nth before.
    #[arg(value_name = "RUN")]
    before: String,
    /// The run to compare it with.
    #[arg(value_name = "RUN", default_value = "latest")]
    after: String,
    /// Only this stage or instance. May be repeated.
    #[arg(long, value_name = "STAGE")]
    stage: Vec<String>,
    /// Only metrics, of all stages in one table.
    #[arg(long)]
    metrics_only: bool,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    let before = find_run(&workspace, &arguments.before)?;
    let after = find_run(&workspace, &arguments.after)?;
    let base = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
    let known = || before.stages.iter().chain(&after.stages);
    for stage in &arguments.stage {
        if !known().any(|s| s.name == *stage || base(&s.name) == *stage) {
            let names: Vec<String> = known()
                .flat_map(|s| [s.name.clone(), base(&s.name)])
                .collect();
            let failure = Failure::usage(format!("neither run has a stage `{stage}`"));
            return Err(
                match did_you_mean(stage, names.iter().map(String::as_str)) {
                    Some(near) => failure.help(format!("did you mean `{near}`?")),
                    None => failure.help("`natron explain --run RUN` lists the stages of a run"),
                },
            );
        }
    }
    let is_asked = |name: &str| {
        arguments.stage.is_empty()
            || arguments
                .stage
                .iter()
                .any(|stage| *stage == name || *stage == base(name))
    };
    let difference = run_diff(&workspace, &before, &after, &is_asked)?;
    let output = &program.output;
    let style = output.data_style();
    if arguments.metrics_only {
        if output.is_json() {
            output.json(metrics_json(&difference));
        } else {
            output.data(&metrics_text(&difference, style));
        }
        return Ok(());
    }
    if output.is_json() {
        output.json(json!(difference));
    } else {
        output.data(&text(&difference, arguments.stage.is_empty(), style));
    }
    Ok(())
}

fn metrics_json(difference: &RunDiff) -> Value {
    let metrics: Vec<Value> = difference
        .stages
        .iter()
        .flat_map(|stage| {
            let metrics = stage.metrics.iter();
            metrics.map(|metric| {
                let mut value = json!(metric);
                value["stage"] = stage.stage.clone().into();
                value
            })
        })
        .collect();
    json!({ "before": difference.before, "after": difference.after, "metrics": metrics })
}

fn metrics_text(difference: &RunDiff, style: Style) -> String {
    let mut block = Block::default();
    block.line(&title(difference, style));
    let mut rows = Vec::new();
    for stage in &difference.stages {
        let names = short_names(&stage.metrics);
        for (metric, name) in stage.metrics.iter().zip(names) {
            let name = format!("{}.{name}", printable(&stage.stage));
            rows.push(metric_row(&name, metric, style));
        }
    }
    if rows.is_empty() {
        block.line("no metric differs");
    } else {
        rows.insert(0, metric_head(style));
        block.lines(0, columns(&rows, &METRIC_ALIGN));
    }
    block.text()
}

fn title(difference: &RunDiff, style: Style) -> String {
    format!(
        "{} -> {}",
        style.bold(&difference.before.id),
        style.bold(&difference.after.id)
    )
}

fn text(difference: &RunDiff, is_whole: bool, style: Style) -> String {
    let mut block = Block::default();
    block.line(&title(difference, style));
    if is_whole {
        let rows = head_rows(&difference.before, &difference.after, style);
        block.lines(2, columns(&rows, &[]));
        for change in &difference.parameters {
            block.lines(2, change_lines(change, style));
        }
    }
    let on = |presence: Presence| -> Vec<&StageDiff> {
        let stages = difference.stages.iter();
        stages.filter(|s| s.presence == presence).collect()
    };
    for stage in on(Presence::Changed) {
        block.line("");
        stage_lines(&mut block, stage, style);
    }
    block.line("");
    for (presence, words) in [
        (Presence::Added, "only in the second run"),
        (Presence::Removed, "only in the first run"),
    ] {
        let stages: Vec<&str> = on(presence).iter().map(|s| s.stage.as_str()).collect();
        if !stages.is_empty() {
            block.line(&format!("{words}: {}", names(&stages)));
        }
    }
    let same: Vec<&str> = difference.same.iter().map(String::as_str).collect();
    if difference.stages.is_empty() {
        block.line("the same stages, made of the same, with the same results");
    } else if !same.is_empty() {
        block.line(&style.dim(&format!("the same in both: {}", names(&same))));
    }
    block.text()
}

/// What differs between the runs as such.
fn head_rows(before: &RunHead, after: &RunHead, style: Style) -> Vec<Vec<String>> {
    let profile = |run: &RunHead| run.profile.clone().unwrap_or_else(|| "none".into());
    let facts = [
        ("pipeline", before.pipeline.clone(), after.pipeline.clone()),
        ("profile", profile(before), profile(after)),
        ("machine", before.host.clone(), after.host.clone()),
        ("natron", before.natron.clone(), after.natron.clone()),
    ];
    let mut rows: Vec<Vec<String>> = facts
        .into_iter()
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| {
            let change = format!("{} -> {}", printable(&before), printable(&after));
            vec![style.dim(name), change]
        })
        .collect();
    rows.push(vec![
        style.dim("time"),
        format!(
            "{} -> {}",
            units::seconds(before.seconds),
            units::seconds(after.seconds)
        ),
    ]);
    rows
}

fn names(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(MOST_NAMES)
        .map(|n| printable(n))
        .collect();
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown.join(", "),
        n => format!("{} and {} more", shown.join(", "), units::count(n as u64)),
    }
}

fn stage_lines(block: &mut Block, stage: &StageDiff, style: Style) {
    block.line(&style.bold(&printable(&stage.stage)));
    let is_input = |change: &&Change| matches!(change.what, Changed::Artifact { .. });
    for change in stage.changes.iter().filter(|change| !is_input(change)) {
        block.lines(2, change_lines(change, style));
    }
    let inputs: Vec<String> = stage
        .changes
        .iter()
        .filter(is_input)
        .map(|change| match &change.what {
            Changed::Artifact {
                from: Some(from), ..
            } => printable(from),
            _ => change_text(change, style),
        })
        .collect();
    if !inputs.is_empty() {
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        block.line(&format!("  reads other content: {}", names(&inputs)));
    }
    if stage.forgotten {
        block.line(
            "  the keys differ; the cache no longer has the record of what they were made of",
        );
    }
    match stage.outcomes {
        (Some(before), Some(after)) if before.is_done() != after.is_done() => {
            let word = |outcome: natron_runner::Outcome| {
                serde_json::to_value(outcome).map_or_else(
                    |_| String::new(),
                    |value| value.as_str().unwrap_or_default().to_owned(),
                )
            };
            block.line(&style.yellow(&format!("  {} -> {}", word(before), word(after))));
        }
        _ => {}
    }
    if stage.irreproducible {
        let ports: Vec<&str> = stage.outputs.keys().map(String::as_str).collect();
        let text = format!("  the same key gave other results: {}", names(&ports));
        block.line(&style.red(&text));
    }
    for (port, output) in &stage.outputs {
        let is_metrics = output
            .change
            .as_ref()
            .is_some_and(|change| change.kinds.1 == Some(natron_artifacts::Kind::Metrics));
        if is_metrics && !stage.metrics.is_empty() {
            // The table below says it in numbers.
            continue;
        }
        let port = format!("output {}", style.cyan(&printable(port)));
        match (&output.change, output.presence) {
            (None, Presence::Added) => block.line(&format!("  {port} is new")),
            (None, _) => block.line(&format!("  {port} is gone")),
            (Some(change), _) => {
                let lines = artifact_lines(change, style);
                let (first, rest) = lines
                    .split_first()
                    .map_or(("other content", &[][..]), |(first, rest)| {
                        (first.as_str(), rest)
                    });
                block.line(&format!("  {port}: {first}"));
                block.lines(4, rest.to_vec());
            }
        }
    }
    if stage.outputs.is_empty() && !stage.changes.is_empty() {
        block.line(&style.dim("  the results are the same"));
    }
    if !stage.metrics.is_empty() {
        let mut rows = vec![metric_head(style)];
        let names = short_names(&stage.metrics);
        rows.extend(
            stage
                .metrics
                .iter()
                .zip(names)
                .map(|(metric, name)| metric_row(&name, metric, style)),
        );
        block.lines(2, columns(&rows, &METRIC_ALIGN));
    }
    if let (Some(before), Some(after)) = stage.seconds
        && before > 0.0
        && after > 0.0
        && !(0.9..1.1).contains(&(after / before))
        && before.max(after) > 0.05
    {
        let text = format!(
            "  took {} -> {}",
            units::seconds(before),
            units::seconds(after)
        );
        block.line(&style.dim(&text));
    }
}

const METRIC_ALIGN: [Align; 5] = [
    Align::Left,
    Align::Right,
    Align::Right,
    Align::Right,
    Align::Right,
];

fn metric_head(style: Style) -> Vec<String> {
    ["metric", "before", "after", "change", ""]
        .map(|title| style.dim(title))
        .to_vec()
}

fn metric_row(name: &str, metric: &MetricDiff, style: Style) -> Vec<String> {
    let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), units::number);
    let signed = |value: f64| {
        let sign = if value > 0.0 { "+" } else { "" };
        format!("{sign}{}", units::number(value))
    };
    vec![
        style.cyan(&printable(name)),
        text(metric.before),
        text(metric.after),
        metric.absolute.map(signed).unwrap_or_default(),
        metric
            .relative
            .map(|share| style.dim(&format!("{:+.2} %", share * 100.0)))
            .unwrap_or_default(),
    ]
}

/// The metrics' names, without the output's when all are of one.
fn short_names(metrics: &[MetricDiff]) -> Vec<String> {
    let port = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let first = metrics.first().map(|metric| port(&metric.name));
    let is_one = metrics.iter().all(|m| Some(port(&m.name)) == first);
    metrics
        .iter()
        .map(|metric| match metric.name.split_once('.') {
            Some((_, path)) if is_one => path.to_owned(),
            _ => metric.name.clone(),
        })
        .collect()
}
