//! Which columns of a file hold what.

use std::collections::BTreeMap;

use natron_artifacts::{Column, ColumnType, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The values of a candle, in the order of our tables.
pub(crate) const VALUES: [&str; 5] = ["open", "high", "low", "close", "volume"];

/// Names by which a column is found when none is given, most telling first. Letter case and `<>` around them do not matter.
const KNOWN_NAMES: [(&str, &[&str]); 6] = [
    ("time", &["time", "timestamp", "datetime", "date", "ts_ns"]),
    ("open", &["open"]),
    ("high", &["high"]),
    ("low", &["low"]),
    ("close", &["close"]),
    ("volume", &["volume", "tick_volume", "tickvol", "vol"]),
];

/// The file's names of the columns. A column that is not named here is found by its usual name, whatever its letter case:
/// `time`, `timestamp`, `datetime` or `date`; `open`; `high`; `low`; `close`; `volume`, `tick_volume`, `tickvol` or `vol`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CandleColumns {
    /// Time of the bar.
    #[serde(default)]
    pub(crate) time: Option<String>,
    /// Calendar date of the bar, where date and time of day are two columns. Found by itself as `date` beside `time`.
    #[serde(default)]
    pub(crate) date: Option<String>,
    /// First price.
    #[serde(default)]
    pub(crate) open: Option<String>,
    /// Highest price.
    #[serde(default)]
    pub(crate) high: Option<String>,
    /// Lowest price.
    #[serde(default)]
    pub(crate) low: Option<String>,
    /// Last price.
    #[serde(default)]
    pub(crate) close: Option<String>,
    /// Traded volume, in any unit.
    #[serde(default)]
    pub(crate) volume: Option<String>,
}

/// Where the columns are in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Positions {
    /// Time of the bar, or time of day where `date` is there.
    pub(crate) time: usize,
    /// Calendar date.
    pub(crate) date: Option<usize>,
    /// In the order of [`VALUES`].
    pub(crate) values: [usize; 5],
    /// Further columns in the order of their names.
    pub(crate) extra: Vec<usize>,
}

impl Positions {
    /// All positions: time, date, values, extra.
    pub(crate) fn all(&self) -> Vec<usize> {
        let mut all = vec![self.time];
        all.extend(self.date);
        all.extend(self.values);
        all.extend(&self.extra);
        all
    }
}

impl CandleColumns {
    fn named(&self, role: &str) -> Option<&str> {
        match role {
            "time" => self.time.as_deref(),
            "open" => self.open.as_deref(),
            "high" => self.high.as_deref(),
            "low" => self.low.as_deref(),
            "close" => self.close.as_deref(),
            _ => self.volume.as_deref(),
        }
    }

    /// Finds the columns among `names`.
    ///
    /// # Errors
    ///
    /// A column that is not there, or is there twice; the message does not name the file.
    pub(crate) fn find(
        &self,
        extra: &BTreeMap<String, String>,
        names: &[String],
    ) -> Result<Positions, (String, String)> {
        let mut found = [0; 6];
        for (slot, (role, known)) in found.iter_mut().zip(KNOWN_NAMES) {
            *slot = match self.named(role) {
                Some(name) => exactly(name, names)?,
                None => known
                    .iter()
                    .find_map(|name| usually(name, names).transpose())
                    .transpose()?
                    .ok_or_else(|| absent(role, names))?,
            };
        }
        let date = match &self.date {
            Some(name) => Some(exactly(name, names)?),
            None if self.time.is_none() && bare(&names[found[0]]) == "time" => {
                usually("date", names)?
            }
            None => None,
        };
        let extra = extra.values().map(|name| exactly(name, names));
        Ok(Positions {
            time: found[0],
            date,
            values: [found[1], found[2], found[3], found[4], found[5]],
            extra: extra.collect::<Result<_, _>>()?,
        })
    }
}

