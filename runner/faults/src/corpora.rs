//! Malformed files, each with the message that is expected of it: pipeline files through the program, candles, models and
//! tables through their readers.

use std::{fs, path::Path};

use crate::{
    Checked, While,
    playground::{Playground, Recipe},
    readers::{Desk, Reader, seeds},
    sweep::{Family, Plan, Tally},
};

const GOOD: &str = "\
time,open,high,low,close,volume
2024-01-01T00:00:00Z,10,12,9,11,5
2024-01-01T01:00:00Z,11,13,10,12,6
2024-01-01T02:00:00Z,12,14,11,13,7
";

/// What is put in place of line 3, or of a part of the good file, and a part of the message.
const LINES: [(&str, &str); 34] = [
    ("2024-01-01T01:00:00Z,x,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,nan,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,-NaN,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,inf,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,1e400,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,0,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,-11,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,11,9,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,11,13,12.5,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,11,13,10,14,6", "line 3"),
    ("2024-01-01T01:00:00Z,11,13,10,12,-1", "line 3"),
    ("2024-01-01T01:00:00Z,11,13,10,12", "line 3"),
    ("2024-01-01T01:00:00Z,11,13,10,12,6,7", "line 3"),
    ("2024-01-01T01:00:00Z,\"11,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,11 13,10,12,6,1", "line 3"),
    ("2024-01-01T01:00:00Z,1_1,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,0x11,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,11;13;10;12;6", "line 3"),
    ("2024-01-01T00:00:00Z,11,13,10,12,6", "line"),
    ("2023-01-01T00:00:00Z,11,13,10,12,6", "line"),
    ("yesterday,11,13,10,12,6", "line 3"),
    (",11,13,10,12,6", "line 3"),
    ("2024-13-01T01:00:00Z,11,13,10,12,6", "line 3"),
    ("2024-02-30T01:00:00Z,11,13,10,12,6", "line 3"),
    ("2024-01-01T25:00:00Z,11,13,10,12,6", "line 3"),
    ("99999-01-01T01:00:00Z,11,13,10,12,6", "line 3"),
    ("1e30,11,13,10,12,6", "line 3"),
    ("nan,11,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,11,13,10,12,1e400", "line 3"),
    ("2024-01-01T01:00:00Z,11,13,10,12,nan", "line 3"),
    ("time,open,high,low,close,volume", "line 3"),
    ("2024-01-01T01:00:00Z\u{200b},11,13,10,12,6", "line 3"),
    ("2024-01-01T01:00:00Z,١١,13,10,12,6", "line 3"),
];

