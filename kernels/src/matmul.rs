//! Every matrix product of the project, with the same bits on every x86-64 CPU with AVX2 and FMA and for every thread count.
//!
//! The reduced axis is cut into blocks of 256. Inside a block each element of the result is one chain of fused
//! multiply-adds in ascending order that starts at zero; the blocks' sums are added in ascending order. `gemm` computes
//! exactly that in every kernel it may pick, apart from its special paths for thin and tiny products, which sum in an
//! order that depends on the vector width; those are computed here. Threads split the rows of the result, never the
//! reduced axis.

#![allow(
    clippy::many_single_char_names,
    reason = "`c[m, n] = a[m, k] b[k, n]` is what everyone calls them"
)]

use gemm::Parallelism;
use rayon::prelude::*;

use crate::dispatch::dispatched;

/// Length of the blocks of the reduced axis: at most what `gemm` keeps in one pass, whatever the sizes of the caches.
const BLOCK: usize = 256;

/// Products with fewer multiplications than this are not worth a second thread.
const PARALLEL_THRESHOLD: usize = 48 * 48 * 128;

/// Largest result that `gemm` may hand to its horizontal kernels, whose order of summation depends on the vector width.
const TINY_RESULT: usize = 256;

/// Shortest reduced axis that `gemm` treats like any other; below, it multiplies by rank-one updates.
const SHORTEST_AXIS: usize = 3;

/// Element types with a product: `f32` and `f64`.
pub trait Element: Copy + Send + Sync + 'static + std::ops::Add<Output = Self> {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// `destination (+)= a b` over a reduced axis of at most [`BLOCK`], one chain of fused multiply-adds an element.
    #[doc(hidden)]
    fn chain(destination: &mut [Self], shape: Shape, a: &[Self], b: &[Self], accumulate: bool);
}

/// Sizes and strides of one product `c[m, n] = a[m, k] b[k, n]`; rows of `c` are contiguous.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    m: usize,
    n: usize,
    k: usize,
    c_row: usize,
    a_row: usize,
    a_column: usize,
    b_row: usize,
    b_column: usize,
}

macro_rules! element {
    ($type:ty) => {
        impl Element for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            fn chain(destination: &mut [Self], shape: Shape, a: &[Self], b: &[Self], accumulate: bool) {
                dispatched! {
                    fn run(destination: &mut [$type], shape: Shape, a: &[$type], b: &[$type], accumulate: bool) {
                        const WIDTH: usize = 64;
                        let Shape { m, n, k, c_row, a_row, a_column, b_row, b_column } = shape;
                        for i in 0..m {
                            for start in (0..n).step_by(WIDTH) {
                                let width = WIDTH.min(n - start);
                                let mut sums = [0.0; WIDTH];
                                if b_column == 1 {
                                    for p in 0..k {
                                        let factor = a[i * a_row + p * a_column];
                                        let row = &b[p * b_row + start..][..width];
                                        for (sum, &value) in sums.iter_mut().zip(row) {
                                            *sum = factor.mul_add(value, *sum);
                                        }
                                    }
                                } else {
                                    for p in 0..k {
                                        let factor = a[i * a_row + p * a_column];
                                        for (j, sum) in sums[..width].iter_mut().enumerate() {
                                            *sum = factor.mul_add(b[p * b_row + (start + j) * b_column], *sum);
                                        }
                                    }
                                }
                                let row = &mut destination[i * c_row + start..][..width];
                                for (out, &sum) in row.iter_mut().zip(&sums) {
                                    *out = if accumulate { *out + sum } else { sum };
                                }
                            }
                        }
                    }
                }
                run(destination, shape, a, b, accumulate);
            }
        }
    };
}

element!(f32);
element!(f64);

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

/// The result `\[a.rows, b.columns\]` of `a b`, row-major, split over the current rayon pool.
pub fn matmul<T: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    let mut c = vec![T::ZERO; a.rows * b.columns];
    multiply(&mut c, b.columns, a, b, false);
    c
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
    let threads = rayon::current_num_threads();
    let work = a.rows * b.columns * a.columns;
    if threads == 1 || a.rows < 2 || b.columns == 0 || work < PARALLEL_THRESHOLD {
        multiply_here(c, c_row_stride, a, b, accumulate);
        return;
    }
    let rows = a.rows.div_ceil(threads);
    c.par_chunks_mut(rows * c_row_stride)
        .enumerate()
        .for_each(|(chunk, c)| {
            let start = chunk * rows;
            if start < a.rows {
                let part = a.rows_from(start, rows.min(a.rows - start));
                multiply_here(c, c_row_stride, part, b, accumulate);
            }
        });
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
    assert_eq!(a.columns, b.rows, "the inner sizes of a product must agree");
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        n <= c_row_stride && (m - 1) * c_row_stride + n <= c.len(),
        "a {m} by {n} result with rows {c_row_stride} apart does not fit {} elements",
        c.len()
    );
    if k == 0 && !accumulate {
        for row in c.chunks_mut(c_row_stride) {
            row[..n].fill(T::ZERO);
        }
    }
    for start in (0..k).step_by(BLOCK) {
        let length = BLOCK.min(k - start);
        multiply_block(
            c,
            c_row_stride,
            a.columns_from(start, length),
            b.rows_from(start, length),
            accumulate || start > 0,
        );
    }
}

fn multiply_block<T: Element>(
    c: &mut [T],
    c_row_stride: usize,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
) {
    let shape = Shape {
        m: a.rows,
        n: b.columns,
        k: a.columns,
        c_row: c_row_stride,
        a_row: a.row_stride,
        a_column: a.column_stride,
        b_row: b.row_stride,
        b_column: b.column_stride,
    };
    let Shape { m, n, k, .. } = shape;
    if m == 1 || n == 1 || m * n <= TINY_RESULT || k < SHORTEST_AXIS {
        T::chain(c, shape, a.data, b.data, accumulate);
        return;
    }
    // SAFETY: `multiply_here` has checked that `c` holds an m by n result with these strides, and every `Matrix` was
    // checked to lie inside its slice when it was made; `c` is borrowed mutably, so nothing aliases it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
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
        ] {
            for transpose_a in [false, true] {
                for transpose_b in [false, true] {
                    check(m, n, k, transpose_a, transpose_b);
                }
            }
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
