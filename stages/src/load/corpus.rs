//! Files that are wrong in every way we could think of: each gives its message, at its place, and none a panic.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch,
        StringArray, TimestampMillisecondArray,
    },
    datatypes::Int32Type,
};
use natron_artifacts::{
    Artifact, Metrics, Registry, Schemas, StageContext, StageContextParts, StageError, Table,
};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::registry;

/// What a stage made of a file, or its error and the help beside it.
fn load(kind: &str, content: &[u8], with: Value) -> Result<(Table, Metrics), (String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, content).unwrap();
    load_file(kind, &path, with)
}

fn load_file(
    kind: &str,
    path: &Path,
    mut with: Value,
) -> Result<(Table, Metrics), (String, String)> {
    thread_local! {
        static REGISTRY: Registry = registry();
    }
    let directory = tempfile::tempdir().unwrap();
    with["path"] = json!("bars");
    let stage = REGISTRY.with(|registry| registry.get(kind).unwrap().parse(&with).unwrap().stage);
    let run = || -> Result<_, StageError> {
        let signature = stage.signature(&Schemas::new())?;
        let mut parts = StageContextParts::for_test(directory.path());
        parts.sources.insert("path".into(), path.to_owned());
        let mut context = StageContext::new(parts, signature);
        stage.run(&mut context)?;
        context.finish()
    };
    let outputs = run().map_err(|e| (e.to_string(), e.help().unwrap_or_default().to_owned()))?;
    match (&outputs["candles"], &outputs["statistics"]) {
        (Artifact::Table(table), Artifact::Metrics(metrics)) => {
            Ok(((**table).clone(), (**metrics).clone()))
        }
        _ => panic!("outputs of other kinds"),
    }
}

fn csv(content: impl AsRef<[u8]>, with: Value) -> Result<(Table, Metrics), (String, String)> {
    load("load.csv", content.as_ref(), with)
}

fn column(table: &Table, name: &str) -> Vec<f64> {
    table.f64(name).unwrap().into_owned()
}

const HEADER: &str = "time,open,high,low,close,volume\n";
const GOOD: &str = "\
time,open,high,low,close,volume
2024-01-01T00:00:00Z,10,12,9,11,5
2024-01-01T01:00:00Z,11,13,10,12,6
2024-01-01T02:00:00Z,12,14,11,13,7
";

/// The good file with line 3 replaced.
fn line_3(line: &str) -> String {
    let lines: Vec<_> = GOOD.lines().collect();
    [lines[0], lines[1], line, lines[3], ""].join("\n")
}

/// The good file with another header.
fn header(header: &str) -> String {
    GOOD.replacen(HEADER.trim_end(), header, 1)
}

