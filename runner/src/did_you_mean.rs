//! The name that was meant.

/// The one of `names` nearest to `name`, if it is near enough to be meant.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = name.chars().count();
    // Half of the letters must stay; three mistakes in one word are no slip any more.
    let limit = (letters / 2).clamp(1, 3);
    let lower = name.to_lowercase();
    names
        .into_iter()
        .filter(|other| *other != name && other.chars().count().abs_diff(letters) <= 3)
        .map(|other| {
            let other_lower = other.to_lowercase();
            (edit_distance(&lower, &other_lower), other)
        })
        .filter(|(distance, other)| *distance <= limit && *distance < other.chars().count())
        .min()
        .map(|(_, other)| other)
}

/// `did you mean `x`?`, or `otherwise` when nothing is near.
pub(crate) fn suggestion_or<'a>(
    name: &str,
    names: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> String {
    nearest(name, names).map_or_else(
        || otherwise.to_owned(),
        |near| format!("did you mean `{near}`?"),
    )
}

/// `did you mean `x`?` and `more`, or only `more` when nothing is near.
pub(crate) fn suggestion_and<'a>(
    name: &str,
    names: impl IntoIterator<Item = &'a str>,
    more: &str,
) -> String {
    nearest(name, names).map_or_else(
        || more.to_owned(),
        |near| format!("did you mean `{near}`? {more}"),
    )
}

/// Names in back-ticks with commas between.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment;
/// Damerau, 1964, with the restriction that no piece is edited twice).
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let width = b.len() + 1;
    let mut rows: Vec<usize> = vec![0; (a.len() + 1) * width];
    for (j, first) in rows.iter_mut().take(width).enumerate() {
        *first = j;
    }
    for i in 1..=a.len() {
        rows[i * width] = i;
        for j in 1..=b.len() {
            let replaced = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[(i - 1) * width + j] + 1)
                .min(rows[i * width + j - 1] + 1)
                .min(rows[(i - 1) * width + j - 1] + replaced);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[(i - 2) * width + j - 2] + 1);
            }
            rows[i * width + j] = best;
        }
    }
    rows[rows.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("lables", "labels"), 1);
    }

    #[test]
    fn suggests_only_what_is_near() {
        let kinds = ["features", "labels", "load.csv"];

        assert_eq!(nearest("feature", kinds), Some("features"));
        assert_eq!(nearest("LABELS", kinds), Some("labels"));
        assert_eq!(nearest("laod.csv", kinds), Some("load.csv"));
        assert_eq!(nearest("pretrain", kinds), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(suggestion_or("zzz", kinds, ""), "");
    }
}
