//! Actor and critic: two small perceptrons with one hidden layer of tanh, and their gradients, on plain slices.

use natron_artifacts::{Stream, Tensor};
use natron_kernels::{
    math::single::tanh,
    matmul::{Matrix, matmul, multiply},
};
use std::collections::BTreeMap;

use super::environment::N_ACTIONS;

/// A perceptron's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) inputs: usize,
    pub(super) hidden: usize,
    pub(super) outputs: usize,
}

/// Weights `\[hidden, inputs\]`, biases `\[hidden\]`, weights `\[outputs, hidden\]`, biases `\[outputs\]`; or a gradient of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Perceptron {
    pub(super) sizes: Sizes,
    pub(super) blocks: [Vec<f32>; 4],
}

/// Names of the blocks.
const BLOCKS: [&str; 4] = [
    "hidden.weight",
    "hidden.bias",
    "output.weight",
    "output.bias",
];

impl Perceptron {
    /// All zero.
    pub(super) fn zeros(sizes: Sizes) -> Self {
        let Sizes {
            inputs,
            hidden,
            outputs,
        } = sizes;
        let blocks = [hidden * inputs, hidden, outputs * hidden, outputs].map(|n| vec![0.0; n]);
        Self { sizes, blocks }
    }

    /// Normal weights of variance 1 over the number of inputs, the last layer's times `last_gain`; zero biases.
    pub(super) fn random(sizes: Sizes, last_gain: f64, stream: &mut Stream) -> Self {
        let mut network = Self::zeros(sizes);
        for (block, n, gain) in [(0, sizes.inputs, 1.0), (2, sizes.hidden, last_gain)] {
            let scale = gain / (n as f64).sqrt();
            for weight in &mut network.blocks[block] {
                *weight = (scale * stream.normal()) as f32;
            }
        }
        network
    }

    fn shapes(&self) -> [Vec<usize>; 4] {
        let Sizes {
            inputs,
            hidden,
            outputs,
        } = self.sizes;
        [
            vec![hidden, inputs],
            vec![hidden],
            vec![outputs, hidden],
            vec![outputs],
        ]
    }

    /// The blocks as tensors called `<prefix>.hidden.weight` and so on.
    pub(super) fn tensors(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        BLOCKS
            .into_iter()
            .zip(self.shapes())
            .zip(&self.blocks)
            .map(|((name, shape), values)| {
                (
                    format!("{prefix}.{name}"),
                    Tensor {
                        shape,
                        values: values.clone(),
                    },
                )
            })
            .collect()
    }

