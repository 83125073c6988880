//! What there is to say of a column in a few numbers.

use natron_artifacts::{ColumnType, Table};

/// Statistics of one column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statistics {
    /// Missing values.
    pub(super) missing: usize,
    /// Of the values that are there; nothing for texts, times and empty columns.
    pub(super) numbers: Option<Numbers>,
}

/// Statistics of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Numbers {
    /// The smallest.
    pub(super) minimum: f64,
    /// The largest.
    pub(super) maximum: f64,
    /// The mean.
    pub(super) mean: f64,
    /// The standard deviation (n - 1); 0 for a single value.
    pub(super) deviation: f64,
}

/// Statistics of the column called `name`.
pub(super) fn of(table: &Table, name: &str) -> Statistics {
    let position = table
        .columns()
        .iter()
        .position(|column| column.name == name);
    let missing = position.map_or(0, |i| table.arrow().column(i).null_count());
    let is_number = position.is_some_and(|i| {
        !matches!(
            table.columns()[i].column_type,
            ColumnType::Utf8 | ColumnType::TimestampNs
        )
    });
    let values = if is_number {
        table.numbers(name).unwrap_or_default()
    } else {
        Vec::new()
    };
    Statistics {
        missing,
        numbers: numbers(values.into_iter().filter(|value| !value.is_nan())),
    }
}

fn numbers(values: impl Iterator<Item = f64> + Clone) -> Option<Numbers> {
    let n = values.clone().count();
    if n == 0 {
        return None;
    }
    let mean = values.clone().sum::<f64>() / n as f64;
    let squares: f64 = values
        .clone()
        .map(|value| (value - mean) * (value - mean))
        .sum();
    Some(Numbers {
        minimum: values.clone().fold(f64::INFINITY, f64::min),
        maximum: values.fold(f64::NEG_INFINITY, f64::max),
        mean,
        deviation: if n > 1 {
            (squares / (n - 1) as f64).sqrt()
        } else {
            0.0
        },
    })
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Column;

    use super::*;

    #[test]
    fn missing_values_count_apart() {
        let table = Table::builder()
            .f64(Column::new("x", ColumnType::F64), vec![1.0, f64::NAN, 3.0])
            .utf8(
                Column::new("s", ColumnType::Utf8),
                vec!["a".into(), "b".into(), "c".into()],
            )
            .build()
            .unwrap();

        let numbers = Numbers {
            minimum: 1.0,
            maximum: 3.0,
            mean: 2.0,
            deviation: 2.0_f64.sqrt(),
        };
        assert_eq!(
            of(&table, "x"),
            Statistics {
                missing: 1,
                numbers: Some(numbers)
            }
        );
        assert_eq!(
            of(&table, "s"),
            Statistics {
                missing: 0,
                numbers: None
            }
        );
    }
}
