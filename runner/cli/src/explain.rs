//! `natron explain`.

use std::{collections::BTreeSet, path::Path};

use clap::Args;
use natron_runner::{
    ExplainOptions, Explanation, FindRunError, Forecast, Outcome, Reason, StageExplanation,
    WhyCached, explain, explain_run, find_run, select,
};
use serde_json::{Value, json};

use crate::{
    arguments::PipelineOption,
    check,
    failure::Failure,
    layout::{Align, Block, columns, wrapped},
    program::Program,
    status::forecast,
    style::{Style, printable, truncated, width},
    units,
};

pub(crate) mod words;

use words::{cause_text, cause_words, change_lines, change_text, reason_text, value_text};

const EXAMPLES: &str = "\
Examples:
  natron explain                                  what would run, and why
  natron explain finetune                         why would it run, or why does its result hold?
  natron explain windows --set windows.window_bars=48
  natron explain 'train[fold=0]' --against latest~3
  natron explain --run latest                     why did the last run run what it ran?";

/// So many stages are explained in detail at once: tables and texts are opened for that.
const MOST_DETAILED: usize = 40;

/// Hits are listed one by one up to this many.
const MOST_HITS: usize = 24;

/// So many lines of an error are printed.
const MOST_ERROR_LINES: usize = 10;

/// So many root causes are printed.
const MOST_CAUSES: usize = 40;

/// Explain why stages would run, or why their results hold.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A stage, or one instance of it: `train[fold=0]`. Without any: the whole pipeline.
    #[arg(value_name = "STAGE")]
    stages: Vec<String>,
    #[command(flatten)]
    pipeline: PipelineOption,
    /// Explain what this run did: its id, the start of it, `latest` or `latest~N`.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["pipeline", "profile", "set"])]
    run: Option<String>,
    /// Compare with the results of this run instead of the newest.
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
    /// Only stages whose results hold, and why.
    #[arg(long)]
    why_cached: bool,
    /// Also list all that each key is made of.
    #[arg(long)]
    key: bool,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    let mut options = ExplainOptions::default();
    if let Some(name) = &arguments.against {
        options.against = Some(find_run(&workspace, name)?.id);
    }
    let (explanation, names, head, graph) = if let Some(name) = &arguments.run {
        let run = find_run(&workspace, name)?;
        let known: Vec<&str> = run.stages.iter().map(|stage| stage.name.as_str()).collect();
        let names = named(&arguments.stages, &known)?;
        detail(&mut options, &names, !arguments.stages.is_empty());
        let explanation = explain_run(&run, &workspace, &options)?;
        (
            explanation,
            names,
            json!({ "pipeline": run.pipeline, "run": run.id }),
            None,
        )
    } else {
        let pipeline = &arguments.pipeline;
        let loaded = program
            .load(pipeline.pipeline.as_deref(), &pipeline.overrides)
            .map_err(|failure| hint(failure, &arguments.stages))?;
        let graph = &loaded.graph;
        let selected = match arguments.stages.as_slice() {
            [] => (0..graph.instances.len()).collect(),
            stages => {
                let selected = select(graph, stages).map_err(Failure::from);
                selected.map_err(|failure| hint(failure, stages))?
            }
        };
        let names = selected.iter().map(|&i| graph.instances[i].name.clone());
        let names: BTreeSet<String> = names.collect();
        let is_detailed = !arguments.stages.is_empty() || arguments.why_cached;
        detail(&mut options, &names, is_detailed);
        let explanation = explain(graph, &loaded.workspace, &options)?;
        let head = json!({ "pipeline": graph.name, "deferred": check::deferred_json(graph) });
        (explanation, names, head, Some(loaded.graph))
    };
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut explanation = explanation.only(&names);
    if arguments.why_cached {
        let hits: BTreeSet<String> = explanation
            .stages
            .iter()
            .filter(|stage| stage.forecast == Forecast::Hit)
            .map(|stage| stage.name.clone())
            .collect();
        let others = explanation.stages.len() - hits.len();
        if others > 0 {
            let verb = if others == 1 { "is" } else { "are" };
            let text = format!("{} {verb} not in the cache", units::plural(others, "stage"));
            program.output.warn(&text);
        }
        explanation = explanation.only(&hits.iter().map(String::as_str).collect());
    }
    if program.output.is_json() {
        let mut value = head;
        value["stages"] = json!(explanation.stages);
        value["causes"] = json!(explanation.causes);
        program.output.json(value);
        return Ok(());
    }
    let style = program.output.data_style();
    if arguments.stages.is_empty() && !arguments.why_cached {
        program.output.data(&overview(&explanation, style));
        if let Some(graph) = &graph {
            check::note_deferred(program, graph);
        }
        return Ok(());
    }
    let mut block = Block::default();
    for (i, stage) in explanation.stages.iter().enumerate() {
        if i > 0 {
            block.line("");
        }
        stage_lines(&mut block, stage, &explanation, arguments.key, style);
    }
    program.output.data(&block.text());
    Ok(())
}

