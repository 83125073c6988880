//! Statistics of trailing windows.
//!
//! The window of `window` rows at row `t` is `t - window + 1 ..= t`. A result is NaN where the window is not full yet and
//! where it holds a NaN. Every window is computed from its definition, without running sums, so that no error is carried
//! from one row to the next and one bad tick spoils its own windows only. Deviations are taken from a value of the
//! window before they are squared, which keeps the digits of small moves on large prices.

use std::cmp::Ordering;

/// `statistic` of every full window of `x`; NaN before the first. Shape: \[rows\] to \[rows\].
///
/// # Panics
/// If `window` is 0.
pub fn rolling(x: &[f64], window: usize, statistic: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    assert!(window > 0, "a window holds one row or more");
    let mut out = vec![f64::NAN; x.len()];
    for (out, rows) in out.iter_mut().skip(window - 1).zip(x.windows(window)) {
        *out = statistic(rows);
    }
    out
}

/// Sum of each window.
pub fn rolling_sum(x: &[f64], window: usize) -> Vec<f64> {
    rolling(x, window, sum)
}

/// Simple moving average.
pub fn rolling_mean(x: &[f64], window: usize) -> Vec<f64> {
    rolling(x, window, mean)
}

/// Standard deviation of each window with `n - ddof` in the denominator.
pub fn rolling_standard_deviation(x: &[f64], window: usize, ddof: usize) -> Vec<f64> {
    rolling(x, window, |rows| standard_deviation(rows, ddof))
}

/// Distance of each value from its window's mean in sample standard deviations (n - 1); NaN in a flat window.
pub fn rolling_z_score(x: &[f64], window: usize) -> Vec<f64> {
    rolling(x, window, |rows| {
        let deviations = Deviations::of(rows);
        quotient(deviations.of_last(), deviations.standard_deviation(1))
    })
}

/// Skewness of each window, adjusted Fisher-Pearson (G1); NaN in a flat window.
pub fn rolling_skewness(x: &[f64], window: usize) -> Vec<f64> {
    rolling(x, window, |rows| {
        let n = rows.len() as f64;
        let deviations = Deviations::of(rows);
        let second = deviations.moment(|d| d * d);
        let third = deviations.moment(|d| d * d * d);
        quotient(third, second * second.sqrt()) * (n * (n - 1.0)).sqrt() / (n - 2.0)
    })
}

/// Excess kurtosis of each window, bias-corrected (G2); NaN in a flat window.
pub fn rolling_kurtosis(x: &[f64], window: usize) -> Vec<f64> {
    rolling(x, window, |rows| {
        let n = rows.len() as f64;
        let deviations = Deviations::of(rows);
        let second = deviations.moment(|d| d * d);
        let fourth = deviations.moment(|d| (d * d) * (d * d));
        let excess = quotient(fourth, second * second) - 3.0;
        ((n + 1.0) * excess + 6.0) * (n - 1.0) / ((n - 2.0) * (n - 3.0))
    })
}

/// Pearson correlation of each window's values with those `lag` rows before them, inside the window, each side with
/// its own mean; NaN where a side is flat.
pub fn rolling_autocorrelation(x: &[f64], window: usize, lag: usize) -> Vec<f64> {
    assert!(
        lag < window,
        "the lag of an autocorrelation is shorter than its window"
    );
    rolling(x, window, |rows| {
        correlation(&rows[lag..], &rows[..rows.len() - lag])
    })
}

/// Pearson correlation of the two series in each window; NaN where a side is flat.
pub fn rolling_correlation(x: &[f64], y: &[f64], window: usize) -> Vec<f64> {
    assert_eq!(x.len(), y.len(), "correlated series have the same length");
    let mut out = vec![f64::NAN; x.len()];
    let pairs = x.windows(window).zip(y.windows(window));
    for (out, (x, y)) in out.iter_mut().skip(window - 1).zip(pairs) {
        *out = correlation(x, y);
    }
    out
}

