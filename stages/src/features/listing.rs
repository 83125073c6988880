//! What expressions may call, for those who write them.

use natron_kernels::indicators::{
    catalog::{self, Indicator, Range},
    program::Input,
};
use serde::Serialize;

use super::expression::{compile::usage, functions::FUNCTIONS, unit::Unit};

/// An argument of an indicator or a function.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// `series`, `condition`, `whole number` or `number`.
    pub kind: &'static str,
    /// What it is when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<f64>,
    /// The smallest number that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<f64>,
    /// The largest number that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<f64>,
}

/// A column that a call gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// Its name; empty if it is the only one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
}

/// Something that may be called.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Callable {
    /// Its name.
    pub name: &'static str,
    /// `indicator` or `function`.
    pub kind: &'static str,
    /// How it is called, with defaults.
    pub call: String,
    /// What it takes.
    pub arguments: Vec<Argument>,
    /// What it gives.
    pub outputs: Vec<Given>,
    /// Columns of the bars that it reads besides its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bars: Vec<&'static str>,
    /// What it computes.
    pub definition: &'static str,
    /// Who defined it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub source: &'static str,
}

/// All functions and indicators, each by name.
pub fn callables() -> Vec<Callable> {
    let mut functions: Vec<Callable> = FUNCTIONS
        .iter()
        .map(|function| Callable {
            name: function.name,
            kind: "function",
            call: format!("{}({})", function.name, function.arguments.join(", ")),
            arguments: function
                .arguments
                .iter()
                .enumerate()
                .map(|(i, name)| {
                    let is_condition = i < function.n_conditions;
                    plain(name, if is_condition { "condition" } else { "series" })
                })
                .collect(),
            outputs: vec![Given {
                name: "",
                unit: "that of its arguments",
            }],
            bars: Vec::new(),
            definition: function.definition,
            source: "",
        })
        .collect();
    functions.extend([
        Callable {
            name: "at",
            kind: "function",
            call: "at(\"4h\", x)".to_owned(),
            arguments: vec![plain("timeframe", "text"), plain("x", "series")],
            outputs: vec![Given {
                name: "",
                unit: "that of x",
            }],
            bars: Vec::new(),
            definition: "x computed on bars of that length, as of the last one that is over; lengths are whole numbers and `s`, \
                         `m`, `h`, `d` or `w`",
            source: "",
        },
        Callable {
            name: "of",
            kind: "function",
            call: "of(\"vix\", x)".to_owned(),
            arguments: vec![plain("market", "text"), plain("x", "series")],
            outputs: vec![Given {
                name: "",
                unit: "that of x",
            }],
            bars: Vec::new(),
            definition: "x computed on the bars at the input of that name, as of the last one that ended when the candle did, or \
                         before",
            source: "",
        },
    ]);
    let mut indicators: Vec<Callable> = catalog::catalog().map(listed).collect();
    functions.sort_by_key(|callable| callable.name);
    indicators.sort_by_key(|callable| callable.name);
    functions.extend(indicators);
    functions
}

fn plain(name: &'static str, kind: &'static str) -> Argument {
    Argument {
        name,
        kind,
        default: None,
        least: None,
        most: None,
    }
}

fn listed(indicator: &'static Indicator) -> Callable {
    let series = indicator.series.iter().map(|name| plain(name, "series"));
    let parameters = indicator.parameters.iter().map(|parameter| {
        let (kind, least, most) = match parameter.range {
            Range::Whole(least, most) => ("whole number", f64::from(least), f64::from(most)),
            Range::Real(least, most) => ("number", least, most),
        };
        Argument {
            name: parameter.name,
            kind,
            default: parameter.default,
            least: Some(least),
            most: Some(most),
        }
    });
    Callable {
        name: indicator.name,
        kind: "indicator",
        call: usage(indicator),
        arguments: series.chain(parameters).collect(),
        outputs: indicator
            .outputs
            .iter()
            .map(|output| Given {
                name: output.name,
                unit: match output.unit {
                    catalog::Unit::OfSeries => "that of the series",
                    catalog::Unit::OfSeriesSquared => "that of the series, squared",
                    unit => Unit::of_output(unit, Unit::Unknown).name(),
                },
            })
            .collect(),
        bars: indicator
            .bars
            .iter()
            .map(|input| match input {
                Input::Open => "open",
                Input::High => "high",
                Input::Low => "low",
                Input::Close => "close",
                Input::Volume => "volume",
                _ => "time",
            })
            .collect(),
        definition: indicator.definition,
        source: indicator.source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_indicator_with_units_and_ranges() {
        let all = callables();

        assert_eq!(
            all.iter()
                .filter(|callable| callable.kind == "indicator")
                .count(),
            catalog::catalog().count()
        );
        for callable in &all {
            assert!(!callable.definition.is_empty(), "{}", callable.name);
            assert!(
                callable
                    .outputs
                    .iter()
                    .all(|output| !output.unit.is_empty())
            );
        }
        let rsi = all.iter().find(|callable| callable.name == "rsi").unwrap();
        assert_eq!(rsi.arguments[0], plain("x", "series"));
        assert_eq!(rsi.arguments[1].kind, "whole number");
    }
}
