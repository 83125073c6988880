//! What the command line looks like.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    accept, cache, check, completions, diff, doctor, explain, export, failure::EXIT_CODES, gc,
    graph, init, output::Color, predict, run, runs, schema, show, stage, stages, status, verify,
};

const EXAMPLES: &str = "\
Examples:
  natron init my-research                           make a workspace that runs offline at once
  natron run --profile quick                        run its pipeline; run again: nothing to do
  natron run --set finetune.learning_rate=1e-4      run finetune and what depends on it
  natron show finetune.model                        look at a result
  natron explain finetune                           why did it run?

Environment:
  NATRON_CACHE       folder of the cache, as --cache
  NATRON_PROGRESS    plain or none, instead of moving lines on a terminal
  NO_COLOR           no colours; CLICOLOR_FORCE=1 asks for them";

/// Runs machine-learning pipelines for trading: stages in a TOML file, results cached by content.
///
/// A pipeline is a graph of stages. Every result is named by the hash of its content, and a rerun executes only what really
/// changed. For research and education; nothing here promises a profit.
#[derive(Debug, Parser)]
#[command(
    name = "natron",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Folder of the workspace [default: the nearest one upwards with `pipelines/` or `.natron/`].
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) workspace: Option<PathBuf>,
    /// Folder of the cache [default: `.natron/cache` of the workspace].
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) cache: Option<PathBuf>,
    /// Write JSON for machines to the standard output.
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// When to use colours.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub(crate) color: Color,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(run::Arguments),
    Check(check::Arguments),
    Status(status::Arguments),
    Graph(graph::Arguments),
    Explain(explain::Arguments),
    Runs(runs::Arguments),
    Diff(diff::Arguments),
    Show(show::Arguments),
    Export(export::Arguments),
    Verify(verify::Arguments),
    Accept(accept::Arguments),
    Gc(gc::Arguments),
    Cache(cache::Arguments),
    Init(init::Arguments),
    #[command(hide = true)]
    Stage(stage::Arguments),
    Stages(stages::Arguments),
    Schema(schema::Arguments),
    Predict(predict::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
}

/// Which pipeline, and how it is changed for this once.
#[derive(Debug, Args)]
pub(crate) struct Overrides {
    /// Apply a profile of the pipeline file.
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Set a parameter: `params.KEY=VALUE` or `STAGE.KEY=VALUE`, the value as in TOML. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// How many instances matrices may make.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) max_instances: usize,
}

/// A pipeline as the first argument.
#[derive(Debug, Args)]
pub(crate) struct Pipeline {
    /// The pipeline file [default: the only one in `pipelines/`].
    #[arg(value_name = "PIPELINE")]
    pub(crate) pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

/// A pipeline as an option, where the first argument is something else.
#[derive(Debug, Args)]
pub(crate) struct PipelineOption {
    /// The pipeline file [default: the only one in `pipelines/`].
    #[arg(long, short = 'p', value_name = "PIPELINE")]
    pub(crate) pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(
                help.contains("Examples:\n  natron "),
                "{}",
                command.get_name()
            );
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
