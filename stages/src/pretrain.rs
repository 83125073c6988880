//! `uses = "pretrain"`: an encoder that has learned the windows' structure without labels.
//!
//! Every step takes two views of each window: bars are masked independently in each, and optionally jittered and scaled.
//! The encoder must reconstruct the original features of each masked bar from the bar's own state, and tell the other view
//! of a window from the views of the other windows of the batch (InfoNCE).

use std::{collections::BTreeMap, sync::Arc};

use natron_artifacts::{
    Kind, Model, ModelCard, PortSchema, Schemas, Signature, Stage, StageContext, StageError,
    Stream, Streams, Threads,
};
use natron_kernels::{
    dropout::Dropout,
    gelu::gelu,
    loss::{info_nce, mean_squared_error, smallest_pair_similarity},
    math,
    pooling::select_rows,
};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    models::{
        parameters::{Initial, Parameters, Specification},
        tensor_error,
        transformer::{ARCHITECTURE, Pass, Pooling, Transformer, TransformerConfig},
    },
    training::{
        options::{ScheduleKind, TrainingOptions},
        samples::{Samples, Split, expected_sizes, scaler},
        trainer::{Loss, Task, Trainer},
    },
};

/// Width of the vectors that are contrasted.
const PROJECTION_WIDTH: usize = 128;

/// How many windows' views are compared before training.
const VIEWS_CHECKED: usize = 256;

/// Two views more similar than this are the same vector.
const SAME: f64 = 1.0 - 1e-7;

/// Trains an encoder without labels: masked reconstruction and contrast of two views.
///
/// Inputs `matrix`, `windows` and, for the model's card, `scaler`, all of a `dataset` stage. Outputs `model` (the encoder,
/// for `finetune`) and `metrics` (loss curves). Windows of the training split train, those of the validation split choose
/// the best epoch; the test split is not touched.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pretrain {
    /// Width of the encoder's states.
    pub d_model: usize,
    /// Attention heads; they divide `d_model`.
    pub heads: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Width of the feed-forward layers.
    pub feed_forward: usize,
    /// Probability of dropout while training.
    pub dropout: f32,
    /// How the states of a window's bars become one vector: `mean`, `last` or `attention`.
    pub pooling: Pooling,
    /// Probability that a bar is masked.
    pub mask_probability: f64,
    /// Standard deviation of the noise added to each (scaled) feature of a view; 0 adds none.
    pub jitter: f64,
    /// Each view of a window is multiplied by a factor from 1 - `scaling` to 1 + `scaling`; 0 leaves it alone.
    pub scaling: f64,
    /// Temperature of the contrast.
    pub temperature: f64,
    /// Weight of the reconstruction loss.
    pub reconstruction_weight: f64,
    /// Weight of the contrastive loss.
    pub contrastive_weight: f64,
    /// Passes over the training windows at most.
    pub epochs: u32,
    /// Windows that go through the network at once.
    pub batch: usize,
    /// Batches whose mean gradient makes one step: a step learns from `batch * accumulation` windows.
    pub accumulation: usize,
    /// Windows of an epoch, drawn anew for each; all of them if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows_per_epoch: Option<usize>,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradients; 0 does not clip.
    pub clip_norm: f64,
    /// Epochs over which the learning rate rises from zero.
    pub warmup_epochs: f64,
    /// What the learning rate does after the warm-up: `constant`, `cosine` or `plateau`; `one_cycle` has a rise of its own.
    pub schedule: ScheduleKind,
    /// The plateau schedule multiplies the learning rate by this.
    pub plateau_factor: f64,
    /// Epochs without a better validation loss that the plateau schedule waits for.
    pub plateau_patience: u32,
    /// The learning rate falls no lower.
    pub minimum_learning_rate: f64,
    /// Epochs without a better validation loss after which training ends; 0 never ends early.
    pub early_stop_epochs: u32,
    /// Decay of a moving average of the weights, from 0 to below 1, that is validated and kept in their place; 0 has none.
    pub average_decay: f64,
}

