//! Where the present value stands among those of its window: compared with each, and counted.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    kernel::{Id, Scratch, Window},
};
use crate::dispatch::dispatched;

/// Rows back that one pass over the rows of a block compares with.
const STEP: usize = 8;

/// How many values of a window are below the present one, and how many are at most as large.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Standing {
    /// Percent of the values that are at most as large as the present one, itself included.
    Percent,
    /// Rank from 1 for the smallest; equal values share their mean rank.
    Rank,
}

#[derive(Debug, Clone, Copy)]
struct Rank {
    n: usize,
    standing: Standing,
}

impl Window for Rank {
    fn id(&self) -> Id {
        let name = match self.standing {
            Standing::Percent => "pctrank",
            Standing::Rank => "rank",
        };
        Id::new(name, [self.n as u64])
    }

    fn lookback(&self) -> usize {
        self.n - 1
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let x = inputs[0];
        let out = &mut *outputs[0];
        let counts = scratch.take(2 * out.len());
        counts.fill(0.0);
        let (below, at_most) = counts.split_at_mut(out.len());
        match self.standing {
            Standing::Percent => {
                count_at_most(x, self.n, at_most);
                let n = self.n as f64;
                for (out, at_most) in out.iter_mut().zip(at_most) {
                    *out = 100.0 * *at_most / n;
                }
            }
            Standing::Rank => {
                count_at_most(x, self.n, at_most);
                count_below(x, self.n, below);
                for ((out, at_most), below) in out.iter_mut().zip(at_most).zip(below) {
                    *out = 0.5 * (1.0 + *below + *at_most);
                }
            }
        }
        blank_torn_windows(x, self.n, out);
    }
}

/// NaN for each row whose window of `n` rows of `x` holds one.
pub(super) fn blank_torn_windows(x: &[f64], n: usize, out: &mut [f64]) {
    if !has_nan(x) {
        return;
    }
    let n_before = n - 1;
    let mut n_good = 0;
    for (t, x) in x.iter().enumerate() {
        n_good = if x.is_nan() { 0 } else { n_good + 1 };
        if t >= n_before && n_good < n {
            out[t - n_before] = f64::NAN;
        }
    }
}

dispatched! {
    /// Whether one is NaN.
    pub(super) fn has_nan(x: &[f64]) -> bool {
        let mut has_nan = false;
        for x in x {
            has_nan |= x.is_nan();
        }
        has_nan
    }

    fn count_at_most(x: &[f64], n: usize, counts: &mut [f64]) {
        count(x, n, counts, |before, now| before <= now);
    }

    fn count_below(x: &[f64], n: usize, counts: &mut [f64]) {
        count(x, n, counts, |before, now| before < now);
    }
}

/// Adds to each count how many of the `n` rows up to its own, which is `counts.len()` rows from the end of `x`, are so.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn count(x: &[f64], n: usize, counts: &mut [f64], is_so: impl Fn(f64, f64) -> bool) {
    let n_rows = counts.len();
    let now = &x[n - 1..][..n_rows];
    if n_rows == 1 {
        let so = x[..n]
            .iter()
            .map(|before| f64::from(u8::from(is_so(*before, now[0]))));
        // Counts are exact in any order.
        let mut lanes = [0.0; STEP];
        for (i, so) in so.enumerate() {
            lanes[i % STEP] += so;
        }
        counts[0] += lanes.iter().sum::<f64>();
        return;
    }
    let mut start = 0;
    while start + STEP <= n {
        let before: [&[f64]; STEP] = std::array::from_fn(|i| &x[start + i..][..n_rows]);
        for t in 0..n_rows {
            let mut so = 0.0;
            for before in before {
                so += if is_so(before[t], now[t]) { 1.0 } else { 0.0 };
            }
            counts[t] += so;
        }
        start += STEP;
    }
    for start in start..n {
        let before = &x[start..][..n_rows];
        for t in 0..n_rows {
            counts[t] += if is_so(before[t], now[t]) { 1.0 } else { 0.0 };
        }
    }
}

const WINDOW: Parameter = Parameter {
    name: "n",
    range: Range::Whole(1, 100_000),
    default: None,
};

pub(super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "pctrank",
        series: &["x"],
        bars: &[],
        parameters: &[WINDOW],
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Percent of the last n values, the present one included, that are at most as large as the present one.",
        source: "plain definition",
        expand: |builder, series, p| {
            let rank = Rank {
                n: p[0] as usize,
                standing: Standing::Percent,
            };
            builder.window(rank, &[series[0]])
        },
    },
    Indicator {
        name: "rank",
        series: &["x"],
        bars: &[],
        parameters: &[WINDOW],
        outputs: &[Output {
            name: "",
            unit: Unit::Rows,
        }],
        definition: "Rank of the present value among the last n, from 1 for the smallest; equal values share their mean rank.",
        source: "pandas, rolling rank, method `average`",
        expand: |builder, series, p| {
            let rank = Rank {
                n: p[0] as usize,
                standing: Standing::Rank,
            };
            builder.window(rank, &[series[0]])
        },
    },
];

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the expected values are exact")]
mod tests {
    use proptest::prelude::*;

    use crate::{
        bars::{Bar, BarColumns},
        indicators::{
            check::{Golden, values},
            program::Input,
        },
    };

    fn of_closes(close: &[f64]) -> BarColumns {
        let bar = |close: &f64| Bar {
            ts_ns: 0,
            open: 0.0,
            high: 0.0,
            low: 0.0,
            close: *close,
            volume: 0.0,
        };
        close.iter().map(bar).collect()
    }

    #[test]
    fn equal_values_share_their_rank() {
        let bars = of_closes(&[1.0, 3.0, 3.0, 2.0]);

        let ranks = values(&bars, "rank", &[Input::Close], &[3.0], "");
        let percents = values(&bars, "pctrank", &[Input::Close], &[3.0], "");

        assert!(ranks[..2].iter().all(|x| x.is_nan()));
        assert_eq!(ranks[2..], [2.5, 1.0]);
        assert_eq!(percents[2..], [100.0, 100.0 / 3.0]);
    }

    #[test]
    fn percent_rank_is_the_reference_one() {
        let Some(golden) = Golden::load() else { return };

        let percents = values(&golden.bars, "pctrank", &[Input::Close], &[100.0], "");

        golden.assert_is("pctrank_100", &percents, 100.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn ranks_count_the_window(
            x in proptest::collection::vec(prop_oneof![8 => -3.0..3.0, 3 => Just(0.5), 1 => Just(f64::NAN)], 1..200),
            n in 1_usize..30,
        ) {
            let bars = of_closes(&x);
            let ranks = values(&bars, "rank", &[Input::Close], &[n as f64], "");
            let percents = values(&bars, "pctrank", &[Input::Close], &[n as f64], "");

            for t in 0..x.len() {
                let window = &x[(t + 1).saturating_sub(n)..=t];
                if window.len() < n || window.iter().any(|x| x.is_nan()) {
                    prop_assert!(ranks[t].is_nan() && percents[t].is_nan());
                } else {
                    let below = window.iter().filter(|y| **y < x[t]).count() as f64;
                    let equal = window.iter().filter(|y| **y == x[t]).count() as f64;
                    prop_assert_eq!(ranks[t], below + 0.5 * (equal + 1.0));
                    prop_assert_eq!(percents[t], 100.0 * (below + equal) / n as f64);
                }
            }
        }
    }
}
