//! A row against an earlier one.

use super::{
    super::{
        catalog::{Indicator, Output, Parameter, Unit},
        elementary,
        pointwise::{lagged_formulas, quotient_or},
        program::{Builder, Series},
    },
    rows,
};

lagged_formulas! {
    /// The value that many rows before.
    fn before(x / x_before) x_before
    /// `x` less its earlier value.
    fn change(x / x_before) x - x_before
    /// `x` over its earlier value, less 1, times `scale`; NaN where that value is 0.
    fn relative(x / x_before; scale) scale * (quotient_or(x, x_before, f64::NAN) - 1.0)
    /// The logarithm of `x` over its earlier value; NaN where one of them is not positive.
    fn log_relative(x / x_before) {
        let ratio = if x_before > 0.0 { x / x_before } else { f64::NAN };
        elementary::ln(ratio)
    }
}

/// The value `n` rows before.
pub(in super::super) fn lag(builder: &mut Builder, x: Series, n: usize) -> Series {
    if n == 0 { x } else { before(builder, x, n) }
}

/// `x` less its value `n` rows before.
pub(in super::super) fn diff(builder: &mut Builder, x: Series, n: usize) -> Series {
    change(builder, x, n)
}

/// `x` over its value `n` rows before, less 1.
pub(in super::super) fn simple_return(builder: &mut Builder, x: Series, n: usize) -> Series {
    relative(builder, x, n, 1.0)
}

/// The logarithm of `x` over its value `n` rows before.
pub(in super::super) fn log_return(builder: &mut Builder, x: Series, n: usize) -> Series {
    log_relative(builder, x, n)
}

const N: &[Parameter] = &[rows("n", 1, None)];
const ONE: &[Parameter] = &[rows("n", 1, Some(1.0))];
const VALUE: &[Output] = &[Output {
    name: "",
    unit: Unit::OfSeries,
}];
const RATIO: &[Output] = &[Output {
    name: "",
    unit: Unit::Ratio,
}];

pub(in super::super) const INDICATORS: &[Indicator] = &[
    Indicator {
        name: "lag",
        series: &["x"],
        bars: &[],
        parameters: &[rows("n", 0, None)],
        outputs: VALUE,
        definition: "The value n rows before.",
        source: "",
        expand: |b, x, p| vec![lag(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "diff",
        series: &["x"],
        bars: &[],
        parameters: ONE,
        outputs: VALUE,
        definition: "The value less the one n rows before.",
        source: "",
        expand: |b, x, p| vec![diff(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "return",
        series: &["x"],
        bars: &[],
        parameters: ONE,
        outputs: RATIO,
        definition: "Simple return: the value over the one n rows before, less 1; not defined where that one is 0.",
        source: "",
        expand: |b, x, p| vec![simple_return(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "log_return",
        series: &["x"],
        bars: &[],
        parameters: ONE,
        outputs: RATIO,
        definition: "Natural logarithm of the value over the one n rows before; not defined where one of them is not positive.",
        source: "",
        expand: |b, x, p| vec![log_return(b, x[0], p[0] as usize)],
    },
    Indicator {
        name: "roc",
        series: &["x"],
        bars: &[],
        parameters: N,
        outputs: &[Output {
            name: "",
            unit: Unit::Percent,
        }],
        definition: "Rate of change: 100 times the simple return of n rows; not defined where the earlier value is 0.",
        source: "TA-Lib ROC",
        expand: |b, x, p| vec![relative(b, x[0], p[0] as usize, 100.0)],
    },
    Indicator {
        name: "mom",
        series: &["x"],
        bars: &[],
        parameters: N,
        outputs: VALUE,
        definition: "Momentum: the value less the one n rows before.",
        source: "TA-Lib MOM",
        expand: |b, x, p| vec![diff(b, x[0], p[0] as usize)],
    },
];
