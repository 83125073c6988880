//! Changes, causes and reasons in words.

use natron_runner::{
    ArtifactChange, Cause, Change, Changed, ColumnDifference, Extent, FileChange, PartChange,
    Partner, Presence, Reason, RootCause,
};
use serde_json::Value;

use crate::{
    parameters::toml_value,
    style::{Style, printable, truncated, width},
    units,
};

/// Longer values are cut to what differs.
const LONGEST_VALUE: usize = 60;

/// So many columns, tensors or files are named.
const MOST_NAMED: usize = 12;

/// So many lines of a diff are shown.
const MOST_DIFF_LINES: usize = 120;

/// A change on one line.
pub(crate) fn change_text(change: &Change, style: Style) -> String {
    match &change.what {
        Changed::Value {
            before,
            after,
            diff,
        } => {
            let name = style.cyan(&printable(value_name(&change.path)));
            match (before, after) {
                _ if diff.is_some() => format!("{name} changed"),
                (Some(before), Some(after)) => {
                    let (before, after) = value_pair(before, after);
                    format!("{name} {before} -> {after}")
                }
                (None, Some(after)) => format!("{name} is new: {}", value_text(after)),
                (Some(before), None) => format!("{name} is gone, was {}", value_text(before)),
                (None, None) => name,
            }
        }
        Changed::Code {
            before,
            after,
            program_before,
            program_after,
        } => {
            let programs = match (program_before, program_after) {
                (Some(before), Some(after)) if before != after => {
                    format!(", natron {} -> {}", printable(before), printable(after))
                }
                (Some(version), _) => format!(", both of natron {}", printable(version)),
                _ => String::new(),
            };
            format!(
                "{} changed ({} -> {}{programs})",
                style.cyan("code of the kind"),
                short(before),
                short(after)
            )
        }
        Changed::File(file) => file_text(file, style),
        Changed::Artifact { from, change: what } => {
            let port = change.path.strip_prefix("inputs.").unwrap_or(&change.path);
            let from = from
                .as_ref()
                .map(|from| format!(" (from {})", printable(from)))
                .unwrap_or_default();
            let first = artifact_lines(what, style);
            let first = match first.as_slice() {
                [] => "other content".to_owned(),
                [only] => only.clone(),
                [first, ..] => first.clone(),
            };
            format!(
                "{}{from}: {first}",
                style.cyan(&format!("input {}", printable(port)))
            )
        }
    }
}

/// A change with all that is known of it: lines of a diff, columns, files.
pub(crate) fn change_lines(change: &Change, style: Style) -> Vec<String> {
    let mut lines = vec![change_text(change, style)];
    match &change.what {
        Changed::Value {
            diff: Some(diff), ..
        } => lines.extend(diff_lines(diff, style)),
        Changed::File(file) => {
            lines.extend(file.diff.iter().flat_map(|diff| diff_lines(diff, style)));
            lines.extend(part_lines(&file.files, style));
        }
        Changed::Artifact { change, .. } => {
            let more = artifact_lines(change, style);
            lines.extend(more.into_iter().skip(1).map(|line| format!("  {line}")));
        }
        _ => {}
    }
    lines
}

/// What differs between two artifacts: one line, or a line with what follows it.
pub(crate) fn artifact_lines(change: &ArtifactChange, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(before), Some(after)) = change.kinds
        && before != after
    {
        return vec![format!("kind {before} -> {after}")];
    }
    let rows = match change.rows {
        (Some(before), Some(after)) if before != after => Some(format!(
            "rows {} -> {}",
            units::count(before),
            units::count(after)
        )),
        _ => None,
    };
    let columns: Vec<String> = change
        .columns
        .iter()
        .take(MOST_NAMED)
        .map(|column| {
            let name = style.cyan(&printable(&column.name));
            match &column.difference {
                ColumnDifference::Added => format!("column {name} is new"),
                ColumnDifference::Removed => format!("column {name} is gone"),
                ColumnDifference::Declared { before, after } => format!(
                    "column {name} is {} instead of {}",
                    printable(after),
                    printable(before)
                ),
                ColumnDifference::Values { extent: None } => format!("column {name} changed"),
                ColumnDifference::Values {
                    extent: Some(extent),
                } => format!("column {name} {}", extent_text(extent)),
            }
        })
        .collect();
    match (rows, columns.len()) {
        (None, 0) => {}
        (None, 1) => lines.extend(columns),
        (rows, n) => {
            let mut head: Vec<String> = rows.into_iter().collect();
            if n > 0 {
                head.push(format!(
                    "{} of {} differ",
                    change.columns.len(),
                    units::plural(change.of_columns.max(change.columns.len()), "column")
                ));
            }
            lines.push(head.join(", "));
            lines.extend(columns);
            lines.extend(more(change.columns.len()));
        }
    }
    if !change.tensors.is_empty() {
        lines.push(format!(
            "{} of {} differ",
            change.tensors.len(),
            units::plural(change.of_tensors.max(change.tensors.len()), "tensor")
        ));
        let names: Vec<String> = change
            .tensors
            .iter()
            .take(MOST_NAMED)
            .map(|tensor| match tensor.presence {
                Presence::Added => format!("{} (new)", printable(&tensor.name)),
                Presence::Removed => format!("{} (gone)", printable(&tensor.name)),
                Presence::Changed => printable(&tensor.name),
            })
            .collect();
        let dots = if change.tensors.len() > MOST_NAMED {
            ", ..."
        } else {
            ""
        };
        lines.push(format!("{}{dots}", names.join(", ")));
    }
    if !change.files.is_empty() {
        lines.push(format!(
            "{} differ",
            units::plural(change.files.len(), "file")
        ));
        lines.extend(part_lines(&change.files, style));
    }
    if lines.is_empty()
        && let (Some(before), Some(after)) = change.sizes
    {
        lines.push(if before == after {
            format!("other content, {} as before", units::bytes(after))
        } else {
            let (before, after) = sizes(before, after);
            format!("other content, {before} -> {after}")
        });
    }
    lines
}

