//! Loss of power at any moment.

use std::{collections::BTreeSet, sync::Arc};

use natron_cache::{
    Durability, StageKey, Store,
    collect::{Policy, Roots, collect},
    recording::{Effect, Recorder, crash_states},
};

use crate::{commit, commit_later, ingredients, memory, open, wrong_hits};

fn key(seed: u64) -> StageKey {
    ingredients(seed).key()
}

/// Two commits, then whatever `more` does.
fn record(more: impl FnOnce(&Store, &Recorder)) -> Vec<Effect> {
    let root = memory();
    let recorder = Arc::new(Recorder::new(root.path()));
    let store = Store::open_on(
        Arc::clone(&recorder) as Arc<_>,
        root.path(),
        Durability::Full,
    )
    .unwrap();
    for seed in [1, 2] {
        commit(&store, seed).unwrap();
        recorder.mark(seed.to_string());
    }
    more(&store, &recorder);
    recorder.effects()
}

/// Opens every state and says what is wrong: wrong hits, promises not kept, work that cannot go on.
fn violations(effects: &[Effect], promised_until: &str) -> (usize, BTreeSet<String>) {
    let mut violations = BTreeSet::new();
    let states = crash_states(effects);
    for (image, promises) in &states {
        let root = memory();
        image.write_to(root.path()).unwrap();
        let store = match Store::open(root.path(), Durability::None) {
            Ok(store) => store,
            Err(error) => {
                violations.insert(format!("does not open: {error}"));
                continue;
            }
        };
        let is_over = promises.iter().any(|promise| promise == promised_until);
        for seed in promises.iter().filter_map(|promise| promise.parse().ok()) {
            if !is_over && store.lookup(&key(seed)).unwrap().is_none() {
                violations.insert(format!("committed result {seed} is lost"));
            }
        }
        violations.extend(wrong_hits(&store));
        for seed in [1, 2] {
            commit(&store, seed).unwrap();
            if store.lookup(&key(seed)).unwrap().is_none() {
                violations.insert(format!("committing {seed} again does not help"));
            }
        }
        drop(store);
        violations.extend(wrong_hits(&open(root.path())));
    }
    (states.len(), violations)
}

