//! Shape and memory of the distribution of returns: 6 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

/// The longest lag of the Hurst exponent, in bars.
const LONGEST_HURST_LAG: usize = 19;

/// Parameters of the statistical columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Statistics {
    /// Window of skewness, kurtosis, z-score and autocorrelation, in bars.
    pub window: usize,
    /// Window of the Hurst exponent, in bars.
    pub hurst_window: usize,
    /// Lags of the autocorrelation, in bars.
    pub autocorrelation_lags: [usize; 2],
}

impl Default for Statistics {
    fn default() -> Self {
        Statistics {
            window: 20,
            hurst_window: 100,
            autocorrelation_lags: [1, 5],
        }
    }
}

impl Statistics {
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        let n = self.window;
        check_windows("statistics.window", 4, &[n])?;
        check_windows(
            "statistics.hurst_window",
            LONGEST_HURST_LAG + 2,
            &[self.hurst_window],
        )?;
        check_windows(
            "statistics.autocorrelation_lags",
            1,
            &self.autocorrelation_lags,
        )?;
        if let Some(lag) = self.autocorrelation_lags.iter().find(|&&lag| lag + 3 > n) {
            return Err(FeatureError::OutOfRange {
                parameter: "statistics.autocorrelation_lags",
                value: lag.to_string(),
                expected: format!("at most {}: three pairs must remain in the window", n - 3),
            });
        }

        let hurst = self.hurst_window;
        let mut columns = vec![
            SetColumn::new(
                format!("skew_{n}"),
                format!("skew(return(close), {n})"),
                format!("adjusted skewness (G1) of the last {n} simple returns"),
            ),
            SetColumn::new(
                format!("kurt_{n}"),
                format!("kurt(return(close), {n})"),
                format!("bias-corrected excess kurtosis (G2) of the last {n} simple returns"),
            ),
            SetColumn::new(
                format!("zscore_{n}"),
                format!("zscore(close, {n})"),
                format!("distance of the close from the mean of {n} in sample standard deviations"),
            ),
            SetColumn::new(
                format!("hurst_{hurst}"),
                format!("hurst(close, {hurst}, 2, {LONGEST_HURST_LAG})"),
                format!(
                    "Hurst exponent of {hurst} closes from the spread of lagged log differences, lags 2 to {LONGEST_HURST_LAG}"
                ),
            ),
        ];
        columns.extend(self.autocorrelation_lags.map(|lag| {
            let description = format!(
                "correlation of the last {n} simple returns with those {lag} bars before, inside the window"
            );
            SetColumn::new(
                format!("autocorr_{n}_{lag}"),
                format!("autocorr(return(close), {n}, {lag})"),
                description,
            )
        }));
        Ok(columns)
    }
}
