//! `uses = "load.synthetic"`: candles of a simulated market.

use std::collections::VecDeque;

use natron_artifacts::{
    Kind, PortSchema, Schemas, Signature, Stage, StageContext, StageError, Stream, Table,
};
use natron_kernels::math;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bars::{Bars, statistics},
    columns::candle_columns,
    interval::Interval,
    time::TimeReader,
};

const DAY_NS: i64 = 86_400_000_000_000;
/// Steps of the price inside a bar; enough for wicks of realistic length.
const STEPS: usize = 24;
/// GARCH(1, 1) (Bollerslev, 1986): weights of the last squared shock and of the last variance; their sum, below 1, is how
/// slowly a burst of volatility dies away.
const ARCH: f64 = 0.09;
const GARCH: f64 = 0.88;
/// Standard deviation of a jump of the logarithm of the price, in bar volatilities.
const JUMP_SIZE: f64 = 4.0;
/// Variance cannot leave these multiples of its mean, so that no parameter makes prices run away.
const VARIANCE_LIMITS: (f64, f64) = (0.05, 25.0);

/// Bars whose move the planted regularity works against.
const REVERSAL_BARS: usize = 8;

/// Candles of a simulated market that follows the seed: for trying things out and for tests, never for conclusions.
///
/// A Markov chain switches between bull, bear, range and turmoil; volatility clusters (GARCH) and has the regime's level and
/// the hour's; prices jump now and then; volume follows the hour of the day and the size of the move; each bar's high and low
/// come from a path inside the bar. Outputs as of `load.csv`: `candles` (table: `ts_ns`, `open`, `high`, `low`, `close`,
/// `volume`) and `statistics` (metrics). The first n bars are the same whatever `rows` is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadSynthetic {
    /// Number of bars.
    #[serde(default = "default_rows")]
    rows: u32,
    /// Length of a bar, as `15m` or `1h`.
    #[serde(default = "default_interval")]
    interval: Interval,
    /// When the first bar opens, RFC 3339 or a date; UTC when no offset is stated.
    #[serde(default = "default_start")]
    start: String,
    /// First price.
    #[serde(default = "default_start_price")]
    start_price: f64,
    /// Smallest step of the price.
    #[serde(default = "default_tick_size")]
    tick_size: f64,
    /// Mean volatility of a bar: standard deviation of its log return, in basis points (1/10,000).
    #[serde(default = "default_volatility_bps")]
    volatility_bps: f64,
    /// Mean length of a regime, in bars.
    #[serde(default = "default_regime_bars")]
    regime_bars: f64,
    /// Probability of a jump in a bar.
    #[serde(default = "default_jump_probability")]
    jump_probability: f64,
    /// Mean volume of a bar.
    #[serde(default = "default_mean_volume")]
    mean_volume: f64,
    /// A planted regularity to be found: each bar drifts against the move of the eight before it, by so many of its own
    /// standard deviations. 0, the default, plants none.
    #[serde(default)]
    planted_reversal: f64,
}

fn default_rows() -> u32 {
    4000
}

fn default_interval() -> Interval {
    Interval::QUARTER_HOUR
}

fn default_start() -> String {
    "2024-01-01".into()
}

fn default_start_price() -> f64 {
    30_000.0
}

fn default_tick_size() -> f64 {
    0.01
}

/// About that of hourly and quarter-hourly cryptocurrency candles.
fn default_volatility_bps() -> f64 {
    30.0
}

/// Two days of quarter hours: long enough to be learnt from 96 bars, short enough that 4,000 bars show every regime.
fn default_regime_bars() -> f64 {
    192.0
}

fn default_jump_probability() -> f64 {
    0.004
}

fn default_mean_volume() -> f64 {
    250.0
}

/// What a regime does: drift and volatility, both in units of the mean volatility of a bar.
struct Regime {
    drift: f64,
    volatility: f64,
    /// Relative chances of the regime that follows.
    next: [f64; 4],
}

