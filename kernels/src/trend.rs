//! Strength and direction of a trend: directional movement (ADX), Aroon.

use std::cmp::Ordering;

use crate::bars::{Bar, Bars};
use crate::recurrences::Wilder;
use crate::windows::{rolling, rows_since_extreme};

/// One row of directional movement, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DirectionalRow {
    /// +DI: share of upward movement in the true range. First row: the period.
    pub plus_di: f64,
    /// -DI: share of downward movement in the true range. First row: the period.
    pub minus_di: f64,
    /// ADX: Wilder mean of `100 * |+DI - -DI| / (+DI + -DI)`. First row: twice the period, less one.
    pub adx: f64,
}

impl DirectionalRow {
    const UNDEFINED: Self = DirectionalRow {
        plus_di: f64::NAN,
        minus_di: f64::NAN,
        adx: f64::NAN,
    };
}

/// Wilder's directional movement as TA-Lib computes it, one bar at a time.
///
/// The sums are seeded by the `period - 1` bars after the first; the first output already decays them once. Without any
/// movement the two indicators are 0 and ADX keeps its value.
///
/// Source: Wilder (1978), New Concepts in Technical Trading Systems.
#[derive(Debug, Clone)]
pub struct Directional {
    period: usize,
    previous: Option<Bar>,
    /// Bars after the first one since the start or the last NaN.
    n_moves: usize,
    plus_movement: f64,
    minus_movement: f64,
    true_range: f64,
    adx: Wilder,
    last_adx: f64,
}

impl Directional {
    /// Movement that has seen no bar yet.
    pub fn new(period: usize) -> Self {
        assert!(
            period > 1,
            "directional movement has a period of two bars or more"
        );
        Directional {
            period,
            previous: None,
            n_moves: 0,
            plus_movement: 0.0,
            minus_movement: 0.0,
            true_range: 0.0,
            adx: Wilder::new(period),
            last_adx: f64::NAN,
        }
    }

    /// The row after one more bar. A NaN in the bar's high, low or close starts anew.
    pub fn update(&mut self, bar: Bar) -> DirectionalRow {
        if bar.high.is_nan() || bar.low.is_nan() || bar.close.is_nan() {
            *self = Directional::new(self.period);
            return DirectionalRow::UNDEFINED;
        }
        let Some(previous) = self.previous.replace(bar) else {
            return DirectionalRow::UNDEFINED;
        };
        self.n_moves += 1;
        let up = bar.high - previous.high;
        let down = previous.low - bar.low;
        let plus = if up > 0.0 && up > down { up } else { 0.0 };
        let minus = if down > 0.0 && down > up { down } else { 0.0 };
        let decay = if self.n_moves < self.period {
            0.0
        } else {
            1.0 / self.period as f64
        };
        for (total, x) in [
            (&mut self.plus_movement, plus),
            (&mut self.minus_movement, minus),
            (&mut self.true_range, bar.true_range(previous.close)),
        ] {
            *total = *total - *total * decay + x;
        }
        if self.n_moves < self.period {
            return DirectionalRow::UNDEFINED;
        }

        let share = |movement: f64| {
            if self.true_range == 0.0 {
                0.0
            } else {
                100.0 * (movement / self.true_range)
            }
        };
        let (plus_di, minus_di) = (share(self.plus_movement), share(self.minus_movement));
        if plus_di + minus_di > 0.0 {
            self.last_adx = self
                .adx
                .update(100.0 * ((plus_di - minus_di).abs() / (plus_di + minus_di)));
        } else if self.last_adx.is_nan() {
            self.last_adx = self.adx.update(0.0);
        }
        DirectionalRow {
            plus_di,
            minus_di,
            adx: self.last_adx,
        }
    }
}

/// Aroon, in percent: 100 for an extreme on the last bar, 0 for one `window` bars ago; ties go to the most recent bar.
#[derive(Debug, Clone)]
pub struct Aroon {
    /// Recency of the highest high of the last `window + 1` bars.
    pub up: Vec<f64>,
    /// Recency of the lowest low of the last `window + 1` bars.
    pub down: Vec<f64>,
}

/// Aroon of `window` bars; first row: `window`.
///
/// Source: Chande (1995), A Time Price Oscillator.
pub fn aroon(bars: Bars<'_>, window: usize) -> Aroon {
    let recency = |x: &[f64], wanted| {
        rolling(x, window + 1, |rows| {
            match rows_since_extreme(rows, wanted) {
                Some(since) => 100.0 * ((window - since) as f64 / window as f64),
                None => f64::NAN,
            }
        })
    };
    Aroon {
        up: recency(bars.high, Ordering::Greater),
        down: recency(bars.low, Ordering::Less),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::*;

    fn bar(high: f64, low: f64, close: f64) -> Bar {
        Bar {
            ts_ns: 0,
            open: close,
            high,
            low,
            close,
            volume: 1.0,
        }
    }

    #[test]
    fn directional_movement_of_a_short_series_computed_by_hand() {
        let mut movement = Directional::new(2);
        let bars = [
            bar(10.0, 8.0, 9.0),
            bar(11.0, 9.0, 10.0),
            bar(12.0, 9.5, 11.0),
            bar(11.5, 8.5, 9.0),
        ];

        let rows: Vec<DirectionalRow> = bars.iter().map(|&bar| movement.update(bar)).collect();

        assert!(rows[1].plus_di.is_nan());
        // Seeds: +DM 1, TR 2. Row 2: +DM 1/2 + 1, TR 1 + 2.5. Row 3: +DM 0.75, -DM 1, TR 1.75 + 3.
        assert!((rows[2].plus_di - 100.0 * 1.5 / 3.5).abs() < 1e-12);
        assert_eq!(rows[2].minus_di, 0.0);
        assert!((rows[3].minus_di - 100.0 / 4.75).abs() < 1e-12);
        // The mean of DX 100 and 100 * 0.25 / 1.75.
        assert!(rows[2].adx.is_nan());
        assert!((rows[3].adx - 400.0 / 7.0).abs() < 1e-12);
    }

    #[test]
    fn a_motionless_market_has_no_direction() {
        let mut movement = Directional::new(3);

        let last = (0..9)
            .map(|_| movement.update(bar(1.0, 1.0, 1.0)))
            .last()
            .unwrap();

        assert_eq!(
            last,
            DirectionalRow {
                plus_di: 0.0,
                minus_di: 0.0,
                adx: 0.0
            }
        );
    }

    #[test]
    fn aroon_gives_ties_to_the_most_recent_bar() {
        let high = [1.0, 5.0, 2.0, 5.0, 3.0];
        let bars = Bars {
            ts_ns: &[0; 5],
            open: &high,
            high: &high,
            low: &high,
            close: &high,
            volume: &high,
        };

        let aroon = aroon(bars, 4);

        assert_eq!(aroon.up[4], 75.0);
        assert_eq!(aroon.down[4], 0.0);
    }
}
