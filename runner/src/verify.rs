//! Verification: stages executed again from their recorded inputs, under other conditions, and compared.

mod interruption;
mod junit;
mod perturbation;
mod repetition;
mod sampling;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use natron_artifacts::{Cancel, Manifest};
use natron_cache::{Confirmation, ConfirmationLog, Confirmed, Execution, StageKey, Store, clock};
use serde::Serialize;

use crate::{
    Class, Divergence, Event, Forecast, Graph, LockDifference, LockEntry, Outcome, Reproducible,
    RunError, RunOptions, Watcher, Workspace, execute::select, lock, standings,
};

pub use interruption::{
    Interruption, InterruptionOptions, InterruptionTrial, Kill, interrupt, interrupted_child,
};
pub use perturbation::{Circumstance, Means, Perturbation, perturbations, perturbed_environment};
pub use repetition::Repetition;
pub use sampling::{Choice, Sample};

use repetition::{Bench, Setup};

/// Recorded outputs by instance name and port.
type ByStage<'a> = BTreeMap<&'a str, &'a BTreeMap<String, Manifest>>;

/// Finding out which condition decides takes no longer than this in all, in expected seconds of the stage.
const MOST_BLAME_SECONDS: f64 = 60.0;

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Only these stages or instances; all when empty.
    pub stages: Vec<String>,
    /// Which of those.
    pub choice: Choice,
    /// Numbers of threads, each of which is tried; without any, another number than before.
    pub threads: Vec<usize>,
    /// How often each stage is repeated with each number of threads.
    pub runs: usize,
    /// What is changed.
    pub perturb: BTreeSet<Perturbation>,
    /// Seed of the sample and of what is shuffled.
    pub seed: u64,
    /// Whether to find out what a stage depends on that came out otherwise.
    pub blame: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            stages: Vec::new(),
            choice: Choice::All,
            threads: Vec::new(),
            runs: 1,
            perturb: Perturbation::ALL.into(),
            seed: 0,
            blame: true,
        }
    }
}

/// How one stage came out of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Verdict {
    /// Every output is as alike as declared, or more.
    Confirmed {
        /// How alike the least alike one is.
        class: Class,
    },
    /// Some output differs.
    Differs {
        /// Which.
        output: String,
        /// Where.
        divergence: Divergence,
        /// What decides it.
        blame: Blame,
    },
    /// The stage failed this time.
    Failed {
        /// Why.
        message: String,
        /// What decides it.
        blame: Blame,
    },
    /// There is no result to compare with.
    NotCached,
}

/// What a different output depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Blame {
    /// Nobody looked.
    Unknown {
        /// Why not.
        why: String,
    },
    /// It differs under the same conditions too: the clock, randomness or the schedule of threads.
    Anyway,
    /// Each of these makes it differ.
    Conditions {
        /// They.
        conditions: Vec<Perturbation>,
    },
    /// No condition alone does.
    Together,
}

/// A machine and program.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Surroundings {
    /// Name of the machine.
    pub host: String,
    /// Model of its processor; empty where not known.
    pub processor: String,
    /// What the processor can do, of what matters to numbers.
    pub features: Vec<String>,
    /// Threads: of the recorded execution, or of the machine.
    pub threads: u32,
    /// Version of the program.
    pub natron: String,
    /// When, RFC 3339.
    pub time: String,
}

/// One stage of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageVerdict {
    /// Instance name.
    pub stage: String,
    /// Key, where there is a result.
    pub key: Option<StageKey>,
    /// How alike its outputs have to be.
    pub declared: Reproducible,
    /// How it came out.
    pub verdict: Verdict,
    /// A stronger class than declared that all repetitions had.
    pub could_be: Option<Class>,
    /// The repetitions.
    pub repetitions: Vec<Repetition>,
    /// How often its result had been confirmed before.
    pub confirmed_before: u64,
    /// Where its result was recorded.
    pub recorded: Option<Surroundings>,
    /// How long all of it took.
    pub seconds: f64,
}

/// A stage that was not verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Instance name.
    pub stage: String,
    /// Why.
    pub why: String,
}

/// A verification's result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// Name of the pipeline.
    pub pipeline: String,
    /// The stages, in the graph's order.
    pub stages: Vec<StageVerdict>,
    /// Those that were not verified, in the graph's order.
    pub left_out: Vec<LeftOut>,
    /// What was changed.
    pub perturb: BTreeSet<Perturbation>,
    /// Repetitions of each stage.
    pub runs: usize,
    /// Seed of the sample and of what was shuffled.
    pub seed: u64,
    /// This machine.
    pub here: Surroundings,
    /// Stages that it was about.
    pub planned: usize,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

