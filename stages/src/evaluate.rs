//! `uses = "evaluate"`: scores predictions and decisions on data that took no part in training.
//!
//! Inputs `candles`, `windows`, `predictions` and, if a policy was trained, its `actions`. Outputs `metrics`, `equity` (test
//! split), `trades` (test split) and `calibration`.

mod checks;
mod forward;
mod observations;
mod scores;
mod strategies;

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::TimestampNanosecondArray;
use natron_artifacts::{
    Column, ColumnType, InputColumns, InputPort, Kind, Metrics, PortSchema, Progress, Schemas,
    Signature, Stage, StageContext, StageError, Table, Threads,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    backtest::{Prices, performance::bars_per_year},
    evaluation::{bootstrap::Bootstrap, probability::N_BINS},
};
use observations::{Observations, SCORED_SPLITS};
use strategies::{Outcome, Strategies};

/// Scores every head beside its naive baseline, and backtests the signals and the policy after costs.
///
/// Each score stands beside what needs no model (the classes' shares in the training split, and the last known label) and
/// carries a 95 % interval from a stationary block bootstrap. Scores that cannot be computed, as an AUC where only one class
/// occurs, are left out and counted under `left_out`. The labels `buy` and `sell` are functions of the same bar's inputs, so
/// their heads are also scored against the returns that follow.
///
/// The rule that turns probabilities into positions is chosen on the validation split alone. Decisions are made at the close
/// of a bar and filled at the open of the next one, with fee and slippage. Shorts, where allowed, pay no borrowing cost.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// Fee of every fill in basis points (hundredths of a percent) of the traded value.
    pub fee_bps: f64,
    /// By how much every fill is worse than the open of its bar, in basis points.
    pub slippage_bps: f64,
    /// Whether signals may sell short.
    pub allow_short: bool,
    /// Entry thresholds to choose from, as quantiles of the validation split's scores: 0.9 enters on the highest tenth.
    pub entry_quantiles: Vec<f64>,
    /// How many resamples the intervals are made from.
    pub bootstrap_resamples: u32,
    /// Mean length of a bootstrap block in bars; 0 takes the larger of the sample's cube root and twice the label horizon.
    pub bootstrap_block_bars: u32,
    /// Costs per fill, in basis points, at which the chosen strategies are computed again to show where they break even.
    pub cost_curve_bps: Vec<f64>,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self {
            // The transaction cost in the configuration of the original system, 0.0002.
            fee_bps: 2.0,
            slippage_bps: 1.0,
            // No borrowing cost is modelled, so shorts are the optimistic choice.
            allow_short: false,
            entry_quantiles: vec![0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
            bootstrap_resamples: 500,
            bootstrap_block_bars: 0,
            cost_curve_bps: vec![0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0],
        }
    }
}

impl Evaluate {
    fn check(&self) -> Result<(), StageError> {
        let cost = |name: &str, bps: f64| {
            if (0.0..10_000.0).contains(&bps) {
                return Ok(());
            }
            Err(StageError::parameter(
                name,
                format!("`{name}` is {bps}, expected basis points from 0 to below 10000"),
            ))
        };
        cost("fee_bps", self.fee_bps)?;
        cost("slippage_bps", self.slippage_bps)?;
        for &bps in &self.cost_curve_bps {
            cost("cost_curve_bps", bps)?;
        }
        if self.entry_quantiles.is_empty() {
            return Err(
                StageError::parameter("entry_quantiles", "`entry_quantiles` is empty")
                    .with_help("give at least one quantile, as `[0.8]`"),
            );
        }
        for &q in &self.entry_quantiles {
            if !(0.0..1.0).contains(&q) {
                return Err(StageError::parameter(
                    "entry_quantiles",
                    format!("`entry_quantiles` holds {q}, expected a share from 0 to below 1"),
                ));
            }
        }
        Ok(())
    }

    fn bootstrap(&self, n: usize, horizon_bars: usize) -> Bootstrap {
        let block_bars = match self.bootstrap_block_bars {
            0 => Bootstrap::block_rule(n, horizon_bars),
            bars => bars as usize,
        };
        Bootstrap {
            block_bars,
            n_resamples: self.bootstrap_resamples as usize,
        }
    }
}

