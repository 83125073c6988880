//! Classification and regression losses as one number with its gradient.
//!
//! A batch has few logits, so these work in `f64` with `libm` and round once.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::dispatch::dispatched;
use crate::lanes;
use crate::math;
use crate::storage::{CHUNK, Elements, filled, operand, tensor};

/// How the terms of a classification loss are weighted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossOptions {
    /// One weight per class; all 1 where empty.
    pub class_weights: Vec<f64>,
    /// Share of the target that is spread evenly over all classes, in \[0, 1).
    pub label_smoothing: f64,
    /// Focal exponent: each term is multiplied by `(1 - p_target)^gamma` (Lin et al., 2017); 0 leaves it alone.
    pub focal_gamma: f64,
}

/// Softmax cross-entropy, the mean weighted by the classes of the targets. `logits`: \[batch, classes\]; a scalar.
///
/// Smoothing as in PyTorch: `-sum_c w_c q_c ln p_c` with `q` the smoothed target, over the sum of the targets' weights.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Arc<[u8]>,
    options: &LossOptions,
) -> Result<Tensor> {
    let (_, classes) = logits.dims2()?;
    logits.contiguous()?.apply_op1(CrossEntropy {
        targets: targets.clone(),
        classes,
        options: options.clone(),
    })
}

/// Cross-entropy of a yes or no with one logit, the mean weighted by the targets' classes. `logits`: \[batch, 1\]; a scalar.
///
/// The same as [`cross_entropy`] on the logits `(0, x)`.
pub fn binary_cross_entropy(
    logits: &Tensor,
    targets: &Arc<[u8]>,
    options: &LossOptions,
) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(CrossEntropy {
        targets: targets.clone(),
        classes: 1,
        options: options.clone(),
    })
}

/// Mean of `(x - target)^2`; a scalar.
pub fn mean_squared_error(x: &Tensor, target: &Arc<[f32]>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(SquaredError(target.clone()))
}

/// Contrastive loss of two views (`NT-Xent`: van den Oord et al., 2018; Chen et al., 2020). A scalar.
///
/// `x`: \[2 n, width\]: row `i` and row `i + n` are the two views of one window. Rows are normalized to length 1; each
/// row must find its partner among all others, itself excluded, by softmax of cosine similarity over `temperature`.
pub fn info_nce(x: &Tensor, temperature: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op1(InfoNce { temperature })
}

/// Vectors are taken to be at least this long.
const SHORTEST: f64 = 1e-12;

/// The smallest cosine similarity of two views of one window, for `x` as in [`info_nce`].
///
/// 1 (to rounding) means that the views do not differ: there is nothing to contrast. Two zero vectors count as equal.
pub fn smallest_pair_similarity(x: &Tensor) -> Result<f64> {
    let (rows, width) = x.dims2()?;
    let x = x.contiguous()?;
    let x = Elements::of(&x)?;
    let (unit, lengths) = normalized(&x, width);
    let n = rows / 2;
    let pair = |i: usize| -> f64 {
        if lengths[i] <= SHORTEST && lengths[i + n] <= SHORTEST {
            return 1.0;
        }
        (0..width)
            .map(|c| unit[i * width + c] * unit[(i + n) * width + c])
            .sum()
    };
    Ok((0..n).map(pair).fold(f64::INFINITY, f64::min))
}

struct CrossEntropy {
    targets: Arc<[u8]>,
    /// Logits a row; 1 stands for the two classes of a single logit.
    classes: usize,
    options: LossOptions,
}

