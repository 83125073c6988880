//! Pipelines of many stages of which some are edited: the run looks at those only, and finds what a look at all would find.

use std::{collections::BTreeMap, fmt::Write as _, fs, sync::Arc};

use natron_artifacts::Cancel;
use natron_cache::Durability;
use natron_runner::{
    Forecast, Invocation, LockMode, Outcome, RunEnd, RunList, RunOptions, SessionError,
    SessionSummary, Unwatched, Watcher,
    history::{RunRecord, run_ids},
    load, run_file, standings,
};

use crate::{
    executing_toys::registry,
    execution::{Playground, TURN, damage_objects, load_options},
};

/// Stages besides the one that reads the file.
const STAGES: usize = 80;
const CHAIN: usize = 8;

/// Chains of stages, each a line of TOML after its header.
#[derive(Clone)]
struct Pipeline {
    common: String,
    stages: Vec<(String, String)>,
}

impl Pipeline {
    fn new() -> Self {
        let mut stages = vec![(
            "numbers".to_owned(),
            "uses = \"numbers\"\nwith.path = \"numbers.txt\"".to_owned(),
        )];
        for i in 0..STAGES {
            let reads = match i % CHAIN {
                0 => "numbers".to_owned(),
                _ => format!("s{}", i - 1),
            };
            let factor = match i % 5 {
                0 => "\"${params.a}\"".to_owned(),
                _ if i == 22 => "\"${params.c}\"".to_owned(),
                _ if i == 31 => "\"${params.e}\"".to_owned(),
                _ => format!("{i}.5"),
            };
            let lines =
                format!("uses = \"scale\"\ninputs.numbers = \"{reads}\"\nwith.factor = {factor}");
            stages.push((format!("s{i}"), lines));
        }
        Self {
            common: "[pipeline]\nname = \"many\"\n\n[params]\na = 2.0 # of many\nc = 22.5\nd = 1.0\ne = \"${params.d}\"".to_owned(),
            stages,
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.common);
        for (name, lines) in &self.stages {
            write!(text, "\n[stages.{name}]\n{lines}\n").unwrap();
        }
        text
    }

    fn edit(&mut self, stage: &str, from: &str, to: &str) {
        let (_, lines) = self
            .stages
            .iter_mut()
            .find(|(name, _)| name == stage)
            .unwrap();
        assert!(lines.contains(from), "{lines}");
        *lines = lines.replace(from, to);
    }
}

type Edit<'a> = (&'a str, &'a dyn Fn(&mut Many));

struct Many {
    playground: Playground,
    pipeline: Pipeline,
}

impl Many {
    /// A workspace in which the pipeline has run.
    fn after_a_run() -> Self {
        let many = Self {
            playground: Playground::new(),
            pipeline: Pipeline::new(),
        };
        let first = many.run();
        assert!(first.run.succeeded() && first.run.record.same_as.is_none());
        // What was written just now is read again once.
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(many.run().at_a_glance);
        many
    }

    fn try_run(&self) -> Result<SessionSummary, SessionError> {
        fs::write(self.playground.path("pipeline.toml"), self.pipeline.text()).unwrap();
        let watcher: Arc<dyn Watcher> = Arc::new(Unwatched);
        let options = RunOptions {
            durability: Durability::None,
            ..RunOptions::default()
        };
        let asked = Invocation {
            file: &self.playground.path("pipeline.toml"),
            registry: &registry(),
            load: &load_options(self.playground.folder.path()),
            options: &options,
            lock: LockMode::Ignore,
            workspace: &self.playground.workspace(),
        };
        run_file(&asked, &watcher, &Cancel::new())
    }

    fn run(&self) -> SessionSummary {
        self.try_run().unwrap()
    }

    /// The names of the stages that the record of a run lists, if it goes on from another.
    fn listed(summary: &SessionSummary) -> Option<Vec<&str>> {
        let stages = summary.run.record.stages.iter();
        let _ = summary.run.record.same_as.as_ref()?;
        Some(stages.map(|stage| stage.name.as_str()).collect())
    }

