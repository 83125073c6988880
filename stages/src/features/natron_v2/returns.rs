//! Returns of several lengths: 8 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{check_positive, check_windows};
use crate::features::{plan::FeatureError, sets::SetColumn};

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
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("returns.simple_lags", 1, &self.simple_lags)?;
        check_windows("returns.log_lags", 1, &self.log_lags)?;
        check_positive("returns.fractional_order", self.fractional_order)?;
        check_windows("returns.fractional_window", 1, &[self.fractional_window])?;

        let mut columns = Vec::new();
        columns.extend(self.simple_lags.map(|n| {
            SetColumn::new(
                format!("return_{n}"),
                format!("return(close, {n})"),
                format!("simple return of the close over {n} bars"),
            )
        }));
        columns.extend(self.log_lags.map(|n| {
            SetColumn::new(
                format!("log_return_{n}"),
                format!("log_return(close, {n})"),
                format!("log return of the close over {n} bars"),
            )
        }));
        columns.push(SetColumn::new(
            "co_ratio",
            "co_ratio()",
            "return within the bar: (close - open) / open",
        ));
        let (order, n) = (self.fractional_order, self.fractional_window);
        // `ffd_04_100`: the order is written without its point.
        let name = format!("ffd_{}_{n}", order.to_string().replace('.', ""));
        let description =
            format!("fractional difference of order {order} of the log close, {n} weights");
        columns.push(SetColumn::new(
            name,
            format!("ffd(close, {order}, {n})"),
            description,
        ));
        Ok(columns)
    }
}
