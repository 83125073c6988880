//! `uses = "labels.natron_v2"`: buy, sell, direction and regime of every bar.
//!
//! Input `candles`: bars. Outputs: `labels`, the same rows, and `statistics`, what the labels look like and how they relate
//! to the returns that follow.
//!
//! `buy`, `sell` and `regime` are functions of the bar and the bars before it; `direction` and the forward return look
//! `lookahead_bars` ahead and are missing where that many bars do not follow. Nothing is filled, balanced or flipped here.

use natron_artifacts::{
    Column, ColumnType, Kind, PortSchema, Schemas, Signature, Stage, StageContext, StageError,
    Table, Threads,
};
use natron_kernels::{
    bars::Bars,
    indicators::labels::{
        Directions, RegimeThresholds, SignalThresholds, direction, forward_return, signal_counts,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::parts::{self, Parts};
use super::statistics::statistics;
use crate::features::{BAR_COLUMNS, with_bars};

/// Names of the classes of `direction`, by number.
pub const DIRECTIONS: [&str; 3] = ["down", "up", "neutral"];
/// Names of the classes of `regime`, by number.
pub const REGIMES: [&str; 6] = [
    "BULL_STRONG",
    "BULL_WEAK",
    "RANGE",
    "BEAR_WEAK",
    "BEAR_STRONG",
    "VOLATILE",
];

/// Buy, sell, direction and regime labels by the rules of Natron V2.
///
/// `buy` and `sell` are 1 where at least `minimum_conditions` of six conditions on the bar and its past hold; they are
/// functions of the features of the same bar. `direction` compares the close `lookahead_bars` later with this one: 0 down,
/// 1 up, 2 neutral. `regime` is 0 `BULL_STRONG`, 1 `BULL_WEAK`, 2 `RANGE`, 3 `BEAR_WEAK`, 4 `BEAR_STRONG`, 5 `VOLATILE`.
/// A label is missing where its inputs have not warmed up or the bars ahead do not exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NatronV2Labels {
    /// Move of the close, as a share of it, up to which the direction is neutral.
    pub neutral_buffer: f64,
    /// Bars ahead at which the direction is read.
    pub lookahead_bars: usize,
    /// Volume over its 20-bar mean above which a buy or sell condition holds.
    pub volume_spike: f64,
    /// Position of the close in its bar from which on a buy condition holds.
    pub buy_position: f64,
    /// Position of the close in its bar down to which a sell condition can hold.
    pub sell_position: f64,
    /// Conditions out of six that make a buy or a sell.
    pub minimum_conditions: usize,
    /// Bars over which the trend of the regime is taken.
    pub trend_bars: usize,
    /// Return over `trend_bars` beyond which a trend is strong.
    pub strong_trend: f64,
    /// ADX above which a trend is strong.
    pub strong_adx: f64,
    /// Share of the last average true ranges that the present one exceeds in the regime `VOLATILE`.
    pub volatile_quantile: f64,
    /// Average true ranges, the present one included, that this quantile is taken of. It trails: the rest of the file has no
    /// say.
    pub volatile_window: usize,
    /// Volume over its 20-bar mean above which the regime is `VOLATILE`.
    pub volatile_volume: f64,
}

impl Default for NatronV2Labels {
    fn default() -> Self {
        NatronV2Labels {
            neutral_buffer: 0.001,
            lookahead_bars: 3,
            volume_spike: 1.5,
            buy_position: 0.7,
            sell_position: 0.3,
            minimum_conditions: 2,
            trend_bars: 20,
            strong_trend: 0.02,
            strong_adx: 25.0,
            volatile_quantile: 0.9,
            volatile_window: 500,
            volatile_volume: 2.0,
        }
    }
}

/// The labels of a series, row by row. Missing ones are `None` or NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// 1 or 0.
    pub buy: Vec<Option<i64>>,
    /// 1 or 0.
    pub sell: Vec<Option<i64>>,
    /// Position in [`DIRECTIONS`].
    pub direction: Vec<Option<i64>>,
    /// Position in [`REGIMES`].
    pub regime: Vec<Option<i64>>,
    /// Buy conditions that hold, out of six.
    pub buy_count: Vec<Option<i64>>,
    /// Sell conditions that hold, out of six.
    pub sell_count: Vec<Option<i64>>,
    /// Simple return from this close to that `lookahead_bars` later.
    pub forward_return: Vec<f64>,
}

