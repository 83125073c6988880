//! Sums, dot products and elementary functions over `f32` slices, in a fixed order that SIMD can follow.
//!
//! A sum runs in [`LANES`] independent accumulators (element `i` goes to accumulator `i % LANES`), which are then added
//! in a fixed tree. The order depends on nothing but the length, and so do the bits.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]
#![allow(
    clippy::excessive_precision,
    clippy::many_single_char_names,
    reason = "as published"
)]

use crate::dispatch::dispatched;

/// Independent accumulators of a sum: one AVX-512 register of `f32`.
pub(crate) const LANES: usize = 16;

/// Adds the accumulators pairwise: 16 to 8 to 4 to 2 to 1.
#[inline(always)]
pub(crate) fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `sum f(x[i])` in lane order.
#[inline(always)]
pub(crate) fn sum_map(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    fold(lanes)
}

/// `sum x[i] * y[i]` in lane order, one fused multiply-add each.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (y_blocks, y_rest) = y.as_chunks::<LANES>();
    for (a, b) in x_blocks.iter().zip(y_blocks) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for (i, (&a, &b)) in x_rest.iter().zip(y_rest).enumerate() {
        lanes[i] = a.mul_add(b, lanes[i]);
    }
    fold(lanes)
}

dispatched! {
    /// `x[i] += y[i]`.
    pub(crate) fn add(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

/// `out[i] = f(x[i], first + i)`, the counter wrapping. In blocks of fixed length, which become vector code.
#[inline(always)]
pub(crate) fn map_counted(out: &mut [f32], x: &[f32], first: u32, f: impl Fn(f32, u32) -> f32) {
    let (out_blocks, out_rest) = out.as_chunks_mut::<LANES>();
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let mut counter = first;
    for (out, x) in out_blocks.iter_mut().zip(x_blocks) {
        for i in 0..LANES {
            out[i] = f(x[i], counter.wrapping_add(i as u32));
        }
        counter = counter.wrapping_add(LANES as u32);
    }
    for (out, &x) in out_rest.iter_mut().zip(x_rest) {
        *out = f(x, counter);
        counter = counter.wrapping_add(1);
    }
}

/// `out[i] = f(x[i], y[i], first + i)`, as [`map_counted`].
#[inline(always)]
pub(crate) fn zip_counted(
    out: &mut [f32],
    x: &[f32],
    y: &[f32],
    first: u32,
    f: impl Fn(f32, f32, u32) -> f32,
) {
    let (out_blocks, out_rest) = out.as_chunks_mut::<LANES>();
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (y_blocks, y_rest) = y.as_chunks::<LANES>();
    let mut counter = first;
    for ((out, x), y) in out_blocks.iter_mut().zip(x_blocks).zip(y_blocks) {
        for i in 0..LANES {
            out[i] = f(x[i], y[i], counter.wrapping_add(i as u32));
        }
        counter = counter.wrapping_add(LANES as u32);
    }
    for ((out, &x), &y) in out_rest.iter_mut().zip(x_rest).zip(y_rest) {
        *out = f(x, y, counter);
        counter = counter.wrapping_add(1);
    }
}

/// Largest element; negative infinity for none. NaN is skipped.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = if value > *lane { value } else { *lane };
    }
    lanes
        .into_iter()
        .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// `e^x` within 2 units in the last place, 0 below -87.3 and saturated above 88.3; NaN stays NaN.
///
/// Range reduction and polynomial of Moshier's Cephes (`expf`), written without branches.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.3;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number without a rounding instruction.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let rounded = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-0.693_359_375, clamped);
    let r = n.mul_add(2.121_944_40e-4, r);
    let p = 1.987_569_15e-4_f32;
    let p = p.mul_add(r, 1.398_199_950_7e-3);
    let p = p.mul_add(r, 8.333_451_907_3e-3);
    let p = p.mul_add(r, 4.166_579_589_4e-2);
    let p = p.mul_add(r, 1.666_666_545_9e-1);
    let p = p.mul_add(r, 5.000_000_120_1e-1);
    let y = p.mul_add(r * r, r) + 1.0;
    // The low bits of `rounded` are those of `n`; a conversion to an integer would saturate, and not vectorize.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let value = y * power;
    let value = if x < LOWEST { 0.0 } else { value };
    if x.is_nan() { x } else { value }
}

/// The error function, absolute error below 4e-7.
///
/// The rational approximation of Eigen and XLA: odd polynomial over even polynomial on \[-4, 4\], saturated outside.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let clamped = if x < -4.0 { -4.0 } else { x };
    let x = if clamped > 4.0 { 4.0 } else { clamped };
    let square = x * x;
    let p = -2.726_142_258_013_06e-10_f32;
    let p = p.mul_add(square, 2.770_681_424_959_02e-8);
    let p = p.mul_add(square, -2.101_024_020_825_08e-6);
    let p = p.mul_add(square, -5.692_506_394_623_46e-5);
    let p = p.mul_add(square, -7.349_906_303_268_55e-4);
    let p = p.mul_add(square, -2.954_599_808_540_25e-3);
    let p = p.mul_add(square, -1.609_603_332_624_15e-2);
    let q = -1.456_607_184_649_96e-5_f32;
    let q = q.mul_add(square, -2.133_740_552_789_05e-4);
    let q = q.mul_add(square, -1.682_826_974_382_03e-3);
    let q = q.mul_add(square, -7.373_329_167_204_68e-3);
    let q = q.mul_add(square, -1.426_473_905_141_89e-2);
    x * p / q
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        clippy::needless_range_loop,
        clippy::float_cmp,
        clippy::many_single_char_names,
        reason = "plain definitions to compare with"
    )]

    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for step in -870_000..880_000 {
            let x = step as f32 / 10_000.0;
            let exact = libm::exp(f64::from(x));

            let error = (f64::from(exp(x)) - exact).abs() / exact;

            assert!(error < 2.4e-7, "exp({x}) = {} against {exact}", exp(x));
        }
        assert!(exp(-1000.0).abs() < f32::MIN_POSITIVE);
        assert!(exp(f32::NEG_INFINITY).abs() < f32::MIN_POSITIVE);
        assert!(exp(f32::NAN).is_nan());
        assert!((exp(0.0) - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn erf_is_close_to_the_exact_one() {
        for step in -60_000..60_000 {
            let x = step as f32 / 10_000.0;

            let error = (f64::from(erf(x)) - libm::erf(f64::from(x))).abs();

            assert!(error < 4e-7, "erf({x}) is off by {error}");
        }
    }

    #[test]
    fn sums_follow_the_lanes_whatever_the_length() {
        for length in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..length).map(|i| (i as f32).sin()).collect();
            let exact: f64 = x.iter().map(|&v| f64::from(v)).sum();

            assert!((f64::from(sum_map(&x, |v| v)) - exact).abs() < 1e-5);
            assert!(
                (f64::from(dot(&x, &x)) - x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>())
                    .abs()
                    < 1e-4
            );
        }
    }
}
