//! Eight numbers at a time, as wide as the machine's registers are. What is computed does not depend on the width.
//!
//! The registers are named here because the compiler, left to find the vectors in arrays by itself, takes shifts apart and
//! rejoins them in slower ways.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use std::ops::{Add, Div, Mul, Neg, Sub};

/// Rows of a group: one AVX-512 register.
pub(super) const LANES: usize = 8;

/// A value for each row of a group.
pub(super) type Lanes = [f64; LANES];

/// One number, or one for each lane.
pub(super) trait Number:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The same in each lane.
    fn all(x: f64) -> Self;

    /// `self * b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;

    /// Size without sign.
    fn abs(self) -> Self;

    /// Square root.
    fn sqrt(self) -> Self;

    /// `then` where `self > limit`, `otherwise` elsewhere.
    fn if_above(self, limit: Self, then: Self, otherwise: Self) -> Self;

    /// `then` where it is zero, `otherwise` elsewhere.
    fn if_zero(self, then: Self, otherwise: Self) -> Self;

    /// The larger one; the second where neither is.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.if_above(other, self, other)
    }

    /// The smaller one; the second where neither is.
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        other.if_above(self, self, other)
    }
}

/// A number for each lane.
pub(super) trait Vector: Number {
    /// The first eight.
    fn load(x: &[f64]) -> Self;

    /// Writes them down as the first eight.
    fn store(self, out: &mut [f64]);

    /// The lanes `K` rows later, `K` being 1, 2 or 4; the first `K` are the last of `fill`.
    fn shifted<const K: usize>(self, fill: Self) -> Self;

    /// The last lane in all.
    fn last(self) -> Self;

    /// The first lane.
    fn first(self) -> f64;

    /// The first lane that is above that of `limit`, if one is.
    fn first_above(self, limit: Self) -> Option<usize>;
}

impl Number for f64 {
    #[inline(always)]
    fn all(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        f64::mul_add(self, b, c)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        f64::abs(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn if_above(self, limit: Self, then: Self, otherwise: Self) -> Self {
        if self > limit { then } else { otherwise }
    }

    #[inline(always)]
    fn if_zero(self, then: Self, otherwise: Self) -> Self {
        if self == 0.0 { then } else { otherwise }
    }
}

/// Whatever the compiler makes of an array.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable(Lanes);

impl Portable {
    #[inline(always)]
    fn of(f: impl Fn(usize) -> f64) -> Self {
        let mut out = [0.0; LANES];
        for (lane, out) in out.iter_mut().enumerate() {
            *out = f(lane);
        }
        Self(out)
    }
}

macro_rules! lane_by_lane {
    ($($operator:ident $name:ident),*) => {$(
        impl $operator for Portable {
            type Output = Self;

            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                Self::of(|j| self.0[j].$name(other.0[j]))
            }
        }
    )*};
}

lane_by_lane!(Add add, Sub sub, Mul mul, Div div);

impl Neg for Portable {
    type Output = Self;

    #[inline(always)]
    fn neg(self) -> Self {
        Self::of(|j| -self.0[j])
    }
}

impl Number for Portable {
    #[inline(always)]
    fn all(x: f64) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self::of(|j| self.0[j].mul_add(b.0[j], c.0[j]))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self::of(|j| self.0[j].abs())
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self::of(|j| self.0[j].sqrt())
    }

    #[inline(always)]
    fn if_above(self, limit: Self, then: Self, otherwise: Self) -> Self {
        Self::of(|j| self.0[j].if_above(limit.0[j], then.0[j], otherwise.0[j]))
    }

    #[inline(always)]
    fn if_zero(self, then: Self, otherwise: Self) -> Self {
        Self::of(|j| self.0[j].if_zero(then.0[j], otherwise.0[j]))
    }
}

impl Vector for Portable {
    #[inline(always)]
    fn load(x: &[f64]) -> Self {
        let mut out = [0.0; LANES];
        out.copy_from_slice(&x[..LANES]);
        Self(out)
    }

