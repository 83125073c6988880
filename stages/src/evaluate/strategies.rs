//! Backtests: the signals' rule chosen on validation, the policy, and buy-and-hold.

use std::collections::BTreeMap;

use natron_artifacts::{Metrics, StageError, Streams};

use super::{Evaluate, Observations, observations::SCORED_SPLITS, scores::record_interval, set};
use crate::{
    backtest::{
        Prices, Rules, Simulation, follow_positions,
        performance::{Returns, expected_best_sharpe, figures, simple_returns},
    },
    evaluation::bootstrap::{difference_interval, interval, quantile},
};

const VALIDATION: usize = 0;
const TEST: usize = 1;

/// Everything that backtests read.
pub(super) struct Strategies<'a> {
    pub(super) parameters: &'a Evaluate,
    pub(super) observations: &'a Observations,
    pub(super) prices: Prices<'a>,
    pub(super) ts_ns: &'a [i64],
    pub(super) per_year: f64,
    pub(super) streams: Streams,
}

/// A strategy's simulation with and without costs.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// After costs.
    pub(super) net: Simulation,
    /// The same decisions without costs.
    pub(super) gross: Simulation,
}

/// What the test split showed.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The candle at which the test begins.
    pub(super) first_row: usize,
    /// Times of the test's bars.
    pub(super) ts_ns: Vec<i64>,
    /// Their closes.
    pub(super) close: Vec<f64>,
    /// The chosen signals; `None` when no rule traded on validation.
    pub(super) signals: Option<Run>,
    /// The policy, if there is one.
    pub(super) policy: Option<Run>,
    /// One purchase at the start.
    pub(super) buy_and_hold: Simulation,
}

/// When a position is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// As soon as the score falls below the entry threshold.
    SignalEnds,
    /// When the opposite score reaches its threshold.
    Opposite,
}

/// A rule from probabilities to sides.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Position of the pair of scores in [`PAIRS`].
    pair: usize,
    quantile: f64,
    long_threshold: f64,
    short_threshold: f64,
    exit: Exit,
}

/// The pairs of (long, short) scores: (head, class) each. Heads as in [`super::observations::HEADS`].
const PAIRS: [[(usize, usize); 2]; 2] = [[(0, 1), (1, 1)], [(2, 1), (2, 0)]];

