//! Sinusoidal positions (Vaswani et al., 2017, section 3.5), added to a sequence and followed by dropout.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::dispatch::dispatched;
use crate::dropout::Dropout;
use crate::lanes;
use crate::math;
use crate::residual::scale;
use crate::storage::{CHUNK, Elements, filled, operand, tensor};

/// The table \[length, width\]: sine at even columns, cosine at odd ones, wavelengths from 2 pi to 20000 pi.
pub fn sinusoids(length: usize, width: usize) -> Vec<f32> {
    let mut table = Vec::with_capacity(length * width);
    for position in 0..length {
        for column in 0..width {
            let exponent = (column / 2 * 2) as f64 / width as f64;
            let angle = position as f64 / math::pow(10_000.0, exponent);
            table.push(if column % 2 == 0 {
                math::sin(angle)
            } else {
                math::cos(angle)
            } as f32);
        }
    }
    table
}

/// `dropout(x + table)`. `x`: \[batch, length, width\]; `table`: \[length, width\], the same for the whole batch.
pub fn add_positions(x: &Tensor, table: &Arc<[f32]>, dropout: Dropout) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Positions {
        table: table.clone(),
        dropout,
    })
}

struct Positions {
    table: Arc<[f32]>,
    dropout: Dropout,
}

impl CustomOp1 for Positions {
    fn name(&self) -> &'static str {
        "add_positions"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, length, width) = layout.shape().dims3()?;
        let x = operand(x, layout, "add_positions")?;
        let size = self.table.len();
        if size != length * width {
            candle_core::bail!(
                "add_positions: a table of {size} positions does not fit {:?}",
                layout.dims()
            );
        }
        let y = filled(x.len(), size, |batch, y| {
            forward(
                &x[batch * size..][..size],
                &self.table,
                y,
                self.dropout,
                (batch * size) as u32,
            );
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if self.dropout.is_none() {
            return Ok(Some(gradient.clone()));
        }
        let gradient = gradient.contiguous()?;
        let g = Elements::of(&gradient)?;
        let g: &[f32] = &g;
        let out = filled(g.len(), CHUNK, |chunk, out| {
            scale(
                &g[chunk * CHUNK..][..out.len()],
                out,
                self.dropout,
                (chunk * CHUNK) as u32,
            );
        });
        Ok(Some(tensor(out, x.shape().clone())?))
    }
}

dispatched! {
    fn forward(x: &[f32], table: &[f32], y: &mut [f32], dropout: Dropout, first: u32) {
        lanes::zip_counted(y, x, table, first, |x, position, counter| (x + position) * dropout.factor(counter));
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
        let table: Arc<[f32]> = sinusoids(5, 6).into();
        for dropout in [Dropout::NONE, Dropout::new(0.2, 5, 6, 7)] {
            check(&Check {
                shapes: &[&[3, 5, 6]],
                op: &|t| add_positions(&t[0], &table, dropout),
                reference: &|v| {
                    let factor = |i: usize| f64::from(dropout.factor(i as u32));
                    v[0].iter()
                        .enumerate()
                        .map(|(i, x)| (x + f64::from(table[i % 30])) * factor(i))
                        .collect()
                },
                tolerance: 1e-6,
            });
        }
    }

    #[test]
    fn the_table_is_the_published_one() {
        let table = sinusoids(4, 4);

        assert!((table[4 + 1] - 1.0_f32.cos()).abs() < 1e-6);
        assert!((table[3 * 4 + 2] - 0.03_f32.sin()).abs() < 1e-6);
    }
}
