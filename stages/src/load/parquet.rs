//! `uses = "load.parquet"`: candles from a Parquet file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType},
};
use natron_artifacts::{Kind, PortSchema, Schemas, Signature, Stage, StageContext, StageError};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    file::metadata::ParquetMetaData,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    bars::{BarPolicies, MAX_BARS, Order, Origin, RawBars, TimeIs, Timing, checked},
    columns::{CandleColumns, Positions, candle_columns, check_extra},
    interval::Interval,
    time::TimeReader,
    whole_file::WholeFile,
};

/// The footer describes row groups and columns; a longer one describes no table of candles.
const MAX_FOOTER_BYTES: u64 = 64 << 20;
/// No table of candles has nearly as many.
const MAX_COLUMNS: usize = 4096;
/// What the read columns may take once unpacked.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;
/// Pages compress at most about so well (long runs of one value in a dictionary); a file that claims more is a bomb.
const MAX_RATIO: u64 = 20_000;
/// Rows decoded at a time.
const BATCH_ROWS: usize = 65_536;

/// Candles from a Parquet file.
///
/// The time may be a timestamp of any unit, an integer or a text (see `time_format`); prices and volume may be numbers of
/// any type. Outputs as of `load.csv`: `candles` (table: `ts_ns`, `open`, `high`, `low`, `close`, `volume`, then the columns
/// of `extra`) and `statistics` (metrics). Errors name the row of the file; the first row is 1.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadParquet {
    /// The file, relative to the workspace or absolute. Its content is part of the key; its path is not.
    pub(super) path: String,
    /// The file's names of the columns, as `{ time = "date", volume = "base_volume" }`.
    #[serde(default)]
    pub(super) columns: CandleColumns,
    /// Further columns of numbers to keep: their name in `candles`, then the file's name. Nulls stay missing.
    #[serde(default)]
    pub(super) extra: BTreeMap<String, String>,
    /// Form of times that are texts or integers: `auto`, `unix_s`, `unix_ms`, `unix_us`, `unix_ns` or a pattern of strptime.
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

fn auto() -> String {
    "auto".into()
}

fn utc() -> String {
    "UTC".into()
}

impl Default for LoadParquet {
    /// What leaving all parameters out means.
    fn default() -> Self {
        serde_json::from_str(r#"{"path": ""}"#).expect("every other parameter has a default")
    }
}

impl Stage for LoadParquet {
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
        let path = context.source_path("path")?;
        let file = File::open(path)
            .map_err(|e| StageError::io(format!("cannot read `{}`", path.display()), e))?;
        let origin = Origin {
            file: &self.path,
            place: "row",
        };
        // The reader means to return errors for damaged files, and its authors call a panic a bug; there have been many.
        let raw = catch_unwind(AssertUnwindSafe(|| self.read(file, &origin, context)));
        let raw = raw.unwrap_or_else(|_| {
            Err(origin.wrong("the Parquet reader broke on it", "the file is damaged"))
        })?;
        let timing = Timing {
            order: self.order,
            time_is: self.time_is,
            interval: self.interval,
        };
        let bars = checked(&raw, &self.policies, timing, &origin)?;
        context.log(&format!("{} bars", bars.ts_ns.len()));
        context.write("statistics", bars.statistics.clone())?;
        context.write("candles", bars.table()?)
    }
}

impl LoadParquet {
    fn read(
        &self,
        mut file: File,
        origin: &Origin<'_>,
        context: &StageContext,
    ) -> Result<RawBars, StageError> {
        let damaged = |e: &dyn std::fmt::Display| {
            origin.wrong(
                &format!("the file is damaged: {e}"),
                "fetch or write it again",
            )
        };
        let file_bytes = check_footer(&mut file, origin)?;
        // The Arrow schema that writers embed is left aside: it only adds types that candles do not need.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let file = WholeFile::new(file, file_bytes);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(|e| damaged(&e))?;
        let schema = metadata.schema().clone();
        if schema.fields().len() > MAX_COLUMNS {
            let message = format!(
                "{} columns are more than {MAX_COLUMNS}",
                schema.fields().len()
            );
            return Err(origin.wrong(&message, "write only the columns of the candles"));
        }
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let positions = self.columns.find(&self.extra, &names);
        let positions = positions.map_err(|(message, help)| origin.wrong(&message, &help))?;
        let mut wanted = positions.all();
        wanted.sort_unstable();
        wanted.dedup();
        for &i in &wanted {
            check_type(schema.field(i).name(), schema.field(i).data_type(), origin)?;
        }
        let mask = ProjectionMask::roots(metadata.parquet_schema(), wanted.iter().copied());
        check_sizes(metadata.metadata(), &mask, file_bytes, origin)?;

        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build();
        let mut raw = RawBars {
            extra: self
                .extra
                .keys()
                .map(|name| (name.clone(), Vec::new()))
                .collect(),
            ..RawBars::default()
        };
        let mut times = TimeReader::new(&self.time_format, &self.time_zone)?;
        for batch in reader.map_err(|e| damaged(&e))? {
            context.check_cancelled()?;
            let batch = batch.map_err(|e| damaged(&e))?;
            let column = |position: usize| {
                let i = wanted
                    .binary_search(&position)
                    .expect("every position is wanted");
                (names[position].as_str(), batch.column(i))
            };
            append(&mut raw, &positions, column, &mut times, origin)?;
        }
        Ok(raw)
    }
}