fn equity_columns() -> Vec<Column> {
    let money = |name: &str, of: &str| {
        Column::new(name, ColumnType::F64)
            .unit("share of initial capital")
            .description(of)
    };
    let weight = |name: &str, of: &str| {
        Column::new(name, ColumnType::F64)
            .unit("share of equity")
            .description(of)
    };
    vec![
        Column::time_index(),
        Column::new("close", ColumnType::F64)
            .unit("price")
            .description("close of the bar"),
        money("signals", "equity of the signals after costs"),
        money("signals_gross", "the same trades without costs"),
        money(
            "policy",
            "equity of the policy after costs, missing without one",
        ),
        money("policy_gross", "the same trades without costs"),
        money("buy_and_hold", "one purchase at the start, after costs"),
        weight("signals_weight", "position of the signals"),
        weight("policy_weight", "position of the policy"),
    ]
}

fn trades_columns() -> Vec<Column> {
    let price = |name: &str, of: &str| {
        Column::new(name, ColumnType::F64)
            .unit("price")
            .description(of)
    };
    let money = |name: &str, of: &str| {
        Column::new(name, ColumnType::F64)
            .unit("share of initial capital")
            .description(of)
    };
    let time = |name: &str, of: &str| {
        Column::new(name, ColumnType::TimestampNs)
            .unit("ns")
            .description(of)
    };
    vec![
        Column::new("strategy", ColumnType::Utf8).description("`signals` or `policy`"),
        Column::new("side", ColumnType::I64).description("1 long, -1 short"),
        time("entry_ts_ns", "close of the bar of the opening fill"),
        time("exit_ts_ns", "close of the bar of the closing fill"),
        Column::new("holding_bars", ColumnType::I64).unit("bars"),
        price(
            "entry_price",
            "price of the opening fill, slippage included",
        ),
        price("exit_price", "price of the closing fill, slippage included"),
        money("fees", "fees of both fills"),
        money("pnl", "profit after fees and slippage"),
    ]
}

fn calibration_columns() -> Vec<Column> {
    let share = |name: &str, of: &str| Column::new(name, ColumnType::F64).description(of);
    vec![
        Column::new("split", ColumnType::Utf8).description("`validation` or `test`"),
        Column::new("head", ColumnType::Utf8),
        Column::new("bin", ColumnType::I64)
            .description("bins of equal width, counted from 0; of the positive class with two classes, of the predicted one with more"),
        share("lower", "lower end of the bin"),
        share("upper", "upper end of the bin"),
        share("mean_predicted", "mean stated probability, missing when the bin is empty"),
        share("observed", "share that came true, missing when the bin is empty"),
        Column::new("count", ColumnType::I64).description("observations in the bin"),
    ]
}

