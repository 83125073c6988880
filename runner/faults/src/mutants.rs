//! The suite's own test: deliberately broken builds, each of which some scenario has to notice.
//!
//! The store is built with its feature `mutants`, which no other build has; `NATRON_MUTANT` names what is broken. Without
//! such a build the family is counted as not run.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    Checked, While,
    sweep::{Family, Plan, Tally, say},
};

/// What is broken, and where it is looked for first.
///
/// A record that is written before its objects is not among them: a lookup finds the objects missing and takes it for none,
/// so that nothing goes wrong; `no_look_for_objects` is the mutant of that look.
pub const MUTANTS: [(&str, &[&str]); 14] = [
    ("no_flush_of_files", &["crash"]),
    ("no_flush_of_directories", &["crash"]),
    ("write_in_place", &["crash", "kill"]),
    ("no_hash_on_read", &["corruption"]),
    ("quarantine_nothing", &["corruption"]),
    ("append_after_error", &["io"]),
    ("collect_what_has_a_root", &["crash"]),
    ("sweep_the_living", &["concurrency"]),
    ("flush_again", &["io"]),
    ("no_checksum_of_records", &["corpora", "corruption"]),
    ("no_lease", &["concurrency"]),
    ("no_change_time", &["corruption"]),
    ("no_sweep", &["kill"]),
    ("no_look_for_objects", &["crash", "corruption"]),
];

/// All families that may notice one.
const FAMILIES: [&str; 6] = [
    "crash",
    "io",
    "corruption",
    "concurrency",
    "corpora",
    "kill",
];

/// The variable that chooses one.
pub const CHOICE: &str = "NATRON_MUTANT";

/// Builds the broken program beside the others and gives its place. The build has a folder of its own: nothing of it can get
/// into another one.
pub fn build() -> Checked<PathBuf> {
    let status = Command::new("cargo")
        .args([
            "build",
            "--release",
            "--workspace",
            "--locked",
            "--bin",
            "natron-faults",
        ])
        .args([
            "--features",
            "natron-faults/mutants",
            "--target-dir",
            "target/mutants",
        ])
        .status()
        .at("cargo")?;
    if !status.success() {
        return Err(format!("cargo: {status}"));
    }
    Ok(PathBuf::from("target/mutants/release/natron-faults"))
}

/// Runs the family with the broken program `program`.
pub fn run(plan: &Plan, program: Option<&Path>) -> Checked<Tally> {
    let family = Family::start(plan, "mutants")?;
    let Some(program) = program else {
        family.skip(
            "no build with mutants was named (`--mutants`)",
            MUTANTS.len() as u64,
        );
        return Ok(family.finish());
    };
    // Unbroken, it must be quiet; otherwise being caught means nothing.
    let sound = family.case("none", |_| {
        match caught_by(plan, program, "none", &FAMILIES)? {
            None => Ok(()),
            Some((by, why)) => Err(format!("{by} complains about the unbroken build: {why}")),
        }
    });
    if sound.is_none() {
        return Ok(family.finish());
    }
    for (mutant, first) in MUTANTS {
        let caught = family.case(mutant, |_| {
            let mut order: Vec<&str> = first.to_vec();
            order.extend(FAMILIES.iter().filter(|name| !first.contains(name)));
            caught_by(plan, program, mutant, &order)?.ok_or_else(|| "nothing noticed it".to_owned())
        });
        if let Some((by, why)) = caught {
            let why: String = why.chars().take(160).collect();
            say(&format!("{mutant}: caught by {by}: {why}"));
            family.count("caught", 1);
            family.count(&format!("{mutant} caught by {by}"), 1);
        }
    }
    Ok(family.finish())
}

/// The first family that fails, and its first failure.
fn caught_by(
    plan: &Plan,
    program: &Path,
    mutant: &str,
    families: &[&str],
) -> Checked<Option<(String, String)>> {
    for family in families {
        let out = plan.out.join("mutants").join(mutant).join(family);
        let output = Command::new(program)
            .args([
                "run",
                "--fast",
                "--only",
                family,
                "--seed",
                &plan.seed.to_string(),
                "--minutes",
                "4",
            ])
            .arg("--out")
            .arg(&out)
            .arg("--work")
            .arg(plan.work.join("mutants").join(mutant))
            .env(CHOICE, mutant)
            .stdin(Stdio::null())
            .output()
            .at(format!("start {}", program.display()))?;
        let _ = crate::playground::remove(&plan.work.join("mutants"));
        let text = std::fs::read(out.join("figures.json")).unwrap_or_default();
        let figures: Value = serde_json::from_slice(&text).unwrap_or_default();
        let rows = figures["families"].as_array().cloned().unwrap_or_default();
        let failed = rows
            .iter()
            .flat_map(|row| row["failed"].as_array().cloned().unwrap_or_default())
            .next();
        if let Some(failed) = failed {
            return Ok(Some((
                (*family).to_owned(),
                format!("{}: {}", failed["id"], failed["why"]),
            )));
        }
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = text.lines().last().unwrap_or_default().to_owned();
            // A suite that cannot even begin has noticed, too, unless it is the unbroken build's.
            return Ok(Some((
                (*family).to_owned(),
                format!("{}: {last}", output.status),
            )));
        }
    }
    Ok(None)
}
