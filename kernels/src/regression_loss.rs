//! Losses of predicted returns as one number with its gradient: squared, Huber and quantile errors, weighted by direction
//! and by how bad the return was.
//!
//! A batch has few predictions, so these work in `f64` and round once.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::storage::{Elements, operand, tensor};

/// How the error of one prediction counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ErrorShape {
    /// `e^2`.
    Squared,
    /// `e^2 / 2` up to `delta`, `delta (|e| - delta / 2)` beyond (Huber, 1964).
    Huber {
        /// Where it turns from a square into a line; above 0.
        delta: f64,
    },
}

/// A loss of predicted returns: the mean of error times weights. The weights do not depend smoothly on the prediction, so
/// they take no part in the gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegressionLoss {
    /// What is averaged.
    pub shape: ErrorShape,
    /// Weight of a prediction above 0 whose target is below: a loss that was to be a gain.
    pub wrong_rise: f64,
    /// Weight of a prediction below 0 whose target is above: a gain that was missed.
    pub wrong_fall: f64,
    /// Targets below the first number weigh the second, times the others.
    pub tail: Option<(f64, f64)>,
}

impl RegressionLoss {
    /// The mean squared error.
    pub const SQUARED: Self = Self {
        shape: ErrorShape::Squared,
        wrong_rise: 1.0,
        wrong_fall: 1.0,
        tail: None,
    };

    /// Huber's loss.
    pub fn huber(delta: f64) -> Self {
        Self {
            shape: ErrorShape::Huber { delta },
            ..Self::SQUARED
        }
    }

    /// Squared errors that weigh `factor` where the sign is wrong.
    pub fn directional(factor: f64) -> Self {
        Self {
            wrong_rise: factor,
            wrong_fall: factor,
            ..Self::SQUARED
        }
    }

    /// Squared errors that weigh `factor` where a rise was predicted and a fall came.
    pub fn asymmetric(factor: f64) -> Self {
        Self {
            wrong_rise: factor,
            ..Self::SQUARED
        }
    }

    /// Squared errors that weigh `factor` where the target is below `threshold`.
    pub fn tail_weighted(threshold: f64, factor: f64) -> Self {
        Self {
            tail: Some((threshold, factor)),
            ..Self::SQUARED
        }
    }

    /// The error of a prediction `x` of `y`, and its slope in `x`.
    fn of(&self, x: f64, y: f64) -> (f64, f64) {
        let e = x - y;
        let (value, slope) = match self.shape {
            ErrorShape::Squared => (e * e, 2.0 * e),
            ErrorShape::Huber { delta } if e.abs() > delta => {
                (delta * (e.abs() - 0.5 * delta), delta.copysign(e))
            }
            ErrorShape::Huber { .. } => (0.5 * e * e, e),
        };
        let mut weight = 1.0;
        if x > 0.0 && y < 0.0 {
            weight *= self.wrong_rise;
        }
        if x < 0.0 && y > 0.0 {
            weight *= self.wrong_fall;
        }
        if let Some((threshold, factor)) = self.tail
            && y < threshold
        {
            weight *= factor;
        }
        (weight * value, weight * slope)
    }
}

/// The mean of `loss` over all elements; a scalar. `target` has as many elements as `x`.
pub fn regression_loss(x: &Tensor, target: &Arc<[f32]>, loss: &RegressionLoss) -> Result<Tensor> {
    if let ErrorShape::Huber { delta } = loss.shape
        && (delta.is_nan() || delta <= 0.0)
    {
        candle_core::bail!("regression_loss: the delta of Huber's loss is above 0, got {delta}");
    }
    let loss = *loss;
    x.contiguous()?.apply_op1(Mean {
        target: target.clone(),
        each: 1,
        of: move |_, x, y| loss.of(x, y),
    })
}

/// The mean pinball loss `max(q (y - x), (q - 1) (y - x))` over rows and quantiles; a scalar (Koenker and Bassett, 1978).
///
/// `x`: \[batch, quantiles\], `target`: \[batch\]; `quantiles` lie in (0, 1). At its kink the slope is that from below.
pub fn quantile_loss(x: &Tensor, target: &Arc<[f32]>, quantiles: &Arc<[f64]>) -> Result<Tensor> {
    let (_, columns) = x.dims2()?;
    if columns != quantiles.len() || !quantiles.iter().all(|q| 0.0 < *q && *q < 1.0) {
        candle_core::bail!(
            "quantile_loss: {columns} predictions a row for the quantiles {quantiles:?}, which lie in (0, 1)"
        );
    }
    let quantiles = quantiles.clone();
    x.contiguous()?.apply_op1(Mean {
        target: target.clone(),
        each: columns,
        of: move |k, x, y| {
            let q: f64 = quantiles[k];
            if y >= x {
                (q * (y - x), -q)
            } else {
                ((q - 1.0) * (y - x), 1.0 - q)
            }
        },
    })
}

/// The mean of `of(k, x, y)` over `each` predictions `k` of every target, with its slope.
struct Mean<F> {
    target: Arc<[f32]>,
    each: usize,
    of: F,
}