impl Stage for Evaluate {
    fn signature(&self, _inputs: &Schemas) -> Result<Signature, StageError> {
        self.check()?;
        Ok(Signature::new()
            .input_columns("candles", ["open", "high", "low", "close"])
            .input_columns("windows", observations::WINDOW_COLUMNS)
            .input_columns("predictions", observations::prediction_columns())
            .input(InputPort {
                name: "actions".into(),
                kind: Kind::Table,
                columns: InputColumns::Only(vec!["row".into(), "split".into(), "position".into()]),
                many: false,
                optional: true,
            })
            .output("metrics", PortSchema::of(Kind::Metrics))
            .output("equity", PortSchema::table(equity_columns()))
            .output("trades", PortSchema::table(trades_columns()))
            .output("calibration", PortSchema::table(calibration_columns()))
            .threads(Threads::All))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        self.check()?;
        let candles = context.table("candles")?;
        let ts_ns = candles.ts_ns()?;
        let column = |name: &str| -> Result<_, StageError> { Ok(candles.f64(name)?) };
        let (open, high, low, close) = (
            column("open")?,
            column("high")?,
            column("low")?,
            column("close")?,
        );
        let prices = Prices {
            open: &open,
            high: &high,
            low: &low,
            close: &close,
        };
        let (windows, predictions) = (context.table("windows")?, context.table("predictions")?);
        let observations = Observations::read(&windows, &predictions, candles.n_rows())?;
        let positions = match context.optional("actions") {
            Some(_) => Some(observations::positions(
                context.table("actions")?.as_ref(),
                &observations,
            )?),
            None => None,
        };
        let per_year = bars_per_year(ts_ns).ok_or_else(|| {
            StageError::data("the candles have fewer than two bars")
                .with_help("evaluate needs the bars that the windows were cut from")
        })?;

        let mut metrics = Metrics::new();
        set(&mut metrics, "bars_per_year", per_year)?;
        set(
            &mut metrics,
            "label_horizon_bars",
            observations.horizon_bars as f64,
        )?;
        set(&mut metrics, "costs.fee_bps", self.fee_bps)?;
        set(&mut metrics, "costs.slippage_bps", self.slippage_bps)?;
        checks::record(&observations, candles.n_rows(), &mut metrics)?;
        stated_targets(&observations, &mut metrics)?;

        let mut calibration = Calibration::default();
        for (k, (split, id)) in SCORED_SPLITS.into_iter().enumerate() {
            context.check_cancelled()?;
            context.progress(&Progress {
                done: k as u64,
                total: Some(SCORED_SPLITS.len() as u64 + 1),
                unit: "splits",
                loss: None,
                note: format!("scoring {split}"),
            });
            let rows = observations.of_split(id);
            let bootstrap = self.bootstrap(rows.len(), observations.horizon_bars);
            let scored = scores::Scored {
                observations: &observations,
                split,
                rows: &rows,
                bootstrap,
                streams: context.streams(),
            };
            scored.record_heads(&mut metrics, &mut calibration)?;
            forward::record(&scored, &close, &mut metrics)?;
        }
        for (path, _) in metrics.numbers() {
            if let Some(name) = path.strip_prefix("left_out.") {
                context.warn(&format!(
                    "`{name}` cannot be computed: it needs more than one class or value"
                ));
            }
        }

        context.check_cancelled()?;
        let strategies = Strategies {
            parameters: self,
            observations: &observations,
            prices,
            ts_ns,
            per_year,
            streams: context.streams(),
        };
        let outcome = strategies.record(positions.as_ref(), &mut metrics)?;
        if outcome.signals.is_none() {
            context.warn(
                "no rule traded on the validation split, so the signals stay out of the market",
            );
        }

        context.write("equity", equity_table(&outcome)?)?;
        context.write("trades", trades_table(&outcome, ts_ns)?)?;
        context.write("calibration", calibration.table()?)?;
        context.write("metrics", metrics)
    }
}

/// What the system's document promises, beside what was found. It states a latency, a window and a count of features; it
/// states no accuracy and no return.
fn stated_targets(observations: &Observations, metrics: &mut Metrics) -> Result<(), StageError> {
    set(metrics, "targets.latency_ms.stated", 50.0)?;
    set(metrics, "targets.features.stated", 100.0)?;
    set(metrics, "targets.window_bars.stated", 96.0)?;
    if let Some(bars) = observations.window_bars {
        set(metrics, "targets.window_bars.measured", bars as f64)?;
    }
    Ok(())
}

/// Sets a metric; a value that is not finite is a mistake of ours and stops the stage.
fn set(metrics: &mut Metrics, path: &str, value: f64) -> Result<(), StageError> {
    metrics
        .set(path, value)
        .map_err(|message| StageError::NonFinite { message })
}

/// The rows of the table `calibration`.
#[derive(Debug, Default)]
struct Calibration {
    split: Vec<String>,
    head: Vec<String>,
    bin: Vec<i64>,
    numbers: BTreeMap<&'static str, Vec<f64>>,
    count: Vec<i64>,
}

