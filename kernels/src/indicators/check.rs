//! What the tests of the families share: a market, the reference values, and properties that every indicator has.

use std::collections::BTreeMap;

use super::{
    catalog::{self, Indicator, Range},
    engine::Engine,
    kernel::Tape,
    program::{Builder, Input, Program},
};
use crate::bars::{Bar, BarColumns};

mod fixtures;
use fixtures::{golden_bars, numbers, read_csv, shared};

/// The program of one indicator: `series` are its explicit series, `parameters` what follows.
pub(super) fn program(indicator: &Indicator, series: &[Input], parameters: &[f64]) -> Program {
    let mut builder = Builder::new();
    let series: Vec<_> = series.iter().map(|input| builder.input(*input)).collect();
    let outputs = (indicator.expand)(&mut builder, &series, parameters);
    assert_eq!(outputs.len(), indicator.outputs.len(), "{}", indicator.name);
    builder.finish(&outputs)
}

/// One output of one indicator on `bars`; `output` is its name, empty for the only one.
pub(super) fn values(
    bars: &BarColumns,
    name: &str,
    series: &[Input],
    parameters: &[f64],
    output: &str,
) -> Vec<f64> {
    let indicator = catalog::find(name).unwrap_or_else(|| panic!("no indicator `{name}`"));
    let position = indicator.outputs.iter().position(|o| o.name == output);
    let position = position.unwrap_or_else(|| panic!("`{name}` has no output `{output}`"));
    let program = program(indicator, series, parameters);
    Engine::batch(&program, bars.view(), &[]).swap_remove(position)
}

/// The reference values and the bars that they were made from.
pub(super) struct Golden {
    pub(super) bars: BarColumns,
    columns: BTreeMap<String, Vec<String>>,
    labels: BTreeMap<String, Vec<String>>,
}

impl Golden {
    /// Nothing where there are none.
    pub(super) fn load() -> Option<Self> {
        let shared = shared()?;
        Some(Self {
            bars: golden_bars(&shared),
            columns: read_csv(&shared.join("golden/indicators.csv")),
            labels: read_csv(&shared.join("golden/labels.csv")),
        })
    }

    /// Demands that `values` are the reference column `name`: defined in the same rows, and within 1e-11 relative plus
    /// 1e-12 of `size`, the typical size of what the indicator reads; to the bit when `size` is 0.
    pub(super) fn assert_is(&self, name: &str, values: &[f64], size: f64) {
        assert_near(name, values, &self.column(name), size);
    }

    /// The same for the label `name`.
    pub(super) fn assert_is_label(&self, name: &str, values: &[f64], size: f64) {
        assert_near(name, values, &numbers(&self.labels[name]), size);
    }

    /// The reference column `name`.
    pub(super) fn column(&self, name: &str) -> Vec<f64> {
        numbers(&self.columns[name])
    }
}

fn assert_near(name: &str, values: &[f64], expected: &[f64], size: f64) {
    assert_eq!(values.len(), expected.len(), "{name}");
    for (row, (x, y)) in values.iter().zip(expected).enumerate() {
        assert_eq!(x.is_nan(), y.is_nan(), "{name}, row {row}: {x} against {y}");
        let allowed = if size == 0.0 {
            0.0
        } else {
            1e-11 * x.abs().max(y.abs()) + 1e-12 * size
        };
        assert!(
            x.is_nan() || (x - y).abs() <= allowed,
            "{name}, row {row}: {x} against {y}"
        );
    }
}

/// A random walk on bars of half an hour; see [`fixtures::market`].
pub(super) fn market(n_rows: usize, seed: u64) -> BarColumns {
    fixtures::market(n_rows, seed, 1_800_000_000_000)
}

/// A series for each that the indicator wants, and its defaults (or something in the middle of small numbers).
pub(super) fn typical(indicator: &Indicator) -> (Vec<Input>, Vec<f64>) {
    let known = [Input::Close, Input::Volume, Input::Open];
    let series = known.iter().cycle().take(indicator.series.len());
    let parameters = indicator.parameters.iter().map(|parameter| {
        parameter.default.unwrap_or(match parameter.range {
            Range::Whole(least, most) => f64::from(10.clamp(least, most)),
            Range::Real(least, most) => 0.5_f64.clamp(least, most),
        })
    });
    (series.copied().collect(), parameters.collect())
}

