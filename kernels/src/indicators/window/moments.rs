//! Spread of windows: moments about the mean, put together without cancellation.
//!
//! Source: Chan et al. (1979), Updating Formulae and a Pairwise Algorithm for Computing Sample Variances; Pébay (2008),
//! Formulas for Robust, One-Pass Parallel Computation of Covariances and Arbitrary-Order Statistical Moments.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use super::{
    super::{
        catalog::{Indicator, Output, Parameter, Range, Unit},
        pointwise::{formulas, quotient_or},
        program::{Builder, Series},
    },
    ddof,
    lanes::Lanes,
    returns::log_return,
    rows,
    tree::{Statistic, Tree},
};

/// The mean less the last row, and the sum of squared deviations from the mean. The result is the mean, that sum, and the
/// last row less the mean.
#[derive(Debug)]
pub(super) struct Spread;

impl Statistic<2, 3> for Spread {
    const NAME: &'static str = "spread";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 2] {
        // 0 or NaN.
        [x.sub(x), V::splat(0.0)]
    }

    #[inline(always)]
    fn factors(older: usize, newer: usize, _distance: usize) -> [f64; 3] {
        let (older, newer) = (older as f64, newer as f64);
        let share = older / (older + newer);
        [-share, newer * share, 0.0]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [mean, squares]: [V; 2],
        [newer_mean, newer_squares]: [V; 2],
        [apart, _]: [V; 2],
        [share, between, _]: [V; 3],
    ) -> [V; 2] {
        let step = apart.add(newer_mean.sub(mean));
        [
            step.mul_add(share, newer_mean),
            step.mul(step).mul_add(between, squares.add(newer_squares)),
        ]
    }

    #[inline(always)]
    fn scale(_n_rows: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn result<V: Lanes>([mean, squares]: [V; 2], last: V, _scale: [V; 3]) -> [V; 3] {
        [last.add(mean), squares, V::splat(0.0).sub(mean)]
    }
}

/// The mean less the last row, and the sums of second, third and fourth powers of deviations from it.
#[derive(Debug)]
pub(super) struct Shape;

impl Statistic<4, 3> for Shape {
    const NAME: &'static str = "shape";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 4] {
        let zero = V::splat(0.0);
        // 0 or NaN.
        [x.sub(x), zero, zero, zero]
    }

    #[inline(always)]
    fn factors(older: usize, newer: usize, _distance: usize) -> [f64; 3] {
        let (older, newer) = (older as f64, newer as f64);
        let share = newer / (older + newer);
        [share, older * share, older / (older + newer)]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [mean, m2, m3, m4]: [V; 4],
        [newer_mean, newer_m2, newer_m3, newer_m4]: [V; 4],
        [apart, _]: [V; 2],
        [share, between, older_share]: [V; 3],
    ) -> [V; 4] {
        let [three, four, six] = [3.0, 4.0, 6.0].map(V::splat);
        let step = apart.add(newer_mean.sub(mean));
        let squared = step.mul(step).mul(between);
        // Shares of the parts in the sums of the powers above theirs.
        let cross = older_share.mul(share);
        let fourth = older_share
            .mul(older_share)
            .add(share.mul(share))
            .sub(cross);
        let second = m2
            .mul(share.mul(share))
            .add(newer_m2.mul(older_share.mul(older_share)));
        let third = newer_m3.mul(older_share).sub(m3.mul(share));
        [
            newer_mean.sub(step.mul(older_share)),
            squared.add(m2.add(newer_m2)),
            step.mul_add(
                three.mul_add(
                    newer_m2.mul(older_share).sub(m2.mul(share)),
                    squared.mul(older_share.sub(share)),
                ),
                m3.add(newer_m3),
            ),
            step.mul_add(
                step.mul_add(squared.mul_add(fourth, six.mul(second)), four.mul(third)),
                m4.add(newer_m4),
            ),
        ]
    }

    #[inline(always)]
    fn scale(_n_rows: usize) -> [f64; 3] {
        [0.0; 3]
    }

    #[inline(always)]
    fn result<V: Lanes>([_, m2, m3, m4]: [V; 4], _last: V, _scale: [V; 3]) -> [V; 3] {
        [m2, m3, m4]
    }
}

/// Mean of the last `n` rows, the sum of squared deviations from it, and the last row's own.
pub(super) fn spread(builder: &mut Builder, x: Series, n: usize) -> [Series; 3] {
    let outputs = builder.window(Tree::<Spread, 2, 3>::new(n), &[x]);
    [outputs[0], outputs[1], outputs[2]]
}

formulas! {
    /// Root of a sum of squares over `divisor`.
    fn root_mean(squares; divisor) (squares / divisor).sqrt()
    /// A sum of squares over `divisor`.
    fn share_of(squares; divisor) squares / divisor
    /// Distance from the mean in standard deviations; NaN without spread.
    fn standardised(distance, deviation) quotient_or(distance, deviation, f64::NAN)
    /// `mean + multiple * deviation`.
    fn band(mean, deviation; multiple) deviation.mul_add(multiple, mean)
    /// Distance between two bands over their mean; NaN where that is 0.
    fn band_width(mean, deviation; multiple) quotient_or(2.0 * multiple * deviation, mean, f64::NAN)
    /// Place between two bands, 0 at the lower and 1 at the upper; NaN without spread.
    fn place_between_bands(distance, deviation; multiple) {
        let reach = multiple * deviation;
        quotient_or(distance + reach, 2.0 * reach, f64::NAN)
    }
    /// Adjusted Fisher-Pearson skewness; `scale` is `n sqrt(n - 1) / (n - 2)`.
    fn skewness(m2, m3; scale) quotient_or(scale * m3, m2 * m2.sqrt(), f64::NAN)
    /// Bias-corrected excess kurtosis: `scale` is `n (n + 1) (n - 1) / ((n - 2) (n - 3))`, and `excess` what a normal
    /// distribution has.
    fn kurtosis(m2, m4; scale, excess) quotient_or(scale * m4, m2 * m2, f64::NAN) - excess
}

