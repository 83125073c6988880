//! How long a training step and an inference take, beside PyTorch and ONNX Runtime on the same machine.
//!
//!     cargo bench -p natron-stages --bench training                       # all cases with 1 and 2 threads
//!     cargo bench -p natron-stages --bench training -- finetune --threads 1
//!     NATRON_TORCH_PYTHON=/path/to/python cargo bench -p natron-stages --bench training
//!
//! A step is what the trainer does with a batch: forward, backward, norm of the gradients, optimizer. Each figure is the
//! median of several repetitions after one that is not counted. The floor is the arithmetic of the matrix products alone,
//! at the rate that the best libraries reach on one thread of the machine where the targets were set. With
//! `NATRON_TORCH_PYTHON`, an interpreter with torch and onnxruntime, `peers.py` times the same network.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Instant,
};

use candle_core::{Device, Tensor};
use natron_artifacts::Streams;
use natron_kernels::{
    adamw::{AdamW, global_norm},
    allocator::{CachingAllocator, settle_in},
    loss::{LossOptions, binary_cross_entropy, cross_entropy},
};
use natron_stages::models::{
    inference::Inference,
    transformer::{Pass, Pooling, Transformer, TransformerConfig},
    windows::WindowSource,
};

// As in the binary, with its limit.
#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(4 << 30);

/// `f32` operations a second of one thread that the floor is computed with: what oneDNN reaches on an AMD EPYC (Zen 5).
const FLOOR_RATE: f64 = 220e9;

/// Counted repetitions of a training step.
const STEPS: usize = 5;

/// Counted seconds of inference.
const INFERENCE_SECONDS: f64 = 1.0;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// One step of `finetune`.
    Finetune,
    /// Probabilities of complete windows.
    Inference,
}

/// One line of the table for each number of threads.
#[derive(Debug, Clone, Copy)]
struct Case {
    model: &'static str,
    phase: Phase,
    /// Windows.
    batch: usize,
}

const CASES: [Case; 4] = [
    Case::new("natron_v2", Phase::Finetune, 32),
    Case::new("natron_v2", Phase::Finetune, 128),
    Case::new("natron_v2", Phase::Inference, 1),
    Case::new("natron_v2", Phase::Inference, 32),
];

impl Case {
    const fn new(model: &'static str, phase: Phase, batch: usize) -> Self {
        Self {
            model,
            phase,
            batch,
        }
    }

    fn name(&self) -> String {
        let phase = match self.phase {
            Phase::Finetune => "finetune",
            Phase::Inference => "inference",
        };
        format!("{}.{phase}.{}", self.model, self.batch)
    }

    /// Multiplications and additions of the matrix products. The backward pass takes twice the forward one.
    fn operations(&self) -> f64 {
        let TransformerConfig {
            inputs,
            d_model,
            layers,
            feed_forward,
            window_bars,
            ..
        } = natron_v2();
        let bar = inputs * d_model + layers * (4 * d_model + 2 * feed_forward) * d_model;
        let attention = layers * 2 * window_bars * d_model;
        let forward = (2 * self.batch * window_bars * (bar + attention)) as f64;
        match self.phase {
            Phase::Finetune => 3.0 * forward,
            Phase::Inference => forward,
        }
    }
}

fn natron_v2() -> TransformerConfig {
    TransformerConfig {
        inputs: 100,
        d_model: 256,
        heads: 8,
        layers: 6,
        feed_forward: 1024,
        dropout: 0.1,
        window_bars: 96,
        pooling: Pooling::Mean,
    }
}

/// Milliseconds: in all, and of a training step's parts.
struct Timing {
    total: f64,
    parts: Option<[f64; 3]>,
}

fn main() -> ExitCode {
    settle_in();
    natron_kernels::keep_candle_single_threaded();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut threads = vec![1, 2];
    let mut only = String::new();
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--threads" => {
                threads = vec![
                    arguments
                        .next()
                        .ok_or("`--threads` needs a number")?
                        .parse()?,
                ];
            }
            _ => only = argument,
        }
    }
    let cases: Vec<Case> = CASES
        .into_iter()
        .filter(|case| case.name().contains(&only))
        .collect();
    if cases.is_empty() {
        return Err(format!("no case is called `{only}`").into());
    }
    say(&format!(
        "{:<26} {:>7} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>8}",
        "case", "threads", "ms", "forward", "backward", "optimizer", "GFLOP/s", "floor", "peak MiB"
    ));
    for threads in threads {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()?;
        for case in &cases {
            let timing = pool.install(|| match case.phase {
                Phase::Finetune => training(case.batch),
                Phase::Inference => inference(case.batch),
            })?;
            let rate = case.operations() / timing.total * 1e3;
            let part = |i: usize| {
                let part = timing.parts.map(|parts| format!("{:.1}", parts[i]));
                part.unwrap_or_default()
            };
            say(&format!(
                "{:<26} {threads:>7} {:>9.2} {:>9} {:>9} {:>9} {:>8.0} {:>5.0}% {:>8}",
                case.name(),
                timing.total,
                part(0),
                part(1),
                part(2),
                rate / 1e9,
                100.0 * rate / (FLOOR_RATE * threads as f64),
                peak_memory_mib(),
            ));
            for (engine, ms) in peers(case, threads)? {
                say(&format!(
                    "  {engine:<24} {threads:>7} {ms:>9.2}   ours / theirs {:.2}",
                    timing.total / ms
                ));
            }
        }
    }
    Ok(())
}