fn bits(columns: &[Vec<f64>]) -> Vec<Vec<u64>> {
    let of = |column: &Vec<f64>| column.iter().map(|x| x.to_bits()).collect();
    columns.iter().map(of).collect()
}

/// Demands of one indicator what all promise: batch, stream and a stream taken up from its state have the same bits; no row
/// sees later ones; the warm-up is exact or longer for data's sake; nothing is infinite on a motionless market.
pub(super) fn assert_keeps_promises(indicator: &Indicator) {
    let name = indicator.name;
    let (series, parameters) = typical(indicator);
    let program = program(indicator, &series, &parameters);
    let mut bars = market(1300, 7);
    bars.close[700] = f64::NAN;
    let batch = Engine::batch(&program, bars.view(), &[]);

    let mut stream = Engine::new(&program);
    let mut row = vec![0.0; program.n_outputs()];
    for (t, bar) in bars.view().iter().enumerate() {
        stream.update(bar, &[], &mut row);
        for (column, x) in batch.iter().zip(&row) {
            assert_eq!(
                column[t].to_bits(),
                x.to_bits(),
                "{name}, row {t} of a stream"
            );
        }
        if t == 903 {
            let mut written = Tape::new();
            stream.state(&mut written);
            let mut taken = Tape::of(written.into_words());
            stream = Engine::new(&program);
            stream.state(&mut taken);
            assert!(taken.is_used_up(), "{name}");
        }
    }

    let cut = 640;
    let mut other = bars.clone();
    for column in [
        &mut other.open,
        &mut other.high,
        &mut other.low,
        &mut other.close,
        &mut other.volume,
    ] {
        column[cut..].iter_mut().for_each(|x| *x *= 1.25);
    }
    let changed = Engine::batch(&program, other.view(), &[]);
    let past = |columns: &[Vec<f64>]| {
        bits(
            &columns
                .iter()
                .map(|c| c[..cut].to_vec())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(past(&batch), past(&changed), "{name} sees the future");

    for (position, column) in batch.iter().enumerate() {
        let defined = column
            .iter()
            .position(|x| !x.is_nan())
            .unwrap_or(usize::MAX);
        assert!(
            defined >= program.warm_up(position) && defined < 700,
            "{name}: the first value is in row {defined}, and {} is stated",
            program.warm_up(position)
        );
        if let Some(memory) = program.memory(position) {
            let scale = column
                .iter()
                .filter(|x| !x.is_nan())
                .fold(0.0_f64, |a, x| a.max(x.abs()));
            let start = 13;
            if memory + start < 690 {
                let late = Engine::batch(&program, bars.view().slice(start..1300), &[]);
                for t in start + memory..690 {
                    let (a, b) = (column[t], late[position][t - start]);
                    assert!(
                        a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-12 * scale,
                        "{name}, row {t}: {a}, and {b} when started {start} rows later"
                    );
                }
            }
        }
    }

    let still: BarColumns = (0..700)
        .map(|t| Bar {
            ts_ns: t * 60_000_000_000,
            open: 0.1,
            high: 0.1,
            low: 0.1,
            close: 0.1,
            volume: 7.0,
        })
        .collect();
    let mut engine = Engine::new(&program);
    for bar in still.view().iter() {
        engine.update(bar, &[], &mut row);
        assert!(row.iter().all(|x| !x.is_infinite()), "{name}");
    }
}

#[test]
fn every_indicator_keeps_its_promises() {
    catalog::catalog().for_each(assert_keeps_promises);
}

#[test]
fn names_are_unique_and_definitions_are_sentences() {
    let mut names = std::collections::BTreeSet::new();
    for indicator in catalog::catalog() {
        assert!(
            names.insert(indicator.name),
            "two are called {}",
            indicator.name
        );
        assert!(indicator.definition.len() > 10, "{}", indicator.name);
        assert!(!indicator.outputs.is_empty(), "{}", indicator.name);
    }
}
