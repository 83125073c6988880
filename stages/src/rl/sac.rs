//! Soft actor-critic (Haarnoja et al., 2018, with the temperature of their second paper) over continuous positions.
//!
//! The actor's distribution is a normal one squashed by tanh; two critics judge state and action, the lower one counts. What
//! was played is kept as points, accounts and actions; views, rewards and what came after follow from the market.

use std::collections::BTreeMap;

use natron_artifacts::{StageError, Stream, Tensor};
use natron_kernels::math::{
    self,
    single::{exp, ln, tanh},
};
use serde::{Deserialize, Serialize};

use super::{
    Rl,
    environment::Account,
    network::{Adam, Perceptron},
    task::{Cursor, Journal, Learner, Task, Trained},
};
use crate::training::checkpoint::Tensors;

/// Outputs of the actor: centre and logarithm of the deviation.
const N_OUTPUTS: usize = 2;

/// Range of the logarithm of the actor's deviation.
const LOG_DEVIATION: (f32, f32) = (-5.0, 2.0);

/// Where the temperature leads the entropy: the negative number of dimensions of an action, as the paper has it.
const TARGET_ENTROPY: f64 = -1.0;

const HALF_LN_2_PI: f32 = 0.918_938_5;

/// The logarithm of the deviation that the actor's output stands for.
pub(super) fn log_deviation(output: f32) -> f32 {
    output.clamp(LOG_DEVIATION.0, LOG_DEVIATION.1)
}

/// One step that was played.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Transition {
    point: usize,
    account: Account,
    /// From -1 to 1.
    action: f32,
}

/// The steps played last, the oldest overwritten first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Replay {
    steps: Vec<Transition>,
    /// The place of the next one, once all places are taken.
    next: usize,
}

impl Replay {
    fn push(&mut self, step: Transition, capacity: usize) {
        if self.steps.len() < capacity {
            self.steps.push(step);
        } else {
            self.steps[self.next] = step;
            self.next = (self.next + 1) % capacity;
        }
    }
}

/// Adam's view of one number.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Scalar {
    value: f64,
    first: f64,
    second: f64,
}

impl Scalar {
    fn step(&mut self, gradient: f64, learning_rate: f64, step: u64) {
        let correction = |beta: f64| 1.0 - math::pow(beta, step as f64);
        self.first = 0.9 * self.first + 0.1 * gradient;
        self.second = 0.999 * self.second + 0.001 * gradient * gradient;
        let root = (self.second / correction(0.999)).sqrt();
        self.value -= learning_rate * self.first / correction(0.9) / (root + 1e-8);
    }
}

/// All but the tensors between two updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    journal: Journal,
    adam_step: u64,
    log_temperature: Scalar,
    cursors: Vec<Cursor>,
    replay: Replay,
    /// Positions of the streams of noise, episode starts and minibatches.
    positions: [u64; 3],
}

/// A network with its moments.
#[derive(Debug, Clone, PartialEq)]
struct Trainee {
    network: Perceptron,
    adam: Adam,
}

impl Trainee {
    fn new(network: Perceptron) -> Self {
        Self {
            adam: Adam::new(network.sizes),
            network,
        }
    }
}

/// The algorithm between two updates.
pub(super) struct Sac<'a> {
    task: &'a Task<'a>,
    state: State,
    policy: Trainee,
    critics: [Trainee; 2],
    /// Slow copies of the critics.
    targets: [Perceptron; 2],
    best_policy: Perceptron,
    best_critics: [Perceptron; 2],
    noise: Stream,
    starts: Stream,
    minibatches: Stream,
}

/// Actions drawn from the actor's outputs.
struct Drawn {
    action: Vec<f32>,
    log_probability: Vec<f32>,
    deviation: Vec<f32>,
    noise: Vec<f32>,
}

