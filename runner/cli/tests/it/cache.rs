//! The cache as people keep it: what is counted, pinned, accepted and removed, and by whom nothing is written.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::natron::{Workspace, natron};

const CHAIN: &str = r#"
[pipeline]
name = "chain"

[params]
text = "one"

[stages.first]
uses = "command"
with.run = ["./first.sh", "${params.text}", "${outputs.out}"]
with.outputs.out = "file"

[stages.second]
uses = "command"
inputs.text = "first"
with.run = ["cp", "${inputs.text}", "${outputs.out}"]
with.outputs.out = "file"
"#;

fn chain() -> Workspace {
    let workspace = Workspace::with(CHAIN);
    script(&workspace, "");
    workspace
}

fn script(workspace: &Workspace, comment: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = workspace.path("first.sh");
    fs::write(
        &path,
        format!("#!/bin/sh\n# {comment}\necho \"$1\" > \"$2\"\n"),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn outcomes(answer: &Value) -> Vec<String> {
    let stages = answer["stages"].as_array().unwrap();
    let outcome = |stage: &Value| stage["outcome"].as_str().unwrap().to_owned();
    stages.iter().map(outcome).collect()
}

fn run(workspace: &Workspace) -> Vec<String> {
    outcomes(&workspace.natron(&["run", "--json"]).expect(0).json())
}

/// Every file and folder below `root`, and what is in it.
fn everything(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
                found.insert(path, Vec::new());
            } else {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_result_of_code_that_does_not_matter_is_accepted() {
    let workspace = chain();
    assert_eq!(run(&workspace), ["ran", "ran"]);
    script(&workspace, "says what it does");

    let dry = ["accept", "first", "--dry-run", "--json"];
    let dry = workspace.natron(&dry).expect(0).json();
    assert_eq!(dry["stages"][0]["verdict"], "accepted", "{dry}");
    assert_eq!(dry["recorded"], false);
    let status = workspace.natron(&["status", "--json"]).expect(0).json();
    assert_ne!(status["stages"][0]["forecast"], "hit", "{status}");

    let done = workspace
        .natron(&["accept", "first", "--json"])
        .expect(0)
        .json();
    assert_eq!(done["stages"][0]["verdict"], "accepted", "{done}");
    assert_ne!(done["stages"][0]["from"], done["stages"][0]["to"]);
    assert_eq!(run(&workspace), ["hit", "hit"]);
    let again = workspace
        .natron(&["accept", "first", "--json"])
        .expect(0)
        .json();
    assert_eq!(again["stages"][0]["verdict"], "current", "{again}");
}

#[test]
fn a_result_of_other_parameters_is_not_accepted() {
    let workspace = chain();
    run(&workspace);
    let path = workspace.path("pipelines/p.toml");
    fs::write(&path, CHAIN.replace("\"one\"", "\"two\"")).unwrap();

    let refused = workspace
        .natron(&["accept", "first", "second", "--json"])
        .expect(3);
    let answer = refused.json();
    assert_eq!(answer["stages"][0]["verdict"], "refused", "{answer}");
    let path = answer["stages"][0]["differences"][0]["path"]
        .as_str()
        .unwrap();
    assert!(path.starts_with("parameters."), "{answer}");
    assert_eq!(answer["stages"][1]["verdict"], "unknown", "{answer}");
    assert_eq!(run(&workspace)[0], "ran");
}

#[test]
fn pinned_results_stay() {
    let workspace = chain();
    run(&workspace);
    let collect = ["gc", "--grace", "0", "--keep-runs", "0", "--json"];
    let n_doomed = || {
        let plan = workspace.natron(&collect).expect(0).json();
        plan["records"].as_array().unwrap().len()
    };
    assert_eq!(n_doomed(), 2);

    let pin = ["cache", "pin", "first", "--name", "mine", "--json"];
    workspace.natron(&pin).expect(0);
    assert_eq!(n_doomed(), 1);
    let runs = workspace.natron(&["runs", "--json"]).expect(0).json();
    let run_id = runs["runs"][0]["id"].as_str().unwrap().to_owned();
    workspace.natron(&["cache", "pin", &run_id]).expect(0);
    assert_eq!(n_doomed(), 0);
    let pins = workspace
        .natron(&["cache", "pins", "--json"])
        .expect(0)
        .json();
    let names: Vec<&Value> = pins["pins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pin| &pin["name"])
        .collect();
    assert_eq!(names, [&json!(run_id), &json!("mine")]);

    workspace
        .natron(&["cache", "unpin", "mine", &run_id])
        .expect(0);
    assert_eq!(n_doomed(), 2);
    let unknown = workspace.natron(&["cache", "unpin", "mine"]).expect(2);
    assert!(
        unknown.stderr.contains("no pin called `mine`"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn statistics_count_results_by_kind() {
    let workspace = chain();
    run(&workspace);

    let stats = workspace
        .natron(&["cache", "stats", "--json"])
        .expect(0)
        .json();
    assert_eq!(stats["records"]["n"], 2, "{stats}");
    assert_eq!(stats["kinds"]["command"]["records"], 2);
    assert_eq!(stats["objects"]["n"], 0);
    assert!(stats["carried"]["n"].as_u64().unwrap() >= 2, "{stats}");
    let text = workspace.natron(&["cache", "stats"]).expect(0).stdout;
    assert!(text.contains("command"), "{text}");
}

#[test]
fn who_only_looks_makes_nothing() {
    let empty = tempfile::tempdir().unwrap();
    for arguments in [
        &["gc"][..],
        &["gc", "--yes"],
        &["cache", "stats"],
        &["cache", "verify"],
        &["cache", "pins"],
        &["runs"],
    ] {
        natron(empty.path(), arguments).expect(0);
        assert_eq!(
            fs::read_dir(empty.path()).unwrap().count(),
            0,
            "{arguments:?}"
        );
    }

    let workspace = chain();
    let fresh = everything(&workspace.path("."));
    workspace.natron(&["status"]).expect(0);
    workspace.natron(&["explain", "second"]).expect(0);
    assert_eq!(everything(&workspace.path(".")), fresh);

    run(&workspace);
    run(&workspace);
    let mut used = everything(&workspace.path("."));
    for arguments in [
        &["status"][..],
        &["explain", "second"],
        &["show", "first"],
        &["runs"],
        &["graph"],
        &["cache", "stats"],
        &["gc", "--grace", "0"],
    ] {
        workspace.natron(arguments).expect(0);
    }
    let mut after = everything(&workspace.path("."));
    // What was learned of files and runs may be noted.
    for note in ["stat.bin", "runs.index"] {
        let note = workspace.path("./.natron").join(note);
        used.remove(&note);
        after.remove(&note);
    }
    assert_eq!(
        after.keys().collect::<Vec<_>>(),
        used.keys().collect::<Vec<_>>()
    );
    assert!(after == used, "something was written");
}

#[test]
fn a_workspace_that_vanished_holds_up_no_collection() {
    let cache = tempfile::tempdir().unwrap();
    let option = ["--cache", cache.path().to_str().unwrap()];
    let [mine, other] = [chain(), chain()];
    let with = |workspace: &Workspace, arguments: &[&str]| {
        workspace.natron(&[arguments, &option].concat())
    };
    with(&mine, &["run"]).expect(0);
    fs::write(other.path("first.sh"), "#!/bin/sh\necho other > \"$2\"\n").unwrap();
    with(&other, &["run"]).expect(0);
    let gone = other.path(".").canonicalize().unwrap();
    drop(other);

    let collect = ["gc", "--grace", "0", "--keep-runs", "0", "--json"];
    let kept = with(&mine, &collect).expect(0);
    assert!(kept.stderr.contains("cannot be read"), "{}", kept.stderr);
    assert_eq!(kept.json()["records"], json!([]));

    let forget = ["--forget", gone.to_str().unwrap(), "--yes"];
    let all = with(&mine, &[&collect[..], &forget].concat()).expect(0);
    assert_eq!(all.json()["records"].as_array().unwrap().len(), 4);
}

#[test]
fn runs_of_many_processes_compute_each_stage_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let cache = folder.path().join("cache");
    let stages: String = (0..10)
        .map(|i| {
            format!(
                "[stages.s{i}]\nuses = \"command\"\nwith.outputs.out = \"file\"\nwith.run = [\"sh\", \"-c\", \
                 \"echo {i} >> {}; sleep 0.02; echo {i} > ${{outputs.out}}\"]\n",
                log.display()
            )
        })
        .collect();
    let pipeline = format!("[pipeline]\nname = \"p\"\n{stages}");
    let workspaces: Vec<Workspace> = (0..4).map(|_| Workspace::with(&pipeline)).collect();

    let children: Vec<_> = workspaces
        .iter()
        .map(|workspace| {
            Command::new(env!("CARGO_BIN_EXE_natron"))
                .args(["run", "--json", "--cache", cache.to_str().unwrap()])
                .current_dir(workspace.path("."))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut outputs = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |stage: &Value| stage["outputs"].clone();
        let all: Vec<Value> = answer["stages"]
            .as_array()
            .unwrap()
            .iter()
            .map(of)
            .collect();
        outputs.push(all);
    }

    let mut ran: Vec<String> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    ran.sort();
    assert_eq!(ran, (0..10).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(outputs.iter().all(|one| *one == outputs[0]));
}
