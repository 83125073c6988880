//! The Hurst exponent of a trailing window.
//!
//! Squared differences are taken as whole numbers of a unit that the window's range decides. Sums of whole numbers are the
//! same in any order, so a difference that comes is added and one that goes is taken off, and still a sum depends on its
//! window alone.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    elementary::ln_rough,
    histogram::{trailing_max, trailing_min},
    kernel::{Id, Scratch, Window, words},
    pointwise,
    rank::blank_torn_windows,
};
use crate::{dispatch::dispatched, math};

/// A variance that is less than this share of the mean square has lost digits, and is computed again from deviations.
const LOST: f64 = 0.01;
/// Rows that are computed at a time: the sums of twenty lags lie in the first-level cache.
const ROWS: usize = 256;
/// 1.5 * 2^52: the whole number nearest to what is added to it lies in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;

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
        let spare = scratch.take((5 + self.lags.len()) * n_rows + 3 * y.len());
        let (scales, spare) = spare.split_at_mut(n_rows);
        let (units, spare) = spare.split_at_mut(n_rows);
        let (ends, spare) = spare.split_at_mut(n_rows);
        let (mut slopes, spare) = spare.split_at_mut(n_rows);
        let (mut longer, spare) = spare.split_at_mut(n_rows);
        let (sums, spare) = spare.split_at_mut(self.lags.len() * n_rows);
        let (numbers, spare) = spare.split_at_mut(y.len());
        let is_torn = copy_of_numbers(y, numbers);
        trailing_max(numbers, self.n, scales, spare);
        trailing_min(numbers, self.n, units, spare);
        let bits = (60 - self.n.ilog2()).min(50) / 2;
        scales_and_units(bits, scales, units);
        if let [out] = out {
            let slope = slope_of_row(numbers, &self.lags, (scales[0], units[0]), spare);
            *out = if is_torn { f64::NAN } else { slope };
            return;
        }

        let sums = words(sums);
        let mut start = 0;
        for run in scales.chunk_by(|a, b| a.to_bits() == b.to_bits()) {
            let bars = &numbers[start..start + run.len() + self.n - 1];
            for (lag, sums) in self.lags.iter().zip(sums.chunks_exact_mut(n_rows)) {
                let sums = &mut sums[start..start + run.len()];
                sums_of_squares(bars, lag.rows, self.n - lag.rows, run[0], sums);
            }
            start += run.len();
        }

        ends.fill(0.0);
        slopes.fill(0.0);
        // The sum of the differences of a lag is that of the newest so many rows less that of the oldest.
        let mut n_added = 0;
        for (lag, sums) in self.lags.iter().zip(sums.chunks_exact(n_rows)) {
            let n = self.n - lag.rows;
            for i in n_added..lag.rows - 1 {
                add_difference(&numbers[self.n - 1 - i..], &numbers[i..], ends);
            }
            n_added = lag.rows;
            let last = [&numbers[n..], &numbers[lag.rows - 1..]];
            let squares = (sums, &*units);
            if add_logarithms(squares, last, ends, n, lag.weight, slopes, longer) {
                for t in 0..n_rows {
                    let square = sums[t] as f64 * units[t];
                    if is_lost(square, ends[t], 1.0 / n as f64) {
                        let variance = variance_of_deviations(&numbers[t..t + self.n], lag.rows);
                        longer[t] = lag.weight.mul_add(ln_rough(variance), slopes[t]);
                    }
                }
            }
            std::mem::swap(&mut slopes, &mut longer);
        }
        out.copy_from_slice(slopes);
        if is_torn {
            for (number, y) in numbers.iter_mut().zip(y) {
                *number = if y.is_finite() { 0.0 } else { f64::NAN };
            }
            blank_torn_windows(numbers, self.n, out);
        }
    }
}

/// The square of a difference as a whole number of units, in the low bits of the result.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn square(now: f64, before: f64, scale: f64) -> i64 {
    let difference = (now - before) * scale;
    difference.mul_add(difference, ROUND).to_bits() as i64
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

/// Sum of the squares of the first `n` lagged differences, in units.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn sum_of_squares(y: &[f64], lag: usize, n: usize, scale: f64) -> i64 {
    let mut sum = 0_i64;
    for (now, before) in y[lag..][..n].iter().zip(&y[..n]) {
        let whole = square(*now, *before, scale).wrapping_sub(ROUND.to_bits() as i64);
        sum = sum.wrapping_add(whole);
    }
    sum
}

