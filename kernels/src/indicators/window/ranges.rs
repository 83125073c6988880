//! Prices and ranges of bars, and the volatility that ranges tell.

use super::{
    super::{
        catalog::{Indicator, Output, Unit},
        elementary::ln,
        pointwise::{formulas, lagged_formulas, larger, quotient_or},
        program::{Builder, Input, Series},
    },
    extremes::highest_lowest,
    moments::var,
    rows,
    sums::{sma, sum},
};
use crate::math;

/// `ln(x / y)`; NaN where one of them is not positive.
#[inline]
fn log_ratio(x: f64, y: f64) -> f64 {
    let ratio = if y > 0.0 { x / y } else { f64::NAN };
    ln(ratio)
}

formulas! {
    /// `(high + low + close) / 3`.
    fn typical_price(high, low, close) (high + low + close) / 3.0
    /// `(high + low) / 2`.
    fn middle_price(high, low) 0.5 * (high + low)
    /// Change of the bar over its range; 0 without a range.
    fn power(open, high, low, close) {
        let range = high - low;
        let share = (close - open) / range;
        if range <= 0.0 { 0.0 * (close - open) } else { share }
    }
    /// `ln(high / low)^2`.
    fn squared_log_range(high, low) {
        let range = log_ratio(high, low);
        range * range
    }
    /// The variance of a bar after Garman and Klass.
    fn garman_klass_of(open, high, low, close) {
        let range = log_ratio(high, low);
        let body = log_ratio(close, open);
        0.5 * (range * range) - (2.0 * std::f64::consts::LN_2 - 1.0) * (body * body)
    }
    /// The variance of a bar after Rogers and Satchell.
    fn rogers_satchell_of(open, high, low, close) {
        log_ratio(high, close) * log_ratio(high, open) + log_ratio(low, close) * log_ratio(low, open)
    }
    /// `ln(close / open)`.
    fn log_body(open, close) log_ratio(close, open)
    /// `sqrt(x * factor)`.
    fn root(x; factor) (x * factor).sqrt()
    /// The variance after Yang and Zhang from those of gaps, of bodies and of Rogers and Satchell, weighted by `k`.
    fn yang_zhang_of(gaps, bodies, inside; k) (gaps + k * bodies + (1.0 - k) * inside).sqrt()
    /// Path over range on a logarithmic scale; NaN where there is no range.
    fn choppiness(path, highest, lowest; scale) scale * ln(quotient_or(path, highest - lowest, f64::NAN))
}

lagged_formulas! {
    /// The largest of the range and the reaches of high and low from the close before.
    fn true_range_of(high / _high_before, low / _low_before, close / close_before) {
        let up = (high - close_before).abs();
        let down = (low - close_before).abs();
        larger(larger(high - low, up), down)
    }
    /// `ln(open / close before)`.
    fn log_gap(open / _open_before, close / close_before) log_ratio(open, close_before)
}

/// `(high + low + close) / 3`.
pub(in super::super) fn typical(builder: &mut Builder) -> Series {
    let [_, high, low, close] = prices(builder);
    typical_price(builder, high, low, close)
}

/// `(high + low) / 2`.
pub(in super::super) fn median_price(builder: &mut Builder) -> Series {
    let [_, high, low, _] = prices(builder);
    middle_price(builder, high, low)
}

/// True range; NaN in the first row.
pub(in super::super) fn true_range(builder: &mut Builder) -> Series {
    let [_, high, low, close] = prices(builder);
    true_range_of(builder, high, low, close, 1)
}

fn prices(builder: &mut Builder) -> [Series; 4] {
    [Input::Open, Input::High, Input::Low, Input::Close].map(|input| builder.input(input))
}

fn bop(builder: &mut Builder) -> Series {
    let [open, high, low, close] = prices(builder);
    power(builder, open, high, low, close)
}

fn parkinson(builder: &mut Builder, n: usize) -> Series {
    let [_, high, low, _] = prices(builder);
    let squares = squared_log_range(builder, high, low);
    let mean = sma(builder, squares, n);
    root(builder, mean, 1.0 / (4.0 * std::f64::consts::LN_2))
}

fn garman_klass(builder: &mut Builder, n: usize) -> Series {
    let [open, high, low, close] = prices(builder);
    let variances = garman_klass_of(builder, open, high, low, close);
    let mean = sma(builder, variances, n);
    root(builder, mean, 1.0)
}

fn rogers_satchell(builder: &mut Builder, n: usize) -> Series {
    let mean = rogers_satchell_variance(builder, n);
    root(builder, mean, 1.0)
}

