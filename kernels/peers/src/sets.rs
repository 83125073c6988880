//! Whole sets of indicators in one program.

use std::hint::black_box;

use natron_kernels::{
    bars::BarColumns,
    indicators::{
        catalog::{self, Range},
        engine::{Columns, Number},
        program::{Builder, Input, Program},
    },
};

use super::{
    CASES, Format, expression, stream,
    timing::{Time, time},
};

/// Columns of bars that a program reads, at most.
const N_BAR_COLUMNS: usize = 5;

/// Measures each set and prints what was measured.
pub fn measure(
    market: &BarColumns,
    [one, two]: [&rayon::ThreadPool; 2],
    bandwidth: f64,
    format: Format,
) {
    format.header(&[
        "set",
        "columns",
        "`f64`, ns/row",
        "`f32`, ns/row",
        "2 threads",
        "gain",
        "floor, ns/row",
        "reached",
        "stream, ns/bar",
    ]);
    let files = [
        ("`tcn`", include_str!("../sets/tcn.txt")),
        (
            "`lstm_transformer`",
            include_str!("../sets/lstm_transformer.txt"),
        ),
        ("`bounce_veto`", include_str!("../sets/bounce_veto.txt")),
        ("`natron_v2`", include_str!("../sets/natron_v2.txt")),
        ("`golden`", include_str!("../sets/golden.txt")),
    ];
    let mut sets = Vec::new();
    for (name, text) in files {
        let (program, without) = expression::read(text);
        for missing in without {
            eprintln!("left out of {name}: {missing}");
        }
        sets.push((name, program));
    }
    sets.extend([
        ("indicators above", compared()),
        ("whole catalogue", whole()),
    ]);
    for (name, program) in sets {
        let n_rows = market.close.len();
        let alone = one.install(|| run::<f64>(&program, market));
        let short = one.install(|| run::<f32>(&program, market));
        let both = two.install(|| run::<f64>(&program, market));
        // Bars are read once and results written once.
        let bytes = 8 * (N_BAR_COLUMNS + program.n_outputs());
        let floor = bytes as f64 / bandwidth * 1e9;
        let each = |time: Time| {
            let (least, median) = time.ns_each(n_rows);
            format!("{least:.1} ({median:.1})")
        };
        format.row(&[
            name.to_owned(),
            program.n_outputs().to_string(),
            each(alone),
            each(short),
            each(both),
            format!("{:.2}", alone.least / both.least),
            format!("{floor:.1}"),
            format!("{:.0} %", 100.0 * floor / alone.ns_each(n_rows).0),
            format!("{:.0}", stream(&program, market)),
        ]);
    }
}

fn run<T: Number>(program: &Program, market: &BarColumns) -> Time {
    let mut columns: Columns<T> = Columns::default();
    time(|| columns.fill(black_box(program), market.view(), &[]))
}

/// All indicators that are compared, in one program.
fn compared() -> Program {
    let mut builder = Builder::new();
    let mut outputs = Vec::new();
    for case in CASES {
        if let Some(indicator) = catalog::find(case.name) {
            let series: Vec<_> = case
                .series
                .iter()
                .map(|input| builder.input(*input))
                .collect();
            outputs.extend((indicator.expand)(&mut builder, &series, case.parameters));
        }
    }
    builder.finish(&outputs)
}

/// Every indicator there is, with its defaults or something usual.
fn whole() -> Program {
    let mut builder = Builder::new();
    let mut outputs = Vec::new();
    for indicator in catalog::catalog() {
        let known = [Input::Close, Input::Volume, Input::Open];
        let series = known.iter().cycle().take(indicator.series.len());
        let series: Vec<_> = series.map(|input| builder.input(*input)).collect();
        let parameters = indicator.parameters.iter().map(|parameter| {
            parameter.default.unwrap_or(match parameter.range {
                Range::Whole(least, most) => f64::from(20.clamp(least, most)),
                Range::Real(least, most) => 0.5_f64.clamp(least, most),
            })
        });
        let parameters: Vec<f64> = parameters.collect();
        outputs.extend((indicator.expand)(&mut builder, &series, &parameters));
    }
    builder.finish(&outputs)
}
