//! Text, numbers and tables of the page.

use jiff::Timestamp;

/// `text` with everything escaped that HTML would read, in content and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// JSON that may stand inside a `script` element.
pub(super) fn json(value: &serde_json::Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// A number with as many decimals as its size deserves, a true minus sign, and groups of three digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    let whole = (value - value.round()).abs() < 1e-9;
    let decimals = match size {
        _ if whole => 0,
        s if s >= 1000.0 => 0,
        s if s >= 100.0 => 1,
        s if s >= 1.0 => 2,
        s if s >= 0.001 => 4,
        s if s >= 1e-12 => return signed(&format!("{value:.2e}")),
        _ => 0,
    };
    fixed(value, decimals)
}

/// A number with exactly `decimals` decimals.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) if digits.chars().any(|c| c.is_ascii_digit() && c != '0') => {
            ("\u{2212}", digits)
        }
        Some(digits) => ("", digits),
        None => ("", text.as_str()),
    };
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut grouped = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push('\u{202f}');
        }
        grouped.push(c);
    }
    format!("{sign}{grouped}{rest}")
}

fn signed(text: &str) -> String {
    text.replace('-', "\u{2212}")
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    // A hair more, so that 9.9999 is written as the 10.0 that it rounds to.
    let size = (share * 100.0).abs() * (1.0 + 1e-9);
    if size < 0.005 {
        return "0\u{2009}%".to_owned();
    }
    let decimals = if size >= 100.0 {
        0
    } else if size >= 10.0 {
        1
    } else {
        2
    };
    format!("{}\u{2009}%", fixed(share * 100.0, decimals))
}

/// A price with six significant digits.
pub(super) fn price(value: f64) -> String {
    let mut decimals = 5;
    let mut size = value.abs();
    while size >= 10.0 && decimals > 0 {
        size /= 10.0;
        decimals -= 1;
    }
    fixed(value, decimals)
}

/// The UTC day of a time.
pub(super) fn day(ts_ns: i64) -> String {
    stamp(ts_ns, "%Y-%m-%d")
}

/// The UTC hour of a day in a year that is known.
pub(super) fn hour(ts_ns: i64) -> String {
    stamp(ts_ns, "%m-%d %H:%M")
}

/// The UTC minute of a time.
pub(super) fn minute(ts_ns: i64) -> String {
    stamp(ts_ns, "%Y-%m-%d %H:%M")
}

/// The UTC month of a time.
pub(super) fn month(ts_ns: i64) -> String {
    stamp(ts_ns, "%Y-%m")
}

fn stamp(ts_ns: i64, format: &str) -> String {
    Timestamp::from_nanosecond(i128::from(ts_ns))
        .map_or_else(|_| ts_ns.to_string(), |t| t.strftime(format).to_string())
}

/// A name as words: `max_drawdown` becomes `max drawdown`.
pub(super) fn words(name: &str) -> String {
    escape(&name.replace('_', " "))
}

/// A table of ready HTML cells in a frame that scrolls when it is wider than the page. The first column is text, the others
/// are numbers unless `class` says otherwise.
pub(super) fn table(class: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let head: String = head
        .iter()
        .map(|cell| format!("<th scope=\"col\">{cell}</th>"))
        .collect();
    let body: String = rows
        .iter()
        .map(|row| {
            let cells: String = row
                .iter()
                .enumerate()
                .map(|(i, cell)| match i {
                    0 => format!("<th scope=\"row\">{cell}</th>"),
                    _ => format!("<td>{cell}</td>"),
                })
                .collect();
            format!("<tr>{cells}</tr>\n")
        })
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"{class}\"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )
}

/// A section of the page.
pub(super) fn section(id: &str, title: &str, lead: &str, body: &str) -> String {
    let lead = if lead.is_empty() {
        String::new()
    } else {
        format!("<p class=\"lead\">{lead}</p>\n")
    };
    format!("<section id=\"{id}\"><h2>{title}</h2>\n{lead}{body}</section>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_becomes_markup() {
        assert_eq!(escape("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        assert_eq!(
            json(&serde_json::json!("</script>&")),
            "\"\\u003c/script\\u003e\\u0026\""
        );
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(number(-1_234_567.0), "\u{2212}1\u{202f}234\u{202f}567");
        assert_eq!(number(0.51236), "0.5124");
        assert_eq!(number(12.3456), "12.35");
        assert_eq!(number(3.0), "3");
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(price(1.083_21), "1.08321");
        assert_eq!(price(65_432.1), "65\u{202f}432.1");
        assert_eq!(percent(-0.1234), "\u{2212}12.3\u{2009}%");
        assert_eq!(day(1_700_000_000_000_000_000), "2023-11-14");
    }
}
