//! Where two artifacts first differ, down to column and row, tensor and index, or metric.

use std::fmt;

use natron_artifacts::{Artifact, ColumnType, Table};
use serde::Serialize;
use serde_json::Value;

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
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.place, self.expected, self.found
        )?;
        if let Some(count) = self.count {
            write!(f, "; {count} values differ")?;
        }
        if let (Some(absolute), Some(relative)) = (self.max_absolute, self.max_relative) {
            write!(f, ", by at most {absolute:.3e} ({relative:.3e} relative)")?;
        }
        Ok(())
    }
}

/// The first difference of `found` from `expected`; `None` when the contents are equal.
pub fn first_divergence(expected: &Artifact, found: &Artifact) -> Option<Divergence> {
    match (expected, found) {
        (Artifact::Table(a), Artifact::Table(b)) => tables(a, b),
        (Artifact::Model(a), Artifact::Model(b)) => {
            let cards = (&a.card, &b.card);
            let as_value = |card| serde_json::to_value(card).unwrap_or(Value::Null);
            let mut count = Differences::default();
            for (name, x) in &a.tensors {
                let Some(y) = b.tensors.get(name) else {
                    return Some(plain(format!("tensor {name}"), "there", "missing"));
                };
                if x.shape != y.shape {
                    let (x, y) = (format!("{:?}", x.shape), format!("{:?}", y.shape));
                    return Some(plain(format!("tensor {name}"), &x, &y));
                }
                for (i, (x, y)) in x.values.iter().zip(&y.values).enumerate() {
                    count.number(
                        || format!("tensor {name}, index {i}"),
                        f64::from(*x),
                        f64::from(*y),
                    );
                }
            }
            if let Some(name) = b.tensors.keys().find(|name| !a.tensors.contains_key(*name)) {
                return Some(plain(format!("tensor {name}"), "missing", "there"));
            }
            values(
                "model.json",
                &as_value(cards.0),
                &as_value(cards.1),
                &mut count,
            );
            count.first
        }
        (Artifact::Metrics(a), Artifact::Metrics(b)) => {
            let mut count = Differences::default();
            let (a, b) = (
                Value::Object(a.tree().clone()),
                Value::Object(b.tree().clone()),
            );
            values("metric", &a, &b, &mut count);
            count.first
        }
        (a, b) if a.kind() != b.kind() => Some(plain(
            "kind".into(),
            &a.kind().to_string(),
            &b.kind().to_string(),
        )),
        (a, b) => files(a, b),
    }
}

fn plain(place: String, expected: &str, found: &str) -> Divergence {
    Divergence {
        place,
        expected: expected.to_owned(),
        found: found.to_owned(),
        count: None,
        max_absolute: None,
        max_relative: None,
    }
}

#[derive(Default)]
struct Differences {
    first: Option<Divergence>,
}

impl Differences {
    fn number(&mut self, place: impl FnOnce() -> String, expected: f64, found: f64) {
        if expected.to_bits() == found.to_bits() {
            return;
        }
        let absolute = (expected - found).abs();
        let relative = absolute / expected.abs().max(found.abs()).max(f64::MIN_POSITIVE);
        let first = self.first.get_or_insert_with(|| Divergence {
            count: Some(0),
            max_absolute: Some(0.0),
            max_relative: Some(0.0),
            ..plain(place(), &expected.to_string(), &found.to_string())
        });
        first.count = first.count.map(|n| n + 1);
        first.max_absolute = Some(first.max_absolute.unwrap_or(0.0).max(absolute));
        first.max_relative = Some(first.max_relative.unwrap_or(0.0).max(relative));
    }

    fn text(&mut self, place: impl FnOnce() -> String, expected: &str, found: &str) {
        if expected == found {
            return;
        }
        let first = self.first.get_or_insert_with(|| Divergence {
            count: Some(0),
            ..plain(place(), expected, found)
        });
        first.count = first.count.map(|n| n + 1);
    }
}

