//! The harness itself: it is quiet about the program as it is, and notices what is wrong.

use std::{fs, path::Path, process::Command};

use natron_faults::playground::{Playground, Recipe};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_natron-faults"))
}

#[test]
fn a_few_faults_of_every_quick_family_find_nothing() {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(program())
        .args([
            "run",
            "--fast",
            "--only",
            "crash,scheduler",
            "--minutes",
            "0.05",
            "--out",
        ])
        .arg(out.path())
        .output()
        .unwrap();

    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let figures: serde_json::Value =
        serde_json::from_slice(&fs::read(out.path().join("figures.json")).unwrap()).unwrap();
    let rows = figures["families"].as_array().unwrap();
    let run: Vec<_> = rows.iter().filter(|row| row["state"] == "run").collect();
    assert_eq!(run.len(), 2);
    for row in run {
        assert_eq!(row["failures"], 0);
        assert!(row["cases"].as_u64().unwrap() > 0, "{row}");
    }
}

#[test]
fn the_oracles_notice_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let playground =
        Playground::new(&folder.path().join("w"), program(), &Recipe::toys(1)).unwrap();
    let reference = playground.reference().unwrap();
    playground.settles(&reference).unwrap();

    let mut other = reference.clone();
    other
        .results
        .outputs
        .insert("sum.metrics".into(), "0".repeat(64));
    assert!(playground.settles(&other).is_err(), "other results");

    let view = playground.path("out/sum.json");
    let good = fs::read(&view).unwrap();
    fs::write(&view, "{}").unwrap();
    let answer = playground.natron(&["check"]).unwrap();
    assert!(
        playground.has_the_results(&answer, &reference).is_err(),
        "a wrong view"
    );
    fs::write(&view, good).unwrap();

    fs::create_dir_all(playground.store().join("tmp/dead")).unwrap();
    assert!(playground.leaves_nothing().is_err(), "an unfinished file");
    fs::remove_dir_all(playground.store().join("tmp/dead")).unwrap();
    fs::write(
        playground.path("leak.txt"),
        natron_faults::playground::CANARY.1,
    )
    .unwrap();
    assert!(playground.leaves_nothing().is_err(), "a secret");
}