impl Calibration {
    fn push(&mut self, split: &str, head: &str, bins: &[crate::evaluation::probability::Bin]) {
        for (k, bin) in bins.iter().enumerate() {
            self.split.push(split.to_owned());
            self.head.push(head.to_owned());
            self.bin.push(k as i64);
            self.count.push(bin.count as i64);
            let missing = f64::NAN;
            for (name, value) in [
                ("lower", k as f64 / N_BINS as f64),
                ("upper", (k + 1) as f64 / N_BINS as f64),
                ("mean_predicted", bin.mean_predicted().unwrap_or(missing)),
                ("observed", bin.observed().unwrap_or(missing)),
            ] {
                self.numbers.entry(name).or_default().push(value);
            }
        }
    }

    fn table(mut self) -> Result<Table, StageError> {
        let mut builder = Table::builder();
        for column in calibration_columns() {
            builder = match column.name.as_str() {
                "split" => builder.utf8(column, std::mem::take(&mut self.split)),
                "head" => builder.utf8(column, std::mem::take(&mut self.head)),
                "bin" => builder.i64(column, std::mem::take(&mut self.bin)),
                "count" => builder.i64(column, std::mem::take(&mut self.count)),
                name => {
                    let values = self.numbers.remove(name).unwrap_or_default();
                    builder.f64(column, values)
                }
            };
        }
        Ok(builder.build()?)
    }
}

fn equity_table(outcome: &Outcome) -> Result<Table, StageError> {
    let n = outcome.ts_ns.len();
    let missing = || vec![f64::NAN; n];
    let equity = |run: &Option<strategies::Run>, gross: bool| {
        run.as_ref().map_or_else(missing, |run| {
            if gross {
                run.gross.equity.clone()
            } else {
                run.net.equity.clone()
            }
        })
    };
    let weight = |run: &Option<strategies::Run>| {
        run.as_ref()
            .map_or_else(missing, |run| run.net.weight.clone())
    };
    let mut builder = Table::builder();
    for column in equity_columns() {
        builder = match column.name.as_str() {
            "ts_ns" => builder.time_index(outcome.ts_ns.clone()),
            "close" => builder.f64(column, outcome.close.clone()),
            "signals" => builder.f64(column, equity(&outcome.signals, false)),
            "signals_gross" => builder.f64(column, equity(&outcome.signals, true)),
            "policy" => builder.f64(column, equity(&outcome.policy, false)),
            "policy_gross" => builder.f64(column, equity(&outcome.policy, true)),
            "signals_weight" => builder.f64(column, weight(&outcome.signals)),
            "policy_weight" => builder.f64(column, weight(&outcome.policy)),
            _ => builder.f64(column, outcome.buy_and_hold.equity.clone()),
        };
    }
    Ok(builder.fact("split", json!("test")).build()?)
}

