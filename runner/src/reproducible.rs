//! How alike a stage's outputs have to come out when it is executed again: what `reproducible` says.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::{
    Diagnostic, code,
    definition::{check_keys, expect_choice, expect_table, wrong_type},
    document::{Content, Node, Table},
};

const TOLERANCE_KEYS: [&str; 3] = ["abs", "rel", "ulps"];
const KEYS: [&str; 5] = ["abs", "rel", "ulps", "columns", "metrics"];

/// How alike two executions are, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The same bytes.
    Bytes,
    /// The same content, in other bytes.
    Logical,
    /// The same but for numbers that differ within a tolerance.
    Numeric,
}

impl Class {
    /// Its name, as a pipeline file and a report have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Logical => "logical",
            Self::Numeric => "numeric",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How alike a stage's outputs have to come out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reproducible {
    /// Byte for byte.
    #[default]
    Bytes,
    /// With the same content.
    Logical,
    /// With numbers that differ no more than this.
    Numeric(Tolerances),
}

impl Reproducible {
    /// The class.
    pub fn class(&self) -> Class {
        match self {
            Self::Bytes => Class::Bytes,
            Self::Logical => Class::Logical,
            Self::Numeric(_) => Class::Numeric,
        }
    }
}

/// How far two numbers may be apart. They are near enough if any of the three says so.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Tolerance {
    /// Largest difference.
    pub abs: f64,
    /// Largest difference, as a part of the larger one's magnitude.
    pub rel: f64,
    /// Most representable numbers from one to the other, in the precision that they are stored in.
    pub ulps: u64,
}

/// The tolerances of a stage's outputs. Texts, times, whole numbers and truth values have to be equal, unless their column
/// or metric has a tolerance of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Tolerances {
    /// For all floating-point numbers without a tolerance of their own.
    pub all: Tolerance,
    /// By column of a table or tensor of a model.
    pub columns: BTreeMap<String, Tolerance>,
    /// By path of a metric.
    pub metrics: BTreeMap<String, Tolerance>,
}

impl Tolerance {
    /// Whether `found` is near enough to `expected`; `ulps` is what lies between them.
    pub fn allows(&self, expected: f64, found: f64, ulps: Option<u64>) -> bool {
        if expected.to_bits() == found.to_bits() {
            return true;
        }
        if !expected.is_finite() || !found.is_finite() {
            return false;
        }
        let difference = (expected - found).abs();
        difference <= self.abs
            || difference <= self.rel * expected.abs().max(found.abs())
            || ulps.is_some_and(|ulps| ulps <= self.ulps)
    }
}

/// How many steps from one representable number to the next lie between two in double precision; nothing if one is NaN.
pub(crate) fn ulps_f64(a: f64, b: f64) -> Option<u64> {
    // The bits of floating-point numbers without their signs are in the numbers' order.
    let place = |x: f64| {
        let magnitude = i128::from(x.to_bits() & !(1 << 63));
        if x.is_sign_negative() {
            -magnitude
        } else {
            magnitude
        }
    };
    (!a.is_nan() && !b.is_nan()).then(|| place(a).abs_diff(place(b)) as u64)
}

/// The same in single precision.
pub(crate) fn ulps_f32(a: f32, b: f32) -> Option<u64> {
    let place = |x: f32| {
        let magnitude = i64::from(x.to_bits() & !(1 << 31));
        if x.is_sign_negative() {
            -magnitude
        } else {
            magnitude
        }
    };
    (!a.is_nan() && !b.is_nan()).then(|| place(a).abs_diff(place(b)))
}

/// What `reproducible` says.
pub(crate) fn read(node: &Node, mistakes: &mut Vec<Diagnostic>) -> Reproducible {
    match &node.content {
        Content::String(_) => {
            let choices = [("bytes", Class::Bytes), ("logical", Class::Logical)];
            match expect_choice("reproducible", node, &choices, mistakes) {
                Some(Class::Logical) => Reproducible::Logical,
                _ => Reproducible::Bytes,
            }
        }
        Content::Table(table) => Reproducible::Numeric(tolerances(node, table, mistakes)),
        _ => {
            let expected = "`bytes`, `logical` or a table of tolerances";
            wrong_type("`reproducible`", node, expected, mistakes);
            Reproducible::Bytes
        }
    }
}