/// `changed in 3 of 512 blocks (1,204 of 33,554,432 rows, the first is 98,304)`.
fn extent_text(extent: &Extent) -> String {
    let Some(first) = extent.first_row else {
        return format!(
            "is as before in the {} that both have",
            units::plural(extent.of_rows as usize, "row")
        );
    };
    let rows = format!(
        "{} of {} differ, the first is row {}",
        units::count(extent.rows),
        units::plural(extent.of_rows as usize, "row"),
        units::count(first)
    );
    if extent.of_blocks > 1 {
        format!(
            "changed in {} of {} ({rows})",
            units::count(extent.blocks),
            units::plural(extent.of_blocks as usize, "block")
        )
    } else {
        format!("changed: {rows}")
    }
}

fn file_text(file: &FileChange, style: Style) -> String {
    let name = style.cyan(&printable(&file.file));
    let size = match (file.size_before, file.size_after) {
        (Some(before), Some(after)) if before != after => {
            let (before, after) = sizes(before, after);
            format!(" ({before} -> {after})")
        }
        (Some(size), Some(_)) => format!(" ({} as before)", units::bytes(size)),
        (None, Some(size)) => format!(" ({} now)", units::bytes(size)),
        (Some(size), None) => format!(" ({} before)", units::bytes(size)),
        (None, None) => String::new(),
    };
    let was = file
        .file_before
        .as_ref()
        .map(|before| format!(", was {}", printable(before)))
        .unwrap_or_default();
    let digests = match (&file.digest_before, &file.digest_after) {
        (Some(before), Some(after)) if size.is_empty() => {
            format!(" ({} -> {})", before.short(), after.short())
        }
        _ => String::new(),
    };
    let files = match file.files.len() {
        0 => String::new(),
        n => format!(": {}", units::plural(n, "file")),
    };
    match file.presence {
        Presence::Added => format!("{name} is new{size}"),
        Presence::Removed => format!("{name} is not read any more{size}"),
        Presence::Changed => format!("{name} changed{size}{digests}{was}{files}"),
    }
}

/// Two lengths, in bytes where the units would hide the difference.
fn sizes(before: u64, after: u64) -> (String, String) {
    let (old, new) = (units::bytes(before), units::bytes(after));
    if old == new {
        return (
            format!("{} B", units::count(before)),
            format!("{} B", units::count(after)),
        );
    }
    (old, new)
}

fn part_lines(parts: &[PartChange], style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    for part in parts.iter().take(MOST_NAMED) {
        let name = style.cyan(&printable(&part.name));
        lines.push(match (part.presence, part.size_before, part.size_after) {
            (Presence::Added, ..) => format!("  {name} is new"),
            (Presence::Removed, ..) => format!("  {name} is gone"),
            (Presence::Changed, Some(before), Some(after)) if before != after => {
                let (before, after) = sizes(before, after);
                format!("  {name} changed ({before} -> {after})")
            }
            (Presence::Changed, ..) => format!("  {name} changed"),
        });
        lines.extend(part.diff.iter().flat_map(|diff| diff_lines(diff, style)));
    }
    lines.extend(more(parts.len()));
    lines
}

fn more(n: usize) -> Option<String> {
    (n > MOST_NAMED).then(|| format!("  and {} more; --json has all", n - MOST_NAMED))
}

