//! Speed of the indicators beside that of other libraries, measured in one run on one simulated market.
//!
//! Prints for each indicator, on one thread, nanoseconds per row: least and median of nine runs of ours and of each peer.
//! Then for whole sets, on one and on two threads, the share of the machine's copy bandwidth that the bytes moved take, and
//! the time of one bar of a stream. `--markdown` writes a table, `--rows N` another number of rows, and a word measures
//! those whose label contains it, `sets` the sets alone.

mod cases;
mod expression;
mod market;
mod sets;
mod timing;

use std::hint::black_box;

use natron_kernels::{
    bars::BarColumns,
    indicators::{
        catalog,
        engine::{Columns, Engine},
        program::{Builder, Program},
    },
};

use cases::{CASES, Case};
use timing::{Time, time};

struct Arguments {
    is_markdown: bool,
    n_rows: usize,
    part: Option<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments {
        is_markdown: false,
        n_rows: 1_000_000,
        part: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--markdown" => found.is_markdown = true,
            "--rows" => {
                let rows = given.next().and_then(|rows| rows.parse().ok());
                found.n_rows = rows.ok_or("`--rows` takes a number")?;
            }
            _ if argument.starts_with('-') => return Err(format!("no option `{argument}`")),
            _ => found.part = Some(argument),
        }
    }
    Ok(found)
}

fn main() -> Result<(), String> {
    let arguments = arguments()?;
    let market = market::market(arguments.n_rows);
    let core = ta_lib::Core::new();
    let format = Format {
        is_markdown: arguments.is_markdown,
    };
    let is_wanted = |case: &Case| {
        arguments
            .part
            .as_ref()
            .is_none_or(|part| case.label.contains(part.as_str()))
    };
    let cases: Vec<&Case> = CASES.iter().filter(|case| is_wanted(case)).collect();
    if !cases.is_empty() {
        println!(
            "Nanoseconds per row, least (and median) of {} runs, {} rows, one thread, results as `f64` in memory written \
             before; `ta-lib` 0.8, `vector-ta` 0.3 with its AVX-512 kernels. \"-\": it has no such indicator.\n",
            timing::RUNS,
            arguments.n_rows
        );
        format.header(&[
            "indicator",
            "ours",
            "`ta-lib`",
            "`vector-ta`",
            "times the fastest peer",
        ]);
    }
    let threads = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .map_err(|error| error.to_string())
    };
    let (one, two) = (threads(1)?, threads(2)?);
    for case in cases {
        one.install(|| compare(case, &market, &core, format));
    }
    if arguments.part.as_ref().is_none_or(|part| part == "sets") {
        println!();
        let bandwidth = timing::copy_bandwidth();
        println!(
            "Copy from memory to memory, read and written: {:.1} GB/s.\n",
            bandwidth / 1e9
        );
        sets::measure(&market, [&one, &two], bandwidth, format);
    }
    Ok(())
}

/// How tables look.
#[derive(Clone, Copy)]
struct Format {
    is_markdown: bool,
}

impl Format {
    fn header(self, cells: &[&str]) {
        self.row(cells);
        if self.is_markdown {
            println!("|---|{}", "---:|".repeat(cells.len() - 1));
        }
    }

    fn row(self, cells: &[impl AsRef<str>]) {
        let cells = cells.iter().map(AsRef::as_ref);
        if self.is_markdown {
            println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        } else {
            let mut line = String::new();
            for (position, cell) in cells.enumerate() {
                let width = if position == 0 { 24 } else { 16 };
                line += &format!("{cell:width$} ");
            }
            println!("{}", line.trim_end());
        }
    }
}

/// The program of a case, if the catalogue has it.
fn program(case: &Case) -> Option<Program> {
    let indicator = catalog::find(case.name)?;
    let mut builder = Builder::new();
    let series: Vec<_> = case
        .series
        .iter()
        .map(|input| builder.input(*input))
        .collect();
    let outputs = (indicator.expand)(&mut builder, &series, case.parameters);
    let is_compared = |name| case.outputs().is_none_or(|names| names.contains(&name));
    let outputs = indicator.outputs.iter().zip(outputs);
    let compared = outputs.filter(|(output, _)| is_compared(output.name));
    let compared: Vec<_> = compared.map(|(_, series)| series).collect();
    Some(builder.finish(&compared))
}

fn compare(case: &Case, market: &BarColumns, core: &ta_lib::Core, format: Format) {
    let n_rows = market.close.len();
    let ours = program(case).map(|program| {
        let mut columns: Columns<f64> = Columns::default();
        time(|| columns.fill(black_box(&program), market.view(), &[]))
    });
    let ta_lib = case
        .ta_lib
        .map(|run| time_peer(n_rows, |out| run(core, black_box(market), out)));
    let vector_ta = case
        .vector_ta
        .map(|run| time_peer(n_rows, |out| run(&(), black_box(market), out)));
    let least = |time: &Result<Time, String>| time.as_ref().ok().map(|time| time.least);
    let best = ta_lib
        .iter()
        .chain(&vector_ta)
        .filter_map(least)
        .min_by(f64::total_cmp);
    let cell = |time: &Option<Result<Time, String>>| match time {
        None => "-".to_owned(),
        Some(Ok(time)) => ns(*time, n_rows),
        Some(Err(message)) => message.chars().take(40).collect(),
    };
    let share = ours.zip(best).map_or("-".to_owned(), |(ours, best)| {
        format!("{:.2}", best / ours.least)
    });
    let ours = ours.map_or("-".to_owned(), |time| ns(time, n_rows));
    format.row(&[
        case.label.to_owned(),
        ours,
        cell(&ta_lib),
        cell(&vector_ta),
        share,
    ]);
}

fn ns(time: Time, n_rows: usize) -> String {
    let (least, median) = time.ns_each(n_rows);
    format!("{least:.2} ({median:.2})")
}

/// The time of a peer, in memory of ours that it has written before.
fn time_peer(
    n_rows: usize,
    run: impl Fn(cases::Out<'_>) -> Result<(), String>,
) -> Result<Time, String> {
    let mut reals = [const { Vec::new() }; 3];
    reals
        .iter_mut()
        .for_each(|column: &mut Vec<f64>| column.resize(n_rows, 0.0));
    let mut integers = vec![0_i32; n_rows];
    let mut result = Ok(());
    let time = time(|| {
        let out = (
            reals.each_mut().map(Vec::as_mut_slice),
            integers.as_mut_slice(),
        );
        if let Err(error) = run(out) {
            result = Err(error);
        }
        black_box((&reals, &integers));
    });
    result.map(|()| time)
}

/// Nanoseconds for a bar of a stream.
fn stream(program: &Program, market: &BarColumns) -> f64 {
    let n_rows = market.close.len().min(20_000);
    let bars = market.view().slice(0..n_rows);
    let mut engine = Engine::new(program);
    let mut row = vec![0.0; program.n_outputs()];
    let run = time(|| {
        for bar in bars.iter() {
            engine.update(bar, &[], &mut row);
            black_box(&row);
        }
    });
    run.ns_each(n_rows).0
}
