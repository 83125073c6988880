//! Damage to every file of the store and of the workspace's own state: noticed or harmless, never a wrong result, and after
//! a rerun the same bytes. Where the program asks for help (it refuses a store whose `FORMAT` is not its own), the help it
//! names is given and counted.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    Checked, Dice, While,
    kill::{State, Templates},
    playground::{Playground, Recipe, Reference, files_below},
    sweep::{Family, Plan, Tally},
};

/// Kinds of damage.
const KINDS: [&str; 21] = [
    "flip first",
    "flip last",
    "flip 0",
    "flip 1",
    "flip 2",
    "flip 3",
    "flip 4",
    "flip 5",
    "flip 6",
    "flip 7",
    "empty",
    "one byte",
    "half",
    "all but one",
    "grow",
    "zeros",
    "swap",
    "missing",
    "link",
    "directory",
    "pipe",
];

/// The store, the workspace's own state and the views; not messages of earlier calls, the pipeline and its data.
fn is_ours(path: &Path) -> bool {
    path.starts_with(".natron") || path.starts_with("out")
}

/// Damages the file at `path`.
fn damage(folder: &Path, name: &Path, kind: &str, others: &[PathBuf], dice: &mut Dice) -> Checked {
    let path = folder.join(name);
    let mut bytes = fs::read(&path).at("read")?;
    let writable = || fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).at("chmod");
    let n = bytes.len();
    let flip = |bytes: &mut Vec<u8>, at: usize, dice: &mut Dice| {
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << dice.below(8);
        }
    };
    match kind {
        "flip first" => flip(&mut bytes, 0, dice),
        "flip last" => flip(&mut bytes, n.saturating_sub(1), dice),
        "empty" => bytes.clear(),
        "one byte" => bytes.truncate(1),
        "half" => bytes.truncate(n / 2),
        "all but one" => bytes.truncate(n.saturating_sub(1)),
        "grow" => bytes.extend(b"more"),
        "zeros" => bytes.fill(0),
        "swap" => {
            let other = folder.join(dice.pick(others));
            bytes = fs::read(&other).at("read")?;
        }
        "missing" => return fs::remove_file(&path).at("remove"),
        "link" | "directory" | "pipe" => {
            fs::remove_file(&path).at("remove")?;
            return match kind {
                "link" => symlink(folder.join(dice.pick(others)), &path).at("link"),
                "directory" => fs::create_dir(&path).at("create"),
                _ => mkfifo(&path, Mode::from_bits_truncate(0o644)).at("mkfifo"),
            };
        }
        _ => {
            let at = dice.below(n);
            flip(&mut bytes, at, dice);
        }
    }
    let modified = fs::metadata(&path)
        .and_then(|metadata| metadata.modified())
        .at("look at")?;
    writable()?;
    fs::write(&path, bytes).at("write")?;
    // Times as they were: only the content tells.
    let file = fs::File::options().write(true).open(&path).at("open")?;
    file.set_modified(modified).at("set the time")
}

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "corruption")?;
    let target = plan.size(330, 5_400) as u64;
    let mut round = 0;
    while family.reached("corruptions") < target && !family.is_over() {
        let recipe = if round % 3 == 2 {
            Recipe::commands(round)
        } else {
            Recipe::toys(round)
        };
        let templates = Templates::new(&family.folder(), &plan.program, &recipe)?;
        let model = templates.copy(State::Full, &family.folder())?;
        model.natron(&["run"])?.expect_success()?;
        let names: Vec<PathBuf> = files_below(&model.folder)
            .at("list")?
            .into_keys()
            .filter(|name| is_ours(name))
            .collect();
        model.remove()?;
        if recipe.name == "toys" {
            for n in 0..plan.size(2, 20) {
                let id = format!("other data {round} {n}");
                if family
                    .case(&id, |folder| other_data(&templates, folder))
                    .is_some()
                {
                    family.count("corruptions", 1);
                }
            }
        }
        let mut jobs: Vec<(usize, &str)> = (0..names.len())
            .flat_map(|file| KINDS.map(|kind| (file, kind)))
            .collect();
        let mut dice = Dice::named(plan.seed, &format!("corruption {round}"));
        for i in (1..jobs.len()).rev() {
            jobs.swap(i, dice.below(i + 1));
        }
        family.each(jobs, |(file, kind)| {
            if family.reached("corruptions") >= target {
                return;
            }
            let id = format!("{} {round} {file} {kind}", recipe.name);
            let mut dice = Dice::named(plan.seed, &id);
            let done = family.case(&id, |folder| {
                judge(&templates, folder, file, kind, &mut dice)
            });
            if let Some(how) = done {
                family.count("corruptions", 1);
                family.count(how, 1);
            }
        });
        templates.remove();
        round += 1;
        if plan.case.is_some() && round > 12 {
            break;
        }
    }
    Ok(family.finish())
}