/// A unified diff, painted, two cells in.
pub(crate) fn diff_lines(diff: &str, style: Style) -> Vec<String> {
    let n = diff.lines().count();
    let mut lines: Vec<String> = diff
        .lines()
        .take(MOST_DIFF_LINES)
        .map(|line| {
            let text = printable(line);
            let painted = match line.chars().next() {
                Some('+') => style.green(&text),
                Some('-') => style.red(&text),
                Some('@') => style.cyan(&text),
                _ => text,
            };
            format!("  {painted}")
        })
        .collect();
    if n > MOST_DIFF_LINES {
        let left = units::plural(n - MOST_DIFF_LINES, "more line");
        lines.push(style.dim(&format!("  {left}; --json has all")));
    }
    lines
}

/// `lr` for `parameters.lr`, and for the `parameters.parameters.lr` of a command; the rest keeps its path.
fn value_name(path: &str) -> &str {
    let name = path.strip_prefix("parameters.").unwrap_or(path);
    name.strip_prefix("parameters.").unwrap_or(name)
}

/// A value: digests short, long values cut.
pub(crate) fn value_text(value: &Value) -> String {
    truncated(&whole_value(value), LONGEST_VALUE)
}

fn whole_value(value: &Value) -> String {
    let text = match value {
        Value::String(text) if is_digest(text) => text[..12].to_owned(),
        Value::Number(number) if number.is_f64() => float_text(number.as_f64().unwrap_or(0.0)),
        other => toml_value(other),
    };
    printable(&text)
}

/// `1e-4` and `3e20` as people write them.
fn float_text(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-3..1e15).contains(&magnitude) {
        format!("{value:e}")
    } else {
        toml_value(&Value::from(value))
    }
}

