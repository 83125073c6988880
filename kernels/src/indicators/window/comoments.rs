//! Two series together in windows: covariance, correlation, slope.
//!
//! Source: Pébay (2008), Formulas for Robust, One-Pass Parallel Computation of Covariances and Arbitrary-Order Statistical
//! Moments.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        pointwise::{formulas, quotient_or},
        program::{Builder, Series},
    },
    lanes::Lanes,
    returns::lag,
    rows,
    tree::{Statistic, Tree},
};

/// The means of x and y less their last rows, and the sums of squared deviations from them and of the deviations' products.
#[derive(Debug)]
pub(super) struct Together;

impl Statistic<5, 3> for Together {
    const NAME: &'static str = "together";

    #[inline(always)]
    fn leaf<V: Lanes>([x, y]: [V; 2]) -> [V; 5] {
        let zero = V::splat(0.0);
        // 0, or NaN where one of them is.
        let nothing = x.sub(x).add(y.sub(y));
        [nothing, nothing, zero, zero, zero]
    }

    #[inline(always)]
    fn factors(older: usize, newer: usize, _distance: usize) -> [f64; 3] {
        let (older, newer) = (older as f64, newer as f64);
        let share = older / (older + newer);
        [-share, newer * share, 0.0]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [x, y, xx, yy, xy]: [V; 5],
        [newer_x, newer_y, newer_xx, newer_yy, newer_xy]: [V; 5],
        apart: [V; 2],
        [share, between, _]: [V; 3],
    ) -> [V; 5] {
        let step_x = apart[0].add(newer_x.sub(x));
        let step_y = apart[1].add(newer_y.sub(y));
        let weighted = step_x.mul(between);
        [
            step_x.mul_add(share, newer_x),
            step_y.mul_add(share, newer_y),
            weighted.mul_add(step_x, xx.add(newer_xx)),
            step_y.mul(between).mul_add(step_y, yy.add(newer_yy)),
            weighted.mul_add(step_y, xy.add(newer_xy)),
        ]
    }

    #[inline(always)]
    fn scale(_n_rows: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn result<V: Lanes>([_, _, xx, yy, xy]: [V; 5], _last: V, _scale: [V; 3]) -> [V; 3] {
        [xx, yy, xy]
    }
}

formulas! {
    /// Pearson's correlation; NaN where a side has no spread. Rounding can carry a perfect one just past 1.
    fn correlation(xx, yy, xy) {
        let x = quotient_or(xy, xx.sqrt() * yy.sqrt(), f64::NAN);
        let x = if x > 1.0 { 1.0 } else { x };
        if x < -1.0 { -1.0 } else { x }
    }
    /// A sum over `divisor`.
    fn share_of(xy; divisor) xy / divisor
    /// Slope of x on y; NaN where y has no spread.
    fn slope(yy, xy) quotient_or(xy, yy, f64::NAN)
}

/// Sums of squares of x and y, and of products, of deviations of the last `n` rows from their means.
fn together(builder: &mut Builder, x: Series, y: Series, n: usize) -> [Series; 3] {
    let outputs = builder.window(Tree::<Together, 5, 3>::new(n), &[x, y]);
    [outputs[0], outputs[1], outputs[2]]
}

/// Pearson's correlation of the last `n` rows.
pub(in super::super) fn corr(builder: &mut Builder, x: Series, y: Series, n: usize) -> Series {
    let [xx, yy, xy] = together(builder, x, y, n);
    correlation(builder, xx, yy, xy)
}

fn cov(builder: &mut Builder, x: Series, y: Series, n: usize) -> Series {
    let [_, _, xy] = together(builder, x, y, n);
    share_of(builder, xy, n as f64 - 1.0)
}

fn beta(builder: &mut Builder, x: Series, y: Series, n: usize) -> Series {
    let [_, yy, xy] = together(builder, x, y, n);
    slope(builder, yy, xy)
}

fn autocorr(builder: &mut Builder, x: Series, n: usize, distance: usize) -> Series {
    let earlier = lag(builder, x, distance);
    // A window without a pair has no spread, and so no value.
    corr(builder, x, earlier, n.saturating_sub(distance).max(1))
}

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "corr",
        series: &["x", "y"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Pearson's correlation of the last n rows of two series; not defined where one of them has no spread.",
        source: "",
        expand: |b, x, p| vec![corr(b, x[0], x[1], p[0] as usize)],
    },
    Indicator {
        name: "cov",
        series: &["x", "y"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::OfSeriesSquared,
        }],
        definition: "Sample covariance (n - 1) of the last n rows of two series; its unit is the product of theirs.",
        source: "",
        expand: |b, x, p| vec![cov(b, x[0], x[1], p[0] as usize)],
    },
    Indicator {
        name: "beta",
        series: &["x", "y"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Slope of the least-squares line of x on y over the last n rows: covariance over the variance of y; not defined where y has no spread.",
        source: "",
        expand: |b, x, p| vec![beta(b, x[0], x[1], p[0] as usize)],
    },
    Indicator {
        name: "autocorr",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 3, None), rows("lag", 1, Some(1.0))],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Pearson's correlation of the rows of a window of n with those lag rows before them in the window, each side with its own mean; not defined where a side has no spread or less than two rows.",
        source: "",
        expand: |b, x, p| vec![autocorr(b, x[0], p[0] as usize, p[1] as usize)],
    },
];
