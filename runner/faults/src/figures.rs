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
            ],
        ),
        "recovery" => (
            "SIGKILL during a run, and again during the rerun; a second rerun gives the same bytes",
            vec![gate("pairs of kills", 1_000, |t| count("pairs", t))],
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

/// Writes `figures.json` and `figures.md` into the plan's folder. A family that was not run this time keeps the figures that
/// are there from an earlier time, with their own command and commit; without any it says so.
pub fn write(
    plan: &Plan,
    command: &str,
    commit: &str,
    date: &str,
    families: &[(&'static str, Option<Tally>)],
) -> Checked<String> {
    let path = plan.out.join("figures.json");
    let earlier: Value = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let rows: Vec<Value> = families
        .iter()
        .map(|(name, tally)| {
            if let Some(tally) = tally {
                let mut row = row(name, tally);
                row["command"] = command.into();
                row["commit"] = commit.into();
                row["date"] = date.into();
                row["seed"] = plan.seed.into();
                row["fast"] = plan.fast.into();
                return row;
            }
            let there = earlier["families"].as_array().into_iter().flatten();
            let mut same = there.filter(|row| row["family"] == *name && row["state"] == "run");
            same.next().cloned().unwrap_or_else(|| not_run(name))
        })
        .collect();
    let skipped: u64 = rows.iter().filter_map(|row| row["skipped"].as_u64()).sum();
    let value = json!({ "machine": machine(&plan.work), "families": rows, "skipped": skipped });
    let page = page(&value);
    let text = serde_json::to_string_pretty(&value).at("JSON")?;
    fs::write(path, text + "\n").at("write figures.json")?;
    fs::write(plan.out.join("figures.md"), &page).at("write figures.md")?;
    Ok(page)
}

fn not_run(name: &str) -> Value {
    let (what, gates) = gates(name);
    let gates: Vec<Value> = gates
        .iter()
        .map(|gate| json!({ "what": gate.what, "reached": 0, "gate": gate.at_least, "state": "not run" }))
        .collect();
    json!({ "family": name, "what": what, "state": "not run", "gates": gates })
}

fn row(name: &str, tally: &Tally) -> Value {
    let (what, gates) = gates(name);
    let failures = tally.failures.len();
    let judged: Vec<Value> = gates
        .iter()
        .map(|gate| {
            let reached = (gate.of)(tally);
            let state = if reached == 0 && !tally.skips.is_empty() {
                "not run"
            } else if reached >= gate.at_least && failures == 0 {
                "met"
            } else {
                "not met"
            };
            json!({ "what": gate.what, "reached": reached, "gate": gate.at_least, "state": state })
        })
        .collect();
    let failed = tally.failures.iter().take(20);
    let failed: Vec<Value> = failed
        .map(|(id, why)| json!({ "id": id, "why": why }))
        .collect();
    json!({
        "family": name, "what": what, "state": "run", "cases": tally.cases, "failures": failures, "gates": judged,
        "counts": tally.counts, "points": tally.points.len(), "skips": tally.skips,
        "skipped": tally.skips.values().sum::<u64>(), "failed": failed, "seconds": tally.seconds,
        "cut_short": tally.cut_short,
    })
}

/// The page for people.
fn page(value: &Value) -> String {
    let machine = &value["machine"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut page = format!(
        "# Figures of the fault suite\n\n{}, {} cores, Linux {}, workspaces on {}\n\n",
        text(&machine["cpu"]),
        machine["cores"],
        text(&machine["kernel"]),
        text(&machine["file_system"]),
    );
    page.push_str("| Family | Cases / failures | Gates | Seconds |\n|---|---|---|---|\n");
    let rows: Vec<&Value> = value["families"].as_array().into_iter().flatten().collect();
    for row in &rows {
        let gates = row["gates"].as_array().into_iter().flatten();
        let gates: Vec<String> = gates
            .map(|gate| {
                let (what, state) = (text(&gate["what"]), text(&gate["state"]));
                format!(
                    "{what} {} (gate {}): {state}",
                    gate["reached"], gate["gate"]
                )
            })
            .collect();
        let cases = if row["state"] == "run" {
            let is_cut = row["cut_short"] == true;
            let cut = if is_cut { " (cut short)" } else { "" };
            format!("{} / {}{cut}", row["cases"], row["failures"])
        } else {
            "not run".into()
        };
        let _ = writeln!(
            page,
            "| {}: {} | {cases} | {} | {:.0} |",
            text(&row["family"]),
            text(&row["what"]),
            gates.join("<br>"),
            row["seconds"].as_f64().unwrap_or(0.0)
        );
    }
    let _ = writeln!(
        page,
        "\n{} cases could not run on this machine.\n",
        value["skipped"]
    );
    for row in &rows {
        for (why, n) in row["skips"].as_object().into_iter().flatten() {
            let _ = writeln!(page, "- {}: {n}: {why}", text(&row["family"]));
        }
    }
    page.push_str("\nHow, and what was counted:\n\n");
    for row in rows.iter().filter(|row| row["state"] == "run") {
        let counts = row["counts"].as_object().into_iter().flatten();
        let counts: Vec<String> = counts.map(|(what, n)| format!("{what} {n}")).collect();
        let _ = writeln!(
            page,
            "- {}: `{}`, seed {}, commit {}, {}: {}",
            text(&row["family"]),
            text(&row["command"]),
            row["seed"],
            text(&row["commit"]),
            text(&row["date"]),
            counts.join(", ")
        );
    }
    page
}
