//! The lock file: what a locked run executes, and what it says differs.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
};

use natron_artifacts::{Cancel, Registry};
use natron_cache::Durability;
use natron_runner::{
    Invocation, LockDifference, LockError, LockFile, LockMode, RunError, RunOptions, SessionError,
    SessionSummary, Unwatched, Watcher, load, lock_path, run_file, verify_locked,
};

use crate::{
    executing_toys::{EXECUTED, registry, registry_with},
    execution::{PIPELINE, Playground, TURN, load_options},
};

/// A playground with a lock, and what it takes to look at it.
struct Locked {
    playground: Playground,
    registry: Registry,
}

/// What a locked run and a locked verification say.
struct Said {
    executed: usize,
    run: Vec<LockDifference>,
    verify: Vec<LockDifference>,
}

impl Locked {
    fn new(text: &str) -> Self {
        let playground = Playground::new();
        fs::write(playground.path("pipeline.toml"), text).unwrap();
        playground.run_with(&RunOptions::default(), LockMode::Write, &Cancel::new());
        Self {
            playground,
            registry: registry(),
        }
    }

    fn session(&self, options: &RunOptions) -> Result<SessionSummary, SessionError> {
        let watcher: Arc<dyn Watcher> = Arc::new(Unwatched);
        let asked = Invocation {
            file: &self.playground.path("pipeline.toml"),
            registry: &self.registry,
            load: &load_options(self.playground.folder.path()),
            options: &RunOptions {
                durability: Durability::None,
                ..options.clone()
            },
            lock: LockMode::Require,
            workspace: &self.playground.workspace(),
        };
        run_file(&asked, &watcher, &Cancel::new())
    }

    fn verify(&self) -> Result<Vec<LockDifference>, RunError> {
        let file = self.playground.path("pipeline.toml");
        let options = load_options(self.playground.folder.path());
        let graph = load(&file, &options, &self.registry).unwrap();
        let lock = LockFile::read(&lock_path(&file)).unwrap();
        verify_locked(
            &graph,
            &self.playground.workspace(),
            lock.entries(&graph).unwrap(),
        )
    }

    fn say_with(&self, options: &RunOptions) -> Said {
        let before = EXECUTED.load(Ordering::SeqCst);
        let verify = self.verify().unwrap();
        assert_eq!(
            EXECUTED.load(Ordering::SeqCst),
            before,
            "it executes nothing"
        );
        let run = self.session(options).unwrap().differences;
        Said {
            executed: EXECUTED.load(Ordering::SeqCst) - before,
            run,
            verify,
        }
    }

    fn say(&self) -> Said {
        self.say_with(&RunOptions::default())
    }

    /// Nothing was executed, and both say that only this differs, for a reason that holds `why`.
    #[track_caller]
    fn refuses(&self, stage: &str, what: &str, why: &str) {
        let said = self.say();
        assert_eq!(said.executed, 0);
        assert_eq!(said.run, said.verify);
        let stages: Vec<&str> = said.run.iter().map(|d| d.stage.as_str()).collect();
        assert_eq!(stages, [stage], "{:?}", said.run);
        assert_eq!(said.run[0].what, what);
        assert!(said.run[0].why.contains(why), "{:?}", said.run);
    }

    fn forget_results(&self) {
        fs::remove_dir_all(self.playground.path(".natron")).unwrap();
    }
}

#[test]
fn equal_executes_nothing() {
    let _turn = TURN.lock();
    let locked = Locked::new(PIPELINE);

    let said = locked.say();
    assert_eq!((said.executed, said.run, said.verify), (0, vec![], vec![]));
}

#[test]
fn without_results_it_executes_each_stage_once() {
    let _turn = TURN.lock();
    let locked = Locked::new(PIPELINE);
    locked.forget_results();

    let said = locked.say();
    assert_eq!((said.executed, said.run, said.verify), (4, vec![], vec![]));
}

#[test]
fn a_changed_parameter_is_named_and_nothing_runs() {
    let _turn = TURN.lock();
    let locked = Locked::new(PIPELINE);
    locked.playground.edit("factor = 1.0", "factor = 3.0");
    locked.forget_results();

    locked.refuses("rounded", "key", "differs in `parameters.factor`");
}

#[test]
fn a_changed_source_is_named_and_nothing_runs() {
    let _turn = TURN.lock();
    let locked = Locked::new(PIPELINE);
    fs::write(locked.playground.path("numbers.txt"), "5 50\n").unwrap();

    locked.refuses("numbers", "key", "differs in `sources.path`");
}

