//! `uses = "rl"`: a policy trained by reinforcement on real prices, on top of the frozen encoder.
//!
//! Inputs `candles`, `matrix`, `windows` and `model` (of `finetune`). Outputs `policy`, `actions` and `metrics`.

mod environment;
mod market;
mod network;
mod ppo;
mod sac;
mod task;

use std::collections::BTreeMap;

use natron_artifacts::{
    Column, ColumnType, Kind, Metrics, Model, ModelCard, PortSchema, Progress, Schemas, Signature,
    Stage, StageContext, StageError, Table, Tensor, Threads,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    backtest::performance::bars_per_year,
    models::{
        policy::{self, with_encoder},
        transformer::Transformer,
        windows::WindowSource,
    },
    training::samples::{data_digest, require_same_data},
};
use environment::{N_ACCOUNT, Terms};
use market::Market;
use task::{Acted, Decision, Task, Trained};

/// Splits of the windows.
const TRAINING: i64 = 0;
const VALIDATION: i64 = 1;
const TEST: i64 = 2;

/// How the policy is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Proximal policy optimization: actions sell, hold and buy, learned from what the policy itself has just played.
    #[default]
    Ppo,
    /// Soft actor-critic: positions of any size, learned from all that was played before.
    Sac,
}

/// Trains a trading policy by reinforcement (PPO or SAC) on the training split, on top of the frozen encoder.
///
/// The encoder's embedding of every window is computed once. The state is that embedding with the position, the open profit
/// and the drawdown. With `ppo` the actions are 0 sell (leave the position, or go short with `allow_short`), 1 hold and 2 buy
/// (be long); with `sac` the action is the position itself, as a share of equity. A decision at the close of a bar is carried out at the open of the next one, and the reward is what the account really
/// earned over that bar, after fee and slippage on every change of position, less the penalties, in units of a typical bar's
/// return. No label and no later bar is read. The validation split chooses the policy that is kept; test is only acted on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rl {
    /// `ppo`, or `sac` for positions of any size.
    pub algorithm: Algorithm,
    /// Updates of the policy; each plays `environments` times `rollout_steps` steps.
    pub updates: u32,
    /// Accounts that are played side by side.
    pub environments: usize,
    /// Steps in each environment for one update, in bars.
    pub rollout_steps: usize,
    /// Longest episode, in bars.
    pub episode_bars: usize,
    /// Passes over each rollout; with `sac`, replayed steps that are learned from for each step played.
    pub passes: u32,
    /// Samples a gradient step.
    pub minibatch: usize,
    /// Width of the hidden layer of actor and critic.
    pub hidden: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// What a reward one bar later is worth, from 0 to 1.
    pub discount: f64,
    /// Steps that are kept to learn from again (`sac`).
    pub replay_steps: usize,
    /// Share of the way that the slow critics go towards the fast ones at each step, from 0 to 1 (`sac`).
    pub target_rate: f64,
    /// Weight of later steps in the advantage, from 0 to 1 (`ppo`).
    pub gae_lambda: f64,
    /// How far one update may move the probability of an action, as a share (`ppo`).
    pub clip: f64,
    /// Weight of the policy's entropy, which keeps it exploring (`ppo`; `sac` learns its own).
    pub entropy_weight: f64,
    /// Weight of the critic's loss (`ppo`).
    pub value_weight: f64,
    /// Largest global norm of the gradients; 0 does not clip.
    pub clip_norm: f64,
    /// Fee of every change of position in basis points of the traded value.
    pub fee_bps: f64,
    /// By how much every fill is worse than the open of its bar, in basis points.
    pub slippage_bps: f64,
    /// Held against each change of position beside its cost, in basis points; shapes the reward, not the account.
    pub turnover_penalty_bps: f64,
    /// Held against each deepening of an episode's largest drawdown, as a multiple of it.
    pub drawdown_penalty: f64,
    /// Whether selling goes short. Shorts pay no borrowing cost.
    pub allow_short: bool,
    /// Updates between two looks at the validation split.
    pub validate_every: u32,
}

