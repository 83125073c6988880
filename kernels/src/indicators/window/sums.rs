//! Sums and means of windows.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use std::marker::PhantomData;

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        program::{Builder, Series},
    },
    lanes::Lanes,
    rows,
    tree::{Statistic, Terms, Tree, TreeOf},
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

/// Terms whose sums are divided, the first by the second.
pub(super) trait Shares<const I: usize>: Terms<I> + 'static {
    /// What the quotient is multiplied by.
    const SCALE: f64 = 1.0;
    /// The quotient where the second sum is 0.
    const OTHERWISE: f64 = f64::NAN;
}

/// The sum of the first input over that of the last.
#[derive(Debug)]
struct Quotient<T, const I: usize>(PhantomData<T>);

impl<T: Shares<I>, const I: usize> Statistic<2, 1> for Quotient<T, I> {
    const NAME: &'static str = T::NAME;

    #[inline(always)]
    fn leaf<V: Lanes>(x: [V; 2]) -> [V; 2] {
        x
    }

    #[inline(always)]
    fn factors(_older: usize, _newer: usize, _distance: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn join<V: Lanes>(older: [V; 2], newer: [V; 2], _apart: [V; 2], _factors: [V; 3]) -> [V; 2] {
        [newer[0].add(older[0]), newer[1].add(older[1])]
    }

    #[inline(always)]
    fn scale(_n_rows: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn result<V: Lanes>([part, all]: [V; 2], _last: V, _scale: [V; 3]) -> [V; 1] {
        // The NaN of a part that is not known is kept.
        let nothing = part.mul_add(V::splat(0.0), V::splat(T::OTHERWISE));
        let quotient = all.if_zero(nothing, part.div(all));
        [quotient.mul(V::splat(T::SCALE))]
    }
}

/// The quotient of the sums of `T`'s terms over the last `n` rows.
pub(super) fn quotient_of_sums<T: Shares<I>, const I: usize>(
    builder: &mut Builder,
    inputs: &[Series],
    n: usize,
) -> Series {
    builder.window(TreeOf::<T, Quotient<T, I>, I, 2, 1>::new(n), inputs)[0]
}

/// The mean of `T`'s first terms over the last `n` rows.
pub(super) fn mean_of<T: Terms<I> + 'static, const I: usize>(
    builder: &mut Builder,
    inputs: &[Series],
    n: usize,
) -> Series {
    builder.window(TreeOf::<T, Mean, I, 1, 1>::new(n), inputs)[0]
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
