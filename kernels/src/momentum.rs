//! Momentum: RSI, MACD, stochastic, Williams %R, CCI, ultimate oscillator, rate of change.

use crate::bars::Bars;
use crate::recurrences::{Ema, Wilder};
use crate::windows::{
    lagged, minimum, quotient, rolling, rolling_max, rolling_mean, rolling_min, sum, zip_with,
};

/// Relative strength index with Wilder smoothing, one row at a time; first value at row `period`.
///
/// `100 * gain / (gain + loss)` of the Wilder means of rises and falls of the close; 0 when the price never moved.
#[derive(Debug, Clone)]
pub struct Rsi {
    previous: f64,
    gain: Wilder,
    loss: Wilder,
}

impl Rsi {
    /// An index that has seen no row yet.
    pub fn new(period: usize) -> Self {
        Rsi {
            previous: f64::NAN,
            gain: Wilder::new(period),
            loss: Wilder::new(period),
        }
    }

    /// The index after one more close.
    pub fn update(&mut self, close: f64) -> f64 {
        let change = close - std::mem::replace(&mut self.previous, close);
        // `max` would turn a NaN into 0.
        let (rise, fall) = if change.is_nan() {
            (change, change)
        } else {
            (change.max(0.0), (-change).max(0.0))
        };
        let (gain, loss) = (self.gain.update(rise), self.loss.update(fall));
        if gain + loss == 0.0 {
            0.0
        } else {
            100.0 * (gain / (gain + loss))
        }
    }
}

/// One row of MACD: the line (fast minus slow mean), its signal (mean of the line) and the histogram (line minus signal).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MacdRow {
    /// Fast minus slow exponential mean.
    pub line: f64,
    /// Exponential mean of the line.
    pub signal: f64,
    /// Line minus signal.
    pub histogram: f64,
}

/// Moving average convergence and divergence as TA-Lib computes it, one row at a time; first row `slow + signal - 2`.
///
/// The fast mean starts late, so that both means have their seeds on row `slow - 1`, and all three outputs are NaN until
/// the signal exists. The means run on distances from the first close, which keeps the digits of their difference.
#[derive(Debug, Clone)]
pub struct Macd {
    late_start_rows: usize,
    seen_rows: usize,
    origin: f64,
    fast: Ema,
    slow: Ema,
    signal: Ema,
}

impl Macd {
    /// # Panics
    /// If `fast` is longer than `slow`.
    pub fn new(fast: usize, slow: usize, signal: usize) -> Self {
        assert!(
            fast <= slow,
            "the fast mean of a MACD is not longer than the slow one"
        );
        Macd {
            late_start_rows: slow - fast,
            seen_rows: 0,
            origin: f64::NAN,
            fast: Ema::new(fast),
            slow: Ema::new(slow),
            signal: Ema::new(signal),
        }
    }

    /// The row after one more close.
    pub fn update(&mut self, close: f64) -> MacdRow {
        if close.is_nan() || self.seen_rows == 0 {
            self.seen_rows = 0;
            self.origin = close;
        }
        let distance = close - self.origin;
        let fast = if self.seen_rows < self.late_start_rows && !close.is_nan() {
            f64::NAN
        } else {
            self.fast.update(distance)
        };
        let line = fast - self.slow.update(distance);
        let signal = self.signal.update(line);
        if !close.is_nan() {
            self.seen_rows += 1;
        }
        MacdRow {
            line: if signal.is_nan() { f64::NAN } else { line },
            signal,
            histogram: line - signal,
        }
    }
}

/// Slow stochastic oscillator: %K and %D, aligned on the first row of %D as in TA-Lib.
#[derive(Debug, Clone)]
pub struct Stochastic {
    /// Mean of the raw position of the close in the window's range, in percent.
    pub slow_k: Vec<f64>,
    /// Mean of slow %K.
    pub slow_d: Vec<f64>,
}

/// Slow stochastic of `window` bars; %K smoothed over `slow_k`, %D over `slow_d` rows. 0 where the range is empty.
///
/// First row `window + slow_k + slow_d - 3`.
pub fn stochastic(bars: Bars<'_>, window: usize, slow_k: usize, slow_d: usize) -> Stochastic {
    let raw = position_in_window(bars, window, |close, high, low| {
        100.0 * quotient_or_zero(close - low, high - low)
    });
    let mut k = rolling_mean(&raw, slow_k);
    let d = rolling_mean(&k, slow_d);
    for (k, d) in k.iter_mut().zip(&d) {
        if d.is_nan() {
            *k = f64::NAN;
        }
    }
    Stochastic {
        slow_k: k,
        slow_d: d,
    }
}

/// Williams %R: `-100 * (highest - close) / (highest - lowest)` of `window` bars; 0 where the range is empty.
pub fn williams_r(bars: Bars<'_>, window: usize) -> Vec<f64> {
    position_in_window(bars, window, |close, high, low| {
        -100.0 * quotient_or_zero(high - close, high - low)
    })
}

fn position_in_window(
    bars: Bars<'_>,
    window: usize,
    position: impl Fn(f64, f64, f64) -> f64,
) -> Vec<f64> {
    let highest = rolling_max(bars.high, window);
    let lowest = rolling_min(bars.low, window);
    let range = highest.iter().zip(&lowest);
    bars.close
        .iter()
        .zip(range)
        .map(|(&close, (&high, &low))| position(close, high, low))
        .collect()
}

/// `numerator / denominator`; 0 where the denominator is 0.
fn quotient_or_zero(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 {
        0.0
    } else {
        numerator / denominator
    }
}

