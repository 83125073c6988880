//! CUDA twins of fused operations: steps of an LSTM, `SwiGLU`, statistics and normalization of windows, spline expansions and
//! the causal convolution, forward and backward.
//!
//! [`SOURCE`] says above each kernel what it computes and what it is given; [`crate::cuda::Gpu::load`] compiles it. Its
//! kernels have the bits of the CPU: the tests run them on the CPU, thread by thread, and compile them for each architecture.
//! They leave out dropout, and the convolution's are one thread an element, without the tensor cores.

/// The source of all kernels.
pub const SOURCE: &str = include_str!("operations.cu");

#[cfg(test)]
mod tests {
    use candle_core::{Tensor, Var};

    use super::*;
    use crate::causal_convolution::{Epilogue, causal_convolution};
    use crate::cuda::{self, check};
    use crate::dropout::Dropout;
    use crate::gradient_check::noise;
    use crate::indicators::cuda::shim::{Block, Host, has_cpp};
    use crate::kan::{Grid, expand};
    use crate::lstm::lstm;
    use crate::revin::{normalize, window_statistics};
    use crate::storage::{tensor, to_vec};
    use crate::swiglu::swiglu;

    const GUARD: usize = 16;

    fn single(length: usize, seed: u64) -> Vec<f32> {
        noise(length, seed).iter().map(|&v| v as f32).collect()
    }

    fn variable(shape: &[usize], seed: u64) -> Tensor {
        let values = single(shape.iter().product(), seed);
        let tensor = tensor(values, shape).unwrap();
        Var::from_tensor(&tensor).unwrap().into_inner()
    }

    /// The gradients of `y`, weighted by fixed numbers, with respect to `operands`; the weights first.
    fn gradients(y: &Tensor, operands: &[&Tensor]) -> Vec<Vec<f32>> {
        let weights = single(y.elem_count(), 77);
        let weighting = tensor(weights.clone(), y.shape().clone()).unwrap();
        let sum = (y * weighting).unwrap().sum_all().unwrap();
        let gradients = sum.backward().unwrap();
        let of = |operand: &&Tensor| to_vec(gradients.get(operand).unwrap()).unwrap();
        std::iter::once(weights)
            .chain(operands.iter().map(of))
            .collect()
    }

    /// Runs a kernel with guards around each array, threads in both orders; the arrays as they are afterwards.
    fn run(
        host: &Host,
        kernel: &str,
        arrays: &[Vec<f32>],
        sizes: &[usize],
        threads: usize,
    ) -> Vec<Vec<f32>> {
        let of = |is_reversed| {
            let mut guarded: Vec<Vec<f32>> = arrays
                .iter()
                .map(|values| {
                    let mut all = vec![f32::MAX; GUARD];
                    all.extend(values);
                    all.extend([f32::MAX; GUARD]);
                    all
                })
                .collect();
            let table: Vec<u64> = guarded
                .iter_mut()
                .map(|array| array[GUARD..].as_mut_ptr() as u64)
                .collect();
            let sizes: Vec<u64> = sizes.iter().map(|&size| size as u64).collect();
            let block = Block {
                threads: 32,
                shared_bytes: 0,
                is_reversed,
            };
            let grid = [threads.div_ceil(32) as u32, 1, 1];
            host.launch(kernel, grid, block, &table, &sizes, threads as u64)
                .unwrap();
            for array in &guarded {
                let guards = array[..GUARD].iter().chain(&array[array.len() - GUARD..]);
                assert!(
                    guards
                        .into_iter()
                        .all(|v| v.to_bits() == f32::MAX.to_bits()),
                    "{kernel}"
                );
            }
            guarded
                .iter()
                .map(|array| array[GUARD..array.len() - GUARD].to_vec())
                .collect::<Vec<_>>()
        };
        let (forward, backward) = (of(false), of(true));
        for (a, b) in forward.iter().zip(&backward) {
            assert_same(kernel, a, b);
        }
        forward
    }

    fn empty(length: usize) -> Vec<f32> {
        vec![f32::NAN; length]
    }

    fn assert_same(name: &str, cpu: &[f32], gpu: &[f32]) {
        assert_eq!(cpu.len(), gpu.len(), "{name}");
        for (k, (x, y)) in cpu.iter().zip(gpu).enumerate() {
            // Minus zero is zero.
            assert!(
                x.to_bits() == y.to_bits() || x.abs() + y.abs() == 0.0,
                "{name} at {k}: {x} against {y}"
            );
        }
    }

