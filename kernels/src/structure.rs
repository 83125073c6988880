//! Market structure: swing points, breakouts, changes of character, distances to extremes.
//!
//! A swing point is known only when the bars after it are: it is written on the bar that confirms it, never on the pivot.

use crate::bars::{Bar, Bars};
use crate::windows::{flag, lagged, quotient, rolling, rolling_max, rolling_min, zip_with};

/// 1 on the bar that confirms a pivot high: the bar `right` rows before is strictly above `left` bars before it and
/// `right` bars after it. First row `left + right`.
pub fn swing_high(high: &[f64], left: usize, right: usize) -> Vec<f64> {
    rolling(high, left + right + 1, |rows| {
        flag_or_nan(is_pivot(rows, left, |pivot, other| pivot > other))
    })
}

/// 1 on the bar that confirms a pivot low: the mirror of [`swing_high`].
pub fn swing_low(low: &[f64], left: usize, right: usize) -> Vec<f64> {
    rolling(low, left + right + 1, |rows| {
        flag_or_nan(is_pivot(rows, left, |pivot, other| pivot < other))
    })
}

/// Whether row `left` stands out from all others; `None` if one is NaN.
fn is_pivot(rows: &[f64], left: usize, beyond: impl Fn(f64, f64) -> bool) -> Option<bool> {
    if rows.iter().any(|x| x.is_nan()) {
        return None;
    }
    Some(
        rows.iter()
            .enumerate()
            .all(|(at, &other)| at == left || beyond(rows[left], other)),
    )
}

fn flag_or_nan(is_set: Option<bool>) -> f64 {
    is_set.map_or(f64::NAN, |is_set| f64::from(u8::from(is_set)))
}

/// 1 where the close is above the highest high of the `window` bars before it; first row `window`.
pub fn breakout_up(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let before = lagged(&rolling_max(bars.high, window), 1, |_, before| before);
    zip_with(bars.close, &before, |close, highest| {
        flag(close, highest, |close, highest| close > highest)
    })
}

/// 1 where the close is below the lowest low of the `window` bars before it; first row `window`.
pub fn breakout_down(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let before = lagged(&rolling_min(bars.low, window), 1, |_, before| before);
    zip_with(bars.close, &before, |close, lowest| {
        flag(close, lowest, |close, lowest| close < lowest)
    })
}

/// `(highest high - close) / close` of `window` bars, the current one included.
pub fn distance_to_high(bars: Bars<'_>, window: usize) -> Vec<f64> {
    zip_with(
        &rolling_max(bars.high, window),
        bars.close,
        |highest, close| quotient(highest - close, close),
    )
}

/// `(close - lowest low) / close` of `window` bars, the current one included.
pub fn distance_to_low(bars: Bars<'_>, window: usize) -> Vec<f64> {
    zip_with(
        &rolling_min(bars.low, window),
        bars.close,
        |lowest, close| quotient(close - lowest, close),
    )
}

/// The smaller of [`distance_to_high`] and [`distance_to_low`].
pub fn distance_to_nearest_extreme(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let (above, below) = (
        distance_to_high(bars, window),
        distance_to_low(bars, window),
    );
    zip_with(
        &above,
        &below,
        |above, below| if below < above { below } else { above },
    )
}

/// Breaks of structure and changes of character, one bar at a time, from pivots of limited age.
///
/// A bar is a bullish break while its close is above the last confirmed pivot high, a bearish one while it is below the
/// last confirmed pivot low. The character changes on the first bullish break after a bearish one (+1) and on the first
/// bearish break after a bullish one (-1). A bar that is both counts as bullish.
///
/// `lookback` bounds the memory: a pivot is forgotten `lookback` bars after its confirmation, and so is the last break
/// when no other followed for as long. A start at least [`Structure::memory_rows`] bars earlier gives the same bits.
#[derive(Debug, Clone)]
pub struct Structure {
    left: usize,
    right: usize,
    lookback: usize,
    recent: std::collections::VecDeque<Bar>,
    pivot_high: Aged<f64>,
    pivot_low: Aged<f64>,
    is_bullish: Aged<bool>,
}

/// A value and the bars since it was learned.
#[derive(Debug, Clone)]
struct Aged<T>(Option<(T, usize)>);

impl<T: Copy> Aged<T> {
    fn grow_older(&mut self, lookback: usize) {
        self.0 = self
            .0
            .map(|(value, age)| (value, age + 1))
            .filter(|&(_, age)| age <= lookback);
    }

    fn learn(&mut self, value: T) {
        self.0 = Some((value, 0));
    }

    fn get(&self) -> Option<T> {
        self.0.map(|(value, _)| value)
    }
}

impl Structure {
    /// A structure that has seen no bar yet.
    pub fn new(left: usize, right: usize, lookback: usize) -> Self {
        Structure {
            left,
            right,
            lookback,
            recent: std::collections::VecDeque::with_capacity(left + right + 2),
            pivot_high: Aged(None),
            pivot_low: Aged(None),
            is_bullish: Aged(None),
        }
    }

    /// Bars that decide a value: those of the oldest break that counts, and of the oldest pivot that counts for it.
    pub fn memory_rows(left: usize, right: usize, lookback: usize) -> usize {
        2 * lookback + left + right
    }

