//! The training loop: shuffled batches, clipping, schedule, validation, early stopping, best weights, checkpoints.
//!
//! The loop's state is a function of the task, the options and the seed alone; a checkpoint holds all of it, so that a run
//! that was interrupted at any step ends with the bits of one that was not.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use candle_core::{Tensor, backprop::GradStore};
use natron_artifacts::{Metrics, Progress, StageContext, StageError, Tensor as Stored};
use natron_kernels::adamw::{AdamW, global_norm, is_finite};
use serde::{Deserialize, Serialize};

use super::{
    average::Average,
    checkpoint::{Checkpoints, Newest, Tensors},
    options::TrainingOptions,
    schedule::{Plateau, learning_rate},
};
use crate::models::{parameters::Parameters, tensor_error};

/// Shortest time between two checkpoints.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(2);

/// Checkpoints may take this share of the time: the interval is at least so many times what the last one took.
const INTERVAL_PER_COST: u32 = 30;

/// A loss and the terms it is made of.
pub(crate) struct Loss {
    /// What is differentiated: a scalar.
    pub(crate) total: Tensor,
    /// The terms, unweighted, by name.
    pub(crate) terms: Vec<(&'static str, f64)>,
}

/// What is trained.
pub(crate) trait Task {
    /// All trained parameters.
    fn parameters(&self) -> &Parameters;

    /// Whether the loss depends on the parameter `name`; not where the weight of all terms that it is in is 0.
    fn is_trained(&self, name: &str) -> bool;

    /// The loss of the training items `batch`; `step` counts the batches that have been through the network.
    fn loss(&self, batch: &[usize], step: u64) -> Result<Loss, StageError>;

    /// The loss of the validation items `batch`, without anything random that depends on the step.
    fn validation_loss(&self, batch: &[usize], index: u64) -> Result<Loss, StageError>;
}

/// How a training run ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// The weights of the epoch with the best validation loss.
    pub(crate) best: BTreeMap<String, Stored>,
    /// That epoch, from 1.
    pub(crate) best_epoch: u32,
    /// Its validation loss, or its training loss where there is nothing to validate on.
    pub(crate) best_loss: f64,
    /// Steps taken.
    pub(crate) steps: u64,
    /// Whether training ended before its last epoch.
    pub(crate) stopped_early: bool,
    /// What was measured, by name, one value an epoch.
    pub(crate) curves: BTreeMap<String, Vec<f64>>,
}

impl Outcome {
    /// The curves and how it ended.
    pub(crate) fn metrics(&self) -> Result<Metrics, String> {
        let mut metrics = Metrics::new();
        for (name, values) in &self.curves {
            metrics.set_series(&format!("curves.{name}"), values)?;
        }
        metrics.set_count("best_epoch", self.best_epoch.into())?;
        metrics.set("best_loss", self.best_loss)?;
        metrics.set_count("steps", self.steps)?;
        metrics.set_count("stopped_early", self.stopped_early.into())?;
        metrics.set_count(
            "parameters",
            self.best.values().map(|t| t.values.len() as u64).sum(),
        )?;
        Ok(metrics)
    }
}

/// The loop. `train` and `validation` list the items of the task.
pub(crate) struct Trainer<'a> {
    pub(crate) options: &'a TrainingOptions,
    pub(crate) train: &'a [usize],
    /// How often each item of `train` is drawn, as a weight: an epoch draws with replacement. `None` takes each item once.
    pub(crate) weights: Option<&'a [f64]>,
    pub(crate) validation: &'a [usize],
}

/// Live curves get at most about so many points an epoch.
const POINTS_PER_EPOCH: u64 = 200;

/// All but the tensors of a run between two steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    /// Finished epochs.
    epoch: u32,
    /// Finished steps of the epoch under way: the cursor into its shuffled order.
    cursor: u64,
    /// Finished steps in all.
    step: u64,
    plateau: Plateau,
    best_loss: Option<f64>,
    best_epoch: u32,
    epochs_without_progress: u32,
    /// Sums over the finished steps of the epoch under way, by curve.
    sums: BTreeMap<String, f64>,
    curves: BTreeMap<String, Vec<f64>>,
}