    #[test]
    fn compiles_for_every_architecture() {
        if !check::has_compiler() {
            return;
        }
        for architecture in check::ARCHITECTURES {
            cuda::compile(SOURCE, architecture).unwrap();
        }
    }

    #[test]
    fn two_steps_of_an_lstm_have_the_bits_of_the_cpu() {
        if !has_cpp() {
            return;
        }
        let host = Host::compile(SOURCE);
        let (batch, hidden) = (5, 19);
        // The input is the pre-activation itself: weights 1 on the diagonal, and none of the states.
        let rows = 4 * hidden;
        let x = variable(&[batch, 2, rows], 1);
        let unit: Vec<f32> = (0..rows * rows)
            .map(|k| f32::from(u8::from(k / rows == k % rows)))
            .collect();
        let unit = tensor(unit, (rows, rows)).unwrap();
        let zeros = |shape: &[usize]| tensor(vec![0.0; shape.iter().product()], shape).unwrap();
        let y = lstm(&x, &unit, &zeros(&[rows, hidden]), &zeros(&[rows])).unwrap();
        let [weights, of_x] = &gradients(&y, &[&x])[..] else {
            panic!()
        };
        let at = |values: &[f32], t: usize, width: usize| -> Vec<f32> {
            (0..batch)
                .flat_map(|b| values[(b * 2 + t) * width..][..width].to_vec())
                .collect()
        };
        let (x, y) = (to_vec(&x).unwrap(), to_vec(&y).unwrap());
        let threads = batch * hidden;
        let mut cells = vec![vec![0.0; threads]];
        let mut gates = Vec::new();
        for t in 0..2 {
            let arrays = [at(&x, t, rows), cells[t].clone(), empty(threads)];

            let after = run(&host, "lstm_step_f32", &arrays, &[hidden], threads);

            assert_same("states", &at(&y, t, hidden), &after[2]);
            gates.push(after[0].clone());
            cells.push(after[1].clone());
        }
        let mut of_cells = vec![0.0; threads];
        for t in [1, 0] {
            let (now, before) = (cells[t + 1].clone(), cells[t].clone());
            let arrays = [
                gates[t].clone(),
                now,
                before,
                at(weights, t, hidden),
                of_cells,
                empty(batch * rows),
            ];

            let after = run(&host, "lstm_step_gradient_f32", &arrays, &[hidden], threads);

            assert_same("pre-activations", &at(of_x, t, rows), &after[5]);
            of_cells = after[4].clone();
        }
    }

    #[test]
    fn swiglu_has_the_bits_of_the_cpu() {
        if !has_cpp() {
            return;
        }
        let host = Host::compile(SOURCE);
        let x = variable(&[7, 2 * 11], 1);
        let y = swiglu(&x, Dropout::NONE).unwrap();
        let [weights, of_x] = &gradients(&y, &[&x])[..] else {
            panic!()
        };
        let values = to_vec(&x).unwrap();

        let forward = run(&host, "swiglu_f32", &[values.clone(), empty(77)], &[11], 77);
        let arrays = [values, weights.clone(), empty(154)];
        let backward = run(&host, "swiglu_gradient_f32", &arrays, &[11], 77);

        assert_same("swiglu", &to_vec(&y).unwrap(), &forward[1]);
        assert_same("its gradient", of_x, &backward[2]);
    }