impl StageVerdict {
    /// Whether the stage came out as alike as declared.
    pub fn is_confirmed(&self) -> bool {
        matches!(self.verdict, Verdict::Confirmed { .. })
    }
}

impl Verification {
    /// Whether it came to its end, and every stage gave what it has to give.
    pub fn succeeded(&self) -> bool {
        !self.interrupted && self.stages.iter().all(StageVerdict::is_confirmed)
    }

    /// The first stage that did not.
    pub fn first_failure(&self) -> Option<&StageVerdict> {
        self.stages.iter().find(|s| !s.is_confirmed())
    }
}

/// Executes stages again, one at a time, each from its recorded inputs, and compares what they give.
///
/// Of the store only the counts of confirmed results are changed. The environment of this process is the caller's business;
/// programs get theirs from here.
pub fn verify(
    graph: &Graph,
    workspace: &Workspace,
    options: &VerifyOptions,
    watcher: &Arc<dyn Watcher>,
    cancel: &Cancel,
) -> Result<Verification, RunError> {
    let begun = Instant::now();
    let selected: BTreeSet<usize> = if options.stages.is_empty() {
        (0..graph.instances.len()).collect()
    } else {
        select(graph, &options.stages)?
    };
    let run_options = RunOptions::default();
    let standings = standings(graph, workspace, &run_options)?;
    let store = Store::open(workspace.cache(), run_options.durability)?;
    let recorded: BTreeMap<&str, Recorded<'_>> = standings
        .iter()
        .filter(|s| s.forecast == Forecast::Hit)
        .filter_map(|s| {
            let key = s.key?;
            let execution = store.record(&key).map(|r| r.execution).unwrap_or_default();
            let outputs = &s.outputs;
            Some((
                s.name.as_str(),
                Recorded {
                    key,
                    outputs,
                    execution,
                },
            ))
        })
        .collect();
    let outputs: ByStage<'_> = recorded
        .iter()
        .map(|(name, r)| (*name, r.outputs))
        .collect();
    let confirmed = store.confirmed()?;
    let setups = setups(options);
    let (planned, mut left) = plan(graph, &selected, options, &setups, &recorded, &confirmed);
    watcher.event(&Event::Planned {
        stages: planned.len(),
        at_hand: 0,
    });
    let means = Means::find();
    let bench = Bench {
        graph,
        workspace,
        store: &store,
        outputs: &outputs,
        means: &means,
        seed: options.seed,
        watcher,
        cancel,
    };
    let mut log = ConfirmationLog::new(&store);
    let mut verification = Verification {
        pipeline: graph.name.clone(),
        stages: Vec::new(),
        left_out: Vec::new(),
        perturb: options.perturb.clone(),
        runs: setups.len(),
        seed: options.seed,
        here: here(),
        planned: planned.len(),
        interrupted: false,
    };
    for &index in &planned {
        let name = graph.instances[index].name.as_str();
        let spent = begun.elapsed();
        if verification.interrupted || cancel.is_set() {
            verification.interrupted = true;
            left.insert(index, "stopped before it".into());
            continue;
        }
        if matches!(options.choice, Choice::Budget(budget) if spent >= budget) {
            left.insert(index, "out of time".into());
            continue;
        }
        let recorded = recorded.get(name);
        let before = recorded.and_then(|r| confirmed.get(&r.key));
        let Some(mut verdict) = bench.verdict(index, recorded, &setups, options.blame)? else {
            verification.interrupted = true;
            left.insert(index, "stopped while it ran".into());
            continue;
        };
        verdict.confirmed_before = before.map_or(0, |c| c.times);
        confirm(&mut log, &verdict, &verification.here.host);
        let outcome = if verdict.is_confirmed() {
            Outcome::Unchanged
        } else {
            Outcome::Failed
        };
        watcher.event(&Event::Finished {
            stage: name,
            outcome,
            seconds: verdict.seconds,
        });
        verification.stages.push(verdict);
    }
    let left = left.into_iter().map(|(index, why)| LeftOut {
        stage: graph.instances[index].name.clone(),
        why,
    });
    verification.left_out = left.collect();
    Ok(verification)
}