/// Largest value of each window.
pub fn rolling_max(x: &[f64], window: usize) -> Vec<f64> {
    rolling(x, window, maximum)
}

/// Smallest value of each window.
pub fn rolling_min(x: &[f64], window: usize) -> Vec<f64> {
    rolling(x, window, minimum)
}

/// Fixed-width fractional difference of order `d`: each window weighted by
/// `w[0] = 1, w[k] = -w[k-1] * (d - k + 1) / k`, `k` rows before the last.
///
/// Source: López de Prado (2018), Advances in Financial Machine Learning, §5.5, without a threshold on the weights.
pub fn fractional_difference(x: &[f64], d: f64, window: usize) -> Vec<f64> {
    let mut weights = vec![1.0; window];
    for k in 1..window {
        weights[k] = -weights[k - 1] * (d - k as f64 + 1.0) / k as f64;
    }
    rolling(x, window, |rows| {
        rows.iter()
            .rev()
            .zip(&weights)
            .map(|(x, weight)| x * weight)
            .sum()
    })
}

/// `x[t] - x[t - lag]`; NaN in the first `lag` rows.
pub fn difference(x: &[f64], lag: usize) -> Vec<f64> {
    lagged(x, lag, |now, before| now - before)
}

/// `x[t] / x[t - lag] - 1`; NaN in the first `lag` rows and where the earlier value is 0.
pub fn simple_return(x: &[f64], lag: usize) -> Vec<f64> {
    lagged(x, lag, |now, before| quotient(now, before) - 1.0)
}

/// `ln(x[t] / x[t - lag])`; NaN in the first `lag` rows and where a value is not positive.
pub fn log_return(x: &[f64], lag: usize) -> Vec<f64> {
    lagged(x, lag, log_ratio)
}

/// `combine(x[t], x[t - lag])`; NaN in the first `lag` rows.
pub fn lagged(x: &[f64], lag: usize, combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let mut out = vec![f64::NAN; x.len()];
    for ((out, &now), &before) in out.iter_mut().zip(x).skip(lag).zip(x) {
        *out = combine(now, before);
    }
    out
}

/// `combine(x[t], y[t])` of every row.
pub fn zip_with(x: &[f64], y: &[f64], combine: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    assert_eq!(
        x.len(),
        y.len(),
        "series combined row by row have the same length"
    );
    x.iter().zip(y).map(|(&x, &y)| combine(x, y)).collect()
}

/// `numerator / denominator`; NaN, never infinite, where the denominator is 0.
#[inline]
pub fn quotient(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 {
        f64::NAN
    } else {
        numerator / denominator
    }
}

/// `ln(numerator / denominator)`; NaN where one of them is not positive.
#[inline]
pub fn log_ratio(numerator: f64, denominator: f64) -> f64 {
    if numerator > 0.0 && denominator > 0.0 {
        crate::math::ln(numerator / denominator)
    } else {
        f64::NAN
    }
}

/// 1 or 0; NaN where one of the compared values is NaN.
#[inline]
pub fn flag(x: f64, y: f64, compare: impl Fn(f64, f64) -> bool) -> f64 {
    if x.is_nan() || y.is_nan() {
        f64::NAN
    } else {
        f64::from(u8::from(compare(x, y)))
    }
}

/// Sum of `rows`, oldest first.
pub fn sum(rows: &[f64]) -> f64 {
    rows.iter().sum()
}

/// Mean of `rows`; NaN when there are none.
pub fn mean(rows: &[f64]) -> f64 {
    sum(rows) / rows.len() as f64
}

/// Largest of `rows`; NaN if one is NaN or there are none.
pub fn maximum(rows: &[f64]) -> f64 {
    extreme(rows, Ordering::Greater)
}

/// Smallest of `rows`; NaN if one is NaN or there are none.
pub fn minimum(rows: &[f64]) -> f64 {
    extreme(rows, Ordering::Less)
}

