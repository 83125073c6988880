//! Strength of rises against falls, between fixed ends.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    output, rows_or,
    scan::{self, Decay, Kernel, settling_rows},
    vector::{Number, Vector},
};
use crate::{
    dispatch::dispatched,
    indicators::{
        catalog::{Indicator, Output, Parameter, Unit},
        kernel::{Id, Scratch, Window},
        program::{Builder, Series},
    },
};

const PERIOD: Parameter = rows_or("period", 14.0);
const PERCENT: &[Output] = &[output("", Unit::Percent)];

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "rsi",
        series: &["x"],
        bars: &[],
        parameters: &[PERIOD],
        outputs: PERCENT,
        definition: "`100 * rises / (rises + falls)` of Wilder's means of the rises and falls from row to row, seeded by the \
                     means of the first `period`; 0 where there was no change yet",
        source: "Wilder (1978), New Concepts in Technical Trading Systems; TA-Lib RSI",
        expand: |builder, series, p| vec![rsi(builder, series[0], p[0] as usize)],
    },
    Indicator {
        name: "cmo",
        series: &["x"],
        bars: &[],
        parameters: &[PERIOD],
        outputs: PERCENT,
        definition: "`100 * (rises - falls) / (rises + falls)` of Wilder's means of the rises and falls from row to row, \
                     seeded by the means of the first `period`; 0 where there was no change yet",
        source: "Chande and Kroll (1994), The New Technical Trader; with Wilder's means as TA-Lib CMO",
        expand: |builder, series, p| {
            scan::add(builder, Strength::<true>::new(p[0] as usize), [series[0]])
        },
    },
    Indicator {
        name: "stochrsi",
        series: &["x"],
        bars: &[],
        parameters: &[PERIOD, rows_or("k", 14.0), rows_or("d", 3.0)],
        outputs: &[output("k", Unit::Percent), output("d", Unit::Percent)],
        definition: "the place of `rsi` between its lowest and its highest value of the last `k` rows, in percent, and the mean \
                     of the last `d` of these; 0 where lowest and highest are the same; nothing before the mean is there",
        source: "Chande and Kroll (1994), The New Technical Trader; TA-Lib STOCHRSI",
        expand: |builder, series, p| {
            let rsi = rsi(builder, series[0], p[0] as usize);
            let place = Place {
                n: p[1] as usize,
                mean: p[2] as usize,
            };
            builder.window(place, &[rsi])
        },
    },
];

/// See `rsi` in [`INDICATORS`].
pub(in crate::indicators) fn rsi(builder: &mut Builder, x: Series, period: usize) -> Series {
    scan::add(builder, Strength::<false>::new(period), [x])[0]
}

/// Wilder's means of rises, or of changes if `SIGNED`, over those of their sizes, in percent. Both are carried as sums,
/// `period` times the means, which leaves the quotient as it is.
#[derive(Debug, Clone)]
struct Strength<const SIGNED: bool> {
    period: usize,
    decay: Decay,
}

impl<const SIGNED: bool> Strength<SIGNED> {
    fn new(period: usize) -> Self {
        Self {
            period,
            decay: Decay::new((period as f64 - 1.0) / period as f64),
        }
    }

    #[inline(always)]
    fn part<N: Number>(change: N) -> N {
        if SIGNED {
            change
        } else {
            change.larger(N::all(0.0))
        }
    }
}

/// `100 * part / whole`; 0 where the whole is 0.
#[inline(always)]
pub(super) fn percent<N: Number>(part: N, whole: N) -> N {
    whole.if_zero(N::all(0.0), N::all(100.0) * (part / whole))
}

impl<const SIGNED: bool> Kernel<1, 1, 2> for Strength<SIGNED> {
    fn id(&self) -> Id {
        Id::new(if SIGNED { "cmo" } else { "rsi" }, [self.period as u64])
    }

    fn warm_up(&self) -> usize {
        self.period
    }

    fn memory(&self) -> Option<usize> {
        Some(self.period + 1 + settling_rows(self.decay.b))
    }

