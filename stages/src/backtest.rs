//! Turns decisions into fills, costs, equity and trades.
//!
//! A decision made at the close of a bar is carried out at the open of the next one. Equity at a bar is cash plus the
//! position at the bar's close, after the bar's fills. No interest, no borrowing cost, no margin call.

pub mod performance;

/// Prices of consecutive bars.
#[derive(Debug, Clone, Copy)]
pub struct Prices<'a> {
    /// First price of each bar: where decisions are filled.
    pub open: &'a [f64],
    /// Highest price of each bar; read by brackets only.
    pub high: &'a [f64],
    /// Lowest price of each bar; read by brackets only.
    pub low: &'a [f64],
    /// Last price of each bar: what equity is counted at.
    pub close: &'a [f64],
}

impl<'a> Prices<'a> {
    /// Bars `from..to`.
    #[must_use]
    pub fn range(self, from: usize, to: usize) -> Self {
        let cut = |x: &'a [f64]| &x[from..to];
        Self {
            open: cut(self.open),
            high: cut(self.high),
            low: cut(self.low),
            close: cut(self.close),
        }
    }
}

/// How large a position is opened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sizing {
    /// This many units, whatever they cost.
    Units(f64),
    /// As many units as the cash pays for, fee included.
    AllCash,
}

/// Exits at fixed prices around the close of the decision, tested from the entry bar on, the stop first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bracket {
    /// Distance of the stop as a share of the price: filled at the stop, or at the open when the bar opens beyond it.
    pub stop: f64,
    /// Distance of the target as a share of the price: filled at the target, or at the open when the bar opens beyond it.
    pub target: f64,
}

/// What a fill costs and how much is traded. Costs are shares of the price, so 10 bps are 0.001.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Money at the start.
    pub cash: f64,
    /// Size of a position.
    pub sizing: Sizing,
    /// Fee as a share of the traded value, paid at each fill.
    pub fee: f64,
    /// By how much the price of a fill that opens a position is worse than the open.
    pub opening_slippage: f64,
    /// By how much the price of a fill that closes one is worse than the open.
    pub closing_slippage: f64,
}

impl Rules {
    /// One unit of money, all of it in each position, both sides of a trade paying fee and slippage given in basis points.
    pub fn all_cash(fee_bps: f64, slippage_bps: f64) -> Self {
        Self {
            cash: 1.0,
            sizing: Sizing::AllCash,
            fee: fee_bps / 1e4,
            opening_slippage: slippage_bps / 1e4,
            closing_slippage: slippage_bps / 1e4,
        }
    }
}

/// A position from its opening to its closing fill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trade {
    /// Bar of the opening fill.
    pub entry_row: usize,
    /// Bar of the closing fill.
    pub exit_row: usize,
    /// 1 long, -1 short.
    pub side: i8,
    /// Units held.
    pub units: f64,
    /// Price of the opening fill, slippage included.
    pub entry_price: f64,
    /// Price of the closing fill, slippage included.
    pub exit_price: f64,
    /// Fees of both fills.
    pub fees: f64,
    /// Profit after fees and slippage.
    pub pnl: f64,
}

/// What became of the decisions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Simulation {
    /// Equity at each close.
    pub equity: Vec<f64>,
    /// Share of equity that the position is worth at each close, negative when short.
    pub weight: Vec<f64>,
    /// Value traded by the fills of each bar.
    pub traded: Vec<f64>,
    /// Finished trades, in the order of their exits. A position open at the end is none.
    pub trades: Vec<Trade>,
    /// Whether a position is open at the end.
    pub is_open_at_end: bool,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    side: f64,
    units: f64,
    entry_row: usize,
    entry_price: f64,
    entry_fee: f64,
    stop: f64,
    target: f64,
}

struct Account {
    rules: Rules,
    cash: f64,
    position: Option<Position>,
    traded: f64,
    trades: Vec<Trade>,
}

