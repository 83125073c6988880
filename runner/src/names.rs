//! Which names stages, ports, axes, parameters and profiles may have.

use crate::{Diagnostic, Place, code};

/// Names that mean something in `--set`.
pub(crate) const RESERVED: [&str; 4] = ["params", "stages", "pipeline", "profiles"];

/// Whether `name` is made of 1 to 128 letters, digits, `_` and `-`.
pub(crate) fn is_good(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Checks the name of `what` (with its article).
pub(crate) fn check(what: &str, name: &str, place: &Place) -> Result<(), Diagnostic> {
    if is_good(name) {
        return Ok(());
    }
    let message = format!("`{}` cannot name {what}", name.escape_debug());
    Err(Diagnostic::error(code::BAD_NAME, message, place, "")
        .help("names have 1 to 128 letters, digits, `_` and `-`"))
}