fn extreme(rows: &[f64], wanted: Ordering) -> f64 {
    let mut rows = rows.iter().copied();
    let first = rows.next().unwrap_or(f64::NAN);
    rows.fold(first, |best, x| match x.partial_cmp(&best) {
        None => f64::NAN,
        Some(order) if order == wanted => x,
        Some(_) => best,
    })
}

/// Rows since the most recent extreme of `rows` in the `wanted` direction, 0 for the last row; `None` if one is NaN.
pub fn rows_since_extreme(rows: &[f64], wanted: Ordering) -> Option<usize> {
    let best = extreme(rows, wanted);
    rows.iter()
        .rev()
        .position(|x| x.partial_cmp(&best) == Some(Ordering::Equal))
}

/// Standard deviation of `rows` with `n - ddof` in the denominator.
pub fn standard_deviation(rows: &[f64], ddof: usize) -> f64 {
    Deviations::of(rows).standard_deviation(ddof)
}

/// Pearson correlation of two series of the same length; NaN where one is flat.
pub fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let (dx, dy) = (Deviations::of(x), Deviations::of(y));
    let covariance: f64 = dx.iter().zip(dy.iter()).map(|(x, y)| x * y).sum();
    let (x2, y2) = (dx.sum(|d| d * d), dy.sum(|d| d * d));
    // Rounding can carry a perfect correlation just past 1.
    quotient(covariance, x2.sqrt() * y2.sqrt()).clamp(-1.0, 1.0)
}

/// The deviations of a window from its mean, reached through one of its own values: exact for a flat window, and
/// without cancellation where the values are large and their differences small.
struct Deviations<'a> {
    rows: &'a [f64],
    origin: f64,
    /// Mean of `rows - origin`.
    mean: f64,
}

impl<'a> Deviations<'a> {
    fn of(rows: &'a [f64]) -> Self {
        let origin = rows.first().copied().unwrap_or(f64::NAN);
        let total: f64 = rows.iter().map(|x| x - origin).sum();
        Deviations {
            rows,
            origin,
            mean: total / rows.len() as f64,
        }
    }

    fn iter(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().map(|x| (x - self.origin) - self.mean)
    }

    fn sum(&self, power: impl Fn(f64) -> f64) -> f64 {
        self.iter().map(power).sum()
    }

    fn moment(&self, power: impl Fn(f64) -> f64) -> f64 {
        self.sum(power) / self.rows.len() as f64
    }

    fn standard_deviation(&self, ddof: usize) -> f64 {
        (self.sum(|d| d * d) / (self.rows.len() as f64 - ddof as f64)).sqrt()
    }

    fn of_last(&self) -> f64 {
        self.rows
            .last()
            .map_or(f64::NAN, |x| (x - self.origin) - self.mean)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Rolling = fn(&[f64], usize) -> Vec<f64>;

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * a.abs().max(b.abs())
    }

