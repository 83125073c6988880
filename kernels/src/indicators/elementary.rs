//! Elementary functions that become vector code: no branch, no call.
//!
//! `ln` and `exp` are the algorithms of FreeBSD's `e_log.c` and `e_exp.c` (Sun Microsystems, 1993), which [`math`]
//! computes too, with selects in the place of branches. Every operation is the same, none is fused, so the bits are those of
//! `math`, at any vector width. `sin` and `cos` reduce their argument as `e_rem_pio2.c` does for arguments of middling size.
//!
//! The functions of one number are for the bodies of dispatched loops; those of slices are such loops.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]
#![allow(
    clippy::excessive_precision,
    clippy::many_single_char_names,
    reason = "as published"
)]

use crate::{dispatch::dispatched, math};

const LN_2_HIGH: f64 = 6.931_471_803_691_238_164_90e-01;
const LN_2_LOW: f64 = 1.908_214_929_270_587_700_02e-10;
/// 2^52: added to a whole number below it, the number lies in the low bits.
const WHOLE: f64 = 4_503_599_627_370_496.0;
/// 1.5 * 2^52: the same for numbers of either sign; adding and subtracting it rounds to the nearest whole number.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Natural logarithm within one unit in the last place, the bits of [`math::ln`]; NaN for zero and below.
#[inline(always)]
pub fn ln(x: f64) -> f64 {
    /// Bits of sqrt(2) / 2, without the lower half.
    const HALF_ROOT: u64 = 0x3fe6_a09e_0000_0000;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    const FRACTION: u64 = 0x000f_ffff_ffff_ffff;
    const TWO_54: f64 = 18_014_398_509_481_984.0;

    let is_subnormal = x < f64::MIN_POSITIVE;
    let normal = if is_subnormal { x * TWO_54 } else { x };
    let bias = if is_subnormal { 1023.0 + 54.0 } else { 1023.0 };
    // x = 2^k * m with m from sqrt(2) / 2 to sqrt(2).
    let shifted = normal.to_bits().wrapping_add(ONE - HALF_ROOT);
    let k = f64::from_bits((shifted >> 52) | WHOLE.to_bits()) - (WHOLE + bias);
    let m = f64::from_bits((shifted & FRACTION) + HALF_ROOT);

    let f = m - 1.0;
    let half_square = 0.5 * f * f;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let even = w
        * (3.999_999_999_940_941_908e-01
            + w * (2.222_219_843_214_978_396e-01 + w * 1.531_383_769_920_937_332e-01));
    let odd = z
        * (6.666_666_666_666_735_130e-01
            + w * (2.857_142_874_366_239_149e-01
                + w * (1.818_357_216_161_805_012e-01 + w * 1.479_819_860_511_658_591e-01)));
    let y = s * (half_square + (odd + even)) + k * LN_2_LOW - half_square + f + k * LN_2_HIGH;

    // Infinity and NaN are their own logarithms.
    let y = if x < f64::INFINITY { y } else { x };
    if x <= 0.0 { f64::NAN } else { y }
}

/// Natural logarithm of a number above zero that is neither subnormal nor infinite, within 2e-15 plus 2e-15 of its size:
/// half the work of [`ln`], for sums of many. NaN for NaN, zero and below.
#[inline(always)]
pub fn ln_rough(x: f64) -> f64 {
    const HALF_ROOT: u64 = 0x3fe6_a09e_0000_0000;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    const FRACTION: u64 = 0x000f_ffff_ffff_ffff;

    let shifted = x.to_bits().wrapping_add(ONE - HALF_ROOT);
    let k = f64::from_bits((shifted >> 52) | WHOLE.to_bits()) - (WHOLE + 1023.0);
    let m = f64::from_bits((shifted & FRACTION) + HALF_ROOT);
    // The coefficients of `ln`, of which those of the highest powers matter least.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = 1.479_819_860_511_658_591e-01_f64;
    let p = p.mul_add(z, 1.531_383_769_920_937_332e-01);
    let p = p.mul_add(z, 1.818_357_216_161_805_012e-01);
    let p = p.mul_add(z, 2.222_219_843_214_978_396e-01);
    let p = p.mul_add(z, 2.857_142_874_366_239_149e-01);
    let p = p.mul_add(z, 3.999_999_999_940_941_908e-01);
    let p = p.mul_add(z, 6.666_666_666_666_735_130e-01);
    let y = k.mul_add(std::f64::consts::LN_2, (p * z).mul_add(s, 2.0 * s));
    if x > 0.0 { y } else { f64::NAN }
}

