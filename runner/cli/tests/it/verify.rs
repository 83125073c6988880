//! `natron verify`: what it finds, what it counts, what it leaves out, and what it says.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::Value;

use crate::natron::{Answer, Workspace, answer};

/// A pipeline with one stage that runs `script`; `more` are lines of the stage.
fn pipeline(program: &str, script: &str, more: &str) -> String {
    format!(
        "[stages.x]\nuses = \"command\"\nwith.run = [\"{program}\", \"-c\", '''{script}''']\nwith.outputs.y = \"file\"\n{more}\n"
    )
}

/// The verdict on the only stage, after a run and a verification with `arguments`.
fn verdict(workspace: &Workspace, arguments: &[&str], code: i32) -> Value {
    workspace.natron(&["run"]).expect(0);
    let mut all = vec!["verify", "--json", "--seed", "1"];
    all.extend(arguments);
    workspace.natron(&all).expect(code).json()["stages"][0].clone()
}

/// What makes the output of `script` differ, by the default perturbations.
#[track_caller]
fn caught(program: &str, script: &str, more: &str) -> Value {
    let workspace = Workspace::with(&pipeline(program, script, more));
    fs::create_dir(workspace.path("parts")).unwrap();
    for i in 0..12 {
        fs::write(workspace.path(&format!("parts/part-{i:02}.csv")), "").unwrap();
    }
    let verdict = verdict(&workspace, &[], 3);
    assert_eq!(verdict["verdict"]["status"], "differs", "{verdict:#}");
    verdict
}