    /// Compares the record of the newest run with what a look at everything finds; how many stages it executed.
    fn check(&self) -> usize {
        let workspace = self.playground.workspace();
        let newest = run_ids(&workspace).unwrap().pop().unwrap();
        let record = RunRecord::read(&workspace, &newest).unwrap();
        let options = load_options(self.playground.folder.path());
        let graph = load(
            &self.playground.path("pipeline.toml"),
            &options,
            &registry(),
        )
        .unwrap();
        let found = standings(&graph, &workspace, &RunOptions::default()).unwrap();
        assert_eq!(record.n_stages, found.len());
        assert_eq!(record.stages.len(), found.len());
        let recorded: BTreeMap<&str, _> =
            record.stages.iter().map(|s| (s.name.as_str(), s)).collect();
        for found in &found {
            let recorded = recorded[found.name.as_str()];
            assert_eq!(found.forecast, Forecast::Hit, "{}", found.name);
            assert_eq!(
                recorded.key,
                found.key.map(|key| key.digest()),
                "{}",
                found.name
            );
            assert_eq!(recorded.outputs, found.outputs, "{}", found.name);
        }
        let last = RunRecord::last_results(&workspace, "many");
        assert!(
            last.values()
                .all(|last| last.key == recorded[last.name.as_str()].key)
        );
        let executed = |stage: &&natron_runner::history::StageRecord| stage.outcome != Outcome::Hit;
        record.stages.iter().filter(executed).count()
    }
}

#[test]
fn only_what_has_to_do_with_the_edited_stage_is_looked_at() {
    let _turn = TURN.lock();
    let mut many = Many::after_a_run();

    many.pipeline.edit("s14", "14.5", "0.25");
    let summary = many.run();
    assert_eq!(Many::listed(&summary).unwrap(), ["s14", "s15"]);
    assert_eq!(many.check(), 2);
    assert!(many.run().at_a_glance);
    assert_eq!(many.check(), 0);

    // What an earlier edit made different is carried along.
    many.pipeline.edit("s79", "79.5", "0.25");
    let summary = many.run();
    assert_eq!(Many::listed(&summary).unwrap(), ["s79", "s14", "s15"]);
    assert_eq!(many.check(), 1);

    // Back to what was there: nothing runs.
    many.pipeline.edit("s14", "0.25", "14.5");
    assert!(Many::listed(&many.run()).is_some());
    assert_eq!(many.check(), 0);

    // A parameter that one stage uses.
    many.pipeline.common = many.pipeline.common.replace("22.5", "0.25");
    let summary = many.run();
    let expected = ["s22", "s23", "s14", "s15", "s79"];
    assert_eq!(Many::listed(&summary).unwrap(), expected);
    assert_eq!(many.check(), 2);

    // A parameter that another one uses by now counts for all who use that.
    many.pipeline.common = many
        .pipeline
        .common
        .replace("c = 0.25", "c = \"${params.d}\"");
    assert!(Many::listed(&many.run()).is_some());
    many.pipeline.common = many.pipeline.common.replace("d = 1.0", "d = 4.0");
    assert_eq!(Many::listed(&many.run()), None);
    assert_eq!(many.check(), 3);

    let list = RunList::read(&many.playground.workspace()).unwrap();
    let ends: Vec<_> = list
        .runs
        .iter()
        .map(|run| (run.outcomes.hit, run.end()))
        .collect();
    let n = STAGES + 1;
    // In the first run, `s40` is what `s0` is.
    let hits = [n - 3, n - 2, n - 2, n, n - 1, n, n - 2, n, 1];
    assert_eq!(ends, hits.map(|hit| (hit, RunEnd::Ok)));
}

