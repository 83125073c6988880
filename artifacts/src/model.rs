//! Models: weights and the card that says how to use them.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ArtifactError, Digest, Hasher, canonical};

/// A trained model: named tensors of single precision and their [`ModelCard`].
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// What the model is.
    pub card: ModelCard,
    /// Weights by name.
    pub tensors: BTreeMap<String, Tensor>,
}

/// A tensor of single precision in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// The values, `shape`'s product of them.
    pub values: Vec<f32>,
}

/// What `model.json` holds: all that a server needs to compute what training saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    /// Name of the architecture, as `natron_v2.transformer`.
    pub architecture: String,
    /// The architecture's sizes and options.
    pub hyper_parameters: Value,
    /// The inputs' names, in the order of the input axis.
    pub features: Vec<String>,
    /// How features are computed from candles; null when they are not.
    #[serde(default)]
    pub feature_plan: Value,
    /// How features are scaled, in the order of `features`.
    #[serde(default)]
    pub scaler: Option<Scaler>,
    /// Length of an input window, in bars.
    pub window_bars: u32,
    /// How many later bars the labels look at.
    pub label_horizon_bars: u32,
    /// What each output is, by head.
    #[serde(default)]
    pub heads: BTreeMap<String, Vec<String>>,
    /// Digest of what the model was trained on.
    pub trained_on: Digest,
    /// The kind of the stage that made it.
    #[serde(default)]
    pub made_by: String,
    /// Anything else the architecture needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
}

/// A linear scaling `(x - mean) / scale` for each feature, fitted on training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaler {
    /// Subtracted first.
    pub mean: Vec<f64>,
    /// Divided by then; never 0.
    pub scale: Vec<f64>,
}

impl Model {
    /// The canonical weights file (safetensors, sorted by name).
    ///
    /// # Errors
    ///
    /// A tensor whose shape does not fit its values, or a value that is not finite.
    pub fn weights(&self) -> Result<Vec<u8>, ArtifactError> {
        let mut data = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            if tensor.shape.iter().product::<usize>() != tensor.values.len() {
                let (shape, n) = (&tensor.shape, tensor.values.len());
                return Err(ArtifactError::new(format!(
                    "tensor `{name}` has {n} values for shape {shape:?}"
                )));
            }
            check_finite(name, &tensor.values)?;
            data.push((
                name,
                &tensor.shape,
                tensor
                    .values
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect::<Vec<u8>>(),
            ));
        }
        let views = data
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((
                    name.as_str(),
                    TensorView::new(Dtype::F32, (*shape).clone(), bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| ArtifactError::new(e.to_string()))?;
        safetensors::serialize(views, None).map_err(|e| ArtifactError::new(e.to_string()))
    }

    /// The canonical card.
    pub fn card_json(&self) -> String {
        let value = serde_json::to_value(&self.card).expect("a card of plain values serializes");
        let mut text = serde_json::to_string_pretty(&value).expect("a value serializes");
        text.push('\n');
        text
    }

    /// A model from the bytes of its two files.
    ///
    /// # Errors
    ///
    /// What does not parse, is not single precision or not finite.
    pub fn from_files(card: &[u8], weights: &[u8]) -> Result<Self, ArtifactError> {
        let card = serde_json::from_slice(card)
            .map_err(|e| ArtifactError::new(format!("model.json: {e}")))?;
        let file = SafeTensors::deserialize(weights)
            .map_err(|e| ArtifactError::new(format!("model.safetensors: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            if view.dtype() != Dtype::F32 {
                let found = view.dtype();
                return Err(ArtifactError::new(format!(
                    "tensor `{name}` is {found:?}, expected F32"
                )));
            }
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            check_finite(&name, &values)?;
            tensors.insert(
                name,
                Tensor {
                    shape: view.shape().to_vec(),
                    values,
                },
            );
        }
        Ok(Self { card, tensors })
    }

    /// Digest of the content: the card without `made_by`, and every tensor.
    pub fn logical_digest(&self) -> Digest {
        let card = ModelCard {
            made_by: String::new(),
            ..self.card.clone()
        };
        let mut hasher = Hasher::new("natron model v1")
            .part(canonical::digest("natron model card v1", &card).as_bytes());
        for (name, digest) in self.tensor_digests() {
            hasher = hasher.part(name.as_bytes()).part(digest.as_bytes());
        }
        hasher.finish()
    }

    /// The digest of every tensor's shape and values, by name.
    pub fn tensor_digests(&self) -> Vec<(String, Digest)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| {
                let shape: Vec<u8> = tensor
                    .shape
                    .iter()
                    .flat_map(|&n| (n as u64).to_le_bytes())
                    .collect();
                let values: Vec<u8> = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                (
                    name.clone(),
                    Hasher::new("natron tensor v1")
                        .part(&shape)
                        .part(&values)
                        .finish(),
                )
            })
            .collect()
    }
}

fn check_finite(name: &str, values: &[f32]) -> Result<(), ArtifactError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(ArtifactError::new(format!(
            "tensor `{name}` holds {} at index {i}",
            values[i]
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let tensor = |shape: &[usize], start: f32| Tensor {
            shape: shape.to_vec(),
            values: (0..shape.iter().product())
                .map(|i: usize| start + i as f32)
                .collect(),
        };
        Model {
            card: ModelCard {
                architecture: "test".into(),
                hyper_parameters: serde_json::json!({"d_model": 4}),
                features: vec!["close".into()],
                feature_plan: Value::Null,
                scaler: Some(Scaler {
                    mean: vec![0.1],
                    scale: vec![2.0],
                }),
                window_bars: 96,
                label_horizon_bars: 3,
                heads: BTreeMap::new(),
                trained_on: Digest::of(b"windows"),
                made_by: "finetune".into(),
                extra: BTreeMap::new(),
            },
            tensors: [
                ("b".to_owned(), tensor(&[3], 0.5)),
                ("a".to_owned(), tensor(&[2, 2], -1.0)),
            ]
            .into(),
        }
    }

    #[test]
    fn reads_back_what_it_writes_to_the_byte() {
        let model = model();
        let (card, weights) = (model.card_json(), model.weights().unwrap());

        let again = Model::from_files(card.as_bytes(), &weights).unwrap();
        assert_eq!(again, model);
        assert_eq!(
            (again.card_json(), again.weights().unwrap()),
            (card, weights)
        );
    }

    #[test]
    fn refuses_weights_that_are_not_finite() {
        let mut model = model();
        model.tensors.get_mut("a").unwrap().values[2] = f32::INFINITY;

        assert!(
            model
                .weights()
                .unwrap_err()
                .to_string()
                .contains("tensor `a` holds inf at index 2")
        );
    }
}
