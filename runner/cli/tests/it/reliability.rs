//! The real pipeline under real trouble: kills, rivals, rewritten data.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::natron::{Answer, answer, command, natron};

const PIPELINE: &str = include_str!("../../../../pipelines/natron_v2.toml");
const TINY: [&str; 3] = ["run", "--profile", "tiny"];
/// How often the run is killed.
const KILLS: u32 = 50;

fn workspace() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("pipelines")).unwrap();
    fs::write(folder.path().join("pipelines/natron_v2.toml"), PIPELINE).unwrap();
    folder
}

fn run(folder: &Path, more: &[&str]) -> Answer {
    let arguments: Vec<&str> = TINY.iter().chain(more).copied().collect();
    natron(folder, &arguments).expect(0)
}

fn lock(folder: &Path) -> String {
    fs::read_to_string(folder.join("pipelines/natron_v2.lock")).unwrap()
}

/// Outcome of every stage, by name, of a run that was asked for JSON.
fn outcomes(answer: &Answer) -> BTreeMap<String, String> {
    let value: Value = answer.json();
    let stages = value["stages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    stages
        .map(|stage| (text(&stage["name"]), text(&stage["outcome"])))
        .collect()
}

/// The stages that were executed, in alphabetical order.
fn executed(answer: &Answer) -> Vec<String> {
    let outcomes = outcomes(answer).into_iter();
    outcomes
        .filter(|(_, outcome)| outcome != "hit")
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn a_run_that_was_killed_anywhere_ends_in_the_same_results() {
    let undisturbed = workspace();
    let start = Instant::now();
    run(undisturbed.path(), &["--write-lock"]);
    let whole = start.elapsed();
    let expected = lock(undisturbed.path());

    let folder = workspace();
    for kill in 0..KILLS {
        let _ = fs::remove_dir_all(folder.path().join(".natron"));
        let mut child = command(folder.path(), &TINY)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Multiples of the golden ratio fill the time evenly, whatever the number of kills.
        let share = (f64::from(kill) * 0.618_033_988_75).fract();
        thread::sleep(whole.mul_f64(share));
        child.kill().unwrap();
        child.wait().unwrap();

        run(folder.path(), &["--write-lock"]);
        assert_eq!(
            lock(folder.path()),
            expected,
            "killed after {share} of the run"
        );
    }
}

#[test]
fn training_that_was_killed_goes_on_from_its_checkpoint_to_the_same_weights() {
    let long = [
        "--set",
        "finetune.epochs=600",
        "--set",
        "finetune.early_stop_epochs=0",
        "--until",
        "finetune",
    ];
    let undisturbed = workspace();
    let answer = run(undisturbed.path(), &[&long[..], &["--json"]].concat());
    let outputs = |answer: &Answer| {
        let value = answer.json();
        let stages = value["stages"].as_array().unwrap();
        stages
            .iter()
            .find(|stage| stage["name"] == "finetune")
            .unwrap()["outputs"]
            .clone()
    };
    let expected = outputs(&answer);

    let folder = workspace();
    let arguments: Vec<&str> = TINY.iter().chain(&long).copied().collect();
    let mut child = command(folder.path(), &arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoints = folder.path().join(".natron/cache/v2/ckpt");
    let deadline = Instant::now() + Duration::from_mins(1);
    // Checkpoints are two seconds apart at least, so only finetune has one.
    while count_files(&checkpoints) < 1 && Instant::now() < deadline {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before it could be killed"
        );
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(count_files(&checkpoints) > 0);

    let answer = run(folder.path(), &[&long[..], &["--json"]].concat());
    assert_eq!(outputs(&answer), expected);
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| {
            if entry.path().is_dir() {
                count_files(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

#[test]
fn two_runs_at_once_both_succeed_and_execute_each_stage_once() {
    let folder = workspace();
    let rivals: Vec<_> = (0..2)
        .map(|_| {
            command(folder.path(), &[&TINY[..], &["--json"]].concat())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let answers: Vec<Answer> = rivals
        .into_iter()
        .map(|child| answer(child.wait_with_output().unwrap()).expect(0))
        .collect();

    let mut all: Vec<String> = answers.iter().flat_map(executed).collect();
    all.sort();
    assert_eq!(all, outcomes(&answers[0]).into_keys().collect::<Vec<_>>());
}

/// The simulated candles as a user's file.
fn data_file(folder: &Path) -> PathBuf {
    run(folder, &[]);
    let path = folder.join("bars.csv");
    natron(
        folder,
        &[
            "export",
            "candles.candles",
            "--profile",
            "tiny",
            "-o",
            path.to_str().unwrap(),
        ],
    )
    .expect(0);
    path
}

#[test]
fn what_runs_again_is_what_depends_on_the_change() {
    let folder = workspace();
    let path = data_file(folder.path());
    let data = [
        "--json",
        "--set",
        "params.data=bars.csv",
        "--set",
        "params.columns={ time = \"ts_ns\" }",
    ];
    let all = executed(&run(folder.path(), &data));
    assert_eq!(
        all,
        ["candles", "report"],
        "a file with the simulator's candles gives what the simulator gave; the report draws the graph"
    );

    assert!(executed(&run(folder.path(), &data)).is_empty());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text).unwrap();
    assert!(
        executed(&run(folder.path(), &data)).is_empty(),
        "the file was only touched"
    );

    fs::write(&path, text.replace('\n', "\r\n")).unwrap();
    let answer = run(folder.path(), &data);
    assert_eq!(outcomes(&answer)["candles"], "unchanged");
    assert_eq!(
        executed(&answer),
        ["candles"],
        "the same bars in other bytes"
    );

    let faster = [&data[..], &["--set", "finetune.learning_rate=0.002"]].concat();
    assert_eq!(
        executed(&run(folder.path(), &faster)),
        ["evaluate", "finetune", "report", "rl"]
    );
    assert!(
        executed(&run(folder.path(), &data)).is_empty(),
        "the parameter was put back"
    );

    let buffer = [&data[..], &["--set", "labels.neutral_buffer=0.002"]].concat();
    assert!(!executed(&run(folder.path(), &buffer)).contains(&"features".to_owned()));

    let last = text.lines().last().unwrap();
    let (time, rest) = last.split_once(',').unwrap();
    let later = a_quarter_later(time);
    fs::write(&path, format!("{text}{later},{rest}\n")).unwrap();
    let appended = executed(&run(folder.path(), &data));
    assert_eq!(
        appended.len(),
        9,
        "every stage reads the new bar: {appended:?}"
    );
}

/// The time a quarter of an hour after `2024-01-01T00:15:00Z`, on the same day or the next one of the month.
fn a_quarter_later(time: &str) -> String {
    let number = |range: std::ops::Range<usize>| time[range].parse::<u32>().unwrap();
    let minutes = number(11..13) * 60 + number(14..16) + 15;
    let day = number(8..10) + minutes / (24 * 60);
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    format!("{}{day:02}T{hour:02}:{minute:02}:00Z", &time[..8])
}

#[test]
fn the_lock_of_another_folder_holds_at_any_number_of_threads() {
    let (one, two) = (workspace(), workspace());
    run(one.path(), &["--write-lock", "--jobs", "1"]);
    run(two.path(), &["--write-lock", "--jobs", "2"]);

    assert_eq!(lock(one.path()), lock(two.path()));
    natron(one.path(), &["verify", "--profile", "tiny", "--locked"]).expect(0);
    for threads in ["1", "2"] {
        natron(
            one.path(),
            &["verify", "--profile", "tiny", "--threads", threads],
        )
        .expect(0);
    }
    let path = one.path().join("pipelines/natron_v2.lock");
    let text = fs::read_to_string(&path).unwrap();
    natron(
        one.path(),
        &[
            "run",
            "--profile",
            "tiny",
            "--locked",
            "--set",
            "finetune.batch=16",
        ],
    )
    .expect(3);
    natron(
        one.path(),
        &[
            "verify",
            "--profile",
            "tiny",
            "--locked",
            "--set",
            "finetune.batch=16",
        ],
    )
    .expect(3);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}