#[test]
fn what_a_run_after_an_edit_records_is_what_a_look_at_everything_finds() {
    let _turn = TURN.lock();
    let mut many = Many::after_a_run();
    let mut random = 7_u64;
    let mut random = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    let mut n_reduced = 0;
    for step in 0..24 {
        let before = many.pipeline.clone();
        for _ in 0..=random(2) {
            let i = random(STAGES);
            let lines = &mut many.pipeline.stages[1 + i].1;
            match random(6) {
                0 => lines.push_str("\n# a word about what follows, [stages.s1] for one\n"),
                1 => lines.push_str(
                    "\n[stages.sX.resources]\nthreads = 1"
                        .replace("sX", &format!("s{i}"))
                        .as_str(),
                ),
                2 => {
                    let reads = ["numbers".to_owned(), format!("s{}", random(STAGES))];
                    let from = lines.find("inputs.numbers = ").unwrap();
                    let to = from + lines[from..].find('\n').unwrap();
                    lines.replace_range(
                        from..to,
                        &format!("inputs.numbers = \"{}\"", reads[random(2)]),
                    );
                }
                3 => *lines = lines.replace("with.factor = ", "with.round = true\nwith.factor = "),
                _ => {
                    let from = lines.find("with.factor = ").unwrap();
                    let to = lines[from..]
                        .find('\n')
                        .map_or(lines.len(), |end| from + end);
                    lines.replace_range(from..to, &format!("with.factor = {step}.75"));
                }
            }
        }
        match many.try_run() {
            Ok(summary) => {
                assert!(summary.run.succeeded());
                n_reduced += usize::from(Many::listed(&summary).is_some());
                many.check();
            }
            Err(SessionError::Pipeline(mistakes)) => {
                // The same as of the text by itself.
                let options = load_options(many.playground.folder.path());
                let file = many.playground.path("pipeline.toml");
                assert_eq!(load(&file, &options, &registry()).unwrap_err(), mistakes);
                many.pipeline = before;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(
        n_reduced > 8,
        "{n_reduced} of 24 runs looked at some stages only"
    );
}

#[test]
fn what_is_out_of_the_ordinary_is_looked_at_as_a_whole() {
    let _turn = TURN.lock();
    let workspace = |many: &Many| many.playground.workspace().state();
    let noop = |many: &Many| {
        let files = fs::read_dir(workspace(many).join("noop")).unwrap();
        let outlines = files.map(|file| file.unwrap().path());
        outlines
            .filter(|path| path.extension().is_some())
            .collect::<Vec<_>>()
    };
    let edits: [Edit; 13] = [
        ("one more parameter", &|many| {
            many.pipeline.common.push_str("\nb = 1.0");
        }),
        ("a parameter of another", &|many| {
            many.pipeline.common = many.pipeline.common.replace("d = 1.0", "d = 3.0");
        }),
        ("a parameter of many stages", &|many| {
            many.pipeline.common = many.pipeline.common.replace("a = 2.0", "a = 3.0");
        }),
        ("one more stage", &|many| {
            let mut last = many.pipeline.stages.last().unwrap().clone();
            last.0.push('x');
            many.pipeline.stages.push(last);
        }),
        ("one stage less", &|many| drop(many.pipeline.stages.pop())),
        ("another order", &|many| many.pipeline.stages.swap(3, 40)),
        ("a view", &|many| {
            many.pipeline.stages[5]
                .1
                .push_str("\nviews.scaled = \"shown\"");
        }),
        ("a matrix", &|many| {
            many.pipeline.stages[CHAIN]
                .1
                .push_str("\nmatrix.n = [1, 2]");
        }),
        ("a stage under another header", &|many| {
            many.pipeline.stages[5]
                .1
                .push_str("\n[ stages.more ]\nuses = \"numbers\"\nwith.path = \"numbers.txt\"");
        }),
        ("a source that changed", &|many| {
            many.pipeline.edit("s14", "14.5", "0.25");
            fs::write(many.playground.path("numbers.txt"), "1 10\n2 20\n3 31\n").unwrap();
        }),
        ("many stages", &|many| {
            (0..30).for_each(|i| {
                many.pipeline.stages[1 + i]
                    .1
                    .push_str("\nwith.round = true");
            });
        }),
        ("a damaged outline", &|many| {
            many.pipeline.edit("s14", "14.5", "0.25");
            let path = &noop(many)[0];
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("a record that is gone", &|many| {
            many.pipeline.edit("s14", "14.5", "0.25");
            fs::remove_dir_all(workspace(many).join("runs")).unwrap();
        }),
    ];
    for (what, edit) in edits {
        let mut many = Many::after_a_run();
        assert_eq!(noop(&many).len(), 1, "{what}");
        edit(&mut many);
        let summary = many.run();
        assert!(summary.run.succeeded(), "{what}");
        assert_eq!(Many::listed(&summary), None, "{what}");
        assert_eq!(
            summary.run.record.stages.len(),
            summary.run.record.n_stages,
            "{what}"
        );
        many.check();
    }
}

#[test]
fn a_parameter_that_nothing_reads_any_more_is_told_after_any_edit() {
    let _turn = TURN.lock();
    let mut many = Many::after_a_run();
    for i in (5..STAGES).step_by(5) {
        many.pipeline
            .edit(&format!("s{i}"), "\"${params.a}\"", "1.0");
    }
    assert!(many.run().warnings.is_empty());

    many.pipeline.edit("s0", "\"${params.a}\"", "1.0");
    let summary = many.run();
    assert_eq!(summary.warnings.len(), 1);
    assert!(summary.run.succeeded());
    many.check();
}

#[test]
fn a_stage_that_fails_after_an_edit_leaves_the_others_as_they_are() {
    let _turn = TURN.lock();
    let mut many = Many::after_a_run();
    let good = many.pipeline.clone();
    many.pipeline
        .edit("s14", "uses = \"scale\"", "uses = \"panics\"");
    many.pipeline
        .edit("s14", "inputs.numbers = \"s13\"\nwith.factor = 14.5", "");
    let failed = many.try_run();
    // The stage below wants a table of numbers, which this one does not make.
    assert!(matches!(failed, Err(SessionError::Pipeline(_))));

    many.pipeline = good;
    many.pipeline
        .edit("s15", "uses = \"scale\"", "uses = \"panics\"");
    many.pipeline.edit(
        "s15",
        "inputs.numbers = \"s14\"\nwith.factor = \"${params.a}\"",
        "",
    );
    let summary = many.run();
    assert!(!summary.run.succeeded());
    assert!(Many::listed(&summary).is_some());
    let list = RunList::read(&many.playground.workspace()).unwrap();
    assert_eq!(
        (list.runs[0].outcomes.failed, list.runs[0].outcomes.hit),
        (1, STAGES)
    );
    assert_eq!(list.runs[0].end(), RunEnd::Failed);
    let last = RunRecord::last_results(&many.playground.workspace(), "many");
    assert_eq!(last.len(), STAGES + 1);

    many.pipeline = Pipeline::new();
    let summary = many.run();
    assert!(summary.run.succeeded() && summary.at_a_glance);
    many.check();
}

#[test]
fn after_something_above_had_to_be_made_again_everything_is_looked_at() {
    let _turn = TURN.lock();
    let mut many = Many::after_a_run();
    damage_objects(many.playground.workspace().cache());

    many.pipeline.edit("s14", "14.5", "0.25");
    let summary = many.run();
    let made: Vec<_> = summary
        .run
        .record
        .stages
        .iter()
        .filter(|s| s.outcome != Outcome::Hit)
        .collect();
    assert!(summary.run.record.same_as.is_some() && made.len() > 2);
    let next = many.run();
    assert!(!next.at_a_glance && Many::listed(&next).is_none());
    many.check();
    assert!(many.run().at_a_glance);
}
