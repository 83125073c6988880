//! Segments of records that were cut or damaged.

use std::{fs, path::PathBuf, thread, time::Duration};

use natron_cache::Store;

use crate::{commit, commit_later, ingredients, memory, open, wrong_hits};

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
    thread::sleep(Duration::from_millis(60));
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

    // Every byte of the header and the table, some of the rest.
    let table = first + 72 + 4 * 20;
    for at in (first..table).chain((table..second).step_by(37)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x21;
        fs::write(&segment, &damaged).unwrap();
        let store = open(root.path());
        let reported = store.damaged_records().unwrap();
        assert_eq!(reported.len(), 1, "flipped at {at}: {reported:?}");
        assert_eq!(reported[0].offset, first as u64);
        let found = [1, 2, 3].map(|seed| store.lookup(&ingredients(seed).key()).unwrap().is_some());
        assert!(found[0] && found[2], "flipped at {at}");
        assert!(!found[1] || at >= table, "flipped at {at}");
        // What lies behind the outputs is checked when it is read.
        let wrong = wrong_hits(&store).into_iter().filter(|wrong| {
            !wrong.contains("was damaged") && !wrong.contains("without ingredients")
        });
        assert_eq!(wrong.count(), 0, "flipped at {at}");
    }
}

#[test]
fn a_group_is_found_with_and_without_its_directory() {
    let (root, segment, whole, length) = (0..100)
        .find_map(|_| {
            let root = memory();
            let store = open(root.path());
            for seed in 0..10 {
                commit_later(&store, seed).unwrap();
            }
            store.flush().unwrap();
            let segment = segment(&store);
            let whole = fs::read(&segment).unwrap();
            let length = u32::from_le_bytes(std::array::from_fn(|i| whole[4 + i]));
            let records = u64::from_le_bytes(std::array::from_fn(|i| whole[8 + i]));
            // On a busy machine the store's thread may have made two groups of them.
            let is_one_group =
                whole.starts_with(b"\xF7ND") && u64::from(length) + records == whole.len() as u64;
            is_one_group.then_some((root, segment, whole, length as usize))
        })
        .expect("ten results are never one group");
    let hits = |store: &Store| {
        let found = |seed: &u64| store.lookup(&ingredients(*seed).key()).unwrap().is_some();
        (0..10).filter(found).count()
    };

    for at in (0..length).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x21;
        fs::write(&segment, &damaged).unwrap();
        let store = open(root.path());
        assert_eq!(hits(&store), 10, "flipped at {at}");
        assert!(wrong_hits(&store).is_empty());
        assert!(!store.damaged_records().unwrap().is_empty());
    }
    let mut last = 0;
    for cut in (length..whole.len()).step_by(61) {
        fs::write(&segment, &whole[..cut]).unwrap();
        let store = open(root.path());
        let found = hits(&store);
        assert!(found >= last, "cut at {cut}");
        assert!(wrong_hits(&store).is_empty(), "cut at {cut}");
        last = found;
    }
    assert!(last >= 8, "{last}");
    // A result that holds a whole segment cannot pass for records.
    let mut elsewhere = vec![0; 5];
    elsewhere.extend(&whole);
    fs::write(&segment, &elsewhere).unwrap();
    assert_eq!(hits(&open(root.path())), 0);
    let renamed = segment.with_file_name("another.seg");
    fs::write(&segment, b"").unwrap();
    fs::write(&renamed, &whole).unwrap();
    assert_eq!(hits(&open(root.path())), 0);
}
