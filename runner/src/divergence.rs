//! Where two artifacts first differ, down to column and row, tensor and index, or metric.

use std::fmt;

use natron_artifacts::{Artifact, ColumnType, Model, Table};
use serde::Serialize;
use serde_json::Value;

use crate::reproducible::{Tolerance, Tolerances, ulps_f32, ulps_f64};

/// The first difference of two artifacts, and how large all of them are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// Where: `column rsi_14, row 17`, `tensor head.weight, index 3`, `metric test.auc`, `byte 20 of report.html`.
    pub place: String,
    /// What was expected there.
    pub expected: String,
    /// What was found there.
    pub found: String,
    /// How many values differ, where that can be counted.
    pub count: Option<u64>,
    /// The largest absolute difference of numbers.
    pub max_absolute: Option<f64>,
    /// The largest relative difference of numbers.
    pub max_relative: Option<f64>,
    /// The most representable numbers between two.
    pub max_ulps: Option<u64>,
}

impl Divergence {
    /// One that has a place and nothing to count.
    pub(crate) fn at(
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            place: place.into(),
            expected: expected.into(),
            found: found.into(),
            count: None,
            max_absolute: None,
            max_relative: None,
            max_ulps: None,
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.place, self.expected, self.found
        )?;
        match self.count {
            Some(1) => write!(f, "; 1 value differs")?,
            Some(count) => write!(f, "; {count} values differ")?,
            None => {}
        }
        if let (Some(absolute), Some(relative)) = (self.max_absolute, self.max_relative) {
            write!(f, ", by at most {absolute:.3e} ({relative:.3e} relative")?;
            if let Some(ulps) = self.max_ulps {
                write!(f, ", {ulps} ulps")?;
            }
            write!(f, ")")?;
        }
        Ok(())
    }
}

/// What a comparison of two artifacts with tolerances found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The first difference that no tolerance allows.
    pub beyond: Option<Divergence>,
    /// The first difference, allowed or not; its counts and sizes are those of all differences.
    pub first: Option<Divergence>,
}

/// The first difference of `found` from `expected`; `None` when the contents are equal.
pub fn first_divergence(expected: &Artifact, found: &Artifact) -> Option<Divergence> {
    compare(expected, found, "", None).first
}

/// Compares what came out at `port` with `tolerances`; without them, nothing may differ.
pub fn compare(
    expected: &Artifact,
    found: &Artifact,
    port: &str,
    tolerances: Option<&Tolerances>,
) -> Comparison {
    let mut differences = Differences {
        port,
        tolerances,
        beyond: None,
        first: None,
    };
    match (expected, found) {
        (Artifact::Table(a), Artifact::Table(b)) => differences.tables(a, b),
        (Artifact::Model(a), Artifact::Model(b)) => differences.models(a, b),
        (Artifact::Metrics(a), Artifact::Metrics(b)) => {
            let tree = |metrics: &natron_artifacts::Metrics| Value::Object(metrics.tree().clone());
            differences.values("metric", "", &tree(a), &tree(b));
        }
        (a, b) if a.kind() != b.kind() => {
            let (a, b) = (a.kind().to_string(), b.kind().to_string());
            differences.structure(Divergence::at("kind", a, b));
        }
        (a, b) => {
            if let Some(divergence) = files(a, b) {
                differences.structure(divergence);
            }
        }
    }
    Comparison {
        beyond: differences.beyond,
        first: differences.first,
    }
}

struct Differences<'a> {
    port: &'a str,
    tolerances: Option<&'a Tolerances>,
    beyond: Option<Divergence>,
    first: Option<Divergence>,
}

/// Two numbers and what they were before they became double precision.
struct Pair {
    expected: f64,
    found: f64,
    ulps: Option<u64>,
}

impl Pair {
    fn doubles(expected: f64, found: f64) -> Self {
        Self {
            expected,
            found,
            ulps: ulps_f64(expected, found),
        }
    }

    fn singles(expected: f32, found: f32) -> Self {
        Self {
            expected: f64::from(expected),
            found: f64::from(found),
            ulps: ulps_f32(expected, found),
        }
    }
}