impl Account {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            cash: rules.cash,
            position: None,
            traded: 0.0,
            trades: Vec::new(),
        }
    }

    /// Opens the share `size` of a whole position on `side`.
    fn open(&mut self, row: usize, side: f64, size: f64, quote: f64) {
        let price = quote * (1.0 + side * self.rules.opening_slippage);
        let units = size * self.whole(self.cash, price);
        if units <= 0.0 {
            return; // Ruined: nothing left to trade with.
        }
        let fee = units * price * self.rules.fee;
        self.cash -= side * units * price + fee;
        self.traded += units * price;
        self.position = Some(Position {
            side,
            units,
            entry_row: row,
            entry_price: price,
            entry_fee: fee,
            stop: f64::NAN,
            target: f64::NAN,
        });
    }

    /// Units of a whole position of an account worth `equity`.
    fn whole(&self, equity: f64, price: f64) -> f64 {
        match self.rules.sizing {
            Sizing::Units(units) => units,
            Sizing::AllCash => equity / (price * (1.0 + self.rules.fee)),
        }
    }

    /// Makes the position `target` times a whole one at the open `quote`.
    fn move_to(&mut self, row: usize, target: f64, quote: f64) {
        let side = self.side();
        let closing = quote * (1.0 - side * self.rules.closing_slippage);
        let Some(position) = self.position.filter(|p| target * p.side > 0.0) else {
            self.close(row, closing);
            if target.abs() > 0.0 {
                self.open(row, target.signum(), target.abs(), quote);
            }
            return;
        };
        let opening = quote * (1.0 + side * self.rules.opening_slippage);
        let equity = self.cash + side * position.units * quote;
        let units = target.abs() * self.whole(equity, opening);
        if units > position.units {
            self.add(units - position.units, opening);
        } else {
            self.reduce(row, position.units - units.max(0.0), closing);
        }
    }

    /// Adds units to the position, whose entry price becomes the mean of all its units.
    fn add(&mut self, units: f64, price: f64) {
        let fee = units * price * self.rules.fee;
        if let Some(position) = &mut self.position {
            self.cash -= position.side * units * price + fee;
            self.traded += units * price;
            let all = position.units + units;
            position.entry_price = (position.units * position.entry_price + units * price) / all;
            position.units = all;
            position.entry_fee += fee;
        }
    }

    /// Closes a part of the position: a trade of its own, which bears its share of the entry's fee.
    fn reduce(&mut self, row: usize, units: f64, price: f64) {
        let Some(position) = self.position else {
            return;
        };
        let share = units / position.units;
        let part = Position {
            units,
            entry_fee: share * position.entry_fee,
            ..position
        };
        let rest = Position {
            units: position.units - units,
            entry_fee: position.entry_fee - part.entry_fee,
            ..position
        };
        self.position = Some(part);
        self.close(row, price);
        self.position = Some(rest).filter(|rest| rest.units > 0.0);
    }

    fn close(&mut self, row: usize, price: f64) {
        let Some(position) = self.position.take() else {
            return;
        };
        let fee = position.units * price * self.rules.fee;
        self.cash += position.side * position.units * price - fee;
        self.traded += position.units * price;
        let fees = position.entry_fee + fee;
        self.trades.push(Trade {
            entry_row: position.entry_row,
            exit_row: row,
            side: if position.side > 0.0 { 1 } else { -1 },
            units: position.units,
            entry_price: position.entry_price,
            exit_price: price,
            fees,
            pnl: position.side * position.units * (price - position.entry_price) - fees,
        });
    }

    fn side(&self) -> f64 {
        self.position.map_or(0.0, |position| position.side)
    }

    fn mark(&mut self, close: f64, simulation: &mut Simulation) {
        let value = self.position.map_or(0.0, |p| p.side * p.units * close);
        let equity = self.cash + value;
        simulation.equity.push(equity);
        simulation
            .weight
            .push(if equity > 0.0 { value / equity } else { 0.0 });
        simulation.traded.push(std::mem::take(&mut self.traded));
    }

    fn finish(self, mut simulation: Simulation) -> Simulation {
        simulation.is_open_at_end = self.position.is_some();
        simulation.trades = self.trades;
        simulation
    }
}