impl NatronV2Labels {
    /// The labels of every bar.
    pub fn label(&self, bars: Bars<'_>) -> Result<Labels, StageError> {
        let definitions = parts::of_natron_v2(
            self.trend_bars,
            self.volatile_window,
            self.volatile_quantile,
        );
        let parts = Parts::of(&definitions, bars)?;
        let thresholds = SignalThresholds {
            volume_spike: self.volume_spike,
            buy_position: self.buy_position,
            sell_position: self.sell_position,
        };
        let (buy, sell) = signal_counts(&parts.signals(bars), thresholds);
        let (buy_count, sell_count) = (classes(&buy), classes(&sell));
        let is_enough = |count: &Option<i64>| {
            count.map(|count| i64::from(count >= self.minimum_conditions as i64))
        };
        let thresholds = RegimeThresholds {
            strong_trend: self.strong_trend,
            strong_adx: self.strong_adx,
            volatile_volume: self.volatile_volume,
        };
        Ok(Labels {
            buy: buy_count.iter().map(is_enough).collect(),
            sell: sell_count.iter().map(is_enough).collect(),
            direction: self.direction(bars.close),
            regime: classes(&parts.regime(parts.get("threshold"), thresholds)),
            buy_count,
            sell_count,
            forward_return: forward_return(bars.close, self.lookahead_bars),
        })
    }

    fn direction(&self, close: &[f64]) -> Vec<Option<i64>> {
        let numbers = Directions {
            up: 1.0,
            down: 0.0,
            neutral: 2.0,
        };
        classes(&direction(
            close,
            self.lookahead_bars,
            self.neutral_buffer,
            numbers,
        ))
    }

    fn check(&self) -> Result<(), StageError> {
        let refuse = |name: &str, given: String, expected: &str| {
            Err(StageError::parameter(
                name,
                format!("`{name}` is {given}, expected {expected}"),
            ))
        };
        for (name, bars, most) in [
            ("lookahead_bars", self.lookahead_bars, 100_000),
            ("trend_bars", self.trend_bars, 10_000),
            ("volatile_window", self.volatile_window, 100_000),
        ] {
            if !(1..=most).contains(&bars) {
                return refuse(name, bars.to_string(), &format!("1 to {most} bars"));
            }
        }
        for (name, value) in [
            ("neutral_buffer", self.neutral_buffer),
            ("volume_spike", self.volume_spike),
            ("strong_trend", self.strong_trend),
            ("strong_adx", self.strong_adx),
            ("volatile_volume", self.volatile_volume),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return refuse(name, value.to_string(), "a number of 0 or more");
            }
        }
        for (name, share) in [
            ("buy_position", self.buy_position),
            ("sell_position", self.sell_position),
            ("volatile_quantile", self.volatile_quantile),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(name, share.to_string(), "a share from 0 to 1");
            }
        }
        if !(1..=6).contains(&self.minimum_conditions) {
            return refuse(
                "minimum_conditions",
                self.minimum_conditions.to_string(),
                "1 to 6 conditions",
            );
        }
        Ok(())
    }

    fn columns(&self) -> Vec<Column> {
        let horizon = self.lookahead_bars;
        let class = |name: &str, description: String| {
            Column::new(name, ColumnType::I64).description(description)
        };
        let minimum = self.minimum_conditions;
        vec![
            Column::time_index(),
            class("buy", format!("1 where {minimum} of 6 buy conditions on this bar hold; no look ahead")),
            class("sell", format!("1 where {minimum} of 6 sell conditions on this bar hold; no look ahead")),
            class(
                "direction",
                format!("close {horizon} bars later: 0 down, 1 up, 2 within {} of this one", self.neutral_buffer),
            ),
            class("regime", "0 BULL_STRONG, 1 BULL_WEAK, 2 RANGE, 3 BEAR_WEAK, 4 BEAR_STRONG, 5 VOLATILE; no look ahead".to_owned()),
            class("buy_count", "buy conditions that hold".to_owned()),
            class("sell_count", "sell conditions that hold".to_owned()),
            Column::new(self.forward_return_name(), ColumnType::F64)
                .unit("ratio")
                .description(format!("simple return of the close over the next {horizon} bars")),
        ]
    }

    fn forward_return_name(&self) -> String {
        format!("forward_return_{}", self.lookahead_bars)
    }

    /// What consumers of the table may need to know before and after it exists.
    fn facts(&self) -> [(&'static str, serde_json::Value); 2] {
        [
            ("label_horizon_bars", json!(self.lookahead_bars)),
            (
                "classes",
                json!({"direction": DIRECTIONS, "regime": REGIMES}),
            ),
        ]
    }
}

