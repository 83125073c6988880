//! `natron verify --interrupt`.

use std::{
    env, io, os::unix::process::CommandExt as _, path::Path, process::Command, time::Duration,
};

use natron_runner::{
    Interruption, InterruptionOptions, InterruptionTrial, interrupt, interrupted_child, select,
};
use serde_json::json;

use super::{Arguments, write_report};
use crate::{
    failure::Failure,
    program::{Loaded, Program},
    style::{Style, printable},
    units,
};

/// Interrupts all instances of the stage.
pub(super) fn run(
    program: &Program,
    loaded: &Loaded,
    stage: &str,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let Loaded {
        graph,
        workspace,
        file,
    } = loaded;
    let this = env::current_exe()
        .map_err(|error| Failure::store(format!("cannot find this program's file: {error}")))?;
    let output = &program.output;
    let style = output.note_style();
    program.stop.gently();
    let mut results: Vec<Interruption> = Vec::new();
    for index in select(graph, &[stage.to_owned()])? {
        let name = graph.instances[index].name.as_str();
        let child = |folder: &Path, checkpoint_every: f64| {
            let mut command = Command::new(&this);
            command.arg("verify").arg(file);
            command.arg("--workspace").arg(workspace.root());
            command.args(["--interrupt", name]);
            command.arg("--interrupt-child").arg(folder);
            let seconds = checkpoint_every.to_string();
            command.args(["--checkpoint-every", seconds.as_str()]);
            if let Some(profile) = &arguments.overrides.profile {
                command.args(["--profile", profile.as_str()]);
            }
            for set in &arguments.overrides.set {
                command.args(["--set", set.as_str()]);
            }
            // A Ctrl-C is for this process; it sees to its child.
            command.process_group(0);
            command
        };
        let options = InterruptionOptions {
            index,
            times: arguments.times.get(),
            seed: arguments
                .seed
                .unwrap_or_else(|| natron_cache::clock::unix_ms() % 1_000_000),
        };
        let mut done = |n: usize, trial: &InterruptionTrial| {
            output.note(&line(n, options.times, trial, style));
        };
        let cancel = &program.stop.cancel;
        let result = interrupt(graph, workspace, &options, &child, cancel, &mut done)?;
        output.note(&closing(&result, style));
        let stopped = result.stopped;
        results.push(result);
        if stopped {
            break;
        }
    }
    let failure = if results.iter().any(|r| r.stopped) {
        Some(program.stop.failure().unwrap_or(Failure::Interrupted))
    } else if results.iter().all(Interruption::succeeded) {
        None
    } else {
        Some(Failure::Differs(None))
    };
    let code = failure.as_ref().map_or(0, Failure::code);
    let sum = |of: fn(&Interruption) -> usize| results.iter().map(of).sum::<usize>();
    let value = json!({
        "pipeline": graph.name,
        "interrupted": sum(Interruption::interrupted),
        "resumed": sum(Interruption::resumed),
        "kills": results.iter().flat_map(|r| &r.trials).map(|t| t.kills.len()).sum::<usize>(),
        "failures": sum(Interruption::failures),
        "stages": results,
        "exit_code": code,
    });
    write_report(arguments.report.as_deref(), &value)?;
    if output.is_json() {
        output.json(value);
    }
    failure.map_or(Ok(()), Err)
}

/// What the child does.
pub(super) fn child(
    loaded: &Loaded,
    stage: &str,
    folder: &Path,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let every = Duration::try_from_secs_f64(arguments.checkpoint_every)
        .map_err(|error| Failure::usage(format!("--checkpoint-every: {error}")))?;
    let output = Box::new(io::stdout());
    let (graph, workspace) = (&loaded.graph, &loaded.workspace);
    if interrupted_child(graph, workspace, stage, folder, every, output)? {
        Ok(())
    } else {
        Err(Failure::Stage(None))
    }
}

fn line(n: usize, times: usize, trial: &InterruptionTrial, style: Style) -> String {
    let mut kills = Vec::new();
    for kill in &trial.kills {
        let after = units::seconds(kill.after_seconds);
        let at = kill
            .position
            .map_or_else(String::new, |position| format!(" at {position}"));
        let resumed = match &kill.resumed {
            Some(text) => format!(" ({})", printable(text)),
            None => String::new(),
        };
        kills.push(format!("{after}{at}{resumed}"));
    }
    let killed = if kills.is_empty() {
        "not interrupted".to_owned()
    } else {
        format!("killed after {}", kills.join(", then "))
    };
    let (word, what) = match &trial.difference {
        None => (style.green("equal"), String::new()),
        Some(difference) => (style.red("differs"), format!(": {}", printable(difference))),
    };
    format!("  {n:>4} of {times}  {word}  {killed}{what}")
}

fn closing(result: &Interruption, style: Style) -> String {
    let (interrupted, failures) = (result.interrupted(), result.failures());
    let word = if result.stopped {
        style.yellow("stopped")
    } else if result.succeeded() {
        style.green("verified")
    } else {
        style.red("differs")
    };
    let short = if !result.stopped && failures == 0 && interrupted < result.times {
        "; the stage is too quick to be interrupted more often"
    } else {
        ""
    };
    format!(
        "{word}: `{}` interrupted {interrupted} times, {} with a checkpoint to go on from; {failures} came out otherwise \
         (seed {}, {} uninterrupted){short}",
        printable(&result.stage),
        result.resumed(),
        result.seed,
        units::seconds(result.uninterrupted_seconds)
    )
}
