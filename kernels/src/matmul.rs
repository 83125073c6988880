//! Every matrix product of the project, with the same bits on every x86-64 CPU with AVX2 and FMA and for every thread count.
//!
//! The reduced axis is cut into blocks of 256. Inside a block each element of the result is one chain of fused
//! multiply-adds in ascending order that starts at zero; the blocks' sums are added in ascending order, to the addend if
//! there is one. Neither the vector width nor the order in which tiles are computed enters that definition.
//!
//! Blocking (Goto and van de Geijn, 2008), from the outside in: up to `COLUMNS` columns of `b`; a block of the reduced
//! axis, whose part of `b` is packed into panels as wide as a tile (or was, see [`Packed`]); `ROWS` rows of `a`, packed
//! likewise; one panel of `b`, which stays in the L1 cache while all those rows pass; a tile of the result in registers
//! (`tile`). Threads split the rows of the result, never the reduced axis.

#![allow(
    clippy::many_single_char_names,
    reason = "`c[m, n] = a[m, k] b[k, n]` is what everyone calls them"
)]

mod tile;

use std::{cell::RefCell, mem::MaybeUninit, ptr};

use rayon::prelude::*;

use crate::dispatch::{Level, level};
use tile::{Kernels, Lanes, Tile};

/// Length of the blocks of the reduced axis. Part of the definition of every product: another length gives other bits.
/// A panel of `b` takes 32 KiB and one of `a` 14 KiB of the 48 KiB of L1 (AVX-512).
const BLOCK: usize = 256;

/// Rows of `a` that are packed at once: 224 KiB of L2, and a multiple of every tile's rows but a few.
const ROWS: usize = 16 * 14;

/// Columns of `b` that are packed at once: 1 MiB, read again for each [`ROWS`] rows.
const COLUMNS: usize = 1024;

/// Results with at most this many columns leave `a` where it is: so few uses of an element do not pay for a copy.
const NARROW: usize = 128;

/// Results with at most this many rows leave `b` where it is, if its rows are contiguous.
const SHORT: usize = 128;

/// Products with fewer multiplications than this are not worth a second thread.
const PARALLEL_THRESHOLD: usize = 48 * 48 * 128;

/// Right operands up to this size are packed once for all threads; of longer ones each thread packs block after block.
const SHARED_ELEMENTS: usize = 1 << 20;

/// Element types with a product: `f32` and `f64`.
pub trait Element: Copy + Send + Sync + 'static + std::ops::Add<Output = Self> {
    /// 0.
    const ZERO: Self;
    /// The kernels for this machine.
    #[doc(hidden)]
    fn kernels() -> Chosen<Self>;
    /// Runs `f` with the calling thread's memory for packed operands.
    #[doc(hidden)]
    fn with_scratch<R>(f: impl FnOnce(&mut Scratch<Self>) -> R) -> R;
}

/// Kernels of this machine.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Chosen<T: 'static>(&'static Kernels<T>);

/// Memory for packed operands, kept from call to call.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Scratch<T> {
    a: Vec<T>,
    b: Vec<T>,
}

macro_rules! element {
    ($type:ty, $portable:ident, $avx2:ident, $avx512:ident) => {
        impl Element for $type {
            const ZERO: Self = 0.0;

            fn kernels() -> Chosen<Self> {
                Chosen(match level() {
                    Level::Baseline => &tile::portable::$portable,
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => &tile::x86::$avx2,
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => &tile::x86::$avx512,
                })
            }

            fn with_scratch<R>(f: impl FnOnce(&mut Scratch<Self>) -> R) -> R {
                thread_local! {
                    static SCRATCH: RefCell<Scratch<$type>> = RefCell::default();
                }
                SCRATCH.with_borrow_mut(f)
            }
        }
    };
}

element!(f32, F32, F32_AVX2, F32_AVX512);
element!(f64, F64, F64_AVX2, F64_AVX512);

