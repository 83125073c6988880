//! The Python example in `examples/python_stage`, its stage as the pipeline file has it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use natron_artifacts::{
    Artifact, Column, ColumnType, Kind, PortSchema, Schemas, StageContext, StageContextParts, Table,
};
use serde_json::Value;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python_stage")
}

/// Whether the example can run here.
fn has_pyarrow() -> bool {
    Command::new("python3")
        .args(["-c", "import pyarrow"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn candles() -> Table {
    let column = |name: &str| Column::new(name, ColumnType::F64);
    let close: Vec<f64> = (0..40).map(|i| 100.0 + f64::from(i)).collect();
    Table::builder()
        .time_index((0..40).map(|i| i * 3_600_000_000_000).collect())
        .f64(column("high"), close.iter().map(|c| c * 1.25).collect())
        .f64(column("low"), close.iter().map(|c| c * 0.75).collect())
        .f64(column("close"), close)
        .build()
        .expect("the columns have one length")
}

#[test]
fn the_python_example_reads_and_writes_arrow() {
    if !has_pyarrow() {
        eprintln!("skipped: `python3 -c 'import pyarrow'` fails; `pip install pyarrow` mends it");
        return;
    }
    let text = fs::read_to_string(example().join("pipelines/ranges.toml")).unwrap();
    let pipeline: Value = toml::from_str(&text).unwrap();
    let with = &pipeline["stages"]["ranges"]["with"];
    let registry = natron_stages::registry();
    let stage = registry.get("command").unwrap().parse(with).unwrap().stage;
    let directory = tempfile::tempdir().unwrap();
    let mut parts = StageContextParts::for_test(directory.path()).input("candles", candles());
    let mut schemas = Schemas::new();
    schemas.push("candles", PortSchema::of(Kind::Table));
    let signature = stage.signature(&schemas).unwrap();
    for source in &signature.sources {
        let path = example().join(&source.path);
        parts.sources.insert(source.name.clone(), path);
    }

    let mut context = StageContext::new(parts, signature);
    stage.run(&mut context).unwrap();
    let outputs = context.finish().unwrap();
    let Artifact::Table(ranges) = &outputs["ranges"] else {
        panic!("the output is a table");
    };

    assert_eq!(ranges.ts_ns().unwrap(), candles().ts_ns().unwrap());
    let means = ranges.f64("mean_range").unwrap();
    assert!(means[..19].iter().all(|m| m.is_nan()));
    for value in ranges
        .f64("relative_range")
        .unwrap()
        .iter()
        .chain(&means[19..])
    {
        assert!((value - 0.5).abs() < 1e-15, "{value}");
    }
}