/// Commodity channel index: distance of the typical price from its mean in units of 0.015 mean absolute deviations;
/// 0 where the window is flat.
///
/// Source: Lambert (1980), Commodities Channel Index.
pub fn commodity_channel_index(bars: Bars<'_>, window: usize) -> Vec<f64> {
    rolling(&bars.typical_price(), window, |rows| {
        let origin = rows[0];
        let mean = rows.iter().map(|x| x - origin).sum::<f64>() / rows.len() as f64;
        let deviation = rows
            .iter()
            .map(|x| ((x - origin) - mean).abs())
            .sum::<f64>()
            / rows.len() as f64;
        let distance = (rows[rows.len() - 1] - origin) - mean;
        quotient_or_zero(distance, 0.015 * deviation)
    })
}

/// Ultimate oscillator: buying pressure over true range, summed over three windows and weighted 4 : 2 : 1, in percent.
/// A window without range counts 0. First row: the longest window.
///
/// Source: Williams (1985), The Ultimate Oscillator.
pub fn ultimate_oscillator(bars: Bars<'_>, windows: [usize; 3]) -> Vec<f64> {
    let true_range = bars.true_range();
    let previous_close = lagged(bars.close, 1, |_, before| before);
    let true_low = zip_with(bars.low, &previous_close, |low, previous| {
        minimum(&[low, previous])
    });
    let pressure = zip_with(bars.close, &true_low, |close, low| close - low);
    let ratio = |window: usize| {
        let pressure = rolling(&pressure, window, sum);
        let range = rolling(&true_range, window, sum);
        zip_with(&pressure, &range, quotient_or_zero)
    };
    let [short, middle, long] = windows.map(ratio);
    (0..bars.len())
        .map(|t| 100.0 * (4.0 * short[t] + 2.0 * middle[t] + long[t]) / 7.0)
        .collect()
}

/// Rate of change over `lag` rows, in percent.
pub fn rate_of_change(x: &[f64], lag: usize) -> Vec<f64> {
    lagged(x, lag, |now, before| 100.0 * (quotient(now, before) - 1.0))
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::*;

    fn rsi(closes: &[f64], period: usize) -> Vec<f64> {
        let mut rsi = Rsi::new(period);
        closes.iter().map(|&close| rsi.update(close)).collect()
    }

    #[test]
    fn rsi_of_a_short_series_computed_by_hand() {
        let values = rsi(&[10.0, 11.0, 10.0, 12.0, 12.0], 2);

        assert!(values[0].is_nan() && values[1].is_nan());
        // Gains 1, 0 then 2; losses 0, 1 then 0: means 0.5 and 0.5, then 1.25 and 0.25, then halved both.
        assert_eq!(values[2], 50.0);
        assert!((values[3] - 100.0 * 1.25 / 1.5).abs() < 1e-12);
        assert!((values[4] - values[3]).abs() < 1e-12);
    }

    #[test]
    fn rsi_starts_anew_after_a_missing_close() {
        let fresh = rsi(&[3.0, 4.0, 3.5, 5.0], 2);

        let restarted = rsi(&[9.0, 1.0, 7.0, f64::NAN, 3.0, 4.0, 3.5, 5.0], 2);

        assert!(restarted[3..6].iter().all(|x| x.is_nan()));
        assert_eq!(restarted[6..], fresh[2..]);
        assert_eq!(rsi(&[2.0; 9], 3)[8], 0.0);
    }

    #[test]
    fn macd_seeds_both_means_on_the_same_row() {
        let closes: Vec<f64> = [1.0, 5.0, 2.0, 4.0, 8.0, 3.0].to_vec();
        let mut macd = Macd::new(2, 3, 2);

        let rows: Vec<MacdRow> = closes.iter().map(|&close| macd.update(close)).collect();

        assert!(
            rows[..3]
                .iter()
                .all(|row| row.line.is_nan() && row.signal.is_nan())
        );
        // Fast: 3.5 on row 2 (mean of 5 and 2), then 23/6. Slow: 8/3, then 10/3. Lines 5/6 and 1/2.
        assert!((rows[3].line - 0.5).abs() < 1e-12);
        assert!((rows[3].signal - 2.0 / 3.0).abs() < 1e-12);
        assert!((rows[3].histogram + 1.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn macd_keeps_its_digits_on_large_prices() {
        let closes: Vec<f64> = (0..200)
            .map(|t: i32| f64::from((t * t * 7) % 23) / 64.0)
            .collect();
        let (mut plain, mut large) = (Macd::new(12, 26, 9), Macd::new(12, 26, 9));

        for close in closes {
            let (plain, large) = (plain.update(close), large.update(close + 1_048_576.0));
            assert_eq!(plain.histogram.to_bits(), large.histogram.to_bits());
        }
    }

    #[test]
    fn oscillators_of_a_motionless_market_are_zero() {
        let (ts_ns, price, volume) = (vec![0; 60], vec![0.1; 60], vec![1.0; 60]);
        let bars = Bars {
            ts_ns: &ts_ns,
            open: &price,
            high: &price,
            low: &price,
            close: &price,
            volume: &volume,
        };

        assert_eq!(stochastic(bars, 14, 3, 3).slow_d[59], 0.0);
        assert_eq!(williams_r(bars, 14)[59], 0.0);
        assert_eq!(commodity_channel_index(bars, 20)[59], 0.0);
        assert_eq!(ultimate_oscillator(bars, [7, 14, 28])[59], 0.0);
    }
}
