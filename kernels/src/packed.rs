//! A right factor that is packed once and multiplied by often: the weights of a network that predicts.
//!
//! The bits are those of [`crate::matmul`]: blocks of 256 of the reduced axis, each a chain of fused multiply-adds from zero,
//! added in ascending order.
//!
//! The factor lies in panels of 32 columns, a block of one of which (32 KiB) stays in the first-level cache while all rows of
//! the left factor pass by, twelve at a time: 24 sums in registers, for which each step loads two registers and twelve
//! numbers. The left factor is read where it is.

use crate::dispatch::{Level, level};

/// Columns of a panel.
const PANEL: usize = 32;

/// Steps of the reduced axis of one chain, as in [`crate::matmul`].
const BLOCK: usize = 256;

/// Rows of a tile with AVX-512.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 12;

/// A matrix \[k, n\] to be multiplied by from the left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Packed {
    /// Panels one after the other, each `k` rows of [`PANEL`] columns, those beyond the last 0.
    panels: Vec<f32>,
    k: usize,
    n: usize,
}

impl Packed {
    /// The transpose of a row-major matrix \[n, k\], as layers keep their weights.
    ///
    /// # Panics
    /// If `weight` has not `n * k` elements.
    pub(crate) fn transposed(weight: &[f32], n: usize, k: usize) -> Self {
        let mut packed = Self::default();
        assert_eq!(weight.len(), n * k, "a weight of {n} by {k}");
        packed.pack_columns(n, k, |j| &weight[j * k..][..k]);
        packed
    }

    /// Becomes the matrix with these columns, in the memory that it has.
    pub(crate) fn pack_columns<'a>(
        &mut self,
        n: usize,
        k: usize,
        column: impl Fn(usize) -> &'a [f32],
    ) {
        self.reshape(k, n);
        for j in 0..n {
            let panel = &mut self.panels[j / PANEL * k * PANEL..][..k * PANEL];
            for (row, &value) in panel.chunks_exact_mut(PANEL).zip(column(j)) {
                row[j % PANEL] = value;
            }
        }
    }

    /// Becomes the matrix with these rows, in the memory that it has.
    pub(crate) fn pack_rows<'a>(&mut self, k: usize, n: usize, row: impl Fn(usize) -> &'a [f32]) {
        self.reshape(k, n);
        for p in 0..k {
            for (panel, from) in row(p).chunks(PANEL).enumerate() {
                self.panels[(panel * k + p) * PANEL..][..from.len()].copy_from_slice(from);
            }
        }
    }

    fn reshape(&mut self, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        let size = n.div_ceil(PANEL) * k * PANEL;
        // What was there is written over, up to the last panel's padding.
        if self.panels.len() != size || !n.is_multiple_of(PANEL) {
            self.panels.clear();
            self.panels.resize(size, 0.0);
        }
    }

    /// Rows, the length of the reduced axis.
    pub(crate) fn rows(&self) -> usize {
        self.k
    }

    /// `c += a self`, or `c = a self` without `accumulate`; rows of `a` and `c` lie `a_row` and `c_row` apart.
    ///
    /// # Panics
    /// If `a` or `c` is too short for `m` rows.
    pub(crate) fn multiply(
        &self,
        c: &mut [f32],
        c_row: usize,
        a: &[f32],
        a_row: usize,
        m: usize,
        accumulate: bool,
    ) {
        self.multiply_at(level(), c, c_row, a, a_row, m, accumulate);
    }

    #[expect(clippy::too_many_arguments, reason = "a product and how to make it")]
    fn multiply_at(
        &self,
        level: Level,
        c: &mut [f32],
        c_row: usize,
        a: &[f32],
        a_row: usize,
        m: usize,
        accumulate: bool,
    ) {
        let Self { k, n, .. } = *self;
        if m == 0 || n == 0 {
            return;
        }
        assert!(
            n <= c_row && (m - 1) * c_row + n <= c.len(),
            "{m} rows of {n} do not fit the result"
        );
        assert!(
            k <= a_row && (m - 1) * a_row + k <= a.len(),
            "{m} rows of {k} do not fit the left factor"
        );
        for (panel, column) in self
            .panels
            .chunks_exact(k * PANEL)
            .zip((0..n).step_by(PANEL))
        {
            for start in (0..k).step_by(BLOCK) {
                let length = BLOCK.min(k - start);
                let part = Part {
                    b: &panel[start * PANEL..][..length * PANEL],
                    next: self
                        .panels
                        .get(column * k + (start + length) * PANEL..)
                        .unwrap_or_default(),
                    columns: PANEL.min(n - column),
                    accumulate: accumulate || start > 0,
                };
                part.multiply(level, &mut c[column..], c_row, &a[start..], a_row, m);
            }
        }
    }
}

