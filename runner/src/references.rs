//! How an input names what it reads: `stage`, `stage.output`, `stage[axis=value].output`, `stage[*]`.

use crate::names;

/// What an input names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Name of the stage.
    pub(crate) stage: String,
    /// Which of its instances; the join by axes of the same name when nothing is said.
    pub(crate) selection: Vec<Selected>,
    /// Name of the output; the only one when nothing is said.
    pub(crate) output: Option<String>,
}

/// One part between the brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selected {
    /// `*`: all instances.
    All,
    /// `axis=*`: all values of an axis.
    Every(String),
    /// `axis=value`.
    One(String, String),
}

/// How inputs are written, for messages.
pub(crate) const SHAPES: &str = "write `stage`, `stage.output`, `stage[axis=value].output`, `stage[*]`, `{ from = \"stage\", columns = [...] }` or `{ file = \"path\" }`";

/// The reference in `text`, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Reference, String> {
    let end = text.find(['[', '.']).unwrap_or(text.len());
    let stage = &text[..end];
    let mut rest = &text[end..];
    if !names::is_good(stage) {
        return Err(if stage.is_empty() {
            format!("`{text}` names no stage")
        } else {
            format!("`{}` is no name of a stage", stage.escape_debug())
        });
    }
    let mut selection = Vec::new();
    if let Some(inside) = rest.strip_prefix('[') {
        let Some(length) = find_outside_quotes(inside, ']') else {
            return Err(format!("`{text}` has no closing `]`"));
        };
        selection = parse_selection(&inside[..length])?;
        rest = &inside[length + 1..];
    }
    let output = match rest.strip_prefix('.') {
        Some(output) if names::is_good(output) => Some(output.to_owned()),
        Some(output) => {
            return Err(format!(
                "`{}` is no name of an output",
                output.escape_debug()
            ));
        }
        None if rest.is_empty() => None,
        None => {
            return Err(format!(
                "`{}` after the `]` means nothing",
                rest.escape_debug()
            ));
        }
    };
    Ok(Reference {
        stage: stage.to_owned(),
        selection,
        output,
    })
}

fn parse_selection(text: &str) -> Result<Vec<Selected>, String> {
    let mut selection = Vec::new();
    let mut rest = Some(text);
    while let Some(current) = rest {
        let (part, after) = match find_outside_quotes(current, ',') {
            Some(comma) => (&current[..comma], Some(&current[comma + 1..])),
            None => (current, None),
        };
        rest = after;
        let part = part.trim();
        selection.push(match part.split_once('=') {
            None if part == "*" => Selected::All,
            Some((axis, value)) if names::is_good(axis.trim()) => match value.trim() {
                "*" => Selected::Every(axis.trim().to_owned()),
                "" => return Err(format!("`{part}` has no value")),
                value => Selected::One(axis.trim().to_owned(), value.to_owned()),
            },
            _ => {
                return Err(format!(
                    "`[{text}]` chooses no instances: expected `*`, `axis=value` or `axis=*`"
                ));
            }
        });
    }
    if selection.len() > 1 && selection.contains(&Selected::All) {
        return Err("`*` means all instances and stands alone".to_owned());
    }
    Ok(selection)
}

fn find_outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (position, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if letter == wanted && !is_quoted => return Some(position),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let one = |axis: &str, value: &str| Selected::One(axis.to_owned(), value.to_owned());
        for (text, stage, selection, output) in [
            ("train", "train", vec![], None),
            ("train.model", "train", vec![], Some("model")),
            ("t[fold=0].m", "t", vec![one("fold", "0")], Some("m")),
            ("t[*]", "t", vec![Selected::All], None),
            (
                "t[seed=*, lr=0.5]",
                "t",
                vec![Selected::Every("seed".to_owned()), one("lr", "0.5")],
                None,
            ),
            (
                "t[path=\"a],b\\\"c\"].m",
                "t",
                vec![one("path", "\"a],b\\\"c\"")],
                Some("m"),
            ),
        ] {
            let reference = parse(text).unwrap();
            assert_eq!(reference.stage, stage);
            assert_eq!(reference.selection, selection);
            assert_eq!(reference.output.as_deref(), output);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            ("", "names no stage"),
            (".x", "names no stage"),
            ("a b", "`a b` is no name of a stage"),
            ("a[", "no closing `]`"),
            ("a[x]", "chooses no instances"),
            ("a[]", "chooses no instances"),
            ("a[x=]", "`x=` has no value"),
            ("a[*,x=1]", "stands alone"),
            ("a[x=1]y", "`y` after the `]` means nothing"),
            ("a.", "no name of an output"),
            ("a.b.c", "`b.c` is no name of an output"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
