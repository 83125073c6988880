//! Means of the true range, channels of that width, and fading volatility.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    averages::{ema, ema_late, rma, rma_late},
    factor_or, output,
    rows::{Function, Rows},
    rows_or,
    scan::{self, Average, Kernel, settling_rows},
    vector::Vector,
};
use crate::{
    dispatch::dispatched,
    indicators::{
        catalog::{Indicator, Output, Parameter, Unit},
        kernel::Id,
        program::{Builder, Input, Series},
    },
};

const PERIOD: Parameter = rows_or("period", 14.0);
const RANGE: &[Input] = &[Input::High, Input::Low, Input::Close];
const UPPER: Output = output("upper", Unit::Price);
const LOWER: Output = output("lower", Unit::Price);

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "atr",
        series: &[],
        bars: RANGE,
        parameters: &[PERIOD],
        outputs: &[output("", Unit::Price)],
        definition: "Wilder's mean of the true range, seeded by the mean of the first `period` true ranges; the first bar has none",
        source: "Wilder (1978), New Concepts in Technical Trading Systems; TA-Lib ATR",
        expand: |builder, _, p| vec![atr(builder, p[0] as usize)],
    },
    Indicator {
        name: "natr",
        series: &[],
        bars: RANGE,
        parameters: &[PERIOD],
        outputs: &[output("", Unit::Percent)],
        definition: "`100 * atr / close`",
        source: "Forman (2006); TA-Lib NATR",
        expand: |builder, _, p| {
            let atr = atr(builder, p[0] as usize);
            let close = builder.input(Input::Close);
            map(builder, "percent of", 1, &[], &[atr, close], percents)
        },
    },
    Indicator {
        name: "keltner",
        series: &[],
        bars: RANGE,
        parameters: &[
            rows_or("period", 20.0),
            rows_or("range", 10.0),
            factor_or("width", 2.0),
        ],
        outputs: &[output("mid", Unit::Price), UPPER, LOWER],
        definition: "exponential mean of the typical price over `period` rows, and that plus and minus `width` times Wilder's mean \
                     of the true range over `range` rows; both have the same seed row",
        source: "Keltner (1960), How to Make Money in Commodities; TA-Lib KC",
        expand: keltner,
    },
    Indicator {
        name: "kc",
        series: &[],
        bars: RANGE,
        parameters: &[
            rows_or("period", 20.0),
            rows_or("range", 14.0),
            factor_or("width", 2.0),
        ],
        outputs: &[UPPER, LOWER, output("width", Unit::Ratio)],
        definition: "exponential mean of the close over `period` rows plus and minus `width` times `atr(range)`, and the distance of \
                     the two over that mean",
        source: "plain",
        expand: |builder, _, p| {
            let close = builder.input(Input::Close);
            let middle = ema(builder, close, p[0] as usize);
            let range = atr(builder, p[1] as usize);
            map(builder, "channel", 3, &p[2..], &[middle, range], channels)
        },
    },
    Indicator {
        name: "ewma_vol",
        series: &["returns"],
        bars: &[],
        parameters: &[rows_or("span", 20.0)],
        outputs: &[output("", Unit::OfSeries)],
        definition: "root of the exponential mean of squared returns with the factor `2 / (span + 1)`, seeded by the first square",
        source: "J.P. Morgan (1996), RiskMetrics Technical Document",
        expand: |builder, series, p| {
            let span = p[0] as usize;
            let average = Average::exponential(span, 0);
            scan::add(builder, Fading { span, average }, [series[0]])
        },
    },
];

fn keltner(builder: &mut Builder, _: &[Series], p: &[f64]) -> Vec<Series> {
    let (period, range) = (p[0] as usize, p[1] as usize);
    let inputs = [Input::High, Input::Low, Input::Close].map(|input| builder.input(input));
    let typical = map(builder, "typical price", 1, &[], &inputs, typical_prices)[0];
    // The first row of both; the first true range is of row 1.
    let start = range.max(period - 1);
    let middle = ema_late(builder, typical, period, start - (period - 1));
    let ranges = true_range(builder);
    let range = rma_late(builder, ranges, range, start - range);
    let channel = map(builder, "channel", 3, &p[2..], &[middle, range], channels);
    vec![middle, channel[0], channel[1]]
}

/// A function of single rows.
fn map(
    builder: &mut Builder,
    name: &'static str,
    n_outputs: usize,
    parameters: &[f64],
    inputs: &[Series],
    function: Function,
) -> Vec<Series> {
    let rows = Rows {
        name,
        lookback: 0,
        n_outputs,
        parameters: parameters.to_vec(),
        function,
    };
    builder.window(rows, inputs)
}

/// See `atr` in [`INDICATORS`].
pub(in crate::indicators) fn atr(builder: &mut Builder, period: usize) -> Series {
    let range = true_range(builder);
    rma(builder, range, period)
}

