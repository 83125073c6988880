//! Garbage collection: what nobody needs any more, and its removal.
//!
//! Kept is what a root names, what is younger than the grace time, and what a process is computing. Everything else goes:
//! first its records, in one new segment that replaces all others, then its objects, by way of `trash/`. A crash in between
//! leaves objects without a record, which the next collection removes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use natron_artifacts::Digest;

use crate::{
    Entry, StageKey, Store, StoreError, clock, frame, mutants,
    store::{self, remove_any},
};

const DAY: Duration = Duration::from_hours(24);

/// What must stay: the keys and objects that run records and lock files name.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// Results.
    pub keys: BTreeSet<StageKey>,
    /// Objects, whatever record names them.
    pub objects: BTreeSet<Digest>,
    /// All that was committed until then, in milliseconds since 1970-01-01 in UTC, because somebody may need it whom we
    /// cannot ask.
    pub until_ms: u64,
}

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What is younger stays.
    pub grace: Duration,
    /// Checkpoints that were written to since stay.
    pub checkpoint_grace: Duration,
    /// If what is kept is larger than this many bytes, results without a root go, young ones too: those first that take
    /// the fewest seconds per byte to make again, the older first among equals.
    pub max_bytes: Option<u64>,
}

impl Default for Policy {
    /// 14 days, no limit of size.
    fn default() -> Self {
        Self {
            grace: 14 * DAY,
            checkpoint_grace: 14 * DAY,
            max_bytes: None,
        }
    }
}

/// What goes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Records, in order of their keys.
    pub records: Vec<DoomedRecord>,
    /// Objects with files of their own and their sizes in bytes, in order of their digests.
    pub objects: Vec<(Digest, u64)>,
    /// Checkpoints and their sizes in bytes.
    pub checkpoints: Vec<(StageKey, u64)>,
    /// Damaged objects that were put aside, and their sizes in bytes.
    pub quarantined: Vec<(PathBuf, u64)>,
    /// How many bytes all of that takes.
    pub bytes: u64,
    /// How many bytes the records and objects take that stay.
    pub kept_bytes: u64,
}

/// A record that goes.
#[derive(Debug, Clone, PartialEq)]
pub struct DoomedRecord {
    /// Its key.
    pub key: StageKey,
    /// Kind of the stage.
    pub kind: String,
    /// How long it took to make, in seconds.
    pub seconds: f64,
    /// How large its outputs are, in bytes.
    pub bytes: u64,
    /// Whether it goes because the store is too large, not because it is old.
    pub is_evicted: bool,
}

/// What would go. Nothing is changed.
pub fn plan(store: &Store, roots: &Roots, policy: &Policy) -> Result<Plan, StoreError> {
    store.refresh()?;
    let now = clock::unix_ms();
    let is_old = |at: u64, grace: Duration| u128::from(now.saturating_sub(at)) >= grace.as_millis();
    let objects = store.list_objects()?;

    let candidates = candidates(store, roots)?;
    let records_bytes: u64 = candidates.iter().map(|candidate| candidate.length).sum();
    let mut doomed_records_bytes = 0;
    let mut kept = Vec::new();
    let mut doomed = BTreeMap::new();
    for candidate in candidates {
        if candidate.is_rooted || !is_old(candidate.committed_ms, policy.grace) {
            kept.push(candidate);
        } else {
            doomed_records_bytes += candidate.length;
            doomed.insert(candidate.doomed.key, candidate.doomed);
        }
    }

    let mut uses: BTreeMap<Digest, u64> = BTreeMap::new();
    for digest in kept.iter().flat_map(|candidate| &candidate.objects) {
        *uses.entry(*digest).or_default() += 1;
    }
    let mut gone: BTreeSet<Digest> = objects
        .iter()
        .filter(|(digest, entry)| {
            !uses.contains_key(digest)
                && !roots.objects.contains(digest)
                && entry.modified_ms > roots.until_ms
                && is_old(entry.modified_ms, policy.grace)
        })
        .map(|(digest, _)| *digest)
        .collect();
    let total = records_bytes + objects.values().map(|entry| entry.size).sum::<u64>();
    let size_of = |digest: &Digest| objects.get(digest).map_or(0, |entry| entry.size);
    let mut kept_bytes = total - doomed_records_bytes - gone.iter().map(size_of).sum::<u64>();

    if let Some(max_bytes) = policy.max_bytes {
        kept.retain(|candidate| !candidate.is_rooted);
        kept.sort_by(|a, b| {
            let worth = a.worth().total_cmp(&b.worth());
            worth.then(a.committed_ms.cmp(&b.committed_ms))
        });
        for candidate in kept {
            if kept_bytes <= max_bytes {
                break;
            }
            for digest in &candidate.objects {
                let Some(n) = uses.get_mut(digest) else {
                    continue;
                };
                *n -= 1;
                if *n == 0 && !roots.objects.contains(digest) && gone.insert(*digest) {
                    kept_bytes -= size_of(digest);
                }
            }
            kept_bytes -= candidate.length;
            doomed_records_bytes += candidate.length;
            let mut record = candidate.doomed;
            record.is_evicted = true;
            doomed.insert(record.key, record);
        }
    }

    let mut plan = Plan {
        records: doomed.into_values().collect(),
        objects: gone
            .into_iter()
            .filter_map(|digest| Some((digest, objects.get(&digest)?.size)))
            .collect(),
        checkpoints: old_checkpoints(store, |at| is_old(at, policy.checkpoint_grace))?,
        quarantined: Vec::new(),
        bytes: 0,
        kept_bytes,
    };
    let quarantine = store.root().join("quarantine");
    for entry in list(store, "quarantine")? {
        if is_old(entry.modified_ms, policy.grace) {
            plan.quarantined
                .push((quarantine.join(&entry.name), entry.size));
        }
    }
    plan.bytes = doomed_records_bytes
        + plan.objects.iter().map(|(_, size)| size).sum::<u64>()
        + plan.checkpoints.iter().map(|(_, size)| size).sum::<u64>()
        + plan.quarantined.iter().map(|(_, size)| size).sum::<u64>();
    Ok(plan)
}

