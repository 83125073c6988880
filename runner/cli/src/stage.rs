//! `natron stage exec`: runs one stage for the runner that started this process. Hidden: its request and reply are
//! private to one build of the program.

use clap::{Args, Subcommand};
use natron_runner::execute_isolated;

use crate::{failure::Failure, program::Program};

const EXAMPLES: &str = "\
Examples:
  natron run                                        what starts it: a stage with `isolation = \"process\"`";

/// Run one stage for the runner that started this process.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the stage that the request on the standard input names, in the current directory.
    Exec,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Exec => {
            program.stop.gently();
            execute_isolated(&program.registry, &program.stop.cancel)
                .map_err(|error| Failure::usage(error.to_string()))
        }
    }
}
