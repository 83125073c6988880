//! `natron graph`.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};
use natron_runner::{history::write_atomically, render};
use serde_json::{Value, json};

use crate::{arguments::Pipeline, check, export::place, failure::Failure, program::Program};

const EXAMPLES: &str = "\
Examples:
  natron graph                            a tree in the terminal
  natron graph -o graph.svg
  natron graph --format mermaid >> README.md
  natron graph --format dot | dot -Tpdf -o graph.pdf";

/// Draw the graph of stages.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    /// How to draw [default: by the ending of FILE, else tree].
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write to this file.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace FILE if it is there.
    #[arg(long, requires = "output")]
    force: bool,
}

/// The ways to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines and names, for a terminal.
    Tree,
    /// Graphviz.
    Dot,
    /// Mermaid, as Markdown pages draw it.
    Mermaid,
    /// A picture.
    Svg,
}

impl FromStr for Format {
    type Err = ();

    /// By the ending of a file's name.
    fn from_str(ending: &str) -> Result<Self, ()> {
        match ending {
            "txt" => Ok(Self::Tree),
            "dot" | "gv" => Ok(Self::Dot),
            "mmd" | "mermaid" => Ok(Self::Mermaid),
            "svg" => Ok(Self::Svg),
            _ => Err(()),
        }
    }
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let pipeline = &arguments.pipeline;
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let graph = &loaded.graph;
    let ending = arguments
        .output
        .as_ref()
        .and_then(|path| path.extension()?.to_str()?.parse().ok());
    let picture = match arguments.format.or(ending).unwrap_or(Format::Tree) {
        Format::Tree => render::tree(graph),
        Format::Dot => render::dot(graph),
        Format::Mermaid => render::mermaid(graph),
        Format::Svg => render::svg(graph),
    };
    let output = &program.output;
    if let Some(path) = &arguments.output {
        place::check(path, arguments.force)?;
        write_atomically(path, picture.as_bytes())
            .map_err(|error| Failure::file("write", path, &error))?;
        output.note(&format!("wrote {}", path.display()));
        return Ok(());
    }
    if output.is_json() {
        let stages: Vec<Value> = render::Drawing::of(graph)
            .nodes
            .into_iter()
            .map(|node| json!({ "name": node.name, "kind": node.kind, "reads": node.reads }))
            .collect();
        let deferred = check::deferred_json(graph);
        output.json(json!({ "pipeline": graph.name, "stages": stages, "deferred": deferred }));
    } else {
        output.data(&picture);
        check::note_deferred(program, graph);
    }
    Ok(())
}
