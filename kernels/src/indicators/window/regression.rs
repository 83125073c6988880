//! Lines through windows: least squares against time, and linearly weighted means.

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
    moments::spread,
    rows,
    tree::{Statistic, Terms, Tree, TreeOf},
};

/// The mean of x less its last row, and the sum of products of deviations of x and of its row number from their means: the
/// result is the mean and the slope.
#[derive(Debug)]
pub(super) struct Line;

impl Statistic<2, 2> for Line {
    const NAME: &'static str = "line";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 2] {
        // 0 or NaN.
        [x.sub(x), V::splat(0.0)]
    }

    #[inline(always)]
    fn factors(older: usize, newer: usize, _distance: usize) -> [f64; 3] {
        let (older, newer) = (older as f64, newer as f64);
        // The middles of the parts are (older + newer) / 2 rows apart.
        [-older / (older + newer), 0.5 * older * newer, 0.0]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [mean, products]: [V; 2],
        [newer_mean, newer_products]: [V; 2],
        [apart, _]: [V; 2],
        [share, between, _]: [V; 3],
    ) -> [V; 2] {
        let step = apart.add(newer_mean.sub(mean));
        [
            step.mul_add(share, newer_mean),
            step.mul_add(between, products.add(newer_products)),
        ]
    }

    #[inline(always)]
    fn scale(n_rows: usize) -> [f64; 3] {
        [1.0 / squared_rows(n_rows), 0.0, 0.0]
    }

    #[inline(always)]
    fn result<V: Lanes>([mean, products]: [V; 2], last: V, [scale, ..]: [V; 3]) -> [V; 2] {
        [last.add(mean), products.mul(scale)]
    }
}

/// The sum, and the sum with weights 1, 2 ... The result is the weighted mean.
#[derive(Debug)]
struct Weighted;

impl Statistic<2, 1> for Weighted {
    const NAME: &'static str = "wma";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 2] {
        [x, x]
    }

    #[inline(always)]
    fn factors(older: usize, _newer: usize, _distance: usize) -> [f64; 3] {
        [older as f64, 0.0, 0.0]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [sum, weighted]: [V; 2],
        [newer_sum, newer_weighted]: [V; 2],
        _apart: [V; 2],
        [older, ..]: [V; 3],
    ) -> [V; 2] {
        [
            newer_sum.add(sum),
            newer_sum.mul_add(older, newer_weighted.add(weighted)),
        ]
    }

    #[inline(always)]
    fn scale(n_rows: usize) -> [f64; 3] {
        let n = n_rows as f64;
        [2.0 / (n * (n + 1.0)), 0.0, 0.0]
    }

    #[inline(always)]
    fn result<V: Lanes>([_, weighted]: [V; 2], _last: V, [scale, ..]: [V; 3]) -> [V; 1] {
        [weighted.mul(scale)]
    }
}

/// Twice the first input less the second.
#[derive(Debug)]
struct Ahead;

impl Terms<2> for Ahead {
    const NAME: &'static str = "hma";
    const READS: [(usize, usize); 2] = [(0, 0), (1, 0)];

    #[inline(always)]
    fn of<V: Lanes>([fast, slow]: [V; 2]) -> [V; 2] {
        let ahead = fast.add(fast).sub(slow);
        [ahead, ahead]
    }
}

/// Sum of squared deviations of 0, 1 ... n - 1 from their mean.
#[inline(always)]
fn squared_rows(n_rows: usize) -> f64 {
    let n = n_rows as f64;
    n * (n * n - 1.0) / 12.0
}

formulas! {
    /// Value of a line so many rows after its middle.
    fn at(mean, slope; rows_after) slope.mul_add(rows_after, mean)
    /// Share of the squared deviations that a line explains; NaN where there are none.
    fn explained(slope, squares; squared_rows) {
        let share = quotient_or(slope * slope * squared_rows, squares, f64::NAN);
        if share > 1.0 { 1.0 } else { share }
    }
}

/// Mean of the last `n` rows, and the slope of the least-squares line through them.
fn line(builder: &mut Builder, x: Series, n: usize) -> (Series, Series) {
    let outputs = builder.window(Tree::<Line, 2, 2>::new(n), &[x]);
    (outputs[0], outputs[1])
}

fn linreg(builder: &mut Builder, x: Series, n: usize) -> Vec<Series> {
    let (mean, slope) = line(builder, x, n);
    let [_, squares, _] = spread(builder, x, n);
    let half = (n as f64 - 1.0) / 2.0;
    vec![
        slope,
        at(builder, mean, slope, -half),
        at(builder, mean, slope, half),
        explained(builder, slope, squares, squared_rows(n)),
    ]
}

/// Linearly weighted mean of the last `n` rows, the newest heaviest.
pub(in super::super) fn wma(builder: &mut Builder, x: Series, n: usize) -> Series {
    builder.window(Tree::<Weighted, 2, 1>::new(n), &[x])[0]
}

/// Hull's moving average.
fn hma(builder: &mut Builder, x: Series, n: usize) -> Series {
    let (fast, slow) = (wma(builder, x, n / 2), wma(builder, x, n));
    builder.window(
        TreeOf::<Ahead, Weighted, 2, 2, 1>::new(n.isqrt()),
        &[fast, slow],
    )[0]
}

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "linreg",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[
            Output {
                name: "slope",
                unit: Unit::OfSeries,
            },
            Output {
                name: "intercept",
                unit: Unit::OfSeries,
            },
            Output {
                name: "end",
                unit: Unit::OfSeries,
            },
            Output {
                name: "r2",
                unit: Unit::Ratio,
            },
        ],
        definition: "Least-squares line through the last n rows against time: slope a row, value at the first and at the last row, and the share of the squared deviations that it explains, not defined where all rows are equal.",
        source: "",
        expand: |b, x, p| linreg(b, x[0], p[0] as usize),
    },
    Indicator {
        name: "wma",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::OfSeries,
        }],
        definition: "Weighted moving average of the last n rows: weights 1, 2 ... n, the newest heaviest.",
        source: "TA-Lib WMA",
        expand: |b, x, p| vec![wma(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "hma",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::OfSeries,
        }],
        definition: "Hull moving average: WMA over the whole part of sqrt(n) of 2 WMA(n / 2) - WMA(n), n / 2 without its fraction.",
        source: "TA-Lib HMA; Hull (2005)",
        expand: |b, x, p| vec![hma(b, x[0], p[0] as usize)],
    },
];
