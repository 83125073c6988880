//! What is laid over the file: a profile, then each `--set`.

use std::sync::Arc;

use crate::{
    Diagnostic, Place, SourceText, code,
    did_you_mean::{listed, suggestion_or},
    document::{self, Content, Entry, Node, Table},
};

/// Lays the profile `name` of `root` over it.
pub(crate) fn apply_profile(root: &mut Node, name: &str, mistakes: &mut Vec<Diagnostic>) {
    let profiles = root
        .at(&["profiles"])
        .and_then(Node::as_table)
        .cloned()
        .unwrap_or_default();
    let Some(profile) = profiles.get(name) else {
        let names = profiles.keys().map(String::as_str);
        let otherwise = if profiles.is_empty() {
            "the file has no `[profiles]`".to_owned()
        } else {
            format!("the profiles are {}", listed(names.clone()))
        };
        let place = Place {
            file: SourceText::new("--profile", name),
            span: 0..name.len(),
        };
        mistakes.push(
            Diagnostic::error(
                code::UNKNOWN_PROFILE,
                format!("unknown profile `{name}`"),
                &place,
                "",
            )
            .help(suggestion_or(name, names, &otherwise)),
        );
        return;
    };
    let Some(parts) = profile.node.as_table() else {
        return; // Reported when the structure is checked.
    };
    for part in ["pipeline", "params", "stages"] {
        let Some(mut entry) = parts.get(part).cloned() else {
            continue;
        };
        // What is laid over nothing was reported when the structure was checked.
        let below = root.at(&[part]).and_then(Node::as_table);
        let is_there = |name: &str| below.is_some_and(|below| below.contains_key(name));
        if let Content::Table(above) = &mut entry.node.content {
            above.retain(|name, entry| match part {
                "params" => is_there(name),
                "stages" => is_there(name) || entry.node.at(&["uses"]).is_some(),
                _ => true,
            });
        }
        if let Content::Table(base) = &mut root.content {
            lay_over(base, part, entry);
        }
    }
}

/// Puts `top` at `name` of `base`; tables merge, everything else is replaced.
fn lay_over(base: &mut Table, name: &str, top: Entry) {
    match base.get_mut(name) {
        Some(entry) => match (&mut entry.node.content, top.node.content) {
            (Content::Table(below), Content::Table(above)) => {
                for (name, entry) in above {
                    lay_over(below, &name, entry);
                }
            }
            (below, above) => {
                *below = above;
                entry.node.place = top.node.place;
                entry.node.origin = top.node.origin;
                entry.key = top.key;
            }
        },
        None => {
            base.insert(name.to_owned(), top);
        }
    }
}

/// Carries out `assignment`, as `params.data=x.csv` or `train.epochs=3`. Its text, for messages.
pub(crate) fn apply_set(
    root: &mut Node,
    assignment: &str,
    mistakes: &mut Vec<Diagnostic>,
) -> Arc<SourceText> {
    let file = SourceText::new("--set", assignment);
    if let Err(mistake) = try_set(root, &file) {
        mistakes.push(mistake);
    }
    file
}

const SHAPE: &str = "write `--set STAGE.PARAMETER=VALUE` or `--set params.NAME=VALUE`";

fn try_set(root: &mut Node, file: &Arc<SourceText>) -> Result<(), Diagnostic> {
    let text = &file.text;
    let place = |span| Place {
        file: Arc::clone(file),
        span,
    };
    let bad = |message: String, at: &Place| Diagnostic::error(code::BAD_SET, message, at, "");
    let Some(equals) = text.find('=') else {
        return Err(bad(format!("`{text}` has no `=`"), &place(0..text.len())).help(SHAPE));
    };
    let mut path = Vec::new();
    let mut start = 0;
    for part in text[..equals].split('.') {
        let lead = part.len() - part.trim_start().len();
        let name = part.trim();
        path.push((
            name.to_owned(),
            place(start + lead..start + lead + name.len()),
        ));
        start += part.len() + 1;
    }
    let whole = place(0..equals);
    if path.iter().any(|(name, _)| name.is_empty()) {
        let message = format!("`{}` names nothing", &text[..equals]);
        return Err(bad(message, &whole).help(SHAPE));
    }
    check_target(root, &mut path, &whole)?;
    let value = value(file, equals + 1)?;
    put(root, &path, value)
}