/// Contents, parameters, message and a part of the help.
#[expect(clippy::too_many_lines, reason = "a table")]
fn malformed() -> Vec<(Vec<u8>, Value, &'static str, &'static str)> {
    let at = "2024-01-01T01:00:00Z";
    let row = |rest: &str| line_3(&format!("{at},{rest}")).into_bytes();
    let time = |text: &str| line_3(&format!("{text},11,13,10,12,6")).into_bytes();
    let plain = || json!({});
    let bytes = |text: &[u8]| text.to_vec();
    let mut long = GOOD.to_owned();
    long.push_str(&"1".repeat(2 << 20));
    let wide = vec!["x"; 5000].join(",");
    let mut not_utf8 = GOOD.as_bytes().to_vec();
    let position = HEADER.len() + 3;
    not_utf8[position] = 0xe9;
    let mut zero_byte = GOOD.as_bytes().to_vec();
    zero_byte[position] = 0;
    let utf16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(GOOD.bytes().flat_map(|b| [b, 0]))
        .collect();
    vec![
        // The file as a whole.
        (
            bytes(b""),
            plain(),
            "`bars`: the file is empty",
            "one header",
        ),
        (
            bytes(b"\n\r\n \n"),
            plain(),
            "`bars`: the file is empty",
            "one header",
        ),
        (
            bytes(b"\xef\xbb\xbf"),
            plain(),
            "`bars`: the file is empty",
            "one header",
        ),
        (
            HEADER.into(),
            plain(),
            "`bars`: there are no bars in it",
            "header at most",
        ),
        (
            utf16,
            plain(),
            "`bars`: the file is UTF-16, not CSV in UTF-8",
            "UTF-8",
        ),
        (
            bytes(b"\x1f\x8b\x08\x00"),
            plain(),
            "`bars`: the file is gzip, not CSV in UTF-8",
            "unpack",
        ),
        (
            bytes(b"\x28\xb5\x2f\xfd"),
            plain(),
            "`bars`: the file is zstd, not CSV in UTF-8",
            "unpack",
        ),
        (
            bytes(b"PK\x03\x04"),
            plain(),
            "`bars`: the file is a zip archive or a spreadsheet, not CSV in UTF-8",
            "sheet",
        ),
        (
            bytes(b"PAR1...."),
            plain(),
            "`bars`: the file is Parquet, not CSV in UTF-8",
            "load.parquet",
        ),
        (
            GOOD.into(),
            json!({ "skip_lines": 9 }),
            "`bars`: the file is empty",
            "one header",
        ),
        // The header.
        (
            GOOD.replacen(HEADER, "", 1).into(),
            plain(),
            "`bars`, line 1: numbers where the header was expected",
            "header = false",
        ),
        (
            header("time,open,high,low,close,VolumeFrom").into(),
            plain(),
            "`bars`, line 1: no column for `volume`",
            "`VolumeFrom` it is: `columns.volume = \"...\"`",
        ),
        (
            header("when,open,high,low,close,volume").into(),
            plain(),
            "`bars`, line 1: no column for `time`",
            "`when`",
        ),
        (
            header("time,open,open,low,close,volume").into(),
            plain(),
            "`bars`, line 1: two columns are called `open`",
            "rename",
        ),
        (
            GOOD.into(),
            json!({ "columns": { "close": "adj_close" } }),
            "`bars`, line 1: no column is called `adj_close`",
            "`time`, `open`",
        ),
        (
            GOOD.into(),
            json!({ "extra": { "n": "trades" } }),
            "`bars`, line 1: no column is called `trades`",
            "`volume`",
        ),
        (
            GOOD.into(),
            json!({ "delimiter": "semicolon" }),
            "`bars`, line 1: no column for `time`",
            "columns.time",
        ),
        (
            wide.into_bytes(),
            plain(),
            "`bars`, line 1: 5000 columns are more than 4096",
            "delimiter",
        ),
        (
            bytes(b"<html>\n<body>404</body>\n"),
            plain(),
            "`bars`, line 1: no column for `time`",
            "`<html>`",
        ),
        // Lines.
        (
            row("11,13,10,12"),
            plain(),
            "`bars`, line 3: 5 cells, where the header has 6",
            "mend",
        ),
        (
            row("11,13,10,12,6,7"),
            plain(),
            "`bars`, line 3: 7 cells, where the header has 6",
            "mend",
        ),
        (
            row("11,13,10,\"12,6"),
            plain(),
            "`bars`, line 3: a quote is not closed on its line",
            "quotes",
        ),
        (
            row("11,13,10,\"12\"x,6"),
            plain(),
            "`bars`, line 3: text follows a closing quote",
            "quotes",
        ),
        (
            not_utf8,
            plain(),
            "`bars`, line 2: byte 4 of the line is not UTF-8",
            "UTF-8",
        ),
        (
            zero_byte,
            plain(),
            "`bars`, line 2: the line holds a zero byte",
            "text",
        ),
        (
            long.into_bytes(),
            plain(),
            "`bars`, line 5: the line has 2097152 bytes, and 1048576 is the most",
            "table",
        ),
        // Times.
        (
            time(""),
            plain(),
            "`bars`, line 3, column `time`: the time is missing",
            "policies.missing",
        ),
        (
            time("yesterday"),
            plain(),
            "`bars`, line 3, column `time`: `yesterday` is no time",
            "time_format",
        ),
        (
            time("2024-02-30 01:00"),
            plain(),
            "`bars`, line 3, column `time`: `2024-02-30 01:00` is no time",
            "look like",
        ),
        (
            time("2024-01-01 25:00"),
            plain(),
            "`bars`, line 3, column `time`: `2024-01-01 25:00` is no time",
            "look like",
        ),
        (
            time("01.02.2024 01:00"),
            plain(),
            "`bars`, line 3, column `time`: in `01.02.2024 01:00` day and month may be either way round",
            "%d.%m.%Y",
        ),
        (
            time("1704070800"),
            plain(),
            "`bars`, line 3, column `time`: `1704070800` is in seconds, where the times before are a date",
            "time_format",
        ),
        (
            time("9999-01-01"),
            plain(),
            "`bars`, line 3, column `time`: `9999-01-01` is no time",
            "look like",
        ),
        (
            GOOD.into(),
            json!({ "time_format": "%d.%m.%Y %H:%M" }),
            "`bars`, line 2, column `time`: `2024-01-01T00:00:00Z` is no time",
            "%d.%m.%Y %H:%M",
        ),
        (
            GOOD.into(),
            json!({ "time_format": "unix_s" }),
            "`bars`, line 2, column `time`: `2024-01-01T00:00:00Z` is no time",
            "1970",
        ),
        (
            header("time,open,high,low,close,volume")
                .replace("2024-01-01T00:00:00Z", "20240101")
                .into(),
            plain(),
            "`bars`, line 2, column `time`: `20240101` may be a date or seconds since 1970",
            "%Y%m%d",
        ),
        // Order, duplicates, gaps.
        (
            time("2023-12-31T00:00:00Z"),
            plain(),
            "`bars`, line 3, column `time`: 2023-12-31T00:00:00Z is earlier than the bar before, 2024-01-01T00:00:00Z",
            "order = \"sort\"",
        ),
        (
            GOOD.into(),
            json!({ "order": "descending" }),
            "`bars`, line 3, column `time`: 2024-01-01T01:00:00Z is later than the bar before, 2024-01-01T00:00:00Z \
             (2 such: lines 3, 4)",
            "sort",
        ),
        (
            time("2024-01-01T00:00:00Z"),
            plain(),
            "`bars`, line 3, column `time`: 2024-01-01T00:00:00Z was there already, on line 2, with other values",
            "keep_first",
        ),
        (
            line_3("2024-01-01T00:00:00Z,10,12,9,11,5").into(),
            plain(),
            "`bars`, line 3, column `time`: 2024-01-01T00:00:00Z was there already, on line 2, with the same values",
            "keep_last",
        ),
        (
            GOOD.into(),
            json!({ "interval": "15m", "policies": { "gaps": "error" } }),
            "`bars`, line 3, column `time`: 3 bars are missing between 2024-01-01T00:00:00Z and 2024-01-01T01:00:00Z \
             (2 such: lines 3, 4)",
            "max_gap_bars",
        ),
        // Numbers.
        (
            row("11,13,10,,6"),
            plain(),
            "`bars`, line 3, column `close`: the value is missing",
            "policies.missing",
        ),
        (
            row("11,13,10,NaN,6"),
            plain(),
            "`bars`, line 3, column `close`: the value is missing",
            "fill_previous",
        ),
        (
            row("11,13,10,null,6"),
            plain(),
            "`bars`, line 3, column `close`: the value is missing",
            "drop",
        ),
        (
            row("11,13,10,-nan,6"),
            plain(),
            "`bars`, line 3, column `close`: the value is missing",
            "drop",
        ),
        (
            row("11,x13,10,12,6"),
            plain(),
            "`bars`, line 3, column `high`: `x13` is no number",
            "empty",
        ),
        (
            row("11,13,10,$12,6"),
            plain(),
            "`bars`, line 3, column `close`: `$12` is no number",
            "number",
        ),
        (
            row("\"1,011.5\",13,10,12,6"),
            plain(),
            "`bars`, line 3, column `open`: `1,011.5` is no number",
            "thousands",
        ),
        (
            row("11 000,13,10,12,6"),
            plain(),
            "`bars`, line 3, column `open`: `11 000` is no number",
            "thousands",
        ),
        (
            row("0x11,13,10,12,6"),
            plain(),
            "`bars`, line 3, column `open`: `0x11` is no number",
            "number",
        ),
        (
            row("11,1e400,10,12,6"),
            plain(),
            "`bars`, line 3, column `high`: the value is infinite or too large for a number of double precision",
            "non_finite",
        ),
        (
            row("11,inf,10,12,6"),
            plain(),
            "`bars`, line 3, column `high`: the value is infinite or too large for a number of double precision",
            "non_finite",
        ),
        (
            row("11,13,10,12,-Infinity"),
            plain(),
            "`bars`, line 3, column `volume`: the value is infinite or too large for a number of double precision",
            "drop",
        ),
        (
            row("11,1e308,10,12,6"),
            plain(),
            "`bars`, line 3, column `high`: 1e308 is beyond 1e15, too large to compute with",
            "drop",
        ),
        (
            row("0,13,10,12,6"),
            plain(),
            "`bars`, line 3, column `open`: 0 is no price",
            "zero_prices",
        ),
        (
            row("-11,13,10,12,6"),
            plain(),
            "`bars`, line 3, column `open`: -11 is no price",
            "zero_prices",
        ),
        (
            row("11,13,1e-320,12,6"),
            plain(),
            "`bars`, line 3, column `low`: ",
            "zero_prices",
        ),
        (
            row("11,13,10,12,-6"),
            plain(),
            "`bars`, line 3, column `volume`: -6 is no volume",
            "negative_volume",
        ),
        (
            row("11,9,10,12,6"),
            plain(),
            "`bars`, line 3, column `high`: the high 9 is below the low 10",
            "swap",
        ),
        (
            row("14,13,10,12,6"),
            plain(),
            "`bars`, line 3, column `open`: 14 is outside low 10 and high 13",
            "widen",
        ),
        (
            row("11,13,10,9,6"),
            plain(),
            "`bars`, line 3, column `close`: 9 is outside low 10 and high 13",
            "widen",
        ),
        (
            GOOD.replace(',', ";")
                .replace(";10;", ";10,5;")
                .replace(";11;13", ";11.5;13")
                .into(),
            plain(),
            "`bars`, line 3, column `open`: `11.5` is no number",
            "decimal",
        ),
    ]
}

