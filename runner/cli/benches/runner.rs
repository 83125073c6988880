//! How fast the runner is, beside `ninja` and `make` on the same work in the same run.
//!
//!     cargo bench --bench runner                 # up to 10,000 stages, some minutes
//!     cargo bench --bench runner -- --full       # up to 100,000 stages
//!     cargo bench --bench runner -- --only cold  # noop, cold, change, restore, inside
//!     cargo bench --bench runner -- --only generate --sizes 1000 --to DIR
//!
//! Every stage is a `command` of two small processes, `sh -c "cat IN > OUT && echo I >> OUT"`; a rule of ninja and of make
//! does the same. Stages are written out one by one: there is no matrix, so the files are large. Each figure is the median
//! of several runs of the whole program, process start included; memory is the largest resident set.

use std::{
    env, fmt,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Instant,
};

use natron_artifacts::{
    Artifact, Cancel, Kind, Metrics, PortSchema, Registry, Schemas, Signature, Stage, StageContext,
    StageError,
};
use natron_runner::{
    Invocation, LoadOptions, LockMode, RunOptions, Unwatched, Watcher, Workspace, run_file,
};
use nix::sys::resource::{UsageWho, getrusage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Runs of a probe that takes milliseconds.
const REPEATS: usize = 11;
/// Runs of a probe that takes seconds.
const COLD_REPEATS: usize = 3;
/// Stages in one chain of the probe that measures runs with nothing to do.
const CHAIN: usize = 10;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(command) = arguments.strip_prefix(&["--measure".to_owned()]) {
        return measured(command);
    }
    let options = Options::parse(&arguments)?;
    let folder = match &options.to {
        Some(path) => {
            fs::create_dir_all(path)?;
            path.clone()
        }
        None => tempfile::tempdir()?.keep(),
    };
    let tools = Tools::find();
    let mut table = Table::default();
    for probe in ["noop", "cold", "change", "restore", "inside"] {
        if options.wants(probe) {
            match probe {
                "noop" => noop(&folder, &options, &tools, &mut table)?,
                "cold" => cold(&folder, &tools, &mut table)?,
                "change" => change(&folder, &mut table)?,
                "restore" => restore(&folder, &mut table)?,
                _ => inside(&folder, &mut table)?,
            }
        }
    }
    if options.only.as_deref() == Some("generate") {
        for &size in &options.sizes {
            Shape::Chains.generate(&folder.join(format!("chains-{size}")), size)?;
            Shape::Fan.generate(&folder.join(format!("fan-{size}")), size)?;
        }
        say(&format!("{}", folder.display()));
        return Ok(());
    }
    say(&table.to_string());
    if options.to.is_none() {
        fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Options {
    only: Option<String>,
    sizes: Vec<usize>,
    to: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            sizes: vec![100, 1_000, 10_000],
            ..Self::default()
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().ok_or(format!("`{argument}` wants a value"));
            match argument.as_str() {
                "--full" => options.sizes.push(100_000),
                "--only" => options.only = Some(value()?.clone()),
                "--to" => options.to = Some(value()?.into()),
                "--sizes" => {
                    options.sizes = value()?
                        .split(',')
                        .map(str::parse)
                        .collect::<std::result::Result<_, _>>()?;
                }
                // What cargo passes to every benchmark.
                "--bench" => {}
                _ => return Err(format!("unknown argument `{argument}`").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, probe: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == probe)
    }
}

/// Nothing to do.
fn noop(folder: &Path, options: &Options, tools: &Tools, table: &mut Table) -> Result<()> {
    for &size in &options.sizes {
        let target = match size {
            100 => Some(5.0),
            1_000 => Some(10.0),
            10_000 => Some(30.0),
            100_000 => Some(250.0),
            _ => None,
        };
        let folder = folder.join(format!("noop-{size}"));
        Shape::Chains.generate(&folder, size)?;
        say(&format!("{size} stages: a first run"));
        Tools::natron(&folder).ran()?;
        for peer in &tools.peers {
            peer.command(&folder).ran()?;
        }
        // What was written just now is read again once.
        std::thread::sleep(std::time::Duration::from_millis(100));
        Tools::natron(&folder).ran()?;
        let row = table.row(&format!("nothing to do, {size} stages"), "ms", target);
        row.measure("natron", REPEATS, || {
            Ok(Tools::natron(&folder).ran()?.seconds * 1e3)
        })?;
        for peer in &tools.peers {
            row.measure(peer.name, REPEATS, || {
                Ok(peer.command(&folder).ran()?.seconds * 1e3)
            })?;
        }
        let target = match size {
            10_000 => Some(40.0),
            100_000 => Some(150.0),
            _ => None,
        };
        let row = table.row(&format!("peak memory, {size} stages"), "MB", target);
        row.measure("natron", 1, || {
            Ok(Tools::natron(&folder).ran()?.peak_bytes / 1e6)
        })?;
        for peer in &tools.peers {
            row.measure(peer.name, 1, || {
                Ok(peer.command(&folder).ran()?.peak_bytes / 1e6)
            })?;
        }
    }
    Ok(())
}

/// Everything to do.
fn cold(folder: &Path, tools: &Tools, table: &mut Table) -> Result<()> {
    for (name, shape, size) in [
        ("a chain of 100, cold", Shape::Chain, 100),
        ("a fan of 1,000, cold", Shape::Fan, 1_000),
    ] {
        let folder = folder.join(format!("cold-{size}"));
        shape.generate(&folder, size)?;
        let row = table.row(name, "ms", None);
        // In turns, so that whatever else the machine does falls on all alike.
        for _ in 0..COLD_REPEATS {
            let _ = fs::remove_dir_all(folder.join(".natron"));
            row.measure("natron", 1, || {
                Ok(Tools::natron(&folder).ran()?.seconds * 1e3)
            })?;
            for peer in &tools.peers {
                for entry in fs::read_dir(folder.join("out"))? {
                    fs::remove_file(entry?.path())?;
                }
                let _ = fs::remove_file(folder.join(".ninja_log"));
                let _ = fs::remove_file(folder.join(".ninja_deps"));
                row.measure(peer.name, 1, || {
                    Ok(peer.command(&folder).ran()?.seconds * 1e3)
                })?;
            }
        }
        let ninja = row.median("ninja");
        row.target = ninja.map(|ninja| 1.3 * ninja);
    }
    Ok(())
}

/// One parameter among 1,000 stages is another.
fn change(folder: &Path, table: &mut Table) -> Result<()> {
    let folder = folder.join("change");
    Shape::Fan.generate(&folder, 1_000)?;
    Tools::natron(&folder).ran()?;
    let path = folder.join("pipelines/p.toml");
    let text = fs::read_to_string(&path)?;
    let row = table.row(
        "one of 1,000 stages changed, beyond the stage",
        "ms",
        Some(25.0),
    );
    // A run of that stage alone, without what the other 999 cost.
    let alone = folder.join("alone");
    Shape::Fan.generate(&alone, 1)?;
    let mut baseline = Vec::new();
    for i in 0..REPEATS {
        let text = fs::read_to_string(alone.join("pipelines/p.toml"))?;
        let changed = text.replace("echo 0", &format!("echo 0{i}"));
        fs::write(alone.join("pipelines/p.toml"), changed)?;
        baseline.push(Tools::natron(&alone).ran()?.seconds * 1e3);
        fs::write(alone.join("pipelines/p.toml"), text)?;
    }
    let baseline = median(&mut baseline);
    for i in 0..REPEATS {
        let changed = text.replace("echo 500 >>", &format!("echo 500{i}x >>"));
        fs::write(&path, changed)?;
        row.measure("natron", 1, || {
            Ok(Tools::natron(&folder).ran()?.seconds * 1e3 - baseline)
        })?;
    }
    Ok(())
}

/// Fifty results are in the cache and not in the workspace.
fn restore(folder: &Path, table: &mut Table) -> Result<()> {
    let folder = folder.join("restore");
    Shape::Chain.generate(&folder, 50)?;
    let path = folder.join("pipelines/p.toml");
    let mut text = fs::read_to_string(&path)?;
    for i in 0..50 {
        text = text.replace(
            &format!("[stages.s{i}]\n"),
            &format!("[stages.s{i}]\nviews.y = \"shown/{i}.txt\"\n"),
        );
    }
    fs::write(&path, text)?;
    Tools::natron(&folder).ran()?;
    let row = table.row("50 results restored", "ms", Some(20.0));
    for _ in 0..REPEATS {
        fs::remove_dir_all(folder.join("shown"))?;
        row.measure("natron", 1, || {
            Ok(Tools::natron(&folder).ran()?.seconds * 1e3)
        })?;
        let n = fs::read_dir(folder.join("shown"))?.count();
        if n != 50 {
            return Err(format!("{n} of 50 results were restored").into());
        }
    }
    Ok(())
}

/// Adds one to what comes in.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Next {
    /// Added.
    add: f64,
}

impl Stage for Next {
    fn signature(&self, _: &Schemas) -> std::result::Result<Signature, StageError> {
        let signature = Signature {
            open_inputs: true,
            ..Signature::new()
        };
        Ok(signature.output("x", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, context: &mut StageContext) -> std::result::Result<(), StageError> {
        let mut metrics = Metrics::new();
        metrics.set("x", self.add).map_err(StageError::data)?;
        context.write("x", Artifact::from(metrics))
    }
}

/// Stages inside the process that do next to nothing.
fn inside(folder: &Path, table: &mut Table) -> Result<()> {
    let mut registry = Registry::new();
    registry.register::<Next>("next", "1");
    for (name, size, is_chain) in [
        ("overhead of a stage inside, chain of 1,000", 1_000, true),
        ("overhead of a stage inside, fan of 10,000", 10_000, false),
    ] {
        let folder = folder.join(format!("inside-{size}"));
        let row = table.row(name, "us", Some(50.0));
        for _ in 0..COLD_REPEATS {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder)?;
            let mut text = String::from("[pipeline]\nname = \"p\"\n");
            for i in 0..size {
                write!(text, "[stages.s{i}]\nuses = \"next\"\nwith.add = {i}\n")?;
                if is_chain && i > 0 {
                    writeln!(text, "inputs.x = \"s{}\"", i - 1)?;
                }
            }
            let file = folder.join("p.toml");
            fs::write(&file, text)?;
            let workspace = Workspace::new(&folder, None);
            let load = LoadOptions {
                workspace: folder.clone(),
                ..LoadOptions::default()
            };
            let options = RunOptions::default();
            let asked = Invocation {
                file: &file,
                registry: &registry,
                load: &load,
                options: &options,
                lock: LockMode::Ignore,
                workspace: &workspace,
            };
            let watcher: Arc<dyn Watcher> = Arc::new(Unwatched);
            row.measure("natron", 1, || {
                let started = Instant::now();
                let summary = run_file(&asked, &watcher, &Cancel::new())?;
                if !summary.run.succeeded() {
                    return Err("a stage failed".into());
                }
                Ok(started.elapsed().as_secs_f64() * 1e6 / f64::from(size))
            })?;
        }
    }
    Ok(())
}

/// How the stages of a probe hang together.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Each reads the one before.
    Chain,
    /// Chains of ten.
    Chains,
    /// All read one file.
    Fan,
}

impl Shape {
    /// Writes the pipeline, `build.ninja`, `Makefile` and sources for `size` stages.
    fn generate(self, folder: &Path, size: usize) -> Result<()> {
        for name in ["pipelines", "src", "out"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let mut pipeline = String::from("[pipeline]\nname = \"p\"\n\n");
        let mut ninja = String::from("rule r\n  command = cat $in > $out && echo $i >> $out\n");
        let mut make = String::from("all:");
        for i in 0..size {
            write!(make, " out/{i}.txt")?;
        }
        make.push_str("\n\n");
        for i in 0..size {
            let before = match self {
                Self::Chain => i.checked_sub(1),
                Self::Chains => i.checked_sub(1).filter(|_| i % CHAIN != 0),
                Self::Fan => None,
            };
            let source = match self {
                Self::Fan => "src/s.txt".to_owned(),
                _ => format!("src/s{i}.txt"),
            };
            let (input, file) = match before {
                Some(before) => (format!("\"s{before}\""), format!("out/{before}.txt")),
                None => (format!("{{ file = \"{source}\" }}"), source.clone()),
            };
            if before.is_none() {
                fs::write(folder.join(&source), format!("{i}\n"))?;
            }
            write!(
                pipeline,
                "[stages.s{i}]\nuses = \"command\"\ninputs.x = {input}\nwith.run = [\"sh\", \"-c\", \"cat ${{inputs.x}} > ${{outputs.y}} && echo {i} >> ${{outputs.y}}\"]\nwith.outputs.y = \"file\"\n\n"
            )?;
            write!(ninja, "build out/{i}.txt: r {file}\n  i = {i}\n")?;
            write!(
                make,
                "out/{i}.txt: {file}\n\tcat $< > $@ && echo {i} >> $@\n"
            )?;
        }
        fs::write(folder.join("pipelines/p.toml"), pipeline)?;
        fs::write(folder.join("build.ninja"), ninja)?;
        fs::write(folder.join("Makefile"), make)?;
        Ok(())
    }
}

struct Tools {
    peers: Vec<Peer>,
}

struct Peer {
    name: &'static str,
    arguments: Vec<String>,
}

impl Tools {
    /// The peers that are installed.
    fn find() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parallel = format!("-j{cores}");
        let peers = [
            ("ninja", vec![parallel.clone()]),
            ("n2", vec![parallel.clone()]),
            ("make", vec!["-s".to_owned(), parallel]),
        ];
        let peers = peers.into_iter().filter(|(name, _)| {
            let found = Command::new(name)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            found.is_ok()
        });
        Self {
            peers: peers
                .map(|(name, arguments)| Peer { name, arguments })
                .collect(),
        }
    }

    fn natron(folder: &Path) -> Measured {
        let program = env!("CARGO_BIN_EXE_natron");
        Measured::new(folder, program, &["run", "pipelines/p.toml"])
    }
}

impl Peer {
    fn command(&self, folder: &Path) -> Measured {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        Measured::new(folder, self.name, &arguments)
    }
}

/// A command that is run by a process of its own, which knows its time and memory.
struct Measured {
    command: Command,
}

struct Figures {
    seconds: f64,
    peak_bytes: f64,
}

impl Measured {
    fn new(folder: &Path, program: &str, arguments: &[&str]) -> Self {
        let mut command =
            Command::new(env::current_exe().unwrap_or_else(|_| "the benchmark".into()));
        command
            .arg("--measure")
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            .env_remove("NATRON_CACHE");
        Self { command }
    }

    fn ran(&mut self) -> Result<Figures> {
        let output = self.command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{:?} ended with {}", self.command, output.status).into());
        }
        let text = String::from_utf8(output.stdout)?;
        let (seconds, peak_bytes) = text.trim().split_once(' ').ok_or("no figures")?;
        Ok(Figures {
            seconds: seconds.parse()?,
            peak_bytes: peak_bytes.parse()?,
        })
    }
}

