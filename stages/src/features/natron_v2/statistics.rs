//! Shape and memory of the distribution of returns: 6 columns.

use natron_kernels::hurst::{SHORTEST_WINDOW, rolling_hurst};
use natron_kernels::windows::{
    rolling_autocorrelation, rolling_kurtosis, rolling_skewness, rolling_z_score, simple_return,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

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
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        let window = self.window;
        check_windows("statistics.window", 4, &[window])?;
        check_windows(
            "statistics.hurst_window",
            SHORTEST_WINDOW,
            &[self.hurst_window],
        )?;
        check_windows(
            "statistics.autocorrelation_lags",
            1,
            &self.autocorrelation_lags,
        )?;
        if let Some(lag) = self
            .autocorrelation_lags
            .iter()
            .find(|&&lag| lag + 3 > window)
        {
            return Err(FeatureError::OutOfRange {
                parameter: "statistics.autocorrelation_lags",
                value: lag.to_string(),
                expected: format!(
                    "at most {}: three pairs must remain in the window",
                    window - 3
                ),
            });
        }

        let mut families = Vec::new();
        let column = FeatureColumn::new(
            format!("skew_{window}"),
            Unit::Ratio,
            window,
            format!("adjusted skewness (G1) of the last {window} simple returns"),
        );
        families.push(Family::window(column, move |bars| {
            rolling_skewness(&simple_return(bars.close, 1), window)
        }));
        let column = FeatureColumn::new(
            format!("kurt_{window}"),
            Unit::Ratio,
            window,
            format!("bias-corrected excess kurtosis (G2) of the last {window} simple returns"),
        );
        families.push(Family::window(column, move |bars| {
            rolling_kurtosis(&simple_return(bars.close, 1), window)
        }));
        let column = FeatureColumn::new(
            format!("zscore_{window}"),
            Unit::StandardDeviations,
            window - 1,
            format!(
                "distance of the close from the mean of {window} in sample standard deviations"
            ),
        );
        families.push(Family::window(column, move |bars| {
            rolling_z_score(bars.close, window)
        }));
        families.push(hurst(self.hurst_window));
        families.extend(
            self.autocorrelation_lags
                .map(|lag| autocorrelation(window, lag)),
        );
        Ok(families)
    }
}

fn hurst(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("hurst_{window}"),
        Unit::Ratio,
        window - 1,
        format!(
            "Hurst exponent of {window} closes from the spread of lagged log differences, lags 2 to 19"
        ),
    );
    Family::window(column, move |bars| rolling_hurst(bars.close, window))
}

fn autocorrelation(window: usize, lag: usize) -> Family {
    let column = FeatureColumn::new(
        format!("autocorr_{window}_{lag}"),
        Unit::Ratio,
        window,
        format!(
            "correlation of the last {window} simple returns with those {lag} bars before, inside the window"
        ),
    );
    Family::window(column, move |bars| {
        rolling_autocorrelation(&simple_return(bars.close, 1), window, lag)
    })
}
