//! The Hurst exponent of a trailing window.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    elementary::ln_rough,
    kernel::{Id, Scratch, Window},
    pointwise,
};
use crate::{dispatch::dispatched, math};

/// A variance that is less than this share of the mean square has lost digits, and is computed again from deviations.
const LOST: f64 = 0.01;
/// Rows that are computed at a time: their sums lie in the first-level cache.
const ROWS: usize = 512;
/// Numbers of a cache line.
const LINE: usize = 8;
/// Sums of 1, 4, 16, ... neighbours: as many as the longest window needs.
const LEVELS: usize = 7;

/// Slope of the logarithm of the standard deviation of lagged differences on the logarithm of the lag.
#[derive(Debug, Clone)]
struct Hurst {
    n: usize,
    lags: Vec<Lag>,
}

#[derive(Debug, Clone, Copy)]
struct Lag {
    rows: usize,
    /// What the logarithm of the variance is weighted with: half of its weight in the least-squares slope.
    weight: f64,
}

impl Hurst {
    /// Lags from `shortest` to `longest`; no slope where these are fewer than two, or the window is too short for two
    /// differences of the longest.
    fn new(n: usize, shortest: usize, longest: usize) -> Self {
        let longest = if longest + 2 > n { 0 } else { longest };
        let logarithms: Vec<f64> = (shortest..=longest)
            .map(|lag| math::ln(lag as f64))
            .collect();
        let mean = logarithms.iter().sum::<f64>() / logarithms.len() as f64;
        let spread: f64 = logarithms.iter().map(|x| (x - mean) * (x - mean)).sum();
        let lags = (shortest..=longest).zip(&logarithms).map(|(rows, x)| Lag {
            rows,
            weight: 0.5 * (x - mean) / spread,
        });
        let lags = if logarithms.len() < 2 {
            Vec::new()
        } else {
            lags.collect()
        };
        Self { n, lags }
    }
}

impl Window for Hurst {
    fn id(&self) -> Id {
        let end = |lag: Option<&Lag>| lag.map_or(0, |lag| lag.rows as u64);
        Id::new(
            "hurst",
            [self.n as u64, end(self.lags.first()), end(self.lags.last())],
        )
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        if self.lags.is_empty() {
            outputs[0].fill(f64::NAN);
            return;
        }
        for (chunk, out) in outputs[0].chunks_mut(ROWS).enumerate() {
            let y = &inputs[0][chunk * ROWS..][..self.n - 1 + out.len()];
            self.slopes(y, out, scratch);
        }
    }
}

impl Hurst {
    fn slopes(&self, y: &[f64], out: &mut [f64], scratch: &mut Scratch) {
        let n_rows = out.len();
        if let [out] = out {
            *out = slope_of_row(
                y,
                &self.lags,
                scratch.take(2 * self.lags.len() + y.len() * LINE),
            );
            return;
        }
        let n_levels = LEVELS.min(self.n.ilog2() as usize / 2 + 1);
        let (row, width) = (
            n_rows.next_multiple_of(LINE),
            y.len().next_multiple_of(LINE),
        );
        let spare = scratch.take(4 * row + n_levels * width + LINE);
        // Loads and stores that cross cache lines take twice as long.
        let start = spare.as_ptr().align_offset(64).min(LINE);
        let (ends, spare) = spare[start..].split_at_mut(row);
        let (squares, spare) = spare.split_at_mut(row);
        let (mut slopes, spare) = spare.split_at_mut(row);
        let (mut longer, levels) = spare.split_at_mut(row);
        let (ends, squares) = (&mut ends[..n_rows], &mut squares[..n_rows]);
        (slopes, longer) = (&mut slopes[..n_rows], &mut longer[..n_rows]);
        ends.fill(0.0);
        slopes.fill(0.0);
        // The sum of the differences of a lag is that of the newest so many rows less that of the oldest.
        let mut n_added = 0;
        for lag in &self.lags {
            let n = self.n - lag.rows;
            sums_of_squares(y, lag.rows, n, levels, squares);
            for i in n_added..lag.rows - 1 {
                add_difference(&y[self.n - 1 - i..], &y[i..], ends);
            }
            n_added = lag.rows;
            let last = [&y[self.n - lag.rows..], &y[lag.rows - 1..]];
            if add_logarithms(squares, last, ends, n, lag.weight, slopes, longer) {
                for t in 0..n_rows {
                    if is_lost(squares[t], ends[t], 1.0 / n as f64) {
                        let variance = variance_of_deviations(&y[t..t + self.n], lag.rows);
                        longer[t] = lag.weight.mul_add(ln_rough(variance), slopes[t]);
                    }
                }
            }
            std::mem::swap(&mut slopes, &mut longer);
        }
        out.copy_from_slice(slopes);
    }
}

