//! Which feature set, and the parameters of its groups.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::natron_v2::market_profile::MarketProfile;
use super::natron_v2::momentum::Momentum;
use super::natron_v2::moving_averages::MovingAverages;
use super::natron_v2::returns::Returns;
use super::natron_v2::smart_money::SmartMoney;
use super::natron_v2::statistics::Statistics;
use super::natron_v2::support_resistance::SupportResistance;
use super::natron_v2::trend::Trend;
use super::natron_v2::volatility::Volatility;
use super::natron_v2::volume::Volume;

/// The columns that a model sees: a named set of indicators, computed causally from bars.
///
/// Input `candles`, output `features` with the same rows; a value is missing where its column has not warmed up or is not
/// defined. The names of the columns carry their windows, as `sma_20`: other windows give other names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureParameters {
    /// The feature set.
    pub set: FeatureSet,
    /// Moving averages, their slopes and crossings: 13 columns.
    #[serde(default)]
    pub moving_averages: MovingAverages,
    /// Oscillators: 13 columns.
    #[serde(default)]
    pub momentum: Momentum,
    /// Ranges, bands and standard deviations: 15 columns.
    #[serde(default)]
    pub volatility: Volatility,
    /// Traded volume: 9 columns. Candle patterns (8 columns) have no parameters.
    #[serde(default)]
    pub volume: Volume,
    /// Returns of several lengths: 8 columns.
    #[serde(default)]
    pub returns: Returns,
    /// Strength and direction of the trend: 6 columns.
    #[serde(default)]
    pub trend: Trend,
    /// Shape and memory of the distribution of returns: 6 columns.
    #[serde(default)]
    pub statistics: Statistics,
    /// Distances to highs and lows: 4 columns.
    #[serde(default)]
    pub support_resistance: SupportResistance,
    /// Swings, breakouts, changes of character: 6 columns.
    #[serde(default)]
    pub smart_money: SmartMoney,
    /// Volume profile and entropy: 10 columns.
    #[serde(default)]
    pub market_profile: MarketProfile,
}

/// The feature sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureSet {
    /// The 98 columns of Natron V2 in its eleven groups.
    #[serde(rename = "natron_v2")]
    NatronV2,
}

impl FeatureParameters {
    /// A set with its default parameters.
    pub fn of(set: FeatureSet) -> Self {
        FeatureParameters {
            set,
            moving_averages: MovingAverages::default(),
            momentum: Momentum::default(),
            volatility: Volatility::default(),
            volume: Volume::default(),
            returns: Returns::default(),
            trend: Trend::default(),
            statistics: Statistics::default(),
            support_resistance: SupportResistance::default(),
            smart_money: SmartMoney::default(),
            market_profile: MarketProfile::default(),
        }
    }
}