/// A matrix inside a slice: element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T: Element> Matrix<'a, T> {
    /// The row-major matrix that fills `data`.
    ///
    /// # Panics
    /// If `data` has not `rows * columns` elements.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(
            data.len(),
            rows * columns,
            "a {rows} by {columns} matrix needs as many elements"
        );
        Self {
            data,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// A matrix whose rows lie `row_stride` elements apart.
    ///
    /// # Panics
    /// If `data` ends before the last element.
    pub fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= data.len(),
            "a {rows} by {columns} matrix with rows {row_stride} apart does not fit {} elements",
            data.len()
        );
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    /// The transpose: the same elements with the axes exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn rows_from(self, start: usize, rows: usize) -> Self {
        Self {
            data: &self.data[start * self.row_stride..],
            rows,
            ..self
        }
    }

    fn columns_from(self, start: usize, columns: usize) -> Self {
        Self {
            data: &self.data[start * self.column_stride..],
            columns,
            ..self
        }
    }
}

/// The right operand of products, packed once for all of them.
#[derive(Debug, Clone)]
pub struct Packed<T> {
    data: Vec<T>,
    /// Where the first cache line of `data` begins.
    start: usize,
    rows: usize,
    columns: usize,
}

impl<T: Element> Packed<T> {
    /// A packed copy of `b`, made by the current rayon pool.
    pub fn new(b: Matrix<'_, T>) -> Self {
        let width = 2 * T::kernels().0.lanes;
        let columns = b.columns.next_multiple_of(width);
        let mut data = Vec::new();
        let start = aligned(&mut data, b.rows * columns);
        // Each part of the reduced axis is a block of its own.
        data[start..start + b.rows * columns]
            .par_chunks_mut((BLOCK * columns).max(1))
            .enumerate()
            .for_each(|(block, part)| {
                let first = block * BLOCK;
                let b = b.rows_from(first, BLOCK.min(b.rows - first));
                pack_columns(T::kernels().0, part, b);
            });
        Self {
            data,
            start,
            rows: b.rows,
            columns: b.columns,
        }
    }

    /// The packed panels of the block of the reduced axis that begins at `first`.
    fn block(&self, first: usize, length: usize) -> &[T] {
        let columns = self.columns.next_multiple_of(2 * T::kernels().0.lanes);
        &self.data[self.start + first * columns..][..length * columns]
    }
}

/// Makes room for `length` elements that begin at a cache line, and returns where.
fn aligned<T: Element>(data: &mut Vec<T>, length: usize) -> usize {
    const LINE: usize = 64;
    // One line to align, and one for what [`tile::PackFunction`] may write behind the last panel.
    let slack = 2 * LINE / size_of::<T>();
    if data.len() < length + slack {
        *data = vec![T::ZERO; length + slack];
    }
    data.as_ptr().align_offset(LINE).min(slack / 2)
}

/// Packs `b`, at most [`BLOCK`] rows, into panels of the width of a tile.
fn pack_columns<T: Element>(kernels: &Kernels<T>, to: &mut [T], b: Matrix<'_, T>) {
    let width = 2 * kernels.lanes;
    for (panel, to) in to.chunks_mut((b.rows * width).max(1)).enumerate() {
        let first = panel * width;
        let lanes = width.min(b.columns - first);
        let from = Lanes {
            first: b.data[first * b.column_stride..].as_ptr(),
            lanes,
            lane_stride: b.column_stride,
            k: b.rows,
            k_stride: b.row_stride,
        };
        // SAFETY: `b` was checked to lie in its slice when it was made; a width that is a multiple of 8 is never
        // exceeded, and `level` has found the instructions.
        unsafe { (kernels.pack)(to.as_mut_ptr(), width, from) };
    }
}

/// What the sums of a product are added to.
#[derive(Clone, Copy)]
enum Addend<'a, T> {
    Nothing,
    /// What the result holds.
    Result,
    /// One row, to each row.
    Row(&'a [T]),
}

/// The right operand: as it is, or packed.
#[derive(Clone, Copy)]
enum Right<'a, T> {
    Plain(Matrix<'a, T>),
    Packed(&'a Packed<T>),
}

impl<T: Element> Right<'_, T> {
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Plain(b) => (b.rows, b.columns),
            Self::Packed(b) => (b.rows, b.columns),
        }
    }
}

/// The result `\[a.rows, b.columns\]` of `a b`, row-major, split over the current rayon pool.
pub fn matmul<T: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    product(a, Right::Plain(b), Addend::Nothing)
}