/// Whether the mean is so large that the variance loses digits when its square is taken off.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn is_lost(square: f64, sum: f64, share: f64) -> bool {
    square - sum * sum * share < LOST * square
}

/// Variance of the lagged differences of a window from their deviations.
fn variance_of_deviations(y: &[f64], lag: usize) -> f64 {
    let differences = || y[lag..].iter().zip(y).map(|(now, before)| now - before);
    let n = (y.len() - lag) as f64;
    let Some(first) = differences().next() else {
        return f64::NAN;
    };
    let mean = differences().map(|d| d - first).sum::<f64>() / n;
    let squares = differences().map(|d| (d - first - mean) * (d - first - mean));
    squares.sum::<f64>() / n
}

/// Adds the squared differences of the oldest `end` of the `n` of one row, in the tree of [`sums_of_squares`]; `sum` is that
/// of the others.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn tree_of_squares(y: &[f64], lag: usize, mut end: usize, mut sum: f64, spare: &mut [f64]) -> f64 {
    let n = y.len() - lag;
    let squares = &mut spare[..end];
    for ((square, now), before) in squares.iter_mut().zip(&y[lag..]).zip(y) {
        let difference = now - before;
        *square = difference * difference;
    }
    for level in (0..LEVELS).rev() {
        let length = 1 << (2 * level);
        while end >= length {
            let leaves = &mut squares[end - length..end];
            let mut n_left = length;
            while n_left > 1 {
                n_left /= 4;
                for i in 0..n_left {
                    let four: [f64; 4] = std::array::from_fn(|k| leaves[4 * i + k]);
                    leaves[i] = (four[0] + four[1]) + (four[2] + four[3]);
                }
            }
            sum = if end == n { leaves[0] } else { sum + leaves[0] };
            end -= length;
        }
    }
    sum
}

/// The sums of squared differences of one row for the lags from `shortest` on, side by side: as far as their trees are
/// the same. Returns the sums, the longest lag first, and of how many differences.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn squares_of_lags(y: &[f64], shortest: usize, spare: &mut [f64]) -> ([f64; LINE], usize) {
    let longest = shortest + LINE - 1;
    let (mut least, mut most) = (y.len() - longest, y.len() - shortest);
    let mut sums = [0.0; LINE];
    let mut n_known = 0;
    for level in (0..LEVELS).rev() {
        let length = 1 << (2 * level);
        while least >= length {
            let leaves = spare.as_chunks_mut::<LINE>().0;
            for (leaf, back) in leaves.iter_mut().zip(n_known..n_known + length) {
                let newest = y.len() - 1 - back;
                let now = y[newest];
                let before = &y[newest - longest..=newest - shortest];
                for (leaf, before) in leaf.iter_mut().zip(before) {
                    let difference = now - before;
                    *leaf = difference * difference;
                }
            }
            let mut n_left = length;
            while n_left > 1 {
                n_left /= 4;
                for i in 0..n_left {
                    let four: [[f64; LINE]; 4] = std::array::from_fn(|k| leaves[4 * i + k]);
                    for lane in 0..LINE {
                        leaves[i][lane] =
                            (four[0][lane] + four[1][lane]) + (four[2][lane] + four[3][lane]);
                    }
                }
            }
            for lane in 0..LINE {
                sums[lane] = if n_known == 0 {
                    leaves[0][lane]
                } else {
                    sums[lane] + leaves[0][lane]
                };
            }
            n_known += length;
            (least, most) = (least - length, most - length);
        }
        if most >= length {
            break;
        }
    }
    (sums, n_known)
}

