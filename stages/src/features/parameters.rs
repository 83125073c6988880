//! Which features, and the parameters of the groups of a set.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::columns::FeatureColumns;
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

/// The columns that a model sees: a named set of indicators, expressions of your own, or both.
///
/// Input `candles`, output `features` with the same rows; a value is missing where its column has not warmed up or is not
/// defined. Row `t` follows from rows up to `t`, whatever is written.
///
/// An expression names columns of the candles (`close`, `volume`, any other column with numbers) and other features, and
/// calls indicators: `(close - sma(close, 20)) / atr(14)`, `macd(close, fast = 12).signal`, `rsi(close, 14)[1]` (one row
/// before). Operators: `+ - * / ^`, `< <= > >= == !=` (1 or 0), `and or not`. Functions: `abs sign ln exp sqrt sin cos max2
/// min2 clip`, and `if(condition, then, otherwise)`. `at("4h", x)` is x of bars of four hours, from their end on;
/// `of("vix", x)` is x of the market at the input `vix`, as of its last bar that is over.
///
/// `natron stages features --indicators` lists all indicators and functions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{"set": "natron_v2"}]))]
pub struct FeatureParameters {
    /// A set of features. Without it there are only those of `columns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<FeatureSet>,
    /// Features of your own: `{ name = "expression" }`, or a list of tables with `name`, `expression` and perhaps `unit` and
    /// `description`. One may name others, also those of the set.
    #[serde(default, skip_serializing_if = "FeatureColumns::is_empty")]
    pub columns: FeatureColumns,
    /// Names for parts of expressions, `{ name = "expression" }`: they are no columns.
    #[serde(default, rename = "let", skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, String>,
    /// Timeframes that every column of the set is computed on besides, as `["4h"]`: `rsi_14` also gives `rsi_14_4h`, which
    /// is `at("4h", rsi_14)`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeframes: Vec<String>,
    /// The only columns to keep. Without it, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Columns to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
    /// Where to compute: `cpu`; `cuda`, an NVIDIA GPU, without which the run is refused; `auto`, where the pipeline's `device`
    /// says, which is `cpu` unless it says otherwise. On a GPU values agree with those of the processor to 1e-11, and flags
    /// exactly; the key of the stage holds the kind of GPU. `auto` leaves series of fewer than 268 million values (rows times
    /// columns) to the processor.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device: Device,
    /// Type of the columns: `f64`, or `f32`, which is computed in double precision and rounded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Precision,
    /// `natron_v2`: moving averages, their slopes and crossings: 13 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub moving_averages: MovingAverages,
    /// `natron_v2`: oscillators: 13 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub momentum: Momentum,
    /// `natron_v2`: ranges, bands and standard deviations: 15 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volatility: Volatility,
    /// `natron_v2`: traded volume: 9 columns. Candle patterns (8 columns) have no parameters.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volume: Volume,
    /// `natron_v2`: returns of several lengths: 8 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub returns: Returns,
    /// `natron_v2`: strength and direction of the trend: 6 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trend: Trend,
    /// `natron_v2`: shape and memory of the distribution of returns: 6 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub statistics: Statistics,
    /// `natron_v2`: distances to highs and lows: 4 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub support_resistance: SupportResistance,
    /// `natron_v2`: swings, breakouts, changes of character: 6 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub smart_money: SmartMoney,
    /// `natron_v2`: volume profile and entropy: 10 columns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub market_profile: MarketProfile,
}

/// The feature sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureSet {
    /// The 98 columns of Natron V2 in its eleven groups.
    #[serde(rename = "natron_v2")]
    NatronV2,
    /// The 30 columns of the LSTM and transformer hybrid.
    LstmTransformer,
    /// The 12 columns of the temporal convolutional network.
    Tcn,
    /// The 12 columns of the hybrid mixture of experts, version 11; inputs `vix` and `rates`.
    #[serde(rename = "hybrid_v11")]
    HybridV11,
    /// The 22 columns of version 13.
    #[serde(rename = "hybrid_v13")]
    HybridV13,
    /// The 24 columns of version 15; inputs `xly`, `xlp`, `xlk` and `xlu` besides.
    #[serde(rename = "hybrid_v15")]
    HybridV15,
    /// The 27 columns of the bounce model and its veto.
    BounceVeto,
    /// Every indicator with reference values, under the name that it has there.
    Golden,
}

/// Where features are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// Where the pipeline's `device` says.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Type of the columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Double precision.
    #[default]
    F64,
    /// Single precision.
    F32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl FeatureParameters {
    /// A set with its default parameters.
    pub fn of(set: FeatureSet) -> Self {
        FeatureParameters {
            set: Some(set),
            ..Self::default()
        }
    }

    /// The first group of `natron_v2` that is not at its defaults.
    pub(super) fn group_in_use(&self) -> Option<&'static str> {
        let groups = [
            ("moving_averages", is_default(&self.moving_averages)),
            ("momentum", is_default(&self.momentum)),
            ("volatility", is_default(&self.volatility)),
            ("volume", is_default(&self.volume)),
            ("returns", is_default(&self.returns)),
            ("trend", is_default(&self.trend)),
            ("statistics", is_default(&self.statistics)),
            ("support_resistance", is_default(&self.support_resistance)),
            ("smart_money", is_default(&self.smart_money)),
            ("market_profile", is_default(&self.market_profile)),
        ];
        let found = groups.iter().find(|(_, is_default)| !is_default);
        found.map(|(name, _)| *name)
    }
}
