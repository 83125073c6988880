//! Ranges, bands and standard deviations: 15 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check_positive, check_windows};
use crate::features::{plan::FeatureError, sets::SetColumn};

/// Parameters of the volatility columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Volatility {
    /// Periods of the average true range (Wilder's), the longer one first, in bars.
    pub atr_periods: [usize; 2],
    /// Window of the Bollinger bands, in bars.
    pub bollinger_window: usize,
    /// Distance of the Bollinger bands from their mean, in standard deviations.
    pub bollinger_deviations: f64,
    /// Periods of the mean and of the average true range of the Keltner channel, in bars.
    pub keltner_periods: [usize; 2],
    /// Distance of the Keltner channel from its mean, in average true ranges.
    pub keltner_ranges: f64,
    /// Windows of the standard deviations of the close, in bars.
    pub deviation_windows: [usize; 2],
    /// Window of the historical volatility, in bars.
    pub historical_window: usize,
    /// Bars in a year, to annualize the historical volatility. The document's 252 is that of daily bars; a scaler takes
    /// the factor out again.
    pub periods_per_year: f64,
    /// Window of the Parkinson volatility, in bars.
    pub parkinson_window: usize,
    /// Window of the choppiness index, in bars.
    pub choppiness_window: usize,
}

impl Default for Volatility {
    fn default() -> Self {
        Volatility {
            atr_periods: [14, 7],
            bollinger_window: 20,
            bollinger_deviations: 2.0,
            keltner_periods: [20, 14],
            keltner_ranges: 2.0,
            deviation_windows: [10, 20],
            historical_window: 20,
            periods_per_year: 252.0,
            parkinson_window: 20,
            choppiness_window: 14,
        }
    }
}

impl Volatility {
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("volatility.atr_periods", 1, &self.atr_periods)?;
        check_windows("volatility.bollinger_window", 2, &[self.bollinger_window])?;
        check_positive("volatility.bollinger_deviations", self.bollinger_deviations)?;
        check_windows("volatility.keltner_periods", 1, &self.keltner_periods)?;
        check_positive("volatility.keltner_ranges", self.keltner_ranges)?;
        check_windows("volatility.deviation_windows", 2, &self.deviation_windows)?;
        check_windows("volatility.historical_window", 2, &[self.historical_window])?;
        check_positive("volatility.periods_per_year", self.periods_per_year)?;
        check_windows("volatility.parkinson_window", 1, &[self.parkinson_window])?;
        check_windows("volatility.choppiness_window", 2, &[self.choppiness_window])?;
        let [long, short] = self.atr_periods;

        let mut columns = Vec::new();
        columns.extend(self.atr_periods.map(|n| {
            SetColumn::new(
                format!("atr_{n}"),
                format!("atr({n})"),
                format!("average true range with Wilder's smoothing over {n} bars"),
            )
        }));
        columns.push(SetColumn::new(
            format!("atr_ratio_{short}_{long}"),
            format!("atr({short}) / atr({long})"),
            format!("atr_{short} over atr_{long}"),
        ));
        columns.extend(bollinger(self.bollinger_window, self.bollinger_deviations));
        columns.extend(keltner(self.keltner_periods, self.keltner_ranges));
        columns.extend(self.deviation_windows.map(|n| {
            SetColumn::new(
                format!("std_{n}"),
                format!("std(close, {n})"),
                format!("sample standard deviation (n - 1) of the last {n} closes"),
            )
        }));
        let (n, periods_per_year) = (self.historical_window, self.periods_per_year);
        let description = format!(
            "sample standard deviation of the last {n} simple returns times the root of {periods_per_year}"
        );
        columns.push(SetColumn::new(
            format!("hist_vol_{n}"),
            format!("std(return(close), {n}) * sqrt({periods_per_year})"),
            description,
        ));
        let n = self.parkinson_window;
        let description = format!(
            "volatility per bar from the ranges of {n} bars: root of mean squared ln(high / low) over 4 ln 2"
        );
        columns.push(SetColumn::new(
            format!("parkinson_{n}"),
            format!("parkinson({n})"),
            description,
        ));
        let n = self.choppiness_window;
        columns.push(SetColumn::new(
            format!("chop_{n}"),
            format!("chop({n})"),
            format!("choppiness index: logarithm of the path of {n} bars over their range"),
        ));
        Ok(columns)
    }
}

fn bollinger(window: usize, deviations: f64) -> [SetColumn; 4] {
    let column = |part: &str, description: String| {
        SetColumn::new(
            format!("bbands_{window}_{deviations}_{part}"),
            format!("bbands(close, {window}, {deviations}).{part}"),
            description,
        )
    };
    [
        column(
            "upper",
            format!("mean of {window} closes plus {deviations} standard deviations (n)"),
        ),
        column(
            "lower",
            format!("mean of {window} closes less {deviations} standard deviations (n)"),
        ),
        column(
            "width",
            "distance of the Bollinger bands over their mean".to_owned(),
        ),
        column(
            "pctb",
            "position of the close between the Bollinger bands, 0 at the lower".to_owned(),
        ),
    ]
}

fn keltner([ema, atr]: [usize; 2], ranges: f64) -> [SetColumn; 3] {
    let column = |part: &str, description: String| {
        SetColumn::new(
            format!("kc_{ema}_{atr}_{ranges}_{part}"),
            format!("kc({ema}, {atr}, {ranges}).{part}"),
            description,
        )
    };
    [
        column(
            "upper",
            format!("exponential mean of {ema} closes plus {ranges} atr_{atr}"),
        ),
        column(
            "lower",
            format!("exponential mean of {ema} closes less {ranges} atr_{atr}"),
        ),
        column(
            "width",
            "width of the Keltner channel over its mean".to_owned(),
        ),
    ]
}
