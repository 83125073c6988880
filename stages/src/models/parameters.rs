//! The named parameters of a network: their shapes, initial values and transport to and from a model artifact.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Result, Tensor, Var};
use natron_artifacts::{StageError, Streams, Tensor as Stored};
use natron_kernels::to_vec;

use super::tensor_error;

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Uniform in `+-sqrt(6 / (rows + columns))` (Glorot and Bengio, 2010).
    XavierUniform,
    /// Normal with standard deviation 0.02.
    SmallNormal,
    /// All zero.
    Zeros,
    /// All one.
    Ones,
}

/// Name, shape and initial value of every parameter of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Specification(BTreeMap<String, (Vec<usize>, Initial)>);

impl Specification {
    /// Adds a parameter.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize], initial: Initial) {
        self.0.insert(name.into(), (shape.to_vec(), initial));
    }

    /// Adds `name.weight` \[outputs, inputs\] and `name.bias` \[outputs\].
    pub fn add_linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.add(
            format!("{name}.weight"),
            &[outputs, inputs],
            Initial::XavierUniform,
        );
        self.add(format!("{name}.bias"), &[outputs], Initial::Zeros);
    }

    /// Adds `name.gain` and `name.shift`, each \[width\].
    pub fn add_norm(&mut self, name: &str, width: usize) {
        self.add(format!("{name}.gain"), &[width], Initial::Ones);
        self.add(format!("{name}.shift"), &[width], Initial::Zeros);
    }

    /// Names and shapes, in order of the names.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.0
            .iter()
            .map(|(name, (shape, _))| (name.as_str(), shape.as_slice()))
    }

    /// The number of numbers.
    pub fn count(&self) -> usize {
        self.0
            .values()
            .map(|(shape, _)| shape.iter().product::<usize>())
            .sum()
    }
}