#[test]
fn every_malformed_csv_says_what_and_where() {
    let corpus = malformed();

    assert!(corpus.len() >= 45, "{}", corpus.len());
    for (i, (content, with, message, help)) in corpus.into_iter().enumerate() {
        let shown = String::from_utf8_lossy(&content[..content.len().min(200)]).into_owned();
        let (found, found_help) =
            csv(&content, with).expect_err(&format!("{i}: {message}: {shown}"));
        if message.ends_with(' ') {
            assert!(found.starts_with(message), "{i}: {found}");
        } else {
            assert_eq!(found, message, "{i}: {shown}");
        }
        assert!(found_help.contains(help), "{i}: {found}: {found_help}");
    }
}

#[test]
fn the_same_bars_in_any_form_give_the_same_table() {
    let (expected, statistics) = csv(GOOD, json!({})).unwrap();
    let rows: Vec<_> = GOOD.lines().collect();
    let forms: Vec<(Vec<u8>, Value)> = vec![
        (GOOD.replace('\n', "\r\n").into(), json!({})),
        (GOOD.replace('\n', "\r").into(), json!({})),
        (format!("\u{feff}{GOOD}\n\n").into(), json!({})),
        (GOOD.trim_end().into(), json!({})),
        (GOOD.replace(',', ";").into(), json!({})),
        (GOOD.replace(',', "\t").into(), json!({})),
        (GOOD.replace(',', "|").into(), json!({})),
        (GOOD.replace(',', " , ").into(), json!({})),
        (
            GOOD.replace(',', "\",\"")
                .replace('\n', "\"\n\"")
                .trim_end_matches('"')
                .replacen("time", "\"time", 1)
                .into(),
            json!({}),
        ),
        (
            [rows[0], rows[3], rows[2], rows[1]].join("\n").into(),
            json!({}),
        ),
        (
            [rows[0], "", rows[1], "", rows[2], rows[3]]
                .join("\n")
                .into(),
            json!({}),
        ),
        (
            [rows[0], rows[2], rows[1], rows[3]].join("\n").into(),
            json!({ "order": "sort" }),
        ),
        (
            GOOD.replacen(HEADER, "", 1).into(),
            json!({ "header": false }),
        ),
        (
            format!("https://vendor.example\n{GOOD}").into(),
            json!({ "skip_lines": 1 }),
        ),
        (
            GOOD.replace(",10,", ",10.0,")
                .replace(",5\n", ",5e0\n")
                .into(),
            json!({}),
        ),
        (
            GOOD.replace(',', ";").replace(";12;", ";12,00;").into(),
            json!({}),
        ),
        (GOOD.replace('T', " ").replace(":00Z", "").into(), json!({})),
        (
            GOOD.replace("2024-01-01T0", "2024.01.01 ")
                .replace(":00Z", "")
                .into(),
            json!({}),
        ),
        (
            GOOD.replace("2024-01-01T00:00:00Z", "1704067200")
                .replace("2024-01-01T01:00:00Z", "1704070800")
                .replace("2024-01-01T02:00:00Z", "1704074400")
                .into(),
            json!({}),
        ),
        (
            GOOD.replace("2024-01-01T0", "01/01/2024 0")
                .replace(":00Z", "")
                .into(),
            json!({ "time_format": "%m/%d/%Y %H:%M" }),
        ),
        (
            GOOD.replace("time,", "<DATE>,<TIME>,")
                .replace("2024-01-01T", "2024.01.01,")
                .replace(":00Z", ":00")
                .into(),
            json!({}),
        ),
        (
            GOOD.replace(":00Z", "").into(),
            json!({ "time_zone": "+00:00" }),
        ),
    ];
    for (content, with) in forms {
        let shown = String::from_utf8_lossy(&content).into_owned();
        let with_order = with.get("order").cloned();
        let (table, found) = csv(&content, with).unwrap_or_else(|e| panic!("{e:?}: {shown}"));
        assert_eq!(table.logical_digest(), expected.logical_digest(), "{shown}");
        if with_order.is_none() {
            assert_eq!(found, statistics, "{shown}");
        }
    }
    assert_eq!(column(&expected, "close"), [11.0, 12.0, 13.0]);
    assert_eq!(expected.ts_ns().unwrap()[0], 1_704_067_200_000_000_000);
}

