//! A table as comma-separated text.

use std::io::{self, BufWriter, Write};

use natron_artifacts::{ColumnType, Table};

use crate::cells::{self, Cell};

/// Digits that every double needs to read back to the same bits.
const DOUBLE_DIGITS: usize = 17;
/// The same for single precision.
const SINGLE_DIGITS: usize = 9;

/// Writes the table: a line of names, then the rows. Missing values are empty fields.
pub(super) fn write(table: &Table, file: &mut impl Write) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().from_writer(BufWriter::new(file));
    let columns = table.columns();
    writer.write_record(columns.iter().map(|column| column.name.as_str()))?;
    let mut record: Vec<String> = vec![String::new(); columns.len()];
    for row in 0..table.n_rows() {
        for (i, (field, column)) in record.iter_mut().zip(columns).enumerate() {
            let cell = cells::cell(table, i, row).map_err(io::Error::other)?;
            *field = text(cell, column.column_type);
        }
        writer.write_record(&record)?;
    }
    writer.flush()
}

fn text(cell: Cell<'_>, column_type: ColumnType) -> String {
    match cell {
        Cell::Missing => String::new(),
        Cell::Float(value) if column_type == ColumnType::F32 => number(value, SINGLE_DIGITS),
        Cell::Float(value) => number(value, DOUBLE_DIGITS),
        Cell::Integer(value) => value.to_string(),
        Cell::Truth(value) => value.to_string(),
        Cell::Text(text) => text.to_owned(),
        Cell::Time(ts_ns) => cells::time(ts_ns),
    }
}

/// The number with so many significant digits, as C's `%.17g`: plain between 1e-5 and 10^digits, zeros at the end left away.
fn number(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 && value.is_sign_negative() {
            "-0".to_owned()
        } else {
            value.to_string()
        };
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a whole number");
    let short = |text: &str| {
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            text
        };
        text.to_owned()
    };
    if (-5..digits as i32).contains(&exponent) {
        let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
        short(&format!("{value:.decimals$}"))
    } else {
        format!("{}e{exponent}", short(mantissa))
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Column;

    use super::*;

    #[test]
    fn numbers_read_back_to_the_same_bits() {
        let values = [
            0.1,
            1.0 / 3.0,
            -2.5,
            1e22,
            123_456_789.123_456_78,
            5e-324,
            f64::MAX,
            1e-5,
            99_999.999_999_999_98,
            -0.0,
        ];
        for value in values {
            let text = number(value, DOUBLE_DIGITS);
            assert_eq!(
                text.parse::<f64>().unwrap().to_bits(),
                value.to_bits(),
                "{text}"
            );
        }
        assert_eq!(number(0.1, DOUBLE_DIGITS), "0.10000000000000001");
        assert_eq!(number(150.0, DOUBLE_DIGITS), "150");
        assert_eq!(number(f64::from(0.1_f32), SINGLE_DIGITS), "0.100000001");
        assert_eq!(number(1e300, DOUBLE_DIGITS), "1.0000000000000001e300");
    }

    #[test]
    fn quotes_what_needs_quotes() {
        let table = Table::builder()
            .time_index(vec![0, 1_500_000_000])
            .utf8(
                Column::new("note, long", ColumnType::Utf8),
                vec!["a \"b\"".into(), "x\ny".into()],
            )
            .f64(Column::new("v", ColumnType::F64), vec![f64::NAN, 2.0])
            .build()
            .unwrap();
        let mut file = Vec::new();

        write(&table, &mut file).unwrap();
        assert_eq!(
            String::from_utf8(file).unwrap(),
            "ts_ns,\"note, long\",v\n1970-01-01T00:00:00Z,\"a \"\"b\"\"\",\n1970-01-01T00:00:01.5Z,\"x\ny\",2\n"
        );
    }
}
