//! The affine layer `y = x W^T + b` with its backward pass.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::dispatch::dispatched;
use crate::matmul::{Matrix, matmul, matmul_bias};
use crate::storage::{Elements, ROWS, add_in_order, operand, tensor};

/// `x W^T + b`. `x`: \[.., inputs\], `weight`: \[outputs, inputs\], `bias`: \[outputs\], result: \[.., outputs\].
///
/// Each element is `bias + block + block + ..`, the blocks those of [`crate::matmul`].
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op3(weight, bias, Linear)
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let mut dimensions = x_layout.dims().to_vec();
        if dimensions.last() != Some(&inputs) {
            candle_core::bail!(
                "linear: expected {inputs} inputs, got a tensor of shape {dimensions:?}"
            );
        }
        if let Some(last) = dimensions.last_mut() {
            *last = outputs;
        }
        let x = operand(x, x_layout, "linear")?;
        let weight =
            Matrix::new(operand(weight, weight_layout, "linear")?, outputs, inputs).transposed();
        let bias = operand(bias, bias_layout, "linear")?;
        let y = matmul_bias(Matrix::new(x, x.len() / inputs, inputs), weight, bias);
        Ok((CpuStorage::F32(y), Shape::from(dimensions)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let gradient = gradient.contiguous()?;
        let g = Elements::of(&gradient)?;
        let rows = g.len() / outputs;
        let g_matrix = Matrix::new(&g, rows, outputs);

        // Data needs no gradient, and the product would be for nothing.
        let x_gradient = if x.track_op() {
            let w = Elements::of(weight)?;
            Some(tensor(
                matmul(g_matrix, Matrix::new(&w, outputs, inputs)),
                x.shape().clone(),
            )?)
        } else {
            None
        };
        let weight_gradient = if weight.track_op() {
            let x = Elements::of(x)?;
            Some(tensor(
                matmul(g_matrix.transposed(), Matrix::new(&x, rows, inputs)),
                (outputs, inputs),
            )?)
        } else {
            None
        };
        let bias_gradient = if bias.track_op() {
            Some(tensor(column_sums(&g, outputs), outputs)?)
        } else {
            None
        };
        Ok((x_gradient, weight_gradient, bias_gradient))
    }
}

/// Sums over the rows of a row-major matrix.
pub(crate) fn column_sums(x: &[f32], columns: usize) -> Vec<f32> {
    let partials = x
        .par_chunks(ROWS * columns)
        .map(|rows| {
            let mut sums = vec![0.0; columns];
            add_rows(&mut sums, rows);
            sums
        })
        .collect();
    add_in_order(partials, columns)
}

dispatched! {
    fn add_rows(sums: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check};

    #[test]
    fn gradients_match_finite_differences() {
        check(&Check {
            shapes: &[&[5, 3, 7], &[4, 7], &[4]],
            op: &|t| linear(&t[0], &t[1], &t[2]),
            reference: &|v| {
                let mut y = Vec::new();
                for row in v[0].chunks(7) {
                    for (weights, bias) in v[1].chunks(7).zip(&v[2]) {
                        y.push(row.iter().zip(weights).map(|(a, b)| a * b).sum::<f64>() + bias);
                    }
                }
                y
            },
            tolerance: 1e-5,
        });
    }

    #[test]
    fn names_the_width_it_expected() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let weight =
            Tensor::zeros((4, 5), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let bias = Tensor::zeros(4, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();

        let error = linear(&x, &weight, &bias).unwrap_err().to_string();

        assert!(error.contains("expected 5 inputs"), "{error}");
    }
}