/// The parameters of a network by name. A clone shares the values.
#[derive(Debug, Clone)]
pub struct Parameters {
    variables: Arc<BTreeMap<String, Var>>,
    /// What operations read: the variables themselves, or the same values without their gradients.
    tensors: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Fresh parameters. Each draws from its own stream `parameter/NAME`, so that adding one leaves the others alone.
    pub fn initialized(
        specification: &Specification,
        streams: Streams,
    ) -> std::result::Result<Self, StageError> {
        let mut variables = BTreeMap::new();
        for (name, (shape, initial)) in &specification.0 {
            let count: usize = shape.iter().product();
            let mut stream = streams.stream(&format!("parameter/{name}"));
            let values: Vec<f32> = match initial {
                Initial::Zeros => vec![0.0; count],
                Initial::Ones => vec![1.0; count],
                Initial::SmallNormal => (0..count)
                    .map(|_| (0.02 * stream.normal()) as f32)
                    .collect(),
                Initial::XavierUniform => {
                    let bound = (6.0 / shape.iter().sum::<usize>() as f64).sqrt();
                    (0..count)
                        .map(|_| ((2.0 * stream.uniform() - 1.0) * bound) as f32)
                        .collect()
                }
            };
            let tensor =
                Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).map_err(tensor_error)?;
            variables.insert(
                name.clone(),
                Var::from_tensor(&tensor).map_err(tensor_error)?,
            );
        }
        Ok(Self::tracked(variables))
    }

    /// The parameters that `specification` names, from stored tensors.
    ///
    /// # Errors
    ///
    /// A tensor that is missing, too many, of another shape or not finite, by name.
    pub fn from_stored(
        specification: &Specification,
        stored: &BTreeMap<String, Stored>,
    ) -> std::result::Result<Self, StageError> {
        if let Some(name) = stored
            .keys()
            .find(|name| !specification.0.contains_key(*name))
        {
            return Err(StageError::data(format!(
                "the model has a tensor `{name}` that its architecture does not know"
            )));
        }
        let mut variables = BTreeMap::new();
        for (name, shape) in specification.shapes() {
            let Some(tensor) = stored.get(name) else {
                return Err(StageError::data(format!(
                    "the model has no tensor `{name}`"
                )));
            };
            if tensor.shape != shape || tensor.values.len() != shape.iter().product::<usize>() {
                let found = &tensor.shape;
                return Err(StageError::data(format!(
                    "tensor `{name}` has shape {found:?}, expected {shape:?}"
                )));
            }
            if let Some(i) = tensor.values.iter().position(|v| !v.is_finite()) {
                return Err(StageError::data(format!(
                    "tensor `{name}` holds {} at index {i}",
                    tensor.values[i]
                )));
            }
            let tensor = Tensor::from_vec(tensor.values.clone(), shape, &Device::Cpu)
                .map_err(tensor_error)?;
            variables.insert(
                name.to_owned(),
                Var::from_tensor(&tensor).map_err(tensor_error)?,
            );
        }
        Ok(Self::tracked(variables))
    }

    fn tracked(variables: BTreeMap<String, Var>) -> Self {
        let tensors = variables
            .iter()
            .map(|(name, variable)| (name.clone(), variable.as_tensor().clone()))
            .collect();
        Self {
            variables: Arc::new(variables),
            tensors,
        }
    }

    /// The same values, now and later, for inference: what is computed from them keeps no graph and frees its memory.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let tensors = self
            .variables
            .iter()
            .map(|(name, variable)| (name.clone(), variable.detach()))
            .collect();
        Self {
            variables: Arc::clone(&self.variables),
            tensors,
        }
    }

    /// Copies of the values.
    pub fn to_stored(&self) -> std::result::Result<BTreeMap<String, Stored>, StageError> {
        self.variables
            .iter()
            .map(|(name, variable)| {
                let values = to_vec(variable).map_err(tensor_error)?;
                Ok((
                    name.clone(),
                    Stored {
                        shape: variable.dims().to_vec(),
                        values,
                    },
                ))
            })
            .collect()
    }

    /// Overwrites the values in place with those of the same names.
    ///
    /// # Errors
    ///
    /// A name that is missing or a shape that differs.
    pub fn set(&self, stored: &BTreeMap<String, Stored>) -> std::result::Result<(), StageError> {
        for (name, variable) in self.variables.iter() {
            let Some(tensor) = stored.get(name) else {
                return Err(StageError::data(format!(
                    "no values for parameter `{name}`"
                )));
            };
            let tensor =
                Tensor::from_vec(tensor.values.clone(), tensor.shape.as_slice(), &Device::Cpu);
            variable
                .set(&tensor.map_err(tensor_error)?)
                .map_err(tensor_error)?;
        }
        Ok(())
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("the network has no parameter `{name}`"),
        }
    }

    /// All parameters in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.variables
            .iter()
            .map(|(name, variable)| (name.as_str(), variable))
    }

    /// `x W^T + b` with the parameters `name.weight` and `name.bias`.
    pub(crate) fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        natron_kernels::linear::linear(
            x,
            self.get(&format!("{name}.weight"))?,
            self.get(&format!("{name}.bias"))?,
        )
    }

    /// Layer normalization with the parameters `name.gain` and `name.shift`.
    pub(crate) fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        natron_kernels::layer_norm::layer_norm(
            x,
            self.get(&format!("{name}.gain"))?,
            self.get(&format!("{name}.shift"))?,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specification() -> Specification {
        let mut specification = Specification::default();
        specification.add_linear("a", 3, 5);
        specification.add_norm("b", 4);
        specification
    }

    #[test]
    fn a_parameter_does_not_depend_on_its_neighbours() {
        let alone = {
            let mut specification = Specification::default();
            specification.add_linear("a", 3, 5);
            Parameters::initialized(&specification, Streams::new(7)).unwrap()
        };

        let together = Parameters::initialized(&specification(), Streams::new(7)).unwrap();

        assert_eq!(
            together.to_stored().unwrap()["a.weight"],
            alone.to_stored().unwrap()["a.weight"]
        );
    }

    #[test]
    fn frozen_parameters_follow_the_variables() {
        let parameters = Parameters::initialized(&specification(), Streams::new(7)).unwrap();
        let frozen = parameters.frozen();
        let mut stored = parameters.to_stored().unwrap();
        stored.get_mut("b.shift").unwrap().values = vec![3.0; 4];

        parameters.set(&stored).unwrap();

        let shift = frozen.get("b.shift").unwrap();
        assert_eq!(to_vec(shift).unwrap(), [3.0; 4]);
        assert!(!shift.track_op() && parameters.get("b.shift").unwrap().track_op());
    }

    #[test]
    fn values_survive_the_transport_and_mistakes_are_named() {
        let parameters = Parameters::initialized(&specification(), Streams::new(7)).unwrap();
        let stored = parameters.to_stored().unwrap();
        let message = |stored: &BTreeMap<String, Stored>| {
            Parameters::from_stored(&specification(), stored)
                .unwrap_err()
                .to_string()
        };

        let again = Parameters::from_stored(&specification(), &stored).unwrap();

        assert_eq!(again.to_stored().unwrap(), stored);
        let mut missing = stored.clone();
        missing.remove("a.bias");
        assert!(message(&missing).contains("no tensor `a.bias`"));
        let mut extra = stored.clone();
        extra.insert("c".into(), stored["a.bias"].clone());
        assert!(message(&extra).contains("tensor `c` that its architecture does not know"));
        let mut bent = stored.clone();
        bent.insert("b.gain".into(), stored["a.bias"].clone());
        assert!(message(&bent).contains("`b.gain` has shape [5], expected [4]"));
        let mut broken = stored;
        broken.get_mut("b.gain").unwrap().values[2] = f32::NAN;
        assert!(message(&broken).contains("`b.gain` holds NaN at index 2"));
    }
}