impl Drawn {
    fn new(outputs: &[f32], mut normal: impl FnMut() -> f64) -> Self {
        let n = outputs.len() / N_OUTPUTS;
        let mut drawn = Self {
            action: Vec::with_capacity(n),
            log_probability: Vec::with_capacity(n),
            deviation: Vec::with_capacity(n),
            noise: Vec::with_capacity(n),
        };
        for row in outputs.chunks_exact(N_OUTPUTS) {
            let log_deviation = log_deviation(row[1]);
            let (deviation, noise) = (exp(log_deviation), normal() as f32);
            let u = row[0] + deviation * noise;
            // ln(1 - tanh(u)^2) without the cancellation.
            let squashing = 2.0 * (std::f32::consts::LN_2 - u - softplus(-2.0 * u));
            drawn.action.push(tanh(u));
            drawn
                .log_probability
                .push(-0.5 * noise * noise - log_deviation - HALF_LN_2_PI - squashing);
            drawn.deviation.push(deviation);
            drawn.noise.push(noise);
        }
        drawn
    }
}

fn softplus(x: f32) -> f32 {
    x.max(0.0) + ln(1.0 + exp(-x.abs()))
}

/// The rows of `x` \[rows, width\], each with its entry of `last` behind.
fn with_last(x: &[f32], last: &[f32]) -> Vec<f32> {
    let width = x.len() / last.len();
    x.chunks_exact(width)
        .zip(last)
        .flat_map(|(row, &last)| row.iter().copied().chain([last]))
        .collect()
}

/// Sums over the minibatches of an update.
#[derive(Default)]
struct Sums {
    policy_loss: f64,
    value_loss: f64,
    entropy: f64,
    gradient_norm: f64,
    batches: f64,
}

impl<'a> Learner<'a> for Sac<'a> {
    type State = State;

    fn new(task: &'a Task<'a>) -> Self {
        let streams = task.streams;
        // Centred on no action at the start, and critics near zero.
        let policy = Perceptron::random(
            task.sizes(0, N_OUTPUTS),
            0.01,
            &mut streams.stream("rl.policy"),
        );
        let critics = ["rl.critic1", "rl.critic2"]
            .map(|name| Perceptron::random(task.sizes(1, 1), 0.1, &mut streams.stream(name)));
        let mut starts = streams.stream("rl.starts");
        let cursors = (0..task.parameters.environments)
            .map(|_| task.start(&mut starts))
            .collect();
        Self {
            state: State {
                journal: Journal::new(task.score(&policy, task.validation)),
                adam_step: 0,
                log_temperature: Scalar {
                    value: math::ln(0.1),
                    ..Scalar::default()
                },
                cursors,
                replay: Replay {
                    steps: Vec::new(),
                    next: 0,
                },
                positions: [0; 3],
            },
            best_policy: policy.clone(),
            best_critics: critics.clone(),
            targets: critics.clone(),
            policy: Trainee::new(policy),
            critics: critics.map(Trainee::new),
            noise: streams.stream("rl.noise"),
            starts,
            minibatches: streams.stream("rl.minibatches"),
            task,
        }
    }

    fn restore(
        task: &'a Task<'a>,
        state: State,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Option<Self> {
        let policy = |name: &str| Perceptron::from_tensors(task.sizes(0, N_OUTPUTS), name, tensors);
        let critic = |name: &str| Perceptron::from_tensors(task.sizes(1, 1), name, tensors);
        let trained = |name: &str| {
            Some(Trainee {
                network: critic(name)?,
                adam: Adam {
                    first: critic(&format!("{name}_first"))?,
                    second: critic(&format!("{name}_second"))?,
                },
            })
        };
        let stream = |name: &str, position: u64| {
            let mut stream = task.streams.stream(name);
            stream.seek(position);
            stream
        };
        Some(Self {
            policy: Trainee {
                network: policy("policy")?,
                adam: Adam {
                    first: policy("policy_first")?,
                    second: policy("policy_second")?,
                },
            },
            critics: [trained("critic1")?, trained("critic2")?],
            targets: [critic("target1")?, critic("target2")?],
            best_policy: policy("policy_best")?,
            best_critics: [critic("critic1_best")?, critic("critic2_best")?],
            noise: stream("rl.noise", state.positions[0]),
            starts: stream("rl.starts", state.positions[1]),
            minibatches: stream("rl.minibatches", state.positions[2]),
            state,
            task,
        })
    }

    fn save(&mut self) -> (&State, Tensors) {
        self.state.positions = [&self.noise, &self.starts, &self.minibatches].map(Stream::position);
        let [critic1, critic2] = &self.critics;
        let mut tensors = Tensors::new();
        for (name, trainee) in [
            ("policy", &self.policy),
            ("critic1", critic1),
            ("critic2", critic2),
        ] {
            tensors.extend(trainee.network.tensors(name));
            tensors.extend(trainee.adam.first.tensors(&format!("{name}_first")));
            tensors.extend(trainee.adam.second.tensors(&format!("{name}_second")));
        }
        for (name, network) in [
            ("target1", &self.targets[0]),
            ("target2", &self.targets[1]),
            ("policy_best", &self.best_policy),
            ("critic1_best", &self.best_critics[0]),
            ("critic2_best", &self.best_critics[1]),
        ] {
            tensors.extend(network.tensors(name));
        }
        (&self.state, tensors)
    }

    /// Plays `rollout_steps` steps in every environment, then learns from as many replayed steps times `passes`.
    fn update(&mut self) -> Result<(), StageError> {
        let played = self.play();
        let Rl {
            rollout_steps,
            environments,
            passes,
            minibatch,
            ..
        } = *self.task.parameters;
        let batches = (rollout_steps * environments * passes as usize).div_ceil(minibatch);
        let mut sums = Sums::default();
        for _ in 0..batches {
            let n = self.state.replay.steps.len() as u64;
            let batch: Vec<usize> = (0..minibatch)
                .map(|_| self.minibatches.below(n) as usize)
                .collect();
            self.step(&batch, &mut sums)?;
        }
        if self
            .state
            .journal
            .end_update(self.task, &self.policy.network)
        {
            self.best_policy = self.policy.network.clone();
            self.best_critics = self.critics.each_ref().map(|critic| critic.network.clone());
        }
        let temperature = math::exp(self.state.log_temperature.value);
        let count = sums.batches;
        self.state.journal.record(&[
            ("mean_reward", played[0]),
            ("mean_net_return", played[1]),
            ("mean_traded", played[2]),
            ("policy_loss", sums.policy_loss / count),
            ("value_loss", sums.value_loss / count),
            ("entropy", sums.entropy / count),
            ("temperature", temperature),
            ("gradient_norm", sums.gradient_norm / count),
        ])
    }

    fn journal(&self) -> &Journal {
        &self.state.journal
    }

    fn finish(self) -> Trained {
        let journal = self.state.journal;
        let [critic1, critic2] = self.best_critics;
        Trained {
            policy: self.best_policy,
            critics: vec![("critic1", critic1), ("critic2", critic2)],
            best_update: journal.best_update,
            best_score: journal.best_score,
            curves: journal.curves,
        }
    }
}

