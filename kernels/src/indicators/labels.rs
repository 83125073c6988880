//! Labels: what follows a row, and the rules that only look back but are learned like labels.
//!
//! Columns in, columns out, all of the same length; a label that is not defined is NaN. Rows are shared out among threads in
//! fixed pieces and each row is computed by itself, so the bits do not depend on the number of threads.

#![expect(
    clippy::float_cmp,
    clippy::inline_always,
    clippy::needless_bitwise_bool,
    reason = "classes are exact, and loops without branches vectorise"
)]

use rayon::prelude::*;

use super::rowwise::{max, min};
use crate::dispatch::dispatched;

/// Rows that one task labels.
const PIECE: usize = 4096;
/// Starts that are followed at a time.
const LANES: usize = 8;
/// The longest horizon that is walked bar by bar; longer ones are searched by halving.
const WALKED: usize = 32;

/// Side of a trade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Bought: the target is above, the stop below.
    Long,
    /// Sold short: the target is below, the stop above.
    Short,
}

/// How far a barrier is from the close.
#[derive(Debug, Clone, Copy)]
pub enum Distance<'a> {
    /// A share of the close.
    Share(f64),
    /// This many times the value of the row, as an average true range.
    Times(f64, &'a [f64]),
}

/// How a trade opened at the close of a row ends: at the target, at the stop or after `horizon` bars.
///
/// The bars after the row are looked at in order, in each the stop first, so that a bar that reaches both is a stop. The
/// fill is the barrier itself, also where the bar opens beyond it. (López de Prado, 2018, Advances in Financial Machine
/// Learning, section 3.4.)
#[derive(Debug, Clone, Copy)]
pub struct TripleBarrier<'a> {
    /// What is opened.
    pub side: Side,
    /// Where it is closed with a profit.
    pub target: Distance<'a>,
    /// Where it is closed with a loss.
    pub stop: Distance<'a>,
    /// Bars after which it is closed anyway, one or more.
    pub horizon: usize,
}

/// What became of the trade of each row. Rows are undefined where the whole horizon does not follow, even if a barrier is
/// reached before, and where the row, a barrier or a bar up to the end of the trade is missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Exits {
    /// 1 at the target, -1 at the stop, 0 after the horizon.
    pub exit: Vec<f64>,
    /// Bars from the row to the end of the trade.
    pub bars: Vec<f64>,
    /// Simple return of the trade: `side * (fill / close - 1)`.
    pub returns: Vec<f64>,
}

impl Exits {
    /// 1 where the target was reached, else 0.
    pub fn is_target(&self) -> Vec<f64> {
        let label = |exit: &f64| {
            if exit.is_nan() {
                f64::NAN
            } else {
                f64::from(u8::from(*exit == 1.0))
            }
        };
        self.exit.iter().map(label).collect()
    }
}

impl TripleBarrier<'_> {
    /// The end of the trade of every row.
    ///
    /// # Panics
    /// If the columns differ in length or the horizon is 0.
    pub fn label(&self, high: &[f64], low: &[f64], close: &[f64]) -> Exits {
        let n_rows = close.len();
        assert!(
            high.len() == n_rows && low.len() == n_rows,
            "columns of bars differ in length"
        );
        assert!(self.horizon > 0, "a horizon is one bar or more");
        for distance in [&self.target, &self.stop] {
            if let Distance::Times(_, values) = distance {
                assert_eq!(
                    values.len(),
                    n_rows,
                    "distances of barriers differ in length"
                );
            }
        }
        let mut exits = Exits {
            exit: vec![f64::NAN; n_rows],
            bars: vec![f64::NAN; n_rows],
            returns: vec![f64::NAN; n_rows],
        };
        let n_labels = n_rows.saturating_sub(self.horizon);
        let pieces = exits.exit[..n_labels]
            .par_chunks_mut(PIECE)
            .zip(exits.bars[..n_labels].par_chunks_mut(PIECE))
            .zip(exits.returns[..n_labels].par_chunks_mut(PIECE));
        pieces.enumerate().for_each_init(
            Piece::default,
            |piece, (number, ((exit, bars), returns))| {
                let start = number * PIECE;
                let rows = start..start + exit.len() + self.horizon;
                piece.label(
                    self,
                    start,
                    [&high[rows.clone()], &low[rows.clone()], &close[rows]],
                    [exit, bars, returns],
                );
            },
        );
        exits
    }
}

