use std::collections::BTreeMap;

use natron_artifacts::{Artifact, StageContextParts, Streams};
use serde_json::{Value, json};

use super::*;

const HORIZON: u32 = 3;

/// Features and labels of `n` rows; the first 20 rows of `slow` are warm-up, the last 3 labels unknown.
fn tables(n: usize) -> (Table, Table) {
    let mut stream = Streams::new(11).stream("dataset test");
    let ts_ns: Vec<i64> = (0..n as i64).map(|i| i * 900_000_000_000).collect();
    let feature = |name: &str| Column::new(name, ColumnType::F64);
    let fast: Vec<f64> = (0..n).map(|_| 100.0 + 5.0 * stream.normal()).collect();
    let slow = (0..n)
        .map(|i| if i < 20 { f64::NAN } else { stream.normal() })
        .collect();
    let features = Table::builder()
        .time_index(ts_ns.clone())
        .f64(feature("fast").unit("price"), fast)
        .f64(feature("slow"), slow)
        .f64(feature("flat"), vec![7.0; n])
        .fact("feature_plan", json!({ "set": "test" }))
        .build()
        .unwrap();
    let mut class = |classes: u64| -> Vec<Option<i64>> {
        (0..n)
            .map(|i| (i + (HORIZON as usize) < n).then(|| stream.below(classes) as i64))
            .collect()
    };
    let label = |name: &str| Column::new(name, ColumnType::I64);
    let labels = Table::builder()
        .time_index(ts_ns)
        .i64_or_null(label("buy"), class(2))
        .i64_or_null(label("sell"), class(2))
        .i64_or_null(label("direction"), class(3))
        .i64_or_null(label("regime"), class(6))
        .fact("label_horizon_bars", HORIZON.into())
        .build()
        .unwrap();
    (features, labels)
}

fn schemas(features: &Table, labels: &Table) -> Schemas {
    let mut schemas = Schemas::new();
    schemas.push("features", PortSchema::table(features.columns().to_vec()));
    schemas.push(
        "labels",
        PortSchema::table(labels.columns().to_vec()).lookahead(HORIZON),
    );
    schemas
}

fn run(
    with: Value,
    features: Table,
    labels: Table,
    seed: u64,
) -> Result<BTreeMap<String, Artifact>, StageError> {
    let stage: Dataset = serde_json::from_value(with).unwrap();
    let signature = stage.signature(&schemas(&features, &labels))?;
    let directory = tempfile::tempdir().unwrap();
    let parts = StageContextParts {
        seed,
        ..StageContextParts::for_test(directory.path())
    };
    let parts = parts.input("features", features).input("labels", labels);
    let mut context = StageContext::new(parts, signature);
    stage.run(&mut context)?;
    context.finish()
}

fn table(outputs: &BTreeMap<String, Artifact>, port: &str) -> Table {
    match &outputs[port] {
        Artifact::Table(table) => (**table).clone(),
        other => panic!("{port} is {}", other.kind()),
    }
}

fn small() -> Value {
    json!({ "window_bars": 8, "embargo_bars": 2 })
}

fn replaced(table: &Table, name: &str, values: &[f64]) -> Table {
    let mut builder = Table::builder().time_index(table.ts_ns().unwrap().to_vec());
    for column in table.columns().iter().skip(1) {
        builder = if column.name == name {
            builder.f64(column.clone(), values.to_vec())
        } else {
            builder.column_of(table, &column.name)
        };
    }
    for (name, value) in table.facts() {
        builder = builder.fact(name, value.clone());
    }
    builder.build().unwrap()
}

#[test]
fn keeps_to_its_declaration_and_states_its_facts() {
    let (features, labels) = tables(600);

    let outputs = run(small(), features, labels, 1).unwrap();
    let (matrix, windows) = (table(&outputs, "matrix"), table(&outputs, "windows"));
    assert_eq!(matrix.fact("feature_plan"), Some(&json!({ "set": "test" })));
    assert_eq!(
        (matrix.fact("window_bars"), windows.fact("window_bars")),
        (Some(&json!(8)), Some(&json!(8)))
    );
    assert_eq!(windows.fact("label_horizon_bars"), Some(&json!(3)));
    let names: Vec<_> = windows.columns().iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "ts_ns",
            "row",
            "split",
            "buy",
            "sell",
            "direction",
            "regime",
            "train_buy",
            "train_sell"
        ]
    );
    let scaler = table(&outputs, "scaler");
    assert_eq!(scaler.utf8("feature").unwrap(), ["fast", "slow", "flat"]);
    assert_eq!(scaler.f64("scale").unwrap()[2].to_bits(), 1.0_f64.to_bits());
}

