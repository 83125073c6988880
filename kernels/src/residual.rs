//! The residual branch `residual + dropout(x)`, with its backward pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::dispatch::dispatched;
use crate::dropout::Dropout;
use crate::lanes;
use crate::storage::{CHUNK, Elements, filled, operand, tensor};

/// `residual + dropout(x)`, two tensors of one shape.
pub fn add_residual(x: &Tensor, residual: &Tensor, dropout: Dropout) -> Result<Tensor> {
    x.contiguous()?
        .apply_op2(&residual.contiguous()?, Residual(dropout))
}

struct Residual(Dropout);

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "add_residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = operand(x, x_layout, "add_residual")?;
        let residual = operand(residual, residual_layout, "add_residual")?;
        if x_layout.shape() != residual_layout.shape() {
            candle_core::bail!(
                "add_residual: shapes {:?} and {:?} differ",
                x_layout.dims(),
                residual_layout.dims()
            );
        }
        let y = filled(x.len(), CHUNK, |chunk, y| {
            let range = chunk * CHUNK..chunk * CHUNK + y.len();
            forward(
                &x[range.clone()],
                &residual[range],
                y,
                self.0,
                (chunk * CHUNK) as u32,
            );
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if self.0.is_none() {
            return Ok((Some(gradient.clone()), Some(gradient.clone())));
        }
        let contiguous = gradient.contiguous()?;
        let g = Elements::of(&contiguous)?;
        let g: &[f32] = &g;
        let out = filled(g.len(), CHUNK, |chunk, out| {
            scale(
                &g[chunk * CHUNK..][..out.len()],
                out,
                self.0,
                (chunk * CHUNK) as u32,
            );
        });
        Ok((
            Some(tensor(out, x.shape().clone())?),
            Some(gradient.clone()),
        ))
    }
}

dispatched! {
    fn forward(x: &[f32], residual: &[f32], y: &mut [f32], dropout: Dropout, first: u32) {
        lanes::zip_counted(y, x, residual, first, |x, residual, counter| {
            x.mul_add(dropout.factor(counter), residual)
        });
    }

    /// `out = x * dropout`, element `i` at the counter `first + i`.
    pub(crate) fn scale(x: &[f32], out: &mut [f32], dropout: Dropout, first: u32) {
        lanes::map_counted(out, x, first, |x, counter| x * dropout.factor(counter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check};

    #[test]
    fn gradients_match_finite_differences() {
        for dropout in [Dropout::NONE, Dropout::new(0.4, 5, 6, 7)] {
            check(&Check {
                shapes: &[&[6, 7], &[6, 7]],
                op: &|t| add_residual(&t[0], &t[1], dropout),
                reference: &|v| {
                    let factor = |i: usize| f64::from(dropout.factor(i as u32));
                    v[0].iter()
                        .zip(&v[1])
                        .enumerate()
                        .map(|(i, (x, r))| x * factor(i) + r)
                        .collect()
                },
                tolerance: 1e-6,
            });
        }
    }
}
