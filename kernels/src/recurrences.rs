//! Means with an infinite but fading memory: exponential and Wilder.
//!
//! Each is a small state with one `update` per row; the slice forms are loops over it, so a stream has the bits of a
//! batch. All are seeded by the plain mean of their first `period` values and NaN until then. A NaN gives NaN and starts
//! the recurrence anew, as at the beginning of the series.

use crate::math;

/// How far the weight of the rows before it has faded when a recurrence counts as settled.
///
/// A hundredth of the promised 1e-12, because two starts may differ by more than the present size of the series.
const SETTLED: f64 = 1e-15;

/// Exponential moving average with factor `2 / (period + 1)`.
#[derive(Debug, Clone)]
pub struct Ema {
    factor: f64,
    seed: Seed,
    value: f64,
}

impl Ema {
    /// A mean that has seen no row yet.
    pub fn new(period: usize) -> Self {
        Ema {
            factor: ema_factor(period),
            seed: Seed::new(period),
            value: f64::NAN,
        }
    }

    /// The mean after one more row.
    pub fn update(&mut self, x: f64) -> f64 {
        self.value = if x.is_nan() {
            self.seed.restart()
        } else if self.value.is_nan() {
            self.seed.update(x)
        } else {
            self.value + (x - self.value) * self.factor
        };
        self.value
    }
}

/// Wilder's mean: `y = (y * (period - 1) + x) / period`.
///
/// Source: Wilder (1978), New Concepts in Technical Trading Systems.
#[derive(Debug, Clone)]
pub struct Wilder {
    period: f64,
    seed: Seed,
    value: f64,
}

impl Wilder {
    /// A mean that has seen no row yet.
    pub fn new(period: usize) -> Self {
        Wilder {
            period: period as f64,
            seed: Seed::new(period),
            value: f64::NAN,
        }
    }

    /// The mean after one more row.
    pub fn update(&mut self, x: f64) -> f64 {
        self.value = if x.is_nan() {
            self.seed.restart()
        } else if self.value.is_nan() {
            self.seed.update(x)
        } else {
            (self.value * (self.period - 1.0) + x) / self.period
        };
        self.value
    }
}

/// The plain mean of the first values.
#[derive(Debug, Clone)]
struct Seed {
    period: usize,
    count: usize,
    sum: f64,
}

impl Seed {
    fn new(period: usize) -> Self {
        assert!(period > 0, "a period is one row or more");
        Seed {
            period,
            count: 0,
            sum: 0.0,
        }
    }

    fn restart(&mut self) -> f64 {
        *self = Seed::new(self.period);
        f64::NAN
    }

    fn update(&mut self, x: f64) -> f64 {
        self.sum += x;
        self.count += 1;
        if self.count < self.period {
            return f64::NAN;
        }
        let mean = self.sum / self.period as f64;
        self.restart();
        mean
    }
}

/// Exponential moving average of `x`; first value at row `period - 1`.
pub fn ema(x: &[f64], period: usize) -> Vec<f64> {
    let mut mean = Ema::new(period);
    x.iter().map(|&x| mean.update(x)).collect()
}

/// Wilder's mean of `x`; first value at row `period - 1`.
pub fn wilder(x: &[f64], period: usize) -> Vec<f64> {
    let mut mean = Wilder::new(period);
    x.iter().map(|&x| mean.update(x)).collect()
}

/// The factor of [`Ema`].
pub fn ema_factor(period: usize) -> f64 {
    2.0 / (period as f64 + 1.0)
}

/// The factor of [`Wilder`].
pub fn wilder_factor(period: usize) -> f64 {
    1.0 / period as f64
}

/// Rows until what came before has faded to 1e-15 of its weight in a recurrence `y += factor * (x - y)`.
///
/// A start at least `period` plus this many rows earlier gives the same mean to 1e-12 of the largest value.
pub fn settling_rows(factor: f64) -> usize {
    if factor >= 1.0 {
        return 1;
    }
    (math::ln(SETTLED) / math::ln_1p(-factor)).ceil() as usize
}

/// The same for a mean, with that factor or a larger one, of such a mean.
pub fn settling_rows_of_second(factor: f64) -> usize {
    let mut rows = settling_rows(factor);
    let mut weight = SETTLED;
    // The weight of what came `k` rows before is `(1 + k * factor) * (1 - factor)^k` at most.
    while (1.0 + rows as f64 * factor) * weight > SETTLED {
        weight *= 1.0 - factor;
        rows += 1;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_a_short_series_computed_by_hand() {
        let x = [1.0, 2.0, 6.0, 4.0];

        let exponential = ema(&x, 3);
        let wilder = wilder(&x, 3);

        assert!(exponential[1].is_nan() && wilder[1].is_nan());
        assert_eq!(exponential[2..], [3.0, 3.5]);
        assert_eq!(wilder[2..], [3.0, 10.0 / 3.0]);
    }

    #[test]
    fn a_nan_starts_the_recurrence_anew() {
        let fresh = ema(&[5.0, 7.0, 1.0], 2);

        let restarted = ema(&[9.0, 9.0, 1e9, f64::NAN, 5.0, 7.0, 1.0], 2);

        assert!(restarted[3].is_nan() && restarted[4].is_nan());
        assert_eq!(restarted[5..], fresh[1..]);
    }

    #[test]
    fn a_later_start_agrees_after_the_settling_rows() {
        let x: Vec<f64> = (0..3000_i64)
            .map(|t| (t * t % 101) as f64 + if t < 50 { 1e3 } else { 0.0 })
            .collect();
        for (period, factor, mean) in [
            (20, ema_factor(20), ema as fn(&[f64], usize) -> Vec<f64>),
            (14, wilder_factor(14), wilder),
        ] {
            let settled = period + settling_rows(factor);
            let (early, late) = (mean(&x, period), mean(&x[40..], period));

            let furthest = (settled..late.len())
                .map(|t| (early[t + 40] / late[t] - 1.0).abs())
                .fold(0.0, f64::max);
            let at_half = (early[settled / 2 + 40] / late[settled / 2] - 1.0).abs();

            assert!(furthest < 1e-12, "{furthest} after {settled} rows");
            assert!(at_half > 1e-12, "the memory is stated much too long");
        }
    }
}
