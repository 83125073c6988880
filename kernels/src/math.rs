//! Elementary functions with the same bits on every machine.
//!
//! `std`'s `exp`, `ln`, `sin` and the like call the platform's math library, whose last bits differ between machines and
//! versions. These are `libm`'s (a port of musl's), compiled with the program. `sqrt` is exact everywhere and so is not here.

macro_rules! same_bits {
    ($($(#[$doc:meta])* $name:ident => $f64:path, $f32:path;)*) => {
        $($(#[$doc])*
        #[inline]
        pub fn $name(x: f64) -> f64 { $f64(x) })*

        /// The same functions in single precision.
        pub mod single {
            $($(#[$doc])*
            #[inline]
            pub fn $name(x: f32) -> f32 { $f32(x) })*
        }
    };
}

same_bits! {
    /// `e^x`.
    exp => libm::exp, libm::expf;
    /// `e^x - 1`, exact near zero.
    exp_m1 => libm::expm1, libm::expm1f;
    /// Natural logarithm.
    ln => libm::log, libm::logf;
    /// `ln(1 + x)`, exact near zero.
    ln_1p => libm::log1p, libm::log1pf;
    /// Base-10 logarithm.
    log10 => libm::log10, libm::log10f;
    /// Sine of an angle in radians.
    sin => libm::sin, libm::sinf;
    /// Cosine of an angle in radians.
    cos => libm::cos, libm::cosf;
    /// Hyperbolic tangent.
    tanh => libm::tanh, libm::tanhf;
    /// The error function.
    erf => libm::erf, libm::erff;
}

/// `x` to the power `y`.
#[inline]
pub fn pow(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}

/// The logistic function `1 / (1 + e^-x)`, without overflow for any finite `x`.
#[inline]
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + exp(-x))
    } else {
        let e = exp(x);
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_stays_finite_at_both_ends() {
        assert!(sigmoid(-1e4).abs() < 1e-300);
        assert!((sigmoid(1e4) - 1.0).abs() < 1e-15);
        assert!((sigmoid(0.0) - 0.5).abs() < 1e-15);
    }
}
