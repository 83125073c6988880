//! `natron cache`.

use std::{collections::BTreeMap, fs, io, path::Path};

use clap::{Args, Subcommand};
use natron_cache::{Durability, Store, StoreError};
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
  natron cache check                      read and hash every object";

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
    /// Read and hash every object; put damaged ones aside, so that they are made again.
    #[command(after_help = "Examples:\n  natron cache check && natron run")]
    Check,
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
        Action::Check => check(program, &workspace),
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

fn check(program: &Program, workspace: &Workspace) -> Result<(), Failure> {
    let store = Store::open(workspace.cache(), Durability::default())?;
    let mut objects = BTreeMap::new();
    let keys = store.keys();
    for (key, _) in &keys {
        if let Some(record) = store.record(key) {
            objects.extend(record.objects());
        }
    }
    let (mut bytes, mut missing, mut damaged) = (0, 0, Vec::new());
    program.stop.gently();
    for (digest, size) in &objects {
        if let Some(failure) = program.stop.failure() {
            return Err(failure);
        }
        match store.read(digest) {
            Ok(_) => bytes += size,
            Err(StoreError::Missing { .. }) => missing += 1,
            Err(error @ StoreError::Damaged { .. }) => {
                program.output.warn(&error.to_string());
                damaged.push(*digest);
            }
            Err(error) => return Err(error.into()),
        }
    }
    if missing > 0 || !damaged.is_empty() {
        // The quick look at the next run must not take the stages for done.
        forget(workspace).map_err(|error| Failure::file("write", &workspace.state(), &error))?;
    }
    let output = &program.output;
    if output.is_json() {
        output.json(json!({
            "records": keys.len(), "objects": objects.len(), "bytes": bytes, "missing": missing, "damaged": damaged,
        }));
    } else {
        output.data(&format!(
            "{}, {}: {} read and hashed; {missing} missing, {} damaged",
            units::plural(keys.len(), "record"),
            units::plural(objects.len(), "object"),
            units::bytes(bytes),
            damaged.len()
        ));
    }
    if damaged.is_empty() {
        Ok(())
    } else {
        Err(Failure::store(format!(
            "{} damaged",
            units::plural(damaged.len(), "object")
        ))
        .help("they were put aside; `natron run` makes them again"))
    }
}