/// Bull, bear, range, turmoil. Markets fall faster than they rise, and turmoil is more often followed by a fall.
const REGIMES: [Regime; 4] = [
    Regime {
        drift: 0.07,
        volatility: 0.85,
        next: [0.0, 0.3, 0.5, 0.2],
    },
    Regime {
        drift: -0.08,
        volatility: 1.1,
        next: [0.3, 0.0, 0.4, 0.3],
    },
    Regime {
        drift: 0.0,
        volatility: 0.6,
        next: [0.45, 0.35, 0.0, 0.2],
    },
    Regime {
        drift: -0.01,
        volatility: 1.9,
        next: [0.35, 0.35, 0.3, 0.0],
    },
];

impl Default for LoadSynthetic {
    /// What leaving all parameters out means.
    fn default() -> Self {
        serde_json::from_str("{}").expect("every other parameter has a default")
    }
}

impl Stage for LoadSynthetic {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        let above_zero = [
            ("start_price", self.start_price, 1e-9, 1e9),
            ("tick_size", self.tick_size, 1e-9, self.start_price / 10.0),
            ("volatility_bps", self.volatility_bps, 0.01, 1000.0),
            ("regime_bars", self.regime_bars, 1.0, 1e9),
            ("jump_probability", self.jump_probability, 0.0, 0.5),
            ("mean_volume", self.mean_volume, 1e-3, 1e12),
            ("planted_reversal", self.planted_reversal, 0.0, 10.0),
            ("rows", f64::from(self.rows), 1.0, 100_000_000.0),
        ];
        for (name, value, low, high) in above_zero {
            if !(low..=high).contains(&value) {
                let message = format!("`{name}` is {value}, and must be from {low} to {high}");
                return Err(StageError::parameter(name, message));
            }
        }
        let start_ns = self.start_ns()?;
        let length = i64::from(self.rows).checked_mul(self.interval.ns());
        if length
            .and_then(|length| start_ns.checked_add(length))
            .is_none()
        {
            let message = "the last bar would close after the year 2262";
            return Err(StageError::parameter("rows", message)
                .with_help("take fewer `rows`, a shorter `interval` or an earlier `start`"));
        }
        Ok(Signature::new()
            .output("candles", PortSchema::table(candle_columns([])))
            .output("statistics", PortSchema::of(Kind::Metrics))
            .memory_bytes(u64::from(self.rows) * 100))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let bars = self.simulate(context)?;
        context.write("statistics", bars.statistics.clone())?;
        let table: Table = bars.table()?;
        context.write("candles", table)
    }
}

/// The market between two bars.
struct Market {
    regime: usize,
    /// Variance of a bar, in units of its mean.
    variance: f64,
    /// The regime's volatility as the market feels it, which follows the regime within some bars.
    level: f64,
    /// Persistent part of the logarithm of the volume.
    activity: f64,
    log_price: f64,
    /// Logarithms of the last closes, as many as the planted regularity looks back on.
    closes: VecDeque<f64>,
}

impl LoadSynthetic {
    fn start_ns(&self) -> Result<i64, StageError> {
        let read = TimeReader::new("auto", "UTC")?.read(&self.start);
        read.map_err(|(message, help)| StageError::parameter("start", message).with_help(help))
    }

