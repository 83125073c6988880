//! The expansion of Kolmogorov-Arnold layers (Liu et al., 2024), with its backward pass.
//!
//! Such a layer has a learned function on each edge: `SiLU` times a weight, plus a spline. Both are linear in what is
//! learned, so the layer is this expansion of each input and one [`crate::linear`] over the expansions.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::activations::silu;
use crate::linear::linear;
use crate::storage::{Elements, ROWS, filled, operand, tensor};

/// The highest degree of a spline.
const HIGHEST: usize = 5;

/// A uniform grid of splines: `intervals` between `low` and `high`, continued by as many knots as the degree needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    low: f32,
    high: f32,
    intervals: usize,
    degree: usize,
}

impl Grid {
    /// Five intervals of cubic splines on \[-1, 1\].
    pub const CUBIC: Self = Self {
        low: -1.0,
        high: 1.0,
        intervals: 5,
        degree: 3,
    };

    /// A grid of splines of `degree` 1 to 5.
    pub fn new(low: f32, high: f32, intervals: usize, degree: usize) -> Result<Self> {
        let is_range = low.is_finite() && high.is_finite() && low < high;
        if !is_range || intervals == 0 || !(1..=HIGHEST).contains(&degree) {
            candle_core::bail!(
                "kan: no grid of {intervals} intervals from {low} to {high} with splines of degree {degree} (1 to {HIGHEST})"
            );
        }
        Ok(Self {
            low,
            high,
            intervals,
            degree,
        })
    }

    /// Splines over the grid.
    pub fn splines(&self) -> usize {
        self.intervals + self.degree
    }

    /// Columns an input is expanded to: `SiLU`, then the splines.
    pub fn columns(&self) -> usize {
        1 + self.splines()
    }

    fn spacing(&self) -> f32 {
        (self.high - self.low) / self.intervals as f32
    }

    /// The splines that are not 0 at `x` inside the grid, the index of the first of them, and their slopes.
    ///
    /// Cox and de Boor's recursion on uniform knots (de Boor, 1978, chapter X): `B_{i,d} = ((u + d - 1 - i) B_{i-1,d-1} +
    /// (i + 1 - u) B_{i,d-1}) / d`, in units of the spacing; the slope is the difference of neighbours one degree lower.
    fn inside(&self, x: f32) -> (usize, [f32; HIGHEST + 1], [f32; HIGHEST + 1]) {
        let place = (x - self.low) / self.spacing();
        // The last interval holds its right end, too.
        let first = (place as usize).min(self.intervals - 1);
        let u = place - first as f32;
        let mut values = [0.0; HIGHEST + 1];
        let mut slopes = [0.0; HIGHEST + 1];
        values[0] = 1.0;
        for d in 1..=self.degree {
            if d == self.degree {
                for (i, slope) in slopes.iter_mut().enumerate().take(d + 1) {
                    let before = if i > 0 { values[i - 1] } else { 0.0 };
                    *slope = (before - values[i]) / self.spacing();
                }
            }
            for i in (0..=d).rev() {
                let before = if i > 0 { values[i - 1] } else { 0.0 };
                let rise = u + (d - i) as f32;
                let fall = (i + 1) as f32 - u;
                values[i] = rise.mul_add(before, fall * values[i]) / d as f32;
            }
        }
        (first, values, slopes)
    }

    /// Writes the expansion of `x` to `values`, and its slopes to `slopes`.
    fn expand(&self, x: f32, values: &mut [f32], slopes: &mut [f32]) {
        (values[0], slopes[0]) = silu(x);
        let nearest = x.clamp(self.low, self.high);
        let (first, inside, rise) = self.inside(nearest);
        values[1..].fill(0.0);
        slopes[1..].fill(0.0);
        for k in 0..=self.degree {
            slopes[1 + first + k] = rise[k];
            // A straight line beyond the ends; nothing is added between them. A NaN stays one.
            values[1 + first + k] = rise[k].mul_add(x - nearest, inside[k]);
        }
    }
}

/// `SiLU(x)` and the splines at `x`, for every input. `x`: \[.., inputs\], result: \[.., inputs * columns\].
///
/// The splines sum to 1 everywhere. Beyond the ends of the grid each goes on as the straight line that it ends with: values
/// and slopes are continuous, and an input that has left the grid still learns.
pub fn expand(x: &Tensor, grid: Grid) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Expand(grid))
}

/// A layer: `sum_i base_oi SiLU(x_i) + sum_ik coefficient_oik B_k(x_i) + bias_o`. `x`: \[.., inputs\], result: \[.., outputs\].
///
/// `weight`: \[outputs, inputs * columns\], of each input the weight of the base and then the coefficients; `bias`:
/// \[outputs\].
pub fn kan(x: &Tensor, weight: &Tensor, bias: &Tensor, grid: Grid) -> Result<Tensor> {
    linear(&expand(x, grid)?, weight, bias)
}

struct Expand(Grid);