/// Counts a stage that came out again. Counts that cannot be kept (in a store that is read-only) change nothing about the
/// result.
fn confirm(log: &mut ConfirmationLog<'_>, verdict: &StageVerdict, host: &str) {
    if let (Verdict::Confirmed { class }, Some(key)) = (&verdict.verdict, verdict.key) {
        let _ = log.add(&Confirmation {
            key,
            class: class.name().to_owned(),
            host: host.to_owned(),
            unix_ms: clock::unix_ms(),
            times: verdict.repetitions.len() as u64,
        });
    }
}

/// The stages to repeat, and why others are not.
fn plan(
    graph: &Graph,
    selected: &BTreeSet<usize>,
    options: &VerifyOptions,
    setups: &[Setup],
    recorded: &BTreeMap<&str, Recorded<'_>>,
    confirmed: &BTreeMap<StageKey, Confirmed>,
) -> (BTreeSet<usize>, BTreeMap<usize, String>) {
    let of = |index: usize| recorded.get(graph.instances[index].name.as_str());
    let candidates: Vec<sampling::Candidate> = selected
        .iter()
        .filter_map(|&index| {
            let recorded = of(index)?;
            Some(sampling::Candidate {
                index,
                name: graph.instances[index].name.clone(),
                seconds: recorded.execution.seconds * setups.len() as f64,
                confirmed_ms: confirmed.get(&recorded.key).map(|c| c.last_unix_ms),
            })
        })
        .collect();
    let (mut planned, left) = sampling::choose(&candidates, options.choice, options.seed);
    let mut left: BTreeMap<usize, String> = left.into_iter().collect();
    for &index in selected.iter().filter(|&&index| of(index).is_none()) {
        if options.choice == Choice::All {
            planned.insert(index);
        } else {
            left.insert(index, "no result to compare with".into());
        }
    }
    (planned, left)
}

/// What there is of a stage to compare with.
struct Recorded<'a> {
    key: StageKey,
    outputs: &'a BTreeMap<String, Manifest>,
    execution: Execution,
}

fn setups(options: &VerifyOptions) -> Vec<Setup> {
    let threads: Vec<Option<usize>> = match options.threads.as_slice() {
        [] => vec![None],
        given => given.iter().map(|&n| Some(n)).collect(),
    };
    let all = (0..options.runs.max(1)).flat_map(|_| threads.clone());
    all.enumerate()
        .map(|(n, threads)| Setup {
            n,
            perturb: options.perturb.clone(),
            threads,
        })
        .collect()
}

