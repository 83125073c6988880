//! Traded volume and its relation to price: 9 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

/// Parameters of the volume columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Volume {
    /// Windows of the mean volumes, in bars. The last is also that of the ratio and of the z-score.
    pub sma_windows: [usize; 2],
    /// Window of the sums that stand for on-balance volume, volume-price trend and money flow, in bars.
    pub flow_window: usize,
    /// Window of the volume-weighted price, in bars.
    pub vwap_window: usize,
    /// Window of the money flow index, in bars.
    pub mfi_window: usize,
}

impl Default for Volume {
    fn default() -> Self {
        Volume {
            sma_windows: [10, 20],
            flow_window: 20,
            vwap_window: 20,
            mfi_window: 14,
        }
    }
}

impl Volume {
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("volume.sma_windows", 2, &self.sma_windows)?;
        check_windows("volume.flow_window", 1, &[self.flow_window])?;
        check_windows("volume.vwap_window", 1, &[self.vwap_window])?;
        check_windows("volume.mfi_window", 1, &[self.mfi_window])?;
        let [_, n] = self.sma_windows;
        let (flow, vwap, mfi) = (self.flow_window, self.vwap_window, self.mfi_window);

        let mut columns: Vec<SetColumn> = self
            .sma_windows
            .map(|n| {
                SetColumn::new(
                    format!("volume_sma_{n}"),
                    format!("sma(volume, {n})"),
                    format!("mean volume of {n} bars"),
                )
            })
            .into();
        columns.extend([
            SetColumn::new(
                format!("volume_ratio_{n}"),
                format!("volume / sma(volume, {n})"),
                format!("volume over the mean of {n} bars"),
            ),
            SetColumn::new(
                format!("volume_z_{n}"),
                format!("zscore(volume, {n})"),
                format!(
                    "distance of the volume from the mean of {n} bars in sample standard deviations"
                ),
            ),
            SetColumn::new(
                format!("obv_sum_{flow}"),
                format!("sum(sign(close - close[1]) * volume, {flow})"),
                format!("on-balance volume of {flow} bars: volume signed by the change of the close"),
            ),
            SetColumn::new(
                format!("vpt_sum_{flow}"),
                format!("sum(volume * return(close), {flow})"),
                format!("volume-price trend of {flow} bars: sum of volume times simple return"),
            ),
            SetColumn::new(
                format!("cmf_{flow}"),
                format!("cmf({flow})"),
                format!(
                    "Chaikin money flow: volume-weighted position of the close in its bar over {flow} bars, -1 to 1"
                ),
            ),
            SetColumn::new(
                format!("vwap_roll_{vwap}"),
                format!("vwap({vwap})"),
                format!("volume-weighted mean typical price of {vwap} bars"),
            ),
            SetColumn::new(
                format!("mfi_{mfi}"),
                format!("mfi({mfi})"),
                format!(
                    "money flow index: share of the value of {mfi} bars traded at a rising typical price"
                ),
            ),
        ]);
        Ok(columns)
    }
}
