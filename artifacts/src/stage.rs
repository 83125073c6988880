//! The contract of what makes artifacts.

use crate::{Schemas, Signature, StageContext, StageError};

/// A pure function from input artifacts, parameters and a seed to output artifacts, declared before it runs.
///
/// The parameters are the implementing struct itself: `Serialize`, `Deserialize` with `deny_unknown_fields`, and
/// `JsonSchema`, whose doc comments are the user's documentation. See [`crate::Registry::register`].
pub trait Stage: Send + Sync {
    /// Ports (kinds, columns), lookahead in bars and resources, given what the inputs are known to hold.
    ///
    /// It must not look at the world: the same parameters and schemas give the same signature. A port whose input is not
    /// known yet is declared all the same; the runner reports what is missing.
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError>;

    /// What the bits of results depend on when they are computed on this machine's GPUs, as `sm_90, NVRTC 13.0`: a part of the
    /// key. Empty where nothing is known of that; an error where the GPUs cannot be used, so that a stage that only would
    /// like one runs without. Asked for only if the signature wants a GPU and there are any.
    fn gpu_class(&self) -> Result<String, StageError> {
        Ok(String::new())
    }

    /// Computes every declared output and hands it to [`StageContext::write`].
    ///
    /// The outputs are a function of inputs, parameters and seed: no clock, environment, thread count, path or map order
    /// reaches them.
    fn run(&self, context: &mut StageContext) -> Result<(), StageError>;
}