/// The length of the file, after a look at its last bytes.
fn check_footer(file: &mut File, origin: &Origin<'_>) -> Result<u64, StageError> {
    let read_error = |e| StageError::io(format!("cannot read `{}`", origin.file), e);
    let size = file.metadata().map_err(read_error)?.len();
    let not_parquet = |what: &str| {
        let help = "check the path; `load.csv` reads text";
        Err(origin.wrong(&format!("the file is not Parquet: {what}"), help))
    };
    if size < 12 {
        return not_parquet(&format!("it has {size} bytes"));
    }
    let mut tail = [0; 8];
    file.seek(SeekFrom::End(-8)).map_err(read_error)?;
    file.read_exact(&mut tail).map_err(read_error)?;
    match &tail[4..] {
        b"PAR1" => {}
        b"PARE" => return not_parquet("it is encrypted"),
        _ => return not_parquet("it does not end in `PAR1`"),
    }
    let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if footer > MAX_FOOTER_BYTES || footer > size - 8 {
        return not_parquet(&format!("its footer would have {footer} bytes"));
    }
    Ok(size)
}

fn check_type(name: &str, data_type: &DataType, origin: &Origin<'_>) -> Result<(), StageError> {
    let is_usable = data_type.is_numeric()
        || matches!(
            data_type,
            DataType::Timestamp(..)
                | DataType::Date32
                | DataType::Date64
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Null
        );
    if is_usable {
        return Ok(());
    }
    let message = format!("column `{name}` is {data_type}, neither a number nor a time");
    Err(origin.wrong(
        &message,
        "write it as a float, an integer, a timestamp or a text",
    ))
}

/// Refuses what would not fit, before anything is decoded.
fn check_sizes(
    metadata: &ParquetMetaData,
    mask: &ProjectionMask,
    file_bytes: u64,
    origin: &Origin<'_>,
) -> Result<(), StageError> {
    let damaged = |what: String| {
        Err(origin.wrong(
            &format!("the file is damaged: {what}"),
            "fetch or write it again",
        ))
    };
    let (mut rows, mut unpacked) = (0_u64, 0_u64);
    for group in metadata.row_groups() {
        let Ok(group_rows) = u64::try_from(group.num_rows()) else {
            return damaged(format!("a row group has {} rows", group.num_rows()));
        };
        rows = rows.saturating_add(group_rows);
        for (i, column) in group.columns().iter().enumerate() {
            if !mask.leaf_included(i) {
                continue;
            }
            let packed = u64::try_from(column.compressed_size());
            let plain = u64::try_from(column.uncompressed_size());
            let start = u64::try_from(
                column
                    .dictionary_page_offset()
                    .unwrap_or_else(|| column.data_page_offset()),
            );
            let (Ok(packed), Ok(plain), Ok(start)) = (packed, plain, start) else {
                return damaged("a column has a negative size".into());
            };
            if start.checked_add(packed).is_none_or(|end| end > file_bytes) {
                return damaged("a column lies outside it".into());
            }
            if column.num_values() != group.num_rows() {
                return damaged(format!(
                    "a column has {} values in {group_rows} rows",
                    column.num_values()
                ));
            }
            unpacked = unpacked.saturating_add(plain);
        }
    }
    if i64::try_from(rows) != Ok(metadata.file_metadata().num_rows()) {
        let stated = metadata.file_metadata().num_rows();
        return damaged(format!("it states {stated} rows and has {rows}"));
    }
    if rows > MAX_BARS as u64 {
        return Err(origin.wrong(
            &format!("{rows} rows are more than {MAX_BARS}"),
            "split the file",
        ));
    }
    if unpacked > MAX_UNPACKED_BYTES || unpacked / MAX_RATIO > file_bytes {
        let message = format!("{file_bytes} bytes would unpack to {unpacked}");
        return Err(origin.wrong(
            &message,
            "split the file, or write it with less compression",
        ));
    }
    Ok(())
}

fn append<'a>(
    raw: &mut RawBars,
    positions: &Positions,
    column: impl Fn(usize) -> (&'a str, &'a ArrayRef),
    times: &mut TimeReader,
    origin: &Origin<'_>,
) -> Result<(), StageError> {
    let first = raw.places.len() as u64 + 1;
    let (name, time) = column(positions.time);
    let date = positions.date.map(|date| column(date).1);
    raw.places.extend(first..first + time.len() as u64);
    append_times(&mut raw.times, first, name, time, date, times, origin)?;
    for (values, &position) in raw.values.iter_mut().zip(&positions.values) {
        let (name, array) = column(position);
        append_numbers(values, first, name, array, origin)?;
    }
    for ((_, values), &position) in raw.extra.iter_mut().zip(&positions.extra) {
        let (name, array) = column(position);
        let before = values.len();
        append_numbers(values, first, name, array, origin)?;
        if let Some(i) = values[before..].iter().position(|v| v.is_infinite()) {
            let message = "the value is infinite";
            return Err(origin.wrong_at(first + i as u64, name, message, "mend the file"));
        }
    }
    Ok(())
}

