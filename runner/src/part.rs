//! Parts of tables that an input reads: `{ from = "candles", columns = ["close"], window = "2024-03" }`.
//!
//! The key of the stage holds the content of the part, not of the table: what lies outside may change without a rerun. A part
//! carries no facts of the whole table, since they would be seen without being in the key.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use natron_artifacts::{Artifact, Column, ColumnType, StageError, Table};
use natron_cache::{ColumnIngredient, InputIngredient};

use crate::{
    Diagnostic, code,
    definition::{check_keys, expect_str, wrong_type},
    document::{Content, Node},
};

/// Name of the time index, which every part keeps.
const TIME_INDEX: &str = "ts_ns";

/// What an input reads of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// These columns and the time index; all when nothing is said.
    pub columns: Option<Vec<String>>,
    /// Which rows.
    pub rows: Rows,
}

/// Rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rows {
    /// All of them.
    #[default]
    All,
    /// So many at the end.
    Last(u64),
    /// Those from the first position up to the second, without it.
    Range(u64, u64),
    /// Those whose time is not before the first and is before the second, in nanoseconds.
    Time(Option<i64>, Option<i64>),
}

impl Part {
    /// Whether it is the whole table.
    pub fn is_whole(&self) -> bool {
        self.columns.is_none() && self.rows == Rows::All
    }

    /// Names of the columns it shows, the time index among them; nothing for all.
    pub(crate) fn shown_columns(&self) -> Option<Vec<String>> {
        self.columns.as_ref().map(|columns| {
            let mut columns = columns.clone();
            columns.push(TIME_INDEX.to_owned());
            columns
        })
    }

    /// The part of `artifact`.
    ///
    /// # Errors
    ///
    /// When `artifact` is no table, lacks one of the columns, or lacks a time index in order where times are asked for.
    pub(crate) fn of(&self, artifact: Artifact) -> Result<Artifact, StageError> {
        if self.is_whole() {
            return Ok(artifact);
        }
        let Artifact::Table(table) = artifact else {
            let kind = artifact.kind();
            let message = format!("only tables have columns and windows, this is {kind}");
            return Err(StageError::data(message));
        };
        let names: Option<Vec<String>> = self.columns.as_ref().map(|columns| {
            let index = table.has(TIME_INDEX).then(|| TIME_INDEX.to_owned());
            columns.iter().cloned().chain(index).collect()
        });
        for name in names.iter().flatten() {
            if !table.has(name) {
                let known = table.columns().iter().map(|column| column.name.as_str());
                let help = crate::did_you_mean::suggestion_or(name, known, "");
                let message =
                    format!("the table lacks the column `{name}`, which the input asks for");
                return Err(StageError::data(message).with_help(help));
            }
        }
        let (start, end) = self.positions(&table)?;
        let batch = table.arrow().slice(start, end - start);
        let kept = table
            .columns()
            .iter()
            .zip(batch.columns())
            .filter(|(column, _)| {
                names
                    .as_ref()
                    .is_none_or(|names| names.contains(&column.name))
            });
        let part = kept.fold(Table::builder(), |part, (column, array)| {
            part.push(column.clone(), array.clone())
        });
        Ok(part.build()?.with_made_by(table.made_by()).into())
    }

    /// Positions of the first row and of the one after the last.
    fn positions(&self, table: &Table) -> Result<(usize, usize), StageError> {
        let n = table.n_rows();
        let fit = |position: u64| usize::try_from(position).unwrap_or(n).min(n);
        Ok(match self.rows {
            Rows::All => (0, n),
            Rows::Last(count) => (n - fit(count), n),
            Rows::Range(start, end) => (fit(start).min(fit(end)), fit(end)),
            Rows::Time(from, to) => {
                if !table.has(TIME_INDEX) {
                    let message =
                        "a window of time needs the time index `ts_ns`, which the table lacks";
                    return Err(StageError::data(message));
                }
                let times = table.ts_ns()?;
                if !times.is_sorted() {
                    let message =
                        "a window of time needs times in order, and `ts_ns` has them mixed";
                    return Err(StageError::data(message));
                }
                let before = |limit: i64| times.partition_point(|time| *time < limit);
                let (start, end) = (from.map_or(0, before), to.map_or(n, before));
                (start.min(end), end)
            }
        })
    }

