//! Segments of records that were cut or damaged.

use std::{fs, path::PathBuf};

use natron_cache::Store;

use crate::{commit, ingredients, memory, open, wrong_hits};

fn segment(store: &Store) -> PathBuf {
    let mut entries = fs::read_dir(store.root().join("ac")).unwrap();
    entries.next().unwrap().unwrap().path()
}

#[test]
fn a_record_cut_at_any_byte_hides_no_other() {
    let root = memory();
    let store = open(root.path());
    for seed in [1, 2] {
        commit(&store, seed).unwrap();
    }
    let segment = segment(&store);
    let first_two = fs::read(&segment).unwrap().len();
    commit(&store, 3).unwrap();
    let whole = fs::read(&segment).unwrap();
    drop(store);

    for cut in first_two..=whole.len() {
        fs::write(&segment, &whole[..cut]).unwrap();
        let store = open(root.path());
        let found = [1, 2, 3].map(|seed| store.lookup(&ingredients(seed).key()).unwrap().is_some());
        assert_eq!(found, [true, true, cut == whole.len()], "cut at {cut}");
        // Nobody touches another writer's segment.
        assert_eq!(fs::read(&segment).unwrap().len(), cut);
    }
    // A record that arrives in two pieces is found by whoever saw the first one.
    fs::write(&segment, &whole[..first_two + 40]).unwrap();
    let store = open(root.path());
    assert!(store.lookup(&ingredients(3).key()).unwrap().is_none());
    fs::write(&segment, &whole).unwrap();
    assert!(store.lookup_fresh(&ingredients(3).key()).unwrap().is_some());
}

#[test]
fn a_damaged_record_hides_no_other() {
    let root = memory();
    let store = open(root.path());
    commit(&store, 1).unwrap();
    let segment = segment(&store);
    let first = fs::read(&segment).unwrap().len();
    commit(&store, 2).unwrap();
    let second = fs::read(&segment).unwrap().len();
    commit(&store, 3).unwrap();
    let whole = fs::read(&segment).unwrap();
    drop(store);

    // Every byte of the header, some of the body.
    for at in (first..first + 60).chain((first + 60..second).step_by(97)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x21;
        fs::write(&segment, &damaged).unwrap();
        let store = open(root.path());
        let found = [1, 2, 3].map(|seed| store.lookup(&ingredients(seed).key()).unwrap().is_some());
        assert_eq!(found, [true, false, true], "flipped at {at}");
        assert!(wrong_hits(&store).is_empty());
    }
}
