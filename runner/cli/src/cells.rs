//! The values of a table, one at a time.

use arrow::{
    array::{Array, AsArray},
    datatypes::{Float32Type, Float64Type, Int64Type, TimestampNanosecondType},
};
use natron_artifacts::{ArtifactError, ColumnType, Table};

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cell<'a> {
    /// No value.
    Missing,
    /// A float; of single precision it is exactly that value.
    Float(f64),
    /// An integer.
    Integer(i64),
    /// True or false.
    Truth(bool),
    /// Text.
    Text(&'a str),
    /// Nanoseconds since 1970 in UTC.
    Time(i64),
}

/// The value of column number `column` in row number `row`.
///
/// # Errors
///
/// When there is no such column or row.
pub(crate) fn cell(table: &Table, column: usize, row: usize) -> Result<Cell<'_>, ArtifactError> {
    let columns = table.arrow().columns();
    let array = columns.get(column).filter(|array| row < array.len());
    let array = array
        .ok_or_else(|| ArtifactError::new(format!("the table has no cell {row}, {column}")))?;
    if array.is_null(row) {
        return Ok(Cell::Missing);
    }
    Ok(match table.columns()[column].column_type {
        ColumnType::F64 => Cell::Float(array.as_primitive::<Float64Type>().value(row)),
        ColumnType::F32 => Cell::Float(f64::from(array.as_primitive::<Float32Type>().value(row))),
        ColumnType::I64 => Cell::Integer(array.as_primitive::<Int64Type>().value(row)),
        ColumnType::Bool => Cell::Truth(array.as_boolean().value(row)),
        ColumnType::Utf8 => Cell::Text(array.as_string::<i32>().value(row)),
        ColumnType::TimestampNs => {
            Cell::Time(array.as_primitive::<TimestampNanosecondType>().value(row))
        }
    })
}

/// The time in RFC 3339, UTC, with as many digits after the second as it needs, up to nanoseconds.
pub(crate) fn time(ts_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ts_ns))
        .map_or_else(|_| ts_ns.to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_they_need() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(time(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(time(i64::MIN), "1677-09-21T00:12:43.145224192Z");
    }
}
