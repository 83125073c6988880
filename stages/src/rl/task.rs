//! What every algorithm of reinforcement shares: the task, the loop over updates, and acting with a trained policy.

use std::collections::BTreeMap;

use natron_artifacts::{Progress, StageContext, StageError, Stream, Streams, Tensor};
use natron_kernels::math::single::{exp, tanh};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Algorithm, Rl,
    environment::{Account, N_ACCOUNT, N_ACTIONS, Terms},
    market::{Market, Segment},
    network::{Perceptron, Sizes, log_softmax},
    ppo::Ppo,
    sac::{self, Sac},
};
use crate::{
    backtest::performance::Returns,
    training::checkpoint::{Checkpoints, Newest, Tensors},
};

/// Updates between two checkpoints.
const CHECKPOINT_EVERY: u32 = 5;

/// What training sees.
pub(super) struct Task<'a> {
    pub(super) parameters: &'a Rl,
    pub(super) market: &'a Market,
    pub(super) training: &'a [Segment],
    pub(super) validation: &'a [Segment],
    pub(super) terms: Terms,
    pub(super) streams: Streams,
}

/// The trained policy and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trained {
    /// The best policy on validation.
    pub(super) policy: Perceptron,
    /// Its critics by name.
    pub(super) critics: Vec<(&'static str, Perceptron)>,
    /// After how many updates.
    pub(super) best_update: u32,
    /// Its Sharpe ratio per bar on validation.
    pub(super) best_score: f64,
    /// One value an update, by name.
    pub(super) curves: BTreeMap<String, Vec<f64>>,
}

/// Where one environment is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Cursor {
    pub(super) point: usize,
    /// One past the last point of the episode.
    pub(super) end: usize,
    pub(super) account: Account,
}

/// What the policy did at a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Acted {
    pub(super) point: usize,
    /// The position from the next open on, as a share of equity.
    pub(super) position: f64,
    pub(super) decision: Decision,
    /// What the next bar brought; `None` where the segment ends.
    pub(super) net_return: Option<f64>,
}

/// How a policy came to its position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Decision {
    /// The most probable action, and the probabilities of all.
    Action {
        action: usize,
        probabilities: [f32; N_ACTIONS],
    },
    /// The centre of a distribution over positions, and the standard deviation before it is squashed.
    Centre { deviation: f32 },
}

/// What every algorithm keeps from update to update: how far it is and what it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) update: u32,
    pub(super) best_update: u32,
    pub(super) best_score: f64,
    pub(super) validation_score: f64,
    pub(super) curves: BTreeMap<String, Vec<f64>>,
}

impl Journal {
    /// Before the first update; `score` is the untrained policy's.
    pub(super) fn new(score: f64) -> Self {
        Self {
            update: 0,
            best_update: 0,
            best_score: score,
            validation_score: score,
            curves: BTreeMap::new(),
        }
    }

    /// Ends an update: looks at the validation split where that is due. True if `policy` is the best by now.
    pub(super) fn end_update(&mut self, task: &Task<'_>, policy: &Perceptron) -> bool {
        self.update += 1;
        let Rl {
            updates,
            validate_every,
            ..
        } = *task.parameters;
        if !self.update.is_multiple_of(validate_every) && self.update != updates {
            return false;
        }
        let score = task.score(policy, task.validation);
        self.validation_score = score;
        // The untrained network is nobody's policy, and without validation the last one is as good as any.
        let is_best =
            self.best_update == 0 || score > self.best_score || task.validation.is_empty();
        if is_best {
            self.best_score = score;
            self.best_update = self.update;
        }
        is_best
    }

    /// Adds what was measured in the update.
    ///
    /// # Errors
    ///
    /// [`StageError::NonFinite`] with the curve and the update.
    pub(super) fn record(&mut self, measured: &[(&str, f64)]) -> Result<(), StageError> {
        let update = self.update;
        let validated = ("validation_sharpe_ratio_per_bar", self.validation_score);
        for &(name, value) in measured.iter().chain([&validated]) {
            if !value.is_finite() {
                return Err(StageError::NonFinite {
                    message: format!(
                        "`{name}` is {value} at update {update}; lower `learning_rate`"
                    ),
                });
            }
            self.curves.entry(name.to_owned()).or_default().push(value);
        }
        Ok(())
    }
}

/// An algorithm between two updates. All that it is follows from the task and its saved state.
pub(super) trait Learner<'a>: Sized {
    /// All but the tensors.
    type State: Serialize + DeserializeOwned;

    fn new(task: &'a Task<'a>) -> Self;

    /// As it was saved; `None` where something is missing.
    fn restore(
        task: &'a Task<'a>,
        state: Self::State,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Option<Self>;

    fn save(&mut self) -> (&Self::State, Tensors);

    /// Plays and learns once.
    ///
    /// # Errors
    ///
    /// [`StageError::NonFinite`] with the update.
    fn update(&mut self) -> Result<(), StageError>;

    fn journal(&self) -> &Journal;

    fn finish(self) -> Trained;
}

impl<'a> Task<'a> {
    pub(super) fn sizes(&self, extra_inputs: usize, outputs: usize) -> Sizes {
        Sizes {
            inputs: self.market.width + N_ACCOUNT + extra_inputs,
            hidden: self.parameters.hidden,
            outputs,
        }
    }