/// `a b + bias`, row-major, split over the current rayon pool; `bias` is added to each row, before the first block.
///
/// # Panics
/// If the inner sizes differ or `bias` has not one element a column.
pub fn matmul_bias<T: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>, bias: &[T]) -> Vec<T> {
    assert_eq!(bias.len(), b.columns, "a bias has one element a column");
    product(a, Right::Plain(b), Addend::Row(bias))
}

/// `c = a b + bias` as [`matmul_bias`], into `c`, with an operand that is packed already and on the calling thread alone.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn multiply_packed<T: Element>(c: &mut [T], a: Matrix<'_, T>, b: &Packed<T>, bias: &[T]) {
    assert_eq!(bias.len(), b.columns, "a bias has one element a column");
    assert_eq!(c.len(), a.rows * b.columns, "the result fills `c`");
    let (kernels, columns) = (T::kernels().0, b.columns);
    here(
        kernels,
        writable(c),
        columns,
        a,
        Right::Packed(b),
        Addend::Row(bias),
    );
}

fn product<T: Element>(a: Matrix<'_, T>, b: Right<'_, T>, addend: Addend<'_, T>) -> Vec<T> {
    let columns = b.size().1;
    let length = a.rows * columns;
    // Clearing what is overwritten next would take a tenth of the time of a product.
    let mut c = Vec::with_capacity(length);
    split(&mut c.spare_capacity_mut()[..length], columns, a, b, addend);
    // SAFETY: `split` has written every element of a result without gaps between its rows.
    unsafe { c.set_len(length) };
    c
}

/// `c` as memory that need not be read before it is written.
fn writable<T>(c: &mut [T]) -> &mut [MaybeUninit<T>] {
    // SAFETY: the layouts are the same, and this module writes nothing but values.
    unsafe { &mut *(ptr::from_mut(c) as *mut [MaybeUninit<T>]) }
}

/// `c = a b`, or `c += a b` with `accumulate`; rows of `c` lie `c_row_stride` apart. Split over the current rayon pool.
///
/// # Panics
/// If the inner sizes differ or `c` is too short.
pub fn multiply<T: Element>(
    c: &mut [T],
    c_row_stride: usize,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
) {
    split(
        writable(c),
        c_row_stride,
        a,
        Right::Plain(b),
        existing(accumulate),
    );
}

/// [`multiply`] on the calling thread alone; the same bits.
///
/// # Panics
/// If the inner sizes differ or `c` is too short.
pub fn multiply_here<T: Element>(
    c: &mut [T],
    c_row_stride: usize,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
) {
    let kernels = T::kernels().0;
    here(
        kernels,
        writable(c),
        c_row_stride,
        a,
        Right::Plain(b),
        existing(accumulate),
    );
}

fn existing<T>(accumulate: bool) -> Addend<'static, T> {
    if accumulate {
        Addend::Result
    } else {
        Addend::Nothing
    }
}

/// The product, its rows split over the current rayon pool.
fn split<T: Element>(
    c: &mut [MaybeUninit<T>],
    c_row: usize,
    a: Matrix<'_, T>,
    b: Right<'_, T>,
    addend: Addend<'_, T>,
) {
    let kernels = T::kernels().0;
    let threads = rayon::current_num_threads();
    let (k, n) = b.size();
    if threads == 1 || a.rows < 2 || n == 0 || a.rows * n * k < PARALLEL_THRESHOLD {
        here(kernels, c, c_row, a, b, addend);
        return;
    }
    let fair = a.rows.div_ceil(threads);
    let shared = match b {
        Right::Plain(b) if k * n <= SHARED_ELEMENTS && a.rows > SHORT => Some(Packed::new(b)),
        _ => None,
    };
    let b = shared.as_ref().map_or(b, Right::Packed);
    // Smaller parts balance better, and cost little where no thread packs `b` for itself and a panel of it has enough rows
    // to pass.
    let rows = match b {
        Right::Packed(_) if fair > 2 * ROWS => ROWS,
        _ => fair,
    };
    c.par_chunks_mut(rows * c_row)
        .enumerate()
        .for_each(|(part, c)| {
            let start = part * rows;
            if start < a.rows {
                let a = a.rows_from(start, rows.min(a.rows - start));
                here(kernels, c, c_row, a, b, addend);
            }
        });
}

