//! The parameters of a training run that every training stage has, and their checks.

use natron_artifacts::StageError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Stays.
    Constant,
    /// Falls along half a cosine to the minimum at the last step.
    Cosine,
    /// Is multiplied by `plateau_factor` after `plateau_patience` epochs without a better validation loss.
    #[default]
    Plateau,
    /// Rises along half a cosine from a 25th of the highest over the warm-up (three tenths of all steps where there is none),
    /// then falls along half a cosine to the minimum at the last step (Smith and Topin, 2018).
    OneCycle,
}

/// All that the loop needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrainingOptions {
    /// Passes over the training windows at most.
    pub(crate) epochs: u32,
    /// Windows that go through the network at once.
    pub(crate) batch: usize,
    /// Batches whose mean gradient makes one step.
    pub(crate) accumulation: usize,
    /// Windows of an epoch, drawn anew for each; all where `None`.
    pub(crate) windows_per_epoch: Option<usize>,
    /// Highest learning rate.
    pub(crate) learning_rate: f64,
    /// Decoupled weight decay.
    pub(crate) weight_decay: f64,
    /// Largest global norm of the gradients; `None` leaves them alone.
    pub(crate) clip_norm: Option<f64>,
    /// Epochs over which the learning rate rises linearly from zero.
    pub(crate) warmup_epochs: f64,
    /// What the learning rate does then.
    pub(crate) schedule: ScheduleKind,
    /// Factor of the plateau schedule.
    pub(crate) plateau_factor: f64,
    /// Patience of the plateau schedule, in epochs.
    pub(crate) plateau_patience: u32,
    /// The learning rate falls no lower.
    pub(crate) minimum_learning_rate: f64,
    /// Epochs without a better validation loss after which training ends; `None` trains all epochs.
    pub(crate) early_stop_epochs: Option<u32>,
    /// Decay of the moving average of the weights that is validated and kept; `None` takes the weights themselves.
    pub(crate) average_decay: Option<f64>,
}

impl TrainingOptions {
    /// Whether the learning rate still rises throughout the epoch `epoch`, counted from 0. Such an epoch says nothing about
    /// whether training gets on, so no patience counts it.
    pub(crate) fn is_warm_up(&self, epoch: u32) -> bool {
        f64::from(epoch) + 1.0 <= self.warmup_epochs
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first that makes no sense.
    pub(crate) fn check(&self) -> Result<(), StageError> {
        let positive = |name: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(StageError::parameter(
                    name,
                    format!("`{name}` must be above 0, got {value}"),
                ))
            }
        };
        positive("epochs", f64::from(self.epochs))?;
        positive("batch", self.batch as f64)?;
        positive("accumulation", self.accumulation as f64)?;
        positive("learning_rate", self.learning_rate)?;
        if let Some(norm) = self.clip_norm {
            positive("clip_norm", norm)?;
        }
        if let Some(n) = self.windows_per_epoch {
            positive("windows_per_epoch", n as f64)?;
        }
        for (name, value) in [
            ("weight_decay", self.weight_decay),
            ("warmup_epochs", self.warmup_epochs),
            ("minimum_learning_rate", self.minimum_learning_rate),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(StageError::parameter(
                    name,
                    format!("`{name}` must not be negative, got {value}"),
                ));
            }
        }
        if self.warmup_epochs > f64::from(self.epochs) {
            let (warmup, epochs) = (self.warmup_epochs, self.epochs);
            return Err(StageError::parameter(
                "warmup_epochs",
                format!("{warmup} epochs of warm-up are more than the {epochs} epochs of training"),
            )
            .with_help("lower `warmup_epochs`, or train longer"));
        }
        if let Some(decay) = self.average_decay
            && !(decay > 0.0 && decay < 1.0)
        {
            return Err(StageError::parameter(
                "average_decay",
                format!("must be from 0 (no average) to below 1, got {decay}"),
            ));
        }
        if !(self.plateau_factor > 0.0 && self.plateau_factor < 1.0) {
            let found = self.plateau_factor;
            return Err(StageError::parameter(
                "plateau_factor",
                format!("must lie between 0 and 1, got {found}"),
            ));
        }
        Ok(())
    }
}
