//! Numbers in SIMD lanes: the same operations on one `f64`, on four and on eight, with the same bits.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their vectorised callers"
)]

use crate::dispatch::{Level, level};

/// Some `f64`, operated on elementwise.
pub(super) trait Lanes: Copy {
    /// How many.
    const N: usize;

    /// Reads `N` numbers.
    ///
    /// # Safety
    /// `from` is valid for reading them; it need not be aligned.
    unsafe fn load(from: *const f64) -> Self;

    /// Writes `N` numbers.
    ///
    /// # Safety
    /// `to` is valid for writing them; it need not be aligned.
    unsafe fn store(self, to: *mut f64);

    /// The same number in all lanes.
    fn splat(x: f64) -> Self;

    /// `self + other`.
    fn add(self, other: Self) -> Self;

    /// `self - other`.
    fn sub(self, other: Self) -> Self;

    /// `self * other`.
    fn mul(self, other: Self) -> Self;

    /// `self / other`.
    fn div(self, other: Self) -> Self;

    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// The absolute value.
    fn abs(self) -> Self;

    /// The larger one; NaN if one is. Of two zeros, `other`.
    fn max(self, other: Self) -> Self;

    /// The smaller one; NaN if one is. Of two zeros, `other`.
    fn min(self, other: Self) -> Self;

    /// `then` where `self >= other`; `otherwise` where not, or where one is NaN.
    fn if_ge(self, other: Self, then: Self, otherwise: Self) -> Self;

    /// `then` where it is zero, `otherwise` elsewhere.
    fn if_zero(self, then: Self, otherwise: Self) -> Self;
}

impl Lanes for f64 {
    const N: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const f64) -> Self {
        // SAFETY: the caller promises it.
        unsafe { *from }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f64) {
        // SAFETY: the caller promises it.
        unsafe { *to = self }
    }

    #[inline(always)]
    fn splat(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self * other
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self / other
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        f64::mul_add(self, factor, addend)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        f64::abs(self)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other || self.is_nan() {
            self
        } else {
            other
        }
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other || self.is_nan() {
            self
        } else {
            other
        }
    }

    #[inline(always)]
    fn if_ge(self, other: Self, then: Self, otherwise: Self) -> Self {
        if self >= other { then } else { otherwise }
    }

    #[inline(always)]
    fn if_zero(self, then: Self, otherwise: Self) -> Self {
        if self == 0.0 { then } else { otherwise }
    }
}

/// Eight lanes, which can be shifted.
pub(super) trait EightLanes: Lanes {
    /// Rows `ROWS` before those of `self`, of a series of which `previous` are the eight rows before. `ROWS` is 1 to 7.
    fn earlier<const ROWS: usize>(self, previous: Self) -> Self;
}

/// Work that can be done with lanes of any number. Both ways must be compiled inside their caller: `#[inline(always)]`.
pub(super) trait Kernel: Sized {
    /// Does it.
    fn run<V: Lanes>(self);

    /// Does it with eight lanes, to the same bits.
    #[inline(always)]
    fn run_eight<V: EightLanes>(self) {
        self.run::<V>();
    }
}

