//! The store under loss of power, killed writers and rivals.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod crash_states;
mod killed;
mod speed;
mod torn;

use std::{collections::BTreeMap, path::Path};

use natron_artifacts::{Artifact, Bytes, FileContent, Files, Metrics, Sealed};
use natron_cache::{Committed, Durability, Execution, Ingredients, Lease, Store, StoreError};
use tempfile::TempDir;

fn ingredients(seed: u64) -> Ingredients {
    let mut ingredients = Ingredients::new("toy", "c0de");
    ingredients.seed = seed;
    ingredients
}

/// What the toy stage makes of a seed.
fn artifacts(seed: u64) -> BTreeMap<String, Artifact> {
    let mut files = Files::new();
    for (name, text) in [
        ("a.txt", format!("content of {seed}")),
        ("b.txt", "the same for all".to_owned()),
        // Large enough for files of their own.
        ("large.txt", format!("large {seed} ").repeat(900)),
        ("long.txt", format!("long {seed} ").repeat(900)),
        ("shared.txt", "the same for all ".repeat(300)),
    ] {
        let content = FileContent {
            bytes: Bytes::from(text),
            executable: false,
        };
        files.insert(name, content).unwrap();
    }
    let mut metrics = Metrics::new();
    metrics.set_count("seed", seed).unwrap();
    BTreeMap::from([
        ("files".to_owned(), files.into()),
        ("metrics".to_owned(), metrics.into()),
    ])
}

fn outputs(seed: u64) -> BTreeMap<String, Sealed> {
    let seal = |(port, artifact): (String, Artifact)| (port, artifact.seal().unwrap());
    artifacts(seed).into_iter().map(seal).collect()
}

fn commit(store: &Store, seed: u64) -> Result<Committed, StoreError> {
    let execution = Execution::default();
    store.commit(ingredients(seed), &outputs(seed), execution, b"")
}

/// Hands a result over, with the text of its source.
fn commit_later(store: &Store, seed: u64) -> Result<Committed, StoreError> {
    let lease = store.lease(&ingredients(seed).key(), &|| false).unwrap();
    commit_leased(store, seed, lease)
}

fn commit_leased(store: &Store, seed: u64, lease: Lease) -> Result<Committed, StoreError> {
    let ingredients = ingredients(seed);
    let text = Bytes::from(format!("source of {}", seed % 3));
    let extra = vec![(text.digest(), text)];
    let execution = Execution::default();
    store.commit_later(ingredients, &outputs(seed), execution, b"log", extra, lease)
}

/// What is wrong with the store: hits that do not open, or open to something else.
fn wrong_hits(store: &Store) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, _) in store.keys() {
        let Some(record) = store.lookup(&key).unwrap() else {
            continue;
        };
        let Some(whole) = store.record(&key) else {
            wrong.push(format!("{key}: a hit without ingredients"));
            continue;
        };
        if whole.outputs != record.outputs {
            wrong.push(format!("{key}: a hit with other outputs"));
        }
        for (port, expected) in artifacts(whole.ingredients.seed) {
            match store.open_artifact(&record.outputs[&port]) {
                Ok(found) if found == expected => {}
                Ok(_) => wrong.push(format!("{key} {port}: another artifact")),
                Err(error) => wrong.push(format!("{key} {port}: {error}")),
            }
        }
    }
    wrong
}

/// A directory in memory where there is one: the sweeps build thousands of small files.
fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn open(root: &Path) -> Store {
    Store::open(root, Durability::None).unwrap()
}
