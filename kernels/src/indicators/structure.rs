//! Market structure: swing points and their breaks, breakouts, distances to extremes, crossings.
//!
//! A swing point is known only when the bars after it are: it is written on the bar that confirms it, never on the pivot.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    kernel::{Id, Recurrence, Scratch, Tape, Window},
    program::{Builder, Input, Series},
    rowwise::{flag, max, min, rowwise},
    window::extremes,
};
use crate::dispatch::dispatched;

/// Stands for "no pivot was confirmed here" where the price of one would be.
const NO_PIVOT: f64 = f64::INFINITY;

/// Which extreme is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    High,
    Low,
}

/// How much memory [`doubled`] of `n` values needs.
fn levels(n: usize, rows: usize) -> usize {
    n * rows.ilog2() as usize
}

/// The extreme of every `rows` values that follow each other: those of two, four, eight ... and then of two such that
/// overlap. `out` has `rows - 1` values less than `x`.
fn doubled(side: Side, x: &[f64], rows: usize, out: &mut [f64], scratch: &mut [f64]) {
    let join = match side {
        Side::High => larger_ones,
        Side::Low => smaller_ones,
    };
    let (mut known, mut free) = (x, scratch);
    let mut reach = 1;
    while 2 * reach < rows {
        let n = known.len() - reach;
        let (next, rest) = free.split_at_mut(n);
        join(&known[..n], &known[reach..], next);
        (known, free) = (next, rest);
        reach *= 2;
    }
    let n = out.len();
    join(&known[..n], &known[rows - reach..][..n], out);
}

/// Pivots of high and low: bars strictly beyond `left` bars before and `right` bars after them.
///
/// Outputs: 1 on the bar that confirms a pivot high, the same for lows, the price of the pivot high, that of the pivot low,
/// [`NO_PIVOT`] where there is none.
#[derive(Debug, Clone, Copy)]
struct Swing {
    left: usize,
    right: usize,
}

impl Window for Swing {
    fn id(&self) -> Id {
        Id::new("swing", [self.left as u64, self.right as u64])
    }

    fn lookback(&self) -> usize {
        self.left + self.right
    }

    fn n_outputs(&self) -> usize {
        4
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let ([high, low], [is_high, is_low, pivot_high, pivot_low]) = (inputs, outputs) else {
            unreachable!("swings have two inputs and four outputs")
        };
        let Swing { left, right } = *self;
        let n = is_high.len();
        // Those before and those after a pivot; windows of the same width are the same, `left + 1` rows apart.
        let n_before = if left == right { n + left + 1 } else { n };
        let scratch =
            scratch.take(n_before + n + levels(n_before + left.max(right), left.max(right)));
        let (before, scratch) = scratch.split_at_mut(n_before);
        let (after, scratch) = scratch.split_at_mut(n);
        for (side, x, is_pivot, price) in [
            (Side::High, high, is_high, pivot_high),
            (Side::Low, low, is_low, pivot_low),
        ] {
            doubled(side, &x[..left - 1 + n_before], left, before, scratch);
            let after = if left == right {
                &before[left + 1..]
            } else {
                doubled(side, &x[left + 1..], right, after, scratch);
                &after[..]
            };
            match side {
                Side::High => pivots_above(&x[left..], before, after, is_pivot, price),
                Side::Low => pivots_below(&x[left..], before, after, is_pivot, price),
            }
        }
    }
}

