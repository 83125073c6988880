//! `uses = "load.csv"`: candles from a text file.

use std::{borrow::Cow, collections::BTreeMap};

use natron_artifacts::{Kind, PortSchema, Schemas, Signature, Stage, StageContext, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bars::{BarPolicies, MAX_BARS, Order, Origin, RawBars, TimeIs, Timing, checked},
    columns::{CandleColumns, Positions, VALUES, candle_columns, check_extra},
    interval::Interval,
    time::TimeReader,
};

/// No line of a table of candles is nearly as long; one that is, is not text.
const MAX_LINE_BYTES: usize = 1 << 20;
/// No table of candles has nearly as many.
const MAX_COLUMNS: usize = 4096;

/// Candles from a CSV file.
///
/// The file is text in UTF-8, one bar per line, with a header. Delimiter, decimal sign, form of the times and direction are
/// recognised; whatever has two meanings is an error that says which parameter decides. Outputs: `candles` (table: `ts_ns`,
/// `open`, `high`, `low`, `close`, `volume`, then the columns of `extra`) and `statistics` (metrics: rows, gaps, and how many
/// bars each policy dropped, filled or mended). Numbers are read to the nearest double. Errors name the line of the file; the
/// header is line 1. Blank lines are skipped.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadCsv {
    /// The file, relative to the workspace or absolute. Its content is part of the key; its path is not.
    pub(super) path: String,
    /// The file's names of the columns, as `{ time = "Date", volume = "VolumeFrom" }`.
    #[serde(default)]
    pub(super) columns: CandleColumns,
    /// Further columns of numbers to keep: their name in `candles`, then the file's name. Empty cells stay missing.
    #[serde(default)]
    pub(super) extra: BTreeMap<String, String>,
    /// What stands between two cells.
    #[serde(default)]
    pub(super) delimiter: Delimiter,
    /// What stands between whole and fraction.
    #[serde(default)]
    pub(super) decimal: Decimal,
    /// Whether the file has a header. Without one the columns are called `1`, `2`, ..., and the usual order is time, open,
    /// high, low, close, volume.
    #[serde(default = "yes")]
    pub(super) header: bool,
    /// Lines to skip before the header, as some vendors put their address there.
    #[serde(default)]
    pub(super) skip_lines: u32,
    /// Form of the times: `auto`, `unix_s`, `unix_ms`, `unix_us`, `unix_ns` or a pattern of strptime, as `%d.%m.%Y %H:%M`.
    /// `auto` reads RFC 3339, `2024-01-31 13:45[:00[.000]]`, the same with `.` or `/` in the date, dates alone, and counts
    /// since 1970 in seconds to nanoseconds.
    #[serde(default = "auto")]
    pub(super) time_format: String,
    /// Offset of times that do not state theirs: `UTC` or as `+02:00`.
    #[serde(default = "utc")]
    pub(super) time_zone: String,
    /// Which end of the bar the times stand for.
    #[serde(default)]
    pub(super) time_is: TimeIs,
    /// Length of a bar, as `1h`; the median step of the file when not given.
    #[serde(default)]
    pub(super) interval: Option<Interval>,
    /// In which order the bars are.
    #[serde(default)]
    pub(super) order: Order,
    /// What to do about bars that break a rule.
    #[serde(default)]
    pub(super) policies: BarPolicies,
}

/// What stands between two cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Delimiter {
    /// The first of `;`, tab, `|` and `,` that the header holds.
    #[default]
    Auto,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// A tab.
    Tab,
    /// `|`
    Pipe,
}

/// What stands between whole and fraction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Decimal {
    /// As the first number that has either; all others must agree.
    #[default]
    Auto,
    /// `.`
    Point,
    /// `,`
    Comma,
}

fn yes() -> bool {
    true
}

fn auto() -> String {
    "auto".into()
}

fn utc() -> String {
    "UTC".into()
}

