//! Markets and reference values for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use natron_kernels::bars::{Bar, BarColumns};

/// The folder of reference values, where there is one.
pub(crate) fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("shared"));
    let named = std::env::var_os("NATRON_SHARED").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(beside)
        .find(|folder| folder.join("golden/indicators.csv").is_file());
    if found.is_none() {
        eprintln!(
            "skipped: no folder `shared` with reference values beside the workspace; name one with NATRON_SHARED"
        );
    }
    found
}

/// The columns of a CSV file; an empty cell is NaN, and so is one that is no number.
pub(crate) fn read_csv(path: &Path, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<f64>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let names: Vec<String> = reader
        .headers()
        .unwrap()
        .iter()
        .map(str::to_owned)
        .collect();
    let mut columns: Vec<(usize, Vec<f64>)> = (0..names.len())
        .filter(|&i| wanted(&names[i]))
        .map(|i| (i, Vec::new()))
        .collect();
    for record in reader.records() {
        let record = record.unwrap();
        for (i, column) in &mut columns {
            column.push(record[*i].parse().unwrap_or(f64::NAN));
        }
    }
    columns
        .into_iter()
        .map(|(i, column)| (names[i].clone(), column))
        .collect()
}

/// The 3,000 hourly bars that the reference values were made from.
pub(crate) fn golden_bars(shared: &Path) -> BarColumns {
    let path = shared.join("golden/eurusd_h1_input.csv");
    let columns = read_csv(&path, |_| true);
    let text = std::fs::read_to_string(&path).unwrap();
    let times = text.lines().skip(1).map(|line| {
        let time: jiff::civil::DateTime = line.split(',').next().unwrap().parse().unwrap();
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
        time.as_nanosecond() as i64
    });
    BarColumns {
        ts_ns: times.collect(),
        open: columns["open"].clone(),
        high: columns["high"].clone(),
        low: columns["low"].clone(),
        close: columns["close"].clone(),
        volume: columns["volume"].clone(),
    }
}

/// A random walk with gaps, calm and wild stretches and a few bars without range or volume; the same for the same seed.
pub(crate) fn market(n_rows: usize, seed: u64) -> BarColumns {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut close = 100.0;
    let mut columns = BarColumns::default();
    for t in 0..n_rows {
        let size = if (t / 60) % 3 == 1 { 0.02 } else { 0.004 };
        let open = close
            * (1.0
                + if uniform() < 0.1 {
                    size * (uniform() - 0.5)
                } else {
                    0.0
                });
        close = open * (1.0 + size * (uniform() - 0.5));
        let reach = size * close * uniform();
        let is_still = uniform() < 0.02;
        let (high, low) = (
            open.max(close) + reach * uniform(),
            open.min(close) - reach * uniform(),
        );
        let volume = if uniform() < 0.02 {
            0.0
        } else {
            1000.0 * (0.2 + uniform()) * (1.0 + 50.0 * size)
        };
        if is_still {
            close = open;
        }
        let (high, low) = if is_still { (open, open) } else { (high, low) };
        columns.push(Bar {
            ts_ns: t as i64 * 60_000_000_000,
            open,
            high,
            low,
            close,
            volume,
        });
    }
    columns
}