impl Stage for NatronV2Labels {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        self.check()?;
        let labels = self.facts().into_iter().fold(
            PortSchema::table(self.columns()),
            |schema, (name, value)| schema.fact(name, value),
        );
        // What the candles look ahead comes on top of the labels' own horizon.
        let ahead = inputs
            .lookahead_bars()
            .saturating_add(self.lookahead_bars as u32);
        Ok(Signature::new()
            .input_columns("candles", BAR_COLUMNS)
            .output("labels", labels.lookahead(ahead))
            .output("statistics", PortSchema::of(Kind::Metrics))
            .threads(Threads::All))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        self.check()?;
        let candles = context.table("candles")?;
        let ts_ns = candles.ts_ns()?.to_vec();
        let (labels, statistics) = with_bars(&candles, |bars| {
            let labels = self.label(bars)?;
            let statistics = statistics(&labels, bars.close).map_err(StageError::data)?;
            Ok::<_, StageError>((labels, statistics))
        })??;
        let mut table = Table::builder().time_index(ts_ns);
        let classes = [
            labels.buy,
            labels.sell,
            labels.direction,
            labels.regime,
            labels.buy_count,
            labels.sell_count,
        ];
        let columns = self.columns();
        for (column, values) in columns[1..].iter().zip(classes) {
            table = table.i64_or_null(column.clone(), values);
        }
        table = table.f64(columns[7].clone(), labels.forward_return);
        for (name, value) in self.facts() {
            table = table.fact(name, value);
        }
        context.write("labels", table.build()?)?;
        context.write("statistics", statistics)
    }
}