/// Removes what would go, and returns it.
///
/// # Errors
///
/// [`StoreError::Busy`] while anybody else has the store open.
pub fn collect(store: &Store, roots: &Roots, policy: &Policy) -> Result<Plan, StoreError> {
    store.flush()?;
    let done = store.exclusively(|| {
        // Planned under the lock: nobody can begin to use what is about to go.
        let plan = plan(store, roots, policy)?;
        let doomed: BTreeSet<_> = plan.records.iter().map(|record| record.key).collect();
        store
            .actions()
            .compact(store.writer()?, Some(&|key| !doomed.contains(key)))?;
        for (digest, _) in &plan.objects {
            if let Some(path) = store.object_path(digest) {
                discard(store, &path, &digest.to_hex())?;
            }
        }
        for (key, _) in &plan.checkpoints {
            let path = store.root().join("ckpt").join(key.to_string());
            discard(store, &path, &format!("ckpt-{key}"))?;
        }
        for (path, _) in &plan.quarantined {
            remove_any(store.storage(), path)?;
        }
        let trash = store.root().join("trash");
        for entry in list(store, "trash")? {
            remove_any(store.storage(), &trash.join(entry.name))?;
        }
        Ok(plan)
    })?;
    done.ok_or_else(|| StoreError::Busy {
        path: store.root().to_owned(),
    })
}

struct Candidate {
    committed_ms: u64,
    is_rooted: bool,
    /// Those with files of their own.
    objects: BTreeSet<Digest>,
    /// How much the record takes with all that it carries, in bytes.
    length: u64,
    doomed: DoomedRecord,
}

impl Candidate {
    /// Seconds to make it again, per byte that it takes.
    fn worth(&self) -> f64 {
        self.doomed.seconds / self.doomed.bytes.max(1) as f64
    }
}

/// Every record.
fn candidates(store: &Store, roots: &Roots) -> Result<Vec<Candidate>, StoreError> {
    let pins = store.pins()?;
    let pinned: BTreeSet<&StageKey> = pins.iter().flat_map(|pin| &pin.keys).collect();
    let mut candidates = Vec::new();
    for listed in store.actions().list() {
        let key = listed.key;
        let Some(record) = store.record(&key) else {
            continue;
        };
        let carried: BTreeSet<_> = store
            .actions()
            .carried_by(&key)
            .into_iter()
            .map(|(prefix, _)| prefix)
            .collect();
        // What a record carries goes with it, and only that is left for it.
        let (carried, objects): (BTreeSet<Digest>, _) = record
            .objects()
            .map(|(digest, _)| digest)
            .chain(record.execution.log)
            .chain(record.execution.sources.iter().copied())
            .partition(|digest| carried.contains(&frame::prefix(digest)));
        candidates.push(Candidate {
            committed_ms: listed.committed_ms,
            is_rooted: (roots.keys.contains(&key) && !mutants::is("collect_what_has_a_root"))
                || pinned.contains(&key)
                || listed.committed_ms <= roots.until_ms
                || store.is_leased(&key)
                || !carried.is_disjoint(&roots.objects),
            objects,
            length: listed.length,
            doomed: DoomedRecord {
                key,
                kind: record.ingredients.kind.clone(),
                seconds: record.execution.seconds,
                bytes: record.size(),
                is_evicted: false,
            },
        });
    }
    Ok(candidates)
}