impl Sac<'_> {
    /// Plays `rollout_steps` steps in every environment. Means of reward, net return and position traded.
    fn play(&mut self) -> [f64; 3] {
        let (task, steps) = (self.task, self.task.parameters.rollout_steps);
        let n = self.state.cursors.len();
        let mut sums = [0.0; 3];
        for _ in 0..steps {
            let mut x = Vec::with_capacity(n * self.policy.network.sizes.inputs);
            for cursor in &self.state.cursors {
                task.observe(cursor.point, &cursor.account, &mut x);
            }
            let (outputs, _) = self.policy.network.forward(&x, n);
            let drawn = Drawn::new(&outputs, || self.noise.normal());
            for (e, &action) in drawn.action.iter().enumerate() {
                let cursor = &mut self.state.cursors[e];
                let played = Transition {
                    point: cursor.point,
                    account: cursor.account,
                    action,
                };
                self.state.replay.push(played, task.parameters.replay_steps);
                let position = task.terms.position(action);
                let step = cursor
                    .account
                    .step(task.market, cursor.point, position, &task.terms);
                for (sum, value) in sums
                    .iter_mut()
                    .zip([step.reward, step.net_return, step.traded])
                {
                    *sum += value;
                }
                cursor.point += 1;
                // Episodes end by length or at a gap, never by what happened: nothing is final.
                if cursor.point + 1 >= cursor.end {
                    *cursor = task.start(&mut self.starts);
                }
            }
        }
        sums.map(|sum| sum / (steps * n) as f64)
    }

    /// One step of every optimizer along the gradients of the replayed steps `batch`.
    fn step(&mut self, batch: &[usize], sums: &mut Sums) -> Result<(), StageError> {
        let task = self.task;
        let n = batch.len();
        let share = 1.0 / n as f32;
        let temperature = math::exp(self.state.log_temperature.value) as f32;

        let (mut now, mut next) = (Vec::new(), Vec::new());
        let (mut actions, mut rewards) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for &i in batch {
            let Transition {
                point,
                mut account,
                action,
            } = self.state.replay.steps[i];
            task.observe(point, &account, &mut now);
            let position = task.terms.position(action);
            let step = account.step(task.market, point, position, &task.terms);
            task.observe(point + 1, &account, &mut next);
            actions.push(action);
            rewards.push(step.reward);
        }

        let (outputs, _) = self.policy.network.forward(&next, n);
        let later = Drawn::new(&outputs, || self.noise.normal());
        let judged = with_last(&next, &later.action);
        let [value1, value2] = self
            .targets
            .each_ref()
            .map(|critic| critic.forward(&judged, n).0);
        let worth: Vec<f32> = (0..n)
            .map(|k| {
                let soft = value1[k].min(value2[k]) - temperature * later.log_probability[k];
                (rewards[k] + task.parameters.discount * f64::from(soft)) as f32
            })
            .collect();

        self.state.adam_step += 1;
        let played = with_last(&now, &actions);
        let mut square_norm = 0.0;
        for which in 0..2 {
            let (values, hidden) = self.critics[which].network.forward(&played, n);
            let misses: Vec<f32> = values.iter().zip(&worth).map(|(v, w)| v - w).collect();
            sums.value_loss += misses
                .iter()
                .map(|&miss| 0.25 * f64::from(miss * miss) / n as f64)
                .sum::<f64>();
            let d_values: Vec<f32> = misses.iter().map(|miss| share * miss).collect();
            let gradient = self.critics[which]
                .network
                .backward(&played, &hidden, &d_values, n);
            square_norm += self.descend(Which::Critic(which), &gradient)?;
        }

        let (outputs, hidden) = self.policy.network.forward(&now, n);
        let drawn = Drawn::new(&outputs, || self.noise.normal());
        let (loss, d_outputs) = self.policy_gradient(&now, &outputs, &drawn, temperature);
        let gradient = self.policy.network.backward(&now, &hidden, &d_outputs, n);
        square_norm += self.descend(Which::Policy, &gradient)?;

        let entropy = -drawn
            .log_probability
            .iter()
            .map(|&l| f64::from(l))
            .sum::<f64>()
            / n as f64;
        let (rate, step) = (task.parameters.learning_rate, self.state.adam_step);
        self.state
            .log_temperature
            .step(entropy - TARGET_ENTROPY, rate, step);

        let towards = task.parameters.target_rate as f32;
        for (target, critic) in self.targets.iter_mut().zip(&self.critics) {
            target.approach(&critic.network, towards);
        }
        sums.policy_loss += loss;
        sums.entropy += entropy;
        sums.gradient_norm += square_norm.sqrt();
        sums.batches += 1.0;
        Ok(())
    }

    /// The actor's loss, `temperature * log probability - value` on average, and its gradient at the actor's outputs.
    fn policy_gradient(
        &self,
        x: &[f32],
        outputs: &[f32],
        drawn: &Drawn,
        temperature: f32,
    ) -> (f64, Vec<f32>) {
        let n = drawn.action.len();
        let share = 1.0 / n as f32;
        let judged = with_last(x, &drawn.action);
        let [(value1, hidden1), (value2, hidden2)] = self
            .critics
            .each_ref()
            .map(|critic| critic.network.forward(&judged, n));
        let lower = |which: usize| -> Vec<f32> {
            (0..n)
                .map(|k| f32::from(u8::from((value2[k] < value1[k]) == (which == 1))))
                .collect()
        };
        let last = self.critics[0].network.sizes.inputs - 1;
        let slope1 = self.critics[0]
            .network
            .input_slope(&hidden1, &lower(0), last);
        let slope2 = self.critics[1]
            .network
            .input_slope(&hidden2, &lower(1), last);

        let mut loss = 0.0;
        let mut d_outputs = Vec::with_capacity(n * N_OUTPUTS);
        for k in 0..n {
            let action = drawn.action[k];
            let value = value1[k].min(value2[k]);
            loss += f64::from(temperature * drawn.log_probability[k] - value) / n as f64;
            let d_squashed =
                2.0 * temperature * action - (slope1[k] + slope2[k]) * (1.0 - action * action);
            let raw = outputs[k * N_OUTPUTS + 1];
            let d_log_deviation = d_squashed * drawn.deviation[k] * drawn.noise[k] - temperature;
            let is_free = raw > LOG_DEVIATION.0 && raw < LOG_DEVIATION.1;
            d_outputs.push(share * d_squashed);
            d_outputs.push(if is_free {
                share * d_log_deviation
            } else {
                0.0
            });
        }
        (loss, d_outputs)
    }

    /// One Adam step of a network along its clipped gradient, whose squared norm it returns.
    fn descend(&mut self, which: Which, gradient: &Perceptron) -> Result<f64, StageError> {
        let Rl {
            clip_norm,
            learning_rate,
            ..
        } = *self.task.parameters;
        let square = gradient.square_norm();
        let norm = square.sqrt();
        if !norm.is_finite() {
            let update = self.state.journal.update + 1;
            return Err(StageError::NonFinite {
                message: format!(
                    "the gradient's norm is {norm} at update {update}; lower `learning_rate`"
                ),
            });
        }
        let factor = if clip_norm > 0.0 && norm > clip_norm {
            (clip_norm / norm) as f32
        } else {
            1.0
        };
        let step = self.state.adam_step;
        let Trainee { network, adam } = match which {
            Which::Policy => &mut self.policy,
            Which::Critic(i) => &mut self.critics[i],
        };
        adam.update(network, gradient, factor, learning_rate, step);
        Ok(square)
    }
}

