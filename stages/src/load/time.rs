//! Times as files write them, to nanoseconds since 1970 in UTC.

use jiff::{
    civil::{Date, DateTime, Time},
    fmt::strtime,
    tz::Offset,
};
use natron_artifacts::StageError;

/// Units of a count since 1970, with the nanoseconds of each.
const UNITS: [(&str, i64); 4] = [
    ("unix_s", 1_000_000_000),
    ("unix_ms", 1_000_000),
    ("unix_us", 1_000),
    ("unix_ns", 1),
];

/// How the times of a file are written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Format {
    /// Each form that has one meaning only; the first time decides between text and the units of a count.
    Auto(Option<Detected>),
    /// A count of units of this many nanoseconds.
    Count(i64),
    /// A pattern of `strptime`.
    Pattern(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detected {
    Text,
    Count(i64),
}

/// Reads times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimeReader {
    format: Format,
    zone: Offset,
}

impl TimeReader {
    /// A reader for the parameters `time_format` and `time_zone`.
    pub(crate) fn new(format: &str, zone: &str) -> Result<Self, StageError> {
        let format = if format == "auto" {
            Format::Auto(None)
        } else if let Some((_, ns)) = UNITS.iter().find(|(name, _)| *name == format) {
            Format::Count(*ns)
        } else if format.contains('%') {
            let example =
                DateTime::constant(2020, 2, 29, 12, 30, 0, 0).to_zoned(jiff::tz::TimeZone::UTC);
            let sound = example.is_ok_and(|example| strtime::format(format, &example).is_ok());
            if !sound {
                let message = format!("`{format}` holds a directive that is not known");
                return Err(StageError::parameter("time_format", message)
                    .with_help("use those of strptime, as `%d.%m.%Y %H:%M`"));
            }
            Format::Pattern(format.to_owned())
        } else {
            let message = format!("`{format}` is no format of a time");
            return Err(StageError::parameter("time_format", message).with_help(
                "say `auto`, `unix_s`, `unix_ms`, `unix_us`, `unix_ns` or a pattern, as `%d.%m.%Y %H:%M`",
            ));
        };
        let offset = read_zone(zone).filter(|_| !zone.is_empty());
        let zone = offset.ok_or_else(|| {
            let message = format!("`{zone}` is no fixed offset from UTC");
            StageError::parameter("time_zone", message).with_help(
                "say `UTC` or as `+02:00`; named zones change their offset, and their tables differ between machines",
            )
        })?;
        Ok(Self { format, zone })
    }

    /// The time that `text` means.
    ///
    /// # Errors
    ///
    /// What is wrong, and how to mend it.
    pub(crate) fn read(&mut self, text: &str) -> Result<i64, (String, String)> {
        let text = text.trim();
        match &mut self.format {
            Format::Count(unit) => count(text, *unit)
                .ok_or_else(|| unreadable(text, "a whole number since 1970 was expected")),
            Format::Pattern(pattern) => by_pattern(pattern, text, self.zone).ok_or_else(|| {
                unreadable(
                    text,
                    &format!("`time_format` says that times look like `{pattern}`"),
                )
            }),
            Format::Auto(detected) => {
                let (found, ts_ns) = by_looks(text, self.zone)?;
                match *detected {
                    Some(before) if before != found => {
                        let message = format!(
                            "`{text}` is {}, where the times before are {}",
                            found.words(),
                            before.words()
                        );
                        Err((message, "say `time_format` if all are meant alike".into()))
                    }
                    _ => {
                        *detected = Some(found);
                        Ok(ts_ns)
                    }
                }
            }
        }
    }

    /// The offset of times that do not state theirs.
    pub(crate) fn offset_ns(&self) -> i64 {
        i64::from(self.zone.seconds()) * 1_000_000_000
    }

    /// The time that a bare count means, from a column of integers.
    pub(crate) fn read_count(&mut self, value: i64) -> Result<i64, (String, String)> {
        self.read(&value.to_string())
    }
}

impl Detected {
    fn words(self) -> &'static str {
        match self {
            Self::Text => "a date",
            Self::Count(1_000_000_000) => "in seconds",
            Self::Count(1_000_000) => "in milliseconds",
            Self::Count(1_000) => "in microseconds",
            Self::Count(_) => "in nanoseconds",
        }
    }
}

fn unreadable(text: &str, help: &str) -> (String, String) {
    let shown: String = text.chars().take(40).collect();
    (format!("`{shown}` is no time"), help.into())
}

