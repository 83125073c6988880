//! Reversible instance normalization over time (Kim et al., 2022), with its backward pass.
//!
//! Each window and feature is normalized by its own mean and standard deviation, and a prediction is brought back with the
//! same two. They are values that the caller carries from one to the other, so that windows cannot be mixed up; gradients
//! run through them.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::dispatch::dispatched;
use crate::storage::{Elements, add_in_order, filled, operand, tensor};

/// Added to the variance, and its square to the gain that is divided by, as in the paper's program.
const EPSILON: f32 = 1e-5;

/// Mean and standard deviation `sqrt(population variance + 1e-5)` over time.
///
/// `x`: \[batch, length, features\], result: \[batch, 2, features\], means first.
pub fn window_statistics(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Statistics)
}

/// `(x - mean) / deviation * gain + shift`. `x`: \[batch, length, features\], result the same.
///
/// `statistics`: \[batch, 2, features\] as of [`window_statistics`]; `affine`: \[2, features\], gains first.
pub fn normalize(x: &Tensor, statistics: &Tensor, affine: &Tensor) -> Result<Tensor> {
    x.contiguous()?
        .apply_op3(&statistics.contiguous()?, &affine.contiguous()?, Normalize)
}

/// The reverse, `(y - shift) / (gain + 1e-10) * deviation + mean`, for predictions of some features.
///
/// `y`: \[batch, steps, width\], predictions of the features from `first_feature` on; result the same. `statistics` and
/// `affine` as for [`normalize`].
pub fn denormalize(
    y: &Tensor,
    statistics: &Tensor,
    affine: &Tensor,
    first_feature: usize,
) -> Result<Tensor> {
    y.contiguous()?.apply_op3(
        &statistics.contiguous()?,
        &affine.contiguous()?,
        Denormalize { first_feature },
    )
}

struct Statistics;

impl CustomOp1 for Statistics {
    fn name(&self) -> &'static str {
        "window_statistics"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, length, width) = layout.shape().dims3()?;
        if length == 0 {
            candle_core::bail!("window_statistics: the windows have no bar");
        }
        let x = operand(x, layout, "window_statistics")?;
        let out = filled(batch * 2 * width, 2 * width, |window, out| {
            statistics(&x[window * length * width..][..length * width], out);
        });
        Ok((CpuStorage::F32(out), Shape::from((batch, 2, width))))
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (batch, length, width) = x.dims3()?;
        let gradient = gradient.contiguous()?;
        let (values, result, g) = (
            Elements::of(x)?,
            Elements::of(result)?,
            Elements::of(&gradient)?,
        );
        let (values, result, g): (&[f32], &[f32], &[f32]) = (&values, &result, &g);
        let out = filled(batch * length * width, length * width, |window, out| {
            let of_window =
                |x: &'_ [f32]| -> Vec<f32> { x[window * 2 * width..][..2 * width].to_vec() };
            let x = &values[window * length * width..][..length * width];
            statistics_gradient(x, &of_window(result), &of_window(g), out);
        });
        Ok(Some(tensor(out, x.shape().clone())?))
    }
}

/// `affine` and `statistics` fit windows of `width` features, of which `first..` are meant.
fn check(
    operation: &str,
    dimensions: &[usize],
    statistics: &[usize],
    affine: &[usize],
    first: usize,
) -> Result<[usize; 4]> {
    let (&[batch, length, width], &[windows, 2, features], &[2, columns]) =
        (dimensions, statistics, affine)
    else {
        candle_core::bail!(
            "{operation}: expected [batch, length, features], [batch, 2, features] and [2, features], got {dimensions:?}, {statistics:?} and {affine:?}"
        );
    };
    if batch != windows || features != columns || first + width > features {
        candle_core::bail!(
            "{operation}: features {first}..{} of {dimensions:?} do not fit statistics {statistics:?} and affine {affine:?}",
            first + width
        );
    }
    Ok([batch, length, width, features])
}

struct Normalize;