    /// What the key holds of the part: rows, columns and their values.
    pub(crate) fn ingredient(table: &Table) -> InputIngredient {
        let columns = table.columns().iter().zip(table.column_digests());
        InputIngredient::Columns {
            rows: Some(table.n_rows() as u64),
            columns: columns
                .map(|(column, digest)| ColumnIngredient {
                    name: column.name.clone(),
                    column_type: column.column_type,
                    unit: column.unit.clone(),
                    digest,
                })
                .collect(),
        }
    }

    /// Of `columns`, those that the part shows.
    pub(crate) fn schema(&self, columns: &[Column]) -> Vec<Column> {
        let shown = self.shown_columns();
        let is_shown = |column: &&Column| {
            shown
                .as_ref()
                .is_none_or(|shown| shown.contains(&column.name))
        };
        columns.iter().filter(is_shown).cloned().collect()
    }

    /// Whether it needs the time index to find its rows.
    pub(crate) fn needs_times(&self) -> bool {
        matches!(self.rows, Rows::Time(..))
    }
}

/// Whether `columns` have a time index.
pub(crate) fn has_time_index(columns: &[Column]) -> bool {
    columns
        .iter()
        .any(|column| column.name == TIME_INDEX && column.column_type == ColumnType::TimestampNs)
}

const WINDOW: &str = "write `window = { last = 1000 }`, `{ rows = [0, 10000] }`, `{ from_time = \"2024-01-01\" }` or `\"2024-03\"`";

