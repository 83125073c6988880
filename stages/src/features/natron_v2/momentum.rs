//! Oscillators: 13 columns.

use natron_kernels::momentum::{
    Macd, Rsi, commodity_channel_index, rate_of_change, stochastic, ultimate_oscillator, williams_r,
};
use natron_kernels::recurrences::{
    ema_factor, settling_rows, settling_rows_of_second, wilder_factor,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

/// Parameters of the oscillators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Momentum {
    /// Periods of the relative strength index (Wilder's), in bars.
    pub rsi_periods: [usize; 2],
    /// Bars over which the rate of change is taken.
    pub roc_lags: [usize; 2],
    /// Window of the commodity channel index, in bars.
    pub cci_window: usize,
    /// Window of the stochastic oscillator, and the windows that smooth %K and %D, in bars.
    pub stochastic_windows: [usize; 3],
    /// Periods of the fast mean, the slow mean and the signal of MACD, in bars.
    pub macd_periods: [usize; 3],
    /// Window of Williams %R, in bars.
    pub williams_window: usize,
    /// Windows of the ultimate oscillator, the shortest and heaviest first, in bars.
    pub ultimate_windows: [usize; 3],
}

impl Default for Momentum {
    fn default() -> Self {
        Momentum {
            rsi_periods: [14, 7],
            roc_lags: [10, 20],
            cci_window: 20,
            stochastic_windows: [14, 3, 3],
            macd_periods: [12, 26, 9],
            williams_window: 14,
            ultimate_windows: [7, 14, 28],
        }
    }
}

impl Momentum {
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("momentum.rsi_periods", 1, &self.rsi_periods)?;
        check_windows("momentum.roc_lags", 1, &self.roc_lags)?;
        check_windows("momentum.cci_window", 2, &[self.cci_window])?;
        check_windows("momentum.stochastic_windows", 1, &self.stochastic_windows)?;
        check_windows("momentum.macd_periods", 1, &self.macd_periods)?;
        check_windows("momentum.williams_window", 1, &[self.williams_window])?;
        check_windows("momentum.ultimate_windows", 1, &self.ultimate_windows)?;
        let [fast, slow, _] = self.macd_periods;
        if fast >= slow {
            return Err(FeatureError::OutOfRange {
                parameter: "momentum.macd_periods",
                value: format!("{:?}", self.macd_periods),
                expected: "a fast period shorter than the slow one".to_owned(),
            });
        }

        let mut families = Vec::new();
        families.extend(self.rsi_periods.map(rsi));
        families.extend(self.roc_lags.map(roc));
        families.push(cci(self.cci_window));
        families.push(stochastic_oscillator(self.stochastic_windows));
        families.push(macd(self.macd_periods));
        families.push(williams(self.williams_window));
        families.push(ultimate(self.ultimate_windows));
        Ok(families)
    }
}

fn rsi(period: usize) -> Family {
    let column = FeatureColumn::new(
        format!("rsi_{period}"),
        Unit::Percent,
        period,
        format!("relative strength index with Wilder's smoothing over {period} bars"),
    );
    let memory_rows = period + settling_rows(wilder_factor(period));
    Family::recurrence(vec![column.remembering(memory_rows)], move || {
        let mut rsi = Rsi::new(period);
        move |bar, row| row[0] = rsi.update(bar.close)
    })
}

fn roc(lag: usize) -> Family {
    let column = FeatureColumn::new(
        format!("roc_{lag}"),
        Unit::Percent,
        lag,
        format!("rate of change of the close over {lag} bars"),
    );
    Family::window(column, move |bars| rate_of_change(bars.close, lag))
}

fn cci(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("cci_{window}"),
        Unit::Ratio,
        window - 1,
        format!(
            "commodity channel index of {window} bars: distance of the typical price from its mean over 0.015 mean absolute deviations"
        ),
    );
    Family::window(column, move |bars| commodity_channel_index(bars, window))
}

fn stochastic_oscillator([window, slow_k, slow_d]: [usize; 3]) -> Family {
    let warm_up_rows = window + slow_k + slow_d - 3;
    let column = |line: &str, description: String| {
        FeatureColumn::new(
            format!("stoch_{window}_{slow_k}_{slow_d}_{line}"),
            Unit::Percent,
            warm_up_rows,
            description,
        )
    };
    let columns = vec![
        column(
            "k",
            format!(
                "slow stochastic %K: position of the close in the range of {window} bars, mean of {slow_k}"
            ),
        ),
        column(
            "d",
            format!("slow stochastic %D: mean of the last {slow_d} %K"),
        ),
    ];
    Family::windows(columns, move |bars| {
        let lines = stochastic(bars, window, slow_k, slow_d);
        vec![lines.slow_k, lines.slow_d]
    })
}

fn macd([fast, slow, signal]: [usize; 3]) -> Family {
    let warm_up_rows = slow + signal - 2;
    // The mean that forgets last decides; it is the signal when someone makes that one the longest.
    let memory_rows = slow + signal + settling_rows_of_second(ema_factor(slow.max(signal)));
    let column = |name: String, warm_up_rows: usize, description: String| {
        FeatureColumn::new(name, Unit::Price, warm_up_rows, description).remembering(memory_rows)
    };
    let prefix = format!("macd_{fast}_{slow}_{signal}");
    let columns = vec![
        column(
            format!("{prefix}_line"),
            warm_up_rows,
            format!(
                "exponential mean of {fast} closes less that of {slow}, seeded on the same row"
            ),
        ),
        column(
            format!("{prefix}_signal"),
            warm_up_rows,
            format!("exponential mean of the last {signal} MACD lines"),
        ),
        column(
            format!("{prefix}_hist"),
            warm_up_rows,
            "MACD line less its signal".to_owned(),
        ),
        column(
            "macd_hist_diff_1".to_owned(),
            warm_up_rows + 1,
            "change of the MACD histogram over one bar".to_owned(),
        )
        .remembering(memory_rows + 1),
    ];
    Family::recurrence(columns, move || {
        let mut macd = Macd::new(fast, slow, signal);
        let mut previous = f64::NAN;
        move |bar, row| {
            let now = macd.update(bar.close);
            row.copy_from_slice(&[
                now.line,
                now.signal,
                now.histogram,
                now.histogram - previous,
            ]);
            previous = now.histogram;
        }
    })
}

fn williams(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("willr_{window}"),
        Unit::Percent,
        window - 1,
        format!(
            "Williams %R: distance of the close from the high of {window} bars in their range, 0 to -100"
        ),
    );
    Family::window(column, move |bars| williams_r(bars, window))
}

fn ultimate(windows: [usize; 3]) -> Family {
    let [short, middle, long] = windows;
    let column = FeatureColumn::new(
        format!("ultosc_{short}_{middle}_{long}"),
        Unit::Percent,
        short.max(middle).max(long),
        format!(
            "ultimate oscillator: buying pressure over true range of {short}, {middle} and {long} bars, weighted 4, 2 and 1"
        ),
    );
    Family::window(column, move |bars| ultimate_oscillator(bars, windows))
}