fn blamed(verdict: &Value) -> Vec<&str> {
    let blame = &verdict["verdict"]["blame"];
    match blame["conditions"].as_array() {
        Some(conditions) => conditions.iter().filter_map(Value::as_str).collect(),
        None => vec![blame["cause"].as_str().unwrap()],
    }
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[expect(clippy::print_stderr, reason = "a test says what it skips")]
fn skip(what: &str) {
    eprintln!("skipped: {what}");
}

#[test]
fn a_clock_in_the_output_is_caught() {
    let verdict = caught("sh", "date +%s%N >outputs/y", "");
    assert_eq!(blamed(&verdict), ["anyway"]);
}

#[test]
fn randomness_is_caught() {
    let verdict = caught("sh", "head -c 8 /dev/urandom | od -An -tx1 >outputs/y", "");
    assert_eq!(blamed(&verdict), ["anyway"]);
}

#[test]
fn the_path_of_the_working_folder_is_caught() {
    let verdict = caught("sh", "pwd >outputs/y", "");
    assert_eq!(blamed(&verdict), ["anyway"]);
}

#[test]
fn the_depth_of_the_working_folder_is_caught() {
    let verdict = caught("sh", "pwd | tr -cd / >outputs/y", "");
    assert!(blamed(&verdict).contains(&"depth"), "{verdict:#}");
    assert!(!blamed(&verdict).contains(&"time-zone"), "{verdict:#}");
}

#[test]
fn the_order_in_which_threads_end_is_caught() {
    let script = "printf '%s\\n' 4 0 1 | xargs -P $OMP_NUM_THREADS -I{} sh -c 'sleep 0.{}; echo {}' >outputs/y";
    let verdict = caught("sh", script, "resources.threads = \"all\"");
    assert_eq!(blamed(&verdict), ["threads"]);
}

#[test]
fn a_sort_that_depends_on_the_locale_is_caught() {
    if !has("bash") {
        return skip("there is no bash");
    }
    // By letters where a locale orders them in its own way; by length where only the character set changes.
    let script = "{ printf '%s\\n' b A a B | sort; printf '%s\\n' éééé abcde | while read -r w; do echo $${#w} $w; done | sort -n; } >outputs/y";
    let verdict = caught("bash", script, "");
    assert_eq!(blamed(&verdict), ["locale"]);
}

#[test]
fn a_time_zone_is_caught_unless_it_is_declared() {
    let script = "date -d @0 +%H:%M >outputs/y";
    let verdict = caught("sh", script, "");
    assert_eq!(blamed(&verdict), ["time-zone"]);

    let declared = pipeline("sh", script, "with.environment = { TZ = \"Asia/Tokyo\" }");
    let workspace = Workspace::with(&declared);
    let verdict = self::verdict(&workspace, &[], 0);
    assert_eq!(verdict["verdict"]["class"], "bytes");
    let conditions = verdict["repetitions"][0]["conditions"].as_array().unwrap();
    let zone = conditions
        .iter()
        .find(|c| c["what"] == "time-zone")
        .unwrap();
    assert_eq!(
        (&zone["changed"], &zone["here"]),
        (&false.into(), &"Asia/Tokyo".into())
    );
}

#[test]
fn the_order_of_a_folder_is_caught() {
    let more = "inputs.parts = { file = \"parts\" }";
    let script = "ls -U inputs/parts >outputs/y";
    let workspace = Workspace::with(&pipeline("sh", script, more));
    fs::create_dir(workspace.path("parts")).unwrap();
    for i in 0..12 {
        fs::write(workspace.path(&format!("parts/part-{i:02}.csv")), "").unwrap();
    }
    workspace.natron(&["run"]).expect(0);
    let answer = workspace
        .natron(&["verify", "--json", "--seed", "1"])
        .json();
    let stage = &answer["stages"][0];
    let conditions = stage["repetitions"][0]["conditions"].as_array().unwrap();
    let order = conditions
        .iter()
        .find(|c| c["what"] == "folder-order")
        .unwrap();
    if order["changed"] == false {
        assert!(order["note"].is_string(), "it says why");
        return skip(order["note"].as_str().unwrap());
    }
    assert_eq!(blamed(stage), ["folder-order"], "{stage:#}");

    let sorted = pipeline("sh", "ls inputs/parts >outputs/y", more);
    fs::write(workspace.path("pipelines/p.toml"), sorted).unwrap();
    assert_eq!(verdict(&workspace, &[], 0)["verdict"]["class"], "bytes");
}

#[test]
fn a_hash_seed_is_caught() {
    if !has("python3") {
        return skip("there is no python3");
    }
    let script = "print(list(set(\"abcdefghij\")), file=open(\"outputs/y\", \"w\"))";
    let verdict = caught("python3", script, "");
    assert_eq!(blamed(&verdict), ["hash-seed"]);
}

#[test]
fn home_host_and_umask_are_caught() {
    for (script, condition) in [
        ("echo $HOME >outputs/y", "home"),
        ("echo $HOSTNAME >outputs/y", "host-name"),
        ("umask >outputs/y", "umask"),
    ] {
        let verdict = caught("sh", script, "");
        assert_eq!(blamed(&verdict), [condition]);
    }
}

#[test]
fn what_is_named_alone_is_changed() {
    let workspace = Workspace::with(&pipeline("sh", "date -d @0 +%H:%M >outputs/y", ""));
    let both = verdict(&workspace, &["--perturb", "locale,home"], 0);
    let conditions = both["repetitions"][0]["conditions"].as_array().unwrap();
    let changed = conditions.iter().filter(|c| c["changed"] == true);
    let changed: Vec<&str> = changed.filter_map(|c| c["what"].as_str()).collect();

    assert_eq!(changed, ["locale", "home"]);
    workspace.natron(&["verify", "--perturb", "none"]).expect(0);
    workspace
        .natron(&["verify", "--perturb", "time-zone"])
        .expect(3);
    let unknown = workspace
        .natron(&["verify", "--perturb", "timezone"])
        .expect(2);
    assert!(
        unknown.stderr.contains("did you mean `time-zone`?"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn a_confirmation_is_counted_and_a_failure_is_not() {
    let good = Workspace::with(&pipeline("sh", "echo same >outputs/y", ""));
    let bad = Workspace::with(&pipeline("sh", "date +%N >outputs/y", ""));

    assert_eq!(verdict(&good, &[], 0)["confirmed_before"], 0);
    assert_eq!(verdict(&good, &["--runs", "2"], 0)["confirmed_before"], 1);
    let third = verdict(&good, &[], 0);
    assert_eq!(third["confirmed_before"], 3);
    assert_eq!(third["repetitions"].as_array().unwrap().len(), 1);
    let shown = good.natron(&["show", "x"]).expect(0);
    assert!(
        shown.stderr.contains("verified 4 times (bytes), on "),
        "{}",
        shown.stderr
    );
    let shown = good.natron(&["show", "x", "--json"]).expect(0).json();
    assert_eq!(shown["verified"]["times"], 4);
    for _ in 0..2 {
        assert_eq!(verdict(&bad, &["--no-blame"], 3)["confirmed_before"], 0);
    }
}

/// Metrics whose only number has the number of threads behind the fourth digit.
fn metrics(more: &str) -> String {
    let script = "echo {\\\"auc\\\": 0.5000$OMP_NUM_THREADS} >outputs/m.json";
    format!(
        "[stages.x]\nuses = \"command\"\nwith.run = [\"sh\", \"-c\", \"{}\"]\nwith.outputs.m = \"metrics\"\nresources.threads = \"all\"\n{more}\n",
        script.replace('\\', "\\\\").replace('"', "\\\"")
    )
}

#[test]
fn a_tolerance_is_enough_where_it_is_declared() {
    let exact = Workspace::with(&metrics(""));
    let verdict_of = |text: &str, code| verdict(&Workspace::with(&metrics(text)), &[], code);

    let differs = verdict(&exact, &[], 3);
    let divergence = &differs["verdict"]["divergence"];
    assert_eq!(divergence["place"], "metric auc");
    assert_eq!(divergence["count"], 1);
    assert!(
        divergence["max_absolute"].as_f64().unwrap() < 1e-3,
        "{divergence}"
    );
    assert!(divergence["max_ulps"].as_u64().unwrap() > 1, "{divergence}");
    assert_eq!(blamed(&differs), ["threads"]);

    let near = verdict_of("reproducible = { abs = 1e-3 }", 0);
    assert_eq!(near["verdict"]["class"], "numeric");
    assert_eq!(near["could_be"], Value::Null);
    let named = "reproducible = { metrics = { \"auc\" = { rel = 0.01 } } }";
    assert_eq!(verdict_of(named, 0)["verdict"]["class"], "numeric");
    verdict_of("reproducible = { abs = 1e-9 }", 3);
    let fixed = "reproducible = { abs = 1e-9 }\nwith.environment = { OMP_NUM_THREADS = \"1\" }";
    assert_eq!(verdict_of(fixed, 0)["could_be"], "bytes");
    verdict_of("reproducible = \"logical\"", 3);
}

/// Three stages: two quick, one slow.
const THREE: &str = r#"
[stages.a]
uses = "command"
with.run = ["sh", "-c", "echo a >outputs/y"]
with.outputs.y = "file"

[stages.b]
uses = "command"
inputs.a = "a"
with.run = ["sh", "-c", "sleep 2; echo b >outputs/y"]
with.outputs.y = "file"

[stages.c]
uses = "command"
inputs.a = "b"
with.run = ["sh", "-c", "echo c >outputs/y"]
with.outputs.y = "file"
"#;

fn names(list: &Value) -> Vec<&str> {
    let stages = list.as_array().unwrap().iter();
    stages.filter_map(|stage| stage["stage"].as_str()).collect()
}

#[test]
fn sample_and_budget_choose_and_say_what_is_left() {
    let workspace = Workspace::with(THREE);
    workspace.natron(&["run"]).expect(0);
    let json = |arguments: &[&str]| {
        let all = [&["verify", "--json"], arguments].concat();
        workspace.natron(&all).expect(0).json()
    };

    let quick = json(&["--budget", "1s"]);
    assert_eq!(names(&quick["stages"]), ["a", "c"]);
    assert_eq!(names(&quick["left_out"]), ["b"]);
    let why = quick["left_out"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("over the budget: would take 2."), "{why}");
    let none = workspace.natron(&["verify", "--budget", "0s"]).expect(0);
    assert!(
        none.stderr.contains("3 stages left out, over the budget"),
        "{}",
        none.stderr
    );
    assert!(
        none.stderr.contains("not all verified: 0 of 0 stages"),
        "{}",
        none.stderr
    );
    let one = |seed: &str| {
        let one = json(&["--sample", "1", "--seed", seed, "a", "c"]);
        names(&one["stages"]).join(",")
    };
    assert_eq!(one("3"), one("3"));
    let all: std::collections::BTreeSet<String> = (0..8).map(|s| one(&s.to_string())).collect();
    assert_eq!(all.into_iter().collect::<Vec<_>>(), ["a", "c"]);
    let seeded = workspace
        .natron(&["verify", "--sample", "1", "a"])
        .expect(0);
    assert!(
        seeded.stderr.contains("sample of seed "),
        "{}",
        seeded.stderr
    );
    workspace.natron(&["verify", "--sample", "0"]).expect(2);
}

#[test]
fn stopped_half_way_it_says_how_far_it_came() {
    let workspace = Workspace::with(THREE);
    workspace.natron(&["run"]).expect(0);

    let child = workspace
        .command(&["verify", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let stopped: Answer = answer(child.wait_with_output().unwrap()).expect(130);
    assert!(
        stopped
            .stderr
            .contains("interrupted: 1 of 3 stages verified, stopped"),
        "{}",
        stopped.stderr
    );
    let json = stopped.json();
    assert_eq!(json["interrupted"], true);
    assert_eq!(names(&json["left_out"]), ["b", "c"]);
}

#[test]
fn reports_for_machines_are_whole() {
    let odd = "[stages.x]\nuses = \"command\"\nmatrix.name = [\"<&\\\"'\", \"b\"]\nwith.run = [\"sh\", \"-c\", \"date +%N >outputs/y # ${matrix.name}\"]\nwith.outputs.y = \"file\"\n";
    let workspace = Workspace::with(odd);
    workspace.natron(&["run"]).expect(0);
    let answer = workspace
        .natron(&[
            "verify",
            "--sample",
            "1",
            "--junit",
            "out/v.xml",
            "--report",
            "out/v.json",
        ])
        .expect(3);

    assert!(
        answer.stderr.contains("error: stage `x["),
        "{}",
        answer.stderr
    );
    assert!(answer.stderr.contains("recorded on "), "{}", answer.stderr);
    let report: Value =
        serde_json::from_slice(&fs::read(workspace.path("out/v.json")).unwrap()).unwrap();
    assert_eq!(
        (&report["version"], &report["exit_code"]),
        (&1.into(), &3.into())
    );
    let here = &report["here"];
    assert!(
        here["features"].is_array() && here["threads"].as_u64() > Some(0),
        "{here}"
    );
    let xml = fs::read_to_string(workspace.path("out/v.xml")).unwrap();
    assert!(
        xml.contains("tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"1\""),
        "{xml}"
    );
    assert!(
        xml.contains("<skipped message=\"not in the sample\"/>"),
        "{xml}"
    );
    let all = format!(
        "{xml}{}",
        fs::read_to_string(workspace.path("out/v.xml")).unwrap()
    );
    assert!(all.contains("&lt;&amp;"), "{xml}");
    if has("python3") {
        let parse = "import sys, xml.etree.ElementTree as e; e.parse(sys.argv[1])";
        let parsed = std::process::Command::new("python3")
            .args(["-c", parse])
            .arg(workspace.path("out/v.xml"))
            .status();
        assert!(parsed.unwrap().success(), "{xml}");
    }
}

/// Counts to 30 with a checkpoint after each number; the result depends on every step.
const COUNTING: &str = r#"
[stages.x]
uses = "command"
with.run = ["sh", "-c", '''
state="$0/state"; n=0; sum=7
[ -f "$state" ] && read -r n sum <"$state" && echo "going on from $n" && echo "{\"log\": \"going on from $n\"}" >&3
while [ $n -lt 30 ]; do
  n=$((n + 1)); sum=$(((sum * 31 + n) % 1000003))
  WHAT >"$state.new"; mv "$state.new" "$state"
  echo "{\"progress\": {\"done\": $n, \"total\": 30}}" >&3
  sleep 0.01
done
echo $sum >outputs/y
''', "$${checkpoints}"]
with.outputs.y = "file"
"#;

#[test]
fn a_stage_that_is_killed_goes_on_to_the_same_bytes() {
    let good = COUNTING.replace("WHAT", "echo $n $sum");
    let workspace = Workspace::with(&good);
    workspace.natron(&["run"]).expect(0);
    let runs = || {
        fs::read_dir(workspace.path(".natron/runs"))
            .unwrap()
            .count()
    };
    let before = runs();

    let answer = workspace
        .natron(&[
            "verify",
            "--interrupt",
            "x",
            "--times",
            "4",
            "--seed",
            "5",
            "--json",
        ])
        .expect(0);
    let json = answer.json();
    assert!(json["interrupted"].as_u64() >= Some(4), "{json:#}");
    assert!(json["resumed"].as_u64() >= Some(2), "{json:#}");
    assert_eq!(json["failures"], 0);
    assert!(
        answer.stderr.contains("4 of 4  equal  killed after "),
        "{}",
        answer.stderr
    );
    assert!(
        answer.stderr.contains("going on from "),
        "{}",
        answer.stderr
    );
    assert_eq!(runs(), before, "the workspace is left alone");
}

#[test]
fn a_checkpoint_that_loses_something_is_found() {
    // It forgets the sum.
    let workspace = Workspace::with(&COUNTING.replace("WHAT", "echo $n 7"));
    workspace.natron(&["run"]).expect(0);

    let answer = workspace
        .natron(&["verify", "--interrupt", "x", "--times", "3", "--seed", "5"])
        .expect(3);
    assert!(
        answer.stderr.contains("differs: `x` interrupted"),
        "{}",
        answer.stderr
    );
    assert!(
        answer.stderr.contains("output `y`: byte 0 (line 1) of"),
        "{}",
        answer.stderr
    );
}

#[test]
fn nothing_recorded_cannot_be_interrupted() {
    let workspace = Workspace::with(&COUNTING.replace("WHAT", "echo $n $sum"));

    let answer = workspace.natron(&["verify", "--interrupt", "x"]).expect(2);
    assert!(
        answer
            .stderr
            .contains("help: `natron run --until x` makes it"),
        "{}",
        answer.stderr
    );
    assert!(!Path::new(&workspace.path(".natron/runs")).exists());
}

#[test]
fn the_workflows_that_init_writes_pass_and_fail_as_they_should() {
    for (service, path) in [
        ("github", ".github/workflows/natron.yml"),
        ("gitlab", ".gitlab-ci.yml"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let natron = |arguments: &[&str]| crate::natron::natron(folder.path(), arguments);
        natron(&["init", "--template", "minimal", "--ci", service]).expect(0);
        let text = fs::read_to_string(folder.path().join(path)).unwrap();
        let commands: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|line| {
                line.trim()
                    .trim_start_matches("- ")
                    .strip_prefix("natron ")
                    .or_else(|| line.trim().strip_prefix("run: natron "))
            })
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(commands.len(), 3, "{text}");
        natron(&["run", "--write-lock"]).expect(0);

        for command in &commands {
            natron(command).expect(0);
        }
        let junit = fs::read_to_string(folder.path().join("natron-verify.xml")).unwrap();
        assert!(junit.contains("tests=\"2\" failures=\"0\""), "{junit}");
        let pipeline = folder.path().join("pipelines/minimal.toml");
        let text = fs::read_to_string(&pipeline).unwrap();
        fs::write(&pipeline, text.replace("seed = ", "seed = 1")).unwrap();
        natron(&commands[0]).expect(3);
        natron(&commands[1]).expect(3);
    }
    let folder = tempfile::tempdir().unwrap();
    crate::natron::natron(folder.path(), &["init", "--ci", "github"]).expect(0);
    let text = fs::read_to_string(folder.path().join(".github/workflows/natron.yml")).unwrap();
    assert!(
        text.contains("natron run pipelines/natron_v2.toml --profile quick --locked"),
        "{text}"
    );
}
