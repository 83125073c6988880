//! Oscillators over windows.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        pointwise::{formulas, quotient_or, scaled, sub},
        program::{Builder, Input, Series},
    },
    deviation::deviation_of,
    extremes::{argmax, argmin, highest_lowest},
    lanes::Lanes,
    ranges::typical,
    rows,
    sums::{Shares, mean_of, quotient_of_sums, sma},
    tree::Terms,
};

const BARS: [Input; 3] = [Input::High, Input::Low, Input::Close];

formulas! {
    /// Percent of the way from the lowest to the highest; 0 where they are equal.
    fn percent_of_range(x, highest, lowest) 100.0 * quotient_or(x - lowest, highest - lowest, 0.0)
    /// Percent of the way from the highest to the lowest, negative; 0 where they are equal.
    fn percent_below(x, highest, lowest) -100.0 * quotient_or(highest - x, highest - lowest, 0.0)
    /// `x` where `other` has a value.
    fn where_defined(x, other) if other.is_nan() { other } else { x }
    /// Distance from the mean in units of 0.015 mean absolute deviations; 0 without any.
    fn channel(distance, deviation) quotient_or(distance, 0.015 * deviation, 0.0)
    /// Percent of `n` rows that have not passed.
    fn freshness(since; n) 100.0 * ((n - since) / n)
    /// Three shares weighted 4, 2 and 1, in percent.
    fn ultimate(short, middle, long) 100.0 * ((4.0 * short + 2.0 * middle + long) / 7.0)
}

/// Rises of a series, and sizes of its changes.
#[derive(Debug)]
struct Changes;

impl Terms<2> for Changes {
    const NAME: &'static str = "rsi_sma";
    const READS: [(usize, usize); 2] = [(0, 0), (0, 1)];

    #[inline(always)]
    fn of<V: Lanes>([x, before]: [V; 2]) -> [V; 2] {
        let change = x.sub(before);
        [change.max(V::splat(0.0)), change.abs()]
    }
}

impl Shares<2> for Changes {
    const SCALE: f64 = 100.0;
    const OTHERWISE: f64 = 0.0;
}

/// The largest of the range and the reaches of high and low from the close before.
#[inline(always)]
fn true_range_of<V: Lanes>(high: V, low: V, before: V) -> V {
    let reach = high.sub(before).abs();
    high.sub(low).max(reach).max(low.sub(before).abs())
}

/// Reaches of one end of a bar from the other end of the one before, and true ranges; of the high if `UP`, else of the low.
#[derive(Debug)]
struct Reaches<const UP: bool>;

impl<const UP: bool> Terms<4> for Reaches<UP> {
    const NAME: &'static str = if UP { "vortex plus" } else { "vortex minus" };
    const READS: [(usize, usize); 4] = [(0, 0), (1, 0), (if UP { 1 } else { 0 }, 1), (2, 1)];

    #[inline(always)]
    fn of<V: Lanes>([high, low, end_before, close_before]: [V; 4]) -> [V; 2] {
        let end = if UP { high } else { low };
        [
            end.sub(end_before).abs(),
            true_range_of(high, low, close_before),
        ]
    }
}

impl<const UP: bool> Shares<4> for Reaches<UP> {}

/// Closes less true lows, and true ranges.
#[derive(Debug)]
struct Pressure;

impl Terms<4> for Pressure {
    const NAME: &'static str = "buying pressure";
    const READS: [(usize, usize); 4] = [(0, 0), (1, 0), (2, 0), (2, 1)];

    #[inline(always)]
    fn of<V: Lanes>([high, low, close, before]: [V; 4]) -> [V; 2] {
        [close.sub(low.min(before)), true_range_of(high, low, before)]
    }
}

impl Shares<4> for Pressure {
    const OTHERWISE: f64 = 0.0;
}

/// Median prices.
#[derive(Debug)]
struct Middle;

impl Terms<2> for Middle {
    const NAME: &'static str = "mean median price";
    const READS: [(usize, usize); 2] = [(0, 0), (1, 0)];