impl CustomOp1 for Expand {
    fn name(&self) -> &'static str {
        "kan"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let columns = self.0.columns();
        let mut dimensions = layout.dims().to_vec();
        let Some(width) = dimensions.last_mut() else {
            candle_core::bail!("kan: expected [.., inputs], got a scalar");
        };
        *width *= columns;
        let x = operand(x, layout, "kan")?;
        let y = filled(x.len() * columns, ROWS * columns, |chunk, y| {
            let mut slopes = vec![0.0; columns];
            let x = &x[chunk * ROWS..][..y.len() / columns];
            for (&x, y) in x.iter().zip(y.chunks_exact_mut(columns)) {
                self.0.expand(x, y, &mut slopes);
            }
        });
        Ok((CpuStorage::F32(y), Shape::from(dimensions)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let columns = self.0.columns();
        let gradient = gradient.contiguous()?;
        let (values, g) = (Elements::of(x)?, Elements::of(&gradient)?);
        let (values, g): (&[f32], &[f32]) = (&values, &g);
        let out = filled(values.len(), ROWS, |chunk, out| {
            let (mut expansion, mut slopes) = (vec![0.0; columns], vec![0.0; columns]);
            let g = g[chunk * ROWS * columns..].chunks_exact(columns);
            for ((out, &x), g) in out.iter_mut().zip(&values[chunk * ROWS..]).zip(g) {
                self.0.expand(x, &mut expansion, &mut slopes);
                *out = slopes
                    .iter()
                    .zip(g)
                    .fold(0.0, |sum, (slope, g)| slope.mul_add(*g, sum));
            }
        });
        Ok(Some(tensor(out, x.shape().clone())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{Check, check};
    use crate::math;
    use crate::storage::to_vec;

    /// Cox and de Boor's recursion as in the textbooks, over explicit knots.
    fn spline(knots: &[f64], i: usize, degree: usize, x: f64) -> f64 {
        if degree == 0 {
            return f64::from(u8::from(knots[i] <= x && x < knots[i + 1]));
        }
        (x - knots[i]) / (knots[i + degree] - knots[i]) * spline(knots, i, degree - 1, x)
            + (knots[i + degree + 1] - x) / (knots[i + degree + 1] - knots[i + 1])
                * spline(knots, i + 1, degree - 1, x)
    }

    fn definition(x: f64, grid: Grid) -> Vec<f64> {
        let (low, high) = (f64::from(grid.low), f64::from(grid.high));
        let h = (high - low) / grid.intervals as f64;
        let knots: Vec<f64> = (0..=grid.intervals + 2 * grid.degree)
            .map(|k| low + (k as f64 - grid.degree as f64) * h)
            .collect();
        let at = |x: f64, i| spline(&knots, i, grid.degree, x);
        // Just inside the ends: the textbook's intervals are open on the right.
        let nearest = x.clamp(low, high - 1e-9);
        let mut row = vec![x * math::sigmoid(x)];
        for i in 0..grid.splines() {
            let step = if nearest > 0.0 { -1e-5 } else { 1e-5 };
            let slope = (-3.0 * at(nearest, i) + 4.0 * at(nearest + step, i)
                - at(nearest + 2.0 * step, i))
                / (2.0 * step);
            row.push(at(nearest, i) + slope * (x - nearest));
        }
        row
    }

    #[test]
    fn gradients_match_finite_differences_inside_and_outside_the_grid() {
        for grid in [
            Grid::CUBIC,
            Grid::new(-0.5, 1.5, 4, 2).unwrap(),
            Grid::new(-2.5, 2.5, 3, 5).unwrap(),
        ] {
            check(&Check {
                shapes: &[&[5, 4]],
                op: &|t| expand(&t[0], grid),
                reference: &|v| v[0].iter().flat_map(|&x| definition(x, grid)).collect(),
                tolerance: 2e-4,
            });
        }
    }

    #[test]
    fn gradients_of_a_layer_match_finite_differences() {
        let grid = Grid::CUBIC;
        let columns = grid.columns();
        check(&Check {
            shapes: &[&[3, 2], &[4, 2 * columns], &[4]],
            op: &|t| kan(&t[0], &t[1], &t[2], grid),
            reference: &|v| {
                let mut y = Vec::new();
                for row in v[0].chunks(2) {
                    let row: Vec<f64> = row.iter().flat_map(|&x| definition(x, grid)).collect();
                    for (weights, bias) in v[1].chunks(2 * columns).zip(&v[2]) {
                        let products = row.iter().zip(weights).map(|(a, b)| a * b);
                        y.push(products.sum::<f64>() + bias);
                    }
                }
                y
            },
            tolerance: 2e-4,
        });
    }

    #[test]
    fn splines_sum_to_one_everywhere_and_leave_no_gap_at_the_ends() {
        let grid = Grid::CUBIC;
        let of = |x: f32| {
            let x = tensor(vec![x], (1, 1)).unwrap();
            to_vec(&expand(&x, grid).unwrap()).unwrap()
        };
        for step in -400..400 {
            let x = step as f32 / 100.0;

            let sum: f32 = of(x)[1..].iter().sum();

            assert!((sum - 1.0).abs() < 2e-5, "{sum} at {x}");
        }
        for end in [-1.0_f32, 1.0] {
            for (inside, outside) in of(end * 0.999_999).iter().zip(of(end * 1.000_001)) {
                assert!((inside - outside).abs() < 1e-4);
            }
        }
        assert!(of(f32::NAN).iter().any(|v| v.is_nan()));
    }

    #[test]
    fn a_grid_needs_room_and_a_degree() {
        assert!(Grid::new(1.0, 1.0, 5, 3).is_err());
        assert!(Grid::new(-1.0, 1.0, 0, 3).is_err());
        assert!(Grid::new(-1.0, 1.0, 5, 6).is_err());
    }
}
