//! The causal dilated convolution over time of temporal convolutional networks, with its backward pass.
//!
//! `y_t = b + sum_j W_j x_{t - (k - 1 - j) d}`, bars before the first count as zero (Bai, Kolter and Koltun, 2018,
//! equation 1; van den Oord et al., 2016). Layout \[batch, length, channels\]: a bar's channels lie beside each other, as
//! in every other operation here, so each tap is a product of the window's rows, shifted, with the tap's weights, and
//! nothing is copied or rearranged. In \[batch, channels, length\] the same product would run along rows of odd length.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::dispatch::dispatched;
use crate::dropout::Dropout;
use crate::linear::column_sums;
use crate::storage::{Elements, add_in_order, filled, operand, tensor};
use crate::tiles::{self, Left, Panels, Right, Size};

/// Windows whose weight gradients are summed together. Fixed, so that the sum does not depend on the threads.
const WINDOWS: usize = 4;

/// What follows the convolution, applied while the result is in the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Epilogue {
    /// Nothing.
    Identity,
    /// `max(0, y)`, then dropout.
    Relu(Dropout),
}

/// Causal convolution over time. `x`: \[batch, length, inputs\], result: \[batch, length, outputs\].
///
/// `weight`: \[outputs, inputs, kernel\] as PyTorch's, its last tap that of the bar itself; `bias`: \[outputs\]. Bar `t` of
/// the result sees the bars `t`, `t - dilation`, .., `t - (kernel - 1) dilation`.
pub fn causal_convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    dilation: usize,
    epilogue: Epilogue,
) -> Result<Tensor> {
    if dilation == 0 {
        candle_core::bail!("causal_convolution: a dilation is 1 or more");
    }
    x.contiguous()?.apply_op3(
        &weight.contiguous()?,
        bias,
        Convolution { dilation, epilogue },
    )
}

struct Convolution {
    dilation: usize,
    epilogue: Epilogue,
}

#[derive(Clone, Copy)]
struct Geometry {
    batch: usize,
    length: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    dilation: usize,
}

impl Geometry {
    fn new(x: &[usize], weight: &[usize], dilation: usize) -> Result<Self> {
        let (&[batch, length, width], &[outputs, inputs, kernel]) = (x, weight) else {
            candle_core::bail!(
                "causal_convolution: expected [batch, length, inputs] and [outputs, inputs, kernel], got {x:?} and {weight:?}"
            );
        };
        if width != inputs {
            candle_core::bail!(
                "causal_convolution: expected {inputs} inputs, got a tensor of shape {x:?}"
            );
        }
        Ok(Self {
            batch,
            length,
            inputs,
            outputs,
            kernel,
            dilation,
        })
    }

    /// The taps that reach into a window, with how many bars each looks back.
    fn taps(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.kernel)
            .map(move |tap| (tap, (self.kernel - 1 - tap) * self.dilation))
            .filter(move |&(_, shift)| shift < self.length)
    }

    /// The weights as \[kernel, outputs, inputs\].
    fn by_tap(self, weight: &[f32]) -> Vec<f32> {
        let size = self.outputs * self.inputs;
        let mut out = vec![0.0; weight.len()];
        for (k, weights) in weight.chunks_exact(self.kernel).enumerate() {
            for (tap, &weight) in weights.iter().enumerate() {
                out[tap * size + k] = weight;
            }
        }
        out
    }

    /// Gradients of some windows: of the weights as \[kernel, inputs, outputs\] and of the bias; those of `x` are added to
    /// `of_x`. `taps`: the taps that reach into a window, how far each looks back, and its weights.
    fn gradients(
        self,
        taps: &[(usize, usize, Panels)],
        x: &[f32],
        g: &[f32],
        mut of_x: Option<&mut [f32]>,
    ) -> (Vec<f32>, Vec<f32>) {
        let Self {
            length,
            inputs,
            outputs,
            ..
        } = self;
        let (x_size, size) = (length * inputs, inputs * outputs);
        let mut sums = vec![0.0; self.kernel * size];
        for (window, g) in g.chunks_exact(length * outputs).enumerate() {
            for (tap, shift, weights) in taps {
                let rows = length - shift;
                let right = Right {
                    values: &g[shift * outputs..],
                    row: outputs,
                };
                if let Some(of_x) = &mut of_x {
                    let left = Left {
                        values: right.values,
                        row: outputs,
                        step: 1,
                    };
                    weights.accumulate(&mut of_x[window * x_size..], inputs, left, rows);
                }
                let left = Left {
                    values: &x[window * x_size..][..x_size],
                    row: 1,
                    step: inputs,
                };
                let product = Size {
                    m: inputs,
                    n: outputs,
                    k: rows,
                };
                tiles::accumulate(
                    &mut sums[tap * size..][..size],
                    outputs,
                    left,
                    right,
                    product,
                );
            }
        }
        (sums, column_sums(g, outputs))
    }

    /// The row of an output among the weights of a tap.
    fn row(self, by_tap: &[f32], tap: usize, output: usize) -> &[f32] {
        &by_tap[(tap * self.outputs + output) * self.inputs..][..self.inputs]
    }
}

