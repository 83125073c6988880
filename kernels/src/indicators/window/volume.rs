//! Volume of windows, and prices weighted by it.

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        pointwise::{formulas, lagged_formulas, mul, quotient_or},
        program::{Builder, Input, Series},
    },
    ranges::typical,
    rows,
    sums::{sma, sum},
};

/// A change of the typical price up to this share of it is none in `mfi`, as TA-Lib has it: `(h + l + c) / 3` of decimal
/// prices that are equal on paper differs by rounding.
const SAME_PRICE: f64 = 1e-14;
/// The same in `mfi_plain`.
const SAME_PRICE_PLAIN: f64 = 1e-12;

formulas! {
    /// `x / y`; NaN where `y` is 0.
    fn ratio(x, y) quotient_or(x, y, f64::NAN)
    /// Volume times the place of the close in its bar, from -1 to 1; nothing without a range.
    fn flow_in_range(high, low, close, volume) {
        quotient_or((close - low) - (high - close), high - low, 0.0) * volume
    }
    /// Percent of `all` that is `rising`, and `otherwise` where there is nothing.
    fn percent_rising(rising, all; otherwise) 100.0 * quotient_or(rising, all, otherwise / 100.0)
}

lagged_formulas! {
    /// Turnover of a bar whose price has risen, else 0.
    fn rising_flow(price / before, volume / _volume_before; same) {
        let change = price - before;
        let turnover = price * volume;
        let rising = if change > same * price.abs() { turnover } else { 0.0 };
        if (change + turnover).is_nan() { f64::NAN } else { rising }
    }
    /// Turnover of a bar whose price has changed, else 0.
    fn flow(price / before, volume / _volume_before; same) {
        let change = price - before;
        let turnover = price * volume;
        let flow = if change.abs() > same * price.abs() { turnover } else { 0.0 };
        if (change + turnover).is_nan() { f64::NAN } else { flow }
    }
}

fn vwma(builder: &mut Builder, x: Series, n: usize) -> Series {
    let volume = builder.input(Input::Volume);
    let weighted = mul(builder, x, volume);
    let (weighted, volume) = (sum(builder, weighted, n), sum(builder, volume, n));
    ratio(builder, weighted, volume)
}

fn vwap(builder: &mut Builder, n: usize) -> Series {
    let price = typical(builder);
    vwma(builder, price, n)
}

fn volume_ratio(builder: &mut Builder, n: usize) -> Series {
    let volume = builder.input(Input::Volume);
    let mean = sma(builder, volume, n);
    ratio(builder, volume, mean)
}

fn cmf(builder: &mut Builder, n: usize) -> Series {
    let [high, low, close, volume] =
        [Input::High, Input::Low, Input::Close, Input::Volume].map(|input| builder.input(input));
    let flow = flow_in_range(builder, high, low, close, volume);
    let (flow, volume) = (sum(builder, flow, n), sum(builder, volume, n));
    ratio(builder, flow, volume)
}

fn money_flow(builder: &mut Builder, n: usize, same: f64, otherwise: f64) -> Series {
    let volume = builder.input(Input::Volume);
    let price = typical(builder);
    let rising = rising_flow(builder, price, volume, 1, same);
    let all = flow(builder, price, volume, 1, same);
    let (rising, all) = (sum(builder, rising, n), sum(builder, all, n));
    percent_rising(builder, rising, all, otherwise)
}

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "vwma",
        series: &["x"],
        bars: &[Input::Volume],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::OfSeries,
        }],
        definition: "Mean of the last n rows weighted by volume; not defined where nothing was traded.",
        source: "",
        expand: |b, x, p| vec![vwma(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "vwap",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close, Input::Volume],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Price,
        }],
        definition: "Mean typical price of the last n bars weighted by volume; not defined where nothing was traded.",
        source: "",
        expand: |b, _, p| vec![vwap(b, p[0] as usize)],
    },
    Indicator {
        name: "volume_ratio",
        series: &[],
        bars: &[Input::Volume],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Volume over its mean of the last n bars; not defined where nothing was traded.",
        source: "",
        expand: |b, _, p| vec![volume_ratio(b, p[0] as usize)],
    },
    Indicator {
        name: "cmf",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close, Input::Volume],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Chaikin money flow: mean of ((close - low) - (high - close)) / (high - low) of the last n bars weighted by volume; a bar without range counts 0; not defined where nothing was traded.",
        source: "",
        expand: |b, _, p| vec![cmf(b, p[0] as usize)],
    },
    Indicator {
        name: "mfi",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close, Input::Volume],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Money flow index: percent of the turnover (typical price times volume) of the last n changes of the typical price that rose, of that which changed; a change of at most 1e-14 of the price is none; 0 where nothing changed.",
        source: "TA-Lib MFI; Quong and Soudack (1989), Volume-Weighted RSI: Money Flow",
        expand: |b, _, p| vec![money_flow(b, p[0] as usize, SAME_PRICE, 0.0)],
    },
    Indicator {
        name: "mfi_plain",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close, Input::Volume],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Money flow index as mfi, but a change of at most 1e-12 of the price is none, and 50 where nothing changed.",
        source: "Quong and Soudack (1989), Volume-Weighted RSI: Money Flow",
        expand: |b, _, p| vec![money_flow(b, p[0] as usize, SAME_PRICE_PLAIN, 50.0)],
    },
];
