//! What a plan computes on one fixed market, a few numbers for each column.
//!
//! A model keeps these numbers. A program whose definitions differ computes others, so it cannot serve the model other
//! features under the same names unnoticed; one whose sources merely read differently computes the same.

use std::collections::BTreeMap;

use natron_kernels::bars::{Bar, BarColumns};
use serde::{Deserialize, Serialize};

use super::plan::{FeaturePlan, Market};

/// Nanoseconds from bar to bar.
const HOUR_NS: i64 = 3_600_000_000_000;

/// Rows after the warm-up of all columns.
const ROWS: usize = 240;

/// Sums that differ by less than this share of their terms' magnitude are the same: rounding, not another definition.
const TOLERANCE: f64 = 1e-6;

/// What one column holds on the fixed market.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trace {
    /// Rows on which it is defined.
    rows: u64,
    /// Mean of its values, each times a weight of its row from 1 to 2.
    weighted_mean: f64,
    /// Mean of its magnitudes.
    magnitude: f64,
}

impl Trace {
    fn of(values: &[f64]) -> Self {
        let (mut rows, mut sum, mut magnitude) = (0_u64, 0.0, 0.0);
        for (t, &x) in values.iter().enumerate().filter(|(_, x)| x.is_finite()) {
            rows += 1;
            sum += x * (1.0 + (t * 37 % 101) as f64 / 101.0);
            magnitude += x.abs();
        }
        let n = rows.max(1) as f64;
        Self {
            rows,
            weighted_mean: sum / n,
            magnitude: magnitude / n,
        }
    }

    /// Whether both are of one definition.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let scale = self.magnitude.max(other.magnitude);
        let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * scale;
        self.rows == other.rows
            && near(self.weighted_mean, other.weighted_mean)
            && near(self.magnitude, other.magnitude)
    }
}

/// The trace of every column of `plan`, by name.
pub(crate) fn probe(plan: &FeaturePlan) -> BTreeMap<String, Trace> {
    let warm_up = plan.warm_up().rows(Some(HOUR_NS)).unwrap_or(0);
    let bars = market(warm_up + ROWS);
    // Further columns and markets are made of the same bars.
    let further = |market: &str| -> Vec<Vec<f64>> {
        let names = plan.further_columns(market).iter().enumerate();
        names
            .map(|(i, _)| bars.volume.iter().map(|x| x / (i + 3) as f64).collect())
            .collect()
    };
    let markets: BTreeMap<&str, (BarColumns, Vec<Vec<f64>>)> = plan
        .markets()
        .enumerate()
        .map(|(i, name)| {
            let price = |values: &[f64]| -> Vec<f64> {
                values.iter().map(|x| (x - 60.0 - i as f64).abs()).collect()
            };
            let other = BarColumns {
                ts_ns: bars.ts_ns.clone(),
                open: price(&bars.close),
                high: price(&bars.high),
                low: price(&bars.low),
                close: price(&bars.open),
                volume: bars.volume.clone(),
            };
            (name, (other, further(name)))
        })
        .collect();
    let slices: BTreeMap<&str, Vec<&[f64]>> = markets
        .iter()
        .map(|(name, (_, columns))| (*name, columns.iter().map(Vec::as_slice).collect()))
        .collect();
    let markets = markets.iter().map(|(name, (bars, _))| {
        let market = Market {
            bars: bars.view(),
            columns: &slices[name],
        };
        ((*name).to_owned(), market)
    });
    let own = further("");
    let own: Vec<&[f64]> = own.iter().map(Vec::as_slice).collect();
    let candles = Market {
        bars: bars.view(),
        columns: &own,
    };
    let columns: Vec<Vec<f64>> = plan.batch_of(candles, &markets.collect());
    let names = plan.columns().iter().map(|column| column.name.clone());
    names
        .zip(columns.iter().map(|values| Trace::of(values)))
        .collect()
}

/// A random walk of hourly bars with calm and wild stretches, gaps, and bars without range or volume.
fn market(n_rows: usize) -> BarColumns {
    // Knuth's linear congruence: what artifacts draw must not decide this.
    let mut state = 1_u64;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut close = 100.0;
    let mut columns = BarColumns::default();
    for t in 0..n_rows {
        let size = if (t / 50) % 3 == 1 { 0.02 } else { 0.004 };
        let gap = if t % 11 == 0 { uniform() - 0.5 } else { 0.0 };
        let is_still = t % 43 == 0;
        let open: f64 = close * (1.0 + size * gap);
        close = open;
        let (mut high, mut low) = (open, open);
        if !is_still {
            close *= 1.0 + size * (uniform() - 0.49);
            high = open.max(close) * (1.0 + size * uniform());
            low = open.min(close) * (1.0 - size * uniform());
        }
        let volume = if t % 37 == 5 {
            0.0
        } else {
            1000.0 * (0.2 + uniform())
        };
        columns.push(Bar {
            ts_ns: t as i64 * HOUR_NS,
            open,
            high,
            low,
            close,
            volume,
        });
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::super::{FeatureParameters, FeatureSet};
    use super::*;

    #[test]
    fn another_period_or_shift_changes_the_trace_and_rounding_does_not() {
        let mut parameters = FeatureParameters::of(FeatureSet::NatronV2);
        let ours = probe(&FeaturePlan::compile(&parameters).unwrap());
        parameters.trend.adx_period = 15;
        let other = probe(&FeaturePlan::compile(&parameters).unwrap());

        assert!(ours.values().all(|trace| trace.rows > 0));
        assert!(!ours["adx_14"].agrees_with(&other["adx_15"]));
        let values: Vec<f64> = market(200).close.iter().map(|x| x - 100.0).collect();
        let trace = Trace::of(&values);
        assert!(!trace.agrees_with(&Trace::of(&values[1..])));
        let rounded: Vec<f64> = values.iter().map(|x| x * (1.0 + 1e-12)).collect();
        assert!(trace.agrees_with(&Trace::of(&rounded)));
    }
}
