//! The malformed pipeline files of the runner's tests, through the program.

use std::{fs, path::Path};

use serde_json::Value;

use crate::natron::natron;

#[test]
fn malformed_pipelines_exit_2_and_say_where() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    let (mut n_files, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let option = |name: &str| {
            text.lines()
                .filter_map(|l| l.strip_prefix(name).map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut arguments = vec![
            "check".to_owned(),
            name.clone(),
            "--workspace".into(),
            ".".into(),
        ];
        for profile in option("# profile: ") {
            arguments.extend(["--profile".into(), profile]);
        }
        for set in option("# set: ") {
            arguments.extend(["--set".into(), set]);
        }
        let expected = option("# expect: ");
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();

        let human = natron(&corpus, &words).expect(2);
        assert!(human.stderr.starts_with("error: "), "{}", human.stderr);
        assert_eq!(human.stdout, "");
        let machine = natron(&corpus, &[words.as_slice(), &["--json"]].concat())
            .expect(2)
            .json();
        let mistakes = machine["diagnostics"].as_array().unwrap();
        let found: Vec<String> = mistakes
            .iter()
            .map(|mistake| line(mistake, &name))
            .collect();
        if found != expected {
            wrong.push(format!("{name}: {found:#?}, expected {expected:#?}"));
        }
        for mistake in mistakes {
            let message = mistake["message"].as_str().unwrap();
            assert!(
                human.stderr.contains(message),
                "{name}: {message}\n{}",
                human.stderr
            );
        }
        n_files += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(n_files >= 40, "{n_files} files");
}

fn line(mistake: &Value, name: &str) -> String {
    let text = |field: &str| mistake[field].as_str().unwrap_or_default().to_owned();
    let file = text("file");
    let file = if file == name {
        String::new()
    } else {
        format!("{file}:")
    };
    format!(
        "{} {file}{}:{} {}",
        text("code"),
        mistake["line"],
        mistake["column"],
        text("message")
    )
}
