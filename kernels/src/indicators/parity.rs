//! Every indicator against values that other programs computed: see `golden/golden.py`.

use std::{collections::BTreeMap, path::Path};

use super::{
    catalog::{self, Indicator, Unit},
    check,
    engine::Engine,
    program::Input,
};
use crate::bars::BarColumns;

/// The columns of a file by name; NaN where a cell is empty or no number.
fn read(name: &str) -> BTreeMap<String, Vec<f64>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = text.lines();
    let names = lines.next().unwrap().split(',').map(str::to_owned);
    let mut columns: Vec<(String, Vec<f64>)> = names.map(|name| (name, Vec::new())).collect();
    for line in lines {
        for ((_, column), cell) in columns.iter_mut().zip(line.split(',')) {
            column.push(cell.parse().unwrap_or(f64::NAN));
        }
    }
    columns.into_iter().collect()
}

struct Reference {
    bars: BarColumns,
    columns: BTreeMap<String, Vec<f64>>,
}

impl Reference {
    fn load() -> Self {
        let mut candles = read("candles.csv");
        let mut column = |name: &str| candles.remove(name).unwrap();
        let close = column("close");
        let hour = 3_600_000_000_000;
        // An hour each, from 2024-01-01 01:00 on.
        let ts_ns = (0..close.len() as i64).map(|t| (19_723 * 24 + 1 + t) * hour);
        let bars = BarColumns {
            ts_ns: ts_ns.collect(),
            open: column("open"),
            high: column("high"),
            low: column("low"),
            volume: column("volume"),
            close,
        };
        let mut columns = read("windows.csv");
        columns.extend(read("bars.csv"));
        Self { bars, columns }
    }

    fn series(&self, name: &str) -> &[f64] {
        match name {
            "open" => &self.bars.open,
            "high" => &self.bars.high,
            "low" => &self.bars.low,
            "close" => &self.bars.close,
            "volume" => &self.bars.volume,
            other => &self.columns[other],
        }
    }
}

/// The indicator of a column `name:argument:...:output`, its series, its parameters and the place of the output; nothing
/// if there is no such indicator.
fn parse(column: &str) -> Option<(&'static Indicator, Vec<&str>, Vec<f64>, usize)> {
    let mut words = column.split(':');
    let indicator = catalog::find(words.next()?)?;
    let series: Vec<&str> = words.by_ref().take(indicator.series.len()).collect();
    let parameters: Vec<f64> = words
        .by_ref()
        .take(indicator.parameters.len())
        .map(|word| word.parse().unwrap_or_else(|e| panic!("`{column}`: {e}")))
        .collect();
    let output = words.next().unwrap_or("");
    let output = indicator.outputs.iter().position(|o| o.name == output);
    let output = output.unwrap_or_else(|| panic!("`{column}`: no such output"));
    Some((indicator, series, parameters, output))
}

/// The size of what a column is computed from: rounding is measured by it where a column passes through zero. Nothing for
/// columns that are exact.
fn size(reference: &Reference, unit: Unit, series: &[&str]) -> Option<f64> {
    let largest = |x: &[f64]| x.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let of_series = series
        .first()
        .map_or(1.0, |name| largest(reference.series(name)));
    let price = largest(&reference.bars.close);
    let volume: f64 = reference.bars.volume.iter().sum();
    match unit {
        Unit::Flag | Unit::Pattern | Unit::Rows => None,
        Unit::OfSeries => Some(of_series),
        Unit::OfSeriesSquared => Some(of_series * of_series),
        Unit::Price => Some(price),
        Unit::Percent => Some(100.0),
        Unit::Ratio | Unit::StandardDeviations | Unit::Nats => Some(1.0),
        // Totals from the start on.
        Unit::Volume => Some(volume),
        Unit::Turnover => Some(volume * price),
    }
}

#[test]
fn indicators_are_those_of_other_programs() {
    let reference = Reference::load();
    let mut mistakes = Vec::new();
    for (name, expected) in &reference.columns {
        if ["r", "v"].contains(&name.as_str()) {
            continue;
        }
        let Some((indicator, series, parameters, output)) = parse(name) else {
            mistakes.push(format!("{name}: no such indicator"));
            continue;
        };
        let inputs: Vec<Input> = (0..series.len()).map(Input::Column).collect();
        let program = check::program(indicator, &inputs, &parameters);
        let columns: Vec<&[f64]> = series.iter().map(|name| reference.series(name)).collect();
        let values = Engine::batch(&program, reference.bars.view(), &columns).swap_remove(output);
        let size = size(&reference, indicator.outputs[output].unit, &series);
        for (row, (x, y)) in values.iter().zip(expected).enumerate() {
            let allowed = size.map_or(0.0, |size| 1e-11 * x.abs().max(y.abs()) + 1e-12 * size);
            if x.is_nan() != y.is_nan() || (x - y).abs() > allowed {
                mistakes.push(format!("{name}, row {row}: {x} against {y}"));
                break;
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn every_indicator_has_reference_values() {
    let reference = Reference::load();
    let known = |indicator: &Indicator| {
        let is_of = |column: &String| column.split(':').next() == Some(indicator.name);
        reference.columns.keys().any(is_of)
    };
    let missing: Vec<&str> = catalog::catalog()
        .filter(|indicator| !known(indicator))
        .map(|indicator| indicator.name)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
