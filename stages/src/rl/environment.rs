//! One account in the market: positions, costs, rewards.

use serde::{Deserialize, Serialize};

use super::market::Market;

/// Sell: leave a long position, or go short where that is allowed.
pub(super) const SELL: usize = 0;
/// Hold: keep the position.
pub(super) const HOLD: usize = 1;
/// Buy: be long.
pub(super) const BUY: usize = 2;
/// How many actions there are.
pub(super) const N_ACTIONS: usize = 3;

/// What the state adds to the encoder's view: position, profit of the open position, drawdown.
pub(super) const N_ACCOUNT: usize = 3;

/// Bars over which profits and drawdowns in the state are measured, in random-walk units.
const STATE_BARS: f64 = 100.0;

/// Limit of profit and drawdown in the state.
const STATE_LIMIT: f64 = 3.0;

/// What trading costs and what is held against it. All are shares, not basis points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Terms {
    /// Fee and slippage of trading one unit of position.
    pub(super) cost: f64,
    /// Held against each unit traded on top of the cost; shapes the reward, not the account.
    pub(super) turnover_penalty: f64,
    /// Held against each unit by which the largest drawdown of the episode grows, so that an episode pays for its largest
    /// drawdown once; shapes the reward, not the account.
    pub(super) drawdown_penalty: f64,
    /// Whether selling goes short.
    pub(super) allow_short: bool,
    /// The unit of rewards: a typical return of one bar.
    pub(super) volatility: f64,
}

impl Terms {
    /// The position that a number from -1 to 1 stands for: itself, or its place between flat and long without shorts.
    pub(super) fn position(&self, squashed: f32) -> f64 {
        let x = f64::from(squashed);
        if self.allow_short { x } else { 0.5 * (x + 1.0) }
    }
}

/// One account.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Account {
    /// 1 long with all equity, 0 flat, -1 short.
    pub(super) position: f64,
    equity: f64,
    peak: f64,
    worst_drawdown: f64,
    /// Return of the position since it was opened.
    unrealised: f64,
}

/// What one step brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    /// In units of volatility, penalties included.
    pub(super) reward: f64,
    /// Return of the account after costs.
    pub(super) net_return: f64,
    /// Units of position traded.
    pub(super) traded: f64,
}

impl Account {
    /// A new account without a position.
    pub(super) fn new() -> Self {
        Self {
            position: 0.0,
            equity: 1.0,
            peak: 1.0,
            worst_drawdown: 0.0,
            unrealised: 0.0,
        }
    }

    /// The position after an action.
    pub(super) fn target(&self, action: usize, allow_short: bool) -> f64 {
        match action {
            BUY => 1.0,
            SELL if allow_short => -1.0,
            SELL => 0.0,
            _ => self.position,
        }
    }

    /// What the state adds to the encoder's view, of the order of 1.
    pub(super) fn state(&self, terms: &Terms) -> [f32; N_ACCOUNT] {
        let unit = terms.volatility * STATE_BARS.sqrt();
        let scaled = |x: f64| (x / unit).clamp(-STATE_LIMIT, STATE_LIMIT) as f32;
        let drawdown = 1.0 - self.equity / self.peak;
        [
            self.position as f32,
            scaled(self.unrealised),
            scaled(drawdown),
        ]
    }