#[test]
fn windows_hold_every_feature_and_their_own_labels() {
    let (features, labels) = tables(600);
    let mut slow = features.f64("slow").unwrap().into_owned();
    slow[300] = f64::NAN;
    let features = replaced(&features, "slow", &slow);

    let outputs = run(small(), features, labels.clone(), 1).unwrap();
    let (matrix, windows) = (table(&outputs, "matrix"), table(&outputs, "windows"));
    let rows = windows.i64("row").unwrap();
    let directions = labels.i64_or_null("direction").unwrap();
    for (i, &row) in rows.iter().enumerate() {
        let row = row as usize;
        for name in ["fast", "slow", "flat"] {
            let column = matrix.f32(name).unwrap();
            assert!(
                column[row - 7..=row].iter().all(|v| v.is_finite()),
                "row {row}"
            );
        }
        assert_eq!(windows.ts_ns().unwrap()[i], matrix.ts_ns().unwrap()[row]);
        assert_eq!(Some(windows.i64("direction").unwrap()[i]), directions[row]);
    }
    assert_eq!(rows[0], 27);
    assert!(rows.iter().all(|row| !(300..308).contains(row)));
    assert!(*rows.last().unwrap() == 596);
}

#[test]
fn training_features_are_standardised_and_later_ones_with_the_same_numbers() {
    let (features, labels) = tables(600);
    let fast = features.f64("fast").unwrap().into_owned();

    let outputs = run(small(), features, labels, 1).unwrap();
    let (matrix, windows, scaler) = (
        table(&outputs, "matrix"),
        table(&outputs, "windows"),
        table(&outputs, "scaler"),
    );
    let last = windows
        .i64("split")
        .unwrap()
        .iter()
        .zip(windows.i64("row").unwrap())
        .filter(|(s, _)| **s == 0);
    let last = *last.map(|(_, row)| row).max().unwrap() as usize;
    let scaled: Vec<f64> = matrix.numbers("fast").unwrap()[..=last].to_vec();
    let mean = scaled.iter().sum::<f64>() / scaled.len() as f64;
    let variance =
        scaled.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / scaled.len() as f64;
    assert!(
        mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5,
        "{mean} {variance}"
    );
    let (mean, scale) = (
        scaler.f64("mean").unwrap()[0],
        scaler.f64("scale").unwrap()[0],
    );
    assert_eq!(
        matrix.f32("fast").unwrap()[599].to_bits(),
        (((fast[599] - mean) / scale) as f32).to_bits()
    );
}

#[test]
fn the_scaler_and_the_training_windows_do_not_see_later_rows() {
    let (features, labels) = tables(600);
    let before = run(small(), features.clone(), labels.clone(), 1).unwrap();
    let windows = table(&before, "windows");
    let is_training = |i: &usize| windows.i64("split").unwrap()[*i] == 0;
    let last = (0..windows.n_rows()).filter(is_training).max().unwrap();
    let last_row = windows.i64("row").unwrap()[last] as usize;
    for (factor, from) in [(1e6, last_row + 1), (-3.0, last_row + 1), (1e6, 500)] {
        let mut fast = features.f64("fast").unwrap().into_owned();
        fast[from..].iter_mut().for_each(|v| *v *= factor);
        let after = run(
            small(),
            replaced(&features, "fast", &fast),
            labels.clone(),
            1,
        )
        .unwrap();

        assert_eq!(table(&after, "scaler"), table(&before, "scaler"));
        assert_eq!(table(&after, "windows"), windows);
        let (a, b) = (table(&after, "matrix"), table(&before, "matrix"));
        assert_eq!(
            a.f32("fast").unwrap()[..from],
            b.f32("fast").unwrap()[..from]
        );
    }
    // The row before the last training row does count.
    let mut fast = features.f64("fast").unwrap().into_owned();
    fast[last_row] *= 2.0;
    let after = run(small(), replaced(&features, "fast", &fast), labels, 1).unwrap();
    assert_ne!(table(&after, "scaler"), table(&before, "scaler"));
}

