//! Running, again and again: what runs, what does not, and what comes out.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
};

use natron_artifacts::{Artifact, Cancel};
use natron_cache::{Durability, Store};
use natron_runner::{
    Cause, Changed, Event, ExplainOptions, Invocation, LoadOptions, LockMode, Outcome, Reason,
    RunOptions, SessionSummary, Unwatched, Verdict, VerifyOptions, Watcher, Workspace, explain,
    load, run_file, verify,
};

use crate::executing_toys::{EXECUTED, registry};

pub(crate) const PIPELINE: &str = r#"
[pipeline]
name = "toy"
seed = 7

[stages.numbers]
uses = "numbers"
with.path = "numbers.txt"

[stages.scaled]
uses = "scale"
inputs.numbers = "numbers"

[stages.rounded]
uses = "scale"
inputs.numbers = "scaled"
with = { factor = 1.0, round = true }

[stages.sum]
uses = "sum"
inputs.tables = ["rounded", "numbers"]
views.metrics = "out/sum.json"
"#;

/// Tests that count executions of the process take turns.
pub(crate) static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Playground {
    pub(crate) folder: tempfile::TempDir,
}

impl Playground {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pipeline.toml"), PIPELINE).unwrap();
        fs::write(folder.path().join("numbers.txt"), "1 10\n2 20\n3 30\n").unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn workspace(&self) -> Workspace {
        Workspace::new(self.folder.path(), None)
    }

    pub(crate) fn edit(&self, from: &str, to: &str) {
        let path = self.path("pipeline.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn run(&self) -> SessionSummary {
        self.run_with(&RunOptions::default(), LockMode::Ignore, &Cancel::new())
    }

    pub(crate) fn run_with(
        &self,
        options: &RunOptions,
        lock: LockMode,
        cancel: &Cancel,
    ) -> SessionSummary {
        let watcher: Arc<dyn Watcher> = Arc::new(Unwatched);
        let workspace = self.workspace();
        let options = RunOptions {
            durability: Durability::None,
            ..options.clone()
        };
        let asked = Invocation {
            file: &self.path("pipeline.toml"),
            registry: &registry(),
            load: &load_options(self.folder.path()),
            options: &options,
            lock,
            workspace: &workspace,
        };
        run_file(&asked, &watcher, cancel).unwrap()
    }

    /// The stages that ran, in order, and how.
    fn ran(&self) -> Vec<(String, Outcome)> {
        let summary = self.run();
        assert!(summary.run.succeeded(), "{:?}", summary.run.record);
        let stages = summary.run.record.stages.into_iter();
        stages
            .map(|s| (s.name, s.outcome))
            .filter(|(_, o)| *o != Outcome::Hit)
            .collect()
    }

    fn total(&self) -> f64 {
        let mut summary = self.run();
        summary.run.record.fill_in(&self.workspace());
        let manifest = &summary.run.record.stage("sum").unwrap().outputs["metrics"];
        let store = Store::open(self.workspace().cache(), Durability::None).unwrap();
        let Artifact::Metrics(metrics) = store.open_artifact(manifest).unwrap() else {
            panic!()
        };
        metrics.get("total").unwrap()
    }
}

pub(crate) fn load_options(workspace: &Path) -> LoadOptions {
    LoadOptions {
        workspace: workspace.to_owned(),
        ..LoadOptions::default()
    }
}

fn names(ran: &[(String, Outcome)]) -> Vec<&str> {
    ran.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn the_second_run_runs_nothing() {
    let _turn = TURN.lock();
    let playground = Playground::new();

    assert_eq!(
        names(&playground.ran()),
        ["numbers", "scaled", "rounded", "sum"]
    );
    let before = EXECUTED.load(Ordering::SeqCst);
    assert!(playground.run().at_a_glance);
    assert_eq!(EXECUTED.load(Ordering::SeqCst), before);
    assert!((playground.total() - 18.0).abs() < 1e-12);
}

#[test]
fn a_changed_parameter_runs_what_is_below_it_and_its_old_value_hits_again() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();

    playground.edit("factor = 1.0", "factor = 3.0");
    assert_eq!(names(&playground.ran()), ["rounded", "sum"]);
    playground.edit("factor = 3.0", "factor = 1.0");
    assert_eq!(playground.ran(), []);
}

#[test]
fn equal_content_cuts_off_what_is_below() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();

