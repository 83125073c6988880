//! Two runs compared: parameters, what stages were made of, artifacts, metrics, durations.

use std::collections::{BTreeMap, BTreeSet};

use natron_cache::{Ingredients, Record, StageKey, Store, diff};
use serde::Serialize;
use serde_json::Value;

use crate::{
    ArtifactChange, Outcome, Presence, RunError, Workspace,
    history::{RunRecord, StageRecord},
};

use super::{Change, Changed, Engine, ExplainOptions, past::Past, stage};

/// Of more stages than this that differ, tables and texts are not opened.
const MOST_DETAILED: usize = 24;

/// How two runs differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunDiff {
    /// The earlier run.
    pub before: RunHead,
    /// The later run.
    pub after: RunHead,
    /// Parameters of the pipeline that differ.
    pub parameters: Vec<Change>,
    /// Stages that differ, in the order of the later run; those that only the earlier one has come last.
    pub stages: Vec<StageDiff>,
    /// Stages that are the same in both: made of the same, with the same results.
    pub same: Vec<String>,
}

/// What a run is, without its stages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunHead {
    /// Its name.
    pub id: String,
    /// Its pipeline.
    pub pipeline: String,
    /// Its profile.
    pub profile: Option<String>,
    /// Its overrides.
    pub set: Vec<String>,
    /// When it started, RFC 3339, UTC.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// The machine.
    pub host: String,
    /// The program's version.
    pub natron: String,
}

/// How a stage differs between two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDiff {
    /// Instance name.
    pub stage: String,
    /// On which side it is.
    pub presence: Presence,
    /// How it ended before and after.
    pub outcomes: (Option<Outcome>, Option<Outcome>),
    /// How long it took before and after, in seconds.
    pub seconds: (Option<f64>, Option<f64>),
    /// What it was made of.
    pub changes: Vec<Change>,
    /// The outputs that differ, by port.
    pub outputs: BTreeMap<String, OutputDiff>,
    /// The metrics that differ.
    pub metrics: Vec<MetricDiff>,
    /// The keys are equal although outputs differ.
    pub irreproducible: bool,
    /// The keys differ, but the store no longer knows what one of them was made of.
    pub forgotten: bool,
}

/// How an output differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputDiff {
    /// On which side it is.
    pub presence: Presence,
    /// How it differs, when it is on both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<ArtifactChange>,
}

/// A metric that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricDiff {
    /// Its output and path.
    pub name: String,
    /// The value before.
    pub before: Option<f64>,
    /// The value after.
    pub after: Option<f64>,
    /// After less before.
    pub absolute: Option<f64>,
    /// The same in relation to the value before; nothing when that is 0.
    pub relative: Option<f64>,
}

/// How `after` differs from `before`. Only the stages that `is_asked` names are compared.
pub fn run_diff(
    workspace: &Workspace,
    before: &RunRecord,
    after: &RunRecord,
    is_asked: &dyn Fn(&str) -> bool,
) -> Result<RunDiff, RunError> {
    let store = Store::open_to_read(workspace.cache())?;
    let stages = stage::of_run(after, &store);
    drop(store);
    let past = Past::of(before.clone());
    let options = ExplainOptions::default();
    let engine = Engine::open(workspace, None, stages, past, &options)?;
    let old: BTreeMap<&str, &StageRecord> = by_name(before);
    let new: BTreeMap<&str, &StageRecord> = by_name(after);
    let only_old = before.stages.iter();
    let only_old = only_old.filter(|stage| !new.contains_key(stage.name.as_str()));
    let names: Vec<&str> = after
        .stages
        .iter()
        .chain(only_old)
        .map(|stage| stage.name.as_str())
        .filter(|name| is_asked(name))
        .collect();
    let is_same = |name: &&str| {
        let (old, new) = (old.get(*name), new.get(*name));
        old.zip(new).is_some_and(|(old, new)| {
            old.key.is_some() && old.key == new.key && has_outputs_of(old, new)
        })
    };
    let (same, differing): (Vec<&str>, Vec<&str>) = names.into_iter().partition(is_same);
    let is_detailed = differing.len() <= MOST_DETAILED;
    let stages = differing
        .into_iter()
        .map(|name| {
            let sides = (old.get(name).copied(), new.get(name).copied());
            stage_diff(&engine, name, sides, is_detailed)
        })
        .collect();
    Ok(RunDiff {
        before: head(before),
        after: head(after),
        parameters: parameters(&before.params, &after.params),
        stages,
        same: same.into_iter().map(str::to_owned).collect(),
    })
}

fn by_name(run: &RunRecord) -> BTreeMap<&str, &StageRecord> {
    let stages = run.stages.iter();
    stages.map(|stage| (stage.name.as_str(), stage)).collect()
}

