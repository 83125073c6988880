//! Counting what a store holds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{EntryKind, Store, StoreError, store::list};

/// What a store holds. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Stats {
    /// Records that count: the latest of each key.
    pub records: Count,
    /// What the segments take that hold the records, those that do not count any more included.
    pub segments: Count,
    /// Small objects that lie in the records.
    pub carried: Count,
    /// Objects with files of their own.
    pub objects: Count,
    /// Files of checkpoints.
    pub checkpoints: Count,
    /// What was damaged and put aside.
    pub quarantined: Count,
    /// By kind of stage.
    pub kinds: BTreeMap<String, OfKind>,
    /// When the oldest record that counts was committed, in milliseconds since 1970-01-01 in UTC.
    pub oldest_unix_ms: Option<u64>,
    /// The same of the newest.
    pub newest_unix_ms: Option<u64>,
}

/// Some things and how much they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Count {
    /// How many there are.
    pub n: u64,
    /// What they take, in bytes.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.n += 1;
        self.bytes += bytes;
    }
}

/// The results of one kind of stage.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct OfKind {
    /// How many there are.
    pub records: u64,
    /// How large their outputs are, in bytes; what several share is counted for each.
    pub bytes: u64,
    /// How long they took to make, in seconds.
    pub seconds: f64,
}

/// Counts everything. Nothing is hashed.
pub fn stats(store: &Store) -> Result<Stats, StoreError> {
    store.refresh()?;
    let mut stats = Stats::default();
    for listed in store.actions().list() {
        let Some(record) = store.record(&listed.key) else {
            continue;
        };
        stats.records.add(listed.length);
        for (_, size) in store.actions().carried_by(&listed.key) {
            stats.carried.add(u64::from(size));
        }
        let kind = stats.kinds.entry(record.ingredients.kind.clone());
        let kind = kind.or_default();
        kind.records += 1;
        kind.bytes += record.size();
        kind.seconds += record.execution.seconds;
        let at = listed.committed_ms;
        stats.oldest_unix_ms = Some(stats.oldest_unix_ms.map_or(at, |oldest| oldest.min(at)));
        stats.newest_unix_ms = Some(stats.newest_unix_ms.map_or(at, |newest| newest.max(at)));
    }
    for entry in store.list_objects()?.into_values() {
        stats.objects.add(entry.size);
    }
    let of = |folder: &str| list(store.storage(), &store.root().join(folder));
    for entry in of("ac")? {
        stats.segments.add(entry.size);
    }
    for entry in of("quarantine")? {
        stats.quarantined.add(entry.size);
    }
    for directory in of("ckpt")? {
        if directory.kind == EntryKind::Directory {
            for entry in of(&format!("ckpt/{}", directory.name))? {
                stats.checkpoints.add(entry.size);
            }
        }
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Artifact, Report};

    use super::*;
    use crate::{Durability, Execution, Ingredients};

    #[test]
    fn everything_is_counted_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Durability::None).unwrap();
        assert_eq!(stats(&store).unwrap(), Stats::default());
        for (seed, html) in [(1, "small".to_owned()), (2, "large".repeat(1000))] {
            let mut ingredients = Ingredients::new("toy", "c0de");
            ingredients.seed = seed;
            let report = Artifact::from(Report { html });
            let outputs = BTreeMap::from([("report".to_owned(), report.seal().unwrap())]);
            let execution = Execution {
                seconds: 1.5,
                ..Execution::default()
            };
            // The second time replaces the first one's record.
            for _ in 0..2 {
                let (ingredients, execution) = (ingredients.clone(), execution.clone());
                store.commit(ingredients, &outputs, execution, b"").unwrap();
            }
        }

        let found = stats(&store).unwrap();
        assert_eq!(found.records.n, 2);
        assert_eq!((found.carried.n, found.carried.bytes), (1, 5));
        assert_eq!((found.objects.n, found.objects.bytes), (1, 5000));
        assert!(found.segments.bytes > found.records.bytes);
        let kind = found.kinds["toy"];
        assert_eq!((kind.records, kind.bytes), (2, 5005));
        assert!((kind.seconds - 3.0).abs() < 1e-9);
        assert!(found.oldest_unix_ms <= found.newest_unix_ms);
    }
}
