//! Exponential means of exponential means, put together so that they lag less.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "closures and iterators over vectors are not always compiled into their callers"
)]

use super::{
    output, rows, rows_or,
    scan::{self, Average, DEPTH, Kernel, settling_rows_of_cascade},
    vector::{Number, Vector},
};
use crate::indicators::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    kernel::Id,
    program::{Builder, Series},
};

const ONE: &[Output] = &[output("", Unit::OfSeries)];

/// Numbers that a [`Cascade`] of up to six means carries along.
const CARRIED: usize = 13;
/// The longest cascade.
const LONGEST: usize = 6;

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "dema",
        series: &["x"],
        bars: &[],
        parameters: &[rows("period")],
        outputs: ONE,
        definition: "`2 * e1 - e2` of the exponential mean and the exponential mean of it, each seeded by the mean of its first \
                     `period` values",
        source: "Mulloy (1994), Smoothing Data with Faster Moving Averages; TA-Lib DEMA",
        expand: |builder, series, p| {
            cascade::<2, false>(builder, "dema", series[0], p, [1.0, -1.0])
        },
    },
    Indicator {
        name: "tema",
        series: &["x"],
        bars: &[],
        parameters: &[rows("period")],
        outputs: ONE,
        definition: "`3 * e1 - 3 * e2 + e3` of a cascade of exponential means, each seeded by the mean of its first `period` \
                     values",
        source: "Mulloy (1994), Smoothing Data with Faster Moving Averages; TA-Lib TEMA",
        // 3 e1 - 3 e2 + e3 = x + (e1 - x) - 2 (e2 - e1) + (e3 - e2)
        expand: |builder, series, p| {
            cascade::<3, false>(builder, "tema", series[0], p, [1.0, -2.0, 1.0])
        },
    },
    Indicator {
        name: "t3",
        series: &["x"],
        bars: &[],
        parameters: &[
            rows("period"),
            Parameter {
                name: "v",
                range: Range::Real(0.0, 1.0),
                default: Some(0.7),
            },
        ],
        outputs: ONE,
        definition: "`-v^3 e6 + (3 v^2 + 3 v^3) e5 - (6 v^2 + 3 v + 3 v^3) e4 + (1 + 3 v + v^3 + 3 v^2) e3` of a cascade of \
                     exponential means, each seeded by the mean of its first `period` values",
        source: "Tillson (1998), Smoothing Techniques for More Accurate Signals; TA-Lib T3",
        expand: |builder, series, p| {
            let v = p[1];
            let (v2, v3) = (v * v, v * v * v);
            // The four factors add up to 1, so each step beyond e3 has those of all means that lie behind it.
            let (e6, e5) = (-v3, 3.0 * (v2 + v3));
            let e4 = -3.0 * (2.0 * v2 + v + v3);
            let weights = [1.0, 1.0, 1.0, e4 + e5 + e6, e5 + e6, e6];
            cascade::<6, false>(builder, "t3", series[0], p, weights)
        },
    },
    Indicator {
        name: "trix",
        series: &["x"],
        bars: &[],
        parameters: &[rows_or("period", 15.0)],
        outputs: &[output("", Unit::Percent)],
        definition: "the change from row to row, in percent, of the third of a cascade of exponential means, each seeded by the \
                     mean of its first `period` values",
        source: "Hutson (1983), TRIX; TA-Lib TRIX",
        expand: |builder, series, p| cascade::<3, true>(builder, "trix", series[0], p, [1.0; 3]),
    },
];

fn cascade<const K: usize, const RATE: bool>(
    builder: &mut Builder,
    name: &'static str,
    x: Series,
    p: &[f64],
    weights: [f64; K],
) -> Vec<Series> {
    let words: Vec<u64> = p.iter().map(|p| p.to_bits()).collect();
    let period = p[0] as usize;
    let average = Average::exponential(period, 0);
    let kernel = Cascade::<K, RATE> {
        id: Id::new(name, words),
        period,
        weights: weights.map(|weight| -weight * average.decay.b),
        average,
    };
    scan::add(builder, kernel, [x])
}

