//! Layer normalization over the last axis, with its backward pass (Ba, Kiros and Hinton, 2016).

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::dispatch::dispatched;
use crate::lanes;
use crate::storage::{Elements, ROWS, add_in_order, filled, operand, tensor};

/// Added to the variance.
const EPSILON: f32 = 1e-5;

/// `(x - mean) / sqrt(variance + 1e-5) * gain + shift` over the last axis; population variance.
///
/// `x`: \[.., width\], `gain` and `shift`: \[width\], result like `x`.
pub fn layer_norm(x: &Tensor, gain: &Tensor, shift: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(gain, shift, LayerNorm)
}

struct LayerNorm;

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gain: &CpuStorage,
        gain_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = operand(x, x_layout, "layer_norm")?;
        let gain = operand(gain, gain_layout, "layer_norm")?;
        let shift = operand(shift, shift_layout, "layer_norm")?;
        if x_layout.dims().last() != Some(&gain.len()) || gain.len() != shift.len() {
            candle_core::bail!(
                "layer_norm: a gain of {} does not fit {:?}",
                gain.len(),
                x_layout.dims()
            );
        }
        let rows = ROWS * gain.len();
        let y = filled(x.len(), rows, |chunk, y| {
            forward(&x[chunk * rows..][..y.len()], gain, shift, y);
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (x_values, gain_values, g) = (
            Elements::of(x)?,
            Elements::of(gain)?,
            Elements::of(&gradient)?,
        );
        let width = gain_values.len();
        let rows = ROWS * width;
        let mut x_gradient = vec![0.0; g.len()];
        let (x_slice, gain_slice): (&[f32], &[f32]) = (&x_values, &gain_values);
        let partials: Vec<(Vec<f32>, Vec<f32>)> = x_gradient
            .par_chunks_mut(rows)
            .zip(x_slice.par_chunks(rows))
            .zip(g.par_chunks(rows))
            .map(|((out, x), g)| {
                let (mut gains, mut shifts) = (vec![0.0; width], vec![0.0; width]);
                let mut scratch = vec![0.0; 2 * width];
                backward(x, gain_slice, g, out, &mut gains, &mut shifts, &mut scratch);
                (gains, shifts)
            })
            .collect();
        let (gains, shifts): (Vec<_>, Vec<_>) = partials.into_iter().unzip();
        Ok((
            Some(tensor(x_gradient, x.shape().clone())?),
            Some(tensor(add_in_order(gains, width), width)?),
            Some(tensor(add_in_order(shifts, width), width)?),
        ))
    }
}

dispatched! {
    pub(crate) fn forward(x: &[f32], gain: &[f32], shift: &[f32], y: &mut [f32]) {
        let width = gain.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let mean = lanes::sum_map(x, |v| v) / width as f32;
            let variance = lanes::sum_map(x, |v| (v - mean) * (v - mean)) / width as f32;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            for (((y, &x), &gain), &shift) in y.iter_mut().zip(x).zip(gain).zip(shift) {
                *y = ((x - mean) * scale).mul_add(gain, shift);
            }
        }
    }

    fn backward(
        x: &[f32],
        gain: &[f32],
        g: &[f32],
        out: &mut [f32],
        gains: &mut [f32],
        shifts: &mut [f32],
        scratch: &mut [f32],
    ) {
        let width = gain.len();
        let (normal, weighted) = scratch.split_at_mut(width);
        for ((x, g), out) in x.chunks_exact(width).zip(g.chunks_exact(width)).zip(out.chunks_exact_mut(width)) {
            let mean = lanes::sum_map(x, |v| v) / width as f32;
            let variance = lanes::sum_map(x, |v| (v - mean) * (v - mean)) / width as f32;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            for i in 0..width {
                normal[i] = (x[i] - mean) * scale;
                weighted[i] = g[i] * gain[i];
                gains[i] = g[i].mul_add(normal[i], gains[i]);
                shifts[i] += g[i];
            }
            let mean_weighted = lanes::sum_map(weighted, |v| v) / width as f32;
            let mean_product = lanes::dot(weighted, normal) / width as f32;
            for i in 0..width {
                out[i] = scale * (weighted[i] - mean_weighted - normal[i] * mean_product);
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
    fn gradients_match_finite_differences() {
        check(&Check {
            shapes: &[&[3, 2, 19], &[19], &[19]],
            op: &|t| layer_norm(&t[0], &t[1], &t[2]),
            reference: &|v| {
                let mut y = Vec::new();
                for row in v[0].chunks(19) {
                    let mean = row.iter().sum::<f64>() / 19.0;
                    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 19.0;
                    for i in 0..19 {
                        y.push((row[i] - mean) / (variance + 1e-5).sqrt() * v[1][i] + v[2][i]);
                    }
                }
                y
            },
            tolerance: 1e-5,
        });
    }
}