/// Standard deviation of the last `n` rows with `n - ddof` in the denominator.
pub(in super::super) fn std(builder: &mut Builder, x: Series, n: usize, ddof: usize) -> Series {
    let [_, squares, _] = spread(builder, x, n);
    root_mean(builder, squares, n as f64 - ddof as f64)
}

/// Variance of the last `n` rows with `n - ddof` in the denominator.
pub(in super::super) fn var(builder: &mut Builder, x: Series, n: usize, ddof: usize) -> Series {
    let [_, squares, _] = spread(builder, x, n);
    share_of(builder, squares, n as f64 - ddof as f64)
}

/// Distance of `x` from its mean of the last `n` rows in sample standard deviations; NaN without spread.
pub(in super::super) fn zscore(builder: &mut Builder, x: Series, n: usize) -> Series {
    let [_, _, distance] = spread(builder, x, n);
    let deviation = std(builder, x, n, 1);
    standardised(builder, distance, deviation)
}

/// Bollinger bands: upper, middle, lower, their width over the middle, and the place of `x` between them.
fn bbands(builder: &mut Builder, x: Series, n: usize, multiple: f64, ddof: usize) -> Vec<Series> {
    let [mean, _, distance] = spread(builder, x, n);
    let deviation = std(builder, x, n, ddof);
    vec![
        band(builder, mean, deviation, multiple),
        mean,
        band(builder, mean, deviation, -multiple),
        band_width(builder, mean, deviation, multiple),
        place_between_bands(builder, distance, deviation, multiple),
    ]
}

fn skew(builder: &mut Builder, x: Series, n: usize) -> Series {
    let shape = builder.window(Tree::<Shape, 4, 3>::new(n), &[x]);
    let rows = n as f64;
    let scale = rows * (rows - 1.0).sqrt() / (rows - 2.0);
    skewness(builder, shape[0], shape[1], scale)
}

fn kurt(builder: &mut Builder, x: Series, n: usize) -> Series {
    let shape = builder.window(Tree::<Shape, 4, 3>::new(n), &[x]);
    let rows = n as f64;
    let divisor = (rows - 2.0) * (rows - 3.0);
    let scale = rows * (rows + 1.0) * (rows - 1.0) / divisor;
    let excess = 3.0 * (rows - 1.0) * (rows - 1.0) / divisor;
    kurtosis(builder, shape[0], shape[2], scale, excess)
}

/// Sample standard deviation of the last `n` logarithmic returns.
fn realized_vol(builder: &mut Builder, x: Series, n: usize) -> Series {
    let returns = log_return(builder, x, 1);
    std(builder, returns, n, 1)
}

const MULTIPLE: Parameter = Parameter {
    name: "k",
    range: Range::Real(0.0, 100.0),
    default: Some(2.0),
};

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "std",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None), ddof(1.0)],
        outputs: &[Output {
            name: "",
            unit: Unit::OfSeries,
        }],
        definition: "Standard deviation of the last n rows: root of the mean squared deviation from their mean, with n - ddof for n; 0 for equal values.",
        source: "",
        expand: |b, x, p| vec![std(b, x[0], p[0] as usize, p[1] as usize)],
    },
    Indicator {
        name: "var",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None), ddof(1.0)],
        outputs: &[Output {
            name: "",
            unit: Unit::OfSeriesSquared,
        }],
        definition: "Variance of the last n rows: mean squared deviation from their mean, with n - ddof for n; 0 for equal values.",
        source: "",
        expand: |b, x, p| vec![var(b, x[0], p[0] as usize, p[1] as usize)],
    },
    Indicator {
        name: "zscore",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::StandardDeviations,
        }],
        definition: "Distance of a row from the mean of the last n in their standard deviations (n - 1); not defined where all are equal.",
        source: "",
        expand: |b, x, p| vec![zscore(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "bbands",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None), MULTIPLE, ddof(0.0)],
        outputs: &[
            Output {
                name: "upper",
                unit: Unit::OfSeries,
            },
            Output {
                name: "mid",
                unit: Unit::OfSeries,
            },
            Output {
                name: "lower",
                unit: Unit::OfSeries,
            },
            Output {
                name: "width",
                unit: Unit::Ratio,
            },
            Output {
                name: "pctb",
                unit: Unit::Ratio,
            },
        ],
        definition: "Bollinger bands: mean of the last n rows plus and minus k standard deviations (n - ddof); their distance over the mean; and (x - lower) / (upper - lower), not defined where all rows are equal.",
        source: "Bollinger (2001), Bollinger on Bollinger Bands",
        expand: |b, x, p| bbands(b, x[0], p[0] as usize, p[1], p[2] as usize),
    },
    Indicator {
        name: "skew",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 3, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Skewness of the last n rows, adjusted Fisher-Pearson (G1); not defined where all are equal.",
        source: "Joanes and Gill (1998), Comparing Measures of Sample Skewness and Kurtosis",
        expand: |b, x, p| vec![skew(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "kurt",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 4, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Excess kurtosis of the last n rows, bias-corrected (G2); not defined where all are equal.",
        source: "Joanes and Gill (1998), Comparing Measures of Sample Skewness and Kurtosis",
        expand: |b, x, p| vec![kurt(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "realized_vol",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Sample standard deviation (n - 1) of the last n logarithmic returns, per row.",
        source: "",
        expand: |b, x, p| vec![realized_vol(b, x[0], p[0] as usize)],
    },
];
