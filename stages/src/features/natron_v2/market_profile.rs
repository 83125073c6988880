//! Volume profile and entropy: 10 columns.

use natron_kernels::profile::{rolling_histogram_entropy, volume_profile};
use natron_kernels::windows::quotient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::plan::{Family, FeatureColumn, FeatureError, Unit};

/// Parameters of the market profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MarketProfile {
    /// Window of the volume profile, in bars.
    pub profile_window: usize,
    /// Equal price bins of the volume profile.
    pub profile_bins: usize,
    /// Window of the entropy of volume, in bars.
    pub entropy_window: usize,
    /// Equal bins of the histogram of volume.
    pub entropy_bins: usize,
}

impl Default for MarketProfile {
    fn default() -> Self {
        MarketProfile {
            profile_window: 96,
            profile_bins: 20,
            entropy_window: 20,
            entropy_bins: 10,
        }
    }
}

impl MarketProfile {
    pub(super) fn families(&self) -> Result<Vec<Family>, FeatureError> {
        check_windows("market_profile.profile_window", 2, &[self.profile_window])?;
        check_windows("market_profile.profile_bins", 2, &[self.profile_bins])?;
        check_windows("market_profile.entropy_window", 2, &[self.entropy_window])?;
        check_windows("market_profile.entropy_bins", 2, &[self.entropy_bins])?;
        let (window, n_bins) = (self.entropy_window, self.entropy_bins);
        let entropy = FeatureColumn::new(
            format!("entropy_vol_{window}_{n_bins}"),
            Unit::Nats,
            window - 1,
            format!("entropy of the histogram of {window} volumes in {n_bins} bins"),
        );
        Ok(vec![
            profile(self.profile_window, self.profile_bins),
            Family::window(entropy, move |bars| {
                rolling_histogram_entropy(bars.volume, window, n_bins)
            }),
        ])
    }
}

fn profile(window: usize, n_bins: usize) -> Family {
    let prefix = format!("vp_{window}_{n_bins}");
    let column = |name: String, unit: Unit, description: String| {
        FeatureColumn::new(name, unit, window - 1, description)
    };
    let distance = |level: &str| {
        column(
            format!("price_to_{prefix}_{level}"),
            Unit::Ratio,
            format!("distance of the close from {prefix}_{level}, over the close"),
        )
    };
    let columns = vec![
        column(
            format!("{prefix}_poc"),
            Unit::Price,
            format!("point of control: middle of the fullest of {n_bins} price bins of the volume of {window} bars"),
        ),
        column(
            format!("{prefix}_vah"),
            Unit::Price,
            "value area high: middle of the highest bin of the 70 % of volume around the point of control".to_owned(),
        ),
        column(
            format!("{prefix}_val"),
            Unit::Price,
            "value area low: middle of the lowest bin of the 70 % of volume around the point of control".to_owned(),
        ),
        distance("poc"),
        distance("vah"),
        distance("val"),
        column(format!("{prefix}_balance"), Unit::Ratio, "height of the value area over the close".to_owned()),
        column(format!("{prefix}_poc_share"), Unit::Ratio, "share of the volume in the fullest bin".to_owned()),
        column(format!("{prefix}_entropy"), Unit::Nats, "entropy of the shares of volume in the price bins".to_owned()),
    ];
    Family::windows(columns, move |bars| {
        let profile = volume_profile(bars, window, n_bins);
        let over_close = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
            (0..bars.len())
                .map(|t| quotient(of(t), bars.close[t]))
                .collect()
        };
        let to_control = over_close(&|t| bars.close[t] - profile.point_of_control[t]);
        let to_high = over_close(&|t| bars.close[t] - profile.value_area_high[t]);
        let to_low = over_close(&|t| bars.close[t] - profile.value_area_low[t]);
        let balance = over_close(&|t| profile.value_area_high[t] - profile.value_area_low[t]);
        vec![
            profile.point_of_control,
            profile.value_area_high,
            profile.value_area_low,
            to_control,
            to_high,
            to_low,
            balance,
            profile.control_share,
            profile.entropy,
        ]
    })
}