/// `columns` and `window` of an input's table.
pub(crate) fn read(
    port: &str,
    columns: Option<&Node>,
    window: Option<&Node>,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Part> {
    let columns = match columns {
        None => None,
        Some(node) => Some(read_columns(port, node, mistakes)?),
    };
    let rows = match window {
        None => Rows::All,
        Some(node) => read_window(port, node, mistakes)?,
    };
    Some(Part { columns, rows })
}

fn read_columns(port: &str, node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<Vec<String>> {
    let Content::Array(items) = &node.content else {
        wrong_type("`columns`", node, "a list of names", mistakes);
        return None;
    };
    if items.is_empty() {
        let message = format!("input `{port}` reads no columns");
        mistakes.push(
            node.mistake(code::BAD_INPUT, message, "")
                .help("name those that the stage reads, or take `columns` away"),
        );
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    for item in items {
        let name = expect_str("columns", item, mistakes)?;
        if names.iter().any(|other| other == name) {
            let message = format!("input `{port}` names the column `{name}` twice");
            mistakes.push(
                item.mistake(code::BAD_INPUT, message, "")
                    .help("take one of them away"),
            );
            return None;
        }
        names.push(name.to_owned());
    }
    Some(names)
}

fn read_window(port: &str, node: &Node, mistakes: &mut Vec<Diagnostic>) -> Option<Rows> {
    let table = match &node.content {
        Content::Table(table) => table,
        Content::String(text) | Content::Datetime(text) => {
            if let Some((from, to)) = span(text) {
                return Some(Rows::Time(Some(from), Some(to)));
            }
            return not_a_time("window", node, text, mistakes);
        }
        Content::Integer(year) => {
            if let Some((from, to)) = span(&year.to_string()) {
                return Some(Rows::Time(Some(from), Some(to)));
            }
            return not_a_time("window", node, &year.to_string(), mistakes);
        }
        _ => {
            wrong_type("`window`", node, "a table or a time", mistakes);
            return None;
        }
    };
    let before = mistakes.len();
    let keys = ["last", "rows", "from_time", "to_time"];
    check_keys("`window`", table, &keys, mistakes);
    if mistakes.len() > before {
        return None;
    }
    let value = |key: &str| table.get(key).map(|entry| &entry.node);
    let mistake =
        |node: &Node, message: String| node.mistake(code::BAD_INPUT, message, "").help(WINDOW);
    let times = (value("from_time"), value("to_time"));
    match (value("last"), value("rows"), times) {
        (Some(last), None, (None, None)) => match last.content {
            Content::Integer(count) if count > 0 => u64::try_from(count).ok().map(Rows::Last),
            Content::Integer(count) => {
                let message = format!("`last` is {count}, expected 1 or more");
                mistakes.push(mistake(last, message));
                None
            }
            _ => {
                wrong_type("`last`", last, "a number of rows", mistakes);
                None
            }
        },
        (None, Some(rows), (None, None)) => {
            let range = row_range(rows);
            if range.is_none() && !rows.is_broken() {
                let message = "`rows` are two positions, the first below the second".to_owned();
                mistakes.push(mistake(rows, message));
            }
            range
        }
        (None, None, (from, to)) if from.is_some() || to.is_some() => {
            let mut time = |key: &str, node: Option<&Node>| match node {
                None => Some(None),
                Some(node) => match node.scalar_text() {
                    None => {
                        wrong_type(&format!("`{key}`"), node, "a time", mistakes);
                        None
                    }
                    Some(text) => match instant(&text) {
                        Some(time) => Some(Some(time)),
                        None => not_a_time(key, node, &text, mistakes),
                    },
                },
            };
            let (first, last) = (time("from_time", from)?, time("to_time", to)?);
            if let (Some(first), Some(last), Some(node)) = (first, last, to)
                && first >= last
            {
                let message = format!("the window of `{port}` ends before it begins");
                mistakes.push(mistake(node, message));
                return None;
            }
            Some(Rows::Time(first, last))
        }
        (None, None, _) => {
            mistakes.push(mistake(
                node,
                format!("the window of `{port}` says nothing"),
            ));
            None
        }
        _ => {
            let message = format!("the window of `{port}` says several things at once");
            mistakes.push(mistake(node, message));
            None
        }
    }
}

/// `[0, 10000]`.
fn row_range(node: &Node) -> Option<Rows> {
    let Content::Array(items) = &node.content else {
        return None;
    };
    let positions = items.iter().map(|item| match item.content {
        Content::Integer(row) => u64::try_from(row).ok(),
        _ => None,
    });
    match positions.collect::<Option<Vec<u64>>>()?[..] {
        [start, end] if start < end => Some(Rows::Range(start, end)),
        _ => None,
    }
}

fn not_a_time<T>(key: &str, node: &Node, text: &str, mistakes: &mut Vec<Diagnostic>) -> Option<T> {
    let message = format!("`{key}` is `{}`, which is no time", text.escape_debug());
    mistakes.push(
        node.mistake(code::BAD_INPUT, message, "")
            .help("times are `2024`, `2024-03`, `2024-03-01` or `2024-03-01T12:00:00Z`"),
    );
    None
}

/// The year, month, day or instant that `text` names, from its begin up to its end, in UTC nanoseconds.
fn span(text: &str) -> Option<(i64, i64)> {
    let parts: Vec<&str> = text.split('-').collect();
    let is_number = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| b.is_ascii_digit())
    };
    let widths = [4, 2, 2];
    let is_date = parts.len() <= 3
        && parts
            .iter()
            .zip(widths)
            .all(|(part, width)| is_number(part, width));
    if !is_date {
        return None;
    }
    let number = |i: usize| parts.get(i).map_or(Some(1), |part| part.parse::<i8>().ok());
    let first = Date::new(parts[0].parse().ok()?, number(1)?, number(2)?).ok()?;
    let next = match parts.len() {
        1 => first.checked_add(jiff::Span::new().years(1)),
        2 => first.checked_add(jiff::Span::new().months(1)),
        _ => first.tomorrow(),
    };
    Some((midnight(first)?, midnight(next.ok()?)?))
}

fn midnight(date: Date) -> Option<i64> {
    let zoned = date.to_zoned(TimeZone::UTC).ok()?;
    i64::try_from(zoned.timestamp().as_nanosecond()).ok()
}

/// The instant that `text` names, or the begin of the year, month or day, in UTC nanoseconds.
fn instant(text: &str) -> Option<i64> {
    if let Some((from, _)) = span(text) {
        return Some(from);
    }
    let timestamp = text.parse::<Timestamp>().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}

/// What a time index is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Partition {
    /// Years.
    Year,
    /// Months.
    Month,
    /// Days.
    Day,
}

