//! Shape of single bars and gaps between neighbours.

use crate::bars::{Bar, Bars};
use crate::windows::{flag, lagged, zip_with};

/// The largest body of a doji, as a share of the bar's range.
const DOJI_BODY: f64 = 0.1;

/// `|close - open| / (high - low)`; 0 for a bar without range.
pub fn body_ratio(bars: Bars<'_>) -> Vec<f64> {
    share_of_range(bars, |bar| (bar.close - bar.open).abs(), 0.0)
}

/// `(high - max(open, close)) / (high - low)`; 0 for a bar without range.
pub fn upper_shadow_ratio(bars: Bars<'_>) -> Vec<f64> {
    share_of_range(bars, |bar| bar.high - bar.open.max(bar.close), 0.0)
}

/// `(min(open, close) - low) / (high - low)`; 0 for a bar without range.
pub fn lower_shadow_ratio(bars: Bars<'_>) -> Vec<f64> {
    share_of_range(bars, |bar| bar.open.min(bar.close) - bar.low, 0.0)
}

/// `(close - low) / (high - low)`; 0.5 for a bar without range.
pub fn position_in_range(bars: Bars<'_>) -> Vec<f64> {
    share_of_range(bars, |bar| bar.close - bar.low, 0.5)
}

fn share_of_range(bars: Bars<'_>, part: impl Fn(&Bar) -> f64, without_range: f64) -> Vec<f64> {
    let share = |bar: Bar| {
        if [bar.open, bar.high, bar.low, bar.close]
            .iter()
            .any(|price| price.is_nan())
        {
            return f64::NAN;
        }
        let range = bar.high - bar.low;
        if range == 0.0 {
            without_range
        } else {
            part(&bar) / range
        }
    };
    bars.iter().map(share).collect()
}

/// 1 where the body is less than a tenth of the bar's range.
pub fn is_doji(bars: Bars<'_>) -> Vec<f64> {
    bars.iter()
        .map(|bar| {
            flag(
                (bar.close - bar.open).abs(),
                DOJI_BODY * (bar.high - bar.low),
                |body, most| body < most,
            )
        })
        .collect()
}

/// 1 where the close is above the open.
pub fn is_rising(bars: Bars<'_>) -> Vec<f64> {
    zip_with(bars.close, bars.open, |close, open| {
        flag(close, open, |close, open| close > open)
    })
}

/// 1 where the low is above the previous high; first row 1.
pub fn gap_up(bars: Bars<'_>) -> Vec<f64> {
    let previous_high = lagged(bars.high, 1, |_, before| before);
    zip_with(bars.low, &previous_high, |low, high| {
        flag(low, high, |low, high| low > high)
    })
}

/// 1 where the high is below the previous low; first row 1.
pub fn gap_down(bars: Bars<'_>) -> Vec<f64> {
    let previous_low = lagged(bars.low, 1, |_, before| before);
    zip_with(bars.high, &previous_low, |high, low| {
        flag(high, low, |high, low| high < low)
    })
}

/// `(close - open) / open`: the return within the bar.
pub fn intraday_return(bars: Bars<'_>) -> Vec<f64> {
    zip_with(bars.close, bars.open, |close, open| {
        crate::windows::quotient(close - open, open)
    })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::*;

    #[test]
    fn shape_of_bars_computed_by_hand() {
        let bars = Bars {
            ts_ns: &[0, 1, 2],
            open: &[2.0, 5.0, 7.0],
            high: &[4.0, 6.0, 7.0],
            low: &[0.0, 4.5, 7.0],
            close: &[3.0, 5.1, 7.0],
            volume: &[1.0; 3],
        };

        assert_eq!(body_ratio(bars)[0], 0.25);
        assert_eq!(upper_shadow_ratio(bars)[0], 0.25);
        assert_eq!(lower_shadow_ratio(bars)[0], 0.5);
        assert_eq!(position_in_range(bars)[0], 0.75);
        assert_eq!(
            (body_ratio(bars)[2], position_in_range(bars)[2]),
            (0.0, 0.5)
        );
        assert_eq!(is_doji(bars), [0.0, 1.0, 0.0]);
        assert_eq!(is_rising(bars), [1.0, 1.0, 0.0]);
        assert_eq!(gap_up(bars)[1..], [1.0, 1.0]);
        assert_eq!(gap_down(bars)[1..], [0.0, 0.0]);
        assert_eq!(intraday_return(bars)[0], 0.5);
    }
}