/// Whole files.
const FILES: [(&[u8], &str); 14] = [
    (b"", "the file is empty"),
    (b"\n\n \n", "the file is empty"),
    (b"\xef\xbb\xbf", "the file is empty"),
    (b"time,open,high,low,close,volume\n", "no bars"),
    (b"\xff\xfet\0i\0m\0e\0", "UTF-16"),
    (b"\x1f\x8b\x08\0", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PAR1....PAR1", "Parquet"),
    (b"1,2,3,4,5,6\n", "header"),
    (
        b"time,open,open,low,close,volume\n1,2,3,4,5,6\n",
        "two columns",
    ),
    (
        b"when,open,high,low,close,volume\n1,2,3,4,5,6\n",
        "no column",
    ),
    (b"<html><body>502</body></html>\n", "bars"),
    (b"{\"error\": \"rate limit\"}\n", "bars"),
];

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "corpora")?;
    pipelines(&family);
    let place = family.folder();
    let good = seeds(&place.join("seeds"), &plan.program)?;
    let desk = Desk::new(&place.join("desk"))?;
    let refused = |reader: Reader, bytes: &[u8], words: &str| match desk.read(reader, bytes) {
        Ok(()) => Err("was taken for good".to_owned()),
        Err(message) if message.contains(words) => Ok(()),
        Err(message) => Err(format!("`{message}` does not say `{words}`")),
    };
    family.case("the good candles", |_| {
        desk.read(Reader::Csv, GOOD.as_bytes())
    });
    for (n, (line, words)) in LINES.iter().enumerate() {
        let lines: Vec<&str> = GOOD.lines().collect();
        let text = [lines[0], lines[1], line, lines[3], ""].join("\n");
        family.case(&format!("candles, line {n}"), |_| {
            refused(Reader::Csv, text.as_bytes(), words)
        });
        family.count("candles", 1);
    }
    for (n, (bytes, words)) in FILES.iter().enumerate() {
        family.case(&format!("candles, file {n}"), |_| {
            refused(Reader::Csv, bytes, words)
        });
        family.count("candles", 1);
    }
    // Files that end too early, at many lengths, and files whose structure is damaged.
    let every = plan.size(40, 1);
    for reader in [
        Reader::Parquet,
        Reader::Weights,
        Reader::Table,
        Reader::Card,
    ] {
        let Some(whole) = good.get(&reader).and_then(|list| list.first()) else {
            continue;
        };
        family.case(&format!("the good {}", reader.name()), |_| {
            desk.read(reader, whole)
        });
        let step = (whole.len() / 150).max(1) * every;
        for length in (0..whole.len()).step_by(step) {
            let id = format!("{} cut to {length}", reader.name());
            if reader == Reader::Card && whole[length..].iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            family.case(&id, |_| refused(reader, &whole[..length], ""));
            family.count(&format!("cut {}", reader.name()), 1);
        }
        // Flips of the ends may be harmless in the padding, but nothing may panic.
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            family.case(
                &format!("{} flipped at {at}", reader.name()),
                |_| match desk.read(reader, &bytes) {
                    Err(message) if message.starts_with("WRONG") => Err(message),
                    _ => Ok(()),
                },
            );
            family.count(&format!("flipped {}", reader.name()), 1);
        }
    }
    let _ = crate::playground::remove(&place);
    Ok(family.finish())
}

/// The malformed pipelines of the runner's tests, through the program: exit 2, and every message at its place.
fn pipelines(family: &Family<'_>) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    let Ok(entries) = fs::read_dir(&corpus) else {
        family.skip(
            "the malformed pipelines are not where the program was built",
            90,
        );
        return;
    };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    let step = family.plan.size(8, 1);
    for path in paths.into_iter().step_by(step) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        family.case(&name, |folder| {
            let text = fs::read_to_string(&path).at("read")?;
            let playground = Playground::new(
                folder,
                &family.plan.program,
                &Recipe {
                    name: "bad",
                    pipeline: text.clone(),
                    files: Vec::new(),
                },
            )?;
            let file = corpus.join(&name);
            let file = file.to_string_lossy();
            let option = |name: &str| {
                text.lines()
                    .filter_map(|line| line.strip_prefix(name).map(str::to_owned))
                    .collect::<Vec<_>>()
            };
            let (profiles, sets, expected) = (
                option("# profile: "),
                option("# set: "),
                option("# expect: "),
            );
            let mut arguments = vec![
                "check",
                &*file,
                "--workspace",
                corpus.to_str().unwrap_or("."),
            ];
            for profile in &profiles {
                arguments.extend(["--profile", profile]);
            }
            for set in &sets {
                arguments.extend(["--set", set]);
            }
            let answer = playground.natron(&arguments)?;
            answer.is_civil(false)?;
            if answer.code != Some(2) {
                return Err(format!("exit code {:?}", answer.code));
            }
            let shown = answer.stderr.replace('\n', " ");
            for line in expected {
                let message = line.splitn(3, ' ').nth(2).unwrap_or_default();
                let start: String = message.chars().take(40).collect();
                if !shown.contains(&start) && !answer.stderr.contains(&start) {
                    return Err(format!("`{message}` is not said"));
                }
            }
            Ok(())
        });
        family.count("pipelines", 1);
    }
}
