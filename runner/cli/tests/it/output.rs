//! Outputs that do not take what is written.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use crate::natron::{answer, command};

/// Calls whose answers are long, short, JSON and help.
const CALLS: [&[&str]; 5] = [
    &["--help"],
    &["schema"],
    &["stages", "--json"],
    &["completions", "bash"],
    &["doctor"],
];

#[test]
fn a_full_disk_is_said_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    for call in CALLS {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(folder.path(), call).stdout(full).output().unwrap();
        let answer = answer(output).expect(5);
        assert!(
            answer
                .stderr
                .contains("cannot write to the standard output: No space left"),
            "{}",
            answer.stderr
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_mistake() {
    let folder = tempfile::tempdir().unwrap();
    for call in CALLS {
        let mut child = command(folder.path(), call)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let mut reader = BufReader::with_capacity(16, child.stdout.take().unwrap());
        reader.read_line(&mut first).unwrap();
        drop(reader);
        let answer = answer(child.wait_with_output().unwrap()).expect(0);
        assert_eq!(answer.stderr, "", "{call:?}");
    }
}

#[test]
fn a_closed_standard_error_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();

    let output = command(folder.path(), &["statsu"])
        .stderr(full)
        .output()
        .unwrap();
    answer(output).expect(2);
}
