//! Disks that fail and lie: errors injected into every call, calls that claim to have done what they have not, full and
//! read-only file systems, limits of the process, closed and full outputs, stores that vanish while they are used.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    Checked, Dice, While,
    kill::{State, Templates, can_inject},
    playground::{Answer, Call, Playground, Recipe, Reference, remove},
    sweep::{Family, Plan, Tally},
};

/// System calls and the errors that they may give.
const CALLS: [(&str, &[&str]); 20] = [
    (
        "openat",
        &[
            "EACCES", "EMFILE", "ENOSPC", "EROFS", "EIO", "ENFILE", "EINTR",
        ],
    ),
    ("write", &["EIO", "ENOSPC", "EDQUOT", "EINTR", "EFBIG"]),
    ("pwrite64", &["EIO", "ENOSPC"]),
    ("writev", &["EIO", "ENOSPC"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    (
        "rename,renameat,renameat2",
        &["EIO", "ENOSPC", "EACCES", "EROFS", "EXDEV", "EDQUOT"],
    ),
    ("link,linkat", &["EIO", "EMLINK", "EXDEV", "EACCES"]),
    ("unlink,unlinkat", &["EIO", "EACCES", "EROFS"]),
    (
        "mkdir,mkdirat",
        &["EIO", "ENOSPC", "EACCES", "EROFS", "EDQUOT", "EMLINK"],
    ),
    ("ftruncate", &["EIO", "EINTR"]),
    ("fallocate", &["ENOSPC", "EOPNOTSUPP"]),
    ("flock", &["ENOLCK", "EINTR", "EIO"]),
    ("fcntl", &["ENOLCK", "EINTR"]),
    ("close", &["EIO"]),
    ("chmod,fchmod,fchmodat", &["EACCES", "EROFS", "EIO"]),
    ("getdents64", &["EIO"]),
    ("copy_file_range,sendfile", &["EIO", "ENOSPC", "EXDEV"]),
];

/// Calls that say that all is well and do nothing.
const LIES: [&str; 7] = [
    "write:retval=1",
    "fsync:retval=0",
    "fdatasync:retval=0",
    "rename,renameat,renameat2:retval=0",
    "unlink,unlinkat:retval=0",
    "mkdir,mkdirat:retval=0",
    "ftruncate:retval=0",
];

const RUN: &[&str] = &["run", "--json"];
const GC: &[&str] = &["gc", "--yes", "--grace", "0s", "--keep-runs", "1"];
const CHECK: &[&str] = &["cache", "check"];
const MOST: usize = 300;

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "io")?;
    crate::faulty::run(&family);
    let mut round = 0;
    let target = plan.size(250, 4_000) as u64;
    if can_inject() {
        let before = family.reached("errors");
        while family.reached("errors") < before + target && !family.is_over() {
            let recipe = if round % 3 == 1 {
                Recipe::commands(round)
            } else {
                Recipe::toys(round)
            };
            let templates = Templates::new(&family.folder(), &plan.program, &recipe)?;
            injected(&family, &templates, &recipe, round);
            templates.remove();
            round += 1;
            if plan.case.is_some() && round > 6 {
                break;
            }
        }
    } else {
        family.skip("no strace that injects", 2_000);
    }
    let recipe = Recipe::toys(3);
    let templates = Templates::new(&family.folder(), &plan.program, &recipe)?;
    limits(&family, &templates);
    outputs(&family, &templates);
    small_disks(&family, &templates);
    vanishing(&family, &plan.program)?;
    templates.remove();
    Ok(family.finish())
}

