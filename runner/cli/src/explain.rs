//! `natron explain`.

use std::collections::BTreeSet;

use clap::Args;
use natron_cache::Difference;
use natron_runner::{
    Cause, Explanation, Forecast, Graph, Reason, RootCause, RunOptions, StageExplanation, explain,
    select, with_producers,
};
use serde_json::{Value, json};

use crate::{
    arguments::PipelineOption,
    failure::Failure,
    layout::{Align, Block, columns},
    parameters::toml_value,
    program::Program,
    status::forecast,
    style::{Style, printable},
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron explain finetune
  natron explain windows --set windows.window_bars=48
  natron explain 'train[fold=0]' --json";

/// Explain why a stage would run, or why its cached result holds.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The stage, or one instance of it: `train[fold=0]`.
    #[arg(value_name = "STAGE")]
    stage: String,
    #[command(flatten)]
    pipeline: PipelineOption,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let pipeline = &arguments.pipeline;
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let graph = &loaded.graph;
    let selected = select(graph, std::slice::from_ref(&arguments.stage))?;
    let names: BTreeSet<&str> = selected
        .iter()
        .map(|&i| graph.instances[i].name.as_str())
        .collect();
    let explanation = explain(graph, &loaded.workspace, &RunOptions::default())?;
    let stages: Vec<&StageExplanation> = explanation
        .stages
        .iter()
        .filter(|stage| names.contains(stage.name.as_str()))
        .collect();
    let causes = causes_of(graph, &selected, &explanation);
    if program.output.is_json() {
        program
            .output
            .json(json!({ "pipeline": graph.name, "stages": stages, "causes": causes }));
        return Ok(());
    }
    let style = program.output.data_style();
    let mut block = Block::default();
    for stage in stages {
        stage_lines(&mut block, stage, style);
        let upstream = matches!(
            stage.reason,
            Reason::Upstream { .. } | Reason::KeyChanged { .. }
        );
        if upstream && !causes.is_empty() {
            block.line(&style.bold("  root causes"));
            block.lines(4, causes.iter().map(|cause| cause_text(cause, style)));
        }
        if let Some(ingredients) = &stage.ingredients {
            block.line(&style.bold("  the key is made of"));
            for line in ingredient_lines(&ingredients.to_value()) {
                block.line(&format!("    {line}"));
            }
        }
        block.line("");
    }
    program.output.data(&block.text());
    Ok(())
}

/// The causes that lie above the selected stages, or in them.
fn causes_of<'a>(
    graph: &Graph,
    selected: &BTreeSet<usize>,
    explanation: &'a Explanation,
) -> Vec<&'a RootCause> {
    let above = with_producers(graph, selected);
    let names: BTreeSet<&str> = above
        .iter()
        .map(|&i| graph.instances[i].name.as_str())
        .collect();
    explanation
        .causes
        .iter()
        .filter(|cause| names.contains(cause.stage.as_str()))
        .collect()
}

fn stage_lines(block: &mut Block, stage: &StageExplanation, style: Style) {
    let verdict = match stage.forecast {
        Forecast::Hit => style.green("in the cache"),
        Forecast::Run => style.yellow("would run"),
        Forecast::Maybe => style.cyan("would run if what is above it changes"),
    };
    block.line(&format!(
        "{} {}: {verdict}",
        style.bold(&stage.name),
        style.dim(&format!("({})", stage.kind))
    ));
    if let Some(key) = &stage.key {
        block.line(&format!("  key {key}"));
    }
    let (text, differences) = match &stage.reason {
        Reason::Cached => ("the newest result here has this key".to_owned(), &[][..]),
        Reason::CachedBefore { differences } if differences.is_empty() => {
            ("an earlier result has this key".to_owned(), &[][..])
        }
        Reason::CachedBefore { differences } => (
            "an earlier result has this key; from the newest one it differs in".to_owned(),
            differences.as_slice(),
        ),
        Reason::New => ("no result of it here to compare with".to_owned(), &[][..]),
        Reason::KeyChanged { differences } => (
            "since the newest result changed".to_owned(),
            differences.as_slice(),
        ),
        Reason::Evicted => (
            "its result is not in the cache any more".to_owned(),
            &[][..],
        ),
        Reason::Forced => ("forced".to_owned(), &[][..]),
        Reason::Upstream { stages } => (
            format!("it depends on what these give: {}", stages.join(", ")),
            &[][..],
        ),
    };
    block.line(&format!("  because {text}"));
    for difference in differences {
        block.line(&format!("    {}", difference_text(difference, style)));
    }
    if let Some(seconds) = stage.expected_seconds {
        block.line(&format!(
            "  it took {} when it last ran",
            units::seconds(seconds)
        ));
    }
}

