//! `natron accept`.

use clap::Args;
use natron_cache::Difference;
use natron_runner::{Acceptance, AcceptanceVerdict, accept, forget};
use serde_json::{Value, json};

use crate::{
    arguments::PipelineOption,
    failure::{Failure, Message},
    program::Program,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron accept finetune --dry-run        would the old result do, and what differs?
  natron accept finetune";

/// Take a stage's old result as that of its new code, when the change is known not to matter.
///
/// The newest result here whose key differs in nothing but the code and the files that the stage declares as sources is
/// recorded under the stage's key of now, with a note of where it comes from. Different parameters or inputs are refused.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The stages, or instances of them: `train[fold=0]`.
    #[arg(value_name = "STAGE", required = true)]
    stages: Vec<String>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pipeline: PipelineOption,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let pipeline = &arguments.pipeline;
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let workspace = &loaded.workspace;
    let found = accept(
        &loaded.graph,
        workspace,
        &arguments.stages,
        arguments.dry_run,
    )?;
    let n_accepted = found
        .iter()
        .filter(|stage| matches!(stage.verdict, AcceptanceVerdict::Accepted { .. }))
        .count();
    if n_accepted > 0 && !arguments.dry_run {
        // The next run has to look again.
        forget(workspace).map_err(|error| Failure::file("write", &workspace.state(), &error))?;
    }
    let output = &program.output;
    if output.is_json() {
        let stages: Vec<Value> = found.iter().map(to_json).collect();
        output.json(json!({ "recorded": !arguments.dry_run, "stages": stages }));
    } else {
        let style = output.data_style();
        for stage in &found {
            let (text, differences) = describe(&stage.verdict, arguments.dry_run);
            output.data(&format!("{}: {text}", style.bold(&stage.name)));
            for difference in differences {
                output.data(&format!("  {}", style.dim(&line(difference))));
            }
        }
    }
    let n_refused = found
        .iter()
        .filter(|stage| {
            !matches!(
                stage.verdict,
                AcceptanceVerdict::Accepted { .. } | AcceptanceVerdict::Current
            )
        })
        .count();
    let is_only_unknown = found.iter().all(|stage| {
        !matches!(
            stage.verdict,
            AcceptanceVerdict::Refused { .. } | AcceptanceVerdict::NoResult
        )
    });
    if n_refused == 0 || (arguments.dry_run && is_only_unknown) {
        return Ok(());
    }
    if output.is_json() {
        return Err(Failure::Differs(None));
    }
    let refused = format!("{} not accepted", units::plural(n_refused, "stage"));
    let message = Message::new(refused);
    Err(Failure::Differs(Some(message)).help("`natron run` makes their results anew"))
}

fn describe(verdict: &AcceptanceVerdict, is_dry: bool) -> (String, &[Difference]) {
    match verdict {
        AcceptanceVerdict::Current => ("its result is current".into(), &[]),
        AcceptanceVerdict::Accepted {
            from, differences, ..
        } => {
            let verb = if is_dry { "would take" } else { "took" };
            (
                format!("{verb} the result of key {}; what differs:", from.short()),
                differences,
            )
        }
        AcceptanceVerdict::Refused { differences } => (
            "refused, because more than its code differs:".into(),
            differences,
        ),
        AcceptanceVerdict::NoResult => ("there is no older result of it here".into(), &[]),
        AcceptanceVerdict::Unknown => (
            "it depends on stages that have no result; accept or run these first".into(),
            &[],
        ),
    }
}

fn line(difference: &Difference) -> String {
    let text = |value: &Option<Value>| value.as_ref().map_or("nothing".into(), Value::to_string);
    format!(
        "{}: {} -> {}",
        difference.path,
        text(&difference.before),
        text(&difference.after)
    )
}

fn to_json(stage: &Acceptance) -> Value {
    match &stage.verdict {
        AcceptanceVerdict::Current => json!({ "name": stage.name, "verdict": "current" }),
        AcceptanceVerdict::Accepted {
            from,
            to,
            differences,
        } => json!({
            "name": stage.name, "verdict": "accepted", "from": from, "to": to, "differences": differences,
        }),
        AcceptanceVerdict::Refused { differences } => {
            json!({ "name": stage.name, "verdict": "refused", "differences": differences })
        }
        AcceptanceVerdict::NoResult => json!({ "name": stage.name, "verdict": "no_result" }),
        AcceptanceVerdict::Unknown => json!({ "name": stage.name, "verdict": "unknown" }),
    }
}
