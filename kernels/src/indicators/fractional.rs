//! Weighted sums of the last rows: fractional differences and a wavelet.

use super::{
    catalog::{Indicator, Output, Parameter, Range, Unit},
    kernel::{Id, Scratch, Window},
    pointwise,
};
use crate::{dispatch::dispatched, math};

/// Rows back that one pass over the rows of a block adds.
const STEP: usize = 8;

/// `sum weights[k] * x[t - k]`, from the newest row on.
#[derive(Debug, Clone)]
pub(super) struct Weighted {
    id: Id,
    weights: Vec<f64>,
}

impl Weighted {
    /// The weights, newest first, are a function of what `id` says.
    pub(super) fn new(id: Id, weights: Vec<f64>) -> Self {
        Self { id, weights }
    }
}

impl Window for Weighted {
    fn id(&self) -> Id {
        self.id.clone()
    }

    fn lookback(&self) -> usize {
        self.weights.len() - 1
    }

    fn run(&self, inputs: &[&[f64]], outputs: &mut [&mut [f64]], _scratch: &mut Scratch) {
        weighted_sums(inputs[0], &self.weights, outputs[0]);
    }
}

dispatched! {
    /// Each sum is that of the sums of eight rows, lest one row by itself waits for a hundred products in turn.
    fn weighted_sums(x: &[f64], weights: &[f64], out: &mut [f64]) {
        let n_rows = out.len();
        out.fill(0.0);
        let mut start = weights.len();
        let (steps, rest) = weights.as_chunks::<STEP>();
        if let [out] = out {
            for weights in steps {
                start -= STEP;
                *out += weighted_sum(weights, &x[start..start + STEP]);
            }
            *out += weighted_sum(rest, &x[..start]);
            return;
        }
        for weights in steps {
            start -= STEP;
            let x: [&[f64]; STEP] = std::array::from_fn(|k| &x[start + STEP - 1 - k..][..n_rows]);
            for t in 0..n_rows {
                let mut sum = 0.0;
                for k in 0..STEP {
                    sum = weights[k].mul_add(x[k][t], sum);
                }
                out[t] += sum;
            }
        }
        for (t, out) in out.iter_mut().enumerate() {
            *out += weighted_sum(rest, &x[t..t + start]);
        }
    }
}

/// `sum weights[k] * x[k]` with the last `x` first.
#[expect(
    clippy::inline_always,
    reason = "it must be compiled inside its dispatched callers"
)]
#[inline(always)]
fn weighted_sum(weights: &[f64], x: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (weight, x) in weights.iter().zip(x.iter().rev()) {
        sum = weight.mul_add(*x, sum);
    }
    sum
}

/// Weights of the difference of order `d`: 1, and then the one before times `-(d - k + 1) / k`.
fn difference_weights(d: f64, n: usize) -> Vec<f64> {
    let mut weights = vec![1.0];
    for k in 1..n {
        let k = k as f64;
        weights.push(-weights[weights.len() - 1] * (d - k + 1.0) / k);
    }
    weights
}

/// The Ricker wavelet of this width at `n` points around its middle.
fn ricker_weights(width: f64, n: usize) -> Vec<f64> {
    let height = 2.0 / ((3.0 * width).sqrt() * std::f64::consts::PI.sqrt().sqrt());
    let weight = |k: usize| {
        let distance = (k as f64 - (n - 1) as f64 / 2.0) / width;
        let square = distance * distance;
        height * (1.0 - square) * math::exp(-square / 2.0)
    };
    (0..n).map(weight).collect()
}

pub(super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "ffd",
        series: &["x"],
        bars: &[],
        parameters: &[
            Parameter {
                name: "d",
                range: Range::Real(0.0, 2.0),
                default: Some(0.4),
            },
            Parameter {
                name: "n",
                range: Range::Whole(1, 10_000),
                default: Some(100.0),
            },
        ],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Fractional difference of order d of ln(x) over a fixed width: the sum of w_k * ln(x[t - k]) for k below n, w_0 = 1, w_k = -w_(k-1) * (d - k + 1) / k; no weight is cut off.",
        source: "Lopez de Prado, Advances in Financial Machine Learning, 2018, 5.5",
        expand: |builder, series, p| {
            let x = pointwise::ln(builder, series[0]);
            let n = p[1] as usize;
            let id = Id::new("fractional difference", [p[0].to_bits(), n as u64]);
            builder.window(Weighted::new(id, difference_weights(p[0], n)), &[x])
        },
    },
    Indicator {
        name: "ricker",
        series: &["x"],
        bars: &[],
        parameters: &[Parameter {
            name: "width",
            range: Range::Whole(1, 1000),
            default: None,
        }],
        outputs: &[Output {
            name: "",
            unit: Unit::OfSeries,
        }],
        definition: "Dot product of the last 10 * width + 1 values with the Ricker wavelet of that width, its middle in the middle of them.",
        source: "Ricker, The form and laws of propagation of seismic wavelets, 1953",
        expand: |builder, series, p| {
            let width = p[0] as usize;
            let id = Id::new("ricker", [width as u64]);
            let weights = ricker_weights(p[0], 10 * width + 1);
            builder.window(Weighted::new(id, weights), &[series[0]])
        },
    },
];

#[cfg(test)]
#[expect(clippy::needless_range_loop, reason = "a loop over rows")]
mod tests {
    use super::*;
    use crate::indicators::{
        check::{Golden, market, values},
        program::Input,
    };

    #[test]
    fn fractional_differences_are_the_reference_ones() {
        let Some(golden) = Golden::load() else { return };

        let difference = values(&golden.bars, "ffd", &[Input::Close], &[0.4, 100.0], "");

        golden.assert_is("ffd_04_100", &difference, 0.1);
    }

    #[test]
    fn an_order_of_one_is_the_difference_itself() {
        let bars = market(60, 3);

        let difference = values(&bars, "ffd", &[Input::Close], &[1.0, 10.0], "");

        for t in 9..60 {
            let expected = math::ln(bars.close[t]) - math::ln(bars.close[t - 1]);
            assert!((difference[t] - expected).abs() < 1e-14);
        }
    }

    #[test]
    fn a_wavelet_sees_a_single_value_as_itself() {
        let mut bars = market(40, 3);
        bars.close.fill(0.0);
        bars.close[20] = 1.0;

        let seen = values(&bars, "ricker", &[Input::Close], &[1.0], "");

        // In the middle of eleven values five rows later, 2 / (sqrt(3) * pi^(1/4)); one row aside it crosses zero.
        assert!(seen[9].is_nan());
        assert!((seen[25] - 0.867_325_070_584_078_5).abs() < 1e-15);
        assert!(seen[24].abs() < 1e-15 && seen[26].abs() < 1e-15);
        assert!(seen[23] < -0.1 && seen[31].abs() < 1e-15);
    }

    #[test]
    fn a_bad_tick_spoils_its_own_windows() {
        let mut bars = market(300, 5);
        let before = values(&bars, "ffd", &[Input::Close], &[0.4, 100.0], "");
        bars.close[120] = 1e12;
        let after = values(&bars, "ffd", &[Input::Close], &[0.4, 100.0], "");

        for t in (99..120).chain(220..300) {
            assert_eq!(before[t].to_bits(), after[t].to_bits());
        }
    }
}