impl Default for LoadCsv {
    /// What leaving all parameters out means.
    fn default() -> Self {
        serde_json::from_str(r#"{"path": ""}"#).expect("every other parameter has a default")
    }
}

impl Stage for LoadCsv {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        TimeReader::new(&self.time_format, &self.time_zone)?;
        check_extra(&self.extra)?;
        self.policies.check()?;
        Ok(Signature::new()
            .source("path", &self.path)
            .output(
                "candles",
                PortSchema::table(candle_columns(self.extra.keys())),
            )
            .output("statistics", PortSchema::of(Kind::Metrics)))
    }

    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        let content = context.source("path")?;
        let origin = Origin {
            file: &self.path,
            place: "line",
        };
        let raw = self.read(&content, &origin, context)?;
        let timing = Timing {
            order: self.order,
            time_is: self.time_is,
            interval: self.interval,
        };
        let bars = checked(&raw, &self.policies, timing, &origin)?;
        let rows = bars.ts_ns.len();
        context.log(&format!("{rows} bars from {} bytes", content.len()));
        context.write("statistics", bars.statistics.clone())?;
        context.write("candles", bars.table()?)
    }
}

impl LoadCsv {
    fn read(
        &self,
        content: &[u8],
        origin: &Origin<'_>,
        context: &StageContext,
    ) -> Result<RawBars, StageError> {
        let content = text_of(content, origin)?;
        let mut lines = Lines::new(content).filter(|(_, line)| !line.trim_ascii().is_empty());
        let mut header = lines.find(|(number, _)| *number > u64::from(self.skip_lines));
        let Some((first_number, first_line)) = header else {
            return Err(origin.wrong(
                "the file is empty",
                "one header and one line per bar were expected",
            ));
        };
        let first_text = checked_line(first_number, first_line, origin)?;
        let delimiter = self.delimiter_of(first_text);
        let first = cells(first_text, delimiter)
            .map_err(|m| origin.wrong_at(first_number, "", &m.0, m.1))?;
        if first.len() > MAX_COLUMNS {
            let message = format!("{} columns are more than {MAX_COLUMNS}", first.len());
            return Err(origin.wrong_at(first_number, "", &message, "check `delimiter`"));
        }
        let names: Vec<String> = if self.header {
            header = None;
            first.iter().map(|cell| cell.trim().to_owned()).collect()
        } else {
            (1..=first.len()).map(|i| i.to_string()).collect()
        };
        let positions = self.positions(&names, &first, first_number, origin)?;
        let mut reader = Reader {
            origin,
            names: &names,
            positions: &positions,
            times: TimeReader::new(&self.time_format, &self.time_zone)?,
            decimal: self.decimal,
            raw: RawBars {
                extra: self
                    .extra
                    .keys()
                    .map(|name| (name.clone(), Vec::new()))
                    .collect(),
                ..RawBars::default()
            },
        };
        for (number, line) in header.into_iter().chain(lines) {
            let text = checked_line(number, line, origin)?;
            let cells =
                cells(text, delimiter).map_err(|m| origin.wrong_at(number, "", &m.0, m.1))?;
            reader.bar(number, &cells)?;
            if number % 65_536 == 0 {
                context.check_cancelled()?;
            }
        }
        Ok(reader.raw)
    }

    fn delimiter_of(&self, header: &str) -> char {
        match self.delimiter {
            Delimiter::Comma => ',',
            Delimiter::Semicolon => ';',
            Delimiter::Tab => '\t',
            Delimiter::Pipe => '|',
            Delimiter::Auto => [';', '\t', '|']
                .into_iter()
                .find(|&c| header.contains(c))
                .unwrap_or(','),
        }
    }