#[test]
fn balancing_is_seeded_and_touches_the_training_split_alone() {
    let (features, labels) = tables(900);
    let windows = |seed| {
        table(
            &run(small(), features.clone(), labels.clone(), seed).unwrap(),
            "windows",
        )
    };

    let (one, again, two) = (windows(1), windows(1), windows(2));
    assert_eq!(one, again);
    assert_ne!(one.i64("train_buy").unwrap(), two.i64("train_buy").unwrap());
    let splits = one.i64("split").unwrap();
    for (label, trained) in [("buy", "train_buy"), ("sell", "train_sell")] {
        let (label, trained) = (one.i64(label).unwrap(), one.i64(trained).unwrap());
        let training = splits.iter().filter(|s| **s == 0).count();
        assert_eq!(label[training..], trained[training..]);
        let share = trained[..training].iter().sum::<i64>() as f64 / training as f64;
        // From half to 35 % by balancing; then 2 % are inverted, of which about 65 % are zeros.
        assert!((0.33..0.38).contains(&share), "{share}");
        assert!(label[..training].iter().sum::<i64>() > trained[..training].iter().sum());
    }
    let fact = one.fact("balancing").unwrap();
    let number = |name: &str| fact[name].as_f64().unwrap();
    let training = splits.iter().filter(|s| **s == 0).count();
    for (label, trained, kept) in [
        ("buy", "train_buy", "kept_share_buy"),
        ("sell", "train_sell", "kept_share_sell"),
    ] {
        let sum = |name: &str| one.i64(name).unwrap()[..training].iter().sum::<i64>() as f64;
        // What is kept of the positives, less and plus what is inverted, is what is trained on; the labels inverted are
        // chosen by chance.
        let (n, flip) = (training as f64, number("flip_share"));
        let positives = sum(label) * number(kept);
        let expected = positives + flip * (n - 2.0 * positives);
        assert!((sum(trained) - expected).abs() < 0.02 * n, "{kept}");
        assert!((flip - 0.02).abs() < 1.0 / n && number(kept) < 0.8);
    }
    let untouched = json!({ "window_bars": 8, "balancing": { "target_share": 1.0, "perturbation_share": 0.0 } });
    let plain = table(&run(untouched, features, labels, 1).unwrap(), "windows");
    assert_eq!(plain.i64("train_buy").unwrap(), plain.i64("buy").unwrap());
    assert_eq!(
        plain.fact("balancing"),
        Some(&json!({ "kept_share_buy": 1.0, "kept_share_sell": 1.0, "flip_share": 0.0 }))
    );
}

#[test]
fn statistics_count_what_was_left_out() {
    let (features, labels) = tables(600);
    let outputs = run(small(), features, labels, 1).unwrap();
    let windows = table(&outputs, "windows");
    let Artifact::Metrics(statistics) = &outputs["statistics"] else {
        panic!("no metrics")
    };
    let get = |path: &str| {
        statistics
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing"))
    };

    assert!((get("left_out.without_features") - 27.0).abs() < 0.1);
    assert!((get("left_out.without_labels") - 3.0).abs() < 0.1);
    let kept = get("windows.train") + get("windows.validation") + get("windows.test");
    assert!((kept - windows.n_rows() as f64).abs() < 0.1);
    let all = kept
        + get("left_out.at_borders")
        + get("left_out.without_features")
        + get("left_out.without_labels");
    assert!((all - 600.0).abs() < 0.1);
    // 11 bars of purge twice and 2 of embargo twice.
    assert!((get("left_out.at_borders") - 26.0).abs() < 0.1);
    let shares: f64 = (0..3)
        .map(|class| get(&format!("shares.test.direction.class_{class}")))
        .sum();
    assert!((shares - 1.0).abs() < 1e-12);
    assert!(get("balancing.buy.changed_share") > 0.1);
    assert!((get("constant_features") - 1.0).abs() < 0.1);
}

