//! A table: some rows, and one line about each column.

use natron_artifacts::{ArtifactError, Column, ColumnType, Table};
use serde_json::{Map, Value, json};

use super::statistics::{self, Statistics};
use crate::{
    cells,
    layout::{Align, Block, columns},
    style::{Style, printable, truncated, width},
    units,
};

/// Longest cell of a text column.
const MOST_TEXT_CELLS: usize = 32;

/// The table for people: `n` rows of its head and of its tail, then its columns.
pub(super) fn text(
    name: &str,
    table: &Table,
    n: usize,
    style: Style,
    terminal: usize,
) -> Result<String, ArtifactError> {
    let mut block = Block::default();
    let mut title = format!(
        "{}: {} rows, {}",
        style.bold(name),
        units::count(table.n_rows() as u64),
        units::plural(table.columns().len(), "column")
    );
    if !table.made_by().is_empty() {
        title.push_str(&style.dim(&format!(", made by {}", printable(table.made_by()))));
    }
    block.line(&title);
    if n > 0 && table.n_rows() > 0 {
        block.line("");
        for line in rows(table, n, style, terminal)? {
            block.line(&line);
        }
    }
    block.line("");
    for line in schema(table, style, terminal) {
        block.line(&line);
    }
    if !table.facts().is_empty() {
        block.line("");
        for (name, value) in table.facts() {
            let value = truncated(
                &printable(&value.to_string()),
                terminal.saturating_sub(width(name) + 4),
            );
            block.line(&format!("{}: {value}", style.cyan(&printable(name))));
        }
    }
    Ok(block.text())
}

/// The rows that are shown: their numbers.
fn shown_rows(n_rows: usize, n: usize) -> (Vec<usize>, usize) {
    if n_rows <= 2 * n {
        ((0..n_rows).collect(), 0)
    } else {
        ((0..n).chain(n_rows - n..n_rows).collect(), n_rows - 2 * n)
    }
}

fn rows(
    table: &Table,
    n: usize,
    style: Style,
    terminal: usize,
) -> Result<Vec<String>, ArtifactError> {
    let (shown, left_out) = shown_rows(table.n_rows(), n);
    let mut lines: Vec<Vec<String>> = vec![vec![style.dim("row")]];
    lines.extend(shown.iter().map(|row| vec![style.dim(&row.to_string())]));
    let mut align = vec![Align::Right];
    let mut used = lines.iter().map(|line| width(&line[0])).max().unwrap_or(0);
    let all = table.columns().len();
    for (i, column) in table.columns().iter().enumerate() {
        let cells = shown
            .iter()
            .map(|&row| cell(table, i, row))
            .collect::<Result<Vec<String>, ArtifactError>>()?;
        let name = printable(&column.name);
        let widest = cells
            .iter()
            .map(|cell| width(cell))
            .max()
            .unwrap_or(0)
            .max(width(&name));
        let rest = all - i;
        let note = if rest > 1 { 12 } else { 0 };
        if i > 0 && used + 2 + widest + note > terminal {
            lines[0].push(style.dim(&format!("… {rest} more")));
            break;
        }
        used += 2 + widest;
        lines[0].push(style.cyan(&name));
        for (line, cell) in lines[1..].iter_mut().zip(cells) {
            line.push(cell);
        }
        align.push(if column.column_type == ColumnType::Utf8 {
            Align::Left
        } else {
            Align::Right
        });
    }
    let mut lines = columns(&lines, &align);
    if left_out > 0 {
        lines.insert(
            n + 1,
            style.dim(&format!("… {} rows more …", units::count(left_out as u64))),
        );
    }
    Ok(lines)
}

fn cell(table: &Table, column: usize, row: usize) -> Result<String, ArtifactError> {
    Ok(match cells::cell(table, column, row)? {
        cells::Cell::Missing => "·".to_owned(),
        cells::Cell::Float(value) => units::number(value),
        cells::Cell::Integer(value) => value.to_string(),
        cells::Cell::Truth(value) => value.to_string(),
        cells::Cell::Text(text) => truncated(&printable(text), MOST_TEXT_CELLS),
        cells::Cell::Time(ts_ns) => cells::time(ts_ns),
    })
}