impl Differences<'_> {
    /// A difference that no tolerance covers and that leaves nothing to count.
    fn structure(&mut self, divergence: Divergence) {
        self.first.get_or_insert_with(|| divergence.clone());
        self.beyond.get_or_insert(divergence);
    }

    fn number(&mut self, place: impl Fn() -> String, pair: &Pair, tolerance: Option<&Tolerance>) {
        let Pair {
            expected,
            found,
            ulps,
        } = *pair;
        if expected.to_bits() == found.to_bits() {
            return;
        }
        let absolute = (expected - found).abs();
        let relative = absolute / expected.abs().max(found.abs()).max(f64::MIN_POSITIVE);
        let is_allowed = tolerance.is_some_and(|t| t.allows(expected, found, ulps));
        let note = |slot: &mut Option<Divergence>| {
            let divergence = slot.get_or_insert_with(|| {
                Divergence::at(place(), expected.to_string(), found.to_string())
            });
            divergence.count = Some(divergence.count.unwrap_or(0) + 1);
            // A number that is missing on one side has no distance.
            if !absolute.is_nan() {
                let largest = |old: Option<f64>, new: f64| Some(old.unwrap_or(0.0).max(new));
                divergence.max_absolute = largest(divergence.max_absolute, absolute);
                divergence.max_relative = largest(divergence.max_relative, relative);
                divergence.max_ulps = divergence.max_ulps.max(ulps);
            }
        };
        note(&mut self.first);
        if !is_allowed {
            note(&mut self.beyond);
        }
    }

    fn text(&mut self, place: impl Fn() -> String, expected: &str, found: &str) {
        if expected == found {
            return;
        }
        for slot in [&mut self.first, &mut self.beyond] {
            let divergence = slot.get_or_insert_with(|| Divergence::at(place(), expected, found));
            divergence.count = Some(divergence.count.unwrap_or(0) + 1);
        }
    }

    /// The tolerance of floating-point numbers called `name`.
    fn of_column(&self, name: &str) -> Option<Tolerance> {
        let tolerances = self.tolerances?;
        Some(*tolerances.columns.get(name).unwrap_or(&tolerances.all))
    }

    /// The tolerance of the metric at `path`, with or without the output's name.
    fn of_metric(&self, path: &str) -> Option<Tolerance> {
        let tolerances = self.tolerances?;
        let named = tolerances.metrics.get(path);
        let named = named.or_else(|| tolerances.metrics.get(&format!("{}.{path}", self.port)));
        Some(*named.unwrap_or(&tolerances.all))
    }

    fn tables(&mut self, a: &Table, b: &Table) {
        let names = |table: &Table| -> Vec<String> {
            table
                .columns()
                .iter()
                .map(|c| format!("{} {} {}", c.name, c.column_type, c.unit))
                .collect()
        };
        let (columns_a, columns_b) = (names(a), names(b));
        if columns_a != columns_b {
            let i = (0..columns_a.len().max(columns_b.len()))
                .find(|&i| columns_a.get(i) != columns_b.get(i))
                .unwrap_or(0);
            let name = |columns: &[String]| {
                columns
                    .get(i)
                    .map_or_else(|| "nothing".into(), |name| name.trim_end().to_owned())
            };
            let (a, b) = (name(&columns_a), name(&columns_b));
            return self.structure(Divergence::at(format!("column number {i}"), a, b));
        }
        if a.n_rows() != b.n_rows() {
            let (a, b) = (a.n_rows().to_string(), b.n_rows().to_string());
            return self.structure(Divergence::at("rows", a, b));
        }
        for (i, column) in a.columns().iter().enumerate() {
            self.column(a, b, i, column);
        }
        let facts: std::collections::BTreeSet<&String> =
            a.facts().keys().chain(b.facts().keys()).collect();
        for name in facts {
            let of = |table: &Table| table.fact(name).cloned().unwrap_or(Value::Null);
            self.values("fact", name, &of(a), &of(b));
        }
    }

    #[expect(
        clippy::many_single_char_names,
        reason = "two tables and two values are compared all along"
    )]
    fn column(&mut self, a: &Table, b: &Table, i: usize, column: &natron_artifacts::Column) {
        let name = &column.name;
        let place = |row: usize| format!("column {name}, row {row}");
        let of_floats = self.of_column(name);
        match column.column_type {
            ColumnType::F32 => {
                let (Ok(x), Ok(y)) = (a.f32(name), b.f32(name)) else {
                    return;
                };
                for (row, (&x, &y)) in x.iter().zip(y.iter()).enumerate() {
                    self.number(|| place(row), &Pair::singles(x, y), of_floats.as_ref());
                }
            }
            ColumnType::F64 => {
                let (Ok(x), Ok(y)) = (a.f64(name), b.f64(name)) else {
                    return;
                };
                for (row, (&x, &y)) in x.iter().zip(y.iter()).enumerate() {
                    self.number(|| place(row), &Pair::doubles(x, y), of_floats.as_ref());
                }
            }
            ColumnType::I64 => {
                let own = self.tolerances.and_then(|t| t.columns.get(name)).copied();
                let (Ok(x), Ok(y)) = (a.i64_or_null(name), b.i64_or_null(name)) else {
                    return;
                };
                for (row, (x, y)) in x.into_iter().zip(y).enumerate() {
                    match (x, y) {
                        (x, y) if x == y => {}
                        // Beyond 2^53 two whole numbers may be one as floating-point numbers.
                        (Some(x), Some(y)) if (x as f64).to_bits() != (y as f64).to_bits() => {
                            let pair = Pair {
                                ulps: Some(x.abs_diff(y)),
                                ..Pair::doubles(x as f64, y as f64)
                            };
                            self.number(|| place(row), &pair, own.as_ref());
                        }
                        (x, y) => {
                            let text = |v: Option<i64>| {
                                v.map_or_else(|| "null".to_owned(), |v| v.to_string())
                            };
                            self.text(|| place(row), &text(x), &text(y));
                        }
                    }
                }
            }
            // What is missing is as good as a value of its own.
            ColumnType::Utf8 => {
                let (Ok(x), Ok(y)) = (a.utf8(name), b.utf8(name)) else {
                    return;
                };
                let (nulls_a, nulls_b) = (a.arrow().column(i), b.arrow().column(i));
                for (row, (x, y)) in x.iter().zip(&y).enumerate() {
                    let text = |is_null: bool, text: &str| {
                        if is_null {
                            "null".to_owned()
                        } else {
                            format!("{text:?}")
                        }
                    };
                    let (no_x, no_y) = (nulls_a.is_null(row), nulls_b.is_null(row));
                    if x != y || no_x != no_y {
                        self.text(|| place(row), &text(no_x, x), &text(no_y, y));
                    }
                }
            }
            ColumnType::TimestampNs => {
                let (Ok(x), Ok(y)) = (a.times(name), b.times(name)) else {
                    return;
                };
                let (nulls_a, nulls_b) = (a.arrow().column(i), b.arrow().column(i));
                for (row, (x, y)) in x.iter().zip(y).enumerate() {
                    let text = |is_null: bool, time: &i64| {
                        if is_null {
                            "null".to_owned()
                        } else {
                            time.to_string()
                        }
                    };
                    let (no_x, no_y) = (nulls_a.is_null(row), nulls_b.is_null(row));
                    if x != y || no_x != no_y {
                        self.text(|| place(row), &text(no_x, x), &text(no_y, y));
                    }
                }
            }
            ColumnType::Bool => {
                let own = self.tolerances.and_then(|t| t.columns.get(name)).copied();
                let (Ok(x), Ok(y)) = (a.numbers(name), b.numbers(name)) else {
                    return;
                };
                for (row, (&x, &y)) in x.iter().zip(&y).enumerate() {
                    self.number(|| place(row), &Pair::doubles(x, y), own.as_ref());
                }
            }
        }
    }

    fn models(&mut self, a: &Model, b: &Model) {
        for (name, x) in &a.tensors {
            let Some(y) = b.tensors.get(name) else {
                return self.structure(Divergence::at(
                    format!("tensor {name}"),
                    "there",
                    "missing",
                ));
            };
            if x.shape != y.shape {
                let (x, y) = (format!("{:?}", x.shape), format!("{:?}", y.shape));
                return self.structure(Divergence::at(format!("tensor {name}"), x, y));
            }
            let tolerance = self.of_column(name);
            for (i, (&x, &y)) in x.values.iter().zip(&y.values).enumerate() {
                self.number(
                    || format!("tensor {name}, index {i}"),
                    &Pair::singles(x, y),
                    tolerance.as_ref(),
                );
            }
        }
        if let Some(name) = b.tensors.keys().find(|name| !a.tensors.contains_key(*name)) {
            return self.structure(Divergence::at(format!("tensor {name}"), "missing", "there"));
        }
        let card = |model: &Model| serde_json::to_value(&model.card).unwrap_or(Value::Null);
        self.values("model.json", "", &card(a), &card(b));
    }

    /// Two JSON values at `path` of `what`.
    fn values(&mut self, what: &str, path: &str, a: &Value, b: &Value) {
        let place = || match what {
            "model.json" if !path.is_empty() => format!("model.json, {path}"),
            _ if path.is_empty() => what.to_owned(),
            _ => format!("{what} {path}"),
        };
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => {
                let names: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
                for name in names {
                    let below = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    let of = |tree: &serde_json::Map<String, Value>| {
                        tree.get(name).cloned().unwrap_or(Value::Null)
                    };
                    self.values(what, &below, &of(x), &of(y));
                }
            }
            (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
                for (i, (x, y)) in x.iter().zip(y).enumerate() {
                    self.values(what, &format!("{path}[{i}]"), x, y);
                }
            }
            (Value::Number(x), Value::Number(y)) if x != y => {
                // A series has the tolerance of its name.
                let name = path.split('[').next().unwrap_or(path);
                let tolerance = if what == "metric" {
                    self.of_metric(name)
                } else {
                    self.tolerances.map(|t| t.all)
                };
                let has_own = self
                    .tolerances
                    .is_some_and(|t| t.metrics.contains_key(name));
                let is_whole = !x.is_f64() && !y.is_f64();
                let tolerance = tolerance.filter(|_| has_own || !is_whole);
                let number = |n: &serde_json::Number| n.as_f64().unwrap_or(f64::NAN);
                let pair = Pair::doubles(number(x), number(y));
                if pair.expected.to_bits() == pair.found.to_bits() {
                    self.text(place, &x.to_string(), &y.to_string());
                } else {
                    self.number(place, &pair, tolerance.as_ref());
                }
            }
            (x, y) if x != y => {
                let text = |value: &Value| match value {
                    Value::Null => "nothing".to_owned(),
                    other => other.to_string(),
                };
                self.text(place, &text(x), &text(y));
            }
            _ => {}
        }
    }
}

