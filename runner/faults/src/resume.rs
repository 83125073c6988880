//! Work that is killed at random moments and resumed: in the end the bytes are those of an undisturbed run. Toy stages with
//! checkpoints, and real training.

use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Checked, Dice, While,
    playground::{Playground, Recipe, Reference, files_below},
    sweep::{Family, Plan, Tally},
};

/// A chain of stages with checkpoints.
fn steps(salt: usize) -> Recipe {
    let mut pipeline = "[pipeline]\nname = \"p\"\nseed = 3\n".to_owned();
    for stage in ["a", "b"] {
        pipeline.push_str(&format!(
            "[stages.{stage}]\nuses = \"toy.steps\"\nwith = {{ steps = 40, milliseconds = 1, salt = {salt} }}\nviews.metrics = \"out/{stage}.json\"\n"
        ));
    }
    Recipe {
        name: "steps",
        pipeline,
        files: Vec::new(),
    }
}

/// Training as the first example pipeline does it, small.
fn training(seed: usize) -> Checked<Recipe> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/natron_v2.toml");
    let text = std::fs::read_to_string(path).at("the example pipeline")?;
    let _ = seed;
    Ok(Recipe {
        name: "training",
        pipeline: text,
        files: Vec::new(),
    })
}

/// Runs the family.
pub fn run(plan: &Plan) -> Checked<Tally> {
    let family = Family::start(plan, "resume")?;
    let n = plan.size(8, 220);
    let recipe = steps(1);
    let place = family.folder();
    let reference = Playground::new(&place, &plan.program, &recipe)?.reference()?;
    crate::playground::remove(&place)?;
    family.each(0..n, |round| {
        let id = format!("steps {round}");
        let mut dice = Dice::named(plan.seed, &id);
        let done = family.case(&id, |folder| {
            let playground = Playground::new(folder, &plan.program, &recipe)?;
            interrupt(&playground, &["run", "--json"], 90, &reference, &mut dice)
        });
        if let Some((kills, continued)) = done {
            family.count("resumed", u64::from(continued));
            family.count("kills", kills);
            family.count("runs that had nothing to resume", u64::from(!continued));
        }
    });
    // Real training takes seconds, so there are fewer of these.
    let n = plan.size(0, 24);
    if n > 0
        && let Ok(recipe) = training(0)
    {
        let arguments = &[
            "run",
            "--json",
            "--profile",
            "tiny",
            "--set",
            "finetune.epochs=30",
            "--set",
            "finetune.early_stop_epochs=0",
            "--until",
            "finetune",
        ];
        let place = family.folder();
        let playground = Playground::new(&place, &plan.program, &recipe)?;
        let started = Instant::now();
        let answer = playground.natron(arguments)?;
        let reference = Reference {
            results: answer.expect_success()?.results()?,
            views: files_below(&playground.path("out")).at("views")?,
        };
        let whole = started.elapsed();
        playground.remove()?;
        family.each(0..n, |round| {
            let id = format!("training {round}");
            let mut dice = Dice::named(plan.seed, &id);
            let done = family.case(&id, |folder| {
                let playground = Playground::new(folder, &plan.program, &recipe)?;
                interrupt(
                    &playground,
                    arguments,
                    whole.as_millis() as usize,
                    &reference,
                    &mut dice,
                )
            });
            if let Some((kills, continued)) = done {
                family.count("resumed trainings", u64::from(continued));
                family.count("resumed", u64::from(continued));
                family.count("kills", kills);
            }
        });
    }
    Ok(family.finish())
}

/// Kills the run some times, each within `milliseconds`, and lets it end. Says how often it was killed, and whether a
/// checkpoint or a result was there to go on from.
fn interrupt(
    playground: &Playground,
    arguments: &[&str],
    milliseconds: usize,
    reference: &Reference,
    dice: &mut Dice,
) -> Checked<(u64, bool)> {
    let mut kills = 0;
    let mut continued = false;
    for _ in 0..=dice.below(3) {
        let mut child = Command::new(&playground.program)
            .arg("natron")
            .args(arguments)
            .current_dir(&playground.folder)
            .env_remove("NATRON_CACHE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(playground.path("killed.txt")).at("create")?)
            .spawn()
            .at("start")?;
        thread::sleep(Duration::from_micros(
            1000 * milliseconds as u64 / 10 + dice.below(milliseconds * 900) as u64,
        ));
        child.kill().at("kill")?;
        let status = child.wait().at("wait")?;
        kills += u64::from(!status.success());
        let store = playground.store();
        let left = files_below(&store.join("ckpt")).at("list")?.len()
            + files_below(&store.join("ac")).at("list")?.len();
        continued |= left > 0;
        if status.success() {
            break;
        }
    }
    let answer = playground.natron(arguments)?;
    answer.expect_success()?;
    let results = answer.results()?;
    if results.outputs != reference.results.outputs {
        return Err(format!(
            "other results after {kills} kills: {:?}",
            results.outputs
        ));
    }
    playground.leaves_nothing()?;
    Ok((kills, continued))
}
