//! Explanations: root causes, early cut-off, what changed in files and tables, runs compared and listed.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::natron::Workspace;

/// Four stages in a chain, the last one shown in the workspace.
const CHAIN: &str = r#"
[pipeline]
name = "chain"

[params]
lr = 1e-4

[stages.load]
uses = "command"
inputs.raw = { file = "data/raw.csv" }
with.run = ["sh", "load.sh", "${inputs.raw}", "${outputs.rows}"]
with.sources = ["load.sh"]
with.outputs.rows = "file"

[stages.clean]
uses = "command"
inputs.rows = "load.rows"
with.run = ["sh", "-c", "sort ${inputs.rows} > ${outputs.rows}"]
with.outputs.rows = "file"

[stages.train]
uses = "command"
inputs.rows = "clean.rows"
with.run = ["sh", "train.sh", "${inputs.rows}", "${outputs.score}"]
with.sources = ["train.sh"]
with.parameters = { lr = "${params.lr}" }
with.outputs.score = "metrics"

[stages.report]
uses = "command"
inputs.score = "train.score"
with.run = ["sh", "-c", "cat ${inputs.score} > ${outputs.text}"]
with.outputs.text = "file"
views.text = "out/report.txt"
"#;

/// The score is the number of rows times 1,000 times the rate.
const TRAIN: &str = r#"# Rows.
n=$(wc -l < "$1")
lr=$(sed -n 's/.*"lr":\([0-9.e-]*\).*/\1/p' request.json)
printf '{"n": %s, "loss": %s}' "$n" "$(echo "$n $lr" | awk '{print $1 * $2 * 1000}')" > "$2"
"#;

fn chain() -> Workspace {
    let workspace = Workspace::with(CHAIN);
    fs::create_dir(workspace.path("data")).unwrap();
    write(&workspace, "data/raw.csv", "b,2\na,1\nc,3\n");
    write(&workspace, "load.sh", "cat \"$1\" > \"$2\"\n");
    write(&workspace, "train.sh", TRAIN);
    workspace
}

fn write(workspace: &Workspace, name: &str, text: &str) {
    fs::write(workspace.path(name), text).unwrap();
}

fn explained(workspace: &Workspace, arguments: &[&str]) -> Value {
    let mut all = vec!["explain", "--json"];
    all.extend(arguments);
    workspace.natron(&all).expect(0).json()
}

fn text(workspace: &Workspace, arguments: &[&str]) -> String {
    let mut all = vec!["explain"];
    all.extend(arguments);
    workspace.natron(&all).expect(0).stdout
}

fn stage<'a>(explanation: &'a Value, name: &str) -> &'a Value {
    let stages = explanation["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["name"] == name).unwrap()
}

fn forecasts(explanation: &Value) -> Vec<&str> {
    let stages = explanation["stages"].as_array().unwrap().iter();
    stages.map(|s| s["forecast"].as_str().unwrap()).collect()
}