/// Classes by number; those that are not defined are missing.
fn classes(numbers: &[f64]) -> Vec<Option<i64>> {
    let class = |x: &f64| (!x.is_nan()).then_some(*x as i64);
    numbers.iter().map(class).collect()
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Artifact, StageContextParts};

    use super::*;
    use crate::features::fixtures::{golden_bars, market, read_csv, shared};

    fn numbers(labels: &[Option<i64>]) -> Vec<f64> {
        labels
            .iter()
            .map(|label| label.map_or(f64::NAN, |label| label as f64))
            .collect()
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values
            .iter()
            .map(|x| if x.is_nan() { f64::NAN } else { *x }.to_bits())
            .collect()
    }

    #[test]
    fn labels_are_exactly_the_reference_ones() {
        let Some(shared) = shared() else { return };
        let bars = golden_bars(&shared);
        let golden = read_csv(&shared.join("golden/labels.csv"), |_| true);

        let labels = NatronV2Labels::default().label(bars.view()).unwrap();

        for (name, found) in [
            ("buy", &labels.buy),
            ("sell", &labels.sell),
            ("buy_count", &labels.buy_count),
            ("sell_count", &labels.sell_count),
            ("dir_3_001", &labels.direction),
            ("regime_roll500", &labels.regime),
        ] {
            let (found, expected) = (numbers(found), &golden[name]);
            let differs =
                (0..expected.len()).find(|&t| bits(&found[t..=t]) != bits(&expected[t..=t]));
            assert_eq!(differs, None, "first row of {name} that differs");
        }
        let five_ahead = forward_return(&bars.close, 5);
        for (t, expected) in golden["fwd_ret_5"].iter().enumerate() {
            assert_eq!(five_ahead[t].is_nan(), expected.is_nan());
            assert!(expected.is_nan() || (five_ahead[t] - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn rows_without_a_known_future_are_missing() {
        let bars = market(700, 3);
        let labels = NatronV2Labels {
            lookahead_bars: 7,
            ..NatronV2Labels::default()
        }
        .label(bars.view())
        .unwrap();

        for t in 0..700 {
            assert_eq!(labels.direction[t].is_some(), t < 693);
            assert_eq!(labels.forward_return[t].is_nan(), t >= 693);
        }
        assert_eq!(labels.buy.iter().position(Option::is_some), Some(49));
        assert_eq!(labels.regime.iter().position(Option::is_some), Some(513));
        assert!(labels.regime[513..].iter().all(Option::is_some));
    }

    #[test]
    fn only_the_declared_bars_ahead_matter() {
        let bars = market(700, 5);
        let stage = NatronV2Labels {
            volatile_window: 100,
            ..NatronV2Labels::default()
        };
        let before = stage.label(bars.view()).unwrap();
        for cut in [1, 50, 333, 599, 699] {
            for factor in [1.3, 0.7, f64::NAN] {
                let mut changed = bars.clone();
                for column in [
                    &mut changed.open,
                    &mut changed.high,
                    &mut changed.low,
                    &mut changed.close,
                    &mut changed.volume,
                ] {
                    column[cut..].iter_mut().for_each(|x| *x *= factor);
                }

                for after in [changed.view(), bars.view().slice(0..cut)] {
                    let after = stage.label(after).unwrap();
                    for (before, after) in [
                        (&before.buy, &after.buy),
                        (&before.sell, &after.sell),
                        (&before.regime, &after.regime),
                        (&before.buy_count, &after.buy_count),
                        (&before.sell_count, &after.sell_count),
                    ] {
                        assert_eq!(before[..cut], after[..cut]);
                    }
                    let known = cut.saturating_sub(stage.lookahead_bars);
                    assert_eq!(before.direction[..known], after.direction[..known]);
                    assert_eq!(
                        bits(&before.forward_return[..known]),
                        bits(&after.forward_return[..known])
                    );
                }
            }
        }
    }

    #[test]
    fn the_stage_writes_labels_and_their_statistics() {
        let stage = NatronV2Labels {
            volatile_window: 50,
            ..NatronV2Labels::default()
        };
        let bars = market(400, 8);
        let columns = [&bars.open, &bars.high, &bars.low, &bars.close, &bars.volume];
        let candles = BAR_COLUMNS.iter().zip(columns).fold(
            Table::builder().time_index(bars.ts_ns.clone()),
            |table, (name, values)| table.f64(Column::new(*name, ColumnType::F64), values.clone()),
        );
        let directory = tempfile::tempdir().unwrap();
        let parts = StageContextParts::for_test(directory.path())
            .input("candles", candles.build().unwrap());
        let signature = stage.signature(&Schemas::new()).unwrap();
        assert_eq!(
            signature
                .output_port("labels")
                .unwrap()
                .schema
                .lookahead_bars,
            3
        );
        let mut context = StageContext::new(parts, signature);

        stage.run(&mut context).unwrap();

        let outputs = context.finish().unwrap();
        let (Artifact::Table(table), Artifact::Metrics(statistics)) =
            (&outputs["labels"], &outputs["statistics"])
        else {
            panic!("labels are a table and statistics are metrics")
        };
        assert_eq!(
            table.i64_or_null("regime").unwrap(),
            stage.label(bars.view()).unwrap().regime
        );
        assert!(table.f64("forward_return_3").unwrap()[397].is_nan());
        let shares =
            REGIMES.map(|regime| statistics.get(&format!("regime.{regime}.share")).unwrap());
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(statistics.get("direction.missing"), Some(3.0));
        assert!(statistics.get("direction.up.mean_return.next_3") > Some(0.0));
    }

    #[test]
    fn what_the_candles_look_ahead_adds_to_the_horizon() {
        let mut inputs = Schemas::new();
        inputs.push("candles", PortSchema::of(Kind::Table).lookahead(5));

        let signature = NatronV2Labels::default().signature(&inputs).unwrap();

        let labels = &signature.output_port("labels").unwrap().schema;
        assert_eq!(labels.lookahead_bars, 8);
    }

    #[test]
    fn a_direction_within_the_buffer_is_neutral() {
        let stage = NatronV2Labels {
            lookahead_bars: 1,
            neutral_buffer: 0.25,
            ..NatronV2Labels::default()
        };

        assert_eq!(
            stage.direction(&[4.0, 5.0, 6.5, 4.0, 3.0, 3.0]),
            [Some(2), Some(1), Some(0), Some(2), Some(2), None]
        );
    }

    #[test]
    fn names_the_parameter_it_cannot_use() {
        let stage = NatronV2Labels {
            minimum_conditions: 7,
            ..NatronV2Labels::default()
        };

        let error = stage.signature(&Schemas::new()).unwrap_err();

        assert_eq!(
            error.to_string(),
            "`minimum_conditions` is 7, expected 1 to 6 conditions"
        );
    }
}
