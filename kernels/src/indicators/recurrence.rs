//! Indicators with a memory that fades, or never does: exponential and Wilder means, what is made of them, running sums,
//! and rules that carry a position on.

use super::catalog::{Output, Parameter, Range, Unit};

pub(super) mod averages;
pub(super) mod cascades;
pub(super) mod differences;
pub(super) mod direction;
pub(super) mod kama;
pub(super) mod oscillators;
mod rows;
mod scan;
pub(super) mod stops;
pub(super) mod sums;
mod vector;
pub(super) mod volatility;

/// A length in rows, without a default.
const fn rows(name: &'static str) -> Parameter {
    Parameter {
        name,
        range: Range::Whole(1, 10_000),
        default: None,
    }
}

/// A length in rows, and what it is when nothing is said.
const fn rows_or(name: &'static str, default: f64) -> Parameter {
    Parameter {
        default: Some(default),
        ..rows(name)
    }
}

/// A factor, 0 or more.
const fn factor_or(name: &'static str, default: f64) -> Parameter {
    Parameter {
        name,
        range: Range::Real(0.0, 1000.0),
        default: Some(default),
    }
}

const fn output(name: &'static str, unit: Unit) -> Output {
    Output { name, unit }
}
