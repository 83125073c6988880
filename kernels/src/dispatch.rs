//! Compiles a function for several instruction sets and picks one at run time.
//!
//! The bits do not depend on the choice: Rust neither reorders nor fuses floating-point operations, and the bodies name
//! every fused multiply-add (`mul_add`) and every order of summation themselves. Only the vector width differs.

use std::sync::LazyLock;

/// The widest instruction set that is compiled for and present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Whatever the target guarantees: NEON and its fused multiply-add on `AArch64`; on x86-64 SSE2, where `mul_add` is a
    /// library call.
    Baseline,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// What this machine offers. Cheap: it is found once.
#[inline]
pub(crate) fn level() -> Level {
    static LEVEL: LazyLock<Level> = LazyLock::new(found);
    *LEVEL
}

fn found() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// Defines functions whose body is compiled once per [`Level`] and dispatched at each call.
macro_rules! dispatched {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($argument: $type),*) $(-> $result)? {
            // It must be compiled inside each of its callers.
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body($($argument),*)
            }

            match $crate::dispatch::level() {
                $crate::dispatch::Level::Baseline => body($($argument),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `level` has just found the features that the function is compiled for.
                $crate::dispatch::Level::Avx512 => unsafe { avx512($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `level` has just found the features that the function is compiled for.
                $crate::dispatch::Level::Avx2 => unsafe { avx2($($argument),*) },
            }
        }
    )*};
}

pub(crate) use dispatched;