#[test]
fn no_loss_of_power_makes_a_wrong_hit_or_loses_a_commit() {
    let (states, violations) = violations(&record(|_, _| {}), "never");

    assert!(states > 75, "{states} states");
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn no_loss_of_power_while_a_group_is_flushed_makes_a_wrong_hit_or_loses_a_commit() {
    let effects = record(|store, recorder| {
        for group in [[10, 11, 12], [13, 14, 10]] {
            for seed in group {
                commit_later(store, seed).unwrap();
            }
            store.flush().unwrap();
            for seed in group {
                recorder.mark(seed.to_string());
            }
        }
    });

    let (states, violations) = violations(&effects, "never");
    assert!(states > 150, "{states} states");
    assert!(violations.is_empty(), "{violations:#?}");
}

/// Every effect of a group's flush fails once: the flush says so, nothing is wrong, and what was not kept can be kept then.
#[test]
fn a_refusal_of_the_disk_fails_results_of_a_group_and_no_others() {
    for n in 1.. {
        let root = memory();
        let recorder = Arc::new(Recorder::new(root.path()));
        let storage = Arc::clone(&recorder) as Arc<_>;
        let store = Store::open_on(storage, root.path(), Durability::Full).unwrap();
        commit(&store, 1).unwrap();
        recorder.refuse(n);

        let handed_over = [2, 3, 4].map(|seed| commit_later(&store, seed).is_ok());
        let flushed = store.flush();
        if !recorder.has_refused() {
            assert!(n > 20, "a group has only {n} effects");
            break;
        }
        assert!(
            flushed.is_err() || handed_over.contains(&false),
            "effect {n}"
        );
        while store.flush().is_err() {}
        for store in [&store, &open(root.path())] {
            assert!(wrong_hits(store).is_empty(), "effect {n}");
            assert!(store.lookup(&key(1)).unwrap().is_some(), "effect {n}");
        }
        for seed in [2, 3, 4] {
            assert!(!store.is_leased(&key(seed)), "effect {n}");
            commit_later(&store, seed).unwrap();
        }
        store.flush().unwrap();
        for store in [&store, &open(root.path())] {
            for seed in [1, 2, 3, 4] {
                assert!(store.lookup(&key(seed)).unwrap().is_some(), "effect {n}");
            }
            assert!(wrong_hits(store).is_empty(), "effect {n}");
        }
    }
}

#[test]
fn no_loss_of_power_during_collection_loses_what_has_a_root() {
    let effects = record(|store, recorder| {
        let roots = Roots {
            keys: [key(1)].into(),
            ..Roots::default()
        };
        let policy = Policy {
            grace: std::time::Duration::ZERO,
            ..Policy::default()
        };
        // From here on, 2 may go.
        recorder.mark("collecting");
        collect(store, &roots, &policy).unwrap();
        recorder.mark("1");
    });
    let only_first: Vec<_> = effects
        .into_iter()
        .filter(|effect| *effect != Effect::Mark("2".into()))
        .collect();

    let (states, violations) = violations(&only_first, "never");
    assert!(states > 90, "{states} states");
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn the_sweep_notices_a_store_that_does_not_flush_files() {
    let effects: Vec<_> = record(|_, _| {})
        .into_iter()
        .filter(|effect| !matches!(effect, Effect::Sync(_)))
        .collect();

    assert!(!violations(&effects, "never").1.is_empty());
}

#[test]
fn the_sweep_notices_a_store_that_does_not_flush_directories() {
    let effects: Vec<_> = record(|_, _| {})
        .into_iter()
        .filter(|effect| !matches!(effect, Effect::SyncDirectory(_)))
        .collect();

    assert!(!violations(&effects, "never").1.is_empty());
}

#[test]
fn the_sweep_notices_a_store_that_writes_the_record_first() {
    let effects = record(|_, _| {});
    let segment = effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Create(path, number) if path.starts_with("v2/ac") => Some(*number),
            _ => None,
        })
        .unwrap();
    // Its effects come before those of all objects.
    let is_of_segment = |effect: &Effect| match effect {
        Effect::Create(_, number) | Effect::Write(number, _) | Effect::Sync(number) => {
            *number == segment
        }
        Effect::SyncDirectory(path) => path.ends_with("ac"),
        _ => false,
    };
    let (of_segment, others): (Vec<_>, Vec<_>) = effects
        .into_iter()
        .filter(|effect| !matches!(effect, Effect::Mark(_)))
        .partition(is_of_segment);
    let made = others
        .iter()
        .position(|effect| matches!(effect, Effect::Rename(_, to) if to.ends_with("FORMAT")))
        .unwrap();
    let (opening, commits) = others.split_at(made + 2);
    let mut record_first = opening.to_vec();
    record_first.extend(of_segment);
    // And objects get their names before they are flushed.
    let (flushes, rest): (Vec<_>, Vec<_>) = commits
        .iter()
        .cloned()
        .partition(|effect| matches!(effect, Effect::Sync(_)));
    record_first.extend(rest);
    record_first.extend(flushes);

    let (_, violations) = violations(&record_first, "never");
    assert!(
        violations
            .iter()
            .any(|violation| violation.contains("damaged")),
        "{violations:#?}"
    );
}

/// Every effect of a commit fails once: the commit says so, nothing is wrong, and the next one works.
#[test]
fn a_refusal_of_the_disk_is_an_error_and_no_more() {
    for n in 1.. {
        let root = memory();
        let recorder = Arc::new(Recorder::new(root.path()));
        let storage = Arc::clone(&recorder) as Arc<_>;
        let store = Store::open_on(storage, root.path(), Durability::Full).unwrap();
        commit(&store, 1).unwrap();
        recorder.refuse(n);

        let result = commit(&store, 2);
        if !recorder.has_refused() {
            assert!(n > 10, "a commit has only {n} effects");
            break;
        }
        assert!(result.is_err(), "effect {n}");
        assert!(wrong_hits(&store).is_empty(), "effect {n}");
        assert!(wrong_hits(&open(root.path())).is_empty(), "effect {n}");
        commit(&store, 2).unwrap();
        commit(&store, 3).unwrap();
        for store in [&store, &open(root.path())] {
            for seed in [1, 2, 3] {
                assert!(store.lookup(&key(seed)).unwrap().is_some(), "effect {n}");
            }
            assert!(wrong_hits(store).is_empty(), "effect {n}");
        }
    }
}
