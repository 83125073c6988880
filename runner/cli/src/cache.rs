//! `natron cache`.

use std::{fs, io, path::Path};

use clap::{Args, Subcommand};
use natron_cache::{Durability, Pin, StageKey, Store, clock, health, layout_root, stats::Count};
use natron_runner::{
    Forecast, RunOptions, Workspace, forget, history::RunRecord, select, standings,
};
use serde_json::{Value, json};

use crate::{
    arguments::PipelineOption,
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron cache path
  natron cache stats
  natron cache pin finetune --name published
  natron cache verify                     read and hash every object";

/// Look at the cache: place, content, health, and what is pinned.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print where the cache is.
    #[command(after_help = "Examples:\n  du -sh \"$(natron cache path)\"")]
    Path,
    /// Count what it holds, by kind of stage too.
    #[command(
        visible_alias = "size",
        after_help = "Examples:\n  natron cache stats --json"
    )]
    Stats,
    /// Read and hash every record and object; put damaged ones aside, so that they are made again.
    #[command(
        visible_alias = "check",
        after_help = "Examples:\n  natron cache verify && natron run"
    )]
    Verify,
    /// Keep results from `natron gc`, whatever their age.
    Pin(PinArguments),
    /// Let `natron gc` have pinned results again.
    #[command(after_help = "Examples:\n  natron cache unpin published")]
    Unpin {
        /// Names of pins.
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// List the pins.
    #[command(after_help = "Examples:\n  natron cache pins")]
    Pins,
}

/// What to pin.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  natron cache pin finetune --name published\n  natron cache pin 20260105T101500.123Z-4711"
)]
struct PinArguments {
    /// A run (`natron runs` lists them), a stage of the pipeline with its current result, or a key.
    #[arg(value_name = "RUN|STAGE|KEY")]
    what: String,
    /// Name of the pin [default: what is pinned].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    pipeline: PipelineOption,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    match &arguments.action {
        Action::Path => {
            let path = workspace.cache().display().to_string();
            if program.output.is_json() {
                program.output.json(json!({ "path": path }));
            } else {
                program.output.data(&path);
            }
            Ok(())
        }
        Action::Stats => stats(program, &workspace),
        Action::Pin(arguments) => pin(program, &workspace, arguments),
        Action::Unpin { names } => unpin(program, &workspace, names),
        Action::Pins => pins(program, &workspace),
        Action::Verify => verify(program, &workspace),
    }
}

fn stats(program: &Program, workspace: &Workspace) -> Result<(), Failure> {
    let store = Store::open_to_read(workspace.cache())?;
    let stats = natron_cache::stats::stats(&store)?;
    let pins = store.pins()?.len();
    let unfinished = size_of(&store.root().join("tmp"))
        .map_err(|error| Failure::file("list", store.root(), &error))?;
    let total = [
        stats.segments,
        stats.objects,
        stats.checkpoints,
        stats.quarantined,
        unfinished,
    ]
    .iter()
    .map(|count| count.bytes)
    .sum::<u64>();
    let output = &program.output;
    if output.is_json() {
        let mut fields = serde_json::to_value(&stats).expect("plain structs serialize");
        fields["unfinished"] = json!(unfinished);
        fields["pins"] = json!(pins);
        fields["bytes"] = json!(total);
        output.json(fields);
        return Ok(());
    }
    let style = output.data_style();
    let row = |what: &str, count: Count| {
        let n = units::count(count.n);
        vec![style.cyan(what), n, units::bytes(count.bytes)]
    };
    let rows = vec![
        row("results", stats.records),
        row("  small objects in them", stats.carried),
        row("objects with files of their own", stats.objects),
        row("files of records", stats.segments),
        row("checkpoints", stats.checkpoints),
        row("damaged, put aside", stats.quarantined),
        row("unfinished", unfinished),
    ];
    let align = [Align::Left, Align::Right, Align::Right];
    for line in columns(&rows, &align) {
        output.data(&line);
    }
    output.data(&format!(
        "in all {}, {}",
        style.bold(&units::bytes(total)),
        units::plural(pins, "pin")
    ));
    if stats.kinds.is_empty() {
        return Ok(());
    }
    output.data("");
    let rows: Vec<Vec<String>> = stats
        .kinds
        .iter()
        .map(|(kind, of)| {
            vec![
                style.cyan(kind),
                units::plural(of.records as usize, "result"),
                units::bytes(of.bytes),
                units::seconds(of.seconds),
            ]
        })
        .collect();
    let align = [Align::Left, Align::Right, Align::Right, Align::Right];
    for line in columns(&rows, &align) {
        output.data(&line);
    }
    if let Some(oldest) = stats.oldest_unix_ms {
        let days = clock::unix_ms().saturating_sub(oldest) / 86_400_000;
        output.data(&format!("the oldest result was made {days} days ago"));
    }
    Ok(())
}

