//! Products of matrices that stay in the cache, added to what is there: the steps of a recurrence, the taps of a filter.
//!
//! `gemm` packs its operands at each call, which these are too small for and use too often. Each element of the result is
//! one chain of fused multiply-adds in ascending order of the reduced axis that starts at the element itself: the bits
//! depend neither on the instruction set nor on how the rows are cut.

use crate::dispatch::{Level, level};

/// Columns of a panel of [`Panels`]: four AVX-512 registers.
pub(crate) const PANEL: usize = 64;

/// Steps of the reduced axis that are taken together: a panel of so many rows is two thirds of the L1 cache.
const STEPS: usize = 128;

/// Rows of a tile: with four registers of columns, 24 sums of 32 registers.
const ROWS: usize = 6;

/// A left factor: element (i, p) is at `i * row + p * step`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// A right factor: element (p, j) is at `p * row + j`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
}

/// `c[m, n] += a[m, k] b[k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// `c += a b`, rows of `c` lie `c_row` apart.
///
/// # Panics
/// If an operand is too short.
pub(crate) fn accumulate(c: &mut [f32], c_row: usize, a: Left<'_>, b: Right<'_>, size: Size) {
    accumulate_at(level(), c, c_row, a, b, size);
}

fn accumulate_at(level: Level, c: &mut [f32], c_row: usize, a: Left<'_>, b: Right<'_>, size: Size) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(
        n <= c_row && (m - 1) * c_row + n <= c.len(),
        "the result of a product is too short"
    );
    assert!(
        (m - 1) * a.row + (k - 1) * a.step < a.values.len()
            && (k - 1) * b.row + n <= b.values.len(),
        "a factor of a product is too short"
    );
    match level {
        Level::Baseline => plain(c, c_row, a, b, size),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the operands hold all elements of the product, as just asserted, and the caller's level is present.
        Level::Avx512 => unsafe { walk(&simd::AVX512, 16, c, c_row, a, b, size) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { walk(&simd::AVX2, 8, c, c_row, a, b, size) },
    }
}

fn plain(c: &mut [f32], c_row: usize, a: Left<'_>, b: Right<'_>, Size { m, n, k }: Size) {
    for i in 0..m {
        for p in 0..k {
            let factor = a.values[i * a.row + p * a.step];
            let right = &b.values[p * b.row..][..n];
            for (sum, &value) in c[i * c_row..][..n].iter_mut().zip(right) {
                *sum = factor.mul_add(value, *sum);
            }
        }
    }
}

/// What a tile works on; its last register of columns has `last` columns.
#[cfg(target_arch = "x86_64")]
struct Tile {
    c: *mut f32,
    c_row: usize,
    a: *const f32,
    a_row: usize,
    a_step: usize,
    b: *const f32,
    b_row: usize,
    k: usize,
    last: usize,
}

#[cfg(target_arch = "x86_64")]
type TileFunction = unsafe fn(&Tile);

