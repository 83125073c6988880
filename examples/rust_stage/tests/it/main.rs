//! The example as its user runs it: the binary, in a workspace.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn rust_stage(workspace: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rust-stage"))
        .args(arguments)
        .current_dir(workspace)
        .output()
        .expect("the binary starts")
}

/// A copy of the example's workspace.
fn workspace() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pipelines = directory.path().join("pipelines");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/rolling_mean.toml");
    fs::create_dir(&pipelines).expect("a new folder");
    fs::copy(example, pipelines.join("rolling_mean.toml")).expect("the example has a pipeline");
    directory
}

#[test]
fn the_new_kind_runs_beside_the_built_in_ones() {
    let workspace = workspace();

    let run = rust_stage(workspace.path(), &["run"]);
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let export = rust_stage(
        workspace.path(),
        &["export", "means", "--output", "means.csv"],
    );
    assert!(
        export.status.success(),
        "{}",
        String::from_utf8_lossy(&export.stderr)
    );
    let csv = fs::read_to_string(workspace.path().join("means.csv")).unwrap();
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("ts_ns,close_mean,volume_mean"));
    assert_eq!(lines.count(), 500);
}

#[test]
fn the_new_kind_is_documented() {
    let workspace = workspace();

    let stages = rust_stage(workspace.path(), &["stages", "rolling_mean"]);
    let text = String::from_utf8_lossy(&stages.stdout);
    assert!(
        text.contains("Trailing mean of each named column"),
        "{text}"
    );
    assert!(text.contains("window_bars"), "{text}");
}
