//! Proximal policy optimization (Schulman et al., 2017) with generalized advantages (Schulman et al., 2016).

use std::collections::BTreeMap;

use natron_artifacts::{StageError, Stream, Tensor};
use natron_kernels::math::single::exp;
use serde::{Deserialize, Serialize};

use super::{
    Rl,
    environment::N_ACTIONS,
    network::{Adam, Perceptron, log_softmax},
    task::{Cursor, Journal, Learner, Task, Trained},
};
use crate::training::checkpoint::Tensors;

/// All but the tensors between two updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    journal: Journal,
    adam_step: u64,
    cursors: Vec<Cursor>,
    /// Positions of the streams of actions, episode starts and minibatches.
    positions: [u64; 3],
}

/// The algorithm between two updates.
pub(super) struct Ppo<'a> {
    task: &'a Task<'a>,
    state: State,
    policy: Perceptron,
    value: Perceptron,
    adam_policy: Adam,
    adam_value: Adam,
    best_policy: Perceptron,
    best_value: Perceptron,
    actions: Stream,
    starts: Stream,
    minibatches: Stream,
}

/// One rollout: `steps` by `environments`, step by step.
struct Rollout {
    /// Observations \[samples, inputs\].
    x: Vec<f32>,
    action: Vec<usize>,
    log_probability: Vec<f32>,
    value: Vec<f32>,
    advantage: Vec<f32>,
    target: Vec<f32>,
    mean_reward: f64,
    mean_net_return: f64,
    mean_traded: f64,
}

impl<'a> Learner<'a> for Ppo<'a> {
    type State = State;

    fn new(task: &'a Task<'a>) -> Self {
        let streams = task.streams;
        // A nearly uniform policy at the start, and a critic near zero.
        let policy = Perceptron::random(
            task.sizes(0, N_ACTIONS),
            0.01,
            &mut streams.stream("rl.policy"),
        );
        let value = Perceptron::random(task.sizes(0, 1), 0.1, &mut streams.stream("rl.value"));
        let mut starts = streams.stream("rl.starts");
        let cursors = (0..task.parameters.environments)
            .map(|_| task.start(&mut starts))
            .collect();
        Self {
            state: State {
                journal: Journal::new(task.score(&policy, task.validation)),
                adam_step: 0,
                cursors,
                positions: [0; 3],
            },
            adam_policy: Adam::new(policy.sizes),
            adam_value: Adam::new(value.sizes),
            best_policy: policy.clone(),
            best_value: value.clone(),
            policy,
            value,
            actions: streams.stream("rl.actions"),
            starts,
            minibatches: streams.stream("rl.minibatches"),
            task,
        }
    }

    fn save(&mut self) -> (&State, Tensors) {
        self.state.positions =
            [&self.actions, &self.starts, &self.minibatches].map(Stream::position);
        let tensors = [
            ("policy", &self.policy),
            ("policy_first", &self.adam_policy.first),
            ("policy_second", &self.adam_policy.second),
            ("policy_best", &self.best_policy),
            ("value", &self.value),
            ("value_first", &self.adam_value.first),
            ("value_second", &self.adam_value.second),
            ("value_best", &self.best_value),
        ]
        .into_iter()
        .flat_map(|(prefix, network)| network.tensors(prefix))
        .collect();
        (&self.state, tensors)
    }

    fn restore(
        task: &'a Task<'a>,
        state: State,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Option<Self> {
        let policy = |name: &str| Perceptron::from_tensors(task.sizes(0, N_ACTIONS), name, tensors);
        let value = |name: &str| Perceptron::from_tensors(task.sizes(0, 1), name, tensors);
        let stream = |name: &str, position: u64| {
            let mut stream = task.streams.stream(name);
            stream.seek(position);
            stream
        };
        Some(Self {
            policy: policy("policy")?,
            adam_policy: Adam {
                first: policy("policy_first")?,
                second: policy("policy_second")?,
            },
            best_policy: policy("policy_best")?,
            value: value("value")?,
            adam_value: Adam {
                first: value("value_first")?,
                second: value("value_second")?,
            },
            best_value: value("value_best")?,
            actions: stream("rl.actions", state.positions[0]),
            starts: stream("rl.starts", state.positions[1]),
            minibatches: stream("rl.minibatches", state.positions[2]),
            state,
            task,
        })
    }

    /// One rollout and the passes over it.
    fn update(&mut self) -> Result<(), StageError> {
        let mut rollout = self.roll_out();
        let variance_left = unexplained(&rollout.value, &rollout.target);
        normalize(&mut rollout.advantage);
        let n = rollout.action.len();
        let mut order: Vec<usize> = (0..n).collect();
        let mut sums = Sums::default();
        for _ in 0..self.task.parameters.passes {
            self.minibatches.shuffle(&mut order);
            for batch in order.chunks(self.task.parameters.minibatch) {
                self.step(&rollout, batch, &mut sums)?;
            }
        }
        if self.state.journal.end_update(self.task, &self.policy) {
            self.best_policy = self.policy.clone();
            self.best_value = self.value.clone();
        }
        let count = sums.samples.max(1.0);
        self.state.journal.record(&[
            ("mean_reward", rollout.mean_reward),
            ("mean_net_return", rollout.mean_net_return),
            ("mean_traded", rollout.mean_traded),
            ("policy_loss", sums.policy_loss / count),
            ("value_loss", sums.value_loss / count),
            ("entropy", sums.entropy / count),
            ("approximate_kl", sums.kl / count),
            ("clipped_share", sums.clipped / count),
            ("explained_variance", 1.0 - variance_left),
            ("gradient_norm", sums.gradient_norm / sums.batches.max(1.0)),
        ])
    }

    fn journal(&self) -> &Journal {
        &self.state.journal
    }

    fn finish(self) -> Trained {
        let journal = self.state.journal;
        Trained {
            policy: self.best_policy,
            critics: vec![("value", self.best_value)],
            best_update: journal.best_update,
            best_score: journal.best_score,
            curves: journal.curves,
        }
    }
}

