//! Multi-head self-attention on packed queries, keys and values, with its backward pass.
//!
//! The scores are not kept for the backward pass but formed again: at a few hundred bars they cost less than the memory
//! they would move.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::dispatch::dispatched;
use crate::dropout::Dropout;
use crate::lanes;
use crate::matmul::{Matrix, multiply_here};
use crate::storage::{Elements, operand, tensor};

/// `softmax(Q K^T / sqrt(width / heads)) V` per head, with `dropout` on the probabilities. Every bar sees every bar.
///
/// `packed`: \[batch, length, 3 width\], queries, keys and values beside each other, heads contiguous inside each;
/// result: \[batch, length, width\].
pub fn attention(packed: &Tensor, heads: usize, dropout: Dropout) -> Result<Tensor> {
    packed.contiguous()?.apply_op1(Attention { heads, dropout })
}

struct Attention {
    heads: usize,
    dropout: Dropout,
}

/// One head's place inside a window's packed rows.
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    width: usize,
    /// Columns of a head.
    size: usize,
    /// First column of the head.
    column: usize,
}

impl Head {
    fn part<'a>(&self, packed: &'a [f32], which: usize) -> Matrix<'a, f32> {
        Matrix::strided(
            &packed[which * self.width + self.column..],
            self.length,
            self.size,
            3 * self.width,
        )
    }

    /// `probabilities = softmax(Q K^T scale)`.
    fn probabilities(&self, packed: &[f32], probabilities: &mut [f32]) {
        multiply_here(
            probabilities,
            self.length,
            self.part(packed, 0),
            self.part(packed, 1).transposed(),
            false,
        );
        softmax_rows(probabilities, self.length, self.scale());
    }

    fn scale(&self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }
}

impl Attention {
    fn head(&self, layout: &[usize], index: usize) -> Result<Head> {
        let &[_, length, packed] = layout else {
            candle_core::bail!("attention: expected [batch, length, 3 width], got {layout:?}");
        };
        let width = packed / 3;
        if self.heads == 0 || packed % 3 != 0 || width % self.heads != 0 {
            candle_core::bail!(
                "attention: {} heads do not divide a packed width of {packed}",
                self.heads
            );
        }
        let size = width / self.heads;
        Ok(Head {
            length,
            width,
            size,
            column: index * size,
        })
    }

    /// The dropout counter of the first probability of a head.
    fn counter(&self, batch: usize, head: usize, length: usize) -> u32 {
        ((batch * self.heads + head) * length * length) as u32
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, packed: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let packed = operand(packed, layout, "attention")?;
        let first = self.head(layout.dims(), 0)?;
        let Head { length, width, .. } = first;
        let mut out = vec![0.0; packed.len() / 3];
        out.par_chunks_mut(length * width)
            .zip(packed.par_chunks(3 * length * width))
            .enumerate()
            .for_each(|(batch, (out, packed))| {
                let mut probabilities = vec![0.0; length * length];
                for index in 0..self.heads {
                    let head = Head {
                        column: index * first.size,
                        ..first
                    };
                    head.probabilities(packed, &mut probabilities);
                    if !self.dropout.is_none() {
                        scale_in_place(
                            &mut probabilities,
                            self.dropout,
                            self.counter(batch, index, length),
                        );
                    }
                    let probabilities = Matrix::new(&probabilities, length, length);
                    multiply_here(
                        &mut out[head.column..],
                        width,
                        probabilities,
                        head.part(packed, 2),
                        false,
                    );
                }
            });
        let (batch, ..) = layout.shape().dims3()?;
        Ok((CpuStorage::F32(out), Shape::from((batch, length, width))))
    }

