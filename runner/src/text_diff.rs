//! Texts compared line by line.

use std::time::Duration;

use similar::{Algorithm, TextDiff};

/// Lines around a change.
const CONTEXT: usize = 3;

/// A comparison of texts that have nothing in common is given up after this, and shows one as replaced by the other.
const DEADLINE: Duration = Duration::from_millis(500);

/// The hunks of a unified diff from `before` to `after`, each with its `@@` line; empty when they are equal.
pub fn unified_diff(before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .timeout(DEADLINE)
        .diff_lines(before, after)
        .unified_diff()
        .context_radius(CONTEXT)
        .missing_newline_hint(true)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_changed_with_its_surroundings() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let after = "a\nb\nc\nd\nE\nf\ng\nh\n";
        assert_eq!(
            unified_diff(before, after),
            "@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n"
        );
        assert_eq!(unified_diff(before, before), "");
    }

    #[test]
    fn a_missing_line_end_is_said() {
        let diff = unified_diff("a\n", "a");
        assert!(diff.contains("\\ No newline at end of file"), "{diff}");
    }
}
