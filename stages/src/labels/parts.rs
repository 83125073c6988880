//! The columns that labels are made from, by the language of features.

use natron_artifacts::StageError;
use natron_kernels::{
    bars::Bars,
    indicators::labels::{RegimeColumns, RegimeThresholds, Signals, regime},
};
use serde_json::json;

use crate::features::{FeatureParameters, FeaturePlan};

/// Names and expressions of what the conditions and the regime of Natron V2 are made from.
pub(super) fn of_natron_v2(
    trend_bars: usize,
    quantile_bars: usize,
    quantile: f64,
) -> Vec<(&'static str, String)> {
    let mut parts = [
        ("range", "atr(14)"),
        ("short_mean", "sma(close, 20)"),
        ("long_mean", "sma(close, 50)"),
        // Sums of the same prices in another order differ in their last digits: that is no slope.
        (
            "slope",
            "if(abs(short_mean - short_mean[5]) > 1e-12 * short_mean, short_mean - short_mean[5], 0) / short_mean",
        ),
        ("mean_volume", "sma(volume, 20)"),
        ("position", "position_in_range()"),
        ("strength", "rsi(close, 14)"),
        ("histogram", "macd(close, 12, 26, 9).hist"),
        ("plus", "di(14).plus"),
        ("minus", "di(14).minus"),
        ("directional", "adx(14)"),
        // Without volume there is no spike.
        ("volume_ratio", "if(mean_volume > 0, volume / mean_volume, 0)"),
    ]
    .map(|(name, expression)| (name, expression.to_owned()))
    .to_vec();
    parts.push(("trend", format!("return(close, {trend_bars})")));
    let threshold = format!("quantile(range, {quantile_bars}, {quantile})");
    parts.push(("threshold", threshold));
    parts
}

/// Columns of the same bars by name.
pub(super) struct Parts {
    names: Vec<&'static str>,
    columns: Vec<Vec<f64>>,
}

impl Parts {
    /// Computes what the expressions of `definitions` say.
    pub(super) fn of(
        definitions: &[(&'static str, String)],
        bars: Bars<'_>,
    ) -> Result<Self, StageError> {
        let columns: Vec<_> = definitions
            .iter()
            .map(|(name, expression)| json!({ "name": name, "expression": expression }))
            .collect();
        let parameters: FeatureParameters =
            serde_json::from_value(json!({ "columns": columns }))
                .map_err(|error| StageError::other("the parts of the labels", error))?;
        Ok(Self {
            names: definitions.iter().map(|(name, _)| *name).collect(),
            columns: FeaturePlan::compile(&parameters)?.batch(bars),
        })
    }

    /// The column of this name.
    pub(super) fn get(&self, name: &str) -> &[f64] {
        let position = self.names.iter().position(|known| *known == name);
        &self.columns[position.expect("only parts are asked for")]
    }

    /// What the conditions of Natron V2 are about.
    pub(super) fn signals<'a>(&'a self, bars: Bars<'a>) -> Signals<'a> {
        Signals {
            close: bars.close,
            short_mean: self.get("short_mean"),
            long_mean: self.get("long_mean"),
            slope: self.get("slope"),
            volume: bars.volume,
            mean_volume: self.get("mean_volume"),
            position: self.get("position"),
            rsi: self.get("strength"),
            histogram: self.get("histogram"),
            plus_di: self.get("plus"),
            minus_di: self.get("minus"),
        }
    }

    /// The regime of Natron V2, volatile where the average true range is above `range_threshold`.
    pub(super) fn regime(&self, range_threshold: &[f64], thresholds: RegimeThresholds) -> Vec<f64> {
        let columns = RegimeColumns {
            trend: self.get("trend"),
            adx: self.get("directional"),
            range: self.get("range"),
            range_threshold,
            volume_ratio: self.get("volume_ratio"),
        };
        regime(&columns, thresholds)
    }
}
