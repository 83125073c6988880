//! `natron-faults`: runs the fault suite. `natron-faults natron ARGUMENTS` is the program itself with toy stages.

use std::{
    env,
    ffi::OsString,
    io::{self, Read, Write},
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use clap::{Parser, Subcommand};
use natron_faults::{
    Checked, While, concurrency, corpora, corruption, crash, figures, fuzz, io_errors, kill,
    mutants, plugins,
    readers::Reader,
    resume, scheduler,
    sweep::{Plan, Tally, say},
    toys,
};

#[derive(Debug, Parser)]
#[command(about = "Runs the fault suite.", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the families of faults and write the page of figures.
    Run(Run),
    /// Give one reader mutated bytes for a while.
    Fuzz(Fuzz),
    /// Build the deliberately broken program in a folder of its own, and print its place.
    BuildMutants,
}

/// The family that needs a build of its own.
const MUTANTS: &str = "mutants";

#[derive(Debug, clap::Args)]
struct Fuzz {
    /// The reader.
    reader: String,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// At most so many executions.
    #[arg(long, default_value_t = u64::MAX)]
    executions: u64,
    /// Decides the mutations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where findings go.
    #[arg(long, default_value = "target/faults/fuzz")]
    out: PathBuf,
    /// Write the bytes down before each execution from this one on.
    #[arg(long)]
    careful_from: Option<u64>,
    /// Only read the bytes of this file and say what comes of it.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Only write good bytes to this folder.
    #[arg(long)]
    write_seeds: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// A small part of everything, for every change.
    #[arg(long)]
    fast: bool,
    /// Only these families.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Decides everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where lines, figures and the workspaces of failures go.
    #[arg(long, default_value = "target/faults")]
    out: PathBuf,
    /// The longest that one family may take, in minutes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Cases at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Only the case of this id, as a failure names it.
    #[arg(long)]
    case: Option<String>,
    /// The commit that the program was built from, for the page [default: the repository's].
    #[arg(long)]
    commit: Option<String>,
    /// The date for the page.
    #[arg(long, default_value = "no date given")]
    date: String,
    /// A program built with the feature `mutants`, as `natron-faults build-mutants` makes it.
    #[arg(long)]
    mutants: Option<PathBuf>,
    /// Where workspaces are made; a disk instead of memory makes everything slower.
    #[arg(long)]
    work: Option<PathBuf>,
}

type RunFamily = fn(&Plan) -> Checked<Tally>;

const FAMILIES: [(&str, RunFamily); 11] = [
    ("kill", kill::run),
    ("recovery", kill::run_pairs),
    ("crash", crash::run),
    ("io", io_errors::run),
    ("corruption", corruption::run),
    ("scheduler", scheduler::run),
    ("concurrency", concurrency::run),
    ("plugins", plugins::run),
    ("corpora", corpora::run),
    ("resume", resume::run),
    ("fuzz", fuzz::run),
];

fn main() -> ExitCode {
    let mut words: Vec<OsString> = env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "natron") {
        words.remove(1);
        if env::var_os(concurrency::BARRIER).is_some() {
            let _ = io::stdin().read_to_end(&mut Vec::new());
        }
        return natron_cli::main_with_arguments(toys::registry(), &words);
    }
    if words.get(1).is_some_and(|word| word == "stage") {
        // A stage in a process of its own: the program starts itself.
        return natron_cli::main_with_arguments(toys::registry(), &words);
    }
    let result = match Arguments::parse().action {
        Action::Run(arguments) => run(&arguments),
        Action::Fuzz(arguments) => fuzz(&arguments),
        Action::BuildMutants => mutants::build().and_then(|path| {
            writeln!(io::stdout(), "{}", path.display()).at("standard output")?;
            Ok(true)
        }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Whether nothing failed.
fn run(arguments: &Run) -> Checked<bool> {
    let memory = tempfile::Builder::new()
        .prefix("natron-faults-")
        .tempdir_in("/dev/shm");
    let folder = memory
        .or_else(|_| tempfile::tempdir())
        .at("a folder for workspaces")?;
    let work = arguments
        .work
        .clone()
        .unwrap_or_else(|| folder.path().to_owned());
    std::fs::create_dir_all(&arguments.out).at("create")?;
    let plan = Plan {
        seed: arguments.seed,
        fast: arguments.fast,
        out: arguments.out.canonicalize().at("the folder for figures")?,
        work,
        program: env::current_exe().at("the program")?,
        threads: arguments.threads,
        longest: Duration::from_secs_f64(arguments.minutes * 60.0),
        case: arguments.case.clone(),
    };
    for name in &arguments.only {
        if name != MUTANTS && !FAMILIES.iter().any(|(family, _)| family == name) {
            let names: Vec<&str> = FAMILIES.iter().map(|(family, _)| *family).collect();
            return Err(format!(
                "no family is called `{name}`; there are {}",
                names.join(", ")
            ));
        }
    }
    let mut families = Vec::new();
    for (name, family) in FAMILIES {
        let wanted = arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
        families.push((name, if wanted { Some(family(&plan)?) } else { None }));
    }
    let wanted = arguments.only.is_empty() && !arguments.fast
        || arguments.only.iter().any(|only| only == MUTANTS);
    let program = arguments.mutants.as_deref();
    let tally = if wanted {
        Some(mutants::run(&plan, program)?)
    } else {
        None
    };
    families.push((MUTANTS, tally));
    let words: Vec<String> = env::args().skip(1).collect();
    let command = format!("natron-faults {}", words.join(" "));
    let page = figures::write(
        &plan,
        &command,
        &arguments.commit.clone().unwrap_or_else(commit),
        &arguments.date,
        &families,
    )?;
    let mut output = io::stdout();
    output.write_all(page.as_bytes()).at("standard output")?;
    let failed = families
        .iter()
        .flat_map(|(_, tally)| tally)
        .any(|tally| !tally.failures.is_empty());
    if failed && arguments.work.is_none() {
        say(&format!(
            "workspaces of failures are kept in {}",
            folder.keep().display()
        ));
    }
    Ok(!failed)
}

fn fuzz(arguments: &Fuzz) -> Checked<bool> {
    let reader = Reader::named(&arguments.reader)
        .ok_or_else(|| format!("no reader is called `{}`", arguments.reader))?;
    let (text, is_well) = if let Some(path) = &arguments.input {
        (fuzz::again(reader, path)?, true)
    } else if let Some(folder) = &arguments.write_seeds {
        (
            format!("{} files", fuzz::write_seeds(reader, folder)?),
            true,
        )
    } else {
        let job = fuzz::Job {
            reader,
            seconds: arguments.seconds,
            executions: arguments.executions,
            seed: arguments.seed,
            out: arguments.out.clone(),
            careful_from: arguments.careful_from,
        };
        let answer = fuzz::fuzz(&job)?;
        let is_well = answer["findings"].as_array().is_none_or(Vec::is_empty);
        (answer.to_string(), is_well)
    };
    writeln!(io::stdout(), "{text}").at("standard output")?;
    Ok(is_well)
}

fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    output.map_or_else(
        |_| "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