/// The product, on the calling thread.
fn here<T: Element>(
    kernels: &Kernels<T>,
    c: &mut [MaybeUninit<T>],
    c_row: usize,
    a: Matrix<'_, T>,
    b: Right<'_, T>,
    addend: Addend<'_, T>,
) {
    let (m, (k, n)) = (a.rows, b.size());
    assert_eq!(a.columns, k, "the inner sizes of a product must agree");
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        n <= c_row && (m - 1) * c_row + n <= c.len(),
        "a {m} by {n} result with rows {c_row} apart does not fit {} elements",
        c.len()
    );
    if k == 0 {
        for row in c.chunks_mut(c_row) {
            match addend {
                Addend::Nothing => row[..n].fill(MaybeUninit::new(T::ZERO)),
                Addend::Row(bias) => {
                    row[..n].write_copy_of_slice(bias);
                }
                Addend::Result => {}
            }
        }
        return;
    }
    T::with_scratch(|scratch| {
        // Panels of all columns are contiguous in a packed operand, so its columns are not cut.
        let columns = match b {
            Right::Plain(_) => COLUMNS,
            Right::Packed(_) => n,
        };
        for column in (0..n).step_by(columns) {
            let width = columns.min(n - column);
            for first in (0..k).step_by(BLOCK) {
                let length = BLOCK.min(k - first);
                let b = match b {
                    Right::Plain(b) => {
                        Right::Plain(b.rows_from(first, length).columns_from(column, width))
                    }
                    Right::Packed(_) => b,
                };
                let addend = match addend {
                    _ if first > 0 => Addend::Result,
                    Addend::Row(bias) => Addend::Row(&bias[column..column + width]),
                    other => other,
                };
                let c = &mut c[column..];
                let a = a.columns_from(first, length);
                block(kernels, c, c_row, a, (b, first), addend, scratch);
            }
        }
    });
}

