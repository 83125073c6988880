//! `natron verify`.

use std::{
    env,
    num::NonZeroUsize,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use clap::{Args, ValueEnum};
use natron_runner::{
    LockFile, Verdict, Verification, VerifyOptions, Watcher, history::write_atomically, lock_path,
    verify, verify_locked,
};
use serde_json::json;

use crate::{
    arguments::Overrides,
    failure::Failure,
    program::{Loaded, Program},
    style::printable,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron verify
  natron verify pipelines/natron_v2.toml features labels
  natron verify --locked                  no execution: keys against the lock file
  natron verify --threads 1 --threads 2 --junit verify.xml";

/// Run stages again elsewhere, and compare every byte.
///
/// Each stage runs from its recorded inputs, in a scratch folder, with another number of threads, time zone and locale;
/// nothing is written to the cache.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The pipeline file [default: the only one in `pipelines/`], then the stages [default: all].
    #[arg(value_name = "[PIPELINE] [STAGE]")]
    names: Vec<String>,
    #[command(flatten)]
    overrides: Overrides,
    /// Execute nothing: compare keys with the lock file beside the pipeline.
    #[arg(long, conflicts_with_all = ["threads", "perturb"])]
    locked: bool,
    /// Run each stage with this many threads. May be repeated [default: another number than before].
    #[arg(long, value_name = "N")]
    threads: Vec<NonZeroUsize>,
    /// What to change between the runs.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    perturb: Perturb,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// What differs between the runs of `verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Perturb {
    /// Folder, number of threads, time zone, locale.
    #[default]
    All,
    /// Nothing: a plain repeat.
    None,
}

/// Set for the process that has the perturbed environment already.
const PERTURBED: &str = "NATRON_PERTURBED";

/// An odd time zone (UTC+12:45 or +13:45), a locale with its own letters, and another order of sets in Python.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("TZ", "Pacific/Chatham"),
    ("LC_ALL", "tr_TR.UTF-8"),
    ("PYTHONHASHSEED", "4242"),
    (PERTURBED, "1"),
];

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let (pipeline, stages) = match arguments.names.split_first() {
        Some((first, rest)) if is_pipeline(first) => (Some(Path::new(first)), rest),
        _ => (None, arguments.names.as_slice()),
    };
    if !arguments.locked && arguments.perturb == Perturb::All && env::var_os(PERTURBED).is_none() {
        return Err(again_perturbed());
    }
    let loaded = program.load(pipeline, &arguments.overrides)?;
    if arguments.locked {
        return locked(program, &loaded);
    }
    let threads: Vec<Option<usize>> = match arguments.threads.as_slice() {
        [] => vec![None],
        given => given.iter().map(|n| Some(n.get())).collect(),
    };
    let mut verifications = Vec::new();
    for threads in threads {
        let options = VerifyOptions {
            stages: stages.to_vec(),
            threads,
            unperturbed: arguments.perturb == Perturb::None,
        };
        let display = program.watch();
        let watcher: Arc<dyn Watcher> = Arc::clone(&display) as Arc<dyn Watcher>;
        let result = verify(
            &loaded.graph,
            &loaded.workspace,
            &options,
            &watcher,
            &program.stop.cancel,
        );
        display.finish();
        let verification = result?;
        let interrupted = verification.interrupted;
        verifications.push(verification);
        if interrupted {
            break;
        }
    }
    if let Some(path) = &arguments.junit {
        let text: String = match verifications.as_slice() {
            [only] => only.junit(),
            several => junit_of_several(several),
        };
        write_atomically(path, text.as_bytes())
            .map_err(|error| Failure::file("write", path, &error))?;
    }
    report(program, &loaded, &verifications)
}

fn is_pipeline(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|ending| ending == "toml")
}

/// Starts this program again with a perturbed environment. Returns only if that fails.
fn again_perturbed() -> Failure {
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return Failure::store(format!("cannot find this program's file: {error}")),
    };
    let error = Command::new(program)
        .args(env::args_os().skip(1))
        .envs(ENVIRONMENT)
        .exec();
    Failure::store(format!(
        "cannot start again with another environment: {error}"
    ))
    .help("`--perturb none` repeats without")
}

