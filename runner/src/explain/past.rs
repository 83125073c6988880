//! Earlier results of the stages of a pipeline, from the newest runs backwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use crate::{
    Outcome, Workspace,
    history::{RunRecord, StageRecord, run_ids},
};

/// So many runs of a pipeline are looked through for a stage's earlier result.
const MOST_RUNS: usize = 20;

/// A run, its stages by name.
#[derive(Debug)]
pub(crate) struct PastRun {
    pub(crate) id: String,
    pub(crate) stages: BTreeMap<String, StageRecord>,
}

/// What a stage gave, or how it failed, in a run.
#[derive(Debug, Clone)]
pub(crate) struct PastStage {
    pub(crate) run: Arc<PastRun>,
    pub(crate) name: String,
}

impl PastStage {
    pub(crate) fn record(&self) -> &StageRecord {
        &self.run.stages[&self.name]
    }
}

/// Which runs count as past.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// All, or those before a run.
    Before(Option<&'a str>),
    /// One run.
    Only(&'a str),
}

/// The newest results of stages.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The newest finished result of each stage.
    results: BTreeMap<String, PastStage>,
    /// Failures newer than the newest result.
    failures: BTreeMap<String, PastStage>,
}

impl Past {
    /// What `names` gave in runs of `pipeline`. Runs are read from the newest on until every name has a result.
    pub(crate) fn load(
        workspace: &Workspace,
        pipeline: &str,
        names: &BTreeSet<&str>,
        which: Which<'_>,
    ) -> io::Result<Self> {
        let mut past = Self::default();
        let ids = match which {
            Which::Only(id) => vec![id.to_owned()],
            Which::Before(end) => {
                let ids = run_ids(workspace)?;
                let is_before = |id: &String| end.is_none_or(|end| id.as_str() < end);
                ids.into_iter().filter(is_before).collect()
            }
        };
        let mut missing = names.clone();
        let mut n_runs = 0;
        for id in ids.iter().rev() {
            if missing.is_empty() || n_runs == MOST_RUNS {
                break;
            }
            let Ok(run) = RunRecord::read(workspace, id) else {
                continue;
            };
            if run.pipeline != pipeline && !matches!(which, Which::Only(_)) {
                continue;
            }
            n_runs += 1;
            past.take(run, &mut missing);
        }
        Ok(past)
    }

    /// What one run gave.
    pub(crate) fn of(run: RunRecord) -> Self {
        let mut past = Self::default();
        past.take(run, &mut BTreeSet::new());
        past
    }

    fn take(&mut self, run: RunRecord, missing: &mut BTreeSet<&str>) {
        let stages = run.stages.into_iter();
        let run = Arc::new(PastRun {
            id: run.id,
            stages: stages.map(|stage| (stage.name.clone(), stage)).collect(),
        });
        for (name, stage) in &run.stages {
            if self.results.contains_key(name) {
                continue;
            }
            let found = PastStage {
                run: Arc::clone(&run),
                name: name.clone(),
            };
            if stage.outcome.is_done() {
                missing.remove(name.as_str());
                self.results.insert(name.clone(), found);
            } else if stage.outcome == Outcome::Failed {
                self.failures.entry(name.clone()).or_insert(found);
            }
        }
    }

    /// The newest finished result of `name`.
    pub(crate) fn result(&self, name: &str) -> Option<&PastStage> {
        self.results.get(name)
    }

    /// The newest failure of `name`, if it is newer than its newest result.
    pub(crate) fn failure(&self, name: &str) -> Option<&PastStage> {
        self.failures.get(name)
    }

    /// The newest results, by stage instance.
    pub(crate) fn results(&self) -> impl Iterator<Item = (&String, &PastStage)> {
        self.results.iter()
    }
}
