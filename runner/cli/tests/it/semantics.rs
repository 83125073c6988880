//! What runs and what does not, with programs as stages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File, FileTimes},
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::natron::{Answer, Workspace, answer};

/// Outcome of every stage, by name.
fn outcomes(answer: &Answer) -> BTreeMap<String, String> {
    let value: Value = answer.json();
    let stages = value["stages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    stages
        .map(|stage| (text(&stage["name"]), text(&stage["outcome"])))
        .collect()
}

impl Workspace {
    fn run(&self, more: &[&str]) -> Answer {
        self.natron(&[&["run", "--json"], more].concat())
    }

    /// The stages that a run executes, in order of their names.
    #[track_caller]
    fn executes(&self, more: &[&str]) -> Vec<String> {
        let answer = self.run(more).expect(0);
        if answer.json()["stages"].as_array().is_none_or(Vec::is_empty) {
            return Vec::new(); // Nothing had moved.
        }
        let outcomes = outcomes(&answer).into_iter();
        outcomes
            .filter(|(_, outcome)| outcome != "hit")
            .map(|(name, _)| name)
            .collect()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn edit(&self, from: &str, to: &str) {
        let text = self.read("pipelines/p.toml");
        assert!(text.contains(from), "{from}");
        self.write("pipelines/p.toml", &text.replace(from, to));
    }
}

const CHAIN: &str = r#"
[params]
suffix = "!"

[stages.upper]
uses = "command"
inputs.text = { file = "text.txt" }
with.run = ["sh", "-c", "tr a-z A-Z < $0 > $1", "${inputs.text}", "${outputs.out}"]
with.outputs.out = "file"
views.out = "out/upper.txt"

[stages.double]
uses = "command"
inputs.text = "upper"
with.run = ["sh", "-c", "cat $0 $0 > $1", "${inputs.text}", "${outputs.out}"]
with.outputs.out = "file"
views.out = "out/double.txt"

[stages.last]
uses = "command"
inputs.text = "double"
with.run = ["sh", "-c", "(cat $0; echo \"$2\") > $1", "${inputs.text}", "${outputs.out}", "${params.suffix}"]
with.outputs.out = "file"
views.out = "out/last.txt"
"#;

fn chain() -> Workspace {
    let workspace = Workspace::with(CHAIN);
    workspace.write("text.txt", "abc\n");
    assert_eq!(workspace.executes(&[]), ["double", "last", "upper"]);
    assert_eq!(workspace.read("out/last.txt"), "ABC\nABC\n!\n");
    workspace
}

#[test]
fn an_output_that_comes_out_equal_cuts_off_the_rest() {
    let workspace = chain();

    workspace.write("text.txt", "aBc\n");

    let outcomes = outcomes(&workspace.run(&[]).expect(0));
    assert_eq!(outcomes["upper"], "unchanged");
    assert_eq!(outcomes["double"], "hit");
    assert_eq!(outcomes["last"], "hit");
}

#[test]
fn a_touched_source_runs_nothing() {
    let workspace = chain();
    let text = File::options()
        .write(true)
        .open(workspace.path("text.txt"))
        .unwrap();

    let later = text.metadata().unwrap().modified().unwrap() + Duration::from_secs(100);
    text.set_times(FileTimes::new().set_modified(later))
        .unwrap();

    assert_eq!(workspace.executes(&[]), [""; 0]);
}

#[test]
fn a_deleted_output_is_restored_without_a_run() {
    let workspace = chain();

    for name in ["double", "last"] {
        let path = format!("out/{name}.txt");
        let before = workspace.read(&path);
        fs::remove_file(workspace.path(&path)).unwrap();
        assert_eq!(workspace.executes(&[]), [""; 0]);
        assert_eq!(workspace.read(&path), before);
    }
    fs::remove_dir_all(workspace.path("out")).unwrap();
    assert_eq!(workspace.executes(&[]), [""; 0]);
    assert_eq!(workspace.read("out/last.txt"), "ABC\nABC\n!\n");
}

#[test]
fn a_parameter_that_is_put_back_runs_nothing() {
    let workspace = chain();

    workspace.edit("suffix = \"!\"", "suffix = \"?\"");
    assert_eq!(workspace.executes(&[]), ["last"]);
    workspace.edit("suffix = \"?\"", "suffix = \"!\"");
    assert_eq!(workspace.executes(&[]), [""; 0]);
    assert_eq!(workspace.read("out/last.txt"), "ABC\nABC\n!\n");
}

#[test]
fn an_output_that_was_tampered_with_is_noticed_and_restored() {
    let workspace = chain();
    let path = workspace.path("out/double.txt");

    workspace.write("out/double.txt", "something else\n");
    assert_eq!(workspace.executes(&[]), [""; 0]);
    assert_eq!(workspace.read("out/double.txt"), "ABC\nABC\n");

    // Same size, same time of modification: only the time of change tells.
    let before = fs::metadata(&path).unwrap();
    let modified = before.modified().unwrap();
    fs::write(&path, "ABC\nABD\n").unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_times(FileTimes::new().set_modified(modified))
        .unwrap();
    drop(file);
    let after = fs::metadata(&path).unwrap();
    assert_eq!(after.len(), before.len());
    assert_eq!(
        (after.mtime(), after.mtime_nsec()),
        (before.mtime(), before.mtime_nsec())
    );

    let answer = workspace.run(&[]).expect(0);
    assert!(
        answer.stderr.contains("was edited and is replaced"),
        "{}",
        answer.stderr
    );
    assert_eq!(workspace.read("out/double.txt"), "ABC\nABC\n");
}

/// Daily bars from the first of January 2024 on; `change` may replace a line.
fn bars(days: usize, change: &dyn Fn(usize, &mut [f64; 5])) -> String {
    let mut text = "time,open,high,low,close,volume\n".to_owned();
    let mut date = (1, 1);
    let lengths = [31, 29, 31, 30, 31, 30];
    for day in 0..days {
        let base = 100.0 + day as f64;
        let mut row = [
            base,
            base + 2.0,
            base - 2.0,
            base + 1.0,
            1000.0 + day as f64,
        ];
        change(day, &mut row);
        let [open, high, low, close, volume] = row;
        let (month, first) = date;
        writeln!(
            text,
            "2024-{month:02}-{first:02},{open},{high},{low},{close},{volume}"
        )
        .unwrap();
        date = if first == lengths[month - 1] {
            (month + 1, 1)
        } else {
            (month, first + 1)
        };
    }
    text
}

const COPY: &str = r#"with.run = ["cp", "${inputs.rows}", "${outputs.out}"]
with.outputs.out = "table"
"#;

fn candles(stages: &str) -> Workspace {
    let load = "[stages.candles]\nuses = \"load.csv\"\nwith.path = \"bars.csv\"\n";
    let workspace = Workspace::with(&format!("{load}{}", stages.replace("COPY", COPY)));
    workspace.write("bars.csv", &bars(75, &|_, _| {}));
    workspace
}

#[test]
fn a_change_of_another_column_does_not_rerun() {
    let workspace = candles(
        "[stages.closes]\nuses = \"command\"\n\
         inputs.rows = { from = \"candles.candles\", columns = [\"close\", \"high\"] }\nCOPY\
         [stages.all]\nuses = \"command\"\ninputs.rows = \"candles.candles\"\nCOPY",
    );
    assert_eq!(workspace.executes(&[]), ["all", "candles", "closes"]);
    let shown = workspace.natron(&["show", "closes", "--json"]).expect(0);
    assert!(!shown.stdout.contains("volume"), "{}", shown.stdout);
    assert!(shown.stdout.contains("high") && shown.stdout.contains("ts_ns"));

    workspace.write(
        "bars.csv",
        &bars(75, &|day, row| row[4] += f64::from(u8::from(day == 7))),
    );
    assert_eq!(
        workspace.executes(&[]),
        ["all", "candles"],
        "the volume of a day changed"
    );
    workspace.write(
        "bars.csv",
        &bars(75, &|day, row| row[3] -= f64::from(u8::from(day == 7))),
    );
    assert_eq!(workspace.executes(&[]), ["all", "candles", "closes"]);
}

#[test]
fn appended_rows_rerun_only_what_reads_them() {
    let workspace = candles(
        "[stages.first]\nuses = \"command\"\n\
         inputs.rows = { from = \"candles.candles\", window = { rows = [0, 50] } }\nCOPY\
         [stages.january]\nuses = \"command\"\n\
         inputs.rows = { from = \"candles.candles\", window = \"2024-01\", columns = [\"close\"] }\nCOPY\
         [stages.recent]\nuses = \"command\"\n\
         inputs.rows = { from = \"candles.candles\", window = { last = 10 } }\nCOPY\
         [stages.since]\nuses = \"command\"\n\
         inputs.rows = { from = \"candles.candles\", window = { from_time = \"2024-03-01\", to_time = \"2024-03-05T00:00:00Z\" } }\nCOPY",
    );
    assert_eq!(
        workspace.executes(&[]),
        ["candles", "first", "january", "recent", "since"]
    );
    let rows = |stage: &str| {
        let answer = workspace.run(&["--force", stage]).expect(0).json();
        let stages = answer["stages"].as_array().unwrap();
        let found = stages.iter().find(|one| one["name"] == stage).unwrap();
        found["outputs"]["out"]["rows"].as_u64().unwrap()
    };
    assert_eq!((rows("first"), rows("recent")), (50, 10));
    assert_eq!(rows("since"), 4);

    workspace.write("bars.csv", &bars(80, &|_, _| {}));
    assert_eq!(workspace.executes(&[]), ["candles", "recent"]);
    assert_eq!(workspace.executes(&[]), [""; 0]);
}

#[test]
fn of_an_axis_of_months_only_the_last_one_reruns() {
    let workspace = candles(
        "[stages.monthly]\nuses = \"command\"\n\
         matrix.month = { from = \"candles.candles\", partition = \"month\" }\n\
         inputs.rows = { from = \"candles.candles\", window = \"${matrix.month}\" }\nCOPY\
         [stages.joined]\nuses = \"command\"\ninputs.all = \"monthly[*]\"\n\
         with.run = [\"sh\", \"-c\", \"echo {\\\\\\\"n\\\\\\\": $(ls inputs/all | wc -l)} > $0\", \"${outputs.n}\"]\n\
         with.outputs.n = \"metrics\"\nviews.n = \"n.json\"\n",
    );
    let month = |n: usize| format!("monthly[month=2024-{n:02}]");
    assert_eq!(
        workspace.executes(&[]),
        [
            "candles".to_owned(),
            "joined".to_owned(),
            month(1),
            month(2),
            month(3)
        ]
    );

    workspace.write("bars.csv", &bars(78, &|_, _| {}));
    assert_eq!(
        workspace.executes(&[]),
        ["candles".to_owned(), "joined".to_owned(), month(3)]
    );
    workspace.write("bars.csv", &bars(95, &|_, _| {}));
    assert_eq!(
        workspace.executes(&[]),
        [
            "candles".to_owned(),
            "joined".to_owned(),
            month(3),
            month(4)
        ]
    );
    assert!(
        workspace.read("n.json").contains('4'),
        "{}",
        workspace.read("n.json")
    );
}

const SPLITS: &str = r#"
[stages.splits]
uses = "command"
inputs.list = { file = "list.json" }
with.run = ["cp", "${inputs.list}", "${outputs.folds}"]
with.outputs.folds = "metrics"

[stages.unrelated]
uses = "command"
with.run = ["sh", "-c", "echo 1 > $0", "${outputs.out}"]
with.outputs.out = "file"

[stages.train]
uses = "command"
matrix.fold = { from = "splits.folds", path = "folds" }
matrix.seed = [1, 2]
with.run = ["sh", "-c", "echo $1 $2 > $0", "${outputs.out}", "${matrix.fold}", "${matrix.seed}"]
with.outputs.out = "file"

[stages.per_seed]
uses = "command"
matrix.seed = [1, 2]
inputs.folds = "train[fold=*]"
with.run = ["sh", "-c", "cat inputs/folds/* > $0", "${outputs.out}"]
with.outputs.out = "file"
views.out = "out/${matrix.seed}.txt"
"#;

#[test]
fn an_artifact_lists_the_values_of_an_axis() {
    let workspace = Workspace::with(SPLITS);
    workspace.write("list.json", "{\"folds\": [0, 1]}");
    let checked = workspace.natron(&["check"]).expect(0);
    assert!(
        checked
            .stderr
            .contains("`train` is expanded when `splits.folds` is known"),
        "{}",
        checked.stderr
    );
    assert!(
        checked
            .stderr
            .contains("`per_seed` is expanded when `train` is known")
    );

    assert_eq!(
        workspace.executes(&[]),
        [
            "per_seed[seed=1]",
            "per_seed[seed=2]",
            "splits",
            "train[fold=0,seed=1]",
            "train[fold=0,seed=2]",
            "train[fold=1,seed=1]",
            "train[fold=1,seed=2]",
            "unrelated",
        ]
    );
    assert_eq!(workspace.read("out/2.txt"), "0 2\n1 2\n");
    let runs = fs::read_dir(workspace.path(".natron/runs"))
        .unwrap()
        .count();
    assert_eq!(runs, 1, "one run, one record");
    assert_eq!(workspace.executes(&[]), [""; 0]);
    let checked = workspace.natron(&["check"]).expect(0);
    assert!(
        checked.stderr.contains("(per_seed 2, train 4)"),
        "{}",
        checked.stderr
    );

    workspace.write("list.json", "{\"folds\": [0, 1, 5]}");
    assert_eq!(
        workspace.executes(&[]),
        [
            "per_seed[seed=1]",
            "per_seed[seed=2]",
            "splits",
            "train[fold=5,seed=1]",
            "train[fold=5,seed=2]",
        ]
    );
    assert_eq!(workspace.executes(&["--force", "splits"]), ["splits"]);
    assert_eq!(
        workspace.executes(&["--force", "train[fold=0,seed=1]"]),
        ["train[fold=0,seed=1]"]
    );

    workspace.natron(&["run", "--until", "trian"]).expect(2);
    workspace.natron(&["run", "--until", "train"]).expect(0);

    workspace.write("list.json", "{\"folds\": [7]}");
    workspace.natron(&["run", "--from", "train"]).expect(2);
    let planned = workspace.natron(&["run", "--dry-run"]).expect(0);
    assert!(
        planned
            .stderr
            .contains("`train` is expanded when `splits.folds` is known"),
        "{}",
        planned.stderr
    );
    workspace.natron(&["run", "--until", "splits"]).expect(0);
    assert_eq!(
        workspace.executes(&["--until", "train[fold=7,seed=1]"]),
        ["train[fold=7,seed=1]"]
    );

    workspace.write("list.json", "{\"folds\": []}");
    let answer = workspace.natron(&["run"]).expect(2);
    assert!(
        answer
            .stderr
            .contains("axis `fold` is empty: `splits.folds` lists no values"),
        "{}",
        answer.stderr
    );
    workspace.write("list.json", "{\"fold\": [1]}");
    let answer = workspace.natron(&["run"]).expect(2);
    assert!(
        answer
            .stderr
            .contains("the metrics have nothing at `folds`"),
        "{}",
        answer.stderr
    );
}

#[test]
fn a_failed_list_of_an_axis_fails_the_run() {
    let workspace = Workspace::with(&SPLITS.replace("\"cp\", \"${inputs.list}\"", "\"false\""));
    workspace.write("list.json", "{}");

    let answer = workspace.run(&[]).expect(1);

    assert_eq!(outcomes(&answer)["splits"], "failed");
}

#[test]
fn conditions_choose_the_instances() {
    let workspace = Workspace::with(
        "[params]\nmost = 2\n[stages.a]\nuses = \"command\"\nmatrix = { model = [\"gru\", \"tcn\"], layers = [1, 2, 3] }\n\
         when = \"${matrix.model} == 'gru' and ${matrix.layers} <= ${params.most}\"\n\
         with = { run = [\"sh\", \"-c\", \"echo $1 > $0\", \"${outputs.out}\", \"${matrix.model}${matrix.layers}\"], outputs.out = \"file\" }\n",
    );

    assert_eq!(
        workspace.executes(&[]),
        ["a[layers=1,model=gru]", "a[layers=2,model=gru]"]
    );
    assert_eq!(
        workspace.executes(&["--set", "params.most=1", "--force", "a"]),
        ["a[layers=1,model=gru]"]
    );
}

#[test]
fn a_failed_stage_is_tried_again_after_a_while() {
    let workspace = Workspace::with("");
    let count = workspace.path("count").display().to_string();
    let stage = |retries: &str| {
        format!(
            "[stages.flaky]\nuses = \"command\"\nretries = {retries}\n\
             with.run = [\"sh\", \"-c\", \"echo x >> {count}; test $(wc -l < {count}) -ge 3 && touch $0\", \"${{outputs.out}}\"]\n\
             with.outputs.out = \"file\"\n"
        )
    };

    workspace.write("pipelines/p.toml", &stage("1"));
    workspace.run(&[]).expect(1);
    assert_eq!(workspace.read("count").lines().count(), 2);

    fs::remove_file(&count).unwrap();
    workspace.write(
        "pipelines/p.toml",
        &stage("{ times = 2, backoff = \"200ms\", memory_growth = 2.0 }"),
    );
    let start = Instant::now();
    let answer = workspace.natron(&["run"]).expect(0);
    // 200 ms after the first attempt, 400 ms after the second.
    assert!(start.elapsed() >= Duration::from_millis(600));
    assert!(
        answer.stderr.contains("attempt 2 failed"),
        "{}",
        answer.stderr
    );
    assert_eq!(workspace.read("count").lines().count(), 3);
}

#[test]
fn memory_grows_with_each_attempt() {
    let workspace = Workspace::with(
        "[stages.hungry]\nuses = \"command\"\nretries = { times = 1, memory_growth = 8.0 }\nlimits.memory = \"40 MiB\"\n\
         with.run = [\"sh\", \"-c\", \"head -c 80000000 /dev/zero | tail -c 60000000 > big && wc -c < big > $0\", \"${outputs.out}\"]\n\
         with.outputs.out = \"file\"\nviews.out = \"size\"\n",
    );

    let answer = workspace.natron(&["run"]).expect(0);

    assert!(
        answer.stderr.contains("attempt 1 failed"),
        "{}",
        answer.stderr
    );
    assert_eq!(workspace.read("size").trim(), "60000000");
    workspace.edit("8.0", "1.0");
    workspace.natron(&["run", "--force", "hungry"]).expect(1);
}

#[test]
fn a_stage_that_takes_too_long_is_stopped() {
    let workspace = Workspace::with(
        "[stages.slow]\nuses = \"command\"\ntimeout = \"300ms\"\n\
         with = { run = [\"sleep\", \"60\"], outputs.out = \"file\" }\n",
    );
    let start = Instant::now();

    let answer = workspace.natron(&["run"]).expect(1);

    assert!(
        answer.stderr.contains("timed out after 0.3 s"),
        "{}",
        answer.stderr
    );
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_failure_does_to_the_rest_what_the_file_says() {
    let pipeline = |on_failure: &str| {
        format!(
            "[stages.bad]\nuses = \"command\"\non_failure = \"{on_failure}\"\n\
             with = {{ run = [\"false\"], outputs.out = \"file\" }}\n\
             [stages.below]\nuses = \"command\"\ninputs.x = \"bad\"\n\
             with = {{ run = [\"cp\", \"${{inputs.x}}\", \"${{outputs.out}}\"], outputs.out = \"file\" }}\n\
             [stages.zz_other]\nuses = \"command\"\n\
             with = {{ run = [\"sh\", \"-c\", \"sleep 0.3; touch $0\", \"${{outputs.out}}\"], outputs.out = \"file\" }}\n\
             [stages.zzz_last]\nuses = \"command\"\ninputs.x = \"zz_other\"\n\
             with = {{ run = [\"cp\", \"${{inputs.x}}\", \"${{outputs.out}}\"], outputs.out = \"file\" }}\n"
        )
    };
    for (on_failure, code, last) in [
        ("stop", 1, "skipped"),
        ("continue", 1, "ran"),
        ("ignore", 0, "ran"),
    ] {
        let workspace = Workspace::with(&pipeline(on_failure));

        let answer = workspace.run(&["--jobs", "2"]).expect(code);

        let found = outcomes(&answer);
        assert_eq!(found["bad"], "failed", "{on_failure}");
        assert_eq!(found["below"], "skipped", "{on_failure}");
        assert_eq!(found["zzz_last"], last, "{on_failure}");
        // Nothing is remembered of a failure: it is tried again.
        let again = outcomes(&workspace.run(&[]).expect(code));
        assert_eq!(again["bad"], "failed", "{on_failure}");
    }
}

/// Begins and ends of stages that write `+ID` and `-ID` lines: the largest number of each id at a time, and of all.
fn most_at_a_time(log: &str) -> (BTreeMap<String, usize>, usize) {
    let (mut now, mut most): (BTreeMap<String, usize>, BTreeMap<String, usize>) =
        (BTreeMap::new(), BTreeMap::new());
    let mut most_of_all = 0;
    for line in log.lines() {
        for id in line[1..].split(',') {
            let count = now.entry(id.to_owned()).or_default();
            if line.starts_with('+') {
                *count += 1;
            } else {
                *count -= 1;
            }
            let most = most.entry(id.to_owned()).or_default();
            *most = (*most).max(*count);
        }
        most_of_all = most_of_all.max(now.values().sum());
    }
    (most, most_of_all)
}

#[test]
fn tokens_are_never_exceeded() {
    let workspace = Workspace::with("");
    let log = workspace.path("log").display().to_string();
    workspace.write(
        "pipelines/p.toml",
        &format!(
            "[pipeline.tokens]\nlicense = 2\n[stages.a]\nuses = \"command\"\nmatrix.i = [1, 2, 3, 4, 5, 6, 7, 8]\n\
             resources.tokens.license = 1\n\
             with.run = [\"sh\", \"-c\", \"echo +t >> {log}; sleep 0.05; echo -t >> {log}; echo $1 > $0\", \"${{outputs.out}}\", \"i${{matrix.i}}\"]\n\
             with.outputs.out = \"file\"\n"
        ),
    );

    assert_eq!(workspace.executes(&["--jobs", "6"]).len(), 8);

    assert_eq!(most_at_a_time(&workspace.read("log")).1, 2);
}

#[test]
fn gpus_are_handed_out_once_each_and_by_their_ids() {
    let workspace = Workspace::with("");
    let log = workspace.path("log").display().to_string();
    workspace.write(
        "pipelines/p.toml",
        &format!(
            "[stages.a]\nuses = \"command\"\nmatrix.i = [1, 2, 3, 4, 5]\nresources.gpu = 1\n\
             with.run = [\"sh\", \"-c\", \"echo +$CUDA_VISIBLE_DEVICES >> {log}; sleep 0.05; echo -$CUDA_VISIBLE_DEVICES >> {log}; echo $1 > $0\", \"${{outputs.out}}\", \"i${{matrix.i}}\"]\n\
             with.outputs.out = \"file\"\n\
             [stages.both]\nuses = \"command\"\nresources.gpu = {{ count = 2, memory = \"20 GiB\" }}\n\
             with.run = [\"sh\", \"-c\", \"echo +$CUDA_VISIBLE_DEVICES >> {log}; sleep 0.05; echo -$CUDA_VISIBLE_DEVICES >> {log}; echo $CUDA_VISIBLE_DEVICES > $0\", \"${{outputs.out}}\"]\n\
             with.outputs.out = \"file\"\nviews.out = \"both.txt\"\n\
             [stages.none]\nuses = \"command\"\n\
             with.run = [\"sh\", \"-c\", \"echo \\\"<$CUDA_VISIBLE_DEVICES>\\\" > $0\", \"${{outputs.out}}\"]\n\
             with.outputs.out = \"file\"\nviews.out = \"none.txt\"\n"
        ),
    );
    let run = |gpus: &str| {
        let mut command = workspace.command(&["run", "--jobs", "6"]);
        answer(command.env("NATRON_GPUS", gpus).output().unwrap())
    };

    let refused = run("").expect(2);
    assert!(
        refused
            .stderr
            .contains("stage `a[i=1]` wants 1 GPU, and this machine has none"),
        "{}",
        refused.stderr
    );
    let refused = run("3:80GiB,5:8GiB").expect(2);
    assert!(
        refused
            .stderr
            .contains("stage `both` wants 2 GPUs with 20.0 GiB"),
        "{}",
        refused.stderr
    );
    assert!(!workspace.path("log").exists(), "nothing ran");
    run("3:80GiB,5:24GiB").expect(0);

    let (most, _) = most_at_a_time(&workspace.read("log"));
    assert_eq!(
        most,
        BTreeMap::from([("3".to_owned(), 1), ("5".to_owned(), 1)])
    );
    assert_eq!(workspace.read("both.txt"), "3,5\n");
    assert_eq!(workspace.read("none.txt"), "<>\n");
    run("").expect(0);
}

#[test]
fn features_say_what_they_miss_of_a_gpu_and_do_without_where_they_may() {
    let pipeline = |device: &str, with: &str| {
        Workspace::with(&format!(
            "[pipeline]\n{device}\n[stages.candles]\nuses = \"load.synthetic\"\nwith = {{ rows = 60 }}\n\
             [stages.features]\nuses = \"features\"\ninputs.candles = \"candles.candles\"\n\
             with = {{ {with} columns = {{ mean = \"sma(close, 5)\" }} }}\n"
        ))
    };
    let run = |workspace: &Workspace, gpus: &str| {
        let mut command = workspace.command(&["run", "--write-lock"]);
        answer(command.env("NATRON_GPUS", gpus).output().unwrap())
    };
    let on_gpu = pipeline("", "device = \"cuda\",");

    let refused = run(&on_gpu, "").expect(2).stderr;
    assert!(
        refused.contains("stage `features` wants 1 GPU, and this machine has none")
            && refused.contains("/dev/nvidia0"),
        "{refused}"
    );
    // A card that is promised and not there.
    let failed = run(&on_gpu, "63").expect(1).stderr;
    assert!(failed.contains("natron doctor"), "{failed}");
    let refused = run(&pipeline("device = \"cuda\"", ""), "").expect(2).stderr;
    assert!(
        refused.contains("stage `features` wants 1 GPU"),
        "{refused}"
    );
    let unused = pipeline("device = \"cuda\"", "device = \"cpu\",");
    let refused = run(&unused, "").expect(2).stderr;
    assert!(
        refused.contains("none of its stages can compute on a GPU"),
        "{refused}"
    );
    for (device, with) in [
        ("device = \"auto\"", ""),
        ("", "device = \"auto\","),
        ("device = \"auto\"", "device = \"cpu\","),
    ] {
        let workspace = pipeline(device, with);
        run(&workspace, "").expect(0);
        let lock = workspace.read("pipelines/p.lock");
        assert_eq!(lock.matches("device = \"cpu\"").count(), 2, "{lock}");
    }
}

#[test]
fn samples_and_ten_thousand_instances_are_checked_quickly() {
    let workspace = Workspace::with(
        "[stages.a]\nuses = \"command\"\n\
         matrix = { lr = { min = 1e-5, max = 1e-2, scale = \"log\" }, width = { values = [32, 64] }, sample = { method = \"sobol\", n = 4, seed = 1 }, fold = [0, 1] }\n\
         with.run = [\"sh\", \"-c\", \"echo $1 $2 > $0\", \"${outputs.out}\", \"lr ${matrix.lr}\", \"w ${matrix.width} f ${matrix.fold}\"]\n\
         with.outputs.out = \"file\"\n",
    );
    let first = workspace.executes(&[]);
    assert_eq!(first.len(), 8);
    assert_eq!(workspace.executes(&[]), [""; 0]);
    let names: BTreeSet<&str> = first
        .iter()
        .map(|name| name.split("lr=").nth(1).unwrap())
        .collect();
    assert_eq!(names.len(), 4, "{first:?}");

    let axis: String = (0..70).map(|i| format!("{i},")).collect();
    let mut text = format!("[params]\naxis = [{axis}]\n");
    for (stage, input) in [("s0", ""), ("s1", "inputs.x = \"s0\"\n")] {
        write!(
            text,
            "[stages.{stage}]\nuses = \"command\"\nmatrix = {{ a = \"${{params.axis}}\", b = \"${{params.axis}}\" }}\n{input}\
             with.run = [\"touch\", \"${{outputs.out}}\", \"${{matrix.a}}-${{matrix.b}}\"]\nwith.outputs.out = \"file\"\n"
        )
        .unwrap();
    }
    workspace.write("pipelines/p.toml", &text);
    let start = Instant::now();
    let checked = workspace.natron(&["check"]).expect(0);
    assert!(
        checked.stderr.contains("9,800 stages (s0 4900, s1 4900)"),
        "{}",
        checked.stderr
    );
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let refused = workspace
        .natron(&["check", "--max-instances", "9000"])
        .expect(2);
    assert!(
        refused.stderr.contains("more than 9000 instances"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_drawing_replaces_nothing_unasked() {
    let workspace = chain();
    workspace.natron(&["graph", "-o", "a.svg"]).expect(0);
    workspace.write("a.svg", "mine");

    let refused = workspace.natron(&["graph", "-o", "a.svg"]).expect(2);
    assert!(
        refused.stderr.contains("--force replaces it"),
        "{}",
        refused.stderr
    );
    assert_eq!(workspace.read("a.svg"), "mine");
    workspace
        .natron(&["graph", "-o", "a.svg", "--force"])
        .expect(0);
    assert!(workspace.read("a.svg").starts_with("<svg"));

    std::os::unix::fs::symlink("a.svg", workspace.path("link.svg")).unwrap();
    for path in ["link.svg", "/dev/null"] {
        for more in [&[][..], &["--force"]] {
            let refused = workspace
                .natron(&[&["graph", "-o", path], more].concat())
                .expect(2);
            assert!(
                refused.stderr.contains("is not replaced"),
                "{}",
                refused.stderr
            );
            let export = [&["export", "upper.out", "-o", path], more].concat();
            workspace.natron(&export).expect(2);
        }
    }
    assert!(workspace.path("link.svg").is_symlink());
}

#[test]
fn every_kind_says_its_ports() {
    let workspace = Workspace::with("");
    for kind in ["features", "load.csv", "load.parquet", "dataset"] {
        let text = workspace.natron(&["stages", kind]).expect(0).stdout;
        assert!(text.contains("Outputs"), "{kind}: {text}");
    }
}