impl CustomOp3 for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [batch, length, width, features] = check(
            "normalize",
            x_layout.dims(),
            statistics_layout.dims(),
            affine_layout.dims(),
            0,
        )?;
        if width != features {
            candle_core::bail!("normalize: {width} features, statistics of {features}");
        }
        let x = operand(x, x_layout, "normalize")?;
        let statistics = operand(statistics, statistics_layout, "normalize")?;
        let affine = operand(affine, affine_layout, "normalize")?;
        let size = length * width;
        let y = filled(batch * size, size, |window, y| {
            let statistics = &statistics[window * 2 * width..][..2 * width];
            forward(&x[window * size..][..size], statistics, affine, y);
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        statistics: &Tensor,
        affine: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, length, width) = x.dims3()?;
        gradients(x, statistics, affine, gradient, length * width, |part| {
            backward(part, width);
        })
    }
}

struct Denormalize {
    first_feature: usize,
}

impl CustomOp3 for Denormalize {
    fn name(&self) -> &'static str {
        "denormalize"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        y_layout: &Layout,
        statistics: &CpuStorage,
        statistics_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [batch, length, width, features] = check(
            "denormalize",
            y_layout.dims(),
            statistics_layout.dims(),
            affine_layout.dims(),
            self.first_feature,
        )?;
        let y = operand(y, y_layout, "denormalize")?;
        let statistics = operand(statistics, statistics_layout, "denormalize")?;
        let affine = operand(affine, affine_layout, "denormalize")?;
        let size = length * width;
        let x = filled(batch * size, size, |window, x| {
            let statistics = &statistics[window * 2 * features..][..2 * features];
            let y = &y[window * size..][..size];
            reverse(y, statistics, affine, self.first_feature, width, x);
        });
        Ok((CpuStorage::F32(x), y_layout.shape().clone()))
    }

    fn bwd(
        &self,
        y: &Tensor,
        statistics: &Tensor,
        affine: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, length, width) = y.dims3()?;
        let first = self.first_feature;
        gradients(y, statistics, affine, gradient, length * width, |part| {
            reverse_backward(part, first, width);
        })
    }
}

/// One window's operands and where its gradients go.
struct Part<'a> {
    x: &'a [f32],
    statistics: &'a [f32],
    affine: &'a [f32],
    g: &'a [f32],
    of_x: &'a mut [f32],
    of_statistics: &'a mut [f32],
    of_affine: &'a mut [f32],
}

/// The gradients of all operands, window by window; those of `affine` are added in the order of the windows.
fn gradients(
    x: &Tensor,
    statistics: &Tensor,
    affine: &Tensor,
    gradient: &Tensor,
    size: usize,
    backward: impl Fn(&mut Part<'_>) + Sync,
) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
    let gradient = gradient.contiguous()?;
    let (x_values, statistics_values, affine_values, g) = (
        Elements::of(x)?,
        Elements::of(statistics)?,
        Elements::of(affine)?,
        Elements::of(&gradient)?,
    );
    let (x_slice, statistics_slice): (&[f32], &[f32]) = (&x_values, &statistics_values);
    let (affine_slice, g): (&[f32], &[f32]) = (&affine_values, &g);
    let of_window = affine_slice.len();
    let mut of_x = vec![0.0; x_slice.len()];
    let mut of_statistics = vec![0.0; statistics_slice.len()];
    let partials = of_x
        .par_chunks_mut(size)
        .zip(of_statistics.par_chunks_mut(of_window))
        .enumerate()
        .map(|(window, (of_x, of_statistics))| {
            let mut of_affine = vec![0.0; of_window];
            backward(&mut Part {
                x: &x_slice[window * size..][..size],
                statistics: &statistics_slice[window * of_window..][..of_window],
                affine: affine_slice,
                g: &g[window * size..][..size],
                of_x,
                of_statistics,
                of_affine: &mut of_affine,
            });
            of_affine
        })
        .collect();
    Ok((
        Some(tensor(of_x, x.shape().clone())?),
        Some(tensor(of_statistics, statistics.shape().clone())?),
        Some(tensor(
            add_in_order(partials, of_window),
            affine.shape().clone(),
        )?),
    ))
}

