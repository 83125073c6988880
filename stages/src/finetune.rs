//! `uses = "finetune"`: the transformer with its four heads, trained on the labels.

use std::sync::Arc;

use natron_artifacts::{
    Column, ColumnType, Kind, Metrics, Model, ModelCard, PortSchema, Progress, Scaler, Schemas,
    Signature, Stage, StageContext, StageError, Streams, Table, Threads,
};
use natron_kernels::loss::{LossOptions, binary_cross_entropy, cross_entropy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        parameters::Parameters,
        tensor_error,
        transformer::{
            ARCHITECTURE, DIRECTIONS, Logits, Pass, Pooling, Probabilities, REGIMES, Transformer,
            TransformerConfig, head_names,
        },
    },
    training::{
        class_weights::balanced,
        options::{ScheduleKind, TrainingOptions},
        samples::{Samples, Split, expected_sizes, require_same_data, scaler, whole_numbers},
        trainer::{Loss, Task, Trainer},
    },
};

/// How classes are weighted in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// All the same.
    #[default]
    None,
    /// Inversely to how often they occur in the training split.
    Balanced,
}

/// Which windows of the training split make an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Each once, in an order drawn anew for each epoch.
    #[default]
    Shuffled,
    /// Drawn with replacement such that every direction comes up equally often.
    Balanced,
}

/// Trains the transformer and its four heads (buy, sell, direction, regime) on the labels.
///
/// Inputs `matrix`, `windows` and `scaler` of a `dataset` stage and optionally `encoder`, the model of a `pretrain` stage of
/// the same sizes. Outputs `model`, `metrics` (loss curves, best epoch) and `predictions` (the best model's probabilities
/// for every window of every split). The training split trains, the validation split chooses the best epoch; the test
/// split is only predicted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Finetune {
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
    /// Weight of the buy loss.
    pub buy_weight: f64,
    /// Weight of the sell loss.
    pub sell_weight: f64,
    /// Weight of the direction loss.
    pub direction_weight: f64,
    /// Weight of the regime loss.
    pub regime_weight: f64,
    /// Class weights of all four losses: `none`, or `balanced` over the training split.
    pub class_weights: ClassWeights,
    /// Share of each target that is spread over all classes, from 0 to below 1.
    pub label_smoothing: f64,
    /// Exponent of the focal loss; 0 is plain cross-entropy.
    pub focal_gamma: f64,
    /// Weight of buy and sell examples against the rest in the focal loss, from 0 to 1; 0 weighs them alike.
    pub focal_alpha: f64,
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
    /// Which windows make an epoch: `shuffled` takes each once, `balanced` draws every direction equally often.
    pub sampling: Sampling,
}

impl Default for Finetune {
    fn default() -> Self {
        Self {
            d_model: 256,
            heads: 8,
            layers: 6,
            feed_forward: 1024,
            dropout: 0.1,
            pooling: Pooling::Mean,
            buy_weight: 1.0,
            sell_weight: 1.0,
            direction_weight: 1.5,
            regime_weight: 1.2,
            class_weights: ClassWeights::None,
            label_smoothing: 0.0,
            focal_gamma: 0.0,
            focal_alpha: 0.0,
            epochs: 100,
            batch: 64,
            accumulation: 1,
            windows_per_epoch: None,
            learning_rate: 5e-5,
            weight_decay: 1e-5,
            clip_norm: 1.0,
            warmup_epochs: 0.0,
            schedule: ScheduleKind::Plateau,
            plateau_factor: 0.5,
            plateau_patience: 5,
            minimum_learning_rate: 1e-7,
            early_stop_epochs: 15,
            average_decay: 0.0,
            sampling: Sampling::Shuffled,
        }
    }
}

