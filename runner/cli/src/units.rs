//! Sizes and times as people read them.

/// A size in bytes: `0 B`, `1.5 KiB`, `12 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A duration in seconds: `12 ms`, `3.4 s`, `2 min 05 s`, `3 h 07 min`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 0.000_95 {
        format!("{:.0} µs", seconds.max(0.0) * 1e6)
    } else if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 99.95 {
        format!("{seconds:.1} s")
    } else if seconds < 3600.0 {
        let whole = seconds.round() as u64;
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        let minutes = (seconds / 60.0).round() as u64;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// A whole number with its thousands apart: `1,234,567`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 stage`, `2 stages`.
pub(crate) fn plural(n: usize, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count(n as u64))
}

/// A number with about six significant digits, as in a listing.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if value.fract() == 0.0 && magnitude < 1e15 {
        format!("{value:.0}")
    } else if !(1e-4..1e9).contains(&magnitude) {
        format!("{value:.5e}")
    } else {
        let before = if magnitude >= 1.0 {
            format!("{magnitude:.0}").len()
        } else {
            1
        };
        let text = format!("{value:.*}", 7_usize.saturating_sub(before).max(1));
        let text = text.trim_end_matches('0');
        text.trim_end_matches('.').to_owned()
    }
}

/// Reads a size: `500MiB`, `20 GB`, `1073741824`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (value, unit) = split(text).ok_or("expected a size, as `20GiB` or `500MB`")?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => {
            return Err(format!(
                "unknown unit `{unit}`: use KiB, MiB, GiB, TiB, KB, MB, GB or TB"
            ));
        }
    };
    Ok((value * factor as f64) as u64)
}

/// Reads a duration into seconds: `14d`, `12h`, `30m`, `90s`, `0`.
pub(crate) fn parse_seconds(text: &str) -> Result<u64, String> {
    let (value, unit) = split(text).ok_or("expected a time, as `14d` or `12h`")?;
    let factor = match unit {
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(format!("unknown unit `{unit}`: use s, m, h, d or w")),
    };
    Ok((value * factor) as u64)
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let value = text[..end].parse().ok()?;
    Some((value, text[end..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        let sizes: Vec<String> = [0, 1023, 1536, 150 << 20, u64::MAX]
            .into_iter()
            .map(bytes)
            .collect();
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "150 MiB", "16384 PiB"]);
        let times: Vec<String> = [2e-6, 0.0123, 0.9999, 3.44, 125.0, 11_230.0]
            .into_iter()
            .map(seconds)
            .collect();
        assert_eq!(
            times,
            [
                "2 µs",
                "12 ms",
                "1.0 s",
                "3.4 s",
                "2 min 05 s",
                "3 h 07 min"
            ]
        );
    }

    #[test]
    fn reads_sizes_and_times() {
        assert_eq!(parse_bytes("1.5 KiB"), Ok(1536));
        assert_eq!(parse_bytes("20GB"), Ok(20_000_000_000));
        assert_eq!(parse_seconds("14d"), Ok(1_209_600));
        assert!(
            parse_bytes("-1").is_err()
                && parse_bytes("3 feet").is_err()
                && parse_seconds("soon").is_err()
        );
    }

    #[test]
    fn numbers_keep_six_digits() {
        let texts: Vec<String> = [
            0.0,
            42.0,
            1.5,
            1_234.567_89,
            -0.001_234_567,
            1e-9,
            2.5e12 + 0.5,
        ]
        .into_iter()
        .map(number)
        .collect();
        assert_eq!(
            texts,
            [
                "0",
                "42",
                "1.5",
                "1234.568",
                "-0.001235",
                "1.00000e-9",
                "2.50000e12"
            ]
        );
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(123), "123");
    }
}
