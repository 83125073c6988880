//! Moving averages of the close, their slopes, their crossings, and the price over them: 13 columns.

use std::collections::VecDeque;

use natron_kernels::recurrences::{Ema, ema_factor, settling_rows};
use natron_kernels::windows::{flag, lagged, quotient, rolling_mean, zip_with};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

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
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("moving_averages.sma_windows", 1, &self.sma_windows)?;
        check_windows("moving_averages.ema_periods", 1, &self.ema_periods)?;
        check_windows("moving_averages.slope_window", 1, &[self.slope_window])?;
        check_windows("moving_averages.slope_lag", 1, &[self.slope_lag])?;
        let [first, second, third, fourth] = self.sma_windows;

        let mut families = Vec::new();
        families.extend(self.sma_windows.map(simple_average));
        families.extend(self.ema_periods.map(exponential_average));
        families.push(slope_of_simple(self.slope_window, self.slope_lag));
        families.push(slope_of_exponential(self.slope_window, self.slope_lag));
        families.push(crossing(first, second));
        families.push(crossing(second, third));
        families.push(price_over_average(third));
        families.push(price_over_average(fourth));
        Ok(families)
    }
}

fn simple_average(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("sma_{window}"),
        Unit::Price,
        window - 1,
        format!("mean of the last {window} closes"),
    );
    Family::window(column, move |bars| rolling_mean(bars.close, window))
}

/// Bars that decide an exponential average.
fn ema_memory_rows(period: usize) -> usize {
    period + settling_rows(ema_factor(period))
}

fn exponential_average(period: usize) -> Family {
    let column = FeatureColumn::new(
        format!("ema_{period}"),
        Unit::Price,
        period - 1,
        format!(
            "exponential mean of the close, factor 2 / {}, seeded by the mean of the first {period}",
            period + 1
        ),
    );
    Family::recurrence(
        vec![column.remembering(ema_memory_rows(period))],
        move || {
            let mut mean = Ema::new(period);
            move |bar, row| row[0] = mean.update(bar.close)
        },
    )
}

fn slope_of_simple(window: usize, lag: usize) -> Family {
    let column = FeatureColumn::new(
        format!("sma_{window}_slope_{lag}"),
        Unit::Ratio,
        window - 1 + lag,
        format!("change of sma_{window} over {lag} bars, as a share of its value"),
    );
    Family::window(column, move |bars| {
        lagged(&rolling_mean(bars.close, window), lag, slope)
    })
}

fn slope_of_exponential(period: usize, lag: usize) -> Family {
    let column = FeatureColumn::new(
        format!("ema_{period}_slope_{lag}"),
        Unit::Ratio,
        period - 1 + lag,
        format!("change of ema_{period} over {lag} bars, as a share of its value"),
    );
    Family::recurrence(
        vec![column.remembering(ema_memory_rows(period) + lag)],
        move || {
            let mut mean = Ema::new(period);
            let mut past = VecDeque::from(vec![f64::NAN; lag]);
            move |bar, row| {
                let now = mean.update(bar.close);
                past.push_back(now);
                row[0] = slope(now, past.pop_front().unwrap_or(f64::NAN));
            }
        },
    )
}

fn slope(now: f64, before: f64) -> f64 {
    quotient(now - before, now)
}

fn crossing(short: usize, long: usize) -> Family {
    let column = FeatureColumn::new(
        format!("cross_sma_{short}_{long}"),
        Unit::Flag,
        short.max(long) - 1,
        format!("1 while sma_{short} is above sma_{long}"),
    );
    Family::window(column, move |bars| {
        let (short, long) = (
            rolling_mean(bars.close, short),
            rolling_mean(bars.close, long),
        );
        zip_with(&short, &long, |short, long| {
            flag(short, long, |short, long| short > long)
        })
    })
}

fn price_over_average(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("price_to_sma_{window}"),
        Unit::Ratio,
        window - 1,
        format!("close over the mean of the last {window} closes"),
    );
    Family::window(column, move |bars| {
        zip_with(bars.close, &rolling_mean(bars.close, window), quotient)
    })
}
