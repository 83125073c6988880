//! Markets and reference values for tests, here and of the stages, whose tests take this file in by its path.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{Bar, BarColumns};

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

/// The columns of a CSV file without quotes.
pub(crate) fn read_csv(path: &Path) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let mut columns = vec![Vec::new(); names.len()];
    for line in lines {
        for (column, cell) in columns.iter_mut().zip(line.split(',')) {
            column.push(cell.to_owned());
        }
    }
    names.into_iter().map(str::to_owned).zip(columns).collect()
}

/// The numbers of cells; one that holds none is NaN.
pub(crate) fn numbers(cells: &[String]) -> Vec<f64> {
    let number = |cell: &String| cell.parse().unwrap_or(f64::NAN);
    cells.iter().map(number).collect()
}

/// Nanoseconds since 1970 of `YYYY-MM-DD hh:mm:ss`.
fn ts_ns(text: &str) -> i64 {
    let part = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let (year, month, day) = (part(0..4), part(5..7), part(8..10));
    // Days since 1970-01-01 of the proleptic Gregorian calendar.
    let shifted = if month <= 2 { year - 1 } else { year };
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100
        + of_year
        - 719_468;
    let seconds = part(11..13) * 3600 + part(14..16) * 60 + part(17..19);
    (days * 86_400 + seconds) * 1_000_000_000
}

/// The 3,000 hourly bars that the reference values were made from.
pub(crate) fn golden_bars(shared: &Path) -> BarColumns {
    let bars = read_csv(&shared.join("golden/eurusd_h1_input.csv"));
    BarColumns {
        ts_ns: bars["time"].iter().map(|time| ts_ns(time)).collect(),
        open: numbers(&bars["open"]),
        high: numbers(&bars["high"]),
        low: numbers(&bars["low"]),
        close: numbers(&bars["close"]),
        volume: numbers(&bars["volume"]),
    }
}

/// A random walk with gaps, calm and wild stretches and a few bars without range or volume; the same for the same seed.
/// The bars are `step_ns` apart.
pub(crate) fn market(n_rows: usize, seed: u64, step_ns: i64) -> BarColumns {
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
        let gap = if uniform() < 0.1 {
            size * (uniform() - 0.5)
        } else {
            0.0
        };
        let open = close * (1.0 + gap);
        close = open * (1.0 + size * (uniform() - 0.5));
        let reach = size * close * uniform();
        let is_still = uniform() < 0.02;
        if is_still {
            close = open;
        }
        let (above, below) = (reach * uniform(), reach * uniform());
        let (high, low) = if is_still {
            (open, open)
        } else {
            (open.max(close) + above, open.min(close) - below)
        };
        let volume = if uniform() < 0.02 {
            0.0
        } else {
            1000.0 * (0.2 + uniform()) * (1.0 + 50.0 * size)
        };
        columns.push(Bar {
            ts_ns: t as i64 * step_ns,
            open,
            high,
            low,
            close,
            volume,
        });
    }
    columns
}
