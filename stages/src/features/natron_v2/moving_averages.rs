//! Moving averages of the close, their slopes, their crossings, and the price over them: 13 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

/// Parameters of the moving averages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MovingAverages {
    /// Windows of the simple averages, in bars. The first crosses the second, the second the third; the price is
    /// divided by the third and the fourth.
    pub sma_windows: [usize; 4],
    /// Periods of the exponential averages, in bars.
    pub ema_periods: [usize; 3],
    /// Window and period of the averages whose slope is taken, in bars.
    pub slope_window: usize,
    /// Bars over which a slope is taken.
    pub slope_lag: usize,
}

impl Default for MovingAverages {
    fn default() -> Self {
        MovingAverages {
            sma_windows: [5, 10, 20, 50],
            ema_periods: [5, 10, 20],
            slope_window: 20,
            slope_lag: 5,
        }
    }
}

impl MovingAverages {
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("moving_averages.sma_windows", 1, &self.sma_windows)?;
        check_windows("moving_averages.ema_periods", 1, &self.ema_periods)?;
        check_windows("moving_averages.slope_window", 1, &[self.slope_window])?;
        check_windows("moving_averages.slope_lag", 1, &[self.slope_lag])?;
        let [first, second, third, fourth] = self.sma_windows;

        let mut columns = Vec::new();
        columns.extend(self.sma_windows.map(|n| {
            SetColumn::new(
                format!("sma_{n}"),
                format!("sma(close, {n})"),
                format!("mean of the last {n} closes"),
            )
        }));
        columns.extend(self.ema_periods.map(|n| {
            let description = format!(
                "exponential mean of the close, factor 2 / {}, seeded by the mean of the first {n}",
                n + 1
            );
            SetColumn::new(format!("ema_{n}"), format!("ema(close, {n})"), description)
        }));
        columns.extend(["sma", "ema"].map(|mean| slope(mean, self.slope_window, self.slope_lag)));
        columns.extend([crossing(first, second), crossing(second, third)]);
        columns.extend([third, fourth].map(|n| {
            SetColumn::new(
                format!("price_to_sma_{n}"),
                format!("close / sma(close, {n})"),
                format!("close over the mean of the last {n} closes"),
            )
        }));
        Ok(columns)
    }
}

fn slope(mean: &str, window: usize, lag: usize) -> SetColumn {
    let value = format!("{mean}(close, {window})");
    SetColumn::new(
        format!("{mean}_{window}_slope_{lag}"),
        format!("({value} - {value}[{lag}]) / {value}"),
        format!("change of {mean}_{window} over {lag} bars, as a share of its value"),
    )
}

fn crossing(short: usize, long: usize) -> SetColumn {
    SetColumn::new(
        format!("cross_sma_{short}_{long}"),
        format!("sma(close, {short}) > sma(close, {long})"),
        format!("1 while sma_{short} is above sma_{long}"),
    )
}