impl Default for Rl {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Ppo,
            updates: 300,
            environments: 16,
            rollout_steps: 128,
            // The original's `max_steps`.
            episode_bars: 500,
            passes: 4,
            minibatch: 256,
            hidden: 128,
            learning_rate: 3e-5,
            discount: 0.99,
            replay_steps: 100_000,
            target_rate: 0.005,
            gae_lambda: 0.95,
            clip: 0.2,
            entropy_weight: 0.01,
            value_weight: 0.5,
            clip_norm: 0.5,
            // The transaction cost in the configuration of the original system, 0.0002.
            fee_bps: 2.0,
            slippage_bps: 1.0,
            turnover_penalty_bps: 0.0,
            drawdown_penalty: 0.1,
            allow_short: false,
            validate_every: 5,
        }
    }
}

impl Rl {
    fn check(&self) -> Result<(), StageError> {
        for (name, value) in [
            ("updates", self.updates as usize),
            ("environments", self.environments),
            ("rollout_steps", self.rollout_steps),
            ("episode_bars", self.episode_bars),
            ("passes", self.passes as usize),
            ("minibatch", self.minibatch),
            ("hidden", self.hidden),
            ("replay_steps", self.replay_steps),
            ("validate_every", self.validate_every as usize),
        ] {
            if value == 0 {
                return Err(StageError::parameter(
                    name,
                    format!("`{name}` is 0, expected 1 or more"),
                ));
            }
        }
        for (name, value, low, high) in [
            ("learning_rate", self.learning_rate, 0.0, 1.0),
            ("discount", self.discount, 0.0, 1.0),
            ("gae_lambda", self.gae_lambda, 0.0, 1.0),
            ("target_rate", self.target_rate, 0.0, 1.0),
            ("clip", self.clip, 0.0, 1.0),
            ("entropy_weight", self.entropy_weight, 0.0, f64::MAX),
            ("value_weight", self.value_weight, 0.0, f64::MAX),
            ("clip_norm", self.clip_norm, 0.0, f64::MAX),
            ("fee_bps", self.fee_bps, 0.0, 5000.0),
            ("slippage_bps", self.slippage_bps, 0.0, 5000.0),
            (
                "turnover_penalty_bps",
                self.turnover_penalty_bps,
                0.0,
                f64::MAX,
            ),
            ("drawdown_penalty", self.drawdown_penalty, 0.0, f64::MAX),
        ] {
            if !(low..=high).contains(&value) {
                let range = if high < f64::MAX {
                    format!("from {low} to {high}")
                } else {
                    format!("{low} or more")
                };
                return Err(StageError::parameter(
                    name,
                    format!("`{name}` is {value}, expected {range}"),
                ));
            }
        }
        Ok(())
    }

    fn terms(&self, volatility: f64) -> Terms {
        Terms {
            cost: (self.fee_bps + self.slippage_bps) / 1e4,
            turnover_penalty: self.turnover_penalty_bps / 1e4,
            drawdown_penalty: self.drawdown_penalty,
            allow_short: self.allow_short,
            volatility,
        }
    }
}

fn action_columns(algorithm: Algorithm) -> Vec<Column> {
    let probability = |name: &str| {
        Column::new(format!("p_{name}"), ColumnType::F32)
            .description(format!("probability of action `{name}`"))
    };
    let mut columns = vec![
        Column::time_index(),
        Column::new("row", ColumnType::I64)
            .description("bar at whose close the policy acts, counted from 0"),
        Column::new("split", ColumnType::I64).description("1 validation, 2 test"),
        Column::new("position", ColumnType::F64).description(
            "position from the next open on, as a share of equity: 1 long, 0 flat, -1 short",
        ),
    ];
    columns.extend(match algorithm {
        Algorithm::Ppo => vec![
            Column::new("action", ColumnType::I64)
                .description("0 sell, 1 hold, 2 buy; the most probable one"),
            probability("sell"),
            probability("hold"),
            probability("buy"),
        ],
        Algorithm::Sac => vec![
            Column::new("deviation", ColumnType::F32)
                .description("standard deviation of the action before it is squashed"),
        ],
    });
    columns
}