dispatched! {
    fn add_difference(a: &[f64], b: &[f64], sums: &mut [f64]) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a - b;
        }
    }

    /// The slope of one window.
    fn slope_of_row(y: &[f64], lags: &[Lag], spare: &mut [f64]) -> f64 {
        let (variances, spare) = spare.split_at_mut(lags.len());
        let (logarithms, spare) = spare.split_at_mut(lags.len());
        let mut n_added = 0;
        let mut end = 0.0;
        for chunk in (0..lags.len() / LINE * LINE).step_by(LINE) {
            let shortest = lags[chunk].rows;
            let (sums, n_known) = squares_of_lags(y, shortest, spare);
            for (i, sum) in sums.iter().rev().enumerate() {
                let lag = shortest + i;
                let end = y.len() - lag - n_known;
                variances[chunk + i] = tree_of_squares(y, lag, end, *sum, spare);
            }
        }
        for (i, lag) in lags.iter().enumerate().skip(lags.len() / LINE * LINE) {
            let end = y.len() - lag.rows;
            variances[i] = tree_of_squares(y, lag.rows, end, 0.0, spare);
        }
        for (variance, lag) in variances.iter_mut().zip(lags) {
            for i in n_added..lag.rows {
                end += y[y.len() - 1 - i] - y[i];
            }
            n_added = lag.rows;
            let share = 1.0 / (y.len() - lag.rows) as f64;
            let square = *variance;
            *variance = if is_lost(square, end, share) {
                variance_of_deviations(y, lag.rows)
            } else {
                (square - end * end * share) * share
            };
        }
        for (logarithm, variance) in logarithms.iter_mut().zip(variances) {
            *logarithm = ln_rough(*variance);
        }
        let mut slope = 0.0;
        for (logarithm, lag) in logarithms.iter().zip(lags) {
            slope = lag.weight.mul_add(*logarithm, slope);
        }
        slope
    }

    /// Sum of the squares of the `n` lagged differences up to each row: sums of 1, 4, 16, ... neighbours from the four
    /// quarters of each, and of those as many as make up `n`, the longest and newest first.
    fn sums_of_squares(y: &[f64], lag: usize, n: usize, levels: &mut [f64], sums: &mut [f64]) {
        let n_rows = sums.len();
        let mut end = n;
        let mut known: &[f64] = &[];
        // The parts of a window start so many rows after its first difference.
        let mut parts: [(usize, usize); 4 * LEVELS] = [(0, 0); 4 * LEVELS];
        let mut n_parts = 0;
        for level in (0..LEVELS).rev() {
            while end >= 1 << (2 * level) {
                end -= 1 << (2 * level);
                parts[n_parts] = (level, end);
                n_parts += 1;
            }
        }
        let parts = &parts[..n_parts];
        let highest = parts[0].0;
        let mut levels = levels.chunks_exact_mut(y.len().next_multiple_of(LINE));
        let mut all: [&[f64]; LEVELS] = [&[]; LEVELS];
        let mut length = y.len() - lag;
        for (level, values) in (0..=highest).zip(&mut levels) {
            if level == 0 {
                for ((square, now), before) in values.iter_mut().zip(&y[lag..]).zip(y) {
                    let difference = now - before;
                    *square = difference * difference;
                }
            } else {
                let step = 1 << (2 * level - 2);
                length -= 3 * step;
                let quarters: [&[f64]; 4] = std::array::from_fn(|i| &known[i * step..][..length]);
                let values = &mut values[..length];
                for t in 0..length {
                    values[t] = (quarters[0][t] + quarters[1][t]) + (quarters[2][t] + quarters[3][t]);
                }
            }
            known = values;
            all[level] = known;
        }
        let mut parts = parts.iter().map(|(level, start)| &all[*level][*start..][..n_rows]);
        if let Some(first) = parts.next() {
            sums.copy_from_slice(first);
        }
        loop {
            match (parts.next(), parts.next()) {
                (Some(a), Some(b)) => {
                    for t in 0..n_rows {
                        sums[t] = sums[t] + a[t] + b[t];
                    }
                }
                (Some(a), None) => {
                    for t in 0..n_rows {
                        sums[t] += a[t];
                    }
                }
                _ => return,
            }
        }
    }

    /// Adds the weighted logarithm of each variance to `from`, after the last difference to `ends`. Returns whether one
    /// has lost digits.
    fn add_logarithms(
        squares: &[f64],
        last: [&[f64]; 2],
        ends: &mut [f64],
        n: usize,
        weight: f64,
        from: &[f64],
        to: &mut [f64],
    ) -> bool {
        let share = 1.0 / n as f64;
        let n_rows = to.len();
        let (squares, ends, from) = (&squares[..n_rows], &mut ends[..n_rows], &from[..n_rows]);
        let (newest, oldest) = (&last[0][..n_rows], &last[1][..n_rows]);
        let mut has_lost = false;
        for t in 0..n_rows {
            let end = ends[t] + (newest[t] - oldest[t]);
            ends[t] = end;
            has_lost |= is_lost(squares[t], end, share);
            let variance = (squares[t] - end * end * share) * share;
            to[t] = weight.mul_add(ln_rough(variance), from[t]);
        }
        has_lost
    }
}

