//! Tests without a GPU: generated source runs on the CPU through `shim.h`, and is compiled by NVRTC for real cards.

use std::{
    collections::BTreeMap,
    ffi::{CString, c_int, c_void},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    super::{
        catalog::{self, Indicator, Unit},
        check::{market, typical},
        engine::Engine,
        labels::{
            Directions, Distance, RegimeColumns, RegimeThresholds, Side, SignalThresholds, Signals,
            TripleBarrier, concurrency, direction, forward_return, regime, signal_counts,
            uniqueness,
        },
        program::{Builder, Input, Program, Series},
    },
    BARS, Launch, NoTwin, Plan, Shape,
    labels::{self, Loop},
};
use crate::{
    bars::{BarColumns, Bars},
    cuda::{self, check},
};

/// CUDA source as a shared object of the system's C++ compiler.
pub(crate) struct Host {
    library: *mut c_void,
    path: PathBuf,
}

/// Threads of a block, what they share, and whether they are taken in the other order.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) threads: u32,
    pub(crate) shared_bytes: usize,
    pub(crate) is_reversed: bool,
}

type Kernel = extern "C" fn(*const u64, *const u64, u64);
type RunKernel =
    extern "C" fn(Kernel, *const u32, u32, usize, *const u64, *const u64, u64, c_int) -> c_int;

/// Whether there is a C++ compiler; says so when there is none.
pub(crate) fn has_cpp() -> bool {
    let is_there = Command::new("c++").arg("--version").output().is_ok();
    if !is_there {
        eprintln!("skipped: no C++ compiler `c++`");
    }
    is_there
}

impl Host {
    pub(crate) fn compile(source: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("natron-shim-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(&name).with_extension("so");
        let text = path.with_extension("cpp");
        std::fs::write(&text, format!("{}{source}", include_str!("shim.h"))).unwrap();
        let output = Command::new("c++")
            .args([
                "-std=c++17",
                "-O1",
                "-ffp-contract=off",
                "-shared",
                "-fPIC",
                "-w",
                "-o",
            ])
            .arg(&path)
            .arg(&text)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {log}", text.display());
        std::fs::remove_file(text).unwrap();
        let file = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a string with an end, and the object has no initializers.
        let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "{}", path.display());
        Self { library, path }
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: the library is open, and the name is a string with an end.
        let symbol = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        symbol
    }