impl Stage for Rl {
    fn signature(&self, _inputs: &Schemas) -> Result<Signature, StageError> {
        self.check()?;
        Ok(Signature::new()
            .input_columns("candles", ["open", "close"])
            .input_of("matrix", Kind::Table)
            // The whole table, because the encoder must come from the very same windows.
            .input_table("windows", ["row", "split"])
            .input_of("model", Kind::Model)
            .output("policy", PortSchema::of(Kind::Model))
            .output("actions", PortSchema::table(action_columns(self.algorithm)))
            .output("metrics", PortSchema::of(Kind::Metrics))
            .threads(Threads::All))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        self.check()?;
        let candles = context.table("candles")?;
        let (open, close) = (candles.f64("open")?, candles.f64("close")?);
        let windows = context.table("windows")?;
        let (rows, splits) = decision_points(&windows, candles.n_rows())?;

        if let (Some(matrix), Some(windows)) = (
            context.input_digest("matrix"),
            context.input_digest("windows"),
        ) {
            let encoder = context.model("model")?;
            require_same_data(&encoder.card, "model", data_digest(matrix, windows))?;
        }
        let embeddings = embeddings(context, &rows)?;
        let mut market = Market::new(embeddings, rows, &open, &close);
        let points = |split: i64| -> Vec<usize> {
            (0..splits.len()).filter(|&i| splits[i] == split).collect()
        };
        let (mean, scale) = market.moments(&points(TRAINING));
        market.standardize(&mean, &scale);
        let segments = [TRAINING, VALIDATION, TEST].map(|split| market.segments(&points(split)));
        let [training, validation, _] = &segments;
        if training.is_empty() {
            return Err(StageError::data(
                "the training split has no two windows on consecutive bars",
            )
            .with_help(
                "reinforcement needs runs of consecutive bars; check the dataset's splits",
            ));
        }
        if validation.is_empty() {
            context.warn("the validation split has no two windows on consecutive bars, so policies cannot be compared and the last one is kept");
        }

        let task = Task {
            parameters: self,
            market: &market,
            training,
            validation,
            terms: self.terms(market.volatility(training)),
            streams: context.streams(),
        };
        let trained = task.train(context)?;
        if !validation.is_empty() && trained.best_score <= 0.0 {
            let update = trained.best_update;
            context.warn(&format!(
                "no policy earned anything on the validation split; that of update {update} lost least"
            ));
        }

        let per_year = bars_per_year(candles.ts_ns()?).unwrap_or(1.0);
        let ts_ns = candles.ts_ns()?;
        let acted: Vec<(i64, Vec<Acted>)> = [VALIDATION, TEST]
            .into_iter()
            .map(|split| (split, task.act(&trained.policy, &segments[split as usize])))
            .collect();
        let metrics = metrics(&trained, &task, &acted, per_year)
            .map_err(|message| StageError::NonFinite { message })?;
        let actions = actions_table(self.algorithm, &market, &acted, ts_ns)?;
        let policy = self.policy_model(context, &trained, &task, mean, scale)?;
        context.write("policy", policy)?;
        context.write("actions", actions)?;
        context.write("metrics", metrics)
    }
}

/// Rows and splits of the windows, in the order of their rows.
fn decision_points(windows: &Table, n_bars: usize) -> Result<(Vec<usize>, Vec<i64>), StageError> {
    let mut points: Vec<(usize, i64)> = Vec::with_capacity(windows.n_rows());
    for (i, (&row, &split)) in windows
        .i64("row")?
        .iter()
        .zip(windows.i64("split")?)
        .enumerate()
    {
        let index = usize::try_from(row).ok().filter(|&row| row < n_bars);
        let index = index.ok_or_else(|| {
            StageError::data_at(
                i as u64,
                "row",
                format!("bar {row} is not one of the {n_bars} candles"),
            )
            .with_help("candles and windows must come from the same run")
        })?;
        points.push((index, split));
    }
    points.sort_unstable();
    points.dedup_by_key(|(row, _)| *row);
    Ok(points.into_iter().unzip())
}