#[test]
fn changed_code_is_named_and_nothing_runs() {
    let _turn = TURN.lock();
    let mut locked = Locked::new(PIPELINE);
    locked.registry = registry_with("2");

    let said = locked.say();
    assert_eq!(said.executed, 0);
    assert_eq!(said.run, said.verify);
    let found: Vec<(&str, &str)> = said
        .run
        .iter()
        .map(|d| (d.stage.as_str(), d.why.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("scaled", "differs in `code`"),
            ("rounded", "differs in `code`")
        ],
        "those whose code changed, and none below them"
    );
}

#[test]
fn stages_that_came_or_went_are_named() {
    let _turn = TURN.lock();
    let added = Locked::new(PIPELINE);
    let more = "\n[stages.more]\nuses = \"scale\"\ninputs.numbers = \"numbers\"\n";
    fs::write(
        added.playground.path("pipeline.toml"),
        format!("{PIPELINE}{more}"),
    )
    .unwrap();
    added.refuses("more", "entry", "the lock file has no such stage");

    let gone = Locked::new(&format!("{PIPELINE}{more}"));
    fs::write(gone.playground.path("pipeline.toml"), PIPELINE).unwrap();
    gone.refuses("more", "entry", "the pipeline has no such stage");
}

#[test]
fn a_lock_that_is_not_there_is_a_mistake() {
    let _turn = TURN.lock();
    let locked = Locked::new(PIPELINE);
    fs::remove_file(locked.playground.path("pipeline.lock")).unwrap();
    let before = EXECUTED.load(Ordering::SeqCst);

    let error = locked.session(&RunOptions::default()).unwrap_err();
    assert!(
        matches!(error, SessionError::Lock(LockError::Missing(_))),
        "{error}"
    );
    assert_eq!(EXECUTED.load(Ordering::SeqCst), before);
}

/// A stage that gives another number each time, and one that reads it.
fn clock(reproducible: &str) -> String {
    format!("{PIPELINE}\n[stages.clock]\nuses = \"clock\"\n{reproducible}\n")
}

fn forced() -> RunOptions {
    RunOptions {
        force: vec!["clock".into()],
        ..RunOptions::default()
    }
}

#[test]
fn another_result_of_the_same_key_is_named_with_its_place() {
    let _turn = TURN.lock();
    let locked = Locked::new(&clock(""));

    let said = locked.say_with(&forced());
    assert_eq!((said.executed, said.verify), (1, vec![]));
    assert_eq!(said.run.len(), 1, "{:?}", said.run);
    assert_eq!(
        (said.run[0].stage.as_str(), said.run[0].what.as_str()),
        ("clock", "output `metrics`")
    );
    let why = &said.run[0].why;
    assert!(
        why.contains("the stage is not reproducible; metric ticks: expected "),
        "{why}"
    );
}

#[test]
fn a_result_within_its_tolerance_is_no_difference() {
    let _turn = TURN.lock();
    let near = Locked::new(&clock("reproducible = { abs = 1e6 }"));
    let far = Locked::new(&clock("reproducible = { abs = 1e-6 }"));
    let unknown = Locked::new(&clock("reproducible = { abs = 1e6 }"));

    assert_eq!(near.say_with(&forced()).run, []);
    let why = far.say_with(&forced()).run[0].why.clone();
    assert!(why.contains("metric ticks"), "{why}");
    // Without the locked result nobody can tell how far away it was.
    unknown.forget_results();
    let why = unknown.say().run[0].why.clone();
    assert!(
        why.contains("cannot be told: the locked result is not in this cache"),
        "{why}"
    );
}

#[test]
fn what_follows_from_another_stage_says_so() {
    let _turn = TURN.lock();
    let below = |reproducible: &str| {
        let text = "[stages.a]\nuses = \"jitter\"\nWHAT\n[stages.b]\nuses = \"scale\"\ninputs.numbers = \"a\"\nWHAT\n[stages.c]\nuses = \"sum\"\ninputs.tables = [\"b\"]\nWHAT\n";
        Locked::new(&text.replace("WHAT", reproducible))
    };
    let options = RunOptions {
        force: vec!["a".into()],
        ..RunOptions::default()
    };

    let said = below("").say_with(&options);
    let found: Vec<(&str, &str)> = said
        .run
        .iter()
        .map(|d| (d.stage.as_str(), d.what.as_str()))
        .collect();
    assert_eq!(
        found,
        [("a", "output `numbers`"), ("b", "key"), ("c", "key")]
    );
    assert_eq!(said.run[1].why, "follows from `a`");
    assert_eq!(said.run[2].why, "follows from `b`");
    let alike = below("reproducible = { abs = 1e6 }").say_with(&options);
    assert_eq!(alike.run, [], "each is alike enough");
    assert_eq!(alike.executed, 3);
}