impl Ppo<'_> {
    fn observe(&self, cursors: &[Cursor], x: &mut Vec<f32>) {
        for cursor in cursors {
            self.task.observe(cursor.point, &cursor.account, x);
        }
    }

    /// Plays `rollout_steps` steps in every environment. Episodes end by length or at a gap, never by what happened, so the
    /// critic's estimate of the state they were cut off at stands for the rest.
    fn roll_out(&mut self) -> Rollout {
        let Rl {
            rollout_steps: steps,
            discount,
            gae_lambda,
            ..
        } = *self.task.parameters;
        let n = self.state.cursors.len();
        let mut rollout = Rollout {
            x: Vec::with_capacity(steps * n * self.policy.sizes.inputs),
            action: Vec::new(),
            log_probability: Vec::new(),
            value: Vec::new(),
            advantage: vec![0.0; steps * n],
            target: vec![0.0; steps * n],
            mean_reward: 0.0,
            mean_net_return: 0.0,
            mean_traded: 0.0,
        };
        let mut rewards = Vec::with_capacity(steps * n);
        // The critic's estimate of the state after each step, where it is not the next sample's.
        let mut cut_off: Vec<Option<f32>> = Vec::with_capacity(steps * n);
        for _ in 0..steps {
            let mut x = Vec::with_capacity(n * self.policy.sizes.inputs);
            self.observe(&self.state.cursors, &mut x);
            let (mut logits, _) = self.policy.forward(&x, n);
            log_softmax(&mut logits);
            let (values, _) = self.value.forward(&x, n);
            rollout.x.extend(x);
            rollout.value.extend(values);

            let mut ended = Vec::new();
            for (e, row) in logits.chunks(N_ACTIONS).enumerate() {
                let action = sample(row, self.actions.uniform());
                let mut cursor = self.state.cursors[e];
                let target = cursor.account.target(action, self.task.terms.allow_short);
                let step =
                    cursor
                        .account
                        .step(self.task.market, cursor.point, target, &self.task.terms);
                cursor.point += 1;
                rollout.action.push(action);
                rollout.log_probability.push(row[action]);
                rewards.push(step.reward);
                cut_off.push(None);
                rollout.mean_reward += step.reward;
                rollout.mean_net_return += step.net_return;
                rollout.mean_traded += step.traded;
                if cursor.point + 1 >= cursor.end {
                    ended.push((cut_off.len() - 1, cursor));
                    cursor = self.task.start(&mut self.starts);
                }
                self.state.cursors[e] = cursor;
            }
            if !ended.is_empty() {
                let last: Vec<Cursor> = ended.iter().map(|(_, cursor)| *cursor).collect();
                let mut x = Vec::new();
                self.observe(&last, &mut x);
                let (values, _) = self.value.forward(&x, last.len());
                for ((i, _), value) in ended.into_iter().zip(values) {
                    cut_off[i] = Some(value);
                }
            }
        }
        let mut x = Vec::new();
        self.observe(&self.state.cursors, &mut x);
        let (after, _) = self.value.forward(&x, n);

        for (e, &beyond) in after.iter().enumerate() {
            let mut advantage = 0.0;
            for t in (0..steps).rev() {
                let i = t * n + e;
                let next = cut_off[i].unwrap_or_else(|| {
                    if t + 1 < steps {
                        rollout.value[i + n]
                    } else {
                        beyond
                    }
                });
                let error = rewards[i] + discount * f64::from(next) - f64::from(rollout.value[i]);
                let carried = if cut_off[i].is_some() { 0.0 } else { advantage };
                advantage = error + discount * gae_lambda * carried;
                rollout.advantage[i] = advantage as f32;
                rollout.target[i] = (advantage + f64::from(rollout.value[i])) as f32;
            }
        }
        let samples = (steps * n) as f64;
        rollout.mean_reward /= samples;
        rollout.mean_net_return /= samples;
        rollout.mean_traded /= samples;
        rollout
    }

    /// One step of the optimizer along the gradient of one minibatch.
    fn step(
        &mut self,
        rollout: &Rollout,
        batch: &[usize],
        sums: &mut Sums,
    ) -> Result<(), StageError> {
        let Rl {
            clip,
            entropy_weight,
            value_weight,
            clip_norm,
            learning_rate,
            ..
        } = *self.task.parameters;
        let (clip, entropy_weight, value_weight) =
            (clip as f32, entropy_weight as f32, value_weight as f32);
        let inputs = self.policy.sizes.inputs;
        let n = batch.len();
        let share = 1.0 / n as f32;
        let mut x = Vec::with_capacity(n * inputs);
        for &i in batch {
            x.extend_from_slice(&rollout.x[i * inputs..][..inputs]);
        }
        let (mut logits, policy_hidden) = self.policy.forward(&x, n);
        log_softmax(&mut logits);
        let (values, value_hidden) = self.value.forward(&x, n);

        let mut d_logits = Vec::with_capacity(n * N_ACTIONS);
        let mut d_values = Vec::with_capacity(n);
        for (k, &i) in batch.iter().enumerate() {
            let row = &logits[k * N_ACTIONS..][..N_ACTIONS];
            let (action, advantage) = (rollout.action[i], rollout.advantage[i]);
            let log_ratio = row[action] - rollout.log_probability[i];
            let ratio = exp(log_ratio);
            let plain = ratio * advantage;
            let clipped = ratio.clamp(1.0 - clip, 1.0 + clip) * advantage;
            let entropy: f32 = row.iter().map(|&l| -exp(l) * l).sum();
            // Where the clipped term is the smaller one it is constant, and so is the loss.
            let d_action = if plain <= clipped { -plain } else { 0.0 };
            for (a, &l) in row.iter().enumerate() {
                let p = exp(l);
                let chosen = f32::from(u8::from(a == action));
                d_logits
                    .push(share * (d_action * (chosen - p) + entropy_weight * p * (l + entropy)));
            }
            let miss = values[k] - rollout.target[i];
            d_values.push(share * value_weight * miss);

            sums.policy_loss -= f64::from(plain.min(clipped));
            sums.value_loss += 0.5 * f64::from(miss) * f64::from(miss);
            sums.entropy += f64::from(entropy);
            // (r - 1) - ln r: never negative (Schulman, 2020).
            sums.kl += f64::from((ratio - 1.0) - log_ratio);
            sums.clipped += f64::from(u8::from((ratio - 1.0).abs() > clip));
            sums.samples += 1.0;
        }
        let policy_gradient = self.policy.backward(&x, &policy_hidden, &d_logits, n);
        let value_gradient = self.value.backward(&x, &value_hidden, &d_values, n);
        let norm = (policy_gradient.square_norm() + value_gradient.square_norm()).sqrt();
        if !norm.is_finite() {
            let update = self.state.journal.update + 1;
            return Err(StageError::NonFinite {
                message: format!(
                    "the gradient's norm is {norm} at update {update}; lower `learning_rate`"
                ),
            });
        }
        sums.gradient_norm += norm;
        sums.batches += 1.0;
        let factor = if clip_norm > 0.0 && norm > clip_norm {
            (clip_norm / norm) as f32
        } else {
            1.0
        };
        self.state.adam_step += 1;
        let step = self.state.adam_step;
        self.adam_policy.update(
            &mut self.policy,
            &policy_gradient,
            factor,
            learning_rate,
            step,
        );
        self.adam_value.update(
            &mut self.value,
            &value_gradient,
            factor,
            learning_rate,
            step,
        );
        Ok(())
    }
}

