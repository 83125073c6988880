//! Linear scaling of features, fitted on training rows.

use natron_artifacts::{StageError, Table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scaler_columns;

/// Half the interquartile range of a normal distribution is 0.6745 standard deviations: the range divided by twice that
/// estimates a standard deviation.
const QUARTILES_PER_DEVIATION: f64 = 1.348_979_500_392_163_5;
/// A feature that varies by less than this share of its size is constant up to rounding.
const LEAST_VARIATION: f64 = 1e-12;

/// How features are scaled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scaling {
    /// To mean 0 and standard deviation 1.
    #[default]
    Standard,
    /// To median 0 and the interquartile range of a standard normal: outliers do not count.
    Robust,
    /// Not at all.
    None,
}

/// `(x - mean) / scale` for each feature.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scaler {
    names: Vec<String>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    constant: usize,
}

impl Scaler {
    /// A scaler from the first `fit_rows` rows; undefined values do not count.
    pub(super) fn fit(
        scaling: Scaling,
        names: &[String],
        features: &[Vec<f64>],
        fit_rows: usize,
    ) -> Result<Self, StageError> {
        let mut scaler = Self {
            names: names.to_vec(),
            mean: Vec::new(),
            scale: Vec::new(),
            constant: 0,
        };
        for (name, column) in names.iter().zip(features) {
            let defined: Vec<f64> = column[..fit_rows]
                .iter()
                .copied()
                .filter(|v| !v.is_nan())
                .collect();
            let (mean, scale) = match scaling {
                Scaling::None => (0.0, 1.0),
                Scaling::Standard => moments(&defined),
                Scaling::Robust => quartiles(defined),
            };
            if !mean.is_finite() || !scale.is_finite() {
                let message = "the feature's mean or scale is not finite";
                return Err(StageError::Data {
                    message: message.into(),
                    row: None,
                    column: Some(name.clone()),
                    help: "leave the feature out, or mend the data".into(),
                });
            }
            let is_constant = scale <= LEAST_VARIATION * mean.abs() || scale <= 0.0;
            scaler.constant += usize::from(is_constant);
            scaler.mean.push(mean);
            scaler.scale.push(if is_constant { 1.0 } else { scale });
        }
        Ok(scaler)
    }

    /// Features that do not vary in training; they are only centred.
    pub(super) fn constant_features(&self) -> usize {
        self.constant
    }

    /// The values of feature `i`, scaled.
    pub(super) fn scaled(&self, i: usize, values: &[f64]) -> Vec<f32> {
        values
            .iter()
            .map(|value| ((value - self.mean[i]) / self.scale[i]) as f32)
            .collect()
    }

    /// The table `scaler`.
    pub(super) fn table(self) -> Result<Table, StageError> {
        let mut columns = scaler_columns().into_iter();
        let mut next = || columns.next().expect("three columns are declared");
        Ok(Table::builder()
            .utf8(next(), self.names)
            .f64(next(), self.mean)
            .f64(next(), self.scale)
            .build()?)
    }
}

/// Mean and standard deviation (n), in two passes.
fn moments(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// Median and scaled interquartile range, with linear interpolation; where the quartiles agree (flags, sparse events) the
/// standard deviation takes the range's place.
fn quartiles(mut values: Vec<f64>) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let (_, deviation) = moments(&values);
    values.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let position = q * (values.len() - 1) as f64;
        let low = position.floor() as usize;
        let high = (low + 1).min(values.len() - 1);
        values[low] + (position - low as f64) * (values[high] - values[low])
    };
    let range = (quantile(0.75) - quantile(0.25)) / QUARTILES_PER_DEVIATION;
    (quantile(0.5), if range > 0.0 { range } else { deviation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(scaling: Scaling, values: &[f64], rows: usize) -> Scaler {
        Scaler::fit(scaling, &["x".into()], &[values.to_vec()], rows).unwrap()
    }

    #[test]
    fn standard_and_robust_by_hand() {
        let values = [f64::NAN, 1.0, 2.0, 3.0, 4.0, 5.0, 1000.0];

        let standard = fitted(Scaling::Standard, &values, 6);
        assert!(
            (standard.mean[0] - 3.0).abs() < 1e-12
                && (standard.scale[0] - 2.0_f64.sqrt()).abs() < 1e-12
        );
        let robust = fitted(Scaling::Robust, &values, 6);
        assert!((robust.mean[0] - 3.0).abs() < 1e-12);
        assert!((robust.scale[0] - 2.0 / QUARTILES_PER_DEVIATION).abs() < 1e-12);
        let scaled = standard.scaled(0, &values);
        assert!(scaled[0].is_nan() && scaled[3].abs() < 1e-7);
    }

    #[test]
    fn a_constant_feature_is_centred_only() {
        let scaler = fitted(Scaling::Standard, &[0.1; 9], 9);

        assert_eq!(
            (scaler.scale[0].to_bits(), scaler.constant_features()),
            (1.0_f64.to_bits(), 1)
        );
        assert!(scaler.scaled(0, &[0.1])[0].abs() < 1e-7);
    }

    #[test]
    fn a_sparse_flag_keeps_a_scale_of_its_size() {
        let mut values = vec![0.0; 100];
        values[7] = 1.0;

        let scaler = fitted(Scaling::Robust, &values, 100);
        assert!(
            (scaler.scale[0] - 0.099_498_743_710_662).abs() < 1e-12,
            "{}",
            scaler.scale[0]
        );
    }
}
