//! From candles to what a trained model says of them: features, scaling, windows, heads, as training computed them.

use natron_artifacts::{Model, Scaler, StageError};
use natron_kernels::bars::Bars;

use crate::{
    features::{FeatureParameters, FeaturePlan},
    models::{
        transformer::{Probabilities, Transformer},
        windows::WindowSource,
    },
};

/// What a model says of one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Row of the window's last bar.
    pub row: usize,
    /// Close of that bar, UTC nanoseconds.
    pub ts_ns: i64,
    /// Probabilities of the heads.
    pub probabilities: Probabilities,
}

/// A trained model, ready to predict from candles.
#[derive(Clone)]
pub struct Predictor {
    network: Transformer,
    plan: FeaturePlan,
    /// Positions of the model's features among the plan's columns.
    columns: Vec<usize>,
    features: Vec<String>,
    scaler: Scaler,
}

impl Predictor {
    /// The predictor of a model that `finetune` made.
    ///
    /// # Errors
    ///
    /// When the card has no feature plan or scaler, names a feature that the plan does not compute, or does not fit the
    /// tensors; and when the model has no heads.
    pub fn load(model: &Model) -> Result<Self, StageError> {
        let card = &model.card;
        let network = Transformer::from_model(model)?;
        if !network.has_heads() {
            return Err(StageError::data("the model is an encoder without heads")
                .with_help("predict with the model of a `finetune` stage"));
        }
        let parameters: FeatureParameters = serde_json::from_value(card.feature_plan.clone())
            .map_err(|e| StageError::data(format!("the model card's feature plan: {e}")))?;
        let plan = FeaturePlan::compile(&parameters)?;
        let position = |name: &String| {
            let found = plan
                .columns()
                .iter()
                .position(|column| column.name == *name);
            found.ok_or_else(|| {
                StageError::data(format!(
                    "the model's feature plan does not compute `{name}`"
                ))
            })
        };
        let columns = card
            .features
            .iter()
            .map(position)
            .collect::<Result<Vec<_>, _>>()?;
        let scaler = card
            .scaler
            .clone()
            .ok_or_else(|| StageError::data("the model card has no scaler"))?;
        let n = card.features.len();
        if scaler.mean.len() != n || scaler.scale.len() != n {
            return Err(StageError::data(format!(
                "the model card's scaler does not have {n} entries"
            )));
        }
        Ok(Self {
            network,
            plan,
            columns,
            features: card.features.clone(),
            scaler,
        })
    }

    /// Length of the model's windows, in bars.
    pub fn window_bars(&self) -> usize {
        self.network.config().window_bars
    }

    /// Bars that the first prediction needs: the window, and the bars that its first bar's features remember.
    ///
    /// With so many bars before it, a window's prediction does not depend on where the candles start.
    pub fn minimum_bars(&self) -> usize {
        self.plan.memory_rows() + self.window_bars()
    }

    /// One prediction for each window with enough bars before it ([`Predictor::minimum_bars`]), oldest first.
    ///
    /// A window in which a feature is not defined has none.
    ///
    /// # Errors
    ///
    /// When there are too few bars for a single window.
    pub fn predict(&self, bars: Bars<'_>) -> Result<Vec<Prediction>, StageError> {
        let first = self.minimum_bars() - 1;
        self.predict_rows(bars, first..bars.len())
    }

    /// The prediction for the window that ends at the last bar; the bits that [`Predictor::predict`] gives it.
    ///
    /// # Errors
    ///
    /// When there are too few bars, or a feature of the window is not defined.
    pub fn predict_last(&self, bars: Bars<'_>) -> Result<Prediction, StageError> {
        let last = bars.len().saturating_sub(1);
        let predictions = self.predict_rows(bars, last..bars.len())?;
        predictions.last().copied().ok_or_else(|| {
            StageError::data(
                "a feature of the last window is not defined: the candles do not move enough",
            )
        })
    }

    fn predict_rows(
        &self,
        bars: Bars<'_>,
        rows: std::ops::Range<usize>,
    ) -> Result<Vec<Prediction>, StageError> {
        let (needed, found) = (self.minimum_bars(), bars.len());
        if found < needed {
            return Err(StageError::data(format!(
                "{found} candles are too few, the model needs {needed}"
            ))
            .with_help(format!("give the {needed} latest candles or more")));
        }
        let source = self.scaled(bars)?;
        let rows: Vec<usize> = rows.filter(|&row| source.is_complete(row)).collect();
        let probabilities = self.network.predictions(&source, &rows, |_| Ok(()))?;
        Ok(rows
            .into_iter()
            .zip(probabilities)
            .map(|(row, probabilities)| Prediction {
                row,
                ts_ns: bars.ts_ns[row],
                probabilities,
            })
            .collect())
    }

    /// The scaled feature matrix of `bars`, as the model's inputs.
    fn scaled(&self, bars: Bars<'_>) -> Result<WindowSource, StageError> {
        let computed = self.plan.batch(bars);
        let n = self.columns.len();
        let mut values = vec![f32::NAN; bars.len() * n];
        for (f, &column) in self.columns.iter().enumerate() {
            let (mean, scale) = (self.scaler.mean[f], self.scaler.scale[f]);
            for (row, &x) in computed[column].iter().enumerate() {
                values[row * n + f] = ((x - mean) / scale) as f32;
            }
        }
        WindowSource::new(values, self.features.clone(), self.window_bars())
    }
}
