//! Help, mistyped commands, completions.

use crate::natron::natron;

const COMMANDS: [&str; 18] = [
    "run",
    "check",
    "status",
    "graph",
    "explain",
    "runs",
    "diff",
    "show",
    "export",
    "verify",
    "gc",
    "cache",
    "init",
    "stages",
    "schema",
    "predict",
    "doctor",
    "completions",
];

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let help = natron(folder.path(), &[command, "--help"]).expect(0);
        assert!(
            help.stdout.contains("Examples:\n  natron "),
            "{}",
            help.stdout
        );
        assert_eq!(help.stderr, "");
    }
}

#[test]
fn the_first_help_lists_commands_and_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let help = natron(folder.path(), &["--help"]).expect(0);

    for command in COMMANDS {
        assert!(
            help.stdout.contains(&format!("\n  {command} ")),
            "{command}: {}",
            help.stdout
        );
    }
    for line in [
        "1    a stage failed",
        "3    results differ",
        "130  interrupted",
    ] {
        assert!(help.stdout.contains(line), "{}", help.stdout);
    }
    natron(folder.path(), &[]).expect(2);
}

#[test]
fn a_mistyped_command_or_option_is_recognized() {
    let folder = tempfile::tempdir().unwrap();

    let answer = natron(folder.path(), &["statsu"]).expect(2);
    assert!(answer.stderr.contains("'status'"), "{}", answer.stderr);
    let answer = natron(folder.path(), &["run", "--dryrun"]).expect(2);
    assert!(answer.stderr.contains("'--dry-run'"), "{}", answer.stderr);
    assert_eq!(answer.stdout, "");
}

#[test]
fn completions_know_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = natron(folder.path(), &["completions", shell])
            .expect(0)
            .stdout;
        assert!(
            COMMANDS.iter().all(|command| script.contains(command)),
            "{shell}"
        );
    }
}

#[test]
fn colours_come_only_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();

    assert!(
        !natron(folder.path(), &["stages", "nothing"])
            .expect(2)
            .stderr
            .contains('\x1b')
    );
    let painted = natron(folder.path(), &["--color", "always", "stages", "nothing"]).expect(2);
    assert!(painted.stderr.contains('\x1b'));
    let mut command = crate::natron::command(folder.path(), &["stages", "nothing"]);
    let forced = command.env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(forced.stderr.contains(&0x1b));
    let mut command = crate::natron::command(folder.path(), &["stages", "nothing"]);
    let refused = command
        .env("CLICOLOR_FORCE", "1")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!refused.stderr.contains(&0x1b));
}
