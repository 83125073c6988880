//! Distances to highs and lows: 4 columns.

use natron_kernels::structure::{distance_to_high, distance_to_low};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

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
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("support_resistance.windows", 1, &self.windows)?;
        Ok(self.windows.into_iter().flat_map(distances).collect())
    }
}

fn distances(window: usize) -> [Family; 2] {
    let high = FeatureColumn::new(
        format!("dist_high_{window}"),
        Unit::Ratio,
        window - 1,
        format!("distance up to the highest high of {window} bars over the close"),
    );
    let low = FeatureColumn::new(
        format!("dist_low_{window}"),
        Unit::Ratio,
        window - 1,
        format!("distance down to the lowest low of {window} bars over the close"),
    );
    [
        Family::window(high, move |bars| distance_to_high(bars, window)),
        Family::window(low, move |bars| distance_to_low(bars, window)),
    ]
}
