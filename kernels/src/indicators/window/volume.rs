//! Volume of windows, and prices weighted by it.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        pointwise::{formulas, quotient_or},
        program::{Builder, Input, Series},
    },
    lanes::Lanes,
    ranges::typical,
    rows,
    sums::{Shares, quotient_of_sums, sma},
    tree::Terms,
};

/// A change of the typical price up to this share of it is none in `mfi`, as TA-Lib has it: `(h + l + c) / 3` of decimal
/// prices that are equal on paper differs by rounding.
const SAME_PRICE: f64 = 1e-14;
/// The same in `mfi_plain`.
const SAME_PRICE_PLAIN: f64 = 1e-12;

formulas! {
    /// `x / y`; NaN where `y` is 0.
    fn ratio(x, y) quotient_or(x, y, f64::NAN)
}

/// Prices times volume, and volume.
#[derive(Debug)]
struct Weighted;

impl Terms<2> for Weighted {
    const NAME: &'static str = "vwma";
    const READS: [(usize, usize); 2] = [(0, 0), (1, 0)];

    #[inline(always)]
    fn of<V: Lanes>([x, volume]: [V; 2]) -> [V; 2] {
        [x.mul(volume), volume]
    }
}

impl Shares<2> for Weighted {}

/// Volume times the place of the close in its bar, from -1 to 1, nothing without a range; and volume.
#[derive(Debug)]
struct Flow;

impl Terms<4> for Flow {
    const NAME: &'static str = "cmf";
    const READS: [(usize, usize); 4] = [(0, 0), (1, 0), (2, 0), (3, 0)];

    #[inline(always)]
    fn of<V: Lanes>([high, low, close, volume]: [V; 4]) -> [V; 2] {
        let balance = close.sub(low).sub(high.sub(close));
        let range = high.sub(low);
        // The NaN of a close that is not known is kept.
        let place = range.if_zero(balance.mul(V::splat(0.0)), balance.div(range));
        [place.mul(volume), volume]
    }
}

impl Shares<4> for Flow {}

/// Turnover of bars whose price has risen, and of those whose price has changed. `PLAIN` is whether as in `mfi_plain`.
///
/// The price is three times the typical one, which makes no difference to a share.
#[derive(Debug)]
struct Turnover<const PLAIN: bool>;

impl<const PLAIN: bool> Terms<7> for Turnover<PLAIN> {
    const NAME: &'static str = if PLAIN { "mfi_plain" } else { "mfi" };
    const READS: [(usize, usize); 7] = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 1)];

    #[inline(always)]
    fn of<V: Lanes>([high, low, close, volume, high_1, low_1, close_1]: [V; 7]) -> [V; 2] {
        let price = high.add(low).add(close);
        let change = price.sub(high_1.add(low_1).add(close_1));
        let same = V::splat(if PLAIN { SAME_PRICE_PLAIN } else { SAME_PRICE });
        let most = same.mul(price.abs());
        // NaN where one of them is.
        let turnover = change.mul_add(V::splat(0.0), price.mul(volume));
        let nothing = turnover.mul(V::splat(0.0));
        [
            most.if_ge(change, nothing, turnover),
            most.if_ge(change.abs(), nothing, turnover),
        ]
    }
}

impl<const PLAIN: bool> Shares<7> for Turnover<PLAIN> {
    const SCALE: f64 = 100.0;
    const OTHERWISE: f64 = if PLAIN { 0.5 } else { 0.0 };
}

fn vwma(builder: &mut Builder, x: Series, n: usize) -> Series {
    let volume = builder.input(Input::Volume);
    quotient_of_sums::<Weighted, 2>(builder, &[x, volume], n)
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

/// High, low, close and volume.
fn bars(builder: &mut Builder) -> [Series; 4] {
    [Input::High, Input::Low, Input::Close, Input::Volume].map(|input| builder.input(input))
}

fn cmf(builder: &mut Builder, n: usize) -> Series {
    let inputs = bars(builder);
    quotient_of_sums::<Flow, 4>(builder, &inputs, n)
}

fn money_flow<const PLAIN: bool>(builder: &mut Builder, n: usize) -> Series {
    let inputs = bars(builder);
    quotient_of_sums::<Turnover<PLAIN>, 7>(builder, &inputs, n)
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
        expand: |b, _, p| vec![money_flow::<false>(b, p[0] as usize)],
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
        expand: |b, _, p| vec![money_flow::<true>(b, p[0] as usize)],
    },
];