fn detail(options: &mut ExplainOptions, names: &BTreeSet<String>, is_detailed: bool) {
    if is_detailed {
        options.in_detail = names.iter().take(MOST_DETAILED).cloned().collect();
    }
}

/// A pipeline file where a stage belongs is an easy mistake.
fn hint(failure: Failure, stages: &[String]) -> Failure {
    let is_toml = |name: &str| Path::new(name).extension().is_some_and(|e| e == "toml");
    let is_file = |name: &&String| name.contains('/') || is_toml(name);
    match stages.iter().find(is_file) {
        Some(file) => failure.help(format!("a pipeline file is named by `--pipeline {file}`")),
        None => failure,
    }
}

/// The instances of a run that `stages` mean; all without any.
fn named(stages: &[String], known: &[&str]) -> Result<BTreeSet<String>, Failure> {
    if stages.is_empty() {
        return Ok(known.iter().map(|name| (*name).to_owned()).collect());
    }
    let base = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
    let mut names = BTreeSet::new();
    for stage in stages {
        let before = names.len();
        names.extend(
            known
                .iter()
                .filter(|name| *name == stage || base(name) == *stage)
                .map(|name| (*name).to_owned()),
        );
        if names.len() == before {
            let bases: Vec<String> = known.iter().map(|name| base(name)).collect();
            let near = bases
                .iter()
                .map(String::as_str)
                .chain(known.iter().copied());
            let failure = Failure::usage(format!("the run has no stage `{stage}`"));
            return Err(match natron_runner::did_you_mean(stage, near) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help("`natron explain --run RUN` lists its stages"),
            });
        }
    }
    Ok(names)
}

impl From<FindRunError> for Failure {
    fn from(error: FindRunError) -> Self {
        let text = error.to_string();
        match error {
            FindRunError::NoRuns => Self::usage(text).help("`natron run` makes one"),
            FindRunError::TooFar { runs, .. } => {
                let last = runs.saturating_sub(1);
                Self::usage(text).help(format!("there are {runs}: `latest` to `latest~{last}`"))
            }
            FindRunError::Unknown { .. } => Self::usage(text).help("`natron runs` lists them"),
            FindRunError::Ambiguous { .. } => {
                Self::usage(text).help("give more of the id; `natron runs` lists them")
            }
            FindRunError::Unreadable { .. } | FindRunError::Io(_) => Self::store(text),
        }
    }
}

fn stage_lines(
    block: &mut Block,
    stage: &StageExplanation,
    explanation: &Explanation,
    with_key: bool,
    style: Style,
) {
    block.line(&format!(
        "{} {}: {}",
        style.bold(&printable(&stage.name)),
        style.dim(&format!("({})", stage.kind)),
        verdict(stage, style)
    ));
    let reason = reason_text(&stage.reason, stage.compared_with.as_ref());
    block.line(&format!("  because {reason}"));
    if let Reason::PreviousAttemptFailed { error, .. } | Reason::Failed { error } = &stage.reason {
        let rest = error.lines().skip(1).take(MOST_ERROR_LINES);
        block.lines(4, rest.map(|line| style.dim(&printable(line))));
    }
    if !stage.changes.is_empty() {
        match stage.reason {
            Reason::New { nearest: Some(_) } => block.line("  it differs in"),
            Reason::PreviousAttemptFailed { .. }
            | Reason::Forced
            | Reason::Upstream { .. }
            | Reason::Failed { .. } => block.line("  since its newest result"),
            _ => {}
        }
    }
    for change in &stage.changes {
        block.lines(4, change_lines(change, style));
    }
    for view in &stage.edited_views {
        let view = style.cyan(&printable(view));
        block.line(&format!(
            "    {view} was edited or is gone; a run restores it"
        ));
    }
    if let Some(why) = &stage.why_cached {
        cached_lines(block, why, style);
    }
    let own: BTreeSet<String> = stage
        .changes
        .iter()
        .map(|change| change_text(change, Style::PLAIN))
        .collect();
    let causes: Vec<String> = stage
        .causes
        .iter()
        .filter_map(|&i| explanation.causes.get(i))
        .filter(|cause| !own.contains(&cause_words(cause, Style::PLAIN)))
        .filter(|cause| stage.forecast == Forecast::Maybe || !is_own(cause, stage))
        .map(|cause| cause_text(cause, style))
        .collect();
    if !causes.is_empty() {
        block.line(&format!("  {}", style.bold("root causes")));
        block.lines(4, causes);
    }
    match (stage.outcome, stage.expected_seconds) {
        (Some(Outcome::Skipped), _) | (_, None) => {}
        (Some(Outcome::Ran | Outcome::Unchanged | Outcome::Failed), Some(seconds)) => {
            block.line(&format!("  it took {}", units::seconds(seconds)));
        }
        (_, Some(seconds)) if stage.why_cached.is_none() => {
            let seconds = units::seconds(seconds);
            block.line(&format!("  it took {seconds} when it last ran"));
        }
        _ => {}
    }
    if let Some(key) = &stage.key {
        block.line(&style.dim(&format!("  key {key}")));
    }
    if with_key && let Some(ingredients) = &stage.ingredients {
        block.line(&style.bold("  the key is made of"));
        block.lines(4, ingredient_lines(&ingredients.to_value()));
    }
}

