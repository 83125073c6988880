//! Workspaces: `init`, what is found where, mistakes in pipelines.

use std::fs;

use crate::natron::{Workspace, natron};

#[test]
fn init_makes_a_workspace_and_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    natron(folder.path(), &["init", "mine"]).expect(0);

    let again = natron(folder.path(), &["init", "mine", "--json"]).expect(0);
    assert_eq!(again.json()["written"], serde_json::json!([]));
    fs::write(folder.path().join("mine/README.md"), "my words").unwrap();
    let refused = natron(folder.path(), &["init", "mine"]).expect(2);
    assert!(
        refused
            .stderr
            .contains("`README.md` is there already, with other content"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        fs::read(folder.path().join("mine/README.md")).unwrap(),
        b"my words"
    );
}

#[test]
fn says_which_pipelines_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let none = natron(folder.path(), &["check"]).expect(2);
    assert!(
        none.stderr.contains("there is no pipeline in"),
        "{}",
        none.stderr
    );

    let workspace = Workspace::with("");
    fs::write(workspace.path("pipelines/q.toml"), "").unwrap();
    let several = workspace.natron(&["check"]).expect(2);
    assert!(
        several
            .stderr
            .contains("name one of `pipelines/p.toml`, `pipelines/q.toml`"),
        "{}",
        several.stderr
    );
}

#[test]
fn unknown_stage_kinds_are_answered_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();

    let answer = natron(folder.path(), &["stages", "finetun"]).expect(2);
    assert!(
        answer.stderr.contains("did you mean `finetune`?"),
        "{}",
        answer.stderr
    );
    let described = natron(folder.path(), &["stages", "finetune"]).expect(0);
    assert!(
        described.stdout.contains("Parameters (below `with`)"),
        "{}",
        described.stdout
    );
}

#[test]
fn doctor_looks_at_the_machine() {
    let folder = tempfile::tempdir().unwrap();

    let answer = natron(folder.path(), &["doctor", "--json"])
        .expect(0)
        .json();
    let names: Vec<&str> = answer["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|f| f["name"].as_str())
        .collect();
    for name in [
        "processor",
        "threads",
        "memory",
        "gpu",
        "store",
        "locks",
        "disk",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[test]
fn the_minimal_workspace_runs_offline_at_once() {
    let folder = tempfile::tempdir().unwrap();
    natron(folder.path(), &["init", "--template", "minimal"]).expect(0);

    natron(folder.path(), &["check"]).expect(0);
    natron(folder.path(), &["run", "--set", "params.rows=1500"]).expect(0);
    let shown = natron(
        folder.path(),
        &["show", "features", "--set", "params.rows=1500"],
    )
    .expect(0);
    assert!(shown.stdout.starts_with("features."), "{}", shown.stdout);
}

#[test]
fn the_schema_describes_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let schema = natron(folder.path(), &["schema"]).expect(0).stdout;

    let stages = natron(folder.path(), &["stages", "--json"])
        .expect(0)
        .json();
    for stage in stages["stages"].as_array().unwrap() {
        let name = stage["name"].as_str().unwrap();
        assert!(schema.contains(&format!("\"{name}\"")), "{name}");
        assert!(
            !stage["summary"].as_str().unwrap().is_empty(),
            "{name} has no summary"
        );
        natron(folder.path(), &["stages", name]).expect(0);
    }
}

#[test]
fn the_natron_v2_workspace_goes_from_candles_to_predictions_offline() {
    let folder = tempfile::tempdir().unwrap();
    let tiny =
        |arguments: &[&str]| natron(folder.path(), &[arguments, &["--profile", "tiny"]].concat());
    natron(folder.path(), &["init", "--template", "natron_v2"]).expect(0);

    tiny(&["run"]).expect(0);
    let again = tiny(&["run"]).expect(0);
    assert!(
        again.stderr.contains("natron_v2: nothing to do"),
        "{}",
        again.stderr
    );
    let changed = tiny(&[
        "run",
        "--dry-run",
        "--json",
        "--set",
        "finetune.learning_rate=1e-4",
    ])
    .expect(0)
    .json();
    let forecasts: Vec<(&str, &str)> = changed["explanation"]["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| {
            (
                stage["name"].as_str().unwrap(),
                stage["forecast"].as_str().unwrap(),
            )
        })
        .collect();
    for stage in ["candles", "features", "labels", "windows", "pretrain"] {
        assert!(forecasts.contains(&(stage, "hit")), "{forecasts:?}");
    }
    for (stage, forecast) in [
        ("finetune", "run"),
        ("evaluate", "maybe"),
        ("report", "maybe"),
    ] {
        assert!(forecasts.contains(&(stage, forecast)), "{forecasts:?}");
    }

    tiny(&["export", "finetune.model", "-o", "model"]).expect(0);
    tiny(&["export", "candles.candles", "-o", "candles.csv"]).expect(0);
    let one = natron(
        folder.path(),
        &["predict", "model", "--candles", "candles.csv", "--json"],
    )
    .expect(0)
    .json();
    let all = tiny(&[
        "predict",
        "finetune",
        "--candles",
        "candles.csv",
        "--all",
        "--json",
    ])
    .expect(0)
    .json();
    let last = all["predictions"].as_array().unwrap().last().unwrap();
    assert_eq!(&one["predictions"][0], last);
    let card = tiny(&["show", "finetune.model"]).expect(0).stdout;
    assert!(
        card.contains("natron_v2.transformer") && card.contains("hyper-parameters"),
        "{card}"
    );
    let metrics = natron(
        folder.path(),
        &[
            "runs",
            "--metric",
            "evaluate.heads.test.direction.accuracy.value",
            "--json",
        ],
    )
    .expect(0)
    .json();
    let value = &metrics["runs"][0]["metrics"]["evaluate.heads.test.direction.accuracy.value"];
    assert!(
        value
            .as_f64()
            .is_some_and(|value| (0.0..=1.0).contains(&value)),
        "{metrics}"
    );
}

#[test]
fn predictions_refuse_bad_candles_and_models() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pipelines")).unwrap();
    fs::create_dir(folder.path().join("model")).unwrap();
    fs::write(folder.path().join("model/model.json"), "{}").unwrap();
    fs::write(folder.path().join("model/model.safetensors"), "").unwrap();
    let row = "2024-01-01T00:00:00Z,1,2,0.5,1.5,10\n";
    fs::write(
        folder.path().join("good.csv"),
        format!(
            "time,open,high,low,close,volume\n{row}{}",
            row.replace("00:00:00", "01:00:00")
        ),
    )
    .unwrap();
    fs::write(
        folder.path().join("bad.csv"),
        format!(
            "time,open,high,low,close,volume\n{row}{}",
            row.replace("0.5", "x")
        ),
    )
    .unwrap();

    let bad = natron(folder.path(), &["predict", "model", "--candles", "bad.csv"]).expect(1);
    assert!(bad.stderr.contains("bad.csv"), "{}", bad.stderr);
    let missing = natron(
        folder.path(),
        &["predict", "model", "--candles", "none.csv"],
    )
    .expect(1);
    assert!(missing.stderr.contains("none.csv"), "{}", missing.stderr);
    let model = natron(
        folder.path(),
        &["predict", "model", "--candles", "good.csv"],
    )
    .expect(2);
    assert!(model.stderr.contains("model.json"), "{}", model.stderr);
}