fn injected(family: &Family<'_>, templates: &Templates, recipe: &Recipe, round: u64) {
    let plan = family.plan;
    let commands: [(State, &[&str]); 5] = [
        (State::Empty, RUN),
        (State::Populated, RUN),
        (State::Damaged, RUN),
        (State::Full, GC),
        (State::Damaged, CHECK),
    ];
    let mut jobs: Vec<(State, &[&str], String, bool)> = Vec::new();
    for (state, command) in commands {
        for (call, errors) in CALLS {
            for error in errors {
                jobs.push((state, command, format!("{call}:error={error}"), false));
            }
        }
        for lie in LIES {
            jobs.push((state, command, lie.to_owned(), true));
        }
    }
    let mut dice = Dice::named(plan.seed, &format!("io {round}"));
    for i in (1..jobs.len()).rev() {
        jobs.swap(i, dice.below(i + 1));
    }
    let fast = plan.fast && plan.case.is_none();
    // A sweep of every point with every error is long; each round takes every third, from another start.
    let (start, step) = if fast {
        (3, 40)
    } else if plan.case.is_some() {
        (1, 1)
    } else {
        (1 + round as usize % 3, 3)
    };
    family.each(jobs, |(state, command, inject, is_lie)| {
        let mut k = start;
        while k <= MOST && !family.is_over() {
            let id = format!(
                "{} {round} {state:?} {} {inject} {k}",
                recipe.name, command[0]
            );
            let fired = family.case(&id, |folder| {
                let playground = templates.copy(state, folder)?;
                let answer = playground.injected(&format!("{inject}:when={k}"), command)?;
                if !answer.fired {
                    return Ok(None);
                }
                if answer.stderr.contains("unexpected error during closedir") {
                    // The standard library asserts that closing a folder works, as it does on every file system.
                    playground.settles(&templates.reference)?;
                    return Ok(Some(
                        "assertions of the standard library that a folder closes",
                    ));
                }
                if command == RUN {
                    judge(&playground, &answer, &templates.reference, !is_lie)?;
                } else {
                    if !is_before_main(&answer) {
                        answer.is_civil(false)?;
                    }
                    playground.settles(&templates.reference)?;
                }
                Ok(Some(if is_lie { "lies" } else { "errors" }))
            });
            match fired {
                Some(None) => break,
                Some(Some(what)) => {
                    family.count(what, 1);
                    family.point(format!(
                        "{} {state:?} {} {inject} {k}",
                        recipe.name, command[0]
                    ));
                }
                None => {}
            }
            k += step;
        }
    });
}

/// Civil; if it says that all went well, it did; a rerun puts everything right.
fn judge(
    playground: &Playground,
    answer: &Answer,
    reference: &Reference,
    is_honest: bool,
) -> Checked {
    if !is_before_main(answer) {
        answer.is_civil(false)?;
    }
    if answer.code == Some(0) && is_honest {
        playground.has_the_results(answer, reference).at("exit 0")?;
    }
    if !is_honest {
        // What a disk has lied about shows when it is read.
        playground
            .natron(CHECK)?
            .is_civil(false)
            .at("cache check")?;
    }
    playground.settles(reference)
}

/// The loader of the system could not begin: nothing of ours was run.
fn is_before_main(answer: &Answer) -> bool {
    let words = "error while loading shared libraries";
    answer.code == Some(127) || answer.stderr.contains(words)
}

/// Limits on the size and number of files.
fn limits(family: &Family<'_>, templates: &Templates) {
    let sizes = [0, 1, 16, 100, 500, 1000, 2000, 4096, 5000, 9000, 20_000];
    let mut jobs: Vec<String> = sizes.iter().map(|size| format!("--fsize={size}")).collect();
    jobs.extend((3..40).map(|n| format!("--nofile={n}")));
    let has_prlimit = Command::new("prlimit")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !has_prlimit {
        family.skip("no prlimit", jobs.len() as u64 * 2);
        return;
    }
    let jobs = jobs
        .iter()
        .flat_map(|limit| [State::Empty, State::Populated].map(|state| (limit.clone(), state)));
    let jobs: Vec<_> = jobs.collect();
    family.each(jobs, |(limit, state)| {
        family.case(&format!("{limit} {state:?}"), |folder| {
            let playground = templates.copy(state, folder)?;
            let answer = playground.call(&Call {
                prefix: vec!["prlimit".into(), limit.clone(), "--".into()],
                arguments: RUN,
                ..Call::default()
            })?;
            // With a limit on sizes even the message may not fit.
            let is_mute =
                limit.starts_with("--fsize") && answer.code != Some(0) && answer.signal.is_none();
            if is_mute {
                return playground.settles(&templates.reference);
            }
            judge(&playground, &answer, &templates.reference, true)
        });
        family.count("limits", 1);
    });
}