    #[inline(always)]
    fn store(self, out: &mut [f64]) {
        out[..LANES].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn shifted<const K: usize>(self, fill: Self) -> Self {
        Self::of(|j| {
            if j < K {
                fill.0[LANES - K + j]
            } else {
                self.0[j - K]
            }
        })
    }

    #[inline(always)]
    fn last(self) -> Self {
        Self::all(self.0[LANES - 1])
    }

    #[inline(always)]
    fn first(self) -> f64 {
        self.0[0]
    }

    #[inline(always)]
    fn first_above(self, limit: Self) -> Option<usize> {
        (0..LANES).find(|j| self.0[*j] > limit.0[*j])
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

/// Each function here needs its type's instruction set, and each gets or gives a value of the type: these are made in
/// functions only that are compiled for it and called after it was found.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "a long list of instructions")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// One register of AVX-512. To be made where AVX-512 F and DQ are present.
    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Avx512(__m512d);

    /// Two registers of AVX. To be made where AVX2 and FMA are present.
    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Avx2(__m256d, __m256d);

    macro_rules! operators {
        ($($operator:ident $name:ident $avx512:ident $avx:ident),*) => {$(
            impl $operator for Avx512 {
                type Output = Self;

                #[inline(always)]
                fn $name(self, other: Self) -> Self {
                    // SAFETY: see the module.
                    Self(unsafe { $avx512(self.0, other.0) })
                }
            }

            impl $operator for Avx2 {
                type Output = Self;

                #[inline(always)]
                fn $name(self, other: Self) -> Self {
                    // SAFETY: see the module.
                    unsafe { Self($avx(self.0, other.0), $avx(self.1, other.1)) }
                }
            }
        )*};
    }

    operators!(
        Add add _mm512_add_pd _mm256_add_pd,
        Sub sub _mm512_sub_pd _mm256_sub_pd,
        Mul mul _mm512_mul_pd _mm256_mul_pd,
        Div div _mm512_div_pd _mm256_div_pd
    );

    impl Neg for Avx512 {
        type Output = Self;

        #[inline(always)]
        fn neg(self) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_xor_pd(self.0, _mm512_set1_pd(-0.0)) })
        }
    }

    impl Neg for Avx2 {
        type Output = Self;

        #[inline(always)]
        fn neg(self) -> Self {
            // SAFETY: see the module.
            unsafe {
                let sign = _mm256_set1_pd(-0.0);
                Self(_mm256_xor_pd(self.0, sign), _mm256_xor_pd(self.1, sign))
            }
        }
    }

    impl Number for Avx512 {
        #[inline(always)]
        fn all(x: f64) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_set1_pd(x) })
        }

        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_fmadd_pd(self.0, b.0, c.0) })
        }

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_abs_pd(self.0) })
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_sqrt_pd(self.0) })
        }

        #[inline(always)]
        fn if_above(self, limit: Self, then: Self, otherwise: Self) -> Self {
            // SAFETY: see the module.
            Self(unsafe {
                let is_above = _mm512_cmp_pd_mask::<_CMP_GT_OQ>(self.0, limit.0);
                _mm512_mask_blend_pd(is_above, otherwise.0, then.0)
            })
        }

        #[inline(always)]
        fn larger(self, other: Self) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_max_pd(self.0, other.0) })
        }

        #[inline(always)]
        fn smaller(self, other: Self) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_min_pd(self.0, other.0) })
        }

        #[inline(always)]
        fn if_zero(self, then: Self, otherwise: Self) -> Self {
            // SAFETY: see the module.
            Self(unsafe {
                let is_zero = _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(self.0, _mm512_setzero_pd());
                _mm512_mask_blend_pd(is_zero, otherwise.0, then.0)
            })
        }
    }

    impl Vector for Avx512 {
        #[inline(always)]
        fn load(x: &[f64]) -> Self {
            let x: &Lanes = x[..LANES].try_into().expect("eight are eight");
            // SAFETY: see the module; `x` points to eight numbers.
            Self(unsafe { _mm512_loadu_pd(x.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, out: &mut [f64]) {
            let out: &mut Lanes = (&mut out[..LANES]).try_into().expect("eight are eight");
            // SAFETY: see the module; `out` points to eight numbers.
            unsafe { _mm512_storeu_pd(out.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn shifted<const K: usize>(self, fill: Self) -> Self {
            // SAFETY: see the module.
            Self(unsafe {
                let (x, fill) = (_mm512_castpd_si512(self.0), _mm512_castpd_si512(fill.0));
                _mm512_castsi512_pd(match K {
                    1 => _mm512_alignr_epi64::<7>(x, fill),
                    2 => _mm512_alignr_epi64::<6>(x, fill),
                    _ => _mm512_alignr_epi64::<4>(x, fill),
                })
            })
        }

        #[inline(always)]
        fn last(self) -> Self {
            // SAFETY: see the module.
            Self(unsafe { _mm512_permutexvar_pd(_mm512_set1_epi64(7), self.0) })
        }

        #[inline(always)]
        fn first(self) -> f64 {
            // SAFETY: see the module.
            unsafe { _mm512_cvtsd_f64(self.0) }
        }

        #[inline(always)]
        fn first_above(self, limit: Self) -> Option<usize> {
            // SAFETY: see the module.
            let above = unsafe { _mm512_cmp_pd_mask::<_CMP_GT_OQ>(self.0, limit.0) };
            (above != 0).then(|| above.trailing_zeros() as usize)
        }
    }

    impl Number for Avx2 {
        #[inline(always)]
        fn all(x: f64) -> Self {
            // SAFETY: see the module.
            unsafe { Self(_mm256_set1_pd(x), _mm256_set1_pd(x)) }
        }

        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see the module.
            unsafe {
                Self(
                    _mm256_fmadd_pd(self.0, b.0, c.0),
                    _mm256_fmadd_pd(self.1, b.1, c.1),
                )
            }
        }

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: see the module.
            unsafe {
                let sign = _mm256_set1_pd(-0.0);
                Self(
                    _mm256_andnot_pd(sign, self.0),
                    _mm256_andnot_pd(sign, self.1),
                )
            }
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            // SAFETY: see the module.
            unsafe { Self(_mm256_sqrt_pd(self.0), _mm256_sqrt_pd(self.1)) }
        }

        #[inline(always)]
        fn if_above(self, limit: Self, then: Self, otherwise: Self) -> Self {
            // SAFETY: see the module.
            unsafe {
                let first = _mm256_cmp_pd::<_CMP_GT_OQ>(self.0, limit.0);
                let second = _mm256_cmp_pd::<_CMP_GT_OQ>(self.1, limit.1);
                Self(
                    _mm256_blendv_pd(otherwise.0, then.0, first),
                    _mm256_blendv_pd(otherwise.1, then.1, second),
                )
            }
        }

        #[inline(always)]
        fn larger(self, other: Self) -> Self {
            // SAFETY: see the module.
            unsafe {
                Self(
                    _mm256_max_pd(self.0, other.0),
                    _mm256_max_pd(self.1, other.1),
                )
            }
        }

        #[inline(always)]
        fn smaller(self, other: Self) -> Self {
            // SAFETY: see the module.
            unsafe {
                Self(
                    _mm256_min_pd(self.0, other.0),
                    _mm256_min_pd(self.1, other.1),
                )
            }
        }

        #[inline(always)]
        fn if_zero(self, then: Self, otherwise: Self) -> Self {
            // SAFETY: see the module.
            unsafe {
                let zero = _mm256_setzero_pd();
                let first = _mm256_cmp_pd::<_CMP_EQ_OQ>(self.0, zero);
                let second = _mm256_cmp_pd::<_CMP_EQ_OQ>(self.1, zero);
                Self(
                    _mm256_blendv_pd(otherwise.0, then.0, first),
                    _mm256_blendv_pd(otherwise.1, then.1, second),
                )
            }
        }
    }

    impl Vector for Avx2 {
        #[inline(always)]
        fn load(x: &[f64]) -> Self {
            let x: &Lanes = x[..LANES].try_into().expect("eight are eight");
            // SAFETY: see the module; `x` points to eight numbers.
            unsafe {
                Self(
                    _mm256_loadu_pd(x.as_ptr()),
                    _mm256_loadu_pd(x.as_ptr().add(4)),
                )
            }
        }

        #[inline(always)]
        fn store(self, out: &mut [f64]) {
            let out: &mut Lanes = (&mut out[..LANES]).try_into().expect("eight are eight");
            // SAFETY: see the module; `out` points to eight numbers.
            unsafe {
                _mm256_storeu_pd(out.as_mut_ptr(), self.0);
                _mm256_storeu_pd(out.as_mut_ptr().add(4), self.1);
            }
        }

        #[inline(always)]
        fn shifted<const K: usize>(self, fill: Self) -> Self {
            // SAFETY: see the module.
            unsafe {
                // Two rows later: the upper half of one register before the lower half of the next.
                let first = _mm256_permute2f128_pd::<0x21>(fill.1, self.0);
                let second = _mm256_permute2f128_pd::<0x21>(self.0, self.1);
                match K {
                    1 => Self(
                        _mm256_shuffle_pd::<0b0101>(first, self.0),
                        _mm256_shuffle_pd::<0b0101>(second, self.1),
                    ),
                    2 => Self(first, second),
                    _ => Self(fill.1, self.0),
                }
            }
        }

        #[inline(always)]
        fn last(self) -> Self {
            // SAFETY: see the module.
            unsafe {
                let last = _mm256_permute4x64_pd::<0xff>(self.1);
                Self(last, last)
            }
        }

        #[inline(always)]
        fn first(self) -> f64 {
            // SAFETY: see the module.
            unsafe { _mm256_cvtsd_f64(self.0) }
        }

        #[inline(always)]
        fn first_above(self, limit: Self) -> Option<usize> {
            // SAFETY: see the module.
            let above = unsafe {
                let first = _mm256_cmp_pd::<_CMP_GT_OQ>(self.0, limit.0);
                let second = _mm256_cmp_pd::<_CMP_GT_OQ>(self.1, limit.1);
                _mm256_movemask_pd(first) | _mm256_movemask_pd(second) << 4
            };
            (above != 0).then(|| above.trailing_zeros() as usize)
        }
    }
}