#[test]
fn numbers_are_read_to_the_nearest_double() {
    let text = GOOD.replace(
        ",11,5",
        ",10.100000000000000088817841970012523,0.30000000000000004",
    );

    let (table, _) = csv(text, json!({})).unwrap();
    assert_eq!(column(&table, "close")[0].to_bits(), 10.1_f64.to_bits());
    assert_eq!(
        column(&table, "volume")[0].to_bits(),
        (0.1_f64 + 0.2).to_bits()
    );
}

#[test]
fn extra_columns_are_kept_when_asked_for() {
    let text = GOOD
        .replace("volume\n", "volume,Trades\n")
        .replace(",5\n", ",5,40\n")
        .replace(",6\n", ",6,\n");
    let text = text.replace(",7\n", ",7,42\n");

    let (table, _) = csv(&text, json!({ "extra": { "trades": "Trades" } })).unwrap();
    assert_eq!(table.columns().last().unwrap().name, "trades");
    let trades = column(&table, "trades");
    assert!(trades[1].is_nan());
    assert_eq!((trades[0], trades[2]), (40.0, 42.0));
    assert_eq!(csv(&text, json!({})).unwrap().0.columns().len(), 6);
}

#[test]
fn every_row_is_kept_or_counted() {
    let text = "\
time,open,high,low,close,volume
2024-01-01 00:00,10,12,9,11,5
2024-01-01 01:00,,12,9,11,5
,10,12,9,11,5
2024-01-01 02:00,10,inf,9,11,5
2024-01-01 03:00,0,12,9,11,5
2024-01-01 04:00,10,12,9,11,-5
2024-01-01 05:00,10,8,9,11,5
2024-01-01 06:00,10,12,9,13,5
2024-01-01 07:00,10,12,9,11,5
2024-01-01 07:00,10,12,9,11.5,5
";
    let policies = json!({
        "missing": "drop", "non_finite": "drop", "zero_prices": "drop", "negative_volume": "drop",
        "high_below_low": "drop", "outside_range": "drop", "duplicates": "keep_last",
    });

    let (table, statistics) = csv(text, json!({ "policies": policies })).unwrap();
    assert_eq!(column(&table, "close"), [11.0, 11.5]);
    let dropped: f64 = statistics
        .numbers()
        .iter()
        .filter(|(path, _)| path.starts_with("dropped."))
        .map(|(_, n)| n)
        .sum();
    assert_eq!((dropped, statistics.get("bars_read")), (8.0, Some(10.0)));
}

