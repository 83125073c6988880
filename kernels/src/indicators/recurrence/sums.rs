//! Running sums from the start of the series, and means of what they add up.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use std::{fmt::Debug, marker::PhantomData};

use super::{
    averages::ema,
    output,
    rows::Rows,
    rows_or,
    scan::{self, Average, Decay, Kernel, settling_rows},
    vector::{Number, Vector},
};
use crate::{
    dispatch::dispatched,
    indicators::{
        catalog::{Indicator, Output, Unit},
        kernel::Id,
        program::{Builder, Input, Series},
    },
};

const VOLUME: &[Output] = &[output("", Unit::Volume)];
const FLOW: [Input; 4] = [Input::High, Input::Low, Input::Close, Input::Volume];

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "cumsum",
        series: &["x"],
        bars: &[],
        parameters: &[],
        outputs: &[output("", Unit::OfSeries)],
        definition: "sum of all values since the start or the last missing one",
        source: "plain",
        expand: |builder, series, _| running::<Plain, 1>(builder, [series[0]]),
    },
    Indicator {
        name: "obv",
        series: &[],
        bars: &[Input::Close, Input::Volume],
        parameters: &[],
        outputs: VOLUME,
        definition: "on-balance volume: running sum of the volume, negative where the close falls and left out where it stays; the \
                     first volume counts",
        source: "Granville (1963), New Key to Stock Market Profits; TA-Lib OBV",
        expand: |builder, _, _| {
            let inputs = [Input::Close, Input::Volume].map(|input| builder.input(input));
            running::<Balance, 2>(builder, inputs)
        },
    },
    Indicator {
        name: "ad",
        series: &[],
        bars: &FLOW,
        parameters: &[],
        outputs: VOLUME,
        definition: "accumulation and distribution: running sum of volume times the place of the close in its bar, from -1 to 1; a \
                     bar without range adds nothing",
        source: "Chaikin; TA-Lib AD",
        expand: |builder, _, _| {
            let inputs = FLOW.map(|input| builder.input(input));
            running::<Flow, 4>(builder, inputs)
        },
    },
    Indicator {
        name: "vpt",
        series: &[],
        bars: &[Input::Close, Input::Volume],
        parameters: &[],
        outputs: VOLUME,
        definition: "volume price trend: running sum of volume times the relative change of the close, 0 in the first row; a close \
                     after one of 0 adds nothing",
        source: "plain",
        expand: |builder, _, _| {
            let inputs = [Input::Close, Input::Volume].map(|input| builder.input(input));
            running::<Trend, 2>(builder, inputs)
        },
    },
    Indicator {
        name: "adosc",
        series: &[],
        bars: &FLOW,
        parameters: &[rows_or("fast", 3.0), rows_or("slow", 10.0)],
        outputs: VOLUME,
        definition: "Chaikin oscillator: exponential mean of `ad` over `fast` rows less that over `slow` rows, both seeded by the \
                     first value; nothing in the first `slow - 1` rows",
        source: "Chaikin; TA-Lib ADOSC",
        expand: |builder, _, p| {
            let inputs = FLOW.map(|input| builder.input(input));
            let periods = [p[0] as usize, p[1] as usize];
            let [fast, slow] = periods.map(|n| Average::exponential(n, 0).decay);
            let kernel = Oscillator {
                periods,
                fast,
                slow,
            };
            scan::add(builder, kernel, inputs)
        },
    },
    Indicator {
        name: "efi",
        series: &[],
        bars: &[Input::Close, Input::Volume],
        parameters: &[rows_or("period", 13.0)],
        outputs: &[output("", Unit::Turnover)],
        definition: "force index: exponential mean of the change of the close times the volume, seeded by the mean of its first \
                     `period` values",
        source: "Elder (1993), Trading for a Living",
        expand: |builder, _, p| {
            let inputs = [Input::Close, Input::Volume].map(|input| builder.input(input));
            let rows = Rows {
                name: "force",
                lookback: 1,
                n_outputs: 1,
                parameters: Vec::new(),
                function: forces,
            };
            let force = builder.window(rows, &inputs)[0];
            vec![ema(builder, force, p[0] as usize)]
        },
    },
];

dispatched! {
    fn forces(_parameters: &[f64], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let n = outputs[0].len();
        let (close, volume) = (&inputs[0][..=n], &inputs[1][1..=n]);
        for ((out, close), volume) in outputs[0].iter_mut().zip(close.windows(2)).zip(volume) {
            *out = (close[1] - close[0]) * volume;
        }
    }
}

/// What a running sum adds up.
trait Term<const I: usize>: Debug + Clone + Send + Sync + 'static {
    const NAME: &str;

    /// In the first row.
    fn first<N: Number>(x: [N; I]) -> N;

    /// In a row after another.
    fn next<N: Number>(x: [N; I], before: [N; I]) -> N;
}

/// Values themselves.
#[derive(Debug, Clone)]
struct Plain;

impl Term<1> for Plain {
    const NAME: &str = "cumsum";

    #[inline(always)]
    fn first<N: Number>([x]: [N; 1]) -> N {
        x
    }

    #[inline(always)]
    fn next<N: Number>([x]: [N; 1], _: [N; 1]) -> N {
        x
    }
}