/// Whole seconds may have a fraction; the other units may end in `.0`, as programs write them that know only floats.
fn count(text: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if digits.is_empty() || !plain(digits) || !plain(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole_ns = whole.parse::<i64>().ok()?.checked_mul(unit)?;
    let scale = 10_i64.pow(fraction.len() as u32);
    let numerator = fraction.parse().unwrap_or(0_i64).checked_mul(unit)?;
    if numerator % scale != 0 {
        return None;
    }
    let part = numerator / scale;
    whole_ns.checked_add(if whole.starts_with('-') { -part } else { part })
}

fn by_pattern(pattern: &str, text: &str, zone: Offset) -> Option<i64> {
    let parsed = strtime::parse(pattern, text).ok()?;
    if let Ok(stamp) = parsed.to_timestamp() {
        return i64::try_from(stamp.as_nanosecond()).ok();
    }
    let time = parsed.to_time().unwrap_or(Time::midnight());
    let civil = parsed.to_datetime().ok();
    let civil = civil.or_else(|| Some(parsed.to_date().ok()?.to_datetime(time)))?;
    nanoseconds(civil, zone)
}

fn nanoseconds(civil: DateTime, zone: Offset) -> Option<i64> {
    i64::try_from(zone.to_timestamp(civil).ok()?.as_nanosecond()).ok()
}

fn by_looks(text: &str, zone: Offset) -> Result<(Detected, i64), (String, String)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_count = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && digits.bytes().filter(|&b| b == b'.').count() <= 1;
    if is_count {
        let whole = digits.split('.').next().unwrap_or_default();
        let plausible_date = whole.len() == 8
            && (1900..=2200).contains(&whole[..4].parse().unwrap_or(0))
            && (1..=12).contains(&whole[4..6].parse().unwrap_or(0))
            && (1..=31).contains(&whole[6..].parse().unwrap_or(0));
        if plausible_date {
            let help = "say `time_format = \"%Y%m%d\"` or `time_format = \"unix_s\"`";
            return Err((
                format!("`{text}` may be a date or seconds since 1970"),
                help.into(),
            ));
        }
        // Seconds up to the year 5138, milliseconds from 1973, microseconds and nanoseconds from 1973.
        let unit = match whole.trim_start_matches('0').len() {
            0..=11 => 1_000_000_000,
            12..=14 => 1_000_000,
            15..=17 => 1_000,
            _ => 1,
        };
        let ts_ns = count(text, unit)
            .ok_or_else(|| unreadable(text, "it does not fit the years 1678 to 2262"))?;
        return Ok((Detected::Count(unit), ts_ns));
    }
    text_time(text, zone)
        .map(|ts_ns| (Detected::Text, ts_ns))
        .ok_or_else(|| {
            if is_ambiguous(text) {
                let help = "say `time_format`, as `%d.%m.%Y %H:%M` or `%m/%d/%Y %H:%M`";
                return (format!("in `{text}` day and month may be either way round"), help.into());
            }
            unreadable(
                text,
                "times look like `2024-01-31T13:45:00Z`, `2024-01-31 13:45`, `2024.01.31 13:45`, `2024/01/31` or counts since 1970; for others say `time_format`",
            )
        })
}

/// One or two digits, one or two digits, four digits.
fn is_ambiguous(text: &str) -> bool {
    let date = text.split([' ', 'T']).next().unwrap_or_default();
    let parts: Vec<_> = date.split(['.', '/', '-']).collect();
    let digits = |s: &str, n: std::ops::RangeInclusive<usize>| {
        n.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit())
    };
    matches!(parts[..], [a, b, year] if digits(a, 1..=2) && digits(b, 1..=2) && digits(year, 2..=4))
}

/// `YYYY-MM-DD`, with `/` or `.` instead, then nothing or `T` or blanks, `HH:MM`, `HH:MM:SS` or with a fraction, and a zone.
fn text_time(text: &str, zone: Offset) -> Option<i64> {
    let bytes = text.as_bytes();
    let separator = *bytes.get(4).filter(|b| b"-/.".contains(b))?;
    if !text.is_ascii() || bytes.len() < 10 || bytes[7] != separator {
        return None;
    }
    let number = |s: &str| {
        s.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| s.parse::<i32>().ok())
            .flatten()
    };
    let date = Date::new(
        number(&text[..4])? as i16,
        number(&text[5..7])? as i8,
        number(&text[8..10])? as i8,
    );
    let date = date.ok()?;
    let rest = &text[10..];
    if rest.is_empty() {
        return nanoseconds(date.to_datetime(Time::midnight()), zone);
    }
    let clock = rest.strip_prefix(['T', 't', ' '])?.trim_start();
    let end = clock
        .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
        .unwrap_or(clock.len());
    let (clock, zone_text) = clock.split_at(end);
    let zone = match zone_text.trim_start() {
        "" => zone,
        text => read_zone(text)?,
    };
    nanoseconds(date.to_datetime(time_of_day(clock)?), zone)
}

fn time_of_day(clock: &str) -> Option<Time> {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanosecond = format!("{fraction:0<9}").parse().ok()?;
    let parts: Vec<_> = clock.split(':').collect();
    let two = |s: &&str| (1..=2).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    if !(2..=3).contains(&parts.len())
        || !parts.iter().all(two)
        || (parts.len() == 2 && nanosecond != 0)
    {
        return None;
    }
    let number = |i: usize| parts.get(i).map_or(Ok(0), |s| s.parse::<i8>()).ok();
    Time::new(number(0)?, number(1)?, number(2)?, nanosecond).ok()
}

