//! The policy of reinforcement together with the encoder that shows it the market: one model that acts on candles.

use natron_artifacts::{Model, ModelCard, StageError};
use natron_kernels::{
    math::single::{exp, tanh},
    matmul::{Matrix, matmul},
};
use serde_json::Value;

use super::transformer::{ARCHITECTURE as TRANSFORMER, Transformer};

/// The name of this architecture in model cards.
pub const ARCHITECTURE: &str = "natron_v2.policy";

/// The actions, in the order of their ids.
pub const ACTIONS: [&str; 3] = ["sell", "hold", "buy"];

/// The head of a policy whose action is a position of any size.
pub const POSITION: &str = "position";

/// Outputs of such a policy: the centre of its distribution before tanh, and the logarithm of the deviation.
const N_POSITION_OUTPUTS: usize = 2;

/// The entry of the card's `extra` that says whether selling goes short.
pub const ALLOW_SHORT: &str = "allow_short";

/// What the policy sees besides the encoder's view: position, profit of the open position, drawdown. All are 0 without one.
const N_ACCOUNT: usize = 3;

/// The entry of the card's `extra` with the encoder's sizes.
const NETWORK: &str = "network";

/// `policy` with the encoder that it was trained on: its tensors, its features with plan, scaler and probe, its sizes.
pub fn with_encoder(policy: Model, encoder: &Model) -> Model {
    let Model {
        mut card,
        mut tensors,
    } = policy;
    let seen = &encoder.card;
    card.features.clone_from(&seen.features);
    card.feature_plan.clone_from(&seen.feature_plan);
    card.scaler.clone_from(&seen.scaler);
    card.window_bars = seen.window_bars;
    for (name, value) in &seen.extra {
        card.extra.entry(name.clone()).or_insert(value.clone());
    }
    card.extra
        .insert(NETWORK.into(), seen.hyper_parameters.clone());
    let weights = encoder.tensors.iter();
    tensors.extend(
        weights
            .filter(|(name, _)| name.starts_with("encoder."))
            .map(|(name, tensor)| (name.clone(), tensor.clone())),
    );
    Model { card, tensors }
}

/// The encoder inside a model that [`with_encoder`] made.
fn encoder_of(model: &Model) -> Result<Transformer, StageError> {
    let network = model.card.extra.get(NETWORK).ok_or_else(|| {
        StageError::data("the policy comes without the encoder that it sees the market through")
            .with_help("train it again with the `rl` stage of this program")
    })?;
    let weights = model.tensors.iter();
    Transformer::from_model(&Model {
        card: ModelCard {
            architecture: TRANSFORMER.into(),
            hyper_parameters: Value::clone(network),
            ..model.card.clone()
        },
        tensors: weights
            .filter(|(name, _)| name.starts_with("encoder."))
            .map(|(name, tensor)| (name.clone(), tensor.clone()))
            .collect(),
    })
}

/// What a policy does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Choice {
    /// Probabilities of [`ACTIONS`].
    Actions([f32; 3]),
    /// The position, as a share of equity: 1 long, 0 flat, -1 short.
    Position(f32),
}

/// What the outputs of a policy mean.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Actions,
    Position { allow_short: bool },
}

/// A policy that is ready to act: one hidden layer of tanh over standardized embeddings and the account.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    kind: Kind,
    mean: Vec<f32>,
    scale: Vec<f32>,
    hidden_weight: Vec<f32>,
    hidden_bias: Vec<f32>,
    output_weight: Vec<f32>,
    output_bias: Vec<f32>,
}

impl Policy {
    /// The policy and the encoder of a model that [`with_encoder`] made.
    ///
    /// # Errors
    ///
    /// When the encoder or a tensor is missing, or one is of another size than the others say.
    pub(crate) fn from_model(model: &Model) -> Result<(Self, Transformer), StageError> {
        let encoder = encoder_of(model)?;
        let width = encoder.config().d_model;
        let hidden = model
            .tensors
            .get("policy.hidden.bias")
            .map_or(0, |bias| bias.values.len());
        let (kind, outputs) = if model.card.heads.contains_key(POSITION) {
            let allow_short = model.card.extra.get(ALLOW_SHORT).and_then(Value::as_bool);
            let allow_short = allow_short.ok_or_else(|| {
                StageError::data(format!("the policy's card does not say `{ALLOW_SHORT}`"))
            })?;
            (Kind::Position { allow_short }, N_POSITION_OUTPUTS)
        } else {
            (Kind::Actions, ACTIONS.len())
        };
        let tensor = |name: &str, shape: &[usize]| match model.tensors.get(name) {
            Some(tensor) if tensor.shape == shape => Ok(tensor.values.clone()),
            Some(tensor) => Err(StageError::data(format!(
                "tensor `{name}` is of shape {:?}, expected {shape:?}",
                tensor.shape
            ))),
            None => Err(StageError::data(format!(
                "the model has no tensor `{name}`"
            ))),
        };
        let policy = Self {
            kind,
            mean: tensor("embedding.mean", &[width])?,
            scale: tensor("embedding.scale", &[width])?,
            hidden_weight: tensor("policy.hidden.weight", &[hidden, width + N_ACCOUNT])?,
            hidden_bias: tensor("policy.hidden.bias", &[hidden])?,
            output_weight: tensor("policy.output.weight", &[outputs, hidden])?,
            output_bias: tensor("policy.output.bias", &[outputs])?,
        };
        Ok((policy, encoder))
    }

    /// What an account without a position does, for each of the embeddings \[rows, width\].
    pub(crate) fn choices(&self, embeddings: &[f32]) -> Vec<Choice> {
        let (width, hidden) = (self.mean.len(), self.hidden_bias.len());
        let rows = embeddings.len() / width.max(1);
        let mut x = embeddings.to_vec();
        for row in x.chunks_mut(width.max(1)) {
            for ((v, m), s) in row.iter_mut().zip(&self.mean).zip(&self.scale) {
                *v = (*v - m) / s;
            }
        }
        let weight = Matrix::strided(&self.hidden_weight, hidden, width, width + N_ACCOUNT);
        let mut h = matmul(Matrix::new(&x, rows, width), weight.transposed());
        for row in h.chunks_mut(hidden.max(1)) {
            for (value, bias) in row.iter_mut().zip(&self.hidden_bias) {
                *value = tanh(*value + bias);
            }
        }
        let outputs = self.output_bias.len();
        let weight = Matrix::new(&self.output_weight, outputs, hidden).transposed();
        let products = matmul(Matrix::new(&h, rows, hidden), weight);
        products
            .chunks_exact(outputs)
            .map(|row| self.choice(row))
            .collect()
    }

    /// What one row of the output layer's products stands for.
    fn choice(&self, row: &[f32]) -> Choice {
        match self.kind {
            Kind::Actions => {
                let z: [f32; 3] = std::array::from_fn(|i| row[i] + self.output_bias[i]);
                let top = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let powers = z.map(|v| exp(v - top));
                let sum: f32 = powers.iter().sum();
                Choice::Actions(powers.map(|p| p / sum))
            }
            Kind::Position { allow_short } => {
                let squashed = tanh(row[0] + self.output_bias[0]);
                Choice::Position(if allow_short {
                    squashed
                } else {
                    0.5 * (squashed + 1.0)
                })
            }
        }
    }
}