    fn simulate(&self, context: &StageContext) -> Result<Bars, StageError> {
        let start_ns = self.start_ns()?;
        let n_rows = self.rows as usize;
        let mut stream = context.stream("market");
        let mut market = Market {
            regime: 2,
            variance: 1.0,
            level: REGIMES[2].volatility,
            activity: 0.0,
            log_price: math::ln(self.start_price),
            closes: VecDeque::new(),
        };
        let mut ts_ns = Vec::with_capacity(n_rows);
        let mut values: [Vec<f64>; 5] = std::array::from_fn(|_| Vec::with_capacity(n_rows));
        for row in 0..n_rows {
            if row % 65_536 == 0 {
                context.check_cancelled()?;
            }
            let opens_ns = start_ns + row as i64 * self.interval.ns();
            let bar = self.bar(&mut market, opens_ns, &mut stream);
            ts_ns.push(opens_ns + self.interval.ns());
            for (column, value) in values.iter_mut().zip(bar) {
                column.push(value);
            }
        }
        let statistics = statistics(&ts_ns, &values, Some(self.interval.ns()));
        Ok(Bars {
            ts_ns,
            values,
            extra: Vec::new(),
            statistics,
        })
    }

    /// How far a bar drifts down, in its own standard deviations, after the move of the eight bars before it.
    fn reversal(&self, market: &mut Market) -> f64 {
        if market.closes.len() <= REVERSAL_BARS {
            return 0.0;
        }
        let before = market.closes.pop_front().unwrap_or_default();
        let last = market.closes.back().copied().unwrap_or_default();
        self.planted_reversal * (last - before).signum()
    }

    /// One bar: open, high, low, close, volume.
    fn bar(&self, market: &mut Market, opens_ns: i64, stream: &mut Stream) -> [f64; 5] {
        market.change_regime(self.regime_bars, stream);
        let regime = &REGIMES[market.regime];
        market.level += (regime.volatility - market.level) / 8.0;
        let busy = hour_factor(opens_ns);
        let bar_volatility = self.volatility_bps * 1e-4;
        let volatility = bar_volatility * market.level * market.variance.sqrt() * busy.sqrt();
        let jump = if stream.uniform() < self.jump_probability {
            JUMP_SIZE * stream.normal() * bar_volatility * market.level
        } else {
            0.0
        };
        let jump_step = stream.below(STEPS as u64) as usize;
        let drift = regime.drift * bar_volatility - self.reversal(market) * volatility;

        // The price may have moved a little between the last trade of a bar and the first of the next.
        let gap = 0.03 * volatility * stream.normal();
        let open = market.log_price + gap;
        let step_volatility = volatility / (STEPS as f64).sqrt();
        let (mut high, mut low, mut price) = (open, open, open);
        for step in 0..STEPS {
            price += drift / STEPS as f64 + step_volatility * stream.normal();
            if step == jump_step {
                price += jump;
            }
            high = high.max(price);
            low = low.min(price);
        }
        let shock =
            (price - market.log_price - drift) / (bar_volatility * market.level * busy.sqrt());
        let next = (1.0 - ARCH - GARCH) + ARCH * shock * shock + GARCH * market.variance;
        market.variance = next.clamp(VARIANCE_LIMITS.0, VARIANCE_LIMITS.1);
        // Far from its start the price is pulled back, so that long simulations keep their digits.
        let distance = price - math::ln(self.start_price);
        market.log_price = price - 0.002 * (distance - distance.clamp(-1.5, 1.5));
        if self.planted_reversal > 0.0 {
            market.closes.push_back(price);
        }

        market.activity = 0.85 * market.activity + 0.25 * stream.normal();
        let move_size = math::ln_1p((shock.abs() * market.level).min(20.0));
        let volume = self.mean_volume * busy * math::exp(market.activity + 0.7 * move_size - 0.55);

        let [open, close] = [open, price].map(|p| self.on_tick(p));
        [
            open,
            self.on_tick(high).max(open).max(close),
            self.on_tick(low).min(open).min(close),
            close,
            (volume * 100.0).round().max(1.0) / 100.0,
        ]
    }

    /// The price on the grid of ticks; the division at the end makes 0.01 steps print as such.
    fn on_tick(&self, log_price: f64) -> f64 {
        let ticks = (math::exp(log_price) / self.tick_size).round().max(1.0);
        let per_unit = (1.0 / self.tick_size).round();
        let is_decimal = (per_unit * self.tick_size - 1.0).abs() < 1e-9;
        if is_decimal {
            ticks / per_unit
        } else {
            ticks * self.tick_size
        }
    }
}

