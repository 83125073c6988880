//! Oscillators: 13 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

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
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
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

        let mut columns = Vec::new();
        columns.extend(self.rsi_periods.map(|n| {
            SetColumn::new(
                format!("rsi_{n}"),
                format!("rsi(close, {n})"),
                format!("relative strength index with Wilder's smoothing over {n} bars"),
            )
        }));
        columns.extend(self.roc_lags.map(|n| {
            SetColumn::new(
                format!("roc_{n}"),
                format!("roc(close, {n})"),
                format!("rate of change of the close over {n} bars"),
            )
        }));
        let n = self.cci_window;
        let description = format!(
            "commodity channel index of {n} bars: distance of the typical price from its mean over 0.015 mean absolute deviations"
        );
        columns.push(
            SetColumn::new(format!("cci_{n}"), format!("cci({n})"), description).unit("ratio"),
        );
        columns.extend(stochastic(self.stochastic_windows));
        columns.extend(macd(self.macd_periods));
        let n = self.williams_window;
        let description = format!(
            "Williams %R: distance of the close from the high of {n} bars in their range, 0 to -100"
        );
        columns.push(SetColumn::new(
            format!("willr_{n}"),
            format!("willr({n})"),
            description,
        ));
        let [short, middle, long] = self.ultimate_windows;
        let description = format!(
            "ultimate oscillator: buying pressure over true range of {short}, {middle} and {long} bars, weighted 4, 2 and 1"
        );
        columns.push(SetColumn::new(
            format!("ultosc_{short}_{middle}_{long}"),
            format!("ultosc({short}, {middle}, {long})"),
            description,
        ));
        Ok(columns)
    }
}

fn stochastic([window, slow_k, slow_d]: [usize; 3]) -> [SetColumn; 2] {
    let line = |line: &str, description: String| {
        SetColumn::new(
            format!("stoch_{window}_{slow_k}_{slow_d}_{line}"),
            format!("stoch({window}, {slow_k}, {slow_d}).{line}"),
            description,
        )
    };
    [
        line(
            "k",
            format!(
                "slow stochastic %K: position of the close in the range of {window} bars, mean of {slow_k}"
            ),
        ),
        line(
            "d",
            format!("slow stochastic %D: mean of the last {slow_d} %K"),
        ),
    ]
}

fn macd([fast, slow, signal]: [usize; 3]) -> [SetColumn; 4] {
    let call = format!("macd(close, {fast}, {slow}, {signal})");
    let column = |line: &str, description: String| {
        SetColumn::new(
            format!("macd_{fast}_{slow}_{signal}_{line}"),
            format!("{call}.{line}"),
            description,
        )
    };
    [
        column(
            "line",
            format!(
                "exponential mean of {fast} closes less that of {slow}, seeded on the same row"
            ),
        ),
        column(
            "signal",
            format!("exponential mean of the last {signal} MACD lines"),
        ),
        column("hist", "MACD line less its signal".to_owned()),
        SetColumn::new(
            "macd_hist_diff_1",
            format!("{call}.hist - {call}.hist[1]"),
            "change of the MACD histogram over one bar",
        ),
    ]
}