fn true_range(builder: &mut Builder) -> Series {
    let inputs = RANGE.iter().map(|input| builder.input(*input));
    let inputs: Vec<Series> = inputs.collect();
    let rows = Rows {
        name: "true range",
        lookback: 1,
        n_outputs: 1,
        parameters: Vec::new(),
        function: true_ranges,
    };
    builder.window(rows, &inputs)[0]
}

dispatched! {
    fn true_ranges(_parameters: &[f64], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let out = &mut *outputs[0];
        let n = out.len();
        let (high, low) = (&inputs[0][1..=n], &inputs[1][1..=n]);
        let before = &inputs[2][..n];
        for t in 0..n {
            let (high, low, before) = (high[t], low[t], before[t]);
            let highest = if high > before { high } else { before };
            let lowest = if low < before { low } else { before };
            let range = highest - lowest;
            out[t] = if high.is_nan() || low.is_nan() { f64::NAN } else { range };
        }
    }
}

dispatched! {
    fn percents(_parameters: &[f64], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        for ((out, part), whole) in outputs[0].iter_mut().zip(inputs[0]).zip(inputs[1]) {
            *out = 100.0 * (part / whole);
        }
    }

    fn typical_prices(_parameters: &[f64], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let bars = inputs[0].iter().zip(inputs[1]).zip(inputs[2]);
        for (out, ((high, low), close)) in outputs[0].iter_mut().zip(bars) {
            *out = (high + low + close) / 3.0;
        }
    }

    fn channels(parameters: &[f64], inputs: &[&[f64]], outputs: &mut [&mut [f64]]) {
        let width = parameters[0];
        let [upper, lower, relative] = outputs else {
            return;
        };
        let outputs = upper.iter_mut().zip(lower.iter_mut()).zip(relative.iter_mut());
        for (((upper, lower), relative), (middle, range)) in outputs.zip(inputs[0].iter().zip(inputs[1])) {
            let reach = width * range;
            *upper = middle + reach;
            *lower = middle - reach;
            *relative = 2.0 * reach / middle;
        }
    }
}

/// The root of a fading mean of squares.
#[derive(Debug, Clone)]
struct Fading {
    span: usize,
    average: Average,
}

impl Kernel<1, 1, 1> for Fading {
    fn id(&self) -> Id {
        Id::new("ewma_vol", [self.span as u64])
    }

    fn warm_up(&self) -> usize {
        0
    }

    fn memory(&self) -> Option<usize> {
        // A square fades twice as fast as its root.
        Some(1 + 2 * settling_rows(self.average.decay.b))
    }

    #[inline(always)]
    fn row(&self, [y]: &mut [f64; 1], row: usize, [x]: [f64; 1], _: [f64; 1]) -> [f64; 1] {
        if row == 0 {
            *y = x * x;
        } else {
            self.average.decay.step(y, self.average.a * (x * x));
        }
        [y.sqrt()]
    }

    #[inline(always)]
    fn group<V: Vector>(&self, [y]: &mut [V; 1], [x]: [V; 1], _: [V; 1]) -> [V; 1] {
        let square = V::all(self.average.a) * (x * x);
        [self.average.decay.scan(y, square).sqrt()]
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        indicators::{
            check::{Golden, values},
            program::Input,
        },
        math,
    };

    #[test]
    fn golden_ranges() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let bars = &golden.bars;
        for (name, kind, p, output) in [
            ("atr_7", "atr", &[7.0][..], ""),
            ("atr_14", "atr", &[14.0], ""),
            ("natr_14", "natr", &[14.0], ""),
            ("keltner_20_10_2_mid", "keltner", &[20.0, 10.0, 2.0], "mid"),
            (
                "keltner_20_10_2_upper",
                "keltner",
                &[20.0, 10.0, 2.0],
                "upper",
            ),
            (
                "keltner_20_10_2_lower",
                "keltner",
                &[20.0, 10.0, 2.0],
                "lower",
            ),
            ("kc_20_14_2_upper", "kc", &[20.0, 14.0, 2.0], "upper"),
            ("kc_20_14_2_lower", "kc", &[20.0, 14.0, 2.0], "lower"),
            ("kc_20_14_2_width", "kc", &[20.0, 14.0, 2.0], "width"),
        ] {
            golden.assert_is(name, &values(bars, kind, &[], p, output), 0.001);
        }
    }

    #[test]
    fn golden_fading_volatility() {
        let Some(golden) = Golden::load() else {
            return;
        };
        let close = &golden.bars.close;
        let mut bars = golden.bars.clone();
        bars.volume[0] = f64::NAN;
        for t in 1..close.len() {
            bars.volume[t] = math::ln(close[t] / close[t - 1]);
        }
        for span in [20.0, 96.0] {
            let values = values(&bars, "ewma_vol", &[Input::Volume], &[span], "");
            golden.assert_is(&format!("ewma_vol_{span}"), &values, 0.001);
        }
    }
}