    #[inline(always)]
    fn of<V: Lanes>([high, low]: [V; 2]) -> [V; 2] {
        let middle = V::splat(0.5).mul(high.add(low));
        [middle, middle]
    }
}

/// Position of `x` in the range of its last `n` rows in percent, and the mean of its last `smooth` rows; the first is blanked
/// where the second has no value.
pub(in super::super) fn stochf_of(
    builder: &mut Builder,
    x: Series,
    highest: Series,
    lowest: Series,
    smooth: usize,
) -> Vec<Series> {
    let raw = percent_of_range(builder, x, highest, lowest);
    let mean = sma(builder, raw, smooth);
    vec![where_defined(builder, raw, mean), mean]
}

fn stoch(builder: &mut Builder, n: usize, smooth_k: usize, smooth_d: usize) -> Vec<Series> {
    let close = builder.input(Input::Close);
    let (highest, lowest) = highest_lowest(builder, n);
    let raw = percent_of_range(builder, close, highest, lowest);
    let k = sma(builder, raw, smooth_k);
    let d = sma(builder, k, smooth_d);
    vec![where_defined(builder, k, d), d]
}

fn stochf(builder: &mut Builder, n: usize, smooth: usize) -> Vec<Series> {
    let close = builder.input(Input::Close);
    let (highest, lowest) = highest_lowest(builder, n);
    stochf_of(builder, close, highest, lowest, smooth)
}

fn willr(builder: &mut Builder, n: usize) -> Series {
    let close = builder.input(Input::Close);
    let (highest, lowest) = highest_lowest(builder, n);
    percent_below(builder, close, highest, lowest)
}

fn cci(builder: &mut Builder, n: usize) -> Series {
    let price = typical(builder);
    let (distance, deviation) = deviation_of(builder, price, n);
    channel(builder, distance, deviation)
}

fn aroon(builder: &mut Builder, n: usize) -> Vec<Series> {
    let (high, low) = (builder.input(Input::High), builder.input(Input::Low));
    let since_high = argmax(builder, high, n + 1);
    let since_low = argmin(builder, low, n + 1);
    let up = freshness(builder, since_high, n as f64);
    let down = freshness(builder, since_low, n as f64);
    let ahead = sub(builder, since_low, since_high);
    vec![up, down, scaled(builder, ahead, 100.0 / n as f64)]
}

fn ultosc(builder: &mut Builder, windows: [usize; 3]) -> Series {
    let inputs = BARS.map(|input| builder.input(input));
    let [short, middle, long] =
        windows.map(|n| quotient_of_sums::<Pressure, 4>(builder, &inputs, n));
    ultimate(builder, short, middle, long)
}

fn vortex(builder: &mut Builder, n: usize) -> Vec<Series> {
    let inputs = BARS.map(|input| builder.input(input));
    vec![
        quotient_of_sums::<Reaches<true>, 4>(builder, &inputs, n),
        quotient_of_sums::<Reaches<false>, 4>(builder, &inputs, n),
    ]
}

fn awesome(builder: &mut Builder, short: usize, long: usize) -> Series {
    let inputs = [Input::High, Input::Low].map(|input| builder.input(input));
    let [short, long] = [short, long].map(|n| mean_of::<Middle, 2>(builder, &inputs, n));
    sub(builder, short, long)
}

