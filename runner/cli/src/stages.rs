//! `natron stages`: the kinds of stages, and the documentation of one.

use std::fmt::Write as _;

use clap::Args;
use natron_artifacts::{InputColumns, InputPort, OutputPort, Registry, Signature, StageKind};
use natron_stages::features::listing::{Argument, Callable, callables};
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    layout::{Block, wrapped},
    output::terminal_width,
    parameters::{Parameter, parameters},
    program::Program,
    style::Style,
};

const EXAMPLES: &str = "\
Examples:
  natron stages                           all kinds
  natron stages finetune                  what it does, its parameters, inputs and outputs
  natron stages features --indicators     what features may be made of
  natron stages --json | jq '.stages[].name'";

/// List the kinds of stages, or describe one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The kind to describe, as `uses` names it.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// List the indicators and functions that `features` computes: arguments, outputs, definitions, sources.
    #[arg(long, requires = "name")]
    indicators: bool,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let (registry, output) = (&program.registry, &program.output);
    let Some(name) = &arguments.name else {
        if output.is_json() {
            let stages: Vec<Value> = registry.kinds().map(summary_json).collect();
            output.json(json!({ "stages": stages }));
        } else {
            output.data(&listing(registry, output.data_style(), terminal_width()));
        }
        return Ok(());
    };
    let Some(kind) = registry.get(name) else {
        return Err(unknown(registry, name));
    };
    if arguments.indicators {
        if name != "features" {
            return Err(Failure::usage(format!("`{name}` computes no indicators"))
                .help("`natron stages features --indicators` lists those of `features`"));
        }
        let callables = callables();
        if output.is_json() {
            output.json(json!({ "indicators": callables }));
        } else {
            let width = terminal_width().min(120);
            output.data(&indicators(&callables, output.data_style(), width));
        }
        return Ok(());
    }
    if output.is_json() {
        let mut description = summary_json(kind);
        description["documentation"] = kind.documentation().into();
        description["schema"] = kind.schema().clone();
        output.json(description);
    } else {
        output.data(&description(kind, output.data_style(), terminal_width()));
    }
    Ok(())
}

fn indicators(callables: &[Callable], style: Style, width: usize) -> String {
    let mut block = Block::default();
    for callable in callables {
        block.line(&style.cyan(&callable.call));
        let lines = |text: String| wrapped(&text, width.saturating_sub(4));
        block.lines(4, lines(callable.definition.to_owned()));
        let ranges: Vec<String> = callable.arguments.iter().filter_map(range).collect();
        if !ranges.is_empty() {
            block.lines(4, lines(ranges.join(", ")));
        }
        let outputs: Vec<String> = callable
            .outputs
            .iter()
            .map(|output| match output.name {
                "" => output.unit.to_owned(),
                name => format!(".{name} ({})", output.unit),
            })
            .collect();
        let mut facts = format!("gives {}", outputs.join(", "));
        if !callable.bars.is_empty() {
            let _ = write!(facts, "; reads {}", callable.bars.join(", "));
        }
        if !callable.source.is_empty() {
            let _ = write!(facts, "; after {}", callable.source);
        }
        for line in lines(facts) {
            block.line(&format!("    {}", style.dim(&line)));
        }
    }
    block.line("");
    block.line(&style.dim("`natron stages features` describes expressions"));
    block.text()
}

/// `n: 2 to 10000`.
fn range(argument: &Argument) -> Option<String> {
    let (least, most) = (argument.least?, argument.most?);
    let whole = if argument.kind == "whole number" {
        "a whole number "
    } else {
        ""
    };
    Some(format!("{}: {whole}from {least} to {most}", argument.name))
}

fn unknown(registry: &Registry, name: &str) -> Failure {
    let known = registry.kinds().map(|kind| kind.name.as_str());
    let help = match natron_runner::did_you_mean(name, known) {
        Some(near) => format!("did you mean `{near}`? `natron stages` lists all of them"),
        None => "`natron stages` lists all of them".to_owned(),
    };
    Failure::usage(format!("unknown stage kind `{name}`")).help(help)
}

fn summary_json(kind: &StageKind) -> Value {
    json!({ "name": kind.name, "summary": kind.summary(), "code": kind.code })
}

