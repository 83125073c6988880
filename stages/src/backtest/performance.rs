//! What an equity curve and its trades say: risk-adjusted return after costs, drawdown, activity.

use natron_kernels::math;

use super::{Simulation, Trade};

/// Nanoseconds of a mean Gregorian year.
const YEAR_NS: f64 = 365.2425 * 86_400e9;

/// Shortest time whose return is extrapolated to a year.
const SHORTEST_YEARS: f64 = 0.25;

/// Bars a year that the times themselves show: 8,766 for hourly bars around the clock, fewer where markets close. `None`
/// for fewer than two bars.
pub fn bars_per_year(ts_ns: &[i64]) -> Option<f64> {
    let (first, last) = (ts_ns.first()?, ts_ns.last()?);
    let span = (last - first) as f64;
    (span > 0.0).then(|| (ts_ns.len() - 1) as f64 * YEAR_NS / span)
}

/// Simple returns from bar to bar; one fewer than values.
pub fn simple_returns(equity: &[f64]) -> Vec<f64> {
    equity
        .windows(2)
        .map(|pair| pair[1] / pair[0] - 1.0)
        .collect()
}

/// The largest fall from a peak, as a negative share of the peak; 0 when there is none.
pub fn max_drawdown(equity: &[f64]) -> f64 {
    let mut peak = f64::NEG_INFINITY;
    equity.iter().fold(0.0, |worst, &value| {
        peak = peak.max(value);
        f64::min(worst, value / peak - 1.0)
    })
}

/// Moments and tails of per-bar returns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Returns {
    /// How many.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation, n - 1.
    pub volatility: f64,
    /// Mean over standard deviation, per bar; `None` without variance.
    pub sharpe_ratio: Option<f64>,
    /// Mean over the root mean square of the losses, per bar; `None` without losses.
    pub sortino_ratio: Option<f64>,
    /// Population skewness.
    skewness: f64,
    /// Population kurtosis, 3 for a normal.
    kurtosis: f64,
    /// 5 % quantile, linear.
    pub value_at_risk: f64,
    /// Mean of the returns at or below it.
    pub expected_shortfall: f64,
}

impl Returns {
    /// Statistics of `returns`; `None` for fewer than two.
    pub fn new(returns: &[f64]) -> Option<Self> {
        let n = returns.len();
        if n < 2 {
            return None;
        }
        let count = n as f64;
        let mean = returns.iter().sum::<f64>() / count;
        let moment = |power: i32| -> f64 {
            let terms = returns.iter().map(|r| {
                let d = r - mean;
                if power == 2 {
                    d * d
                } else if power == 3 {
                    d * d * d
                } else {
                    d * d * d * d
                }
            });
            terms.sum::<f64>() / count
        };
        let variance = moment(2);
        let volatility = (variance * count / (count - 1.0)).sqrt();
        let losses = returns
            .iter()
            .map(|&r| r.min(0.0) * r.min(0.0))
            .sum::<f64>()
            / count;
        let mut sorted = returns.to_vec();
        sorted.sort_by(f64::total_cmp);
        let value_at_risk = crate::evaluation::bootstrap::quantile(&sorted, 0.05);
        let tail: Vec<f64> = sorted
            .iter()
            .copied()
            .take_while(|&r| r <= value_at_risk)
            .collect();
        Some(Self {
            n,
            mean,
            volatility,
            sharpe_ratio: (volatility > 0.0).then(|| mean / volatility),
            sortino_ratio: (losses > 0.0).then(|| mean / losses.sqrt()),
            skewness: if variance > 0.0 {
                moment(3) / (variance * variance.sqrt())
            } else {
                0.0
            },
            kurtosis: if variance > 0.0 {
                moment(4) / (variance * variance)
            } else {
                3.0
            },
            value_at_risk,
            expected_shortfall: tail.iter().sum::<f64>() / tail.len() as f64,
        })
    }

    /// The chance that the true per-bar Sharpe ratio exceeds `benchmark` (Bailey and López de Prado, 2012, "The Sharpe ratio
    /// efficient frontier", eq. 11).
    pub fn probabilistic_sharpe_ratio(&self, benchmark: f64) -> Option<f64> {
        let sharpe = self.sharpe_ratio?;
        let spread = 1.0 - self.skewness * sharpe + (self.kurtosis - 1.0) / 4.0 * sharpe * sharpe;
        (spread > 0.0).then(|| {
            normal_cdf((sharpe - benchmark) * (self.n as f64 - 1.0).sqrt() / spread.sqrt())
        })
    }
}