impl Partition {
    /// The names of the parts in which there are rows, as `2024-03`, in order. A row belongs to the part in which its time
    /// lies, in UTC; a bar that closes at midnight belongs to the day that begins.
    pub(crate) fn names(self, times: &[i64]) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        let mut current: Option<(i64, i64)> = None;
        for time in times {
            if current.is_some_and(|(from, to)| (from..to).contains(time)) {
                continue;
            }
            let Ok(timestamp) = Timestamp::from_nanosecond(i128::from(*time)) else {
                continue;
            };
            let date = timestamp.to_zoned(TimeZone::UTC).date();
            let name = match self {
                Self::Year => format!("{:04}", date.year()),
                Self::Month => format!("{:04}-{:02}", date.year(), date.month()),
                Self::Day => date.to_string(),
            };
            current = span(&name);
            names.insert(name);
        }
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let day = 86_400_000_000_000_i64;
        let first = instant("2024-01-31").unwrap();
        Table::builder()
            .time_index((0..4).map(|i| first + i * day / 2).collect())
            .f64(
                Column::new("a", ColumnType::F64),
                vec![1.0, 2.0, 3.0, f64::NAN],
            )
            .f64(Column::new("b", ColumnType::F64), vec![5.0, 6.0, 7.0, 8.0])
            .fact("horizon", 3.into())
            .build()
            .unwrap()
    }

    fn part(rows: Rows) -> Table {
        let part = Part {
            columns: Some(vec!["a".to_owned()]),
            rows,
        };
        match part.of(table().into()).unwrap() {
            Artifact::Table(table) => std::sync::Arc::unwrap_or_clone(table),
            _ => panic!(),
        }
    }

    #[test]
    fn takes_rows_and_columns() {
        assert_eq!(part(Rows::Last(3)).numbers("a").unwrap()[..2], [2.0, 3.0]);
        assert_eq!(part(Rows::Range(1, 2)).f64("a").unwrap()[..], [2.0]);
        assert_eq!(part(Rows::Range(3, 9)).n_rows(), 1);
        assert_eq!(part(Rows::Last(9)).n_rows(), 4);
        let (from, to) = span("2024-02").unwrap();
        assert_eq!(part(Rows::Time(Some(from), Some(to))).n_rows(), 2);
        assert_eq!(part(Rows::Time(None, Some(from))).n_rows(), 2);
        assert!(!part(Rows::All).has("b") && part(Rows::All).has("ts_ns"));
        assert!(
            part(Rows::All).facts().is_empty(),
            "they are not in the key"
        );
    }

    #[test]
    fn a_part_has_the_digests_of_a_table_that_holds_no_more() {
        let alone = Table::builder()
            .time_index(part(Rows::Last(2)).ts_ns().unwrap().to_vec())
            .f64(Column::new("a", ColumnType::F64), vec![3.0, f64::NAN])
            .build()
            .unwrap();

        assert_eq!(
            Part::ingredient(&part(Rows::Last(2))),
            Part::ingredient(&alone)
        );
        assert_ne!(
            Part::ingredient(&part(Rows::Last(3))),
            Part::ingredient(&alone)
        );
    }

    #[test]
    fn refuses_what_a_table_does_not_have() {
        let missing = Part {
            columns: Some(vec!["aa".to_owned()]),
            rows: Rows::All,
        };
        let error = missing.of(table().into()).unwrap_err();
        assert!(
            error.to_string().contains("lacks the column `aa`"),
            "{error}"
        );
        let no_times = Table::builder()
            .f64(Column::new("a", ColumnType::F64), vec![1.0])
            .build()
            .unwrap();
        let times = Part {
            columns: None,
            rows: Rows::Time(None, Some(0)),
        };
        assert!(times.of(no_times.into()).is_err());
    }

    #[test]
    fn names_partitions() {
        let times = table().ts_ns().unwrap().to_vec();

        assert_eq!(Partition::Year.names(&times), ["2024"]);
        assert_eq!(Partition::Month.names(&times), ["2024-01", "2024-02"]);
        assert_eq!(Partition::Day.names(&times), ["2024-01-31", "2024-02-01"]);
    }

    #[test]
    fn reads_times() {
        assert_eq!(span("1970"), Some((0, 31_536_000_000_000_000)));
        assert_eq!(
            span("1970-01-02"),
            Some((86_400_000_000_000, 172_800_000_000_000))
        );
        assert_eq!(instant("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        assert_eq!(instant("1970-01-01T00:00:01"), Some(1_000_000_000));
        for text in [
            "",
            "24",
            "2024-13",
            "2024-02-30",
            "2024-1-1",
            "yesterday",
            "20240",
        ] {
            assert_eq!(span(text), None, "{text}");
        }
    }
}
