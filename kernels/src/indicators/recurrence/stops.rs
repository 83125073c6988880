//! Stops that follow the price and turn when it breaks them.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    factor_or, output, rows_or,
    scan::{self, Kernel},
    vector::Number,
    volatility::atr,
};
use crate::indicators::{
    catalog::{Indicator, Parameter, Range, Unit},
    kernel::Id,
    program::Input,
};

const fn share(name: &'static str, default: f64) -> Parameter {
    Parameter {
        name,
        range: Range::Real(0.0, 1.0),
        default: Some(default),
    }
}

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "sar",
        series: &[],
        bars: &[Input::High, Input::Low],
        parameters: &[share("acceleration", 0.02), share("maximum", 0.2)],
        outputs: &[output("", Unit::Price)],
        definition: "parabolic stop: it moves by a share of its distance to the extreme of the trade, a share that grows by \
                     `acceleration` with each new extreme up to `maximum`, stays outside the last two bars, and turns where a bar \
                     reaches it; the first trade is short if the second bar moved down more than up",
        source: "Wilder (1978), New Concepts in Technical Trading Systems; start as TA-Lib SAR",
        expand: |builder, _, p| {
            let inputs = [Input::High, Input::Low].map(|input| builder.input(input));
            let kernel = Parabolic {
                acceleration: p[0].min(p[1]),
                maximum: p[1],
            };
            scan::add(builder, kernel, inputs)
        },
    },
    Indicator {
        name: "supertrend",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[rows_or("period", 10.0), factor_or("width", 3.0)],
        outputs: &[output("line", Unit::Price), output("direction", Unit::Flag)],
        definition: "a stop `width` times `atr(period)` from the middle of the bar, below the price (direction 1) or above it (-1); \
                     it moves towards the price only, and changes sides when the close goes beyond it; the first side is below",
        source: "Seban; start and ties as TA-Lib SUPERTREND",
        expand: |builder, _, p| {
            let range = atr(builder, p[0] as usize);
            let inputs = [Input::High, Input::Low, Input::Close];
            let [high, low, close] = inputs.map(|input| builder.input(input));
            let kernel = Supertrend { width: p[1] };
            scan::add(builder, kernel, [high, low, close, range])
        },
    },
];

/// The stop of Wilder's parabolic system. Short trades are computed as long ones of the mirrored market, prices negated.
#[derive(Debug, Clone)]
struct Parabolic {
    acceleration: f64,
    maximum: f64,
}

/// High and low of the market, or of its mirror image when `side` is -1.
#[inline(always)]
fn seen_from(side: f64, high: f64, low: f64) -> (f64, f64) {
    if side > 0.0 {
        (high, low)
    } else {
        (-low, -high)
    }
}

#[inline(always)]
fn lower(a: f64, b: f64) -> f64 {
    a.if_above(b, b, a)
}

impl Kernel<2, 1, 4> for Parabolic {
    fn id(&self) -> Id {
        Id::new("sar", [self.acceleration.to_bits(), self.maximum.to_bits()])
    }

    fn warm_up(&self) -> usize {
        1
    }

    /// Trades of an earlier start may turn at other times for ever.
    fn memory(&self) -> Option<usize> {
        None
    }

    fn n_seeds(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn row(
        &self,
        carry: &mut [f64; 4],
        row: usize,
        [high, low]: [f64; 2],
        [mut high_before, mut low_before]: [f64; 2],
    ) -> [f64; 1] {
        let [side, stop, extreme, factor] = carry;
        if row == 0 {
            return [f64::NAN];
        }
        if row == 1 {
            let (up, down) = (high - high_before, low_before - low);
            *side = if down > 0.0 && down > up { -1.0 } else { 1.0 };
            *factor = self.acceleration;
            *stop = seen_from(*side, high_before, low_before).1;
            *extreme = seen_from(*side, high, low).0;
            (high_before, low_before) = (high, low);
        }
        let (mut highest, mut low) = seen_from(*side, high, low);
        let (high_before, mut low_before) = seen_from(*side, high_before, low_before);
        if low <= *stop {
            *side = -*side;
            (highest, low, low_before) = (-low, -highest, -high_before);
            *stop = lower(-*extreme, lower(low_before, low));
            *extreme = highest;
            *factor = self.acceleration;
        }
        // Without branches: which bars make a new extreme cannot be foreseen.
        let larger = (*factor + self.acceleration).min(self.maximum);
        *factor = highest.if_above(*extreme, larger, *factor);
        *extreme = highest.larger(*extreme);
        let out = *side * *stop;
        let next = factor.mul_add(*extreme - *stop, *stop);
        *stop = lower(next, lower(low_before, low));
        [out]
    }
}

/// A stop at a multiple of the average true range, of high, low, close and that range.
#[derive(Debug, Clone)]
struct Supertrend {
    width: f64,
}

impl Kernel<4, 2, 3> for Supertrend {
    fn id(&self) -> Id {
        Id::new("supertrend", [self.width.to_bits()])
    }

    fn warm_up(&self) -> usize {
        0
    }

    /// A stop of an earlier start may stay for ever.
    fn memory(&self) -> Option<usize> {
        None
    }

    fn n_seeds(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn row(
        &self,
        carry: &mut [f64; 3],
        row: usize,
        [high, low, close, range]: [f64; 4],
        [_, _, close_before, _]: [f64; 4],
    ) -> [f64; 2] {
        let [upper, lower, side] = carry;
        let middle = 0.5 * (high + low);
        let above = self.width.mul_add(range, middle);
        let below = (-self.width).mul_add(range, middle);
        if row == 0 {
            (*upper, *lower, *side) = (above, below, 1.0);
        } else {
            let beyond = close_before.if_above(*upper, above, *upper);
            *upper = upper.if_above(above, above, beyond);
            let beyond = lower.if_above(close_before, below, *lower);
            *lower = below.if_above(*lower, below, beyond);
            let stays = lower.if_above(close, -1.0, 1.0);
            let turns = close.if_above(*upper, 1.0, -1.0);
            *side = side.if_above(0.0, stays, turns);
        }
        [if *side > 0.0 { *lower } else { *upper }, *side]
    }
}

#[cfg(test)]
mod tests {
    use crate::indicators::check::{Golden, values};

    #[test]
    fn golden_stops() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let sar = values(&golden.bars, "sar", &[], &[0.02, 0.2], "");
        golden.assert_is("sar_002_02", &sar, 1.0);
        let p = [10.0, 3.0];
        let direction = values(&golden.bars, "supertrend", &[], &p, "direction");
        golden.assert_is("supertrend_10_3_dir", &direction, 0.0);
        let line = values(&golden.bars, "supertrend", &[], &p, "line");
        golden.assert_is("supertrend_10_3", &line, 1.0);
    }
}
