//! `natron check`.

use clap::Args;
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
            "stages": stages, "diagnostics": warnings, "exit_code": 0,
        }));
        return Ok(());
    }
    let stages = units::plural(graph.instances.len(), "stage");
    let verdict = match graph.warnings.len() {
        0 => "no mistakes".to_owned(),
        n => format!("no mistakes, {}", units::plural(n, "warning")),
    };
    let style = program.output.note_style();
    program
        .output
        .note(&format!("{file}: {stages}, {}", style.green(&verdict)));
    Ok(())
}
