//! Returns of several lengths: 8 columns.

use natron_kernels::candles::intraday_return;
use natron_kernels::windows::{fractional_difference, log_ratio, log_return, simple_return};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check_positive, check_windows};
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

/// Parameters of the returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Returns {
    /// Bars over which simple returns are taken.
    pub simple_lags: [usize; 4],
    /// Bars over which log returns are taken.
    pub log_lags: [usize; 2],
    /// Order of the fractional difference of the log price: 0 is the price itself, 1 its return.
    pub fractional_order: f64,
    /// Window of the fractional difference, in bars.
    pub fractional_window: usize,
}

impl Default for Returns {
    fn default() -> Self {
        Returns {
            simple_lags: [1, 5, 10, 20],
            log_lags: [1, 5],
            fractional_order: 0.4,
            fractional_window: 100,
        }
    }
}

impl Returns {
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("returns.simple_lags", 1, &self.simple_lags)?;
        check_windows("returns.log_lags", 1, &self.log_lags)?;
        check_positive("returns.fractional_order", self.fractional_order)?;
        check_windows("returns.fractional_window", 1, &[self.fractional_window])?;

        let mut families = Vec::new();
        families.extend(self.simple_lags.map(|lag| {
            let column = FeatureColumn::new(
                format!("return_{lag}"),
                Unit::Ratio,
                lag,
                format!("simple return of the close over {lag} bars"),
            );
            Family::window(column, move |bars| simple_return(bars.close, lag))
        }));
        families.extend(self.log_lags.map(|lag| {
            let column = FeatureColumn::new(
                format!("log_return_{lag}"),
                Unit::Ratio,
                lag,
                format!("log return of the close over {lag} bars"),
            );
            Family::window(column, move |bars| log_return(bars.close, lag))
        }));
        let column = FeatureColumn::new(
            "co_ratio",
            Unit::Ratio,
            0,
            "return within the bar: (close - open) / open",
        );
        families.push(Family::window(column, intraday_return));
        families.push(fractional(self.fractional_order, self.fractional_window));
        Ok(families)
    }
}

/// `ffd_04_100`: the order is written without its point.
fn fractional(order: f64, window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("ffd_{}_{window}", order.to_string().replace('.', "")),
        Unit::Ratio,
        window - 1,
        format!("fractional difference of order {order} of the log close, {window} weights"),
    );
    Family::window(column, move |bars| {
        let log_price: Vec<f64> = bars
            .close
            .iter()
            .map(|&close| log_ratio(close, 1.0))
            .collect();
        fractional_difference(&log_price, order, window)
    })
}