impl CrossEntropy {
    /// The loss and its gradient with respect to the logits.
    fn evaluate(&self, logits: &[f32]) -> Result<(f64, Vec<f64>)> {
        let classes = self.classes.max(2);
        let weights = &self.options.class_weights;
        if logits.len() != self.targets.len() * self.classes
            || self.targets.iter().any(|&t| t as usize >= classes)
        {
            candle_core::bail!(
                "cross_entropy: {} targets below {classes} do not fit the logits",
                self.targets.len()
            );
        }
        if !weights.is_empty() && weights.len() != classes {
            candle_core::bail!(
                "cross_entropy: {} class weights for {classes} classes",
                weights.len()
            );
        }
        let weight = |class: usize| weights.get(class).copied().unwrap_or(1.0);
        let total: f64 = self.targets.iter().map(|&t| weight(t as usize)).sum();
        if total <= 0.0 {
            candle_core::bail!("cross_entropy: the weights of the batch's targets sum to {total}");
        }
        let LossOptions {
            label_smoothing,
            focal_gamma,
            ..
        } = self.options;
        let mut loss = 0.0;
        let mut gradient = Vec::with_capacity(logits.len());
        for (row, &target) in logits.chunks_exact(self.classes).zip(self.targets.iter()) {
            let row: Vec<f64> = if self.classes == 1 {
                vec![0.0, f64::from(row[0])]
            } else {
                row.iter().map(|&x| f64::from(x)).collect()
            };
            let target = target as usize;
            let log_p = log_softmax(&row);
            let p: Vec<f64> = log_p.iter().map(|&x| math::exp(x)).collect();
            let q = |class: usize| {
                let hit = if class == target {
                    1.0 - label_smoothing
                } else {
                    0.0
                };
                weight(class) * (hit + label_smoothing / classes as f64)
            };
            let entropy: f64 = (0..classes).map(|c| -q(c) * log_p[c]).sum();
            let mass: f64 = (0..classes).map(q).sum();
            let miss = 1.0 - p[target];
            let (focus, slope) = if focal_gamma > 0.0 {
                (
                    math::pow(miss, focal_gamma),
                    -focal_gamma * math::pow(miss, focal_gamma - 1.0) * p[target],
                )
            } else {
                (1.0, 0.0)
            };
            loss += focus * entropy / total;
            // A single logit is that of class 1.
            for (class, &p) in p.iter().enumerate().skip(usize::from(self.classes == 1)) {
                let hit = if class == target { 1.0 } else { 0.0 };
                // With gamma below 1 the slope is infinite where the focus vanishes; the product's limit is 0.
                let focal = if slope.is_finite() {
                    entropy * slope * (hit - p)
                } else {
                    0.0
                };
                gradient.push((focus * (p * mass - q(class)) + focal) / total);
            }
        }
        Ok((loss, gradient))
    }
}

fn log_softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|&x| math::exp(x - largest)).sum();
    let log_total = math::ln(total);
    x.iter().map(|&x| x - largest - log_total).collect()
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (loss, _) = self.evaluate(operand(logits, layout, "cross_entropy")?)?;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, slope) = self.evaluate(&Elements::of(logits)?)?;
        scaled(&slope, gradient, logits)
    }
}

/// `slope` times the gradient of the scalar it belongs to, shaped like `x`.
fn scaled(slope: &[f64], gradient: &Tensor, x: &Tensor) -> Result<Option<Tensor>> {
    let factor = f64::from(gradient.to_scalar::<f32>()?);
    let values = slope.iter().map(|&s| (s * factor) as f32).collect();
    Ok(Some(tensor(values, x.shape().clone())?))
}

struct SquaredError(Arc<[f32]>);

impl CustomOp1 for SquaredError {
    fn name(&self) -> &'static str {
        "mean_squared_error"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = operand(x, layout, "mean_squared_error")?;
        if x.len() != self.0.len() || x.is_empty() {
            candle_core::bail!(
                "mean_squared_error: {} values against {} targets",
                x.len(),
                self.0.len()
            );
        }
        let total: f64 = x
            .chunks(CHUNK)
            .zip(self.0.chunks(CHUNK))
            .map(|(x, y)| f64::from(squared_distance(x, y)))
            .sum();
        Ok((
            CpuStorage::F32(vec![(total / x.len() as f64) as f32]),
            Shape::from(()),
        ))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let values = Elements::of(x)?;
        let values: &[f32] = &values;
        let factor = 2.0 * gradient.to_scalar::<f32>()? / values.len() as f32;
        let out = filled(values.len(), CHUNK, |chunk, out| {
            let first = chunk * CHUNK;
            for ((out, x), y) in out.iter_mut().zip(&values[first..]).zip(&self.0[first..]) {
                *out = factor * (x - y);
            }
        });
        Ok(Some(tensor(out, x.shape().clone())?))
    }
}

