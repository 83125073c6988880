//! Mean absolute deviation of windows.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        kernel::{Id, Scratch, Window},
        program::{Builder, Series},
    },
    lanes::{Kernel, Lanes, vectorised},
    rows,
    tree::{Statistic, Tree},
};

/// Last row less the mean of the last `n_rows` rows, and the mean absolute deviation from that mean.
#[derive(Debug)]
pub(super) struct Deviation {
    pub(super) n_rows: usize,
}

/// The mean less the last row.
#[derive(Debug)]
struct Anchored;

impl Statistic<1, 1> for Anchored {
    const NAME: &'static str = "anchored mean";

    #[inline(always)]
    fn leaf<V: Lanes>([x, _]: [V; 2]) -> [V; 1] {
        // 0 or NaN.
        [x.sub(x)]
    }

    #[inline(always)]
    fn factors(older: usize, newer: usize, _distance: usize) -> [f64; 3] {
        [-(older as f64) / (older + newer) as f64, 0.0, 0.0]
    }

    #[inline(always)]
    fn join<V: Lanes>(
        [mean]: [V; 1],
        [newer_mean]: [V; 1],
        [apart, _]: [V; 2],
        [share, ..]: [V; 3],
    ) -> [V; 1] {
        [apart.add(newer_mean.sub(mean)).mul_add(share, newer_mean)]
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

impl Window for Deviation {
    fn id(&self) -> Id {
        Id::new("deviation", [self.n_rows as u64])
    }

    fn lookback(&self) -> usize {
        self.n_rows - 1
    }

    fn n_outputs(&self) -> usize {
        2
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        Tree::<Anchored, 1, 1>::new(self.n_rows).run(inputs, &mut outputs[..1], scratch);
        if let ([x, ..], [distance, deviation]) = (inputs, outputs) {
            vectorised(Deviations {
                x,
                distance,
                deviation,
            });
        }
    }
}

struct Deviations<'a> {
    x: &'a [f64],
    /// The mean less the last row, to be replaced by the last row less the mean.
    distance: &'a mut [f64],
    deviation: &'a mut [f64],
}

impl Kernel for Deviations<'_> {
    #[inline(always)]
    fn run<V: Lanes>(self) {
        let n = self.deviation.len();
        assert!(
            self.distance.len() == n && self.x.len() >= n,
            "a window reads the rows before it"
        );
        let window = self.x.len() - n + 1;
        let x = self.x.as_ptr();
        let (distance, deviation) = (self.distance.as_mut_ptr(), self.deviation.as_mut_ptr());
        let mut t = 0;
        while t + V::N <= n {
            // SAFETY: row `t + window - 1` of x is row `t` of the outputs, and there are `V::N` of each.
            unsafe { store_deviation::<V>(x.add(t), window, distance.add(t), deviation.add(t)) }
            t += V::N;
        }
        for t in t..n {
            // SAFETY: as above, for one row.
            unsafe { store_deviation::<f64>(x.add(t), window, distance.add(t), deviation.add(t)) }
        }
    }
}

/// Mean of `|x - mean|` over the windows that begin at `x`. Four sums, so that none waits for the one before.
///
/// # Safety
/// There are `window - 1 + V::N` numbers at `x`, and `V::N` at the others.
#[inline(always)]
unsafe fn store_deviation<V: Lanes>(
    x: *const f64,
    window: usize,
    distance: *mut f64,
    deviation: *mut f64,
) {
    let mut sums = [V::splat(0.0); 4];
    // SAFETY: the caller promises the numbers.
    unsafe {
        let (last, mean) = (V::load(x.add(window - 1)), V::load(distance));
        let mut k = 0;
        while k + 4 <= window {
            for (j, sum) in sums.iter_mut().enumerate() {
                let away = V::load(x.add(k + j)).sub(last).sub(mean);
                *sum = sum.add(away.abs());
            }
            k += 4;
        }
        for (j, sum) in sums.iter_mut().enumerate() {
            if k + j < window {
                let away = V::load(x.add(k + j)).sub(last).sub(mean);
                *sum = sum.add(away.abs());
            }
        }
        let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
        sum.mul(V::splat(1.0 / window as f64)).store(deviation);
        V::splat(0.0).sub(mean).store(distance);
    }
}

/// Last row less the mean of the last `n` rows, and the mean absolute deviation from that mean.
pub(super) fn deviation_of(builder: &mut Builder, x: Series, n: usize) -> (Series, Series) {
    let outputs = builder.window(Deviation { n_rows: n }, &[x]);
    (outputs[0], outputs[1])
}

pub(in super::super) const INDICATORS: &[Indicator] = &[Indicator {
    name: "avgdev",
    series: &["x"],
    bars: &[],
    parameters: &[rows("n", 1, None)],
    outputs: &[Output {
        name: "",
        unit: Unit::OfSeries,
    }],
    definition: "Mean absolute deviation of the last n rows from their mean.",
    source: "TA-Lib AVGDEV",
    expand: |b, x, p| vec![deviation_of(b, x[0], p[0] as usize).1],
}];
