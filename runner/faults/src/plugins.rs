//! Programs that misbehave as stages. Each is named in the message, nothing of it is cached, a stage beside it is not
//! disturbed, and no process is left.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use natron_cache::{Durability, Store};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Checked, Dice, While,
    playground::{CANARY, Call, Playground, Recipe, processes_at},
    sweep::{Family, Plan, Tally},
};

/// What has to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Exit 1, with these words among what is said.
    Fails(&'static str),
    /// Exit 0: the runner has to bear it.
    Works,
    /// Exit 1 or 2 before the stage starts, with these words.
    Refused(&'static str),
    /// Exit 0 or 1: either way nothing wrong may be kept.
    Either,
}

struct Misbehaviour {
    name: &'static str,
    /// What `sh` runs; `$0` is where the output `o` goes. Lines that begin with `:` come before: settings of the stage.
    script: &'static str,
    settings: &'static str,
    end: End,
    /// The longest that the run may take, in seconds.
    seconds: u64,
}

const fn bad(name: &'static str, script: &'static str, end: End) -> Misbehaviour {
    Misbehaviour {
        name,
        script,
        settings: "",
        end,
        seconds: 8,
    }
}

const fn slow(name: &'static str, script: &'static str, seconds: u64) -> Misbehaviour {
    Misbehaviour {
        name,
        script,
        settings: "timeout = \"300ms\"",
        end: End::Fails("timed out"),
        seconds,
    }
}

const fn with(
    name: &'static str,
    settings: &'static str,
    script: &'static str,
    end: End,
) -> Misbehaviour {
    Misbehaviour {
        name,
        script,
        settings,
        end,
        seconds: 8,
    }
}

const METRICS: &str = "with.outputs.m = \"metrics\"";
const TABLE: &str = "with.outputs.t = \"table\"";

const MISBEHAVIOURS: &[Misbehaviour] = &[
    bad("exits 1", "echo why >&2; exit 1", End::Fails("bad")),
    bad("exits 137", "exit 137", End::Fails("bad")),
    bad(
        "exits 255 after writing",
        "echo x > $0; exit 255",
        End::Fails("bad"),
    ),
    bad("writes nothing", "exit 0", End::Fails("o")),
    with(
        "writes one output of two",
        METRICS,
        "echo x > $0",
        End::Fails("m"),
    ),
    with(
        "metrics that are no JSON",
        METRICS,
        "echo x > $0; echo '{' > outputs/m.json",
        End::Fails("m"),
    ),
    with(
        "metrics that are empty",
        METRICS,
        "echo x > $0; : > outputs/m.json",
        End::Fails("m"),
    ),
    with(
        "metrics with NaN",
        METRICS,
        "echo x > $0; echo '{\"a\": NaN}' > outputs/m.json",
        End::Fails("m"),
    ),
    with(
        "metrics with 1e999",
        METRICS,
        "echo x > $0; echo '{\"a\": 1e999}' > outputs/m.json",
        End::Fails("m"),
    ),
    with(
        "metrics nested deeply",
        METRICS,
        "echo x > $0; (yes '{\"a\":' | head -20000 | tr -d '\\n') > outputs/m.json",
        End::Fails("m"),
    ),
    with(
        "a table that is text",
        TABLE,
        "echo x > $0; echo text > outputs/t.arrow",
        End::Fails("t"),
    ),
    with(
        "a table that is empty",
        TABLE,
        "echo x > $0; : > outputs/t.arrow",
        End::Fails("t"),
    ),
    with(
        "a table that is a cut Arrow file",
        TABLE,
        "echo x > $0; printf 'ARROW1\\0\\0\\377\\377\\377\\377\\060' > outputs/t.arrow",
        End::Fails("t"),
    ),
    with(
        "a table that claims to be Parquet",
        TABLE,
        "echo x > $0; printf 'PAR1\\377\\377\\377\\177PAR1' > outputs/t.arrow",
        End::Fails("t"),
    ),
    bad("output is a directory", "mkdir $0", End::Fails("o")),
    bad(
        "output is a link",
        "ln -s /etc/hostname $0",
        End::Fails("o"),
    ),
    bad("output is a pipe", "mkfifo $0", End::Fails("o")),
    bad(
        "output is a device",
        "ln /dev/null $0 2>/dev/null || mknod $0 c 1 3; exit 0",
        End::Fails("o"),
    ),
    bad("kills itself", "echo x > $0; kill -9 $$", End::Fails("bad")),
    bad(
        "dies of SIGSEGV",
        "echo x > $0; kill -11 $$",
        End::Fails("bad"),
    ),
    bad(
        "dies of SIGTERM",
        "echo x > $0; kill -15 $$",
        End::Fails("bad"),
    ),
    slow("hangs", "sleep 1000", 8),
    slow(
        "hangs and ignores SIGTERM",
        "trap '' TERM; while :; do sleep 1000; done",
        14,
    ),
    slow("stops itself", "kill -STOP $$; sleep 1000", 14),
    slow(
        "hangs in a child",
        "(trap '' TERM INT HUP; sleep 1000) & wait",
        14,
    ),
    slow(
        "hangs with a child that escaped",
        "setsid sh -c 'sleep 1000' & sleep 1000",
        14,
    ),
    bad("leaves a child", "echo x > $0; sleep 1000 &", End::Either),
    bad(
        "leaves a child that holds the pipes",
        "echo x > $0; (trap '' TERM HUP; sleep 1000) & exit 0",
        End::Either,
    ),
    bad(
        "leaves a daemon",
        "echo x > $0; setsid sh -c 'sleep 1000' > /dev/null 2>&1 < /dev/null & exit 0",
        End::Either,
    ),
    bad(
        "leaves a daemon of a daemon",
        "echo x > $0; setsid sh -c 'setsid sh -c \"trap : TERM; sleep 1000\" & exit' & exit 0",
        End::Either,
    ),
    bad(
        "leaves fifty children",
        "echo x > $0; i=0; while [ $i -lt 50 ]; do sleep 1000 & i=$((i+1)); done",
        End::Either,
    ),
    bad(
        "fails and leaves a child",
        "setsid sleep 1000 & exit 3",
        End::Fails("bad"),
    ),
    bad(
        "writes the output after its end",
        "echo first > $0; (sleep 0.2; echo late > $0) & exit 0",
        End::Either,
    ),
    bad(
        "floods standard error",
        "yes 0123456789012345678901234567890123456789 | head -c 50000000 >&2; echo x > $0",
        End::Works,
    ),
    bad(
        "floods standard output",
        "yes 0123456789012345678901234567890123456789 | head -c 50000000; echo x > $0",
        End::Works,
    ),
    bad(
        "one line of 20 MB",
        "head -c 20000000 /dev/zero | tr '\\0' a; echo x > $0",
        End::Works,
    ),
    bad(
        "binary output",
        "head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2; echo x > $0",
        End::Works,
    ),
    bad(
        "escape sequences",
        "printf '\\033[2J\\033]8;;http://x\\007\\033]0;title\\007\\r\\b' >&2; exit 1",
        End::Fails("bad"),
    ),
    bad(
        "garbage on descriptor 3",
        "echo garbage >&3; printf '\\377\\376' >&3; echo x > $0",
        End::Works,
    ),
    bad(
        "half a message",
        "printf '{\"progress\": {\"done\": 1' >&3; echo x > $0",
        End::Works,
    ),
    bad(
        "a message of huge numbers",
        "echo '{\"metric\": {\"name\": \"a\", \"step\": 1e99, \"value\": 1e999}}' >&3; echo x > $0",
        End::Works,
    ),
    bad(
        "a message nested deeply",
        "(yes '[' | head -100000 | tr -d '\\n'; echo) >&3; echo x > $0",
        End::Works,
    ),
    bad(
        "a message of 20 MB",
        "(head -c 20000000 /dev/zero | tr '\\0' a) >&3; echo x > $0",
        End::Works,
    ),
    bad(
        "100,000 messages",
        "yes '{\"log\": \"x\"}' | head -100000 >&3; echo x > $0",
        End::Works,
    ),
    bad(
        "closes its descriptors",
        "exec 3>&- 2>&- 1>&- 0<&-; echo x > $0",
        End::Works,
    ),
    bad(
        "deletes its input",
        "rm -f inputs/a; echo x > $0",
        End::Either,
    ),
    bad(
        "writes to its input",
        "chmod u+w inputs/a; echo more >> inputs/a; echo x > $0",
        End::Either,
    ),
    bad(
        "writes to the store",
        "for f in $(find ../../../cas -type f); do chmod u+w $f; echo more >> $f; done; echo x > $0",
        End::Either,
    ),
    bad(
        "removes its folder",
        "d=$PWD; cd /; rm -rf $d",
        End::Fails("bad"),
    ),
    bad(
        "leaves folders that cannot be entered",
        "mkdir -p no/no; chmod 000 no/no no; echo x > $0",
        End::Works,
    ),
    bad(
        "leaves a deep tree",
        "i=0; while [ $i -lt 300 ]; do mkdir d && cd d; i=$((i+1)); done; exit 4",
        End::Fails("bad"),
    ),
    bad(
        "leaves 3,000 files",
        "i=0; while [ $i -lt 3000 ]; do : > f$i; i=$((i+1)); done; echo x > $0",
        End::Works,
    ),
    bad(
        "prints a secret",
        "echo $TOKEN $NATRON_FAULTS_API_TOKEN; env >&2; exit 1",
        End::Fails("bad"),
    ),
    bad(
        "does not read its input",
        "exec 0<&-; echo x > $0",
        End::Works,
    ),
    with(
        "is not there",
        "",
        "@missing-program",
        End::Refused("missing-program"),
    ),
    with(
        "is not executable",
        "",
        "@./plain.txt",
        End::Refused("plain.txt"),
    ),
    with(
        "is of no format",
        "",
        "@./garbage.bin",
        End::Refused("garbage.bin"),
    ),
    with("is a folder", "", "@./pipelines", End::Refused("pipelines")),
    with(
        "needs an interpreter that is not there",
        "",
        "@./no-interpreter",
        End::Refused("no-interpreter"),
    ),
];

fn recipe(misbehaviour: &Misbehaviour) -> Recipe {
    let run = match misbehaviour.script.strip_prefix('@') {
        Some(program) => format!("[{program:?}, \"${{outputs.o}}\"]"),
        None => format!(
            "[\"sh\", \"-c\", {}, \"${{outputs.o}}\"]",
            toml_string(misbehaviour.script)
        ),
    };
    let pipeline = format!(
        r#"
[pipeline]
name = "p"
[stages.input]
uses = "toy.files"
with = {{ bytes = 5000 }}
[stages.good]
uses = "toy.make"
with = {{ rows = 3 }}
[stages.bad]
uses = "command"
inputs.a = "input"
with.run = {run}
with.outputs.o = "file"
with.pass_environment = ["{}"]
{}
"#,
        CANARY.0, misbehaviour.settings
    );
    Recipe {
        name: "plugin",
        pipeline,
        files: vec![
            ("plain.txt", b"text".to_vec()),
            ("garbage.bin", vec![0x7f, b'E', b'L', b'F', 9, 9, 9, 9]),
            ("no-interpreter", b"#!/no/such/interpreter\n".to_vec()),
        ],
    }
}

/// A TOML string. `${` would be a reference.
fn toml_string(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

fn judge(folder: &Path, plan: &Plan, misbehaviour: &Misbehaviour) -> Checked {
    let playground = Playground::new(folder, &plan.program, &recipe(misbehaviour))?;
    for name in ["garbage.bin", "no-interpreter"] {
        let path = playground.path(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).at("chmod")?;
    }
    let answer = playground.call(&Call {
        arguments: &["run", "--json", "--keep-going"],
        ..Call::default()
    })?;
    let result = (|| {
        answer.is_civil(false)?;
        let text: String = answer.stderr.chars().take(500).collect();
        let is_right = match misbehaviour.end {
            End::Fails(words) => answer.code == Some(1) && answer.stderr.contains(words),
            End::Works => answer.code == Some(0),
            End::Refused(words) => {
                matches!(answer.code, Some(1 | 2)) && answer.stderr.contains(words)
            }
            End::Either => matches!(answer.code, Some(0 | 1)),
        };
        if !is_right {
            return Err(format!(
                "{:?}: exit code {:?}; stderr: {text}",
                misbehaviour.end, answer.code
            ));
        }
        if answer.elapsed > Duration::from_secs(misbehaviour.seconds) {
            return Err(format!("took {:?}", answer.elapsed));
        }
        if answer.stderr.len() > 4 << 20 {
            return Err(format!("{} bytes of messages", answer.stderr.len()));
        }
        if let Some(control) = answer.stderr.chars().find(|c| c.is_control() && *c != '\n') {
            return Err(format!(
                "the control character {control:?} reached the terminal"
            ));
        }
        if answer.code != Some(0) {
            let failed = natron_has_record_of_bad(&playground)?;
            if failed {
                return Err("a result was kept".into());
            }
        }
        if answer.code != Some(2) {
            let value: serde_json::Value =
                serde_json::from_str(&answer.stdout).at("standard output")?;
            let good = value["stages"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|stage| stage["name"] == "good");
            if !good.is_some_and(|good| {
                ["ran", "hit"].contains(&good["outcome"].as_str().unwrap_or_default())
            }) {
                return Err("the stage beside it did not run".into());
            }
        }
        let size: u64 = crate::playground::files_below(&playground.path(".natron/runs"))
            .at("the logs")?
            .values()
            .map(|bytes| bytes.len() as u64)
            .sum();
        if size > 40 << 20 {
            return Err(format!("logs of {size} bytes"));
        }
        let left = processes_at(folder);
        if !left.is_empty() {
            return Err(format!("{} processes are left: {}", left.len(), left[0]));
        }
        if answer.code == Some(2) {
            return playground.leaves_nothing();
        }
        // Whatever it did to files, the results beside it are what they were.
        let again = playground.natron(&["run", "--json", "--until", "input", "--until", "good"])?;
        again.expect_success()?;
        playground.natron(&["cache", "check"])?.is_civil(false)?;
        playground
            .natron(&["run", "--until", "input", "--until", "good"])?
            .expect_success()?;
        playground.leaves_nothing()
    })();
    for process in processes_of(folder) {
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
    result
}

/// Ids of processes that a case has left.
fn processes_of(folder: &Path) -> Vec<i32> {
    processes_at(folder)
        .iter()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

fn natron_has_record_of_bad(playground: &Playground) -> Checked<bool> {
    if !playground.store().join("FORMAT").exists() {
        return Ok(false);
    }
    let store = Store::open(&playground.path(".natron/cache"), Durability::None).at("open")?;
    Ok(store
        .keys()
        .iter()
        .filter_map(|(key, _)| store.record(key))
        .any(|record| record.ingredients.kind == "command"))
}

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "plugins")?;
    let repeats = plan.size(1, 20);
    let mut jobs = Vec::new();
    for repeat in 0..repeats {
        for misbehaviour in MISBEHAVIOURS {
            if plan.fast && misbehaviour.seconds > 10 {
                continue;
            }
            jobs.push((repeat, misbehaviour));
        }
    }
    let mut dice = Dice::named(plan.seed, "plugins");
    for i in (1..jobs.len()).rev() {
        jobs.swap(i, dice.below(i + 1));
    }
    family.each(jobs, |(repeat, misbehaviour)| {
        let id = format!("{} {repeat}", misbehaviour.name);
        family.case(&id, |folder| judge(folder, plan, misbehaviour));
        family.point(misbehaviour.name);
    });
    Ok(family.finish())
}