    fn bwd(&self, packed: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (values, g) = (Elements::of(packed)?, Elements::of(&gradient)?);
        let (values, g): (&[f32], &[f32]) = (&values, &g);
        let first = self.head(packed.dims(), 0)?;
        let Head { length, width, .. } = first;
        let mut out = vec![0.0; values.len()];
        out.par_chunks_mut(3 * length * width)
            .zip(values.par_chunks(3 * length * width))
            .zip(g.par_chunks(length * width))
            .enumerate()
            .for_each(|(batch, ((out, packed), g))| {
                let mut scratch = vec![0.0; 3 * length * length];
                for index in 0..self.heads {
                    let head = Head {
                        column: index * first.size,
                        ..first
                    };
                    self.head_gradient(
                        head,
                        packed,
                        g,
                        out,
                        &mut scratch,
                        self.counter(batch, index, length),
                    );
                }
            });
        Ok(Some(tensor(out, packed.shape().clone())?))
    }
}

impl Attention {
    /// Gradients of one head's queries, keys and values, written to their places in `out`.
    fn head_gradient(
        &self,
        head: Head,
        packed: &[f32],
        g: &[f32],
        out: &mut [f32],
        scratch: &mut [f32],
        counter: u32,
    ) {
        let Head {
            length,
            width,
            size,
            column,
        } = head;
        let (probabilities, rest) = scratch.split_at_mut(length * length);
        let (dropped, scores) = rest.split_at_mut(length * length);
        head.probabilities(packed, probabilities);
        dropped.copy_from_slice(probabilities);
        if !self.dropout.is_none() {
            scale_in_place(dropped, self.dropout, counter);
        }
        let g = Matrix::strided(&g[column..], length, size, width);

        // dV = dropout(P)^T dO, dP = dropout(dO V^T), dS = P * (dP - rowsum(dP * P)), dQ = dS K scale, dK = dS^T Q scale.
        let dropped = Matrix::new(dropped, length, length).transposed();
        multiply_here(&mut out[2 * width + column..], 3 * width, dropped, g, false);
        multiply_here(scores, length, g, head.part(packed, 2).transposed(), false);
        if !self.dropout.is_none() {
            scale_in_place(scores, self.dropout, counter);
        }
        softmax_gradient_rows(probabilities, scores, length, head.scale());
        let scores = Matrix::new(scores, length, length);
        multiply_here(
            &mut out[column..],
            3 * width,
            scores,
            head.part(packed, 1),
            false,
        );
        multiply_here(
            &mut out[width + column..],
            3 * width,
            scores.transposed(),
            head.part(packed, 0),
            false,
        );
    }
}

/// [`attention`] without dropout of the queries from the row `first` on, as many as `out` has rows, of one window.
///
/// `packed`: \[length, 3 width\], `out`: \[rows, width\]; `scores` is memory, kept for the next call.
pub(crate) fn of_rows(
    packed: &[f32],
    width: usize,
    heads: usize,
    first: usize,
    out: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let (length, rows, size) = (packed.len() / (3 * width), out.len() / width, width / heads);
    scores.resize(rows * length, 0.0);
    for column in (0..width).step_by(size) {
        let head = Head {
            length,
            width,
            size,
            column,
        };
        let queries = &packed[first * 3 * width + column..];
        let queries = Matrix::strided(queries, rows, size, 3 * width);
        multiply_here(
            scores,
            length,
            queries,
            head.part(packed, 1).transposed(),
            false,
        );
        softmax_rows(scores, length, head.scale());
        let probabilities = Matrix::new(scores, rows, length);
        let values = head.part(packed, 2);
        multiply_here(&mut out[column..], width, probabilities, values, false);
    }
}