dispatched! {
    /// Means, then deviations, of the columns of `x`.
    fn statistics(x: &[f32], out: &mut [f32]) {
        let width = out.len() / 2;
        let length = (x.len() / width) as f32;
        let (means, deviations) = out.split_at_mut(width);
        for row in x.chunks_exact(width) {
            for (sum, &x) in means.iter_mut().zip(row) {
                *sum += x;
            }
        }
        for mean in means.iter_mut() {
            *mean /= length;
        }
        for row in x.chunks_exact(width) {
            for ((sum, &mean), &x) in deviations.iter_mut().zip(means.iter()).zip(row) {
                *sum = (x - mean).mul_add(x - mean, *sum);
            }
        }
        for deviation in deviations {
            *deviation = (*deviation / length + EPSILON).sqrt();
        }
    }

    fn statistics_gradient(x: &[f32], statistics: &[f32], g: &[f32], out: &mut [f32]) {
        let width = statistics.len() / 2;
        let length = (x.len() / width) as f32;
        let (means, deviations) = statistics.split_at(width);
        let (of_means, of_deviations) = g.split_at(width);
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            for i in 0..width {
                let slope = (x[i] - means[i]) / deviations[i];
                out[i] = slope.mul_add(of_deviations[i], of_means[i]) / length;
            }
        }
    }

    fn forward(x: &[f32], statistics: &[f32], affine: &[f32], y: &mut [f32]) {
        let width = affine.len() / 2;
        let (means, deviations) = statistics.split_at(width);
        let (gains, shifts) = affine.split_at(width);
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            for i in 0..width {
                y[i] = ((x[i] - means[i]) / deviations[i]).mul_add(gains[i], shifts[i]);
            }
        }
    }

    fn backward(part: &mut Part<'_>, width: usize) {
        let (means, deviations) = part.statistics.split_at(width);
        let (gains, _) = part.affine.split_at(width);
        let (of_means, of_deviations) = part.of_statistics.split_at_mut(width);
        let (of_gains, of_shifts) = part.of_affine.split_at_mut(width);
        let rows = part.x.chunks_exact(width).zip(part.g.chunks_exact(width)).zip(part.of_x.chunks_exact_mut(width));
        for ((x, g), out) in rows {
            for i in 0..width {
                let normal = (x[i] - means[i]) / deviations[i];
                let direct = g[i] * gains[i] / deviations[i];
                out[i] = direct;
                of_means[i] -= direct;
                of_deviations[i] = (-direct).mul_add(normal, of_deviations[i]);
                of_gains[i] = g[i].mul_add(normal, of_gains[i]);
                of_shifts[i] += g[i];
            }
        }
    }

    fn reverse(y: &[f32], statistics: &[f32], affine: &[f32], first: usize, width: usize, x: &mut [f32]) {
        let (means, deviations) = statistics.split_at(statistics.len() / 2);
        let (gains, shifts) = affine.split_at(affine.len() / 2);
        for (y, x) in y.chunks_exact(width).zip(x.chunks_exact_mut(width)) {
            for i in 0..width {
                let f = first + i;
                let normal = (y[i] - shifts[f]) / (gains[f] + EPSILON * EPSILON);
                x[i] = normal.mul_add(deviations[f], means[f]);
            }
        }
    }

    fn reverse_backward(part: &mut Part<'_>, first: usize, width: usize) {
        let features = part.affine.len() / 2;
        let (_, deviations) = part.statistics.split_at(features);
        let (gains, shifts) = part.affine.split_at(features);
        let (of_means, of_deviations) = part.of_statistics.split_at_mut(features);
        let (of_gains, of_shifts) = part.of_affine.split_at_mut(features);
        let rows = part.x.chunks_exact(width).zip(part.g.chunks_exact(width)).zip(part.of_x.chunks_exact_mut(width));
        for ((y, g), out) in rows {
            for i in 0..width {
                let f = first + i;
                let gain = gains[f] + EPSILON * EPSILON;
                let normal = (y[i] - shifts[f]) / gain;
                let direct = g[i] * deviations[f] / gain;
                out[i] = direct;
                of_means[f] += g[i];
                of_deviations[f] = g[i].mul_add(normal, of_deviations[f]);
                of_gains[f] = (-direct).mul_add(normal, of_gains[f]);
                of_shifts[f] -= direct;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check, noise};
    use crate::storage::to_vec;

    const SHAPE: [usize; 3] = [2, 5, 3];

    fn plain_statistics(x: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; 2 * 2 * 3];
        for b in 0..2 {
            for f in 0..3 {
                let column: Vec<f64> = (0..5).map(|t| x[(b * 5 + t) * 3 + f]).collect();
                let mean = column.iter().sum::<f64>() / 5.0;
                let variance = column.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 5.0;
                out[b * 6 + f] = mean;
                out[b * 6 + 3 + f] = (variance + 1e-5).sqrt();
            }
        }
        out
    }

    #[test]
    fn gradients_through_the_statistics_match_finite_differences() {
        check(&Check {
            shapes: &[&SHAPE, &[2, 3]],
            op: &|t| normalize(&t[0], &window_statistics(&t[0])?, &t[1]),
            reference: &|v| {
                let s = plain_statistics(&v[0]);
                let value = |k: usize| {
                    let (b, f) = (k / 15, k % 3);
                    (v[0][k] - s[b * 6 + f]) / s[b * 6 + 3 + f] * v[1][f] + v[1][3 + f]
                };
                (0..30).map(value).collect()
            },
            tolerance: 2e-5,
        });
    }

    #[test]
    fn gradients_of_the_reverse_match_finite_differences() {
        check(&Check {
            shapes: &[&[2, 4, 2], &SHAPE, &[2, 3]],
            op: &|t| denormalize(&t[0], &window_statistics(&t[1])?, &t[2], 1),
            reference: &|v| {
                let s = plain_statistics(&v[1]);
                let value = |k: usize| {
                    let (b, f) = (k / 8, 1 + k % 2);
                    (v[0][k] - v[2][3 + f]) / (v[2][f] + 1e-10) * s[b * 6 + 3 + f] + s[b * 6 + f]
                };
                (0..16).map(value).collect()
            },
            tolerance: 2e-5,
        });
    }

    #[test]
    fn the_reverse_brings_interleaved_windows_back() {
        let make = |seed| {
            let values = noise(30, seed).iter().map(|&v| 100.0 + v as f32).collect();
            tensor(values, (2, 5, 3)).unwrap()
        };
        let affine = tensor(vec![1.5, 0.5, 2.0, 0.1, 0.2, -0.3], (2, 3)).unwrap();
        let (a, b) = (make(1), make(2));
        let (of_a, of_b) = (
            window_statistics(&a).unwrap(),
            window_statistics(&b).unwrap(),
        );
        let normal_a = normalize(&a, &of_a, &affine).unwrap();
        let _normal_b = normalize(&b, &of_b, &affine).unwrap();

        let back = to_vec(&denormalize(&normal_a, &of_a, &affine, 0).unwrap()).unwrap();

        for (x, y) in to_vec(&a).unwrap().iter().zip(back) {
            assert!((x - y).abs() < 1e-4, "{x} against {y}");
        }
    }

    #[test]
    fn features_without_statistics_are_an_error() {
        let y = tensor(vec![0.0; 4], (1, 2, 2)).unwrap();
        let statistics = tensor(vec![1.0; 6], (1, 2, 3)).unwrap();
        let affine = tensor(vec![1.0; 6], (2, 3)).unwrap();

        assert!(denormalize(&y, &statistics, &affine, 1).is_ok());
        assert!(denormalize(&y, &statistics, &affine, 2).is_err());
        assert!(normalize(&y, &statistics, &affine).is_err());
    }
}
