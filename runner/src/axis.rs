//! Axes whose values an artifact lists: `matrix.fold = { from = "splits.folds" }`.
//!
//! Metrics list the items of a list or the keys of a table, at `path` or as a whole; a table lists the different values of a
//! `column`, or the years, months or days (`partition`) in which it has rows; files list their names.

use std::collections::BTreeSet;

use natron_artifacts::{Artifact, ColumnType, Kind, Table};
use serde_json::Value;

use crate::{
    Diagnostic, Place, code,
    definition::{check_keys, expect_choice, expect_str},
    document::{Content, Node},
    part::Partition,
    references::{self, Reference},
};

/// The values of an axis, once they are known, or why the artifact lists none.
pub type AxisValues = Result<Vec<Value>, String>;

/// What of an artifact are the values of an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// All that it lists.
    All,
    /// What stands at this path of metrics.
    Path(String),
    /// The different values of this column.
    Column(String),
    /// The parts of time in which there are rows.
    Partition(Partition),
}

/// Where an axis takes its values from.
#[derive(Debug, Clone)]
pub(crate) struct AxisSource {
    /// The same for equal sources, whatever the axis.
    pub(crate) id: String,
    pub(crate) axis: String,
    pub(crate) reference: Reference,
    /// The value of `from`.
    pub(crate) node: Node,
    pub(crate) take: Take,
}

/// The source in `node`, which is a table with `from`.
pub(crate) fn read(axis: &str, node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<AxisSource> {
    let table = node.as_table()?;
    let what = format!("axis `{axis}`");
    let before = mistakes.len();
    check_keys(
        &what,
        table,
        &["from", "path", "column", "partition"],
        mistakes,
    );
    let from = &table.get("from")?.node;
    let text = expect_str("from", from, mistakes)?;
    let reference = match references::parse(text) {
        Ok(reference) => reference,
        Err(why) => {
            mistakes.push(
                from.mistake(code::BAD_MATRIX, why, "")
                    .help("write `stage.output` or `stage[axis=value].output`"),
            );
            return None;
        }
    };
    let mut taken: Vec<(&str, Take)> = Vec::new();
    for key in ["path", "column", "partition"] {
        let Some(entry) = table.get(key) else {
            continue;
        };
        let take = match key {
            "partition" => {
                let choices = [
                    ("year", Partition::Year),
                    ("month", Partition::Month),
                    ("day", Partition::Day),
                ];
                expect_choice(key, &entry.node, &choices, mistakes).map(Take::Partition)
            }
            _ => expect_str(key, &entry.node, mistakes).map(|text| match key {
                "path" => Take::Path(text.to_owned()),
                _ => Take::Column(text.to_owned()),
            }),
        };
        if let (Some((other, _)), Some(_)) = (taken.first(), &take) {
            let message = format!("{what} has `{other}` and `{key}`");
            let place = Node::new(entry.key.clone(), Content::Broken);
            mistakes.push(
                place
                    .mistake(code::BAD_MATRIX, message, "")
                    .help("take one of them away"),
            );
        }
        taken.extend(take.map(|take| (key, take)));
    }
    if mistakes.len() > before {
        return None;
    }
    let take = taken.pop().map_or(Take::All, |(_, take)| take);
    Some(AxisSource {
        id: format!("{text} {take:?}"),
        axis: axis.to_owned(),
        reference,
        node: from.clone(),
        take,
    })
}

impl Take {
    /// What is wrong with taking values from an artifact of this kind, if anything.
    pub(crate) fn misfit(&self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (Self::All | Self::Path(_), Kind::Metrics)
            | (Self::Column(_) | Self::Partition(_), Kind::Table)
            | (Self::All, Kind::Files) => None,
            (_, Kind::Metrics) => Some("metrics list values by `path`"),
            (_, Kind::Table) => Some(
                "of a table, `column = \"NAME\"` lists its values, `partition = \"month\"` its months",
            ),
            (_, Kind::Files) => Some("files list their names, without `path` and `column`"),
            _ => Some("values are listed by metrics, a table's column or files"),
        }
    }

    /// The values that `artifact` lists, each once, in its order.
    pub(crate) fn values(&self, artifact: &Artifact) -> AxisValues {
        let values = match (self, artifact) {
            (Self::Partition(partition), Artifact::Table(table)) => {
                let times = table.ts_ns().map_err(|error| error.to_string())?;
                partition
                    .names(times)
                    .into_iter()
                    .map(Value::from)
                    .collect()
            }
            (Self::Column(name), Artifact::Table(table)) => column(table, name)?,
            (Self::All, Artifact::Files(files)) => {
                files.iter().map(|(name, _)| Value::from(name)).collect()
            }
            (Self::All, Artifact::Metrics(metrics)) => {
                metrics.tree().keys().cloned().map(Value::from).collect()
            }
            (Self::Path(path), Artifact::Metrics(metrics)) => match metrics.value(path) {
                Some(Value::Array(items)) => items.iter().map(whole).collect(),
                Some(Value::Object(map)) => map.keys().cloned().map(Value::from).collect(),
                Some(_) => return Err(format!("`{path}` is one number, expected a list")),
                None => return Err(format!("the metrics have nothing at `{path}`")),
            },
            _ => return Err(format!("{} lists no values", artifact.kind())),
        };
        let mut seen = BTreeSet::new();
        let mut distinct: Vec<Value> = values;
        distinct.retain(|value| seen.insert(value.to_string()));
        Ok(distinct)
    }
}

