//! The innermost loops of a product: one tile of the result over one block of the reduced axis, and the copies of
//! operands that make its loads contiguous.
//!
//! A tile is held in vector registers: with AVX-512 14 rows by 2 vectors are 28 sums, which leaves two registers for the
//! row of `b` and one for the broadcast element of `a`; 28 independent chains are more than the 8 that two units of
//! latency 4 need, and a step makes 16 loads for 28 multiply-adds. AVX2 has 16 registers: 6 rows by 2 vectors.

use std::ptr;

/// One tile: `c[i, j] = addend[i, j] + sum_p a[i, p] b[p, j]`, the sum a chain of fused multiply-adds from zero.
pub(super) struct Tile<T> {
    /// Length of the reduced axis.
    pub(super) k: usize,
    /// First element of the rows of `a`.
    pub(super) a: *const T,
    /// Distance of two rows of `a`; 1 in kernels for packed rows.
    pub(super) a_row: usize,
    /// Distance of two columns of `a`.
    pub(super) a_column: usize,
    /// First row of `b`: as many contiguous elements as the kernel has columns, wanted or not.
    pub(super) b: *const T,
    /// Distance of two rows of `b`.
    pub(super) b_row: usize,
    /// First element of the result.
    pub(super) c: *mut T,
    /// Distance of two rows of the result.
    pub(super) c_row: usize,
    /// What to fetch into the L2 cache meanwhile, and the distance of its rows, of which there are `k`: the panel of `b`
    /// that comes next, or 0 apart what is there already. Weights of many layers come from the L3 cache otherwise.
    pub(super) next: (*const T, usize),
    /// Columns that are wanted.
    pub(super) columns: usize,
    /// First element of what is added to the sums, and the distance of its rows; null for nothing.
    pub(super) addend: (*const T, usize),
}

/// Computes a tile with its own fixed number of rows and vectors.
///
/// # Safety
/// All pointers of the tile are valid for what its fields say, `c` for writing, and the processor has the instructions
/// of the [`Kernels`] that the function comes from.
pub(super) type TileFunction<T> = unsafe fn(&Tile<T>);

/// Copies `lanes` (at most `width`) rows of `k` elements so that `to[p * width + lane] = from[lane * lane_stride + p * k_stride]`.
/// Lanes beyond `lanes` hold anything.
///
/// # Safety
/// `from` is valid for that, `to` for writing `k * width + 8` elements, and the processor has the instructions.
pub(super) type PackFunction<T> = unsafe fn(to: *mut T, width: usize, from: Lanes<T>);

/// Where a panel is packed from.
#[expect(clippy::struct_field_names, reason = "a lane is what is counted")]
#[derive(Clone, Copy)]
pub(super) struct Lanes<T> {
    pub(super) first: *const T,
    pub(super) lanes: usize,
    pub(super) lane_stride: usize,
    pub(super) k: usize,
    pub(super) k_stride: usize,
}

/// The kernels of one element type and instruction set.
pub(super) struct Kernels<T> {
    /// Most rows of a tile.
    pub(super) rows: usize,
    /// Elements of a vector; a tile has one or two of them side by side.
    pub(super) lanes: usize,
    /// The kernel for 1 to `rows` rows, 1 or 2 vectors, and rows of `a` that lie 1 apart or not.
    pub(super) tile: fn(rows: usize, vectors: usize, is_packed: bool) -> TileFunction<T>,
    pub(super) pack: PackFunction<T>,
}

/// Rows and columns of the blocks that are transposed in registers.
const BLOCK: usize = 8;