fn locked(program: &Program, loaded: &Loaded) -> Result<(), Failure> {
    let path = lock_path(&loaded.file);
    let lock = LockFile::read(&path)?;
    let entries = lock.required_entries(&loaded.graph, &path)?;
    let differences = verify_locked(&loaded.graph, &loaded.workspace, entries)?;
    let output = &program.output;
    if output.is_json() {
        let code = if differences.is_empty() { 0 } else { 3 };
        output.json(
            json!({ "pipeline": loaded.graph.name, "differences": differences, "exit_code": code }),
        );
    }
    let style = output.note_style();
    for difference in &differences {
        output.note(&format!(
            "{}: stage `{}`: {}: {}",
            style.red("differs"),
            difference.stage,
            printable(&difference.what),
            printable(&difference.why)
        ));
    }
    let stages = units::plural(loaded.graph.instances.len(), "stage");
    if differences.is_empty() {
        output.note(&format!(
            "{}: {stages} as in `{}`",
            style.green("locked"),
            path.display()
        ));
        return Ok(());
    }
    let n = units::plural(differences.len(), "difference");
    output.note(&format!(
        "{}: {n} from `{}`",
        style.red("error"),
        path.display()
    ));
    Err(Failure::Differs(None))
}

fn report(
    program: &Program,
    loaded: &Loaded,
    verifications: &[Verification],
) -> Result<(), Failure> {
    let output = &program.output;
    let verdicts = || {
        verifications
            .iter()
            .flat_map(|v| &v.stages)
            .map(|s| &s.verdict)
    };
    let has_failed =
        verdicts().any(|v| matches!(v, Verdict::Differs { .. } | Verdict::Failed { .. }));
    let has_gap = verdicts().any(|v| matches!(v, Verdict::NotCached));
    let interrupted = verifications.iter().any(|v| v.interrupted);
    let failure = if interrupted {
        Some(program.stop.failure().unwrap_or(Failure::Interrupted))
    } else if has_failed {
        Some(Failure::Differs(None))
    } else if has_gap {
        let text = "some stages have no result to compare with";
        Some(Failure::usage(text).help("`natron run` makes them"))
    } else {
        None
    };
    if output.is_json() {
        let code = failure.as_ref().map_or(0, Failure::code);
        output.json(json!({ "pipeline": loaded.graph.name, "verifications": verifications, "exit_code": code }));
    }
    let style = output.note_style();
    for verification in verifications {
        let all = verification.stages.len();
        let count = |wanted: fn(&Verdict) -> bool| {
            verification
                .stages
                .iter()
                .filter(|s| wanted(&s.verdict))
                .count()
        };
        let bytes = count(|verdict| matches!(verdict, Verdict::Bytes));
        let content = count(|verdict| matches!(verdict, Verdict::Logical));
        for stage in &verification.stages {
            if let Some(text) = verdict_text(&stage.verdict) {
                output.note(&format!(
                    "{}: stage `{}`: {text}",
                    style.red("error"),
                    stage.stage
                ));
            }
        }
        let word = if bytes + content == all {
            style.green("verified")
        } else {
            style.red("differs")
        };
        let same = match content {
            0 => "the same bytes".to_owned(),
            n => format!("the same ({n} of them in other bytes)"),
        };
        output.note(&format!(
            "{word}: {} of {} gave {same} again with {}",
            bytes + content,
            units::plural(all, "stage"),
            units::plural(verification.threads, "thread")
        ));
    }
    failure.map_or(Ok(()), Err)
}

/// What is wrong; nothing if nothing is.
fn verdict_text(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Bytes | Verdict::Logical => None,
        Verdict::Differs { output, divergence } => Some(printable(&format!(
            "output `{output}` differs: {divergence}"
        ))),
        Verdict::Failed { message } => Some(printable(&format!("failed this time: {message}"))),
        Verdict::NotCached => Some("no result to compare with; `natron run` makes it".to_owned()),
    }
}

/// Several verifications in one JUnit file.
fn junit_of_several(verifications: &[Verification]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for verification in verifications {
        let suite = verification.junit();
        let suite = suite
            .split_once("?>\n")
            .map_or(suite.as_str(), |(_, suite)| suite);
        text.push_str(&suite.replacen(
            "name=\"natron verify\"",
            &format!(
                "name=\"natron verify, {}\"",
                units::plural(verification.threads, "thread")
            ),
            1,
        ));
    }
    text.push_str("</testsuites>\n");
    text
}
