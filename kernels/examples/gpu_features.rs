//! Features on a GPU: equality with the CPU, and time against a copy of as many bytes.
//!
//! `cargo run --release -p natron-kernels --example gpu_features [INDICATOR ...]`: all indicators with their defaults, or the
//! named ones. Without a GPU it says so and ends.

use std::{error::Error, time::Instant};

use natron_kernels::{
    bars::{Bar, BarColumns},
    cuda::{self, Gpu},
    indicators::{
        catalog::{self, Range},
        cuda::{Plan, Resident, Shape},
        engine::Engine,
        program::{Builder, Input, Program},
    },
};

const N_ROWS: usize = 1_000_000;
const N_SYMBOLS: usize = 64;
const N_RUNS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let gpu = match cuda::cards().and_then(|_| Gpu::open(0)) {
        Ok(gpu) => gpu,
        Err(error) => {
            say(&format!("no measurement: {error}"));
            return Ok(());
        }
    };
    let names: Vec<String> = std::env::args().skip(1).collect();
    let program = program(&names);
    say(&format!(
        "{} ({}), {} outputs",
        gpu.name()?,
        gpu.architecture(),
        program.n_outputs()
    ));

    let start = Instant::now();
    let bars = market(N_ROWS);
    let cpu = Engine::batch(&program, bars.view(), &[]);
    let cpu_seconds = start.elapsed().as_secs_f64();
    for is_single in [false, true] {
        let shape = Shape {
            is_single,
            ..Shape::default()
        };
        let plan = Plan::new(&program, shape)?;
        let start = Instant::now();
        gpu.load(plan.source(), None)?;
        let kind = if is_single { "f32" } else { "f64" };
        say(&format!(
            "{kind}: {} launches, compiled in {:.1} s",
            plan.n_launches(),
            start.elapsed().as_secs_f64()
        ));
        for n_series in [1, N_SYMBOLS] {
            measure(
                &gpu,
                &plan,
                &bars,
                n_series,
                if is_single { None } else { Some(&cpu) },
            )?;
        }
        // Where copying there and back, with the columns not yet on the card, is worth it.
        for n_rows in [1_000, 10_000, 100_000, N_ROWS] {
            let mut resident = Resident::new(&gpu, &plan, &[0, n_rows], None)?;
            let start = Instant::now();
            resident.upload(bars.view().slice(0..n_rows), &[])?;
            resident.launch()?;
            for k in 0..program.n_outputs() {
                if is_single {
                    resident.output::<f32>(k)?;
                } else {
                    resident.output::<f64>(k)?;
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            let of_cpu = cpu_seconds * n_rows as f64 / N_ROWS as f64;
            say(&format!(
                "{kind}: {n_rows} rows with copies {:.2} ms, on the CPU about {:.2} ms",
                seconds * 1e3,
                of_cpu * 1e3
            ));
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the output of an example")]
fn say(text: &str) {
    println!("{text}");
}

/// Time of all launches on `n_series` series side by side, against a copy of as many bytes as are read and written once.
fn measure(
    gpu: &Gpu,
    plan: &Plan,
    one: &BarColumns,
    n_series: usize,
    expected: Option<&Vec<Vec<f64>>>,
) -> Result<(), Box<dyn Error>> {
    let mut bars = BarColumns::default();
    let mut segments = vec![0];
    for _ in 0..n_series {
        one.view().iter().for_each(|bar| bars.push(bar));
        segments.push(bars.close.len());
    }
    let mut resident = Resident::new(gpu, plan, &segments, None)?;
    resident.upload(bars.view(), &[])?;
    resident.launch()?;
    gpu.stream().synchronize()?;
    let start = Instant::now();
    for _ in 0..N_RUNS {
        resident.launch()?;
    }
    gpu.stream().synchronize()?;
    let seconds = start.elapsed().as_secs_f64() / N_RUNS as f64;

    let n_bytes = plan.bytes_per_row() * bars.close.len();
    let source = gpu.stream().alloc_zeros::<u8>(n_bytes / 2)?;
    let mut target = gpu.stream().alloc_zeros::<u8>(n_bytes / 2)?;
    gpu.stream().memcpy_dtod(&source, &mut target)?;
    gpu.stream().synchronize()?;
    let start = Instant::now();
    for _ in 0..N_RUNS {
        gpu.stream().memcpy_dtod(&source, &mut target)?;
    }
    gpu.stream().synchronize()?;
    let of_copy = start.elapsed().as_secs_f64() / N_RUNS as f64;
    say(&format!(
        "{n_series} x {N_ROWS} rows: {:.3} ms, {:.2} ns/row; a copy of the same {} bytes/row {:.3} ms: {:.0} % of its speed",
        seconds * 1e3,
        seconds * 1e9 / bars.close.len() as f64,
        plan.bytes_per_row(),
        of_copy * 1e3,
        100.0 * of_copy / seconds
    ));
    if let Some(expected) = expected {
        let mut worst = 0.0_f64;
        for (k, expected) in expected.iter().enumerate() {
            let size = expected
                .iter()
                .filter(|x| !x.is_nan())
                .fold(0.0_f64, |a, x| a.max(x.abs()));
            for (x, y) in resident.output::<f64>(k)?.iter().zip(expected) {
                if x.is_nan() != y.is_nan() {
                    return Err(
                        format!("output {k} is defined in other rows than on the CPU").into(),
                    );
                }
                if !x.is_nan() && size > 0.0 {
                    worst = worst.max((x - y).abs() / size);
                }
            }
        }
        say(&format!(
            "largest difference from the CPU: {worst:.1e} of a column's size"
        ));
    }
    Ok(())
}

fn program(names: &[String]) -> Program {
    let mut builder = Builder::new();
    let mut outputs = Vec::new();
    let known = [Input::Close, Input::Volume, Input::Open].map(|input| builder.input(input));
    for indicator in catalog::catalog() {
        if !names.is_empty() && !names.iter().any(|name| name == indicator.name) {
            continue;
        }
        let parameters: Vec<f64> = indicator
            .parameters
            .iter()
            .map(|parameter| {
                parameter.default.unwrap_or(match parameter.range {
                    Range::Whole(least, most) => f64::from(20.clamp(least, most)),
                    Range::Real(least, most) => 0.5_f64.clamp(least, most),
                })
            })
            .collect();
        let series = &known[..indicator.series.len()];
        outputs.extend((indicator.expand)(&mut builder, series, &parameters));
    }
    builder.finish(&outputs)
}

/// A random walk; the same each time.
fn market(n_rows: usize) -> BarColumns {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut close = 100.0;
    (0..n_rows)
        .map(|t| {
            let open = close;
            close = open * (1.0 + 0.01 * (uniform() - 0.5));
            Bar {
                ts_ns: t as i64 * 60_000_000_000,
                open,
                high: open.max(close) * (1.0 + 0.002 * uniform()),
                low: open.min(close) * (1.0 - 0.002 * uniform()),
                close,
                volume: 100.0 * (0.1 + uniform()),
            }
        })
        .collect()
}