/// The per-bar Sharpe ratio that the best of `n_trials` worthless strategies shows on average, when their ratios have this
/// standard deviation (Bailey and López de Prado, 2014, "The deflated Sharpe ratio", eq. 1).
pub fn expected_best_sharpe(n_trials: f64, standard_deviation: f64) -> f64 {
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    if n_trials <= 1.0 {
        return 0.0;
    }
    let first = normal_quantile(1.0 - 1.0 / n_trials);
    let second = normal_quantile(1.0 - 1.0 / (n_trials * std::f64::consts::E));
    standard_deviation * ((1.0 - EULER_GAMMA) * first + EULER_GAMMA * second)
}

fn normal_cdf(x: f64) -> f64 {
    0.5 * (1.0 + math::erf(x / std::f64::consts::SQRT_2))
}

/// The quantile of the standard normal, by Newton's method on its distribution function; `p` in (0, 1).
fn normal_quantile(p: f64) -> f64 {
    let mut x = 0.0;
    for _ in 0..100 {
        let density = math::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
        // A step of at most 1: far from the root the density is too flat for a full one.
        let step = ((normal_cdf(x) - p) / density).clamp(-1.0, 1.0);
        x -= step;
        if step.abs() < 1e-15 {
            break;
        }
    }
    x
}

/// What the finished trades say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TradeSummary {
    /// How many.
    pub n: usize,
    /// Share with a profit after costs.
    pub hit_rate: f64,
    /// Profits over losses; `None` without losses.
    pub profit_factor: Option<f64>,
    /// Mean profit of the winners.
    pub mean_win: Option<f64>,
    /// Mean loss of the others, negative.
    pub mean_loss: Option<f64>,
    /// Mean profit of all.
    pub expectancy: f64,
    /// Mean bars from entry to exit.
    pub mean_holding_bars: f64,
    /// Sum of the fees.
    pub fees: f64,
}

impl TradeSummary {
    /// `None` without trades.
    pub fn new(trades: &[Trade]) -> Option<Self> {
        let n = trades.len();
        if n == 0 {
            return None;
        }
        let (wins, losses): (Vec<f64>, Vec<f64>) = trades
            .iter()
            .map(|trade| trade.pnl)
            .partition(|&pnl| pnl > 0.0);
        let mean = |x: &[f64]| (!x.is_empty()).then(|| x.iter().sum::<f64>() / x.len() as f64);
        let lost: f64 = losses.iter().sum();
        let won: f64 = wins.iter().sum();
        Some(Self {
            n,
            hit_rate: wins.len() as f64 / n as f64,
            profit_factor: (lost < 0.0).then(|| won / -lost),
            mean_win: mean(&wins),
            mean_loss: mean(&losses),
            expectancy: (won + lost) / n as f64,
            mean_holding_bars: trades
                .iter()
                .map(|trade| (trade.exit_row - trade.entry_row) as f64)
                .sum::<f64>()
                / n as f64,
            fees: trades.iter().map(|trade| trade.fees).sum(),
        })
    }
}