#[test]
fn too_few_rows_are_said_with_numbers() {
    let (features, labels) = tables(100);

    let error = run(json!({}), features, labels, 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("100 rows give 0 windows of 96 bars"),
        "{error}"
    );
    let help = error.help().unwrap().to_owned();
    let needed: usize = help.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(help.contains("`slow`, on 20 rows"), "{help}");
    // 115 rows give none, 3 have no label, the others all.
    let (features, labels) = tables(needed + 20);
    assert!(run(json!({}), features, labels, 1).is_ok(), "{help}");
}

#[test]
fn mistakes_are_found_while_planning() {
    let (features, labels) = tables(50);
    let plan = |with: Value, schemas: &Schemas| {
        let stage: Dataset = serde_json::from_value(with).unwrap();
        stage.signature(schemas).unwrap_err()
    };
    let known = schemas(&features, &labels);
    for (with, parameter) in [
        (json!({ "purge_bars": 2 }), "purge_bars"),
        (json!({ "window_bars": 0 }), "window_bars"),
        (json!({ "test_share": 1.0 }), "test_share"),
        (
            json!({ "balancing": { "trigger": 0.5 } }),
            "balancing.trigger",
        ),
    ] {
        let error = plan(with, &known);
        assert!(
            matches!(&error, StageError::Parameters { parameter: p, .. } if p == parameter),
            "{error}"
        );
    }
    let mut leaking = Schemas::new();
    leaking.push(
        "features",
        PortSchema::table(features.columns().to_vec()).lookahead(1),
    );
    assert!(
        plan(json!({}), &leaking)
            .to_string()
            .contains("look 1 bars ahead")
    );
}

#[test]
fn columns_undefined_throughout_are_named_or_dropped() {
    let (features, labels) = tables(600);
    let features = replaced(&features, "slow", &[f64::NAN; 600]);

    let error = run(small(), features.clone(), labels.clone(), 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no window holds every feature: undefined on each of the 600 rows is `slow`"
    );
    let help = error.help().unwrap();
    assert!(
        help.contains("no number of rows") && help.contains("undefined_columns = \"drop\""),
        "{help}"
    );

    let with = json!({ "window_bars": 8, "embargo_bars": 2, "undefined_columns": "drop" });
    let stage: Dataset = serde_json::from_value(with.clone()).unwrap();
    let signature = stage.signature(&schemas(&features, &labels)).unwrap();
    assert_eq!(
        signature.output_port("matrix").unwrap().schema.columns,
        None
    );
    let outputs = run(with, features.clone(), labels, 1).unwrap();
    let (matrix, scaler) = (table(&outputs, "matrix"), table(&outputs, "scaler"));
    let names: Vec<_> = matrix.columns().iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["ts_ns", "fast", "flat"]);
    assert_eq!(scaler.utf8("feature").unwrap(), ["fast", "flat"]);
    let flat = features.f64("flat").unwrap()[0];
    assert!((scaler.f64("mean").unwrap()[1] - flat).abs() < 1e-12);
    assert!(matrix.f32("flat").unwrap().iter().all(|v| v.abs() < 1e-6));
    assert_eq!(table(&outputs, "windows").i64("row").unwrap()[0], 7);
    let Artifact::Metrics(statistics) = &outputs["statistics"] else {
        panic!("no metrics")
    };
    assert_eq!(statistics.get("dropped_features"), Some(1.0));
    assert_eq!(statistics.get("features"), Some(2.0));
}

#[test]
fn what_is_dropped_does_not_depend_on_validation_or_test() {
    let (features, labels) = tables(600);
    let with = json!({ "window_bars": 8, "undefined_columns": "drop" });
    let late = |from: usize| -> Vec<f64> {
        (0..600)
            .map(|row| if row < from { f64::NAN } else { row as f64 })
            .collect()
    };
    let names = |slow: &[f64]| -> Vec<String> {
        let features = replaced(&features, "slow", slow);
        let outputs = run(with.clone(), features, labels.clone(), 1).unwrap();
        let scaler = table(&outputs, "scaler");
        let kept = scaler.utf8("feature").unwrap();
        kept.into_iter().map(str::to_owned).collect()
    };

    assert_eq!(names(&late(500)), ["fast", "flat"]);
    assert_eq!(names(&late(100)), ["fast", "slow", "flat"]);

    let mut nothing = features.clone();
    for name in ["fast", "slow", "flat"] {
        nothing = replaced(&nothing, name, &[f64::NAN; 600]);
    }
    let error = run(with.clone(), nothing, labels.clone(), 1).unwrap_err();
    assert!(error.to_string().starts_with("every feature is undefined"));
}