/// One block of the reduced axis, at most [`COLUMNS`] columns of a plain operand. A packed one begins at its row `b.1`.
fn block<T: Element>(
    kernels: &Kernels<T>,
    c: &mut [MaybeUninit<T>],
    c_row: usize,
    a: Matrix<'_, T>,
    (b, first): (Right<'_, T>, usize),
    addend: Addend<'_, T>,
    scratch: &mut Scratch<T>,
) {
    let width = 2 * kernels.lanes;
    let (k, n) = (a.columns, b.size().1);
    // Where the panel of `b` that begins at a column lies, and the distance of its rows.
    let padded = n.next_multiple_of(width);
    let (panels, plain): (&[T], Option<Matrix<'_, T>>) = match b {
        Right::Packed(b) => (b.block(first, k), None),
        Right::Plain(b) if b.column_stride == 1 && a.rows <= SHORT => {
            // A kernel loads whole vectors: only the last columns, where they do not fill a panel, are packed.
            let whole = n / width * width;
            let rest = b.columns_from(whole.min(n - 1), n - whole);
            let start = aligned(&mut scratch.b, width * k);
            if whole < n {
                pack_columns(kernels, &mut scratch.b[start..][..width * k], rest);
            }
            (&scratch.b[start..], Some(b))
        }
        Right::Plain(b) => {
            let start = aligned(&mut scratch.b, padded * k);
            pack_columns(kernels, &mut scratch.b[start..][..padded * k], b);
            (&scratch.b[start..], None)
        }
    };
    for top in (0..a.rows).step_by(ROWS) {
        let rows = ROWS.min(a.rows - top);
        let part = a.rows_from(top, rows);
        let left = if n <= NARROW {
            None
        } else {
            let start = aligned(&mut scratch.a, rows.next_multiple_of(kernels.rows) * k);
            pack_rows(kernels, &mut scratch.a[start..], part);
            Some(&scratch.a[start..])
        };
        for column in (0..n).step_by(width) {
            let columns = width.min(n - column);
            let vectors = columns.div_ceil(kernels.lanes);
            let (b, b_row) = match plain {
                Some(b) if columns == width => (b.data[column..].as_ptr(), b.row_stride),
                Some(_) => (panels.as_ptr(), width),
                None => (panels[column * k..].as_ptr(), width),
            };
            for row in (0..rows).step_by(kernels.rows) {
                let height = kernels.rows.min(rows - row);
                let at = (top + row) * c_row + column;
                let (a, a_row, a_column) = match left {
                    Some(packed) => (packed[row * k..].as_ptr(), 1, kernels.rows),
                    None => (
                        part.data[row * part.row_stride..].as_ptr(),
                        part.row_stride,
                        part.column_stride,
                    ),
                };
                let c = c[at..].as_mut_ptr().cast::<T>();
                let tile = Tile {
                    k,
                    a,
                    a_row,
                    a_column,
                    b,
                    b_row,
                    c,
                    c_row,
                    columns,
                    next: match plain {
                        // The last rows over a panel fetch the one that follows.
                        None if row + kernels.rows >= rows && column + width < n => {
                            (panels[(column + width) * k..].as_ptr(), width)
                        }
                        _ => (b, 0),
                    },
                    addend: match addend {
                        Addend::Nothing => (ptr::null(), 0),
                        Addend::Result => (c.cast_const(), c_row),
                        Addend::Row(bias) => (bias[column..].as_ptr(), 0),
                    },
                };
                // SAFETY: `here` has checked that `c` holds the result and a bias one row of it; each matrix was checked
                // to lie in its slice when it was made, and a panel of `b` is as wide as the kernel loads; `level` has
                // found the instructions.
                unsafe { (kernels.tile)(height, vectors, a_row == 1)(&tile) };
            }
        }
    }
}

/// Packs `a`, at most [`BLOCK`] columns, into panels of the height of a tile; the last may have fewer rows.
fn pack_rows<T: Element>(kernels: &Kernels<T>, to: &mut [T], a: Matrix<'_, T>) {
    for row in (0..a.rows).step_by(kernels.rows) {
        let from = Lanes {
            first: a.data[row * a.row_stride..].as_ptr(),
            lanes: kernels.rows.min(a.rows - row),
            lane_stride: a.row_stride,
            k: a.columns,
            k_stride: a.column_stride,
        };
        let to = &mut to[row * a.columns..];
        assert!(
            to.len() >= kernels.rows * a.columns + 8,
            "`aligned` left room behind the last panel"
        );
        // SAFETY: `a` was checked to lie in its slice when it was made, `to` is long enough, and `level` has found the
        // instructions.
        unsafe { (kernels.pack)(to.as_mut_ptr(), kernels.rows, from) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(length: usize, seed: u32) -> Vec<f32> {
        (0..length as u32)
            .map(|i| {
                let x = (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
                let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
                ((x ^ (x >> 16)) as f32 / u32::MAX as f32 - 0.5) * 4.0
            })
            .collect()
    }

    /// The definition: blocks of 256, each one chain of fused multiply-adds.
    fn definition(
        a: &dyn Fn(usize, usize) -> f32,
        b: &dyn Fn(usize, usize) -> f32,
        m: usize,
        n: usize,
        k: usize,
    ) -> Vec<f32> {
        let mut c = Vec::with_capacity(m * n);
        for i in 0..m {
            for j in 0..n {
                let mut total = 0.0;
                for start in (0..k).step_by(BLOCK) {
                    let mut sum = 0.0_f32;
                    for p in start..k.min(start + BLOCK) {
                        sum = a(i, p).mul_add(b(p, j), sum);
                    }
                    total = if start == 0 { sum } else { total + sum };
                }
                c.push(total);
            }
        }
        c
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|v| v.to_bits()).collect()
    }

    fn check(m: usize, n: usize, k: usize, transpose_a: bool, transpose_b: bool) {
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        let left = if transpose_a {
            Matrix::new(&a, k, m).transposed()
        } else {
            Matrix::new(&a, m, k)
        };
        let right = if transpose_b {
            Matrix::new(&b, n, k).transposed()
        } else {
            Matrix::new(&b, k, n)
        };
        let at = |i: usize, p: usize| {
            if transpose_a {
                a[p * m + i]
            } else {
                a[i * k + p]
            }
        };
        let bt = |p: usize, j: usize| {
            if transpose_b {
                b[j * k + p]
            } else {
                b[p * n + j]
            }
        };
        let expected = bits(&definition(&at, &bt, m, n, k));
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();

            let c = pool.install(|| matmul(left, right));

            assert!(
                bits(&c) == expected,
                "{m}x{n}x{k} {transpose_a} {transpose_b} with {threads} threads"
            );
        }
    }

    #[test]
    fn equals_its_definition_in_every_bit() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 300, 256),
            (300, 1, 257),
            (16, 16, 64),
            (17, 16, 64),
            (96, 96, 32),
            (96, 32, 96),
            (192, 128, 100),
            (130, 70, 258),
            (33, 257, 513),
            (256, 256, 1024),
            (7, 3, 2),
            (400, 300, 1),
            (700, 40, 50),
            (5, 1100, 20),
        ] {
            for transpose_a in [false, true] {
                for transpose_b in [false, true] {
                    check(m, n, k, transpose_a, transpose_b);
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let mut sets = vec![&tile::portable::F32];
        #[cfg(target_arch = "x86_64")]
        {
            if level() != Level::Baseline {
                sets.push(&tile::x86::F32_AVX2);
            }
            if level() == Level::Avx512 {
                sets.push(&tile::x86::F32_AVX512);
            }
        }
        for (m, n, k) in [(1, 33, 300), (96, 96, 32), (150, 150, 40), (31, 200, 257)] {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false)] {
                let left = if transpose_a {
                    Matrix::new(&a, k, m).transposed()
                } else {
                    Matrix::new(&a, m, k)
                };
                let right = if transpose_b {
                    Matrix::new(&b, n, k).transposed()
                } else {
                    Matrix::new(&b, k, n)
                };
                let expected = bits(&matmul(left, right));
                for kernels in &sets {
                    let mut c = vec![f32::NAN; m * n];

                    here(
                        kernels,
                        writable(&mut c),
                        n,
                        left,
                        Right::Plain(right),
                        Addend::Nothing,
                    );

                    assert!(bits(&c) == expected, "{m}x{n}x{k} by {} rows", kernels.rows);
                }
            }
        }
    }

    #[test]
    fn a_packed_operand_and_a_bias_give_the_bits_of_adding_to_the_bias() {
        for (m, n, k) in [(1, 3, 5), (96, 100, 700), (250, 33, 256)] {
            let (a, b, bias) = (noise(m * k, 1), noise(k * n, 2), noise(n, 3));
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, n, k).transposed());
            let mut expected = bias.repeat(m);
            multiply(&mut expected, n, a, b, true);
            let mut c = vec![f32::NAN; m * n];

            multiply_packed(&mut c, a, &Packed::new(b), &bias);

            assert!(bits(&c) == bits(&expected), "{m}x{n}x{k}");
            assert!(bits(&matmul_bias(a, b, &bias)) == bits(&expected));
        }
    }

    #[test]
    fn adds_to_what_is_there_and_leaves_the_gaps_alone() {
        let (a, b) = (noise(20 * 40, 3), noise(40 * 30, 4));
        let mut c = vec![1.0_f32; 20 * 35];

        multiply(
            &mut c,
            35,
            Matrix::new(&a, 20, 40),
            Matrix::new(&b, 40, 30),
            true,
        );

        let product = matmul(Matrix::new(&a, 20, 40), Matrix::new(&b, 40, 30));
        for i in 0..20 {
            for j in 0..35 {
                let expected = if j < 30 {
                    1.0 + product[i * 30 + j]
                } else {
                    1.0
                };
                assert_eq!(c[i * 35 + j].to_bits(), expected.to_bits());
            }
        }
    }

    #[test]
    fn double_precision_agrees_with_a_plain_sum() {
        let a: Vec<f64> = noise(50 * 300, 5).into_iter().map(f64::from).collect();
        let b: Vec<f64> = noise(300 * 40, 6).into_iter().map(f64::from).collect();

        let c = matmul(Matrix::new(&a, 50, 300), Matrix::new(&b, 300, 40));

        for i in 0..50 {
            for j in 0..40 {
                let plain: f64 = (0..300).map(|p| a[i * 300 + p] * b[p * 40 + j]).sum();
                assert!((c[i * 40 + j] - plain).abs() < 1e-12 * 300.0);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_shape_equals_its_definition(m in 1_usize..60, n in 1_usize..60, k in 1_usize..600, ta: bool, tb: bool) {
            check(m, n, k, ta, tb);
        }
    }
}
