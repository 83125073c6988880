//! The gate of a mixture of experts: who is asked, how the answers are mixed, and whether all are asked alike; with the
//! backward passes.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::math;
use crate::storage::{Elements, operand, tensor};

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// All experts, by softmax (Jacobs et al., 1991).
    Dense,
    /// The best so many, by softmax among them; the others weigh 0 (Shazeer et al., 2017, equation 3).
    Top(usize),
}

/// Weights of the experts, which sum to 1. `logits`: \[batch, experts\], result the same. Of equal logits the first wins.
pub fn gate(logits: &Tensor, gate: Gate) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(Weights(gate))
}

/// Normal noise of deviation `scale` to add to the logits while training, so that all experts get to learn.
///
/// A hash of seed, training step, `site` (the place in the network) and element: no state, no order. Box and Muller (1958).
pub fn gate_noise(
    batch: usize,
    experts: usize,
    scale: f64,
    seed: u64,
    step: u64,
    site: u64,
) -> Result<Tensor> {
    let key = mixed(mixed(mixed(seed) ^ step) ^ site);
    // 53 bits in (0, 1].
    let uniform = |k: u64| ((mixed(key ^ k) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    let values = (0..(batch * experts) as u64)
        .map(|k| {
            let length = (-2.0 * math::ln(uniform(2 * k))).sqrt();
            let angle = std::f64::consts::TAU * uniform(2 * k + 1);
            (scale * length * math::cos(angle)) as f32
        })
        .collect();
    tensor(values, (batch, experts))
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `sum_e weight_e answer_e`. `weights`: \[batch, experts\], `answers`: \[batch, experts, width\], result: \[batch, width\].
pub fn mix(weights: &Tensor, answers: &Tensor) -> Result<Tensor> {
    weights.contiguous()?.apply_op2(&answers.contiguous()?, Mix)
}

/// `experts * sum_e f_e p_e`, 1 when all are asked alike: `f_e` the share of the rows' choices that fall on expert `e`, `p_e`
/// the mean of its dense softmax (Fedus, Zoph and Shazeer, 2022, equations 4 to 6). A scalar; the shares have no gradient.
///
/// A dense gate chooses, for this count, its best expert.
pub fn load_balance_loss(logits: &Tensor, gate: Gate) -> Result<Tensor> {
    logits.contiguous()?.apply_op1(LoadBalance(gate))
}

/// How a gate spread a batch over the experts.
#[derive(Debug, Clone, PartialEq)]
pub struct GateStatistics {
    /// Mean weight of each expert.
    pub mean_weight: Vec<f64>,
    /// Share of the rows in which each expert weighs most.
    pub first_share: Vec<f64>,
    /// Mean over the rows of `-sum w ln w`, over `ln experts`: 0 when one expert decides, 1 when all count alike.
    pub entropy: f64,
}

/// Statistics of the weights that [`gate`] gives: \[batch, experts\].
pub fn gate_statistics(weights: &Tensor) -> Result<GateStatistics> {
    let (batch, experts) = weights.dims2()?;
    if batch == 0 || experts == 0 {
        candle_core::bail!("gate_statistics: no weights in {:?}", weights.dims());
    }
    let weights = weights.contiguous()?;
    let weights = Elements::of(&weights)?;
    let mut statistics = GateStatistics {
        mean_weight: vec![0.0; experts],
        first_share: vec![0.0; experts],
        entropy: 0.0,
    };
    for row in weights.chunks_exact(experts) {
        statistics.first_share[best(row, 1)[0]] += 1.0 / batch as f64;
        for (mean, &weight) in statistics.mean_weight.iter_mut().zip(row) {
            let weight = f64::from(weight);
            *mean += weight / batch as f64;
            if weight > 0.0 && experts > 1 {
                let full = math::ln(experts as f64) * batch as f64;
                statistics.entropy -= weight * math::ln(weight) / full;
            }
        }
    }
    Ok(statistics)
}

/// The indices of the `n` largest values, the first of equal ones first.
fn best(row: &[f32], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    order.truncate(n);
    order
}

impl Gate {
    fn check(self, layout: &[usize]) -> Result<usize> {
        let &[_, experts] = layout else {
            candle_core::bail!("gate: expected [batch, experts], got {layout:?}");
        };
        match self {
            Self::Top(n) if n == 0 || n > experts => {
                candle_core::bail!("gate: the best {n} of {experts} experts")
            }
            _ if experts == 0 => candle_core::bail!("gate: no experts"),
            _ => Ok(experts),
        }
    }

    /// Softmax over those asked, in `f64`.
    fn weights(self, row: &[f32]) -> Vec<f64> {
        let asked = match self {
            Self::Dense => (0..row.len()).collect(),
            Self::Top(n) => best(row, n),
        };
        let largest = asked
            .iter()
            .map(|&e| row[e])
            .fold(f32::NEG_INFINITY, f32::max);
        let mut weights = vec![0.0; row.len()];
        for &e in &asked {
            weights[e] = math::exp(f64::from(row[e]) - f64::from(largest));
        }
        let total: f64 = weights.iter().sum();
        for weight in &mut weights {
            *weight /= total;
        }
        weights
    }
}

struct Weights(Gate);

impl CustomOp1 for Weights {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let experts = self.0.check(layout.dims())?;
        let logits = operand(logits, layout, "gate")?;
        let weights = logits
            .chunks_exact(experts)
            .flat_map(|row| self.0.weights(row))
            .map(|weight| weight as f32)
            .collect();
        Ok((CpuStorage::F32(weights), layout.shape().clone()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, experts) = logits.dims2()?;
        let gradient = gradient.contiguous()?;
        let (values, g) = (Elements::of(logits)?, Elements::of(&gradient)?);
        let mut out = Vec::with_capacity(values.len());
        for (row, g) in values.chunks_exact(experts).zip(g.chunks_exact(experts)) {
            let weights = self.0.weights(row);
            let mean: f64 = weights.iter().zip(g).map(|(w, &g)| w * f64::from(g)).sum();
            out.extend(
                weights
                    .iter()
                    .zip(g)
                    .map(|(w, &g)| (w * (f64::from(g) - mean)) as f32),
            );
        }
        Ok(Some(tensor(out, logits.shape().clone())?))
    }
}

struct LoadBalance(Gate);

impl LoadBalance {
    /// The loss and its gradient with respect to the logits.
    fn evaluate(&self, logits: &[f32], experts: usize) -> Result<(f64, Vec<f64>)> {
        let rows = logits.len() / experts;
        if rows == 0 {
            candle_core::bail!("load_balance_loss: no rows");
        }
        let n = match self.0 {
            Gate::Dense => 1,
            Gate::Top(n) => n,
        };
        let mut share = vec![0.0; experts];
        for row in logits.chunks_exact(experts) {
            for e in best(row, n) {
                share[e] += experts as f64 / (n * rows) as f64;
            }
        }
        let mut loss = 0.0;
        let mut gradient = Vec::with_capacity(logits.len());
        for row in logits.chunks_exact(experts) {
            let p = Gate::Dense.weights(row);
            let mean: f64 = p.iter().zip(&share).map(|(p, f)| p * f).sum();
            loss += mean / rows as f64;
            gradient.extend(
                p.iter()
                    .zip(&share)
                    .map(|(p, f)| p * (f - mean) / rows as f64),
            );
        }
        Ok((loss, gradient))
    }
}

impl CustomOp1 for LoadBalance {
    fn name(&self) -> &'static str {
        "load_balance_loss"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let experts = self.0.check(layout.dims())?;
        let (loss, _) = self.evaluate(operand(logits, layout, "load_balance_loss")?, experts)?;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, experts) = logits.dims2()?;
        let (_, slopes) = self.evaluate(&Elements::of(logits)?, experts)?;
        let factor = f64::from(gradient.to_scalar::<f32>()?);
        let values = slopes.iter().map(|slope| (slope * factor) as f32).collect();
        Ok(Some(tensor(values, logits.shape().clone())?))
    }
}

struct Mix;

impl CustomOp2 for Mix {
    fn name(&self) -> &'static str {
        "mix"
    }

    fn cpu_fwd(
        &self,
        weights: &CpuStorage,
        weights_layout: &Layout,
        answers: &CpuStorage,
        answers_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, experts, width) = answers_layout.shape().dims3()?;
        if weights_layout.dims() != [batch, experts] {
            candle_core::bail!(
                "mix: weights {:?} for answers {:?}",
                weights_layout.dims(),
                answers_layout.dims()
            );
        }
        let weights = operand(weights, weights_layout, "mix")?;
        let answers = operand(answers, answers_layout, "mix")?;
        let mut y = vec![0.0_f32; batch * width];
        for (row, &weight) in weights.iter().enumerate() {
            let answer = &answers[row * width..][..width];
            for (sum, &value) in y[row / experts * width..][..width].iter_mut().zip(answer) {
                *sum = weight.mul_add(value, *sum);
            }
        }
        Ok((CpuStorage::F32(y), Shape::from((batch, width))))
    }

    fn bwd(
        &self,
        weights: &Tensor,
        answers: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, experts, width) = answers.dims3()?;
        let gradient = gradient.contiguous()?;
        let (w, a, g) = (
            Elements::of(weights)?,
            Elements::of(answers)?,
            Elements::of(&gradient)?,
        );
        let mut of_weights = vec![0.0; w.len()];
        let mut of_answers = vec![0.0; a.len()];
        for row in 0..w.len() {
            let g = &g[row / experts * width..][..width];
            let answer = &a[row * width..][..width];
            let mut sum = 0.0_f32;
            for ((out, &value), &g) in of_answers[row * width..].iter_mut().zip(answer).zip(g) {
                *out = w[row] * g;
                sum = value.mul_add(g, sum);
            }
            of_weights[row] = sum;
        }
        Ok((
            Some(tensor(of_weights, weights.shape().clone())?),
            Some(tensor(of_answers, answers.shape().clone())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check, noise};
    use crate::storage::to_vec;

    fn plain_weights(row: &[f64], asked: usize) -> Vec<f64> {
        let mut sorted = row.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let e: Vec<f64> = row
            .iter()
            .map(|&x| {
                if x >= sorted[asked - 1] {
                    math::exp(x)
                } else {
                    0.0
                }
            })
            .collect();
        let total: f64 = e.iter().sum();
        e.iter().map(|e| e / total).collect()
    }

    #[test]
    fn gradients_of_the_weights_match_finite_differences() {
        for (kind, asked) in [(Gate::Dense, 5), (Gate::Top(2), 2)] {
            check(&Check {
                shapes: &[&[4, 5]],
                op: &|t| gate(&t[0], kind),
                reference: &|v| {
                    v[0].chunks(5)
                        .flat_map(|row| plain_weights(row, asked))
                        .collect()
                },
                tolerance: 1e-6,
            });
        }
    }

    #[test]
    fn gradients_of_the_mixture_match_finite_differences() {
        check(&Check {
            shapes: &[&[3, 4], &[3, 4, 5]],
            op: &|t| mix(&gate(&t[0], Gate::Dense)?, &t[1]),
            reference: &|v| {
                let weights: Vec<f64> = v[0]
                    .chunks(4)
                    .flat_map(|row| plain_weights(row, 4))
                    .collect();
                let value = |k: usize| {
                    let (b, c) = (k / 5, k % 5);
                    (0..4)
                        .map(|e| weights[b * 4 + e] * v[1][(b * 4 + e) * 5 + c])
                        .sum()
                };
                (0..15).map(value).collect()
            },
            tolerance: 1e-5,
        });
    }

    #[test]
    fn gradients_of_the_load_balance_match_finite_differences() {
        for (kind, asked) in [(Gate::Dense, 1), (Gate::Top(2), 2)] {
            check(&Check {
                shapes: &[&[6, 4]],
                op: &|t| load_balance_loss(&t[0], kind),
                reference: &|v| {
                    let mut loss = 0.0;
                    for e in 0..4 {
                        let (mut share, mut mean) = (0.0, 0.0);
                        for row in v[0].chunks(4) {
                            let is_asked = plain_weights(row, asked)[e] > 0.0;
                            share += f64::from(u8::from(is_asked)) / (6 * asked) as f64;
                            mean += plain_weights(row, 4)[e] / 6.0;
                        }
                        loss += 4.0 * share * mean;
                    }
                    vec![loss]
                },
                tolerance: 1e-6,
            });
        }
    }

    #[test]
    fn a_gate_that_asks_one_expert_only_costs_more() {
        let of = |values: Vec<f32>| {
            let logits = tensor(values, (4, 4)).unwrap();
            let loss = load_balance_loss(&logits, Gate::Top(1)).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        let one = of([9.0, 0.0, 0.0, 0.0].repeat(4));
        let each = of((0..16)
            .map(|k| if k % 5 == 0 { 9.0 } else { 0.0 })
            .collect());

        assert!((each - 1.0).abs() < 1e-5, "{each}");
        assert!(one > 3.9, "{one}");
    }

    #[test]
    fn statistics_tell_a_sharp_gate_from_an_even_one() {
        let even = tensor(vec![0.25; 8], (2, 4)).unwrap();
        let sharp = tensor(vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], (2, 4)).unwrap();

        let (even, sharp) = (
            gate_statistics(&even).unwrap(),
            gate_statistics(&sharp).unwrap(),
        );

        assert!((even.entropy - 1.0).abs() < 1e-12 && sharp.entropy.abs() < 1e-12);
        assert_eq!(sharp.mean_weight, [0.5, 0.5, 0.0, 0.0]);
        assert_eq!(even.first_share, [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn noise_is_normal_and_differs_by_step() {
        let values = |step| to_vec(&gate_noise(5000, 4, 2.0, 1, step, 3).unwrap()).unwrap();
        let (a, b) = (values(1), values(2));
        let mean = a.iter().map(|&x| f64::from(x)).sum::<f64>() / 2e4;
        let square = a.iter().map(|&x| f64::from(x * x)).sum::<f64>() / 2e4;
        let both = a.iter().zip(&b).map(|(x, y)| f64::from(x * y)).sum::<f64>() / 2e4;

        assert!(mean.abs() < 0.05, "{mean}");
        assert!((square - 4.0).abs() < 0.15, "{square}");
        assert!(both.abs() < 0.15, "{both}");
        assert_eq!(a, values(1));
    }

    #[test]
    fn more_experts_than_there_are_is_an_error() {
        let values = noise(6, 1).iter().map(|&v| v as f32).collect();
        let logits = tensor(values, (2, 3)).unwrap();

        assert!(gate(&logits, Gate::Top(4)).is_err());
        assert!(gate(&logits, Gate::Top(3)).is_ok());
    }
}
