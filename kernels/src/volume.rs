//! Traded volume and its relation to price, as windowed sums: none of these depends on where the series starts.

use crate::bars::Bars;
use crate::windows::{difference, quotient, rolling_mean, rolling_sum, simple_return, zip_with};

/// Typical prices closer than this, relative to the price, count as equal in the money flow index: `(h + l + c) / 3` of
/// decimal prices that are equal on paper differs by rounding.
const SAME_PRICE: f64 = 1e-12;

/// Volume over its mean of `window` bars; NaN where nothing was traded.
pub fn volume_ratio(volume: &[f64], window: usize) -> Vec<f64> {
    zip_with(volume, &rolling_mean(volume, window), quotient)
}

/// On-balance volume of the last `window` bars: sum of the volume, signed by the change of the close; first row `window`.
pub fn on_balance_volume_sum(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let signed = zip_with(&difference(bars.close, 1), bars.volume, |change, volume| {
        if change.is_nan() {
            f64::NAN
        } else if change > 0.0 {
            volume
        } else if change < 0.0 {
            -volume
        } else {
            // Keeps the NaN of an unknown volume.
            0.0 * volume
        }
    });
    rolling_sum(&signed, window)
}

/// Volume-price trend of the last `window` bars: sum of volume times simple return; first row `window`.
pub fn volume_price_trend_sum(bars: Bars<'_>, window: usize) -> Vec<f64> {
    rolling_sum(
        &zip_with(
            &simple_return(bars.close, 1),
            bars.volume,
            |change, volume| change * volume,
        ),
        window,
    )
}

/// Chaikin money flow: mean position of the close in its bar, from -1 to 1, weighted by the volume of `window` bars.
/// A bar without range counts 0; NaN where nothing was traded.
pub fn chaikin_money_flow(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let flow: Vec<f64> = bars
        .iter()
        .map(|bar| {
            let range = bar.high - bar.low;
            let multiplier = if range == 0.0 {
                0.0
            } else {
                ((bar.close - bar.low) - (bar.high - bar.close)) / range
            };
            multiplier * bar.volume
        })
        .collect();
    zip_with(
        &rolling_sum(&flow, window),
        &rolling_sum(bars.volume, window),
        quotient,
    )
}

/// Mean typical price weighted by the volume of `window` bars; NaN where nothing was traded.
pub fn volume_weighted_price(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let traded = zip_with(&bars.typical_price(), bars.volume, |price, volume| {
        price * volume
    });
    zip_with(
        &rolling_sum(&traded, window),
        &rolling_sum(bars.volume, window),
        quotient,
    )
}

/// Money flow index: share, in percent, of the traded value of the last `window` bars that came with a rising typical
/// price; 50 where no value came with a change. First row: `window`.
///
/// Source: Quong and Soudack (1989), Volume-weighted RSI: Money Flow; ties by a tolerance of 1e-12.
pub fn money_flow_index(bars: Bars<'_>, window: usize) -> Vec<f64> {
    let price = bars.typical_price();
    let mut rising = vec![f64::NAN; price.len()];
    let mut falling = rising.clone();
    for t in 1..price.len() {
        let change = price[t] - price[t - 1];
        let value = price[t] * bars.volume[t];
        if change.is_nan() || value.is_nan() {
            continue;
        }
        let is_change = change.abs() > SAME_PRICE * price[t].abs();
        rising[t] = if is_change && change > 0.0 {
            value
        } else {
            0.0
        };
        falling[t] = if is_change && change < 0.0 {
            value
        } else {
            0.0
        };
    }
    zip_with(
        &rolling_sum(&rising, window),
        &rolling_sum(&falling, window),
        |up, down| {
            if up + down == 0.0 {
                50.0
            } else {
                100.0 * (up / (up + down))
            }
        },
    )
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use super::*;

    const BARS: Bars<'static> = Bars {
        ts_ns: &[0, 1, 2, 3],
        open: &[1.0; 4],
        high: &[2.0, 4.0, 2.0, 2.0],
        low: &[0.0, 2.0, 2.0, 0.0],
        close: &[1.0, 3.0, 2.0, 2.0],
        volume: &[10.0, 20.0, 5.0, 40.0],
    };

    #[test]
    fn windowed_sums_computed_by_hand() {
        assert_eq!(on_balance_volume_sum(BARS, 3)[3], 15.0);
        assert!((volume_price_trend_sum(BARS, 2)[2] - (40.0 - 5.0 / 3.0)).abs() < 1e-12);
        assert_eq!(chaikin_money_flow(BARS, 4)[3], 40.0 / 75.0);
        assert_eq!(volume_weighted_price(BARS, 2)[1], 70.0 / 30.0);
        // Typical prices 1, 3, 2, 4/3: 60 rising against 10 and 160/3 falling.
        assert!((money_flow_index(BARS, 3)[3] - 100.0 * 60.0 / (70.0 + 160.0 / 3.0)).abs() < 1e-12);
        assert_eq!(volume_ratio(BARS.volume, 2)[3], 40.0 / 22.5);
    }

    #[test]
    fn nothing_traded_is_undefined_or_balanced() {
        let bars = Bars {
            volume: &[0.0; 4],
            ..BARS
        };

        assert_eq!(money_flow_index(bars, 2)[3], 50.0);
        assert!(volume_ratio(bars.volume, 2)[3].is_nan());
        assert!(volume_weighted_price(bars, 2)[3].is_nan());
        assert!(chaikin_money_flow(bars, 2)[3].is_nan());
    }
}
