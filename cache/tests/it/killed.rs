//! Writers that are killed, and rivals for one key.

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use natron_cache::{Durability, Store};

use crate::{commit, commit_later, commit_leased, ingredients, open, wrong_hits};

const ROOT: &str = "NATRON_TEST_STORE";
const JOB: &str = "NATRON_TEST_JOB";
const RIVALS_KEY: u64 = 7;
const SHARED_KEYS: u64 = 40;

/// Not a test: what the children of the tests below do.
#[test]
#[ignore = "only as a child of other tests"]
fn child() {
    let (Some(root), Ok(job)) = (env::var_os(ROOT), env::var(JOB)) else {
        return;
    };
    let store = Store::open(Path::new(&root), Durability::Full).unwrap();
    let first: u64 = job.trim_start_matches("rival").parse().unwrap_or(0);
    if job.starts_with("rival") {
        let key = ingredients(RIVALS_KEY).key();
        let _lease = store.lease(&key, &|| false).unwrap();
        if store.lookup_fresh(&key).unwrap().is_none() {
            thread::sleep(Duration::from_millis(50));
            commit(&store, RIVALS_KEY).unwrap();
            fs::write(Path::new(&root).join(format!("computed-{first}")), "").unwrap();
        }
        return;
    }
    if job.starts_with("sharer") {
        for seed in 0..SHARED_KEYS {
            let key = ingredients(seed).key();
            let lease = store.lease(&key, &|| false).unwrap();
            if store.lookup_fresh(&key).unwrap().is_some() {
                continue;
            }
            let name = format!("computed-{seed}-{}", std::process::id());
            fs::write(Path::new(&root).join(name), "").unwrap();
            commit_leased(&store, seed, lease).unwrap();
        }
        store.flush().unwrap();
        return;
    }
    for seed in (first..).step_by(2) {
        let key = ingredients(seed).key();
        let _lease = store.lease(&key, &|| false).unwrap();
        commit(&store, seed).unwrap();
        // What is on its way when the process is killed is lost or whole, too.
        let staged = seed + 1_000_000;
        commit_later(&store, staged).unwrap();
    }
}

fn start(root: &Path, job: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "killed::child", "--ignored", "--quiet"])
        .env(ROOT, root)
        .env(JOB, job)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_writer_leaves_nothing_wrong() {
    let root = tempfile::tempdir().unwrap();
    let mut committed = 0;
    for round in 0..12_u64 {
        let mut children = [start(root.path(), "0"), start(root.path(), "1")];
        // Moments spread over the first tenth of a second, some before the child has begun.
        thread::sleep(Duration::from_millis(5 + round * 37 % 101));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }

        let store = open(root.path());
        assert_eq!(wrong_hits(&store), Vec::<String>::new());
        assert!(store.keys().len() >= committed, "results were lost");
        committed = store.keys().len();
        for (key, _) in store.keys() {
            let record = store.lookup(&key).unwrap();
            assert!(record.is_some(), "a record without its objects");
            assert!(store.try_lease(&key).is_some(), "a lease of the dead");
        }
        // The dead are swept: only this store's own directory and lock are left.
        let left = fs::read_dir(store.root().join("tmp")).unwrap().count();
        assert_eq!(left, 2);
    }
    assert!(committed > 10, "the children committed {committed} results");
}

#[test]
fn of_rivals_for_a_key_one_computes_and_all_have_the_result() {
    let root = tempfile::tempdir().unwrap();
    let mut children: Vec<_> = (0..6)
        .map(|i| start(root.path(), &format!("rival{i}")))
        .collect();
    // One that holds the lease may be killed: the others go on at once.
    children[0].kill().unwrap();
    let since = Instant::now();
    for child in &mut children[1..] {
        assert!(child.wait_timeout(since), "a child failed or hangs");
    }
    children[0].wait().unwrap();

    let store = open(root.path());
    assert!(
        store
            .lookup(&ingredients(RIVALS_KEY).key())
            .unwrap()
            .is_some()
    );
    assert!(wrong_hits(&store).is_empty());
    let computed = fs::read_dir(root.path())
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("computed-")
        })
        .count();
    assert!(computed <= 1, "{computed} computed");
}

#[test]
fn eight_processes_compute_each_key_once() {
    let root = tempfile::tempdir().unwrap();
    let since = Instant::now();
    let mut children: Vec<_> = (0..8).map(|_| start(root.path(), "sharer")).collect();
    for child in &mut children {
        assert!(child.wait_timeout(since), "a child failed or hangs");
    }

    let mut computed: Vec<String> = fs::read_dir(root.path())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter_map(|name| {
            Some(
                name.strip_prefix("computed-")?
                    .split_once('-')?
                    .0
                    .to_owned(),
            )
        })
        .collect();
    computed.sort();
    let n = computed.len();
    computed.dedup();
    assert_eq!((n, computed.len() as u64), (computed.len(), SHARED_KEYS));
    let store = open(root.path());
    assert_eq!(store.keys().len() as u64, SHARED_KEYS);
    assert!(wrong_hits(&store).is_empty());
}

#[test]
fn two_that_commit_one_key_without_a_lease_agree() {
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (open(root.path()), open(root.path()));
    thread::scope(|scope| {
        for store in [&a, &b] {
            scope.spawn(move || {
                for seed in 0..20 {
                    commit(store, seed).unwrap();
                }
            });
        }
    });

    for store in [&a, &b, &open(root.path())] {
        assert!(wrong_hits(store).is_empty());
        for seed in 0..20 {
            assert!(
                store
                    .lookup_fresh(&ingredients(seed).key())
                    .unwrap()
                    .is_some()
            );
        }
    }
}

trait WaitTimeout {
    /// Whether the child ends well within 20 s of `since`.
    fn wait_timeout(&mut self, since: Instant) -> bool;
}

impl WaitTimeout for Child {
    fn wait_timeout(&mut self, since: Instant) -> bool {
        while since.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.try_wait().unwrap() {
                return status.success();
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.kill();
        false
    }
}