impl<F: Fn(usize, f64, f64) -> (f64, f64)> Mean<F> {
    fn evaluate(&self, x: &[f32]) -> Result<(f64, Vec<f64>)> {
        if x.len() != self.target.len() * self.each || x.is_empty() {
            candle_core::bail!(
                "a loss of {} predictions, {} each, against {} targets",
                x.len(),
                self.each,
                self.target.len()
            );
        }
        let n = x.len() as f64;
        let mut loss = 0.0;
        let mut slopes = Vec::with_capacity(x.len());
        for (x, &y) in x.chunks_exact(self.each).zip(self.target.iter()) {
            for (k, &x) in x.iter().enumerate() {
                let (value, slope) = (self.of)(k, f64::from(x), f64::from(y));
                loss += value;
                slopes.push(slope / n);
            }
        }
        Ok((loss / n, slopes))
    }
}

impl<F: Fn(usize, f64, f64) -> (f64, f64) + Send + Sync> CustomOp1 for Mean<F> {
    fn name(&self) -> &'static str {
        "regression_loss"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (loss, _) = self.evaluate(operand(x, layout, "regression_loss")?)?;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, slopes) = self.evaluate(&Elements::of(x)?)?;
        let factor = f64::from(gradient.to_scalar::<f32>()?);
        let values = slopes.iter().map(|slope| (slope * factor) as f32).collect();
        Ok(Some(tensor(values, x.shape().clone())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check, noise};

    fn targets() -> Arc<[f32]> {
        noise(12, 17).iter().map(|&v| v as f32).collect()
    }

    #[test]
    fn gradients_of_every_loss_match_finite_differences() {
        let target = targets();
        let mixed = RegressionLoss {
            wrong_rise: 2.0,
            wrong_fall: 1.5,
            tail: Some((-0.5, 5.0)),
            ..RegressionLoss::huber(0.8)
        };
        for loss in [
            RegressionLoss::SQUARED,
            RegressionLoss::huber(0.7),
            RegressionLoss::directional(3.0),
            RegressionLoss::asymmetric(2.0),
            RegressionLoss::tail_weighted(-0.05, 5.0),
            mixed,
        ] {
            check(&Check {
                shapes: &[&[4, 3]],
                op: &|t| regression_loss(&t[0], &target, &loss),
                reference: &|v| {
                    let term = |(x, y): (&f64, &f32)| {
                        let y = f64::from(*y);
                        let e = (x - y).abs();
                        let mut term = match loss.shape {
                            ErrorShape::Squared => e * e,
                            ErrorShape::Huber { delta } => {
                                let inner = e.min(delta);
                                inner * inner / 2.0 + delta * (e - inner)
                            }
                        };
                        if x * y < 0.0 {
                            term *= if *x > 0.0 {
                                loss.wrong_rise
                            } else {
                                loss.wrong_fall
                            };
                        }
                        match loss.tail {
                            Some((threshold, factor)) if y < threshold => term * factor,
                            _ => term,
                        }
                    };
                    vec![v[0].iter().zip(target.iter()).map(term).sum::<f64>() / 12.0]
                },
                tolerance: 1e-6,
            });
        }
    }

    #[test]
    fn gradients_of_the_quantile_loss_match_finite_differences() {
        let (target, quantiles): (Arc<[f32]>, Arc<[f64]>) =
            (targets()[..4].into(), vec![0.1, 0.5, 0.9].into());
        check(&Check {
            shapes: &[&[4, 3]],
            op: &|t| quantile_loss(&t[0], &target, &quantiles),
            reference: &|v| {
                let term = |k: usize| {
                    let e = f64::from(target[k / 3]) - v[0][k];
                    (quantiles[k % 3] * e).max((quantiles[k % 3] - 1.0) * e)
                };
                vec![(0..12).map(term).sum::<f64>() / 12.0]
            },
            tolerance: 1e-6,
        });
    }

    #[test]
    fn the_best_constant_is_the_quantile() {
        let target: Arc<[f32]> = (0..=100).map(|k| k as f32).collect();
        let loss = |x: f32| {
            let x = tensor(vec![x; 101], (101, 1)).unwrap();
            let loss = quantile_loss(&x, &target, &vec![0.9].into()).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };

        let best = (0..=100).min_by(|&a, &b| loss(a as f32).total_cmp(&loss(b as f32)));

        assert_eq!(best, Some(90));
    }

    #[test]
    fn refuses_what_is_not_a_quantile_or_a_delta() {
        let x = tensor(vec![0.0; 2], (2, 1)).unwrap();
        let target: Arc<[f32]> = vec![0.0; 2].into();

        assert!(quantile_loss(&x, &target, &vec![1.0].into()).is_err());
        assert!(quantile_loss(&x, &target, &vec![0.1, 0.2].into()).is_err());
        assert!(regression_loss(&x, &target, &RegressionLoss::huber(0.0)).is_err());
        assert!(regression_loss(&x, &vec![0.0; 3].into(), &RegressionLoss::SQUARED).is_err());
    }
}