/// `e^x` within one unit in the last place, the bits of [`math::exp`].
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    /// The least number above ln(2) / 2, and above 3 ln(2) / 2, whose lower half is zero.
    const HALF: f64 = f64::from_bits(0x3fd6_2e43_0000_0000);
    const THREE_HALVES: f64 = f64::from_bits(0x3ff0_a2b2_0000_0000);
    /// The largest number below which 1 + x is as good.
    const SMALL: f64 = f64::from_bits(0x3e30_0001_0000_0000);

    let size = x.abs();
    // Beyond these ends the result is 0 or infinite, and the powers below would wrap around.
    let x_inside = if x < -746.0 { -746.0 } else { x };
    let x_inside = if x_inside > 710.0 { 710.0 } else { x_inside };
    let half = if x < 0.0 { -0.5 } else { 0.5 };
    let k = (std::f64::consts::LOG2_E * x_inside + half).trunc();
    let k = if size < THREE_HALVES { 2.0 * half } else { k };
    let k = if size < HALF { 0.0 } else { k };

    let high = x_inside - k * LN_2_HIGH;
    let low = k * LN_2_LOW;
    let r = high - low;
    let square = r * r;
    let c = r - square
        * (1.666_666_666_666_660_190_37e-01
            + square
                * (-2.777_777_777_701_559_338_42e-03
                    + square
                        * (6.613_756_321_437_934_361_17e-05
                            + square
                                * (-1.653_390_220_546_525_153_90e-06
                                    + square * 4.138_136_797_057_238_460_39e-08))));
    let y = 1.0 + (r * c / (2.0 - c) - low + high);

    // Two powers of two, so that only the last product rounds, and neither leaves the exponents.
    let whole = (k + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i64;
    let first = whole >> 1;
    let second = whole - first;
    let y = y
        * f64::from_bits(((first + 1023) as u64) << 52)
        * f64::from_bits(((second + 1023) as u64) << 52);

    let y = if size < SMALL { 1.0 + x } else { y };
    if x.is_nan() { x } else { y }
}

/// The largest angle that [`sin_cos`] reduces.
const WIDEST: f64 = 1_647_099.0;

/// Sine and cosine of an angle of at most [`WIDEST`] in size.
#[inline(always)]
fn sin_cos(x: f64) -> (f64, f64) {
    const HALF_PI_1: f64 = 1.570_796_326_734_125_614_17e+00;
    const HALF_PI_2: f64 = 6.077_100_506_303_965_976_60e-11;
    const HALF_PI_3: f64 = 2.022_266_248_711_166_455_80e-21;
    const HALF_PI_3_REST: f64 = 8.478_427_660_368_899_569_97e-32;

    let turned = x * std::f64::consts::FRAC_2_PI + ROUND;
    let n = turned - ROUND;
    // Three rounds of 33 bits each, always: the products with `n` are exact.
    let a = x - n * HALF_PI_1;
    let w = n * HALF_PI_2;
    let b = a - w;
    let lost = (a - b) - w;
    let w = n * HALF_PI_3;
    let c = b - w;
    let lost = ((b - c) - w) + lost - n * HALF_PI_3_REST;
    let high = c + lost;
    let low = (c - high) + lost;

    let z = high * high;
    let w = z * z;
    let r = 8.333_333_333_322_489_461_24e-03
        + z * (-1.984_126_982_985_794_931_34e-04 + z * 2.755_731_370_707_006_767_89e-06)
        + z * w * (-2.505_076_025_340_686_341_95e-08 + z * 1.589_690_995_211_550_102_21e-10);
    let v = z * high;
    let sine = high - ((z * (0.5 * low - v * r) - low) - v * -1.666_666_666_666_663_243_48e-01);

    let r = z
        * (4.166_666_666_666_660_190_37e-02
            + z * (-1.388_888_888_887_410_957_49e-03 + z * 2.480_158_728_947_672_941_78e-05))
        + w * w
            * (-2.755_731_435_139_066_330_35e-07
                + z * (2.087_572_321_298_174_827_90e-09 + z * -1.135_964_755_778_819_482_65e-11));
    let half = 0.5 * z;
    let rest = 1.0 - half;
    let cosine = rest + (((1.0 - rest) - half) + (z * r - high * low));

    let quadrant = turned.to_bits();
    let is_odd = quadrant & 1 != 0;
    let (s, c) = (
        if is_odd { cosine } else { sine },
        if is_odd { sine } else { cosine },
    );
    let is_sine_turned = quadrant & 2 != 0;
    let is_cosine_turned = quadrant.wrapping_add(1) & 2 != 0;
    (
        if is_sine_turned { -s } else { s },
        if is_cosine_turned { -c } else { c },
    )
}

dispatched! {
    /// [`ln`] of each number.
    pub fn ln_all(x: &[f64], out: &mut [f64]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = ln(*x);
        }
    }

    /// [`exp`] of each number.
    pub fn exp_all(x: &[f64], out: &mut [f64]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = exp(*x);
        }
    }

    fn sin_narrow(x: &[f64], out: &mut [f64]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = sin_cos(*x).0;
        }
    }

    fn cos_narrow(x: &[f64], out: &mut [f64]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = sin_cos(*x).1;
        }
    }
}