#[test]
fn candles_without_volume_become_windows() {
    let (loaded, load) = stage_of("load.synthetic", &json!({ "rows": 2000 }), &[]);
    let candles = replaced(&table(&loaded, "candles"), "volume", &[0.0; 2000]);
    let candles = Artifact::from(candles);
    let candles = (
        "candles",
        &candles,
        &load.output_port("candles").unwrap().schema,
    );
    let (featured, features) = stage_of("features", &json!({ "set": "natron_v2" }), &[candles]);
    let (labelled, labels) = stage_of("labels.natron_v2", &json!({}), &[candles]);
    let inputs = [
        (
            "features",
            &featured["features"],
            &features.output_port("features").unwrap().schema,
        ),
        (
            "labels",
            &labelled["labels"],
            &labels.output_port("labels").unwrap().schema,
        ),
    ];

    let (outputs, _) = stage_of("dataset", &json!({ "undefined_columns": "drop" }), &inputs);

    let Artifact::Metrics(statistics) = &outputs["statistics"] else {
        panic!("no metrics")
    };
    let dropped = statistics.get("dropped_features").unwrap();
    assert!((1.0..20.0).contains(&dropped), "{}", statistics.to_json());
    assert!(statistics.get("windows.train").unwrap() > 500.0);
}

#[test]
fn candles_that_look_ahead_are_refused_behind_the_features() {
    let mut inputs = Schemas::new();
    inputs.push("candles", PortSchema::of(Kind::Table).lookahead(5));
    let registry = crate::registry();
    let features = registry.get("features").unwrap();
    let features = features.parse(&json!({ "set": "natron_v2" })).unwrap();
    let features = features.stage.signature(&inputs).unwrap();
    let mut planned = Schemas::new();
    let schema = &features.output_port("features").unwrap().schema;
    planned.push("features", schema.clone());

    let stage: Dataset = serde_json::from_value(small()).unwrap();
    let error = stage.signature(&planned).unwrap_err();
    assert!(error.to_string().contains("look 5 bars ahead"), "{error}");
}

#[test]
fn the_horizon_of_the_table_does_not_hide_a_longer_declared_one() {
    let (features, labels) = tables(600);
    let known = schemas(&features, &labels);
    let stage: Dataset = serde_json::from_value(small()).unwrap();
    let port = PortSchema::table(labels.columns().to_vec());
    for (declared, horizon) in [(HORIZON + 5, HORIZON + 5), (1, HORIZON)] {
        let mut planned = Schemas::new();
        planned.push("features", known.get("features").unwrap().clone());
        planned.push("labels", port.clone().lookahead(declared));
        let signature = stage.signature(&planned).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let parts = StageContextParts::for_test(directory.path())
            .input("features", features.clone())
            .input("labels", labels.clone());
        let mut context = StageContext::new(parts, signature);

        stage.run(&mut context).unwrap();

        let outputs = context.finish().unwrap();
        let windows = table(&outputs, "windows");
        assert_eq!(windows.fact("label_horizon_bars"), Some(&json!(horizon)));
        let Artifact::Metrics(statistics) = &outputs["statistics"] else {
            panic!("no metrics")
        };
        assert_eq!(
            statistics.get("purge_bars"),
            Some(f64::from(horizon + 8)),
            "the window and the horizon"
        );
    }
}

#[test]
fn tables_that_do_not_belong_together_are_refused() {
    let (features, labels) = tables(600);
    let (_, shorter) = tables(599);
    let error = run(small(), features.clone(), shorter, 1).unwrap_err();
    assert!(
        error.to_string().contains("600 rows and labels 599"),
        "{error}"
    );

    let mut fast = features.f64("fast").unwrap().into_owned();
    fast[17] = f64::INFINITY;
    let error = run(small(), replaced(&features, "fast", &fast), labels, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "row 17, column `fast`: the feature is infinite"
    );
}