/// [`PackFunction`], to be compiled for each instruction set. `transpose(from, row_stride, to, to_stride)` is the one for
/// blocks of [`BLOCK`] by [`BLOCK`] whose row `i` is the `i`-th of the pointers.
///
/// # Safety
/// See [`PackFunction`].
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside its callers, which have the instructions"
)]
#[inline(always)]
unsafe fn pack<T: Copy, const ROWS: usize, const COLUMNS: usize>(
    to: *mut T,
    width: usize,
    from: Lanes<T>,
    transpose: impl Fn([*const T; BLOCK], *mut T, usize),
) {
    let Lanes {
        first,
        lanes,
        lane_stride,
        k,
        k_stride,
    } = from;
    // SAFETY: every read is at `lane * lane_stride + p * k_stride` with `lane < lanes` and `p < k`; every write is below
    // `k * width`, or fewer than `BLOCK` elements behind it.
    unsafe {
        if lane_stride == 1 && lanes == width && (width == ROWS || width == COLUMNS) {
            for p in 0..k {
                let (from, to) = (first.add(p * k_stride), to.add(p * width));
                // Of constant length, so that no function is called for a handful of elements.
                if width == ROWS {
                    ptr::copy_nonoverlapping(from.cast::<[T; ROWS]>(), to.cast(), 1);
                } else {
                    ptr::copy_nonoverlapping(from.cast::<[T; COLUMNS]>(), to.cast(), 1);
                }
            }
        } else if k_stride == 1 {
            // Where `width` is no multiple of `BLOCK`, a block reaches into the first lanes of the next element of the
            // reduced axis; those are written afterwards.
            for lane in (0..lanes).step_by(BLOCK).rev() {
                let rows: [*const T; BLOCK] =
                    std::array::from_fn(|i| first.add((lane + i).min(lanes - 1) * lane_stride));
                for p in (0..k / BLOCK * BLOCK).step_by(BLOCK) {
                    transpose(rows.map(|row| row.add(p)), to.add(p * width + lane), width);
                }
                for p in k / BLOCK * BLOCK..k {
                    for (i, row) in rows.iter().take(lanes - lane).enumerate() {
                        *to.add(p * width + lane + i) = *row.add(p);
                    }
                }
            }
        } else {
            for p in 0..k {
                for lane in 0..lanes {
                    *to.add(p * width + lane) = *first.add(lane * lane_stride + p * k_stride);
                }
            }
        }
    }
}

/// Defines the kernels for one element type and instruction set.
macro_rules! kernels {
    (
        $name:ident, $type:ty, features: $features:literal, lanes: $lanes:literal, rows: $rows:literal [$($row:literal)*],
        zero: $zero:expr, load: $load:expr, store: $store:expr, broadcast: $broadcast:expr, add: $add:expr,
        multiply_add: $multiply_add:expr, transpose: $transpose:expr
    ) => {
        pub(in super::super) static $name: Kernels<$type> = {
            const LANES: usize = $lanes;

            #[target_feature(enable = $features)]
            unsafe fn tile<const ROWS: usize, const VECTORS: usize, const PACKED: bool>(t: &Tile<$type>) {
                // SAFETY: the caller's promise about the pointers; no access goes beyond `k`, `ROWS` and `columns`.
                unsafe {
                    let a_row = if PACKED { 1 } else { t.a_row };
                    // The result comes from memory or an outer cache: fetched now, it is there when the sums are.
                    for i in 0..ROWS {
                        let row = t.c.wrapping_add(i * t.c_row);
                        _mm_prefetch::<_MM_HINT_T0>(row.cast());
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(t.columns - 1).cast());
                    }
                    let mut sums = [[$zero; VECTORS]; ROWS];
                    let (mut a, mut b) = (t.a, t.b);
                    let (mut next, next_row) = t.next;
                    for _ in 0..t.k {
                        for v in 0..VECTORS {
                            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(v * LANES).cast());
                        }
                        let row: [_; VECTORS] = std::array::from_fn(|v| $load(b.add(v * LANES)));
                        for i in 0..ROWS {
                            let element = $broadcast(*a.add(i * a_row));
                            for v in 0..VECTORS {
                                sums[i][v] = $multiply_add(element, row[v], sums[i][v]);
                            }
                        }
                        a = a.wrapping_add(t.a_column);
                        b = b.wrapping_add(t.b_row);
                        next = next.wrapping_add(next_row);
                    }
                    let (addend, addend_row) = t.addend;
                    if t.columns == VECTORS * LANES {
                        for i in 0..ROWS {
                            for v in 0..VECTORS {
                                let mut sum = sums[i][v];
                                if !addend.is_null() {
                                    sum = $add($load(addend.add(i * addend_row + v * LANES)), sum);
                                }
                                $store(t.c.add(i * t.c_row + v * LANES), sum);
                            }
                        }
                        return;
                    }
                    for i in 0..ROWS {
                        let mut row = [0.0; 2 * LANES];
                        for v in 0..VECTORS {
                            $store(row.as_mut_ptr().add(v * LANES), sums[i][v]);
                        }
                        for (j, &sum) in row[..t.columns].iter().enumerate() {
                            let sum = if addend.is_null() { sum } else { *addend.add(i * addend_row + j) + sum };
                            *t.c.add(i * t.c_row + j) = sum;
                        }
                    }
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn packed(to: *mut $type, width: usize, from: Lanes<$type>) {
                // SAFETY: the caller's promise.
                unsafe {
                    pack::<$type, $rows, { 2 * LANES }>(to, width, from, $transpose);
                }
            }

            fn choose(rows: usize, vectors: usize, is_packed: bool) -> TileFunction<$type> {
                match (rows, vectors, is_packed) {
                    $(
                        ($row, 1, false) => tile::<$row, 1, false>,
                        ($row, 1, true) => tile::<$row, 1, true>,
                        ($row, 2, false) => tile::<$row, 2, false>,
                        ($row, 2, true) => tile::<$row, 2, true>,
                    )*
                    _ => unreachable!("a tile has 1 to {} rows and 1 or 2 vectors", $rows),
                }
            }

            Kernels { rows: $rows, lanes: LANES, tile: choose, pack: packed }
        };
    };
}

