//! From a sequence of states to one vector a window, and from all bars to some of them, with their backward passes.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::dispatch::dispatched;
use crate::lanes;
use crate::storage::{Elements, filled, operand, tensor};

/// Mean over time. `x`: \[batch, length, width\], result: \[batch, width\].
pub fn mean_over_time(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MeanOverTime)
}

/// Softmax of `scores` over time, and the mean of `x` so weighted.
///
/// `x`: \[batch, length, width\], `scores`: \[batch, length, 1\], result: \[batch, width\].
pub fn weighted_over_time(x: &Tensor, scores: &Tensor) -> Result<Tensor> {
    x.contiguous()?
        .apply_op2(&scores.contiguous()?, WeightedOverTime)
}

/// The rows `rows` of `x`, each at most once. `x`: \[.., width\] read as a list of rows, result: \[rows, width\].
pub fn select_rows(x: &Tensor, rows: &Arc<[usize]>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(SelectRows(rows.clone()))
}

/// `x` with the rows `rows` replaced by `token`, each at most once. `x`: \[.., width\], `token`: \[width\].
pub fn replace_rows(x: &Tensor, token: &Tensor, rows: &Arc<[usize]>) -> Result<Tensor> {
    x.contiguous()?.apply_op2(token, ReplaceRows(rows.clone()))
}

/// The mean of the rows of `x`, of which `mean`, all 0 before, holds one.
pub(crate) fn mean_rows(x: &[f32], mean: &mut [f32]) {
    sum_rows(x, mean);
    let rows = x.len() / mean.len();
    for value in mean {
        *value /= rows as f32;
    }
}

struct MeanOverTime;

impl CustomOp1 for MeanOverTime {
    fn name(&self) -> &'static str {
        "mean_over_time"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, length, width) = layout.shape().dims3()?;
        let x = operand(x, layout, "mean_over_time")?;
        let y = filled(batch * width, width, |window, y| {
            mean_rows(&x[window * length * width..][..length * width], y);
        });
        Ok((CpuStorage::F32(y), Shape::from((batch, width))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (batch, length, width) = x.dims3()?;
        let gradient = gradient.contiguous()?;
        let g = Elements::of(&gradient)?;
        let g: &[f32] = &g;
        let out = filled(batch * length * width, length * width, |window, out| {
            let g = &g[window * width..][..width];
            for row in out.chunks_exact_mut(width) {
                for (out, &g) in row.iter_mut().zip(g) {
                    *out = g / length as f32;
                }
            }
        });
        Ok(Some(tensor(out, (batch, length, width))?))
    }
}

struct WeightedOverTime;

impl CustomOp2 for WeightedOverTime {
    fn name(&self) -> &'static str {
        "weighted_over_time"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        scores: &CpuStorage,
        scores_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, length, width) = x_layout.shape().dims3()?;
        let x = operand(x, x_layout, "weighted_over_time")?;
        let scores = operand(scores, scores_layout, "weighted_over_time")?;
        if scores.len() != batch * length {
            candle_core::bail!(
                "weighted_over_time: {} scores for {batch} windows of {length}",
                scores.len()
            );
        }
        let y = filled(batch * width, width, |window, y| {
            let mut weights = scores[window * length..][..length].to_vec();
            softmax(&mut weights);
            weighted_sum(&x[window * length * width..][..length * width], &weights, y);
        });
        Ok((CpuStorage::F32(y), Shape::from((batch, width))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scores: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (batch, length, width) = x.dims3()?;
        let gradient = gradient.contiguous()?;
        let (values, scores_values, g) = (
            Elements::of(x)?,
            Elements::of(scores)?,
            Elements::of(&gradient)?,
        );
        let (values, all_scores, g): (&[f32], &[f32], &[f32]) = (&values, &scores_values, &g);
        let mut x_gradient = vec![0.0; values.len()];
        let mut score_gradient = vec![0.0; all_scores.len()];
        for window in 0..batch {
            let g = &g[window * width..][..width];
            let mut weights = all_scores[window * length..][..length].to_vec();
            softmax(&mut weights);
            let mut products = vec![0.0; length];
            for t in 0..length {
                let at = (window * length + t) * width;
                products[t] = lanes::dot(&values[at..][..width], g);
                for (out, &g) in x_gradient[at..][..width].iter_mut().zip(g) {
                    *out = weights[t] * g;
                }
            }
            let mean = lanes::dot(&weights, &products);
            for t in 0..length {
                score_gradient[window * length + t] = weights[t] * (products[t] - mean);
            }
        }
        Ok((
            Some(tensor(x_gradient, x.shape().clone())?),
            Some(tensor(score_gradient, scores.shape().clone())?),
        ))
    }
}

struct SelectRows(Arc<[usize]>);