    #[inline(always)]
    fn row(&self, carry: &mut [f64; 2], row: usize, [x]: [f64; 1], [before]: [f64; 1]) -> [f64; 1] {
        let [part, whole] = carry;
        if row == 0 {
            return [f64::NAN];
        }
        let change = x - before;
        if row <= self.period {
            *part += Self::part(change);
            *whole += change.abs();
        } else {
            self.decay.step(part, Self::part(change));
            self.decay.step(whole, change.abs());
        }
        if row < self.period {
            return [f64::NAN];
        }
        [percent(*part, *whole)]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, carry: &mut [V; 2], [x]: [V; 1], [before]: [V; 1]) -> [V; 1] {
        let [part, whole] = carry;
        let change = x - before;
        let part = self.decay.scan(part, Self::part(change));
        let whole = self.decay.scan(whole, change.abs());
        [percent(part, whole)]
    }
}

/// The place of a value between the lowest and the highest of `n`, in percent, and its mean over `mean` rows.
#[derive(Debug, Clone)]
struct Place {
    n: usize,
    mean: usize,
}

impl Window for Place {
    fn id(&self) -> Id {
        Id::new("place", [self.n as u64, self.mean as u64])
    }

    fn lookback(&self) -> usize {
        self.n + self.mean - 2
    }

    fn n_outputs(&self) -> usize {
        2
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], scratch: &mut Scratch) {
        let n_rows = inputs[0].len();
        let scratch = scratch.take(4 * n_rows);
        places(self.n, self.mean, inputs[0], outputs, scratch);
    }
}

dispatched! {
    fn places(n: usize, mean: usize, x: &[f64], outputs: &mut [&mut [f64]], scratch: &mut [f64]) {
        let (highest, rest) = scratch.split_at_mut(x.len());
        let (lowest, rest) = rest.split_at_mut(x.len());
        let (earlier_high, earlier_low) = rest.split_at_mut(x.len());
        highest.copy_from_slice(x);
        lowest.copy_from_slice(x);
        // Windows of 1, 2, 4 ... rows, each from two of half the length, the last two overlapping. `first` is the row
        // that the first window ends in.
        let (mut length, mut first) = (1, 0);
        while length < n {
            let step = length.min(n - length);
            first += step;
            earlier_high[..x.len() - first].copy_from_slice(&highest[first - step..x.len() - step]);
            earlier_low[..x.len() - first].copy_from_slice(&lowest[first - step..x.len() - step]);
            for (now, before) in highest[first..].iter_mut().zip(&*earlier_high) {
                *now = if *before > *now || before.is_nan() { *before } else { *now };
            }
            for (now, before) in lowest[first..].iter_mut().zip(&*earlier_low) {
                *now = if *before < *now || before.is_nan() { *before } else { *now };
            }
            length += step;
        }
        let k = &mut earlier_high[..x.len() - first];
        for (((k, x), high), low) in k.iter_mut().zip(&x[first..]).zip(&highest[first..]).zip(&lowest[first..]) {
            *k = percent(x - low, high - low);
        }
        let n_rows = outputs[0].len();

        let [out, d] = outputs else {
            return;
        };
        d.fill(0.0);
        for part in k.windows(n_rows) {
            for (d, k) in d.iter_mut().zip(part) {
                *d += k;
            }
        }
        for ((out, d), k) in out.iter_mut().zip(d.iter_mut()).zip(&k[mean - 1..]) {
            *d /= mean as f64;
            *out = if d.is_nan() { f64::NAN } else { *k };
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::{
        check::{Golden, values},
        program::Input,
    };

    #[test]
    fn golden_oscillators() {
        let Some(golden) = Golden::load() else {
            return;
        };
        for (name, kind, period) in [
            ("rsi_7", "rsi", 7.0),
            ("rsi_14", "rsi", 14.0),
            ("rsi_21", "rsi", 21.0),
            ("cmo_14", "cmo", 14.0),
        ] {
            let values = values(&golden.bars, kind, &[Input::Close], &[period], "");
            golden.assert_is(name, &values, 100.0);
        }
        for output in ["k", "d"] {
            let name = format!("stochrsi_14_14_3_{output}");
            let p = [14.0, 14.0, 3.0];
            let values = values(&golden.bars, "stochrsi", &[Input::Close], &p, output);
            golden.assert_is(&name, &values, 100.0);
        }
    }
}
