//! `natron verify`.

use std::{
    collections::BTreeSet,
    env,
    num::NonZeroUsize,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use natron_runner::{
    Choice, LockFile, Means, Perturbation, Sample, VerifyOptions, Watcher,
    history::write_atomically, lock_path, perturbations, perturbed_environment, verify,
    verify_locked,
};
use serde_json::{Value, json};

use crate::{
    arguments::Overrides,
    failure::Failure,
    output::JSON_VERSION,
    program::{Loaded, Program},
    style::printable,
    units,
};

mod interrupt;
mod report;

const EXAMPLES: &str = "\
Examples:
  natron verify
  natron verify pipelines/natron_v2.toml features labels
  natron verify --locked                  no execution: keys against the lock file
  natron verify --budget 10m --junit verify.xml
  natron verify --sample 20% --seed 7 --runs 2
  natron verify --perturb time-zone,locale clean
  natron verify --interrupt finetune --times 20

What is changed between the runs (`--perturb`): path, depth, time-zone, locale, hash-seed, folder-order, threads,
start-time, umask, host-name, home; what a stage declares in its environment is part of its key and stays.";

/// Run stages again elsewhere, and compare every byte.
///
/// Each stage runs from its recorded inputs, in a scratch folder, under other conditions. Of the cache only the counts of
/// confirmed results are changed. A stage may say that less than equal bytes will do: `reproducible` in the pipeline file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The pipeline file [default: the only one in `pipelines/`], then the stages [default: all].
    #[arg(value_name = "[PIPELINE] [STAGE]")]
    names: Vec<String>,
    #[command(flatten)]
    overrides: Overrides,
    /// Execute nothing: compare keys with the lock file beside the pipeline.
    #[arg(long, conflicts_with_all = ["threads", "perturb", "sample", "budget", "runs", "interrupt"])]
    locked: bool,
    /// Only some stages, at random: a part, as `0.2` or `20%`, or a number, as `5`.
    #[arg(long, value_name = "P|N", conflicts_with = "budget")]
    sample: Option<Sample>,
    /// Only what fits into this time, by earlier runs; what was never verified first, then what was longest ago.
    #[arg(long, value_name = "TIME", value_parser = units::parse_seconds)]
    budget: Option<u64>,
    /// How often each stage is repeated, each time under other conditions.
    #[arg(long, value_name = "N", default_value = "1")]
    runs: NonZeroUsize,
    /// Seed of `--sample` and of what is shuffled [default: another each time; it is printed].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// What to change: `all`, `none`, or some of the names below.
    #[arg(
        long,
        value_name = "LIST",
        default_value = "all",
        value_delimiter = ','
    )]
    perturb: Vec<String>,
    /// Run each stage with this many threads. May be repeated [default: another number than before].
    #[arg(long, value_name = "N")]
    threads: Vec<NonZeroUsize>,
    /// Do not find out which condition a stage depends on that came out otherwise.
    #[arg(long)]
    no_blame: bool,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Kill this stage at random points, let it go on from its checkpoint, and compare.
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["sample", "budget", "runs", "threads", "perturb", "junit"])]
    interrupt: Option<String>,
    /// How many executions `--interrupt` interrupts.
    #[arg(long, value_name = "N", default_value = "20", requires = "interrupt")]
    times: NonZeroUsize,
    /// Work in this folder as a child of `--interrupt`.
    #[arg(long, value_name = "DIR", hide = true, requires = "interrupt")]
    interrupt_child: Option<PathBuf>,
    /// Seconds between two checkpoints of that child.
    #[arg(long, value_name = "SECONDS", hide = true, default_value = "2")]
    checkpoint_every: f64,
}

/// Set for the process that has the perturbed environment already.
const PERTURBED: &str = "NATRON_PERTURBED";

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let (pipeline, stages) = match arguments.names.split_first() {
        Some((first, rest)) if is_pipeline(first) => (Some(Path::new(first)), rest),
        _ => (None, arguments.names.as_slice()),
    };
    if let Some(stage) = &arguments.interrupt {
        if let Some(name) = stages.first() {
            let text = format!("`--interrupt {stage}` takes one stage; what is `{name}` for?");
            return Err(Failure::usage(text));
        }
        let loaded = program.load(pipeline, &arguments.overrides)?;
        return match &arguments.interrupt_child {
            Some(folder) => interrupt::child(&loaded, stage, folder, arguments),
            None => interrupt::run(program, &loaded, stage, arguments),
        };
    }
    let perturb = perturb(&arguments.perturb)?;
    if !arguments.locked && env::var_os(PERTURBED).is_none() {
        let environment = perturbed_environment(&Means::find(), &perturb, 0);
        if !environment.is_empty() {
            return Err(again_with(&environment));
        }
    }
    let loaded = program.load(pipeline, &arguments.overrides)?;
    if arguments.locked {
        return locked(program, &loaded);
    }
    let seed = arguments
        .seed
        .unwrap_or_else(|| natron_cache::clock::unix_ms() % 1_000_000);
    let options = VerifyOptions {
        stages: stages.to_vec(),
        choice: match (arguments.sample, arguments.budget) {
            (Some(sample), _) => Choice::Sample(sample),
            (_, Some(seconds)) => Choice::Budget(Duration::from_secs(seconds)),
            _ => Choice::All,
        },
        threads: arguments.threads.iter().map(|n| n.get()).collect(),
        runs: arguments.runs.get(),
        perturb,
        seed,
        blame: !arguments.no_blame,
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
    let failure = report::failure(program, &verification);
    let code = failure.as_ref().map_or(0, Failure::code);
    let mut value = serde_json::to_value(&verification).unwrap_or_default();
    value["exit_code"] = code.into();
    if let Some(path) = &arguments.junit {
        write(path, &verification.junit())?;
    }
    write_report(arguments.report.as_deref(), &value)?;
    if program.output.is_json() {
        program.output.json(value);
    }
    report::show(program, &verification, options.choice);
    failure.map_or(Ok(()), Err)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_atomically(path, text.as_bytes()).map_err(|error| Failure::file("write", path, &error))
}

/// Writes `value` with the version of its form.
fn write_report(path: Option<&Path>, value: &Value) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let mut value = value.clone();
    value["version"] = JSON_VERSION.into();
    write(path, &format!("{value:#}\n"))
}

fn perturb(names: &[String]) -> Result<BTreeSet<Perturbation>, Failure> {
    let names = names.iter().map(|name| name.trim());
    perturbations(names).map_err(|(name, near)| {
        let failure = Failure::usage(format!("`--perturb`: nothing is called `{name}`"));
        if let Some(near) = near {
            failure.help(format!("did you mean `{near}`?"))
        } else {
            let known = Perturbation::ALL.map(Perturbation::name).join(", ");
            failure.help(format!("there are all, none, {known}"))
        }
    })
}

fn is_pipeline(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|ending| ending == "toml")
}

/// Starts this program again with another environment. Returns only if that fails.
fn again_with(environment: &std::collections::BTreeMap<String, String>) -> Failure {
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return Failure::store(format!("cannot find this program's file: {error}")),
    };
    let error = Command::new(program)
        .args(env::args_os().skip(1))
        .envs(environment)
        .env(PERTURBED, "1")
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
