//! How long the store takes. Run with `--ignored --nocapture`, preferably in a release build.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use natron_artifacts::{Artifact, Bytes, FileContent, Files, Metrics, Sealed};
use natron_cache::{Durability, Execution, Ingredients, StageKey, Store};
use nix::sys::resource::{UsageWho, getrusage};

fn ingredients(n: u64) -> Ingredients {
    let mut ingredients = Ingredients::new("command", "0123456789abcdef0123456789abcdef");
    ingredients.parameters = serde_json::json!({
        "command": ["sh", "-c", format!("echo {n} > out.txt")], "outputs": {"out": "out.txt"},
    })
    .into();
    ingredients
}

fn outputs(n: u64) -> BTreeMap<String, Sealed> {
    let mut files = Files::new();
    let content = FileContent {
        bytes: Bytes::from(format!("result {n}\n")),
        executable: false,
    };
    files.insert("out.txt", content).unwrap();
    let mut metrics = Metrics::new();
    metrics.set_count("n", n).unwrap();
    BTreeMap::from([
        ("files".to_owned(), Artifact::from(files).seal().unwrap()),
        (
            "metrics".to_owned(),
            Artifact::from(metrics).seal().unwrap(),
        ),
    ])
}

/// Hands over the results `from..to`; what is measured is the hand-over and the flush, not the making of the results.
fn fill(store: &Store, from: u64, to: u64) -> (Duration, Duration) {
    let results: Vec<_> = (from..to)
        .map(|n| (ingredients(n), outputs(n)))
        .map(|(ingredients, outputs)| (ingredients.key(), ingredients, outputs))
        .collect();
    let since = (Instant::now(), processor());
    for (key, ingredients, outputs) in results {
        let lease = store.try_lease(&key).unwrap();
        let execution = Execution::default();
        store
            .commit_later(ingredients, &outputs, execution, b"", Vec::new(), lease)
            .unwrap();
    }
    store.flush().unwrap();
    (since.0.elapsed(), processor().checked_sub(since.1).unwrap())
}

/// Processor time of this process until now.
fn processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time =
        |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec() as u64, t.tv_usec() as u32 * 1_000);
    time(usage.user_time()) + time(usage.system_time())
}

fn microseconds(total: Duration, n: u64) -> f64 {
    total.as_secs_f64() * 1e6 / n as f64
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let folder = tempfile::tempdir_in(std::env::var("NATRON_SPEED").unwrap_or("/tmp".into()));
    let folder = folder.unwrap();
    let mut say = std::io::stdout();
    let root: &Path = folder.path();
    let mut records = 0;
    for to in [1_000, 10_000, 100_000] {
        let store = Store::open(root, Durability::Full).unwrap();
        let (mut took, mut busy) = (Duration::ZERO, Duration::ZERO);
        let n = to - records;
        while records < to {
            let next = (records + 1_000).min(to);
            let (elapsed, processor) = fill(&store, records, next);
            took += elapsed;
            busy += processor;
            records = next;
        }
        let (commit, busy) = (microseconds(took, n), microseconds(busy, n));
        drop(store);
        let mut opened: Vec<_> = (0..5)
            .map(|_| {
                let since = Instant::now();
                drop(Store::open(root, Durability::Full).unwrap());
                since.elapsed()
            })
            .collect();
        opened.sort();
        let store = Store::open(root, Durability::Full).unwrap();
        let keys: Vec<StageKey> = (0..1_000)
            .map(|i| ingredients(i * 7_919 % to).key())
            .collect();
        let mut each = |what: &str, action: &dyn Fn(&StageKey)| {
            let mut best = Duration::MAX;
            for _ in 0..5 {
                let since = Instant::now();
                keys.iter().for_each(action);
                best = best.min(since.elapsed());
            }
            writeln!(say, "  {what}: {:.2} us", microseconds(best, 1_000)).unwrap();
        };
        each("lookup", &|key| {
            assert!(store.lookup(key).unwrap().is_some());
        });
        each("lookup_fresh", &|key| {
            assert!(store.lookup_fresh(key).unwrap().is_some());
        });
        each("record", &|key| {
            assert!(store.record(key).is_some());
        });
        each("lookup and read of all objects", &|key| {
            let hit = store.lookup(key).unwrap().unwrap();
            for manifest in hit.outputs.values() {
                store.read(&manifest.files[0].digest).unwrap();
            }
        });
        each("lease", &|key| drop(store.try_lease(key).unwrap()));
        let opened = opened[2].as_secs_f64() * 1e3;
        writeln!(
            say,
            "{to} records: {commit:.1} us ({busy:.1} of processors) per result handed over and flushed; opened in {opened:.2} ms"
        )
        .unwrap();
    }
}