    fn positions(
        &self,
        names: &[String],
        first: &[Cow<'_, str>],
        number: u64,
        origin: &Origin<'_>,
    ) -> Result<Positions, StageError> {
        if self.header
            && first
                .iter()
                .filter(|cell| cell.trim().parse::<f64>().is_ok())
                .count()
                >= 4
        {
            let help = "add a header to the file, or say `header = false`";
            return Err(origin.wrong_at(number, "", "numbers where the header was expected", help));
        }
        let mut columns = self.columns.clone();
        if !self.header {
            let fields = [
                &mut columns.time,
                &mut columns.open,
                &mut columns.high,
                &mut columns.low,
                &mut columns.close,
                &mut columns.volume,
            ];
            for (i, field) in fields.into_iter().enumerate() {
                field.get_or_insert_with(|| (i + 1).to_string());
            }
        }
        columns
            .find(&self.extra, names)
            .map_err(|(message, help)| origin.wrong_at(number, "", &message, &help))
    }
}

/// The file's text without a byte order mark.
fn text_of<'a>(content: &'a [u8], origin: &Origin<'_>) -> Result<&'a [u8], StageError> {
    let foreign: [(&[u8], &str, &str); 6] = [
        (&[0xff, 0xfe], "UTF-16", "save it as UTF-8"),
        (&[0xfe, 0xff], "UTF-16", "save it as UTF-8"),
        (&[0x1f, 0x8b], "gzip", "unpack it first"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "unpack it first"),
        (
            b"PK\x03\x04",
            "a zip archive or a spreadsheet",
            "unpack it, or save the sheet as CSV",
        ),
        (b"PAR1", "Parquet", "use `load.parquet`"),
    ];
    if let Some((_, what, help)) = foreign
        .iter()
        .find(|(magic, ..)| content.starts_with(magic))
    {
        return Err(origin.wrong(&format!("the file is {what}, not CSV in UTF-8"), help));
    }
    Ok(content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content))
}

/// Lines with their numbers from 1; they end in `\n`, `\r\n` or `\r`.
struct Lines<'a> {
    rest: &'a [u8],
    number: u64,
}

impl<'a> Lines<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, number: 0 }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
        let (line, rest) = end.map_or((self.rest, &self.rest[..0]), |end| {
            let (line, rest) = self.rest.split_at(end);
            let ending = if rest.starts_with(b"\r\n") { 2 } else { 1 };
            (line, &rest[ending..])
        });
        self.rest = rest;
        Some((self.number, line))
    }
}

fn checked_line<'a>(
    number: u64,
    line: &'a [u8],
    origin: &Origin<'_>,
) -> Result<&'a str, StageError> {
    if line.len() > MAX_LINE_BYTES {
        let message = format!(
            "the line has {} bytes, and {MAX_LINE_BYTES} is the most",
            line.len()
        );
        return Err(origin.wrong_at(
            number,
            "",
            &message,
            "check that the file is a table of candles",
        ));
    }
    if line.contains(&0) {
        return Err(origin.wrong_at(
            number,
            "",
            "the line holds a zero byte",
            "check that the file is text",
        ));
    }
    std::str::from_utf8(line).map_err(|e| {
        let message = format!("byte {} of the line is not UTF-8", e.valid_up_to() + 1);
        origin.wrong_at(number, "", &message, "save the file as UTF-8")
    })
}

/// The cells of a line. A cell in quotes may hold the delimiter, and a quote written twice; it ends on its line.
fn cells(line: &str, delimiter: char) -> Result<Vec<Cow<'_, str>>, (String, &'static str)> {
    if !line.contains('"') {
        return Ok(line.split(delimiter).map(Cow::Borrowed).collect());
    }
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let trimmed = rest.trim_start_matches(' ');
        let after = if let Some(mut quoted) = trimmed.strip_prefix('"') {
            let mut cell = String::new();
            loop {
                let open = || {
                    (
                        "a quote is not closed on its line".to_owned(),
                        "mend the quotes",
                    )
                };
                let end = quoted.find('"').ok_or_else(open)?;
                cell.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(more) => {
                        cell.push('"');
                        quoted = more;
                    }
                    None => break,
                }
            }
            cells.push(Cow::Owned(cell));
            let after = quoted.trim_start_matches(' ');
            if !after.is_empty() && !after.starts_with(delimiter) {
                return Err(("text follows a closing quote".into(), "mend the quotes"));
            }
            after
        } else {
            let end = rest.find(delimiter).unwrap_or(rest.len());
            cells.push(Cow::Borrowed(&rest[..end]));
            &rest[end..]
        };
        match after.strip_prefix(delimiter) {
            Some(next) => rest = next,
            None => return Ok(cells),
        }
    }
}

