//! `uses = "labels.golden"`: every label that has reference values, under the name that it has there.
//!
//! Input `candles`: bars. Output `labels`: the same rows; a label is missing where its inputs have not warmed up or the bars
//! ahead of it do not exist.

use natron_artifacts::{
    Column, ColumnType, PortSchema, Schemas, Signature, Stage, StageContext, StageError, Table,
    Threads,
};
use natron_kernels::{
    bars::Bars,
    indicators::labels::{
        Directions, Distance, Exits, RegimeThresholds, Side, SignalThresholds, TripleBarrier,
        concurrency, direction, forward_return, signal_counts, uniqueness,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{self, Parts};
use crate::features::{BAR_COLUMNS, with_bars};

/// Bars that the longest label looks ahead.
const LONGEST_HORIZON: u32 = 16;

/// Every label with reference values: triple barriers (a share of the close, and average true ranges), their concurrency
/// and uniqueness, directions, a forward return, the counted conditions of Natron V2 and its regime.
///
/// For comparing programs, and as an example of each kind of label. Long and short trades of `tb_atr_*` have a stop of 1.5
/// and a target of 3 average true ranges and end after 16 bars; `tb_pct_*` has 0.4 %, 0.8 % and 8 bars.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GoldenLabels {
    /// Also `regime_full`, the regime whose threshold is a quantile of the whole file. It sees the future: for comparing
    /// with programs that do so.
    pub whole_file: bool,
}

/// A label: its name, its values, and what it means.
type Label = (&'static str, Vec<f64>, &'static str);

impl GoldenLabels {
    /// The labels of every bar, in the order of the table.
    pub fn label(&self, bars: Bars<'_>) -> Result<Vec<Label>, StageError> {
        let mut definitions = parts::of_natron_v2(20, 500, 0.9);
        definitions.push(("plain_range", "sma(tr(), 14)".to_owned()));
        let parts = Parts::of(&definitions, bars)?;
        let mut labels = of_trades(bars, [parts.get("range"), parts.get("plain_range")]);
        labels.extend(directions(bars.close));

        let (buys, sells) = signal_counts(&parts.signals(bars), SignalThresholds::default());
        let (buy, sell) = (at_least_two(&buys), at_least_two(&sells));
        labels.push(("buy_count", buys, "buy conditions of six that hold"));
        labels.push(("sell_count", sells, "sell conditions of six that hold"));
        labels.push(("buy", buy, "1 where two buy conditions or more hold"));
        labels.push(("sell", sell, "1 where two sell conditions or more hold"));

        let regime_against =
            |threshold: &[f64]| parts.regime(threshold, RegimeThresholds::default());
        labels.push((
            "regime_roll500",
            regime_against(parts.get("threshold")),
            "regime, volatile above the 90 % quantile of the last 500 average true ranges",
        ));
        if self.whole_file {
            let threshold = vec![quantile(parts.get("range"), 0.9); bars.len()];
            labels.push((
                "regime_full",
                regime_against(&threshold),
                "regime, volatile above the 90 % quantile of all average true ranges, also later ones",
            ));
        }
        Ok(labels)
    }
}

/// The labels of trades, with stops and targets in shares of the close and in two kinds of average true ranges.
fn of_trades(bars: Bars<'_>, [range, plain_range]: [&[f64]; 2]) -> Vec<Label> {
    let ends = |side, target, stop, horizon| {
        let barrier = TripleBarrier {
            side,
            target,
            stop,
            horizon,
        };
        barrier.label(bars.high, bars.low, bars.close)
    };
    let of_ranges = |side, range| {
        let (target, stop) = (Distance::Times(3.0, range), Distance::Times(1.5, range));
        ends(side, target, stop, 16)
    };

    let shares = ends(
        Side::Long,
        Distance::Share(0.008),
        Distance::Share(0.004),
        8,
    );
    let crowd = concurrency(&shares.bars);
    let unique = uniqueness(&shares.bars, &crowd);
    let mut labels = Vec::new();
    labels.extend(of_trade(
        ["tb_pct_exit", "tb_pct_bars", "tb_pct_ret", "tb_pct_label"],
        shares,
    ));
    let names = [
        "tb_atr_long_exit",
        "tb_atr_long_bars",
        "tb_atr_long_ret",
        "tb_atr_long_label",
    ];
    labels.extend(of_trade(names, of_ranges(Side::Long, range)));
    let names = [
        "tb_atr_short_exit",
        "tb_atr_short_bars",
        "tb_atr_short_ret",
        "tb_atr_short_label",
    ];
    labels.extend(of_trade(names, of_ranges(Side::Short, range)));
    let names = [
        "tb_atrsma_long_exit",
        "tb_atrsma_long_bars",
        "tb_atrsma_long_ret",
        "tb_atrsma_long_label",
    ];
    labels.extend(of_trade(names, of_ranges(Side::Long, plain_range)));
    labels.push((
        "tb_pct_concurrency",
        crowd,
        "labels `tb_pct` whose trade holds the bar",
    ));
    labels.push((
        "tb_pct_uniqueness",
        unique,
        "mean of 1 / concurrency over the trade of the label",
    ));
    labels
}

fn of_trade([exit, bars, returns, label]: [&'static str; 4], ends: Exits) -> [Label; 4] {
    let is_target = ends.is_target();
    [
        (
            exit,
            ends.exit,
            "1 at the target, -1 at the stop, 0 after the horizon",
        ),
        (bars, ends.bars, "bars from the row to the end of the trade"),
        (returns, ends.returns, "simple return of the trade"),
        (label, is_target, "1 where the target was reached, else 0"),
    ]
}

fn directions(close: &[f64]) -> [Label; 3] {
    let (near, far) = (
        Directions {
            up: 1.0,
            down: 0.0,
            neutral: 2.0,
        },
        Directions {
            up: 2.0,
            down: 0.0,
            neutral: 1.0,
        },
    );
    [
        (
            "dir_3_001",
            direction(close, 3, 0.001, near),
            "1 up, 0 down, 2 neither, in 3 bars and by more than 0.1 %",
        ),
        (
            "dir_5_002",
            direction(close, 5, 0.002, far),
            "2 up, 0 down, 1 neither, in 5 bars and by more than 0.2 %",
        ),
        (
            "fwd_ret_5",
            forward_return(close, 5),
            "simple return of the next 5 bars",
        ),
    ]
}

fn at_least_two(counts: &[f64]) -> Vec<f64> {
    let flag = |count: &f64| match count {
        count if count.is_nan() => f64::NAN,
        count => f64::from(u8::from(*count >= 2.0)),
    };
    counts.iter().map(flag).collect()
}

/// The quantile `share` of the values that are defined, between order statistics linearly; NaN without values.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut known: Vec<f64> = values.iter().copied().filter(|x| !x.is_nan()).collect();
    known.sort_by(f64::total_cmp);
    let Some(last) = known.len().checked_sub(1) else {
        return f64::NAN;
    };
    let position = share * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    known[below] + (known[above] - known[below]) * (position - below as f64)
}

impl Stage for GoldenLabels {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        let none = Bars {
            ts_ns: &[],
            open: &[],
            high: &[],
            low: &[],
            close: &[],
            volume: &[],
        };
        let mut columns = vec![Column::time_index()];
        columns.extend(self.label(none)?.iter().map(declaration));
        let ahead = if self.whole_file {
            u32::MAX
        } else {
            LONGEST_HORIZON.saturating_add(inputs.lookahead_bars())
        };
        Ok(Signature::new()
            .input_columns("candles", BAR_COLUMNS)
            .output("labels", PortSchema::table(columns).lookahead(ahead))
            .threads(Threads::All))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let candles = context.table("candles")?;
        let mut table = Table::builder().time_index(candles.ts_ns()?.to_vec());
        for label in with_bars(&candles, |bars| self.label(bars))?? {
            let column = declaration(&label);
            table = table.f64(column, label.1);
        }
        context.write("labels", table.build()?)
    }
}

