//! Traded volume and its relation to price: 9 columns.

use natron_kernels::volume::{
    chaikin_money_flow, money_flow_index, on_balance_volume_sum, volume_price_trend_sum,
    volume_ratio, volume_weighted_price,
};
use natron_kernels::windows::{rolling_mean, rolling_z_score};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

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
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("volume.sma_windows", 2, &self.sma_windows)?;
        check_windows("volume.flow_window", 1, &[self.flow_window])?;
        check_windows("volume.vwap_window", 1, &[self.vwap_window])?;
        check_windows("volume.mfi_window", 1, &[self.mfi_window])?;
        let [_, window] = self.sma_windows;
        let (flow, vwap, mfi) = (self.flow_window, self.vwap_window, self.mfi_window);

        let mut families: Vec<Family> = self.sma_windows.map(mean_volume).into();
        let column = FeatureColumn::new(
            format!("volume_ratio_{window}"),
            Unit::Ratio,
            window - 1,
            format!("volume over the mean of {window} bars"),
        );
        families.push(Family::window(column, move |bars| {
            volume_ratio(bars.volume, window)
        }));
        let column = FeatureColumn::new(
            format!("volume_z_{window}"),
            Unit::StandardDeviations,
            window - 1,
            format!(
                "distance of the volume from the mean of {window} bars in sample standard deviations"
            ),
        );
        families.push(Family::window(column, move |bars| {
            rolling_z_score(bars.volume, window)
        }));
        let column = FeatureColumn::new(
            format!("obv_sum_{flow}"),
            Unit::Volume,
            flow,
            format!("on-balance volume of {flow} bars: volume signed by the change of the close"),
        );
        families.push(Family::window(column, move |bars| {
            on_balance_volume_sum(bars, flow)
        }));
        let column = FeatureColumn::new(
            format!("vpt_sum_{flow}"),
            Unit::Volume,
            flow,
            format!("volume-price trend of {flow} bars: sum of volume times simple return"),
        );
        families.push(Family::window(column, move |bars| {
            volume_price_trend_sum(bars, flow)
        }));
        let column = FeatureColumn::new(
            format!("cmf_{flow}"),
            Unit::Ratio,
            flow - 1,
            format!(
                "Chaikin money flow: volume-weighted position of the close in its bar over {flow} bars, -1 to 1"
            ),
        );
        families.push(Family::window(column, move |bars| {
            chaikin_money_flow(bars, flow)
        }));
        let column = FeatureColumn::new(
            format!("vwap_roll_{vwap}"),
            Unit::Price,
            vwap - 1,
            format!("volume-weighted mean typical price of {vwap} bars"),
        );
        families.push(Family::window(column, move |bars| {
            volume_weighted_price(bars, vwap)
        }));
        let column = FeatureColumn::new(
            format!("mfi_{mfi}"),
            Unit::Percent,
            mfi,
            format!(
                "money flow index: share of the value of {mfi} bars traded at a rising typical price"
            ),
        );
        families.push(Family::window(column, move |bars| {
            money_flow_index(bars, mfi)
        }));
        Ok(families)
    }
}

fn mean_volume(window: usize) -> Family {
    let column = FeatureColumn::new(
        format!("volume_sma_{window}"),
        Unit::Volume,
        window - 1,
        format!("mean volume of {window} bars"),
    );
    Family::window(column, move |bars| rolling_mean(bars.volume, window))
}
