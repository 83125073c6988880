//! The feature sets: lists of names and expressions.

mod bounce_veto;
mod golden;
mod hybrid;

use std::collections::BTreeMap;

use super::{
    expression::{parse::parse, tree::Expression},
    natron_v2,
    parameters::{FeatureParameters, FeatureSet},
    plan::FeatureError,
};

/// One feature of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetColumn {
    pub(super) name: String,
    pub(super) expression: String,
    /// Empty where it follows from the expression.
    pub(super) unit: &'static str,
    /// Empty where the expression says it all.
    pub(super) description: String,
}

impl SetColumn {
    pub(super) fn new(
        name: impl Into<String>,
        expression: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            expression: expression.into(),
            unit: "",
            description: description.into(),
        }
    }

    /// The same with a unit that does not follow from the expression.
    pub(super) fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
}

/// The features of the set that `parameters` name.
pub(super) fn columns(parameters: &FeatureParameters) -> Result<Vec<SetColumn>, FeatureError> {
    let Some(set) = parameters.set else {
        return Ok(Vec::new());
    };
    Ok(match set {
        FeatureSet::NatronV2 => natron_v2::columns(parameters)?,
        FeatureSet::LstmTransformer => golden::chosen(&LSTM_TRANSFORMER),
        FeatureSet::Tcn => golden::chosen(&TCN),
        FeatureSet::HybridV11 => hybrid::columns(hybrid::Version::V11),
        FeatureSet::HybridV13 => hybrid::columns(hybrid::Version::V13),
        FeatureSet::HybridV15 => hybrid::columns(hybrid::Version::V15),
        FeatureSet::BounceVeto => bounce_veto::columns(),
        FeatureSet::Golden => golden::columns(),
    })
}

/// The columns with `parts` written out, which have no names for anybody else.
fn written_out(columns: Vec<SetColumn>, parts: &[SetColumn]) -> Vec<SetColumn> {
    let tree = |text: &str| parse(text).expect("the expressions of a set parse");
    let parts: BTreeMap<&str, Expression> = parts
        .iter()
        .map(|part| (part.name.as_str(), tree(&part.expression)))
        .collect();
    let written_out = |column: SetColumn| SetColumn {
        expression: tree(&column.expression).with(&parts).to_string(),
        ..column
    };
    columns.into_iter().map(written_out).collect()
}

/// What the hybrid is told of a bar. The open, high, low, close and their exponential mean are not among them: levels of
/// one market say nothing in another year or market, and their ratios are here.
const LSTM_TRANSFORMER: [&str; 30] = [
    "rsi_14",
    "macd_12_26_9_line",
    "macd_12_26_9_signal",
    "macd_12_26_9_hist",
    "stoch_14_3_3_k",
    "stoch_14_3_3_d",
    "return_1",
    "log_return_1",
    "hl_ratio",
    "co_ratio",
    "vol_r_20",
    "vol_r_5",
    "ema_50_dist",
    "ema_50_roc_5",
    "macd_hist_diff_1",
    "macd_hist_slope_3",
    "rsi_14_diff_1",
    "rsi_14_sma_10",
    "rsi_14_dist_50",
    "volume_sma_20",
    "volume_ratio_20",
    "volume_std_10",
    "stoch_14_pos",
    "stoch_14_kd_diff",
    "body_pct",
    "upper_shadow_pct",
    "lower_shadow_pct",
    "price_position_20",
    "return_5",
    "return_10",
];

const TCN: [&str; 12] = [
    "log_return_1",
    "log_return_5",
    "realized_vol_20",
    "ewma_vol_20",
    "ewma_vol_96",
    "return_20",
    "rsi_14",
    "volume_z_20",
    "hl_ratio",
    "sma_ratio_5_20",
    "time_of_day_sin",
    "day_of_week_sin",
];