pub(super) const INDICATORS: &[Indicator] = &[Indicator {
    name: "hurst",
    series: &["x"],
    bars: &[],
    parameters: &[
        Parameter {
            name: "n",
            range: Range::Whole(4, 10_000),
            default: Some(100.0),
        },
        Parameter {
            name: "shortest",
            range: Range::Whole(1, 1000),
            default: Some(2.0),
        },
        Parameter {
            name: "longest",
            range: Range::Whole(2, 1000),
            default: Some(19.0),
        },
    ],
    outputs: &[Output {
        name: "",
        unit: Unit::Ratio,
    }],
    definition: "Hurst exponent: least-squares slope, over the lags from shortest to longest, of the logarithm of the standard deviation (n in the denominator) of the lagged differences of ln(x) in the last n rows on the logarithm of the lag; not defined where the differences of a lag are all equal.",
    source: "Hurst, Long-term storage capacity of reservoirs, 1951; this form is common in trading code",
    expand: |builder, series, p| {
        let x = pointwise::ln(builder, series[0]);
        let hurst = Hurst::new(p[0] as usize, p[1] as usize, p[2] as usize);
        builder.window(hurst, &[x])
    },
}];

#[cfg(test)]
#[expect(clippy::needless_range_loop, reason = "a loop over rows")]
mod tests {
    use super::*;
    use crate::{
        bars::BarColumns,
        indicators::{
            check::{Golden, market, values},
            program::Input,
        },
    };

    const DEFAULTS: &[f64] = &[100.0, 2.0, 19.0];

    fn hurst(bars: &BarColumns) -> Vec<f64> {
        values(bars, "hurst", &[Input::Close], DEFAULTS, "")
    }

    fn plain(close: &[f64]) -> f64 {
        let y: Vec<f64> = close.iter().map(|x| math::ln(*x)).collect();
        let points: Vec<(f64, f64)> = (2..=19)
            .map(|lag| {
                let deviation = variance_of_deviations(&y, lag).sqrt();
                (math::ln(lag as f64), math::ln(deviation))
            })
            .collect();
        let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / 18.0;
        let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
        mean(&|p| (p.0 - x) * (p.1 - y)) / mean(&|p| (p.0 - x) * (p.0 - x))
    }

    fn assert_is_plain(bars: &BarColumns, tolerance: f64) {
        let hurst = hurst(bars);
        assert!(hurst[..99].iter().all(|x| x.is_nan()));
        for t in 99..hurst.len() {
            let expected = plain(&bars.close[t - 99..=t]);
            assert!(
                (hurst[t] - expected).abs() <= tolerance * expected.abs(),
                "row {t}: {} against {expected}",
                hurst[t]
            );
        }
    }

    #[test]
    fn the_exponent_is_the_reference_one() {
        let Some(golden) = Golden::load() else { return };

        golden.assert_is("hurst_100", &hurst(&golden.bars), 1.0);
    }

    #[test]
    fn small_moves_on_large_prices_keep_their_digits() {
        let mut bars = market(700, 5);
        assert_is_plain(&bars, 1e-11);
        bars.close.iter_mut().for_each(|x| *x = *x * 1e-3 + 1e6);
        assert_is_plain(&bars, 1e-9);
        bars.close.iter_mut().for_each(|x| *x *= 1e-8);
        assert_is_plain(&bars, 1e-9);
    }

    #[test]
    fn a_trend_keeps_its_digits() {
        let mut bars = market(300, 5);
        for (t, close) in bars.close.iter_mut().enumerate() {
            *close = math::exp(0.01 * t as f64) * (1.0 + 1e-6 * *close);
        }

        assert_is_plain(&bars, 1e-9);
    }

    #[test]
    fn a_parabola_spreads_in_proportion_to_the_lag() {
        let mut bars = market(101, 1);
        for (t, close) in bars.close.iter_mut().enumerate() {
            *close = math::exp((t * t) as f64 * 1e-5);
        }

        let hurst = hurst(&bars);

        assert!(hurst[98].is_nan());
        assert!((0.9..1.0).contains(&hurst[99]), "{}", hurst[99]);
    }

    #[test]
    fn a_constant_price_and_a_window_too_short_have_no_exponent() {
        let mut bars = market(120, 1);
        let short = values(&bars, "hurst", &[Input::Close], &[20.0, 2.0, 19.0], "");
        bars.close.fill(3.0);

        assert!(short.iter().all(|x| x.is_nan()));
        assert!(hurst(&bars).iter().all(|x| x.is_nan()));
    }

    #[test]
    fn a_bad_tick_spoils_its_own_windows() {
        let mut bars = market(400, 5);
        let before = hurst(&bars);
        bars.close[150] = 1e12;
        let after = hurst(&bars);

        for t in (99..150).chain(250..400) {
            assert_eq!(before[t].to_bits(), after[t].to_bits());
        }
    }
}
