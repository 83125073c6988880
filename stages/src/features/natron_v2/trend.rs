//! Strength and direction of the trend: 6 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

/// Parameters of the trend columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trend {
    /// Period of the directional movement (Wilder's), in bars.
    pub adx_period: usize,
    /// Window of Aroon, in bars.
    pub aroon_window: usize,
}

impl Default for Trend {
    fn default() -> Self {
        Trend {
            adx_period: 14,
            aroon_window: 25,
        }
    }
}

impl Trend {
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("trend.adx_period", 2, &[self.adx_period])?;
        check_windows("trend.aroon_window", 1, &[self.aroon_window])?;
        let (adx, aroon) = (self.adx_period, self.aroon_window);
        let line = |line: &str, description: String| {
            SetColumn::new(
                format!("aroon_{aroon}_{line}"),
                format!("aroon({aroon}).{line}"),
                description,
            )
        };
        Ok(vec![
            SetColumn::new(
                format!("adx_{adx}"),
                format!("adx({adx})"),
                format!(
                    "average directional index: Wilder mean of the imbalance of +DI and -DI over {adx} bars"
                ),
            ),
            SetColumn::new(
                format!("plus_di_{adx}"),
                format!("di({adx}).plus"),
                format!("+DI: upward movement over true range, Wilder sums of {adx} bars"),
            ),
            SetColumn::new(
                format!("minus_di_{adx}"),
                format!("di({adx}).minus"),
                format!("-DI: downward movement over true range, Wilder sums of {adx} bars"),
            ),
            line(
                "up",
                format!(
                    "recency of the highest high of the last {aroon} bars and this one, 100 when it is new"
                ),
            ),
            line(
                "down",
                format!(
                    "recency of the lowest low of the last {aroon} bars and this one, 100 when it is new"
                ),
            ),
            line("osc", format!("aroon_{aroon}_up less aroon_{aroon}_down")),
        ])
    }
}