fn read_zone(text: &str) -> Option<Offset> {
    if ["Z", "UTC", "GMT"]
        .iter()
        .any(|name| text.eq_ignore_ascii_case(name))
    {
        return Some(Offset::UTC);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let rest = text[1..].replacen(':', "", 1);
    if !matches!(rest.len(), 2 | 4) || !rest.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hours: i32 = rest[..2].parse().ok()?;
    let minutes: i32 = rest.get(2..4).map_or(Ok(0), str::parse).ok()?;
    if minutes > 59 || hours > 18 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// The time as RFC 3339 writes it, for messages.
pub(crate) fn shown(ts_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ts_ns))
        .map_or_else(|_| ts_ns.to_string(), |stamp| stamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_498_906_800_000_000_000;

    fn read(format: &str, zone: &str, text: &str) -> Result<i64, String> {
        let mut reader = TimeReader::new(format, zone).map_err(|e| e.to_string())?;
        reader.read(text).map_err(|(message, _)| message)
    }

    #[test]
    fn reads_every_form_that_has_one_meaning() {
        for text in [
            "2017-07-01T11:00:00Z",
            "2017-07-01T11:00:00.000000Z",
            "2017-07-01t11:00z",
            "2017-07-01 11:00",
            "2017-07-01 11:00:00",
            "2017-07-01 11:00:00.0",
            "2017-07-01 11:00:00+00:00",
            "2017-07-01 13:00:00+02:00",
            "2017-07-01 13:00:00 +0200",
            "2017-07-01 09:00-02",
            "2017-07-01 11:00:00 UTC",
            "2017.07.01 11:00",
            "2017/07/01 11:00:00",
            "1498906800",
            "1498906800.0",
            "1498906800000",
            "1498906800000000",
            "1498906800000000000",
            " 2017-07-01 11:00 ",
        ] {
            assert_eq!(read("auto", "UTC", text), Ok(NOON), "{text}");
        }
        assert_eq!(
            read("auto", "UTC", "2017-07-01"),
            Ok(NOON - 11 * 3_600_000_000_000)
        );
        assert_eq!(read("auto", "+02:00", "2017-07-01 13:00"), Ok(NOON));
        assert_eq!(read("auto", "+02:00", "2017-07-01T11:00:00Z"), Ok(NOON));
        assert_eq!(read("auto", "UTC", "1498906800.25"), Ok(NOON + 250_000_000));
        assert_eq!(read("auto", "UTC", "-1.5"), Ok(-1_500_000_000));
    }

    #[test]
    fn reads_by_pattern_when_told() {
        assert_eq!(read("%d.%m.%Y %H:%M", "UTC", "01.07.2017 11:00"), Ok(NOON));
        assert_eq!(read("%Y-%m-%d %I-%p", "UTC", "2017-07-01 11-AM"), Ok(NOON));
        assert_eq!(
            read("%Y-%m-%d %H:%M %z", "UTC", "2017-07-01 13:00 +0200"),
            Ok(NOON)
        );
        assert_eq!(
            read("%m/%d/%Y %H:%M", "+02:00", "07/01/2017 13:00"),
            Ok(NOON)
        );
        assert_eq!(
            read("%Y%m%d", "UTC", "20170701"),
            Ok(NOON - 11 * 3_600_000_000_000)
        );
        assert_eq!(read("unix_ms", "UTC", "1498906800000"), Ok(NOON));
    }

    #[test]
    fn refuses_what_has_none_or_two_meanings() {
        for text in [
            "",
            "x",
            "2017-13-01",
            "2017-02-29",
            "2017-07-01 24:00",
            "2017-07-01 11:60",
            "2017-07-01 11:00:60",
            "2017-07-01 11",
            "2017-07/01",
            "2017-07-01 11:00 CET",
            "2017-07-01x11:00",
            "17-07-01",
            "1e9",
            "1.2.3",
            "99999999999999999999",
            "2017-07-01 11:00:00.1234567890",
            "3000-01-01",
            "1500-01-01",
            "ü017-07-01",
        ] {
            assert!(read("auto", "UTC", text).is_err(), "{text}");
        }
        let error = read("auto", "UTC", "04.07.2019 01:00").unwrap_err();
        assert!(error.contains("day and month"), "{error}");
        let error = read("auto", "UTC", "20170701").unwrap_err();
        assert!(error.contains("a date or seconds"), "{error}");
    }

    #[test]
    fn the_unit_may_not_change_on_the_way() {
        let mut reader = TimeReader::new("auto", "UTC").unwrap();
        reader.read("1498906800").unwrap();

        let (message, _) = reader.read("1498910400000").unwrap_err();
        assert_eq!(
            message,
            "`1498910400000` is in milliseconds, where the times before are in seconds"
        );
    }

    #[test]
    fn parameters_are_checked() {
        for (format, zone) in [
            ("rfc", "UTC"),
            ("%", "UTC"),
            ("auto", "Europe/Berlin"),
            ("auto", ""),
            ("auto", "+25:00"),
        ] {
            assert!(TimeReader::new(format, zone).is_err(), "{format} {zone}");
        }
    }
}