/// Reads bars line by line.
struct Reader<'a> {
    origin: &'a Origin<'a>,
    names: &'a [String],
    positions: &'a Positions,
    times: TimeReader,
    decimal: Decimal,
    raw: RawBars,
}

impl Reader<'_> {
    fn bar(&mut self, number: u64, cells: &[Cow<'_, str>]) -> Result<(), StageError> {
        if cells.len() != self.names.len() {
            let message = format!(
                "{} cells, where the header has {}",
                cells.len(),
                self.names.len()
            );
            return Err(self.origin.wrong_at(number, "", &message, "mend the line"));
        }
        if self.raw.places.len() == MAX_BARS {
            let message = format!("more than {MAX_BARS} bars");
            return Err(self.origin.wrong_at(number, "", &message, "split the file"));
        }
        self.raw.places.push(number);
        let time = &cells[self.positions.time];
        let time = match self.positions.date {
            Some(date) => Cow::Owned(format!("{} {}", cells[date].trim(), time.trim())),
            None => Cow::Borrowed(time.trim()),
        };
        let ts_ns =
            if is_missing(&time) {
                None
            } else {
                let read = self.times.read(&time);
                let column = &self.names[self.positions.time];
                Some(read.map_err(|(message, help)| {
                    self.origin.wrong_at(number, column, &message, &help)
                })?)
            };
        self.raw.times.push(ts_ns);
        for k in 0..VALUES.len() {
            let value = self.number(number, self.positions.values[k], cells)?;
            self.raw.values[k].push(value);
        }
        for k in 0..self.positions.extra.len() {
            let position = self.positions.extra[k];
            let value = self.number(number, position, cells)?;
            if value.is_infinite() {
                let (column, message) =
                    (&self.names[position], "the value is infinite or too large");
                return Err(self
                    .origin
                    .wrong_at(number, column, message, "mend the file"));
            }
            self.raw.extra[k].1.push(value);
        }
        Ok(())
    }

    /// The number in a cell; NaN when it is missing.
    fn number(
        &mut self,
        line: u64,
        position: usize,
        cells: &[Cow<'_, str>],
    ) -> Result<f64, StageError> {
        let cell = cells[position].trim();
        if is_missing(cell) {
            return Ok(f64::NAN);
        }
        if self.decimal == Decimal::Auto && cell.contains([',', '.']) {
            self.decimal = if cell.contains('.') {
                Decimal::Point
            } else {
                Decimal::Comma
            };
        }
        let value = if self.decimal == Decimal::Comma {
            if cell.contains('.') {
                None
            } else {
                cell.replacen(',', ".", 1).parse::<f64>().ok()
            }
        } else {
            cell.parse::<f64>().ok()
        };
        value.ok_or_else(|| {
            let shown: String = cell.chars().take(40).collect();
            let help = if cell
                .bytes()
                .all(|b| b.is_ascii_digit() || b",. '-+".contains(&b))
            {
                "numbers have no thousands separators; `decimal` says which sign the fraction has"
            } else {
                "write a number, or leave the cell empty and set `policies.missing`"
            };
            let message = format!("`{shown}` is no number");
            self.origin
                .wrong_at(line, &self.names[position], &message, help)
        })
    }
}

/// What programs write for a missing value.
fn is_missing(cell: &str) -> bool {
    if cell.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        return false;
    }
    cell.is_empty()
        || [
            "nan", "-nan", "na", "n/a", "null", "none", "nil", "#n/a", "-",
        ]
        .iter()
        .any(|word| cell.eq_ignore_ascii_case(word))
}