/// A mean loss, its terms and its gradients.
type Mean = (f64, Vec<(&'static str, f64)>, GradStore);

/// First and second moments of every parameter.
type Moments = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

impl Trainer<'_> {
    /// Trains until the last epoch or early stopping, going on from the newest checkpoint of the same computation.
    ///
    /// # Errors
    ///
    /// [`StageError::Interrupted`] after a checkpoint when the run is cancelled; [`StageError::NonFinite`] with step and
    /// tensor when a loss or gradient is not finite.
    pub(crate) fn run(
        &self,
        task: &dyn Task,
        context: &StageContext,
    ) -> Result<Outcome, StageError> {
        self.options.check()?;
        if self.train.is_empty() {
            return Err(StageError::data("there is no training window")
                .with_help("give more bars, shorter windows or a smaller purge"));
        }
        let checkpoints = Checkpoints::new(context.checkpoints()?, context.identity());
        let Newest { found, passed_over } = checkpoints.newest::<State>()?;
        for message in passed_over {
            context.warn(&message);
        }
        let mut run = Run::new(self, task, context, checkpoints)?;
        if let Some((state, tensors)) = found {
            context.log(&format!("going on from step {}", state.step));
            run.restore(state, &tensors)?;
        }
        run.train()?;
        Ok(run.finish())
    }

    fn epoch_size(&self) -> usize {
        self.options
            .windows_per_epoch
            .unwrap_or(usize::MAX)
            .min(self.train.len())
    }

    /// Items that go through the network at once.
    fn batch(&self) -> usize {
        self.options.batch.min(self.epoch_size())
    }

    /// Items of a step: of all batches that it accumulates, which are whole.
    fn step_size(&self) -> usize {
        let batches = self.epoch_size() / self.batch();
        self.batch() * self.options.accumulation.min(batches)
    }

    /// Steps of an epoch. What does not fill a step is left out; the next epoch's order is another.
    fn steps_per_epoch(&self) -> u64 {
        (self.epoch_size() / self.step_size()) as u64
    }

    /// Validation batches; a rest of one item joins the batch before, since contrastive losses need two.
    fn validation_batches(&self) -> impl Iterator<Item = &[usize]> {
        let items = self.validation;
        let size = self.options.batch.max(2);
        let whole = if items.len() > size && items.len() % size == 1 {
            items.len() - size - 1
        } else {
            items.len()
        };
        items[..whole]
            .chunks(size)
            .chain((whole < items.len()).then(|| &items[whole..]))
    }
}

struct Run<'a> {
    trainer: &'a Trainer<'a>,
    task: &'a dyn Task,
    context: &'a StageContext,
    checkpoints: Checkpoints,
    state: State,
    moments: Moments,
    average: Option<Average>,
    best: BTreeMap<String, Stored>,
    last_checkpoint: Instant,
    interval: Duration,
}

impl<'a> Run<'a> {
    fn new(
        trainer: &'a Trainer<'a>,
        task: &'a dyn Task,
        context: &'a StageContext,
        checkpoints: Checkpoints,
    ) -> Result<Self, StageError> {
        let average = trainer
            .options
            .average_decay
            .map(|decay| Average::new(decay, task.parameters()))
            .transpose()?;
        let moments = task
            .parameters()
            .iter()
            .map(|(name, variable)| {
                let n = variable.elem_count();
                (name.to_owned(), (vec![0.0; n], vec![0.0; n]))
            })
            .collect();
        Ok(Self {
            trainer,
            task,
            context,
            checkpoints,
            state: State {
                epoch: 0,
                cursor: 0,
                step: 0,
                plateau: Plateau::new(),
                best_loss: None,
                best_epoch: 0,
                epochs_without_progress: 0,
                sums: BTreeMap::new(),
                curves: BTreeMap::new(),
            },
            moments,
            average,
            best: BTreeMap::new(),
            last_checkpoint: Instant::now(),
            interval: context
                .conditions()
                .checkpoint_every
                .unwrap_or(SHORTEST_INTERVAL),
        })
    }

    fn train(&mut self) -> Result<(), StageError> {
        while self.state.epoch < self.trainer.options.epochs && !self.is_stopped_early() {
            self.epoch()?;
        }
        Ok(())
    }

    fn is_stopped_early(&self) -> bool {
        self.trainer
            .options
            .early_stop_epochs
            .is_some_and(|limit| self.state.epochs_without_progress >= limit)
    }

    fn epoch(&mut self) -> Result<(), StageError> {
        let order = self.order();
        let steps = self.trainer.steps_per_epoch();
        let size = self.trainer.step_size();
        while self.state.cursor < steps {
            self.stop_if_cancelled()?;
            let start = self.state.cursor as usize * size;
            self.step(&order[start..start + size], steps)?;
            if self.last_checkpoint.elapsed() >= self.interval {
                self.write_checkpoint()?;
            }
        }
        self.end_epoch(steps)
    }

