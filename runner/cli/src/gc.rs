//! `natron gc`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use natron_cache::{
    Durability, Store, clock,
    collect::{Plan, Policy, collect, plan},
    layout_root,
};
use natron_runner::{Doubt, forget, roots};
use serde_json::{Value, json};

use crate::{
    failure::Failure,
    layout::{Align, columns},
    program::Program,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron gc                               what would go, and how much space that frees
  natron gc --yes
  natron gc --max-size 20GiB --grace 7d --yes
  natron gc --forget /old/workspace --yes   do not keep anything for a workspace that is gone for good";

/// Remove results that nobody needs any more; without --yes only say which.
///
/// Needed are: the results of the newest runs of every workspace that uses the cache, those that lock files name, and
/// whatever is younger than --grace.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Really remove.
    #[arg(long, short, visible_alias = "apply")]
    yes: bool,
    /// If more than this is left, remove young results too, those first that are cheap to make again: `20GiB`.
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    max_size: Option<u64>,
    /// Keep what was made within this time: `14d`, `12h`.
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = units::parse_seconds)]
    grace: u64,
    /// Keep the results of so many of the newest runs.
    #[arg(long, value_name = "N", default_value_t = 20)]
    keep_runs: usize,
    /// Keep nothing for this workspace any more, although it used the cache.
    #[arg(long, value_name = "DIR")]
    forget: Vec<PathBuf>,
}

/// Rows that are listed for people.
const MOST_LISTED: usize = 20;

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    if !layout_root(workspace.cache()).is_dir() {
        nothing(program, workspace.cache());
        return Ok(());
    }
    let store = if arguments.yes {
        Store::open(workspace.cache(), Durability::default())?
    } else {
        Store::open_to_read(workspace.cache())?
    };
    if arguments.yes {
        for path in &arguments.forget {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            if !store.unregister(&path)? {
                let text = format!("`{}` is no workspace that uses this cache", path.display());
                program.output.warn(&text);
            }
        }
    }
    let (roots, doubts) = roots(&store, &workspace, arguments.keep_runs)?;
    for doubt in &doubts {
        program.output.warn(&doubt_text(doubt));
    }
    let grace = Duration::from_secs(arguments.grace);
    let policy = Policy {
        grace,
        checkpoint_grace: grace,
        max_bytes: arguments.max_size,
    };
    let plan = if arguments.yes {
        forget(&workspace).map_err(|error| Failure::file("write", &workspace.state(), &error))?;
        collect(&store, &roots, &policy)?
    } else {
        plan(&store, &roots, &policy)?
    };
    let output = &program.output;
    if output.is_json() {
        output.json(to_json(&plan, arguments.yes));
        return Ok(());
    }
    let style = output.data_style();
    let mut records: Vec<_> = plan.records.iter().collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.bytes));
    let rows: Vec<Vec<String>> = records
        .iter()
        .take(MOST_LISTED)
        .map(|record| {
            let why = if record.is_evicted {
                "for the size"
            } else {
                "old"
            };
            vec![
                style.dim(&record.key.short()),
                style.cyan(&record.kind),
                units::bytes(record.bytes),
                units::seconds(record.seconds),
                style.dim(why),
            ]
        })
        .collect();
    let align = [
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    for line in columns(&rows, &align) {
        output.data(&line);
    }
    if records.len() > MOST_LISTED {
        output.data(&style.dim(&format!(
            "… {} more",
            units::count((records.len() - MOST_LISTED) as u64)
        )));
    }
    let verb = if arguments.yes {
        "removed"
    } else {
        "would remove"
    };
    output.data(&format!(
        "{verb} {}: {}, {}, {}; {} stay",
        style.bold(&units::bytes(plan.bytes)),
        units::plural(plan.records.len(), "result"),
        units::plural(plan.checkpoints.len(), "checkpoint"),
        units::plural(plan.quarantined.len(), "damaged object"),
        units::bytes(plan.kept_bytes)
    ));
    if !arguments.yes && plan.bytes > 0 {
        output.note("nothing was removed; --yes removes");
    }
    Ok(())
}

/// Says that there is no cache; it is not made for that.
fn nothing(program: &Program, cache: &Path) {
    let output = &program.output;
    if output.is_json() {
        output.json(to_json(&Plan::default(), false));
    } else {
        output.data(&format!(
            "there is no cache at `{}`, so there is nothing to remove",
            cache.display()
        ));
    }
}

fn doubt_text(doubt: &Doubt) -> String {
    let days = clock::unix_ms().saturating_sub(doubt.last_seen_ms) / 86_400_000;
    format!(
        "the workspace `{}` used this cache {days} days ago and cannot be read ({}): what was made until then stays; \
         `natron gc --forget DIR --yes` gives it up",
        doubt.path.display(),
        doubt.reason
    )
}

fn to_json(plan: &Plan, removed: bool) -> Value {
    let records: Vec<Value> = plan
        .records
        .iter()
        .map(|record| {
            json!({
                "key": record.key.to_string(), "kind": record.kind, "seconds": record.seconds,
                "bytes": record.bytes, "evicted": record.is_evicted,
            })
        })
        .collect();
    json!({
        "removed": removed, "bytes": plan.bytes, "kept_bytes": plan.kept_bytes, "records": records,
        "objects": plan.objects.len(), "checkpoints": plan.checkpoints.len(),
        "quarantined": plan.quarantined.len(),
    })
}
