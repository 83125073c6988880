//! The exact GELU `x Phi(x)` (Hendrycks and Gimpel, 2016), followed by dropout, with its backward pass.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::dispatch::dispatched;
use crate::dropout::Dropout;
use crate::lanes;
use crate::storage::{CHUNK, Elements, filled, operand, tensor};

/// `x Phi(x)` with `Phi` the normal distribution function, then `dropout`. Any shape.
pub fn gelu(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gelu(dropout))
}

struct Gelu(Dropout);

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = operand(x, layout, "gelu")?;
        let y = filled(x.len(), CHUNK, |chunk, y| {
            forward(
                &x[chunk * CHUNK..][..y.len()],
                y,
                self.0,
                (chunk * CHUNK) as u32,
            );
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let (values, g) = (Elements::of(x)?, Elements::of(&gradient)?);
        let (values, g): (&[f32], &[f32]) = (&values, &g);
        let out = filled(values.len(), CHUNK, |chunk, out| {
            let range = chunk * CHUNK..chunk * CHUNK + out.len();
            backward(
                &values[range.clone()],
                &g[range],
                out,
                self.0,
                (chunk * CHUNK) as u32,
            );
        });
        Ok(Some(tensor(out, x.shape().clone())?))
    }
}

dispatched! {
    /// Every `x = x Phi(x)`.
    pub(crate) fn in_place(x: &mut [f32]) {
        for value in x {
            *value *= phi(*value);
        }
    }

    fn forward(x: &[f32], y: &mut [f32], dropout: Dropout, first: u32) {
        lanes::map_counted(y, x, first, |x, counter| x * phi(x) * dropout.factor(counter));
    }

    fn backward(x: &[f32], g: &[f32], out: &mut [f32], dropout: Dropout, first: u32) {
        /// `1 / sqrt(2 pi)`.
        const DENSITY_AT_ZERO: f32 = 0.398_942_3;
        lanes::zip_counted(out, x, g, first, |x, g, counter| {
            let density = DENSITY_AT_ZERO * lanes::exp(-0.5 * x * x);
            g * x.mul_add(density, phi(x)) * dropout.factor(counter)
        });
    }
}

/// The normal distribution function.
#[expect(
    clippy::inline_always,
    reason = "must be compiled inside dispatched callers"
)]
#[inline(always)]
fn phi(x: f32) -> f32 {
    0.5 + 0.5 * lanes::erf(x * std::f32::consts::FRAC_1_SQRT_2)
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
        for dropout in [Dropout::NONE, Dropout::new(0.3, 1, 2, 3)] {
            check(&Check {
                shapes: &[&[9, 11]],
                op: &|t| gelu(&t[0], dropout),
                reference: &|v| {
                    v[0].iter()
                        .enumerate()
                        .map(|(i, x)| {
                            let phi = 0.5 * (1.0 + libm::erf(x / 2.0_f64.sqrt()));
                            x * phi * f64::from(dropout.factor(i as u32))
                        })
                        .collect()
                },
                tolerance: 1e-6,
            });
        }
    }
}
