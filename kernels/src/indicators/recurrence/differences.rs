//! Differences of two exponential means.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    output, rows_or,
    scan::{self, Average, Kernel, settling_rows, settling_rows_of_cascade},
    vector::Vector,
};
use crate::indicators::{
    catalog::{Indicator, Output, Parameter, Unit},
    kernel::Id,
    program::{Builder, Series},
};

const MACD_OUTPUTS: &[Output] = &[
    output("line", Unit::OfSeries),
    output("signal", Unit::OfSeries),
    output("hist", Unit::OfSeries),
];

const FAST: Parameter = rows_or("fast", 12.0);
const SLOW: Parameter = rows_or("slow", 26.0);
const SIGNAL: Parameter = rows_or("signal", 9.0);

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "macd",
        series: &["x"],
        bars: &[],
        parameters: &[FAST, SLOW, SIGNAL],
        outputs: MACD_OUTPUTS,
        definition: "exponential mean of `fast` rows less that of `slow` rows, its own exponential mean, and line less signal; \
                     both means have the same seed row, and nothing is there before the signal",
        source: "Appel (1979); seeds as TA-Lib MACD",
        expand: |builder, series, p| macd(builder, series[0], p, false),
    },
    Indicator {
        name: "macd0",
        series: &["x"],
        bars: &[],
        parameters: &[FAST, SLOW, SIGNAL],
        outputs: MACD_OUTPUTS,
        definition: "as `macd`, with all three means seeded by their first value",
        source: "Appel (1979); pandas ewm(adjust=False)",
        expand: |builder, series, p| macd(builder, series[0], p, true),
    },
    Indicator {
        name: "apo",
        series: &["x"],
        bars: &[],
        parameters: &[FAST, SLOW],
        outputs: &[output("", Unit::OfSeries)],
        definition: "exponential mean of `fast` rows less that of `slow` rows, each seeded by the mean of its first rows",
        source: "TA-Lib APO with exponential means",
        expand: |builder, series, p| spread::<false>(builder, series[0], p),
    },
    Indicator {
        name: "ppo",
        series: &["x"],
        bars: &[],
        parameters: &[FAST, SLOW],
        outputs: &[output("", Unit::Percent)],
        definition: "exponential mean of `fast` rows less that of `slow` rows, in percent of the latter, each seeded by the mean \
                     of its first rows",
        source: "TA-Lib PPO with exponential means",
        expand: |builder, series, p| spread::<true>(builder, series[0], p),
    },
];

/// The periods, the fast one first, as TA-Lib does.
fn ordered(p: &[f64]) -> (usize, usize) {
    let (fast, slow) = (p[0] as usize, p[1] as usize);
    (fast.min(slow), fast.max(slow))
}

fn macd(builder: &mut Builder, x: Series, p: &[f64], is_from_first: bool) -> Vec<Series> {
    let ((fast, slow), signal) = (ordered(p), p[2] as usize);
    let periods = [fast, slow, signal].map(|n| n as u64);
    let kernel = if is_from_first {
        Macd {
            id: Id::new("macd0", periods),
            fast: Average::exponential(fast, 0).seeded_by_one(),
            slow: Average::exponential(slow, 0).seeded_by_one(),
            signal: Average::exponential(signal, 0).seeded_by_one(),
        }
    } else {
        Macd {
            id: Id::new("macd", periods),
            fast: Average::exponential(fast, slow - fast),
            slow: Average::exponential(slow, 0),
            signal: Average::exponential(signal, slow - 1),
        }
    };
    scan::add(builder, kernel, [x])
}

fn spread<const RELATIVE: bool>(builder: &mut Builder, x: Series, p: &[f64]) -> Vec<Series> {
    let (fast, slow) = ordered(p);
    let kernel = Spread::<RELATIVE> {
        periods: [fast, slow],
        fast: Average::exponential(fast, 0),
        slow: Average::exponential(slow, 0),
    };
    scan::add(builder, kernel, [x])
}

/// The difference of two means, and a mean of it.
#[derive(Debug, Clone)]
struct Macd {
    id: Id,
    fast: Average,
    slow: Average,
    signal: Average,
}

impl Kernel<1, 3, 7> for Macd {
    fn id(&self) -> Id {
        self.id.clone()
    }

    fn warm_up(&self) -> usize {
        self.signal.seed_row()
    }

    fn memory(&self) -> Option<usize> {
        let b = self.slow.decay.b.max(self.signal.decay.b);
        Some(self.signal.seed_row() + 1 + settling_rows_of_cascade(b, 2))
    }

