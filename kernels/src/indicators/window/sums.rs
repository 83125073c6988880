//! Sums and means of windows.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        program::{Builder, Series},
    },
    lanes::Lanes,
    rows,
    tree::{Statistic, Tree},
};

/// The sum.
#[derive(Debug)]
struct Sum;

impl Statistic<1, 1> for Sum {
    const NAME: &'static str = "sum";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 1] {
        [x]
    }

    #[inline(always)]
    fn factors(_older: usize, _newer: usize, _distance: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [older]: [V; 1],
        [newer]: [V; 1],
        _apart: [V; 2],
        _factors: [V; 3],
    ) -> [V; 1] {
        [newer.add(older)]
    }

    #[inline(always)]
    fn scale(_n_rows: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn result<V: Lanes>(state: [V; 1], _last: V, _scale: [V; 3]) -> [V; 1] {
        state
    }
}

/// The mean, from the means of the parts: that of equal values is exactly their value.
#[derive(Debug)]
pub(super) struct Mean;

impl Statistic<1, 1> for Mean {
    const NAME: &'static str = "mean";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 1] {
        [x]
    }

    #[inline(always)]
    fn factors(older: usize, newer: usize, _distance: usize) -> [f64; 3] {
        [newer as f64 / (older + newer) as f64, 0.0, 0.0]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [older]: [V; 1],
        [newer]: [V; 1],
        _apart: [V; 2],
        [share, ..]: [V; 3],
    ) -> [V; 1] {
        [newer.sub(older).mul_add(share, older)]
    }

    #[inline(always)]
    fn scale(_n_rows: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn result<V: Lanes>(state: [V; 1], _last: V, _scale: [V; 3]) -> [V; 1] {
        state
    }
}

/// Sum of the last `n` rows.
pub(in super::super) fn sum(builder: &mut Builder, x: Series, n: usize) -> Series {
    builder.window(Tree::<Sum, 1, 1>::new(n), &[x])[0]
}

/// Mean of the last `n` rows.
pub(in super::super) fn sma(builder: &mut Builder, x: Series, n: usize) -> Series {
    if n == 1 {
        return x;
    }
    builder.window(Tree::<Mean, 1, 1>::new(n), &[x])[0]
}

/// Triangular mean of the last `n` rows: the mean of means of half the length.
fn trima(builder: &mut Builder, x: Series, n: usize) -> Series {
    let first = sma(builder, x, n.div_ceil(2));
    sma(builder, first, n / 2 + 1)
}

const VALUE: &[Output] = &[Output {
    name: "",
    unit: Unit::OfSeries,
}];

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "sum",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: VALUE,
        definition: "Sum of the last n rows.",
        source: "",
        expand: |b, x, p| vec![sum(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "sma",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: VALUE,
        definition: "Simple moving average: mean of the last n rows.",
        source: "",
        expand: |b, x, p| vec![sma(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "trima",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: VALUE,
        definition: "Triangular moving average: weights of the last n rows rise to the middle and fall again; of an even n the two middle rows weigh the same.",
        source: "TA-Lib TRIMA",
        expand: |b, x, p| vec![trima(b, x[0], p[0] as usize)],
    },
];