/// Cuts a product into tiles, `tiles[rows - 1][registers - 1]` with registers of `width` columns.
///
/// # Safety
/// The operands hold all elements of the product, and the tiles' instruction set is present.
#[cfg(target_arch = "x86_64")]
unsafe fn walk<const REGISTERS: usize>(
    tiles: &[[TileFunction; REGISTERS]; ROWS],
    width: usize,
    c: &mut [f32],
    c_row: usize,
    a: Left<'_>,
    b: Right<'_>,
    Size { m, n, k }: Size,
) {
    let panel = REGISTERS * width;
    for column in (0..n).step_by(panel) {
        let columns = panel.min(n - column);
        let registers = columns.div_ceil(width);
        for step in (0..k).step_by(STEPS) {
            // Tiles of nearly the same height: a low one would wait for its sums.
            let tiles_down = m.div_ceil(ROWS);
            for i in 0..tiles_down {
                let row = i * m / tiles_down;
                let rows = (i + 1) * m / tiles_down - row;
                let tile = Tile {
                    c: c[row * c_row + column..].as_mut_ptr(),
                    c_row,
                    a: a.values[row * a.row + step * a.step..].as_ptr(),
                    a_row: a.row,
                    a_step: a.step,
                    b: b.values[step * b.row + column..].as_ptr(),
                    b_row: b.row,
                    k: STEPS.min(k - step),
                    last: columns - (registers - 1) * width,
                };
                // SAFETY: the tile is a part of the product, all of which the operands hold.
                unsafe { tiles[rows - 1][registers - 1](&tile) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod simd {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_maskload_ps,
        _mm256_maskstore_ps, _mm256_set_epi32, _mm256_set1_epi32, _mm256_set1_ps,
        _mm256_setzero_ps, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_set1_ps, _mm512_setzero_ps,
    };

    use super::{ROWS, Tile, TileFunction};

    macro_rules! table {
        ($function:ident, $registers:literal: $($v:literal)*) => {
            [
                [$($function::<1, $v>),*],
                [$($function::<2, $v>),*],
                [$($function::<3, $v>),*],
                [$($function::<4, $v>),*],
                [$($function::<5, $v>),*],
                [$($function::<6, $v>),*],
            ]
        };
    }

    pub(super) static AVX512: [[TileFunction; 4]; ROWS] = table!(avx512, 4: 1 2 3 4);
    pub(super) static AVX2: [[TileFunction; 2]; ROWS] = table!(avx2, 2: 1 2);

    /// A tile of `R` rows and `V` registers of 16 columns.
    ///
    /// # Safety
    /// The operands of the tile hold its elements, and the CPU has AVX-512 F.
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const R: usize, const V: usize>(tile: &Tile) {
        let mask = |v: usize| {
            let columns = if v + 1 == V { tile.last } else { 16 };
            (0xffff_u32 >> (16 - columns)) as u16
        };
        let mut sums: [[__m512; V]; R] = [[_mm512_setzero_ps(); V]; R];
        // SAFETY: the caller's promise; masked elements are not touched.
        unsafe {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_maskz_loadu_ps(mask(v), tile.c.add(i * tile.c_row + 16 * v));
                }
            }
            for p in 0..tile.k {
                let mut right = [_mm512_setzero_ps(); V];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = _mm512_maskz_loadu_ps(mask(v), tile.b.add(p * tile.b_row + 16 * v));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = _mm512_set1_ps(*tile.a.add(i * tile.a_row + p * tile.a_step));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = _mm512_fmadd_ps(left, right, *sum);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    _mm512_mask_storeu_ps(tile.c.add(i * tile.c_row + 16 * v), mask(v), sum);
                }
            }
        }
    }

    /// A tile of `R` rows and `V` registers of 8 columns.
    ///
    /// # Safety
    /// The operands of the tile hold its elements, and the CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize, const V: usize>(tile: &Tile) {
        let lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
        let partial = _mm256_cmpgt_epi32(_mm256_set1_epi32(tile.last as i32), lanes);
        let mask = |v: usize| {
            if v + 1 == V {
                partial
            } else {
                _mm256_set1_epi32(-1)
            }
        };
        // SAFETY: the caller's promise; masked elements are not touched.
        unsafe {
            let mut sums: [[__m256; V]; R] = [[_mm256_setzero_ps(); V]; R];
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_maskload_ps(tile.c.add(i * tile.c_row + 8 * v), mask(v));
                }
            }
            for p in 0..tile.k {
                let mut right = [_mm256_setzero_ps(); V];
                for (v, right) in right.iter_mut().enumerate() {
                    *right = _mm256_maskload_ps(tile.b.add(p * tile.b_row + 8 * v), mask(v));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = _mm256_set1_ps(*tile.a.add(i * tile.a_row + p * tile.a_step));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = _mm256_fmadd_ps(left, right, *sum);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    _mm256_maskstore_ps(tile.c.add(i * tile.c_row + 8 * v), mask(v), sum);
                }
            }
        }
    }
}

/// A right factor kept in panels of [`PANEL`] columns, each contiguous, so that a panel is read at full speed.
pub(crate) struct Panels {
    values: Vec<f32>,
    k: usize,
    n: usize,
}