dispatched! {
    /// The slope of one window.
    fn slope_of_row(y: &[f64], lags: &[Lag], of_squares: (f64, f64), spare: &mut [f64]) -> f64 {
        let (scale, unit) = of_squares;
        let logarithms = &mut spare[..lags.len()];
        let (mut n_added, mut end) = (0, 0.0);
        for (variance, lag) in logarithms.iter_mut().zip(lags) {
            for i in n_added..lag.rows {
                end += y[y.len() - 1 - i] - y[i];
            }
            n_added = lag.rows;
            let n = y.len() - lag.rows;
            let square = sum_of_squares(y, lag.rows, n, scale) as f64 * unit;
            let share = 1.0 / n as f64;
            *variance = if is_lost(square, end, share) {
                variance_of_deviations(y, lag.rows)
            } else {
                (square - end * end * share) * share
            };
        }
        for logarithm in &mut *logarithms {
            *logarithm = ln_rough(*logarithm);
        }
        let mut slope = 0.0;
        for (logarithm, lag) in logarithms.iter().zip(lags) {
            slope = lag.weight.mul_add(*logarithm, slope);
        }
        slope
    }

    fn add_difference(a: &[f64], b: &[f64], sums: &mut [f64]) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a - b;
        }
    }

    /// Numbers, and zero for what is none or infinite. Returns whether there is such a one.
    fn copy_of_numbers(y: &[f64], numbers: &mut [f64]) -> bool {
        let mut is_torn = false;
        for (number, y) in numbers.iter_mut().zip(y) {
            is_torn |= !y.is_finite();
            *number = if y.is_finite() { *y } else { 0.0 };
        }
        is_torn
    }

    /// Makes of each highest value what differences of its window are multiplied with, a power of two that brings the range
    /// between 2^(bits - 4) and 2^bits; and of each lowest the unit of squares. The power is a multiple of four, so that it
    /// changes seldom.
    fn scales_and_units(bits: u32, highest: &mut [f64], lowest: &mut [f64]) {
        let bits = u64::from(bits);
        for (scale, unit) in highest.iter_mut().zip(lowest) {
            let exponent = ((*scale - *unit).to_bits() >> 54 << 2).clamp(600, 1400);
            *scale = f64::from_bits((2042 + bits - exponent) << 52);
            let back = f64::from_bits((exponent - bits + 4) << 52);
            *unit = back * back;
        }
    }

    /// Sums of the squares of the `n` lagged differences up to each row, in units.
    fn sums_of_squares(y: &[f64], lag: usize, n: usize, scale: f64, sums: &mut [i64]) {
        let n_rows = sums.len();
        let (now, before) = (&y[lag..][..n + n_rows - 1], &y[..n + n_rows - 1]);
        sums[0] = sum_of_squares(y, lag, n, scale);
        let coming = now[n..].iter().zip(&before[n..]);
        let leaving = now.iter().zip(before);
        for ((sum, (now, before)), (old, older)) in sums[1..].iter_mut().zip(coming).zip(leaving) {
            *sum = square(*now, *before, scale).wrapping_sub(square(*old, *older, scale));
        }
        let mut sum = 0_i64;
        for x in sums {
            sum = sum.wrapping_add(*x);
            *x = sum;
        }
    }

    /// Adds the weighted logarithm of each variance to `from`, after the last difference to `ends`. `squares` are sums and
    /// their units. Returns whether one has lost digits.
    fn add_logarithms(
        squares: (&[i64], &[f64]),
        last: [&[f64]; 2],
        ends: &mut [f64],
        n: usize,
        weight: f64,
        from: &[f64],
        to: &mut [f64],
    ) -> bool {
        let share = 1.0 / n as f64;
        let n_rows = to.len();
        let (sums, units) = (&squares.0[..n_rows], &squares.1[..n_rows]);
        let (ends, from) = (&mut ends[..n_rows], &from[..n_rows]);
        let (newest, oldest) = (&last[0][..n_rows], &last[1][..n_rows]);
        let mut has_lost = false;
        for t in 0..n_rows {
            let square = sums[t] as f64 * units[t];
            let end = ends[t] + (newest[t] - oldest[t]);
            ends[t] = end;
            has_lost |= is_lost(square, end, share);
            let variance = (square - end * end * share) * share;
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
