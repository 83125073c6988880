//! Milliseconds of a training step (forward and backward) of the fused operations, beside the least that their arithmetic
//! takes.
//!
//! `cargo bench -p natron-kernels --bench operations [-- [threads] [case]]`. Where `NATRON_TORCH_PYTHON` names a Python with torch,
//! `operations.py` measures the same in PyTorch in turns with ours.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints its measurements"
)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{Device, Result, Tensor, Var};
use natron_kernels::{
    allocator::{CachingAllocator, settle_in},
    causal_convolution::{Epilogue, causal_convolution},
    loss::mean_squared_error,
    lstm::lstm,
    matmul::{Matrix, multiply_here},
};

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(1 << 30);

/// Rounds of which the median counts.
const ROUNDS: usize = 15;

struct Case {
    name: &'static str,
    /// Additions and multiplications of a step.
    operations: f64,
    step: Box<dyn Fn() -> Result<()> + Send>,
}

fn noise(shape: &[usize], scale: f32) -> Tensor {
    let length: usize = shape.iter().product();
    let values: Vec<f32> = (0..length as u32)
        .map(|i| {
            let x = (i + 1).wrapping_mul(0x9e37_79b9);
            let x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca6b);
            ((x ^ (x >> 13)) as f32 / u32::MAX as f32 - 0.5) * scale
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn parameter(shape: &[usize], scale: f32) -> Tensor {
    Var::from_tensor(&noise(shape, scale)).unwrap().into_inner()
}

/// Forward, and backward from the mean square to all parameters.
fn train(forward: impl Fn() -> Result<Tensor>, zeros: &Arc<[f32]>) -> Result<()> {
    mean_squared_error(&forward()?, zeros)?.backward()?;
    Ok(())
}

/// Two bidirectional layers of 128 units on 50 bars of 36 features, 32 windows.
fn lstm_case() -> Case {
    const HIDDEN: usize = 128;
    let (batch, length) = (32, 50);
    let x = noise(&[batch, length, 36], 2.0);
    let layers: Vec<[Tensor; 3]> = [36, 2 * HIDDEN]
        .into_iter()
        .map(|inputs| {
            [
                parameter(&[8 * HIDDEN, inputs], 0.15),
                parameter(&[8 * HIDDEN, HIDDEN], 0.15),
                parameter(&[8 * HIDDEN], 0.15),
            ]
        })
        .collect();
    let zeros: Arc<[f32]> = vec![0.0; batch * length * 2 * HIDDEN].into();
    let products = |inputs: usize| (batch * length * 8 * HIDDEN * (inputs + HIDDEN)) as f64;
    // Three products of each size, but the data needs no gradient.
    let data = (batch * length * 8 * HIDDEN * 36) as f64;
    Case {
        name: "lstm",
        operations: 2.0 * (3.0 * (products(36) + products(2 * HIDDEN)) - data),
        step: Box::new(move || {
            train(
                || {
                    let mut states = x.clone();
                    for [input, recurrent, bias] in &layers {
                        states = lstm(&states, input, recurrent, bias)?;
                    }
                    Ok(states)
                },
                &zeros,
            )
        }),
    }
}

/// Eight causal convolutions with 64 channels, kernel 3 and dilations 1, 2, 4, 8 twice on 96 bars, 32 windows.
fn convolution_case() -> Case {
    const CHANNELS: usize = 64;
    const DILATIONS: [usize; 8] = [1, 2, 4, 8, 1, 2, 4, 8];
    let (batch, length) = (32, 96);
    let x = noise(&[batch, length, CHANNELS], 2.0);
    let layers: Vec<(Tensor, Tensor)> = DILATIONS
        .iter()
        .map(|_| {
            (
                parameter(&[CHANNELS, CHANNELS, 3], 0.2),
                parameter(&[CHANNELS], 0.2),
            )
        })
        .collect();
    let zeros: Arc<[f32]> = vec![0.0; batch * length * CHANNELS].into();
    let product = (batch * length * CHANNELS * CHANNELS * 3) as f64;
    Case {
        name: "causal_convolution",
        operations: 2.0 * product * (3.0 * DILATIONS.len() as f64 - 1.0),
        step: Box::new(move || {
            train(
                || {
                    let mut y = x.clone();
                    for ((weight, bias), dilation) in layers.iter().zip(DILATIONS) {
                        y = causal_convolution(&y, weight, bias, dilation, Epilogue::Identity)?;
                    }
                    Ok(y)
                },
                &zeros,
            )
        }),
    }
}

/// Arithmetic of one thread in a large product, in operations a millisecond: the best of some runs.
fn peak() -> f64 {
    const N: usize = 768;
    let (a, b) = (vec![0.5_f32; N * N], vec![0.25_f32; N * N]);
    let mut c = vec![0.0; N * N];
    let best = (0..10)
        .map(|_| {
            let start = Instant::now();
            multiply_here(
                &mut c,
                N,
                Matrix::new(&a, N, N),
                Matrix::new(&b, N, N),
                false,
            );
            start.elapsed().as_secs_f64() * 1e3
        })
        .fold(f64::INFINITY, f64::min);
    2.0 * (N * N * N) as f64 / best
}

/// PyTorch in another process, which answers a line with the milliseconds of one step of the case it names.
struct Peer {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn start(threads: usize) -> Option<Self> {
        let python = std::env::var_os("NATRON_TORCH_PYTHON")?;
        let mut child = Command::new(python)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/benches/operations.py"
            ))
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, answers })
    }

    fn milliseconds(&mut self, case: &str) -> f64 {
        writeln!(self.child.stdin.as_mut().unwrap(), "{case}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        // Its threads go on spinning for a while, on the cores that are ours in the next turn.
        std::thread::sleep(Duration::from_millis(250));
        line.trim().parse().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    settle_in();
    natron_kernels::keep_candle_single_threaded();
    let threads = std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(1);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| measure(threads));
}

fn measure(threads: usize) {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut peer = Peer::start(threads);
    let peak = peak() * threads as f64;
    println!(
        "{threads} threads, {:.0} GFLOP/s in a large product",
        peak / 1e6
    );
    println!(
        "operation              ms     least   floor     torch   least   ratio (medians, of {ROUNDS} rounds in turns)"
    );
    let cases = [lstm_case(), convolution_case()];
    let is_wanted = |case: &Case| wanted.iter().any(|name| name == case.name);
    let is_any = !cases.iter().any(is_wanted);
    for case in cases.into_iter().filter(|case| is_any || is_wanted(case)) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let start = Instant::now();
            (case.step)().unwrap();
            let time = start.elapsed().as_secs_f64() * 1e3;
            let of_peer = peer.as_mut().map(|peer| peer.milliseconds(case.name));
            // The first round warms up.
            if round > 0 {
                ours.push(time);
                theirs.extend(of_peer);
            }
        }
        let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        print!(
            "{:<20} {:>7.2} {:>7.2} {:>7.2}",
            case.name,
            median(ours.clone()),
            least(&ours),
            case.operations / peak,
        );
        if !theirs.is_empty() {
            let (a, b) = (median(ours.clone()), median(theirs.clone()));
            print!("   {b:>7.2} {:>7.2} {:>7.2}", least(&theirs), a / b);
        }
        println!();
    }
}