/// Holds, from the open after each close on, the position that was decided at that close: 1 long with the whole size of the
/// rules, 0 flat, -1 short, or anything between.
///
/// Units are kept as they are while the decision stays the same. Another decision on the same side adds units or closes a
/// part of them; a reversal closes and opens at the same open.
pub fn follow_positions(prices: Prices<'_>, positions: &[f64], rules: Rules) -> Simulation {
    let mut account = Account::new(rules);
    let mut simulation = Simulation::default();
    let mut held = 0.0;
    for (row, &close) in prices.close.iter().enumerate() {
        let target = if row == 0 { 0.0 } else { positions[row - 1] };
        if (target - held).abs() > 0.0 {
            account.move_to(row, target, prices.open[row]);
            held = target;
        }
        account.mark(close, &mut simulation);
    }
    account.finish(simulation)
}

/// Opens a position when the side turns away from what it was and none is held, and leaves it only by its bracket.
///
/// Sides other than 1 and -1 open nothing. Bracket fills pay the fee but no slippage: their price is the level itself, or
/// the open beyond it.
pub fn follow_entries(
    prices: Prices<'_>,
    sides: &[i8],
    bracket: Bracket,
    rules: Rules,
) -> Simulation {
    let mut account = Account::new(rules);
    let mut simulation = Simulation::default();
    let mut pending: Option<f64> = None;
    for (row, &close) in prices.close.iter().enumerate() {
        if let Some(side) = pending.take() {
            account.open(row, side, 1.0, prices.open[row]);
            if let Some(position) = &mut account.position {
                let decided_at = prices.close[row - 1];
                position.stop = decided_at * (1.0 - side * bracket.stop);
                position.target = decided_at * (1.0 + side * bracket.target);
            }
        }
        if let Some(position) = account.position
            && let Some(price) = bracket_exit(&position, prices, row)
        {
            account.close(row, price);
        }
        let turned = row > 0 && sides[row] != sides[row - 1];
        if turned && sides[row] != 0 && account.position.is_none() {
            pending = Some(f64::from(sides[row]));
        }
        account.mark(close, &mut simulation);
    }
    account.finish(simulation)
}