#[test]
fn causes_are_named_once_with_what_they_make_run() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    write(&workspace, "data/raw.csv", "b,2\na,1\nc,3\nd,4\n");

    let explanation = explained(&workspace, &["--set", "params.lr=3e-4"]);
    let causes = explanation["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 2);
    assert_eq!(causes[0]["change"]["file"], "data/raw.csv");
    assert_eq!(
        (&causes[0]["run"], &causes[0]["maybe"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(causes[1]["change"]["path"], "parameters.parameters.lr");
    assert_eq!(causes[1]["change"]["before"], 1e-4);
    assert_eq!(causes[1]["change"]["after"], 3e-4);
    assert_eq!(
        (&causes[1]["run"], &causes[1]["maybe"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(forecasts(&explanation), ["run", "maybe", "maybe", "maybe"]);
    assert_eq!(stage(&explanation, "clean")["causes"], json!([0]));
    assert_eq!(stage(&explanation, "report")["causes"], json!([0, 1]));

    let text = text(&workspace, &["--set", "params.lr=3e-4"]);
    assert!(text.contains("train: lr 1e-4 -> 3e-4"), "{text}");
    assert!(text.contains("data/raw.csv changed"), "{text}");
    assert!(
        text.contains("4 of 4 stages would run or may, about"),
        "{text}"
    );
}

#[test]
fn a_dry_run_says_what_explain_says() {
    let workspace = chain();
    for _ in 0..2 {
        let plan = workspace.natron(&["run", "--dry-run"]).expect(0);
        assert_eq!(plan.stdout, text(&workspace, &[]));
        workspace.natron(&["run"]).expect(0);
    }
}

#[test]
fn a_cause_is_found_through_stages_that_ran_already() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    write(&workspace, "data/raw.csv", "b,2\na,1\nc,3\nd,4\n");
    workspace.natron(&["run", "--until", "clean"]).expect(0);

    let explanation = explained(&workspace, &["train"]);
    assert_eq!(
        stage(&explanation, "train")["reason"]["class"],
        "key_changed"
    );
    let causes = explanation["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!(causes[0]["change"]["file"], "data/raw.csv");
}

#[test]
fn a_result_that_holds_says_what_did_not_reach_it() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    // Sorted, it is the same.
    write(&workspace, "data/raw.csv", "c,3\nb,2\na,1\n");
    workspace.natron(&["run"]).expect(0);

    let explanation = explained(&workspace, &["report", "--why-cached"]);
    let why = &stage(&explanation, "report")["why_cached"];
    let cutoff = &why["cutoffs"][0];
    assert_eq!(cutoff["stage"], "clean");
    assert_eq!(cutoff["is_same_content"], true);
    assert_eq!(cutoff["changes"][0]["file"], "data/raw.csv");
    let text = text(&workspace, &["train"]);
    assert!(text.contains("clean ran again in run"), "{text}");
    assert!(text.contains("gave the same content"), "{text}");

    let past = explained(&workspace, &["--run", "latest"]);
    assert_eq!(stage(&past, "clean")["outcome"], "unchanged");
    assert_eq!(stage(&past, "train")["outcome"], "hit");
    assert_eq!(past["causes"][0]["run"], 2);
}

#[test]
fn an_edited_view_is_named_and_nothing_runs() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    write(&workspace, "out/report.txt", "mine\n");

    let explanation = explained(&workspace, &["report"]);
    let report = stage(&explanation, "report");
    assert_eq!(report["reason"]["class"], "output_edited");
    assert_eq!(report["edited_views"], json!(["out/report.txt"]));
    assert_eq!(report["forecast"], "hit");
}

#[test]
fn a_failed_attempt_is_the_reason_for_the_next() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    write(&workspace, "train.sh", "echo broken >&2\nexit 3\n");
    workspace.natron(&["run"]).expect(1);

    let explanation = explained(&workspace, &["train"]);
    let train = stage(&explanation, "train");
    assert_eq!(train["reason"]["class"], "previous_attempt_failed");
    assert!(
        train["reason"]["error"]
            .as_str()
            .unwrap()
            .contains("exit status 3")
    );
    assert_eq!(train["changes"][0]["file"], "train.sh");
    let past = explained(&workspace, &["--run", "latest"]);
    assert_eq!(past["causes"][0]["cause"], "failed");
    assert_eq!(
        (&past["causes"][0]["run"], &past["causes"][0]["maybe"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn lost_content_is_told_from_a_changed_key() {
    let workspace = Workspace::with(
        "[pipeline]\nname = \"large\"\n[stages.zeros]\nuses = \"command\"\n\
         with.run = [\"sh\", \"-c\", \"head -c 3000000 /dev/zero > ${outputs.out}\"]\nwith.outputs.out = \"file\"\n",
    );
    workspace.natron(&["run"]).expect(0);
    let n = remove_large_files(&workspace.path(".natron/cache"));
    assert_eq!(n, 1);

    let explanation = explained(&workspace, &["zeros"]);
    let zeros = stage(&explanation, "zeros");
    assert_eq!(zeros["reason"]["class"], "content_lost");
    assert_eq!(zeros["reason"]["outputs"], json!(["out"]));
    assert_eq!(explanation["causes"][0]["cause"], "content_lost");
    // A plain run opens no content of results that nobody reads, and would find nothing to do.
    workspace.natron(&["run", "--until", "zeros"]).expect(0);
    assert_eq!(forecasts(&explained(&workspace, &[])), ["hit"]);
}

fn remove_large_files(folder: &Path) -> usize {
    let mut n = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            n += remove_large_files(&path);
        } else if fs::metadata(&path).unwrap().len() >= 3_000_000 {
            fs::remove_file(&path).unwrap();
            n += 1;
        }
    }
    n
}

#[test]
fn a_new_instance_is_compared_with_its_nearest_relative() {
    let file = |rates: &str| {
        format!(
            "[pipeline]\nname = \"grid\"\n[stages.train]\nuses = \"command\"\nmatrix.lr = [{rates}]\n\
             with.run = [\"sh\", \"-c\", \"cat request.json > ${{outputs.out}}\"]\n\
             with.parameters = {{ lr = \"${{matrix.lr}}\", depth = 3 }}\nwith.outputs.out = \"file\"\n"
        )
    };
    let workspace = Workspace::with(&file("0.1"));
    workspace.natron(&["run"]).expect(0);
    write(&workspace, "pipelines/p.toml", &file("0.1, 0.3"));

    let explanation = explained(&workspace, &["train[lr=0.3]"]);
    let train = stage(&explanation, "train[lr=0.3]");
    assert_eq!(train["reason"]["class"], "new");
    assert_eq!(train["reason"]["nearest"]["stage"], "train[lr=0.1]");
    let paths: Vec<&str> = train["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["path"].as_str().unwrap())
        .collect();
    assert!(paths.contains(&"parameters.parameters.lr"), "{paths:?}");
    assert!(!paths.contains(&"parameters.parameters.depth"), "{paths:?}");
}

const TABLE: &str = r#"
[pipeline]
name = "table"

[stages.candles]
uses = "load.csv"
with.path = "bars.csv"

[stages.copy]
uses = "command"
inputs.bars = "candles.candles"
with.run = ["cp", "${inputs.bars}", "${outputs.bars}"]
with.outputs.bars = "table"
"#;

fn bars(close_of_day_3: &str) -> String {
    let mut text = "time,open,high,low,close,volume\n".to_owned();
    for day in 1..=9 {
        let close = if day == 3 { close_of_day_3 } else { "1.5" };
        text.push_str(&format!("2024-01-0{day},1.5,2,1,{close},100\n"));
    }
    text
}

#[test]
fn the_column_that_changed_is_named() {
    let workspace = Workspace::with(TABLE);
    write(&workspace, "bars.csv", &bars("1.5"));
    workspace.natron(&["run"]).expect(0);
    write(&workspace, "bars.csv", &bars("1.75"));
    workspace.natron(&["run", "--until", "candles"]).expect(0);

    let explanation = explained(&workspace, &["copy"]);
    let change = &stage(&explanation, "copy")["changes"][0];
    assert_eq!(change["path"], "inputs.bars");
    assert_eq!(change["from"], "candles.candles");
    let columns = change["columns"].as_array().unwrap();
    assert_eq!(columns.len(), 1, "{columns:?}");
    assert_eq!(columns[0]["name"], "close");
    assert_eq!(columns[0]["extent"]["rows"], 1);
    assert_eq!(columns[0]["extent"]["first_row"], 2);
    let text = text(&workspace, &["copy"]);
    assert!(
        text.contains("column close changed: 1 of 9 rows differ, the first is row 2"),
        "{text}"
    );

    workspace.natron(&["run"]).expect(0);
    let difference = workspace
        .natron(&["diff", "latest~2", "--json"])
        .expect(0)
        .json();
    let copy = &difference["stages"][1];
    assert_eq!(copy["stage"], "copy");
    assert_eq!(
        copy["outputs"]["bars"]["change"]["columns"][0]["name"],
        "close"
    );
}

#[test]
fn what_is_not_there_is_met_with_what_was_meant() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    for (arguments, expected) in [
        (vec!["explain", "trian"], "did you mean `train`?"),
        (
            vec!["explain", "pipelines/p.toml"],
            "`--pipeline pipelines/p.toml`",
        ),
        (
            vec!["explain", "--run", "latest~7"],
            "there are 1: `latest` to `latest~0`",
        ),
        (
            vec!["explain", "lod", "--run", "latest"],
            "did you mean `load`?",
        ),
        (
            vec!["diff", "latest", "--stage", "repot"],
            "did you mean `report`?",
        ),
        (vec!["diff", "nosuch"], "`natron runs` lists them"),
        (
            vec!["runs", "--where", "train.loss"],
            "expected NAME OP VALUE",
        ),
    ] {
        let answer = workspace.natron(&arguments).expect(2);
        assert!(answer.stderr.contains(expected), "{}", answer.stderr);
        assert_eq!(answer.stdout, "");
    }
}

#[test]
fn runs_are_compared_by_parameters_metrics_and_results() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    workspace
        .natron(&["run", "--set", "params.lr=3e-4"])
        .expect(0);

    let difference = workspace
        .natron(&["diff", "latest~1", "--json"])
        .expect(0)
        .json();
    assert_eq!(difference["parameters"][0]["path"], "parameters.lr");
    assert_eq!(difference["same"], json!(["load", "clean"]));
    let train = &difference["stages"][0];
    assert_eq!(train["stage"], "train");
    assert_eq!(train["changes"][0]["after"], 3e-4);
    let metric = &train["metrics"][0];
    assert_eq!(metric["name"], "score.loss");
    assert_eq!(
        (&metric["before"], &metric["after"]),
        (&json!(0.3), &json!(0.9))
    );
    assert!((metric["relative"].as_f64().unwrap() - 2.0).abs() < 1e-9);

    let text = workspace.natron(&["diff", "latest~1"]).expect(0).stdout;
    assert!(text.contains("lr 1e-4 -> 3e-4"), "{text}");
    assert!(text.contains("the same in both: load, clean"), "{text}");
    let metrics = workspace
        .natron(&["diff", "latest~1", "latest", "--metrics-only"])
        .expect(0)
        .stdout;
    let line = metrics.lines().last().unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words, ["train.loss", "0.3", "0.9", "+0.6", "+200.00", "%"]);
    let one = workspace
        .natron(&["diff", "latest~1", "--stage", "report"])
        .expect(0)
        .stdout;
    assert!(one.contains("report") && !one.contains("train.sh"), "{one}");
    let same = workspace
        .natron(&["diff", "latest", "latest"])
        .expect(0)
        .stdout;
    assert!(same.contains("the same stages, made of the same"), "{same}");
}

#[test]
fn runs_are_found_by_what_they_were_and_gave() {
    let workspace = chain();
    for rate in ["1e-4", "2e-4", "3e-4"] {
        let set = format!("params.lr={rate}");
        workspace.natron(&["run", "--set", &set]).expect(0);
    }
    write(&workspace, "load.sh", "exit 1\n");
    workspace.natron(&["run"]).expect(1);

    let listed = |arguments: &[&str]| -> Vec<Value> {
        let mut all = vec!["runs", "--json", "--metric", "train.loss", "--param", "lr"];
        all.extend(arguments);
        let runs = workspace.natron(&all).expect(0).json();
        runs["runs"].as_array().unwrap().clone()
    };
    let losses = |runs: &[Value]| -> Vec<f64> {
        runs.iter()
            .map(|run| run["metrics"]["train.loss"].as_f64().unwrap())
            .collect()
    };
    assert_eq!(listed(&[]).len(), 4);
    assert_eq!(
        losses(&listed(&["--where", "train.loss > 0.5"])),
        [0.9, 0.6]
    );
    assert_eq!(
        losses(&listed(&[
            "--outcome",
            "ok",
            "--sort",
            "train.loss",
            "--limit",
            "2"
        ])),
        [0.3, 0.6]
    );
    assert_eq!(losses(&listed(&["--set", "params.lr=0.0002"])), [0.6]);
    assert_eq!(losses(&listed(&["--where", "lr == 3e-4"])), [0.9]);
    let failed = listed(&["--outcome", "failed", "--since", "1h"]);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["failure"]["stage"], "load");
    assert_eq!(failed[0]["parameters"]["lr"], 1e-4);
    assert!(listed(&["--since", "2099-01-01"]).is_empty());
    assert!(listed(&["--pipeline", "other"]).is_empty());
    assert_eq!(listed(&["--limit", "0"]).len(), 4);

    let csv = workspace
        .natron(&["runs", "--csv", "--metric", "train.loss", "--limit", "0"])
        .expect(0)
        .stdout;
    let mut lines = csv.lines();
    assert_eq!(
        lines.next().unwrap(),
        "run,pipeline,profile,set,started,seconds,outcome,stages,ran,hit,failed,train.loss"
    );
    assert_eq!(lines.count(), 4);
    let answer = workspace
        .natron(&["runs", "--metric", "train.los"])
        .expect(0);
    assert!(
        answer.stderr.contains("did you mean `train.loss`?"),
        "{}",
        answer.stderr
    );
}

#[test]
fn code_is_shown_as_a_diff_and_files_with_their_lengths() {
    let workspace = chain();
    workspace.natron(&["run"]).expect(0);
    write(
        &workspace,
        "train.sh",
        &TRAIN.replace("# Rows.", "# Rows of it."),
    );
    write(&workspace, "data/raw.csv", "b,2\na,1\nc,3\nd,4\n");

    let explanation = explained(&workspace, &["train", "load"]);
    let train = &stage(&explanation, "train")["changes"][0];
    let diff = train["diff"].as_str().unwrap();
    assert!(diff.contains("\n-# Rows.\n+# Rows of it.\n"), "{diff}");
    let raw = &stage(&explanation, "load")["changes"][0];
    assert_eq!(raw["file"], "data/raw.csv");
    assert_eq!(
        (&raw["size_before"], &raw["size_after"]),
        (&json!(12), &json!(16))
    );
    let shown = text(&workspace, &["train"]);
    assert!(
        shown.contains("    -# Rows.\n      +# Rows of it.\n"),
        "{shown}"
    );

    // Of runs that are over, both sides come from the store.
    workspace.natron(&["run"]).expect(0);
    fs::remove_file(workspace.path("train.sh")).unwrap();
    let past = explained(&workspace, &["train", "load", "--run", "latest"]);
    assert_eq!(stage(&past, "train")["changes"][0]["diff"], diff);
    assert_eq!(stage(&past, "load")["changes"][0]["file"], "data/raw.csv");
    let difference = workspace.natron(&["diff", "latest~1"]).expect(0).stdout;
    assert!(difference.contains("+# Rows of it."), "{difference}");
    assert!(
        difference.contains("data/raw.csv changed (12 B -> 16 B)"),
        "{difference}"
    );
}
