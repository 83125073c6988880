//! Longer bars: how they are named and when they end.

use std::fmt;

/// Units by name: seconds, and seconds from 1970-01-01 to the first end of such a bar.
const UNITS: [(&str, i64, i64); 5] = [
    ("s", 1, 0),
    ("m", 60, 0),
    ("h", 3_600, 0),
    ("d", 86_400, 0),
    // 1970-01-05 was a Monday.
    ("w", 604_800, 4 * 86_400),
];

const NS: i64 = 1_000_000_000;

/// Longer ones are refused: four weeks.
const LONGEST_NS: i64 = 4 * 604_800 * NS;

/// What a timeframe looks like, for messages.
pub(crate) const SHAPE: &str = "a whole number and `s`, `m`, `h`, `d` or `w`, as `4h`";

/// The length of bars that are put together from shorter ones. They end at whole multiples of their length, counted from
/// midnight UTC; weeks begin on Mondays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timeframe {
    length_ns: i64,
    offset_ns: i64,
}

impl Timeframe {
    /// Of a text as `4h`; nothing if it is none, or longer than four weeks.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = text[..digits].parse().ok().filter(|count| *count > 0)?;
        let (_, unit, offset) = UNITS.iter().find(|(name, ..)| *name == &text[digits..])?;
        let length_ns = count.checked_mul(unit * NS)?;
        (length_ns <= LONGEST_NS).then_some(Self {
            length_ns,
            offset_ns: offset * NS,
        })
    }

    /// Nanoseconds from one end to the next.
    pub(crate) fn length_ns(self) -> i64 {
        self.length_ns
    }

    /// When the bar ends that a shorter one, which ends at `ts_ns`, is part of.
    pub(crate) fn end_of(self, ts_ns: i64) -> i64 {
        let since = ts_ns.saturating_sub(self.offset_ns);
        let over = since.rem_euclid(self.length_ns);
        if over == 0 {
            ts_ns
        } else {
            ts_ns.saturating_add(self.length_ns - over)
        }
    }
}

impl fmt::Display for Timeframe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.length_ns / NS;
        let is_week = self.offset_ns != 0;
        let unit = UNITS
            .iter()
            .rev()
            .find(|(_, unit, offset)| seconds % unit == 0 && (*offset != 0) == is_week);
        let (name, unit, _) = unit.unwrap_or(&UNITS[0]);
        write!(f, "{}{name}", seconds / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_bars_end_at_whole_multiples() {
        let four_hours = Timeframe::parse("4h").unwrap();
        let hour = 3600 * NS;
        assert_eq!(four_hours.end_of(3 * hour), 4 * hour);
        assert_eq!(four_hours.end_of(4 * hour), 4 * hour);
        assert_eq!(four_hours.end_of(4 * hour + 1), 8 * hour);
        assert_eq!(four_hours.end_of(-1), 0);
        let week = Timeframe::parse("1w").unwrap();
        assert_eq!(week.end_of(0), 4 * 24 * hour);
    }

    #[test]
    fn names_are_read_and_written() {
        for text in ["4h", "15m", "30s", "1d", "1w", "90m", "7d"] {
            assert_eq!(Timeframe::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "4",
            "h",
            "0h",
            "-4h",
            "4H",
            "1y",
            "99999999999999999999d",
            "5w",
            "4 h",
        ] {
            assert_eq!(Timeframe::parse(text), None, "{text}");
        }
    }
}