/// Whether the cause only says of this stage what its reason has said.
fn is_own(cause: &natron_runner::RootCause, stage: &StageExplanation) -> bool {
    let is_change = matches!(
        cause.cause,
        natron_runner::Cause::Changed { .. } | natron_runner::Cause::Untold { .. }
    );
    !is_change && cause.stages.contains(&stage.name)
}

fn verdict(stage: &StageExplanation, style: Style) -> String {
    match (stage.outcome, stage.forecast) {
        (None, Forecast::Hit) => style.green("its result holds"),
        (None, Forecast::Run) => style.yellow("would run"),
        (None, Forecast::Maybe) => style.cyan("would run if what it reads changes"),
        (Some(Outcome::Hit), _) => style.green("its result held"),
        (Some(Outcome::Ran), _) => style.yellow("ran"),
        (Some(Outcome::Unchanged), _) => {
            style.yellow("ran, and gave what it had given before: what reads it did not run for it")
        }
        (Some(Outcome::Failed), _) => style.red("failed"),
        (Some(Outcome::Skipped), _) => style.cyan("was not started"),
        (Some(Outcome::Interrupted), _) => style.yellow("was stopped"),
    }
}

fn cached_lines(block: &mut Block, why: &WhyCached, style: Style) {
    let mut by = String::new();
    match (&why.run, &why.stage) {
        (Some(run), Some(stage)) => {
            by = format!(" by {} in run {run}", printable(stage));
        }
        (Some(run), None) => by = format!(" in run {run}"),
        (None, _) => {}
    }
    let when = jiff::Timestamp::from_millisecond(why.started_unix_ms as i64).map_or_else(
        |_| String::new(),
        |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    );
    let mut place = Vec::new();
    if !why.host.is_empty() {
        place.push(format!("on {}", printable(&why.host)));
    }
    if !why.program.is_empty() {
        place.push(format!("by natron {}", printable(&why.program)));
    }
    place.push(format!("in {}", units::seconds(why.seconds)));
    block.line(&format!("  made{by} at {when} ({})", place.join(", ")));
    block.line(&format!(
        "  compared: {}; all are equal",
        why.looked_at.join(", ")
    ));
    if !why.cutoffs.is_empty() {
        block.line("  what changed above it and did not reach it");
    }
    for cutoff in &why.cutoffs {
        let run = cutoff
            .run
            .as_ref()
            .map(|run| format!(" in run {run}"))
            .unwrap_or_default();
        let how = if cutoff.is_same_content {
            "gave the same content".to_owned()
        } else {
            format!("gave the same in what {} reads", printable(&cutoff.reader))
        };
        block.line(&format!(
            "    {} ran again{run} and {how}",
            style.bold(&printable(&cutoff.stage))
        ));
        let changes = cutoff
            .changes
            .iter()
            .map(|change| change_text(change, style));
        block.lines(6, changes);
    }
    for (port, (unread, all)) in &why.unread_columns {
        block.line(&format!(
            "  not in its key: {unread} of {all} columns of input {}, which it does not read",
            printable(port)
        ));
    }
    block.line(&style.dim(
        "  never in a key: names and paths, views, retries, timeouts, threads, memory, tokens, logs, variables handed through",
    ));
}