dispatched! {
    fn larger_ones(a: &[f64], b: &[f64], out: &mut [f64]) {
        let n = out.len();
        let (a, b) = (&a[..n], &b[..n]);
        for t in 0..n {
            out[t] = max(a[t], b[t]);
        }
    }

    fn smaller_ones(a: &[f64], b: &[f64], out: &mut [f64]) {
        let n = out.len();
        let (a, b) = (&a[..n], &b[..n]);
        for t in 0..n {
            out[t] = min(a[t], b[t]);
        }
    }

    /// 1 for a bullish break, -1 for a bearish one, 0 for none, NaN for a missing bar.
    fn breaks(high: &[f64], low: &[f64], close: &[f64], last_high: &[f64], last_low: &[f64], out: &mut [f64]) {
        let n = out.len();
        let (high, low, close) = (&high[..n], &low[..n], &close[..n]);
        let (last_high, last_low) = (&last_high[..n], &last_low[..n]);
        for t in 0..n {
            let bearish = if close[t] < last_low[t] { -1.0 } else { 0.0 };
            let broken = if close[t] > last_high[t] { 1.0 } else { bearish };
            let is_missing = close[t].is_nan() | high[t].is_nan() | low[t].is_nan();
            out[t] = if is_missing { f64::NAN } else { broken };
        }
    }

    fn pivots_above(x: &[f64], before: &[f64], after: &[f64], is_pivot: &mut [f64], price: &mut [f64]) {
        let n = price.len();
        let (x, before, after, is_pivot) = (&x[..n], &before[..n], &after[..n], &mut is_pivot[..n]);
        for t in 0..n {
            let around = max(before[t], after[t]);
            let (is_beyond, is_missing) = (x[t] > around, x[t].is_nan() | around.is_nan());
            let here = if is_beyond { x[t] } else { NO_PIVOT };
            is_pivot[t] = flag(is_beyond, is_missing);
            price[t] = if is_missing { f64::NAN } else { here };
        }
    }

    fn pivots_below(x: &[f64], before: &[f64], after: &[f64], is_pivot: &mut [f64], price: &mut [f64]) {
        let n = price.len();
        let (x, before, after, is_pivot) = (&x[..n], &before[..n], &after[..n], &mut is_pivot[..n]);
        for t in 0..n {
            let around = min(before[t], after[t]);
            let (is_beyond, is_missing) = (x[t] < around, x[t].is_nan() | around.is_nan());
            let here = if is_beyond { x[t] } else { NO_PIVOT };
            is_pivot[t] = flag(is_beyond, is_missing);
            price[t] = if is_missing { f64::NAN } else { here };
        }
    }
}

/// The price of the last confirmed pivot of each side. Inputs: the prices of [`Swing`].
#[derive(Debug, Clone)]
struct LastPivot {
    /// Rows after its confirmation in which a pivot counts; 0 for all.
    lookback: usize,
    prices: [f64; 2],
    ages: [usize; 2],
}

impl LastPivot {
    fn new(lookback: usize) -> Self {
        Self {
            lookback,
            prices: [f64::NAN; 2],
            ages: [0; 2],
        }
    }
}

impl Recurrence for LastPivot {
    fn id(&self) -> Id {
        Id::new("last_pivot", [self.lookback as u64])
    }