impl CustomOp3 for Convolution {
    fn name(&self) -> &'static str {
        "causal_convolution"
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
        let geometry = Geometry::new(x_layout.dims(), weight_layout.dims(), self.dilation)?;
        let Geometry {
            batch,
            length,
            inputs,
            outputs,
            ..
        } = geometry;
        let x = operand(x, x_layout, "causal_convolution")?;
        let weight = operand(weight, weight_layout, "causal_convolution")?;
        let bias = operand(bias, bias_layout, "causal_convolution")?;
        if bias.len() != outputs {
            candle_core::bail!(
                "causal_convolution: a bias of {} for {outputs} outputs",
                bias.len()
            );
        }
        let by_tap = geometry.by_tap(weight);
        let taps: Vec<(usize, Panels)> = geometry
            .taps()
            .map(|(tap, shift)| {
                let row = |output| Some(geometry.row(&by_tap, tap, output));
                (shift, Panels::from_columns(inputs, outputs, row))
            })
            .collect();
        let size = length * outputs;
        let y = filled(batch * size, size, |window, y| {
            let x = &x[window * length * inputs..][..length * inputs];
            for row in y.chunks_exact_mut(outputs) {
                row.copy_from_slice(bias);
            }
            for (shift, weights) in &taps {
                let left = Left {
                    values: x,
                    row: inputs,
                    step: 1,
                };
                weights.accumulate(&mut y[shift * outputs..], outputs, left, length - shift);
            }
            if let Epilogue::Relu(dropout) = self.epilogue {
                rectify(y, dropout, (window * size) as u32);
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((batch, length, outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let geometry = Geometry::new(x.dims(), weight.dims(), self.dilation)?;
        let Geometry {
            batch,
            length,
            inputs,
            outputs,
            kernel,
            ..
        } = geometry;
        let gradient = gradient.contiguous()?;
        let (values, weights, y, g) = (
            Elements::of(x)?,
            Elements::of(weight)?,
            Elements::of(y)?,
            Elements::of(&gradient)?,
        );
        let (values, weights, y, g): (&[f32], &[f32], &[f32], &[f32]) = (&values, &weights, &y, &g);
        // Data needs no gradient, and the product would be for nothing.
        let needs_x = x.track_op();
        let by_tap = geometry.by_tap(weights);
        let taps: Vec<(usize, usize, Panels)> = geometry
            .taps()
            .map(|(tap, shift)| {
                let row = |output| Some(geometry.row(&by_tap, tap, output));
                (tap, shift, Panels::from_rows(outputs, inputs, row))
            })
            .collect();
        let (x_size, size) = (length * inputs, length * outputs);
        let tap_size = inputs * outputs;
        let mut x_gradient = vec![0.0; if needs_x { values.len() } else { 0 }];
        let mut of_x: Vec<&mut [f32]> = x_gradient.chunks_mut(WINDOWS * x_size).collect();
        of_x.resize_with(batch.div_ceil(WINDOWS), Default::default);
        let partials: Vec<(Vec<f32>, Vec<f32>)> = of_x
            .into_par_iter()
            .enumerate()
            .map(|(chunk, of_x)| {
                let first = chunk * WINDOWS;
                let windows = WINDOWS.min(batch - first);
                let g = &g[first * size..][..windows * size];
                let x = &values[first * x_size..][..windows * x_size];
                let of_x = needs_x.then_some(of_x);
                match self.epilogue {
                    Epilogue::Identity => geometry.gradients(&taps, x, g, of_x),
                    Epilogue::Relu(dropout) => {
                        let mut before = vec![0.0; g.len()];
                        let y = &y[first * size..][..windows * size];
                        rectified_gradient(y, g, &mut before, dropout, (first * size) as u32);
                        geometry.gradients(&taps, x, &before, of_x)
                    }
                }
            })
            .collect();
        let (sums, biases): (Vec<_>, Vec<_>) = partials.into_iter().unzip();
        let sums = add_in_order(sums, kernel * tap_size);
        let mut weight_gradient = vec![0.0; weights.len()];
        for (tap, sums) in sums.chunks_exact(tap_size).enumerate() {
            for (input, sums) in sums.chunks_exact(outputs).enumerate() {
                for (output, &sum) in sums.iter().enumerate() {
                    weight_gradient[(output * inputs + input) * kernel + tap] = sum;
                }
            }
        }
        let x_gradient = needs_x.then(|| tensor(x_gradient, x.shape().clone()));
        let bias_gradient = add_in_order(biases, outputs);
        Ok((
            x_gradient.transpose()?,
            Some(tensor(weight_gradient, weight.shape().clone())?),
            Some(tensor(bias_gradient, bias.shape().clone())?),
        ))
    }
}

dispatched! {
    /// `y = max(0, y) * dropout`, element `i` at the counter `first + i`.
    fn rectify(y: &mut [f32], dropout: Dropout, first: u32) {
        for (i, y) in y.iter_mut().enumerate() {
            // A NaN stays one.
            let positive = if *y < 0.0 { 0.0 } else { *y };
            *y = positive * dropout.factor(first.wrapping_add(i as u32));
        }
    }

    fn rectified_gradient(y: &[f32], g: &[f32], out: &mut [f32], dropout: Dropout, first: u32) {
        for (i, ((out, &y), &g)) in out.iter_mut().zip(y).zip(g).enumerate() {
            let slope = dropout.factor(first.wrapping_add(i as u32));
            *out = if y > 0.0 { g * slope } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check, noise};
    use crate::storage::to_vec;

    fn definition(v: &[Vec<f64>], g: Geometry, epilogue: Epilogue) -> Vec<f64> {
        let mut y = Vec::new();
        for b in 0..g.batch {
            for t in 0..g.length {
                for o in 0..g.outputs {
                    let mut sum = v[2][o];
                    for j in 0..g.kernel {
                        let Some(from) = t.checked_sub((g.kernel - 1 - j) * g.dilation) else {
                            continue;
                        };
                        for i in 0..g.inputs {
                            sum += v[1][(o * g.inputs + i) * g.kernel + j]
                                * v[0][(b * g.length + from) * g.inputs + i];
                        }
                    }
                    if let Epilogue::Relu(dropout) = epilogue {
                        sum = sum.max(0.0) * f64::from(dropout.factor(y.len() as u32));
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    #[test]
    fn gradients_match_finite_differences() {
        let relu = Epilogue::Relu(Dropout::new(0.3, 1, 2, 3));
        for (length, inputs, outputs, kernel, dilation, epilogue) in [
            (7, 3, 4, 3, 2, Epilogue::Identity),
            (3, 2, 3, 3, 2, Epilogue::Identity),
            (5, 1, 17, 1, 1, Epilogue::Identity),
            (6, 3, 5, 2, 1, relu),
        ] {
            let geometry = Geometry {
                batch: 2,
                length,
                inputs,
                outputs,
                kernel,
                dilation,
            };
            check(&Check {
                shapes: &[&[2, length, inputs], &[outputs, inputs, kernel], &[outputs]],
                op: &|t| causal_convolution(&t[0], &t[1], &t[2], dilation, epilogue),
                reference: &|v| definition(v, geometry, epilogue),
                tolerance: 1e-5,
            });
        }
    }

    fn operand(shape: &[usize], seed: u64) -> Tensor {
        let values = noise(shape.iter().product(), seed);
        let values = values.iter().map(|&v| v as f32).collect();
        let tensor = tensor(values, shape).unwrap();
        candle_core::Var::from_tensor(&tensor).unwrap().into_inner()
    }

    #[test]
    fn never_sees_the_future() {
        let (x, weight, bias) = (
            operand(&[1, 9, 3], 1),
            operand(&[4, 3, 3], 2),
            operand(&[4], 3),
        );
        let before =
            to_vec(&causal_convolution(&x, &weight, &bias, 2, Epilogue::Identity).unwrap());
        for cut in 1..9 {
            let mut values = to_vec(&x).unwrap();
            values[cut * 3..].fill(f32::NAN);
            let changed = tensor(values, (1, 9, 3)).unwrap();

            let after = causal_convolution(&changed, &weight, &bias, 2, Epilogue::Identity);

            let after = to_vec(&after.unwrap()).unwrap();
            assert_eq!(after[..cut * 4], before.as_ref().unwrap()[..cut * 4]);
            assert!(after[cut * 4..(cut + 1) * 4].iter().all(|v| v.is_nan()));
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let run = |threads: usize| -> Vec<u32> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let operands = [
                    operand(&[11, 20, 9], 1),
                    operand(&[18, 9, 3], 2),
                    operand(&[18], 3),
                ];
                let relu = Epilogue::Relu(Dropout::new(0.1, 1, 2, 3));
                let y = causal_convolution(&operands[0], &operands[1], &operands[2], 4, relu);
                let y = y.unwrap();
                let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                let mut values = to_vec(&y).unwrap();
                for operand in &operands {
                    let gradient = to_vec(gradients.get(operand).unwrap()).unwrap();
                    assert!(gradient.iter().any(|&g| g != 0.0));
                    values.extend(gradient);
                }
                values.iter().map(|v| v.to_bits()).collect()
            })
        };

        let one = run(1);

        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }

    #[test]
    fn names_the_width_it_expected() {
        let error = causal_convolution(
            &operand(&[1, 4, 3], 1),
            &operand(&[4, 2, 3], 2),
            &operand(&[4], 3),
            1,
            Epilogue::Identity,
        )
        .unwrap_err()
        .to_string();

        assert!(error.contains("expected 2 inputs"), "{error}");
    }
}