/// [`pack`]'s blocks where there is nothing better.
///
/// # Safety
/// The rows are valid for reading [`BLOCK`] elements, `to` for writing as many rows of as many, `stride` apart.
#[expect(clippy::inline_always, reason = "must be compiled inside its callers")]
#[inline(always)]
unsafe fn transpose_plain<T: Copy>(rows: [*const T; BLOCK], to: *mut T, stride: usize) {
    for p in 0..BLOCK {
        for (i, row) in rows.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *to.add(p * stride + i) = *row.add(p) };
        }
    }
}

/// The kernels for any processor: `mul_add` may be a call of the C library.
pub(super) mod portable {
    use super::{Kernels, Lanes, Tile, TileFunction, pack, transpose_plain};

    macro_rules! portable {
        ($name:ident, $type:ty) => {
            pub(in super::super) static $name: Kernels<$type> = {
                unsafe fn tile<const ROWS: usize>(t: &Tile<$type>) {
                    for i in 0..ROWS {
                        for j in 0..t.columns {
                            // SAFETY: a tile's pointers are valid for its rows, columns and `k`.
                            unsafe {
                                let mut sum: $type = 0.0;
                                for p in 0..t.k {
                                    let a = *t.a.add(i * t.a_row + p * t.a_column);
                                    sum = a.mul_add(*t.b.add(p * t.b_row + j), sum);
                                }
                                let (addend, row) = t.addend;
                                if !addend.is_null() {
                                    sum += *addend.add(i * row + j);
                                }
                                *t.c.add(i * t.c_row + j) = sum;
                            }
                        }
                    }
                }

                unsafe fn packed(to: *mut $type, width: usize, from: Lanes<$type>) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        pack::<$type, 2, 16>(to, width, from, |rows, to, stride| {
                            transpose_plain(rows, to, stride);
                        });
                    }
                }

                fn choose(rows: usize, _: usize, _: bool) -> TileFunction<$type> {
                    match rows {
                        1 => tile::<1>,
                        2 => tile::<2>,
                        _ => unreachable!("a tile has 1 or 2 rows"),
                    }
                }

                Kernels {
                    rows: 2,
                    lanes: 8,
                    tile: choose,
                    pack: packed,
                }
            };
        };
    }

    portable!(F32, f32);
    portable!(F64, f64);
}

