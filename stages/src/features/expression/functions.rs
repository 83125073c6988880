//! What may be called besides the indicators of the catalogue: functions of the values of one row.

use natron_kernels::indicators::program::{Builder, Series};
use natron_kernels::{
    indicators::{catalog, pointwise},
    math,
};

use super::unit::Unit;

/// A function of the values of one row.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    /// Name, as `abs`.
    pub(crate) name: &'static str,
    /// Names of its arguments.
    pub(crate) arguments: &'static [&'static str],
    /// How many of them, from the first, are conditions.
    pub(crate) n_conditions: usize,
    /// What it gives, in a sentence.
    pub(crate) definition: &'static str,
    /// Its value for numbers.
    pub(crate) number: fn(&[f64]) -> f64,
    /// Its nodes.
    pub(crate) series: fn(&mut Builder, &[Series]) -> Series,
    /// The unit of its value.
    pub(crate) unit: fn(&[Unit]) -> Unit,
}

fn same(units: &[Unit]) -> Unit {
    units[0]
}

fn joined(units: &[Unit]) -> Unit {
    units
        .iter()
        .fold(Unit::Number, |unit, other| unit.joined(*other))
}

fn without_dimension(units: &[Unit]) -> Unit {
    units[0].of_function()
}

fn chosen(units: &[Unit]) -> Unit {
    joined(&units[1..])
}

fn choice(x: &[f64]) -> f64 {
    if x[0] == 0.0 { x[2] } else { x[1] }
}

fn select(builder: &mut Builder, x: &[Series]) -> Series {
    pointwise::select(builder, x[0], x[1], x[2])
}

fn sign(builder: &mut Builder, x: &[Series]) -> Series {
    let zero = builder.constant(0.0);
    let above = pointwise::gt(builder, x[0], zero);
    let below = pointwise::lt(builder, x[0], zero);
    pointwise::sub(builder, above, below)
}

const CHOICE: Function = Function {
    name: "if",
    arguments: &["condition", "then", "otherwise"],
    n_conditions: 1,
    definition: "`then` where the condition holds, else `otherwise`; not defined where the condition is not",
    number: choice,
    series: select,
    unit: chosen,
};

/// All functions.
pub(crate) const FUNCTIONS: &[Function] = &[
    Function {
        name: "abs",
        arguments: &["x"],
        n_conditions: 0,
        definition: "x without its sign",
        number: |x| x[0].abs(),
        series: |builder, x| pointwise::abs(builder, x[0]),
        unit: same,
    },
    Function {
        name: "sign",
        arguments: &["x"],
        n_conditions: 0,
        definition: "1, 0 or -1 as x is above, at or below 0",
        number: |x| f64::from(x[0] > 0.0) - f64::from(x[0] < 0.0),
        series: sign,
        unit: |_| Unit::Flag,
    },
    Function {
        name: "ln",
        arguments: &["x"],
        n_conditions: 0,
        definition: "natural logarithm; not defined from 0 down",
        number: |x| math::ln(x[0]),
        series: |builder, x| pointwise::ln(builder, x[0]),
        unit: without_dimension,
    },
    Function {
        name: "exp",
        arguments: &["x"],
        n_conditions: 0,
        definition: "e to the power x",
        number: |x| math::exp(x[0]),
        series: |builder, x| pointwise::exp(builder, x[0]),
        unit: without_dimension,
    },
    Function {
        name: "sqrt",
        arguments: &["x"],
        n_conditions: 0,
        definition: "square root; not defined below 0",
        number: |x| x[0].sqrt(),
        series: |builder, x| pointwise::sqrt(builder, x[0]),
        unit: |units| units[0].power(0.5),
    },
    Function {
        name: "sin",
        arguments: &["x"],
        n_conditions: 0,
        definition: "sine of x radians",
        number: |x| math::sin(x[0]),
        series: |builder, x| pointwise::sin(builder, x[0]),
        unit: without_dimension,
    },
    Function {
        name: "cos",
        arguments: &["x"],
        n_conditions: 0,
        definition: "cosine of x radians",
        number: |x| math::cos(x[0]),
        series: |builder, x| pointwise::cos(builder, x[0]),
        unit: without_dimension,
    },
    Function {
        name: "max2",
        arguments: &["a", "b"],
        n_conditions: 0,
        definition: "the larger of two values of the same row (`max(x, n)` is the largest of n rows)",
        number: |x| if x[0] > x[1] { x[0] } else { x[1] },
        series: |builder, x| pointwise::max2(builder, x[0], x[1]),
        unit: joined,
    },
    Function {
        name: "min2",
        arguments: &["a", "b"],
        n_conditions: 0,
        definition: "the smaller of two values of the same row (`min(x, n)` is the smallest of n rows)",
        number: |x| if x[0] < x[1] { x[0] } else { x[1] },
        series: |builder, x| pointwise::min2(builder, x[0], x[1]),
        unit: joined,
    },
    Function {
        name: "clip",
        arguments: &["x", "low", "high"],
        n_conditions: 0,
        definition: "x, but not below `low` and not above `high`",
        number: |x| {
            if x[0] < x[1] {
                x[1]
            } else if x[0] > x[2] {
                x[2]
            } else {
                x[0]
            }
        },
        series: |builder, x| {
            let above = pointwise::max2(builder, x[0], x[1]);
            pointwise::min2(builder, above, x[2])
        },
        unit: joined,
    },
    CHOICE,
    Function {
        name: "select",
        ..CHOICE
    },
    Function {
        name: "where",
        ..CHOICE
    },
];

/// The function of this name.
pub(crate) fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

/// The value `rows` before, 1 or more.
pub(crate) fn lag(builder: &mut Builder, x: Series, rows: usize) -> Series {
    let lag = catalog::find("lag").expect("the catalogue has `lag`");
    (lag.expand)(builder, &[x], &[rows as f64])[0]
}