    /// The blocks from tensors, if all are there in the right sizes.
    pub(super) fn from_tensors(
        sizes: Sizes,
        prefix: &str,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Option<Self> {
        let mut network = Self::zeros(sizes);
        for ((block, name), shape) in network
            .blocks
            .iter_mut()
            .zip(BLOCKS)
            .zip(Self::zeros(sizes).shapes())
        {
            let tensor = tensors.get(&format!("{prefix}.{name}"))?;
            if tensor.shape != shape {
                return None;
            }
            block.clone_from(&tensor.values);
        }
        Some(network)
    }

    /// The hidden states \[rows, hidden\] of inputs \[rows, inputs\].
    fn hidden(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let Sizes { inputs, hidden, .. } = self.sizes;
        let weight = Matrix::new(&self.blocks[0], hidden, inputs).transposed();
        let mut h = matmul(Matrix::new(x, rows, inputs), weight);
        for row in h.chunks_mut(hidden) {
            for (value, bias) in row.iter_mut().zip(&self.blocks[1]) {
                *value = tanh(*value + bias);
            }
        }
        h
    }

    fn output(&self, h: &[f32], rows: usize) -> Vec<f32> {
        let Sizes {
            hidden, outputs, ..
        } = self.sizes;
        let weight = Matrix::new(&self.blocks[2], outputs, hidden).transposed();
        let mut out = matmul(Matrix::new(h, rows, hidden), weight);
        for row in out.chunks_mut(outputs) {
            for (value, bias) in row.iter_mut().zip(&self.blocks[3]) {
                *value += bias;
            }
        }
        out
    }

    /// Outputs \[rows, outputs\] and hidden states of inputs \[rows, inputs\].
    pub(super) fn forward(&self, x: &[f32], rows: usize) -> (Vec<f32>, Vec<f32>) {
        let h = self.hidden(x, rows);
        (self.output(&h, rows), h)
    }

    /// The gradient of a loss with the gradient `d_out` \[rows, outputs\] at the outputs.
    pub(super) fn backward(&self, x: &[f32], h: &[f32], d_out: &[f32], rows: usize) -> Self {
        let Sizes {
            inputs,
            hidden,
            outputs,
        } = self.sizes;
        let mut gradient = Self::zeros(self.sizes);
        let d_out_matrix = Matrix::new(d_out, rows, outputs);
        multiply(
            &mut gradient.blocks[2],
            hidden,
            d_out_matrix.transposed(),
            Matrix::new(h, rows, hidden),
            false,
        );
        sum_rows(&mut gradient.blocks[3], d_out);
        let mut d_h = matmul(d_out_matrix, Matrix::new(&self.blocks[2], outputs, hidden));
        for (d, h) in d_h.iter_mut().zip(h) {
            *d *= 1.0 - h * h;
        }
        multiply(
            &mut gradient.blocks[0],
            inputs,
            Matrix::new(&d_h, rows, hidden).transposed(),
            Matrix::new(x, rows, inputs),
            false,
        );
        sum_rows(&mut gradient.blocks[1], &d_h);
        gradient
    }

    /// By how much `d_out . outputs` of each row grows with the row's input `column`; `h` are the rows' hidden states.
    /// `d_out`: \[rows\], for networks of one output.
    pub(super) fn input_slope(&self, h: &[f32], d_out: &[f32], column: usize) -> Vec<f32> {
        let Sizes { inputs, hidden, .. } = self.sizes;
        let weights: Vec<f32> = (0..hidden)
            .map(|j| self.blocks[0][j * inputs + column] * self.blocks[2][j])
            .collect();
        h.chunks_exact(hidden)
            .zip(d_out)
            .map(|(h, d)| {
                d * h
                    .iter()
                    .zip(&weights)
                    .fold(0.0, |sum, (h, w)| sum + (1.0 - h * h) * w)
            })
            .collect()
    }

    /// Moves every weight the share `rate` of the way to `other`'s.
    pub(super) fn approach(&mut self, other: &Self, rate: f32) {
        for (block, other) in self.blocks.iter_mut().zip(&other.blocks) {
            for (weight, other) in block.iter_mut().zip(other) {
                *weight += rate * (other - *weight);
            }
        }
    }

    /// What the first `inputs - n_last` inputs alone bring to the hidden layer before tanh, bias included: \[rows, hidden\].
    pub(super) fn prepared(&self, views: &[f32], rows: usize, n_last: usize) -> Vec<f32> {
        let Sizes { inputs, hidden, .. } = self.sizes;
        let width = inputs - n_last;
        let weight = Matrix::strided(&self.blocks[0], hidden, width, inputs).transposed();
        let mut z = matmul(Matrix::new(views, rows, width), weight);
        for row in z.chunks_mut(hidden) {
            for (value, bias) in row.iter_mut().zip(&self.blocks[1]) {
                *value += bias;
            }
        }
        z
    }

    /// The outputs for one row of [`Perceptron::prepared`] and its last inputs.
    pub(super) fn finish(&self, prepared: &[f32], last: &[f32]) -> Vec<f32> {
        let Sizes { inputs, hidden, .. } = self.sizes;
        let width = inputs - last.len();
        let h: Vec<f32> = (0..hidden)
            .map(|j| {
                let weights = &self.blocks[0][j * inputs + width..][..last.len()];
                tanh(
                    weights
                        .iter()
                        .zip(last)
                        .fold(prepared[j], |sum, (w, x)| sum + w * x),
                )
            })
            .collect();
        self.output(&h, 1)
    }

    /// Sum of the squares of all entries.
    pub(super) fn square_norm(&self) -> f64 {
        self.blocks
            .iter()
            .flatten()
            .map(|&v| f64::from(v) * f64::from(v))
            .sum()
    }
}

fn sum_rows(sums: &mut [f32], rows: &[f32]) {
    for row in rows.chunks(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// First and second moments of the Adam optimizer (Kingma and Ba, 2015), without weight decay.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Adam {
    pub(super) first: Perceptron,
    pub(super) second: Perceptron,
}

impl Adam {
    /// Zero moments.
    pub(super) fn new(sizes: Sizes) -> Self {
        Self {
            first: Perceptron::zeros(sizes),
            second: Perceptron::zeros(sizes),
        }
    }

    /// One step, the `step`-th from 1, along `gradient` times `factor`.
    pub(super) fn update(
        &mut self,
        network: &mut Perceptron,
        gradient: &Perceptron,
        factor: f32,
        learning_rate: f64,
        step: u64,
    ) {
        const BETA: (f64, f64) = (0.9, 0.999);
        // As the published PPO implementations have it (Huang et al., 2022, "The 37 implementation details", 3).
        const EPSILON: f32 = 1e-5;
        let correction = |beta: f64| 1.0 - natron_kernels::math::pow(beta, step as f64);
        let rate = (learning_rate / correction(BETA.0)) as f32;
        let root = correction(BETA.1).sqrt() as f32;
        let (b1, b2) = (BETA.0 as f32, BETA.1 as f32);
        for block in 0..4 {
            let moments = self.first.blocks[block]
                .iter_mut()
                .zip(&mut self.second.blocks[block]);
            let weights = network.blocks[block]
                .iter_mut()
                .zip(&gradient.blocks[block]);
            for ((weight, &g), (m, v)) in weights.zip(moments) {
                let g = g * factor;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *weight -= rate * *m / (v.sqrt() / root + EPSILON);
            }
        }
    }
}

/// Natural logarithms of the softmax of each row of logits, in place; rows of [`N_ACTIONS`].
pub(super) fn log_softmax(logits: &mut [f32]) {
    use natron_kernels::math::single::{exp, ln};
    for row in logits.chunks_mut(N_ACTIONS) {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|&v| exp(v - top)).sum();
        let log_sum = ln(sum);
        for value in row {
            *value = (*value - top) - log_sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Streams;

    use super::*;

    const SIZES: Sizes = Sizes {
        inputs: 5,
        hidden: 7,
        outputs: 3,
    };

    fn numbers(n: usize, name: &str) -> Vec<f32> {
        let mut stream = Streams::new(1).stream(name);
        (0..n).map(|_| stream.normal() as f32).collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let network = Perceptron::random(SIZES, 1.0, &mut Streams::new(2).stream("w"));
        let (x, d_out) = (numbers(20, "x"), numbers(12, "d"));
        let loss = |network: &Perceptron| -> f64 {
            let (out, _) = network.forward(&x, 4);
            out.iter()
                .zip(&d_out)
                .map(|(o, d)| f64::from(*o) * f64::from(*d))
                .sum()
        };
        let (_, h) = network.forward(&x, 4);
        let gradient = network.backward(&x, &h, &d_out, 4);

        for block in 0..4 {
            for i in 0..network.blocks[block].len() {
                let nudged = |by: f32| {
                    let mut other = network.clone();
                    other.blocks[block][i] += by;
                    loss(&other)
                };
                let slope = (nudged(1e-2) - nudged(-1e-2)) / 2e-2;
                let found = f64::from(gradient.blocks[block][i]);
                assert!(
                    (found - slope).abs() < 2e-3,
                    "block {block}, {i}: {found} is not {slope}"
                );
            }
        }
    }

    #[test]
    fn preparing_the_view_changes_no_output() {
        let network = Perceptron::random(SIZES, 1.0, &mut Streams::new(3).stream("w"));
        let x = numbers(10, "x");
        let views: Vec<f32> = x.chunks(5).flat_map(|row| row[..3].to_vec()).collect();
        let (out, _) = network.forward(&x, 2);
        let prepared = network.prepared(&views, 2, 2);

        for row in 0..2 {
            let found = network.finish(&prepared[row * 7..][..7], &x[row * 5 + 3..][..2]);
            for (a, b) in found.iter().zip(&out[row * 3..]) {
                assert!((a - b).abs() < 1e-5, "{a} is not {b}");
            }
        }
    }

    #[test]
    fn log_softmax_sums_to_one() {
        let mut logits = vec![1000.0, 999.0, -1000.0];
        log_softmax(&mut logits);

        let sum: f32 = logits
            .iter()
            .map(|l| natron_kernels::math::single::exp(*l))
            .sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn tensors_read_back() {
        let network = Perceptron::random(SIZES, 0.1, &mut Streams::new(4).stream("w"));
        let tensors = network.tensors("policy");

        assert_eq!(
            Perceptron::from_tensors(SIZES, "policy", &tensors),
            Some(network)
        );
        assert_eq!(
            Perceptron::from_tensors(Sizes { hidden: 8, ..SIZES }, "policy", &tensors),
            None
        );
    }
}