dispatched! {
    fn squared_distance(x: &[f32], y: &[f32]) -> f32 {
        let mut sums = [0.0_f32; lanes::LANES];
        for (x, y) in x.chunks(lanes::LANES).zip(y.chunks(lanes::LANES)) {
            for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
                let difference = x - y;
                *sum = difference.mul_add(difference, *sum);
            }
        }
        lanes::fold(sums)
    }
}

struct InfoNce {
    temperature: f64,
}

impl InfoNce {
    /// The loss and its gradient with respect to the rows.
    fn evaluate(&self, x: &[f32], width: usize) -> Result<(f64, Vec<f64>)> {
        let rows = x.len() / width.max(1);
        if rows < 4 || !rows.is_multiple_of(2) {
            candle_core::bail!(
                "info_nce: needs two views of at least two windows, got {rows} rows"
            );
        }
        let partner = |i: usize| (i + rows / 2) % rows;
        let (unit, lengths) = normalized(x, width);
        let matrix = crate::matmul::Matrix::new(&unit, rows, width);
        let mut similarity = crate::matmul::matmul(matrix, matrix.transposed());
        let mut loss = 0.0;
        // From here on `similarity` becomes the gradient of the loss with respect to the similarities.
        for (i, row) in similarity.chunks_exact_mut(rows).enumerate() {
            row[i] = f64::NEG_INFINITY;
            for value in row.iter_mut() {
                *value /= self.temperature;
            }
            let log_p = log_softmax(row);
            loss -= log_p[partner(i)] / rows as f64;
            for (j, value) in row.iter_mut().enumerate() {
                let hit = if j == partner(i) { 1.0 } else { 0.0 };
                let p = if j == i { 0.0 } else { math::exp(log_p[j]) };
                *value = (p - hit) / (rows as f64 * self.temperature);
            }
        }
        let slopes = crate::matmul::Matrix::new(&similarity, rows, rows);
        let mut gradient = crate::matmul::matmul(slopes, matrix);
        crate::matmul::multiply(&mut gradient, width, slopes.transposed(), matrix, true);
        for ((g, unit), length) in gradient
            .chunks_exact_mut(width)
            .zip(unit.chunks_exact(width))
            .zip(lengths)
        {
            let along: f64 = g.iter().zip(unit).map(|(g, u)| g * u).sum();
            for (g, u) in g.iter_mut().zip(unit) {
                *g = (*g - u * along) / length;
            }
        }
        Ok((loss, gradient))
    }
}

/// The rows scaled to length 1, and their lengths.
fn normalized(x: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let mut unit: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let lengths = unit
        .chunks_exact_mut(width)
        .map(|row| {
            let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(SHORTEST);
            for value in row {
                *value /= length;
            }
            length
        })
        .collect();
    (unit, lengths)
}

impl CustomOp1 for InfoNce {
    fn name(&self) -> &'static str {
        "info_nce"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let (loss, _) = self.evaluate(operand(x, layout, "info_nce")?, width)?;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = x.dims2()?;
        let (_, slope) = self.evaluate(&Elements::of(x)?, width)?;
        scaled(&slope, gradient, x)
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

    use candle_core::Device;

    use super::*;
    use crate::gradient_check::{Check, check};

    fn plain_cross_entropy(
        logits: &[f64],
        targets: &[u8],
        classes: usize,
        options: &LossOptions,
    ) -> f64 {
        let weight = |c: usize| options.class_weights.get(c).copied().unwrap_or(1.0);
        let mut sum = 0.0;
        let mut total = 0.0;
        for (row, &target) in logits.chunks(classes).zip(targets) {
            let z: f64 = row.iter().map(|x| x.exp()).sum();
            let p: Vec<f64> = row.iter().map(|x| x.exp() / z).collect();
            let mut entropy = 0.0;
            for c in 0..classes {
                let hit = if c == target as usize {
                    1.0 - options.label_smoothing
                } else {
                    0.0
                };
                entropy -= weight(c) * (hit + options.label_smoothing / classes as f64) * p[c].ln();
            }
            sum += (1.0 - p[target as usize]).powf(options.focal_gamma) * entropy;
            total += weight(target as usize);
        }
        sum / total
    }