impl Strategies<'_> {
    /// Chooses the rule, runs everything and records `backtest.<split>.<strategy>.<figure>`.
    pub(super) fn record(
        &self,
        policy: Option<&BTreeMap<usize, f64>>,
        metrics: &mut Metrics,
    ) -> Result<Outcome, StageError> {
        let chosen = self.choose(metrics)?;
        let mut outcome = Outcome::default();
        for (which, (split, id)) in SCORED_SPLITS.into_iter().enumerate() {
            let Some((first, last)) = self.observations.bars_of_split(id) else {
                set(metrics, &format!("left_out.backtest.{split}"), 1.0)?;
                continue;
            };
            let signals = chosen.as_ref().map(|(rule, _)| {
                follow(first..=last, |row, current| self.side(rule, row, current))
            });
            let policy = policy
                .filter(|positions| positions.range(first..=last).next().is_some())
                .map(|positions| {
                    follow(first..=last, |row, current| {
                        positions.get(&row).copied().unwrap_or(current)
                    })
                });
            let held = vec![1.0; last + 1 - first];
            let buy_and_hold = self.simulate(first, last, &held);
            let hold_returns = simple_returns(&buy_and_hold.net.equity);

            self.record_figures(split, "buy_and_hold", &buy_and_hold, metrics)?;
            for (name, positions) in [("signals", &signals), ("policy", &policy)] {
                let Some(positions) = positions else { continue };
                let run = self.simulate(first, last, positions);
                self.record_figures(split, name, &run, metrics)?;
                self.record_intervals(split, name, &run, &hold_returns, metrics)?;
                if which == TEST {
                    self.record_cost_curve(name, first, last, positions, metrics)?;
                    if let ("signals", Some((_, trials))) = (name, &chosen) {
                        record_deflation(&run, trials, metrics)?;
                    }
                    let place = if name == "signals" {
                        &mut outcome.signals
                    } else {
                        &mut outcome.policy
                    };
                    *place = Some(run);
                }
            }
            if which == TEST {
                outcome.first_row = first;
                outcome.ts_ns = self.ts_ns[first..=last].to_vec();
                outcome.close = self.prices.close[first..=last].to_vec();
                outcome.buy_and_hold = buy_and_hold.net;
            }
        }
        Ok(outcome)
    }

    /// The rule with the highest Sharpe ratio after costs on validation, and the per-bar ratios of all that traded there.
    /// The first of equals wins; rules that never traded cannot.
    fn choose(&self, metrics: &mut Metrics) -> Result<Option<(Rule, Vec<f64>)>, StageError> {
        let rules = self.rules();
        let mut tried = Vec::new();
        let mut best: Option<(Rule, f64)> = None;
        if let Some((first, last)) = self.observations.bars_of_split(SCORED_SPLITS[VALIDATION].1) {
            for rule in &rules {
                let positions = follow(first..=last, |row, current| self.side(rule, row, current));
                let net = self.simulate(first, last, &positions).net;
                let sharpe =
                    Returns::new(&simple_returns(&net.equity)).and_then(|r| r.sharpe_ratio);
                // A position that is still open at the end has traded too.
                let has_traded = net.traded.iter().any(|value| *value > 0.0);
                if let Some(sharpe) = sharpe.filter(|_| has_traded) {
                    tried.push(sharpe);
                    if best.is_none_or(|(_, value)| sharpe > value) {
                        best = Some((*rule, sharpe));
                    }
                }
            }
        }
        set(metrics, "signals.n_rules_tried", rules.len() as f64)?;
        set(metrics, "signals.n_rules_that_traded", tried.len() as f64)?;
        let Some((rule, sharpe)) = best else {
            return Ok(None);
        };
        let uses_direction = f64::from(u8::from(rule.pair == 1));
        let waits = f64::from(u8::from(rule.exit == Exit::Opposite));
        set(
            metrics,
            "signals.chosen.uses_direction_head",
            uses_direction,
        )?;
        set(metrics, "signals.chosen.entry_quantile", rule.quantile)?;
        set(
            metrics,
            "signals.chosen.long_threshold",
            rule.long_threshold,
        )?;
        set(
            metrics,
            "signals.chosen.short_threshold",
            rule.short_threshold,
        )?;
        set(metrics, "signals.chosen.waits_for_opposite", waits)?;
        set(
            metrics,
            "signals.chosen.validation_sharpe_ratio",
            sharpe * self.per_year.sqrt(),
        )?;
        Ok(Some((rule, tried)))
    }

    /// All rules, their thresholds taken from the validation split's scores.
    fn rules(&self) -> Vec<Rule> {
        let validation = self.observations.of_split(SCORED_SPLITS[VALIDATION].1);
        if validation.is_empty() {
            return Vec::new();
        }
        let sorted = |(head, class): (usize, usize)| {
            let mut scores: Vec<f64> = validation
                .iter()
                .map(|&i| self.observations.probability(head, i, class))
                .collect();
            scores.sort_by(f64::total_cmp);
            scores
        };
        let mut rules = Vec::new();
        for (pair, [long, short]) in PAIRS.into_iter().enumerate() {
            let (long, short) = (sorted(long), sorted(short));
            for &q in &self.parameters.entry_quantiles {
                for exit in [Exit::SignalEnds, Exit::Opposite] {
                    rules.push(Rule {
                        pair,
                        quantile: q,
                        long_threshold: quantile(&long, q),
                        short_threshold: quantile(&short, q),
                        exit,
                    });
                }
            }
        }
        rules
    }

    /// The side decided at the close of bar `row`; a bar without a window keeps the current one.
    fn side(&self, rule: &Rule, row: usize, current: f64) -> f64 {
        let Some(i) = self.observations.at_row(row) else {
            return current;
        };
        let [long, short] =
            PAIRS[rule.pair].map(|(head, class)| self.observations.probability(head, i, class));
        let calls_long = long >= rule.long_threshold && long > short;
        let calls_short = short >= rule.short_threshold && short > long;
        let below = if self.parameters.allow_short {
            -1.0
        } else {
            0.0
        };
        match (calls_long, calls_short, rule.exit) {
            (true, _, _) => 1.0,
            (_, true, _) => below,
            (_, _, Exit::SignalEnds) => 0.0,
            (_, _, Exit::Opposite) => current,
        }
    }

    fn simulate(&self, first: usize, last: usize, positions: &[f64]) -> Run {
        let prices = self.prices.range(first, last + 1);
        let Evaluate {
            fee_bps,
            slippage_bps,
            ..
        } = *self.parameters;
        Run {
            net: follow_positions(prices, positions, Rules::all_cash(fee_bps, slippage_bps)),
            gross: follow_positions(prices, positions, Rules::all_cash(0.0, 0.0)),
        }
    }

    fn record_figures(
        &self,
        split: &str,
        name: &str,
        run: &Run,
        metrics: &mut Metrics,
    ) -> Result<(), StageError> {
        for (figure, value) in figures(&run.net, self.per_year) {
            set(metrics, &format!("backtest.{split}.{name}.{figure}"), value)?;
        }
        for (figure, value) in figures(&run.gross, self.per_year) {
            if matches!(figure, "total_return" | "sharpe_ratio") {
                set(
                    metrics,
                    &format!("backtest.{split}.{name}.gross_{figure}"),
                    value,
                )?;
            }
        }
        Ok(())
    }

    /// Intervals of the Sharpe ratio and of its excess over buy-and-hold, from the same resamples of bars.
    fn record_intervals(
        &self,
        split: &str,
        name: &str,
        run: &Run,
        hold_returns: &[f64],
        metrics: &mut Metrics,
    ) -> Result<(), StageError> {
        let returns = simple_returns(&run.net.equity);
        let annual = self.per_year.sqrt();
        let bootstrap = self
            .parameters
            .bootstrap(returns.len(), self.observations.horizon_bars);
        let stream = format!("bootstrap.returns.{split}");
        let resamples = bootstrap.run(returns.len(), self.streams, &stream, |counts| {
            [&returns[..], hold_returns]
                .map(|r| Some(annual * sharpe_ratio(r, counts)?))
                .to_vec()
        });
        let at = format!("backtest.{split}.{name}");
        record_interval(metrics, &at, "sharpe_ratio_", interval(&resamples, 0))?;
        record_interval(
            metrics,
            &at,
            "excess_sharpe_ratio_",
            difference_interval(&resamples, 0, 1),
        )
    }

    /// The strategy once more at every cost of the curve.
    fn record_cost_curve(
        &self,
        name: &str,
        first: usize,
        last: usize,
        positions: &[f64],
        metrics: &mut Metrics,
    ) -> Result<(), StageError> {
        let prices = self.prices.range(first, last + 1);
        let annual = self.per_year.sqrt();
        let (mut costs, mut ratios, mut totals) = (Vec::new(), Vec::new(), Vec::new());
        for &bps in &self.parameters.cost_curve_bps {
            let net = follow_positions(prices, positions, Rules::all_cash(bps, 0.0));
            let returns = Returns::new(&simple_returns(&net.equity));
            if let Some(sharpe) = returns.and_then(|r| r.sharpe_ratio) {
                costs.push(bps);
                ratios.push(sharpe * annual);
                totals.push(net.equity[net.equity.len() - 1] - 1.0);
            }
        }
        for (series, values) in [
            ("cost_bps", costs),
            ("sharpe_ratio", ratios),
            ("total_return", totals),
        ] {
            metrics
                .set_series(
                    &format!("backtest.test.{name}.cost_curve.{series}"),
                    &values,
                )
                .map_err(|message| StageError::NonFinite { message })?;
        }
        Ok(())
    }
}