/// The memory of a task.
#[derive(Debug, Default)]
struct Piece {
    upper: Vec<f64>,
    lower: Vec<f64>,
    /// Bars until something happens; more than the horizon where nothing does.
    events: Vec<u32>,
    tables: Vec<f64>,
}

impl Piece {
    /// Labels the rows from `start` on; `bars` are those rows and as many more as the horizon.
    fn label(
        &mut self,
        rule: &TripleBarrier<'_>,
        start: usize,
        [high, low, close]: [&[f64]; 3],
        [exit, bars, returns]: [&mut [f64]; 3],
    ) {
        let (n, horizon) = (exit.len(), rule.horizon);
        let (above, below) = match rule.side {
            Side::Long => (rule.target, rule.stop),
            Side::Short => (rule.stop, rule.target),
        };
        self.upper.clear();
        self.lower.clear();
        for (t, close) in close[..n].iter().enumerate() {
            self.upper.push(barrier(*close, above, 1.0, start + t));
            self.lower.push(barrier(*close, below, -1.0, start + t));
        }
        self.events.clear();
        self.events.resize(n, 0);
        if horizon <= WALKED {
            walk(
                high,
                low,
                &self.upper,
                &self.lower,
                horizon,
                &mut self.events,
            );
        } else {
            self.search(high, low, horizon);
        }
        let side = match rule.side {
            Side::Long => 1.0,
            Side::Short => -1.0,
        };
        for t in 0..n {
            let held = self.events[t] as usize;
            let is_over = held <= horizon;
            let held = held.min(horizon);
            let (high, low) = (high[t + held], low[t + held]);
            let (upper, lower) = (self.upper[t], self.lower[t]);
            let (is_target, is_stop) = match rule.side {
                Side::Long => (high >= upper, low <= lower),
                Side::Short => (low <= lower, high >= upper),
            };
            let (how, fill) = if !is_over {
                (0.0, close[t + horizon])
            } else if high.is_nan() || low.is_nan() {
                (f64::NAN, f64::NAN)
            } else if is_stop {
                (
                    -1.0,
                    if rule.side == Side::Long {
                        lower
                    } else {
                        upper
                    },
                )
            } else if is_target {
                (
                    1.0,
                    if rule.side == Side::Long {
                        upper
                    } else {
                        lower
                    },
                )
            } else {
                // One of the barriers is missing.
                (f64::NAN, f64::NAN)
            };
            if upper.is_nan() || lower.is_nan() || fill.is_nan() {
                continue;
            }
            exit[t] = how;
            bars[t] = held as f64;
            returns[t] = side * (fill / close[t] - 1.0);
        }
    }

    /// [`walk`] for long horizons: the extremes of 1, 2, 4 ... bars tell which of them can be skipped at once.
    fn search(&mut self, high: &[f64], low: &[f64], horizon: usize) {
        let n_bars = high.len();
        let n_levels = horizon.ilog2() as usize + 1;
        self.tables.resize(2 * n_levels * n_bars, f64::NAN);
        let (highest, lowest) = self.tables.split_at_mut(n_levels * n_bars);
        highest[..n_bars].copy_from_slice(high);
        lowest[..n_bars].copy_from_slice(low);
        for level in 1..n_levels {
            let (reach, here) = (1 << (level - 1), level * n_bars);
            let n = n_bars + 1 - 2 * reach;
            let (known, next) = highest.split_at_mut(here);
            join_highest(&known[here - n_bars..], reach, &mut next[..n]);
            let (known, next) = lowest.split_at_mut(here);
            join_lowest(&known[here - n_bars..], reach, &mut next[..n]);
        }
        descend(
            highest,
            lowest,
            n_bars,
            &self.upper,
            &self.lower,
            horizon,
            &mut self.events,
        );
    }
}