fn tolerances(node: &Node, table: &Table, mistakes: &mut Vec<Diagnostic>) -> Tolerances {
    check_keys("`reproducible`", table, &KEYS, mistakes);
    let mut tolerances = Tolerances {
        all: tolerance(table, mistakes),
        ..Tolerances::default()
    };
    for (key, by_name) in [
        ("columns", &mut tolerances.columns),
        ("metrics", &mut tolerances.metrics),
    ] {
        let Some(entry) = table.get(key) else {
            continue;
        };
        let Some(entries) = expect_table(&format!("`{key}`"), &entry.node, mistakes) else {
            continue;
        };
        for (name, entry) in entries {
            let what = format!("the tolerance of `{}`", name.escape_debug());
            if let Some(table) = expect_table(&what, &entry.node, mistakes) {
                check_keys(&what, table, &TOLERANCE_KEYS, mistakes);
                by_name.insert(name.clone(), tolerance(table, mistakes));
            }
        }
    }
    if table.is_empty() {
        let message = "`reproducible` is a table without a tolerance";
        mistakes.push(node.mistake(code::BAD_VALUE, message, "").help(
            "`{ rel = 1e-9 }` says how far numbers may be apart; `\"bytes\"` says not at all",
        ));
    }
    tolerances
}

fn tolerance(table: &Table, mistakes: &mut Vec<Diagnostic>) -> Tolerance {
    let mut tolerance = Tolerance::default();
    for (key, entry) in table {
        let node = &entry.node;
        match key.as_str() {
            "abs" => tolerance.abs = number("abs", node, mistakes),
            "rel" => tolerance.rel = number("rel", node, mistakes),
            "ulps" => match node.content {
                Content::Integer(ulps) if u64::try_from(ulps).is_ok() => {
                    tolerance.ulps = ulps as u64;
                }
                Content::Integer(ulps) => {
                    let message = format!("`ulps` is {ulps}, expected 0 or more");
                    mistakes.push(node.mistake(code::BAD_VALUE, message, ""));
                }
                _ => wrong_type("`ulps`", node, "a whole number", mistakes),
            },
            _ => {}
        }
    }
    tolerance
}

fn number(key: &str, node: &Node, mistakes: &mut Vec<Diagnostic>) -> f64 {
    let value = match node.content {
        Content::Integer(integer) => integer as f64,
        Content::Float(float) => float,
        _ => {
            wrong_type(&format!("`{key}`"), node, "a number", mistakes);
            return 0.0;
        }
    };
    if value.is_finite() && value >= 0.0 {
        return value;
    }
    let message = format!("`{key}` is {value}, expected a finite number, 0 or more");
    mistakes.push(node.mistake(code::BAD_VALUE, message, ""));
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_step_apart() {
        for x in [0.0, 1.0, -1.0, 1e300, f64::MIN_POSITIVE, -0.0] {
            assert_eq!(ulps_f64(x, x.next_up()), Some(1), "{x}");
            assert_eq!(ulps_f64(x.next_down(), x.next_up()), Some(2), "{x}");
        }
        assert_eq!(ulps_f64(0.0, -0.0), Some(0));
        assert_eq!(ulps_f32(1.0, 1.0_f32.next_up().next_up()), Some(2));
        assert_eq!(ulps_f32(-0.0, 0.0_f32.next_up()), Some(1));
        assert_eq!(ulps_f64(f64::NAN, 1.0), None);
        assert_eq!(
            ulps_f64(f64::MAX, f64::MIN),
            Some(2 * f64::MAX.to_bits()),
            "the longest way"
        );
    }

    #[test]
    fn any_of_the_three_allows() {
        let none = Tolerance::default();
        let allows = |tolerance: Tolerance, a: f64, b: f64| tolerance.allows(a, b, ulps_f64(a, b));

        assert!(allows(none, f64::NAN, f64::NAN));
        assert!(allows(none, 0.0, -0.0), "no step apart");
        assert!(!allows(none, 1.0, 1.0_f64.next_up()));
        assert!(allows(
            Tolerance { ulps: 1, ..none },
            1.0,
            1.0_f64.next_up()
        ));
        assert!(allows(Tolerance { abs: 0.5, ..none }, 1.0, 1.5));
        assert!(!allows(Tolerance { abs: 0.5, ..none }, 1.0, 1.6));
        assert!(allows(Tolerance { rel: 0.1, ..none }, 100.0, 109.0));
        assert!(!allows(Tolerance { rel: 0.1, ..none }, 1e-9, -1e-9));
        let wide = Tolerance {
            abs: f64::MAX,
            rel: 1.0,
            ulps: u64::MAX,
        };
        assert!(!allows(wide, 1.0, f64::NAN) && !allows(wide, f64::INFINITY, 1.0));
    }
}
