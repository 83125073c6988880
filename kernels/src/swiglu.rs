//! The gated unit `SiLU(a) b` of `SwiGLU` layers (Shazeer, 2020), followed by dropout, with its backward pass.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::activations::silu;
use crate::dispatch::dispatched;
use crate::dropout::Dropout;
use crate::storage::{Elements, ROWS, filled, operand, tensor};

/// `SiLU(a) b`, then `dropout`. `packed`: \[.., 2 width\], `a` before `b`; result: \[.., width\].
///
/// A `SwiGLU` layer is a [`crate::linear`] of `2 width` outputs, this, and a [`crate::linear`] back.
pub fn swiglu(packed: &Tensor, dropout: Dropout) -> Result<Tensor> {
    packed.contiguous()?.apply_op1(Swiglu(dropout))
}

struct Swiglu(Dropout);

impl CustomOp1 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, packed: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let packed = operand(packed, layout, "swiglu")?;
        let mut dimensions = layout.dims().to_vec();
        let Some(width) = dimensions
            .last_mut()
            .filter(|width| **width > 0 && **width % 2 == 0)
        else {
            candle_core::bail!("swiglu: expected [.., 2 width], got {:?}", layout.dims());
        };
        *width /= 2;
        let width = *width;
        let y = filled(packed.len() / 2, ROWS * width, |chunk, y| {
            let first = chunk * ROWS * width;
            forward(
                &packed[2 * first..][..2 * y.len()],
                y,
                width,
                self.0,
                first as u32,
            );
        });
        Ok((CpuStorage::F32(y), Shape::from(dimensions)))
    }

    fn bwd(&self, packed: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let width = y.dims().last().copied().unwrap_or(1);
        let gradient = gradient.contiguous()?;
        let (values, g) = (Elements::of(packed)?, Elements::of(&gradient)?);
        let (values, g): (&[f32], &[f32]) = (&values, &g);
        let out = filled(values.len(), 2 * ROWS * width, |chunk, out| {
            let first = chunk * ROWS * width;
            let (x, g) = (
                &values[2 * first..][..out.len()],
                &g[first..][..out.len() / 2],
            );
            backward(x, g, out, width, self.0, first as u32);
        });
        Ok(Some(tensor(out, packed.shape().clone())?))
    }
}

dispatched! {
    fn forward(packed: &[f32], y: &mut [f32], width: usize, dropout: Dropout, first: u32) {
        for (row, (packed, y)) in packed.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)).enumerate() {
            let (a, b) = packed.split_at(width);
            let first = first.wrapping_add((row * width) as u32);
            for (i, ((y, &a), &b)) in y.iter_mut().zip(a).zip(b).enumerate() {
                *y = silu(a).0 * b * dropout.factor(first.wrapping_add(i as u32));
            }
        }
    }

    fn backward(packed: &[f32], g: &[f32], out: &mut [f32], width: usize, dropout: Dropout, first: u32) {
        let rows = packed.chunks_exact(2 * width).zip(g.chunks_exact(width)).zip(out.chunks_exact_mut(2 * width));
        for (row, ((packed, g), out)) in rows.enumerate() {
            let (a, b) = packed.split_at(width);
            let (of_a, of_b) = out.split_at_mut(width);
            let first = first.wrapping_add((row * width) as u32);
            for i in 0..width {
                let (value, slope) = silu(a[i]);
                let g = g[i] * dropout.factor(first.wrapping_add(i as u32));
                of_a[i] = g * b[i] * slope;
                of_b[i] = g * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check};
    use crate::math;

    #[test]
    fn gradients_match_finite_differences() {
        for dropout in [Dropout::NONE, Dropout::new(0.4, 5, 6, 7)] {
            check(&Check {
                shapes: &[&[3, 70, 10]],
                op: &|t| swiglu(&t[0], dropout),
                reference: &|v| {
                    let mut y = Vec::new();
                    for row in v[0].chunks(10) {
                        for i in 0..5 {
                            let factor = f64::from(dropout.factor(y.len() as u32));
                            y.push(row[i] * math::sigmoid(row[i]) * row[5 + i] * factor);
                        }
                    }
                    y
                },
                tolerance: 1e-5,
            });
        }
    }

    #[test]
    fn an_odd_width_is_an_error() {
        let x = tensor(vec![0.0; 6], (2, 3)).unwrap();

        assert!(swiglu(&x, Dropout::NONE).is_err());
    }
}