impl Default for Pretrain {
    fn default() -> Self {
        Self {
            d_model: 256,
            heads: 8,
            layers: 6,
            feed_forward: 1024,
            dropout: 0.1,
            pooling: Pooling::Mean,
            mask_probability: 0.15,
            jitter: 0.0,
            scaling: 0.0,
            temperature: 0.07,
            reconstruction_weight: 0.7,
            contrastive_weight: 0.3,
            epochs: 50,
            batch: 128,
            accumulation: 1,
            windows_per_epoch: None,
            learning_rate: 1e-4,
            weight_decay: 1e-5,
            clip_norm: 1.0,
            warmup_epochs: 5.0,
            schedule: ScheduleKind::Cosine,
            plateau_factor: 0.5,
            plateau_patience: 5,
            minimum_learning_rate: 1e-7,
            early_stop_epochs: 0,
            average_decay: 0.0,
        }
    }
}

impl Pretrain {
    fn options(&self) -> TrainingOptions {
        TrainingOptions {
            epochs: self.epochs,
            batch: self.batch,
            accumulation: self.accumulation,
            windows_per_epoch: self.windows_per_epoch,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            clip_norm: (self.clip_norm > 0.0).then_some(self.clip_norm),
            warmup_epochs: self.warmup_epochs,
            schedule: self.schedule,
            plateau_factor: self.plateau_factor,
            plateau_patience: self.plateau_patience,
            minimum_learning_rate: self.minimum_learning_rate,
            early_stop_epochs: (self.early_stop_epochs > 0).then_some(self.early_stop_epochs),
            average_decay: (self.average_decay != 0.0).then_some(self.average_decay),
        }
    }

    fn config(&self, inputs: usize, window_bars: usize) -> TransformerConfig {
        TransformerConfig {
            inputs,
            d_model: self.d_model,
            heads: self.heads,
            layers: self.layers,
            feed_forward: self.feed_forward,
            dropout: self.dropout,
            window_bars,
            pooling: self.pooling,
        }
    }

    fn check(&self) -> Result<(), StageError> {
        self.config(1, 1).check()?;
        self.options().check()?;
        if self.batch < 2 {
            return Err(StageError::parameter(
                "batch",
                "contrast needs at least two windows a step",
            ));
        }
        if !(self.mask_probability > 0.0 && self.mask_probability < 1.0) {
            let found = self.mask_probability;
            return Err(StageError::parameter(
                "mask_probability",
                format!("must lie between 0 and 1, got {found}"),
            )
            .with_help("without masks there is nothing to reconstruct and the two views are one"));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(StageError::parameter(
                "temperature",
                format!("must be above 0, got {}", self.temperature),
            ));
        }
        for (name, value) in [
            ("jitter", self.jitter),
            ("scaling", self.scaling),
            ("reconstruction_weight", self.reconstruction_weight),
            ("contrastive_weight", self.contrastive_weight),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(StageError::parameter(
                    name,
                    format!("must not be negative, got {value}"),
                ));
            }
        }
        Ok(())
    }
}