/// Changes the data that a stage reads, with the size and the times that it had: the run has to notice.
fn other_data(templates: &Templates, folder: &Path) -> Checked {
    let playground = templates.copy(State::Full, folder)?;
    playground.natron(&["run"])?.expect_success()?;
    let path = playground.path("data.txt");
    // What was written just before is hashed again anyway; this is about files that have stood still.
    std::thread::sleep(std::time::Duration::from_millis(60));
    playground.natron(&["run"])?.expect_success()?;
    let modified = fs::metadata(&path)
        .and_then(|metadata| metadata.modified())
        .at("look at")?;
    let mut bytes = fs::read(&path).at("read")?;
    bytes[0] = bytes[0].wrapping_add(1);
    fs::write(&path, &bytes).at("write")?;
    let file = fs::File::options().write(true).open(&path).at("open")?;
    file.set_modified(modified).at("set the time")?;
    let answer = playground.natron(&["run", "--json"])?;
    let results = answer.expect_success()?.results()?;
    let (old, new) = (&templates.reference.results.outputs, &results.outputs);
    if old.get("read.metrics") == new.get("read.metrics") {
        return Err("other data gave the old result".into());
    }
    Ok(())
}

fn judge(
    templates: &Templates,
    folder: &Path,
    file: usize,
    kind: &str,
    dice: &mut Dice,
) -> Checked<&'static str> {
    let reference = &templates.reference;
    let playground = templates.copy(State::Full, folder)?;
    playground.natron(&["run"])?.expect_success()?;
    // Names of segments and runs differ, their order does not.
    let names: Vec<PathBuf> = files_below(folder)
        .at("list")?
        .into_keys()
        .filter(|name| is_ours(name))
        .collect();
    let Some(name) = names.get(file) else {
        return Ok("no such file any more");
    };
    damage(folder, name, kind, &names, dice).at(format!("damaging {}", name.display()))?;
    then_is_noticed_or_harmless(&playground, reference, dice)
        .at(format!("{kind} of {}", name.display()))
}

fn then_is_noticed_or_harmless(
    playground: &Playground,
    reference: &Reference,
    dice: &mut Dice,
) -> Checked<&'static str> {
    if dice.once_in(3) {
        // Where the quick look at what has moved sees nothing, everything has to be looked at.
        let _ = fs::remove_dir_all(playground.path(".natron/noop"));
    }
    let answer = playground.natron(&["run", "--json"])?;
    answer.is_civil(false).at("the run")?;
    if answer.code == Some(0) {
        playground
            .has_the_results(&answer, reference)
            .at("the run")?;
    }
    let check = playground.natron(&["cache", "check"])?;
    check.is_civil(false).at("cache check")?;
    let has_noticed =
        check.code != Some(0) || answer.code != Some(0) || answer.stderr.contains("damaged");
    match playground.settles(reference) {
        Ok(()) if has_noticed => Ok("noticed and mended"),
        Ok(()) => Ok("harmless or mended in silence"),
        Err(error) => {
            // What is not ours is not removed: a message names it, and whoever put it there moves it away.
            let again = playground.natron(&["run", "--paranoid"])?;
            let named = again
                .stderr
                .split('`')
                .skip(1)
                .step_by(2)
                .map(PathBuf::from)
                .find(|path| path.starts_with(&playground.folder) && path.is_dir());
            if let (Some(5), Some(named)) = (again.code, named)
                && again.stderr.contains("Is a directory")
            {
                fs::rename(&named, playground.path("moved-away")).at("move it away")?;
                playground
                    .settles(reference)
                    .at(format!("with {} moved away", named.display()))?;
                return Ok("mended as the message says");
            }
            // What is not ours in place of a view is not removed.
            let views = playground.path("out");
            let again = playground.natron(&["run"])?;
            if again.code == Some(5) && again.stderr.contains("the view") {
                fs::rename(&views, playground.path("moved-away")).at("move the view away")?;
                playground
                    .settles(reference)
                    .at("with the view moved away")?;
                return Ok("mended as the message says");
            }
            // The program may ask to move the store away, in words; at a glance it may not even have looked at it.
            let again = playground.natron(&["run", "--paranoid"])?;
            let asks = ["move", "FORMAT"];
            if again.code != Some(5) || !asks.iter().any(|word| again.stderr.contains(word)) {
                return Err(error);
            }
            let cache = playground.path(".natron/cache");
            fs::rename(&cache, playground.path("moved-away")).at("move the store away")?;
            playground
                .settles(reference)
                .at("with the store moved away")?;
            Ok("mended as the message says")
        }
    }
}