impl Bench<'_> {
    /// How the stage comes out of all repetitions; nothing if it was stopped.
    fn verdict(
        &self,
        index: usize,
        recorded: Option<&Recorded<'_>>,
        setups: &[Setup],
        blame: bool,
    ) -> Result<Option<StageVerdict>, RunError> {
        let instance = &self.graph.instances[index];
        let started = Instant::now();
        let mut verdict = StageVerdict {
            stage: instance.name.clone(),
            key: recorded.map(|r| r.key),
            declared: instance.reproducible.clone(),
            verdict: Verdict::NotCached,
            could_be: None,
            repetitions: Vec::new(),
            confirmed_before: 0,
            recorded: recorded.map(|r| surroundings_of(&r.execution)),
            seconds: 0.0,
        };
        let Some(recorded) = recorded else {
            return Ok(Some(verdict));
        };
        self.watcher.event(&Event::Started {
            stage: &instance.name,
            kind: &instance.kind,
        });
        let mut weakest = Class::Bytes;
        for setup in setups {
            let (outcome, repetition) = self.repeat(index, setup, &recorded.execution)?;
            verdict.repetitions.push(repetition);
            match outcome {
                repetition::Outcome::Alike(class) => {
                    weakest = weakest.max(class);
                    verdict.verdict = Verdict::Confirmed { class: weakest };
                    continue;
                }
                repetition::Outcome::Differs { output, divergence } => {
                    let blame = self.blame(index, setup, &recorded.execution, blame)?;
                    verdict.verdict = Verdict::Differs {
                        output,
                        divergence,
                        blame,
                    };
                }
                repetition::Outcome::Failed(message) => {
                    let blame = self.blame(index, setup, &recorded.execution, blame)?;
                    verdict.verdict = Verdict::Failed { message, blame };
                }
                repetition::Outcome::Interrupted => return Ok(None),
            }
            break;
        }
        verdict.could_be = match verdict.verdict {
            Verdict::Confirmed { class } if class < instance.reproducible.class() => Some(class),
            _ => None,
        };
        verdict.seconds = started.elapsed().as_secs_f64();
        Ok(Some(verdict))
    }

    /// Which of the conditions of `setup` makes the stage come out otherwise.
    fn blame(
        &self,
        index: usize,
        setup: &Setup,
        recorded: &Execution,
        is_asked_for: bool,
    ) -> Result<Blame, RunError> {
        let unknown = |why: String| Ok(Blame::Unknown { why });
        if !is_asked_for {
            return unknown("not asked for".to_owned());
        }
        let mut suspects = setup.perturb.clone();
        if setup.threads.is_some() {
            suspects.insert(Perturbation::Threads);
        }
        let tries = 1 + suspects.len();
        let expected = recorded.seconds * tries as f64;
        if expected > MOST_BLAME_SECONDS {
            return unknown(format!(
                "that takes {tries} more executions; `--perturb` with one condition at a time tells"
            ));
        }
        let with = |perturb: BTreeSet<Perturbation>| Setup {
            threads: setup
                .threads
                .filter(|_| perturb.contains(&Perturbation::Threads)),
            perturb,
            ..setup.clone()
        };
        match self.repeat(index, &with(BTreeSet::new()), recorded)?.0 {
            repetition::Outcome::Alike(_) => {}
            repetition::Outcome::Interrupted => return unknown("stopped".to_owned()),
            _ => return Ok(Blame::Anyway),
        }
        let mut conditions = Vec::new();
        for perturbation in suspects {
            match self
                .repeat(index, &with([perturbation].into()), recorded)?
                .0
            {
                repetition::Outcome::Alike(_) => {}
                repetition::Outcome::Interrupted => return unknown("stopped".to_owned()),
                _ => conditions.push(perturbation),
            }
        }
        Ok(if conditions.is_empty() {
            Blame::Together
        } else {
            Blame::Conditions { conditions }
        })
    }
}

fn surroundings_of(execution: &Execution) -> Surroundings {
    let time = jiff::Timestamp::from_millisecond(execution.started_unix_ms as i64);
    Surroundings {
        host: execution.host.clone(),
        threads: execution.threads,
        natron: execution.runner_version.clone(),
        time: time.map_or_else(|_| String::new(), |time| time.to_string()),
        ..Surroundings::default()
    }
}

/// This machine and program.
fn here() -> Surroundings {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let mut lines = information.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned())
    };
    let flags = value("flags").unwrap_or_default();
    let matter = ["sse4_2", "avx", "avx2", "fma", "avx512f"];
    let features = matter
        .iter()
        .filter(|name| flags.split(' ').any(|flag| flag == **name));
    Surroundings {
        host: crate::history::host(),
        processor: value("model name").unwrap_or_default(),
        features: features.map(|name| (*name).to_owned()).collect(),
        threads: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        natron: env!("CARGO_PKG_VERSION").to_owned(),
        time: jiff::Timestamp::now().to_string(),
    }
}

/// Compares what stands in the work tree with the lock's entries: every key that can be known without running anything,
/// with the lock's own digests for what is between stages.
pub fn verify_locked(
    graph: &Graph,
    workspace: &Workspace,
    entries: &BTreeMap<String, LockEntry>,
) -> Result<Vec<LockDifference>, RunError> {
    let locked = lock::locked_ingredients(graph, workspace, entries)?;
    let mut differences = Vec::new();
    for (instance, ingredients) in graph.instances.iter().zip(locked) {
        let difference = |what: &str, why: &str| LockDifference {
            stage: instance.name.clone(),
            what: what.to_owned(),
            why: why.to_owned(),
        };
        match (entries.get(&instance.name), ingredients) {
            (None, _) => differences.push(difference("entry", "the lock file has no such stage")),
            (Some(entry), Some(ingredients)) => {
                differences.extend(lock::key_difference(&instance.name, entry, &ingredients));
            }
            // What it reads has no entry; that is reported there.
            (Some(_), None) => {}
        }
    }
    let known: BTreeSet<&str> = graph.instances.iter().map(|i| i.name.as_str()).collect();
    for name in entries.keys().filter(|name| !known.contains(name.as_str())) {
        differences.push(LockDifference {
            stage: name.clone(),
            what: "entry".to_owned(),
            why: "the pipeline has no such stage".to_owned(),
        });
    }
    Ok(differences)
}
