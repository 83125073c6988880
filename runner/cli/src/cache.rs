//! `natron cache`.

use std::{fs, io, path::Path};

use clap::{Args, Subcommand};
use natron_cache::{Durability, Store, health};
use natron_runner::{Workspace, forget};
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron cache path
  natron cache size
  natron cache verify                     read and hash every object";

/// Look at the cache: place, size, health.
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
    /// Print how large it is.
    #[command(after_help = "Examples:\n  natron cache size --json")]
    Size,
    /// Read and hash every record and object; put damaged ones aside, so that they are made again.
    #[command(
        visible_alias = "check",
        after_help = "Examples:\n  natron cache verify && natron run"
    )]
    Verify,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    match arguments.action {
        Action::Path => {
            let path = workspace.cache().display().to_string();
            if program.output.is_json() {
                program.output.json(json!({ "path": path }));
            } else {
                program.output.data(&path);
            }
            Ok(())
        }
        Action::Size => size(program, &workspace),
        Action::Verify => verify(program, &workspace),
    }
}

/// What the folders of the store hold.
const FOLDERS: [(&str, &str); 5] = [
    ("cas", "results"),
    ("ac", "records"),
    ("ckpt", "checkpoints"),
    ("tmp", "unfinished"),
    ("quarantine", "damaged"),
];

fn size(program: &Program, workspace: &Workspace) -> Result<(), Failure> {
    let root = natron_cache::layout_root(workspace.cache());
    let mut sizes = Vec::new();
    for (folder, what) in FOLDERS {
        let path = root.join(folder);
        let size = size_of(&path).map_err(|error| Failure::file("list", &path, &error))?;
        sizes.push((what, size));
    }
    let total = sizes.iter().fold(Size::default(), |a, (_, b)| Size {
        files: a.files + b.files,
        bytes: a.bytes + b.bytes,
    });
    let output = &program.output;
    if output.is_json() {
        let parts: serde_json::Map<String, Value> = sizes
            .iter()
            .map(|(what, size)| {
                (
                    (*what).to_owned(),
                    json!({ "files": size.files, "bytes": size.bytes }),
                )
            })
            .collect();
        output.json(json!({ "files": total.files, "bytes": total.bytes, "parts": parts }));
        return Ok(());
    }
    let style = output.data_style();
    sizes.push(("in all", total));
    let rows: Vec<Vec<String>> = sizes
        .iter()
        .map(|(what, size)| {
            let files = format!("{} files", units::count(size.files));
            vec![style.cyan(what), files, units::bytes(size.bytes)]
        })
        .collect();
    for line in columns(&rows, &[Align::Left, Align::Right, Align::Right]) {
        output.data(&line);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    files: u64,
    bytes: u64,
}

/// All files below `path`; none when there is no such folder, or when it goes away meanwhile.
fn size_of(path: &Path) -> io::Result<Size> {
    let mut size = Size::default();
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
                    size.files += 1;
                    size.bytes += metadata.len();
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(size)
}

fn verify(program: &Program, workspace: &Workspace) -> Result<(), Failure> {
    let store = Store::open(workspace.cache(), Durability::default())?;
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