    /// Writes a checkpoint and stops, if somebody asked to stop.
    fn stop_if_cancelled(&mut self) -> Result<(), StageError> {
        if self.context.cancel().is_set() {
            self.write_checkpoint()?;
            return Err(StageError::Interrupted);
        }
        Ok(())
    }

    /// The items of the epoch under way in its order, which depends on the seed and the epoch alone.
    fn order(&self) -> Vec<usize> {
        let (train, size) = (self.trainer.train, self.trainer.epoch_size());
        let epoch = self.state.epoch;
        if let Some(weights) = self.trainer.weights {
            let mut stream = self.context.stream(&format!("sample/{epoch}"));
            return draw(weights, size, || stream.uniform())
                .map(|i| train[i])
                .collect();
        }
        let mut order = train.to_vec();
        self.context
            .stream(&format!("shuffle/{epoch}"))
            .shuffle(&mut order);
        order.truncate(size);
        order
    }

    /// One step of the optimizer, along the mean gradient of the batches that `items` makes.
    fn step(&mut self, items: &[usize], steps: u64) -> Result<(), StageError> {
        let options = self.trainer.options;
        let (value, terms, gradients) = self.mean_gradients(items)?;
        let norm = self.gradient_norm(&gradients)?;
        let scale = match options.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        };
        let rate = learning_rate(options, &self.state.plateau, self.state.step, steps);
        let optimizer = AdamW::new(rate, options.weight_decay);
        let parameters = self.task.parameters();
        for (name, variable) in parameters.iter() {
            let (first, second) = self
                .moments
                .get_mut(name)
                .expect("every parameter has moments");
            // One without a gradient is not trained: `gradient_norm` has seen to that.
            if let Some(gradient) = gradients.get(variable) {
                optimizer
                    .update(
                        variable,
                        gradient,
                        scale,
                        self.state.step + 1,
                        (first, second),
                    )
                    .map_err(tensor_error)?;
            }
        }
        self.state.step += 1;
        self.state.cursor += 1;
        if let Some(average) = &mut self.average {
            average.observe(parameters, self.state.step)?;
        }
        let measured = [
            ("train.loss".to_owned(), value),
            ("gradient_norm".to_owned(), norm),
            ("learning_rate".to_owned(), rate),
        ];
        let terms = terms
            .into_iter()
            .map(|(name, value)| (format!("train.{name}"), value));
        let is_point = self
            .state
            .step
            .is_multiple_of(steps.div_ceil(POINTS_PER_EPOCH));
        for (name, value) in measured.into_iter().chain(terms) {
            if is_point {
                self.context
                    .metric(&format!("step.{name}"), self.state.step, value);
            }
            *self.state.sums.entry(name).or_insert(0.0) += value;
        }
        self.report(value, steps);
        Ok(())
    }

    /// Loss, its terms and gradients as means over the batches of `items`.
    fn mean_gradients(&self, items: &[usize]) -> Result<Mean, StageError> {
        let options = self.trainer.options;
        let batches = items.len() / self.trainer.batch();
        let share = 1.0 / batches as f64;
        let mut mean: Option<Mean> = None;
        for (index, batch) in items.chunks(self.trainer.batch()).enumerate() {
            let pass = self.state.step * options.accumulation as u64 + index as u64;
            let loss = self.task.loss(batch, pass)?;
            let value = self.finite_value(&loss)?;
            let mut gradients = loss.total.backward().map_err(tensor_error)?;
            if batches == 1 {
                return Ok((value, loss.terms, gradients));
            }
            let Some((total, terms, sums)) = &mut mean else {
                for (_, variable) in self.task.parameters().iter() {
                    if let Some(gradient) = gradients.remove(variable) {
                        let scaled = (gradient * share).map_err(tensor_error)?;
                        gradients.insert(variable, scaled);
                    }
                }
                let terms = loss.terms.iter().map(|&(n, v)| (n, v * share)).collect();
                mean = Some((value * share, terms, gradients));
                continue;
            };
            *total += value * share;
            for (sum, (_, value)) in terms.iter_mut().zip(loss.terms) {
                sum.1 += value * share;
            }
            for (_, variable) in self.task.parameters().iter() {
                if let Some(gradient) = gradients.remove(variable) {
                    let scaled = (gradient * share).map_err(tensor_error)?;
                    let sum = match sums.remove(variable) {
                        Some(sum) => (sum + scaled).map_err(tensor_error)?,
                        None => scaled,
                    };
                    sums.insert(variable, sum);
                }
            }
        }
        Ok(mean.expect("a step has at least one batch"))
    }

    fn finite_value(&self, loss: &Loss) -> Result<f64, StageError> {
        let value = f64::from(loss.total.to_scalar::<f32>().map_err(tensor_error)?);
        if value.is_finite() {
            return Ok(value);
        }
        let step = self.state.step;
        let term = loss.terms.iter().find(|(_, value)| !value.is_finite());
        let term = term.map_or(String::new(), |(name, value)| {
            format!(" (term `{name}` is {value})")
        });
        Err(StageError::NonFinite {
            message: format!("the loss is {value} at step {step}{term}"),
        })
    }

    fn gradient_norm(&self, gradients: &GradStore) -> Result<f64, StageError> {
        let parameters = self.task.parameters();
        let step = self.state.step;
        let mut all = Vec::new();
        for (name, variable) in parameters.iter() {
            match gradients.get(variable) {
                Some(gradient) => all.push(gradient),
                None if self.task.is_trained(name) => {
                    return Err(StageError::data(format!(
                        "the loss does not depend on the parameter `{name}` at step {step}"
                    ))
                    .with_help("leave the parameter out of the network, or use it in the loss"));
                }
                None => {}
            }
        }
        let norm = global_norm(all.into_iter()).map_err(tensor_error)?;
        if norm.is_finite() {
            return Ok(norm);
        }
        for (name, variable) in parameters.iter() {
            if let Some(gradient) = gradients.get(variable)
                && !is_finite(gradient).map_err(tensor_error)?
            {
                return Err(StageError::NonFinite {
                    message: format!("the gradient of `{name}` is not finite at step {step}"),
                });
            }
        }
        Err(StageError::NonFinite {
            message: format!("the gradients' norm is {norm} at step {step}"),
        })
    }

    fn report(&self, loss: f64, steps: u64) {
        let epochs = self.trainer.options.epochs;
        let best = self
            .state
            .best_loss
            .map_or(String::new(), |best| format!(", best {best:.4}"));
        let epoch = (self.state.epoch + 1).min(epochs);
        self.context.progress(&Progress {
            done: self.state.step,
            total: Some(u64::from(epochs) * steps),
            unit: "steps",
            loss: Some(loss),
            note: format!("epoch {epoch}/{epochs}{best}"),
        });
    }

    fn end_epoch(&mut self, steps: u64) -> Result<(), StageError> {
        let validated = self.validate()?;
        let sums = std::mem::take(&mut self.state.sums);
        let mut measured: BTreeMap<String, f64> = sums
            .into_iter()
            .map(|(name, sum)| (name, sum / steps as f64))
            .collect();
        measured.extend(validated);
        let loss = measured
            .get("validation.loss")
            .or_else(|| measured.get("train.loss"))
            .copied();
        let loss = loss.expect("an epoch has at least one step");
        let options = self.trainer.options;
        self.state.plateau.observe(loss, self.state.epoch, options);
        let is_warm_up = options.is_warm_up(self.state.epoch);
        self.state.epoch += 1;
        self.state.cursor = 0;
        if self.state.best_loss.is_none_or(|best| loss < best) {
            self.state.best_loss = Some(loss);
            self.state.best_epoch = self.state.epoch;
            self.state.epochs_without_progress = 0;
            self.best = match &self.average {
                Some(average) => average.weights.clone(),
                None => self.task.parameters().to_stored()?,
            };
        } else if !is_warm_up {
            self.state.epochs_without_progress += 1;
        }
        for (name, value) in measured {
            self.context
                .metric(&name, u64::from(self.state.epoch), value);
            self.state.curves.entry(name).or_default().push(value);
        }
        Ok(())
    }

    /// Means over the validation items, by curve, with the weights that may be kept; nothing where there are none.
    fn validate(&mut self) -> Result<BTreeMap<String, f64>, StageError> {
        let validated = match &self.average {
            Some(average) => average.lend(self.task.parameters(), || self.validation_means()),
            None => self.validation_means(),
        };
        if let Err(StageError::Interrupted) = validated {
            self.write_checkpoint()?;
        }
        validated
    }

    fn validation_means(&self) -> Result<BTreeMap<String, f64>, StageError> {
        let mut sums = BTreeMap::new();
        let mut count = 0;
        let trainer = self.trainer;
        for (index, batch) in trainer.validation_batches().enumerate() {
            if self.context.cancel().is_set() {
                return Err(StageError::Interrupted);
            }
            let loss = self.task.validation_loss(batch, index as u64)?;
            let value = self.finite_value(&loss)?;
            let terms = loss
                .terms
                .iter()
                .map(|&(name, value)| (format!("validation.{name}"), value));
            for (name, value) in std::iter::once(("validation.loss".to_owned(), value)).chain(terms)
            {
                *sums.entry(name).or_insert(0.0) += value * batch.len() as f64;
            }
            count += batch.len();
        }
        for sum in sums.values_mut() {
            *sum /= count as f64;
        }
        Ok(sums)
    }

    fn write_checkpoint(&mut self) -> Result<(), StageError> {
        let start = Instant::now();
        let mut tensors = Tensors::new();
        let parameters = self.task.parameters().to_stored()?;
        for (name, tensor) in parameters {
            let (first, second) = &self.moments[&name];
            let moment = |values: &Vec<f32>| Stored {
                shape: tensor.shape.clone(),
                values: values.clone(),
            };
            tensors.insert(format!("first/{name}"), moment(first));
            tensors.insert(format!("second/{name}"), moment(second));
            tensors.insert(format!("parameter/{name}"), tensor);
        }
        tensors.extend(
            self.best
                .iter()
                .map(|(name, tensor)| (format!("best/{name}"), tensor.clone())),
        );
        if let Some(average) = &self.average {
            tensors.extend(
                average
                    .weights
                    .iter()
                    .map(|(name, tensor)| (format!("average/{name}"), tensor.clone())),
            );
        }
        self.checkpoints
            .write(self.state.step, &self.state, &tensors)?;
        self.last_checkpoint = Instant::now();
        self.interval = match self.context.conditions().checkpoint_every {
            Some(interval) => interval,
            None => SHORTEST_INTERVAL.max(start.elapsed() * INTERVAL_PER_COST),
        };
        Ok(())
    }

    fn restore(&mut self, state: State, tensors: &Tensors) -> Result<(), StageError> {
        let part = |prefix: &str| -> Tensors {
            tensors
                .iter()
                .filter_map(|(name, tensor)| {
                    Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
                })
                .collect()
        };
        let (mut first, mut second) = (part("first/"), part("second/"));
        for (name, moments) in &mut self.moments {
            let (Some(m), Some(v)) = (first.remove(name), second.remove(name)) else {
                return Err(StageError::data(format!(
                    "the checkpoint has no moments of `{name}`"
                )));
            };
            *moments = (m.values, v.values);
        }
        self.task.parameters().set(&part("parameter/"))?;
        if let Some(average) = &mut self.average {
            average.weights = part("average/");
        }
        self.best = part("best/");
        self.state = state;
        Ok(())
    }

    fn finish(self) -> Outcome {
        let stopped_early = self.state.epoch < self.trainer.options.epochs;
        Outcome {
            best: self.best,
            best_epoch: self.state.best_epoch,
            best_loss: self
                .state
                .best_loss
                .expect("at least one epoch was trained"),
            steps: self.state.step,
            stopped_early,
            curves: self.state.curves,
        }
    }
}

/// `n` indices drawn with replacement, each as often as its weight says; `uniform` gives numbers from 0 to below 1.
fn draw(
    weights: &[f64],
    n: usize,
    mut uniform: impl FnMut() -> f64,
) -> impl Iterator<Item = usize> {
    let mut sum = 0.0;
    let ends: Vec<f64> = weights
        .iter()
        .map(|&weight| {
            sum += weight;
            sum
        })
        .collect();
    (0..n).map(move |_| {
        let at = uniform() * sum;
        ends.partition_point(|&end| end <= at).min(ends.len() - 1)
    })
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Streams;

    use super::*;

    #[test]
    fn draws_each_item_as_often_as_its_weight_says() {
        let mut stream = Streams::new(5).stream("draw");
        let mut counts = [0_u32; 4];
        for i in draw(&[1.0, 0.0, 2.0, 1.0], 40_000, || stream.uniform()) {
            counts[i] += 1;
        }

        assert_eq!(counts[1], 0);
        for (count, expected) in [
            (counts[0], 10_000),
            (counts[2], 20_000),
            (counts[3], 10_000),
        ] {
            assert!(count.abs_diff(expected) < 400, "{counts:?}");
        }
    }
}