/// Runs `command` and prints its seconds and its largest resident set.
fn measured(command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().ok_or("nothing to measure")?;
    let started = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("`{}` ended with {status}", command.join(" ")).into());
    }
    let peak_kibibytes = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    say_data(&format!("{seconds} {}", peak_kibibytes * 1024));
    Ok(())
}

#[derive(Default)]
struct Table {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    target: Option<f64>,
    values: Vec<(String, Vec<f64>)>,
}

impl Table {
    fn row(&mut self, name: &str, unit: &'static str, target: Option<f64>) -> &mut Row {
        self.rows.push(Row {
            name: name.to_owned(),
            unit,
            target,
            values: Vec::new(),
        });
        self.rows.last_mut().expect("it was just added")
    }
}

impl Row {
    fn measure(
        &mut self,
        who: &str,
        repeats: usize,
        mut probe: impl FnMut() -> Result<f64>,
    ) -> Result<()> {
        for _ in 0..repeats {
            let value = probe()?;
            match self.values.iter_mut().find(|(name, _)| name == who) {
                Some((_, values)) => values.push(value),
                None => self.values.push((who.to_owned(), vec![value])),
            }
        }
        Ok(())
    }

    fn median(&self, who: &str) -> Option<f64> {
        let (_, values) = self.values.iter().find(|(name, _)| name == who)?;
        Some(median(&mut values.clone()))
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = ["natron", "ninja", "n2", "make"];
        writeln!(f, "| probe | unit | target | {} |", peers.join(" | "))?;
        writeln!(f, "|---|---|---|{}", "---|".repeat(peers.len()))?;
        for row in &self.rows {
            let number =
                |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
            let cells: Vec<String> = peers.iter().map(|who| number(row.median(who))).collect();
            writeln!(
                f,
                "| {} | {} | {} | {} |",
                row.name,
                row.unit,
                number(row.target),
                cells.join(" | ")
            )?;
        }
        Ok(())
    }
}

#[expect(clippy::print_stderr, reason = "a benchmark talks to its caller")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "one process tells the other")]
fn say_data(text: &str) {
    println!("{text}");
}