    /// Runs a kernel of a grid of blocks. Every address of the table must be that of as much memory as the kernel uses.
    pub(crate) fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: Block,
        table: &[u64],
        sizes: &[u64],
        last: u64,
    ) -> Result<(), c_int> {
        // SAFETY: `shim.h` defines it with this signature.
        let run = unsafe { std::mem::transmute::<*mut c_void, RunKernel>(self.symbol("shim_run")) };
        // SAFETY: every kernel has this signature.
        let kernel = unsafe { std::mem::transmute::<*mut c_void, Kernel>(self.symbol(kernel)) };
        let failed = run(
            kernel,
            grid.as_ptr(),
            block.threads,
            block.shared_bytes,
            table.as_ptr(),
            sizes.as_ptr(),
            last,
            c_int::from(block.is_reversed),
        );
        if failed == 0 { Ok(()) } else { Err(failed) }
    }

    /// What [`run`](super::run()) does.
    fn run(
        &self,
        plan: &Plan,
        bars: Bars<'_>,
        segments: &[usize],
        is_reversed: bool,
    ) -> Result<Vec<Vec<f64>>, c_int> {
        let n_rows = bars.len();
        let mut columns = vec![guarded(bars.ts_ns.iter().map(|t| *t as u64))];
        columns.extend([bars.open, bars.high, bars.low, bars.close, bars.volume].map(numbers));
        assert_eq!(plan.n_columns, 0);
        columns.extend((0..plan.n_outputs).map(|_| unwritten(n_rows)));
        let longest = longest(segments);
        columns.extend(
            plan.memory
                .iter()
                .map(|memory| unwritten(memory.words(n_rows, longest, segments.len() - 1))),
        );
        self.launch_all(&plan.launches, &mut columns, segments, is_reversed)?;
        let outputs = columns.into_iter().skip(BARS).take(plan.n_outputs);
        Ok(outputs
            .map(|column| {
                let rows = column[GUARD..].iter().take(n_rows);
                if plan.is_single {
                    let rows: Vec<u8> = column[GUARD..]
                        .iter()
                        .flat_map(|w| w.to_ne_bytes())
                        .collect();
                    let (words, _) = rows.as_chunks();
                    words
                        .iter()
                        .take(n_rows)
                        .map(|w| f64::from(f32::from_ne_bytes(*w)))
                        .collect()
                } else {
                    rows.map(|word| f64::from_bits(*word)).collect()
                }
            })
            .collect())
    }

    /// Runs kernels one after the other on columns that are [`guarded`].
    fn launch_all(
        &self,
        launches: &[Launch],
        columns: &mut [Vec<u64>],
        segments: &[usize],
        is_reversed: bool,
    ) -> Result<(), c_int> {
        // SAFETY: every column has `GUARD` words before its first row.
        let address = |column: &mut Vec<u64>| unsafe { column.as_mut_ptr().add(GUARD) } as u64;
        let table: Vec<u64> = columns.iter_mut().map(address).collect();
        let ends: Vec<u64> = segments.iter().map(|end| *end as u64).collect();
        let longest = longest(segments);
        for launch in launches {
            let grid = [launch.n_blocks(longest), ends.len() - 1, launch.n_parts].map(|n| n as u32);
            let block = Block {
                threads: launch.threads as u32,
                shared_bytes: launch.shared_bytes,
                is_reversed,
            };
            self.launch(&launch.kernel, grid, block, &table, &ends, longest as u64)?;
        }
        for (k, column) in columns.iter().enumerate() {
            let (before, behind) = (&column[..GUARD], &column[column.len() - GUARD..]);
            let mut guards = before.iter().chain(behind);
            assert!(guards.all(|word| *word == POISON), "column {k}'s guards");
        }
        Ok(())
    }

    /// What [`Loop::run`] does.
    fn label(&self, of: &Loop<'_>, threads: usize) -> Vec<Vec<f64>> {
        let n_rows = of.n_rows();
        let mut columns = vec![numbers(&of.parameters)];
        columns.extend(of.inputs.iter().map(|column| numbers(column)));
        columns.extend((0..of.n_outputs).map(|_| unwritten(n_rows)));
        let launch = Launch {
            kernel: of.kernel.to_owned(),
            rows_per_block: Some(threads),
            n_parts: 1,
            threads,
            shared_bytes: 0,
        };
        self.launch_all(&[launch], &mut columns, &[0, n_rows], true)
            .unwrap();
        let outputs = columns.split_off(columns.len() - of.n_outputs);
        let rows = |column: &Vec<u64>| column[GUARD..][..n_rows].to_vec();
        outputs
            .iter()
            .map(|column| rows(column).into_iter().map(f64::from_bits).collect())
            .collect()
    }
}

/// Words before and behind each column.
const GUARD: usize = 64;
/// A number that spoils what reads it, and shows when it is overwritten.
const POISON: u64 = 0x5fe1_2345_6789_abcd;

fn guarded(words: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut all = vec![POISON; GUARD];
    all.extend(words);
    all.extend([POISON; GUARD]);
    all
}

fn numbers(x: &[f64]) -> Vec<u64> {
    guarded(x.iter().map(|x| x.to_bits()))
}

fn unwritten(n_words: usize) -> Vec<u64> {
    vec![POISON; n_words + 2 * GUARD]
}