    fs::write(
        playground.path("numbers.txt"),
        "1.0  10.0\n2.0  20.0\n3.0  30.0\n",
    )
    .unwrap();
    assert_eq!(
        playground.ran(),
        [("numbers".to_owned(), Outcome::Unchanged)]
    );
}

#[test]
fn another_column_does_not_concern_who_does_not_read_it() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();

    fs::write(playground.path("numbers.txt"), "1 10\n2 20\n3 31\n").unwrap();
    assert_eq!(names(&playground.ran()), ["numbers", "sum"]);
}

#[test]
fn touching_a_source_runs_nothing() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();

    let text = fs::read(playground.path("numbers.txt")).unwrap();
    fs::write(playground.path("numbers.txt"), text).unwrap();
    assert_eq!(playground.ran(), []);
}

#[test]
fn a_view_that_was_edited_or_removed_is_restored_without_running() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();
    let view = playground.path("out/sum.json");
    let original = fs::read(&view).unwrap();
    let before = EXECUTED.load(Ordering::SeqCst);

    let edited: Vec<u8> = original
        .iter()
        .map(|b| if *b == b'8' { b'9' } else { *b })
        .collect();
    assert_ne!(edited, original);
    fs::write(&view, edited).unwrap();
    playground.run();
    assert_eq!(fs::read(&view).unwrap(), original);
    fs::remove_file(&view).unwrap();
    playground.run();
    assert_eq!(fs::read(&view).unwrap(), original);
    assert_eq!(EXECUTED.load(Ordering::SeqCst), before);
}

#[test]
fn a_view_never_replaces_what_no_run_has_written() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    let precious = playground.path("out/sum.json");
    fs::create_dir(playground.path("out")).unwrap();
    fs::write(&precious, "mine").unwrap();
    let try_run = || {
        let watcher: Arc<dyn Watcher> = Arc::new(Unwatched);
        let asked = Invocation {
            file: &playground.path("pipeline.toml"),
            registry: &registry(),
            load: &load_options(playground.folder.path()),
            options: &RunOptions::default(),
            lock: LockMode::Ignore,
            workspace: &playground.workspace(),
        };
        run_file(&asked, &watcher, &Cancel::new())
            .unwrap_err()
            .to_string()
    };

    assert!(try_run().contains("something is there that no run has written"));
    assert_eq!(fs::read(&precious).unwrap(), b"mine");

    playground.edit("out/sum.json", "numbers.txt");
    assert!(try_run().contains("the pipeline reads this file"));
}

#[test]
fn a_gpu_that_nothing_uses_is_not_passed_over_in_silence() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.edit("seed = 7", "seed = 7\ndevice = \"cuda\"");
    let options = load_options(playground.folder.path());
    let graph = load(&playground.path("pipeline.toml"), &options, &registry()).unwrap();

    let error = explain(&graph, &playground.workspace(), &ExplainOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("none of its stages can compute on a GPU"),
        "{error}"
    );
}

#[test]
fn a_stage_that_would_like_a_gpu_gets_what_the_pipeline_says() {
    let device = |pipeline: &str, resources: &str| {
        let playground = Playground::new();
        playground.edit("seed = 7", &format!("seed = 7\n{pipeline}"));
        let stage = format!("[stages.graphics]\nuses = \"graphics\"\n{resources}\n");
        playground.edit("[stages.sum]", &format!("{stage}[stages.sum]"));
        let options = load_options(playground.folder.path());
        let graph = load(&playground.path("pipeline.toml"), &options, &registry()).unwrap();
        let explained = explain(&graph, &playground.workspace(), &ExplainOptions::default());
        let stages = explained.unwrap().stages;
        let graphics = stages.into_iter().find(|stage| stage.name == "graphics");
        graphics.unwrap().ingredients.unwrap().device
    };
    let class = Some("cuda: toy_1".to_owned());

    assert_eq!(device("", ""), None);
    assert_eq!(device("device = \"cpu\"", ""), None);
    assert_eq!(device("device = \"cuda\"", ""), class);
    assert_eq!(device("", "resources = { gpu = 1 }"), class);
}