fn has_outputs_of(old: &StageRecord, new: &StageRecord) -> bool {
    old.outputs.len() == new.outputs.len()
        && old.outputs.iter().all(|(port, manifest)| {
            let other = new.outputs.get(port);
            other.is_some_and(|other| other.logical == manifest.logical)
        })
}

fn head(run: &RunRecord) -> RunHead {
    RunHead {
        id: run.id.clone(),
        pipeline: run.pipeline.clone(),
        profile: run.profile.clone(),
        set: run.sets.clone(),
        started: run.started.clone(),
        seconds: run.seconds,
        host: run.host.clone(),
        natron: run.natron.clone(),
    }
}

/// What differs between the parameters of two pipelines.
fn parameters(before: &Value, after: &Value) -> Vec<Change> {
    let of = |params: &Value| {
        let mut ingredients = Ingredients::new("", "");
        ingredients.parameters = params.clone().into();
        ingredients
    };
    let differences = diff(&of(before), &of(after)).into_iter();
    differences
        .map(|difference| Change {
            path: difference.path,
            what: Changed::Value {
                before: difference.before,
                after: difference.after,
                diff: None,
            },
        })
        .collect()
}

fn stage_diff(
    engine: &Engine<'_>,
    name: &str,
    (old, new): (Option<&StageRecord>, Option<&StageRecord>),
    is_detailed: bool,
) -> StageDiff {
    let record = |stage: Option<&StageRecord>| engine.store.record(&StageKey::new(stage?.key?));
    let (old_record, new_record) = (record(old), record(new));
    let changes = match (engine.position(name), engine.past.result(name)) {
        (Some(index), Some(past)) => engine.changes(index, past, is_detailed),
        _ => Vec::new(),
    };
    let is_same_key = old
        .zip(new)
        .is_some_and(|(old, new)| old.key.is_some() && old.key == new.key);
    let has_both =
        |old: &StageRecord, new: &StageRecord| !old.outputs.is_empty() && !new.outputs.is_empty();
    let outputs = outputs(engine, old, new, is_detailed);
    StageDiff {
        stage: name.to_owned(),
        presence: match (old, new) {
            (None, _) => Presence::Added,
            (_, None) => Presence::Removed,
            _ => Presence::Changed,
        },
        outcomes: (old.map(|s| s.outcome), new.map(|s| s.outcome)),
        seconds: (old.map(|s| s.seconds), new.map(|s| s.seconds)),
        irreproducible: is_same_key
            && !outputs.is_empty()
            && old.zip(new).is_some_and(|(old, new)| has_both(old, new)),
        forgotten: !is_same_key
            && old.is_some_and(|s| s.key.is_some())
            && new.is_some_and(|s| s.key.is_some())
            && (old_record.is_none() || new_record.is_none()),
        changes,
        outputs,
        metrics: metrics(old_record.as_ref(), new_record.as_ref()),
    }
}

fn outputs(
    engine: &Engine<'_>,
    old: Option<&StageRecord>,
    new: Option<&StageRecord>,
    is_detailed: bool,
) -> BTreeMap<String, OutputDiff> {
    let (Some(old), Some(new)) = (old, new) else {
        return BTreeMap::new();
    };
    let ports: BTreeSet<&String> = old.outputs.keys().chain(new.outputs.keys()).collect();
    let store = is_detailed.then_some(&engine.store);
    ports
        .into_iter()
        .filter_map(|port| {
            let (presence, change) = match (old.outputs.get(port), new.outputs.get(port)) {
                (Some(a), Some(b)) if a.logical == b.logical => return None,
                (Some(a), Some(b)) => (Presence::Changed, Some(ArtifactChange::new(a, b, store))),
                (None, _) => (Presence::Added, None),
                (_, None) => (Presence::Removed, None),
            };
            Some((port.clone(), OutputDiff { presence, change }))
        })
        .collect()
}

fn metrics(before: Option<&Record>, after: Option<&Record>) -> Vec<MetricDiff> {
    let metrics = |record: Option<&Record>| {
        record
            .map(|record| record.execution.metrics.clone())
            .unwrap_or_default()
    };
    let (before, after) = (metrics(before), metrics(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (old, new) = (before.get(name).copied(), after.get(name).copied());
            if old.map(f64::to_bits) == new.map(f64::to_bits) {
                return None;
            }
            let both = old.zip(new);
            Some(MetricDiff {
                name: name.clone(),
                before: old,
                after: new,
                absolute: both.map(|(old, new)| new - old),
                relative: both
                    .filter(|(old, _)| *old != 0.0)
                    .map(|(old, new)| (new - old) / old.abs()),
            })
        })
        .collect()
}