/// What would run and why: for `explain` without a stage, and for `run --dry-run`.
pub(crate) fn overview(explanation: &Explanation, style: Style) -> String {
    let mut block = Block::default();
    let terminal = crate::output::terminal_width();
    if !explanation.causes.is_empty() {
        block.line(&style.bold("root causes"));
        let mut rows = vec![
            ["run", "maybe", "time", ""]
                .map(|title| style.dim(title))
                .to_vec(),
        ];
        for cause in explanation.causes.iter().take(MOST_CAUSES) {
            let time = match cause.expected_seconds {
                seconds if seconds > 0.0 => units::seconds(seconds),
                _ => "-".to_owned(),
            };
            rows.push(vec![
                units::count(cause.run as u64),
                units::count(cause.maybe as u64),
                time,
                cause_text(cause, style),
            ]);
        }
        let align = [Align::Right, Align::Right, Align::Right, Align::Left];
        block.lines(2, wrapped_last(&rows, &align, terminal.saturating_sub(2)));
        if explanation.causes.len() > MOST_CAUSES {
            let n = explanation.causes.len() - MOST_CAUSES;
            block.line(&style.dim(&format!(
                "  and {} more; --json has all",
                units::count(n as u64)
            )));
        }
        block.line("");
        block.line(&style.bold("stages"));
    }
    let is_hit = |stage: &&StageExplanation| stage.forecast == Forecast::Hit;
    let n_hits = explanation.stages.iter().filter(is_hit).count();
    let n_open = explanation.stages.len() - n_hits;
    let listed = explanation
        .stages
        .iter()
        .filter(|stage| n_hits <= MOST_HITS || !is_hit(stage) || !stage.edited_views.is_empty());
    let mut rows: Vec<Vec<String>> = listed
        .map(|stage| overview_row(stage, explanation, style))
        .collect();
    fit_last(&mut rows, terminal.saturating_sub(2));
    let align = [
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Left,
    ];
    let indent = if explanation.causes.is_empty() { 0 } else { 2 };
    block.lines(indent, columns(&rows, &align));
    if n_hits > MOST_HITS {
        let text = format!("  {} in the cache", units::plural(n_hits, "more stage"));
        block.line(&style.dim(&text));
    }
    let seconds: f64 = explanation
        .stages
        .iter()
        .filter(|stage| stage.forecast != Forecast::Hit)
        .filter_map(|stage| stage.expected_seconds)
        .sum();
    block.line("");
    let is_over = explanation
        .stages
        .iter()
        .any(|stage| stage.outcome.is_some());
    let all = units::plural(explanation.stages.len(), "stage");
    let text = if is_over {
        format!("{n_open} of {all} did not come from the cache")
    } else {
        let time = if seconds > 0.0 && n_open > 0 {
            format!(
                ", about {} of work when they last ran",
                units::seconds(seconds)
            )
        } else {
            String::new()
        };
        format!("{n_open} of {all} would run or may{time}; nothing ran")
    };
    block.line(&style.dim(&text));
    block.text()
}

fn overview_row(stage: &StageExplanation, explanation: &Explanation, style: Style) -> Vec<String> {
    let causes: Vec<String> = stage
        .causes
        .iter()
        .filter_map(|&i| explanation.causes.get(i))
        .map(|cause| cause_words(cause, style))
        .collect();
    let mut why = match (&stage.reason, causes.as_slice()) {
        (Reason::CachedBefore, _) => "an earlier result".to_owned(),
        (Reason::OutputEdited, _) => {
            let views = printable(&stage.edited_views.join(", "));
            format!("{views} was edited or is gone; a run restores it")
        }
        (Reason::Failed { error }, _) => printable(error.lines().next().unwrap_or_default()),
        (
            Reason::New {
                nearest: Some(nearest),
            },
            _,
        ) if nearest.stage.is_some() => {
            let differs: Vec<String> = stage
                .changes
                .iter()
                .take(3)
                .map(|change| change_text(change, style))
                .collect();
            let of = printable(nearest.stage.as_deref().unwrap_or_default());
            format!("new; nearest is {of}: {}", differs.join(", "))
        }
        (_, []) => String::new(),
        (_, causes) => causes
            .iter()
            .take(2)
            .cloned()
            .collect::<Vec<_>>()
            .join("; "),
    };
    if causes.len() > 2 && !matches!(stage.reason, Reason::New { .. }) {
        why.push_str(&format!("; {} more", causes.len() - 2));
    }
    let time = match stage.forecast {
        Forecast::Hit => String::new(),
        _ => stage
            .expected_seconds
            .filter(|seconds| *seconds > 0.0)
            .map(units::seconds)
            .unwrap_or_default(),
    };
    let word = match stage.outcome {
        None => forecast(stage.forecast, style),
        Some(Outcome::Hit) => style.green("hit"),
        Some(Outcome::Ran) => style.yellow("ran"),
        Some(Outcome::Unchanged) => style.yellow("same"),
        Some(Outcome::Failed) => style.red("failed"),
        Some(Outcome::Skipped) => style.cyan("skipped"),
        Some(Outcome::Interrupted) => style.yellow("stopped"),
    };
    vec![
        word,
        printable(&stage.name),
        style.dim(&stage.kind),
        time,
        why,
    ]
}