    fn n_outputs(&self) -> usize {
        2
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn memory(&self) -> Option<usize> {
        (self.lookback > 0).then_some(self.lookback)
    }

    fn fresh(&self) -> Box<dyn Recurrence> {
        Box::new(Self::new(self.lookback))
    }

    fn run(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let state = self.prices.iter_mut().zip(&mut self.ages);
        for ((pivots, out), (price, age)) in inputs.iter().zip(outputs).zip(state) {
            if self.lookback == 0 {
                carry(price, pivots, out);
            } else {
                carry_for(self.lookback, price, age, pivots, out);
            }
        }
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.all(&mut self.prices);
        for age in &mut self.ages {
            tape.count(age);
        }
    }
}

/// The last pivot of each row.
fn carry(price: &mut f64, pivots: &[f64], out: &mut [f64]) {
    let mut last = *price;
    for (out, pivot) in out.iter_mut().zip(pivots) {
        last = if *pivot == NO_PIVOT { last } else { *pivot };
        *out = last;
    }
    *price = last;
}

/// The same, forgotten after `lookback` rows.
fn carry_for(lookback: usize, price: &mut f64, age: &mut usize, pivots: &[f64], out: &mut [f64]) {
    let (mut last, mut rows) = (*price, *age);
    for (out, pivot) in out.iter_mut().zip(pivots) {
        let is_kept = *pivot == NO_PIVOT;
        rows = if is_kept { rows + 1 } else { 0 };
        let kept = if rows > lookback { f64::NAN } else { last };
        last = if is_kept { kept } else { *pivot };
        *out = last;
    }
    (*price, *age) = (last, rows);
}

/// Where a break of structure is the first after one to the other side. Inputs: high, low, close, last pivot high, last
/// pivot low.
#[derive(Debug, Clone)]
struct ChangeOfCharacter {
    /// Rows without a break after which the last one is forgotten; 0 for never.
    lookback: usize,
    /// 1 after a bullish break, -1 after a bearish one, 0 before the first.
    direction: f64,
    age: usize,
}

impl ChangeOfCharacter {
    fn new(lookback: usize) -> Self {
        Self {
            lookback,
            direction: 0.0,
            age: 0,
        }
    }
}

impl Recurrence for ChangeOfCharacter {
    fn id(&self) -> Id {
        Id::new("choch", [self.lookback as u64])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn is_defined_from_the_start(&self) -> bool {
        true
    }

    fn memory(&self) -> Option<usize> {
        (self.lookback > 0).then_some(self.lookback)
    }

    fn fresh(&self) -> Box<dyn Recurrence> {
        Box::new(Self::new(self.lookback))
    }

    fn run(&mut self, inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let ([high, low, close, last_high, last_low], [out]) = (inputs, outputs) else {
            unreachable!("changes of character have five inputs and one output")
        };
        breaks(high, low, close, last_high, last_low, out);
        let (mut direction, mut age) = (self.direction, self.age);
        for out in out.iter_mut() {
            let broken = *out;
            let is_kept = broken == 0.0;
            if self.lookback > 0 {
                direction = if age >= self.lookback { 0.0 } else { direction };
                age = if is_kept { age + 1 } else { 0 };
            }
            // A negative product is a break to the other side; a missing bar has a NaN for its break.
            let change = if direction * broken < 0.0 {
                broken
            } else {
                0.0
            };
            let next = if broken.is_nan() { 0.0 } else { broken };
            *out = if broken.is_nan() { broken } else { change };
            direction = if is_kept { direction } else { next };
        }
        (self.direction, self.age) = (direction, age);
    }

    fn state(&mut self, tape: &mut Tape) {
        tape.f64(&mut self.direction);
        tape.count(&mut self.age);
    }
}

rowwise! {
    /// Inputs: high, low, close, last pivot high, last pivot low.
    SWEEPS = "sweep", false, 0,
        (high = 0 - 0, low = 1 - 0, c = 2 - 0, pivot_high = 3 - 0, pivot_low = 4 - 0) -> (bear, bull) {
        [
            flag(
                (high > pivot_high) & (c < pivot_high),
                high.is_nan() | c.is_nan() | pivot_high.is_nan(),
            ),
            flag(
                (low < pivot_low) & (c > pivot_low),
                low.is_nan() | c.is_nan() | pivot_low.is_nan(),
            ),
        ]
    }

    /// Inputs: close, last pivot high, last pivot low.
    BREAKS = "bos", false, 0, (c = 0 - 0, pivot_high = 1 - 0, pivot_low = 2 - 0) -> (bull, bear) {
        [
            flag(c > pivot_high, c.is_nan() | pivot_high.is_nan()),
            flag(c < pivot_low, c.is_nan() | pivot_low.is_nan()),
        ]
    }

    /// Inputs: close, highest high, lowest low, each of the present bar.
    BREAKOUTS = "breakout", false, 1, (c = 0 - 0, highest = 1 - 1, lowest = 2 - 1) -> (up, down) {
        [
            flag(c > highest, c.is_nan() | highest.is_nan()),
            flag(c < lowest, c.is_nan() | lowest.is_nan()),
        ]
    }

    /// Inputs: close, highest high, lowest low.
    NEAREST_EXTREME = "ob_dist", false, 0, (c = 0 - 0, highest = 1 - 0, lowest = 2 - 0) -> (distance) {
        [min((highest - c) / c, (c - lowest) / c)]
    }

    CROSS_UP = "crossup", false, 1, (x = 0 - 0, y = 1 - 0, x_before = 0 - 1, y_before = 1 - 1) -> (crosses) {
        let is_missing = x.is_nan() | y.is_nan() | x_before.is_nan() | y_before.is_nan();
        [flag((x > y) & (x_before <= y_before), is_missing)]
    }
}

/// The highest high and the lowest low of the last rows.
fn range(builder: &mut Builder, rows: f64) -> [Series; 2] {
    let [high, low] = [Input::High, Input::Low].map(|input| builder.input(input));
    let rows = rows as usize;
    [
        extremes::max(builder, high, rows),
        extremes::min(builder, low, rows),
    ]
}

/// The flags and prices of [`Swing`]; parameters: bars before and after.
fn swing(builder: &mut Builder, parameters: &[f64]) -> Vec<Series> {
    let inputs = [Input::High, Input::Low].map(|input| builder.input(input));
    let swing = Swing {
        left: parameters[0] as usize,
        right: parameters[1] as usize,
    };
    builder.window(swing, &inputs)
}

/// The prices of the last pivot high and low; parameters: bars before and after, rows in which a pivot counts.
fn last_pivot(builder: &mut Builder, parameters: &[f64]) -> [Series; 2] {
    let swing = swing(builder, parameters);
    let last = builder.recurrence(LastPivot::new(parameters[2] as usize), &swing[2..]);
    [last[0], last[1]]
}

const fn flag_named(name: &'static str) -> Output {
    Output {
        name,
        unit: Unit::Flag,
    }
}

const SWING_PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "left",
        range: Range::Whole(1, 1000),
        default: Some(3.0),
    },
    Parameter {
        name: "right",
        range: Range::Whole(1, 1000),
        default: Some(3.0),
    },
];
const PIVOT_PARAMETERS: &[Parameter] = &[
    SWING_PARAMETERS[0],
    SWING_PARAMETERS[1],
    Parameter {
        name: "lookback",
        range: Range::Whole(0, 1_000_000),
        default: Some(0.0),
    },
];
const PERIOD: &[Parameter] = &[Parameter {
    name: "period",
    range: Range::Whole(1, 10_000),
    default: None,
}];
const HIGH_LOW: &[Input] = &[Input::High, Input::Low];
const HIGH_LOW_CLOSE: &[Input] = &[Input::High, Input::Low, Input::Close];
const COMMON: &str = "common usage";
const SMART_MONEY: &str = "usage of traders of smart money concepts";

