//! `natron completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{arguments, failure::Failure, program::Program};

const EXAMPLES: &str = "\
Examples:
  natron completions bash > ~/.local/share/bash-completion/completions/natron
  natron completions zsh > ~/.zfunc/_natron
  natron completions fish > ~/.config/fish/completions/natron.fish";

/// Write a completion script for a shell to the standard output.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[expect(clippy::unnecessary_wraps, reason = "all commands have one form")]
pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let mut command = arguments::Arguments::command();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "natron", &mut script);
    program.output.data_bytes(&script);
    Ok(())
}