fn rogers_satchell_variance(builder: &mut Builder, n: usize) -> Series {
    let [open, high, low, close] = prices(builder);
    let variances = rogers_satchell_of(builder, open, high, low, close);
    sma(builder, variances, n)
}

fn yang_zhang(builder: &mut Builder, n: usize) -> Series {
    let [open, _, _, close] = prices(builder);
    let gap = log_gap(builder, open, close, 1);
    let gaps = var(builder, gap, n, 1);
    let body = log_body(builder, open, close);
    let bodies = var(builder, body, n, 1);
    let inside = rogers_satchell_variance(builder, n);
    let rows = n as f64;
    let k = 0.34 / (1.34 + (rows + 1.0) / (rows - 1.0));
    yang_zhang_of(builder, gaps, bodies, inside, k)
}

fn chop(builder: &mut Builder, n: usize) -> Series {
    let range = true_range(builder);
    let path = sum(builder, range, n);
    let (highest, lowest) = highest_lowest(builder, n);
    choppiness(builder, path, highest, lowest, 100.0 / math::ln(n as f64))
}

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "typical",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[],
        outputs: &[Output {
            name: "",
            unit: Unit::Price,
        }],
        definition: "Typical price: (high + low + close) / 3.",
        source: "",
        expand: |b, _, _| vec![typical(b)],
    },
    Indicator {
        name: "median_price",
        series: &[],
        bars: &[Input::High, Input::Low],
        parameters: &[],
        outputs: &[Output {
            name: "",
            unit: Unit::Price,
        }],
        definition: "Median price: (high + low) / 2.",
        source: "",
        expand: |b, _, _| vec![median_price(b)],
    },
    Indicator {
        name: "tr",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[],
        outputs: &[Output {
            name: "",
            unit: Unit::Price,
        }],
        definition: "True range: the largest of high - low, |high - previous close| and |low - previous close|; not defined in the first row.",
        source: "Wilder (1978), New Concepts in Technical Trading Systems",
        expand: |b, _, _| vec![true_range(b)],
    },
    Indicator {
        name: "bop",
        series: &[],
        bars: &[Input::Open, Input::High, Input::Low, Input::Close],
        parameters: &[],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Balance of power: (close - open) / (high - low); 0 without a range.",
        source: "TA-Lib BOP",
        expand: |b, _, _| vec![bop(b)],
    },
    Indicator {
        name: "parkinson",
        series: &[],
        bars: &[Input::High, Input::Low],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Volatility a row from the ranges of the last n bars: sqrt(mean(ln(high / low)^2) / (4 ln 2)).",
        source: "Parkinson (1980), The Extreme Value Method for Estimating the Variance of the Rate of Return",
        expand: |b, _, p| vec![parkinson(b, p[0] as usize)],
    },
    Indicator {
        name: "garman_klass",
        series: &[],
        bars: &[Input::Open, Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Volatility a row of the last n bars: sqrt(mean(ln(high / low)^2 / 2 - (2 ln 2 - 1) ln(close / open)^2)).",
        source: "Garman and Klass (1980), On the Estimation of Security Price Volatilities from Historical Data",
        expand: |b, _, p| vec![garman_klass(b, p[0] as usize)],
    },
    Indicator {
        name: "rogers_satchell",
        series: &[],
        bars: &[Input::Open, Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 1, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Volatility a row of the last n bars, whatever their drift: sqrt(mean(ln(high / close) ln(high / open) + ln(low / close) ln(low / open))).",
        source: "Rogers and Satchell (1991), Estimating Variance from High, Low and Closing Prices",
        expand: |b, _, p| vec![rogers_satchell(b, p[0] as usize)],
    },
    Indicator {
        name: "yang_zhang",
        series: &[],
        bars: &[Input::Open, Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Ratio,
        }],
        definition: "Volatility a row of the last n bars with their gaps: sqrt(var(ln(open / previous close)) + k var(ln(close / open)) + (1 - k) RS), sample variances (n - 1), RS as rogers_satchell without the root, k = 0.34 / (1.34 + (n + 1) / (n - 1)).",
        source: "Yang and Zhang (2000), Drift-Independent Volatility Estimation Based on High, Low, Open, and Close Prices",
        expand: |b, _, p| vec![yang_zhang(b, p[0] as usize)],
    },
    Indicator {
        name: "chop",
        series: &[],
        bars: &[Input::High, Input::Low, Input::Close],
        parameters: &[rows("n", 2, None)],
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Choppiness index of the last n bars: 100 log10(sum of true ranges / (highest high - lowest low)) / log10(n); not defined where that range is 0.",
        source: "Dreiss (1993)",
        expand: |b, _, p| vec![chop(b, p[0] as usize)],
    },
];