pub(super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "swing",
        series: &[],
        bars: HIGH_LOW,
        parameters: SWING_PARAMETERS,
        outputs: &[flag_named("high"), flag_named("low")],
        definition: "1 on the bar that confirms a pivot: the high (low) `right` bars before is strictly above (below) those of `left` \
                     bars before it and of `right` bars after it; else 0.",
        source: "Williams (1995), Trading Chaos: fractals",
        expand: |builder, _, parameters| swing(builder, parameters)[..2].to_vec(),
    },
    Indicator {
        name: "last_pivot",
        series: &[],
        bars: HIGH_LOW,
        parameters: PIVOT_PARAMETERS,
        outputs: &[
            Output {
                name: "high",
                unit: Unit::Price,
            },
            Output {
                name: "low",
                unit: Unit::Price,
            },
        ],
        definition: "Price of the last pivot that `swing(left, right)` confirmed, carried forward: for `lookback` bars after its \
                     confirmation, or for ever if that is 0. A missing bar makes it forget.",
        source: COMMON,
        expand: |builder, _, parameters| last_pivot(builder, parameters).to_vec(),
    },
    Indicator {
        name: "sweep",
        series: &[],
        bars: HIGH_LOW_CLOSE,
        parameters: PIVOT_PARAMETERS,
        outputs: &[flag_named("bear"), flag_named("bull")],
        definition: "`bear` is 1 where the high is above and the close below the last pivot high, `bull` where the low is below and \
                     the close above the last pivot low; pivots are those of `last_pivot(left, right, lookback)`.",
        source: SMART_MONEY,
        expand: |builder, _, parameters| {
            let [pivot_high, pivot_low] = last_pivot(builder, parameters);
            let [high, low, close] =
                [Input::High, Input::Low, Input::Close].map(|input| builder.input(input));
            builder.window(SWEEPS, &[high, low, close, pivot_high, pivot_low])
        },
    },
    Indicator {
        name: "bos",
        series: &[],
        bars: HIGH_LOW_CLOSE,
        parameters: PIVOT_PARAMETERS,
        outputs: &[flag_named("bull"), flag_named("bear")],
        definition: "Break of structure: `bull` is 1 while the close is above the last pivot high, `bear` while it is below the last \
                     pivot low; pivots are those of `last_pivot(left, right, lookback)`.",
        source: SMART_MONEY,
        expand: |builder, _, parameters| {
            let [pivot_high, pivot_low] = last_pivot(builder, parameters);
            let close = builder.input(Input::Close);
            builder.window(BREAKS, &[close, pivot_high, pivot_low])
        },
    },
    Indicator {
        name: "choch",
        series: &[],
        bars: HIGH_LOW_CLOSE,
        parameters: PIVOT_PARAMETERS,
        outputs: &[flag_named("")],
        definition: "Change of character: 1 on the first bullish break of `bos(left, right, lookback)` after a bearish one, -1 on the \
                     first bearish break after a bullish one, else 0, also before there is a pivot. A bar that is both counts as \
                     bullish. A break that none followed for `lookback` bars is forgotten, unless that is 0; a missing bar makes it \
                     forget too.",
        source: SMART_MONEY,
        expand: |builder, _, parameters| {
            let [pivot_high, pivot_low] = last_pivot(builder, parameters);
            let [high, low, close] =
                [Input::High, Input::Low, Input::Close].map(|input| builder.input(input));
            builder.recurrence(
                ChangeOfCharacter::new(parameters[2] as usize),
                &[high, low, close, pivot_high, pivot_low],
            )
        },
    },
    Indicator {
        name: "breakout",
        series: &[],
        bars: HIGH_LOW_CLOSE,
        parameters: PERIOD,
        outputs: &[flag_named("up"), flag_named("down")],
        definition: "`up` is 1 where the close is above the highest high of the `period` bars before, `down` where it is below their \
                     lowest low, else 0.",
        source: "Donchian (1960)",
        expand: |builder, _, parameters| {
            let close = builder.input(Input::Close);
            let [highest, lowest] = range(builder, parameters[0]);
            builder.window(BREAKOUTS, &[close, highest, lowest])
        },
    },
    Indicator {
        name: "ob_dist",
        series: &[],
        bars: HIGH_LOW_CLOSE,
        parameters: PERIOD,
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "The smaller of (highest high - close) / close and (close - lowest low) / close over `period` bars, this one \
                     included.",
        source: COMMON,
        expand: |builder, _, parameters| {
            let close = builder.input(Input::Close);
            let [highest, lowest] = range(builder, parameters[0]);
            builder.window(NEAREST_EXTREME, &[close, highest, lowest])
        },
    },
    Indicator {
        name: "crossup",
        series: &["x", "y"],
        bars: &[],
        parameters: &[],
        outputs: &[flag_named("")],
        definition: "1 on the bar where `x` is above `y` and was not above it one bar before, else 0.",
        source: COMMON,
        expand: |builder, series, _| builder.window(CROSS_UP, series),
    },
];