impl Stage for Pretrain {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        self.check()?;
        let network = json!({
            "d_model": self.d_model, "heads": self.heads, "layers": self.layers,
            "feed_forward": self.feed_forward, "pooling": self.pooling,
        });
        let (features, bars) = expected_sizes(inputs);
        Ok(Signature::new()
            .input_table("matrix", ["ts_ns"])
            .input_table("windows", ["row", "ts_ns", "split"])
            .optional_input("scaler", Kind::Table)
            .output(
                "model",
                PortSchema::of(Kind::Model).fact("network", network),
            )
            .output("metrics", PortSchema::of(Kind::Metrics))
            .threads(Threads::All)
            .memory_bytes(self.config(features, bars).training_bytes(2 * self.batch)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let samples = Samples::read(context)?;
        let scaler = scaler(context, samples.source.features())?;
        let config = self.config(
            samples.source.features().len(),
            samples.source.window_bars(),
        );
        let (train, mut validation) = (samples.of(Split::Train), samples.of(Split::Validation));
        if train.len() < 2 {
            return Err(StageError::data(format!(
                "contrast needs two training windows, there are {}",
                train.len()
            )));
        }
        if validation.len() == 1 {
            context.warn("a single validation window cannot be contrasted; the training loss chooses the epoch");
            validation.clear();
        }
        let (n_train, n_validation) = (train.len() as u64, validation.len() as u64);
        let task = Pretraining::new(self, config, &samples, context.streams())?;
        if self.contrastive_weight > 0.0 {
            task.check_views(&train)?;
        }
        let options = self.options();
        let outcome = Trainer {
            options: &options,
            train: &train,
            weights: None,
            validation: &validation,
        }
        .run(&task, context)?;

        let card = ModelCard {
            architecture: ARCHITECTURE.into(),
            hyper_parameters: serde_json::to_value(task.network.config())
                .map_err(|e| StageError::data(e.to_string()))?,
            features: samples.source.features().to_vec(),
            feature_plan: samples.feature_plan.clone(),
            scaler,
            window_bars: samples.source.window_bars() as u32,
            label_horizon_bars: samples.label_horizon_bars,
            heads: BTreeMap::new(),
            trained_on: samples.digest,
            made_by: String::new(),
            extra: samples.card_extra(),
        };
        let tensors = outcome
            .best
            .iter()
            .filter(|(name, _)| name.starts_with("encoder."));
        let tensors = tensors
            .map(|(name, tensor)| (name.clone(), tensor.clone()))
            .collect();
        let mut metrics = outcome.metrics().map_err(StageError::data)?;
        metrics
            .set_count("windows.train", n_train)
            .map_err(StageError::data)?;
        metrics
            .set_count("windows.validation", n_validation)
            .map_err(StageError::data)?;
        context.write("model", Model { card, tensors })?;
        context.write("metrics", metrics)
    }
}

/// Encoder, mask token and the two heads of pretraining.
struct Pretraining<'a> {
    parameters: &'a Pretrain,
    network: Transformer,
    samples: &'a Samples,
    streams: Streams,
}

impl<'a> Pretraining<'a> {
    fn new(
        parameters: &'a Pretrain,
        config: TransformerConfig,
        samples: &'a Samples,
        streams: Streams,
    ) -> Result<Self, StageError> {
        let network = Transformer::new(
            config,
            Parameters::initialized(&specification(&config), streams)?,
        )?;
        Ok(Self {
            parameters,
            network,
            samples,
            streams,
        })
    }

    /// Loss of the windows `items` under the views that `streams` and `step` give.
    fn evaluate(
        &self,
        items: &[usize],
        step: u64,
        streams: Streams,
        pass: &Pass,
    ) -> Result<Loss, StageError> {
        let original = self.samples.gather(items);
        let bars = self.network.config().window_bars;
        let views = self.views(&original, items.len(), step, streams);
        let masked = masked_bars(
            &streams.stream("mask"),
            step,
            2 * items.len(),
            bars,
            self.parameters.mask_probability,
        );
        let (terms, similarity) = self
            .terms(&original, &views, &masked, pass)
            .map_err(tensor_error)?;
        if similarity > SAME && self.parameters.contrastive_weight > 0.0 {
            return Err(collapsed(step));
        }
        let [reconstruction, contrast] = terms;
        let value =
            |t: &candle_core::Tensor| t.to_scalar::<f32>().map(f64::from).map_err(tensor_error);
        let [by_mean, by_neighbour] =
            trivial_reconstructions(&original, &masked, items.len(), bars);
        let values = vec![
            ("reconstruction", value(&reconstruction)?),
            ("reconstruction_by_mean", by_mean),
            ("reconstruction_by_neighbour", by_neighbour),
            ("contrastive", value(&contrast)?),
            (
                "contrastive_by_chance",
                math::ln(2.0 * items.len() as f64 - 1.0),
            ),
            ("pair_similarity", similarity),
        ];
        let total = (reconstruction * self.parameters.reconstruction_weight)
            .and_then(|r| r + (contrast * self.parameters.contrastive_weight)?)
            .map_err(tensor_error)?;
        Ok(Loss {
            total,
            terms: values,
        })
    }