/// The positions decided at the closes of `rows`: what `decide` makes of the one before, from none on.
fn follow(rows: std::ops::RangeInclusive<usize>, decide: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let mut current = 0.0;
    rows.map(|row| {
        current = decide(row, current);
        current
    })
    .collect()
}

/// The chance that the Sharpe ratio exceeds what the best of as many worthless rules would have shown.
fn record_deflation(run: &Run, trials: &[f64], metrics: &mut Metrics) -> Result<(), StageError> {
    let n = trials.len() as f64;
    let mean = trials.iter().sum::<f64>() / n;
    let squares: f64 = trials.iter().map(|s| (s - mean) * (s - mean)).sum();
    let spread = if trials.len() > 1 {
        (squares / (n - 1.0)).sqrt()
    } else {
        0.0
    };
    let benchmark = expected_best_sharpe(n, spread);
    let deflated = Returns::new(&simple_returns(&run.net.equity))
        .and_then(|returns| returns.probabilistic_sharpe_ratio(benchmark));
    match deflated {
        Some(value) => set(
            metrics,
            "backtest.test.signals.deflated_sharpe_ratio",
            value,
        ),
        None => set(
            metrics,
            "left_out.backtest.test.signals.deflated_sharpe_ratio",
            1.0,
        ),
    }
}

/// Mean over sample standard deviation of a resample; `None` without variance.
fn sharpe_ratio(returns: &[f64], counts: &[u32]) -> Option<f64> {
    let n: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    let sum = |value: &dyn Fn(f64) -> f64| -> f64 {
        returns
            .iter()
            .zip(counts)
            .map(|(&r, &count)| f64::from(count) * value(r))
            .sum()
    };
    if n < 2.0 {
        return None;
    }
    let mean = sum(&|r| r) / n;
    let variance = sum(&|r| (r - mean) * (r - mean)) / (n - 1.0);
    (variance > 0.0).then(|| mean / variance.sqrt())
}
