//! Directional movement: which way the ranges of bars move, and how clearly.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    averages::rma,
    oscillators::percent,
    output,
    rows::Rows,
    rows_or,
    scan::{self, Decay, Kernel, settling_rows},
    vector::{Number, Vector},
    volatility::true_range_of,
};
use crate::{
    dispatch::dispatched,
    indicators::{
        catalog::{Indicator, Output, Parameter, Unit},
        kernel::Id,
        program::{Builder, Input, Series},
    },
};

const PERIOD: Parameter = rows_or("period", 14.0);
const RANGE: &[Input] = &[Input::High, Input::Low, Input::Close];
const PERCENT: &[Output] = &[output("", Unit::Percent)];
const WILDER: &str = "Wilder (1978), New Concepts in Technical Trading Systems; seeds as TA-Lib";

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "di",
        series: &[],
        bars: RANGE,
        parameters: &[PERIOD],
        outputs: &[
            output("plus", Unit::Percent),
            output("minus", Unit::Percent),
        ],
        definition: "Wilder's sums, `s += x - s / period`, of the movement of highs upward and of lows downward, where it is the \
                     larger of the two, in percent of that of true ranges; seeded by `period - 1` bars; 0 where no bar had a range",
        source: WILDER,
        expand: |builder, _, p| direction(builder, p)[..2].to_vec(),
    },
    Indicator {
        name: "dx",
        series: &[],
        bars: RANGE,
        parameters: &[PERIOD],
        outputs: PERCENT,
        definition: "`100 * |plus - minus| / (plus + minus)` of the two of `di`; 0 where nothing moved",
        source: WILDER,
        expand: |builder, _, p| vec![direction(builder, p)[2]],
    },
    Indicator {
        name: "adx",
        series: &[],
        bars: RANGE,
        parameters: &[PERIOD],
        outputs: PERCENT,
        definition: "Wilder's mean of `dx`, seeded by the mean of its first `period` values",
        source: WILDER,
        expand: |builder, _, p| vec![adx(builder, p)],
    },
    Indicator {
        name: "adxr",
        series: &[],
        bars: RANGE,
        parameters: &[PERIOD],
        outputs: PERCENT,
        definition: "mean of `adx` now and `period - 1` bars ago",
        source: WILDER,
        expand: |builder, _, p| {
            let adx = adx(builder, p);
            let rows = Rows {
                name: "mean of two",
                lookback: p[0] as usize - 1,
                n_outputs: 1,
                parameters: Vec::new(),
                function: means_of_two,
            };
            builder.window(rows, &[adx])
        },
    },
];

fn direction(builder: &mut Builder, p: &[f64]) -> Vec<Series> {
    let inputs = [Input::High, Input::Low, Input::Close].map(|input| builder.input(input));
    let period = p[0] as usize;
    let kernel = Direction {
        period,
        decay: Decay::new((period as f64 - 1.0) / period as f64),
    };
    scan::add(builder, kernel, inputs)
}

fn adx(builder: &mut Builder, p: &[f64]) -> Series {
    let dx = direction(builder, p)[2];
    rma(builder, dx, p[0] as usize)
}

dispatched! {
    fn means_of_two(_parameters: &[f64], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let out = &mut *outputs[0];
        let now = &inputs[0][inputs[0].len() - out.len()..];
        for ((out, now), before) in out.iter_mut().zip(now).zip(inputs[0]) {
            *out = 0.5 * (now + before);
        }
    }
}

/// +DI, -DI and DX of high, low and close.
#[derive(Debug, Clone)]
struct Direction {
    period: usize,
    decay: Decay,
}

/// Movement up, movement down and true range of a bar after another, both of high, low and close.
#[inline(always)]
fn movement<N: Number>(x: [N; 3], before: [N; 3]) -> [N; 3] {
    let nothing = N::all(0.0);
    let ([high, low, _], [high_before, low_before, _]) = (x, before);
    let (up, down) = (high - high_before, low_before - low);
    let plus = up.if_above(down, up.larger(nothing), nothing);
    let minus = down.if_above(up, down.larger(nothing), nothing);
    [plus, minus, true_range_of(x, before)]
}

/// +DI, -DI and DX of the sums.
#[inline(always)]
fn shares<N: Number>(plus: N, minus: N, range: N) -> [N; 3] {
    let difference = (plus - minus).abs();
    [
        percent(plus, range),
        percent(minus, range),
        percent(difference, plus + minus),
    ]
}

impl Kernel<3, 3, 3> for Direction {
    fn id(&self) -> Id {
        Id::new("direction", [self.period as u64])
    }

    fn warm_up(&self) -> usize {
        self.period
    }

    fn memory(&self) -> Option<usize> {
        Some(self.period + 1 + settling_rows(self.decay.b))
    }

    #[inline(always)]
    fn row(&self, sums: &mut [f64; 3], row: usize, x: [f64; 3], before: [f64; 3]) -> [f64; 3] {
        if row == 0 {
            return [f64::NAN; 3];
        }
        let movement = movement(x, before);
        for (sum, x) in sums.iter_mut().zip(movement) {
            if row < self.period {
                *sum += x;
            } else {
                self.decay.step(sum, x);
            }
        }
        if row < self.period {
            return [f64::NAN; 3];
        }
        shares(sums[0], sums[1], sums[2])
    }

    #[inline(always)]
    fn group<V: Vector>(&self, sums: &mut [V; 3], x: [V; 3], before: [V; 3]) -> [V; 3] {
        let [plus, minus, range] = movement(x, before);
        let plus = self.decay.scan(&mut sums[0], plus);
        let minus = self.decay.scan(&mut sums[1], minus);
        let range = self.decay.scan(&mut sums[2], range);
        shares(plus, minus, range)
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::check::{Golden, values};

    #[test]
    fn golden_direction() {
        let Some(golden) = Golden::load() else {
            return;
        };
        for (name, kind, output) in [
            ("plus_di_14", "di", "plus"),
            ("minus_di_14", "di", "minus"),
            ("dx_14", "dx", ""),
            ("adx_14", "adx", ""),
            ("adxr_14", "adxr", ""),
        ] {
            golden.assert_is(
                name,
                &values(&golden.bars, kind, &[], &[14.0], output),
                100.0,
            );
        }
    }
}