fn barrier(close: f64, distance: Distance<'_>, sign: f64, row: usize) -> f64 {
    match distance {
        Distance::Share(share) => close * (1.0 + sign * share),
        Distance::Times(times, values) => close + sign * (times * values[row]),
    }
}

/// Whether a bar is not strictly between the barriers, also because one of them is missing.
#[inline(always)]
fn is_event(high: f64, low: f64, upper: f64, lower: f64) -> bool {
    let is_between = (high < upper) & (low > lower);
    !is_between
}

dispatched! {
    /// For each row, bars until the first event; `horizon + 1` where there is none.
    fn walk(high: &[f64], low: &[f64], upper: &[f64], lower: &[f64], horizon: usize, events: &mut [u32]) {
        let n = events.len();
        let (upper, lower) = (&upper[..n], &lower[..n]);
        let mut start = 0;
        while start + LANES <= n {
            let mut first = [0.0; LANES];
            for ahead in 1..=horizon {
                let (high, low) = (&high[start + ahead..][..LANES], &low[start + ahead..][..LANES]);
                let (upper, lower) = (&upper[start..][..LANES], &lower[start..][..LANES]);
                let mut is_done = 1.0;
                for lane in 0..LANES {
                    let is_first = is_event(high[lane], low[lane], upper[lane], lower[lane]) & (first[lane] == 0.0);
                    first[lane] = if is_first { ahead as f64 } else { first[lane] };
                    is_done = if first[lane] == 0.0 { 0.0 } else { is_done };
                }
                if is_done == 1.0 {
                    break;
                }
            }
            for lane in 0..LANES {
                events[start + lane] = if first[lane] == 0.0 { horizon as u32 + 1 } else { first[lane] as u32 };
            }
            start += LANES;
        }
        for t in start..n {
            let first = (1..=horizon).find(|ahead| is_event(high[t + ahead], low[t + ahead], upper[t], lower[t]));
            events[t] = first.unwrap_or(horizon + 1) as u32;
        }
    }

    fn join_highest(known: &[f64], reach: usize, next: &mut [f64]) {
        let n = next.len();
        let (a, b) = (&known[..n], &known[reach..][..n]);
        for t in 0..n {
            next[t] = max(a[t], b[t]);
        }
    }

    fn join_lowest(known: &[f64], reach: usize, next: &mut [f64]) {
        let n = next.len();
        let (a, b) = (&known[..n], &known[reach..][..n]);
        for t in 0..n {
            next[t] = min(a[t], b[t]);
        }
    }

    /// [`walk`] with the extremes of `2^level` bars from each bar on, level by level.
    fn descend(
        highest: &[f64],
        lowest: &[f64],
        n_bars: usize,
        upper: &[f64],
        lower: &[f64],
        horizon: usize,
        events: &mut [u32],
    ) {
        for (t, event) in events.iter_mut().enumerate() {
            let mut clear = 0;
            for level in (0..=horizon.ilog2()).rev() {
                let reach = 1 << level;
                let fits = clear + reach <= horizon;
                let at = level as usize * n_bars + t + 1 + if fits { clear } else { 0 };
                let is_clear = fits & !is_event(highest[at], lowest[at], upper[t], lower[t]);
                clear += if is_clear { reach } else { 0 };
            }
            *event = clear as u32 + 1;
        }
    }
}