impl Panels {
    /// The factor with these rows; those that are nothing are 0.
    pub(crate) fn from_rows<'a>(
        k: usize,
        n: usize,
        row: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> Self {
        let mut values = vec![0.0; n.div_ceil(PANEL) * k * PANEL];
        for p in 0..k {
            for (panel, from) in row(p).iter().flat_map(|row| row.chunks(PANEL)).enumerate() {
                values[(panel * k + p) * PANEL..][..from.len()].copy_from_slice(from);
            }
        }
        Self { values, k, n }
    }

    /// The factor with these columns; those that are nothing are 0.
    pub(crate) fn from_columns<'a>(
        k: usize,
        n: usize,
        column: impl Fn(usize) -> Option<&'a [f32]>,
    ) -> Self {
        let mut values = vec![0.0; n.div_ceil(PANEL) * k * PANEL];
        for j in 0..n {
            let to = values[j / PANEL * k * PANEL..].chunks_exact_mut(PANEL);
            for (to, &from) in to.zip(column(j).into_iter().flatten()) {
                to[j % PANEL] = from;
            }
        }
        Self { values, k, n }
    }

    /// `c += a panel` for `m` rows, which lie `c_row` apart; `c` begins at the panel's first column.
    pub(crate) fn accumulate_panel(
        &self,
        index: usize,
        c: &mut [f32],
        c_row: usize,
        a: Left<'_>,
        m: usize,
    ) {
        let size = self.k * PANEL;
        let right = Right {
            values: &self.values[index * size..][..size],
            row: PANEL,
        };
        let n = PANEL.min(self.n - index * PANEL);
        accumulate(c, c_row, a, right, Size { m, n, k: self.k });
    }

    /// `c += a self` for `m` rows, which lie `c_row` apart.
    pub(crate) fn accumulate(&self, c: &mut [f32], c_row: usize, a: Left<'_>, m: usize) {
        if m == 0 || self.k == 0 {
            return;
        }
        for index in 0..self.n.div_ceil(PANEL) {
            self.accumulate_panel(index, &mut c[index * PANEL..], c_row, a, m);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::noise;

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
    fn every_instruction_set_makes_the_same_chain() {
        for (m, n, k) in [
            (1, 1, 1),
            (6, 64, 128),
            (7, 65, 129),
            (13, 24, 300),
            (2, 7, 5),
            (32, 128, 64),
        ] {
            let (a, b) = (single(m * k, 1), single(k * n, 2));
            let transposed: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            let start = single(m * (n + 3), 3);
            let mut expected = start.clone();
            for i in 0..m {
                for j in 0..n {
                    for p in 0..k {
                        let sum = &mut expected[i * (n + 3) + j];
                        *sum = a[i * k + p].mul_add(b[p * n + j], *sum);
                    }
                }
            }
            let left = Left {
                values: &a,
                row: k,
                step: 1,
            };
            let across = Left {
                values: &transposed,
                row: 1,
                step: m,
            };
            let right = Right { values: &b, row: n };
            for level in levels() {
                for left in [left, across] {
                    let mut c = start.clone();

                    accumulate_at(level, &mut c, n + 3, left, right, Size { m, n, k });

                    assert!(
                        c.iter()
                            .zip(&expected)
                            .all(|(x, y)| x.to_bits() == y.to_bits()),
                        "{m}x{n}x{k} at {level:?}"
                    );
                }
            }
            let mut c = start.clone();

            Panels::from_rows(k, n, |p| Some(&b[p * n..][..n])).accumulate(&mut c, n + 3, left, m);

            assert_eq!(c, expected);
            let columns: Vec<Vec<f32>> = (0..n)
                .map(|j| (0..k).map(|p| b[p * n + j]).collect())
                .collect();
            let mut c = start.clone();

            Panels::from_columns(k, n, |j| Some(&columns[j])).accumulate(&mut c, n + 3, left, m);

            assert_eq!(c, expected);
        }
    }
}