dispatched! {
    /// Each row `x = softmax(x scale)`.
    fn softmax_rows(x: &mut [f32], length: usize, scale: f32) {
        for row in x.chunks_exact_mut(length) {
            let largest = lanes::max(row);
            for value in row.iter_mut() {
                *value = lanes::exp((*value - largest) * scale);
            }
            let inverse = 1.0 / lanes::sum_map(row, |v| v);
            for value in row.iter_mut() {
                *value *= inverse;
            }
        }
    }

    /// Each row `g = p (g - sum(g p)) scale`.
    fn softmax_gradient_rows(p: &[f32], g: &mut [f32], length: usize, scale: f32) {
        for (p, g) in p.chunks_exact(length).zip(g.chunks_exact_mut(length)) {
            let mean = lanes::dot(p, g);
            for (g, &p) in g.iter_mut().zip(p) {
                *g = p * (*g - mean) * scale;
            }
        }
    }

    fn scale_in_place(x: &mut [f32], dropout: Dropout, first: u32) {
        let (blocks, rest) = x.as_chunks_mut::<{ lanes::LANES }>();
        let mut counter = first;
        for block in blocks {
            for (i, x) in block.iter_mut().enumerate() {
                *x *= dropout.factor(counter.wrapping_add(i as u32));
            }
            counter = counter.wrapping_add(lanes::LANES as u32);
        }
        for (i, x) in rest.iter_mut().enumerate() {
            *x *= dropout.factor(counter.wrapping_add(i as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        clippy::needless_range_loop,
        clippy::float_cmp,
        clippy::many_single_char_names,
        reason = "plain definitions to compare with"
    )]

    use super::*;
    use crate::gradient_check::{Check, check, noise};
    use crate::storage::to_vec;

    const LENGTH: usize = 5;
    const WIDTH: usize = 6;
    const HEADS: usize = 2;

    fn definition(packed: &[f64], dropout: Dropout) -> Vec<f64> {
        let size = WIDTH / HEADS;
        let mut out = vec![0.0; packed.len() / 3];
        for b in 0..packed.len() / (3 * LENGTH * WIDTH) {
            let at = |t: usize, which: usize, h: usize, c: usize| {
                packed[(b * LENGTH + t) * 3 * WIDTH + which * WIDTH + h * size + c]
            };
            for h in 0..HEADS {
                for i in 0..LENGTH {
                    let scores: Vec<f64> = (0..LENGTH)
                        .map(|j| {
                            (0..size)
                                .map(|c| at(i, 0, h, c) * at(j, 1, h, c))
                                .sum::<f64>()
                                / (size as f64).sqrt()
                        })
                        .map(f64::exp)
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for (j, score) in scores.iter().enumerate() {
                        let counter = ((b * HEADS + h) * LENGTH + i) * LENGTH + j;
                        let p = score / total * f64::from(dropout.factor(counter as u32));
                        for c in 0..size {
                            out[(b * LENGTH + i) * WIDTH + h * size + c] += p * at(j, 2, h, c);
                        }
                    }
                }
            }
        }
        out
    }

    #[test]
    fn gradients_match_finite_differences() {
        for dropout in [Dropout::NONE, Dropout::new(0.3, 7, 8, 9)] {
            check(&Check {
                shapes: &[&[2, LENGTH, 3 * WIDTH]],
                op: &|t| attention(&t[0], HEADS, dropout),
                reference: &|v| definition(&v[0], dropout),
                tolerance: 1e-5,
            });
        }
    }

    #[test]
    fn windows_do_not_see_each_other() {
        let values: Vec<f32> = noise(3 * LENGTH * 3 * WIDTH, 1)
            .iter()
            .map(|&v| v as f32)
            .collect();
        let together = tensor(values.clone(), (3, LENGTH, 3 * WIDTH)).unwrap();
        let alone = tensor(
            values[LENGTH * 3 * WIDTH..][..LENGTH * 3 * WIDTH].to_vec(),
            (1, LENGTH, 3 * WIDTH),
        )
        .unwrap();

        let together = to_vec(&attention(&together, HEADS, Dropout::NONE).unwrap()).unwrap();
        let alone = to_vec(&attention(&alone, HEADS, Dropout::NONE).unwrap()).unwrap();

        assert_eq!(together[LENGTH * WIDTH..][..LENGTH * WIDTH], alone[..]);
    }
}