/// Checks the names that `extra` gives to its columns.
pub(crate) fn check_extra(extra: &BTreeMap<String, String>) -> Result<(), StageError> {
    for name in extra.keys() {
        if name == "ts_ns" || VALUES.contains(&name.as_str()) {
            let message =
                format!("`{name}` is a column of every candle and cannot be an extra one");
            return Err(StageError::parameter(format!("extra.{name}"), message));
        }
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let message = format!("`{name}` is no name of a column; use letters, digits and `_`");
            return Err(StageError::parameter(format!("extra.{name}"), message));
        }
    }
    Ok(())
}

/// The columns of a table of candles.
pub(crate) fn candle_columns<'a>(extra: impl IntoIterator<Item = &'a String>) -> Vec<Column> {
    let describe = [
        ("price", "first price of the bar"),
        ("price", "highest price of the bar"),
        ("price", "lowest price of the bar"),
        ("price", "last price of the bar"),
        ("volume", "traded volume of the bar"),
    ];
    let mut columns = vec![Column::time_index()];
    columns.extend(VALUES.iter().zip(describe).map(|(name, (unit, text))| {
        Column::new(*name, ColumnType::F64)
            .unit(unit)
            .description(text)
    }));
    columns.extend(
        extra.into_iter().map(|name| {
            Column::new(name, ColumnType::F64).description("taken over from the source")
        }),
    );
    columns
}

fn bare(name: &str) -> String {
    let name = name.trim();
    let name = name
        .strip_prefix('<')
        .and_then(|n| n.strip_suffix('>'))
        .unwrap_or(name);
    name.to_lowercase()
}

fn exactly(name: &str, names: &[String]) -> Result<usize, (String, String)> {
    match names.iter().position(|n| n.trim() == name) {
        Some(first) if names[first + 1..].iter().any(|n| n.trim() == name) => Err(twice(name)),
        Some(first) => Ok(first),
        None => Err((
            format!("no column is called `{name}`"),
            format!("the columns are {}", listed(names)),
        )),
    }
}

fn usually(name: &str, names: &[String]) -> Result<Option<usize>, (String, String)> {
    let mut matches = (0..names.len()).filter(|&i| bare(&names[i]) == name);
    match (matches.next(), matches.next()) {
        (Some(_), Some(_)) => Err(twice(name)),
        (first, _) => Ok(first),
    }
}

fn twice(name: &str) -> (String, String) {
    (
        format!("two columns are called `{name}`"),
        "rename one of them in the file".into(),
    )
}

fn absent(role: &str, names: &[String]) -> (String, String) {
    let help = format!(
        "say which of {} it is: `columns.{role} = \"...\"`",
        listed(names)
    );
    (format!("no column for `{role}`"), help)
}

fn listed(names: &[String]) -> String {
    let shown: Vec<_> = names
        .iter()
        .take(12)
        .map(|n| format!("`{}`", n.trim()))
        .collect();
    let more = names.len().saturating_sub(12);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &str) -> Vec<String> {
        names.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn finds_usual_names_in_any_order_and_case() {
        let found = CandleColumns::default()
            .find(
                &BTreeMap::new(),
                &names("Volume,CLOSE,low,High,Open,x,Timestamp"),
            )
            .unwrap();

        assert_eq!(
            (found.time, found.date, found.values),
            (6, None, [4, 3, 2, 1, 0])
        );
    }

    #[test]
    fn joins_the_date_and_time_of_metatrader() {
        let header = names("<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<TICKVOL>,<VOL>,<SPREAD>");
        let found = CandleColumns::default()
            .find(&BTreeMap::new(), &header)
            .unwrap();

        assert_eq!((found.time, found.date), (1, Some(0)));
        assert_eq!(found.values, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn says_what_is_missing_or_twice() {
        let find = |text| {
            CandleColumns::default()
                .find(&BTreeMap::new(), &names(text))
                .unwrap_err()
        };

        let (message, help) = find("time,open,high,low,close,VolumeFrom");
        assert_eq!(message, "no column for `volume`");
        assert!(
            help.contains("`VolumeFrom`") && help.contains("columns.volume"),
            "{help}"
        );
        let (message, _) = find("time,open,open,high,low,close,volume");
        assert_eq!(message, "two columns are called `open`");
    }
}
