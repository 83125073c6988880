//! Oscillators over windows.

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        pointwise::{formulas, lagged_formulas, quotient_or, scaled, sub},
        program::{Builder, Input, Series},
    },
    deviation::deviation_of,
    extremes::{argmax, argmin, highest_lowest},
    ranges::{median_price, true_low, true_range, typical},
    rows,
    sums::{sma, sum},
};

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
    /// Three shares weighted 4, 2 and 1, in percent; a share of nothing is 0.
    fn ultimate(short, short_range, middle, middle_range, long, long_range) {
        let short = quotient_or(short, short_range, 0.0);
        let middle = quotient_or(middle, middle_range, 0.0);
        let long = quotient_or(long, long_range, 0.0);
        100.0 * ((4.0 * short + 2.0 * middle + long) / 7.0)
    }
    /// `x / y`; NaN where `y` is 0.
    fn ratio(x, y) quotient_or(x, y, f64::NAN)
    /// Percent of all movement that was upwards; 0 where there was none.
    fn percent_up(up, all) 100.0 * quotient_or(up, all, 0.0)
}

lagged_formulas! {
    /// Rise of `x`, or 0.
    fn rise(x / before) {
        let change = x - before;
        if change < 0.0 { 0.0 } else { change }
    }
    /// Size of the change of `x`.
    fn movement(x / before) (x - before).abs()
    /// `|x - y before|`.
    fn reach(x / _x_before, y / y_before) (x - y_before).abs()
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
    let close = builder.input(Input::Close);
    let low = true_low(builder);
    let pressure = sub(builder, close, low);
    let range = true_range(builder);
    let [short, middle, long] =
        windows.map(|n| (sum(builder, pressure, n), sum(builder, range, n)));
    ultimate(
        builder, short.0, short.1, middle.0, middle.1, long.0, long.1,
    )
}

fn vortex(builder: &mut Builder, n: usize) -> Vec<Series> {
    let (high, low) = (builder.input(Input::High), builder.input(Input::Low));
    let range = true_range(builder);
    let range = sum(builder, range, n);
    let (up, down) = (reach(builder, high, low, 1), reach(builder, low, high, 1));
    [up, down]
        .map(|movement| {
            let path = sum(builder, movement, n);
            ratio(builder, path, range)
        })
        .to_vec()
}

fn awesome(builder: &mut Builder, short: usize, long: usize) -> Series {
    let price = median_price(builder);
    let (short, long) = (sma(builder, price, short), sma(builder, price, long));
    sub(builder, short, long)
}

fn rsi_sma(builder: &mut Builder, x: Series, n: usize) -> Series {
    let (up, all) = (rise(builder, x, 1), movement(builder, x, 1));
    let (up, all) = (sum(builder, up, n), sum(builder, all, n));
    percent_up(builder, up, all)
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