/// The frozen encoder's view of the windows that end at `rows`.
fn embeddings(context: &StageContext, rows: &[usize]) -> Result<Vec<f32>, StageError> {
    let (matrix, model) = (context.table("matrix")?, context.model("model")?);
    let source = WindowSource::from_table(&matrix, model.card.window_bars as usize)?;
    source.check(rows)?;
    Transformer::from_model(&model)?.embeddings(&source, rows, |done| {
        context.progress(&Progress {
            done: done as u64,
            total: Some(rows.len() as u64),
            unit: "windows",
            loss: None,
            note: "embedding".into(),
        });
        context.check_cancelled()
    })
}

impl Rl {
    fn policy_model(
        &self,
        context: &StageContext,
        trained: &Trained,
        task: &Task<'_>,
        mean: Vec<f32>,
        scale: Vec<f32>,
    ) -> Result<Model, StageError> {
        let encoder = context.model("model")?;
        let width = mean.len();
        let mut tensors = trained.policy.tensors("policy");
        for (name, critic) in &trained.critics {
            tensors.extend(critic.tensors(name));
        }
        tensors.insert(
            "embedding.mean".into(),
            Tensor {
                shape: vec![width],
                values: mean,
            },
        );
        tensors.insert(
            "embedding.scale".into(),
            Tensor {
                shape: vec![width],
                values: scale,
            },
        );
        let mut features: Vec<String> = (0..width).map(|k| format!("embedding_{k}")).collect();
        features.extend(["position", "open_profit", "drawdown"].map(str::to_owned));
        let digest = |port: &str| {
            context
                .input_digest(port)
                .ok_or_else(|| StageError::data(format!("nothing comes in at `{port}`")))
        };
        let heads = match self.algorithm {
            Algorithm::Ppo => BTreeMap::from([(
                "action".to_owned(),
                ["sell", "hold", "buy"].map(str::to_owned).to_vec(),
            )]),
            Algorithm::Sac => BTreeMap::from([(policy::POSITION.to_owned(), Vec::new())]),
        };
        let extra = BTreeMap::from([
            ("encoder".to_owned(), json!(digest("model")?.to_string())),
            ("volatility".to_owned(), json!(task.terms.volatility)),
            (policy::ALLOW_SHORT.to_owned(), json!(self.allow_short)),
        ]);
        let policy = Model {
            card: ModelCard {
                architecture: "natron_v2.policy".into(),
                hyper_parameters: json!({
                    "algorithm": self.algorithm,
                    "inputs": width + N_ACCOUNT,
                    "hidden": self.hidden,
                }),
                features,
                feature_plan: serde_json::Value::Null,
                scaler: None,
                window_bars: encoder.card.window_bars,
                label_horizon_bars: 0,
                heads,
                trained_on: data_digest(digest("matrix")?, digest("windows")?),
                made_by: "rl".into(),
                extra,
            },
            tensors,
        };
        Ok(with_encoder(policy, &encoder))
    }
}