/// Does `kernel`'s work with the widest lanes that this machine has.
pub(super) fn vectorised(kernel: impl Kernel) {
    match level() {
        Level::Baseline => kernel.run::<f64>(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` has just found the features that the function is compiled for.
        Level::Avx512 => unsafe { x86::avx512(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` has just found the features that the function is compiled for.
        Level::Avx2 => unsafe { x86::avx2(kernel) },
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256d, __m512d, _CMP_EQ_OQ, _CMP_GE_OQ, _CMP_UNORD_Q, _mm256_add_pd, _mm256_andnot_pd,
        _mm256_blendv_pd, _mm256_cmp_pd, _mm256_div_pd, _mm256_fmadd_pd, _mm256_loadu_pd,
        _mm256_max_pd, _mm256_min_pd, _mm256_mul_pd, _mm256_set1_pd, _mm256_setzero_pd,
        _mm256_storeu_pd, _mm256_sub_pd, _mm512_abs_pd, _mm512_add_pd, _mm512_alignr_epi64,
        _mm512_castpd_si512, _mm512_castsi512_pd, _mm512_cmp_pd_mask, _mm512_div_pd,
        _mm512_fmadd_pd, _mm512_loadu_pd, _mm512_mask_blend_pd, _mm512_max_pd, _mm512_min_pd,
        _mm512_mul_pd, _mm512_set1_pd, _mm512_setzero_pd, _mm512_storeu_pd, _mm512_sub_pd,
    };

    use super::{EightLanes, Kernel, Lanes};

    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) fn avx512(kernel: impl Kernel) {
        kernel.run_eight::<Eight>();
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(kernel: impl Kernel) {
        kernel.run::<Four>();
    }

    /// Private, so that only code that runs inside [`avx512`] can have one.
    #[derive(Clone, Copy)]
    pub(super) struct Eight(__m512d);

    /// Private, so that only code that runs inside [`avx2`] can have one.
    #[derive(Clone, Copy)]
    pub(super) struct Four(__m256d);

    /// One operation: an intrinsic of a feature that is there.
    macro_rules! operation {
        ($type:ident, $body:expr) => {
            // SAFETY: values of this type exist only inside functions compiled for, and called with, the feature.
            $type(unsafe { $body })
        };
    }

    impl Lanes for Eight {
        const N: usize = 8;

        #[inline(always)]
        unsafe fn load(from: *const f64) -> Self {
            operation!(Eight, _mm512_loadu_pd(from))
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f64) {
            // SAFETY: as above, and the caller promises a valid address.
            unsafe { _mm512_storeu_pd(to, self.0) }
        }

        #[inline(always)]
        fn splat(x: f64) -> Self {
            operation!(Eight, _mm512_set1_pd(x))
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            operation!(Eight, _mm512_add_pd(self.0, other.0))
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            operation!(Eight, _mm512_sub_pd(self.0, other.0))
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            operation!(Eight, _mm512_mul_pd(self.0, other.0))
        }

        #[inline(always)]
        fn div(self, other: Self) -> Self {
            operation!(Eight, _mm512_div_pd(self.0, other.0))
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            operation!(Eight, _mm512_fmadd_pd(self.0, factor.0, addend.0))
        }

        #[inline(always)]
        fn abs(self) -> Self {
            operation!(Eight, _mm512_abs_pd(self.0))
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // The instruction gives its second operand where one is NaN.
            operation!(Eight, {
                let is_nan = _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(self.0, self.0);
                _mm512_mask_blend_pd(is_nan, _mm512_max_pd(self.0, other.0), self.0)
            })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            operation!(Eight, {
                let is_nan = _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(self.0, self.0);
                _mm512_mask_blend_pd(is_nan, _mm512_min_pd(self.0, other.0), self.0)
            })
        }

        #[inline(always)]
        fn if_ge(self, other: Self, then: Self, otherwise: Self) -> Self {
            operation!(Eight, {
                let is_ge = _mm512_cmp_pd_mask::<_CMP_GE_OQ>(self.0, other.0);
                _mm512_mask_blend_pd(is_ge, otherwise.0, then.0)
            })
        }

        #[inline(always)]
        fn if_zero(self, then: Self, otherwise: Self) -> Self {
            operation!(Eight, {
                let is_zero = _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(self.0, _mm512_setzero_pd());
                _mm512_mask_blend_pd(is_zero, otherwise.0, then.0)
            })
        }
    }

    impl EightLanes for Eight {
        #[inline(always)]
        fn earlier<const ROWS: usize>(self, previous: Self) -> Self {
            let (low, high) = (previous.0, self.0);
            operation!(Eight, {
                let (low, high) = (_mm512_castpd_si512(low), _mm512_castpd_si512(high));
                _mm512_castsi512_pd(match ROWS {
                    1 => _mm512_alignr_epi64::<7>(high, low),
                    2 => _mm512_alignr_epi64::<6>(high, low),
                    3 => _mm512_alignr_epi64::<5>(high, low),
                    4 => _mm512_alignr_epi64::<4>(high, low),
                    5 => _mm512_alignr_epi64::<3>(high, low),
                    6 => _mm512_alignr_epi64::<2>(high, low),
                    _ => _mm512_alignr_epi64::<1>(high, low),
                })
            })
        }
    }

    impl Lanes for Four {
        const N: usize = 4;

        #[inline(always)]
        unsafe fn load(from: *const f64) -> Self {
            operation!(Four, _mm256_loadu_pd(from))
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f64) {
            // SAFETY: as above, and the caller promises a valid address.
            unsafe { _mm256_storeu_pd(to, self.0) }
        }

        #[inline(always)]
        fn splat(x: f64) -> Self {
            operation!(Four, _mm256_set1_pd(x))
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            operation!(Four, _mm256_add_pd(self.0, other.0))
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            operation!(Four, _mm256_sub_pd(self.0, other.0))
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            operation!(Four, _mm256_mul_pd(self.0, other.0))
        }

        #[inline(always)]
        fn div(self, other: Self) -> Self {
            operation!(Four, _mm256_div_pd(self.0, other.0))
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            operation!(Four, _mm256_fmadd_pd(self.0, factor.0, addend.0))
        }

        #[inline(always)]
        fn abs(self) -> Self {
            operation!(Four, _mm256_andnot_pd(_mm256_set1_pd(-0.0), self.0))
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            operation!(Four, {
                let is_nan = _mm256_cmp_pd::<_CMP_UNORD_Q>(self.0, self.0);
                _mm256_blendv_pd(_mm256_max_pd(self.0, other.0), self.0, is_nan)
            })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            operation!(Four, {
                let is_nan = _mm256_cmp_pd::<_CMP_UNORD_Q>(self.0, self.0);
                _mm256_blendv_pd(_mm256_min_pd(self.0, other.0), self.0, is_nan)
            })
        }

        #[inline(always)]
        fn if_ge(self, other: Self, then: Self, otherwise: Self) -> Self {
            operation!(Four, {
                let is_ge = _mm256_cmp_pd::<_CMP_GE_OQ>(self.0, other.0);
                _mm256_blendv_pd(otherwise.0, then.0, is_ge)
            })
        }

        #[inline(always)]
        fn if_zero(self, then: Self, otherwise: Self) -> Self {
            operation!(Four, {
                let is_zero = _mm256_cmp_pd::<_CMP_EQ_OQ>(self.0, _mm256_setzero_pd());
                _mm256_blendv_pd(otherwise.0, then.0, is_zero)
            })
        }
    }
}
