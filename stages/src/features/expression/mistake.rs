//! What is wrong with an expression, and where.

use std::ops::Range;

/// A mistake in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The piece of the text, in bytes.
    pub(crate) at: Range<usize>,
    /// What is wrong: lower case, no full stop, literals in back-ticks.
    pub(crate) message: String,
    /// How to mend it; empty when there is nothing to add.
    pub(crate) help: String,
}

impl Mistake {
    pub(crate) fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
            help: String::new(),
        }
    }

    /// The same with a help line.
    #[must_use]
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: help.into(),
            ..self
        }
    }
}

/// The one of `names` nearest to `name`, if it is near enough to be meant.
pub(crate) fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let letters = name.chars().count();
    // Half of the letters must stay; three mistakes in one word are no slip any more.
    let limit = (letters / 2).clamp(1, 3);
    let name = name.to_lowercase();
    names
        .into_iter()
        .filter(|other| other.chars().count().abs_diff(letters) <= limit)
        .map(|other| (edit_distance(&name, &other.to_lowercase()), other))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, other)| other)
}

/// ``did you mean `x`?``, or `otherwise` when nothing is near.
pub(crate) fn suggestion<'n>(
    name: &str,
    names: impl IntoIterator<Item = &'n str>,
    otherwise: &str,
) -> String {
    nearest(name, names).map_or_else(
        || otherwise.to_owned(),
        |near| format!("did you mean `{near}`?"),
    )
}

/// Names in back-ticks, the last after `or`.
pub(crate) fn alternatives(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|name| format!("`{name}`")).collect();
            format!("{} or `{last}`", first.join(", "))
        }
    }
}

/// Insertions, deletions and replacements that turn `a` into `b` (Levenshtein, 1965), and swaps of neighbours.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if is_swap {
                    best.min(rows[i - 2][j - 2] + 1)
                } else {
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_near_names_only() {
        let names = ["close", "open", "rsi", "macd"];

        assert_eq!(nearest("clsoe", names), Some("close"));
        assert_eq!(nearest("MACD", names), Some("macd"));
        assert_eq!(nearest("volatility", names), None);
        assert_eq!(nearest("x", names), None);
    }
}