fn metrics(
    trained: &Trained,
    task: &Task<'_>,
    acted: &[(i64, Vec<Acted>)],
    per_year: f64,
) -> Result<Metrics, String> {
    let mut metrics = Metrics::new();
    for (name, values) in &trained.curves {
        metrics.set_series(&format!("curves.{name}"), values)?;
    }
    let Rl {
        updates,
        environments,
        rollout_steps,
        ..
    } = *task.parameters;
    metrics.set_count("updates", updates.into())?;
    metrics.set_count(
        "steps",
        u64::from(updates) * (environments * rollout_steps) as u64,
    )?;
    metrics.set_count("best_update", trained.best_update.into())?;
    metrics.set(
        "validation_sharpe_ratio",
        trained.best_score * per_year.sqrt(),
    )?;
    metrics.set("return_unit", task.terms.volatility)?;
    for ((_, acted), name) in acted.iter().zip(["validation", "test"]) {
        let n = acted.len();
        metrics.set_count(&format!("{name}.points"), n as u64)?;
        if n == 0 {
            continue;
        }
        if task.parameters.algorithm == Algorithm::Ppo {
            for (id, called) in ["sell", "hold", "buy"].into_iter().enumerate() {
                let is_it = |a: &&Acted| matches!(a.decision, Decision::Action { action, .. } if action == id);
                let share = acted.iter().filter(is_it).count() as f64 / n as f64;
                metrics.set(&format!("{name}.action_share.{called}"), share)?;
            }
        }
        let exposure = acted.iter().map(|a| a.position.abs()).sum::<f64>() / n as f64;
        metrics.set(&format!("{name}.exposure"), exposure)?;
    }
    Ok(metrics)
}

