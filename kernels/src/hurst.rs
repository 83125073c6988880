//! The Hurst exponent of a trailing window.

use crate::math;
use crate::windows::{log_ratio, rolling, standard_deviation};

/// Shortest and longest lag of the regression.
const LAGS: std::ops::RangeInclusive<usize> = 2..=19;

/// The shortest window that leaves every lag more than one difference.
pub const SHORTEST_WINDOW: usize = *LAGS.end() + 2;

/// Hurst exponent of each window of prices: least-squares slope, over the lags 2 to 19, of the logarithm of the standard
/// deviation (n in the denominator) of lagged differences of the log price on the logarithm of the lag.
///
/// About 0.5 for a random walk, more for a trend, less for a price that returns. NaN where a lag's differences are all
/// equal. First row `window - 1`. Source: Hurst (1951); this form is that of the published original of the feature set.
pub fn rolling_hurst(close: &[f64], window: usize) -> Vec<f64> {
    assert!(
        window >= SHORTEST_WINDOW,
        "the window of a Hurst exponent is longer than its longest lag"
    );
    let log_lags: Vec<f64> = LAGS.map(|lag| math::ln(lag as f64)).collect();
    let mean_log_lag = log_lags.iter().sum::<f64>() / log_lags.len() as f64;
    let spread: f64 = log_lags
        .iter()
        .map(|x| (x - mean_log_lag) * (x - mean_log_lag))
        .sum();

    let log_price: Vec<f64> = close.iter().map(|&close| log_ratio(close, 1.0)).collect();
    rolling(&log_price, window, |rows| {
        let mut differences = Vec::with_capacity(rows.len());
        let mut slope = 0.0;
        for (lag, log_lag) in LAGS.zip(&log_lags) {
            differences.clear();
            differences.extend(
                rows[lag..]
                    .iter()
                    .zip(rows)
                    .map(|(now, before)| now - before),
            );
            let deviation = standard_deviation(&differences, 0);
            let log_deviation = if deviation > 0.0 {
                math::ln(deviation)
            } else {
                f64::NAN
            };
            slope += (log_lag - mean_log_lag) * log_deviation;
        }
        slope / spread
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parabola_spreads_in_proportion_to_the_lag() {
        // Lagged differences of t^2 are 2 * lag * t plus a constant; over windows of shrinking length their deviation
        // grows a little slower than the lag.
        let close: Vec<f64> = (0..100_i32)
            .map(|t| math::exp(f64::from(t * t) * 1e-5))
            .collect();

        let hurst = rolling_hurst(&close, 100);

        assert!(hurst[98].is_nan());
        assert!((0.9..1.0).contains(&hurst[99]), "{}", hurst[99]);
    }

    #[test]
    fn a_constant_price_has_no_exponent() {
        assert!(rolling_hurst(&[3.0; 100], 100)[99].is_nan());
    }

    #[test]
    fn independent_prices_do_not_spread() {
        let close: Vec<f64> = (0..100_u32)
            .map(|t| 1.0 + f64::from(t * t * t % 101) / 1e3)
            .collect();

        assert!(rolling_hurst(&close, 100)[99].abs() < 0.2);
    }
}