impl CustomOp1 for SelectRows {
    fn name(&self) -> &'static str {
        "select_rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = operand(x, layout, "select_rows")?;
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut y = Vec::with_capacity(self.0.len() * width);
        for &row in self.0.iter() {
            y.extend_from_slice(&x[row * width..][..width]);
        }
        Ok((CpuStorage::F32(y), Shape::from((self.0.len(), width))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = gradient.dims2()?;
        let gradient = gradient.contiguous()?;
        let g = Elements::of(&gradient)?;
        let mut out = vec![0.0; x.elem_count()];
        for (&row, g) in self.0.iter().zip(g.chunks_exact(width)) {
            out[row * width..][..width].copy_from_slice(g);
        }
        Ok(Some(tensor(out, x.shape().clone())?))
    }
}

struct ReplaceRows(Arc<[usize]>);

impl CustomOp2 for ReplaceRows {
    fn name(&self) -> &'static str {
        "replace_rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        token: &CpuStorage,
        token_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut y = operand(x, x_layout, "replace_rows")?.to_vec();
        let token = operand(token, token_layout, "replace_rows")?;
        if x_layout.dims().last() != Some(&token.len()) {
            candle_core::bail!(
                "replace_rows: a token of {} does not fit {:?}",
                token.len(),
                x_layout.dims()
            );
        }
        for &row in self.0.iter() {
            y[row * token.len()..][..token.len()].copy_from_slice(token);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        token: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = token.elem_count();
        let gradient = gradient.contiguous()?;
        let mut out = Elements::of(&gradient)?.to_vec();
        let mut sums = vec![0.0; width];
        for &row in self.0.iter() {
            for (sum, value) in sums.iter_mut().zip(&mut out[row * width..][..width]) {
                *sum += *value;
                *value = 0.0;
            }
        }
        Ok((
            Some(tensor(out, x.shape().clone())?),
            Some(tensor(sums, token.shape().clone())?),
        ))
    }
}

fn softmax(scores: &mut [f32]) {
    let largest = lanes::max(scores);
    for score in scores.iter_mut() {
        *score = lanes::exp(*score - largest);
    }
    let total = lanes::sum_map(scores, |v| v);
    for score in scores {
        *score /= total;
    }
}

dispatched! {
    fn sum_rows(x: &[f32], sums: &mut [f32]) {
        for row in x.chunks_exact(sums.len()) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }

    fn weighted_sum(x: &[f32], weights: &[f32], sums: &mut [f32]) {
        for (row, &weight) in x.chunks_exact(sums.len()).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum = weight.mul_add(value, *sum);
            }
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
    use crate::gradient_check::{Check, check};

    #[test]
    fn gradients_of_the_mean_match_finite_differences() {
        check(&Check {
            shapes: &[&[3, 4, 5]],
            op: &|t| mean_over_time(&t[0]),
            reference: &|v| {
                let at = |b: usize, t: usize, c: usize| v[0][(b * 4 + t) * 5 + c];
                (0..15)
                    .map(|i| (0..4).map(|t| at(i / 5, t, i % 5)).sum::<f64>() / 4.0)
                    .collect()
            },
            tolerance: 1e-6,
        });
    }

    #[test]
    fn gradients_of_the_weighted_mean_match_finite_differences() {
        check(&Check {
            shapes: &[&[3, 4, 5], &[3, 4, 1]],
            op: &|t| weighted_over_time(&t[0], &t[1]),
            reference: &|v| {
                let mut y = Vec::new();
                for b in 0..3 {
                    let weights: Vec<f64> = v[1][b * 4..][..4].iter().map(|s| s.exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for c in 0..5 {
                        y.push(
                            (0..4)
                                .map(|t| weights[t] / total * v[0][(b * 4 + t) * 5 + c])
                                .sum(),
                        );
                    }
                }
                y
            },
            tolerance: 1e-5,
        });
    }

    #[test]
    fn gradients_of_rows_match_finite_differences() {
        let rows: Arc<[usize]> = vec![1, 4, 5].into();
        check(&Check {
            shapes: &[&[2, 3, 5]],
            op: &|t| select_rows(&t[0], &rows),
            reference: &|v| {
                rows.iter()
                    .flat_map(|&row| v[0][row * 5..][..5].to_vec())
                    .collect()
            },
            tolerance: 1e-6,
        });
        check(&Check {
            shapes: &[&[2, 3, 5], &[5]],
            op: &|t| replace_rows(&t[0], &t[1], &rows),
            reference: &|v| {
                (0..30)
                    .map(|i| {
                        if rows.contains(&(i / 5)) {
                            v[1][i % 5]
                        } else {
                            v[0][i]
                        }
                    })
                    .collect()
            },
            tolerance: 1e-6,
        });
    }
}