/// Checks that what `path` names can be set and makes the path one from the root of the file.
fn check_target(
    root: &Node,
    path: &mut Vec<(String, Place)>,
    whole: &Place,
) -> Result<(), Diagnostic> {
    let (first, at) = path[0].clone();
    let names = |part: &str| -> Vec<String> {
        let table = root.at(&[part]).and_then(Node::as_table);
        table
            .map(|table| table.keys().cloned().collect())
            .unwrap_or_default()
    };
    let too_short = |what: &str| {
        let message = format!("`{}` names no {what}", whole.text());
        Err(Diagnostic::error(code::BAD_SET, message, whole, "").help(SHAPE))
    };
    let unknown_stage = |name: &str, at: &Place| {
        let stages = names("stages");
        let near = stages.iter().map(String::as_str);
        let otherwise = format!(
            "the stages are {}; parameters of the file are set as `params.NAME`",
            listed(near.clone())
        );
        let message = format!("there is no stage `{name}`");
        Err(Diagnostic::error(code::BAD_SET, message, at, "")
            .help(suggestion_or(name, near, &otherwise)))
    };
    match first.as_str() {
        "profiles" => {
            let message = "profiles cannot be set";
            Err(Diagnostic::error(code::BAD_SET, message, whole, "")
                .help("set what the profile sets, or choose one with `--profile`"))
        }
        "params" if path.len() < 2 => too_short("parameter"),
        "params" => {
            let params = names("params");
            let (name, at) = &path[1];
            if params.contains(name) {
                return Ok(());
            }
            let near = params.iter().map(String::as_str);
            let otherwise = if params.is_empty() {
                "the file has no `[params]`".to_owned()
            } else {
                format!("the parameters are {}", listed(near.clone()))
            };
            let message = format!("there is no parameter `{name}` in `[params]`");
            Err(Diagnostic::error(code::BAD_SET, message, at, "")
                .help(suggestion_or(name, near, &otherwise)))
        }
        "pipeline" if path.len() < 2 => too_short("key of `[pipeline]`"),
        "pipeline" => Ok(()),
        "stages" if path.len() < 3 => too_short("key of a stage"),
        "stages" => {
            let (name, at) = &path[1];
            if names("stages").contains(name) {
                return Ok(());
            }
            unknown_stage(name, at)
        }
        stage if !names("stages").iter().any(|name| name == stage) => unknown_stage(stage, &at),
        _ if path.len() < 2 => too_short("parameter of the stage"),
        _ => {
            path.insert(0, ("stages".to_owned(), at.clone()));
            path.insert(2, ("with".to_owned(), at));
            Ok(())
        }
    }
}

/// The value from byte `start` on: TOML if it is, else a string.
fn value(file: &Arc<SourceText>, start: usize) -> Result<Node, Diagnostic> {
    let text = &file.text[start..];
    let start = start + (text.len() - text.trim_start().len());
    let text = text.trim();
    let span = start..start + text.len();
    match document::parse_value(file, span.clone()) {
        Ok(node) if !text.is_empty() => Ok(node),
        // A broken list or quote is a slip, not a string.
        Err(mistake) if text.starts_with(['[', '{', '"', '\'']) => Err(Diagnostic {
            code: code::BAD_SET,
            ..mistake
        }
        .help("a string that begins so stands in quotes: `--set 'NAME=\"...\"'`")),
        _ => {
            let place = Place {
                file: Arc::clone(file),
                span,
            };
            Ok(Node::new(place, Content::String(text.to_owned())))
        }
    }
}