/// Sums over the minibatches of an update.
#[derive(Default)]
struct Sums {
    policy_loss: f64,
    value_loss: f64,
    entropy: f64,
    kl: f64,
    clipped: f64,
    samples: f64,
    gradient_norm: f64,
    batches: f64,
}

/// The action at `u` of \[0, 1) in the cumulative distribution.
fn sample(log_probabilities: &[f32], u: f64) -> usize {
    let mut sum = 0.0;
    for (action, &l) in log_probabilities.iter().enumerate() {
        sum += f64::from(exp(l));
        if u < sum {
            return action;
        }
    }
    log_probabilities.len() - 1
}

/// Mean 0 and standard deviation 1.
fn normalize(values: &mut [f32]) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values
        .iter()
        .map(|&v| (f64::from(v) - mean) * (f64::from(v) - mean))
        .sum::<f64>()
        / n;
    let scale = 1.0 / (variance.sqrt() + 1e-8);
    for value in values {
        *value = ((f64::from(*value) - mean) * scale) as f32;
    }
}

/// Share of the targets' variance that the critic does not explain; 1 when the targets do not vary.
fn unexplained(values: &[f32], targets: &[f32]) -> f64 {
    let variance = |x: &dyn Fn(usize) -> f64| {
        let n = targets.len() as f64;
        let mean = (0..targets.len()).map(x).sum::<f64>() / n;
        (0..targets.len())
            .map(|i| (x(i) - mean) * (x(i) - mean))
            .sum::<f64>()
            / n
    };
    let all = variance(&|i| f64::from(targets[i]));
    if all > 0.0 {
        variance(&|i| f64::from(targets[i] - values[i])) / all
    } else {
        1.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use natron_artifacts::{
        Cancel, Level, Observer, Progress, Signature, StageContext, StageContextParts, Streams,
    };

    use super::*;
    use crate::rl::market::{Market, Segment};

    /// A market whose views tell the sign of the next bar's return, and nothing else of use.
    pub(in crate::rl) fn market(n: usize) -> Market {
        let mut stream = Streams::new(5).stream("market");
        let mut up = true;
        let mut price = 100.0;
        let (mut open, mut close, mut views) = (vec![], vec![], vec![]);
        for _ in 0..n {
            open.push(price);
            price *= if up { 1.01 } else { 0.99 };
            close.push(price);
            if stream.uniform() < 0.2 {
                up = !up;
            }
            views.extend([if up { 1.0 } else { -1.0 }, stream.normal() as f32]);
        }
        Market::new(views, (0..n).collect(), &open, &close)
    }

    fn parameters() -> Rl {
        Rl {
            updates: 30,
            environments: 8,
            rollout_steps: 32,
            episode_bars: 50,
            minibatch: 64,
            hidden: 16,
            learning_rate: 5e-3,
            discount: 0.9,
            ..Rl::default()
        }
    }

    pub(in crate::rl) fn task<'a>(
        parameters: &'a Rl,
        market: &'a Market,
        segments: &'a [Segment; 2],
    ) -> Task<'a> {
        Task {
            parameters,
            market,
            training: &segments[..1],
            validation: &segments[1..],
            terms: parameters.terms(market.volatility(&segments[..1])),
            streams: Streams::new(7),
        }
    }

    pub(in crate::rl) const SEGMENTS: [Segment; 2] = [
        Segment { start: 0, end: 400 },
        Segment {
            start: 400,
            end: 600,
        },
    ];

    fn context(parts: StageContextParts) -> StageContext {
        StageContext::new(parts, Signature::new())
    }

    /// Asks to stop once so many updates are done.
    pub(in crate::rl) struct StopAt {
        pub(in crate::rl) update: u64,
        pub(in crate::rl) cancel: Cancel,
    }

    impl Observer for StopAt {
        fn progress(&self, progress: &Progress) {
            if progress.done == self.update {
                self.cancel.set();
            }
        }
        fn metric(&self, _: &str, _: u64, _: f64) {}
        fn log(&self, _: Level, _: &str) {}
    }

    #[test]
    fn learns_to_be_long_when_prices_rise_and_out_when_they_fall() {
        let (parameters, market) = (parameters(), market(600));
        let task = task(&parameters, &market, &SEGMENTS);
        let directory = tempfile::tempdir().unwrap();
        let trained = task
            .train(&context(StageContextParts::for_test(directory.path())))
            .unwrap();

        let acted = task.act(&trained.policy, &SEGMENTS[1..]);
        let right = acted
            .iter()
            .filter(|a| (a.position > 0.5) == (market.to_close[a.point] > 0.0))
            .count();
        assert!(right * 100 > acted.len() * 95, "{right} of {}", acted.len());
        assert!(trained.best_score > 0.5, "{}", trained.best_score);
        let rewards = &trained.curves["mean_reward"];
        assert!(rewards[29] > rewards[0] + 0.2, "{rewards:?}");
    }

    #[test]
    fn prohibitive_costs_keep_it_out() {
        let parameters = Rl {
            fee_bps: 500.0,
            updates: 20,
            ..parameters()
        };
        let market = market(600);
        let task = task(&parameters, &market, &SEGMENTS);
        let directory = tempfile::tempdir().unwrap();
        let trained = task
            .train(&context(StageContextParts::for_test(directory.path())))
            .unwrap();

        let traded = &trained.curves["mean_traded"];
        assert!(traded[19] < 0.3 * traded[0], "{traded:?}");
    }

    #[test]
    fn a_resumed_run_ends_in_the_same_bits_at_any_thread_count() {
        let parameters = Rl {
            updates: 12,
            ..parameters()
        };
        let market = market(600);
        let task = task(&parameters, &market, &SEGMENTS);
        let straight = {
            let directory = tempfile::tempdir().unwrap();
            task.train(&context(StageContextParts::for_test(directory.path())))
                .unwrap()
        };

        let directory = tempfile::tempdir().unwrap();
        for stop in [3, 7] {
            let mut parts = StageContextParts::for_test(directory.path());
            parts.observer = Arc::new(StopAt {
                update: stop,
                cancel: parts.cancel.clone(),
            });
            let stopped = task.train(&context(parts));
            assert!(matches!(stopped, Err(StageError::Interrupted)));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap();
        let resumed = pool
            .install(|| task.train(&context(StageContextParts::for_test(directory.path()))))
            .unwrap();
        assert_eq!(resumed, straight);
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over() {
        let parameters = Rl {
            updates: 12,
            ..parameters()
        };
        let market = market(600);
        let task = task(&parameters, &market, &SEGMENTS);
        let directory = tempfile::tempdir().unwrap();
        let straight = task
            .train(&context(StageContextParts::for_test(directory.path())))
            .unwrap();
        for file in std::fs::read_dir(directory.path().join("checkpoints")).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }

        let again = task
            .train(&context(StageContextParts::for_test(directory.path())))
            .unwrap();
        assert_eq!(again, straight);
    }

    #[test]
    fn minibatch_gradients_match_finite_differences() {
        let parameters = Rl {
            entropy_weight: 0.3,
            clip: 0.05,
            ..parameters()
        };
        let market = market(600);
        let task = task(&parameters, &market, &SEGMENTS);
        let mut learner = Ppo::new(&task);
        let mut rollout = learner.roll_out();
        normalize(&mut rollout.advantage);
        // Away from the policy that played, so that ratios differ from one and some are clipped.
        learner.policy =
            Perceptron::random(learner.policy.sizes, 0.3, &mut Streams::new(9).stream("w"));
        let batch: Vec<usize> = (0..64).collect();
        let loss = |policy: &Perceptron| -> f64 {
            let n = batch.len();
            let x = &rollout.x[..n * policy.sizes.inputs];
            let (mut logits, _) = policy.forward(x, n);
            log_softmax(&mut logits);
            let mut sum = 0.0;
            for (k, row) in logits.chunks(N_ACTIONS).enumerate() {
                let ratio = exp(row[rollout.action[k]] - rollout.log_probability[k]);
                let advantage = rollout.advantage[k];
                let surrogate = f32::min(ratio * advantage, ratio.clamp(0.95, 1.05) * advantage);
                let entropy: f32 = row.iter().map(|&l| -exp(l) * l).sum();
                sum -= f64::from(surrogate) + 0.3 * f64::from(entropy);
            }
            sum / n as f64
        };

        // A first Adam step from zero moments is `rate * sign(gradient)`, so its signs are the gradient's.
        let before = learner.policy.clone();
        learner
            .step(&rollout, &batch, &mut Sums::default())
            .unwrap();
        let mut checked = 0;
        for block in [0, 2] {
            for i in 0..before.blocks[block].len() {
                let nudged = |by: f32| {
                    let mut other = before.clone();
                    other.blocks[block][i] += by;
                    loss(&other)
                };
                let slope = (nudged(2e-3) - nudged(-2e-3)) / 4e-3;
                if slope.abs() > 5e-3 {
                    let moved = learner.policy.blocks[block][i] - before.blocks[block][i];
                    assert!(
                        f64::from(moved) * slope < 0.0,
                        "block {block}, {i}: moved {moved}, slope {slope}"
                    );
                    checked += 1;
                }
            }
        }
        assert!(checked > 30, "{checked}");
    }
}
