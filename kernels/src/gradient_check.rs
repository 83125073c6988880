//! Test code: compares a fused operation and its backward pass with a plain `f64` definition and its finite differences.

use candle_core::{Device, Result, Tensor, Var};

use crate::storage::to_vec;

/// Input shapes, the operation, its definition in `f64`, and the relative tolerance.
pub(crate) struct Check<'a> {
    pub(crate) shapes: &'a [&'a [usize]],
    pub(crate) op: &'a dyn Fn(&[Tensor]) -> Result<Tensor>,
    pub(crate) reference: &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>,
    pub(crate) tolerance: f64,
}

/// Values in about \[-2, 2\], exactly representable in `f32`.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<f64> {
    (0..length as u64)
        .map(|i| {
            let x = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ seed.wrapping_mul(0xd6e8_feb8_6659_fd93);
            let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
            ((x >> 40) as f64 / (1_u64 << 24) as f64 - 0.5) * 4.0
        })
        .collect()
}

/// Checks the value, and the gradient of a random weighting of the result with respect to every element of every input.
pub(crate) fn check(check: &Check<'_>) {
    let inputs: Vec<Vec<f64>> = check
        .shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| noise(shape.iter().product(), i as u64 + 1))
        .collect();
    let tensors: Vec<Tensor> = inputs
        .iter()
        .zip(check.shapes)
        .map(|(values, shape)| {
            let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            Var::from_tensor(&Tensor::from_vec(values, *shape, &Device::Cpu).unwrap())
                .unwrap()
                .into_inner()
        })
        .collect();
    let y = (check.op)(&tensors).unwrap();
    let expected = (check.reference)(&inputs);
    let largest = expected.iter().fold(1e-3_f64, |a, b| a.max(b.abs()));
    let actual = to_vec(&y).unwrap();
    assert_eq!(actual.len(), expected.len(), "wrong number of results");
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        assert!(
            (f64::from(*a) - e).abs() <= check.tolerance * largest,
            "result {i}: {a} against {e}"
        );
    }

    let weights = noise(expected.len(), 99);
    let weighting = Tensor::from_vec(
        weights.iter().map(|&w| w as f32).collect(),
        y.shape(),
        &Device::Cpu,
    )
    .unwrap();
    let gradients = (y * weighting)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let objective = |inputs: &[Vec<f64>]| -> f64 {
        (check.reference)(inputs)
            .iter()
            .zip(&weights)
            .map(|(y, w)| y * w)
            .sum()
    };
    for (k, tensor) in tensors.iter().enumerate() {
        let gradient = to_vec(gradients.get(tensor).expect("every input has a gradient")).unwrap();
        let mut numeric = Vec::new();
        for i in 0..inputs[k].len() {
            let step = 1e-5;
            let mut moved = inputs.clone();
            moved[k][i] += step;
            let up = objective(&moved);
            moved[k][i] -= 2.0 * step;
            numeric.push((up - objective(&moved)) / (2.0 * step));
        }
        let largest = numeric.iter().fold(1e-3_f64, |a, b| a.max(b.abs()));
        for (i, (a, e)) in gradient.iter().zip(&numeric).enumerate() {
            assert!(
                (f64::from(*a) - e).abs() <= check.tolerance.max(1e-7) * largest,
                "gradient of input {k} at {i}: {a} against {e} (largest {largest})"
            );
        }
    }
}