/// How many labels' spans hold each row. The span of row `t` are the `bars[t]` rows after it; a row without `bars` has none.
pub fn concurrency(bars: &[f64]) -> Vec<f64> {
    let n_rows = bars.len();
    let mut changes = vec![0_i64; n_rows + 1];
    for (t, bars) in bars.iter().enumerate().filter(|(_, bars)| !bars.is_nan()) {
        changes[t + 1] += 1;
        changes[(t + 1 + *bars as usize).min(n_rows)] -= 1;
    }
    let mut open = 0;
    let count = |change: &i64| {
        open += change;
        open as f64
    };
    changes[..n_rows].iter().map(count).collect()
}

/// The mean of `1 / concurrency` over the span of each label (López de Prado, 2018, section 4.3). A span lies within the
/// rows.
///
/// The reciprocals are added as integers, in units of `2^-bits` that leave room for the longest span: such sums have no
/// rounding, so that those of a span are the differences of those from the first row on.
pub fn uniqueness(bars: &[f64], concurrency: &[f64]) -> Vec<f64> {
    let unit = unit_of_shares(bars);
    let mut total = 0_u64;
    let mut totals = Vec::with_capacity(concurrency.len());
    for count in concurrency {
        if *count > 0.0 {
            total = total.wrapping_add((unit / count) as u64);
        }
        totals.push(total);
    }
    let mean = |(t, bars): (usize, &f64)| {
        if bars.is_nan() {
            return f64::NAN;
        }
        let end = (t + *bars as usize).min(totals.len() - 1);
        totals[end].wrapping_sub(totals[t]) as f64 / unit / bars
    };
    bars.par_iter().enumerate().map(mean).collect()
}

/// What [`uniqueness`] takes for one: the largest power of two that leaves room for the longest span.
pub(super) fn unit_of_shares(bars: &[f64]) -> f64 {
    let longest = bars.iter().copied().fold(1.0, f64::max) as u64;
    (1_u64 << (62 - longest.ilog2())) as f64
}

/// Simple return from each close to that `horizon` rows later.
pub fn forward_return(close: &[f64], horizon: usize) -> Vec<f64> {
    let mut returns = vec![f64::NAN; close.len()];
    for (out, (now, later)) in returns
        .iter_mut()
        .zip(close.iter().zip(close.iter().skip(horizon)))
    {
        let simple = later / now - 1.0;
        *out = if simple.is_finite() { simple } else { f64::NAN };
    }
    returns
}

/// Numbers of the classes of [`direction`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Directions {
    /// The close rises by more than the buffer.
    pub up: f64,
    /// The close falls by more than the buffer.
    pub down: f64,
    /// Neither.
    pub neutral: f64,
}

/// The class of the move of the close over the next `horizon` rows, against `buffer` times the close.
pub fn direction(close: &[f64], horizon: usize, buffer: f64, classes: Directions) -> Vec<f64> {
    let mut labels = vec![f64::NAN; close.len()];
    for (out, (now, later)) in labels
        .iter_mut()
        .zip(close.iter().zip(close.iter().skip(horizon)))
    {
        let (change, buffer) = (later - now, buffer * now);
        *out = if change.is_nan() {
            f64::NAN
        } else if change > buffer {
            classes.up
        } else if change < -buffer {
            classes.down
        } else {
            classes.neutral
        };
    }
    labels
}

/// What [`signal_counts`] reads: columns of the same bars.
#[derive(Debug, Clone, Copy)]
pub struct Signals<'a> {
    /// Last price.
    pub close: &'a [f64],
    /// Short mean of the close.
    pub short_mean: &'a [f64],
    /// Long mean of the close.
    pub long_mean: &'a [f64],
    /// Slope of the short mean.
    pub slope: &'a [f64],
    /// Units traded.
    pub volume: &'a [f64],
    /// Mean of the volume.
    pub mean_volume: &'a [f64],
    /// Position of the close in its bar, 0 to 1.
    pub position: &'a [f64],
    /// Relative strength, 0 to 100.
    pub rsi: &'a [f64],
    /// Histogram of the MACD.
    pub histogram: &'a [f64],
    /// +DI.
    pub plus_di: &'a [f64],
    /// -DI.
    pub minus_di: &'a [f64],
}