    /// Reconstruction and contrastive loss, and the smallest similarity of two views of one window.
    fn terms(
        &self,
        original: &[f32],
        views: &[f32],
        masked: &Arc<[usize]>,
        pass: &Pass,
    ) -> candle_core::Result<([candle_core::Tensor; 2], f64)> {
        let p = self.network.parameters();
        let inputs = self.network.config().inputs;
        let n_bars = original.len() / inputs;
        let target: Vec<f32> = masked
            .iter()
            .flat_map(|&bar| &original[bar % n_bars * inputs..][..inputs])
            .copied()
            .collect();
        let x = self.network.windows(views)?;
        let states = self
            .network
            .encode(&x, Some((p.get("mask_token")?, masked)), pass)?;
        let hidden = gelu(
            &p.linear("reconstruction.hidden", &select_rows(&states, masked)?)?,
            Dropout::NONE,
        )?;
        let reconstruction =
            mean_squared_error(&p.linear("reconstruction.output", &hidden)?, &target.into())?;
        let hidden = gelu(
            &p.linear("projection.hidden", &self.network.pool(&states)?)?,
            Dropout::NONE,
        )?;
        let projected = p.linear("projection.output", &hidden)?;
        let similarity = smallest_pair_similarity(&projected)?;
        Ok((
            [
                reconstruction,
                info_nce(&projected, self.parameters.temperature)?,
            ],
            similarity,
        ))
    }

    /// Checks that most windows' two views differ before the encoder sees them, on a sample of the training windows.
    fn check_views(&self, train: &[usize]) -> Result<(), StageError> {
        let bars = self.network.config().window_bars;
        let (mut equal, mut pairs) = (0, 0);
        // The views of a small batch may be equal by chance; a small training split is drawn from again.
        for step in 0.. {
            for items in train.chunks(self.parameters.batch) {
                let views =
                    self.views(&self.samples.gather(items), items.len(), step, self.streams);
                let masked = masked_bars(
                    &self.streams.stream("mask"),
                    step,
                    2 * items.len(),
                    bars,
                    self.parameters.mask_probability,
                );
                equal += equal_pairs(&views, &masked, items.len(), bars);
                pairs += items.len();
                if pairs >= VIEWS_CHECKED {
                    return if 2 * equal > pairs {
                        Err(degenerate(equal, pairs))
                    } else {
                        Ok(())
                    };
                }
            }
        }
        Ok(())
    }

    /// Two views of each window, all first views before all second ones.
    fn views(&self, original: &[f32], windows: usize, step: u64, streams: Streams) -> Vec<f32> {
        let mut views = [original, original].concat();
        let (jitter, scaling) = (self.parameters.jitter, self.parameters.scaling);
        let size = original.len() / windows;
        if scaling > 0.0 {
            let stream = streams.stream("scaling");
            let first = step * 2 * windows as u64;
            for (window, values) in views.chunks_mut(size).enumerate() {
                let factor = 1.0 + scaling * (2.0 * unit(stream.word(first + window as u64)) - 1.0);
                for value in values {
                    *value *= factor as f32;
                }
            }
        }
        if jitter > 0.0 {
            let stream = streams.stream("jitter");
            let first = step * 4 * original.len() as u64;
            views
                .par_chunks_mut(size)
                .enumerate()
                .for_each(|(window, values)| {
                    for (i, value) in values.iter_mut().enumerate() {
                        let at = first + 2 * (window * size + i) as u64;
                        let radius = (-2.0 * math::ln(unit(stream.word(at)))).sqrt();
                        let normal =
                            radius * math::cos(std::f64::consts::TAU * unit(stream.word(at + 1)));
                        *value += (jitter * normal) as f32;
                    }
                });
        }
        views
    }
}

impl Task for Pretraining<'_> {
    fn parameters(&self) -> &Parameters {
        self.network.parameters()
    }

    fn is_trained(&self, name: &str) -> bool {
        let is_for_contrast =
            name.starts_with("projection.") || name.starts_with("encoder.pooling.");
        let is_for_reconstruction = name.starts_with("reconstruction.");
        (!is_for_contrast || self.parameters.contrastive_weight > 0.0)
            && (!is_for_reconstruction || self.parameters.reconstruction_weight > 0.0)
    }

    fn loss(&self, batch: &[usize], step: u64) -> Result<Loss, StageError> {
        let pass = Pass::training(self.network.config().dropout, self.streams.seed(), step);
        self.evaluate(batch, step, self.streams, &pass)
    }

    fn validation_loss(&self, batch: &[usize], index: u64) -> Result<Loss, StageError> {
        // Another seed, so that the masks of validation are not those of the first steps.
        let streams = Streams::new(self.streams.stream("validation").next_u64());
        let frozen = Self {
            network: self.network.frozen(),
            ..*self
        };
        frozen.evaluate(batch, index, streams, &Pass::inference())
    }
}

