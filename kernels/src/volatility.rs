//! Size of moves: ATR, Bollinger bands, Keltner channel, volatility of returns, range estimators, choppiness.

use crate::bars::{Bar, Bars};
use crate::math;
use crate::recurrences::{Ema, Wilder};
use crate::windows::{
    log_ratio, quotient, rolling, rolling_max, rolling_mean, rolling_min,
    rolling_standard_deviation, rolling_sum, simple_return, zip_with,
};

/// Average true range with Wilder smoothing, one bar at a time; first value at row `period`.
///
/// The first bar has no true range and is left out of the seed.
#[derive(Debug, Clone)]
pub struct AverageTrueRange {
    previous_close: f64,
    mean: Wilder,
}

impl AverageTrueRange {
    /// A range that has seen no bar yet.
    pub fn new(period: usize) -> Self {
        AverageTrueRange {
            previous_close: f64::NAN,
            mean: Wilder::new(period),
        }
    }

    /// The range after one more bar.
    pub fn update(&mut self, bar: Bar) -> f64 {
        let previous_close = std::mem::replace(&mut self.previous_close, bar.close);
        self.mean.update(bar.true_range(previous_close))
    }
}

/// Average true range of every bar.
pub fn average_true_range(bars: Bars<'_>, period: usize) -> Vec<f64> {
    let mut range = AverageTrueRange::new(period);
    bars.iter().map(|bar| range.update(bar)).collect()
}

/// One row of a channel around a moving average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelRow {
    /// Upper edge.
    pub upper: f64,
    /// Lower edge.
    pub lower: f64,
    /// `(upper - lower) / middle`.
    pub width: f64,
}

/// Keltner channel, one bar at a time: exponential mean of the close plus and minus a multiple of the average true range.
///
/// First row: the longer of `ema_period - 1` and `atr_period`.
#[derive(Debug, Clone)]
pub struct Keltner {
    multiple: f64,
    middle: Ema,
    range: AverageTrueRange,
}

impl Keltner {
    /// A channel that has seen no bar yet.
    pub fn new(ema_period: usize, atr_period: usize, multiple: f64) -> Self {
        Keltner {
            multiple,
            middle: Ema::new(ema_period),
            range: AverageTrueRange::new(atr_period),
        }
    }

    /// The channel after one more bar.
    pub fn update(&mut self, bar: Bar) -> ChannelRow {
        let middle = self.middle.update(bar.close);
        let reach = self.multiple * self.range.update(bar);
        ChannelRow {
            upper: middle + reach,
            lower: middle - reach,
            width: quotient(2.0 * reach, middle),
        }
    }
}

/// Bollinger bands of the close.
#[derive(Debug, Clone)]
pub struct BollingerBands {
    /// Mean plus `multiple` standard deviations (n in the denominator).
    pub upper: Vec<f64>,
    /// Mean less the same.
    pub lower: Vec<f64>,
    /// `(upper - lower) / mean`.
    pub width: Vec<f64>,
    /// `(x - lower) / (upper - lower)`; NaN where the window is flat.
    pub position: Vec<f64>,
}

/// Bollinger bands of `x` with the population standard deviation; first row `window - 1`.
pub fn bollinger_bands(x: &[f64], window: usize, multiple: f64) -> BollingerBands {
    let mean = rolling_mean(x, window);
    let deviation = rolling_standard_deviation(x, window, 0);
    let upper = zip_with(&mean, &deviation, |mean, deviation| {
        mean + multiple * deviation
    });
    let lower = zip_with(&mean, &deviation, |mean, deviation| {
        mean - multiple * deviation
    });
    let width = zip_with(&mean, &deviation, |mean, deviation| {
        quotient(2.0 * multiple * deviation, mean)
    });
    let position = (0..x.len())
        .map(|t| quotient(x[t] - lower[t], 2.0 * multiple * deviation[t]))
        .collect();
    BollingerBands {
        upper,
        lower,
        width,
        position,
    }
}