fn append_times(
    out: &mut Vec<Option<i64>>,
    first: u64,
    name: &str,
    time: &ArrayRef,
    date: Option<&ArrayRef>,
    times: &mut TimeReader,
    origin: &Origin<'_>,
) -> Result<(), StageError> {
    let at = |i: usize, (message, help): (String, String)| {
        origin.wrong_at(first + i as u64, name, &message, &help)
    };
    let wrong_type = || {
        let message = format!("column `{name}` is {}, which is no time", time.data_type());
        Err(origin.wrong(
            &message,
            "say which column is the time: `columns.time = \"...\"`",
        ))
    };
    let as_text = |array: &ArrayRef| cast(array, &DataType::Utf8).ok();
    if let Some(date) = date {
        let (Some(date), Some(time)) = (as_text(date), as_text(time)) else {
            return wrong_type();
        };
        let (date, time) = (date.as_string::<i32>(), time.as_string::<i32>());
        for i in 0..time.len() {
            let is_missing = date.is_null(i) || time.is_null(i);
            let text = (!is_missing).then(|| format!("{} {}", date.value(i), time.value(i)));
            out.push(
                text.map(|text| times.read(&text))
                    .transpose()
                    .map_err(|e| at(i, e))?,
            );
        }
        return Ok(());
    }
    match time.data_type() {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            // A stamp with a zone counts from 1970 in UTC whatever the zone; one without is local time.
            let (zone, offset_ns) = match time.data_type() {
                DataType::Timestamp(_, Some(zone)) => (Some(Arc::clone(zone)), 0),
                _ => (None, times.offset_ns()),
            };
            let Ok(converted) = cast(time, &DataType::Timestamp(TimeUnit::Nanosecond, zone)) else {
                return wrong_type();
            };
            let converted = converted.as_primitive::<TimestampNanosecondType>();
            for i in 0..time.len() {
                let stamp = converted.is_valid(i).then(|| converted.value(i));
                let stamp = stamp.and_then(|stamp| stamp.checked_sub(offset_ns));
                if time.is_valid(i) && stamp.is_none() {
                    let message = "the time does not fit the years 1678 to 2262";
                    return Err(at(i, (message.into(), "mend the file".into())));
                }
                out.push(stamp);
            }
        }
        data_type if data_type.is_integer() => {
            let Ok(counts) = cast(time, &DataType::Int64) else {
                return wrong_type();
            };
            let counts = counts.as_primitive::<Int64Type>();
            for i in 0..time.len() {
                let value = (time.is_valid(i) && counts.is_valid(i))
                    .then(|| times.read_count(counts.value(i)));
                out.push(value.transpose().map_err(|e| at(i, e))?);
            }
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let Some(texts) = as_text(time) else {
                return wrong_type();
            };
            let texts = texts.as_string::<i32>();
            for i in 0..texts.len() {
                let text = (texts.is_valid(i) && !texts.value(i).trim().is_empty())
                    .then(|| times.read(texts.value(i)));
                out.push(text.transpose().map_err(|e| at(i, e))?);
            }
        }
        _ => return wrong_type(),
    }
    Ok(())
}

fn append_numbers(
    out: &mut Vec<f64>,
    first: u64,
    name: &str,
    array: &ArrayRef,
    origin: &Origin<'_>,
) -> Result<(), StageError> {
    if *array.data_type() == DataType::Null {
        out.extend(std::iter::repeat_n(f64::NAN, array.len()));
        return Ok(());
    }
    if !array.data_type().is_numeric() {
        let is_text = matches!(
            array.data_type(),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        );
        let text = cast(array, &DataType::Utf8).ok().filter(|_| is_text);
        let Some(text) = text else {
            let message = format!(
                "column `{name}` is {}, where numbers were expected",
                array.data_type()
            );
            return Err(origin.wrong(&message, "write it as numbers"));
        };
        for (i, cell) in text.as_string::<i32>().iter().enumerate() {
            let value = cell.map_or(Ok(f64::NAN), |cell| {
                cell.trim().parse().map_err(|_| {
                    let shown: String = cell.chars().take(40).collect();
                    let message = format!("`{shown}` is no number");
                    origin.wrong_at(first + i as u64, name, &message, "mend the file")
                })
            });
            out.push(value?);
        }
        return Ok(());
    }
    let converted = cast(array, &DataType::Float64).map_err(|e| {
        let message = format!("column `{name}`: {e}");
        origin.wrong(&message, "write it as numbers")
    })?;
    out.extend(
        converted
            .as_primitive::<Float64Type>()
            .iter()
            .map(|v| v.unwrap_or(f64::NAN)),
    );
    Ok(())
}