fn shared(name: &str) -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("NATRON_SHARED")
        .map(std::path::PathBuf::from)
        .or_else(|| {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"));
            here.ancestors()
                .map(|folder| folder.join("../shared"))
                .find(|folder| folder.is_dir())
        });
    let path = folder
        .map(|folder| folder.join("data").join(name))
        .filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: shared/data/{name} is not there");
    }
    path
}

/// The vendor put five hours of 2017-11-12 between others; sorting is what there is to do about it.
fn sorted() -> Value {
    json!({ "order": "sort" })
}

#[test]
fn real_files_load() {
    for (name, rows, gaps, with) in [
        ("btcusd_h1.csv", 17_583, 0.0, sorted()),
        ("eurusd_h1.csv", 5000, 42.0, json!({})),
    ] {
        let Some(path) = shared(name) else { return };
        let (table, statistics) = load_file("load.csv", &path, with).unwrap();

        assert_eq!(table.n_rows(), rows);
        assert_eq!(statistics.get("interval_s"), Some(3600.0));
        assert_eq!(statistics.get("gaps.count"), Some(gaps), "weekends at most");
        assert!(table.ts_ns().unwrap().is_sorted_by(|a, b| a < b));
    }
}

#[test]
fn a_real_fault_of_order_is_found() {
    let Some(path) = shared("btcusd_h1.csv") else {
        return;
    };

    let (message, help) = load_file("load.csv", &path, json!({})).unwrap_err();
    assert_eq!(
        message,
        "`bars`, line 3207, column `time`: 2017-11-11T23:00:00Z is earlier than the bar before, 2017-11-12T04:00:00Z \
         (5 such: lines 3207, 3209, 3211, 3213, 3215)"
    );
    assert!(help.contains("order = \"sort\""), "{help}");
    let (_, statistics) = load_file("load.csv", &path, sorted()).unwrap();
    assert_eq!(statistics.get("sorted.out_of_order"), Some(5.0));
}