impl Finetune {
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
        for (name, value) in [
            ("buy_weight", self.buy_weight),
            ("sell_weight", self.sell_weight),
            ("direction_weight", self.direction_weight),
            ("regime_weight", self.regime_weight),
            ("focal_gamma", self.focal_gamma),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(StageError::parameter(
                    name,
                    format!("must not be negative, got {value}"),
                ));
            }
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let found = self.label_smoothing;
            return Err(StageError::parameter(
                "label_smoothing",
                format!("must be from 0 to below 1, got {found}"),
            ));
        }
        if !(0.0..1.0).contains(&self.focal_alpha) {
            let found = self.focal_alpha;
            return Err(StageError::parameter(
                "focal_alpha",
                format!("must be from 0 to below 1, got {found}"),
            ));
        }
        if self.focal_alpha > 0.0 && self.class_weights == ClassWeights::Balanced {
            return Err(StageError::parameter(
                "focal_alpha",
                "it weighs the classes, and so do balanced class weights",
            )
            .with_help("use one of `focal_alpha` and `class_weights`"));
        }
        Ok(())
    }

    /// Compares the sizes that a pretrained encoder states with ours.
    fn check_encoder(&self, found: &serde_json::Value) -> Result<(), StageError> {
        let ours =
            serde_json::to_value(self.config(0, 0)).map_err(|e| StageError::data(e.to_string()))?;
        for name in ["d_model", "heads", "layers", "feed_forward", "pooling"] {
            if found[name] != ours[name] {
                let (found, ours) = (&found[name], &ours[name]);
                let message =
                    format!("`{name}` is {ours} here and {found} in the encoder that comes in");
                return Err(StageError::parameter(name, message)
                    .with_help("give `pretrain` and `finetune` the same sizes"));
            }
        }
        Ok(())
    }

    /// The labels' losses, with class weights from the training split.
    fn losses(&self, labels: &Labels, train: &[usize]) -> [LossOptions; 4] {
        let of = |values: &[u8], classes: usize| {
            let class_weights = match self.class_weights {
                ClassWeights::Balanced => balanced(train.iter().map(|&i| values[i]), classes),
                ClassWeights::None if classes == 2 && self.focal_alpha > 0.0 => {
                    vec![1.0 - self.focal_alpha, self.focal_alpha]
                }
                ClassWeights::None => Vec::new(),
            };
            LossOptions {
                class_weights,
                label_smoothing: self.label_smoothing,
                focal_gamma: self.focal_gamma,
            }
        };
        [
            of(&labels.train_buy, 2),
            of(&labels.train_sell, 2),
            of(&labels.direction, DIRECTIONS.len()),
            of(&labels.regime, REGIMES.len()),
        ]
    }
}

