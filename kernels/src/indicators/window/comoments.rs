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
        kernel::{Id, Scratch, Window},
        pointwise::{formulas, quotient_or},
        program::{Builder, Series},
    },
    lanes::{Kernel, Lanes, vectorised},
    returns::lag,
    rows,
    sums::Mean,
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

/// Windows up to so many rows go through their rows once more with the means in hand, which is faster than to grow them.
const SHORT: usize = 48;

/// Sums of squares of x and y, and of products, of deviations of the last `n_rows` rows from their means.
#[derive(Debug)]
pub(super) struct Deviations {
    pub(super) n_rows: usize,
}

impl Window for Deviations {
    fn id(&self) -> Id {
        Id::new(Together::NAME, [self.n_rows as u64])
    }

    fn lookback(&self) -> usize {
        self.n_rows - 1
    }

    fn n_outputs(&self) -> usize {
        3
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        if self.n_rows > SHORT {
            return Tree::<Together, 5, 3>::new(self.n_rows).run(inputs, outputs, scratch);
        }
        let ([x, y], [xx, yy, xy]) = (inputs, outputs) else {
            unreachable!("two inputs and three outputs")
        };
        // Where a sum will be, its mean is before.
        let mean = Tree::<Mean, 1, 1>::new(self.n_rows);
        mean.run(&[x], &mut [&mut **xx], scratch);
        mean.run(&[y], &mut [&mut **yy], scratch);
        vectorised(FromMeans { x, y, xx, yy, xy });
    }
}

/// The sums, where the means are.
struct FromMeans<'a> {
    x: &'a [f64],
    y: &'a [f64],
    xx: &'a mut [f64],
    yy: &'a mut [f64],
    xy: &'a mut [f64],
}

impl Kernel for FromMeans<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let n = self.xy.len();
        let rows = self.x.len().min(self.y.len());
        assert!(
            self.xx.len() == n && self.yy.len() == n && rows >= n,
            "a window reads the rows before it"
        );
        let n_rows = rows - n + 1;
        let from = [self.x.as_ptr(), self.y.as_ptr()];
        let sums = [self.xx, self.yy, self.xy].map(<[f64]>::as_mut_ptr);
        let whole = n - n % V::N;
        for t in (0..whole).step_by(V::N) {
            // SAFETY: there are `V::N` rows from `t` on, each with `n_rows - 1` before it.
            unsafe { store_sums::<V>(n_rows, from.map(|x| x.add(t)), sums.map(|x| x.add(t))) }
        }
        for t in whole..n {
            // SAFETY: as above, for one row.
            unsafe { store_sums::<f64>(n_rows, from.map(|x| x.add(t)), sums.map(|x| x.add(t))) }
        }
    }
}

/// The sums of the windows that begin at `from`, to where the means are.
///
/// # Safety
/// There are `n_rows - 1 + V::N` numbers at each of `from`, and `V::N` at each of `sums`.
#[inline(always)]
unsafe fn store_sums<V: Lanes>(n_rows: usize, from: [*const f64; 2], sums: [*mut f64; 3]) {
    // SAFETY: the caller promises the numbers.
    unsafe {
        let means = [V::load(sums[0]), V::load(sums[1])];
        let [mut xx, mut yy, mut xy] = [V::splat(0.0); 3];
        let mut k = 0;
        while k < n_rows {
            let x = V::load(from[0].add(k)).sub(means[0]);
            let y = V::load(from[1].add(k)).sub(means[1]);
            xx = x.mul_add(x, xx);
            yy = y.mul_add(y, yy);
            xy = x.mul_add(y, xy);
            k += 1;
        }
        xx.store(sums[0]);
        yy.store(sums[1]);
        xy.store(sums[2]);
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
    let outputs = builder.window(Deviations { n_rows: n }, &[x, y]);
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