#[test]
fn a_source_that_changes_during_the_run_is_read_again_next_time() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    let slow = "\n[stages.slow]\nuses = \"steps\"\nwith = { steps = 40, milliseconds = 5 }\n";
    let path = playground.path("pipeline.toml");
    fs::write(&path, format!("{PIPELINE}{slow}")).unwrap();
    let numbers = playground.path("numbers.txt");
    let writer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(120));
        fs::write(numbers, "1 10\n2 20\n4 40\n").unwrap();
    });
    let first = playground.run_with(&RunOptions::default(), LockMode::Write, &Cancel::new());
    writer.join().unwrap();
    assert!(first.run.succeeded());

    let lock = fs::read_to_string(playground.path("pipeline.lock")).unwrap();
    assert_eq!(lock.matches("kind = ").count(), 5, "{lock}");
    assert!(names(&playground.ran()).contains(&"numbers"));
}

/// Damages every object of the store; they are small and lie in the records.
pub(crate) fn damage_objects(cache: &Path) {
    let store = Store::open(cache, Durability::None).unwrap();
    let mut contents = Vec::new();
    for (key, _) in store.keys() {
        let record = store.record(&key).unwrap();
        let read = |(digest, _)| store.read(&digest).unwrap();
        contents.extend(record.objects().map(read));
    }
    drop(store);
    for segment in fs::read_dir(cache.join("v2/ac")).unwrap() {
        let path = segment.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        for content in &contents {
            let found = bytes
                .windows(content.len())
                .position(|window| window == &content[..]);
            if let Some(at) = found {
                bytes[at + content.len() / 2] ^= 1;
            }
        }
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn damaged_objects_are_noticed_and_made_again() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();
    damage_objects(playground.workspace().cache());

    // Nothing that is damaged is opened until something below runs.
    playground.edit("factor = 1.0", "factor = 3.0");
    assert!((playground.total() - 42.0).abs() < 1e-12);
}

#[test]
fn a_deleted_store_is_filled_again() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();
    fs::remove_dir_all(playground.workspace().cache()).unwrap();

    assert_eq!(playground.ran().len(), 4);
}

#[test]
fn a_stage_that_fails_says_where_and_the_rest_is_skipped() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    fs::write(playground.path("numbers.txt"), "1 10\nx\n").unwrap();

    let summary = playground.run();
    let stage = summary.run.record.stage("numbers").unwrap();
    assert_eq!(stage.outcome, Outcome::Failed);
    assert_eq!(
        stage.error.as_deref(),
        Some("row 1, column `a`: `x` is no pair")
    );
    assert_eq!(
        summary.run.record.stage("sum").unwrap().outcome,
        Outcome::Skipped
    );
}

#[test]
fn a_panic_is_the_failure_of_one_stage() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    let text = "[pipeline]\nname = \"p\"\n[stages.bad]\nuses = \"panics\"\n[stages.good]\nuses = \"steps\"\nwith.steps = 1\n";
    fs::write(playground.path("pipeline.toml"), text).unwrap();

    let options = RunOptions {
        keep_going: true,
        ..RunOptions::default()
    };
    let summary = playground.run_with(&options, LockMode::Ignore, &Cancel::new());
    let error = summary
        .run
        .record
        .stage("bad")
        .unwrap()
        .error
        .clone()
        .unwrap();
    assert_eq!(error, "the stage panicked: as declared");
    assert_eq!(
        summary.run.record.stage("good").unwrap().outcome,
        Outcome::Ran
    );
}

struct CancelsAt(Cancel, &'static str);

impl Watcher for CancelsAt {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Started { stage, .. } if *stage == self.1) {
            let flag = self.0.clone();
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(60));
                flag.set();
            });
        }
    }
}

#[test]
fn a_stopped_stage_continues_from_its_checkpoint_to_the_same_bytes() {
    let _turn = TURN.lock();
    let text = "[pipeline]\nname = \"p\"\n[stages.train]\nuses = \"steps\"\nwith = { steps = 60, milliseconds = 5 }\n";
    let undisturbed = Playground::new();
    fs::write(undisturbed.path("pipeline.toml"), text).unwrap();
    let expected = undisturbed
        .run()
        .run
        .record
        .stage("train")
        .unwrap()
        .outputs
        .clone();

    let playground = Playground::new();
    fs::write(playground.path("pipeline.toml"), text).unwrap();
    let cancel = Cancel::new();
    let watcher: Arc<dyn Watcher> = Arc::new(CancelsAt(cancel.clone(), "train"));
    let asked = Invocation {
        file: &playground.path("pipeline.toml"),
        registry: &registry(),
        load: &load_options(playground.folder.path()),
        options: &RunOptions::default(),
        lock: LockMode::Ignore,
        workspace: &playground.workspace(),
    };
    let stopped = run_file(&asked, &watcher, &cancel).unwrap();
    assert!(stopped.run.interrupted);
    assert_eq!(
        stopped.run.record.stage("train").unwrap().outcome,
        Outcome::Interrupted
    );
    let again = playground.run();
    assert_eq!(again.run.record.stage("train").unwrap().outputs, expected);
    let log = fs::read_to_string(
        playground
            .path(".natron/runs")
            .join(&again.run.record.id)
            .join("log.txt"),
    );
    assert!(log.unwrap().contains("continues at step"));
}