fn actions_table(
    algorithm: Algorithm,
    market: &Market,
    acted: &[(i64, Vec<Acted>)],
    ts_ns: &[i64],
) -> Result<Table, StageError> {
    let all: Vec<(i64, &Acted)> = acted
        .iter()
        .flat_map(|(split, acted)| acted.iter().map(move |a| (*split, a)))
        .collect();
    let whole = |value: &dyn Fn(&(i64, &Acted)) -> i64| all.iter().map(value).collect::<Vec<i64>>();
    let mut builder = Table::builder();
    for column in action_columns(algorithm) {
        builder = match column.name.as_str() {
            "ts_ns" => builder.time_index(whole(&|(_, a)| ts_ns[market.rows[a.point]])),
            "row" => builder.i64(column, whole(&|(_, a)| market.rows[a.point] as i64)),
            "split" => builder.i64(column, whole(&|(split, _)| *split)),
            "position" => builder.f64(column, all.iter().map(|(_, a)| a.position).collect()),
            "action" => builder.i64(
                column,
                whole(&|(_, a)| match a.decision {
                    Decision::Action { action, .. } => action as i64,
                    Decision::Centre { .. } => unreachable!("positions have no action"),
                }),
            ),
            name => {
                let value = |a: &Acted| match a.decision {
                    Decision::Centre { deviation } => deviation,
                    Decision::Action { probabilities, .. } => match name {
                        "p_sell" => probabilities[environment::SELL],
                        "p_hold" => probabilities[environment::HOLD],
                        _ => probabilities[environment::BUY],
                    },
                };
                let values = all.iter().map(|(_, a)| value(a)).collect();
                builder.f32(column, values)
            }
        };
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use natron_artifacts::{Artifact, Digest, StageContextParts, Streams};

    use super::*;
    use crate::{
        models::transformer::{ARCHITECTURE, Pooling, TransformerConfig},
        training::toy,
    };

    const N_BARS: usize = 300;

    fn tiny() -> Rl {
        Rl {
            updates: 4,
            environments: 4,
            rollout_steps: 16,
            minibatch: 32,
            hidden: 8,
            learning_rate: 1e-2,
            validate_every: 1,
            ..Rl::default()
        }
    }

    fn encoder() -> Model {
        let config = TransformerConfig {
            inputs: toy::FEATURES,
            d_model: 16,
            heads: 2,
            layers: 1,
            feed_forward: 32,
            dropout: 0.0,
            window_bars: toy::WINDOW_BARS,
            pooling: Pooling::Mean,
        };
        let hyper_parameters = serde_json::to_value(config).unwrap();
        let network = Transformer::classifier(config, Streams::new(3)).unwrap();
        Model {
            card: ModelCard {
                architecture: ARCHITECTURE.into(),
                hyper_parameters,
                features: (0..toy::FEATURES).map(|f| format!("f{f}")).collect(),
                feature_plan: serde_json::Value::Null,
                scaler: None,
                window_bars: toy::WINDOW_BARS as u32,
                label_horizon_bars: 3,
                heads: BTreeMap::new(),
                trained_on: Digest::of(b"toy"),
                made_by: "finetune".into(),
                extra: BTreeMap::new(),
            },
            tensors: network.parameters().to_stored().unwrap(),
        }
    }

    fn candles(n: usize) -> Table {
        let mut stream = Streams::new(8).stream("candles");
        let (mut open, mut close, mut price) = (vec![], vec![], 100.0);
        for _ in 0..n {
            open.push(price);
            price *= 1.0 + 0.01 * stream.normal();
            close.push(price);
        }
        let number = |name: &str| Column::new(name, ColumnType::F64).unit("price");
        Table::builder()
            .time_index((0..n as i64).map(|i| i * 3_600_000_000_000).collect())
            .f64(number("open"), open)
            .f64(number("close"), close)
            .build()
            .unwrap()
    }

    fn parts(directory: &Path, n_candles: usize) -> StageContextParts {
        let parts = toy::parts(directory, N_BARS);
        let digest = |port: &str| parts.inputs[port][0].logical;
        let mut encoder = encoder();
        encoder.card.trained_on = data_digest(digest("matrix"), digest("windows"));
        parts
            .input("candles", candles(n_candles))
            .input("model", encoder)
    }

    #[test]
    fn refuses_an_encoder_of_other_windows() {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = parts(directory.path(), N_BARS);
        parts.inputs.remove("model");

        let error = toy::run(&tiny(), parts.input("model", encoder()), 1).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("another matrix or other windows"),
            "{error}"
        );
    }

    #[test]
    fn acts_on_every_window_of_validation_and_test_with_the_same_bytes_at_any_thread_count() {
        let digests = |threads| {
            let directory = tempfile::tempdir().unwrap();
            let outputs = toy::run(&tiny(), parts(directory.path(), N_BARS), threads).unwrap();
            let Artifact::Table(actions) = &outputs["actions"] else {
                panic!("a table")
            };
            let rows = actions.i64("row").unwrap();
            assert_eq!(rows, (210..300).collect::<Vec<i64>>());
            let positions = actions.f64("position").unwrap();
            assert!(positions.iter().all(|p| [0.0, 1.0].contains(p)));
            let Artifact::Model(policy) = &outputs["policy"] else {
                panic!("a model")
            };
            assert_eq!(
                policy.tensors["policy.hidden.weight"].shape,
                [8, 16 + N_ACCOUNT]
            );
            let Artifact::Metrics(metrics) = &outputs["metrics"] else {
                panic!("metrics")
            };
            assert_eq!(metrics.series("curves.mean_reward").unwrap().len(), 4);
            toy::digests(&outputs)
        };

        assert_eq!(digests(1), digests(3));
    }

    #[test]
    fn names_the_bar_that_the_candles_lack() {
        let directory = tempfile::tempdir().unwrap();
        let error = toy::run(&tiny(), parts(directory.path(), 250), 1).unwrap_err();

        assert!(
            error
                .to_string()
                .contains("bar 250 is not one of the 250 candles"),
            "{error}"
        );
    }

    #[test]
    fn refuses_parameters_that_make_no_sense() {
        let refuse = |stage: Rl| stage.signature(&Schemas::new()).unwrap_err().to_string();

        assert!(
            refuse(Rl {
                environments: 0,
                ..tiny()
            })
            .contains("`environments` is 0")
        );
        assert!(
            refuse(Rl {
                discount: 1.5,
                ..tiny()
            })
            .contains("`discount` is 1.5, expected from 0 to 1")
        );
        assert!(
            refuse(Rl {
                fee_bps: f64::NAN,
                ..tiny()
            })
            .contains("`fee_bps` is NaN")
        );
    }
}