    #[test]
    fn gradients_of_the_cross_entropy_match_finite_differences() {
        let targets: Arc<[u8]> = vec![0, 2, 1, 2, 2].into();
        for (class_weights, label_smoothing, focal_gamma) in [
            (vec![], 0.0, 0.0),
            (vec![0.5, 2.0, 1.0], 0.1, 0.0),
            (vec![1.0, 3.0, 0.2], 0.05, 2.0),
            (vec![], 0.0, 0.5),
        ] {
            let options = LossOptions {
                class_weights,
                label_smoothing,
                focal_gamma,
            };
            check(&Check {
                shapes: &[&[5, 3]],
                op: &|t| cross_entropy(&t[0], &targets, &options),
                reference: &|v| vec![plain_cross_entropy(&v[0], &targets, 3, &options)],
                tolerance: 1e-6,
            });
        }
    }

    #[test]
    fn gradients_of_the_binary_cross_entropy_match_finite_differences() {
        let targets: Arc<[u8]> = vec![0, 1, 1, 0].into();
        for (class_weights, label_smoothing, focal_gamma) in
            [(vec![], 0.0, 0.0), (vec![0.75, 0.25], 0.1, 2.0)]
        {
            let options = LossOptions {
                class_weights,
                label_smoothing,
                focal_gamma,
            };
            check(&Check {
                shapes: &[&[4, 1]],
                op: &|t| binary_cross_entropy(&t[0], &targets, &options),
                reference: &|v| {
                    let logits: Vec<f64> = v[0].iter().flat_map(|&x| [0.0, x]).collect();
                    vec![plain_cross_entropy(&logits, &targets, 2, &options)]
                },
                tolerance: 1e-6,
            });
        }
    }

    #[test]
    fn stays_finite_for_certain_logits() {
        let targets: Arc<[u8]> = vec![1, 0].into();
        let logits = Tensor::new(&[[3e4_f32], [3e4]], &Device::Cpu).unwrap();

        let loss = binary_cross_entropy(&logits, &targets, &LossOptions::default()).unwrap();

        assert!((loss.to_scalar::<f32>().unwrap() - 1.5e4).abs() < 1.0);
    }

    #[test]
    fn gradients_of_the_squared_error_match_finite_differences() {
        let target: Arc<[f32]> = vec![0.5, -1.0, 2.0, 0.0, 1.0, 1.5].into();
        check(&Check {
            shapes: &[&[2, 3]],
            op: &|t| mean_squared_error(&t[0], &target),
            reference: &|v| {
                vec![
                    v[0].iter()
                        .zip(target.iter())
                        .map(|(x, y)| (x - f64::from(*y)).powi(2))
                        .sum::<f64>()
                        / 6.0,
                ]
            },
            tolerance: 1e-6,
        });
    }

    #[test]
    fn gradients_of_info_nce_match_finite_differences() {
        check(&Check {
            shapes: &[&[6, 4]],
            op: &|t| info_nce(&t[0], 0.5),
            reference: &|v| {
                let unit: Vec<Vec<f64>> = v[0]
                    .chunks(4)
                    .map(|row| {
                        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                        row.iter().map(|x| x / length).collect()
                    })
                    .collect();
                let s = |i: usize, j: usize| {
                    unit[i]
                        .iter()
                        .zip(&unit[j])
                        .map(|(a, b)| a * b)
                        .sum::<f64>()
                        / 0.5
                };
                let loss = |i: usize| {
                    (0..6)
                        .filter(|&j| j != i)
                        .map(|j| s(i, j).exp())
                        .sum::<f64>()
                        .ln()
                        - s(i, (i + 3) % 6)
                };
                vec![(0..6).map(loss).sum::<f64>() / 6.0]
            },
            tolerance: 1e-6,
        });
    }

    #[test]
    fn two_equal_views_have_similarity_one() {
        let view = [[1.0_f32, 2.0, 3.0], [-1.0, 0.5, 2.0]];
        let equal = Tensor::new(&[view[0], view[1], view[0], view[1]], &Device::Cpu).unwrap();
        let different =
            Tensor::new(&[view[0], view[1], view[0], [1.0, 0.5, 2.0]], &Device::Cpu).unwrap();

        assert!(smallest_pair_similarity(&equal).unwrap() > 1.0 - 1e-9);
        assert!(smallest_pair_similarity(&different).unwrap() < 0.9);
    }
}
