//! The length of a bar, as `15m`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Units from the longest, with their nanoseconds.
const UNITS: [(&str, i64); 6] = [
    ("w", 604_800_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// The length of a bar. Written as a whole number and a unit: `w`, `d`, `h`, `m`, `s` or `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Interval(i64);

impl Interval {
    /// A quarter of an hour.
    pub(crate) const QUARTER_HOUR: Self = Self(900_000_000_000);

    /// The length in nanoseconds, above zero.
    pub(crate) const fn ns(self) -> i64 {
        self.0
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no length of a bar; say a whole number and a unit, as `15m`, `1h` or `1d`"
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (count, unit) = text.split_at(digits);
        let count: i64 = count.parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, ns) = unit.ok_or_else(wrong)?;
        match count.checked_mul(*ns) {
            Some(total) if total > 0 => Ok(Self(total)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, ns) = UNITS
            .iter()
            .find(|(_, ns)| self.0 % ns == 0)
            .expect("an interval is a whole number of milliseconds");
        write!(f, "{}{unit}", self.0 / ns)
    }
}

impl TryFrom<String> for Interval {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        interval.to_string()
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> Cow<'static, str> {
        "Interval".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(w|d|h|m|s|ms)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_one_spelling() {
        for (text, spelling) in [
            ("60m", "1h"),
            ("15m", "15m"),
            ("7d", "1w"),
            ("1500ms", "1500ms"),
        ] {
            assert_eq!(text.parse::<Interval>().unwrap().to_string(), spelling);
        }
    }

    #[test]
    fn refuses_what_is_no_length() {
        for text in [
            "",
            "15",
            "m",
            "0m",
            "-1h",
            "1.5h",
            "1 h",
            "99999999999w",
            "15M",
        ] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }
}
