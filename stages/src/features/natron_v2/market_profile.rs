//! Volume profile and entropy: 10 columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check_windows;
use crate::features::{plan::FeatureError, sets::SetColumn};

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
    pub(super) fn columns(&self) -> Result<Vec<SetColumn>, FeatureError> {
        check_windows("market_profile.profile_window", 2, &[self.profile_window])?;
        check_windows("market_profile.profile_bins", 2, &[self.profile_bins])?;
        check_windows("market_profile.entropy_window", 2, &[self.entropy_window])?;
        check_windows("market_profile.entropy_bins", 2, &[self.entropy_bins])?;
        let (n, n_bins) = (self.entropy_window, self.entropy_bins);
        let mut columns = profile(self.profile_window, self.profile_bins);
        columns.push(SetColumn::new(
            format!("entropy_vol_{n}_{n_bins}"),
            format!("entropy(volume, {n}, {n_bins})"),
            format!("entropy of the histogram of {n} volumes in {n_bins} bins"),
        ));
        Ok(columns)
    }
}

fn profile(n: usize, n_bins: usize) -> Vec<SetColumn> {
    let prefix = format!("vp_{n}_{n_bins}");
    let call = format!("profile({n}, {n_bins}, 0.7)");
    let part = |part: &str, description: String| {
        SetColumn::new(
            format!("{prefix}_{part}"),
            format!("{call}.{part}"),
            description,
        )
    };
    let distance = |level: &str| {
        SetColumn::new(
            format!("price_to_{prefix}_{level}"),
            format!("(close - {call}.{level}) / close"),
            format!("distance of the close from {prefix}_{level}, over the close"),
        )
    };
    vec![
        part(
            "poc",
            format!("point of control: middle of the fullest of {n_bins} price bins of the volume of {n} bars"),
        ),
        part(
            "vah",
            "value area high: middle of the highest bin of the 70 % of volume around the point of control".to_owned(),
        ),
        part(
            "val",
            "value area low: middle of the lowest bin of the 70 % of volume around the point of control".to_owned(),
        ),
        distance("poc"),
        distance("vah"),
        distance("val"),
        SetColumn::new(
            format!("{prefix}_balance"),
            format!("({call}.vah - {call}.val) / close"),
            "height of the value area over the close",
        ),
        part("poc_share", "share of the volume in the fullest bin".to_owned()),
        part("entropy", "entropy of the shares of volume in the price bins".to_owned()),
    ]
}