/// Thresholds of [`signal_counts`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignalThresholds {
    /// Volume over its mean above which a condition holds.
    pub volume_spike: f64,
    /// Position from which on a buy condition holds.
    pub buy_position: f64,
    /// Position down to which a sell condition can hold.
    pub sell_position: f64,
}

impl Default for SignalThresholds {
    /// Those of Natron V2.
    fn default() -> Self {
        Self {
            volume_spike: 1.5,
            buy_position: 0.7,
            sell_position: 0.3,
        }
    }
}

/// How many of six buy and of six sell conditions hold on each bar. They look back only. A row is undefined where one of the
/// columns is, or the relative strength or the histogram of the row before.
pub fn signal_counts(of: &Signals<'_>, thresholds: SignalThresholds) -> (Vec<f64>, Vec<f64>) {
    let n_rows = of.close.len();
    let (mut buy, mut sell) = (vec![f64::NAN; n_rows], vec![f64::NAN; n_rows]);
    for t in 1..n_rows {
        let (close, short, long) = (of.close[t], of.short_mean[t], of.long_mean[t]);
        let (slope, volume, mean_volume) = (of.slope[t], of.volume[t], of.mean_volume[t]);
        let (position, rsi, rsi_before) = (of.position[t], of.rsi[t], of.rsi[t - 1]);
        let (histogram, histogram_before) = (of.histogram[t], of.histogram[t - 1]);
        let (plus_di, minus_di) = (of.plus_di[t], of.minus_di[t]);
        let used = [
            close,
            short,
            long,
            slope,
            volume,
            mean_volume,
            position,
            rsi,
            rsi_before,
            histogram,
            histogram_before,
            plus_di,
            minus_di,
        ];
        if used.iter().any(|x| x.is_nan()) {
            continue;
        }
        let is_spike = volume > thresholds.volume_spike * mean_volume;
        let buys = [
            close > short && short > long,
            rsi > 50.0 || (rsi > 30.0 && rsi_before <= 30.0),
            close > short && slope > 0.0,
            is_spike,
            position >= thresholds.buy_position,
            histogram > 0.0 && histogram > histogram_before,
        ];
        let sells = [
            close < short && short < long,
            rsi < 50.0 || (rsi < 70.0 && rsi_before >= 70.0),
            close < short && slope < 0.0,
            is_spike && position <= thresholds.sell_position,
            histogram < 0.0 && histogram < histogram_before,
            minus_di > plus_di,
        ];
        let count = |conditions: [bool; 6]| conditions.map(u8::from).iter().sum::<u8>();
        buy[t] = f64::from(count(buys));
        sell[t] = f64::from(count(sells));
    }
    (buy, sell)
}

/// What [`regime`] reads: columns of the same bars.
#[derive(Debug, Clone, Copy)]
pub struct RegimeColumns<'a> {
    /// Return over the last bars.
    pub trend: &'a [f64],
    /// Average directional index.
    pub adx: &'a [f64],
    /// Average true range.
    pub range: &'a [f64],
    /// Average true range above which a bar is volatile.
    pub range_threshold: &'a [f64],
    /// Volume over its mean; 0 where there was no volume.
    pub volume_ratio: &'a [f64],
}

/// Thresholds of [`regime`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegimeThresholds {
    /// Trend beyond which it is strong.
    pub strong_trend: f64,
    /// Directional index above which a trend is strong.
    pub strong_adx: f64,
    /// Volume ratio above which a bar is volatile.
    pub volatile_volume: f64,
}

impl Default for RegimeThresholds {
    /// Those of Natron V2.
    fn default() -> Self {
        Self {
            strong_trend: 0.02,
            strong_adx: 25.0,
            volatile_volume: 2.0,
        }
    }
}