fn longest(segments: &[usize]) -> usize {
    let lengths = segments.windows(2).map(|ends| ends[1] - ends[0]);
    lengths.max().unwrap()
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: it was opened once, and nothing of it runs any more.
        unsafe { libc::dlclose(self.library) };
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a column of a test program is.
struct Column {
    name: String,
    unit: Unit,
}

/// All indicators with twins in one program, and the kernels that lack one.
fn catalogue() -> (Program, Vec<Column>, BTreeMap<&'static str, &'static str>) {
    let mut builder = Builder::new();
    let (mut outputs, mut columns, mut missing) = (Vec::new(), Vec::new(), BTreeMap::new());
    for indicator in catalog::catalog() {
        if let Err(NoTwin { name }) = Plan::new(&one(indicator), Shape::default()) {
            missing.insert(indicator.name, name);
            continue;
        }
        outputs.extend(expand(&mut builder, indicator));
        columns.extend(indicator.outputs.iter().map(|output| Column {
            name: format!("{}.{}", indicator.name, output.name),
            unit: output.unit,
        }));
    }
    (builder.finish(&outputs), columns, missing)
}

fn expand(builder: &mut Builder, indicator: &Indicator) -> Vec<Series> {
    let (series, parameters) = typical(indicator);
    let series: Vec<_> = series.iter().map(|input| builder.input(*input)).collect();
    (indicator.expand)(builder, &series, &parameters)
}

fn one(indicator: &Indicator) -> Program {
    let mut builder = Builder::new();
    let outputs = expand(&mut builder, indicator);
    builder.finish(&outputs)
}

/// Series of several lengths, one after the other, with missing numbers.
fn markets() -> (BarColumns, Vec<usize>) {
    let mut bars = BarColumns::default();
    let mut segments = vec![0];
    for (seed, n_rows) in [(7, 2300), (8, 1), (9, 37), (10, 900)] {
        let mut one = market(n_rows, seed);
        if n_rows > 700 {
            one.close[300] = f64::NAN;
            one.high[301] = f64::NAN;
            one.volume[555] = f64::NAN;
        }
        one.view().iter().for_each(|bar| bars.push(bar));
        segments.push(bars.close.len());
    }
    (bars, segments)
}

/// The same from the engine on the CPU.
fn expected(program: &Program, bars: &BarColumns, segments: &[usize]) -> Vec<Vec<f64>> {
    let mut all = vec![Vec::new(); program.n_outputs()];
    for ends in segments.windows(2) {
        let part = Engine::batch(program, bars.view().slice(ends[0]..ends[1]), &[]);
        for (all, part) in all.iter_mut().zip(part) {
            all.extend(part);
        }
    }
    all
}

/// The first row of a column that is not what the CPU gives: flags exactly, values to 1e-11.
fn difference(column: &Column, cpu: &[f64], gpu: &[f64]) -> Option<String> {
    let name = &column.name;
    let size = cpu
        .iter()
        .filter(|x| !x.is_nan())
        .fold(0.0_f64, |a, x| a.max(x.abs()));
    let is_exact = matches!(column.unit, Unit::Flag | Unit::Pattern | Unit::Rows);
    for (row, (x, y)) in cpu.iter().zip(gpu).enumerate() {
        let allowed = if is_exact {
            0.0
        } else {
            1e-11 * x.abs() + 1e-12 * size
        };
        let is_same = if x.is_nan() {
            y.is_nan()
        } else {
            (x - y).abs() <= allowed
        };
        if !is_same {
            return Some(format!("{name}, row {row}: {x} against {y}"));
        }
    }
    None
}

/// Writes a plan's source to a folder named by `NATRON_DUMP`, for a look at it.
fn dump(plan: &Plan, name: &str) {
    if let Some(folder) = std::env::var_os("NATRON_DUMP") {
        std::fs::write(PathBuf::from(folder).join(name), plan.source()).unwrap();
    }
}

#[test]
fn every_indicator_has_the_values_of_the_cpu() {
    if !has_cpp() {
        return;
    }
    let (program, columns, _) = catalogue();
    let (bars, segments) = markets();
    let cpu = expected(&program, &bars, &segments);
    // Tiles that divide nothing, tiles shorter than windows, and the usual ones.
    for (tile_rows, threads, is_reversed) in
        [(Some(96), 32, false), (Some(7), 8, true), (None, 64, true)]
    {
        let shape = Shape {
            threads,
            tile_rows,
            ..Shape::default()
        };
        let plan = Plan::new(&program, shape).unwrap();
        dump(&plan, "catalogue.cu");
        let host = Host::compile(plan.source());

        let gpu = host
            .run(&plan, bars.view(), &segments, is_reversed)
            .unwrap();

        let wrong: Vec<String> = columns
            .iter()
            .enumerate()
            .filter_map(|(k, column)| difference(column, &cpu[k], &gpu[k]))
            .collect();
        assert!(wrong.is_empty(), "{shape:?}: {wrong:#?}");
    }
}

#[test]
fn every_indicator_compiles_for_every_architecture() {
    if !check::has_compiler() {
        return;
    }
    let (program, _, _) = catalogue();
    let plan = Plan::new(&program, Shape::default()).unwrap();
    for architecture in check::ARCHITECTURES {
        cuda::compile(plan.source(), architecture).unwrap();
    }
}

#[test]
fn kernels_without_a_twin_are_known() {
    let (_, _, missing) = catalogue();

    assert_eq!(
        missing,
        BTreeMap::new(),
        "indicators and the kernel that lacks a twin"
    );
}

#[test]
fn single_precision_is_the_rounded_double() {
    if !has_cpp() {
        return;
    }
    let mut builder = Builder::new();
    let outputs =
        ["sma", "rsi", "obv"].map(|name| expand(&mut builder, catalog::find(name).unwrap()));
    let outputs: Vec<Series> = outputs.into_iter().flatten().collect();
    let program = builder.finish(&outputs);
    let (mut bars, segments) = markets();
    // More than a single number can be.
    bars.volume[2000] = 1e60;
    let of = |is_single| {
        let shape = Shape {
            is_single,
            tile_rows: Some(128),
            threads: 32,
            ..Shape::default()
        };
        let plan = Plan::new(&program, shape).unwrap();
        Host::compile(plan.source())
            .run(&plan, bars.view(), &segments, false)
            .unwrap()
    };

    let (single, double) = (of(true), of(false));

    for (single, double) in single.iter().zip(&double) {
        for (x, y) in single.iter().zip(double) {
            let rounded = *y as f32;
            let expected = if rounded.is_finite() {
                rounded
            } else {
                f32::NAN
            };
            assert_eq!(x.to_bits(), f64::from(expected).to_bits());
        }
    }
}

#[test]
fn windows_too_long_for_shared_memory_go_through_columns() {
    if !has_cpp() {
        return;
    }
    let mut builder = Builder::new();
    let close = builder.input(Input::Close);
    let names = ["sum", "std", "max", "wma"];
    let outputs = names.map(|name| {
        let indicator = catalog::find(name).unwrap();
        let (_, mut parameters) = typical(indicator);
        parameters[0] = 300.0;
        (indicator.expand)(&mut builder, &[close], &parameters)[0]
    });
    let program = builder.finish(&outputs);
    let shape = Shape {
        tile_rows: Some(64),
        threads: 32,
        shared_bytes: 4096,
        ..Shape::default()
    };
    let plan = Plan::new(&program, shape).unwrap();
    let (bars, segments) = markets();
    let cpu = expected(&program, &bars, &segments);

    let gpu = Host::compile(plan.source())
        .run(&plan, bars.view(), &segments, true)
        .unwrap();

    assert!(plan.source().contains("wide_"));
    for (k, name) in names.into_iter().enumerate() {
        let column = Column {
            name: name.to_owned(),
            unit: Unit::OfSeries,
        };
        assert_eq!(difference(&column, &cpu[k], &gpu[k]), None);
    }
}

#[test]
fn a_missing_barrier_shows() {
    if !has_cpp() {
        return;
    }
    let mut builder = Builder::new();
    let outputs = expand(&mut builder, catalog::find("sma").unwrap());
    let program = builder.finish(&outputs);
    let shape = Shape {
        tile_rows: Some(64),
        threads: 32,
        ..Shape::default()
    };
    let plan = Plan::new(&program, shape).unwrap();
    let (bars, segments) = markets();
    let cpu = expected(&program, &bars, &segments);
    let (head, kernels) = plan.source().split_once("__global__ void rows_0").unwrap();
    let broken = format!(
        "{head}__global__ void rows_0{}",
        kernels.replace("__syncthreads();", "")
    );

    let gpu = Host::compile(&broken)
        .run(&plan, bars.view(), &segments, true)
        .unwrap();

    let column = Column {
        name: "sma".to_owned(),
        unit: Unit::OfSeries,
    };
    assert!(difference(&column, &cpu[0], &gpu[0]).is_some());
}

#[test]
fn a_program_with_an_unknown_kernel_is_refused_by_name() {
    #[derive(Debug)]
    struct Unknown;
    impl super::super::kernel::Window for Unknown {
        fn id(&self) -> super::Id {
            super::Id::new("unknown", [])
        }
        fn lookback(&self) -> usize {
            0
        }
        fn run(&self, _: &[&[f64]], _: &mut [&mut [f64]], _: &mut super::super::kernel::Scratch) {}
    }
    let mut builder = Builder::new();
    let close = builder.input(Input::Close);
    let outputs = builder.window(Unknown, &[close]);

    let error = Plan::new(&builder.finish(&outputs), Shape::default()).unwrap_err();

    assert_eq!(
        error.to_string(),
        "`unknown` has no GPU version; run it on the CPU (device `cpu`)"
    );
}

#[test]
fn a_gpu_has_the_values_of_the_cpu() {
    let Some(gpu) = check::gpu() else { return };
    let (program, columns, _) = catalogue();
    let (bars, segments) = markets();
    let cpu = expected(&program, &bars, &segments);
    for tile_rows in [None, Some(96)] {
        let shape = Shape {
            tile_rows,
            ..Shape::default()
        };
        let plan = Plan::new(&program, shape).unwrap();

        let device: Vec<Vec<f64>> =
            super::run(&gpu, &plan, bars.view(), &[], &segments, None).unwrap();

        let wrong: Vec<String> = columns
            .iter()
            .enumerate()
            .filter_map(|(k, column)| difference(column, &cpu[k], &device[k]))
            .collect();
        assert!(wrong.is_empty(), "{shape:?}: {wrong:#?}");
    }
}

/// Calls `check` with every loop on a market with missing numbers, and with what the CPU makes of it.
fn for_each_label(mut check: impl FnMut(&str, &Loop<'_>, &[Vec<f64>])) {
    let mut bars = market(1500, 4);
    bars.high[300] = f64::NAN;
    bars.close[900] = f64::NAN;
    for_each_trade(&bars, &mut check);
    for_each_rule(&bars, &mut check);
}

fn for_each_trade(bars: &BarColumns, check: &mut impl FnMut(&str, &Loop<'_>, &[Vec<f64>])) {
    let (high, low, close) = (&bars.high[..], &bars.low[..], &bars.close[..]);
    let mut widths: Vec<f64> = close.iter().map(|close| 0.004 * close).collect();
    widths[..14].fill(f64::NAN);
    for (side, horizon) in [
        (Side::Long, 1),
        (Side::Short, 8),
        (Side::Long, 40),
        (Side::Short, 127),
    ] {
        for (target, stop) in [
            (Distance::Share(0.008), Distance::Share(0.004)),
            (Distance::Times(3.0, &widths), Distance::Times(1.5, &widths)),
            (Distance::Share(0.5), Distance::Times(40.0, &widths)),
        ] {
            let rule = TripleBarrier {
                side,
                target,
                stop,
                horizon,
            };
            let exits = rule.label(high, low, close);
            let of = Loop::triple_barrier(&rule, high, low, close);
            let name = format!("{rule:?}").chars().take(120).collect::<String>();
            let spans = exits.bars.clone();
            check(&name, &of, &[exits.exit, exits.bars, exits.returns]);
            let crowd = concurrency(&spans);
            let unique = uniqueness(&spans, &crowd);
            check(
                "concurrency",
                &Loop::concurrency(&spans),
                std::slice::from_ref(&crowd),
            );
            check("uniqueness", &Loop::uniqueness(&spans, &crowd), &[unique]);
        }
    }
}

fn for_each_rule(bars: &BarColumns, check: &mut impl FnMut(&str, &Loop<'_>, &[Vec<f64>])) {
    let close = &bars.close[..];
    let classes = Directions {
        up: 1.0,
        down: 0.0,
        neutral: 2.0,
    };
    let moves = direction(close, 3, 0.001, classes);
    check(
        "direction",
        &Loop::direction(close, 3, 0.001, classes),
        &[moves],
    );
    let ahead = forward_return(close, 5);
    check("forward_return", &Loop::forward_return(close, 5), &[ahead]);

    let mut builder = Builder::new();
    let names = [
        "sma",
        "ema",
        "mom",
        "position_in_range",
        "rsi",
        "macd",
        "di",
        "adx",
        "atr",
        "return",
    ];
    let outputs: Vec<Series> = names
        .iter()
        .flat_map(|name| expand(&mut builder, catalog::find(name).unwrap()))
        .collect();
    let program = builder.finish(&outputs);
    let made = Engine::batch(&program, bars.view(), &[]);
    let of_made: Vec<&[f64]> = made.iter().map(Vec::as_slice).collect();
    let [
        short_mean,
        long_mean,
        slope,
        position,
        rsi,
        _,
        _,
        histogram,
        plus_di,
        minus_di,
        adx,
        range,
        trend,
    ] = of_made[..]
    else {
        panic!("one column for each output");
    };
    let signals = Signals {
        close,
        short_mean,
        long_mean,
        slope,
        volume: &bars.volume,
        mean_volume: &bars.volume,
        position,
        rsi,
        histogram,
        plus_di,
        minus_di,
    };
    let thresholds = SignalThresholds {
        volume_spike: 0.9,
        ..SignalThresholds::default()
    };
    let (buy, sell) = signal_counts(&signals, thresholds);
    check(
        "signal_counts",
        &Loop::signal_counts(&signals, thresholds),
        &[buy, sell],
    );
    let columns = RegimeColumns {
        trend,
        adx,
        range,
        range_threshold: &range.iter().map(|x| 1.1 * x - 0.05).collect::<Vec<_>>(),
        volume_ratio: &bars.volume.iter().map(|x| x / 1000.0).collect::<Vec<_>>(),
    };
    let regimes = regime(&columns, RegimeThresholds::default());
    check(
        "regime",
        &Loop::regime(&columns, RegimeThresholds::default()),
        &[regimes],
    );
}

/// The bits of numbers, one NaN for all.
fn bits(columns: &[Vec<f64>]) -> Vec<Vec<u64>> {
    let word = |x: &f64| if x.is_nan() { f64::NAN } else { *x }.to_bits();
    let column = |column: &Vec<f64>| column.iter().map(word).collect();
    columns.iter().map(column).collect()
}

#[test]
fn labels_have_the_bits_of_the_cpu() {
    if !has_cpp() {
        return;
    }
    let host = Host::compile(&labels::source());

    for_each_label(|name, of, cpu| {
        assert_eq!(bits(&host.label(of, 96)), bits(cpu), "{name}");
    });
}

#[test]
fn labels_compile_for_every_architecture() {
    if !check::has_compiler() {
        return;
    }
    for architecture in check::ARCHITECTURES {
        cuda::compile(&labels::source(), architecture).unwrap();
    }
}

#[test]
fn a_gpu_has_the_labels_of_the_cpu() {
    let Some(gpu) = check::gpu() else { return };

    for_each_label(|name, of, cpu| {
        assert_eq!(bits(&of.run(&gpu, None).unwrap()), bits(cpu), "{name}");
    });
}
