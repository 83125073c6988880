//! `isolation = "process"`: a stage that breaks its process fails like any other, and one that does not gives the results
//! that it gives without.
//!
//! This executable is the program under test, too: with [`AS_PROGRAM`] in its environment it is `natron` with one more
//! kind of stage, which the runner then starts again for each isolated stage.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without the usual harness"
)]

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use natron_artifacts::{
    Kind, Metrics, PortSchema, Schemas, Signature, Stage, StageContext, StageError,
};
use natron_process::{Mechanism, mechanisms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The variable that makes this executable the program.
const AS_PROGRAM: &str = "NATRON_TEST_AS_PROGRAM";

/// Breaks its process in the way that it is told to.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Break {
    /// How.
    how: String,
}

impl Stage for Break {
    fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
        Ok(Signature::new().output("y", PortSchema::of(Kind::Metrics)))
    }

    #[allow(clippy::exit, clippy::infinite_loop, reason = "that is what is tested")]
    fn run(&self, context: &mut StageContext) -> Result<(), StageError> {
        context.warn("about to break");
        match self.how.as_str() {
            "panic" => panic!("on purpose"),
            "abort" => std::process::abort(),
            "exit 7" => std::process::exit(7),
            "exit 0" => std::process::exit(0),
            "overflow" => {
                context.metric("depth", 0, depth(1) as f64);
            }
            "memory" => {
                let mut all = Vec::new();
                while all.len() < 4000 {
                    all.push(vec![1_u8; 1 << 20]);
                }
                context.metric("bytes", 0, all.len() as f64);
            }
            "hang" => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "wait" => {
                while !context.cancel().is_set() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                fs::write(context.checkpoints()?.join("1"), "state")
                    .map_err(|e| StageError::io("checkpoint".to_owned(), e))?;
                return Err(StageError::Interrupted);
            }
            "data" => return Err(StageError::data_at(3, "close", "is negative")),
            "forget" => return Ok(()),
            _ => {}
        }
        let mut metrics = Metrics::new();
        metrics
            .set("seed", context.seed() as f64)
            .map_err(StageError::data)?;
        context.write("y", metrics)
    }
}

#[expect(unconditional_recursion, reason = "that is what is tested")]
fn depth(n: u64) -> u64 {
    let ballast = [n; 64];
    std::hint::black_box(depth(n + 1) + ballast[(n % 64) as usize])
}

fn main() -> ExitCode {
    if std::env::var_os(AS_PROGRAM).is_some() {
        let mut registry = natron_stages::registry();
        registry.register::<Break>("break", "1");
        return natron_cli::main_with(registry);
    }
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let tests: [(&str, fn()); 4] = [
        (
            "what_breaks_is_a_failed_stage",
            what_breaks_is_a_failed_stage,
        ),
        ("a_limit_is_a_failed_stage", a_limit_is_a_failed_stage),
        ("a_stop_reaches_the_stage", a_stop_reaches_the_stage),
        ("the_results_are_the_same", the_results_are_the_same),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn program(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .current_dir(folder)
        .env(AS_PROGRAM, "1")
        .env_remove("NATRON_CACHE")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap_or(-1), text)
}

/// A workspace in which `breaks` breaks and `sound` does not.
fn workspace(how: &str, stage: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pipelines")).unwrap();
    let text = format!(
        "[pipeline]\nname = \"p\"\n\n[stages.breaks]\nuses = \"break\"\nwith.how = \"{how}\"\n{stage}\n\n[stages.sound]\nuses = \"break\"\nwith.how = \"not\"\nisolation = \"process\"\n"
    );
    fs::write(folder.path().join("pipelines/p.toml"), text).unwrap();
    folder
}

#[track_caller]
fn expect(answer: &(i32, String), code: i32, says: &[&str]) {
    assert_eq!(answer.0, code, "{}", answer.1);
    for part in says {
        assert!(answer.1.contains(part), "no `{part}`: {}", answer.1);
    }
}

fn what_breaks_is_a_failed_stage() {
    for (how, says) in [
        ("panic", "the stage panicked: on purpose"),
        ("abort", "the stage's process aborted (signal 6)"),
        ("overflow", "has overflowed its stack"),
        ("exit 7", "the stage's process ended with exit status 7"),
        ("exit 0", "the stage's process ended without a result"),
        ("data", "row 3, column `close`: is negative"),
        ("forget", "ended without writing its output `y`"),
    ] {
        let folder = workspace(how, "isolation = \"process\"");

        let answer = program(folder.path(), &["run", "--keep-going"]);
        expect(&answer, 1, &[says, "about to break"]);
        let again = program(folder.path(), &["run", "--keep-going", "--dry-run"]);
        expect(&again, 0, &[]);
        // The other stage did its work, and a rerun has it.
        let rest = program(folder.path(), &["run", "--until", "sound"]);
        expect(&rest, 0, &[]);
    }
}

fn a_limit_is_a_failed_stage() {
    let folder = workspace("memory", "limits.memory = \"400 MiB\"");
    let answer = program(folder.path(), &["run", "--keep-going"]);

    if mechanisms().memory == Mechanism::ControlGroup {
        expect(
            &answer,
            1,
            &["was killed by the system: memory (limit 400 MiB, peak"],
        );
    } else {
        expect(&answer, 1, &["the stage's process aborted"]);
    }
    let folder = workspace("hang", "isolation = \"process\"\ntimeout = \"500ms\"");
    // A stage that never looks is killed when its grace is over.
    let begun = Instant::now();
    let answer = program(folder.path(), &["run", "--keep-going"]);
    expect(&answer, 1, &["timed out after 0.5 s"]);
    assert!(begun.elapsed() < Duration::from_mins(1));
}

fn a_stop_reaches_the_stage() {
    let folder = workspace("wait", "isolation = \"process\"\ntimeout = \"4s\"");

    let answer = program(folder.path(), &["run", "--keep-going"]);
    expect(&answer, 1, &["timed out after 4 s"]);
    let checkpoints = folder.path().join(".natron/cache/v2/ckpt");
    let mut found = fs::read_dir(checkpoints).unwrap().flatten();
    assert!(
        found.any(|entry| entry.path().join("1").exists()),
        "the checkpoint of the stage is not there"
    );
}

fn the_results_are_the_same() {
    let [apart, together] = [true, false].map(|is_isolated| {
        let folder = tempfile::tempdir().unwrap();
        let made = program(folder.path(), &["init", "--template", "minimal"]);
        expect(&made, 0, &[]);
        let pipelines: Vec<_> = fs::read_dir(folder.path().join("pipelines"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        for path in &pipelines {
            let text = fs::read_to_string(path).unwrap();
            let text = if is_isolated {
                text.replace("\nuses = ", "\nisolation = \"process\"\nuses = ")
            } else {
                text
            };
            fs::write(path, text).unwrap();
        }
        let run = ["run", "--set", "params.rows=1500", "--write-lock"];
        expect(&program(folder.path(), &run), 0, &[]);
        let lock = fs::read_to_string(pipelines[0].with_extension("lock")).unwrap();
        if is_isolated {
            // The same keys: without isolation there is nothing to do.
            let text = fs::read_to_string(&pipelines[0]).unwrap();
            assert!(text.contains("isolation"), "{text}");
            let text = text.replace("isolation = \"process\"\n", "");
            fs::write(&pipelines[0], text).unwrap();
            let again = program(folder.path(), &["run", "--set", "params.rows=1500"]);
            expect(&again, 0, &["nothing to do"]);
        }
        lock
    });

    assert_eq!(apart, together);
}