fn declaration((name, _, description): &Label) -> Column {
    let unit = if name.ends_with("_ret") || *name == "fwd_ret_5" || name.ends_with("uniqueness") {
        "ratio"
    } else if name.ends_with("_bars") {
        "bars"
    } else {
        ""
    };
    Column::new(*name, ColumnType::F64)
        .unit(unit)
        .description(*description)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::fixtures::{golden_bars, market, read_csv, shared};

    #[test]
    fn labels_have_their_reference_values() {
        let Some(shared) = shared() else { return };
        let labels = GoldenLabels { whole_file: true };
        let bars = golden_bars(&shared);
        let golden = read_csv(&shared.join("golden/labels.csv"), |_| true);

        let found = labels.label(bars.view()).unwrap();

        assert_eq!(
            found.len(),
            golden.len() - 1,
            "all columns but the row's number"
        );
        for (name, values, _) in found {
            for (t, (x, y)) in values.iter().zip(&golden[name]).enumerate() {
                let is_near = (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-11 * x.abs();
                assert!(is_near, "{name}, row {t}: {x} against {y}");
            }
        }
    }

    #[test]
    fn no_label_sees_further_than_it_says() {
        let bars = market(400, 3);
        let labels = GoldenLabels::default();
        let (cut, before) = (300, labels.label(bars.view()).unwrap());
        let mut other = bars.clone();
        for column in [&mut other.high, &mut other.low, &mut other.close] {
            column[cut..].iter_mut().for_each(|x| *x *= 1.1);
        }

        let after = labels.label(other.view()).unwrap();

        let seen = cut - LONGEST_HORIZON as usize;
        for ((name, a, _), (_, b, _)) in before.iter().zip(&after) {
            for t in 0..seen {
                assert_eq!(a[t].to_bits(), b[t].to_bits(), "{name}, row {t}");
            }
        }
        assert!(
            before
                .iter()
                .zip(&after)
                .any(|(a, b)| a.1[seen + 1..] != b.1[seen + 1..])
        );
    }
}