/// The figures of one backtest by name; what cannot be computed is missing.
pub fn figures(simulation: &Simulation, bars_per_year: f64) -> Vec<(&'static str, f64)> {
    let equity = &simulation.equity;
    let (Some(&first), Some(&last)) = (equity.first(), equity.last()) else {
        return Vec::new();
    };
    let years = (equity.len() - 1) as f64 / bars_per_year;
    let total_return = last / first - 1.0;
    let worst = max_drawdown(equity);
    let n = equity.len() as f64;
    let mut figures = vec![
        ("bars", n),
        ("years", years),
        ("total_return", total_return),
        ("max_drawdown", worst),
        (
            "exposure",
            simulation.weight.iter().map(|w| w.abs()).sum::<f64>() / n,
        ),
        ("net_exposure", simulation.weight.iter().sum::<f64>() / n),
        (
            "time_in_market",
            simulation.weight.iter().filter(|w| w.abs() > 0.0).count() as f64 / n,
        ),
        ("n_trades", simulation.trades.len() as f64),
        (
            "open_at_end",
            f64::from(u8::from(simulation.is_open_at_end)),
        ),
    ];
    let mut push = |name, value: Option<f64>| {
        figures.extend(value.filter(|v| v.is_finite()).map(|v| (name, v)));
    };
    let share_traded: f64 = simulation
        .traded
        .iter()
        .zip(equity)
        .map(|(t, e)| t / e)
        .sum();
    if years > 0.0 {
        push("turnover_per_year", Some(share_traded / years));
    }
    if years >= SHORTEST_YEARS && last > 0.0 {
        push(
            "annual_return",
            Some(math::pow(last / first, 1.0 / years) - 1.0),
        );
    }
    if let Some(returns) = Returns::new(&simple_returns(equity)) {
        let annual = bars_per_year.sqrt();
        push("annual_volatility", Some(returns.volatility * annual));
        push("sharpe_ratio", returns.sharpe_ratio.map(|s| s * annual));
        push("sortino_ratio", returns.sortino_ratio.map(|s| s * annual));
        push("value_at_risk_95", Some(returns.value_at_risk));
        push("expected_shortfall_95", Some(returns.expected_shortfall));
        push(
            "probabilistic_sharpe_ratio",
            returns.probabilistic_sharpe_ratio(0.0),
        );
    }
    if let Some(trades) = TradeSummary::new(&simulation.trades) {
        push("hit_rate", Some(trades.hit_rate));
        push("profit_factor", trades.profit_factor);
        push("mean_win", trades.mean_win);
        push("mean_loss", trades.mean_loss);
        push("expectancy", Some(trades.expectancy));
        push("mean_holding_bars", Some(trades.mean_holding_bars));
        push("fees", Some(trades.fees));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Golden, *};
    use crate::backtest::{Rules, Sizing};

    #[test]
    fn figures_match_the_reference_values() {
        let Some(golden) = Golden::open() else { return };
        let text = std::fs::read_to_string(
            super::super::tests::golden()
                .unwrap()
                .join("backtest_metrics.json"),
        )
        .unwrap();
        let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
        let units = Rules {
            cash: 100_000.0,
            sizing: Sizing::Units(5000.0),
            fee: 0.001,
            opening_slippage: 0.0,
            closing_slippage: 0.0,
        };
        let cash = Rules {
            sizing: Sizing::AllCash,
            opening_slippage: 0.0005,
            closing_slippage: 0.0005,
            ..units
        };

        for (name, simulation) in [
            ("a", golden.follow(units, false)),
            ("c", golden.follow(cash, true)),
        ] {
            let returns = Returns::new(&simple_returns(&simulation.equity)).unwrap();
            let trades = TradeSummary::new(&simulation.trades).unwrap();
            let figures = figures(&simulation, 6048.0);
            let figure = |key: &str| figures.iter().find(|(k, _)| *k == key).unwrap().1;
            let benchmark = expected_best_sharpe(20.0, 0.01);
            let found = [
                ("total_return", figure("total_return")),
                ("bars", returns.n as f64),
                ("mean_ret", returns.mean),
                ("std_ret", returns.volatility),
                ("sharpe_bar", returns.sharpe_ratio.unwrap()),
                ("sharpe_ann_6048", figure("sharpe_ratio")),
                ("sortino_bar", returns.sortino_ratio.unwrap()),
                ("max_drawdown", figure("max_drawdown")),
                ("var95", returns.value_at_risk),
                ("cvar95", returns.expected_shortfall),
                ("psr_0", figure("probabilistic_sharpe_ratio")),
                ("dsr_sr0", benchmark),
                (
                    "dsr",
                    returns.probabilistic_sharpe_ratio(benchmark).unwrap(),
                ),
                ("trades", trades.n as f64),
                ("win_rate", trades.hit_rate),
                ("profit_factor", trades.profit_factor.unwrap()),
                ("avg_win", trades.mean_win.unwrap()),
                ("avg_loss", trades.mean_loss.unwrap()),
                ("expectancy", trades.expectancy),
            ];
            for (key, found) in found {
                let expected = expected[name][key].as_f64().unwrap();
                // `1 + erf` of a far tail keeps 1e-16 of one, not of the tail.
                let tolerance = 1e-8 * expected.abs() + 1e-15;
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{name} {key}: {found} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn the_data_say_how_many_bars_a_year_has() {
        let hour = 3_600_000_000_000;
        let hourly: Vec<i64> = (0..100).map(|i| i * hour).collect();

        assert!((bars_per_year(&hourly).unwrap() - 8765.82).abs() < 1e-9);
        assert_eq!(bars_per_year(&hourly[..1]), None);
    }

    #[test]
    fn what_cannot_be_computed_is_missing() {
        let flat = Simulation {
            equity: vec![1.0; 5],
            weight: vec![0.0; 5],
            traded: vec![0.0; 5],
            ..Simulation::default()
        };
        let names: Vec<&str> = figures(&flat, 100.0)
            .into_iter()
            .map(|(name, _)| name)
            .collect();

        assert!(names.contains(&"total_return"));
        assert!(!names.contains(&"sharpe_ratio"));
        assert!(!names.contains(&"hit_rate"));
    }

    #[test]
    fn normal_quantiles_invert_the_distribution() {
        for p in [0.025, 0.5, 0.95, 0.999] {
            assert!((normal_cdf(normal_quantile(p)) - p).abs() < 1e-14, "{p}");
        }
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-12);
    }
}