    #[inline(always)]
    fn row(&self, carry: &mut [f64; 7], row: usize, [x]: [f64; 1], [before]: [f64; 1]) -> [f64; 3] {
        let [
            s_fast,
            s_slow,
            s_signal,
            sum_fast,
            sum_slow,
            sum_signal,
            origin,
        ] = carry;
        if row == 0 {
            *origin = x;
        }
        let (distance, change) = (x - *origin, x - before);
        let fast = self.fast.row(s_fast, sum_fast, row, distance, change);
        let slow = self.slow.row(s_slow, sum_slow, row, distance, change);
        let (Some(fast), Some(slow)) = (fast, slow) else {
            return [f64::NAN; 3];
        };
        let line = fast - slow;
        let change = self.fast.a * *s_fast - self.slow.a * *s_slow;
        let signal = self.signal.row(s_signal, sum_signal, row, line, change);
        match signal {
            Some(distance) => [line, line + distance, -distance],
            None => [f64::NAN; 3],
        }
    }

    #[inline(always)]
    fn group<V: Vector>(&self, carry: &mut [V; 7], [x]: [V; 1], [before]: [V; 1]) -> [V; 3] {
        let [s_fast, s_slow, s_signal, ..] = carry;
        let change = x - before;
        let fast = self.fast.decay.scan(s_fast, change);
        let slow = self.slow.decay.scan(s_slow, change);
        let line = V::all(self.slow.decay.b) * slow;
        let line = V::all(-self.fast.decay.b).mul_add(fast, line);
        let change = V::all(self.fast.a) * fast;
        let change = V::all(-self.slow.a).mul_add(slow, change);
        let signal = self.signal.decay.scan(s_signal, change);
        let histogram = V::all(self.signal.decay.b) * signal;
        [line, line - histogram, histogram]
    }
}

/// The difference of two means; in percent of the slow one if `RELATIVE`.
#[derive(Debug, Clone)]
struct Spread<const RELATIVE: bool> {
    periods: [usize; 2],
    fast: Average,
    slow: Average,
}

impl<const RELATIVE: bool> Kernel<1, 1, 5> for Spread<RELATIVE> {
    fn id(&self) -> Id {
        let name = if RELATIVE { "ppo" } else { "apo" };
        Id::new(name, self.periods.map(|n| n as u64))
    }

    fn warm_up(&self) -> usize {
        self.slow.seed_row()
    }

    fn memory(&self) -> Option<usize> {
        Some(self.slow.seed_row() + 1 + settling_rows(self.slow.decay.b))
    }

    #[inline(always)]
    fn row(&self, carry: &mut [f64; 5], row: usize, [x]: [f64; 1], [before]: [f64; 1]) -> [f64; 1] {
        let [s_fast, s_slow, sum_fast, sum_slow, origin] = carry;
        if row == 0 {
            *origin = x;
        }
        let (distance, change) = (x - *origin, x - before);
        let fast = self.fast.row(s_fast, sum_fast, row, distance, change);
        let slow = self.slow.row(s_slow, sum_slow, row, distance, change);
        let (Some(fast), Some(slow)) = (fast, slow) else {
            return [f64::NAN];
        };
        let line = fast - slow;
        [if RELATIVE {
            100.0 * (line / (x + slow))
        } else {
            line
        }]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, carry: &mut [V; 5], [x]: [V; 1], [before]: [V; 1]) -> [V; 1] {
        let [s_fast, s_slow, ..] = carry;
        let change = x - before;
        let fast = self.fast.decay.scan(s_fast, change);
        let slow = self.slow.decay.scan(s_slow, change);
        let slow = V::all(self.slow.decay.b) * slow;
        let line = V::all(-self.fast.decay.b).mul_add(fast, slow);
        [if RELATIVE {
            V::all(100.0) * (line / (x - slow))
        } else {
            line
        }]
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::{
        check::{Golden, values},
        program::Input,
    };

    const CLOSE: &[Input] = &[Input::Close];

    #[test]
    fn golden_differences() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let periods = [12.0, 26.0, 9.0];
        for kind in ["macd", "macd0"] {
            for output in ["line", "signal", "hist"] {
                let name = format!("{kind}_12_26_9_{output}");
                golden.assert_is(
                    &name,
                    &values(&golden.bars, kind, CLOSE, &periods, output),
                    1.0,
                );
            }
        }
        golden.assert_is(
            "ppo_12_26",
            &values(&golden.bars, "ppo", CLOSE, &periods[..2], ""),
            1.0,
        );
    }

    #[test]
    fn a_difference_keeps_its_digits_far_from_zero() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let mut bars = golden.bars.clone();
        // Steps of 2^-20 on both sides, so that the prices themselves lose nothing.
        let rounded = |x: f64| (x * 1_048_576.0).round() / 1_048_576.0;
        bars.close.iter_mut().for_each(|x| *x = rounded(*x));
        let mut far = bars.clone();
        far.close.iter_mut().for_each(|x| *x += 1_048_576.0);
        for (kind, output, p) in [
            ("macd", "hist", &[12.0, 26.0, 9.0][..]),
            ("macd0", "signal", &[12.0, 26.0, 9.0]),
            ("apo", "", &[12.0, 26.0]),
        ] {
            let near = values(&bars, kind, CLOSE, p, output);
            let far = values(&far, kind, CLOSE, p, output);
            for (a, b) in near.iter().zip(&far) {
                assert_eq!(a.to_bits(), b.to_bits(), "{kind}");
            }
        }
    }
}
