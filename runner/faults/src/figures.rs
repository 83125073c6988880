//! The page of figures: `N cases / F failures` for each family, with its gates, as JSON and Markdown.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    Checked, While,
    sweep::{Plan, Tally},
};

/// A count that has to be reached.
struct Gate {
    what: &'static str,
    at_least: u64,
    of: fn(&Tally) -> u64,
}

fn count(name: &'static str, tally: &Tally) -> u64 {
    tally.counts.get(name).copied().unwrap_or(0)
}

/// Family, what it does, gates.
fn gates(family: &str) -> (&'static str, Vec<Gate>) {
    let gate = |what, at_least, of| Gate { what, at_least, of };
    match family {
        "kill" => (
            "SIGKILL before every system call that changes something; a plain rerun gives the same bytes",
            vec![
                gate("distinct kill points", 1_000, |t| t.points.len() as u64),
                gate("kills", 10_000, |t| count("kills", t)),
                gate("second kills during recovery", 1_000, |t| count("pairs", t)),
            ],
        ),
        "crash" => (
            "power lost at any moment: every state that the disk may be in is opened",
            vec![gate("crash states", 10_000, |t| count("states", t))],
        ),
        "io" => (
            "errors and lies of the disk at every call: documented exit, no false success, a rerun gives the same bytes",
            vec![gate("injected errors", 2_000, |t| count("errors", t))],
        ),
        "corruption" => (
            "files of the store and the workspace's state damaged: noticed or harmless, a rerun gives the same bytes",
            vec![gate("corruptions", 5_000, |t| t.cases)],
        ),
        "scheduler" => (
            "random graphs with failures, retries, tokens and cancels against a simple model",
            vec![gate("random graphs", 10_000, |t| t.cases)],
        ),
        "concurrency" => (
            "32 processes at once on equal keys, some killed, with collections in between",
            vec![gate("rounds of 32", 1_000, |t| count("rounds", t))],
        ),
        "plugins" => (
            "programs that misbehave as stages: named, not cached, nothing left running",
            vec![
                gate("misbehaviours", 30, |t| t.points.len() as u64),
                gate("executions", 600, |t| t.cases),
            ],
        ),
        "corpora" => (
            "malformed files: each gets its message at its place, and the program lives",
            vec![gate("files", 300, |t| t.cases)],
        ),
        "resume" => (
            "stages killed at random moments and resumed: byte-equal to an undisturbed run",
            vec![gate("resumed byte-equal", 200, |t| count("resumed", t))],
        ),
        "mutants" => (
            "deliberately broken builds, each caught by a scenario",
            vec![gate("mutants caught", 10, |t| count("caught", t))],
        ),
        "fuzz" => (
            "random and mutated bytes for every reader: an error or a value, never a panic",
            vec![gate(
                "CPU hours for each target (thousandths, the least)",
                1_000,
                |t| count("least thousandths of an hour", t),
            )],
        ),
        _ => ("", Vec::new()),
    }
}

/// Facts about the machine.
fn machine(work: &Path) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let cpu = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let file_system = |path: &Path| {
        let output = Command::new("stat")
            .args(["-f", "-c", "%T"])
            .arg(path)
            .output();
        output.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    json!({
        "cpu": cpu.trim(), "cores": cores, "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "file_system": file_system(work),
    })
}

/// Writes `figures.json` and `figures.md` into the plan's folder. Families that were not run say so.
pub fn write(
    plan: &Plan,
    command: &str,
    commit: &str,
    date: &str,
    families: &[(&'static str, Option<Tally>)],
) -> Checked<String> {
    let machine = machine(&plan.work);
    let mut rows = Vec::new();
    let mut page = format!(
        "# Figures of the fault suite\n\n`{command}`, seed {}, commit {commit}, {date}  \n{}, {} cores, Linux {}, workspaces on {}\n\n",
        plan.seed,
        machine["cpu"].as_str().unwrap_or_default(),
        machine["cores"],
        machine["kernel"].as_str().unwrap_or_default(),
        machine["file_system"].as_str().unwrap_or_default(),
    );
    page.push_str("| Family | Cases / failures | Gates | Seconds |\n|---|---|---|---|\n");
    let mut skipped = 0;
    for (name, tally) in families {
        let (what, gates) = gates(name);
        let Some(tally) = tally else {
            let list: Vec<String> = gates
                .iter()
                .map(|gate| format!("{} >= {}: not run", gate.what, gate.at_least))
                .collect();
            let _ = writeln!(page, "| {name} | not run | {} | |", list.join("<br>"));
            rows.push(json!({ "family": name, "what": what, "state": "not run" }));
            continue;
        };
        let failures = tally.failures.len();
        let mut list = Vec::new();
        let mut judged = Vec::new();
        for gate in &gates {
            let reached = (gate.of)(tally);
            let state = if reached == 0 && !tally.skips.is_empty() {
                "not run"
            } else if reached >= gate.at_least && failures == 0 {
                "met"
            } else {
                "not met"
            };
            list.push(format!(
                "{} {reached} (gate {}): {state}",
                gate.what, gate.at_least
            ));
            judged.push(json!({
                "what": gate.what, "reached": reached, "gate": gate.at_least, "state": state,
            }));
        }
        let _ = writeln!(
            page,
            "| {name}: {what} | {} / {failures}{} | {} | {:.0} |",
            tally.cases,
            if tally.cut_short { " (cut short)" } else { "" },
            list.join("<br>"),
            tally.seconds
        );
        skipped += tally.skips.values().sum::<u64>();
        rows.push(json!({
            "family": name, "what": what, "state": "run", "cases": tally.cases, "failures": failures,
            "gates": judged, "counts": tally.counts, "points": tally.points.len(), "skips": tally.skips,
            "failed": tally.failures.iter().take(20).map(|(id, why)| json!({"id": id, "why": why})).collect::<Vec<_>>(),
            "seconds": tally.seconds, "cut_short": tally.cut_short,
        }));
    }
    let _ = writeln!(page, "\n{skipped} cases could not run on this machine.");
    for (name, tally) in families {
        for (why, n) in tally.iter().flat_map(|tally| &tally.skips) {
            let _ = writeln!(page, "- {name}: {n}: {why}");
        }
    }
    let mut counts = String::new();
    for (name, tally) in families {
        for (what, n) in tally.iter().flat_map(|tally| &tally.counts) {
            let _ = writeln!(counts, "- {name}: {what}: {n}");
        }
    }
    let _ = write!(page, "\nCounts:\n\n{counts}");
    let value = json!({
        "command": command, "seed": plan.seed, "commit": commit, "date": date, "fast": plan.fast,
        "machine": machine, "families": rows, "skipped": skipped,
    });
    let text = serde_json::to_string_pretty(&value).at("JSON")?;
    fs::write(plan.out.join("figures.json"), text + "\n").at("write figures.json")?;
    fs::write(plan.out.join("figures.md"), &page).at("write figures.md")?;
    Ok(page)
}
