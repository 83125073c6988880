//! Taking results for those of other code: when a change of the code is known not to matter.

use std::collections::BTreeMap;

use natron_cache::{Accepted, Difference, Durability, Record, StageKey, Store, clock, diff};

use crate::{
    Forecast, Graph, RunError, RunOptions, Standing, Workspace, history::RunRecord, select,
    standings,
};

/// What was done with one stage instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Acceptance {
    /// Instance name.
    pub name: String,
    /// What came of it.
    pub verdict: AcceptanceVerdict,
}

/// What came of accepting a stage's result.
#[derive(Debug, Clone, PartialEq)]
pub enum AcceptanceVerdict {
    /// The stage has a result for what it is now; nothing needs to be accepted.
    Current,
    /// An older result is taken for that of the stage as it is now.
    Accepted {
        /// The key that it was made for.
        from: StageKey,
        /// The stage's key now.
        to: StageKey,
        /// In what the two differ.
        differences: Vec<Difference>,
    },
    /// More than the code differs from the newest result.
    Refused {
        /// In what, other than the code.
        differences: Vec<Difference>,
    },
    /// There is no result of this stage here.
    NoResult,
    /// What it is now depends on stages above it that have no result; they have to run, or be accepted, first.
    Unknown,
}

/// Records, for each instance that `names` mean, its newest result here under its key of now, if they differ in nothing but
/// the code and the files that count as code. With `is_trial` nothing is recorded, and stages below what would be accepted
/// stay [`AcceptanceVerdict::Unknown`].
pub fn accept(
    graph: &Graph,
    workspace: &Workspace,
    names: &[String],
    is_trial: bool,
) -> Result<Vec<Acceptance>, RunError> {
    let selected = select(graph, names)?;
    let mut verdicts: BTreeMap<usize, AcceptanceVerdict> = BTreeMap::new();
    let runs = RunRecord::all(workspace)?;
    let store = if is_trial {
        Store::open_to_read(workspace.cache())?
    } else {
        Store::open(workspace.cache(), Durability::Full)?
    };
    // A result that is accepted makes the keys of those below it known.
    loop {
        let mut has_accepted = false;
        for standing in standings(graph, workspace, &RunOptions::default())? {
            let Some(index) = graph.position(&standing.name) else {
                continue;
            };
            let is_settled = verdicts
                .get(&index)
                .is_some_and(|verdict| *verdict != AcceptanceVerdict::Unknown);
            if !selected.contains(&index) || is_settled {
                continue;
            }
            let verdict = judge(&store, graph, &standing, &runs);
            if let AcceptanceVerdict::Accepted { from, to, .. } = &verdict
                && !is_trial
                && let Some(record) = store.record(from)
            {
                let ingredients = standing.ingredients.clone().expect("it was compared");
                store.append(&relabelled(&record, *to, ingredients))?;
                has_accepted = true;
            }
            verdicts.insert(index, verdict);
        }
        if !has_accepted {
            break;
        }
    }
    Ok(verdicts
        .into_iter()
        .map(|(index, verdict)| Acceptance {
            name: graph.instances[index].name.clone(),
            verdict,
        })
        .collect())
}

fn judge(
    store: &Store,
    graph: &Graph,
    standing: &Standing,
    runs: &[RunRecord],
) -> AcceptanceVerdict {
    match standing.forecast {
        Forecast::Hit => return AcceptanceVerdict::Current,
        Forecast::Maybe => return AcceptanceVerdict::Unknown,
        Forecast::Run => {}
    }
    let (Some(to), Some(now)) = (standing.key, &standing.ingredients) else {
        return AcceptanceVerdict::Unknown;
    };
    let mut refused = None;
    let keys = runs
        .iter()
        .filter(|run| run.pipeline == graph.name)
        .filter_map(|run| run.stage(&standing.name))
        .filter(|stage| stage.outcome.is_done())
        .filter_map(|stage| stage.key.map(StageKey::new));
    for key in keys {
        // Its objects have to be there, too.
        let Some(record) = store.record(&key) else {
            continue;
        };
        if !matches!(store.lookup(&key), Ok(Some(_))) {
            continue;
        }
        let differences = diff(&record.ingredients, now);
        let others: Vec<Difference> = differences
            .iter()
            .filter(|difference| !is_code(&difference.path))
            .cloned()
            .collect();
        if others.is_empty() {
            return AcceptanceVerdict::Accepted {
                from: key,
                to,
                differences,
            };
        }
        refused.get_or_insert(others);
    }
    refused.map_or(AcceptanceVerdict::NoResult, |differences| {
        AcceptanceVerdict::Refused { differences }
    })
}

/// Whether an ingredient is code: the fingerprint of the kind's, or a file that the stage declares as a source.
fn is_code(path: &str) -> bool {
    path == "code" || path == "sources" || path.starts_with("sources.")
}

fn relabelled(record: &Record, key: StageKey, ingredients: natron_cache::Ingredients) -> Record {
    let mut record = record.clone();
    let from = std::mem::replace(&mut record.key, key);
    record.ingredients = ingredients;
    record.execution.accepted = Some(Accepted {
        from,
        unix_ms: clock::unix_ms(),
    });
    record
}