fn rsi_sma(builder: &mut Builder, x: Series, n: usize) -> Series {
    quotient_of_sums::<Changes, 2>(builder, &[x], n)
}

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "stoch",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[
            rows("n", 1, Some(14.0)),
            rows("smooth_k", 1, Some(3.0)),
            rows("smooth_d", 1, Some(3.0)),
        ],
        outputs: &[
            Output {
                name: "k",
                unit: Unit::Percent,
            },
            Output {
                name: "d",
                unit: Unit::Percent,
            },
        ],
        definition: "Slow stochastic: k is the mean over smooth_k rows of 100 (close - lowest low) / (highest high - lowest low) of n bars, 0 where that range is 0; d is the mean of k over smooth_d rows. k is defined where d is.",
        source: "TA-Lib STOCH",
        expand: |b, _, p| stoch(b, p[0] as usize, p[1] as usize, p[2] as usize),
    },
    Indicator {
        name: "stochf",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 1, Some(14.0)), rows("smooth_d", 1, Some(3.0))],
        outputs: &[
            Output {
                name: "k",
                unit: Unit::Percent,
            },
            Output {
                name: "d",
                unit: Unit::Percent,
            },
        ],
        definition: "Fast stochastic: k is 100 (close - lowest low) / (highest high - lowest low) of n bars, 0 where that range is 0; d is its mean over smooth_d rows. k is defined where d is.",
        source: "TA-Lib STOCHF",
        expand: |b, _, p| stochf(b, p[0] as usize, p[1] as usize),
    },
    Indicator {
        name: "willr",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Williams %R: -100 (highest high - close) / (highest high - lowest low) of the last n bars; 0 where that range is 0.",
        source: "TA-Lib WILLR",
        expand: |b, _, p| vec![willr(b, p[0] as usize)],
    },
    Indicator {
        name: "cci",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Commodity channel index: distance of the typical price from its mean of the last n bars in units of 0.015 mean absolute deviations from that mean; 0 where there is no deviation.",
        source: "TA-Lib CCI; Lambert (1980), Commodities Channel Index",
        expand: |b, _, p| vec![cci(b, p[0] as usize)],
    },
    Indicator {
        name: "aroon",
        series: &[],
        bars: &[Input::High, Input::Low],
        parameters: &[rows("n", 1, None)],
        outputs: &[
            Output {
                name: "up",
                unit: Unit::Percent,
            },
            Output {
                name: "down",
                unit: Unit::Percent,
            },
            Output {
                name: "osc",
                unit: Unit::Percent,
            },
        ],
        definition: "Aroon: 100 (n - rows since the highest high of the last n + 1 bars) / n, the same for the lowest low, and their difference; the newest of equal ones counts.",
        source: "TA-Lib AROON; Chande (1995)",
        expand: |b, _, p| aroon(b, p[0] as usize),
    },
    Indicator {
        name: "ultosc",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[
            rows("short", 1, Some(7.0)),
            rows("middle", 1, Some(14.0)),
            rows("long", 1, Some(28.0)),
        ],
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Ultimate oscillator: sums of close - min(low, previous close) over sums of the true range in three windows, weighted 4 : 2 : 1, in percent; a window without range counts 0.",
        source: "TA-Lib ULTOSC; Williams (1985)",
        expand: |b, _, p| vec![ultosc(b, [p[0] as usize, p[1] as usize, p[2] as usize])],
    },
    Indicator {
        name: "vortex",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 1, None)],
        outputs: &[
            Output {
                name: "plus",
                unit: Unit::Ratio,
            },
            Output {
                name: "minus",
                unit: Unit::Ratio,
            },
        ],
        definition: "Vortex: sum of |high - previous low| over the sum of the true range of the last n bars, and the same of |low - previous high|; not defined where there is no range.",
        source: "Botes and Siepman (2010), The Vortex Indicator",
        expand: |b, _, p| vortex(b, p[0] as usize),
    },
    Indicator {
        name: "awesome",
        series: &[],
        bars: &[Input::High, Input::Low],
        parameters: &[rows("short", 1, Some(5.0)), rows("long", 1, Some(34.0))],
        outputs: &[Output {
            name: "",
            unit: Unit::Price,
        }],
        definition: "Awesome oscillator: mean of the median price of the last short bars less that of the last long ones.",
        source: "Williams (1998), New Trading Dimensions",
        expand: |b, _, p| vec![awesome(b, p[0] as usize, p[1] as usize)],
    },
    Indicator {
        name: "rsi_sma",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Cutler's RSI: sum of the rises of the last n changes over the sum of all their sizes, in percent; 0 where nothing moved.",
        source: "",
        expand: |b, x, p| vec![rsi_sma(b, x[0], p[0] as usize)],
    },
];