#[test]
fn two_runs_at_once_execute_each_stage_once() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    let before = EXECUTED.load(Ordering::SeqCst);

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert!(playground.run().run.succeeded()));
        }
    });
    assert_eq!(EXECUTED.load(Ordering::SeqCst) - before, 4);
}

#[test]
fn explain_names_the_root_cause_once() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    playground.run();
    playground.edit("factor = 1.0", "factor = 3.0");

    let options = load_options(playground.folder.path());
    let graph = load(&playground.path("pipeline.toml"), &options, &registry()).unwrap();
    let why = explain(&graph, &playground.workspace(), &ExplainOptions::default()).unwrap();
    let [cause] = &why.causes[..] else {
        panic!("{:?}", why.causes)
    };
    assert_eq!(cause.stages, ["rounded"]);
    assert_eq!((cause.run, cause.maybe), (1, 1));
    let Cause::Changed { change } = &cause.cause else {
        panic!("{cause:?}")
    };
    assert_eq!(change.path, "parameters.factor");
    let Changed::Value { before, after, .. } = &change.what else {
        panic!("{change:?}")
    };
    assert_eq!(*before, Some(1.0.into()));
    assert_eq!(*after, Some(3.0.into()));
    let sum = why.stages.iter().find(|s| s.name == "sum").unwrap();
    assert_eq!(
        sum.reason,
        Reason::Upstream {
            stages: vec!["rounded".into()]
        }
    );
}

#[test]
fn verify_finds_the_stage_that_is_not_a_function() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    let text = "\n[stages.clock]\nuses = \"clock\"\n";
    let path = playground.path("pipeline.toml");
    fs::write(&path, format!("{PIPELINE}{text}")).unwrap();
    playground.run();

    let options = load_options(playground.folder.path());
    let graph = load(&path, &options, &registry()).unwrap();
    let watcher: Arc<dyn Watcher> = Arc::new(Unwatched);
    let result = verify(
        &graph,
        &playground.workspace(),
        &VerifyOptions::default(),
        &watcher,
        &Cancel::new(),
    )
    .unwrap();
    for stage in &result.stages {
        let differs = matches!(stage.verdict, Verdict::Differs { .. });
        assert_eq!(differs, stage.stage == "clock", "{stage:?}");
    }
    let Verdict::Differs { divergence, .. } = &result.first_failure().unwrap().verdict else {
        panic!()
    };
    assert_eq!(divergence.place, "metric ticks");
    assert!(result.junit().contains("failures=\"1\""));
}

#[test]
fn a_lock_file_holds_until_something_changes() {
    let _turn = TURN.lock();
    let playground = Playground::new();
    let run = |lock| playground.run_with(&RunOptions::default(), lock, &Cancel::new());
    run(LockMode::Write);
    let lock = fs::read(playground.path("pipeline.lock")).unwrap();

    assert_eq!(run(LockMode::Require).differences, []);
    run(LockMode::Write);
    assert_eq!(fs::read(playground.path("pipeline.lock")).unwrap(), lock);

    playground.edit("factor = 1.0", "factor = 3.0");
    let differences = run(LockMode::Require).differences;
    assert_eq!(differences[0].stage, "rounded");
    assert_eq!(differences[0].what, "key");
    assert!(
        differences[0].why.contains("parameters.factor"),
        "{differences:?}"
    );

    let other = Playground::new();
    other.run_with(&RunOptions::default(), LockMode::Write, &Cancel::new());
    assert_eq!(
        fs::read(other.path("pipeline.lock")).unwrap(),
        lock,
        "the same in any folder"
    );
}
