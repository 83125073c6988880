//! Kaufman's adaptive mean: as fast as the series goes straight.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    output, rows_or,
    scan::{self, Kernel, Varying, settling_rows},
    vector::Vector,
};
use crate::{
    dispatch::dispatched,
    indicators::{
        catalog::{Indicator, Unit},
        kernel::{Id, Scratch, Window},
    },
};

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[Indicator {
    name: "kama",
    series: &["x"],
    bars: &[],
    parameters: &[
        rows_or("period", 10.0),
        rows_or("fast", 2.0),
        rows_or("slow", 30.0),
    ],
    outputs: &[output("", Unit::OfSeries)],
    definition: "`y += c^2 * (x - y)`, where `c` goes from `2 / (slow + 1)` to `2 / (fast + 1)` as the change over `period` rows \
                 goes from nothing to the sum of the sizes of its single changes (to the latter if that is 0); the first value \
                 follows the `x` before it",
    source: "Kaufman (1995), Smarter Trading; TA-Lib KAMA",
    expand: |builder, series, p| {
        let x = series[0];
        let rest = Rest {
            period: p[0] as usize,
            fast: p[1],
            slow: p[2],
        };
        let kernel = Kama {
            slowest: rest.of(0.0),
            scan: Varying::new(),
        };
        let rest = builder.window(rest, &[x])[0];
        scan::add(builder, kernel, [x, rest])
    },
}];

/// `1 - c^2`: what is left of the distance to the mean after a row.
#[derive(Debug, Clone)]
struct Rest {
    period: usize,
    fast: f64,
    slow: f64,
}

impl Rest {
    /// For a change that is this share of the sum of all changes.
    #[inline(always)]
    fn of(&self, efficiency: f64) -> f64 {
        let (fast, slow) = (2.0 / (self.fast + 1.0), 2.0 / (self.slow + 1.0));
        let c = efficiency.mul_add(fast - slow, slow);
        (-c).mul_add(c, 1.0)
    }
}

impl Window for Rest {
    fn id(&self) -> Id {
        let words = [self.period as u64, self.fast.to_bits(), self.slow.to_bits()];
        Id::new("kama rest", words)
    }

    fn lookback(&self) -> usize {
        self.period
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let scratch = scratch.take(2 * inputs[0].len());
        rests(self, inputs[0], outputs[0], scratch);
    }
}

dispatched! {
    fn rests(rest: &Rest, x: &[f64], out: &mut [f64], scratch: &mut [f64]) {
        let n = rest.period;
        // Of the sum of `length` changes up to row `t + 1`, element `t`.
        let (sums, longer) = scratch.split_at_mut(x.len());
        let (mut sums, mut longer) = (&mut sums[..x.len() - 1], &mut longer[..x.len() - 1]);
        for (sum, pair) in sums.iter_mut().zip(x.windows(2)) {
            *sum = (pair[1] - pair[0]).abs();
        }
        // The binary digits of `n`, the lowest first: each part lies before those that are in already.
        out.fill(0.0);
        let (mut length, mut done) = (1, 0);
        loop {
            if n & length != 0 {
                let parts = &sums[n - 1 - done..];
                for (out, part) in out.iter_mut().zip(parts) {
                    *out += part;
                }
                done += length;
            }
            if done == n {
                break;
            }
            let (late, early) = (&sums[length..], &*sums);
            for ((longer, late), early) in longer[length..].iter_mut().zip(late).zip(early) {
                *longer = late + early;
            }
            std::mem::swap(&mut sums, &mut longer);
            length *= 2;
        }
        for ((out, now), before) in out.iter_mut().zip(&x[n..]).zip(x) {
            let share = (now - before).abs() / *out;
            // Rounding of the sum may leave a little more.
            let share = if *out == 0.0 || share > 1.0 { 1.0 } else { share };
            *out = rest.of(share);
        }
    }
}

/// The mean, as its distance from the series: `z = rest * (z - change)`.
#[derive(Debug, Clone)]
struct Kama {
    /// What is left after a row at most.
    slowest: f64,
    scan: Varying,
}

impl Kernel<2, 1, 1> for Kama {
    fn id(&self) -> Id {
        Id::new("kama", [])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn memory(&self) -> Option<usize> {
        Some(settling_rows(self.slowest))
    }

    fn n_seeds(&self) -> Option<usize> {
        Some(0)
    }

    #[inline(always)]
    fn row(&self, [z]: &mut [f64; 1], _: usize, x: [f64; 2], before: [f64; 2]) -> [f64; 1] {
        let rest = x[1];
        *z = rest * (*z - (x[0] - before[0]));
        [x[0] + *z]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, [z]: &mut [V; 1], x: [V; 2], before: [V; 2]) -> [V; 1] {
        let [x, rest] = x;
        let u = rest * (before[0] - x);
        [x + self.scan.scan(z, rest, u)]
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::{
        check::{Golden, market, values},
        program::Input,
    };

    #[test]
    fn golden_kama() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let p = [10.0, 2.0, 30.0];
        let kama = values(&golden.bars, "kama", &[Input::Close], &p, "");
        golden.assert_is("kama_10", &kama, 1.0);
    }

    #[test]
    fn it_is_as_defined_for_any_period() {
        let bars = market(200, 3);
        let x = &bars.close;
        for n in [1, 2, 3, 5, 7, 8, 13, 16, 31] {
            let kama = values(&bars, "kama", &[Input::Close], &[n as f64, 3.0, 20.0], "");
            let mut y = x[n - 1];
            for t in n..x.len() {
                let all: f64 = (t - n + 1..=t).map(|k| (x[k] - x[k - 1]).abs()).sum();
                let straight = (x[t] - x[t - n]).abs();
                let share = if all == 0.0 { 1.0 } else { straight / all };
                let c = share * (2.0 / 4.0 - 2.0 / 21.0) + 2.0 / 21.0;
                y += c * c * (x[t] - y);
                assert!((kama[t] - y).abs() < 1e-12 * y, "{n}, row {t}");
            }
        }
    }
}
