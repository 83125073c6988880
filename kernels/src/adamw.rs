//! AdamW (Loshchilov and Hutter, 2019) in one pass over each parameter, and the global norm for clipping.

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use crate::dispatch::dispatched;
use crate::lanes;
use crate::math;
use crate::storage::{CHUNK, Elements, operand};

/// Step sizes of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// Decoupled weight decay: each step takes off `learning_rate * weight_decay` of the parameter.
    pub weight_decay: f64,
}

impl AdamW {
    /// The usual decays 0.9 and 0.999 and epsilon 1e-8.
    pub fn new(learning_rate: f64, weight_decay: f64) -> Self {
        Self {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay,
        }
    }

    /// Updates `parameter` in place with `scale * gradient`, and the moments with it. `step` counts from 1.
    ///
    /// # Panics
    /// If the moments have not as many elements as the parameter.
    pub fn update(
        &self,
        parameter: &Tensor,
        gradient: &Tensor,
        scale: f64,
        step: u64,
        moments: (&mut [f32], &mut [f32]),
    ) -> Result<()> {
        assert_eq!(
            moments.0.len(),
            parameter.elem_count(),
            "one first moment an element"
        );
        assert_eq!(
            moments.1.len(),
            parameter.elem_count(),
            "one second moment an element"
        );
        let correction1 = 1.0 - math::pow(self.beta1, step as f64);
        let correction2 = 1.0 - math::pow(self.beta2, step as f64);
        let factors = Factors {
            scale: scale as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            rate: (self.learning_rate / correction1) as f32,
            inverse_root: (1.0 / correction2.sqrt()) as f32,
            epsilon: self.epsilon as f32,
            keep: (1.0 - self.learning_rate * self.weight_decay) as f32,
        };
        parameter.inplace_op2(
            &gradient.contiguous()?,
            &Update {
                factors,
                moments: Mutex::new(moments),
            },
        )
    }
}

/// The euclidean norm of all gradients together, summed in the order given.
pub fn global_norm<'a>(gradients: impl Iterator<Item = &'a Tensor>) -> Result<f64> {
    let mut total = 0.0;
    for gradient in gradients {
        let gradient = gradient.contiguous()?;
        total += square_sum(&Elements::of(&gradient)?);
    }
    Ok(total.sqrt())
}

/// Whether every element of a contiguous tensor is finite.
pub fn is_finite(tensor: &Tensor) -> Result<bool> {
    let tensor = tensor.contiguous()?;
    let values = Elements::of(&tensor)?;
    Ok(values.iter().all(|v| v.is_finite()))
}

fn square_sum(x: &[f32]) -> f64 {
    let parts: Vec<f32> = x.par_chunks(CHUNK).map(part_square_sum).collect();
    parts.into_iter().map(f64::from).sum()
}

#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    inverse_root: f32,
    epsilon: f32,
    keep: f32,
}

/// First and second moments of one parameter.
type Moments<'a> = (&'a mut [f32], &'a mut [f32]);

struct Update<'a> {
    factors: Factors,
    /// candle lends the operation itself only shared.
    moments: Mutex<Moments<'a>>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<()> {
        let g = operand(gradient, g_layout, "adamw")?;
        let (CpuStorage::F32(values), Some((start, end))) =
            (parameter, layout.contiguous_offsets())
        else {
            candle_core::bail!("adamw: expected a contiguous `f32` parameter");
        };
        let mut moments = self
            .moments
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (first, second) = &mut *moments;
        values[start..end]
            .par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(
                first
                    .par_chunks_mut(CHUNK)
                    .zip(second.par_chunks_mut(CHUNK)),
            )
            .for_each(|((values, g), (first, second))| {
                update(values, g, first, second, self.factors);
            });
        Ok(())
    }
}

dispatched! {
    fn update(values: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32], factors: Factors) {
        let Factors { scale, beta1, rest1, beta2, rest2, rate, inverse_root, epsilon, keep } = factors;
        for (((value, &g), first), second) in values.iter_mut().zip(g).zip(first).zip(second) {
            let g = g * scale;
            let m = beta1 * *first + rest1 * g;
            let v = beta2 * *second + rest2 * g * g;
            *first = m;
            *second = v;
            *value = *value * keep - rate * m / (v.sqrt() * inverse_root + epsilon);
        }
    }

    fn part_square_sum(x: &[f32]) -> f32 {
        lanes::dot(x, x)
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

    use candle_core::{Device, Var};

    use super::*;
    use crate::storage::to_vec;

    #[test]
    fn follows_the_published_recursion() {
        let parameter = Var::new(&[1.0_f32, -2.0, 0.5], &Device::Cpu).unwrap();
        let optimizer = AdamW::new(0.1, 0.01);
        let (mut first, mut second) = (vec![0.0; 3], vec![0.0; 3]);
        let (mut p, mut m, mut v) = ([1.0_f64, -2.0, 0.5], [0.0; 3], [0.0; 3]);
        for step in 1..=5_u64 {
            let gradient = [0.3 * step as f64, -0.7, 0.1 / step as f64];
            let tensor = Tensor::new(gradient.map(|g| g as f32).as_slice(), &Device::Cpu).unwrap();

            optimizer
                .update(&parameter, &tensor, 0.5, step, (&mut first, &mut second))
                .unwrap();

            for i in 0..3 {
                let g = gradient[i] * 0.5;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let m_hat = m[i] / (1.0 - 0.9_f64.powi(step as i32));
                let v_hat = v[i] / (1.0 - 0.999_f64.powi(step as i32));
                p[i] -= 0.1 * 0.01 * p[i] + 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
            }
        }
        for (a, e) in to_vec(&parameter).unwrap().iter().zip(p) {
            assert!((f64::from(*a) - e).abs() < 1e-5, "{a} against {e}");
        }
    }

    #[test]
    fn the_norm_covers_all_tensors() {
        let a = Tensor::new(&[3.0_f32, 0.0], &Device::Cpu).unwrap();
        let b = Tensor::new(&[[4.0_f32]], &Device::Cpu).unwrap();

        assert!((global_norm([&a, &b].into_iter()).unwrap() - 5.0).abs() < 1e-12);
    }
}
