//! Why stages run, and why they do not: root causes, each once.
//!
//! Each stage is compared with its newest earlier result in the workspace, ingredient by ingredient. An input that another
//! stage made and that differs leads to that stage and its own comparison, until only causes remain that no stage makes:
//! a file, a parameter, code, the environment.

mod cached;
mod cause;
mod change;
mod nearest;
mod past;
mod run_diff;
mod stage;

use std::collections::{BTreeMap, BTreeSet};

use natron_cache::{Ingredients, Record, StageKey, StatCache, Store};
use serde::Serialize;

use crate::{
    Forecast, Graph, Outcome, RunError, RunOptions, Workspace,
    history::RunRecord,
    source_text::{SourceFact, SourceFacts, fact_of},
};

pub use cached::{Cutoff, WhyCached};
pub use cause::{Cause, RootCause};
pub use change::{Change, Changed, FileChange};
pub use nearest::Nearest;
pub use run_diff::{MetricDiff, OutputDiff, RunDiff, RunHead, StageDiff, run_diff};

use cause::root_causes;
use change::{Comparison, Origin};
use past::{Past, PastStage, Which};
use stage::{Explained, Source};

/// Of an overview, so many new stages are compared with the earlier result that is nearest to them.
const MOST_NEAREST: usize = 32;

/// What to explain, and how.
#[derive(Debug, Clone, Default)]
pub struct ExplainOptions {
    /// The run that would be made.
    pub run: RunOptions,
    /// The run to compare with instead of the newest result of each stage.
    pub against: Option<String>,
    /// Names of instances to explain in detail: tables and texts are opened to say how far they differ.
    pub in_detail: BTreeSet<String>,
}

/// The explanation of a whole graph, or of a whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Every selected stage, in the graph's order.
    pub stages: Vec<StageExplanation>,
    /// What makes stages run: those first that make most of them run.
    pub causes: Vec<RootCause>,
}

/// Why one stage would run or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageExplanation {
    /// Instance name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// What a run would do; of a run that is over, what it did.
    pub forecast: Forecast,
    /// How it ended, in a run that is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The key, where it is known.
    pub key: Option<String>,
    /// All that the key is made of, where it is known.
    pub ingredients: Option<Ingredients>,
    /// Why.
    pub reason: Reason,
    /// The earlier result that it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<Partner>,
    /// What differs from that result.
    pub changes: Vec<Change>,
    /// Positions in [`Explanation::causes`] of what makes it run; at most 16.
    pub causes: Vec<usize>,
    /// Paths that show its outputs and do not hold them: edited or taken away. A run restores them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub edited_views: Vec<String>,
    /// Why its result holds, in detail, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_cached: Option<WhyCached>,
    /// Seconds that it took when it last ran, where known.
    pub expected_seconds: Option<f64>,
}

/// An earlier result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Partner {
    /// The run that it is of.
    pub run: String,
    /// Its key.
    pub key: Option<String>,
}

/// Why a stage would run or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum Reason {
    /// The newest result in this workspace has the same key.
    Cached,
    /// An older result, or one of another pipeline or workspace, has the same key.
    CachedBefore,
    /// The result holds, and somebody has edited or taken away a path that shows it.
    OutputEdited,
    /// There is no result of this stage here to compare with.
    New {
        /// The earlier result of the same kind that is nearest, if there is one.
        nearest: Option<Nearest>,
    },
    /// The key is not what it was.
    KeyChanged,
    /// The record is not in the store any more.
    RecordEvicted,
    /// The record is there, and content that it names is not.
    ContentLost {
        /// The outputs.
        outputs: Vec<String>,
        /// Whether content was found damaged and put aside.
        damaged: bool,
    },
    /// Somebody asked for it.
    Forced,
    /// It ran although the newest result had the same key: somebody asked for it, or that result was gone.
    Repeated,
    /// Its newest attempt failed.
    PreviousAttemptFailed {
        /// The run of that attempt.
        run: String,
        /// How it failed.
        error: String,
    },
    /// It failed, in a run that is over.
    Failed {
        /// How.
        error: String,
    },
    /// It depends on what these stages give.
    Upstream {
        /// Instance names.
        stages: Vec<String>,
    },
}

