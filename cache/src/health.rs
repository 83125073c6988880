//! Reading and hashing everything that a store holds.

use natron_artifacts::Digest;

use crate::{DamagedRecord, Store, StoreError, frame};

/// What a look at everything found.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Records that count: the latest of each key.
    pub records: u64,
    /// Objects with files of their own that were read.
    pub objects: u64,
    /// Bytes of these objects and of the records.
    pub bytes: u64,
    /// Records that name objects which are not there; their stages run again.
    pub incomplete: u64,
    /// Objects that were damaged; they have been put aside, if the store can be written.
    pub damaged_objects: Vec<Digest>,
    /// Records that were damaged; they do not count any more, if the store can be written.
    pub damaged_records: Vec<DamagedRecord>,
}

impl Health {
    /// Whether nothing is damaged.
    pub fn is_good(&self) -> bool {
        self.damaged_objects.is_empty() && self.damaged_records.is_empty()
    }
}

/// Reads and hashes every record and object. What is damaged is put aside or disowned, so that it is made again.
///
/// Nothing if `is_cancelled` says so first.
pub fn verify(
    store: &Store,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<Option<Health>, StoreError> {
    store.flush()?;
    store.refresh()?;
    let mut health = Health {
        damaged_records: store.actions().damage()?,
        ..Health::default()
    };
    if !store.is_read_only() && !health.damaged_records.is_empty() {
        for damaged in &health.damaged_records {
            if let Some(name) = damaged.segment.file_name().and_then(|name| name.to_str()) {
                let actions = store.actions();
                actions.put_aside(name, damaged.offset, damaged.length);
            }
            // Others who have the store open see it, too.
            if let Some(key) = damaged.key
                && store.actions().is_latest(damaged)
            {
                store.disown(key, frame::tombstone(&key))?;
            }
        }
        store.compact_if_alone()?;
    }
    for (digest, entry) in store.list_objects()? {
        if is_cancelled() {
            return Ok(None);
        }
        match store.read_file(&digest) {
            Ok(_) => {
                health.objects += 1;
                health.bytes += entry.size;
            }
            Err(StoreError::Missing { .. }) => {} // Gone meanwhile.
            Err(StoreError::Damaged { .. }) => health.damaged_objects.push(digest),
            Err(error) => return Err(error),
        }
    }
    for listed in store.actions().list() {
        health.records += 1;
        health.bytes += listed.length;
        if store.lookup(&listed.key)?.is_none() {
            health.incomplete += 1;
        }
    }
    Ok(Some(health))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use natron_artifacts::{Artifact, Report};

    use super::*;
    use crate::{Durability, Execution, Ingredients, StageKey};

    fn open(root: &Path) -> Store {
        Store::open(root, Durability::None).unwrap()
    }

    fn commit(store: &Store, seed: u64, html: &str) -> StageKey {
        let mut ingredients = Ingredients::new("toy", "c0de");
        ingredients.seed = seed;
        let report = Artifact::from(Report { html: html.into() });
        let outputs = BTreeMap::from([("report".to_owned(), report.seal().unwrap())]);
        let execution = Execution::default();
        let committed = store.commit(ingredients, &outputs, execution, b"").unwrap();
        committed.record.key
    }

    fn look(store: &Store) -> Health {
        verify(store, &|| false).unwrap().unwrap()
    }

    fn segment(store: &Store) -> std::path::PathBuf {
        let mut entries = fs::read_dir(store.root().join("ac")).unwrap();
        entries.next().unwrap().unwrap().path()
    }

    #[test]
    fn what_is_damaged_is_reported_once_and_counts_no_more() {
        for is_alone in [true, false] {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path());
            let keys = [
                commit(&store, 1, "first"),
                commit(&store, 2, "zweite"),
                commit(&store, 3, &"large".repeat(1000)),
            ];
            assert!(look(&store).is_good());
            let path = segment(&store);
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.windows(6).position(|window| window == b"zweite");
            bytes[at.unwrap()] ^= 1;
            fs::write(&path, bytes).unwrap();
            let digest = Digest::of("large".repeat(1000).as_bytes());
            let file = store.object_path(&digest).unwrap();
            fs::remove_file(&file).unwrap();
            fs::write(&file, "large".repeat(999) + "lArge").unwrap();
            let other = (!is_alone).then(|| open(root.path()));

            let found = look(&store);

            assert_eq!(found.damaged_records.len(), 1);
            assert_eq!(found.damaged_records[0].key, Some(keys[1]));
            assert_eq!(found.damaged_objects, [digest]);
            assert_eq!((found.records, found.incomplete), (2, 1));
            if is_alone {
                assert!(look(&store).is_good());
            }
            let quarantined = fs::read_dir(store.root().join("quarantine")).unwrap();
            assert_eq!(quarantined.count(), 2);
            for store in [Some(&store), other.as_ref(), Some(&open(root.path()))] {
                let Some(store) = store else { continue };
                let found = keys.map(|key| store.lookup_fresh(&key).unwrap().is_some());
                assert_eq!(found, [true, false, false], "{is_alone}");
            }
            commit(&store, 2, "zweite");
            commit(&store, 3, &"large".repeat(1000));
            for store in [&store, &open(root.path())] {
                assert!(keys.iter().all(|key| store.lookup(key).unwrap().is_some()));
            }
        }
    }

    #[test]
    fn a_record_that_was_cut_off_is_no_damage_and_a_damaged_last_one_is() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        commit(&store, 1, "first");
        let path = segment(&store);
        let first = fs::read(&path).unwrap().len();
        commit(&store, 2, "zweite");
        drop(store);
        let whole = fs::read(&path).unwrap();
        for cut in (first..whole.len()).step_by(13) {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(look(&open(root.path())).is_good(), "cut at {cut}");
        }
        let mut damaged = whole.clone();
        damaged[first + 20] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert!(!look(&open(root.path())).is_good());
    }

    #[test]
    fn a_copy_of_a_damaged_object_in_another_record_is_found() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        commit(&store, 1, "the same");
        let key = commit(&store, 2, "the same");
        let path = segment(&store);
        let mut bytes = fs::read(&path).unwrap();
        // The last one is the one that the index knows.
        let at = bytes.windows(8).rposition(|window| window == b"the same");
        bytes[at.unwrap()] ^= 1;
        fs::write(&path, bytes).unwrap();

        let hit = store.lookup(&key).unwrap().unwrap();
        store.open_artifact(&hit.outputs["report"]).unwrap();
        assert!(!look(&store).is_good());
    }
}