#[test]
fn the_vendors_file_gives_the_bars_of_the_cleaned_one() {
    let (Some(clean), Some(raw)) = (
        shared("btcusd_h1.csv"),
        shared("raw/coinbase_1h_btcusd_descending.csv"),
    ) else {
        return;
    };
    let columns = json!({
        "time": "Date", "open": "Open", "high": "High", "low": "Low", "close": "Close", "volume": "VolumeFrom",
    });

    let (clean, statistics) = load_file("load.csv", &clean, sorted()).unwrap();
    let (raw, raw_statistics) = load_file(
        "load.csv",
        &raw,
        json!({ "order": "sort", "columns": columns }),
    )
    .unwrap();
    assert_eq!(raw.logical_digest(), clean.logical_digest());
    assert_eq!(raw_statistics, statistics);
}

#[test]
fn real_parquet_files_load_as_they_are() {
    for pair in ["ETC", "LTC", "XLM", "XMR", "ZEC"] {
        let Some(path) = shared(&format!("crypto_5m/{pair}_BTC-5m.parquet")) else {
            return;
        };
        let (table, statistics) = load_file("load.parquet", &path, json!({})).unwrap();

        assert!(table.n_rows() > 5000, "{pair}");
        assert_eq!(statistics.get("interval_s"), Some(300.0), "{pair}");
    }
}