#[cfg(test)]
mod tests {
    use super::super::check::{Golden, market, program, values};
    use super::super::{catalog, engine::Engine};
    use super::*;
    use crate::bars::{Bar, BarColumns};

    /// Bars whose open and close are the price, with a small range around it.
    fn around(prices: &[f64]) -> BarColumns {
        let bar = |(t, &price): (usize, &f64)| Bar {
            ts_ns: t as i64,
            open: price,
            high: price + 0.1,
            low: price - 0.1,
            close: price,
            volume: 1.0,
        };
        prices.iter().enumerate().map(bar).collect()
    }

    #[test]
    fn structure_is_the_reference() {
        let Some(golden) = Golden::load() else { return };
        let swing = [3.0, 3.0];
        let pivot = [3.0, 3.0, 0.0];

        for (column, name, parameters, output, size) in [
            ("swing_high_3_3", "swing", &swing[..], "high", 0.0),
            ("swing_low_3_3", "swing", &swing, "low", 0.0),
            ("last_pivot_high_3_3", "last_pivot", &pivot, "high", 0.0),
            ("last_pivot_low_3_3", "last_pivot", &pivot, "low", 0.0),
            ("bear_sweep_3_3", "sweep", &pivot, "bear", 0.0),
            ("bull_sweep_3_3", "sweep", &pivot, "bull", 0.0),
            ("bull_bos_3_3", "bos", &pivot, "bull", 0.0),
            ("bear_bos_3_3", "bos", &pivot, "bear", 0.0),
            ("choch_3_3", "choch", &pivot, "", 0.0),
            ("bos_up_10", "breakout", &[10.0], "up", 0.0),
            ("bos_down_10", "breakout", &[10.0], "down", 0.0),
            ("ob_dist_10", "ob_dist", &[10.0], "", 1.0),
        ] {
            let values = values(&golden.bars, name, &[], parameters, output);
            golden.assert_is(column, &values, size);
        }
    }