    /// Acts at the close of `point`: the old position earns until the next open, where it changes to `target` at its cost,
    /// and the new one earns until that bar's close. No other bar is read.
    pub(super) fn step(
        &mut self,
        market: &Market,
        point: usize,
        target: f64,
        terms: &Terms,
    ) -> Step {
        let (to_open, to_close) = (market.to_open[point], market.to_close[point]);
        let (old, new) = (self.position, target);
        let traded = (new - old).abs();

        let growth = (1.0 + old * to_open) * (1.0 - terms.cost * traded) * (1.0 + new * to_close);
        // A short can lose more than everything; an account cannot.
        let growth = growth.max(1e-6);
        self.equity *= growth;
        self.unrealised = if traded > 0.0 {
            new * to_close
        } else {
            (1.0 + self.unrealised) * (1.0 + old * to_open) * (1.0 + new * to_close) - 1.0
        };
        self.position = new;
        self.peak = self.peak.max(self.equity);
        let drawdown = 1.0 - self.equity / self.peak;
        let deeper = (drawdown - self.worst_drawdown).max(0.0);
        self.worst_drawdown = self.worst_drawdown.max(drawdown);

        let penalties = terms.turnover_penalty * traded + terms.drawdown_penalty * deeper;
        Step {
            reward: (growth - 1.0 - penalties) / terms.volatility,
            net_return: growth - 1.0,
            traded,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FREE: Terms = Terms {
        cost: 0.0,
        turnover_penalty: 0.0,
        drawdown_penalty: 0.0,
        allow_short: true,
        volatility: 1.0,
    };

    fn market(open: &[f64], close: &[f64]) -> Market {
        Market::new(
            vec![0.0; close.len()],
            (0..close.len()).collect(),
            open,
            close,
        )
    }

    fn act(
        account: &mut Account,
        market: &Market,
        point: usize,
        action: usize,
        terms: &Terms,
    ) -> Step {
        let target = account.target(action, terms.allow_short);
        account.step(market, point, target, terms)
    }

    #[test]
    fn half_a_position_earns_and_costs_half() {
        let prices = [100.0, 100.0, 110.0, 110.0];
        let market = market(&prices, &[100.0, 100.0, 110.0, 110.0]);
        let terms = Terms {
            cost: 0.001,
            ..FREE
        };
        let mut account = Account::new();

        let bought = account.step(&market, 0, 0.5, &terms);
        let held = account.step(&market, 1, 0.5, &terms);
        let trimmed = account.step(&market, 2, 0.25, &terms);

        assert!((bought.net_return + 0.0005).abs() < 1e-12);
        assert!((held.net_return - 0.05).abs() < 1e-12);
        assert!((trimmed.net_return + 0.00025).abs() < 1e-12);
    }

    #[test]
    fn the_old_position_earns_until_the_open_and_the_new_one_after_it() {
        let market = market(&[1.0, 110.0, 121.0, 1.0], &[100.0, 121.0, 133.1, 1.0]);
        let mut account = Account::new();

        let first = act(&mut account, &market, 0, BUY, &FREE);
        assert!(
            (first.net_return - 0.1).abs() < 1e-12,
            "bought at 110, not at 100"
        );
        let second = act(&mut account, &market, 1, SELL, &FREE);
        let expected = (121.0 / 121.0) * (1.0 - (133.1 / 121.0 - 1.0)) - 1.0;
        assert!((second.net_return - expected).abs() < 1e-12);
        assert_eq!(account.position.to_bits(), (-1.0_f64).to_bits());
    }

    #[test]
    fn every_change_of_position_costs_and_nothing_else_does() {
        let flat = market(&[1.0; 6], &[1.0; 6]);
        let terms = Terms {
            cost: 0.001,
            ..FREE
        };
        let mut account = Account::new();
        let returns: Vec<f64> = [BUY, BUY, HOLD, SELL, SELL]
            .into_iter()
            .enumerate()
            .map(|(i, action)| act(&mut account, &flat, i, action, &terms).net_return)
            .collect();

        let expected = [-0.001, 0.0, 0.0, -0.002, 0.0];
        for (found, expected) in returns.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{returns:?}");
        }
    }

    #[test]
    fn an_episode_pays_for_its_largest_drawdown_once() {
        let prices = [100.0, 100.0, 90.0, 99.0, 90.0, 81.0, 81.0];
        let market = market(&prices, &prices);
        let terms = Terms {
            drawdown_penalty: 1.0,
            ..FREE
        };
        let mut account = Account::new();
        let held: f64 = (0..5)
            .map(|i| {
                let step = act(&mut account, &market, i, BUY, &terms);
                step.net_return - step.reward
            })
            .sum();

        let [_, _, drawdown] = account.state(&Terms {
            volatility: 0.1,
            ..terms
        });
        assert!(
            (held - f64::from(drawdown)).abs() < 1e-6,
            "{held} is not {drawdown}"
        );
    }

    #[test]
    fn selling_closes_where_shorts_are_not_allowed() {
        let account = Account {
            position: 1.0,
            ..Account::new()
        };

        let targets =
            [(SELL, false), (SELL, true), (HOLD, false)].map(|(a, s)| account.target(a, s));
        assert_eq!(targets.map(|target| target as i8), [0, -1, 1]);
    }

    proptest! {
        #[test]
        fn rewards_read_the_next_bar_alone(
            open in proptest::collection::vec(50.0_f64..150.0, 12),
            close in proptest::collection::vec(50.0_f64..150.0, 12),
            actions in proptest::collection::vec(0_usize..3, 10),
            cut in 0_usize..10,
        ) {
            let run = |open: &[f64], close: &[f64]| -> Vec<Step> {
                let market = market(open, close);
                let mut account = Account::new();
                actions.iter().enumerate().map(|(i, &a)| act(&mut account, &market, i, a, &FREE)).collect()
            };
            let (mut other_open, mut other_close) = (open.clone(), close.clone());
            for i in cut + 1..12 {
                other_open[i] *= 1.5;
                other_close[i] *= 0.5;
            }

            prop_assert_eq!(&run(&open, &close)[..cut], &run(&other_open, &other_close)[..cut]);
        }
    }
}