/// The largest resident set so far, 0 where the system does not say.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    })
    .unwrap_or(0)
        / 1024
}

/// What other libraries take for the same, as far as `NATRON_TORCH_PYTHON` names an interpreter that has them.
fn peers(case: &Case, threads: usize) -> Result<Vec<(String, f64)>> {
    let Some(python) = env::var_os("NATRON_TORCH_PYTHON") else {
        return Ok(Vec::new());
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers.py");
    let output = Command::new(python)
        .arg(script)
        .args([case.name(), threads.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("`peers.py` ended with {}", output.status).into());
    }
    let mut timings = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let timing: serde_json::Value = serde_json::from_str(line)?;
        let engine = timing["engine"].as_str().ok_or("a line without engine")?;
        let ms = timing["ms"].as_f64().ok_or("a line without ms")?;
        timings.push((engine.to_owned(), ms));
    }
    Ok(timings)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median step on a batch of `batch` windows.
fn training(batch: usize) -> Result<Timing> {
    let config = natron_v2();
    let network = Transformer::classifier(config, Streams::new(1))?;
    let x = Tensor::from_vec(
        noise(batch * config.window_bars * config.inputs),
        (batch, config.window_bars, config.inputs),
        &Device::Cpu,
    )?;
    let classes = |n: usize| -> Arc<[u8]> { (0..batch).map(|i| (i * 7 % n) as u8).collect() };
    let (binary, direction, regime) = (classes(2), classes(3), classes(6));
    let options = LossOptions {
        class_weights: Vec::new(),
        label_smoothing: 0.0,
        focal_gamma: 0.0,
    };
    let optimizer = AdamW::new(5e-5, 1e-5);
    let mut moments: Vec<(Vec<f32>, Vec<f32>)> = network
        .parameters()
        .iter()
        .map(|(_, variable)| {
            (
                vec![0.0; variable.elem_count()],
                vec![0.0; variable.elem_count()],
            )
        })
        .collect();
    let mut measured = [const { Vec::new() }; 4];
    for step in 0..=STEPS as u64 {
        let start = Instant::now();
        let pass = Pass::training(config.dropout, 1, step);
        let logits = network.logits(&network.pool(&network.encode(&x, None, &pass)?)?, &pass)?;
        let losses = [
            binary_cross_entropy(&logits.buy, &binary, &options)?,
            binary_cross_entropy(&logits.sell, &binary, &options)?,
            (cross_entropy(&logits.direction, &direction, &options)? * 1.5)?,
            (cross_entropy(&logits.regime, &regime, &options)? * 1.2)?,
        ];
        let [buy, sell, direction, regime] = losses;
        let loss = (((buy + sell)? + direction)? + regime)?;
        let forward = Instant::now();
        let gradients = loss.backward()?;
        let backward = Instant::now();
        let all: Vec<&Tensor> = network
            .parameters()
            .iter()
            .filter_map(|(_, variable)| gradients.get(variable))
            .collect();
        let norm = global_norm(all.iter().copied())?;
        let scale = (1.0 / norm).min(1.0);
        let parameters = network.parameters().iter();
        for (((_, variable), gradient), (first, second)) in parameters.zip(all).zip(&mut moments) {
            optimizer.update(variable, gradient, scale, step + 1, (first, second))?;
        }
        drop(gradients);
        let end = Instant::now();
        if step > 0 {
            let ms = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e3;
            measured[0].push(ms(start, forward));
            measured[1].push(ms(forward, backward));
            measured[2].push(ms(backward, end));
            measured[3].push(ms(start, end));
        }
    }
    let [forward, backward, optimizer, total] = measured.map(median);
    Ok(Timing {
        total,
        parts: Some([forward, backward, optimizer]),
    })
}

/// The median call for `batch` windows.
fn inference(batch: usize) -> Result<Timing> {
    let config = natron_v2();
    let inference = Inference::new(&Transformer::classifier(config, Streams::new(1))?)?;
    let bars = config.window_bars + batch - 1;
    let features = (0..config.inputs).map(|i| format!("f{i}")).collect();
    let source = WindowSource::new(noise(bars * config.inputs), features, config.window_bars)?;
    let rows: Vec<usize> = (config.window_bars - 1..bars).collect();
    let mut measured = Vec::new();
    inference.predictions(&source, &rows, |_| Ok(()))?;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < INFERENCE_SECONDS {
        let before = Instant::now();
        inference.predictions(&source, &rows, |_| Ok(()))?;
        measured.push(before.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Timing {
        total: median(measured),
        parts: None,
    })
}

/// Standard normal values.
fn noise(length: usize) -> Vec<f32> {
    let mut stream = Streams::new(2).stream("values");
    (0..length).map(|_| stream.normal() as f32).collect()
}

fn say(text: &str) {
    use std::io::Write as _;
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stdout(), "{text}");
}