impl Stage for Finetune {
    fn signature(&self, inputs: &Schemas) -> Result<Signature, StageError> {
        self.check()?;
        if let Some(network) = inputs
            .get("encoder")
            .and_then(|schema| schema.facts.get("network"))
        {
            self.check_encoder(network)?;
        }
        let labels = [
            "row",
            "ts_ns",
            "split",
            "buy",
            "sell",
            "direction",
            "regime",
            "train_buy",
            "train_sell",
        ];
        let (features, bars) = expected_sizes(inputs);
        Ok(Signature::new()
            .input_table("matrix", ["ts_ns"])
            .input_table("windows", labels)
            .input_table("scaler", ["feature", "mean", "scale"])
            .optional_input("encoder", Kind::Model)
            .output("model", PortSchema::of(Kind::Model))
            .output("metrics", PortSchema::of(Kind::Metrics))
            .output("predictions", PortSchema::table(prediction_columns()))
            .threads(Threads::All)
            .memory_bytes(self.config(features, bars).training_bytes(self.batch)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let samples = Samples::read(context)?;
        let labels = Labels::read(context)?;
        let scaler = scaler(context, samples.source.features())?;
        let config = self.config(
            samples.source.features().len(),
            samples.source.window_bars(),
        );
        let network = Transformer::classifier(config, context.streams())?;
        if context.optional("encoder").is_some() {
            let encoder = context.model("encoder")?;
            self.adopt(&network, &encoder, &samples, scaler.as_ref())?;
        }
        let (train, validation) = (samples.of(Split::Train), samples.of(Split::Validation));
        let losses = self.losses(&labels, &train);
        let task = Finetuning {
            parameters: self,
            network,
            samples: &samples,
            labels: &labels,
            losses,
            streams: context.streams(),
        };
        let options = self.options();
        let weights = match self.sampling {
            Sampling::Shuffled => None,
            Sampling::Balanced => {
                let classes =
                    balanced(train.iter().map(|&i| labels.direction[i]), DIRECTIONS.len());
                let weight = |&i: &usize| classes[labels.direction[i] as usize];
                Some(train.iter().map(weight).collect::<Vec<f64>>())
            }
        };
        let outcome = Trainer {
            options: &options,
            train: &train,
            weights: weights.as_deref(),
            validation: &validation,
        }
        .run(&task, context)?;
        task.network.parameters().set(&outcome.best)?;

        let predictions = predictions(&task.network, &samples, context)?;
        let mut metrics = outcome.metrics().map_err(StageError::data)?;
        task.describe(&mut metrics, &train)
            .map_err(StageError::data)?;
        let card = ModelCard {
            architecture: ARCHITECTURE.into(),
            hyper_parameters: serde_json::to_value(task.network.config())
                .map_err(|e| StageError::data(e.to_string()))?,
            features: samples.source.features().to_vec(),
            feature_plan: samples.feature_plan.clone(),
            scaler,
            window_bars: samples.source.window_bars() as u32,
            label_horizon_bars: samples.label_horizon_bars,
            heads: head_names(),
            trained_on: samples.digest,
            made_by: String::new(),
            extra: samples.card_extra(),
        };
        context.write(
            "model",
            Model {
                card,
                tensors: outcome.best,
            },
        )?;
        context.write("metrics", metrics)?;
        context.write("predictions", predictions)
    }
}

impl Finetune {
    /// Starts the network's encoder from a pretrained one.
    fn adopt(
        &self,
        network: &Transformer,
        encoder: &Model,
        samples: &Samples,
        scaler: Option<&Scaler>,
    ) -> Result<(), StageError> {
        self.check_encoder(&encoder.card.hyper_parameters)?;
        if encoder.card.features != samples.source.features() {
            return Err(StageError::data(
                "the encoder was trained on other features than the matrix has",
            )
            .with_help("give `pretrain` and `finetune` the same dataset"));
        }
        require_same_data(&encoder.card, "encoder", samples.digest)?;
        if encoder.card.scaler.is_some()
            && scaler.is_some()
            && encoder.card.scaler.as_ref() != scaler
        {
            return Err(StageError::data(
                "the encoder was trained with another scaler than comes in here",
            )
            .with_help("give `pretrain` and `finetune` the `scaler` of the same dataset"));
        }
        let pretrained = Transformer::from_model(encoder)?;
        pretrained.check_source(&samples.source)?;
        let mut tensors = network.parameters().to_stored()?;
        let encoder = pretrained.parameters().to_stored()?;
        tensors.extend(
            encoder
                .into_iter()
                .filter(|(name, _)| name.starts_with("encoder.")),
        );
        network.parameters().set(&tensors)
    }
}

/// The labels of the windows, in the order of their table.
struct Labels {
    buy: Vec<u8>,
    sell: Vec<u8>,
    direction: Vec<u8>,
    regime: Vec<u8>,
    /// Balanced and perturbed on the training split, as `buy` elsewhere.
    train_buy: Vec<u8>,
    /// The same for `sell`.
    train_sell: Vec<u8>,
}

impl Labels {
    fn read(context: &StageContext) -> Result<Self, StageError> {
        let windows = context.table("windows")?;
        let classes = |name: &str, n: usize| -> Result<Vec<u8>, StageError> {
            Ok(whole_numbers(&windows, name, n)?
                .into_iter()
                .map(|class| class as u8)
                .collect())
        };
        Ok(Self {
            buy: classes("buy", 2)?,
            sell: classes("sell", 2)?,
            direction: classes("direction", DIRECTIONS.len())?,
            regime: classes("regime", REGIMES.len())?,
            train_buy: classes("train_buy", 2)?,
            train_sell: classes("train_sell", 2)?,
        })
    }
}

struct Finetuning<'a> {
    parameters: &'a Finetune,
    network: Transformer,
    samples: &'a Samples,
    labels: &'a Labels,
    /// Of buy, sell, direction, regime.
    losses: [LossOptions; 4],
    streams: Streams,
}

impl Finetuning<'_> {
    fn evaluate(
        &self,
        items: &[usize],
        buy: &[u8],
        sell: &[u8],
        pass: &Pass,
    ) -> Result<Loss, StageError> {
        let inputs = self.samples.gather(items);
        let of = |labels: &[u8]| -> Arc<[u8]> { items.iter().map(|&i| labels[i]).collect() };
        let targets = [
            of(buy),
            of(sell),
            of(&self.labels.direction),
            of(&self.labels.regime),
        ];
        self.terms(&inputs, &targets, pass).map_err(tensor_error)
    }