impl Market {
    fn change_regime(&mut self, regime_bars: f64, stream: &mut Stream) {
        let (leaves, choice) = (stream.uniform() < 1.0 / regime_bars, stream.uniform());
        if !leaves {
            return;
        }
        let mut sum = 0.0;
        for (i, chance) in REGIMES[self.regime].next.iter().enumerate() {
            sum += chance;
            if choice < sum && *chance > 0.0 {
                self.regime = i;
                return;
            }
        }
    }
}

/// How busy the market is at this time of day, about 1 on average: quiet at night in UTC, with a first peak when Europe
/// opens and a higher one when America does.
fn hour_factor(ts_ns: i64) -> f64 {
    let hour = ts_ns.rem_euclid(DAY_NS) as f64 / 3.6e12;
    let peak = |at: f64, width: f64| {
        let apart = (hour - at).abs();
        let distance = apart.min(24.0 - apart) / width;
        math::exp(-0.5 * distance * distance)
    };
    0.45 + 0.8 * peak(8.5, 2.0) + 1.35 * peak(14.5, 2.5)
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Artifact, StageContextParts};
    use serde_json::json;

    use super::*;

    fn simulated(parameters: serde_json::Value, seed: u64) -> Table {
        let stage: LoadSynthetic = serde_json::from_value(parameters).unwrap();
        let signature = stage.signature(&Schemas::new()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let parts = StageContextParts {
            seed,
            ..StageContextParts::for_test(directory.path())
        };
        let mut context = StageContext::new(parts, signature);
        stage.run(&mut context).unwrap();
        match context.finish().unwrap().remove("candles").unwrap() {
            Artifact::Table(table) => (*table).clone(),
            other => panic!("{} is no table", other.kind()),
        }
    }

    fn moments(x: &[f64]) -> (f64, f64, f64) {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let central = |power: u32| {
            x.iter()
                .map(|v| (0..power).fold(1.0, |p, _| p * (v - mean)))
                .sum::<f64>()
                / n
        };
        (mean, central(2), central(4) / central(2) / central(2))
    }

    fn correlation(x: &[f64], y: &[f64]) -> f64 {
        let ((mx, vx, _), (my, vy, _)) = (moments(x), moments(y));
        let n = x.len() as f64;
        x.iter()
            .zip(y)
            .map(|(a, b)| (a - mx) * (b - my))
            .sum::<f64>()
            / n
            / (vx * vy).sqrt()
    }

    fn log_returns(close: &[f64]) -> Vec<f64> {
        close
            .windows(2)
            .map(|pair| math::ln(pair[1] / pair[0]))
            .collect()
    }

    #[test]
    fn looks_like_a_market() {
        for seed in [1, 2, 3] {
            let table = simulated(json!({ "rows": 20_000 }), seed);
            let close = table.f64("close").unwrap();
            let returns = log_returns(&close);
            let (mean, variance, kurtosis) = moments(&returns);
            let sizes: Vec<_> = returns.iter().map(|r| r.abs()).collect();

            assert!(kurtosis > 4.0, "fat tails: {kurtosis}");
            assert!(
                (15e-4..60e-4).contains(&variance.sqrt()),
                "volatility: {}",
                variance.sqrt()
            );
            assert!(mean.abs() < 1e-4, "drift: {mean}");
            for lag in [1, 10, 50] {
                let clustering = correlation(&sizes[lag..], &sizes[..sizes.len() - lag]);
                assert!(
                    clustering > 0.05,
                    "volatility clusters at lag {lag}: {clustering}"
                );
            }
            let predictable = correlation(&returns[1..], &returns[..returns.len() - 1]);
            assert!(
                predictable.abs() < 0.1,
                "returns are nearly unpredictable: {predictable}"
            );
            let volume = table.f64("volume").unwrap();
            let with_volume = correlation(&sizes, &volume[1..]);
            assert!(with_volume > 0.3, "volume goes with moves: {with_volume}");
            let mean_at = |hour: i64| {
                let at: Vec<f64> = (0..table.n_rows())
                    .filter(|&i| {
                        table.ts_ns().unwrap()[i].rem_euclid(DAY_NS) / 3_600_000_000_000 == hour
                    })
                    .map(|i| volume[i])
                    .collect();
                moments(&at).0
            };
            assert!(
                mean_at(14) > 2.0 * mean_at(2),
                "volume follows the hour: {} {}",
                mean_at(14),
                mean_at(2)
            );
            let (mean_volume, ..) = moments(&volume);
            assert!(
                (125.0..500.0).contains(&mean_volume),
                "mean volume: {mean_volume}"
            );
        }
    }

    #[test]
    fn bars_are_sound_and_on_ticks() {
        for (tick, price) in [(0.01, 30_000.0), (0.00001, 1.1), (0.25, 4000.0)] {
            let table = simulated(
                json!({ "rows": 3000, "tick_size": tick, "start_price": price }),
                9,
            );
            let column = |name: &str| table.f64(name).unwrap().into_owned();
            let (open, high, low, close, volume) = (
                column("open"),
                column("high"),
                column("low"),
                column("close"),
                column("volume"),
            );
            for i in 0..table.n_rows() {
                assert!(
                    low[i] > 0.0
                        && low[i] <= open[i].min(close[i])
                        && high[i] >= open[i].max(close[i])
                );
                assert!(volume[i] > 0.0);
                let ticks = close[i] / tick;
                assert!(
                    (ticks - ticks.round()).abs() < 1e-3,
                    "{} is off the ticks",
                    close[i]
                );
            }
            let moved = (1..table.n_rows())
                .filter(|&i| (open[i] - close[i - 1]).abs() > 0.0)
                .count();
            assert!(moved > 100, "{moved} bars open away from the last close");
        }
    }

    #[test]
    fn a_seed_fixes_every_bit_and_more_rows_only_append() {
        let short = simulated(json!({ "rows": 500 }), 4);

        assert_eq!(short, simulated(json!({ "rows": 500 }), 4));
        let long = simulated(json!({ "rows": 900 }), 4);
        for column in short.columns() {
            let name = &column.name;
            if name == "ts_ns" {
                assert_eq!(short.ts_ns().unwrap(), &long.ts_ns().unwrap()[..500]);
            } else {
                assert_eq!(short.f64(name).unwrap(), &long.f64(name).unwrap()[..500]);
            }
        }
        assert_ne!(short, simulated(json!({ "rows": 500 }), 5));
    }

    #[test]
    fn bits_are_the_same_on_every_machine() {
        let table = simulated(json!({ "rows": 1000 }), 42);

        assert_eq!(
            table.logical_digest().to_string(),
            "47e17f43d2c1b436485b22350d5f3f22c61c2834d82a8323267c889b959f043e"
        );
    }

    #[test]
    fn parameters_out_of_bounds_are_named() {
        for (parameters, name) in [
            (json!({ "rows": 0 }), "rows"),
            (json!({ "tick_size": 0.0 }), "tick_size"),
            (json!({ "tick_size": 20_000.0 }), "tick_size"),
            (json!({ "volatility_bps": -1.0 }), "volatility_bps"),
            (json!({ "start": "yesterday" }), "start"),
            (json!({ "rows": 4_000_000, "interval": "1d" }), "rows"),
        ] {
            let stage: LoadSynthetic = serde_json::from_value(parameters).unwrap();
            let error = stage.signature(&Schemas::new()).unwrap_err();
            assert!(
                matches!(&error, StageError::Parameters { parameter, .. } if parameter == name),
                "{error}"
            );
        }
    }
}
