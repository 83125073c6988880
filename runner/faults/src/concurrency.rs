//! Many processes at once on equal keys: each key is computed once, all end with the same bytes, nobody waits for ever. In
//! some rounds those that hold leases are killed, in some results are collected meanwhile.

use std::{
    fs::{self, File},
    io::pipe,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Checked, Dice, While,
    playground::{CANARY, Playground, Recipe, Reference},
    sweep::{Family, Plan, Tally},
    toys::TALLY,
};

/// Processes of a round.
const RIVALS: usize = 32;
/// A round that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);
/// The variable that makes a process wait until its standard input ends.
pub const BARRIER: &str = "NATRON_FAULTS_BARRIER";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Kills,
    Collection,
}

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "concurrency")?;
    let rounds = plan.size(6, 1_000);
    let recipe = recipe(0);
    let template = Playground::new(&family.folder(), &plan.program, &recipe)?;
    let reference = template.reference()?;
    let executed = reference.results.by_key.len() as u64;
    for n in 0..rounds {
        if family.is_over() {
            break;
        }
        let trouble = match n % 4 {
            1 => Trouble::Kills,
            3 => Trouble::Collection,
            _ => Trouble::None,
        };
        let id = format!("round {n}");
        let mut dice = Dice::named(plan.seed, &id);
        let is_shared = n % 3 != 0;
        let done = family.case(&id, |folder| {
            round(
                folder, plan, &recipe, &reference, trouble, is_shared, &mut dice,
            )
        });
        if let Some(tally) = done {
            family.count("rounds", 1);
            family.count("processes", RIVALS as u64);
            family.count("stages executed", tally);
            family.count(
                "stages executed beyond once per key",
                tally.saturating_sub(executed),
            );
        }
    }
    template.remove()?;
    Ok(family.finish())
}

/// Stages that take long enough for all to meet.
fn recipe(salt: u64) -> Recipe {
    let pipeline = format!(
        r#"
[pipeline]
name = "p"
[stages.a]
uses = "toy.make"
with = {{ rows = 3, salt = {salt}, milliseconds = 8 }}
[stages.b]
uses = "toy.make"
with = {{ rows = 2000, salt = {salt}, milliseconds = 3 }}
[stages.sum]
uses = "toy.sum"
inputs.tables = ["a", "b"]
"#
    );
    Recipe {
        name: "rivals",
        pipeline,
        files: Vec::new(),
    }
}

#[expect(clippy::too_many_lines, reason = "one story, told from top to bottom")]
fn round(
    folder: &Path,
    plan: &Plan,
    recipe: &Recipe,
    reference: &Reference,
    trouble: Trouble,
    is_shared: bool,
    dice: &mut Dice,
) -> Checked<u64> {
    let cache = folder.join("cache");
    let tally = folder.join("tally");
    let playground = Playground::new(&folder.join("0"), &plan.program, recipe)?;
    let mut homes = vec![playground.folder.clone()];
    if !is_shared {
        for n in 1..RIVALS {
            homes.push(Playground::new(&folder.join(n.to_string()), &plan.program, recipe)?.folder);
        }
    }
    let (reader, writer) = pipe().at("pipe")?;
    let mut children: Vec<(Child, bool)> = Vec::new();
    for n in 0..RIVALS {
        let home = &homes[n % homes.len()];
        let err = folder.join(format!("{n}.err"));
        let mut command = Command::new(&plan.program);
        if trouble == Trouble::Collection && n % 8 == 7 {
            command.args(["natron", "gc", "--yes", "--grace", "0s", "--keep-runs", "1"]);
        } else {
            command.args(["natron", "run", "--json"]);
        }
        command
            .current_dir(home)
            .env("NATRON_CACHE", &cache)
            .env(TALLY, &tally)
            .env(BARRIER, "1")
            .env(CANARY.0, CANARY.1)
            .stdin(Stdio::from(reader.try_clone().at("pipe")?))
            .stdout(File::create(folder.join(format!("{n}.out"))).at("create")?)
            .stderr(File::create(&err).at("create")?);
        let may_be_killed = trouble == Trouble::Kills && dice.once_in(3);
        children.push((command.spawn().at("start")?, may_be_killed));
    }
    drop(reader);
    drop(writer);
    let started = Instant::now();
    if trouble == Trouble::Kills {
        for (child, _) in children.iter_mut().filter(|(_, may)| *may) {
            thread::sleep(Duration::from_micros(dice.below(4000) as u64));
            child.kill().at("kill")?;
        }
    }
    let mut problem = None;
    for (n, (child, may_be_killed)) in children.iter_mut().enumerate() {
        let status = loop {
            if let Some(status) = child.try_wait().at("wait")? {
                break Some(status);
            }
            if started.elapsed() > PATIENCE {
                break None;
            }
            thread::sleep(Duration::from_millis(1));
        };
        let Some(status) = status else {
            problem = Some(format!("process {n} hangs"));
            break;
        };
        let stderr = fs::read_to_string(folder.join(format!("{n}.err"))).unwrap_or_default();
        // Nothing is collected while somebody works.
        let has_given_way = status.code() == Some(5) && stderr.contains("is in use by another run");
        let is_well = status.success() || *may_be_killed || has_given_way;
        if !is_well || stderr.contains("panicked at") {
            problem = Some(format!("process {n}: {status}: {}", stderr.trim()));
            break;
        }
    }
    for (child, _) in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    for (n, (_, may_be_killed)) in children.iter().enumerate() {
        let text = fs::read_to_string(folder.join(format!("{n}.out"))).unwrap_or_default();
        if *may_be_killed || trouble == Trouble::Collection && n % 8 == 7 {
            continue;
        }
        let answer = crate::playground::Answer {
            stdout: text,
            ..Default::default()
        };
        let results = answer.results().at(format!("process {n}"))?;
        if results.outputs != reference.results.outputs {
            return Err(format!(
                "process {n} has other results: {:?}",
                results.outputs
            ));
        }
    }
    let executed = fs::read_to_string(&tally)
        .unwrap_or_default()
        .lines()
        .count() as u64;
    let expected = reference.results.by_key.len() as u64;
    let is_once = match trouble {
        Trouble::None => executed == expected,
        // One that is killed may have begun; what is collected may be computed again.
        Trouble::Kills | Trouble::Collection => executed >= expected,
    };
    if !is_once {
        return Err(format!(
            "{executed} stages were executed, of {expected} keys"
        ));
    }
    let again = Command::new(&plan.program)
        .args(["natron", "run", "--json"])
        .current_dir(&homes[0])
        .env("NATRON_CACHE", &cache)
        .stdin(Stdio::null())
        .output()
        .at("rerun")?;
    let answer = crate::playground::Answer {
        code: again.status.code(),
        stdout: String::from_utf8_lossy(&again.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&again.stderr).into_owned(),
        ..Default::default()
    };
    answer.expect_success().at("the rerun")?;
    if answer.results()?.outputs != reference.results.outputs {
        return Err("the rerun has other results".into());
    }
    Ok(executed)
}