fn bracket_exit(position: &Position, prices: Prices<'_>, row: usize) -> Option<f64> {
    let (open, high, low) = (prices.open[row], prices.high[row], prices.low[row]);
    let Position {
        side, stop, target, ..
    } = *position;
    if side > 0.0 {
        if low <= stop {
            return Some(open.min(stop));
        }
        (high >= target).then(|| open.max(target))
    } else {
        if high >= stop {
            return Some(open.max(stop));
        }
        (low <= target).then(|| open.min(target))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    const GOLDEN: Rules = Rules {
        cash: 100_000.0,
        sizing: Sizing::Units(5000.0),
        fee: 0.001,
        opening_slippage: 0.0,
        closing_slippage: 0.0,
    };

    /// Where the reference values lie, if they are on this machine.
    pub(crate) fn golden() -> Option<PathBuf> {
        let found = match std::env::var_os("NATRON_SHARED") {
            Some(shared) => Some(PathBuf::from(shared).join("golden")),
            None => Path::new(env!("CARGO_MANIFEST_DIR"))
                .ancestors()
                .map(|folder| folder.join("shared/golden"))
                .find(|folder| folder.is_dir()),
        };
        if found.is_none() {
            eprintln!("skipped: the shared reference values are not on this machine");
        }
        found
    }

    fn csv(path: &Path) -> Vec<Vec<f64>> {
        let mut reader = csv::Reader::from_path(path).unwrap();
        reader
            .records()
            .map(|record| {
                let record = record.unwrap();
                record
                    .iter()
                    .map(|cell| cell.parse().unwrap_or(f64::NAN))
                    .collect()
            })
            .collect()
    }

    pub(crate) struct Golden {
        folder: PathBuf,
        columns: [Vec<f64>; 4],
        sides: Vec<i8>,
    }

    impl Golden {
        pub(crate) fn open() -> Option<Self> {
            let folder = golden()?;
            let rows = csv(&folder.join("eurusd_h1_input.csv"));
            let column = |k: usize| rows.iter().map(|row| row[k]).collect();
            let sides = csv(&folder.join("backtest_signal.csv"));
            Some(Self {
                columns: [column(1), column(2), column(3), column(4)],
                sides: sides.iter().map(|row| row[1] as i8).collect(),
                folder,
            })
        }

        pub(crate) fn prices(&self) -> Prices<'_> {
            let [open, high, low, close] = &self.columns;
            Prices {
                open,
                high,
                low,
                close,
            }
        }

        pub(crate) fn follow(&self, rules: Rules, long_only: bool) -> Simulation {
            let positions: Vec<f64> = self
                .sides
                .iter()
                .map(|&side| f64::from(if long_only { side.max(0) } else { side }))
                .collect();
            follow_positions(self.prices(), &positions, rules)
        }

        fn check(&self, scenario: &str, simulation: &Simulation) {
            let close = |found: f64, expected: f64, what: String| {
                let scale = expected.abs().max(1.0);
                assert!(
                    (found - expected).abs() <= 1e-8 * scale,
                    "{what}: {found} is not {expected}"
                );
            };
            let equity = csv(&self.folder.join(format!("backtest_{scenario}_equity.csv")));
            assert_eq!(equity.len(), simulation.equity.len());
            for (row, found) in equity.iter().zip(&simulation.equity) {
                close(
                    *found,
                    row[1],
                    format!("{scenario}: equity at row {}", row[0]),
                );
            }
            let trades = csv(&self.folder.join(format!("backtest_{scenario}_trades.csv")));
            assert_eq!(trades.len(), simulation.trades.len(), "{scenario}: trades");
            for (row, trade) in trades.iter().zip(&simulation.trades) {
                let found = [
                    trade.entry_row as f64,
                    trade.exit_row as f64,
                    f64::from(trade.side),
                    trade.units,
                    trade.entry_price,
                    trade.exit_price,
                    trade.fees,
                    trade.pnl,
                ];
                for (k, found) in found.into_iter().enumerate() {
                    close(
                        found,
                        row[k + 1],
                        format!("{scenario}: trade {} column {k}", row[0]),
                    );
                }
            }
        }
    }

    #[test]
    fn fixed_units_match_the_reference_programs() {
        let Some(golden) = Golden::open() else { return };
        let spread = Rules {
            opening_slippage: 0.0005,
            ..GOLDEN
        };
        let slippage = Rules {
            closing_slippage: 0.0005,
            ..spread
        };

        golden.check("a", &golden.follow(GOLDEN, false));
        golden.check("b", &golden.follow(spread, false));
        golden.check("d", &golden.follow(slippage, false));
    }

    #[test]
    fn all_cash_matches_the_reference_program() {
        let Some(golden) = Golden::open() else { return };
        let rules = Rules {
            sizing: Sizing::AllCash,
            opening_slippage: 0.0005,
            closing_slippage: 0.0005,
            ..GOLDEN
        };

        golden.check("c", &golden.follow(rules, true));
    }

    #[test]
    fn brackets_match_the_reference_program() {
        let Some(golden) = Golden::open() else { return };
        let sides: Vec<i8> = golden.sides.iter().map(|&side| side.max(0)).collect();
        let bracket = Bracket {
            stop: 0.004,
            target: 0.008,
        };

        let simulation = follow_entries(golden.prices(), &sides, bracket, GOLDEN);
        golden.check("e", &simulation);
    }

    #[test]
    fn a_decision_fills_at_the_next_open_and_every_change_costs() {
        let prices = Prices {
            open: &[10.0, 11.0, 12.0, 13.0],
            high: &[10.0; 4],
            low: &[10.0; 4],
            close: &[10.5, 11.5, 12.5, 13.5],
        };
        let rules = Rules {
            sizing: Sizing::Units(1.0),
            cash: 100.0,
            fee: 0.01,
            ..GOLDEN
        };

        let simulation = follow_positions(prices, &[1.0, 1.0, 0.0, 0.0], rules);
        let [trade] = &simulation.trades[..] else {
            panic!("one trade")
        };
        assert_eq!((trade.entry_row, trade.exit_row), (1, 3));
        assert!((trade.fees - 0.01 * (11.0 + 13.0)).abs() < 1e-12);
        assert!((simulation.equity[0] - 100.0).abs() < 1e-12);
        assert!((simulation.equity[1] - (100.0 + 0.5 - 0.11)).abs() < 1e-12);
        assert!((simulation.equity[3] - (100.0 + 2.0 - 0.24)).abs() < 1e-12);
        assert!((simulation.traded[3] - 13.0).abs() < 1e-12);
        assert!(!simulation.is_open_at_end);
    }

    #[test]
    fn a_certain_signal_trades_under_the_default_sizing() {
        let close = [1.0, 1.1, 1.2, 1.3];
        let prices = Prices {
            open: &close,
            high: &close,
            low: &close,
            close: &close,
        };

        let simulation = follow_positions(prices, &[1.0; 4], Rules::all_cash(5.0, 1.0));
        assert!(simulation.is_open_at_end);
        assert!(simulation.equity[3] > 1.17, "{}", simulation.equity[3]);
    }

    #[test]
    fn parts_of_a_position_are_bought_and_sold_at_their_cost() {
        let open = [10.0, 10.0, 20.0, 20.0, 20.0, 10.0];
        let prices = Prices {
            open: &open,
            high: &open,
            low: &open,
            close: &open,
        };
        let rules = Rules {
            cash: 100.0,
            ..Rules::all_cash(0.0, 0.0)
        };

        let simulation = follow_positions(prices, &[0.5, 0.5, 0.25, 0.5, -0.5, 0.0], rules);

        // Half of 100 buys 5 units, worth 100 of 150 once the price has doubled: a quarter keeps 37.5, half holds 75.
        let [first, second] = &simulation.trades[..] else {
            panic!("{:?}", simulation.trades)
        };
        assert!((first.units - (5.0 - 37.5 / 20.0)).abs() < 1e-12);
        assert!((first.pnl - 10.0 * first.units).abs() < 1e-12);
        assert!((second.units - 75.0 / 20.0).abs() < 1e-12);
        let entry = (37.5 / 20.0 * 10.0 + 37.5 / 20.0 * 20.0) / (75.0 / 20.0);
        assert!((second.entry_price - entry).abs() < 1e-12);
        assert!((simulation.traded[3] - 62.5).abs() < 1e-12);
        assert!((simulation.traded[4] - 37.5).abs() < 1e-12);
        // Sold all at 10 and went short with half of 112.5.
        assert!((simulation.equity[5] - 112.5).abs() < 1e-12);
        assert!((simulation.weight[5] + 0.5).abs() < 1e-12);
    }

    #[test]
    fn fees_of_a_position_are_shared_among_its_parts() {
        let close = [10.0; 5];
        let prices = Prices {
            open: &close,
            high: &close,
            low: &close,
            close: &close,
        };

        let simulation = follow_positions(
            prices,
            &[1.0, 0.5, 0.8, 0.0, 0.0],
            Rules::all_cash(100.0, 10.0),
        );

        let lost = 1.0 - simulation.equity[4];
        let pnl: f64 = simulation.trades.iter().map(|trade| trade.pnl).sum();
        assert!((pnl + lost).abs() < 1e-12, "{pnl} is not {lost}");
        let fees: f64 = simulation.trades.iter().map(|trade| trade.fees).sum();
        let traded: f64 = simulation.traded.iter().sum();
        assert!((fees - 0.01 * traded).abs() < 1e-12);
    }

    #[test]
    fn decisions_see_no_later_bar() {
        let open = [10.0, 11.0, 12.0, 13.0, 14.0];
        let changed = [10.0, 11.0, 12.0, 99.0, 1.0];
        let positions = [1.0, -0.4, 0.7, -1.0, 0.0];
        let run = |x: &[f64]| {
            let prices = Prices {
                open: x,
                high: x,
                low: x,
                close: x,
            };
            follow_positions(prices, &positions, Rules::all_cash(10.0, 2.0)).equity
        };

        assert_eq!(run(&open)[..3], run(&changed)[..3]);
    }
}
