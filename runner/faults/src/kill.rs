//! SIGKILL before every system call that changes something, on empty, populated and damaged stores; again during the
//! recovery; and during collection and verification.
//!
//! `when=k` of `strace` counts per system call and per thread, so each call is swept by itself until `k` is never reached.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use natron_cache::{Durability, Store};

use crate::{
    Checked, Dice, While,
    playground::{Playground, Recipe, Reference},
    sweep::{Family, Plan, Tally},
};

/// System calls that change files, names or locks.
pub const CALLS: [&str; 22] = [
    "openat",
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "ftruncate",
    "fallocate",
    "flock",
    "fcntl",
    "close",
    "chmod,fchmod,fchmodat",
];

/// No sweep of one system call goes further.
const MOST: usize = 400;

/// Whether `strace` can do what is asked of it here.
pub fn can_inject() -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=close", "-e"]);
    command.args(["inject=close:signal=KILL:when=1", "--", "cat", "/dev/null"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| !status.success())
}

/// What a store holds before the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No store at all.
    Empty,
    /// Results of other parameters, and some of those that are asked for.
    Populated,
    /// The same with a flipped byte in an object, a torn segment and the remains of a dead writer.
    Damaged,
    /// All results are there and older ones, too.
    Full,
}

/// Workspaces to copy, with what they are to give.
pub struct Templates {
    states: BTreeMap<State, Playground>,
    /// What the recipe gives.
    pub reference: Reference,
    folder: PathBuf,
}

impl Templates {
    /// Makes them for `recipe` below `folder`.
    pub fn new(folder: &Path, program: &Path, recipe: &Recipe) -> Checked<Self> {
        let pristine = Playground::new(&folder.join("pristine"), program, recipe)?;
        let mut reference = pristine.reference()?;
        let old = recipe.with_salt(990);
        let full = Playground::new(&folder.join("full"), program, &old)?;
        reference.learn(&full.reference()?);
        // A second old result from a second process: two segments.
        full.prepare(&recipe.with_salt(991))?;
        reference.learn(&full.reference()?);
        let populated = full.copy_to(&folder.join("populated"))?;
        full.prepare(recipe)?;
        let answer = full.natron(&["run", "--json"])?;
        answer.expect_success()?;
        populated.prepare(recipe)?;
        let first = if recipe.name == "commands" {
            "first"
        } else {
            "make"
        };
        populated
            .natron(&["run", "--until", first])?
            .expect_success()?;
        let damaged = populated.copy_to(&folder.join("damaged"))?;
        damage(&damaged)?;
        let empty = Playground::new(&folder.join("empty"), program, recipe)?;
        Ok(Self {
            states: BTreeMap::from([
                (State::Empty, empty),
                (State::Populated, populated),
                (State::Damaged, damaged),
                (State::Full, full),
            ]),
            reference,
            folder: folder.to_owned(),
        })
    }

    /// A copy of the workspace in `state`.
    pub fn copy(&self, state: State, folder: &Path) -> Checked<Playground> {
        self.states[&state].copy_to(folder)
    }

    /// Removes them.
    pub fn remove(&self) {
        let _ = crate::playground::remove(&self.folder);
    }
}

fn damage(playground: &Playground) -> Checked {
    let store = playground.store();
    // One object with a wrong byte, if there is an object that is a file of its own.
    let objects = crate::playground::files_below(&store.join("cas")).at("list")?;
    if let Some((name, bytes)) = objects.iter().next() {
        let path = store.join("cas").join(name);
        let mut bytes = bytes.clone();
        if let Some(last) = bytes.last_mut() {
            *last ^= 0x40;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).at("chmod")?;
        fs::write(&path, bytes).at("write")?;
    }
    // A segment that ends in the middle of a record.
    let segments = crate::playground::files_below(&store.join("ac")).at("list")?;
    if let Some((name, bytes)) = segments
        .iter()
        .find(|(name, _)| name.extension().is_some_and(|e| e == "seg"))
    {
        let cut = bytes.len() - bytes.len() / 5;
        fs::write(store.join("ac").join(name), &bytes[..cut]).at("write")?;
    }
    let dead = store.join("tmp/dead-1-1-1");
    fs::create_dir_all(&dead).at("create")?;
    fs::write(dead.join("0"), "half a resu").at("write")?;
    fs::write(store.join("tmp/dead-1-1-1.lock"), "").at("write")
}

/// One sweep: a recipe, a state, a command and a system call.
struct Job<'a> {
    templates: &'a Templates,
    recipe: &'static str,
    round: usize,
    state: State,
    command: &'static [&'static str],
    call: &'static str,
}