/// JSON knows one kind of number: whole ones are integers.
fn whole(value: &Value) -> Value {
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < 1e15 => {
            Value::from(number as i64)
        }
        _ => value.clone(),
    }
}

fn column(table: &Table, name: &str) -> AxisValues {
    let Some(column) = table.columns().iter().find(|column| column.name == name) else {
        let known = table.columns().iter().map(|column| column.name.as_str());
        let help = crate::did_you_mean::suggestion_or(name, known, "");
        let more = if help.is_empty() {
            String::new()
        } else {
            format!("; {help}")
        };
        return Err(format!("the table has no column `{name}`{more}"));
    };
    let failed = |error: natron_artifacts::ArtifactError| error.to_string();
    Ok(match column.column_type {
        ColumnType::I64 => table
            .i64_or_null(name)
            .map_err(failed)?
            .into_iter()
            .flatten()
            .map(Value::from)
            .collect(),
        ColumnType::Utf8 => table
            .utf8(name)
            .map_err(failed)?
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(Value::from)
            .collect(),
        ColumnType::Bool => table
            .bools(name)
            .map_err(failed)?
            .into_iter()
            .map(Value::from)
            .collect(),
        ColumnType::F64 | ColumnType::F32 => table
            .numbers(name)
            .map_err(failed)?
            .into_iter()
            .filter(|number| !number.is_nan())
            .map(Value::from)
            .collect(),
        ColumnType::TimestampNs => {
            return Err(format!(
                "`{name}` holds times; `partition = \"day\"` lists the days of the time index"
            ));
        }
    })
}

/// `values` as the list that the file could have written where `place` is.
pub(crate) fn as_list(place: &Place, values: &[Value]) -> Node {
    let item = |value: &Value| {
        let content = match value {
            Value::Bool(truth) => Content::Bool(*truth),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(integer), _, _) => Content::Integer(integer.into()),
                (None, Some(integer), _) => Content::Integer(integer.into()),
                (_, _, Some(float)) => Content::Float(float),
                _ => Content::Broken,
            },
            Value::String(text) => Content::String(text.clone()),
            Value::Null => Content::Broken,
            // Said to be no value of an axis, like a list in the file.
            Value::Array(_) | Value::Object(_) => Content::Array(Vec::new()),
        };
        Node::new(place.clone(), content)
    };
    Node::new(
        place.clone(),
        Content::Array(values.iter().map(item).collect()),
    )
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Column, Metrics};
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_what_artifacts_hold() {
        let metrics =
            Metrics::from_json(br#"{"folds": [2, 0.0, 1.5], "by": {"b": 1, "a": 2}, "n": 3}"#)
                .unwrap();
        let metrics = Artifact::from(metrics);
        let at = |path: &str| Take::Path(path.to_owned()).values(&metrics);
        assert_eq!(at("folds"), Ok(vec![json!(2), json!(0), json!(1.5)]));
        assert_eq!(at("by").unwrap().len(), 2);
        assert_eq!(at("n").unwrap_err(), "`n` is one number, expected a list");
        assert_eq!(at("x").unwrap_err(), "the metrics have nothing at `x`");

        let table = Table::builder()
            .utf8(
                Column::new("symbol", ColumnType::Utf8),
                vec!["b".into(), "a".into(), "b".into()],
            )
            .i64(Column::new("fold", ColumnType::I64), vec![3, 3, 1])
            .build()
            .unwrap();
        let table = Artifact::from(table);
        let column = |name: &str| Take::Column(name.to_owned()).values(&table);
        assert_eq!(column("symbol"), Ok(vec![json!("b"), json!("a")]));
        assert_eq!(column("fold"), Ok(vec![json!(3), json!(1)]));
        assert!(
            column("symbl")
                .unwrap_err()
                .contains("did you mean `symbol`?")
        );
        assert!(Take::All.values(&table).is_err());
    }
}
