//! Results of a program on a whole series, as `f64` or `f32`.

use super::super::program::Program;
use crate::bars::Bars;

/// A number that results are written as.
pub trait Number: Copy + Send + Sync + private::Emit {}

impl Number for f64 {}
impl Number for f32 {}

/// One column for each output of a program, in order: NaN where it is not defined, and nothing infinite.
#[derive(Debug, Clone)]
pub struct Columns<T> {
    columns: Vec<Vec<T>>,
}

impl<T> Default for Columns<T> {
    fn default() -> Self {
        Self {
            columns: Vec::new(),
        }
    }
}

impl<T: Number> Columns<T> {
    /// Every output of `program` on a whole series, with the further `columns` that it reads. Split over the current rayon
    /// pool; the bits do not depend on it.
    ///
    /// # Panics
    /// If columns differ in length, or the program reads further columns than there are.
    pub fn of(program: &Program, bars: Bars<'_>, columns: &[&[f64]]) -> Self {
        let mut result = Self::default();
        result.fill(program, bars, columns);
        result
    }

    /// The same in the memory of earlier results, where that is large enough.
    ///
    /// # Panics
    /// As [`Columns::of`].
    pub fn fill(&mut self, program: &Program, bars: Bars<'_>, columns: &[&[f64]]) {
        let n_rows = bars.len();
        self.columns.resize_with(program.n_outputs(), Vec::new);
        for column in &mut self.columns {
            if column.capacity() < n_rows {
                // Zeros that the system gives with the memory: nothing is written here.
                *column = vec![T::ZERO; n_rows];
                advise_large_pages(column);
            }
            column.resize(n_rows, T::ZERO);
        }
        let mut results: Vec<&mut [T]> = self.columns.iter_mut().map(Vec::as_mut_slice).collect();
        super::threads::compute(program, bars, columns, &mut results);
    }

    /// Each column, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[T]> {
        self.columns.iter().map(Vec::as_slice)
    }

    /// The columns themselves.
    pub fn into_vecs(self) -> Vec<Vec<T>> {
        self.columns
    }
}

impl<T> std::ops::Index<usize> for Columns<T> {
    type Output = [T];

    fn index(&self, output: usize) -> &[T] {
        &self.columns[output]
    }
}