    /// Prices of a market that moves by steps of a 1/1024, so that adding a large power of two is exact.
    fn walk() -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(-20_i32..=20, 30..120).prop_map(|steps| {
            let mut price = 4096;
            steps
                .into_iter()
                .map(|step| {
                    price += step;
                    f64::from(price) / 1024.0
                })
                .collect()
        })
    }

    #[test]
    fn statistics_of_a_window_computed_by_hand() {
        let x = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];

        assert_eq!(rolling_mean(&x, 8)[7], 5.0);
        assert_eq!(rolling_standard_deviation(&x, 8, 0)[7], 2.0);
        assert!(close(
            rolling_standard_deviation(&x, 8, 1)[7],
            (32.0_f64 / 7.0).sqrt(),
            1e-15
        ));
        assert!(close(
            rolling_z_score(&x, 8)[7],
            4.0 / (32.0_f64 / 7.0).sqrt(),
            1e-15
        ));
        // g1 = 5.25 / 8, g2 = 44.5 / 16 - 3.
        assert!(close(
            rolling_skewness(&x, 8)[7],
            0.65625 * 56.0_f64.sqrt() / 6.0,
            1e-14
        ));
        assert!(close(
            rolling_kurtosis(&x, 8)[7],
            (9.0 * (44.5 / 16.0 - 3.0) + 6.0) * 7.0 / 30.0,
            1e-14
        ));
        assert!(close(
            rolling_autocorrelation(&[1.0, 2.0, 3.0, 5.0], 4, 1)[3],
            correlation(&[2.0, 3.0, 5.0], &[1.0, 2.0, 3.0]),
            0.0
        ));
        assert!(close(
            correlation(&[2.0, 3.0, 5.0], &[1.0, 2.0, 3.0]),
            3.0 / (14.0_f64 / 3.0 * 2.0).sqrt(),
            1e-14
        ));
        assert_eq!(rolling_max(&x, 3)[2..], [4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(rolling_min(&x, 3)[2..], [2.0, 4.0, 4.0, 4.0, 5.0, 5.0]);
        assert_eq!(rows_since_extreme(&x[..4], Ordering::Greater), Some(0));
        assert_eq!(fractional_difference(&[1.0, 2.0, 4.0], 1.0, 3)[2], 2.0);
    }

    #[test]
    fn a_flat_window_is_zero_or_undefined_but_never_infinite() {
        let flat = [0.1; 30];

        assert_eq!(rolling_standard_deviation(&flat, 20, 1)[29], 0.0);
        for undefined in [
            rolling_z_score(&flat, 20),
            rolling_skewness(&flat, 20),
            rolling_kurtosis(&flat, 20),
            rolling_autocorrelation(&flat, 20, 5),
            rolling_correlation(&flat, &flat, 20),
        ] {
            assert!(undefined.iter().all(|x| x.is_nan()));
        }
        assert!(simple_return(&[0.0, 1.0], 1)[1].is_nan());
        assert!(log_return(&[0.0, 1.0], 1)[1].is_nan());
    }

    #[test]
    fn a_window_longer_than_the_series_has_no_values() {
        for length in 0..4 {
            let x = vec![1.0; length];

            assert!(rolling_mean(&x, 5).iter().all(|y| y.is_nan()));
            assert_eq!(rolling_correlation(&x, &x, 5).len(), length);
            assert_eq!(difference(&x, 9).len(), length);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn moments_keep_their_digits_on_large_prices(x in walk(), window in 5_usize..25) {
            let shifted: Vec<f64> = x.iter().map(|x| x + 1_048_576.0).collect();
            let other: Vec<f64> = x.iter().enumerate().map(|(t, x)| x * x + t as f64).collect();
            let pairs = [
                (rolling_standard_deviation(&x, window, 1), rolling_standard_deviation(&shifted, window, 1)),
                (rolling_z_score(&x, window), rolling_z_score(&shifted, window)),
                (rolling_skewness(&x, window), rolling_skewness(&shifted, window)),
                (rolling_kurtosis(&x, window), rolling_kurtosis(&shifted, window)),
                (rolling_correlation(&x, &other, window), rolling_correlation(&shifted, &other, window)),
            ];

            for (plain, large) in pairs {
                for (a, b) in plain.iter().zip(&large) {
                    prop_assert!(close(*a, *b, 1e-12), "{a} is not {b}");
                }
            }
        }

        #[test]
        fn a_bad_tick_spoils_its_own_windows_only(x in walk(), window in 4_usize..25, at in 0_usize..30, tick in prop_oneof![Just(f64::NAN), Just(1e9)]) {
            let mut bad = x.clone();
            bad[at] = tick;
            let statistics: [Rolling; 6] =
                [rolling_mean, rolling_z_score, rolling_skewness, rolling_kurtosis, rolling_max, rolling_min];

            for statistic in statistics {
                let (good, spoiled) = (statistic(&x, window), statistic(&bad, window));
                for t in 0..x.len() {
                    if t < at || t >= at + window {
                        prop_assert_eq!(good[t].to_bits(), spoiled[t].to_bits());
                    } else if tick.is_nan() {
                        prop_assert!(spoiled[t].is_nan());
                    }
                }
            }
        }
    }
}
