//! Distances to highs and lows: 4 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

/// Parameters of the distances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SupportResistance {
    /// Windows of the highs and lows, in bars.
    pub windows: [usize; 2],
}

impl Default for SupportResistance {
    fn default() -> Self {
        SupportResistance { windows: [20, 50] }
    }
}

impl SupportResistance {
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("support_resistance.windows", 1, &self.windows)?;
        Ok(self.windows.into_iter().flat_map(distances).collect())
    }
}

fn distances(n: usize) -> [SetColumn; 2] {
    [
        SetColumn::new(
            format!("dist_high_{n}"),
            format!("(max(high, {n}) - close) / close"),
            format!("distance up to the highest high of {n} bars over the close"),
        ),
        SetColumn::new(
            format!("dist_low_{n}"),
            format!("(close - min(low, {n})) / close"),
            format!("distance down to the lowest low of {n} bars over the close"),
        ),
    ]
}