/// All files below `path`; none when there is no such folder, or when it goes away meanwhile.
fn size_of(path: &Path) -> io::Result<Count> {
    let mut size = Count::default();
    let mut open = vec![path.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                Ok(metadata) => {
                    size.n += 1;
                    size.bytes += metadata.len();
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(size)
}

/// Pins the results that `arguments.what` means: a run, a key, or the stages of a pipeline.
fn pin(program: &Program, workspace: &Workspace, arguments: &PinArguments) -> Result<(), Failure> {
    let store = Store::open(workspace.cache(), Durability::default())?;
    let what = &arguments.what;
    let keys = if let Ok(key) = what.parse::<StageKey>() {
        vec![key]
    } else if let Ok(run) = RunRecord::read(workspace, what) {
        let keys = run.stages.iter().filter_map(|stage| stage.key);
        keys.map(StageKey::new).collect()
    } else {
        stage_keys(program, arguments)?
    };
    for key in &keys {
        if store.lookup(key)?.is_none() {
            return Err(Failure::usage(format!(
                "the result of key {} is not in the cache",
                key.short()
            ))
            .help("`natron run` makes it"));
        }
    }
    if keys.is_empty() {
        return Err(Failure::usage(format!("`{what}` has no results to pin")));
    }
    let pin = Pin {
        name: arguments.name.clone().unwrap_or_else(|| what.clone()),
        keys,
        unix_ms: clock::unix_ms(),
    };
    store.pin(&pin)?;
    let output = &program.output;
    if output.is_json() {
        output.json(to_json(&pin));
    } else {
        output.data(&format!(
            "pinned {} as `{}`",
            units::plural(pin.keys.len(), "result"),
            pin.name
        ));
    }
    Ok(())
}

/// The keys of a stage's current results.
fn stage_keys(program: &Program, arguments: &PinArguments) -> Result<Vec<StageKey>, Failure> {
    let pipeline = &arguments.pipeline;
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let graph = &loaded.graph;
    let selected = select(graph, std::slice::from_ref(&arguments.what))?;
    let mut keys = Vec::new();
    for standing in standings(graph, &loaded.workspace, &RunOptions::default())? {
        let is_selected = graph
            .position(&standing.name)
            .is_some_and(|index| selected.contains(&index));
        if !is_selected {
            continue;
        }
        if let (Forecast::Hit, Some(key)) = (standing.forecast, standing.key) {
            keys.push(key);
        } else {
            let text = format!("`{}` has no current result", standing.name);
            return Err(Failure::usage(text).help("`natron run` makes it"));
        }
    }
    Ok(keys)
}

fn unpin(program: &Program, workspace: &Workspace, names: &[String]) -> Result<(), Failure> {
    let store = Store::open(workspace.cache(), Durability::default())?;
    for name in names {
        if !store.unpin(name)? {
            return Err(Failure::usage(format!("there is no pin called `{name}`"))
                .help("`natron cache pins` lists them"));
        }
    }
    let output = &program.output;
    if output.is_json() {
        output.json(json!({ "unpinned": names }));
    } else {
        output.data(&format!("removed {}", units::plural(names.len(), "pin")));
    }
    Ok(())
}

fn pins(program: &Program, workspace: &Workspace) -> Result<(), Failure> {
    let pins = Store::open_to_read(workspace.cache())?.pins()?;
    let output = &program.output;
    if output.is_json() {
        let pins: Vec<Value> = pins.iter().map(to_json).collect();
        output.json(json!({ "pins": pins }));
        return Ok(());
    }
    let style = output.data_style();
    let rows: Vec<Vec<String>> = pins
        .iter()
        .map(|pin| {
            let n = units::plural(pin.keys.len(), "result");
            vec![style.cyan(&pin.name), n]
        })
        .collect();
    for line in columns(&rows, &[Align::Left, Align::Right]) {
        output.data(&line);
    }
    Ok(())
}

fn to_json(pin: &Pin) -> Value {
    json!({ "name": pin.name, "keys": pin.keys, "unix_ms": pin.unix_ms })
}

fn verify(program: &Program, workspace: &Workspace) -> Result<(), Failure> {
    let store = if layout_root(workspace.cache()).is_dir() {
        Store::open(workspace.cache(), Durability::default())?
    } else {
        Store::open_to_read(workspace.cache())?
    };
    program.stop.gently();
    let health = health::verify(&store, &|| program.stop.failure().is_some())?;
    let Some(health) = health else {
        return program.stop.failure().map_or(Ok(()), Err);
    };
    if health.incomplete > 0 || !health.is_good() {
        // The quick look at the next run must not take the stages for done.
        forget(workspace).map_err(|error| Failure::file("write", &workspace.state(), &error))?;
    }
    let output = &program.output;
    let objects = health.damaged_objects.len();
    let records = health.damaged_records.len();
    for damaged in &health.damaged_records {
        let key = damaged
            .key
            .map_or_else(String::new, |key| format!(" of key {}", key.short()));
        output.warn(&format!(
            "the record{key} at byte {} of `{}` does not count: {}",
            damaged.offset,
            damaged.segment.display(),
            damaged.reason
        ));
    }
    for digest in &health.damaged_objects {
        output.warn(&format!("object {} is damaged", digest.short()));
    }
    if output.is_json() {
        let records: Vec<Value> = health
            .damaged_records
            .iter()
            .map(|damaged| {
                json!({
                    "key": damaged.key.map(|key| key.to_string()),
                    "segment": damaged.segment.display().to_string(),
                    "offset": damaged.offset, "reason": damaged.reason,
                })
            })
            .collect();
        output.json(json!({
            "records": health.records, "objects": health.objects, "bytes": health.bytes,
            "incomplete": health.incomplete, "damaged": health.damaged_objects,
            "damaged_records": records,
        }));
    } else {
        output.data(&format!(
            "{}, {}: {} read and hashed; {} damaged, {} incomplete",
            units::plural(health.records as usize, "record"),
            units::plural(health.objects as usize, "object"),
            units::bytes(health.bytes),
            objects + records,
            health.incomplete,
        ));
    }
    if health.is_good() {
        return Ok(());
    }
    let counted = format!(
        "{} and {} damaged",
        units::plural(objects, "object"),
        units::plural(records, "record")
    );
    let help = if store.is_read_only() {
        "the cache is read-only, so they are left where they are"
    } else {
        "they were put aside; `natron run` makes them again"
    };
    Err(Failure::store(counted).help(help))
}