#[derive(Clone, Copy)]
enum Which {
    Policy,
    Critic(usize),
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Signature, StageContext, StageContextParts, Streams};

    use super::*;
    use crate::rl::{
        Algorithm,
        ppo::tests::{SEGMENTS, StopAt, market, task},
    };

    fn parameters() -> Rl {
        Rl {
            algorithm: Algorithm::Sac,
            updates: 30,
            environments: 8,
            rollout_steps: 16,
            episode_bars: 50,
            minibatch: 64,
            hidden: 16,
            learning_rate: 5e-3,
            discount: 0.9,
            replay_steps: 2_000,
            target_rate: 0.05,
            allow_short: true,
            ..Rl::default()
        }
    }

    fn train<'a>(
        task: &'a Task<'a>,
        change: impl FnOnce(&mut StageContextParts),
    ) -> Result<Trained, StageError> {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = StageContextParts::for_test(directory.path());
        change(&mut parts);
        task.train(&StageContext::new(parts, Signature::new()))
    }

    #[test]
    fn learns_to_be_long_when_prices_rise_and_short_when_they_fall() {
        let (parameters, market) = (parameters(), market(600));
        let task = task(&parameters, &market, &SEGMENTS);

        let trained = train(&task, |_| {}).unwrap();

        let acted = task.act(&trained.policy, &SEGMENTS[1..]);
        let right = acted
            .iter()
            .filter(|a| a.position * market.to_close[a.point] > 0.0)
            .count();
        assert!(right * 100 > acted.len() * 95, "{right} of {}", acted.len());
        let mean: f64 = acted.iter().map(|a| a.position.abs()).sum::<f64>() / acted.len() as f64;
        assert!(mean > 0.5, "positions are small: {mean}");
        let rewards = &trained.curves["mean_reward"];
        assert!(rewards[29] > rewards[0] + 0.2, "{rewards:?}");
    }

    #[test]
    fn prohibitive_costs_keep_it_still() {
        let parameters = Rl {
            fee_bps: 500.0,
            ..parameters()
        };
        let market = market(600);
        let task = task(&parameters, &market, &SEGMENTS);

        let trained = train(&task, |_| {}).unwrap();

        let acted = task.act(&trained.policy, &SEGMENTS[1..]);
        let traded: f64 = acted
            .windows(2)
            .map(|pair| (pair[1].position - pair[0].position).abs())
            .sum::<f64>()
            / acted.len() as f64;
        assert!(traded < 0.1, "{traded}");
    }

    #[test]
    fn a_resumed_run_ends_in_the_same_bits() {
        let parameters = Rl {
            updates: 8,
            replay_steps: 500,
            ..parameters()
        };
        let market = market(600);
        let task = task(&parameters, &market, &SEGMENTS);
        let straight = train(&task, |_| {}).unwrap();

        let directory = tempfile::tempdir().unwrap();
        let context = |parts| StageContext::new(parts, Signature::new());
        let mut parts = StageContextParts::for_test(directory.path());
        parts.observer = std::sync::Arc::new(StopAt {
            update: 5,
            cancel: parts.cancel.clone(),
        });
        assert!(matches!(
            task.train(&context(parts)),
            Err(StageError::Interrupted)
        ));
        let resumed = task
            .train(&context(StageContextParts::for_test(directory.path())))
            .unwrap();

        assert_eq!(resumed, straight);
    }

    #[test]
    fn the_actors_gradient_matches_finite_differences() {
        let (parameters, market) = (parameters(), market(600));
        let task = task(&parameters, &market, &SEGMENTS);
        let mut sac = Sac::new(&task);
        // Critics that say something.
        for (critic, name) in sac.critics.iter_mut().zip(["a", "b"]) {
            critic.network =
                Perceptron::random(critic.network.sizes, 1.0, &mut Streams::new(3).stream(name));
        }
        let policy = Perceptron::random(
            task.sizes(0, N_OUTPUTS),
            1.0,
            &mut Streams::new(4).stream("p"),
        );
        let n = 16;
        let mut x = Vec::new();
        for point in 0..n {
            task.observe(point, &Account::new(), &mut x);
        }
        let draw = |outputs: &[f32]| {
            let mut noise = Streams::new(5).stream("noise");
            Drawn::new(outputs, || noise.normal())
        };
        let loss = |policy: &Perceptron| {
            let (outputs, _) = policy.forward(&x, n);
            sac.policy_gradient(&x, &outputs, &draw(&outputs), 0.3).0
        };
        let (outputs, hidden) = policy.forward(&x, n);
        let (_, d_outputs) = sac.policy_gradient(&x, &outputs, &draw(&outputs), 0.3);
        let gradient = policy.backward(&x, &hidden, &d_outputs, n);

        for block in 0..4 {
            for i in 0..policy.blocks[block].len() {
                let nudged = |by: f32| {
                    let mut other = policy.clone();
                    other.blocks[block][i] += by;
                    loss(&other)
                };
                let slope = (nudged(4e-3) - nudged(-4e-3)) / 8e-3;
                let found = f64::from(gradient.blocks[block][i]);
                assert!(
                    (found - slope).abs() < 5e-3 + 0.02 * slope.abs(),
                    "block {block}, {i}: {found} is not {slope}"
                );
            }
        }
    }

    #[test]
    fn probabilities_of_squashed_draws_sum_to_one() {
        // The density over actions, integrated: the mean of 1 over draws from another, uniform, distribution.
        let (centre, log_deviation) = (0.3_f32, -0.5_f32);
        let density = |action: f64| {
            let u = 0.5 * (math::ln(1.0 + action) - math::ln(1.0 - action));
            let noise = (u - f64::from(centre)) / math::exp(f64::from(log_deviation));
            let drawn = Drawn::new(&[centre, log_deviation], || noise);
            assert!((f64::from(drawn.action[0]) - action).abs() < 1e-5);
            math::exp(f64::from(drawn.log_probability[0]))
        };
        let n = 4_000;
        let sum: f64 = (0..n)
            .map(|k| density(-1.0 + 2.0 * (f64::from(k) + 0.5) / f64::from(n)))
            .sum();

        assert!((sum * 2.0 / f64::from(n) - 1.0).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn the_replay_overwrites_the_oldest() {
        let mut replay = Replay {
            steps: Vec::new(),
            next: 0,
        };
        for point in 0..7 {
            let step = Transition {
                point,
                account: Account::new(),
                action: 0.0,
            };
            replay.push(step, 5);
        }

        let points: Vec<usize> = replay.steps.iter().map(|step| step.point).collect();
        assert_eq!(points, [5, 6, 2, 3, 4]);
    }
}