/// Sample standard deviation (n - 1) of the last `window` simple returns; first row `window`.
pub fn return_volatility(close: &[f64], window: usize) -> Vec<f64> {
    rolling_standard_deviation(&simple_return(close, 1), window, 1)
}

/// Volatility estimated from the ranges of `window` bars: `sqrt(mean(ln(high / low)^2) / (4 ln 2))`.
///
/// Source: Parkinson (1980), The Extreme Value Method for Estimating the Variance of the Rate of Return.
pub fn parkinson_volatility(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let squares = zip_with(bars.high, bars.low, |high, low| {
        let range = log_ratio(high, low);
        range * range
    });
    rolling(&squares, window, |rows| {
        let mean = rows.iter().sum::<f64>() / rows.len() as f64;
        (mean / (4.0 * std::f64::consts::LN_2)).sqrt()
    })
}

/// Choppiness index: `100 * log10(sum of true ranges / range of the window) / log10(window)`; NaN where the window is flat.
///
/// First row: `window`.
pub fn choppiness(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let path = rolling_sum(&bars.true_range(), window);
    let highest = rolling_max(bars.high, window);
    let lowest = rolling_min(bars.low, window);
    let scale = math::log10(window as f64);
    let choppiness = |t: usize| {
        let ratio = quotient(path[t], highest[t] - lowest[t]);
        if ratio > 0.0 {
            100.0 * math::log10(ratio) / scale
        } else {
            f64::NAN
        }
    };
    (0..bars.len()).map(choppiness).collect()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::*;

    const BARS: Bars<'static> = Bars {
        ts_ns: &[0, 1, 2, 3],
        open: &[1.0; 4],
        high: &[2.0, 4.0, 3.0, 3.0],
        low: &[1.0, 3.0, 2.0, 1.0],
        close: &[1.5, 3.0, 2.0, 2.0],
        volume: &[1.0; 4],
    };

    #[test]
    fn ranges_and_channels_computed_by_hand() {
        // True ranges: none, 2.5, 1, 2.
        assert_eq!(average_true_range(BARS, 2)[2..], [1.75, 1.875]);
        let mut keltner = Keltner::new(3, 2, 2.0);
        let rows: Vec<ChannelRow> = BARS.iter().map(|bar| keltner.update(bar)).collect();
        let middle = 6.5 / 3.0;
        assert!(rows[1].upper.is_nan());
        assert!(
            (rows[2].upper - (middle + 3.5)).abs() < 1e-12
                && (rows[2].lower - (middle - 3.5)).abs() < 1e-12
        );
        assert!((rows[2].width - 7.0 / middle).abs() < 1e-12);

        let bands = bollinger_bands(BARS.close, 2, 2.0);
        assert_eq!(
            (bands.upper[1], bands.lower[1], bands.position[1]),
            (3.75, 0.75, 0.75)
        );
        assert!((bands.width[1] - 3.0 / 2.25).abs() < 1e-12);

        assert!(
            (choppiness(BARS, 2)[2] - 100.0 * math::log10(3.5 / 2.0) / math::log10(2.0)).abs()
                < 1e-12
        );
        let ranges = [1.0, 3.0].map(|low: f64| math::ln((low + 1.0) / low));
        let variance =
            (ranges[0] * ranges[0] + ranges[1] * ranges[1]) / (8.0 * std::f64::consts::LN_2);
        assert!((parkinson_volatility(BARS, 2)[1] - variance.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_flat_window_has_no_band_position_and_no_choppiness() {
        let flat = Bars {
            high: &[1.0; 4],
            low: &[1.0; 4],
            close: &[1.0; 4],
            ..BARS
        };

        assert!(bollinger_bands(flat.close, 3, 2.0).position[3].is_nan());
        assert!(choppiness(flat, 2)[3].is_nan());
        assert_eq!(parkinson_volatility(flat, 2)[3], 0.0);
    }
}