/// A block of a panel.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// Rows of [`PANEL`] columns.
    b: &'a [f32],
    /// What comes after it, to be fetched meanwhile.
    next: &'a [f32],
    /// Columns that are there.
    columns: usize,
    accumulate: bool,
}

impl Part<'_> {
    /// `m` rows of the result; the operands hold them.
    fn multiply(
        self,
        level: Level,
        c: &mut [f32],
        c_row: usize,
        a: &[f32],
        a_row: usize,
        m: usize,
    ) {
        match level {
            Level::Baseline => self.plain(c, c_row, a, a_row, m),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                // Each tile fetches its share of the next block, which is about as long as this one.
                let share = self.b.len().div_ceil(m.div_ceil(ROWS));
                for (tile, row) in (0..m).step_by(ROWS).enumerate() {
                    let rows = ROWS.min(m - row);
                    let (c, a) = (&mut c[row * c_row..], &a[row * a_row..]);
                    let next = self.next.get(tile * share..).unwrap_or_default();
                    let part = Part {
                        next: &next[..share.min(next.len())],
                        ..self
                    };
                    // SAFETY: the operands hold all rows, so these too, and the caller's level is present.
                    unsafe {
                        simd::AVX512[rows - 1](part, c.as_mut_ptr(), c_row, a.as_ptr(), a_row)
                    };
                }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                for row in (0..m).step_by(simd::AVX2_ROWS) {
                    let rows = simd::AVX2_ROWS.min(m - row);
                    let (c, a) = (&mut c[row * c_row..], &a[row * a_row..]);
                    // SAFETY: as above.
                    unsafe { simd::AVX2[rows - 1](self, c.as_mut_ptr(), c_row, a.as_ptr(), a_row) };
                }
            }
        }
    }

    fn plain(self, c: &mut [f32], c_row: usize, a: &[f32], a_row: usize, m: usize) {
        let k = self.b.len() / PANEL;
        for i in 0..m {
            let mut sums = [0.0_f32; PANEL];
            for (b, &factor) in self.b.chunks_exact(PANEL).zip(&a[i * a_row..][..k]) {
                for (sum, &value) in sums.iter_mut().zip(b) {
                    *sum = factor.mul_add(value, *sum);
                }
            }
            let row = &mut c[i * c_row..][..self.columns];
            for (out, &sum) in row.iter_mut().zip(&sums) {
                *out = if self.accumulate { *out + sum } else { sum };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod simd {
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_T1, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps,
    };

    use super::{PANEL, Part, ROWS};

    /// Rows of a tile with AVX2, of 16 columns at a time: 12 of 16 registers hold sums.
    pub(super) const AVX2_ROWS: usize = 6;

    /// Numbers of a line of the caches.
    const LINE: usize = 16;

    type Tile = unsafe fn(Part<'_>, *mut f32, usize, *const f32, usize);

    macro_rules! tiles {
        ($function:ident: $($rows:literal)*) => { [$($function::<$rows>),*] };
    }

    pub(super) static AVX512: [Tile; ROWS] = tiles!(avx512: 1 2 3 4 5 6 7 8 9 10 11 12);
    pub(super) static AVX2: [Tile; AVX2_ROWS] = tiles!(avx2: 1 2 3 4 5 6);

    /// # Safety
    /// `c` and `a` hold `R` rows of the part's columns and of its length, and the CPU has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const R: usize>(
        part: Part<'_>,
        c: *mut f32,
        c_row: usize,
        a: *const f32,
        a_row: usize,
    ) {
        let mask = |from: usize| {
            let columns = part.columns.saturating_sub(from).min(16);
            ((1_u32 << columns) - 1) as u16
        };
        let masks = [mask(0), mask(16)];
        let mut sums: [[__m512; 2]; R] = [[_mm512_setzero_ps(); 2]; R];
        let b = part.b.as_ptr();
        // SAFETY: the caller's promise; the part's rows have all columns, and masked elements of `c` are not touched.
        unsafe {
            for p in 0..part.b.len() / PANEL {
                if let Some(line) = part.next.get(p * LINE) {
                    _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast());
                }
                let right = [
                    _mm512_loadu_ps(b.add(p * PANEL)),
                    _mm512_loadu_ps(b.add(p * PANEL + 16)),
                ];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = _mm512_set1_ps(*a.add(i * a_row + p));
                    sums[0] = _mm512_fmadd_ps(left, right[0], sums[0]);
                    sums[1] = _mm512_fmadd_ps(left, right[1], sums[1]);
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, (&sum, &mask)) in sums.iter().zip(&masks).enumerate() {
                    let at = c.add(i * c_row + 16 * v);
                    let sum = if part.accumulate {
                        _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum)
                    } else {
                        sum
                    };
                    _mm512_mask_storeu_ps(at, mask, sum);
                }
            }
        }
    }

    /// # Safety
    /// `c` and `a` hold `R` rows of the part's columns and of its length, and the CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize>(
        part: Part<'_>,
        c: *mut f32,
        c_row: usize,
        a: *const f32,
        a_row: usize,
    ) {
        let b = part.b.as_ptr();
        for half in (0..part.columns).step_by(16) {
            let columns = (part.columns - half).min(16);
            let mut sums: [[__m256; 2]; R] = [[_mm256_setzero_ps(); 2]; R];
            // SAFETY: the caller's promise; the part's rows have all columns, and of a row of `c` only its own are touched.
            unsafe {
                for p in 0..part.b.len() / PANEL {
                    let right = b.add(p * PANEL + half);
                    let right = [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(8))];
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let left = _mm256_set1_ps(*a.add(i * a_row + p));
                        sums[0] = _mm256_fmadd_ps(left, right[0], sums[0]);
                        sums[1] = _mm256_fmadd_ps(left, right[1], sums[1]);
                    }
                }
                for (i, sums) in sums.iter().enumerate() {
                    let at = c.add(i * c_row + half);
                    // A whole row of sums may reach beyond the result; what is there is copied in and out.
                    let mut row = [0.0_f32; 16];
                    if part.accumulate {
                        std::ptr::copy_nonoverlapping(at, row.as_mut_ptr(), columns);
                    }
                    for (v, &sum) in sums.iter().enumerate() {
                        let to = row.as_mut_ptr().add(8 * v);
                        let sum = if part.accumulate {
                            _mm256_add_ps(_mm256_loadu_ps(to), sum)
                        } else {
                            sum
                        };
                        _mm256_storeu_ps(to, sum);
                    }
                    std::ptr::copy_nonoverlapping(row.as_ptr(), at, columns);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gradient_check::noise,
        matmul::{Matrix, multiply_here},
    };

    fn single(length: usize, seed: u64) -> Vec<f32> {
        noise(length, seed).iter().map(|&v| v as f32).collect()
    }

    fn levels() -> Vec<Level> {
        let mut levels = vec![Level::Baseline];
        #[cfg(target_arch = "x86_64")]
        {
            if level() != Level::Baseline {
                levels.push(Level::Avx2);
            }
            if level() == Level::Avx512 {
                levels.push(Level::Avx512);
            }
        }
        levels
    }

    #[test]
    fn every_instruction_set_makes_the_bits_of_other_products() {
        for (m, n, k) in [
            (1, 1, 1),
            (12, 32, 256),
            (13, 33, 257),
            (5, 70, 600),
            (96, 48, 100),
            (30, 6, 128),
        ] {
            let (a, weight) = (single(m * (k + 1), 1), single(n * k, 2));
            let packed = Packed::transposed(&weight, n, k);
            let mut rows = packed.clone();
            let columns: Vec<Vec<f32>> = (0..k)
                .map(|p| (0..n).map(|j| weight[j * k + p]).collect())
                .collect();
            rows.pack_rows(k, n, |p| &columns[p]);
            let start = single(m * (n + 2), 3);
            for accumulate in [false, true] {
                let mut expected = start.clone();
                multiply_here(
                    &mut expected,
                    n + 2,
                    Matrix::strided(&a, m, k, k + 1),
                    Matrix::new(&weight, n, k).transposed(),
                    accumulate,
                );
                for level in levels() {
                    for packed in [&packed, &rows] {
                        let mut c = start.clone();

                        packed.multiply_at(level, &mut c, n + 2, &a, k + 1, m, accumulate);

                        assert!(
                            c.iter()
                                .zip(&expected)
                                .all(|(x, y)| x.to_bits() == y.to_bits()),
                            "{m}x{n}x{k} at {level:?}, accumulate {accumulate}"
                        );
                    }
                }
            }
        }
    }
}