/// The outputs of `kind` for these inputs, planned and run as the runner does.
fn stage_of(
    kind: &str,
    with: &Value,
    inputs: &[(&str, &Artifact, &PortSchema)],
) -> (BTreeMap<String, Artifact>, Signature) {
    let registry = crate::registry();
    let stage = registry.get(kind).unwrap().parse(with).unwrap().stage;
    let directory = tempfile::tempdir().unwrap();
    let (mut schemas, mut parts) = (
        Schemas::new(),
        StageContextParts::for_test(directory.path()),
    );
    for (port, artifact, schema) in inputs {
        schemas.push(*port, (*schema).clone());
        parts = parts.input(port, (*artifact).clone());
    }
    let signature = stage.signature(&schemas).unwrap();
    let mut context = StageContext::new(parts, signature.clone());
    stage.run(&mut context).unwrap();
    (context.finish().unwrap(), signature)
}

#[test]
fn simulated_candles_become_windows_by_way_of_all_features_and_labels() {
    let (loaded, load) = stage_of("load.synthetic", &json!({ "rows": 3000 }), &[]);
    let candles = (
        "candles",
        &loaded["candles"],
        &load.output_port("candles").unwrap().schema,
    );
    let (featured, features) = stage_of("features", &json!({ "set": "natron_v2" }), &[candles]);
    let features = (
        "features",
        &featured["features"],
        &features.output_port("features").unwrap().schema,
    );
    let (labelled, labels) = stage_of("labels.natron_v2", &json!({}), &[candles]);
    let labels = (
        "labels",
        &labelled["labels"],
        &labels.output_port("labels").unwrap().schema,
    );

    let (outputs, signature) = stage_of("dataset", &json!({}), &[features, labels]);
    let Artifact::Metrics(statistics) = &outputs["statistics"] else {
        panic!("no metrics")
    };
    let get = |path: &str| {
        statistics
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing"))
    };
    let windows = &signature.output_port("windows").unwrap().schema;
    assert!(windows.lookahead_bars > 0);
    assert_eq!(
        table(&outputs, "windows").fact("label_horizon_bars"),
        Some(&json!(windows.lookahead_bars))
    );
    assert!(get("features") > 90.0);
    // Warm-up of the longest indicator and label, and one window; hardly any row is missing later.
    assert!(
        get("left_out.without_features") < 600.0,
        "{}",
        statistics.to_json()
    );
    assert!(
        get("left_out.without_labels") < 600.0,
        "{}",
        statistics.to_json()
    );
    for split in ["train", "validation", "test"] {
        assert!(
            get(&format!("windows.{split}")) > 50.0,
            "{}",
            statistics.to_json()
        );
        for head in HEADS {
            assert!(
                get(&format!("majority.{split}.{head}")) < 0.95,
                "{}",
                statistics.to_json()
            );
        }
    }
    assert!(table(&outputs, "matrix").fact("feature_plan").is_some());
}

#[test]
fn shuffled_labels_stay_in_their_split_and_together() {
    let (features, labels) = tables(600);
    let run = |shuffle: bool| {
        let with = json!({ "window_bars": 8, "shuffle_labels": shuffle });
        let outputs = run(with, features.clone(), labels.clone(), 3).unwrap();
        let windows = table(&outputs, "windows");
        let column = |name: &str| windows.i64(name).unwrap().to_vec();
        let ids = column("split");
        let dealt: Vec<[i64; 4]> = (0..ids.len())
            .map(|i| HEADS.map(|head| column(head)[i]))
            .collect();
        (column("row"), ids, dealt)
    };

    let (plain, shuffled) = (run(false), run(true));

    assert_eq!((&plain.0, &plain.1), (&shuffled.0, &shuffled.1));
    let same = plain.2.iter().zip(&shuffled.2).filter(|(a, b)| a == b);
    assert!(same.count() < plain.2.len() / 4);
    for split in 0..3 {
        let sorted = |(_, ids, dealt): &(Vec<i64>, Vec<i64>, Vec<[i64; 4]>)| {
            let of_split = ids.iter().zip(dealt).filter(|(id, _)| **id == split);
            let mut found: Vec<[i64; 4]> = of_split.map(|(_, labels)| *labels).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(sorted(&plain), sorted(&shuffled));
    }
}
