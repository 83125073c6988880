//! No text makes the front half panic.

use natron_runner::{LoadOptions, load_text};
use proptest::prelude::*;

use crate::toys;

const GOOD: &str = r#"
[pipeline]
name = "all-of-it"
seed = 42
numeric = "portable"
tokens = { license = 2 }

[params]
rows = 300
price = 1.5
folds = [0, 1]
where = { deep = "${params.rows}" }
quick = true

[stages.load]
uses = "load.synthetic"
with = { rows = "${params.where.deep}", start_price = 2e4 }
views.candles = "out/candles.arrow"

[stages.features]
uses = "features"
inputs.candles = "load"

[stages.train]
uses = "toy.train"
inputs = { features = "features.features" }
with.epochs = 3
with.layers = [1, 2]
with.optimizer = { rate = 1e-3, name = "momentum" }
matrix = { fold = "${params.folds}", rate = [0.1, 1e-4], zip = [["fold", "rate"]], include = [{ fold = 7, rate = 0.0 }], exclude = [{ fold = 0 }] }
resources = { threads = "all", memory = "1 GiB", gpu = "auto", tokens = { license = 1 } }
retries = 1
timeout = "1h30m"
when = "${params.quick}"
seed_axes = ["fold"]
salt = "x"

[stages.evaluate]
uses = "toy.evaluate"
inputs.model = "train[fold=7].model"
matrix.rate = [0.0]

[stages.sum]
uses = "toy.summarize"
inputs.results = ["evaluate[*]", "train[rate=*,fold=*].log"]

[stages.plug]
uses = "command"
with = { run = ["cat", "${inputs.x}", "$${HOME}", "n=${params.price}"], outputs = { x = "file" } }
inputs.x = { file = "Cargo.toml" }

[stages.sampled]
uses = "toy.train"
inputs.features = { from = "features", columns = ["rsi_14"], window = { from_time = "2024-01-01", to_time = "2024-03" } }
with.epochs = 1
matrix = { lr = { min = 1e-5, max = 1e-2, scale = "log" }, n = { min = 1, max = 9 }, kind = { values = ["a", "b"] }, sample = { method = "lhs", n = 3, seed = 1 } }
when = "${matrix.kind} == 'a' or not ${matrix.n} in [1, 2, 3] and ${params.quick}"
retries = { times = 2, backoff = "1s", memory_growth = 2.0 }

[stages.listed]
uses = "toy.train"
inputs.features = { from = "features", window = "${matrix.month}" }
with.epochs = 1
matrix = { month = { from = "load.candles", partition = "month" }, fold = { from = "load.statistics", path = "folds" } }

[profiles.quick.params]
rows = 10

[profiles.quick.stages.train.with]
epochs = 1
"#;

fn options() -> LoadOptions {
    LoadOptions {
        workspace: env!("CARGO_MANIFEST_DIR").into(),
        ..LoadOptions::default()
    }
}

fn load(text: &str) -> Result<(), Vec<String>> {
    let graph = load_text("fuzz.toml", text, &options(), &toys::registry());
    match graph {
        Ok(_) => Ok(()),
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "an error without a mistake: {text}");
            for mistake in &mistakes {
                let label = mistake.primary().unwrap();
                assert!(
                    label.file.text.get(label.span.clone()).is_some(),
                    "{mistake}"
                );
            }
            Err(mistakes.iter().map(ToString::to_string).collect())
        }
    }
}

#[test]
fn the_whole_file_is_good() {
    assert_eq!(load(GOOD), Ok(()));
}

#[test]
fn survives_every_truncation() {
    for end in 0..GOOD.len() {
        let _ = load(&GOOD[..end]);
        let _ = load(&GOOD[end..]);
    }
}

#[test]
fn survives_every_missing_line() {
    let lines: Vec<&str> = GOOD.lines().collect();
    for missing in 0..lines.len() {
        let mut rest = lines.clone();
        rest.remove(missing);
        let _ = load(&rest.join("\n"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn survives_changed_bytes(
        changes in prop::collection::vec((0..GOOD.len(), any::<u8>()), 1..4)
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = load(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn survives_swapped_words(first in 0..200_usize, second in 0..200_usize) {
        let mut words: Vec<&str> = GOOD.split_inclusive([' ', '\n', '.', '"']).collect();
        let n = words.len();
        words.swap(first % n, second % n);
        let _ = load(&words.concat());
    }

    #[test]
    fn survives_any_assignment(set in ".{0,30}", key in "(params|load|train|stages|pipeline)(\\.[a-z0-9]{1,8}){0,3}", value in ".{0,12}") {
        for set in [set, format!("{key}={value}")] {
            let options = LoadOptions { sets: vec![set], ..options() };
            let _ = load_text("fuzz.toml", GOOD, &options, &toys::registry());
        }
    }
}
