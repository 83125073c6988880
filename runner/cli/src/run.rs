//! `natron run`.

use std::{fmt::Write as _, num::NonZeroUsize, sync::Arc};

use clap::Args;
use natron_runner::{
    ExplainOptions, Invocation, LockDifference, LockMode, Outcome, RunOptions, SessionError,
    SessionSummary, Watcher, explain, forget, history::StageRecord, run_file,
};
use serde_json::{Value, json};

use crate::{
    arguments::Pipeline,
    check, diagnostic,
    explain::overview,
    failure::Failure,
    program::{Program, shown},
    progress::{Display, Mode},
    style::printable,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron run pipelines/natron_v2.toml --profile quick
  natron run --set finetune.learning_rate=1e-4 --set params.data=data/eurusd.csv
  natron run --until features --jobs 4
  natron run --dry-run                    what would run, and why
  natron run --locked                     fail if a result differs from the committed lock file

Ctrl-C once stops gently: running stages save their state and go on from there next time. Twice stops at once.";

#[expect(
    clippy::struct_excessive_bools,
    reason = "they are flags of a command line"
)]
/// Run a pipeline: execute what changed, take everything else from the cache.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    /// Threads in all [default: all cores].
    #[arg(long, short, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// After a failure, go on with the stages that do not depend on the failed one.
    #[arg(long, short)]
    keep_going: bool,
    /// Run only this stage and what it needs. May be repeated.
    #[arg(long, value_name = "STAGE")]
    until: Vec<String>,
    /// Run only this stage and what depends on it; all else must be in the cache. May be repeated.
    #[arg(long, value_name = "STAGE")]
    from: Vec<String>,
    /// Run this stage even if its result is in the cache. May be repeated.
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Show what would run and why, and run nothing.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Fail if a key or result differs from the lock file beside the pipeline.
    #[arg(long, conflicts_with = "dry_run")]
    locked: bool,
    /// Write the keys and results to the lock file beside the pipeline.
    #[arg(long, conflicts_with_all = ["dry_run", "locked", "until", "from"])]
    write_lock: bool,
    /// Trust no file times: read and hash every source again.
    #[arg(long)]
    paranoid: bool,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    if arguments.dry_run {
        return dry_run(program, arguments);
    }
    let workspace = program.workspace()?;
    let file = Program::pipeline_file(&workspace, arguments.pipeline.pipeline.as_deref())?;
    let load_options = Program::load_options(&workspace, &arguments.pipeline.overrides);
    let options = RunOptions {
        file: file.display().to_string(),
        ..options(arguments)
    };
    let lock_mode = match (arguments.locked, arguments.write_lock) {
        (true, _) => LockMode::Require,
        (_, true) => LockMode::Write,
        _ => LockMode::Ignore,
    };
    let display = program.watch();
    let watcher: Arc<dyn Watcher> = Arc::clone(&display) as Arc<dyn Watcher>;
    let asked = Invocation {
        file: &file,
        registry: &program.registry,
        load: &load_options,
        options: &options,
        lock: lock_mode,
        workspace: &workspace,
    };
    let mut result = run_file(&asked, &watcher, &program.stop.cancel);
    if program.output.is_json()
        && let Ok(summary) = &result
        && summary.run.record.same_as.is_some()
    {
        // Stages are listed from the record of an earlier run; without it everything has to be looked at.
        let mut record = summary.run.record.clone();
        record.fill_in(&workspace);
        if record.stages.len() < record.n_stages {
            forget(&workspace)
                .map_err(|error| Failure::file("write", &workspace.state(), &error))?;
            result = run_file(&asked, &watcher, &program.stop.cancel);
        }
    }
    display.finish();
    match result {
        Ok(summary) => {
            let reported = report(program, &summary);
            // The program ends here. To give a large pipeline back in its many small pieces would take it longer than to
            // read it did.
            std::mem::forget(summary);
            reported
        }
        Err(SessionError::Pipeline(mistakes)) => Err(program.mistakes(&file, &mistakes)),
        Err(SessionError::Run(error)) => Err(error.into()),
        Err(SessionError::Lock(error)) => Err(error.into()),
        Err(error @ SessionError::ViewRefused { .. }) => Err(Failure::usage(error.to_string())),
        Err(error @ SessionError::View { .. }) => Err(Failure::store(error.to_string())),
    }
}

fn options(arguments: &Arguments) -> RunOptions {
    RunOptions {
        jobs: arguments.jobs.map(NonZeroUsize::get),
        keep_going: arguments.keep_going,
        force: arguments.force.clone(),
        until: arguments.until.clone(),
        from: arguments.from.clone(),
        paranoid: arguments.paranoid,
        ..RunOptions::default()
    }
}

fn dry_run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let pipeline = &arguments.pipeline;
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let asked = ExplainOptions {
        run: options(arguments),
        ..ExplainOptions::default()
    };
    let explanation = explain(&loaded.graph, &loaded.workspace, &asked)?;
    if program.output.is_json() {
        program.output.json(json!({
            "pipeline": loaded.graph.name, "explanation": explanation,
            "deferred": check::deferred_json(&loaded.graph),
        }));
    } else {
        program
            .output
            .data(&overview(&explanation, program.output.data_style()));
        check::note_deferred(program, &loaded.graph);
    }
    Ok(())
}