    #[test]
    fn a_swing_is_written_on_the_bar_that_confirms_it() {
        let highs = [1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 3.0, 1.0, 0.0];
        let mut bars = around(&highs);
        bars.high.copy_from_slice(&highs);
        bars.low = highs.iter().map(|high| -high).collect();

        let of = |output| values(&bars, "swing", &[], &[2.0, 2.0], output);

        assert!(of("high")[..4].iter().all(|x| x.is_nan()));
        // Row 2 is confirmed on row 4; the equal highs of rows 5 and 6 are no pivots.
        assert_eq!(of("high")[4..], [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(of("low")[4..], of("high")[4..]);
    }

    #[test]
    fn swings_of_any_width_are_those_of_the_definition() {
        let mut bars = market(300, 5);
        bars.high[150] = f64::NAN;
        for (left, right) in [(1, 1), (2, 5), (4, 3), (7, 8), (16, 1), (9, 17)] {
            let swings = values(&bars, "swing", &[], &[left as f64, right as f64], "high");

            for (t, swing) in swings.iter().enumerate().skip(left + right) {
                let rows = &bars.high[t - left - right..=t];
                let is_pivot = rows
                    .iter()
                    .enumerate()
                    .all(|(at, other)| at == left || rows[left] > *other);
                let expected = flag(is_pivot, rows.iter().any(|x| x.is_nan()));
                assert_eq!(swing.to_bits(), expected.to_bits(), "{left}, {right}: {t}");
            }
        }
    }

    #[test]
    fn the_nearest_extreme_is_that_of_the_definition() {
        let mut bars = market(300, 6);
        bars.low[150] = f64::NAN;
        for rows in [1, 2, 3, 4, 5, 7, 8, 9, 20, 33] {
            let distances = values(&bars, "ob_dist", &[], &[rows as f64], "");

            for (t, distance) in distances.iter().enumerate().skip(rows - 1) {
                let rows = t + 1 - rows..=t;
                let highest = bars.high[rows.clone()].iter().copied().fold(f64::MIN, max);
                let lowest = bars.low[rows].iter().copied().fold(f64::MAX, min);
                let close = bars.close[t];
                let expected = min((highest - close) / close, (close - lowest) / close);
                assert_eq!(distance.to_bits(), expected.to_bits(), "{t}");
            }
        }
    }

    #[test]
    fn the_character_changes_on_the_first_opposite_break() {
        // A pivot low at 2.9 (confirmed by the third bar), a pivot high at 5.1, a break down, then one up.
        let bars = around(&[4.0, 3.0, 4.0, 5.0, 4.0, 2.0, 1.0, 1.5, 6.0, 7.0]);

        let changes = values(&bars, "choch", &[], &[1.0, 1.0, 0.0], "");

        assert_eq!(changes, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_pivot_is_forgotten_after_the_lookback() {
        let bars = around(&[
            4.0, 3.0, 4.0, 5.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 6.0,
        ]);

        let last = |lookback: f64| {
            let changes = values(&bars, "choch", &[], &[1.0, 1.0, lookback], "");
            changes.last().copied()
        };

        assert_eq!(last(100.0), Some(1.0));
        assert_eq!(last(4.0), Some(0.0));
        let pivots = values(&bars, "last_pivot", &[], &[1.0, 1.0, 4.0], "high");
        let defined: Vec<usize> = (0..13).filter(|t| !pivots[*t].is_nan()).collect();
        assert_eq!(defined, [4, 5, 6, 7, 8]);
    }

    #[test]
    fn what_happened_before_the_memory_does_not_matter() {
        let mut state = 1_u32;
        let prices: Vec<f64> = (0..600)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 28)
            })
            .collect();
        let bars = around(&prices);
        let indicator = catalog::find("choch").unwrap();
        let program = program(indicator, &[], &[1.0, 2.0, 6.0]);
        let memory = program.memory(0).unwrap();
        let changes = |start| Engine::batch(&program, bars.view().slice(start..600), &[]).remove(0);
        let early = changes(0);

        let mut needed_rows = 0;
        for start in 1..500 {
            let late = changes(start);
            let differs = (0..late.len())
                .rev()
                .find(|&t| early[start + t].to_bits() != late[t].to_bits());
            needed_rows = needed_rows.max(differs.map_or(0, |t| t + 1));
        }
        assert!(needed_rows <= memory, "{needed_rows} bars matter");
        assert!(needed_rows > 6, "the market never tries the memory");
    }

    #[test]
    fn breakouts_compare_with_the_bars_before() {
        let bars = around(&[1.0, 2.0, 3.0, 1.0, 0.0]);

        let up = values(&bars, "breakout", &[], &[2.0], "up");
        let down = values(&bars, "breakout", &[], &[2.0], "down");

        assert!(up[1].is_nan());
        assert_eq!(up[2..], [1.0, 0.0, 0.0]);
        assert_eq!(down[2..], [0.0, 1.0, 1.0]);
    }

    #[test]
    fn a_cross_is_the_bar_on_which_it_happens() {
        let mut bars = around(&[1.0, 1.0, 2.0, 3.0, 1.0, 2.0]);
        bars.open.fill(1.0);

        let crosses = values(&bars, "crossup", &[Input::Close, Input::Open], &[], "");

        assert_eq!(crosses[1..], [0.0, 1.0, 0.0, 0.0, 1.0]);
    }
}
