//! The store under loss of power, killed writers and rivals.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod crash_states;
mod killed;
mod torn;

use std::{collections::BTreeMap, path::Path};

use natron_artifacts::{Artifact, Bytes, FileContent, Files, Metrics, Sealed};
use natron_cache::{Committed, Durability, Execution, Ingredients, Store, StoreError};
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

/// What is wrong with the store: hits that do not open, or open to something else.
fn wrong_hits(store: &Store) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, _) in store.keys() {
        let Some(record) = store.lookup(&key).unwrap() else {
            continue;
        };
        for (port, expected) in artifacts(record.ingredients.seed) {
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
