//! Means of the true range, channels of that width, and fading volatility.

#![allow(
    clippy::inline_always,
    reason = "these must be compiled inside their dispatched callers"
)]

use super::{
    averages::{ema, ema_late, rma_late},
    factor_or, output,
    rows::{Function, Rows},
    rows_or,
    scan::{self, Average, Decay, Kernel, settling_rows},
    vector::{Number, Vector},
};
use crate::{
    dispatch::dispatched,
    indicators::{
        catalog::{Indicator, Output, Parameter, Unit},
        kernel::Id,
        program::{Builder, Input, Series},
        window::ranges::{true_range, typical},
    },
};

const PERIOD: Parameter = rows_or("period", 14.0);
/// What a true range and a typical price are made of.
pub(super) const BARS: [Input; 3] = [Input::High, Input::Low, Input::Close];
const UPPER: Output = output("upper", Unit::Price);
const LOWER: Output = output("lower", Unit::Price);

pub(in crate::indicators) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "atr",
        series: &[],
        bars: &BARS,
        parameters: &[PERIOD],
        outputs: &[output("", Unit::Price)],
        definition: "Wilder's mean of the true range, seeded by the mean of the first `period` true ranges; the first bar has none, nor has the one after a missing price",
        source: "Wilder (1978), New Concepts in Technical Trading Systems; TA-Lib ATR",
        expand: |builder, _, p| vec![atr(builder, p[0] as usize)],
    },
    Indicator {
        name: "natr",
        series: &[],
        bars: &BARS,
        parameters: &[PERIOD],
        outputs: &[output("", Unit::Percent)],
        definition: "`100 * atr / close`",
        source: "Forman (2006); TA-Lib NATR",
        expand: |builder, _, p| vec![range_mean::<true>(builder, p[0] as usize)],
    },
    Indicator {
        name: "keltner",
        series: &[],
        bars: &BARS,
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
        bars: &BARS,
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
    let typical = typical(builder);
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
    range_mean::<false>(builder, period)
}

fn range_mean<const RELATIVE: bool>(builder: &mut Builder, period: usize) -> Series {
    let inputs = BARS.map(|input| builder.input(input));
    let mean = RangeMean::new(period);
    scan::add(builder, Width::<RELATIVE> { mean }, inputs)[0]
}

/// The true range of a bar after another, both of high, low and close.
#[inline(always)]
pub(super) fn true_range_of<N: Number>([high, low, _]: [N; 3], [_, _, close]: [N; 3]) -> N {
    high.larger(close) - low.smaller(close)
}

/// Wilder's mean of the true range, of high, low and close.
#[derive(Debug, Clone)]
pub(super) struct RangeMean {
    pub(super) period: usize,
    decay: Decay,
    /// `1 / period`.
    share: f64,
}

impl RangeMean {
    pub(super) fn new(period: usize) -> Self {
        let n = period as f64;
        Self {
            period,
            decay: Decay::new((n - 1.0) / n),
            share: 1.0 / n,
        }
    }

    /// Rows until it does not matter any more where it began.
    pub(super) fn memory(&self) -> usize {
        self.period + 1 + settling_rows(self.decay.b)
    }

    /// Row by row: NaN up to row `period - 1`. `mean` is 0 at first.
    #[inline(always)]
    pub(super) fn row(&self, mean: &mut f64, row: usize, x: [f64; 3], before: [f64; 3]) -> f64 {
        if row > self.period {
            return self.decay.step(mean, true_range_of(x, before) * self.share);
        }
        if row > 0 {
            *mean += true_range_of(x, before);
        }
        if row < self.period {
            return f64::NAN;
        }
        *mean /= self.period as f64;
        *mean
    }

    #[inline(always)]
    pub(super) fn group<V: Vector>(&self, mean: &mut V, x: [V; 3], before: [V; 3]) -> V {
        let range = true_range_of(x, before) * V::all(self.share);
        self.decay.scan(mean, range)
    }
}

/// That mean itself, or, if `RELATIVE`, in percent of the close.
#[derive(Debug, Clone)]
struct Width<const RELATIVE: bool> {
    mean: RangeMean,
}

impl<const RELATIVE: bool> Width<RELATIVE> {
    #[inline(always)]
    fn of<N: Number>(mean: N, [_, _, close]: [N; 3]) -> [N; 1] {
        [if RELATIVE {
            N::all(100.0) * (mean / close)
        } else {
            mean
        }]
    }
}

impl<const RELATIVE: bool> Kernel<3, 1, 1> for Width<RELATIVE> {
    fn id(&self) -> Id {
        let name = if RELATIVE { "natr" } else { "atr" };
        Id::new(name, [self.mean.period as u64])
    }

    fn warm_up(&self) -> usize {
        self.mean.period
    }

    fn memory(&self) -> Option<usize> {
        Some(self.mean.memory())
    }

    #[inline(always)]
    fn row(&self, [y]: &mut [f64; 1], row: usize, x: [f64; 3], before: [f64; 3]) -> [f64; 1] {
        Self::of(self.mean.row(y, row, x, before), x)
    }

    #[inline(always)]
    fn group<V: Vector>(&self, [y]: &mut [V; 1], x: [V; 3], before: [V; 3]) -> [V; 1] {
        Self::of(self.mean.group(y, x, before), x)
    }
}

dispatched! {
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
