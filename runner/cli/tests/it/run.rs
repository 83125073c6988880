//! Runs: hits, failures, interruptions, exports, explanations.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::natron::{Workspace, answer};

/// Simulated candles and their features.
const MARKET: &str = r#"
[pipeline]
name = "market"
seed = 42

[params]
rows = 1200

[stages.candles]
uses = "load.synthetic"
with.rows = "${params.rows}"

[stages.features]
uses = "features"
inputs.candles = "candles.candles"
with.set = "natron_v2"
"#;

fn outcomes(run: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let stages = run["stages"].as_array().unwrap();
    stages
        .iter()
        .map(|stage| (text(&stage["name"]), text(&stage["outcome"])))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[test]
fn a_second_run_has_nothing_to_do_and_a_change_runs_what_it_must() {
    let workspace = Workspace::with(MARKET);
    let first = workspace.natron(&["run", "--json"]).expect(0);
    assert_eq!(
        outcomes(&first.json()),
        pairs(&[("candles", "ran"), ("features", "ran")])
    );

    let second = workspace.natron(&["run"]).expect(0);
    assert!(
        second
            .stderr
            .starts_with("market: nothing to do, 2 stages up to date ("),
        "{}",
        second.stderr
    );
    assert_eq!(second.stdout, "");

    let plan = workspace
        .natron(&["run", "--dry-run", "--set", "features.set=natron_v2"])
        .expect(0);
    assert!(
        plan.stdout.contains("0 of 2 stages would run or may"),
        "{}",
        plan.stdout
    );
    let plan = workspace
        .natron(&["run", "--dry-run", "--set", "params.rows=1300"])
        .expect(0);
    assert!(
        plan.stdout.contains("candles: rows 1200 -> 1300"),
        "{}",
        plan.stdout
    );

    let explained = workspace
        .natron(&["explain", "features", "--set", "params.rows=1300"])
        .expect(0);
    assert!(
        explained.stdout.contains("candles: rows 1200 -> 1300"),
        "{}",
        explained.stdout
    );
    let third = workspace
        .natron(&["run", "--json", "--set", "params.rows=1300"])
        .expect(0);
    assert_eq!(
        outcomes(&third.json()),
        pairs(&[("candles", "ran"), ("features", "ran")])
    );
    let back = workspace.natron(&["run", "--json"]).expect(0);
    assert_eq!(
        outcomes(&back.json()),
        pairs(&[("candles", "hit"), ("features", "hit")])
    );

    let runs = workspace.natron(&["runs", "--json"]).expect(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 4);
    let difference = workspace.natron(&["diff", "latest~1", "latest"]).expect(0);
    assert!(
        difference.stdout.contains("rows 1300 -> 1200"),
        "{}",
        difference.stdout
    );
    let verified = workspace.natron(&["verify"]).expect(0);
    assert!(
        verified
            .stderr
            .contains("2 of 2 stages gave the same bytes again"),
        "{}",
        verified.stderr
    );
}

#[test]
fn part_of_a_graph_runs_alone() {
    let workspace = Workspace::with(MARKET);
    let refused = workspace.natron(&["run", "--from", "features"]).expect(2);
    assert!(
        refused
            .stderr
            .contains("stage `candles` lies above those to start at"),
        "{}",
        refused.stderr
    );

    let until = workspace
        .natron(&["run", "--until", "candles", "--json"])
        .expect(0)
        .json();
    assert_eq!(outcomes(&until), pairs(&[("candles", "ran")]));
    let from = workspace
        .natron(&["run", "--from", "features", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        outcomes(&from),
        pairs(&[("candles", "hit"), ("features", "ran")])
    );
    let forced = workspace
        .natron(&["run", "--force", "candles", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        outcomes(&forced),
        pairs(&[("candles", "unchanged"), ("features", "hit")])
    );
    let unknown = workspace.natron(&["run", "--until", "feature"]).expect(2);
    assert!(
        unknown.stderr.contains("did you mean `features`?"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn tables_are_exported_exactly() {
    let workspace = Workspace::with(MARKET);
    workspace.natron(&["run", "--until", "candles"]).expect(0);
    workspace
        .natron(&["export", "candles.candles", "-o", "out/candles.csv"])
        .expect(0);
    let refused = workspace
        .natron(&["export", "candles.candles", "-o", "out/candles.csv"])
        .expect(2);
    assert!(
        refused
            .stderr
            .contains("`out/candles.csv` is there already"),
        "{}",
        refused.stderr
    );

    // The exported CSV is a source like any other: loading it gives the same bars.
    let text = "[pipeline]\nname = \"again\"\n[stages.candles]\nuses = \"load.csv\"\nwith.path = \"out/candles.csv\"\n";
    fs::write(workspace.path("again.toml"), text).unwrap();
    let again = workspace
        .natron(&["run", "again.toml", "--json"])
        .expect(0)
        .json();
    let shown = workspace
        .natron(&["show", "candles.candles", "--json", "--rows", "3"])
        .expect(0)
        .json();
    let loaded = workspace
        .natron(&[
            "show",
            "candles.candles",
            "-p",
            "again.toml",
            "--json",
            "--rows",
            "3",
        ])
        .expect(0)
        .json();
    assert_eq!(shown["shown"], loaded["shown"]);
    for field in ["minimum", "maximum", "mean", "deviation"] {
        assert_eq!(
            shown["columns"][4][field], loaded["columns"][4][field],
            "{again}"
        );
    }

    for format in ["parquet", "arrow"] {
        let file = format!("out/candles.{format}");
        workspace
            .natron(&["export", "candles.candles", "-o", &file])
            .expect(0);
        let read = workspace
            .natron(&["show", &file, "--json", "--rows", "3"])
            .expect(0)
            .json();
        assert_eq!(read["shown"], shown["shown"], "{format}");
        assert_eq!(read["columns"], shown["columns"], "{format}");
    }
    let text = workspace
        .natron(&["show", "candles.candles"])
        .expect(0)
        .stdout;
    assert!(
        text.starts_with("candles.candles: 1,200 rows, 6 columns"),
        "{text}"
    );
}

/// One stage that fails, one that depends on it, one that does not.
const FAILING: &str = r#"
[pipeline]
name = "failing"

[stages.bad]
uses = "command"
with.run = ["sh", "-c", "echo no such market >&2; exit 3"]
with.outputs.out = "file"

[stages.below]
uses = "command"
inputs.text = "bad"
with.run = ["cp", "${inputs.text}", "${outputs.out}"]
with.outputs.out = "file"

[stages.good]
uses = "command"
with.run = ["sh", "-c", "echo fine > ${outputs.out}"]
with.outputs.out = "file"
"#;

#[test]
fn a_failed_stage_is_named_and_the_rest_may_go_on() {
    let workspace = Workspace::with(FAILING);

    let failed = workspace.natron(&["run", "--keep-going"]).expect(1);
    assert!(
        failed.stderr.contains("error: stage `bad` failed: "),
        "{}",
        failed.stderr
    );
    assert!(
        failed.stderr.contains("no such market"),
        "{}",
        failed.stderr
    );
    assert!(
        failed
            .stderr
            .contains("1 ran, 1 failed, 1 not started of 3 stages"),
        "{}",
        failed.stderr
    );
    let json = workspace
        .natron(&["run", "--keep-going", "--json"])
        .expect(1)
        .json();
    assert_eq!(json["exit_code"], json!(1));
    assert_eq!(outcomes(&json)[2], ("good".to_owned(), "hit".to_owned()));
    let nothing = workspace.natron(&["show", "below"]).expect(2);
    assert!(
        nothing.stderr.contains("stage `below` has no result yet"),
        "{}",
        nothing.stderr
    );
}

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "`{}` never came",
            path.display()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a run of a stage that writes its process id to `started` and runs `script`.
fn start(script: &str) -> (Workspace, std::process::Child, i32) {
    let workspace = Workspace::with("");
    let started = workspace.path("started");
    let text = format!(
        "[pipeline]\nname = \"slow\"\n[stages.slow]\nuses = \"command\"\nwith.outputs.out = \"file\"\n\
         with.run = [\"sh\", \"-c\", '''echo $$ > {0}.tmp; mv {0}.tmp {0}; {script}''']\n",
        started.display()
    );
    fs::write(workspace.path("pipelines/p.toml"), text).unwrap();
    let child = workspace
        .command(&["run"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&started);
    let id = fs::read_to_string(&started)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    (workspace, child, id)
}

fn send(child: &std::process::Child, signal: Signal) {
    let id = i32::try_from(child.id()).unwrap();
    kill(Pid::from_raw(id), signal).unwrap();
}

fn is_alive(id: i32) -> bool {
    // A zombie that nobody has waited for does not run any more.
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn stops_gently_once() {
    for (signal, code, word) in [
        (Signal::SIGINT, 130, "interrupted"),
        (Signal::SIGTERM, 143, "asked to terminate"),
    ] {
        let (_workspace, child, stage) = start("sleep 60");
        send(&child, signal);
        let answer = answer(child.wait_with_output().unwrap()).expect(code);
        assert!(answer.stderr.contains(word), "{}", answer.stderr);
        assert!(
            answer.stderr.contains("1 stopped of 1 stage"),
            "{}",
            answer.stderr
        );
        assert!(!is_alive(stage));
    }
}

#[test]
fn stops_at_once_when_told_twice() {
    let (_workspace, child, stage) = start("trap '' TERM INT; while true; do sleep 1; done");
    let start = Instant::now();
    send(&child, Signal::SIGINT);
    thread::sleep(Duration::from_millis(300));
    send(&child, Signal::SIGINT);

    answer(child.wait_with_output().unwrap()).expect(130);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    thread::sleep(Duration::from_millis(200));
    assert!(!is_alive(stage));
}

#[test]
fn graphs_are_drawn_in_four_languages() {
    let workspace = Workspace::with(MARKET);

    let tree = workspace.natron(&["graph"]).expect(0).stdout;
    assert_eq!(
        tree,
        "market (2 stages)\n●  candles   load.synthetic\n●  features  features        ← candles.candles\n"
    );
    for (format, start) in [
        ("dot", "digraph \"market\" {"),
        ("mermaid", "flowchart TD\n"),
        ("svg", "<svg xmlns="),
    ] {
        let text = workspace
            .natron(&["graph", "--format", format])
            .expect(0)
            .stdout;
        assert!(text.starts_with(start), "{text}");
    }
    workspace.natron(&["graph", "-o", "picture.svg"]).expect(0);
    assert!(
        fs::read_to_string(workspace.path("picture.svg"))
            .unwrap()
            .ends_with("</svg>\n")
    );
}

#[test]
fn a_collection_keeps_what_runs_need() {
    let workspace = Workspace::with(FAILING);
    workspace.natron(&["run", "--until", "good"]).expect(0);

    let kept = workspace
        .natron(&["gc", "--grace", "0", "--yes", "--json"])
        .expect(0)
        .json();
    assert_eq!(kept["records"], json!([]));
    let all = workspace
        .natron(&["gc", "--grace", "0", "--keep-runs", "0", "--yes", "--json"])
        .expect(0)
        .json();
    assert_eq!(all["records"].as_array().unwrap().len(), 1, "{all}");
    let again = workspace
        .natron(&["run", "--until", "good", "--json"])
        .expect(0)
        .json();
    assert_ne!(outcomes(&again)[0].1, "hit");
}

#[test]
fn what_is_done_is_shown_although_another_stage_failed() {
    let text = FAILING.replace(
        "[stages.good]\n",
        "[stages.good]\nviews.out = \"shown.txt\"\n",
    );
    assert_ne!(text, FAILING);
    let workspace = Workspace::with(&text);

    workspace.natron(&["run", "--keep-going"]).expect(1);

    assert_eq!(fs::read(workspace.path("shown.txt")).unwrap(), b"fine\n");
}

#[test]
fn damage_is_found_and_mended() {
    let workspace = Workspace::with(FAILING);
    workspace.natron(&["run", "--until", "good"]).expect(0);
    workspace.natron(&["cache", "check"]).expect(0);
    // So small an object lies in its record.
    let segments = workspace.path(".natron/cache/v2/ac");
    let segment = fs::read_dir(&segments).unwrap().next().unwrap().unwrap();
    let mut bytes = fs::read(segment.path()).unwrap();
    let at = bytes.windows(5).position(|window| window == b"fine\n");
    bytes[at.unwrap()..][..5].copy_from_slice(b"evil\n");
    fs::write(segment.path(), bytes).unwrap();

    let found = workspace.natron(&["cache", "verify"]).expect(5);
    assert!(
        found.stderr.contains("1 record damaged"),
        "{}",
        found.stderr
    );
    let again = workspace
        .natron(&["run", "--until", "good", "--json"])
        .expect(0)
        .json();
    assert_ne!(outcomes(&again)[0].1, "hit");
    workspace.natron(&["cache", "verify"]).expect(0);
}