fn list(store: &Store, directory: &str) -> Result<Vec<Entry>, StoreError> {
    store::list(store.storage(), &store.root().join(directory))
}

fn old_checkpoints(
    store: &Store,
    is_old: impl Fn(u64) -> bool,
) -> Result<Vec<(StageKey, u64)>, StoreError> {
    let mut checkpoints = Vec::new();
    for directory in list(store, "ckpt")? {
        let Ok(key) = directory.name.parse::<StageKey>() else {
            continue;
        };
        let entries = list(store, &format!("ckpt/{key}"))?;
        let newest = entries
            .iter()
            .map(|entry| entry.modified_ms)
            .fold(directory.modified_ms, u64::max);
        if is_old(newest) && !store.is_leased(&key) {
            checkpoints.push((key, entries.iter().map(|entry| entry.size).sum()));
        }
    }
    Ok(checkpoints)
}

/// Moves something to the trash, in one step that nobody can see half of.
fn discard(store: &Store, path: &Path, name: &str) -> Result<(), StoreError> {
    let target = store.root().join("trash").join(name);
    match store.storage().rename(path, &target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use natron_artifacts::{Artifact, Report};

    use super::*;
    use crate::{Durability, Execution, Ingredients, Record};

    const AT_ONCE: Duration = Duration::ZERO;

    fn open(root: &Path) -> Store {
        Store::open(root, Durability::None).unwrap()
    }

    fn commit(store: &Store, seed: u64, html: &str, seconds: f64) -> Record {
        let mut ingredients = Ingredients::new("toy", "c0de");
        ingredients.seed = seed;
        let report = Artifact::from(Report { html: html.into() });
        let outputs = BTreeMap::from([("report".to_owned(), report.seal().unwrap())]);
        let execution = Execution {
            seconds,
            ..Execution::default()
        };
        let committed = store.commit(ingredients, &outputs, execution, b"").unwrap();
        (*committed.record).clone()
    }

    fn policy(grace: Duration, max_bytes: Option<u64>) -> Policy {
        Policy {
            grace,
            checkpoint_grace: grace,
            max_bytes,
        }
    }

    #[test]
    fn what_has_a_root_or_is_young_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let [large_kept, large_old] = ["kept", "old"].map(|text| text.repeat(2000));
        let kept = commit(&store, 1, &large_kept, 1.0);
        let old = commit(&store, 2, &large_old, 1.0);
        let shared = commit(&store, 3, &large_kept, 1.0);
        let small = commit(&store, 4, "small", 1.0);
        let pinned = store.put(b"pinned").unwrap();
        fs::create_dir(store.checkpoints_path(&old.key)).unwrap();
        let roots = Roots {
            keys: [kept.key].into(),
            objects: [pinned, small.outputs["report"].files[0].digest].into(),
            until_ms: 0,
        };
        let lengths: BTreeMap<_, _> = store
            .actions()
            .list()
            .into_iter()
            .map(|listed| (listed.key, listed.length))
            .collect();

        let young = plan(&store, &roots, &Policy::default()).unwrap();
        assert_eq!((young.records.len(), young.objects.len()), (0, 0));
        assert_eq!(young.checkpoints, []);

        let dry = plan(&store, &roots, &policy(AT_ONCE, None)).unwrap();
        assert!(
            store.lookup(&old.key).unwrap().is_some(),
            "a plan changes nothing"
        );
        let done = collect(&store, &roots, &policy(AT_ONCE, None)).unwrap();
        assert_eq!(done, dry);
        let keys: BTreeSet<_> = done.records.iter().map(|record| record.key).collect();
        assert_eq!(keys, [old.key, shared.key].into());
        let old_object = old.outputs["report"].files[0].digest;
        assert_eq!(done.objects, [(old_object, 6000)]);
        assert_eq!(done.checkpoints, [(old.key, 0)]);
        let gone = 6000 + lengths[&old.key] + lengths[&shared.key];
        let stays = 8000 + 6 + lengths[&kept.key] + lengths[&small.key];
        assert_eq!((done.bytes, done.kept_bytes), (gone, stays));

        for store in [&store, &open(root.path())] {
            let record = store.lookup(&kept.key).unwrap().unwrap();
            store.open_artifact(&record.outputs["report"]).unwrap();
            assert_eq!(&*store.read(&pinned).unwrap(), b"pinned");
            assert_eq!(store.lookup(&old.key).unwrap(), None);
            assert_eq!(store.record(&shared.key), None);
            let record = store.lookup(&small.key).unwrap().unwrap();
            store.open_artifact(&record.outputs["report"]).unwrap();
            assert!(store.read(&old_object).is_err());
        }
        let trash = fs::read_dir(store.root().join("trash")).unwrap();
        assert_eq!(trash.count(), 0);
    }

    #[test]
    fn work_goes_on_after_a_collection() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let first = commit(&store, 1, "a", 1.0);
        collect(&store, &Roots::default(), &policy(AT_ONCE, None)).unwrap();
        assert_eq!(store.lookup(&first.key).unwrap(), None);

        commit(&store, 1, "a", 1.0);
        let second = commit(&store, 2, "b", 1.0);

        for store in [&store, &open(root.path())] {
            assert!(store.lookup(&first.key).unwrap().is_some());
            assert!(store.lookup(&second.key).unwrap().is_some());
        }
    }

    #[test]
    fn a_limit_takes_what_is_cheapest_to_make_again() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let text = |letter: &str| letter.repeat(10_000);
        let rooted = commit(&store, 1, &text("r"), 0.1);
        let dear = commit(&store, 2, &text("d"), 100.0);
        let cheap = commit(&store, 3, &text("c"), 1.0);
        let middling = commit(&store, 4, &text("m"), 10.0);
        let roots = Roots {
            keys: [rooted.key].into(),
            ..Roots::default()
        };

        let limited = policy(14 * DAY, Some(25_000));
        let done = collect(&store, &roots, &limited).unwrap();

        assert!((20_000..23_000).contains(&done.bytes), "{}", done.bytes);
        assert!((20_000..23_000).contains(&done.kept_bytes));
        assert!(done.records.iter().all(|record| record.is_evicted));
        let stays = |record: &Record| store.lookup(&record.key).unwrap().is_some();
        assert_eq!(
            [&rooted, &dear, &cheap, &middling].map(stays),
            [true, true, false, false]
        );
    }

    #[test]
    fn what_is_pinned_or_older_than_a_doubt_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let large = |text: &str| text.repeat(2000);
        let early = commit(&store, 1, &large("early"), 1.0);
        let until_ms = clock::unix_ms();
        std::thread::sleep(Duration::from_millis(20));
        let late = commit(&store, 2, &large("late"), 1.0);
        let pinned = commit(&store, 3, &large("pinned"), 1.0);
        store
            .pin(&crate::Pin {
                name: "p".into(),
                keys: vec![pinned.key],
                unix_ms: 0,
            })
            .unwrap();
        let roots = Roots {
            until_ms,
            ..Roots::default()
        };

        let nearly_nothing = policy(AT_ONCE, Some(0));
        let gone = plan(&store, &roots, &nearly_nothing).unwrap();
        let keys: Vec<_> = gone.records.iter().map(|record| record.key).collect();
        assert_eq!((keys, gone.objects.len()), (vec![late.key], 1));

        store.unpin("p").unwrap();
        let gone = collect(&store, &roots, &nearly_nothing).unwrap();
        assert_eq!((gone.records.len(), gone.objects.len()), (2, 2));
        let hit = store.lookup(&early.key).unwrap().unwrap();
        store.open_artifact(&hit.outputs["report"]).unwrap();
    }

    #[test]
    fn nothing_goes_while_others_are_at_work() {
        let root = tempfile::tempdir().unwrap();
        let (store, other) = (open(root.path()), open(root.path()));
        let record = commit(&store, 1, "a", 1.0);

        let error = collect(&store, &Roots::default(), &policy(AT_ONCE, None)).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        assert!(store.lookup(&record.key).unwrap().is_some());
        // It still takes part: the other cannot collect either.
        let error = collect(&other, &Roots::default(), &policy(AT_ONCE, None)).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        drop(other);
        collect(&store, &Roots::default(), &policy(AT_ONCE, None)).unwrap();
    }

    #[test]
    fn a_key_that_is_being_computed_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let record = commit(&store, 1, "a", 1.0);
        fs::create_dir(store.checkpoints_path(&record.key)).unwrap();
        let lease = store.try_lease(&record.key).unwrap();

        let nothing = plan(&store, &Roots::default(), &policy(AT_ONCE, None)).unwrap();
        assert_eq!((nothing.records.len(), nothing.checkpoints.len()), (0, 0));
        drop(lease);
        let all = plan(&store, &Roots::default(), &policy(AT_ONCE, None)).unwrap();
        assert_eq!((all.records.len(), all.checkpoints.len()), (1, 1));
    }
}