    /// +1 or -1 where the character changes on this bar, else 0. NaN for a bar with a NaN.
    pub fn update(&mut self, bar: Bar) -> f64 {
        self.pivot_high.grow_older(self.lookback);
        self.pivot_low.grow_older(self.lookback);
        self.is_bullish.grow_older(self.lookback);
        self.recent.push_back(bar);
        if self.recent.len() > self.left + self.right + 1 {
            self.recent.pop_front();
        }
        if self.recent.len() == self.left + self.right + 1 {
            let pivot = self.recent[self.left];
            let highs: Vec<f64> = self.recent.iter().map(|bar| bar.high).collect();
            let lows: Vec<f64> = self.recent.iter().map(|bar| bar.low).collect();
            if is_pivot(&highs, self.left, |pivot, other| pivot > other) == Some(true) {
                self.pivot_high.learn(pivot.high);
            }
            if is_pivot(&lows, self.left, |pivot, other| pivot < other) == Some(true) {
                self.pivot_low.learn(pivot.low);
            }
        }
        if bar.high.is_nan() || bar.low.is_nan() || bar.close.is_nan() {
            return f64::NAN;
        }
        let is_bullish_break = self.pivot_high.get().is_some_and(|high| bar.close > high);
        let is_bearish_break = self.pivot_low.get().is_some_and(|low| bar.close < low);
        let before = self.is_bullish.get();
        if is_bullish_break {
            self.is_bullish.learn(true);
            f64::from(u8::from(before == Some(false)))
        } else if is_bearish_break {
            self.is_bullish.learn(false);
            -f64::from(u8::from(before == Some(true)))
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::BarColumns;

    /// Bars whose open, high, low and close are all the same price, but for a small range around it.
    fn market(prices: &[f64]) -> BarColumns {
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
    fn a_swing_is_written_on_the_bar_that_confirms_it() {
        let high = [1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 3.0, 1.0, 0.0];

        let swings = swing_high(&high, 2, 2);

        assert!(swings[..4].iter().all(|x| x.is_nan()));
        // Row 2 is confirmed on row 4; the equal highs of rows 5 and 6 are no pivots.
        assert_eq!(swings[4..], [1.0, 0.0, 0.0, 0.0, 0.0]);
        let negated: Vec<f64> = high.iter().map(|x| -x).collect();
        assert_eq!(swing_low(&negated, 2, 2)[4..], swings[4..]);
    }

    #[test]
    fn the_character_changes_on_the_first_opposite_break() {
        // A pivot low at 2.9 (confirmed by the third bar), a pivot high at 5.1, a break down, then one up.
        let market = market(&[4.0, 3.0, 4.0, 5.0, 4.0, 2.0, 1.0, 1.5, 6.0, 7.0]);
        let mut structure = Structure::new(1, 1, 100);

        let changes: Vec<f64> = market
            .view()
            .iter()
            .map(|bar| structure.update(bar))
            .collect();

        assert_eq!(changes, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_pivot_is_forgotten_after_the_lookback() {
        let market = market(&[
            4.0, 3.0, 4.0, 5.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 6.0,
        ]);

        let last = |lookback| {
            let mut structure = Structure::new(1, 1, lookback);
            market.view().iter().map(|bar| structure.update(bar)).last()
        };

        assert_eq!(last(100), Some(1.0));
        assert_eq!(last(4), Some(0.0));
    }

    #[test]
    fn what_happened_before_the_memory_does_not_matter() {
        let (left, right, lookback) = (1, 2, 6);
        let memory_rows = Structure::memory_rows(left, right, lookback);
        let changes = |market: Bars<'_>| -> Vec<f64> {
            let mut structure = Structure::new(left, right, lookback);
            market.iter().map(|bar| structure.update(bar)).collect()
        };
        let mut state = 1_u32;
        let prices: Vec<f64> = (0..600)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 28)
            })
            .collect();
        let market = market(&prices);
        let early = changes(market.view());

        let mut needed_rows = 0;
        for start in 1..500 {
            let late = changes(market.view().slice(start..600));
            let differs = (0..late.len())
                .rev()
                .find(|&t| early[start + t].to_bits() != late[t].to_bits());
            needed_rows = needed_rows.max(differs.map_or(0, |t| t + 1));
        }
        assert!(needed_rows <= memory_rows, "{needed_rows} bars matter");
        assert!(needed_rows > lookback, "the market never tries the memory");
    }

    #[test]
    fn breakouts_compare_with_the_bars_before() {
        let market = market(&[1.0, 2.0, 3.0, 1.0, 0.0]);

        let up = breakout_up(market.view(), 2);
        let down = breakout_down(market.view(), 2);

        assert_eq!(up[2..], [1.0, 0.0, 0.0]);
        assert_eq!(down[2..], [0.0, 1.0, 1.0]);
        assert!((distance_to_high(market.view(), 3)[3] - 2.1).abs() < 1e-12);
        assert!((distance_to_nearest_extreme(market.view(), 3)[3] - 0.1).abs() < 1e-12);
    }
}
