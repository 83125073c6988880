//! Why a stage does not run: what its key was compared with, and what changed above it without reaching it.

use std::collections::{BTreeMap, BTreeSet};

use natron_cache::{InputIngredient, Record};
use serde::Serialize;

use crate::history::{RunRecord, run_ids};

use super::{Change, Engine, PastStage, cause::roots_since, past::PastRun};

/// So many runs before the moment in which a result was made are asked whether they made it.
const MOST_RUNS: usize = 8;

/// Why a stage's result holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WhyCached {
    /// The run that made the result, where this workspace knows.
    pub run: Option<String>,
    /// The instance that made it there, where that has another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// When it was made, in milliseconds since 1970-01-01 in UTC.
    pub started_unix_ms: u64,
    /// Where it was made.
    pub host: String,
    /// Version of the program that made it.
    pub program: String,
    /// How long that took.
    pub seconds: f64,
    /// What the key is made of, counted: `3 parameters`.
    pub looked_at: Vec<String>,
    /// Stages above it that have another key than when the result was made, and gave what it reads all the same.
    pub cutoffs: Vec<Cutoff>,
    /// Columns of its input tables that it does not read, by port: how many, of how many.
    pub unread_columns: BTreeMap<String, (usize, usize)>,
}

/// A stage whose change did not reach what reads from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cutoff {
    /// The stage.
    pub stage: String,
    /// The stage that reads from it and holds.
    pub reader: String,
    /// The run in which it gave what it gives now, where this workspace knows.
    pub run: Option<String>,
    /// What changed in it, or above it: root causes.
    pub changes: Vec<Change>,
    /// Whether all its outputs are as before; if not, what differs is not read.
    pub is_same_content: bool,
}

impl Engine<'_> {
    /// Why the result of the stage at `index` holds.
    pub(super) fn why_cached(&self, index: usize) -> Option<WhyCached> {
        let stage = &self.stages[index];
        let record = self.store.record(&stage.key?)?;
        let made = self.made_in(&record);
        let cutoffs = match &made {
            Some((run, _)) => self.cutoffs(index, run),
            None => Vec::new(),
        };
        let name = made.as_ref().map(|(_, name)| name.clone());
        Some(WhyCached {
            run: made.as_ref().map(|(run, _)| run.id.clone()),
            stage: name.filter(|name| *name != stage.name),
            started_unix_ms: record.execution.started_unix_ms,
            host: record.execution.host.clone(),
            program: record.execution.runner_version.clone(),
            seconds: record.execution.seconds,
            looked_at: looked_at(&record),
            cutoffs,
            unread_columns: self.unread_columns(index),
        })
    }

    /// The run that executed what the record is of, and the instance's name there.
    fn made_in(&self, record: &Record) -> Option<(PastRun, String)> {
        let at = i64::try_from(record.execution.started_unix_ms).ok()?;
        // A run's name begins with its start.
        let end = jiff::Timestamp::from_millisecond(at + 1).ok()?;
        let end = end.strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
        let ids = run_ids(self.workspace).ok()?;
        let before = ids.iter().rev().filter(|id| id.as_str() < end.as_str());
        before.take(MOST_RUNS).find_map(|id| {
            let run = RunRecord::read(self.workspace, id).ok()?;
            let is_maker = |stage: &&crate::history::StageRecord| {
                stage.key == Some(record.key.digest())
                    && stage.outcome.is_done()
                    && stage.outcome != crate::Outcome::Hit
            };
            let name = run.stages.iter().find(is_maker)?.name.clone();
            let stages = run.stages.into_iter();
            let run = PastRun {
                id: run.id,
                stages: stages.map(|stage| (stage.name.clone(), stage)).collect(),
            };
            Some((run, name))
        })
    }

    /// The stages above that have another key now than in `run`, each nearest to what holds.
    fn cutoffs(&self, index: usize, run: &PastRun) -> Vec<Cutoff> {
        let mut cutoffs = Vec::new();
        let mut seen = BTreeSet::from([index]);
        let mut open = vec![index];
        let run = std::sync::Arc::new(PastRun {
            id: run.id.clone(),
            stages: run.stages.clone(),
        });
        while let Some(reader) = open.pop() {
            let producers: BTreeSet<usize> = self.stages[reader].producers().collect();
            for producer in producers {
                if !seen.insert(producer) {
                    continue;
                }
                let stage = &self.stages[producer];
                let Some(then) = run.stages.get(&stage.name) else {
                    continue;
                };
                let now = stage.key.map(|key| key.digest());
                if then.key == now || now.is_none() {
                    open.push(producer);
                    continue;
                }
                let past = PastStage {
                    run: std::sync::Arc::clone(&run),
                    name: stage.name.clone(),
                };
                let record = stage.key.and_then(|key| self.store.record(&key));
                let again = record.and_then(|record| self.made_in(&record));
                let is_same = |(output, manifest): (&String, &natron_artifacts::Manifest)| {
                    let before = then.outputs.get(output);
                    before.is_some_and(|before| before.logical == manifest.logical)
                };
                cutoffs.push(Cutoff {
                    stage: stage.name.clone(),
                    reader: self.stages[reader].name.clone(),
                    run: again.map(|(run, _)| run.id),
                    changes: roots_since(self, producer, &past),
                    is_same_content: stage.outputs.iter().all(is_same),
                });
            }
        }
        cutoffs
    }

    fn unread_columns(&self, index: usize) -> BTreeMap<String, (usize, usize)> {
        let stage = &self.stages[index];
        let inputs = stage.ingredients.iter().flat_map(|i| &i.inputs);
        inputs
            .filter_map(|(port, list)| {
                let Some(InputIngredient::Columns { columns, .. }) = list.first() else {
                    return None;
                };
                let all = self.origin(index, None, port, 0).after?.columns.len();
                let read = columns.len();
                (all > read).then(|| (port.clone(), (all - read, all)))
            })
            .collect()
    }
}

/// What the key is made of, counted.
fn looked_at(record: &Record) -> Vec<String> {
    let ingredients = &record.ingredients;
    let count = |n: usize, noun: &str| {
        let s = if n == 1 { "" } else { "s" };
        (n > 0).then(|| format!("{n} {noun}{s}"))
    };
    let leaves = ingredients
        .parameters
        .as_object()
        .map_or(0, serde_json::Map::len);
    let inputs: usize = ingredients.inputs.values().map(Vec::len).sum();
    let mut list = vec!["the code of its kind".to_owned()];
    list.extend(count(leaves, "parameter"));
    list.push("its seed".to_owned());
    list.extend(count(inputs, "input"));
    list.extend(count(ingredients.sources.len(), "source file"));
    list.extend(count(ingredients.environment.len(), "environment variable"));
    list.extend(ingredients.salt.as_ref().map(|_| "its salt".to_owned()));
    list.extend(
        ingredients
            .lineage
            .as_ref()
            .map(|_| "the graph above it".to_owned()),
    );
    list
}