    fn terms(
        &self,
        inputs: &[f32],
        targets: &[Arc<[u8]>; 4],
        pass: &Pass,
    ) -> candle_core::Result<Loss> {
        let network = &self.network;
        let states = network.encode(&network.windows(inputs)?, None, pass)?;
        let Logits {
            buy,
            sell,
            direction,
            regime,
        } = network.logits(&network.pool(&states)?, pass)?;
        let losses = [
            (
                "buy",
                self.parameters.buy_weight,
                binary_cross_entropy(&buy, &targets[0], &self.losses[0])?,
            ),
            (
                "sell",
                self.parameters.sell_weight,
                binary_cross_entropy(&sell, &targets[1], &self.losses[1])?,
            ),
            (
                "direction",
                self.parameters.direction_weight,
                cross_entropy(&direction, &targets[2], &self.losses[2])?,
            ),
            (
                "regime",
                self.parameters.regime_weight,
                cross_entropy(&regime, &targets[3], &self.losses[3])?,
            ),
        ];
        let mut total = None;
        let mut terms = Vec::new();
        for (name, weight, loss) in losses {
            terms.push((name, f64::from(loss.to_scalar::<f32>()?)));
            let weighted = (loss * weight)?;
            total = Some(match total {
                None => weighted,
                Some(sum) => (sum + weighted)?,
            });
        }
        Ok(Loss {
            total: total.expect("there are four losses"),
            terms,
        })
    }

    /// What was trained on, for the metrics.
    fn describe(&self, metrics: &mut Metrics, train: &[usize]) -> Result<(), String> {
        for (name, split) in [
            ("train", Split::Train),
            ("validation", Split::Validation),
            ("test", Split::Test),
        ] {
            metrics.set_count(
                &format!("windows.{name}"),
                self.samples.of(split).len() as u64,
            )?;
        }
        for (name, values, classes) in [
            ("buy", &self.labels.train_buy, 2),
            ("sell", &self.labels.train_sell, 2),
            ("direction", &self.labels.direction, DIRECTIONS.len()),
            ("regime", &self.labels.regime, REGIMES.len()),
        ] {
            let mut shares = vec![0.0; classes];
            for &i in train {
                shares[values[i] as usize] += 1.0 / train.len() as f64;
            }
            metrics.set_series(&format!("train_label_shares.{name}"), &shares)?;
        }
        for (name, options) in ["buy", "sell", "direction", "regime"]
            .into_iter()
            .zip(&self.losses)
        {
            if !options.class_weights.is_empty() {
                metrics.set_series(&format!("class_weights.{name}"), &options.class_weights)?;
            }
        }
        Ok(())
    }
}

impl Task for Finetuning<'_> {
    fn parameters(&self) -> &Parameters {
        self.network.parameters()
    }

    fn is_trained(&self, name: &str) -> bool {
        [
            ("heads.buy.", self.parameters.buy_weight),
            ("heads.sell.", self.parameters.sell_weight),
            ("heads.direction.", self.parameters.direction_weight),
            ("heads.regime.", self.parameters.regime_weight),
        ]
        .into_iter()
        .all(|(head, weight)| weight > 0.0 || !name.starts_with(head))
    }

    fn loss(&self, batch: &[usize], step: u64) -> Result<Loss, StageError> {
        let pass = Pass::training(self.network.config().dropout, self.streams.seed(), step);
        self.evaluate(
            batch,
            &self.labels.train_buy,
            &self.labels.train_sell,
            &pass,
        )
    }

    fn validation_loss(&self, batch: &[usize], _: u64) -> Result<Loss, StageError> {
        let frozen = Self {
            network: self.network.frozen(),
            losses: self.losses.clone(),
            ..*self
        };
        frozen.evaluate(
            batch,
            &self.labels.buy,
            &self.labels.sell,
            &Pass::inference(),
        )
    }
}

/// Columns of the table `predictions`.
fn prediction_columns() -> Vec<Column> {
    let probability = |name: String, of: &str| {
        Column::new(name, ColumnType::F32).description(format!("probability of {of}"))
    };
    let mut columns = vec![
        Column::time_index(),
        Column::new("row", ColumnType::I64)
            .description("row of the window's last bar in the matrix"),
        Column::new("split", ColumnType::I64).description("0 train, 1 validation, 2 test"),
        probability("buy".into(), "a buy label"),
        probability("sell".into(), "a sell label"),
    ];
    columns.extend(
        DIRECTIONS
            .map(|name| probability(format!("direction_{name}"), &format!("direction {name}"))),
    );
    columns.extend(
        REGIMES
            .iter()
            .enumerate()
            .map(|(i, name)| probability(format!("regime_{i}"), &format!("regime {name}"))),
    );
    columns.push(
        Column::new("confidence", ColumnType::F32)
            .description("mean of buy, sell and the largest direction and regime probabilities"),
    );
    columns
}

