//! Which runs somebody asks for.

use std::{cmp::Ordering, str::FromStr};

use natron_runner::{RunEntry, RunList};
use serde_json::Value;

use crate::units::parse_seconds;

/// `NAME OP VALUE`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    /// A metric, a parameter or a field of the run.
    pub(super) name: String,
    operator: Operator,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// Longer ones first, so that `<=` is not taken for `<`.
const OPERATORS: [(&str, Operator); 7] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("=", Operator::Equal),
];

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Coordinates of an instance hold `=`: the operator is looked for behind them.
        let from = text.rfind(']').map_or(0, |end| end + 1);
        let found = OPERATORS
            .iter()
            .filter_map(|(sign, operator)| {
                let at = text[from..].find(sign)? + from;
                Some((at, *sign, *operator))
            })
            .min_by_key(|(at, sign, _)| (*at, std::cmp::Reverse(sign.len())));
        let Some((at, sign, operator)) = found else {
            return Err("expected NAME OP VALUE, as `evaluate.auc > 0.6`".into());
        };
        let (name, value) = (text[..at].trim(), text[at + sign.len()..].trim());
        if name.is_empty() || value.is_empty() {
            return Err("expected NAME OP VALUE, as `evaluate.auc > 0.6`".into());
        }
        let value = parsed(value);
        let is_order = !matches!(operator, Operator::Equal | Operator::NotEqual);
        if is_order && !value.is_number() && name != "started" {
            return Err(format!("`{sign}` compares with a number"));
        }
        Ok(Self {
            name: name.to_owned(),
            operator,
            value,
        })
    }
}

/// A number, a truth value, or else a text, with or without quotes.
fn parsed(text: &str) -> Value {
    if let Ok(number) = text.parse::<f64>()
        && number.is_finite()
    {
        return Value::from(number);
    }
    match text {
        "true" => Value::from(true),
        "false" => Value::from(false),
        text => Value::from(text.trim_matches(['"', '\''])),
    }
}

impl Condition {
    /// Whether it is true of the run; of a run that has no such value, nothing is true.
    pub(super) fn holds(&self, list: &RunList, run: &RunEntry) -> bool {
        let Some(found) = value(list, run, &self.name) else {
            return false;
        };
        let order = order(&found, &self.value);
        match self.operator {
            Operator::Equal => order == Some(Ordering::Equal),
            Operator::NotEqual => order != Some(Ordering::Equal),
            Operator::Less => order == Some(Ordering::Less),
            Operator::Greater => order == Some(Ordering::Greater),
            Operator::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Operator::GreaterOrEqual => {
                matches!(order, Some(Ordering::Greater | Ordering::Equal))
            }
        }
    }
}

/// The order of two values of one type; numbers of any type compare as numbers.
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.partial_cmp(&b),
        (None, None) => match (a, b) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) => (a == b).then_some(Ordering::Equal),
        },
        _ => None,
    }
}

/// What `name` means in a run: a field, a metric or a parameter.
pub(super) fn value(list: &RunList, run: &RunEntry, name: &str) -> Option<Value> {
    Some(match name {
        "seconds" => run.seconds.into(),
        "stages" => run.n_stages.into(),
        "ran" => (run.outcomes.ran + run.outcomes.unchanged).into(),
        "hit" => run.outcomes.hit.into(),
        "failed" => run.outcomes.failed.into(),
        "started" => run.started.clone().into(),
        "pipeline" => run.pipeline.clone().into(),
        "profile" => run.profile.clone()?.into(),
        name => {
            let metric = list.metric(run, name).map(Value::from);
            return metric.or_else(|| list.parameter(run, name));
        }
    })
}

/// Sorts runs by a value; those without one come last.
pub(super) fn sort(
    runs: &mut Vec<&RunEntry>,
    is_descending: bool,
    value: impl Fn(&RunEntry) -> Option<Value>,
) {
    let mut keyed: Vec<(Option<Value>, &RunEntry)> =
        runs.iter().map(|run| (value(run), *run)).collect();
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Greater,
        (_, None) => Ordering::Less,
        (Some(a), Some(b)) => {
            let order = order(a, b).unwrap_or_else(|| a.is_string().cmp(&b.is_string()));
            if is_descending {
                order.reverse()
            } else {
                order
            }
        }
    });
    *runs = keyed.into_iter().map(|(_, run)| run).collect();
}

/// Whether the run was made with `KEY=VALUE`: as an override, or as the pipeline's parameter turned out.
pub(super) fn has_set(list: &RunList, run: &RunEntry, set: &str) -> bool {
    let plain = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    let split = |text: &str| {
        let (key, value) = text.split_once('=')?;
        Some((key.trim().to_owned(), plain(value)))
    };
    let Some((key, wanted)) = split(set) else {
        return false;
    };
    let last = run.set.iter().rev().filter_map(|set| split(set));
    if let Some((_, value)) = last.into_iter().find(|(name, _)| *name == key) {
        return value == wanted
            || order(&parsed(&value), &parsed(&wanted)) == Some(Ordering::Equal);
    }
    list.parameter(run, &key)
        .is_some_and(|value| order(&value, &parsed(&wanted)) == Some(Ordering::Equal))
}

/// The earliest start that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since(jiff::Timestamp);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(at));
        }
        if let Ok(day) = text.parse::<jiff::civil::Date>() {
            let start = day.to_zoned(jiff::tz::TimeZone::UTC);
            return start
                .map(|start| Self(start.timestamp()))
                .map_err(|error| error.to_string());
        }
        let seconds = parse_seconds(text).map_err(|error| {
            format!("{error}; or a date as `2026-01-31`, or a time in RFC 3339")
        })?;
        let seconds = i64::try_from(seconds).map_err(|error| error.to_string())?;
        let at = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds));
        at.map(Self).map_err(|error| error.to_string())
    }
}

impl Since {
    /// Whether the run started no earlier.
    pub(super) fn holds(self, run: &RunEntry) -> bool {
        let started = run.started.parse::<jiff::Timestamp>();
        started.is_ok_and(|started| started >= self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(text: &str) -> (String, Operator, Value) {
        let condition: Condition = text.parse().unwrap();
        (condition.name, condition.operator, condition.value)
    }

    #[test]
    fn conditions_are_read() {
        assert_eq!(
            condition("evaluate.auc >= 0.6"),
            ("evaluate.auc".into(), Operator::GreaterOrEqual, json!(0.6))
        );
        assert_eq!(
            condition("train[lr=0.1].loss<1e-3"),
            ("train[lr=0.1].loss".into(), Operator::Less, json!(1e-3))
        );
        assert_eq!(
            condition("mode == 'fast'"),
            ("mode".into(), Operator::Equal, json!("fast"))
        );
        for bad in ["evaluate.auc", "> 3", "auc >", "mode > fast"] {
            assert!(bad.parse::<Condition>().is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_compare_as_numbers() {
        assert_eq!(order(&json!(1), &json!(1.0)), Some(Ordering::Equal));
        assert_eq!(order(&json!("a"), &json!("b")), Some(Ordering::Less));
        assert_eq!(order(&json!("1"), &json!(1)), None);
    }

    #[test]
    fn times_are_read() {
        for good in ["90min", "14d", "2026-01-31", "2026-01-31T00:00:00Z"] {
            assert!(good.parse::<Since>().is_ok(), "{good}");
        }
        assert!("yesterday".parse::<Since>().is_err());
        assert_eq!(
            "2026-01-31".parse::<Since>(),
            "2026-01-31T00:00:00Z".parse::<Since>()
        );
    }
}
