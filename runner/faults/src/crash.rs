//! Loss of power: the store works on a recorder, and every state that the disk may be in afterwards is opened.
//!
//! What was flushed is there; bytes and names that were not may be lost, cut, zero or there, each file and each name on its
//! own in the random part (see `natron_cache::recording`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use natron_artifacts::{Artifact, Bytes, FileContent, Files, Metrics, Sealed};
use natron_cache::{
    Durability, Execution, Ingredients, StageKey, Store, StoreError,
    collect::{Policy, Roots, collect},
    recording::{Effect, Image, Recorder, crash_states_from, random_crash_states},
};

use crate::{
    Checked, Dice, While,
    playground::files_below,
    sweep::{Family, Plan, Tally},
};

/// What the key of the toy result `seed` is made of.
pub fn ingredients(seed: u64) -> Ingredients {
    let mut ingredients = Ingredients::new("toy", "c0de");
    ingredients.seed = seed;
    ingredients
}

/// The key of the toy result `seed`.
pub fn key(seed: u64) -> StageKey {
    ingredients(seed).key()
}

/// The toy result `seed`: a file that is long for every third, one that all share, and metrics.
pub fn artifacts(seed: u64) -> BTreeMap<String, Artifact> {
    let length = if seed.is_multiple_of(3) { 6000 } else { 20 };
    let own = format!("content of {seed} ").repeat(length / 10);
    let mut files = Files::new();
    for (name, text) in [("a.txt", own), ("b.txt", "the same for all ".repeat(300))] {
        let content = FileContent {
            bytes: Bytes::from(text),
            executable: false,
        };
        files.insert(name, content).expect("two names");
    }
    let mut metrics = Metrics::new();
    metrics.set_count("seed", seed).expect("one name");
    BTreeMap::from([
        ("files".to_owned(), files.into()),
        ("metrics".to_owned(), metrics.into()),
    ])
}

/// The same, ready to be committed.
pub fn outputs(seed: u64) -> BTreeMap<String, Sealed> {
    artifacts(seed)
        .into_iter()
        .map(|(port, artifact)| (port, artifact.seal().expect("toys are whole")))
        .collect()
}

/// Commits the toy result `seed`.
pub fn commit(store: &Store, seed: u64) -> Result<(), StoreError> {
    let execution = Execution::default();
    store
        .commit(ingredients(seed), &outputs(seed), execution, b"a log")
        .map(|_| ())
}

/// Hands the toy result `seed` over, to be kept with the next flush.
pub fn commit_later(store: &Store, seed: u64) -> Result<(), StoreError> {
    let execution = Execution::default();
    let lease = store.lease(&key(seed), &|| false).expect("nobody cancels");
    let made = outputs(seed);
    store
        .commit_later(
            ingredients(seed),
            &made,
            execution,
            b"a log",
            Vec::new(),
            lease,
        )
        .map(|_| ())
}

/// Hits that do not open, or open to something else than the toy result.
pub fn wrong_hits(store: &Store) -> Checked {
    for (key, _) in store.keys() {
        let (Some(hit), Some(record)) = (store.lookup(&key).at("lookup")?, store.record(&key))
        else {
            continue;
        };
        for (port, expected) in artifacts(record.ingredients.seed) {
            match store.open_artifact(&hit.outputs[&port]) {
                Ok(found) if found == expected => {}
                Ok(_) => return Err(format!("wrong hit: {key} {port} is another artifact")),
                Err(error) => return Err(format!("wrong hit: {key} {port}: {error}")),
            }
        }
    }
    Ok(())
}

const PROTOCOLS: [&str; 7] = [
    "commits",
    "group",
    "collect",
    "evict",
    "compact",
    "put and register",
    "quarantine",
];

/// What happened, from which effect on, and which promise frees from others.
struct Recorded {
    effects: Vec<Effect>,
    first: usize,
}

fn open(storage: &Arc<Recorder>, root: &Path) -> Checked<Store> {
    let storage = Arc::clone(storage) as Arc<_>;
    Store::open_on(storage, root, Durability::Full).at("open")
}

