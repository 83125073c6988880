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