impl Explanation {
    /// The same with only these stages, and the causes that make them run.
    #[must_use]
    pub fn only(self, names: &BTreeSet<&str>) -> Self {
        let mut stages = self.stages;
        stages.retain(|stage| names.contains(stage.name.as_str()));
        let wanted: BTreeSet<usize> = stages
            .iter()
            .flat_map(|stage| stage.causes.iter().copied())
            .collect();
        let positions: BTreeMap<usize, usize> = wanted
            .iter()
            .enumerate()
            .map(|(new, &old)| (old, new))
            .collect();
        for cause in stages.iter_mut().flat_map(|stage| &mut stage.causes) {
            *cause = positions[cause];
        }
        let causes = self.causes.into_iter().enumerate();
        Self {
            stages,
            causes: causes
                .filter(|(position, _)| wanted.contains(position))
                .map(|(_, cause)| cause)
                .collect(),
        }
    }
}

/// Explains what a run would do.
pub fn explain(
    graph: &Graph,
    workspace: &Workspace,
    options: &ExplainOptions,
) -> Result<Explanation, RunError> {
    let stages = stage::of_graph(graph, workspace, &options.run)?;
    let names: BTreeSet<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let which = options
        .against
        .as_deref()
        .map_or(Which::Before(None), Which::Only);
    let past = Past::load(workspace, &graph.name, &names, which)?;
    let engine = Engine::open(workspace, Some(graph), stages, past, options)?;
    Ok(engine.explanation(&options.in_detail))
}

/// Explains what happened in `run`: against the results before it, or against the run `options.against`.
pub fn explain_run(
    run: &RunRecord,
    workspace: &Workspace,
    options: &ExplainOptions,
) -> Result<Explanation, RunError> {
    let store = Store::open_to_read(workspace.cache())?;
    let mut stages = stage::of_run(run, &store);
    let names: BTreeSet<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let which = options
        .against
        .as_deref()
        .map_or(Which::Before(Some(&run.id)), Which::Only);
    let past = Past::load(workspace, &run.pipeline, &names, which)?;
    stage::edges_as_before(&mut stages, &past, &store);
    drop(store);
    let engine = Engine::open(workspace, None, stages, past, options)?;
    Ok(engine.explanation(&options.in_detail))
}

/// All that explanations are made from.
struct Engine<'a> {
    workspace: &'a Workspace,
    /// The graph, unless a run is explained that is over.
    graph: Option<&'a Graph>,
    stages: Vec<Explained>,
    positions: BTreeMap<String, usize>,
    past: Past,
    store: Store,
    stat_cache: StatCache,
}