/// Records one protocol. A mark `N` promises the result N; `free N` takes that back.
fn record(root: &Path, protocol: &str, seed: u64) -> Checked<Recorded> {
    std::fs::create_dir_all(root).at("create")?;
    let mut dice = Dice::named(seed, protocol);
    let recorder = Arc::new(Recorder::new(root));
    let mut before = Vec::new();
    if protocol == "compact" {
        // So many segments that the next one to open the store makes one of them.
        for n in 0..65 {
            let store = Store::open(root, Durability::None).at("open")?;
            if n < 4 {
                commit(&store, n).at("commit")?;
            } else {
                commit(&store, 4 + n % 3).at("commit")?;
            }
        }
        before = existing(root)?;
        before.extend((0..7).map(|n| Effect::Mark(n.to_string())));
    }
    let store = open(&recorder, root)?;
    let seeds: Vec<u64> = (0..3).map(|_| dice.below(30) as u64).collect();
    match protocol {
        "group" => {
            for &seed in &seeds {
                commit_later(&store, seed).at("commit later")?;
            }
            store.flush().at("flush")?;
            for seed in &seeds {
                recorder.mark(seed.to_string());
            }
            commit_later(&store, 77).at("commit later")?;
            commit(&store, 78).at("commit")?;
            recorder.mark("78");
        }
        "compact" => {}
        "put and register" => {
            store.put(b"some bytes").at("put")?;
            store.register(Path::new("/somewhere")).at("register")?;
            commit(&store, seeds[0]).at("commit")?;
            recorder.mark(seeds[0].to_string());
            store.register(Path::new("/somewhere")).at("register")?;
        }
        "quarantine" => {
            commit(&store, 3).at("commit")?;
            recorder.mark("3");
            let damaged = files_below(&store.root().join("cas")).at("list")?;
            for name in damaged.keys() {
                let path = store.root().join("cas").join(name);
                std::fs::remove_file(&path).at("remove")?;
                std::fs::write(&path, "something else").at("write")?;
            }
            recorder.mark("free 3");
            if let Some(hit) = store.lookup(&key(3)).at("lookup")? {
                let _ = store.open_artifact(&hit.outputs["files"]);
            }
            commit(&store, 3).at("commit")?;
            recorder.mark("3");
        }
        _ => {
            for &seed in &seeds {
                commit(&store, seed).at("commit")?;
                recorder.mark(seed.to_string());
            }
        }
    }
    if matches!(protocol, "collect" | "evict") {
        let roots = Roots {
            keys: [key(seeds[0])].into(),
            ..Roots::default()
        };
        let policy = if protocol == "evict" {
            Policy {
                max_bytes: Some(1),
                ..Policy::default()
            }
        } else {
            Policy {
                grace: Duration::ZERO,
                checkpoint_grace: Duration::ZERO,
                max_bytes: None,
            }
        };
        for seed in &seeds[1..] {
            if *seed != seeds[0] {
                recorder.mark(format!("free {seed}"));
            }
        }
        collect(&store, &roots, &policy).at("collect")?;
        commit(&store, 99).at("commit")?;
        recorder.mark("99");
    }
    drop(store);
    let first = before.len();
    before.extend(recorder.effects());
    Ok(Recorded {
        effects: before,
        first,
    })
}

/// Effects that make what is there, all flushed. Their files have numbers that no recorder gives.
fn existing(root: &Path) -> Checked<Vec<Effect>> {
    let mut effects = Vec::new();
    let mut open = vec![root.to_owned()];
    let mut number = 1_000_000;
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    while let Some(directory) = open.pop() {
        if directory != root {
            effects.push(Effect::CreateDirectory(relative(&directory)));
        }
        let mut paths: Vec<_> = std::fs::read_dir(&directory)
            .at("list")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                open.push(path);
                continue;
            }
            effects.push(Effect::Create(relative(&path), number));
            effects.push(Effect::Write(number, std::fs::read(&path).at("read")?));
            effects.push(Effect::Sync(number));
            number += 1;
        }
    }
    let directories: BTreeSet<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::CreateDirectory(path) | Effect::Create(path, _) => {
                path.parent().map(Path::to_owned)
            }
            _ => None,
        })
        .collect();
    effects.extend(directories.into_iter().map(Effect::SyncDirectory));
    Ok(effects)
}

/// Opens one state and asks everything.
fn judge(root: &Path, image: &Image, promises: &[String]) -> Checked {
    image.write_to(root).at("write the state")?;
    let store = Store::open(root, Durability::None).at("does not open")?;
    let mut promised = BTreeSet::new();
    for promise in promises {
        match promise.strip_prefix("free ") {
            Some(seed) => promised.remove(seed),
            None => promised.insert(promise.as_str()),
        };
    }
    for seed in promised.iter().filter_map(|promise| promise.parse().ok()) {
        if store.lookup(&key(seed)).at("lookup")?.is_none() {
            return Err(format!("the committed result {seed} is lost"));
        }
    }
    wrong_hits(&store)?;
    for seed in [0, 1, 78] {
        commit(&store, seed).at("committing again")?;
        if store.lookup(&key(seed)).at("lookup")?.is_none() {
            return Err(format!("committing {seed} again does not help"));
        }
    }
    drop(store);
    let again = Store::open(root, Durability::None).at("does not open again")?;
    wrong_hits(&again)
}

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "crash")?;
    let target = plan.size(1_500, 30_000) as u64;
    let mut round = 0_u64;
    while family.reached("states") < target && !family.is_over() {
        let seed = plan.seed.wrapping_add(round);
        family.each(PROTOCOLS, |protocol| {
            let place = family.folder();
            let states = record(&place, protocol, seed).map(|recorded| {
                let mut dice = Dice::named(seed, protocol);
                let Recorded { effects, first } = &recorded;
                let n = plan.size(150, 1_500);
                let mut states = if round == 0 {
                    crash_states_from(effects, *first)
                } else {
                    Vec::new()
                };
                if plan.fast {
                    let every = states.len() / 150 + 1;
                    states = states.into_iter().step_by(every).collect();
                }
                states.extend(random_crash_states(effects, *first, n, &mut |m| {
                    dice.below(m)
                }));
                states
            });
            let _ = crate::playground::remove(&place);
            let states = match states {
                Ok(states) => states,
                Err(error) => {
                    family.case::<()>(&format!("{protocol} {round}"), |_| Err(error));
                    return;
                }
            };
            family.count(&format!("states of {protocol}"), states.len() as u64);
            for (n, (image, promises)) in states.iter().enumerate() {
                if family.is_over() {
                    break;
                }
                let id = format!("{protocol} {round} {n}");
                if family
                    .case(&id, |root| judge(root, image, promises))
                    .is_some()
                {
                    family.count("states", 1);
                }
            }
        });
        round += 1;
        if round > 2 && plan.case.is_some() {
            break;
        }
    }
    Ok(family.finish())
}