/// Two values; of long ones what surrounds the first difference.
fn value_pair(before: &Value, after: &Value) -> (String, String) {
    let (old, new) = (whole_value(before), whole_value(after));
    if width(&old).max(width(&new)) <= LONGEST_VALUE {
        return (old, new);
    }
    let common = old
        .chars()
        .zip(new.chars())
        .take_while(|(a, b)| a == b)
        .count();
    let start = common.saturating_sub(LONGEST_VALUE / 3);
    let cut = |text: &str| {
        let tail: String = text.chars().skip(start).collect();
        let dots = if start > 0 { "…" } else { "" };
        truncated(&format!("{dots}{tail}"), LONGEST_VALUE)
    };
    (cut(&old), cut(&new))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A fingerprint as people compare it.
fn short(fingerprint: &str) -> String {
    printable(fingerprint).chars().take(12).collect()
}

/// A cause on one line, with where it lies.
pub(crate) fn cause_text(cause: &RootCause, style: Style) -> String {
    let places = places(cause, style);
    match &cause.cause {
        Cause::Changed { change } => match &change.what {
            Changed::File(_) => format!("{}, read by {places}", change_text(change, style)),
            _ => format!("{places}: {}", change_text(change, style)),
        },
        Cause::Untold { change } => format!(
            "{places}: {}; what that stage was made of then is not known any more",
            change_text(change, style)
        ),
        Cause::New => format!("{places}: no result yet"),
        Cause::RecordEvicted => format!("{places}: the result is not in the cache any more"),
        Cause::ContentLost { damaged: false } => {
            format!("{places}: content of the result is gone from the cache")
        }
        Cause::ContentLost { damaged: true } => {
            format!("{places}: content of the result was damaged and put aside")
        }
        Cause::Forced => format!("{places}: forced"),
        Cause::Repeated => {
            format!("{places}: ran again with the same key (forced, or the result was gone)")
        }
        Cause::PreviousAttemptFailed { error } => {
            let error = error.lines().next().unwrap_or_default();
            let error = truncated(&printable(error), 80);
            format!("{places}: the previous attempt failed: {error}")
        }
        Cause::Failed { error } => {
            let error = error.lines().next().unwrap_or_default();
            format!("{places}: failed: {}", truncated(&printable(error), 80))
        }
    }
}

/// The cause in few words, for a line about one stage.
pub(crate) fn cause_words(cause: &RootCause, style: Style) -> String {
    match &cause.cause {
        Cause::Changed { change } | Cause::Untold { change } => change_text(change, style),
        Cause::New => "no result yet".to_owned(),
        Cause::RecordEvicted => "the result is not in the cache any more".to_owned(),
        Cause::ContentLost { damaged: false } => "content of the result is gone".to_owned(),
        Cause::ContentLost { damaged: true } => "content of the result was damaged".to_owned(),
        Cause::Forced => "forced".to_owned(),
        Cause::Repeated => "ran again with the same key".to_owned(),
        Cause::PreviousAttemptFailed { .. } => "the previous attempt failed".to_owned(),
        Cause::Failed { .. } => {
            let places = cause.stages.iter().take(2).map(|s| printable(s));
            format!("{} failed", places.collect::<Vec<_>>().join(", "))
        }
    }
}

/// `train`, `a and b`, `train (24 instances)`, `a, b and 7 more`.
fn places(cause: &RootCause, style: Style) -> String {
    let base = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
    let names = &cause.stages;
    let first = names.first().map(|name| base(name)).unwrap_or_default();
    let bold = |name: &String| style.bold(&printable(name));
    match names.as_slice() {
        [] => String::new(),
        [only] if cause.n_stages == 1 => bold(only),
        [a, b] if cause.n_stages == 2 => format!("{} and {}", bold(a), bold(b)),
        [a, b, c] if cause.n_stages == 3 => format!("{}, {} and {}", bold(a), bold(b), bold(c)),
        all if all.iter().all(|name| base(name) == first) => format!(
            "{} ({})",
            bold(&first),
            units::plural(cause.n_stages, "instance")
        ),
        [a, b, ..] => format!(
            "{}, {} and {} more",
            bold(a),
            bold(b),
            units::count(cause.n_stages as u64 - 2)
        ),
        [only] => bold(only),
    }
}

/// Why, in a sentence that begins with `because`.
pub(crate) fn reason_text(reason: &Reason, partner: Option<&Partner>) -> String {
    let of_run = |text: &str| match partner {
        Some(partner) => format!("{text} (run {})", printable(&partner.run)),
        None => text.to_owned(),
    };
    match reason {
        Reason::Cached => of_run("the newest result here has this key"),
        Reason::CachedBefore => {
            of_run("an earlier result has this key; it differs from the newest one here")
        }
        Reason::OutputEdited => "the result holds, but not what shows it".to_owned(),
        Reason::New { nearest: None } => "there is no result of it yet".to_owned(),
        Reason::New {
            nearest: Some(nearest),
        } => match &nearest.stage {
            Some(stage) => format!(
                "there is no result of it yet; the nearest earlier one is that of {}",
                printable(stage)
            ),
            None => format!(
                "there is no result of it yet; the nearest one of its kind in the cache has key {}",
                short(&nearest.key)
            ),
        },
        Reason::KeyChanged => of_run("its key changed since the newest result"),
        Reason::RecordEvicted => of_run("the result is not in the cache any more"),
        Reason::ContentLost { outputs, damaged } => {
            let outputs = printable(&outputs.join(", "));
            if *damaged {
                format!("the content of {outputs} was damaged and put aside")
            } else {
                format!("the content of {outputs} is gone from the cache")
            }
        }
        Reason::Forced => "it is forced".to_owned(),
        Reason::Repeated => {
            of_run("it was forced, or its result was gone: the newest result has the same key")
        }
        Reason::PreviousAttemptFailed { run, error } => {
            let error = error.lines().next().unwrap_or_default();
            let error = error.split("; it last wrote:").next().unwrap_or_default();
            format!(
                "its previous attempt failed (run {}): {}",
                printable(run),
                printable(error)
            )
        }
        Reason::Failed { error } => {
            let error = error.lines().next().unwrap_or_default();
            format!("it failed: {}", printable(error))
        }
        Reason::Upstream { stages } if stages.is_empty() => {
            "something above it did not give a result".to_owned()
        }
        Reason::Upstream { stages } => {
            let shown: Vec<String> = stages.iter().take(4).map(|s| printable(s)).collect();
            let more = match stages.len().saturating_sub(4) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            format!("it reads what these give: {}{more}", shown.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(path: &str, before: Value, after: Value) -> Change {
        Change {
            path: path.into(),
            what: Changed::Value {
                before: Some(before),
                after: Some(after),
                diff: None,
            },
        }
    }

    #[test]
    fn values_are_printed_as_values() {
        let text = |change: &Change| change_text(change, Style::PLAIN);
        assert_eq!(
            text(&value("parameters.lr", json!(1e-4), json!(3e-4))),
            "lr 1e-4 -> 3e-4"
        );
        assert_eq!(
            text(&value("parameters.a.b", json!(0.5), json!(2))),
            "a.b 0.5 -> 2"
        );
        assert_eq!(text(&value("seed", json!(1), json!(2))), "seed 1 -> 2");
        assert_eq!(value_text(&json!("ab".repeat(32))), "abababababab");
    }

    #[test]
    fn of_long_values_the_difference_is_shown() {
        let long = "x".repeat(200);
        let change = value(
            "parameters.run[2]",
            json!(format!("{long}1")),
            json!(format!("{long}2")),
        );
        let text = change_text(&change, Style::PLAIN);
        assert!(text.contains("x1") && text.contains("x2"), "{text}");
        assert!(text.chars().count() < 150, "{text}");
    }

    #[test]
    fn lengths_that_look_equal_are_given_in_bytes() {
        assert_eq!(sizes(12, 13), ("12 B".into(), "13 B".into()));
        assert_eq!(
            sizes(1 << 30, (1 << 30) + 1),
            ("1,073,741,824 B".into(), "1,073,741,825 B".into())
        );
    }
}