fn tables(a: &Table, b: &Table) -> Option<Divergence> {
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
        let name = |columns: &[String]| columns.get(i).cloned().unwrap_or_else(|| "nothing".into());
        return Some(plain(
            format!("column number {i}"),
            &name(&columns_a),
            &name(&columns_b),
        ));
    }
    if a.n_rows() != b.n_rows() {
        return Some(plain(
            "rows".into(),
            &a.n_rows().to_string(),
            &b.n_rows().to_string(),
        ));
    }
    let mut count = Differences::default();
    for column in a.columns() {
        let name = &column.name;
        let place = |row: usize| format!("column {name}, row {row}");
        match column.column_type {
            ColumnType::Utf8 => {
                let (Ok(x), Ok(y)) = (a.utf8(name), b.utf8(name)) else {
                    continue;
                };
                for (row, (x, y)) in x.iter().zip(&y).enumerate() {
                    count.text(|| place(row), x, y);
                }
            }
            ColumnType::TimestampNs => {
                let (Ok(x), Ok(y)) = (a.times(name), b.times(name)) else {
                    continue;
                };
                for (row, (x, y)) in x.iter().zip(y).enumerate() {
                    count.text(|| place(row), &x.to_string(), &y.to_string());
                }
            }
            _ => {
                let (Ok(x), Ok(y)) = (a.numbers(name), b.numbers(name)) else {
                    continue;
                };
                for (row, (x, y)) in x.iter().zip(&y).enumerate() {
                    count.number(|| place(row), *x, *y);
                }
            }
        }
    }
    for (name, value) in a.facts() {
        values(
            &format!("fact {name}"),
            value,
            b.fact(name).unwrap_or(&Value::Null),
            &mut count,
        );
    }
    count.first
}

fn values(place: &str, a: &Value, b: &Value, count: &mut Differences) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let names: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            for name in names {
                let (x, y) = (
                    x.get(name).unwrap_or(&Value::Null),
                    y.get(name).unwrap_or(&Value::Null),
                );
                let joined = if place == "metric" {
                    format!("metric {name}")
                } else {
                    format!("{place}.{name}")
                };
                values(&joined, x, y, count);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                values(&format!("{place}[{i}]"), x, y, count);
            }
        }
        (Value::Number(x), Value::Number(y)) => {
            let number = |n: &serde_json::Number| n.as_f64().unwrap_or(f64::NAN);
            count.number(|| place.to_owned(), number(x), number(y));
        }
        (x, y) => count.text(|| place.to_owned(), &x.to_string(), &y.to_string()),
    }
}

fn files(a: &Artifact, b: &Artifact) -> Option<Divergence> {
    let (Ok(a), Ok(b)) = (a.seal(), b.seal()) else {
        return Some(plain("artifact".into(), "readable", "unreadable"));
    };
    if a.manifest.bytes == b.manifest.bytes {
        return None;
    }
    for (file, x) in a.manifest.files.iter().zip(&a.contents) {
        let other = b.manifest.files.iter().position(|f| f.name == file.name);
        let Some(y) = other.map(|i| &b.contents[i]) else {
            return Some(plain(format!("file {}", file.name), "there", "missing"));
        };
        if let Some(i) = (0..x.len().max(y.len())).find(|&i| x.get(i) != y.get(i)) {
            let around = |bytes: &[u8]| {
                let end = bytes.len().min(i + 24);
                format!("{:?}", String::from_utf8_lossy(&bytes[i.min(end)..end]))
            };
            return Some(plain(
                format!("byte {i} of {}", file.name),
                &around(x),
                &around(y),
            ));
        }
    }
    Some(plain("files".into(), "no others", "more files"))
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Column, Metrics};

    use super::*;

    #[test]
    fn names_column_and_row() {
        let table = |values: Vec<f64>| -> Artifact {
            Table::builder()
                .f64(Column::new("close", ColumnType::F64), values)
                .build()
                .unwrap()
                .into()
        };
        let a = table(vec![1.0, 2.0, f64::NAN]);

        assert_eq!(first_divergence(&a, &a), None);
        let found = first_divergence(&a, &table(vec![1.0, 2.5, 4.0])).unwrap();
        assert_eq!(found.place, "column close, row 1");
        assert_eq!(
            (found.expected.as_str(), found.found.as_str()),
            ("2", "2.5")
        );
        assert_eq!(found.count, Some(2));
    }

    #[test]
    fn names_the_metric() {
        let metrics = |value: f64| -> Artifact {
            let mut metrics = Metrics::new();
            metrics.set("test.auc", value).unwrap();
            metrics.into()
        };

        let found = first_divergence(&metrics(0.5), &metrics(0.625)).unwrap();
        assert_eq!(found.place, "metric test.auc");
        assert_eq!(found.max_absolute, Some(0.125));
    }
}