/// Three bars as Parquet, one column replaced or left out.
fn parquet_with(name: &str, array: Option<ArrayRef>) -> Vec<u8> {
    let hour = 3_600_000;
    let numbers = |values: [f64; 3]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        (
            "time",
            Arc::new(TimestampMillisecondArray::from(vec![0, hour, 2 * hour]).with_timezone("UTC")),
        ),
        ("open", numbers([10.0, 11.0, 12.0])),
        ("high", numbers([12.0, 13.0, 14.0])),
        ("low", numbers([9.0, 10.0, 11.0])),
        ("close", numbers([11.0, 12.0, 13.0])),
        ("volume", numbers([5.0, 6.0, 7.0])),
    ];
    let position = columns.iter().position(|(n, _)| *n == name);
    match (position, array) {
        (Some(i), Some(array)) => columns[i].1 = array,
        (Some(i), None) => drop(columns.remove(i)),
        (None, _) => {}
    }
    written(
        &RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
            .unwrap(),
    )
}

fn written(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_holds_times_and_numbers_in_many_types() {
    let (expected, _) = load("load.parquet", &parquet_with("", None), json!({})).unwrap();
    assert_eq!(column(&expected, "close"), [11.0, 12.0, 13.0]);
    assert_eq!(expected.ts_ns().unwrap()[2], 7_200_000_000_000);
    let texts = [
        "1970-01-01 00:00",
        "1970-01-01 01:00",
        "1970-01-01T02:00:00Z",
    ];
    let decimals = Decimal128Array::from(vec![1100, 1200, 1300])
        .with_precision_and_scale(10, 2)
        .unwrap();
    for (name, array) in [
        (
            "time",
            Arc::new(StringArray::from(texts.to_vec())) as ArrayRef,
        ),
        ("time", Arc::new(Int64Array::from(vec![0, 3600, 7200]))),
        (
            "time",
            Arc::new(TimestampMillisecondArray::from(vec![
                0, 3_600_000, 7_200_000,
            ])),
        ),
        ("volume", Arc::new(Int64Array::from(vec![5, 6, 7]))),
        ("close", Arc::new(decimals)),
        (
            "open",
            Arc::new(StringArray::from(vec!["10", "11.0", "12"])),
        ),
    ] {
        let (table, _) = load("load.parquet", &parquet_with(name, Some(array)), json!({})).unwrap();
        assert_eq!(table.logical_digest(), expected.logical_digest(), "{name}");
    }
    let local = Arc::new(TimestampMillisecondArray::from(vec![
        7_200_000, 10_800_000, 14_400_000,
    ]));
    let (table, _) = load(
        "load.parquet",
        &parquet_with("time", Some(local)),
        json!({ "time_zone": "+02:00" }),
    )
    .unwrap();
    assert_eq!(table.logical_digest(), expected.logical_digest());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_malformed_parquet_says_what_and_where() {
    let good = parquet_with("", None);
    let numbers =
        |values: [f64; 3]| Some(Arc::new(Float64Array::from(values.to_vec())) as ArrayRef);
    let times = |values: [Option<i64>; 3]| {
        Some(Arc::new(TimestampMillisecondArray::from(values.to_vec())) as ArrayRef)
    };
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some([Some(1)]),
        Some([Some(2)]),
        Some([Some(3)]),
    ]);
    let mut long_footer = good.clone();
    let end = long_footer.len();
    long_footer[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut encrypted = good.clone();
    encrypted[end - 4..].copy_from_slice(b"PARE");
    let mut no_footer = good.clone();
    no_footer[end - 8..end - 4].copy_from_slice(&1_u32.to_le_bytes());
    let many: Vec<_> = (0..5000)
        .map(|i| {
            (
                format!("c{i}"),
                Arc::new(Int64Array::from(vec![1])) as ArrayRef,
            )
        })
        .collect();
    let wide = written(&RecordBatch::try_from_iter(many).unwrap());
    let none = Some(Arc::new(Float64Array::from(vec![Some(11.0), None, Some(13.0)])) as ArrayRef);
    let cases: Vec<(Vec<u8>, Value, &str)> = vec![
        (
            Vec::new(),
            json!({}),
            "`bars`: the file is not Parquet: it has 0 bytes",
        ),
        (
            GOOD.into(),
            json!({}),
            "`bars`: the file is not Parquet: it does not end in `PAR1`",
        ),
        (
            good[..good.len() - 1].to_vec(),
            json!({}),
            "`bars`: the file is not Parquet: it does not end in `PAR1`",
        ),
        (
            long_footer,
            json!({}),
            "`bars`: the file is not Parquet: its footer would have 4294967295 bytes",
        ),
        (
            encrypted,
            json!({}),
            "`bars`: the file is not Parquet: it is encrypted",
        ),
        (no_footer, json!({}), "`bars`: the file is damaged: "),
        (wide, json!({}), "`bars`: 5000 columns are more than 4096"),
        (
            parquet_with("volume", None),
            json!({}),
            "`bars`: no column for `volume`",
        ),
        (
            good.clone(),
            json!({ "columns": { "time": "date" } }),
            "`bars`: no column is called `date`",
        ),
        (
            parquet_with(
                "close",
                Some(Arc::new(BooleanArray::from(vec![true, false, true]))),
            ),
            json!({}),
            "`bars`: column `close` is Boolean, neither a number nor a time",
        ),
        (
            parquet_with("close", Some(Arc::new(list))),
            json!({}),
            "`bars`: column `close` is List(",
        ),
        (
            parquet_with("time", numbers([1.0, 2.0, 3.0])),
            json!({}),
            "`bars`: column `time` is Float64, which is no time",
        ),
        (
            parquet_with("close", times([Some(1), Some(2), Some(3)])),
            json!({}),
            "`bars`: column `close` is Timestamp(",
        ),
        (
            parquet_with("close", none),
            json!({}),
            "`bars`, row 2, column `close`: the value is missing",
        ),
        (
            parquet_with("close", numbers([11.0, f64::NAN, 13.0])),
            json!({}),
            "`bars`, row 2, column `close`: the value is missing",
        ),
        (
            parquet_with("close", numbers([11.0, 12.0, f64::INFINITY])),
            json!({}),
            "`bars`, row 3, column `close`: the value is infinite",
        ),
        (
            parquet_with("close", numbers([11.0, 99.0, 13.0])),
            json!({}),
            "`bars`, row 2, column `close`: 99 is outside low 10 and high 13",
        ),
        (
            parquet_with(
                "open",
                Some(Arc::new(StringArray::from(vec!["10", "eleven", "12"]))),
            ),
            json!({}),
            "`bars`, row 2, column `open`: `eleven` is no number",
        ),
        (
            parquet_with("time", times([Some(0), None, Some(7_200_000)])),
            json!({}),
            "`bars`, row 2, column `time`: the time is missing",
        ),
        (
            parquet_with("time", times([Some(0), Some(0), Some(7_200_000)])),
            json!({}),
            "`bars`, row 2, column `time`: 1970-01-01T00:00:00Z was there already, on row 1, with other values",
        ),
        (
            parquet_with("time", times([Some(0), Some(i64::MAX), Some(1)])),
            json!({}),
            "`bars`, row 2, column `time`: the time does not fit the years 1678 to 2262",
        ),
        (
            parquet_with(
                "time",
                Some(Arc::new(Int64Array::from(vec![0, 3600, 7_200_000_000_000]))),
            ),
            json!({}),
            "`bars`, row 3, column `time`: `7200000000000` is in milliseconds, where the times before are in seconds",
        ),
    ];
    for (i, (content, with, message)) in cases.into_iter().enumerate() {
        let (found, help) = load("load.parquet", &content, with).expect_err(message);
        assert!(found.starts_with(message), "{i}: {found}");
        assert!(!help.is_empty(), "{i}: {found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_csv_never_panics(
        flips in prop::collection::vec((0_usize..GOOD.len(), any::<u8>()), 1..6),
        cut in 0_usize..GOOD.len(),
    ) {
        let mut content = GOOD.as_bytes().to_vec();
        for (at, byte) in flips {
            content[at] = byte;
        }
        for content in [&content[..], &content[..cut]] {
            if let Ok((table, _)) = csv(content, json!({})) {
                prop_assert!(table.n_rows() > 0);
                prop_assert!(column(&table, "close").iter().all(|v| v.is_finite() && *v > 0.0));
            }
        }
    }

    #[test]
    fn damaged_parquet_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut content = parquet_with("", None);
        for (at, byte) in flips {
            let i = at.index(content.len());
            content[i] = byte;
        }
        if let Ok((table, _)) = load("load.parquet", &content, json!({})) {
            prop_assert!(column(&table, "close").iter().all(|v| v.is_finite() && *v > 0.0));
        }
    }
}