fn files(a: &Artifact, b: &Artifact) -> Option<Divergence> {
    let (Ok(a), Ok(b)) = (a.seal(), b.seal()) else {
        return Some(Divergence::at("artifact", "readable", "unreadable"));
    };
    if a.manifest.bytes == b.manifest.bytes {
        return None;
    }
    for (file, x) in a.manifest.files.iter().zip(&a.contents) {
        let other = b.manifest.files.iter().position(|f| f.name == file.name);
        let Some(y) = other.map(|i| &b.contents[i]) else {
            return Some(Divergence::at(
                format!("file {}", file.name),
                "there",
                "missing",
            ));
        };
        if let Some(i) = (0..x.len().max(y.len())).find(|&i| x.get(i) != y.get(i)) {
            let around = |bytes: &[u8]| {
                let end = bytes.len().min(i + 24);
                match &bytes[i.min(end)..end] {
                    [] => "the end".to_owned(),
                    bytes => format!("{:?}", String::from_utf8_lossy(bytes)),
                }
            };
            let line = x[..i.min(x.len())].split(|&b| b == b'\n').count();
            return Some(Divergence::at(
                format!("byte {i} (line {line}) of {}", file.name),
                around(x),
                around(y),
            ));
        }
    }
    let more = b
        .manifest
        .files
        .iter()
        .find(|file| a.manifest.files.iter().all(|f| f.name != file.name));
    Some(match more {
        Some(file) => Divergence::at(format!("file {}", file.name), "missing", "there"),
        None => Divergence::at("files", "as recorded", "another name or right to execute"),
    })
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Column, Metrics};

    use super::*;

    fn table(values: Vec<f64>) -> Artifact {
        Table::builder()
            .f64(Column::new("close", ColumnType::F64), values)
            .build()
            .unwrap()
            .into()
    }

    fn metrics(path: &str, value: f64) -> Artifact {
        let mut metrics = Metrics::new();
        metrics.set(path, value).unwrap();
        metrics.into()
    }

    fn tolerances(abs: f64) -> Tolerances {
        Tolerances {
            all: Tolerance {
                abs,
                ..Tolerance::default()
            },
            ..Tolerances::default()
        }
    }

    #[test]
    fn names_column_and_row() {
        let a = table(vec![1.0, 2.0, f64::NAN]);

        assert_eq!(first_divergence(&a, &a), None);
        let found = first_divergence(&a, &table(vec![1.0, 2.5, 4.0])).unwrap();
        assert_eq!(found.place, "column close, row 1");
        assert_eq!(
            (found.expected.as_str(), found.found.as_str()),
            ("2", "2.5")
        );
        assert_eq!(found.count, Some(2));
        assert_eq!(found.max_absolute, Some(0.5), "missing is no distance");
        assert_eq!(found.max_relative, Some(0.2));
        assert_eq!(found.max_ulps, Some(1 << 50));
    }

    #[test]
    fn names_the_metric() {
        let found =
            first_divergence(&metrics("test.auc", 0.5), &metrics("test.auc", 0.625)).unwrap();

        assert_eq!(found.place, "metric test.auc");
        assert_eq!(found.max_absolute, Some(0.125));
    }

    #[test]
    fn a_tolerance_allows_what_it_says_and_no_more() {
        let (a, b) = (table(vec![1.0, 2.0, 3.0]), table(vec![1.0, 2.25, 4.0]));

        let wide = compare(&a, &b, "x", Some(&tolerances(1.0)));
        assert_eq!(wide.beyond, None);
        assert_eq!(wide.first.unwrap().count, Some(2));
        let narrow = compare(&a, &b, "x", Some(&tolerances(0.5)));
        let beyond = narrow.beyond.unwrap();
        assert_eq!(beyond.place, "column close, row 2");
        assert_eq!(beyond.count, Some(1));
        let mut named = tolerances(0.0);
        named.columns.insert("close".into(), tolerances(1.0).all);
        assert_eq!(compare(&a, &b, "x", Some(&named)).beyond, None);
    }

    #[test]
    fn a_metric_has_its_own_tolerance_and_counts_have_none() {
        let mut named = tolerances(0.0);
        named.metrics.insert("test.auc".into(), tolerances(0.2).all);
        let beyond = |path: &str, a: f64, b: f64, tolerances: &Tolerances| {
            let (a, b) = (metrics(path, a), metrics(path, b));
            compare(&a, &b, "metrics", Some(tolerances)).beyond
        };
        let counted = |n: u64| -> Artifact {
            let mut metrics = Metrics::new();
            metrics.set_count("n", n).unwrap();
            metrics.into()
        };

        assert_eq!(beyond("test.auc", 0.5, 0.625, &named), None);
        assert!(beyond("train.auc", 0.5, 0.625, &named).is_some());
        let wide = tolerances(10.0);
        let counts = compare(&counted(1), &counted(2), "metrics", Some(&wide));
        assert_eq!(counts.beyond.unwrap().place, "metric n");
    }

    #[test]
    fn structure_has_no_tolerance() {
        let wide = tolerances(f64::MAX);
        let beyond = |a: &Artifact, b: &Artifact| compare(a, b, "x", Some(&wide)).beyond.unwrap();
        let texts = |a: &str| -> Artifact {
            Table::builder()
                .utf8(Column::new("text", ColumnType::Utf8), vec![a.to_owned()])
                .build()
                .unwrap()
                .into()
        };

        let found = beyond(&table(vec![1.0]), &table(vec![1.0, 2.0]));
        assert_eq!(found.place, "rows");
        let found = beyond(&table(vec![1.0]), &table(vec![f64::NAN]));
        assert_eq!(
            (found.place.as_str(), found.max_absolute),
            ("column close, row 0", None)
        );
        assert_eq!(beyond(&texts("a"), &texts("b")).place, "column text, row 0");
        assert_eq!(beyond(&texts("a"), &metrics("a", 1.0)).place, "kind");
        assert_eq!(
            beyond(&metrics("a", 1.0), &metrics("b", 1.0)).found,
            "nothing"
        );
    }
}
