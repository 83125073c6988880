//! Logistic function, hyperbolic tangent and `SiLU` over `f32`, without branches, so that loops of them become vector code.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]
#![allow(clippy::excessive_precision, reason = "as published")]

use crate::lanes;

/// `1 / (1 + e^-x)`, within 4 units in the last place above -87; NaN stays NaN.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + lanes::exp(-x))
}

/// The hyperbolic tangent within 3e-7 relative to its value; NaN stays NaN.
///
/// The rational approximation of Eigen and XLA: odd polynomial over even polynomial, saturated outside \[-7.9, 7.9\].
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    const BOUND: f32 = 7.905_311_107_635_498;
    let clamped = if x < -BOUND { -BOUND } else { x };
    let x = if clamped > BOUND { BOUND } else { clamped };
    let square = x * x;
    let p = -2.760_768_477_423_55e-16_f32;
    let p = p.mul_add(square, 2.000_187_904_824_77e-13);
    let p = p.mul_add(square, -8.604_671_522_137_35e-11);
    let p = p.mul_add(square, 5.122_297_090_371_14e-8);
    let p = p.mul_add(square, 1.485_722_357_179_79e-5);
    let p = p.mul_add(square, 6.372_619_288_754_36e-4);
    let p = p.mul_add(square, 4.893_524_558_917_86e-3);
    let q = 1.198_258_394_667_02e-6_f32;
    let q = q.mul_add(square, 1.185_347_056_866_54e-4);
    let q = q.mul_add(square, 2.268_434_632_439_00e-3);
    let q = q.mul_add(square, 4.893_525_185_543_85e-3);
    x * p / q
}

/// `x sigmoid(x)` and its derivative (Hendrycks and Gimpel, 2016; Elfwing et al., 2018).
#[inline(always)]
pub(crate) fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    // Far below zero both factors would be an infinity times zero only for an infinite `x`.
    (x * s, s * (1.0 - s).mul_add(x, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_close_to_the_exact_ones() {
        for step in -200_000..200_000 {
            let x = step as f32 / 10_000.0;
            let exact = f64::from(x);

            let tanh_error = (f64::from(tanh(x)) - libm::tanh(exact)).abs();
            let logistic = crate::math::sigmoid(exact);
            let sigmoid_error = (f64::from(sigmoid(x)) - logistic).abs();

            assert!(
                tanh_error <= 3e-7 * libm::tanh(exact).abs(),
                "tanh({x}) is off by {tanh_error}"
            );
            assert!(
                sigmoid_error <= 4e-7 * logistic,
                "sigmoid({x}) is off by {sigmoid_error}"
            );
            assert!((f64::from(silu(x).0) - exact * logistic).abs() <= 1e-6 * exact.abs());
        }
        assert!(tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert!((tanh(1e30) - 1.0).abs() < 1e-6 && sigmoid(-1e30).abs() < 1e-30);
    }
}
