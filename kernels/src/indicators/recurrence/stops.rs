//! Stops that follow the price and turn when it breaks them.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    factor_or, output, rows_or,
    scan::{self, Kernel},
    vector::{LANES, Lanes, Number, Vector},
    volatility::{BARS, RangeMean},
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
            let inputs = BARS.map(|input| builder.input(input));
            let kernel = Supertrend {
                range: RangeMean::new(p[0] as usize),
                width: p[1],
                nothing: std::hint::black_box([f64::INFINITY; LANES]),
            };
            scan::add(builder, kernel, inputs)
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

/// A stop at a multiple of the average true range, of high, low and close.
#[derive(Debug, Clone)]
struct Supertrend {
    range: RangeMean,
    width: f64,
    /// More than any band, unknown to the compiler: see [`scan::Decay`]'s zeros.
    nothing: Lanes,
}

/// The lanes' own numbers.
const PLACES: Lanes = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];

impl Supertrend {
    /// The bands of a bar above and below it.
    #[inline(always)]
    fn bands<N: Number>(&self, [high, low, _]: [N; 3], range: N) -> [N; 2] {
        let middle = N::all(0.5) * (high + low);
        [self.width, -self.width].map(|width| N::all(width).mul_add(range, middle))
    }

    /// The upper band after each row, which stood at `start`: the bands of the rows so far at their least, and beginning
    /// anew after each close above it. The lower band is the upper one of negated prices.
    #[inline(always)]
    fn band<V: Vector>(&self, above: V, close_before: V, start: V) -> V {
        let nothing = V::load(&self.nothing);
        let places = V::load(&PLACES);
        let mut band = least(above, nothing).smaller(start);
        let mut closes = close_before;
        // Few groups have a break, and more than one hardly any.
        while let Some(broken) = closes.first_above(band.shifted::<1>(start)) {
            let last_kept = V::all(broken as f64 - 0.5);
            let anew = least(places.if_above(last_kept, above, nothing), nothing);
            band = places.if_above(last_kept, anew, band);
            closes = places.if_above(V::all(broken as f64), close_before, -nothing);
        }
        band
    }
}

/// The least of the rows so far; `nothing` is larger than any.
#[inline(always)]
fn least<V: Vector>(x: V, nothing: V) -> V {
    let two = x.smaller(x.shifted::<1>(nothing));
    let four = two.smaller(two.shifted::<2>(nothing));
    four.smaller(four.shifted::<4>(nothing))
}

impl Kernel<3, 2, 4> for Supertrend {
    fn id(&self) -> Id {
        let words = [self.range.period as u64, self.width.to_bits()];
        Id::new("supertrend", words)
    }

    fn warm_up(&self) -> usize {
        self.range.period
    }

    /// A stop of an earlier start may stay for ever.
    fn memory(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn row(&self, carry: &mut [f64; 4], row: usize, x: [f64; 3], before: [f64; 3]) -> [f64; 2] {
        let [mean, upper, lower, side] = carry;
        let range = self.range.row(mean, row, x, before);
        if row < self.range.period {
            return [f64::NAN; 2];
        }
        let ([_, _, close], [_, _, close_before]) = (x, before);
        let [above, below] = self.bands(x, range);
        if row == self.range.period {
            (*upper, *lower, *side) = (above, below, 1.0);
        } else {
            let is_broken = close_before > *upper;
            *upper = if is_broken {
                above
            } else {
                above.smaller(*upper)
            };
            let is_broken = *lower > close_before;
            *lower = if is_broken {
                below
            } else {
                below.larger(*lower)
            };
            let stays = lower.if_above(close, -1.0, 1.0);
            let turns = close.if_above(*upper, 1.0, -1.0);
            *side = side.if_above(0.0, stays, turns);
        }
        [if *side > 0.0 { *lower } else { *upper }, *side]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, carry: &mut [V; 4], x: [V; 3], before: [V; 3]) -> [V; 2] {
        let [mean, upper, lower, side] = carry;
        let range = self.range.group(mean, x, before);
        let ([_, _, close], [_, _, close_before]) = (x, before);
        let [above, below] = self.bands(x, range);
        let above = self.band(above, close_before, *upper);
        let below = -self.band(-below, -close_before, -*lower);
        (*upper, *lower) = (above.last(), below.last());

        let places = V::load(&PLACES);
        let mut sides = *side;
        let (mut is_long, mut from) = (side.first() > 0.0, V::all(-1.0));
        let nothing = V::load(&self.nothing);
        loop {
            let (high, low) = if is_long {
                (below, close)
            } else {
                (close, above)
            };
            let turned = places.if_above(from, high, -nothing).first_above(low);
            let Some(turned) = turned else { break };
            is_long = !is_long;
            from = V::all(turned as f64);
            let now = V::all(if is_long { 1.0 } else { -1.0 });
            sides = places.if_above(from - V::all(0.5), now, sides);
        }
        *side = sides.last();
        [sides.if_above(V::all(0.0), below, above), sides]
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