/// Asks for large pages where a column is long: a page fault for every 512 numbers costs as much as to write them.
fn advise_large_pages<T>(memory: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let bytes = std::mem::size_of_val(memory);
        if bytes >= 1 << 21 {
            let start = memory.as_mut_ptr() as usize;
            let first = start.next_multiple_of(PAGE);
            let end = (start + bytes) / PAGE * PAGE;
            // SAFETY: whole pages of memory of ours; the advice changes neither contents nor access.
            unsafe {
                libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

mod private {
    /// How a number is written to results.
    pub trait Emit: Sized {
        /// Zero.
        const ZERO: Self;
        /// Whether it is `f64`, so that kernels can write it.
        const IS_F64: bool;

        /// Writes `values` as this type, one NaN for everything that is not a number or too large. `past_the_cache`: the
        /// results are not expected in the cache, where they only would take the place of something else.
        fn emit(values: &[f64], out: &mut [Self], past_the_cache: bool);
    }
}

/// One NaN for everything that is no number.
#[inline]
pub(super) fn finite_or_nan(x: f64) -> f64 {
    if x.is_finite() { x } else { f64::NAN }
}

/// The same as `f32`, where what is too large is no number either.
#[inline]
fn finite_f32_or_nan(x: f64) -> f32 {
    let x = x as f32;
    if x.is_finite() { x } else { f32::NAN }
}

impl private::Emit for f64 {
    const ZERO: Self = 0.0;
    const IS_F64: bool = true;

    #[inline]
    fn emit(values: &[f64], out: &mut [Self], past_the_cache: bool) {
        assert_eq!(values.len(), out.len(), "rows");
        #[cfg(target_arch = "x86_64")]
        if past_the_cache && crate::dispatch::level() == crate::dispatch::Level::Avx512 {
            // SAFETY: the level has been found present.
            return unsafe { x86::emit_f64(values, out) };
        }
        let _ = past_the_cache;
        plain_f64(values, out);
    }
}

impl private::Emit for f32 {
    const ZERO: Self = 0.0;
    const IS_F64: bool = false;

    #[inline]
    fn emit(values: &[f64], out: &mut [Self], past_the_cache: bool) {
        assert_eq!(values.len(), out.len(), "rows");
        #[cfg(target_arch = "x86_64")]
        if past_the_cache && crate::dispatch::level() == crate::dispatch::Level::Avx512 {
            // SAFETY: the level has been found present.
            return unsafe { x86::emit_f32(values, out) };
        }
        let _ = past_the_cache;
        plain_f32(values, out);
    }
}

crate::dispatch::dispatched! {
    /// Makes one NaN of everything that is no number.
    pub(super) fn keep_finite(values: &mut [f64]) {
        // Mostly there is nothing to be done, and to read is less than to write.
        if !values.iter().fold(true, |is_finite, x| is_finite & x.is_finite()) {
            for x in values {
                *x = finite_or_nan(*x);
            }
        }
    }

    fn plain_f64(values: &[f64], out: &mut [f64]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = finite_or_nan(*x);
        }
    }

    fn plain_f32(values: &[f64], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(values) {
            *out = finite_f32_or_nan(*x);
        }
    }
}

/// Stores that go past the cache. Whoever hands the results to another thread fences first, see [`fence`].
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{finite_f32_or_nan, finite_or_nan};
    use std::arch::x86_64::{
        _CMP_LT_OQ, _mm512_abs_pd, _mm512_abs_ps, _mm512_castps256_ps512, _mm512_cmp_pd_mask,
        _mm512_cmp_ps_mask, _mm512_cvtpd_ps, _mm512_insertf32x8, _mm512_loadu_pd,
        _mm512_mask_blend_pd, _mm512_mask_blend_ps, _mm512_set1_pd, _mm512_set1_ps,
        _mm512_stream_pd, _mm512_stream_ps,
    };

    /// Elements before the first whole cache line of `out`.
    fn before_line<T>(out: &[T]) -> usize {
        let rest = (out.as_ptr() as usize).next_multiple_of(64) - out.as_ptr() as usize;
        (rest / size_of::<T>()).min(out.len())
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
    pub(super) fn emit_f64(values: &[f64], out: &mut [f64]) {
        let head = before_line(out);
        let (values_head, values) = values.split_at(head);
        let (out_head, out) = out.split_at_mut(head);
        for (out, x) in out_head.iter_mut().zip(values_head) {
            *out = finite_or_nan(*x);
        }
        let (lines, values_tail) = values.as_chunks::<8>();
        let (out_lines, out_tail) = out.as_chunks_mut::<8>();
        let (nan, infinity) = (_mm512_set1_pd(f64::NAN), _mm512_set1_pd(f64::INFINITY));
        for (out, x) in out_lines.iter_mut().zip(lines) {
            // SAFETY: eight numbers are read.
            let x = unsafe { _mm512_loadu_pd(x.as_ptr()) };
            let is_finite = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(_mm512_abs_pd(x), infinity);
            // SAFETY: eight numbers are written, at the start of a cache line.
            unsafe {
                _mm512_stream_pd(out.as_mut_ptr(), _mm512_mask_blend_pd(is_finite, nan, x));
            }
        }
        for (out, x) in out_tail.iter_mut().zip(values_tail) {
            *out = finite_or_nan(*x);
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
    pub(super) fn emit_f32(values: &[f64], out: &mut [f32]) {
        let head = before_line(out);
        let (values_head, values) = values.split_at(head);
        let (out_head, out) = out.split_at_mut(head);
        for (out, x) in out_head.iter_mut().zip(values_head) {
            *out = finite_f32_or_nan(*x);
        }
        let (lines, values_tail) = values.as_chunks::<16>();
        let (out_lines, out_tail) = out.as_chunks_mut::<16>();
        let (nan, infinity) = (_mm512_set1_ps(f32::NAN), _mm512_set1_ps(f32::INFINITY));
        for (out, x) in out_lines.iter_mut().zip(lines) {
            // SAFETY: sixteen numbers are read.
            let (low, high) = unsafe {
                (
                    _mm512_loadu_pd(x.as_ptr()),
                    _mm512_loadu_pd(x[8..].as_ptr()),
                )
            };
            let low = _mm512_castps256_ps512(_mm512_cvtpd_ps(low));
            let x = _mm512_insertf32x8::<1>(low, _mm512_cvtpd_ps(high));
            let is_finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(x), infinity);
            // SAFETY: sixteen numbers are written, at the start of a cache line.
            unsafe {
                _mm512_stream_ps(out.as_mut_ptr(), _mm512_mask_blend_ps(is_finite, nan, x));
            }
        }
        for (out, x) in out_tail.iter_mut().zip(values_tail) {
            *out = finite_f32_or_nan(*x);
        }
    }
}

/// Makes what went past the cache visible to others before anything later.
pub(super) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_emits<T: Number + Default + Into<f64>>(expected: impl Fn(f64) -> f64) {
        let special = [
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -0.0,
            1e300,
            -1e300,
            5e-324,
            f64::MAX,
            0.1,
        ];
        let values: Vec<f64> = (0..200)
            .map(|i| {
                if i % 3 == 0 {
                    special[i / 3 % special.len()]
                } else {
                    (i as f64).sqrt()
                }
            })
            .collect();
        for past_the_cache in [false, true] {
            for start in 0..9 {
                for n in [0, 1, 7, 8, 40, 150] {
                    let mut out = vec![T::default(); start + n];

                    T::emit(&values[..n], &mut out[start..], past_the_cache);
                    fence();

                    for (out, x) in out[start..].iter().zip(&values) {
                        let out: f64 = (*out).into();
                        assert_eq!(out.to_bits(), expected(*x).to_bits(), "{x}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_infinite_leaves_and_nan_is_one() {
        assert_emits::<f64>(|x| if x.is_finite() { x } else { f64::NAN });
        assert_emits::<f32>(|x| {
            if (x as f32).is_finite() {
                f64::from(x as f32)
            } else {
                f64::from(f32::NAN)
            }
        });
    }
}
