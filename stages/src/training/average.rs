//! The moving average of the weights (Polyak and Juditsky, 1992), which is often better than the weights of any one step.

use std::collections::BTreeMap;

use natron_artifacts::{StageError, Tensor as Stored};

use crate::models::parameters::Parameters;

/// An exponential moving average of all parameters.
///
/// After step `t` it moves by `1 - min(decay, (1 + t) / (10 + t))` of the way to the weights, so that what the network began
/// with is soon forgotten.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Average {
    decay: f64,
    pub(crate) weights: BTreeMap<String, Stored>,
}

impl Average {
    /// Begins at the weights as they are.
    pub(crate) fn new(decay: f64, parameters: &Parameters) -> Result<Self, StageError> {
        Ok(Self {
            decay,
            weights: parameters.to_stored()?,
        })
    }

    /// Takes the weights after `steps` steps in.
    pub(crate) fn observe(
        &mut self,
        parameters: &Parameters,
        steps: u64,
    ) -> Result<(), StageError> {
        let steps = steps as f64;
        let keep = self.decay.min((1.0 + steps) / (10.0 + steps)) as f32;
        for (name, new) in parameters.to_stored()? {
            let average = self
                .weights
                .get_mut(&name)
                .expect("the average has every parameter");
            for (old, new) in average.values.iter_mut().zip(new.values) {
                *old += (1.0 - keep) * (new - *old);
            }
        }
        Ok(())
    }

    /// Calls `f` while the parameters hold the average, and gives them their own values back.
    pub(crate) fn lend<T>(
        &self,
        parameters: &Parameters,
        f: impl FnOnce() -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let own = parameters.to_stored()?;
        parameters.set(&self.weights)?;
        let result = f();
        parameters.set(&own)?;
        result
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Streams;

    use super::*;
    use crate::models::parameters::{Initial, Specification};

    fn ones() -> Parameters {
        let mut specification = Specification::default();
        specification.add("w", &[2], Initial::Ones);
        Parameters::initialized(&specification, Streams::new(1)).unwrap()
    }

    fn set(parameters: &Parameters, values: [f32; 2]) {
        let tensor = Stored {
            shape: vec![2],
            values: values.to_vec(),
        };
        parameters.set(&[("w".to_owned(), tensor)].into()).unwrap();
    }

    #[test]
    fn follows_the_weights_by_its_decay() {
        let parameters = ones();
        let mut average = Average::new(0.5, &parameters).unwrap();

        set(&parameters, [3.0, 1.0]);
        average.observe(&parameters, 1_000).unwrap();
        assert_eq!(average.weights["w"].values, [2.0, 1.0]);

        set(&parameters, [2.0, -1.0]);
        average.observe(&parameters, 1_001).unwrap();
        assert_eq!(average.weights["w"].values, [2.0, 0.0]);
    }

    #[test]
    fn its_first_steps_forget_faster() {
        let parameters = ones();
        let mut average = Average::new(0.999, &parameters).unwrap();

        set(&parameters, [12.0, 1.0]);
        average.observe(&parameters, 1).unwrap();

        assert!((average.weights["w"].values[0] - 10.0).abs() < 1e-5);
    }

    #[test]
    fn lends_itself_and_gives_the_weights_back_after_an_error_too() {
        let parameters = ones();
        let average = Average::new(0.5, &parameters).unwrap();
        set(&parameters, [5.0, 6.0]);

        let seen = average
            .lend(&parameters, || parameters.to_stored())
            .unwrap();
        assert_eq!(seen["w"].values, [1.0, 1.0]);
        let failed: Result<(), _> = average.lend(&parameters, || Err(StageError::Interrupted));
        assert!(failed.is_err());

        assert_eq!(parameters.to_stored().unwrap()["w"].values, [5.0, 6.0]);
    }
}