    #[test]
    fn window_normalization_has_the_bits_of_the_cpu() {
        if !has_cpp() {
            return;
        }
        let host = Host::compile(SOURCE);
        let (batch, length, width) = (3, 9, 5);
        let (all, columns) = (batch * length * width, batch * width);
        let sizes = [length, width];
        let x = variable(&[batch, length, width], 1);
        let statistics = window_statistics(&x).unwrap();
        let of_statistics = gradients(&statistics, &[&x]);
        let values = to_vec(&x).unwrap();
        let found = to_vec(&statistics).unwrap();

        let arrays = [values.clone(), empty(2 * columns)];
        let forward = run(&host, "window_statistics_f32", &arrays, &sizes, columns);
        let arrays = [
            values.clone(),
            found.clone(),
            of_statistics[0].clone(),
            empty(all),
        ];
        let backward = run(
            &host,
            "window_statistics_gradient_f32",
            &arrays,
            &sizes,
            all,
        );

        assert_same("statistics", &found, &forward[1]);
        assert_same("their gradient", &of_statistics[1], &backward[3]);

        let statistics = Var::from_tensor(&statistics.detach()).unwrap().into_inner();
        let affine = variable(&[2, width], 3);
        let y = normalize(&x, &statistics, &affine).unwrap();
        let expected = gradients(&y, &[&x, &statistics, &affine]);
        let operands = [values, found, to_vec(&affine).unwrap()];

        let mut arrays = operands.to_vec();
        arrays.push(empty(all));
        let forward = run(&host, "normalize_f32", &arrays, &sizes, all);
        let mut arrays = operands.to_vec();
        arrays.extend([
            expected[0].clone(),
            empty(all),
            empty(2 * columns),
            empty(2 * columns),
        ]);
        let backward = run(&host, "normalize_gradient_f32", &arrays, &sizes, columns);

        assert_same("normalized", &to_vec(&y).unwrap(), &forward[3]);
        assert_same("gradient of x", &expected[1], &backward[4]);
        assert_same("gradient of the statistics", &expected[2], &backward[5]);
        let of_affine = backward[6]
            .chunks_exact(2 * width)
            .map(<[f32]>::to_vec)
            .collect();
        let of_affine = crate::storage::add_in_order(of_affine, 2 * width);
        assert_same("gradient of the affine part", &expected[3], &of_affine);
    }

    #[test]
    fn spline_expansions_have_the_bits_of_the_cpu() {
        if !has_cpp() {
            return;
        }
        let host = Host::compile(SOURCE);
        for (low, high, intervals, degree) in [(-1.0, 1.0, 5, 3), (-0.5, 1.5, 4, 5)] {
            let grid = Grid::new(low, high, intervals, degree).unwrap();
            let x = variable(&[53], 4);
            let y = expand(&x, grid).unwrap();
            let expected = gradients(&y, &[&x]);
            let (values, ends) = (to_vec(&x).unwrap(), vec![low, high]);
            let sizes = [intervals, degree];

            let arrays = [values.clone(), ends.clone(), empty(53 * grid.columns())];
            let forward = run(&host, "kan_f32", &arrays, &sizes, 53);
            let arrays = [values, ends, expected[0].clone(), empty(53)];
            let backward = run(&host, "kan_gradient_f32", &arrays, &sizes, 53);

            assert_same("expansion", &to_vec(&y).unwrap(), &forward[2]);
            assert_same("its gradient", &expected[1], &backward[3]);
        }
    }

    #[test]
    fn causal_convolutions_have_the_bits_of_the_cpu() {
        if !has_cpp() {
            return;
        }
        let host = Host::compile(SOURCE);
        for (batch, length, inputs, outputs, kernel, dilation) in
            [(9, 8, 3, 5, 3, 2), (2, 3, 2, 4, 3, 2)]
        {
            let x = variable(&[batch, length, inputs], 1);
            let weight = variable(&[outputs, inputs, kernel], 2);
            let bias = variable(&[outputs], 3);
            let y = causal_convolution(&x, &weight, &bias, dilation, Epilogue::Identity).unwrap();
            let expected = gradients(&y, &[&x, &weight]);
            let [g, of_x, of_weight] = &expected[..] else {
                panic!()
            };
            let sizes = [length, inputs, outputs, kernel, dilation, batch, 4];
            let [x, weight, bias, y] = [x, weight, bias, y].map(|tensor| to_vec(&tensor).unwrap());

            let arrays = [x.clone(), weight.clone(), bias, empty(y.len())];
            let forward = run(&host, "causal_convolution_f32", &arrays, &sizes, y.len());
            let arrays = [g.clone(), weight, empty(x.len())];
            let backward = run(
                &host,
                "causal_convolution_gradient_f32",
                &arrays,
                &sizes,
                x.len(),
            );
            let arrays = [x, g.clone(), empty(of_weight.len())];
            let name = "causal_convolution_weight_gradient_f32";
            let weights = run(&host, name, &arrays, &sizes, of_weight.len());

            assert_same("convolution", &y, &forward[3]);
            assert_same("gradient of x", of_x, &backward[2]);
            assert_same("gradient of the weights", of_weight, &weights[2]);
        }
    }
}