/// Sine of each angle in radians, within one unit in the last place.
pub fn sin_all(x: &[f64], out: &mut [f64]) {
    sin_narrow(x, out);
    replace_wide(x, out, math::sin);
}

/// Cosine of each angle in radians, within one unit in the last place.
pub fn cos_all(x: &[f64], out: &mut [f64]) {
    cos_narrow(x, out);
    replace_wide(x, out, math::cos);
}

/// Takes `f` for the angles that are too wide for [`sin_cos`].
fn replace_wide(x: &[f64], out: &mut [f64], f: fn(f64) -> f64) {
    for (out, x) in out.iter_mut().zip(x) {
        if x.abs() > WIDEST {
            *out = f(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of every exponent and sign, from a xorshift.
    fn any_bits(n: usize) -> impl Iterator<Item = f64> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f64::from_bits(state)
        })
        .take(n)
    }

    /// Numbers from `from` to `to`, evenly.
    fn grid(from: f64, to: f64, n: usize) -> impl Iterator<Item = f64> {
        (0..n).map(move |i| from + (to - from) * (i as f64 / n as f64))
    }

    fn assert_same_bits(x: &[f64], all: fn(&[f64], &mut [f64]), one: fn(f64) -> f64) {
        let mut out = vec![0.0; x.len()];
        all(x, &mut out);
        for (x, y) in x.iter().zip(&out) {
            let expected = one(*x);
            assert!(
                y.to_bits() == expected.to_bits() || (y.is_nan() && expected.is_nan()),
                "{x:e}: {y:e} against {expected:e}"
            );
        }
    }

    fn positive_ln(x: f64) -> f64 {
        if x <= 0.0 { f64::NAN } else { math::ln(x) }
    }

    const EDGES: [f64; 14] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f64::MIN_POSITIVE,
        f64::MIN_POSITIVE / 2.0,
        5e-324,
        -5e-324,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::EPSILON,
    ];

    #[test]
    fn ln_has_the_bits_of_the_scalar_one() {
        let x = EDGES
            .into_iter()
            .chain(any_bits(2_000_000))
            .chain(any_bits(1_000_000).map(f64::abs))
            .chain(grid(0.5, 2.0, 2_000_000))
            .chain(grid(0.0, 1e-307, 100_000));

        assert_same_bits(&x.collect::<Vec<_>>(), ln_all, positive_ln);
        assert_eq!(ln(1.0).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn the_rough_logarithm_is_close() {
        let normal = |x: &f64| x.is_normal() && *x > 0.0;
        for x in any_bits(1_000_000)
            .map(f64::abs)
            .filter(normal)
            .chain(grid(0.5, 2.0, 1_000_000))
        {
            let expected = math::ln(x);
            let error = (ln_rough(x) - expected).abs();
            assert!(error <= 2e-15 + 2e-15 * expected.abs(), "{x:e}: {error:e}");
        }
        assert!(
            [f64::NAN, 0.0, -0.0, -1.0, f64::NEG_INFINITY]
                .iter()
                .all(|x| ln_rough(*x).is_nan())
        );
    }

    #[test]
    fn exp_has_the_bits_of_the_scalar_one() {
        let x = EDGES
            .into_iter()
            .chain(any_bits(1_000_000))
            .chain(grid(-760.0, 760.0, 2_000_000))
            .chain(grid(-1.5, 1.5, 1_000_000))
            .chain(grid(-1e-8, 1e-8, 100_000));

        assert_same_bits(&x.collect::<Vec<_>>(), exp_all, math::exp);
    }

    #[test]
    fn sine_and_cosine_are_within_one_unit_in_the_last_place() {
        let quarters = (-2000..2000).map(|n| f64::from(n) * std::f64::consts::FRAC_PI_4);
        let x: Vec<f64> = EDGES
            .into_iter()
            .chain(any_bits(200_000))
            .chain(quarters)
            .chain(grid(-1e6, 1e6, 1_000_000))
            .chain(grid(-10.0, 10.0, 1_000_000))
            .collect();
        for (all, one) in [
            (
                sin_all as fn(&[f64], &mut [f64]),
                math::sin as fn(f64) -> f64,
            ),
            (cos_all, math::cos),
        ] {
            let mut out = vec![0.0; x.len()];
            all(&x, &mut out);
            for (x, y) in x.iter().zip(&out) {
                let expected = one(*x);
                let distance = (y - expected).abs();
                assert!(
                    distance <= expected.abs() * f64::EPSILON
                        || distance < f64::MIN_POSITIVE
                        || (y.is_nan() && expected.is_nan()),
                    "{x:e}: {y:e} against {expected:e}"
                );
            }
        }
    }
}