/// The network's probabilities for all windows.
fn predictions(
    network: &Transformer,
    samples: &Samples,
    context: &StageContext,
) -> Result<Table, StageError> {
    let total = samples.rows.len();
    let predictions = network.predictions(&samples.source, &samples.rows, |done| {
        context.progress(&Progress {
            done: done as u64,
            total: Some(total as u64),
            unit: "windows",
            loss: None,
            note: "predicting".into(),
        });
        context.check_cancelled()
    })?;
    let of =
        |f: &dyn Fn(&Probabilities) -> f32| -> Vec<f32> { predictions.iter().map(f).collect() };
    let mut columns = prediction_columns().into_iter().skip(3);
    let mut next = || columns.next().expect("as many columns as values");
    let mut table = Table::builder()
        .time_index(samples.ts_ns.clone())
        .i64(
            prediction_columns().swap_remove(1),
            samples.rows.iter().map(|&row| row as i64).collect(),
        )
        .i64(
            prediction_columns().swap_remove(2),
            samples.splits.iter().map(|split| split.id()).collect(),
        )
        .f32(next(), of(&|p| p.buy))
        .f32(next(), of(&|p| p.sell));
    for class in 0..DIRECTIONS.len() {
        table = table.f32(next(), of(&|p| p.direction[class]));
    }
    for class in 0..REGIMES.len() {
        table = table.f32(next(), of(&|p| p.regime[class]));
    }
    Ok(table
        .f32(next(), of(&Probabilities::confidence))
        .fact("trained_on", samples.digest.to_hex().into())
        .build()?)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, sync::atomic::Ordering};

    use natron_artifacts::Artifact;

    use super::*;
    use crate::{pretrain::Pretrain, training::toy};

    fn small() -> Finetune {
        Finetune {
            d_model: 16,
            heads: 4,
            layers: 2,
            feed_forward: 32,
            epochs: 3,
            batch: 16,
            learning_rate: 3e-3,
            class_weights: ClassWeights::Balanced,
            label_smoothing: 0.05,
            ..Finetune::default()
        }
    }

    fn metrics(outputs: &BTreeMap<String, Artifact>) -> &Metrics {
        let Artifact::Metrics(metrics) = &outputs["metrics"] else {
            panic!("metrics")
        };
        metrics
    }

    fn predictions_of(outputs: &BTreeMap<String, Artifact>) -> &Table {
        let Artifact::Table(table) = &outputs["predictions"] else {
            panic!("predictions")
        };
        table
    }

    #[test]
    fn learns_labels_and_predicts_every_window() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Finetune {
            epochs: 20,
            ..small()
        };

        let outputs = toy::run(&stage, toy::parts(directory.path(), 400), 2).unwrap();

        let values = metrics(&outputs).series("curves.validation.buy").unwrap();
        assert!(
            values.iter().copied().fold(f64::INFINITY, f64::min) < 0.7 * values[0],
            "{values:?}"
        );
        let Artifact::Table(table) = &outputs["predictions"] else {
            panic!("predictions")
        };
        assert_eq!(table.n_rows(), 393);
        let windows = &toy::dataset(400)["windows"];
        let (buy, split) = (windows.i64("buy").unwrap(), table.i64("split").unwrap());
        let predicted = table.f32("buy").unwrap();
        let test: Vec<usize> = (0..393).filter(|&i| split[i] == 2).collect();
        let hits = test
            .iter()
            .filter(|&&i| (predicted[i] > 0.5) == (buy[i] == 1))
            .count();
        assert!(
            hits as f64 > 0.85 * test.len() as f64,
            "{hits} of {}",
            test.len()
        );
        let Artifact::Model(model) = &outputs["model"] else {
            panic!("model")
        };
        assert_eq!(model.card.features, ["f0", "f1", "f2", "f3", "f4"]);
        assert_eq!(model.card.scaler.as_ref().unwrap().scale, [2.0; 5]);
        assert_eq!(
            (model.card.window_bars, model.card.label_horizon_bars),
            (8, 3)
        );
        assert_eq!(model.card.feature_plan["set"], "toy");
    }

    #[test]
    fn overfits_a_tiny_batch() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Finetune {
            epochs: 150,
            dropout: 0.0,
            label_smoothing: 0.0,
            class_weights: ClassWeights::None,
            early_stop_epochs: 0,
            schedule: ScheduleKind::Constant,
            ..small()
        };

        let outputs = toy::run(&stage, toy::parts(directory.path(), 30), 1).unwrap();

        let values = metrics(&outputs).series("curves.train.loss").unwrap();
        assert!(
            values[149] < 0.02 * values[0],
            "{} to {}",
            values[0],
            values[149]
        );
    }

    #[test]
    fn every_parameter_receives_a_gradient() {
        for pooling in [Pooling::Mean, Pooling::Last, Pooling::Attention] {
            let directory = tempfile::tempdir().unwrap();
            let stage = Finetune { pooling, ..small() };
            let context = toy::context(&stage, toy::parts(directory.path(), 100));
            let (samples, labels) = (
                Samples::read(&context).unwrap(),
                Labels::read(&context).unwrap(),
            );
            let network = Transformer::classifier(
                stage.config(toy::FEATURES, toy::WINDOW_BARS),
                context.streams(),
            )
            .unwrap();
            let losses = stage.losses(&labels, &samples.of(Split::Train));
            let task = Finetuning {
                parameters: &stage,
                network,
                samples: &samples,
                labels: &labels,
                losses,
                streams: context.streams(),
            };

            let loss = task.loss(&[0, 10, 20, 30, 40, 50], 0).unwrap();

            toy::check_gradients(task.parameters(), &loss.total);
        }
    }

    #[test]
    fn threads_do_not_change_a_byte() {
        let with = |threads| {
            let directory = tempfile::tempdir().unwrap();
            toy::digests(&toy::run(&small(), toy::parts(directory.path(), 200), threads).unwrap())
        };

        let one = with(1);

        assert_eq!(with(2), one);
        assert_eq!(with(4), one);
    }

    #[test]
    fn the_seed_changes_the_result() {
        let with = |seed| {
            let directory = tempfile::tempdir().unwrap();
            let mut parts = toy::parts(directory.path(), 100);
            parts.seed = seed;
            toy::digests(&toy::run(&small(), parts, 1).unwrap())
        };

        assert_ne!(with(1)["model"], with(2)["model"]);
    }

    #[test]
    fn an_interrupted_run_ends_with_the_bits_of_an_undisturbed_one() {
        let directory = tempfile::tempdir().unwrap();
        let expected =
            toy::digests(&toy::run(&small(), toy::parts(directory.path(), 120), 1).unwrap());
        // 4 steps an epoch, 12 in all: stop at each of them once.
        for step in 1..12 {
            let directory = tempfile::tempdir().unwrap();
            let mut parts = toy::parts(directory.path(), 120);
            let observer = toy::StopAt::new(step, parts.cancel.clone());
            parts.observer = observer.clone();
            let stopped = toy::run(&small(), parts, 2);
            assert!(
                matches!(stopped, Err(StageError::Interrupted)),
                "at step {step}"
            );
            assert_eq!(observer.seen.load(Ordering::SeqCst), step);

            let resumed = toy::run(&small(), toy::parts(directory.path(), 120), 1).unwrap();

            assert_eq!(toy::digests(&resumed), expected, "stopped at step {step}");
        }
    }

    #[test]
    fn a_damaged_checkpoint_costs_steps_but_no_bits() {
        let directory = tempfile::tempdir().unwrap();
        let expected =
            toy::digests(&toy::run(&small(), toy::parts(directory.path(), 120), 1).unwrap());
        let directory = tempfile::tempdir().unwrap();
        for step in [3, 7] {
            let mut parts = toy::parts(directory.path(), 120);
            parts.observer = toy::StopAt::new(step, parts.cancel.clone());
            assert!(toy::run(&small(), parts, 1).is_err());
        }
        let mut files: Vec<_> = fs::read_dir(directory.path().join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert_eq!(files.len(), 2);
        let mut bytes = fs::read(&files[1]).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(&files[1], bytes).unwrap();

        let mut parts = toy::parts(directory.path(), 120);
        let observer = toy::StopAt::new(4, parts.cancel.clone());
        parts.observer = observer.clone();
        assert!(toy::run(&small(), parts, 1).is_err());
        assert_eq!(
            observer.seen.load(Ordering::SeqCst),
            4,
            "it goes on from step 3"
        );
        let resumed = toy::run(&small(), toy::parts(directory.path(), 120), 1).unwrap();

        assert_eq!(toy::digests(&resumed), expected);
    }

    #[test]
    fn another_computation_does_not_go_on_from_our_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = toy::parts(directory.path(), 120);
        parts.observer = toy::StopAt::new(5, parts.cancel.clone());
        assert!(toy::run(&small(), parts, 1).is_err());

        let mut parts = toy::parts(directory.path(), 120);
        parts.identity = natron_artifacts::Digest::of(b"another");
        let observer = toy::StopAt::new(1, parts.cancel.clone());
        parts.observer = observer.clone();
        assert!(toy::run(&small(), parts, 1).is_err());

        assert_eq!(observer.seen.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn starts_from_a_pretrained_encoder_of_its_own_sizes() {
        let directory = tempfile::tempdir().unwrap();
        let pretrain = Pretrain {
            d_model: 16,
            heads: 4,
            layers: 2,
            feed_forward: 32,
            epochs: 1,
            warmup_epochs: 0.0,
            batch: 16,
            ..Pretrain::default()
        };
        let encoder =
            toy::run(&pretrain, toy::parts(directory.path(), 120), 1).unwrap()["model"].clone();
        let with = |stage: &Finetune| {
            let directory = tempfile::tempdir().unwrap();
            toy::run(
                stage,
                toy::parts(directory.path(), 120).input("encoder", encoder.clone()),
                1,
            )
        };
        let still = Finetune {
            epochs: 1,
            learning_rate: 1e-12,
            weight_decay: 0.0,
            ..small()
        };

        let outputs = with(&still).unwrap();

        let (Artifact::Model(encoder), Artifact::Model(model)) = (&encoder, &outputs["model"])
        else {
            panic!("models")
        };
        for (name, tensor) in &encoder.tensors {
            for (a, b) in tensor.values.iter().zip(&model.tensors[name].values) {
                assert!((a - b).abs() < 1e-6, "`{name}`");
            }
        }
        let error = with(&Finetune {
            feed_forward: 64,
            ..small()
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("`feed_forward` is 64 here and 32 in the encoder"),
            "{error}"
        );
        let other = |change: &dyn Fn(&mut Model)| {
            let mut encoder = Model::clone(encoder);
            change(&mut encoder);
            let directory = tempfile::tempdir().unwrap();
            let parts = toy::parts(directory.path(), 120).input("encoder", encoder);
            toy::run(&small(), parts, 1).unwrap_err().to_string()
        };
        let error = other(&|m| m.card.trained_on = natron_artifacts::Digest::of(b"other rows"));
        assert!(error.contains("may be test rows here"), "{error}");
        let error = other(&|m| m.card.scaler.as_mut().unwrap().mean[0] += 1.0);
        assert!(error.contains("another scaler"), "{error}");
        assert_eq!(
            predictions_of(&outputs).fact("trained_on"),
            Some(&model.card.trained_on.to_hex().into())
        );
        let mut schemas = Schemas::new();
        schemas.push(
            "encoder",
            pretrain.signature(&Schemas::new()).unwrap().outputs[0]
                .schema
                .clone(),
        );
        let error = Finetune {
            layers: 3,
            ..small()
        }
        .signature(&schemas)
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("`layers` is 3 here and 2 in the encoder"),
            "{error}"
        );
    }

    #[test]
    fn names_step_and_tensor_where_numbers_end() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Finetune {
            learning_rate: 1e30,
            clip_norm: 0.0,
            ..small()
        };

        let error = toy::run(&stage, toy::parts(directory.path(), 120), 1).unwrap_err();

        assert!(matches!(error, StageError::NonFinite { .. }), "{error}");
        assert!(error.to_string().contains("step 1"), "{error}");
    }

    #[test]
    fn says_which_parameter_makes_no_sense() {
        for (stage, expected) in [
            (
                Finetune {
                    label_smoothing: 1.0,
                    ..small()
                },
                "from 0 to below 1",
            ),
            (
                Finetune {
                    focal_alpha: 0.25,
                    ..small()
                },
                "balanced class weights",
            ),
            (
                Finetune {
                    buy_weight: -1.0,
                    ..small()
                },
                "must not be negative",
            ),
            (
                Finetune {
                    plateau_factor: 1.0,
                    ..small()
                },
                "between 0 and 1",
            ),
            (
                Finetune {
                    epochs: 0,
                    ..small()
                },
                "`epochs` must be above 0",
            ),
            (
                Finetune {
                    accumulation: 0,
                    ..small()
                },
                "`accumulation` must be above 0",
            ),
            (
                Finetune {
                    average_decay: 1.0,
                    ..small()
                },
                "to below 1, got 1",
            ),
            (
                Finetune {
                    warmup_epochs: 3.5,
                    ..small()
                },
                "3.5 epochs of warm-up are more than the 3 epochs",
            ),
        ] {
            let error = stage.signature(&Schemas::new()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_head_without_weight_stays_as_it_was_and_one_that_the_loss_forgets_is_an_error() {
        let run = |stage: &Finetune| {
            let directory = tempfile::tempdir().unwrap();
            toy::run(stage, toy::parts(directory.path(), 60), 1)
        };
        let head = |outputs: &BTreeMap<String, Artifact>| {
            let Artifact::Model(model) = &outputs["model"] else {
                panic!("a model")
            };
            model.tensors["heads.sell.hidden.weight"].clone()
        };
        let without = |epochs| Finetune {
            sell_weight: 0.0,
            epochs,
            ..small()
        };

        let (short, long) = (run(&without(1)).unwrap(), run(&without(3)).unwrap());

        assert_eq!(head(&short), head(&long));
        let error = run(&Finetune {
            buy_weight: 0.0,
            sell_weight: 0.0,
            direction_weight: 0.0,
            regime_weight: 0.0,
            ..small()
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("does not depend on the parameter `encoder."),
            "{error}"
        );
    }

    #[test]
    fn focal_loss_and_cosine_schedule_train_too() {
        let directory = tempfile::tempdir().unwrap();
        let stage = Finetune {
            class_weights: ClassWeights::None,
            focal_gamma: 2.0,
            focal_alpha: 0.25,
            schedule: ScheduleKind::Cosine,
            warmup_epochs: 1.0,
            windows_per_epoch: Some(48),
            epochs: 8,
            ..small()
        };

        let outputs = toy::run(&stage, toy::parts(directory.path(), 200), 1).unwrap();

        let values = metrics(&outputs).series("curves.train.loss").unwrap();
        assert!(values[7] < values[0], "{values:?}");
        assert_eq!(metrics(&outputs).get("steps"), Some(24.0));
    }

    #[test]
    fn accumulated_batches_step_like_one_large_batch() {
        let run = |batch, accumulation| {
            let directory = tempfile::tempdir().unwrap();
            let stage = Finetune {
                batch,
                accumulation,
                dropout: 0.0,
                // Weighted means of parts are not the weighted mean of the whole.
                class_weights: ClassWeights::None,
                epochs: 2,
                ..small()
            };
            toy::run(&stage, toy::parts(directory.path(), 120), 1).unwrap()
        };

        let (large, small) = (run(32, 1), run(8, 4));

        assert_eq!(metrics(&large).get("steps"), metrics(&small).get("steps"));
        let losses = |outputs| metrics(outputs).series("curves.train.loss").unwrap();
        for (a, b) in losses(&large).into_iter().zip(losses(&small)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn an_average_of_the_weights_is_kept_in_their_place_and_survives_an_interruption() {
        let stage = Finetune {
            average_decay: 0.9,
            accumulation: 2,
            sampling: Sampling::Balanced,
            schedule: ScheduleKind::OneCycle,
            ..small()
        };
        let directory = tempfile::tempdir().unwrap();
        let whole = toy::run(&stage, toy::parts(directory.path(), 120), 1).unwrap();

        let directory = tempfile::tempdir().unwrap();
        let mut parts = toy::parts(directory.path(), 120);
        parts.observer = toy::StopAt::new(2, parts.cancel.clone());
        assert!(toy::run(&stage, parts, 1).is_err());
        let rest = toy::run(&stage, toy::parts(directory.path(), 120), 2).unwrap();

        assert_eq!(toy::digests(&whole), toy::digests(&rest));
        let plain = Finetune {
            average_decay: 0.0,
            ..stage
        };
        let directory = tempfile::tempdir().unwrap();
        let plain = toy::run(&plain, toy::parts(directory.path(), 120), 1).unwrap();
        assert_ne!(toy::digests(&whole)["model"], toy::digests(&plain)["model"]);
    }
}