/// Standard outputs that are closed or full.
fn outputs(family: &Family<'_>, templates: &Templates) {
    let full = "/dev/full";
    let shells = [
        "exec \"$0\" \"$@\" >&-",
        "exec \"$0\" \"$@\" 2>&-",
        "exec \"$0\" \"$@\" >&- 2>&- <&-",
        "exec \"$0\" \"$@\" > /dev/full",
        "exec \"$0\" \"$@\" 2> /dev/full",
        "exec \"$0\" \"$@\" > /dev/full 2>&1",
        "\"$0\" \"$@\" | true",
        "\"$0\" \"$@\" 2>&1 | head -c 1 > /dev/null",
    ];
    let commands: [&[&str]; 6] = [RUN, &["run"], CHECK, GC, &["stages"], &["explain"]];
    let has_full = Path::new(full).exists();
    for shell in shells {
        for command in commands {
            if shell.contains(full) && !has_full {
                family.skip("no /dev/full", 1);
                continue;
            }
            family.case(&format!("{shell} {}", command.join(" ")), |folder| {
                let playground = templates.copy(State::Full, folder)?;
                let answer = playground.call(&Call {
                    prefix: vec!["sh".into(), "-c".into(), shell.into()],
                    arguments: command,
                    ..Call::default()
                })?;
                if answer.timed_out
                    || answer.signal.is_some()
                    || answer.stderr.contains("panicked")
                    || answer.code == Some(101)
                {
                    return Err(format!("{answer:?}"));
                }
                playground.settles(&templates.reference)
            });
            family.count("outputs", 1);
        }
    }
}