/// Volume, with the sign of the change of the close.
#[derive(Debug, Clone)]
struct Balance;

impl Term<2> for Balance {
    const NAME: &str = "obv";

    #[inline(always)]
    fn first<N: Number>([_, volume]: [N; 2]) -> N {
        volume
    }

    #[inline(always)]
    fn next<N: Number>([close, volume]: [N; 2], [before, _]: [N; 2]) -> N {
        let nothing = N::all(0.0);
        let fall = before.if_above(close, -volume, nothing);
        close.if_above(before, volume, fall)
    }
}

/// Volume times the relative change of the close.
#[derive(Debug, Clone)]
struct Trend;

impl Term<2> for Trend {
    const NAME: &str = "vpt";

    #[inline(always)]
    fn first<N: Number>(_: [N; 2]) -> N {
        N::all(0.0)
    }

    #[inline(always)]
    fn next<N: Number>([close, volume]: [N; 2], [before, _]: [N; 2]) -> N {
        let term = volume * ((close - before) / before);
        before.if_zero(N::all(0.0), term)
    }
}

/// Volume times the place of the close in its bar of high, low and close.
#[derive(Debug, Clone)]
struct Flow;

impl Term<4> for Flow {
    const NAME: &str = "ad";

    #[inline(always)]
    fn first<N: Number>([high, low, close, volume]: [N; 4]) -> N {
        let range = high - low;
        let term = ((close - low) - (high - close)) / range * volume;
        range.if_above(N::all(0.0), term, N::all(0.0))
    }

    #[inline(always)]
    fn next<N: Number>(x: [N; 4], _: [N; 4]) -> N {
        Self::first(x)
    }
}

/// The sum of all terms so far.
#[derive(Debug, Clone)]
struct Running<T> {
    scan: Decay,
    term: PhantomData<T>,
}

fn running<T: Term<I>, const I: usize>(builder: &mut Builder, inputs: [Series; I]) -> Vec<Series> {
    let kernel = Running {
        scan: Decay::new(1.0),
        term: PhantomData::<T>,
    };
    scan::add(builder, kernel, inputs)
}

impl<T: Term<I>, const I: usize> Kernel<I, 1, 1> for Running<T> {
    fn id(&self) -> Id {
        Id::new(T::NAME, [])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn memory(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn row(&self, [y]: &mut [f64; 1], row: usize, x: [f64; I], before: [f64; I]) -> [f64; 1] {
        let term = if row == 0 {
            T::first(x)
        } else {
            T::next(x, before)
        };
        [self.scan.step(y, term)]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, [y]: &mut [V; 1], x: [V; I], before: [V; I]) -> [V; 1] {
        [self.scan.scan(y, T::next(x, before))]
    }
}

/// The difference of two exponential means of `ad`. It needs no more than what `ad` adds up: see [`Average`].
#[derive(Debug, Clone)]
struct Oscillator {
    periods: [usize; 2],
    fast: Decay,
    slow: Decay,
}

impl Kernel<4, 1, 2> for Oscillator {
    fn id(&self) -> Id {
        Id::new("adosc", self.periods.map(|n| n as u64))
    }

    fn warm_up(&self) -> usize {
        self.periods[0].max(self.periods[1]) - 1
    }

    fn memory(&self) -> Option<usize> {
        let b = self.fast.b.max(self.slow.b);
        Some(self.warm_up() + 1 + settling_rows(b))
    }

    #[inline(always)]
    fn row(&self, carry: &mut [f64; 2], row: usize, x: [f64; 4], _: [f64; 4]) -> [f64; 1] {
        let [fast, slow] = carry;
        if row > 0 {
            let term = Flow::first(x);
            self.fast.step(fast, term);
            self.slow.step(slow, term);
        }
        let y = self.slow.b * *slow - self.fast.b * *fast;
        [if row < self.warm_up() { f64::NAN } else { y }]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, carry: &mut [V; 2], x: [V; 4], _: [V; 4]) -> [V; 1] {
        let [fast, slow] = carry;
        let term = Flow::first(x);
        let fast = self.fast.scan(fast, term);
        let slow = V::all(self.slow.b) * self.slow.scan(slow, term);
        [V::all(-self.fast.b).mul_add(fast, slow)]
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::{
        check::{Golden, values},
        program::Input,
    };

    #[test]
    fn golden_sums() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let bars = &golden.bars;
        let total: f64 = bars.volume.iter().sum();
        for (name, kind, p) in [
            ("obv", "obv", &[][..]),
            ("ad", "ad", &[]),
            ("vpt", "vpt", &[]),
            ("adosc_3_10", "adosc", &[3.0, 10.0]),
        ] {
            golden.assert_is(name, &values(bars, kind, &[], p, ""), total / 1000.0);
        }
        golden.assert_is("efi_13", &values(bars, "efi", &[], &[13.0], ""), 1.0);
    }

    #[test]
    fn a_running_sum_of_whole_numbers_is_exact() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let sums = values(&golden.bars, "cumsum", &[Input::Volume], &[], "");
        let mut plain = 0.0;
        for (sum, volume) in sums.iter().zip(&golden.bars.volume) {
            plain += volume;
            assert_eq!(sum.to_bits(), f64::to_bits(plain));
        }
    }
}