/// A difference of two keys on one line.
pub(crate) fn difference_text(difference: &Difference, style: Style) -> String {
    let path = style.cyan(&printable(&difference.path));
    match (&difference.before, &difference.after) {
        (Some(before), Some(after)) => {
            format!("{path}: {} -> {}", value_text(before), value_text(after))
        }
        (None, Some(after)) => format!("{path}: new, {}", value_text(after)),
        (Some(before), None) => format!("{path}: gone, was {}", value_text(before)),
        (None, None) => path,
    }
}

/// A value of a key: digests short, long values cut.
pub(crate) fn value_text(value: &Value) -> String {
    const MOST: usize = 72;
    let text = match value {
        Value::String(text) if is_digest(text) => text[..12].to_owned(),
        other => toml_value(other),
    };
    crate::style::truncated(&printable(&text), MOST)
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn cause_text(cause: &RootCause, style: Style) -> String {
    let what = match &cause.cause {
        Cause::Changed { difference } => difference_text(difference, style),
        Cause::New => "has no result here".to_owned(),
        Cause::Evicted => "its result is not in the cache any more".to_owned(),
        Cause::Forced => "forced".to_owned(),
    };
    let reach = style.dim(&format!("({})", units::plural(cause.stages, "stage")));
    format!("{}: {what} {reach}", style.bold(&cause.stage))
}

/// What a run would do and why, for `run --dry-run`.
pub(crate) fn forecast_text(explanation: &Explanation, style: Style) -> String {
    let mut block = Block::default();
    let rows: Vec<Vec<String>> = explanation
        .stages
        .iter()
        .map(|stage| {
            let why = match &stage.reason {
                Reason::Cached => String::new(),
                Reason::CachedBefore { .. } => "an earlier result".to_owned(),
                Reason::New => "new".to_owned(),
                Reason::KeyChanged { differences } => {
                    let paths: Vec<&str> = differences
                        .iter()
                        .map(|d| d.path.as_str())
                        .take(3)
                        .collect();
                    format!("changed: {}", paths.join(", "))
                }
                Reason::Evicted => "its result is gone".to_owned(),
                Reason::Forced => "forced".to_owned(),
                Reason::Upstream { stages } => format!("after {}", stages.join(", ")),
            };
            let time = match stage.forecast {
                Forecast::Hit => String::new(),
                _ => stage
                    .expected_seconds
                    .map(units::seconds)
                    .unwrap_or_default(),
            };
            vec![
                forecast(stage.forecast, style),
                stage.name.clone(),
                style.dim(&stage.kind),
                time,
                printable(&why),
            ]
        })
        .collect();
    let align = [
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Left,
    ];
    block.lines(0, columns(&rows, &align));
    if !explanation.causes.is_empty() {
        block.line("");
        block.line(&style.bold("root causes"));
        for cause in &explanation.causes {
            block.line(&format!("  {}", cause_text(cause, style)));
        }
    }
    let open = explanation
        .stages
        .iter()
        .filter(|stage| stage.forecast != Forecast::Hit);
    let seconds: f64 = open
        .clone()
        .filter_map(|stage| stage.expected_seconds)
        .sum();
    block.line("");
    let time = if seconds > 0.0 {
        format!(
            ", about {} of work when they last ran",
            units::seconds(seconds)
        )
    } else {
        String::new()
    };
    let (open, all) = (open.count(), explanation.stages.len());
    block.line(&style.dim(&format!(
        "{open} of {} would run or may{time}; nothing ran",
        units::plural(all, "stage")
    )));
    block.text()
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
    fn values_are_printed_as_values() {
        let difference = Difference {
            path: "parameters.learning_rate".into(),
            before: Some(json!(1e-4)),
            after: Some(json!(3e-4)),
        };
        assert_eq!(
            difference_text(&difference, Style::PLAIN),
            "parameters.learning_rate: 0.0001 -> 0.0003"
        );
        let digest = json!("ab".repeat(32));
        assert_eq!(value_text(&digest), "abababababab");
    }

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
}