fn listing(registry: &Registry, style: Style, width: usize) -> String {
    let longest = registry
        .kinds()
        .map(|kind| kind.name.len())
        .max()
        .unwrap_or(0);
    let mut block = Block::default();
    for kind in registry.kinds() {
        let name = style.cyan(&format!("{:longest$}", kind.name));
        let lines = wrapped(kind.summary(), width.saturating_sub(longest + 2));
        for (i, line) in lines.iter().enumerate() {
            if i == 0 {
                block.line(&format!("{name}  {line}"));
            } else {
                block.line(&format!("{:longest$}  {line}", ""));
            }
        }
        if lines.is_empty() {
            block.line(&name);
        }
    }
    block.line("");
    block.line(&style.dim("`natron stages NAME` describes one"));
    block.text()
}

fn description(kind: &StageKind, style: Style, width: usize) -> String {
    let mut block = Block::default();
    block.line(&style.bold(&kind.name));
    block.line("");
    for paragraph in kind.documentation().split("\n\n") {
        block.lines(0, paragraph_lines(paragraph, width.min(100)));
        block.line("");
    }
    let parameters = parameters(kind.schema());
    block.line(&style.bold("Parameters (below `with`)"));
    if parameters.is_empty() {
        block.line("  none");
    }
    for parameter in &parameters {
        parameter_lines(&mut block, parameter, style, width.min(100));
    }
    if let Some(signature) = natron_runner::typical_signature(kind) {
        port_lines(&mut block, &signature, style);
    }
    block.text()
}

/// Text is wrapped; lists and indented lines stay as they are.
fn paragraph_lines(paragraph: &str, width: usize) -> Vec<String> {
    let is_prose = !paragraph
        .lines()
        .any(|line| line.starts_with([' ', '-', '*', '|', '#']) || line.starts_with("```"));
    if is_prose {
        wrapped(paragraph, width)
    } else {
        paragraph.lines().map(str::to_owned).collect()
    }
}

fn parameter_lines(block: &mut Block, parameter: &Parameter, style: Style, width: usize) {
    let indent = 2 + 2 * parameter.depth;
    let fact = match &parameter.default {
        _ if parameter.is_required => "required".to_owned(),
        Some(default) => format!("default {default}"),
        None => "optional".to_owned(),
    };
    block.line(&format!(
        "{:indent$}{}  {}",
        "",
        style.cyan(&parameter.name),
        style.dim(&format!("{}, {fact}", parameter.value_type))
    ));
    for line in wrapped(&parameter.documentation, width.saturating_sub(indent + 4)) {
        block.line(&format!("{:indent$}    {line}", ""));
    }
}

fn port_lines(block: &mut Block, signature: &Signature, style: Style) {
    let inputs: Vec<(String, String)> = signature.inputs.iter().map(input_line).collect();
    let outputs: Vec<(String, String)> = signature.outputs.iter().map(output_line).collect();
    for (title, ports) in [("Inputs", inputs), ("Outputs", outputs)] {
        block.line("");
        block.line(&style.bold(title));
        if ports.is_empty() {
            block.line("  none");
        }
        let longest = ports.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, text) in ports {
            block.line(&format!(
                "  {}  {text}",
                style.cyan(&format!("{name:longest$}"))
            ));
        }
    }
}

fn input_line(port: &InputPort) -> (String, String) {
    let mut text = port.kind.to_string();
    if port.many {
        text.push_str(", several");
    }
    if port.optional {
        text.push_str(", optional");
    }
    match &port.columns {
        InputColumns::Required(columns) | InputColumns::Only(columns) if !columns.is_empty() => {
            let _ = write!(text, " with {}", few(columns));
        }
        _ => {}
    }
    (port.name.clone(), text)
}

fn output_line(port: &OutputPort) -> (String, String) {
    let mut text = port.schema.kind.to_string();
    if let Some(columns) = &port.schema.columns {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let _ = write!(text, " with {}", few(&names));
    }
    if port.schema.lookahead_bars > 0 {
        let _ = write!(text, ", looks {} bars ahead", port.schema.lookahead_bars);
    }
    (port.name.clone(), text)
}

fn few<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