impl<'a> Engine<'a> {
    fn open(
        workspace: &'a Workspace,
        graph: Option<&'a Graph>,
        stages: Vec<Explained>,
        past: Past,
        options: &ExplainOptions,
    ) -> Result<Self, RunError> {
        let store = Store::open_to_read(workspace.cache())?;
        let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), options.run.paranoid);
        let positions = stages.iter().enumerate();
        Ok(Self {
            workspace,
            graph,
            positions: positions
                .map(|(i, stage)| (stage.name.clone(), i))
                .collect(),
            stages,
            past,
            store,
            stat_cache,
        })
    }

    fn explanation(&self, in_detail: &BTreeSet<String>) -> Explanation {
        let causes = root_causes(self);
        let n_new = self
            .stages
            .iter()
            .filter(|stage| self.is_new(stage))
            .count();
        let stages = self.stages.iter().enumerate().map(|(index, stage)| {
            let is_detailed = in_detail.contains(&stage.name);
            let with_nearest = is_detailed || n_new <= MOST_NEAREST;
            let (reason, nearest_changes) = self.reason(index, with_nearest, is_detailed);
            let is_cached = matches!(reason, Reason::Cached | Reason::OutputEdited);
            let partner = self.past.result(&stage.name);
            let changes = match partner {
                _ if !nearest_changes.is_empty() => nearest_changes,
                Some(partner) if !is_cached => self.changes(index, partner, is_detailed),
                _ => Vec::new(),
            };
            StageExplanation {
                name: stage.name.clone(),
                kind: stage.kind.clone(),
                forecast: stage.forecast,
                outcome: stage.outcome,
                key: stage.key.map(|key| key.to_string()),
                ingredients: stage.ingredients.clone().filter(|_| !stage.is_partial),
                compared_with: partner.map(|past| Partner {
                    run: past.run.id.clone(),
                    key: past.record().key.map(|key| key.to_string()),
                }),
                changes,
                causes: causes.of_stage.get(index).cloned().unwrap_or_default(),
                edited_views: stage.edited_views.clone(),
                why_cached: (is_detailed && stage.forecast == Forecast::Hit)
                    .then(|| self.why_cached(index))
                    .flatten(),
                reason,
                expected_seconds: stage.seconds,
            }
        });
        Explanation {
            stages: stages.collect(),
            causes: causes.causes,
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    fn is_new(&self, stage: &Explained) -> bool {
        stage.forecast == Forecast::Run && self.past.result(&stage.name).is_none()
    }

    /// Why the stage at `index` runs or not; for a new one also what differs from the nearest earlier result.
    fn reason(&self, index: usize, with_nearest: bool, is_detailed: bool) -> (Reason, Vec<Change>) {
        let stage = &self.stages[index];
        let past = self.past.result(&stage.name);
        let is_same_key = past.is_some_and(|past| {
            stage
                .key
                .is_some_and(|key| past.record().key == Some(key.digest()))
        });
        let reason = match stage.forecast {
            Forecast::Hit if !stage.edited_views.is_empty() => Reason::OutputEdited,
            Forecast::Hit if is_same_key || past.is_none() => Reason::Cached,
            Forecast::Hit => Reason::CachedBefore,
            Forecast::Maybe => Reason::Upstream {
                stages: self.open_producers(index),
            },
            Forecast::Run if stage.is_forced => Reason::Forced,
            Forecast::Run if stage.outcome == Some(Outcome::Failed) => Reason::Failed {
                error: stage.error.clone().unwrap_or_default(),
            },
            Forecast::Run => {
                if let Some(failure) = self.past.failure(&stage.name)
                    && stage.outcome.is_none()
                {
                    let error = failure.record().error.clone().unwrap_or_default();
                    let run = failure.run.id.clone();
                    return (Reason::PreviousAttemptFailed { run, error }, Vec::new());
                }
                if let Some(lost) = self.lost(stage) {
                    return (lost, Vec::new());
                }
                match past {
                    Some(_) if is_same_key && stage.outcome.is_some() => Reason::Repeated,
                    Some(_) if is_same_key => Reason::RecordEvicted,
                    Some(past) if self.record(past).is_some() => Reason::KeyChanged,
                    Some(_) => Reason::RecordEvicted,
                    None if with_nearest => {
                        let (nearest, changes) = self.nearest(index, is_detailed);
                        return (Reason::New { nearest }, changes);
                    }
                    None => Reason::New { nearest: None },
                }
            }
        };
        (reason, Vec::new())
    }

    /// The content that is gone, where the record of the stage's key is there and could not be used.
    fn lost(&self, stage: &Explained) -> Option<Reason> {
        let record = self.store.record(&stage.key?)?;
        if stage.outcome.is_some() {
            return None;
        }
        let outputs: Vec<String> = record
            .outputs
            .iter()
            .filter(|(_, manifest)| !self.store.has(manifest))
            .map(|(port, _)| port.clone())
            .collect();
        let quarantine = self.store.root().join("quarantine");
        let aside: Vec<String> = std::fs::read_dir(quarantine)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let lost = record.objects().map(|(digest, _)| digest.to_string());
        let damaged = lost
            .filter(|digest| aside.iter().any(|name| name.starts_with(digest.as_str())))
            .count();
        (!outputs.is_empty()).then_some(Reason::ContentLost {
            outputs,
            damaged: damaged > 0,
        })
    }

    fn open_producers(&self, index: usize) -> Vec<String> {
        let producers: BTreeSet<usize> = self.stages[index].producers().collect();
        let open = producers.into_iter().filter(|&p| self.is_open(p));
        open.map(|p| self.stages[p].name.clone()).collect()
    }

    /// Whether the stage runs or may run.
    fn is_open(&self, index: usize) -> bool {
        self.stages[index].forecast != Forecast::Hit
    }

    fn record(&self, past: &PastStage) -> Option<Record> {
        self.store.record(&StageKey::new(past.record().key?))
    }

    /// What differs between an earlier result and what is known of the stage at `index`.
    fn changes(&self, index: usize, past: &PastStage, is_detailed: bool) -> Vec<Change> {
        let Some(record) = self.record(past) else {
            return Vec::new();
        };
        self.changes_from(index, &record, Some(past), is_detailed)
    }

    fn changes_from(
        &self,
        index: usize,
        record: &Record,
        past: Option<&PastStage>,
        is_detailed: bool,
    ) -> Vec<Change> {
        let stage = &self.stages[index];
        let Some(now) = &stage.ingredients else {
            return Vec::new();
        };
        let facts_before = self.facts(record);
        let own_record = match self.graph {
            Some(_) => None,
            None => stage.key.and_then(|key| self.store.record(&key)),
        };
        let facts_of_run = own_record.as_ref().map(|record| self.facts(record));
        let facts_after = |name: &str| match &facts_of_run {
            Some(facts) => facts.get(name).cloned(),
            None => self.fact_now(index, name),
        };
        let program_after = match &own_record {
            Some(record) => Some(record.execution.runner_version.clone()),
            None if self.graph.is_some() => Some(env!("CARGO_PKG_VERSION").to_owned()),
            None => None,
        };
        let known = |version: String| Some(version).filter(|version| !version.is_empty());
        let comparison = Comparison {
            store: &self.store,
            is_detailed,
            workspace: self.workspace.root(),
            facts_before: &facts_before,
            facts_after: &facts_after,
            programs: (
                known(record.execution.runner_version.clone()),
                program_after.and_then(known),
            ),
            origin: &|port, position| self.origin(index, past, port, position),
            is_partial: stage.is_partial,
        };
        comparison.changes(&record.ingredients, now)
    }

    /// The facts about the sources that the record keeps.
    fn facts(&self, record: &Record) -> SourceFacts {
        SourceFacts::find(&self.store, &record.execution.sources)
    }

    /// What the workspace holds now under the name that the facts use.
    fn fact_now(&self, index: usize, name: &str) -> Option<SourceFact> {
        let stage = &self.stages[index];
        let (path, digest) = stage.files.get(name)?;
        fact_of(self.workspace.root(), path, *digest, &self.stat_cache)
    }

    fn origin(
        &self,
        index: usize,
        past: Option<&PastStage>,
        port: &str,
        position: usize,
    ) -> Origin {
        let source = self.stages[index]
            .inputs
            .get(port)
            .and_then(|sources| sources.get(position));
        let Some(Source::Output { stage, output }) = source else {
            return Origin::default();
        };
        let producer = &self.stages[*stage];
        let then = past.and_then(|past| past.run.stages.get(&producer.name));
        Origin {
            output: Some((producer.name.clone(), output.clone())),
            before: then.and_then(|then| then.outputs.get(output).cloned()),
            after: producer.outputs.get(output).cloned(),
        }
    }
}