/// The kernels for x86-64.
#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::{
        __m256, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_add_pd, _mm256_add_ps,
        _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_loadu_pd, _mm256_loadu_ps, _mm256_permute2f128_ps,
        _mm256_set1_pd, _mm256_set1_ps, _mm256_setzero_pd, _mm256_setzero_ps, _mm256_shuffle_ps,
        _mm256_storeu_pd, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_pd,
        _mm512_add_ps, _mm512_fmadd_pd, _mm512_fmadd_ps, _mm512_loadu_pd, _mm512_loadu_ps,
        _mm512_set1_pd, _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_storeu_pd,
        _mm512_storeu_ps,
    };

    use super::{BLOCK, Kernels, Lanes, Tile, TileFunction, pack, transpose_plain};

    /// Transposes a block in registers: pairs, fours, halves.
    ///
    /// # Safety
    /// See [`transpose_plain`].
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn transpose(rows: [*const f32; BLOCK], to: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        let r: [__m256; BLOCK] = rows.map(|row| unsafe { _mm256_loadu_ps(row) });
        let pairs: [__m256; BLOCK] = std::array::from_fn(|i| {
            let (a, b) = (r[i / 2 * 2], r[i / 2 * 2 + 1]);
            if i % 2 == 0 {
                _mm256_unpacklo_ps(a, b)
            } else {
                _mm256_unpackhi_ps(a, b)
            }
        });
        let fours: [__m256; BLOCK] = std::array::from_fn(|i| {
            let (a, b) = (
                pairs[i / 4 * 4 + i % 4 / 2],
                pairs[i / 4 * 4 + 2 + i % 4 / 2],
            );
            if i % 2 == 0 {
                _mm256_shuffle_ps::<0x44>(a, b)
            } else {
                _mm256_shuffle_ps::<0xee>(a, b)
            }
        });
        for i in 0..BLOCK {
            let (a, b) = (fours[i % 4], fours[4 + i % 4]);
            let column = if i < 4 {
                _mm256_permute2f128_ps::<0x20>(a, b)
            } else {
                _mm256_permute2f128_ps::<0x31>(a, b)
            };
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to.add(i * stride), column) };
        }
    }

    kernels!(
        F32_AVX512, f32, features: "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma", lanes: 16,
        rows: 14 [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
        zero: _mm512_setzero_ps(), load: _mm512_loadu_ps, store: _mm512_storeu_ps, broadcast: _mm512_set1_ps,
        add: _mm512_add_ps, multiply_add: _mm512_fmadd_ps,
        transpose: |rows, to, stride| transpose(rows, to, stride)
    );
    kernels!(
        F64_AVX512, f64, features: "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma", lanes: 8,
        rows: 14 [1 2 3 4 5 6 7 8 9 10 11 12 13 14],
        zero: _mm512_setzero_pd(), load: _mm512_loadu_pd, store: _mm512_storeu_pd, broadcast: _mm512_set1_pd,
        add: _mm512_add_pd, multiply_add: _mm512_fmadd_pd,
        transpose: |rows, to, stride| transpose_plain(rows, to, stride)
    );
    kernels!(
        F32_AVX2, f32, features: "avx2,fma", lanes: 8, rows: 6 [1 2 3 4 5 6],
        zero: _mm256_setzero_ps(), load: _mm256_loadu_ps, store: _mm256_storeu_ps, broadcast: _mm256_set1_ps,
        add: _mm256_add_ps, multiply_add: _mm256_fmadd_ps,
        transpose: |rows, to, stride| transpose(rows, to, stride)
    );
    kernels!(
        F64_AVX2, f64, features: "avx2,fma", lanes: 4, rows: 6 [1 2 3 4 5 6],
        zero: _mm256_setzero_pd(), load: _mm256_loadu_pd, store: _mm256_storeu_pd, broadcast: _mm256_set1_pd,
        add: _mm256_add_pd, multiply_add: _mm256_fmadd_pd,
        transpose: |rows, to, stride| transpose_plain(rows, to, stride)
    );
}