/// Rows whose last column goes on in further lines where a terminal ends; it keeps at least 24 cells.
fn wrapped_last(rows: &[Vec<String>], align: &[Align], cells: usize) -> Vec<String> {
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let last = n.saturating_sub(1);
    let texts: Vec<Vec<String>> = {
        let before: usize = (0..last)
            .map(|i| {
                let widths = rows.iter().filter_map(|row| row.get(i)).map(|c| width(c));
                widths.max().unwrap_or(0) + 2
            })
            .sum();
        let left = cells.saturating_sub(before).max(24);
        let text = |row: &Vec<String>| row.get(last).map_or_else(Vec::new, |t| wrapped(t, left));
        rows.iter().map(text).collect()
    };
    let mut spread = Vec::new();
    for (row, texts) in rows.iter().zip(texts) {
        let mut texts = texts.into_iter();
        let mut first = row[..last.min(row.len())].to_vec();
        first.push(texts.next().unwrap_or_default());
        spread.push(first);
        for text in texts {
            let mut more = vec![String::new(); last];
            more.push(text);
            spread.push(more);
        }
    }
    columns(&spread, align)
}

/// Cuts the last column so that rows fit a terminal; it keeps at least 24 cells.
fn fit_last(rows: &mut [Vec<String>], cells: usize) {
    let n = rows.iter().map(Vec::len).max().unwrap_or(0);
    let before: usize = (0..n.saturating_sub(1))
        .map(|i| {
            let widths = rows.iter().filter_map(|row| row.get(i)).map(|c| width(c));
            widths.max().unwrap_or(0) + 2
        })
        .sum();
    let left = cells.saturating_sub(before).max(24);
    for row in rows {
        if row.len() == n
            && let Some(last) = row.last_mut()
            && width(last) > left
        {
            *last = truncated(last, left);
        }
    }
}

/// The leaves of a key's ingredients, one per line.
fn ingredient_lines(ingredients: &Value) -> Vec<String> {
    fn walk(path: &str, value: &Value, out: &mut Vec<Vec<String>>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    walk(&path, value, out);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (i, item) in items.iter().enumerate() {
                    let name = item["name"]
                        .as_str()
                        .map_or_else(|| format!("[{i}]"), |n| format!(".{n}"));
                    match item.get("digest") {
                        Some(digest) if item["name"].is_string() => {
                            out.push(vec![format!("{path}{name}"), value_text(digest)]);
                        }
                        _ => walk(&format!("{path}{name}"), item, out),
                    }
                }
            }
            value => out.push(vec![printable(path), value_text(value)]),
        }
    }
    let mut rows = Vec::new();
    walk("", ingredients, &mut rows);
    columns(&rows, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_the_leaves_of_a_key() {
        let key = json!({ "inputs": { "bars": [{ "columns": { "columns": [{ "name": "close", "digest": "ab".repeat(32) }] } }] }, "seed": 7 });

        assert_eq!(
            ingredient_lines(&key),
            [
                "inputs.bars[0].columns.columns.close  abababababab",
                "seed                                  7"
            ]
        );
    }

    #[test]
    fn the_last_column_goes_on_below_itself() {
        let rows = [
            vec![
                "1".to_owned(),
                "one two three four five six seven".to_owned(),
            ],
            vec!["22".to_owned(), "eight".to_owned()],
        ];
        assert_eq!(
            wrapped_last(&rows, &[Align::Right, Align::Left], 28),
            [" 1  one two three four five", "    six seven", "22  eight"]
        );
    }

    #[test]
    fn the_last_column_fits_and_the_others_stay() {
        let mut rows = vec![
            vec!["run".to_owned(), "x".repeat(100)],
            vec!["hit".to_owned(), String::new()],
        ];
        fit_last(&mut rows, 40);
        assert_eq!(width(&rows[0][1]), 35);
        assert!(rows[0][1].ends_with('…'));
    }
}