fn schema(table: &Table, style: Style, terminal: usize) -> Vec<String> {
    let mut rows = vec![
        [
            "column",
            "type",
            "unit",
            "missing",
            "mean",
            "deviation",
            "minimum",
            "maximum",
            "meaning",
        ]
        .map(|title| style.dim(title))
        .to_vec(),
    ];
    for column in table.columns() {
        let statistics = statistics::of(table, &column.name);
        rows.push(schema_row(column, &statistics, style));
    }
    let align = [
        Align::Left,
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    let lines = columns(&rows, &align);
    lines
        .into_iter()
        .map(|line| truncated(&line, terminal))
        .collect()
}

fn schema_row(column: &Column, statistics: &Statistics, style: Style) -> Vec<String> {
    let mut row = vec![
        style.cyan(&printable(&column.name)),
        column.column_type.to_string(),
        printable(&column.unit),
        units::count(statistics.missing as u64),
    ];
    match statistics.numbers {
        Some(n) => row.extend([n.mean, n.deviation, n.minimum, n.maximum].map(units::number)),
        None => row.extend(["", "", "", ""].map(str::to_owned)),
    }
    row.push(style.dim(&printable(&column.description)));
    row
}

/// The table for machines.
pub(super) fn json(table: &Table, n: usize) -> Result<Value, ArtifactError> {
    let columns: Vec<Value> = table
        .columns()
        .iter()
        .map(|column| {
            let statistics = statistics::of(table, &column.name);
            let mut value = json!({
                "name": column.name, "type": column.column_type.to_string(), "unit": column.unit,
                "description": column.description, "missing": statistics.missing,
            });
            if let Some(n) = statistics.numbers {
                value["minimum"] = n.minimum.into();
                value["maximum"] = n.maximum.into();
                value["mean"] = n.mean.into();
                value["deviation"] = n.deviation.into();
            }
            value
        })
        .collect();
    let (shown, _) = shown_rows(table.n_rows(), n);
    let rows = shown
        .into_iter()
        .map(|row| row_json(table, row))
        .collect::<Result<Vec<_>, ArtifactError>>()?;
    Ok(json!({
        "rows": table.n_rows(), "columns": columns, "made_by": table.made_by(),
        "facts": table.facts(), "shown": rows,
    }))
}

fn row_json(table: &Table, row: usize) -> Result<Value, ArtifactError> {
    let mut fields = Map::new();
    fields.insert("row".into(), row.into());
    for (i, column) in table.columns().iter().enumerate() {
        let value = match cells::cell(table, i, row)? {
            cells::Cell::Missing => Value::Null,
            cells::Cell::Float(value) => value.into(),
            cells::Cell::Integer(value) => value.into(),
            cells::Cell::Truth(value) => value.into(),
            cells::Cell::Text(text) => text.into(),
            cells::Cell::Time(ts_ns) => cells::time(ts_ns).into(),
        };
        fields.insert(column.name.clone(), value);
    }
    Ok(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(n: usize) -> Table {
        Table::builder()
            .time_index((0..n as i64).map(|i| i * 3_600_000_000_000).collect())
            .f64(
                Column::new("close", ColumnType::F64).unit("price"),
                (0..n)
                    .map(|i| {
                        if i == 1 {
                            f64::NAN
                        } else {
                            100.0 + i as f64 / 4.0
                        }
                    })
                    .collect(),
            )
            .build()
            .unwrap()
    }

    #[test]
    fn shows_head_tail_and_columns() {
        let text = text("bars", &table(9), 2, Style::PLAIN, 120).unwrap();

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "bars: 9 rows, 2 columns");
        assert_eq!(
            lines[2..8],
            [
                "row                 ts_ns   close",
                "  0  1970-01-01T00:00:00Z     100",
                "  1  1970-01-01T01:00:00Z       ·",
                "… 5 rows more …",
                "  7  1970-01-01T07:00:00Z  101.75",
                "  8  1970-01-01T08:00:00Z     102",
            ]
        );
        assert!(
            lines[11].starts_with("close   f64           price        1  101.0938"),
            "{text}"
        );
    }

    #[test]
    fn wide_tables_fit_the_terminal() {
        let mut builder = Table::builder();
        for i in 0..40 {
            builder = builder.f64(
                Column::new(format!("column_{i}"), ColumnType::F64),
                vec![1.0; 3],
            );
        }
        let text = text("wide", &builder.build().unwrap(), 5, Style::PLAIN, 80).unwrap();

        assert!(text.lines().all(|line| width(line) <= 80), "{text}");
        assert!(text.contains("more"), "{text}");
    }
}