fn report(program: &Program, summary: &SessionSummary) -> Result<(), Failure> {
    let failure = failure(program, summary);
    if program.output.is_json() {
        let code = failure.as_ref().map_or(0, Failure::code);
        let mut summary = summary.clone();
        summary.run.record.fill_in(&program.workspace()?);
        program.output.json(to_json(&summary, code));
    } else {
        program.report(&summary.warnings);
    }
    let output = &program.output;
    let style = output.note_style();
    for stage in summary
        .run
        .record
        .stages
        .iter()
        .filter(|stage| stage.error.is_some())
    {
        let message = stage.error.as_deref().unwrap_or_default();
        let (message, help) = match message.split_once("\nhelp: ") {
            Some((message, help)) => (message, Some(help)),
            None => (message, None),
        };
        let mut lines = message.lines().map(printable);
        let first = lines.next().unwrap_or_default();
        let severity = if stage.ignored {
            style.yellow("warning")
        } else {
            style.red("error")
        };
        output.note(&format!(
            "{severity}: stage `{}` failed: {first}",
            stage.name
        ));
        for line in lines {
            output.note(&format!("  {} {line}", style.cyan("|")));
        }
        if let Some(help) = help {
            output.note(&format!("  {} help: {}", style.cyan("="), printable(help)));
        }
    }
    for LockDifference { stage, what, why } in &summary.differences {
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(": {}", printable(why))
        };
        output.note(&format!(
            "{}: stage `{stage}` is not as in the lock file: {}{why}",
            style.red("error"),
            printable(what)
        ));
    }
    output.note(&closing_line(program, summary));
    failure.map_or(Ok(()), Err)
}

fn failure(program: &Program, summary: &SessionSummary) -> Option<Failure> {
    if summary.run.interrupted {
        return Some(program.stop.failure().unwrap_or(Failure::Interrupted));
    }
    if !summary.run.succeeded() {
        return Some(Failure::Stage(None));
    }
    (!summary.differences.is_empty()).then_some(Failure::Differs(None))
}

fn closing_line(program: &Program, summary: &SessionSummary) -> String {
    let style = program.output.note_style();
    let record = &summary.run.record;
    let time = units::seconds(record.seconds);
    if summary.at_a_glance {
        let stages = units::plural(record.n_stages, "stage");
        return format!(
            "{}: nothing to do, {stages} up to date ({time})",
            style.green(&record.pipeline)
        );
    }
    // A record that goes on from another leaves out hits.
    let (n, n_left_out) = match record.same_as {
        Some(_) => (
            record.n_stages,
            record.n_stages.saturating_sub(record.stages.len()),
        ),
        None => (record.stages.len(), 0),
    };
    if n == 0 {
        return style.dim("nothing ran");
    }
    let of = |outcomes: &[Outcome]| {
        record
            .stages
            .iter()
            .filter(|s| outcomes.contains(&s.outcome))
            .count()
    };
    let hits = n_left_out + of(&[Outcome::Hit]);
    if hits == n {
        let stages = units::plural(n, "stage");
        return format!(
            "{}: nothing to do, {stages} up to date ({time})",
            style.green(&record.pipeline)
        );
    }
    let parts = [
        (of(&[Outcome::Ran, Outcome::Unchanged]), "ran"),
        (hits, "from the cache"),
        (of(&[Outcome::Failed]), "failed"),
        (of(&[Outcome::Interrupted]), "stopped"),
        (of(&[Outcome::Skipped]), "not started"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    let pipeline = if summary.run.succeeded() {
        style.green(&record.pipeline)
    } else {
        style.bold(&record.pipeline)
    };
    let mut line = format!(
        "{pipeline}: {} of {} in {time}",
        parts.join(", "),
        units::plural(n, "stage")
    );
    if summary.run.interrupted {
        line.push_str("; the same command goes on from here");
    } else if !summary.run.succeeded() && !record.id.is_empty() {
        let log = program
            .workspace()
            .map(|w| w.state().join("runs").join(&record.id).join("log.txt"));
        if let Ok(log) = log {
            let _ = write!(line, "; log: {}", shown(&log).display());
        }
    }
    line
}

fn to_json(summary: &SessionSummary, exit_code: u8) -> Value {
    let record = &summary.run.record;
    let warnings: Vec<Value> = summary.warnings.iter().map(diagnostic::json).collect();
    json!({
        "run": record.id,
        "pipeline": record.pipeline,
        "profile": record.profile,
        "seconds": record.seconds,
        "interrupted": summary.run.interrupted,
        "stages": record.stages.iter().map(stage_json).collect::<Vec<_>>(),
        "differences": summary.differences,
        "diagnostics": warnings,
        "exit_code": exit_code,
    })
}

fn stage_json(stage: &StageRecord) -> Value {
    let outputs: serde_json::Map<String, Value> = stage
        .outputs
        .iter()
        .map(|(port, manifest)| {
            let description = json!({
                "kind": manifest.kind, "bytes": manifest.bytes, "logical": manifest.logical,
                "size": manifest.size(), "rows": manifest.rows,
            });
            (port.clone(), description)
        })
        .collect();
    json!({
        "name": stage.name, "kind": stage.kind, "key": stage.key, "outcome": stage.outcome,
        "seconds": stage.seconds, "outputs": outputs, "error": stage.error, "ignored": stage.ignored,
    })
}

impl Program {
    /// A display of stages at work, which also says what signals have to say.
    pub(crate) fn watch(&self) -> Arc<Display> {
        let style = self.output.note_style();
        let display = Arc::new(Display::new(
            Mode::choose(&self.output),
            style,
            crate::output::note,
        ));
        let shown = Arc::clone(&display);
        self.stop.gently();
        self.stop.say_through(move |text| shown.line(text));
        display
    }
}