const RUN: &[&str] = &["run", "--json"];
const COMMANDS: [(State, &[&str]); 7] = [
    (State::Empty, RUN),
    (State::Populated, RUN),
    (State::Damaged, RUN),
    (
        State::Full,
        &["gc", "--yes", "--grace", "0s", "--keep-runs", "1"],
    ),
    (
        State::Damaged,
        &["gc", "--yes", "--grace", "0s", "--keep-runs", "1"],
    ),
    (State::Damaged, &["cache", "check"]),
    (State::Full, RUN),
];

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "kill")?;
    if !can_inject() {
        family.skip("no strace that injects", 10_000);
        return Ok(family.finish());
    }
    let target = plan.size(260, 10_500) as u64;
    let mut round = 0;
    while family.reached("kills") < target && !family.is_over() {
        let recipes: &[Recipe] = if round % 4 == 1 && !plan.fast || round == 0 {
            &[Recipe::toys(round as u64), Recipe::commands(round as u64)]
        } else {
            &[Recipe::toys(round as u64)]
        };
        let before = family.reached("kills");
        for recipe in recipes {
            let templates = Templates::new(&family.folder(), &plan.program, recipe)?;
            let mut jobs = Vec::new();
            for (state, command) in COMMANDS {
                for call in CALLS {
                    jobs.push(Job {
                        templates: &templates,
                        recipe: recipe.name,
                        round,
                        state,
                        command,
                        call,
                    });
                }
            }
            let mut dice = Dice::named(plan.seed, &format!("kill {round}"));
            // Whatever time there is goes to all kinds alike.
            for i in (1..jobs.len()).rev() {
                jobs.swap(i, dice.below(i + 1));
            }
            family.each(jobs, |job| sweep(&family, &job));
            templates.remove();
        }
        round += 1;
        if family.reached("kills") == before && plan.case.is_some() {
            break;
        }
    }
    Ok(family.finish())
}

fn sweep(family: &Family<'_>, job: &Job<'_>) {
    let plan = family.plan;
    let fast = plan.fast && plan.case.is_none();
    let mut k = if fast {
        1 + Dice::named(
            plan.seed,
            &format!("{:?} {} {}", job.state, job.call, job.command[0]),
        )
        .below(3)
    } else {
        1
    };
    while k <= MOST && !family.is_over() {
        let id = format!(
            "{} {} {:?} {} {} {k}",
            job.recipe,
            job.round,
            job.state,
            job.command.join("_"),
            job.call
        );
        let fired = family.case(&id, |folder| {
            let playground = job.templates.copy(job.state, folder)?;
            let answer =
                playground.injected(&format!("{}:signal=KILL:when={k}", job.call), job.command)?;
            answer.is_civil(true)?;
            if !answer.fired {
                return Ok(false);
            }
            if answer.code == Some(0) && job.command == RUN {
                // Something that was killed did not matter; then the results must be there.
                playground.has_the_results(&answer, &job.templates.reference)?;
            }
            if k % 3 == 0 {
                // Opening the store sweeps it, so it is not always looked at before the rerun.
                playground.has_no_wrong_hit(&job.templates.reference)?;
            }
            playground.settles(&job.templates.reference)?;
            Ok(true)
        });
        match fired {
            Some(false) => break,
            Some(true) => {
                family.count("kills", 1);
                family.point(format!(
                    "{} {:?} {} {} {k}",
                    job.recipe,
                    job.state,
                    job.command.join("_"),
                    job.call
                ));
            }
            None => {}
        }
        k += if fast { 17 } else { 1 };
    }
}

/// Runs the family of second kills, while what the first one left is being recovered.
pub fn run_pairs(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "recovery")?;
    if !can_inject() {
        family.skip("no strace that injects", 1_000);
        return Ok(family.finish());
    }
    let target = plan.size(30, 1_100);
    let templates = Templates::new(&family.folder(), &plan.program, &Recipe::toys(5))?;
    let calls = [
        "openat",
        "write",
        "fsync",
        "rename",
        "unlink,unlinkat",
        "mkdir",
        "flock",
        "close",
        "fcntl",
    ];
    let states = [State::Empty, State::Populated, State::Damaged];
    let jobs = 0..target * 2;
    family.each(jobs, |n| {
        let family = &family;
        if family.reached("pairs") >= target as u64 {
            return;
        }
        let id = format!("pair {n}");
        let mut dice = Dice::named(plan.seed, &id);
        let (state, first, second) = (*dice.pick(&states), *dice.pick(&calls), *dice.pick(&calls));
        let (k, j) = (1 + dice.below(60), 1 + dice.below(40));
        let fired = family.case(&id, |folder| {
            let playground = templates.copy(state, folder)?;
            let mut fired = 0;
            for (call, when) in [(first, k), (second, j)] {
                // Calls that are rare have few chances: the same point, modulo what there may be.
                let when = match call {
                    "openat" | "close" => 12 + when,
                    "write" => 1 + when % 12,
                    "rename" | "flock" | "unlink,unlinkat" => 1 + when % 6,
                    _ => 1 + when % 16,
                };
                let answer =
                    playground.injected(&format!("{call}:signal=KILL:when={when}"), RUN)?;
                answer.is_civil(true)?;
                fired += usize::from(answer.fired);
            }
            playground.settles(&templates.reference)?;
            Ok(fired == 2)
        });
        if fired == Some(true) {
            family.count("pairs", 1);
        }
    });
    templates.remove();
    Ok(family.finish())
}

/// The number of records of a store, for tests of the harness.
pub fn records(playground: &Playground) -> Checked<usize> {
    let store = Store::open(&playground.path(".natron/cache"), Durability::None).at("open")?;
    Ok(store.keys().len())
}