/// What reconstruction would cost without learning anything: mean squared errors of taking each feature's mean over the
/// batch, and of taking the nearest earlier bar of the view that is not masked (a later one where there is none).
fn trivial_reconstructions(
    original: &[f32],
    masked: &[usize],
    windows: usize,
    bars: usize,
) -> [f64; 2] {
    let n_bars = windows * bars;
    let inputs = original.len() / n_bars;
    let bar_of = |bar: usize| &original[bar % n_bars * inputs..][..inputs];
    let mut mean = vec![0.0; inputs];
    for row in original.chunks_exact(inputs) {
        for (sum, &value) in mean.iter_mut().zip(row) {
            *sum += f64::from(value) / n_bars as f64;
        }
    }
    let mut is_masked = vec![false; 2 * n_bars];
    for &bar in masked {
        is_masked[bar] = true;
    }
    let neighbour = |bar: usize| {
        let first = bar - bar % bars;
        let earlier = (first..bar).rev().find(|&other| !is_masked[other]);
        earlier.or_else(|| (bar + 1..first + bars).find(|&other| !is_masked[other]))
    };
    let mut sums = [0.0; 2];
    for &bar in masked {
        let guess = neighbour(bar);
        for (i, &value) in bar_of(bar).iter().enumerate() {
            let value = f64::from(value);
            let near = guess.map_or(mean[i], |guess| f64::from(bar_of(guess)[i]));
            sums[0] += (value - mean[i]) * (value - mean[i]);
            sums[1] += (value - near) * (value - near);
        }
    }
    sums.map(|sum| sum / (masked.len() * inputs) as f64)
}

/// The encoder's parameters, the token that stands for a masked bar, and the heads for reconstruction and contrast.
fn specification(config: &TransformerConfig) -> Specification {
    let mut s = config.encoder();
    s.add("mask_token", &[config.d_model], Initial::SmallNormal);
    s.add_linear("reconstruction.hidden", config.d_model, config.d_model);
    s.add_linear("reconstruction.output", config.d_model, config.inputs);
    s.add_linear("projection.hidden", config.d_model, config.d_model);
    s.add_linear("projection.output", config.d_model, PROJECTION_WIDTH);
    s
}

fn degenerate(equal: usize, pairs: usize) -> StageError {
    StageError::data(format!(
        "the two views of a window are equal for {equal} of {pairs} windows: nothing to contrast"
    ))
    .with_help("raise `mask_probability`, `jitter` or `scaling`, or set `contrastive_weight` to 0")
}

fn collapsed(step: u64) -> StageError {
    StageError::data(format!(
        "the encoder makes the two views of every window the same vector at step {step}: it has collapsed"
    ))
    .with_help("lower the learning rate, or set `contrastive_weight` to 0")
}

/// How many of `windows` windows have two equal views: the same bars masked, and the same values in the others.
fn equal_pairs(views: &[f32], masked: &[usize], windows: usize, bars: usize) -> usize {
    let n_bars = windows * bars;
    let inputs = views.len() / (2 * n_bars);
    let mut is_masked = vec![false; 2 * n_bars];
    for &bar in masked {
        is_masked[bar] = true;
    }
    let bits = |bar: usize| views[bar * inputs..][..inputs].iter().map(|v| v.to_bits());
    let same = |bar: usize| {
        is_masked[bar] == is_masked[bar + n_bars]
            && (is_masked[bar] || bits(bar).eq(bits(bar + n_bars)))
    };
    (0..windows)
        .filter(|window| (window * bars..(window + 1) * bars).all(same))
        .count()
}

