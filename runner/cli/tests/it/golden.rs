//! The pipeline of reference values, and what `features` says of itself.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::natron::natron;

const PIPELINE: &str = include_str!("../../../../pipelines/golden.toml");

/// The folder of reference values, where there is one.
fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("shared"));
    let named = std::env::var_os("NATRON_SHARED").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(beside)
        .find(|folder| folder.join("golden/indicators.csv").is_file());
    #[expect(clippy::print_stderr, reason = "a test that skips says so")]
    if found.is_none() {
        eprintln!(
            "skipped: no folder `shared` with reference values beside the workspace; name one with NATRON_SHARED"
        );
    }
    found
}

/// The cells of a CSV file without quotes, by column.
fn columns(path: &Path) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let mut columns = vec![Vec::new(); names.len()];
    for line in lines {
        for (column, cell) in columns.iter_mut().zip(line.split(',')) {
            column.push(cell.to_owned());
        }
    }
    names.into_iter().map(str::to_owned).zip(columns).collect()
}

#[test]
fn exported_columns_are_the_reference_values() {
    let Some(shared) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pipelines")).unwrap();
    fs::write(folder.path().join("pipelines/golden.toml"), PIPELINE).unwrap();
    let data = shared.join("golden/eurusd_h1_input.csv");
    let data = format!("params.data={}", data.display());

    natron(folder.path(), &["run", "--set", &data]).expect(0);

    let mut wrong = Vec::new();
    for (stage, file) in [("features", "indicators.csv"), ("labels", "labels.csv")] {
        let export = ["export", stage, "--set", &data, "-o", file];
        natron(folder.path(), &export).expect(0);
        let found = columns(&folder.path().join(file));
        let golden = columns(&shared.join("golden").join(file));
        assert_eq!(
            found.len(),
            golden.len(),
            "the time stands for the row's number"
        );
        for (name, expected) in golden.iter().filter(|(name, _)| *name != "row") {
            let values = &found[name];
            assert_eq!(values.len(), expected.len(), "{name}");
            let size = expected
                .iter()
                .filter_map(|cell| cell.parse::<f64>().ok())
                .fold(0.0_f64, |size, x| size.max(x.abs()));
            let is_far = |(a, b): (&String, &String)| match (a.parse::<f64>(), b.parse::<f64>()) {
                (Ok(a), Ok(b)) => (a - b).abs() > 1e-9 * a.abs().max(b.abs()) + 1e-12 * size,
                _ => a.is_empty() != b.is_empty(),
            };
            let far = values
                .iter()
                .zip(expected)
                .filter(|pair| is_far(*pair))
                .count();
            // The edges of price bins and equal ranks are decided by rounding.
            let allowed = match name.as_str() {
                name if name.starts_with("vp_") => values.len() / 200,
                "bb1_bandwidth_pctrank_100" => 1,
                _ => 0,
            };
            if far > allowed {
                wrong.push(format!("{name}: {far} rows"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn indicators_are_listed_for_readers_and_programs() {
    let folder = tempfile::tempdir().unwrap();
    let list = ["stages", "features", "--indicators"];

    let text = natron(folder.path(), &list).expect(0).stdout;
    let json = natron(folder.path(), &[&list[..], &["--json"]].concat())
        .expect(0)
        .json();

    assert!(text.contains("rsi(x, period = 14)"), "{text}");
    assert!(text.contains("if(condition, then, otherwise)"), "{text}");
    let macd = json["indicators"].as_array().unwrap().iter();
    let macd = macd.clone().find(|one| one["name"] == "macd").unwrap();
    assert_eq!(macd["arguments"][1]["default"], 12.0);
    assert_eq!(macd["outputs"][1]["name"], "signal");
    for field in ["definition", "source", "call"] {
        assert!(!macd[field].as_str().unwrap().is_empty(), "{field}");
    }
    natron(folder.path(), &["stages", "finetune", "--indicators"]).expect(2);
}

#[test]
fn a_mistake_in_an_expression_is_marked_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pipelines")).unwrap();
    let text = "\
[stages.candles]
uses = \"load.candles\"

[stages.features]
uses = \"features\"
inputs.candles = \"candles.candles\"
with.columns.momentum = \"close / sma(clsoe, 20) - 1\"
";
    fs::write(folder.path().join("pipelines/p.toml"), text).unwrap();

    let found = natron(folder.path(), &["check"]).expect(2).stderr;

    assert!(found.contains("p.toml:7:38"), "{found}");
    assert!(
        found.contains("`clsoe` is neither a column of the candles nor a feature"),
        "{found}"
    );
    assert!(found.contains("did you mean `close`?"), "{found}");
    let marked = found.lines().find(|line| line.contains('^')).unwrap();
    assert_eq!(marked.matches('^').count(), 5, "{found}");
}