/// The regime of each bar: 0 strong bull, 1 weak bull, 2 range, 3 weak bear, 4 strong bear, 5 volatile. It looks back only.
pub fn regime(of: &RegimeColumns<'_>, thresholds: RegimeThresholds) -> Vec<f64> {
    let RegimeThresholds {
        strong_trend,
        strong_adx,
        volatile_volume,
    } = thresholds;
    let of_row = |t: usize| {
        let (trend, adx, ratio) = (of.trend[t], of.adx[t], of.volume_ratio[t]);
        let (range, threshold) = (of.range[t], of.range_threshold[t]);
        let is_strong = adx > strong_adx;
        if [trend, adx, ratio, range, threshold]
            .iter()
            .any(|x| x.is_nan())
        {
            f64::NAN
        } else if range > threshold || ratio > volatile_volume {
            5.0
        } else if trend > strong_trend && is_strong {
            0.0
        } else if trend > 0.0 && trend <= strong_trend && !is_strong {
            1.0
        } else if trend < -strong_trend && is_strong {
            4.0
        } else if trend < 0.0 && trend >= -strong_trend && !is_strong {
            3.0
        } else {
            2.0
        }
    };
    (0..of.trend.len()).map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::check::{Golden, market};
    use super::*;

    /// The definition: bar by bar, the stop first.
    fn plain(
        rule: &TripleBarrier<'_>,
        high: &[f64],
        low: &[f64],
        close: &[f64],
        t: usize,
    ) -> Option<[f64; 3]> {
        if t + rule.horizon >= close.len() {
            return None;
        }
        let side = if rule.side == Side::Long { 1.0 } else { -1.0 };
        let target = barrier(close[t], rule.target, side, t);
        let stop = barrier(close[t], rule.stop, -side, t);
        if target.is_nan() || stop.is_nan() {
            return None;
        }
        for ahead in 1..=rule.horizon {
            let (high, low) = (high[t + ahead], low[t + ahead]);
            if high.is_nan() || low.is_nan() {
                return None;
            }
            let reaches = |price: f64, is_above: bool| {
                if is_above {
                    high >= price
                } else {
                    low <= price
                }
            };
            let is_long = rule.side == Side::Long;
            for (how, price, is_above) in [(-1.0, stop, !is_long), (1.0, target, is_long)] {
                if reaches(price, is_above) {
                    return Some([how, ahead as f64, side * (price / close[t] - 1.0)]);
                }
            }
        }
        let fill = close[t + rule.horizon];
        let ends = [0.0, rule.horizon as f64, side * (fill / close[t] - 1.0)];
        (!fill.is_nan()).then_some(ends)
    }

    #[test]
    fn triple_barriers_are_those_of_the_definition_for_any_horizon() {
        let mut bars = market(2 * PIECE + 700, 4);
        bars.high[300] = f64::NAN;
        bars.close[900] = f64::NAN;
        let mut widths: Vec<f64> = bars.close.iter().map(|close| 0.004 * close).collect();
        widths[..14].fill(f64::NAN);
        for (side, horizon) in [
            (Side::Long, 1),
            (Side::Long, 8),
            (Side::Short, 16),
            (Side::Long, 32),
            (Side::Short, 33),
            (Side::Long, 64),
            (Side::Short, 100),
            (Side::Long, 127),
        ] {
            for (target, stop) in [
                (Distance::Share(0.008), Distance::Share(0.004)),
                (Distance::Times(3.0, &widths), Distance::Times(1.5, &widths)),
                (Distance::Share(0.5), Distance::Times(40.0, &widths)),
            ] {
                let rule = TripleBarrier {
                    side,
                    target,
                    stop,
                    horizon,
                };

                let exits = rule.label(&bars.high, &bars.low, &bars.close);

                for t in 0..bars.close.len() {
                    let found = [exits.exit[t], exits.bars[t], exits.returns[t]];
                    let expected = plain(&rule, &bars.high, &bars.low, &bars.close, t);
                    let expected = expected.unwrap_or([f64::NAN; 3]);
                    assert_eq!(
                        found.map(f64::to_bits),
                        expected.map(f64::to_bits),
                        "{rule:?}, row {t}"
                    );
                }
            }
        }
    }

    #[test]
    fn both_barriers_in_one_bar_are_a_stop() {
        let rule = TripleBarrier {
            side: Side::Long,
            target: Distance::Share(0.5),
            stop: Distance::Share(0.25),
            horizon: 2,
        };

        let exits = rule.label(
            &[4.0, 4.5, 8.0, 4.0, 4.0],
            &[4.0, 3.5, 2.0, 4.0, 4.0],
            &[4.0; 5],
        );

        assert_eq!(exits.exit[..2], [-1.0, -1.0]);
        assert_eq!((exits.bars[0], exits.returns[0]), (2.0, -0.25));
        assert_eq!(
            (exits.exit[2], exits.bars[2], exits.returns[2]),
            (0.0, 2.0, 0.0)
        );
        assert!(exits.exit[3].is_nan() && exits.is_target()[3].is_nan());
        let sold = TripleBarrier {
            side: Side::Short,
            ..rule
        };
        let exits = sold.label(&[4.0, 4.5, 4.0], &[4.0, 2.0, 4.0], &[4.0; 3]);
        assert_eq!((exits.exit[0], exits.returns[0]), (1.0, 0.5));
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let bars = market(3 * PIECE + 5, 8);
        let labels = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let rule = TripleBarrier {
                    side: Side::Long,
                    target: Distance::Share(0.008),
                    stop: Distance::Share(0.004),
                    horizon: 48,
                };
                let exits = rule.label(&bars.high, &bars.low, &bars.close);
                let uniqueness = uniqueness(&exits.bars, &concurrency(&exits.bars));
                [exits.exit, exits.bars, exits.returns, uniqueness]
                    .map(|column| column.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
            })
        };

        assert!(labels(1) == labels(3));
    }

    #[test]
    fn uniqueness_computed_by_hand() {
        let bars = [2.0, 1.0, f64::NAN, 1.0, f64::NAN];

        let concurrency = concurrency(&bars);
        let uniqueness = uniqueness(&bars, &concurrency);

        assert_eq!(concurrency, [0.0, 1.0, 2.0, 0.0, 1.0]);
        assert_eq!(
            (uniqueness[0], uniqueness[1], uniqueness[3]),
            (0.75, 0.5, 1.0)
        );
        assert!(uniqueness[2].is_nan());
    }

    #[test]
    fn directions_look_ahead_as_far_as_they_say() {
        let classes = Directions {
            up: 1.0,
            down: 0.0,
            neutral: 2.0,
        };

        let labels = direction(&[4.0, 5.0, 6.5, 4.0, 3.0, 3.0], 1, 0.25, classes);

        assert_eq!(labels[..5], [2.0, 1.0, 0.0, 2.0, 2.0]);
        assert!(labels[5].is_nan());
        assert_eq!(forward_return(&[2.0, 3.0, 1.0], 2)[0], -0.5);
        assert!(forward_return(&[0.0, 1.0], 1)[0].is_nan());
        assert!(
            forward_return(&[2.0, 3.0, 1.0], 5)
                .iter()
                .all(|x| x.is_nan())
        );
    }

    #[test]
    fn labels_are_the_reference() {
        let Some(golden) = Golden::load() else { return };
        let bars = golden.bars.view();
        let (high, low, close) = (bars.high, bars.low, bars.close);
        let [atr, atr_of_mean] = ["atr_14", "atr_sma_14"].map(|name| golden.column(name));
        let widths = |atr| (Distance::Times(3.0, atr), Distance::Times(1.5, atr));
        let share = (Distance::Share(0.008), Distance::Share(0.004));

        for (name, side, (target, stop), horizon) in [
            ("tb_pct", Side::Long, share, 8),
            ("tb_atr_long", Side::Long, widths(&atr), 16),
            ("tb_atr_short", Side::Short, widths(&atr), 16),
            ("tb_atrsma_long", Side::Long, widths(&atr_of_mean), 16),
        ] {
            let rule = TripleBarrier {
                side,
                target,
                stop,
                horizon,
            };
            let exits = rule.label(high, low, close);
            golden.assert_is_label(&format!("{name}_exit"), &exits.exit, 0.0);
            golden.assert_is_label(&format!("{name}_bars"), &exits.bars, 0.0);
            golden.assert_is_label(&format!("{name}_label"), &exits.is_target(), 0.0);
            golden.assert_is_label(&format!("{name}_ret"), &exits.returns, 1.0);
            if name == "tb_pct" {
                let concurrency = concurrency(&exits.bars);
                golden.assert_is_label("tb_pct_concurrency", &concurrency, 0.0);
                let uniqueness = uniqueness(&exits.bars, &concurrency);
                golden.assert_is_label("tb_pct_uniqueness", &uniqueness, 1.0);
            }
        }

        let three = Directions {
            up: 1.0,
            down: 0.0,
            neutral: 2.0,
        };
        let five = Directions {
            up: 2.0,
            down: 0.0,
            neutral: 1.0,
        };
        golden.assert_is_label("dir_3_001", &direction(close, 3, 0.001, three), 0.0);
        golden.assert_is_label("dir_5_002", &direction(close, 5, 0.002, five), 0.0);
        golden.assert_is_label("fwd_ret_5", &forward_return(close, 5), 1.0);

        let of = |name: &str| golden.column(name);
        let (short_mean, long_mean, slope) = (of("sma_20"), of("sma_50"), of("sma_20_slope_5"));
        let (mean_volume, position, rsi) =
            (of("volume_sma_20"), of("position_in_range"), of("rsi_14"));
        let (histogram, plus_di, minus_di) =
            (of("macd_12_26_9_hist"), of("plus_di_14"), of("minus_di_14"));
        let signals = Signals {
            close,
            short_mean: &short_mean,
            long_mean: &long_mean,
            slope: &slope,
            volume: bars.volume,
            mean_volume: &mean_volume,
            position: &position,
            rsi: &rsi,
            histogram: &histogram,
            plus_di: &plus_di,
            minus_di: &minus_di,
        };
        let (buy, sell) = signal_counts(&signals, SignalThresholds::default());
        golden.assert_is_label("buy_count", &buy, 0.0);
        golden.assert_is_label("sell_count", &sell, 0.0);

        let (trend, adx, ratio) = (of("return_20"), of("adx_14"), of("volume_ratio_20"));
        let quantile = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let position = 0.9 * (values.len() - 1) as f64;
            let (below, part) = (position as usize, position.fract());
            let above = values[(below + 1).min(values.len() - 1)];
            values[below] + (above - values[below]) * part
        };
        let of_window = |t: usize| {
            let window = &atr[(t + 1).saturating_sub(500)..=t];
            let is_full = window.len() == 500 && !window[0].is_nan();
            if is_full {
                quantile(window.to_vec())
            } else {
                f64::NAN
            }
        };
        let rolling: Vec<f64> = (0..close.len()).map(of_window).collect();
        let whole = quantile(atr.iter().copied().filter(|x| !x.is_nan()).collect());
        for (name, threshold) in [
            ("regime_roll500", rolling),
            ("regime_full", vec![whole; close.len()]),
        ] {
            let columns = RegimeColumns {
                trend: &trend,
                adx: &adx,
                range: &atr,
                range_threshold: &threshold,
                volume_ratio: &ratio,
            };
            let regime = regime(&columns, RegimeThresholds::default());
            golden.assert_is_label(name, &regime, 0.0);
        }
    }
}