    /// Trains, going on from the newest checkpoint of the same computation.
    ///
    /// # Errors
    ///
    /// [`StageError::Interrupted`] after a checkpoint when the run is cancelled; [`StageError::NonFinite`] with the update.
    pub(super) fn train(&'a self, context: &StageContext) -> Result<Trained, StageError> {
        match self.parameters.algorithm {
            Algorithm::Ppo => self.train_with::<Ppo<'a>>(context),
            Algorithm::Sac => self.train_with::<Sac<'a>>(context),
        }
    }

    fn train_with<L: Learner<'a>>(&'a self, context: &StageContext) -> Result<Trained, StageError> {
        let checkpoints = Checkpoints::new(context.checkpoints()?, context.identity());
        let Newest { found, passed_over } = checkpoints.newest::<L::State>()?;
        for message in passed_over {
            context.warn(&message);
        }
        let mut learner = match found.and_then(|(state, tensors)| L::restore(self, state, &tensors))
        {
            Some(learner) => {
                context.log(&format!(
                    "going on after update {}",
                    learner.journal().update
                ));
                learner
            }
            None => L::new(self),
        };
        let save = |learner: &mut L| {
            let update = learner.journal().update;
            let (state, tensors) = learner.save();
            checkpoints.write(u64::from(update), state, &tensors)
        };
        while learner.journal().update < self.parameters.updates {
            if context.cancel().is_set() {
                save(&mut learner)?;
                return Err(StageError::Interrupted);
            }
            learner.update()?;
            let journal = learner.journal();
            let update = journal.update;
            let last = |name: &str| journal.curves.get(name).and_then(|c| c.last().copied());
            for name in journal.curves.keys() {
                if let Some(value) = last(name) {
                    context.metric(name, u64::from(update), value);
                }
            }
            context.progress(&Progress {
                done: u64::from(update),
                total: Some(u64::from(self.parameters.updates)),
                unit: "updates",
                loss: last("policy_loss"),
                note: String::new(),
            });
            let is_asked_for = context.conditions().checkpoint_every.is_some();
            if is_asked_for || update % CHECKPOINT_EVERY == 0 {
                save(&mut learner)?;
            }
        }
        Ok(learner.finish())
    }

    /// A new episode at a random point of the training segments, each step equally likely to be its first.
    pub(super) fn start(&self, starts: &mut Stream) -> Cursor {
        let steps = |segment: &Segment| (segment.end - segment.start - 1) as u64;
        let total: u64 = self.training.iter().map(steps).sum();
        let mut k = starts.below(total);
        for segment in self.training {
            if k < steps(segment) {
                let point = segment.start + k as usize;
                return Cursor {
                    point,
                    end: segment.end.min(point + self.parameters.episode_bars + 1),
                    account: Account::new(),
                };
            }
            k -= steps(segment);
        }
        unreachable!("a number below the sum falls into one of its parts")
    }

    /// Adds what an account sees at `point` to `x`.
    pub(super) fn observe(&self, point: usize, account: &Account, x: &mut Vec<f32>) {
        x.extend(self.market.view(point));
        x.extend(account.state(&self.terms));
    }

    /// The policy's decisions along `segments`, without chance, from a new account at the start of each: what it does at each
    /// point and what each step brought. The last point of a segment acts too, but its step lies outside.
    pub(super) fn act(&self, policy: &Perceptron, segments: &[Segment]) -> Vec<Acted> {
        let hidden = policy.sizes.hidden;
        let mut acted = Vec::new();
        for segment in segments {
            let n = segment.end - segment.start;
            let views = &self.market.embeddings
                [segment.start * self.market.width..segment.end * self.market.width];
            let prepared = policy.prepared(views, n, N_ACCOUNT);
            let mut account = Account::new();
            for k in 0..n {
                let state = account.state(&self.terms);
                let outputs = policy.finish(&prepared[k * hidden..][..hidden], &state);
                let (position, decision) = self.decide(outputs, &account);
                let point = segment.start + k;
                let step = account.step(self.market, point, position, &self.terms);
                acted.push(Acted {
                    point,
                    position,
                    decision,
                    net_return: (k + 1 < n).then_some(step.net_return),
                });
            }
        }
        acted
    }

    /// The position that the policy's outputs stand for.
    fn decide(&self, mut outputs: Vec<f32>, account: &Account) -> (f64, Decision) {
        match self.parameters.algorithm {
            Algorithm::Ppo => {
                log_softmax(&mut outputs);
                let action =
                    (1..N_ACTIONS).fold(
                        0,
                        |best, a| if outputs[a] > outputs[best] { a } else { best },
                    );
                let decision = Decision::Action {
                    action,
                    probabilities: [0, 1, 2].map(|a| exp(outputs[a])),
                };
                (account.target(action, self.terms.allow_short), decision)
            }
            Algorithm::Sac => {
                let position = self.terms.position(tanh(outputs[0]));
                let deviation = exp(sac::log_deviation(outputs[1]));
                (position, Decision::Centre { deviation })
            }
        }
    }

    /// The policy's Sharpe ratio per bar after costs; 0 when it stays out of the market.
    pub(super) fn score(&self, policy: &Perceptron, segments: &[Segment]) -> f64 {
        let returns: Vec<f64> = self
            .act(policy, segments)
            .iter()
            .filter_map(|a| a.net_return)
            .collect();
        Returns::new(&returns)
            .and_then(|returns| returns.sharpe_ratio)
            .unwrap_or(0.0)
    }
}