/// `x` and a weighted sum of the steps of a cascade: from `x` to its mean, from there to the mean of that, and so on. Its
/// change in percent if `RATE`, where all steps have to have the weight 1.
#[derive(Debug, Clone)]
struct Cascade<const K: usize, const RATE: bool> {
    id: Id,
    period: usize,
    average: Average,
    /// For each `s` of an [`Average`]: minus `b`, times the weight of the step.
    weights: [f64; K],
}

/// The change of `now` in percent of the value before.
#[inline(always)]
fn rate<N: Number>(change: N, now: N) -> N {
    N::all(100.0) * (change / (now - change))
}

impl<const K: usize, const RATE: bool> Kernel<1, 1, CARRIED> for Cascade<K, RATE> {
    const IS_DEEP: bool = true;

    fn id(&self) -> Id {
        self.id.clone()
    }

    fn warm_up(&self) -> usize {
        K * (self.period - 1) + usize::from(RATE)
    }

    fn memory(&self) -> Option<usize> {
        Some(self.warm_up() + 1 + settling_rows_of_cascade(self.average.decay.b, K))
    }

    #[inline(always)]
    fn row(
        &self,
        carry: &mut [f64; CARRIED],
        row: usize,
        [x]: [f64; 1],
        [before]: [f64; 1],
    ) -> [f64; 1] {
        let (s, rest) = carry.split_at_mut(LONGEST);
        let (sums, origin) = rest.split_at_mut(LONGEST);
        if row == 0 {
            origin[0] = x;
        }
        let (mut mean, mut change, mut y) = (x - origin[0], x - before, x);
        for k in 0..K {
            let Some(row) = row.checked_sub(k * (self.period - 1)) else {
                return [f64::NAN];
            };
            let step = self.average.row(&mut s[k], &mut sums[k], row, mean, change);
            let Some(step) = step else {
                return [f64::NAN];
            };
            mean += step;
            change = self.average.a * s[k];
            y = self.weights[k].mul_add(s[k], y);
        }
        if !RATE {
            return [y];
        }
        [if row < self.warm_up() {
            f64::NAN
        } else {
            rate(change, y)
        }]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, carry: &mut [V; CARRIED], x: [V; 1], before: [V; 1]) -> [V; 1] {
        let [y] = self.several(carry, [x], [before]);
        y
    }

    #[inline(always)]
    fn groups<V: Vector>(
        &self,
        carry: &mut [V; CARRIED],
        x: [[V; 1]; DEPTH],
        before: [[V; 1]; DEPTH],
    ) -> [[V; 1]; DEPTH] {
        self.several(carry, x, before)
    }
}

impl<const K: usize, const RATE: bool> Cascade<K, RATE> {
    /// Mean by mean, and for each, group by group.
    #[inline(always)]
    fn several<V: Vector, const N: usize>(
        &self,
        carry: &mut [V; CARRIED],
        x: [[V; 1]; N],
        before: [[V; 1]; N],
    ) -> [[V; 1]; N] {
        let mut y = x;
        let mut change = [V::all(0.0); N];
        for g in 0..N {
            change[g] = x[g][0] - before[g][0];
        }
        for k in 0..K {
            for g in 0..N {
                let s = self.average.decay.scan(&mut carry[k], change[g]);
                y[g][0] = V::all(self.weights[k]).mul_add(s, y[g][0]);
                change[g] = V::all(self.average.a) * s;
            }
        }
        if RATE {
            for g in 0..N {
                y[g][0] = rate(change[g], y[g][0]);
            }
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::{
        check::{Golden, values},
        program::Input,
    };

    #[test]
    fn golden_cascades() {
        let Some(golden) = Golden::load() else {
            return;
        };
        for (name, p) in [
            ("dema_20", &[20.0][..]),
            ("tema_20", &[20.0]),
            ("t3_5", &[5.0, 0.7]),
            ("trix_15", &[15.0]),
        ] {
            let kind = name.split('_').next().unwrap();
            golden.assert_is(
                name,
                &values(&golden.bars, kind, &[Input::Close], p, ""),
                1.0,
            );
        }
    }
}