fn put(node: &mut Node, path: &[(String, Place)], value: Node) -> Result<(), Diagnostic> {
    let Some(((name, at), rest)) = path.split_first() else {
        *node = value;
        return Ok(());
    };
    let type_name = node.type_name();
    match &mut node.content {
        Content::Table(table) => {
            let entry = table.get_or_insert_with(name, || Entry {
                key: at.clone(),
                node: Node::new(at.clone(), Content::Table(Table::new())),
            });
            if rest.is_empty() {
                entry.key = at.clone();
            }
            put(&mut entry.node, rest, value)
        }
        Content::Array(items) => {
            let length = items.len();
            let item = name
                .parse::<usize>()
                .ok()
                .and_then(|index| items.get_mut(index));
            let Some(item) = item else {
                let message = format!("`{name}` is no position in a list of {length}");
                return Err(Diagnostic::error(code::BAD_SET, message, at, ""));
            };
            put(item, rest, value)
        }
        _ => {
            let message = format!("`{name}` cannot be set inside {type_name}");
            Err(Diagnostic::error(code::BAD_SET, message, at, "")
                .also(&node.place, format!("this is {type_name}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "[params]\ndata = \"a\"\n[stages.train]\nwith = { lr = 1.0, sizes = [1, 2] }\n\
        [profiles.quick.stages.train.with]\nlr = 0.5\nepochs = 3\n";

    fn after(profile: Option<&str>, sets: &[&str]) -> (serde_json::Value, Vec<Diagnostic>) {
        let mut root = document::parse(&SourceText::new("p.toml", FILE)).unwrap();
        let mut mistakes = Vec::new();
        if let Some(profile) = profile {
            apply_profile(&mut root, profile, &mut mistakes);
        }
        for set in sets {
            apply_set(&mut root, set, &mut mistakes);
        }
        (root.to_json(&mut |_| ()), mistakes)
    }

    #[test]
    fn profiles_merge_tables() {
        let (root, mistakes) = after(Some("quick"), &[]);

        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(
            root["stages"]["train"]["with"],
            json!({"lr": 0.5, "epochs": 3, "sizes": [1, 2]})
        );
    }

    #[test]
    fn sets_win_over_profiles_and_have_types() {
        let (root, mistakes) = after(
            Some("quick"),
            &[
                "train.lr=1e-4",
                "params.data=../x y.csv",
                "train.sizes.1 = 7",
                "train.a.b=[1, 2]",
                "train.name=true story",
                "stages.train.seed=3",
                "pipeline.seed=9",
                "train.empty=",
            ],
        );

        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(
            root["stages"]["train"],
            json!({"seed": 3, "with": {
                "lr": 1e-4, "epochs": 3, "sizes": [1, 7], "a": {"b": [1, 2]}, "name": "true story", "empty": ""
            }})
        );
        assert_eq!(root["params"]["data"], "../x y.csv");
        assert_eq!(root["pipeline"]["seed"], 9);
    }

    #[test]
    fn says_what_cannot_be_set() {
        for (set, message, column, help) in [
            ("train.lr", "`train.lr` has no `=`", 1, "write `--set"),
            ("trian.lr=1", "there is no stage `trian`", 1, "`train`"),
            (
                "params.date=1",
                "there is no parameter `date` in `[params]`",
                8,
                "`data`",
            ),
            ("train=1", "`train` names no parameter of the stage", 1, ""),
            ("profiles.quick=1", "profiles cannot be set", 1, ""),
            ("train..lr=1", "`train..lr` names nothing", 1, ""),
            ("train.lr.x=1", "`x` cannot be set inside a float", 10, ""),
            (
                "train.sizes.2=1",
                "`2` is no position in a list of 2",
                13,
                "",
            ),
            ("train.lr=[1", "not valid TOML", 12, "quotes"),
        ] {
            let (_, mistakes) = after(None, &[set]);
            let mistake = mistakes.first().unwrap_or_else(|| panic!("{set}"));
            assert!(mistake.message.contains(message), "{set}: {mistake}");
            let position = mistake.position().unwrap();
            assert_eq!((position.0, position.2), ("--set", column), "{mistake}");
            assert!(
                mistake.help.as_deref().unwrap_or_default().contains(help),
                "{mistake}"
            );
        }
    }

    #[test]
    fn names_the_profile_that_was_meant() {
        let (_, mistakes) = after(Some("quik"), &[]);

        assert_eq!(
            mistakes[0].to_string(),
            "--profile:1:1: error[N0007]: unknown profile `quik` (did you mean `quick`?)"
        );
    }
}