fn trades_table(outcome: &Outcome, ts_ns: &[i64]) -> Result<Table, StageError> {
    let runs = [("signals", &outcome.signals), ("policy", &outcome.policy)];
    let trades: Vec<_> = runs
        .into_iter()
        .filter_map(|(name, run)| Some((name, run.as_ref()?)))
        .flat_map(|(name, run)| run.net.trades.iter().map(move |trade| (name, trade)))
        .collect();
    let numbers = |value: fn(&crate::backtest::Trade) -> f64| -> Vec<f64> {
        trades.iter().map(|(_, trade)| value(trade)).collect()
    };
    let time = |row: fn(&crate::backtest::Trade) -> usize| {
        let times: Vec<i64> = trades
            .iter()
            .map(|(_, trade)| ts_ns[outcome.first_row + row(trade)])
            .collect();
        Arc::new(TimestampNanosecondArray::from(times).with_timezone("UTC"))
    };
    let mut builder = Table::builder();
    for column in trades_columns() {
        builder = match column.name.as_str() {
            "strategy" => builder.utf8(
                column,
                trades.iter().map(|(name, _)| (*name).to_owned()).collect(),
            ),
            "side" => builder.i64(
                column,
                trades.iter().map(|(_, t)| i64::from(t.side)).collect(),
            ),
            "entry_ts_ns" => builder.push(column, time(|t| t.entry_row)),
            "exit_ts_ns" => builder.push(column, time(|t| t.exit_row)),
            "holding_bars" => builder.i64(
                column,
                trades
                    .iter()
                    .map(|(_, t)| (t.exit_row - t.entry_row) as i64)
                    .collect(),
            ),
            "entry_price" => builder.f64(column, numbers(|t| t.entry_price)),
            "exit_price" => builder.f64(column, numbers(|t| t.exit_price)),
            "fees" => builder.f64(column, numbers(|t| t.fees)),
            _ => builder.f64(column, numbers(|t| t.pnl)),
        };
    }
    Ok(builder.fact("split", json!("test")).build()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use natron_artifacts::{Artifact, StageContextParts, Streams};
    use natron_kernels::math;

    use super::*;

    /// Candles, windows and predictions of a market that moves at random, apart from a drift that `skill` shows to the heads.
    pub(crate) struct World {
        pub(crate) candles: Table,
        pub(crate) windows: Table,
        pub(crate) predictions: Table,
        pub(crate) actions: Table,
    }

    const START_NS: i64 = 1_700_000_000_000_000_000;
    const HOUR_NS: i64 = 3_600_000_000_000;

    impl World {
        #[expect(clippy::too_many_lines, reason = "three tables, column by column")]
        pub(crate) fn new(n_bars: usize, skill: f64) -> Self {
            let mut stream = Streams::new(11).stream("world");
            let mut noise: Vec<f64> = (0..n_bars).map(|_| 0.004 * stream.normal()).collect();
            // Slow waves, so that a label lasts a while.
            for (i, r) in noise.iter_mut().enumerate() {
                *r += 0.0015 * math::sin(i as f64 / 40.0);
            }
            let mut price = 100.0;
            let (mut open, mut high, mut low, mut close) = (vec![], vec![], vec![], vec![]);
            for r in &noise {
                let next = price * (1.0 + r);
                open.push(price);
                high.push(f64::max(price, next) * 1.001);
                low.push(f64::min(price, next) * 0.999);
                close.push(next);
                price = next;
            }
            let ts_ns: Vec<i64> = (0..n_bars as i64).map(|i| START_NS + i * HOUR_NS).collect();
            let number = |name: &str| Column::new(name, ColumnType::F64);
            let whole = |name: &str| Column::new(name, ColumnType::I64);
            let candles = Table::builder()
                .time_index(ts_ns.clone())
                .f64(number("open"), open)
                .f64(number("high"), high)
                .f64(number("low"), low)
                .f64(number("close"), close.clone())
                .build()
                .unwrap();

            let rows: Vec<usize> = (96..n_bars - 3).collect();
            let (train_end, validation_end) = (n_bars * 7 / 10, n_bars * 8 / 10);
            let split = |row: usize| {
                if row < train_end {
                    Some(0)
                } else if row >= train_end + 10 && row < validation_end {
                    Some(1)
                } else if row >= validation_end + 10 {
                    Some(2)
                } else {
                    None
                }
            };
            let rows: Vec<usize> = rows
                .into_iter()
                .filter(|&row| split(row).is_some())
                .collect();
            let forward: Vec<f64> = rows
                .iter()
                .map(|&row| close[row + 3] / close[row] - 1.0)
                .collect();
            let class =
                |of: &dyn Fn(f64) -> i64| -> Vec<i64> { forward.iter().map(|&r| of(r)).collect() };
            let buy = class(&|r| i64::from(r > 0.003));
            let sell = class(&|r| i64::from(r < -0.003));
            let direction = class(&|r| {
                if r > 0.001 {
                    1
                } else if r < -0.001 {
                    0
                } else {
                    2
                }
            });
            let regime: Vec<i64> = rows.iter().map(|&row| (row / 50 % 6) as i64).collect();
            let indices = |rows: &[usize]| rows.iter().map(|&row| row as i64).collect::<Vec<_>>();
            let times = |rows: &[usize]| rows.iter().map(|&row| ts_ns[row]).collect::<Vec<_>>();
            let splits: Vec<i64> = rows.iter().map(|&row| split(row).unwrap()).collect();
            let windows = Table::builder()
                .i64(whole("row"), indices(&rows))
                .time_index(times(&rows))
                .i64(whole("split"), splits.clone())
                .i64(whole("buy"), buy.clone())
                .i64(whole("sell"), sell.clone())
                .i64(whole("direction"), direction.clone())
                .i64(whole("regime"), regime.clone())
                .i64(whole("train_buy"), buy.clone())
                .i64(whole("train_sell"), sell.clone())
                .fact("window_bars", json!(96))
                .fact("label_horizon_bars", json!(3))
                .build()
                .unwrap();

            let mut p = |n: usize, label: &dyn Fn(usize) -> usize| -> Vec<Vec<f64>> {
                let mut columns = vec![vec![]; n];
                for i in 0..rows.len() {
                    let raw: Vec<f64> = (0..n)
                        .map(|class| {
                            let shown = if class == label(i) { skill } else { 0.0 };
                            math::exp(shown + 0.6 * stream.normal())
                        })
                        .collect();
                    let sum: f64 = raw.iter().sum();
                    for (column, value) in columns.iter_mut().zip(raw) {
                        column.push(value / sum);
                    }
                }
                columns
            };
            let positive = |columns: Vec<Vec<f64>>| columns.into_iter().nth(1).unwrap();
            let buys = positive(p(2, &|i| buy[i] as usize));
            let sells = positive(p(2, &|i| sell[i] as usize));
            let directions = p(3, &|i| direction[i] as usize);
            let regimes = p(6, &|i| regime[i] as usize);
            let mut predictions = Table::builder()
                .i64(whole("row"), indices(&rows))
                .time_index(times(&rows))
                .i64(whole("split"), splits)
                .f64(number("buy"), buys)
                .f64(number("sell"), sells);
            for (name, values) in ["down", "up", "neutral"].into_iter().zip(directions) {
                predictions = predictions.f64(number(&format!("direction_{name}")), values);
            }
            for (k, values) in regimes.into_iter().enumerate() {
                predictions = predictions.f64(number(&format!("regime_{k}")), values);
            }
            let acting: Vec<usize> = rows
                .iter()
                .copied()
                .filter(|&row| split(row) != Some(0))
                .collect();
            let actions = Table::builder()
                .i64(whole("row"), indices(&acting))
                .i64(
                    whole("split"),
                    acting.iter().map(|&row| split(row).unwrap()).collect(),
                )
                .f64(
                    Column::new("position", ColumnType::F64),
                    acting
                        .iter()
                        .map(|&row| f64::from(u8::from(row % 60 < 30)))
                        .collect(),
                )
                .build()
                .unwrap();
            Self {
                candles,
                windows,
                predictions: predictions.build().unwrap(),
                actions,
            }
        }
    }

    /// The outputs of `stage` on `world`.
    pub(crate) fn evaluated(stage: &Evaluate, world: &World) -> BTreeMap<String, Artifact> {
        run(stage, world).unwrap()
    }

    fn run(stage: &Evaluate, world: &World) -> Result<BTreeMap<String, Artifact>, StageError> {
        let directory = tempfile::tempdir().unwrap();
        let parts = StageContextParts::for_test(directory.path())
            .input("candles", world.candles.clone())
            .input("windows", world.windows.clone())
            .input("predictions", world.predictions.clone())
            .input("actions", world.actions.clone());
        let mut context = StageContext::new(parts, stage.signature(&Schemas::new())?);
        stage.run(&mut context)?;
        context.finish()
    }

    fn metrics(outputs: &BTreeMap<String, Artifact>) -> &Metrics {
        let Artifact::Metrics(metrics) = &outputs["metrics"] else {
            panic!("metrics")
        };
        metrics
    }

    fn table<'a>(outputs: &'a BTreeMap<String, Artifact>, name: &str) -> &'a Table {
        let Artifact::Table(table) = &outputs[name] else {
            panic!("{name}")
        };
        table
    }

    fn quick() -> Evaluate {
        Evaluate {
            bootstrap_resamples: 60,
            allow_short: true,
            ..Evaluate::default()
        }
    }

    #[test]
    fn skill_shows_and_its_absence_does_not() {
        let skilled = evaluated(&quick(), &World::new(2500, 2.0));
        let blind = evaluated(&quick(), &World::new(2500, 0.0));
        let get = |outputs, path: &str| {
            metrics(outputs)
                .get(path)
                .unwrap_or_else(|| panic!("{path}"))
        };

        for head in ["buy", "sell", "direction", "regime"] {
            assert!(
                get(&skilled, &format!("heads.test.{head}.auc.low")) > 0.6,
                "{head}"
            );
            let (low, high) = (
                get(&blind, &format!("heads.test.{head}.auc.low")),
                get(&blind, &format!("heads.test.{head}.auc.high")),
            );
            assert!(low < 0.5 && high > 0.5, "{head}: {low} to {high}");
        }
        assert!(get(&skilled, "forward.test.buy.information_coefficient.low") > 0.1);
        assert!(
            get(
                &skilled,
                "forward.test.direction.label_information_coefficient.value"
            ) > 0.8
        );
        assert!(get(&skilled, "backtest.test.signals.sharpe_ratio") > 3.0);
        assert!(
            get(&skilled, "backtest.test.signals.gross_total_return")
                > get(&skilled, "backtest.test.signals.total_return")
        );
        assert!((get(&skilled, "targets.latency_ms.stated") - 50.0).abs() < 1e-12);
        assert!((get(&skilled, "heads.test.buy.is_function_of_inputs") - 1.0).abs() < 1e-12);
        for check in [
            "chronological",
            "labels_purged",
            "labels_within_data",
            "evaluation_labels_unperturbed",
        ] {
            assert!(
                (get(&skilled, &format!("checks.{check}")) - 1.0).abs() < 1e-12,
                "{check}"
            );
        }
    }

    #[test]
    fn tables_tell_the_whole_test_split() {
        let world = World::new(1500, 1.0);
        let outputs = evaluated(&quick(), &world);
        let (equity, trades) = (table(&outputs, "equity"), table(&outputs, "trades"));

        assert_eq!(equity.n_rows(), 1500 - 3 - 1210);
        let last = |name: &str| *equity.f64(name).unwrap().last().unwrap();
        let path = "backtest.test.policy.total_return";
        assert!((last("policy") - 1.0 - metrics(&outputs).get(path).unwrap()).abs() < 1e-12);
        let names = trades.utf8("strategy").unwrap();
        for strategy in ["signals", "policy"] {
            let n = names.iter().filter(|name| **name == strategy).count() as f64;
            let path = format!("backtest.test.{strategy}.n_trades");
            assert!((metrics(&outputs).get(&path).unwrap() - n).abs() < 1e-12);
        }
        assert_eq!(table(&outputs, "calibration").n_rows(), 2 * 4 * N_BINS);
    }

    #[test]
    fn the_test_split_chooses_nothing() {
        let world = World::new(1500, 0.5);
        let split = world.predictions.i64("split").unwrap().to_vec();
        let mut changed = Table::builder();
        for column in world.predictions.columns() {
            changed = if matches!(column.name.as_str(), "buy" | "sell") {
                let values = world
                    .predictions
                    .f64(&column.name)
                    .unwrap()
                    .iter()
                    .zip(&split)
                    .map(|(&p, &split)| if split == 2 { 1.0 - p } else { p })
                    .collect();
                changed.f64(column.clone(), values)
            } else {
                changed.column_of(&world.predictions, &column.name)
            };
        }
        let other = World {
            predictions: changed.build().unwrap(),
            ..World::new(1500, 0.5)
        };

        let chosen = |world: &World| {
            metrics(&evaluated(&quick(), world))
                .value("signals")
                .cloned()
        };
        assert_eq!(chosen(&world), chosen(&other));
    }

    #[test]
    fn threads_do_not_change_a_byte() {
        let world = World::new(900, 0.5);
        let digests = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let outputs = pool.install(|| evaluated(&quick(), &world));
            outputs
                .values()
                .map(|a| a.seal().unwrap().manifest.logical)
                .collect::<Vec<_>>()
        };

        assert_eq!(digests(1), digests(3));
    }

    #[test]
    fn one_class_in_the_test_split_is_left_out_and_said() {
        let world = World::new(1500, 0.5);
        let n = world.windows.n_rows();
        let split = world.windows.i64("split").unwrap().to_vec();
        let mut windows = Table::builder();
        for column in world.windows.columns() {
            windows = if matches!(column.name.as_str(), "buy" | "train_buy") {
                let old = world.windows.i64("buy").unwrap();
                windows.i64(
                    column.clone(),
                    (0..n)
                        .map(|i| if split[i] == 2 { 0 } else { old[i] })
                        .collect(),
                )
            } else {
                windows.column_of(&world.windows, &column.name)
            };
        }
        let windows = windows
            .fact("label_horizon_bars", json!(3))
            .build()
            .unwrap();
        let outputs = evaluated(
            &quick(),
            &World {
                windows,
                ..World::new(1500, 0.5)
            },
        );

        assert_eq!(metrics(&outputs).get("heads.test.buy.auc.value"), None);
        assert_eq!(metrics(&outputs).get("left_out.test.buy.auc"), Some(1.0));
        assert!(
            metrics(&outputs)
                .get("heads.validation.buy.auc.value")
                .is_some()
        );
    }

    #[test]
    fn says_which_window_has_no_prediction() {
        let world = World::new(600, 0.5);
        let columns: Vec<_> = world.predictions.columns().to_vec();
        let mut shorter = Table::builder();
        for column in columns {
            let array = world
                .predictions
                .arrow()
                .column_by_name(&column.name)
                .unwrap()
                .slice(1, 400);
            shorter = shorter.push(column, array);
        }
        let error = run(
            &quick(),
            &World {
                predictions: shorter.build().unwrap(),
                ..World::new(600, 0.5)
            },
        )
        .unwrap_err();

        assert!(
            error
                .to_string()
                .contains("no row for the window that ends at bar 96"),
            "{error}"
        );
        assert!(error.help().is_some());
    }

    /// `table` with other values in one column.
    fn with_column(table: &Table, name: &str, values: &[f64]) -> Table {
        let mut changed = Table::builder();
        for column in table.columns() {
            changed = if column.name == name {
                changed.f64(column.clone(), values.to_vec())
            } else {
                changed.column_of(table, &column.name)
            };
        }
        changed.build().unwrap()
    }

    #[test]
    fn a_signal_that_is_always_certain_trades() {
        let mut world = World::new(1200, 0.0);
        let n = world.predictions.n_rows();
        for (name, value) in [
            ("buy", 1.0),
            ("sell", 0.0),
            ("direction_up", 1.0),
            ("direction_down", 0.0),
            ("direction_neutral", 0.0),
        ] {
            world.predictions = with_column(&world.predictions, name, &vec![value; n]);
        }
        let outputs = evaluated(&quick(), &world);
        let metrics = metrics(&outputs);

        assert!(metrics.get("signals.n_rules_that_traded").unwrap() > 0.0);
        let exposure = metrics.get("backtest.test.signals.exposure").unwrap();
        assert!(exposure > 0.9, "{exposure}");
    }

    #[test]
    fn predictions_of_another_split_are_refused() {
        let world = World::new(600, 0.5);
        let mut changed = Table::builder();
        for column in world.predictions.columns() {
            changed = if column.name == "split" {
                changed.i64(column.clone(), vec![0; world.predictions.n_rows()])
            } else {
                changed.column_of(&world.predictions, &column.name)
            };
        }
        let world = World {
            predictions: changed.build().unwrap(),
            ..world
        };
        let error = run(&quick(), &world).unwrap_err();

        let text = error.to_string();
        assert!(
            text.contains(
                "in the validation split of `windows` and in the training split of `predictions`"
            ),
            "{text}"
        );
    }

    #[test]
    fn refuses_costs_and_thresholds_that_make_no_sense() {
        let refuse = |stage: Evaluate| stage.signature(&Schemas::new()).unwrap_err().to_string();

        assert!(
            refuse(Evaluate {
                fee_bps: -1.0,
                ..quick()
            })
            .contains("`fee_bps` is -1")
        );
        assert!(
            refuse(Evaluate {
                entry_quantiles: vec![1.5],
                ..quick()
            })
            .contains("holds 1.5")
        );
        assert!(
            refuse(Evaluate {
                entry_quantiles: vec![],
                ..quick()
            })
            .contains("is empty")
        );
    }
}
