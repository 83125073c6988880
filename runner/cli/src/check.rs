//! `natron check`.

use std::collections::BTreeMap;

use clap::Args;
use natron_runner::Graph;
use serde_json::{Value, json};

use crate::{arguments::Pipeline, diagnostic, failure::Failure, program::Program, units};

const EXAMPLES: &str = "\
Examples:
  natron check
  natron check pipelines/natron_v2.toml --profile quick
  natron check --json pipelines/momentum.toml";

/// Check a pipeline file: report every mistake in it, run nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let pipeline = &arguments.pipeline;
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let (graph, file) = (&loaded.graph, loaded.file.display().to_string());
    if program.output.is_json() {
        let stages: Vec<Value> = graph
            .instances
            .iter()
            .map(|instance| json!({ "name": instance.name, "kind": instance.kind, "seed": instance.seed }))
            .collect();
        let warnings: Vec<Value> = graph.warnings.iter().map(diagnostic::json).collect();
        program.output.json(json!({
            "file": file, "pipeline": graph.name, "params": graph.params,
            "stages": stages, "deferred": deferred_json(graph), "diagnostics": warnings, "exit_code": 0,
        }));
        return Ok(());
    }
    let stages = units::plural(graph.instances.len(), "stage") + &matrices(graph);
    let verdict = match graph.warnings.len() {
        0 => "no mistakes".to_owned(),
        n => format!("no mistakes, {}", units::plural(n, "warning")),
    };
    let style = program.output.note_style();
    program
        .output
        .note(&format!("{file}: {stages}, {}", style.green(&verdict)));
    note_deferred(program, graph);
    Ok(())
}

/// How many instances the matrices make, as ` (train 12, evaluate 12)`.
fn matrices(graph: &Graph) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in graph.instances.iter().filter(|i| !i.coordinates.is_empty()) {
        *counts.entry(&instance.stage).or_default() += 1;
    }
    if counts.is_empty() {
        return String::new();
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(stage, n)| format!("{stage} {n}"))
        .collect();
    format!(" ({})", counts.join(", "))
}

/// Says which stages have no instances yet.
pub(crate) fn note_deferred(program: &Program, graph: &Graph) {
    for deferred in &graph.deferred {
        let (stage, waits_for) = (&deferred.stage, &deferred.waits_for);
        program.output.note(&format!(
            "  `{stage}` is expanded when `{waits_for}` is known"
        ));
    }
}

/// The same for machines.
pub(crate) fn deferred_json(graph: &Graph) -> Value {
    let deferred = graph.deferred.iter();
    deferred
        .map(|one| json!({ "stage": one.stage, "waits_for": one.waits_for }))
        .collect()
}
