//! `natron schema`.

use clap::Args;

use crate::{failure::Failure, program::Program};

const EXAMPLES: &str = "\
Examples:
  natron schema > pipeline.schema.json    for an editor: `#:schema ../pipeline.schema.json` on the file's first line";

/// Write the JSON schema of pipeline files, for editors.
///
/// It holds the parameters of every kind of stage.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {}

#[expect(clippy::unnecessary_wraps, reason = "all commands have one form")]
pub(crate) fn run(program: &Program, _: &Arguments) -> Result<(), Failure> {
    let schema = natron_runner::pipeline_schema(&program.registry);
    let text = serde_json::to_string_pretty(&schema).expect("a JSON value serializes");
    program.output.data(&text);
    Ok(())
}
