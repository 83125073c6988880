//! The earlier result that is nearest to a new stage: of the same kind, with the fewest differences.

use natron_cache::{Record, StageKey, diff};
use serde::Serialize;

use super::{Change, Engine, PastStage};

/// So many results of this workspace are compared.
const MOST_CANDIDATES: usize = 256;

/// So many records of the store are looked at when this workspace has none of the kind, the newest first.
const MOST_RECORDS: usize = 4_096;

/// An earlier result of the same kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nearest {
    /// The instance that gave it, where this workspace knows.
    pub stage: Option<String>,
    /// The run that it is of, where this workspace knows.
    pub run: Option<String>,
    /// Its key.
    pub key: String,
}

impl Engine<'_> {
    /// The result nearest to the stage at `index`, and what differs from it.
    pub(super) fn nearest(
        &self,
        index: usize,
        is_detailed: bool,
    ) -> (Option<Nearest>, Vec<Change>) {
        let Some(found) = self.nearest_here(index) else {
            let found = is_detailed.then(|| self.nearest_in_store(index)).flatten();
            return match found {
                Some(record) => {
                    let changes = self.changes_from(index, &record, None, is_detailed);
                    let nearest = Nearest {
                        stage: None,
                        run: None,
                        key: record.key.to_string(),
                    };
                    (Some(nearest), changes)
                }
                None => (None, Vec::new()),
            };
        };
        let (past, record) = found;
        let changes = self.changes_from(index, &record, Some(&past), is_detailed);
        let nearest = Nearest {
            stage: Some(past.name.clone()),
            run: Some(past.run.id.clone()),
            key: record.key.to_string(),
        };
        (Some(nearest), changes)
    }

    /// Of the results of this workspace: an instance of the same stage before others.
    fn nearest_here(&self, index: usize) -> Option<(PastStage, Record)> {
        let stage = &self.stages[index];
        let now = stage.ingredients.as_ref()?;
        let is_sibling = |name: &str| base(name) == base(&stage.name);
        let mut candidates: Vec<&PastStage> = self
            .past
            .results()
            .filter(|(name, past)| **name != stage.name && past.record().kind == stage.kind)
            .map(|(_, past)| past)
            .collect();
        candidates.sort_by_key(|past| !is_sibling(&past.name));
        candidates
            .into_iter()
            .take(MOST_CANDIDATES)
            .filter_map(|past| {
                let record = self.record(past)?;
                let distance = diff(&record.ingredients, now).len();
                Some((!is_sibling(&past.name), distance, past, record))
            })
            .min_by_key(|(is_other, distance, ..)| (*is_other, *distance))
            .map(|(_, _, past, record)| (past.clone(), record))
    }

    fn nearest_in_store(&self, index: usize) -> Option<Record> {
        let stage = &self.stages[index];
        let now = stage.ingredients.as_ref()?;
        let mut keys: Vec<(StageKey, u64)> = self.store.keys();
        keys.sort_by_key(|(key, committed_ms)| (std::cmp::Reverse(*committed_ms), *key));
        keys.into_iter()
            .take(MOST_RECORDS)
            .filter_map(|(key, _)| self.store.record(&key))
            .filter(|record| record.ingredients.kind == stage.kind)
            .min_by_key(|record| diff(&record.ingredients, now).len())
    }
}

/// The stage's name without its coordinates.
fn base(name: &str) -> &str {
    name.split_once('[').map_or(name, |(stage, _)| stage)
}