fn mount(arguments: &[&str]) -> bool {
    let status = Command::new("mount")
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn unmount(path: &Path) {
    let _ = Command::new("umount")
        .arg("-l")
        .arg(path)
        .stderr(Stdio::null())
        .status();
}

/// File systems that are full of bytes or of files, or that cannot be written.
fn small_disks(family: &Family<'_>, templates: &Templates) {
    let probe = family.folder();
    let target = probe.to_string_lossy().into_owned();
    let can_mount = fs::create_dir_all(&probe).is_ok()
        && mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs", &target]);
    if !can_mount {
        family.skip("no right to mount", 60);
        return;
    }
    unmount(&probe);
    let _ = remove(&probe);
    let mut jobs: Vec<String> = (1..20).map(|n| format!("size={}k", n * 12)).collect();
    jobs.extend((2..32).map(|n| format!("size=64m,nr_inodes={}", n * 6)));
    if family.plan.fast {
        jobs = jobs.into_iter().step_by(6).collect();
    }
    family.each(jobs, |options| {
        family.case(&format!("tmpfs {options}"), |folder| {
            fs::create_dir_all(folder).at("create")?;
            let place = folder.to_string_lossy().into_owned();
            let result = with_mount(folder, &place, &options, templates);
            unmount(folder);
            result
        });
        family.count("full disks", 1);
    });
    for (n, state) in [State::Full, State::Populated].into_iter().enumerate() {
        family.case(&format!("read-only {n}"), |folder| {
            fs::create_dir_all(folder).at("create")?;
            let place = folder.to_string_lossy().into_owned();
            if !mount(&["-t", "tmpfs", "tmpfs", &place]) {
                return Err("mount".into());
            }
            let result = (|| {
                let playground = templates.copy(state, &folder.join("w"))?;
                // What the harness writes lies elsewhere.
                let run = |arguments: &[&str]| {
                    Command::new(&playground.program)
                        .arg("natron")
                        .args(arguments)
                        .current_dir(&playground.folder)
                        .env_remove("NATRON_CACHE")
                        .stdin(Stdio::null())
                        .output()
                        .at("run")
                };
                if !mount(&["-o", "remount,ro", &place]) {
                    return Err("remount".to_owned());
                }
                let output = run(RUN)?;
                let answer = Answer {
                    code: output.status.code(),
                    stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                    stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                    ..Answer::default()
                };
                answer.is_civil(false)?;
                if answer.code == Some(0) && state == State::Populated {
                    return Err("exit 0 without a place for the results".into());
                }
                if !mount(&["-o", "remount,rw", &place]) {
                    return Err("remount".into());
                }
                playground.settles(&templates.reference)
            })();
            unmount(folder);
            result
        });
        family.count("read-only disks", 1);
    }
}

fn with_mount(folder: &Path, place: &str, options: &str, templates: &Templates) -> Checked {
    if !mount(&["-t", "tmpfs", "-o", options, "tmpfs", place]) {
        return Err("mount".into());
    }
    let Ok(playground) = templates.copy(State::Empty, &folder.join("w")) else {
        return Ok(()); // Not even the pipeline fits.
    };
    let output = Command::new(&playground.program)
        .arg("natron")
        .args(RUN)
        .current_dir(&playground.folder)
        .env_remove("NATRON_CACHE")
        .stdin(Stdio::null())
        .output()
        .at("run")?;
    let answer = Answer {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        ..Answer::default()
    };
    answer.is_civil(false)?;
    if answer.code == Some(0) {
        playground.has_the_results(&answer, &templates.reference)?;
    }
    if !mount(&["-o", "remount,size=512m,nr_inodes=100000", place]) {
        return Err("remount".into());
    }
    playground.settles(&templates.reference)
}

/// What is done to a store while it is used.
const VANISHINGS: [&str; 5] = [
    "delete",
    "rename",
    "replace",
    "delete the cache",
    "delete the state",
];

fn vanishing(family: &Family<'_>, program: &Path) -> Checked {
    let pipeline = r#"
[pipeline]
name = "p"
[stages.a]
uses = "toy.make"
with = { rows = 3, milliseconds = 30 }
[stages.b]
uses = "toy.make"
with = { rows = 900, milliseconds = 60 }
[stages.sum]
uses = "toy.sum"
inputs.tables = ["a", "b"]
views.metrics = "out/sum.json"
"#;
    let recipe = Recipe {
        name: "slow",
        pipeline: pipeline.into(),
        files: Vec::new(),
    };
    let pristine = Playground::new(&family.folder(), program, &recipe)?;
    let reference = pristine.reference()?;
    pristine.remove()?;
    let repeats = family.plan.size(1, 12);
    let jobs = (0..repeats).flat_map(|repeat| VANISHINGS.map(|what| (repeat, what)));
    let jobs: Vec<_> = jobs.collect();
    family.each(jobs, |(repeat, what)| {
        let id = format!("{what} {repeat}");
        let mut dice = Dice::named(family.plan.seed, &id);
        family.case(&id, |folder| {
            let playground = Playground::new(folder, program, &recipe)?;
            let pause = Duration::from_micros(1000 + dice.below(90_000) as u64);
            let answer = thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(pause);
                    let (store, cache) = (playground.store(), playground.path(".natron/cache"));
                    let _ = match what {
                        "delete" => fs::remove_dir_all(&store),
                        "rename" => fs::rename(&store, playground.path("elsewhere")),
                        "replace" => fs::rename(&store, playground.path("elsewhere"))
                            .and_then(|()| fs::create_dir_all(&store)),
                        "delete the cache" => fs::remove_dir_all(&cache),
                        _ => fs::remove_dir_all(playground.path(".natron")),
                    };
                });
                playground.natron(RUN)
            })?;
            answer.is_civil(false)?;
            if answer.code == Some(0) {
                let results = answer.results()?;
                if !results.outputs.is_empty() && results.outputs != reference.results.outputs {
                    return Err("exit 0 with other results".into());
                }
            }
            playground.settles(&reference)
        });
        family.count("vanishing stores", 1);
    });
    Ok(())
}
