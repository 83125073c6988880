//! Malformed pipeline files, each with every mistake that is expected of it.
//!
//! `corpus/*.toml` begin with comments: `# expect: CODE [FILE:]LINE:COLUMN MESSAGE` for each mistake in order, each followed by
//! `# help: TEXT` where the help is expected too; `# profile: NAME` and `# set: ASSIGNMENT` are options. The program's tests
//! read the same files. They use only kinds and parameters that the built-in stages have as well.

use std::{fs, path::Path};

use natron_runner::{Diagnostic, LoadOptions, load_text};

use crate::toys;

struct Case {
    name: String,
    text: String,
    options: LoadOptions,
    expected: Vec<(String, Option<String>)>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    paths.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Case {
    let text = fs::read_to_string(path).unwrap();
    let mut case = Case {
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        options: LoadOptions {
            workspace: path.parent().unwrap().to_owned(),
            ..LoadOptions::default()
        },
        expected: Vec::new(),
        text: String::new(),
    };
    for line in text.lines() {
        if let Some(expected) = line.strip_prefix("# expect: ") {
            case.expected.push((expected.to_owned(), None));
        } else if let Some(help) = line.strip_prefix("# help: ") {
            case.expected.last_mut().unwrap().1 = Some(help.to_owned());
        } else if let Some(profile) = line.strip_prefix("# profile: ") {
            case.options.profile = Some(profile.to_owned());
        } else if let Some(set) = line.strip_prefix("# set: ") {
            case.options.sets.push(set.to_owned());
        }
    }
    case.text = text;
    case
}

fn line(mistake: &Diagnostic, name: &str) -> String {
    let (file, line, column) = mistake.position().unwrap();
    let file = if file == name {
        String::new()
    } else {
        format!("{file}:")
    };
    format!("{} {file}{line}:{column} {}", mistake.code, mistake.message)
}

#[test]
fn every_malformed_file_gets_its_mistakes() {
    let registry = toys::registry();
    let mut n_wrong = 0;
    let cases = cases();

    for case in &cases {
        let mistakes = load_text(&case.name, &case.text, &case.options, &registry)
            .err()
            .unwrap_or_default();

        let got: Vec<(String, Option<String>)> = mistakes
            .iter()
            .enumerate()
            .map(|(i, mistake)| {
                let asked = case.expected.get(i).is_none_or(|(_, help)| help.is_some());
                let help = mistake.help.clone().filter(|_| asked);
                (line(mistake, &case.name), help)
            })
            .collect();
        if got != case.expected || got.is_empty() {
            n_wrong += 1;
            eprintln!("{}:", case.name);
            for (line, help) in got {
                eprintln!("# expect: {line}");
                if let Some(help) = help {
                    eprintln!("# help: {help}");
                }
            }
        }
    }

    assert!(cases.len() >= 45, "{} files", cases.len());
    assert_eq!(n_wrong, 0, "of {} files", cases.len());
}

#[test]
fn messages_are_lower_case_without_a_full_stop() {
    let registry = toys::registry();
    for case in cases() {
        for mistake in load_text(&case.name, &case.text, &case.options, &registry)
            .err()
            .unwrap_or_default()
        {
            for text in [Some(&mistake.message), mistake.help.as_ref()]
                .into_iter()
                .flatten()
            {
                let first = text.chars().next().unwrap();
                assert!(!first.is_uppercase() && !text.ends_with('.'), "{text}");
                assert!(!text.contains('\n'), "{text}");
            }
        }
    }
}
