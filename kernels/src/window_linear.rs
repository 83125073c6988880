//! The affine layer over windows of a matrix, read where they lie.
//!
//! Windows of 96 bars overlap: written out, the matrix would become 96 times as large. A window's rows lie beside each other
//! in the matrix, so that each window is a factor of a product as it is.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::linear::column_sums;
use crate::matmul::{Matrix, multiply_here};
use crate::storage::{Elements, add_in_order, filled, operand, tensor};

/// Windows whose weight gradients are summed together. Fixed, so that the sum does not depend on the threads.
const WINDOWS: usize = 8;

/// Windows of a row-major matrix, each named by its last row.
#[derive(Debug, Clone)]
pub struct Windows {
    values: Arc<[f32]>,
    columns: usize,
    length: usize,
    last_rows: Arc<[usize]>,
}

impl Windows {
    /// Windows of `length` rows that end at (and with) `last_rows`, of a matrix of `columns` columns.
    pub fn new(
        values: &Arc<[f32]>,
        columns: usize,
        length: usize,
        last_rows: &Arc<[usize]>,
    ) -> Result<Self> {
        if columns == 0 || length == 0 || !values.len().is_multiple_of(columns) {
            candle_core::bail!(
                "windows of {length} rows and {columns} columns do not fit {} elements",
                values.len()
            );
        }
        let rows = values.len() / columns;
        if let Some(row) = last_rows
            .iter()
            .find(|&&row| row + 1 < length || row >= rows)
        {
            candle_core::bail!("no window of {length} rows ends at row {row} of {rows}");
        }
        Ok(Self {
            values: values.clone(),
            columns,
            length,
            last_rows: last_rows.clone(),
        })
    }

    fn window(&self, index: usize) -> Matrix<'_, f32> {
        let start = (self.last_rows[index] + 1 - self.length) * self.columns;
        let values = &self.values[start..][..self.length * self.columns];
        Matrix::new(values, self.length, self.columns)
    }
}

/// `x W^T + b` of every window. `weight`: \[outputs, columns\], `bias`: \[outputs\], result: \[windows, length, outputs\].
///
/// The same bits as [`crate::linear`] on the windows written out.
pub fn window_linear(windows: &Windows, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    weight
        .contiguous()?
        .apply_op2(bias, WindowLinear(windows.clone()))
}

struct WindowLinear(Windows);

impl CustomOp2 for WindowLinear {
    fn name(&self) -> &'static str {
        "window_linear"
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let Windows {
            columns,
            length,
            ref last_rows,
            ..
        } = self.0;
        let weight = operand(weight, weight_layout, "window_linear")?;
        let bias = operand(bias, bias_layout, "window_linear")?;
        if inputs != columns || bias.len() != outputs {
            candle_core::bail!(
                "window_linear: expected {inputs} columns and a bias of {outputs}, got {columns} and {}",
                bias.len()
            );
        }
        let weight = Matrix::new(weight, outputs, inputs).transposed();
        let size = length * outputs;
        let y = filled(last_rows.len() * size, size, |window, y| {
            for row in y.chunks_exact_mut(outputs) {
                row.copy_from_slice(bias);
            }
            multiply_here(y, outputs, self.0.window(window), weight, true);
        });
        Ok((
            CpuStorage::F32(y),
            Shape::from((last_rows.len(), length, outputs)),
        ))
    }

    fn bwd(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let length = self.0.length;
        let gradient = gradient.contiguous()?;
        let g = Elements::of(&gradient)?;
        let size = length * outputs;
        let partials = g
            .par_chunks(WINDOWS * size)
            .enumerate()
            .map(|(chunk, g)| {
                let mut sums = vec![0.0; outputs * inputs];
                for (k, g) in g.chunks_exact(size).enumerate() {
                    let g = Matrix::new(g, length, outputs).transposed();
                    let window = self.0.window(chunk * WINDOWS + k);
                    multiply_here(&mut sums, inputs, g, window, true);
                }
                sums
            })
            .collect();
        Ok((
            Some(tensor(
                add_in_order(partials, outputs * inputs),
                (outputs, inputs),
            )?),
            Some(tensor(column_sums(&g, outputs), bias.shape().clone())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check, noise};
    use crate::linear::linear;
    use crate::storage::to_vec;

    fn windows() -> (Windows, Arc<[f32]>) {
        let values: Arc<[f32]> = noise(30 * 4, 9).iter().map(|&v| v as f32).collect();
        let windows = Windows::new(&values, 4, 5, &vec![29, 4, 7, 8].into()).unwrap();
        (windows, values)
    }

    fn gathered(values: &[f32]) -> Vec<f32> {
        [29, 4, 7, 8]
            .iter()
            .flat_map(|row| values[(row - 4) * 4..][..20].to_vec())
            .collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (windows, values) = windows();
        let x = gathered(&values);
        check(&Check {
            shapes: &[&[3, 4], &[3]],
            op: &|t| window_linear(&windows, &t[0], &t[1]),
            reference: &|v| {
                let mut y = Vec::new();
                for row in x.chunks(4) {
                    for (weights, bias) in v[0].chunks(4).zip(&v[1]) {
                        let products = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * w);
                        y.push(products.sum::<f64>() + bias);
                    }
                }
                y
            },
            tolerance: 1e-5,
        });
    }

    #[test]
    fn has_the_bits_of_the_windows_written_out() {
        let (windows, values) = windows();
        let weight = noise(12, 1).iter().map(|&v| v as f32).collect();
        let weight = tensor(weight, (3, 4)).unwrap();
        let bias = tensor(vec![0.5, -1.0, 0.25], 3).unwrap();
        let x = tensor(gathered(&values), (4, 5, 4)).unwrap();

        let here = to_vec(&window_linear(&windows, &weight, &bias).unwrap()).unwrap();

        assert_eq!(here, to_vec(&linear(&x, &weight, &bias).unwrap()).unwrap());
    }

    #[test]
    fn a_window_outside_the_matrix_is_an_error() {
        let values: Arc<[f32]> = vec![0.0; 40].into();
        let of = |row: usize| Windows::new(&values, 4, 5, &vec![row].into());

        assert!(of(4).is_ok() && of(9).is_ok());
        let error = of(3).unwrap_err().to_string();
        assert!(
            error.contains("no window of 5 rows ends at row 3 of 10"),
            "{error}"
        );
        assert!(of(10).is_err());
    }
}