/// Which of `windows * bars` bars are masked at `step`, ascending; at least one.
fn masked_bars(
    stream: &Stream,
    step: u64,
    windows: usize,
    bars: usize,
    probability: f64,
) -> Arc<[usize]> {
    let n = windows * bars;
    let first = step * n as u64;
    let threshold = (probability * 4_294_967_296.0) as u32;
    let mut masked: Vec<usize> = (0..n)
        .filter(|&bar| stream.word(first + bar as u64) < threshold)
        .collect();
    if masked.is_empty() {
        masked.push(stream.word(first) as usize % n);
    }
    masked.into()
}

/// A word as a number inside (0, 1).
fn unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::training::toy;

    pub(crate) fn small() -> Pretrain {
        Pretrain {
            d_model: 16,
            heads: 4,
            layers: 2,
            feed_forward: 32,
            epochs: 4,
            batch: 16,
            learning_rate: 3e-3,
            warmup_epochs: 0.5,
            jitter: 0.01,
            scaling: 0.1,
            ..Pretrain::default()
        }
    }

    #[test]
    fn learns_to_reconstruct_and_to_tell_windows_apart() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Pretrain {
            epochs: 12,
            ..small()
        };

        let outputs = toy::run(&stage, toy::parts(directory.path(), 300), 2).unwrap();

        let natron_artifacts::Artifact::Metrics(metrics) = &outputs["metrics"] else {
            panic!("metrics")
        };
        for curve in [
            "curves.train.reconstruction",
            "curves.validation.reconstruction",
            "curves.train.contrastive",
        ] {
            let values = metrics.series(curve).unwrap();
            assert!(values[11] < 0.95 * values[0], "{curve}: {values:?}");
        }
        let natron_artifacts::Artifact::Model(model) = &outputs["model"] else {
            panic!("model")
        };
        assert!(
            model
                .tensors
                .keys()
                .all(|name| name.starts_with("encoder."))
        );
        Transformer::from_model(model).unwrap();
    }

    #[test]
    fn trivial_reconstructions_are_those_of_mean_and_nearest_earlier_bar() {
        // Two windows of three bars with one feature; two views.
        let original = [1.0, 2.0, 4.0, 10.0, 10.0, 9.0];

        // First view: the last bar of the first window. Second view: the first two bars of the second one.
        let [by_mean, by_neighbour] = trivial_reconstructions(&original, &[2, 9, 10], 2, 3);

        assert!((by_mean - (4.0 + 16.0 + 16.0) / 3.0).abs() < 1e-12);
        assert!((by_neighbour - (4.0 + 1.0 + 1.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn every_parameter_receives_a_gradient() {
        for pooling in [Pooling::Mean, Pooling::Last, Pooling::Attention] {
            let directory = tempfile::tempdir().unwrap();
            let stage = Pretrain { pooling, ..small() };
            let context = toy::context(&stage, toy::parts(directory.path(), 100));
            let samples = Samples::read(&context).unwrap();
            let config = stage.config(toy::FEATURES, toy::WINDOW_BARS);
            let task = Pretraining::new(&stage, config, &samples, context.streams()).unwrap();

            let loss = task.loss(&[0, 10, 20, 30, 40, 50], 0).unwrap();

            toy::check_gradients(task.parameters(), &loss.total);
        }
    }

    #[test]
    fn two_views_of_a_window_are_masked_independently() {
        let stream = Streams::new(1).stream("mask");

        let masked = masked_bars(&stream, 3, 200, 96, 0.15);

        let share = masked.len() as f64 / (200.0 * 96.0);
        assert!((share - 0.15).abs() < 0.01, "{share}");
        let first: Vec<usize> = masked.iter().filter(|&&bar| bar < 9600).copied().collect();
        let both = first
            .iter()
            .filter(|bar| masked.binary_search(&(*bar + 9600)).is_ok())
            .count();
        assert!((both as f64 / 9600.0 - 0.0225).abs() < 0.006, "{both}");
        assert_ne!(masked_bars(&stream, 4, 200, 96, 0.15), masked);
        assert_eq!(masked_bars(&stream, 4, 2, 8, 1e-9).len(), 1);
    }

    #[test]
    fn a_collapsed_encoder_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Pretrain {
            jitter: 0.0,
            scaling: 0.0,
            dropout: 0.0,
            ..small()
        };
        let context = toy::context(&stage, toy::parts(directory.path(), 100));
        let samples = Samples::read(&context).unwrap();
        let config = stage.config(toy::FEATURES, toy::WINDOW_BARS);
        let task = Pretraining::new(&stage, config, &samples, context.streams()).unwrap();
        let items = [0, 20, 40, 60];
        let original = samples.gather(&items);
        let similarity = |masked: Vec<usize>| {
            let views = task.views(&original, items.len(), 0, task.streams);
            task.terms(&original, &views, &masked.into(), &Pass::inference())
                .unwrap()
                .1
        };

        // The same bars masked in both views, without any other change: two equal views.
        assert!(similarity(vec![1, 9, 4 * 8 + 1, 4 * 8 + 9]) > SAME);
        assert!(similarity(vec![1, 9, 4 * 8 + 3, 4 * 8 + 12, 50, 59]) < SAME);
        // A collapsed encoder has equal views whatever it is shown.
        for (name, variable) in task.parameters().iter() {
            if name == "encoder.norm.gain" {
                variable
                    .set(&Tensor::zeros(16, candle_core::DType::F32, &Device::Cpu).unwrap())
                    .unwrap();
            }
        }
        let error = task.loss(&items, 7).err().unwrap().to_string();
        assert!(error.contains("the same vector at step 7"), "{error}");
    }

    #[test]
    fn a_collapse_matters_only_where_views_are_contrasted() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Pretrain {
            contrastive_weight: 0.0,
            mask_probability: 1e-6,
            jitter: 0.0,
            scaling: 0.0,
            dropout: 0.0,
            ..small()
        };

        assert!(toy::run(&stage, toy::parts(directory.path(), 100), 1).is_ok());
    }

    #[test]
    fn a_mask_that_hides_nothing_leaves_nothing_to_contrast() {
        for (dropout, scaling, jitter, is_refused) in [
            (0.0, 0.0, 0.0, true),
            (0.1, 0.0, 0.0, true),
            (0.1, 0.1, 0.0, false),
            (0.1, 0.0, 0.01, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let stage = Pretrain {
                mask_probability: 1e-6,
                epochs: 1,
                dropout,
                scaling,
                jitter,
                ..small()
            };
            let result = toy::run(&stage, toy::parts(directory.path(), 100), 1);

            assert_eq!(result.is_err(), is_refused);
            if let Err(error) = result {
                let error = error.to_string();
                assert!(error.contains("are equal for 2"), "{error}");
                assert!(error.contains("nothing to contrast"), "{error}");
            }
        }
    }

    #[test]
    fn says_which_parameter_makes_no_sense() {
        for (stage, expected) in [
            (
                Pretrain {
                    heads: 3,
                    ..small()
                },
                "3 heads do not divide",
            ),
            (
                Pretrain {
                    mask_probability: 0.0,
                    ..small()
                },
                "must lie between 0 and 1",
            ),
            (
                Pretrain {
                    batch: 1,
                    ..small()
                },
                "at least two windows",
            ),
            (
                Pretrain {
                    temperature: 0.0,
                    ..small()
                },
                "above 0",
            ),
            (
                Pretrain {
                    learning_rate: -1.0,
                    ..small()
                },
                "`learning_rate`",
            ),
        ] {
            let error = stage.signature(&Schemas::new()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one() {
        let directory = tempfile::tempdir().unwrap();
        let expected =
            toy::digests(&toy::run(&small(), toy::parts(directory.path(), 150), 1).unwrap());
        let directory = tempfile::tempdir().unwrap();
        for step in [1, 4, 9, 13, 17] {
            let mut parts = toy::parts(directory.path(), 150);
            parts.observer = toy::StopAt::new(step, parts.cancel.clone());
            let stopped = toy::run(&small(), parts, 2);
            assert!(
                matches!(stopped, Err(StageError::Interrupted)),
                "at step {step}"
            );
        }

        let resumed = toy::run(&small(), toy::parts(directory.path(), 150), 2).unwrap();

        assert_eq!(toy::digests(&resumed), expected);
    }
}
