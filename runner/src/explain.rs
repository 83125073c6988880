//! Why stages run, and why they do not: root causes, each once.

use std::collections::{BTreeMap, BTreeSet};

use natron_cache::{Difference, Ingredients, Store, diff};
use serde::Serialize;

use crate::{
    Forecast, Graph, InputEdge, RunError, RunOptions, Standing, Workspace, history::RunRecord,
    standings,
};

/// Why one stage would run or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageExplanation {
    /// Instance name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// What a run would do.
    pub forecast: Forecast,
    /// The key, where it is known.
    pub key: Option<String>,
    /// All that the key is made of, where it is known.
    pub ingredients: Option<Ingredients>,
    /// Why.
    pub reason: Reason,
    /// Seconds that it took when it last ran, where known.
    pub expected_seconds: Option<f64>,
}

/// Why a stage would run or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum Reason {
    /// The newest result in this workspace has the same key.
    Cached,
    /// An older result, or one of another pipeline or workspace, has the same key. The key differs from the newest result
    /// here in these ingredients.
    CachedBefore {
        /// From the newest result to now.
        differences: Vec<Difference>,
    },
    /// There is no result of this stage here to compare with.
    New,
    /// The key is not what it was.
    KeyChanged {
        /// From the newest result to now.
        differences: Vec<Difference>,
    },
    /// The record, or an object that it names, is not in the store any more.
    Evicted,
    /// Somebody asked for it.
    Forced,
    /// It depends on what these stages give.
    Upstream {
        /// Instance names.
        stages: Vec<String>,
    },
}

/// Something that makes stages run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RootCause {
    /// Where it lies: an instance name.
    pub stage: String,
    /// What it is.
    pub cause: Cause,
    /// How many stages run, or may run, because of it.
    pub stages: usize,
}

/// What a root cause is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum Cause {
    /// An ingredient that no other stage makes.
    Changed {
        /// What it was and is.
        difference: Difference,
    },
    /// The stage has no result here.
    New,
    /// Its result is gone from the store.
    Evicted,
    /// Somebody asked for it.
    Forced,
}

/// The explanation of a whole graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Every selected stage, in the graph's order.
    pub stages: Vec<StageExplanation>,
    /// What makes stages run, in the graph's order.
    pub causes: Vec<RootCause>,
}

/// Explains what a run with `options` would do.
pub fn explain(
    graph: &Graph,
    workspace: &Workspace,
    options: &RunOptions,
) -> Result<Explanation, RunError> {
    let standings = standings(graph, workspace, options)?;
    let last = RunRecord::last_results(workspace, &graph.name);
    let store = Store::open_to_read(workspace.cache())?;
    let mut stages = Vec::new();
    for standing in &standings {
        let before = last.get(&standing.name).and_then(|stage| stage.key);
        let recorded = match before {
            Some(key) => store.record(&natron_cache::StageKey::new(key)),
            None => None,
        };
        let forced = options
            .force
            .iter()
            .any(|name| *name == standing.name || standing.name.starts_with(&format!("{name}[")));
        let same_key = standing.key.is_some_and(|key| before == Some(key.digest()));
        let differences = match (&recorded, &standing.ingredients) {
            (Some(record), Some(now)) => diff(&record.ingredients, now),
            _ => Vec::new(),
        };
        let reason = match standing.forecast {
            Forecast::Hit if same_key || before.is_none() => Reason::Cached,
            Forecast::Hit => Reason::CachedBefore { differences },
            Forecast::Run if forced => Reason::Forced,
            Forecast::Run if same_key => Reason::Evicted,
            Forecast::Run if recorded.is_some() => Reason::KeyChanged { differences },
            Forecast::Run if before.is_some() => Reason::Evicted,
            Forecast::Run => Reason::New,
            Forecast::Maybe => Reason::Upstream {
                stages: open_producers(graph, &standings, standing),
            },
        };
        stages.push(StageExplanation {
            name: standing.name.clone(),
            kind: standing.kind.clone(),
            forecast: standing.forecast,
            key: standing.key.map(|key| key.to_string()),
            ingredients: standing.ingredients.clone(),
            reason,
            expected_seconds: standing.expected_seconds,
        });
    }
    let causes = root_causes(graph, &stages);
    Ok(Explanation { stages, causes })
}

fn open_producers(graph: &Graph, standings: &[Standing], standing: &Standing) -> Vec<String> {
    let Some(position) = graph.position(&standing.name) else {
        return Vec::new();
    };
    let producers: BTreeSet<&str> = graph.instances[position]
        .producers()
        .map(|p| graph.instances[p].name.as_str())
        .collect();
    standings
        .iter()
        .filter(|s| s.forecast != Forecast::Hit && producers.contains(s.name.as_str()))
        .map(|s| s.name.clone())
        .collect()
}

fn root_causes(graph: &Graph, stages: &[StageExplanation]) -> Vec<RootCause> {
    let open: BTreeSet<&str> = stages
        .iter()
        .filter(|stage| stage.forecast != Forecast::Hit)
        .map(|stage| stage.name.as_str())
        .collect();
    let mut causes = Vec::new();
    for stage in stages {
        let own: Vec<Cause> = match &stage.reason {
            Reason::New => vec![Cause::New],
            Reason::Evicted => vec![Cause::Evicted],
            Reason::Forced => vec![Cause::Forced],
            Reason::KeyChanged { differences } => differences
                .iter()
                .filter(|difference| !made_by_a_stage(graph, &stage.name, difference))
                .map(|difference| Cause::Changed {
                    difference: difference.clone(),
                })
                .collect(),
            Reason::Cached | Reason::CachedBefore { .. } | Reason::Upstream { .. } => Vec::new(),
        };
        let count = if own.is_empty() {
            0
        } else {
            open_below(graph, &stage.name, &open)
        };
        causes.extend(own.into_iter().map(|cause| RootCause {
            stage: stage.name.clone(),
            cause,
            stages: count,
        }));
    }
    causes
}

/// Whether the difference lies in an input that a stage of the graph makes: then its cause lies there.
fn made_by_a_stage(graph: &Graph, stage: &str, difference: &Difference) -> bool {
    let Some(port) = difference.path.strip_prefix("inputs.") else {
        return false;
    };
    let Some(position) = graph.position(stage) else {
        return false;
    };
    let inputs: &BTreeMap<String, Vec<InputEdge>> = &graph.instances[position].inputs;
    inputs.iter().any(|(name, edges)| {
        let rest = port.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            && edges
                .iter()
                .any(|edge| matches!(edge, InputEdge::Output { .. }))
    })
}

/// How many open stages there are from `stage` downwards, itself among them.
fn open_below(graph: &Graph, stage: &str, open: &BTreeSet<&str>) -> usize {
    let mut reached = BTreeSet::new();
    let Some(start) = graph.position(stage) else {
        return 0;
    };
    reached.insert(start);
    for (index, instance) in graph.instances.iter().enumerate() {
        if instance.producers().any(|p| reached.contains(&p)) {
            reached.insert(index);
        }
    }
    reached
        .iter()
        .filter(|&&i| open.contains(graph.instances[i].name.as_str()))
        .count()
}
