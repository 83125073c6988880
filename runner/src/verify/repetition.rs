//! One stage, executed again from its recorded inputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use natron_artifacts::{
    Artifact, Cancel, DeviceGrant, Gpu, Input, Level, Manifest, Observer, Progress, StageContext,
    StageContextParts, StageError, Threads,
};
use natron_cache::{Execution, Store, StoreError};
use serde::Serialize;

use super::{
    ByStage,
    perturbation::{
        Circumstance, MOST_IN_MEMORY_BYTES, Means, Perturbation, Wanted, folder_with_other_order,
    },
};
use crate::{
    Class, Comparison, Divergence, Event, Graph, InputEdge, Instance, Reproducible, Watcher,
    Workspace, compare, gpus,
    ingredients::{Seen, lineage},
    worker::panic_message,
};

/// What all repetitions of a verification share.
pub(super) struct Bench<'a> {
    pub(super) graph: &'a Graph,
    pub(super) workspace: &'a Workspace,
    pub(super) store: &'a Store,
    /// Recorded outputs.
    pub(super) outputs: &'a ByStage<'a>,
    pub(super) means: &'a Means,
    pub(super) seed: u64,
    pub(super) watcher: &'a Arc<dyn Watcher>,
    pub(super) cancel: &'a Cancel,
}

/// How one repetition is to be made.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// Which one, from 0.
    pub(super) n: usize,
    /// What is changed.
    pub(super) perturb: BTreeSet<Perturbation>,
    /// Threads, if somebody asked for a number.
    pub(super) threads: Option<usize>,
}

/// How one repetition went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repetition {
    /// How alike its outputs are; nothing if they are not as alike as declared.
    pub class: Option<Class>,
    /// How long it took.
    pub seconds: f64,
    /// Under which conditions.
    pub conditions: Vec<Circumstance>,
}

/// What a repetition gave.
pub(super) enum Outcome {
    /// As alike as declared, or more.
    Alike(Class),
    /// Less.
    Differs {
        output: String,
        divergence: Divergence,
    },
    /// It failed.
    Failed(String),
    /// It was stopped.
    Interrupted,
}

impl Bench<'_> {
    /// Executes the stage at `index` again and compares what it gives.
    pub(super) fn repeat(
        &self,
        index: usize,
        setup: &Setup,
        recorded: &Execution,
    ) -> Result<(Outcome, Repetition), StoreError> {
        let instance = &self.graph.instances[index];
        let started = Instant::now();
        let mut repetition = Repetition {
            class: None,
            seconds: 0.0,
            conditions: Vec::new(),
        };
        let executed = self.execute(index, setup, recorded, &mut repetition.conditions);
        repetition.seconds = started.elapsed().as_secs_f64();
        let outcome = match executed {
            Ok(artifacts) => {
                let none = BTreeMap::new();
                let expected = self.outputs.get(instance.name.as_str());
                let expected = expected.copied().unwrap_or(&none);
                judge(self.store, expected, &artifacts, &instance.reproducible)?
            }
            Err(StageError::Interrupted) => Outcome::Interrupted,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        if let Outcome::Alike(class) = outcome {
            repetition.class = Some(class);
        }
        Ok((outcome, repetition))
    }

    fn execute(
        &self,
        index: usize,
        setup: &Setup,
        recorded: &Execution,
        circumstances: &mut Vec<Circumstance>,
    ) -> Result<BTreeMap<String, Artifact>, StageError> {
        let instance = &self.graph.instances[index];
        if instance.resources.gpu == Gpu::Required {
            return Err(StageError::resource(
                "the stage requires a GPU, and this run has none",
            ));
        }
        let inputs = self.inputs(index)?;
        let folder = || {
            let scratch = self.store.scratch();
            scratch.map_err(|e| StageError::other("no scratch directory", e))
        };
        // What is not the stage's working folder lies elsewhere, so that nothing but what is changed on purpose differs.
        let (scratch, aside) = (folder()?, folder()?);
        let mut above = scratch.path().to_owned();
        let mut folder_order_note = None;
        // Dropped after the stage.
        let mut elsewhere = None;
        if setup.perturb.contains(&Perturbation::FolderOrder) {
            match other_order(instance, &inputs, &above) {
                Ok(folder) => {
                    elsewhere = folder;
                    if let Some(folder) = &elsewhere {
                        folder.path().clone_into(&mut above);
                    }
                }
                Err(why) => folder_order_note = Some(why),
            }
        }
        let folder = place(&above, setup);
        // Programs work beside the scratch folder, which is to be gone with all that is made there.
        let is_own = folder == scratch.path();
        let working = if is_own {
            folder.clone()
        } else {
            folder.join("scratch")
        };
        let (threads, threads_are_fixed) = threads(instance, setup, recorded.threads);
        let stamp = |ms: u64| {
            jiff::Timestamp::from_millisecond(ms as i64)
                .map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
        };
        let wanted = Wanted {
            means: self.means,
            perturb: &setup.perturb,
            n: setup.n,
            seed: self.seed,
            declared: &instance.signature.environment,
            folder: &folder,
            aside: aside.path(),
            folder_order_note,
            threads,
            recorded_threads: recorded.threads,
            threads_are_fixed,
            recorded_start: stamp(recorded.started_unix_ms),
            now: stamp(natron_cache::clock::unix_ms()),
        };
        let (conditions, found) = wanted.conditions();
        *circumstances = found;
        let parts = StageContextParts {
            inputs,
            sources: instance.sources.clone(),
            seed: instance.seed,
            identity: natron_artifacts::Digest::of(b"verify"),
            threads,
            device: DeviceGrant::cuda(&gpus::of(instance)),
            checkpoints: aside.path().join("checkpoints"),
            scratch: working,
            workspace: self.workspace.root().to_owned(),
            lineage: instance
                .signature
                .lineage
                .then(|| lineage(self.graph, instance)),
            observer: Arc::new(VerifyObserver {
                stage: instance.name.clone(),
                watcher: Arc::clone(self.watcher),
            }),
            cancel: self.cancel.clone(),
            limits: instance.limits,
        };
        let made_by =
            |(port, artifact): (String, Artifact)| (port, artifact.made_by(&instance.kind));
        if instance.isolated {
            // What breaks there breaks nothing here.
            let outputs = crate::isolated::run(instance, &parts)?;
            drop(elsewhere);
            return Ok(outputs.into_iter().map(made_by).collect());
        }
        let context = StageContext::new(parts, instance.signature.clone());
        let mut context = context.under(conditions);
        run_inside(instance, &mut context, threads)?;
        let outputs = context.finish()?;
        drop(elsewhere);
        Ok(outputs.into_iter().map(made_by).collect())
    }

    fn inputs(&self, index: usize) -> Result<BTreeMap<String, Vec<Input>>, StageError> {
        let instance = &self.graph.instances[index];
        let mut inputs: BTreeMap<String, Vec<Input>> = BTreeMap::new();
        for (port, edges) in &instance.inputs {
            for (position, edge) in edges.iter().enumerate() {
                let input = match edge {
                    InputEdge::File { path } => crate::worker::file_input(path)?,
                    InputEdge::Output {
                        instance: producer,
                        output,
                    } => {
                        let name = &self.graph.instances[*producer].name;
                        let manifest = self.outputs.get(name.as_str()).and_then(|o| o.get(output));
                        let manifest = manifest.ok_or_else(|| {
                            StageError::data(format!("the result of `{name}` is not in the store"))
                        })?;
                        let artifact = self
                            .store
                            .open_artifact(manifest)
                            .map_err(|e| StageError::other(format!("the result of `{name}`"), e))?;
                        let seen = Seen::of(instance, port, position);
                        let artifact = seen.project(artifact)?;
                        Input {
                            label: format!("{name}.{output}"),
                            logical: seen.digest(manifest, &artifact),
                            artifact,
                        }
                    }
                };
                inputs.entry(port.clone()).or_default().push(input);
            }
        }
        Ok(inputs)
    }
}

/// The folder of a repetition, below `above`.
fn place(above: &Path, setup: &Setup) -> PathBuf {
    let mut folder = above.to_owned();
    if setup.perturb.contains(&Perturbation::Path) {
        folder.push(format!("verify-elsewhere-{}", setup.n));
    }
    if setup.perturb.contains(&Perturbation::Depth) {
        folder.extend(
            ["some", "folders", "below", "it"]
                .iter()
                .take(3 - setup.n % 3),
        );
    }
    folder
}

/// Where folders list their entries in another order; nothing if they will anyway, or if no folder is involved.
fn other_order(
    instance: &Instance,
    inputs: &BTreeMap<String, Vec<Input>>,
    scratch: &Path,
) -> Result<Option<tempfile::TempDir>, String> {
    let mut bytes = 0;
    let mut has_folder = false;
    for inputs in inputs.values() {
        has_folder |= inputs.len() > 1;
        for input in inputs {
            has_folder |= matches!(input.artifact, Artifact::Files(_) | Artifact::Model(_));
            let sealed = input.artifact.seal().map_err(|e| e.to_string())?;
            bytes += sealed.manifest.size();
        }
    }
    has_folder |= instance.sources.values().any(|path| path.is_dir());
    if !has_folder {
        return Err("the stage reads no folder".to_owned());
    }
    if bytes > MOST_IN_MEMORY_BYTES {
        return Err("the inputs are too large for a folder in memory".to_owned());
    }
    folder_with_other_order(scratch)
}

/// The number of threads, and whether there is no choice.
fn threads(instance: &Instance, setup: &Setup, recorded: u32) -> (usize, bool) {
    let all = std::thread::available_parallelism().map_or(1, Into::into);
    let most = match instance.resources.threads {
        Threads::One | Threads::Count(1) => return (1, true),
        Threads::Count(n) => n as usize,
        Threads::All => usize::MAX,
    };
    let wanted = match setup.threads {
        Some(threads) => threads,
        None if setup.perturb.contains(&Perturbation::Threads) => {
            // One, all, one more than all: those that the recorded result did not have.
            let choices = [1, all, all + 1];
            let recorded = recorded as usize;
            let others: Vec<usize> = choices.into_iter().filter(|n| *n != recorded).collect();
            others[setup.n % others.len()]
        }
        None if recorded > 0 => recorded as usize,
        None => all,
    };
    (wanted.clamp(1, most), false)
}

/// How alike `found` is to what was recorded.
fn judge(
    store: &Store,
    expected: &BTreeMap<String, Manifest>,
    found: &BTreeMap<String, Artifact>,
    declared: &Reproducible,
) -> Result<Outcome, StoreError> {
    let mut weakest = Class::Bytes;
    for (port, artifact) in found {
        let manifest = match artifact.seal() {
            Ok(sealed) => sealed.manifest,
            Err(error) => return Ok(Outcome::Failed(format!("output `{port}`: {error}"))),
        };
        let Some(expected) = expected.get(port) else {
            let message = format!("the recorded result has no output `{port}`");
            return Ok(Outcome::Failed(message));
        };
        let differs = |divergence| Outcome::Differs {
            output: port.clone(),
            divergence,
        };
        if manifest.bytes == expected.bytes {
            continue;
        }
        if manifest.logical == expected.logical {
            weakest = weakest.max(Class::Logical);
            if declared.class() < Class::Logical {
                return Ok(differs(Divergence::at(
                    "bytes",
                    expected.bytes.short(),
                    format!("{}, with the same content", manifest.bytes.short()),
                )));
            }
            continue;
        }
        let tolerances = match declared {
            Reproducible::Numeric(tolerances) => Some(tolerances),
            Reproducible::Bytes | Reproducible::Logical => None,
        };
        let before = store.open_artifact(expected)?;
        let Comparison { beyond, first } = compare(&before, artifact, port, tolerances);
        match (beyond, first) {
            (Some(divergence), _) => return Ok(differs(divergence)),
            (None, Some(_)) => weakest = Class::Numeric,
            // The digests see something that the walk does not.
            (None, None) => {
                return Ok(differs(Divergence::at(
                    "content",
                    expected.logical.short(),
                    manifest.logical.short(),
                )));
            }
        }
    }
    Ok(Outcome::Alike(weakest))
}

struct VerifyObserver {
    stage: String,
    watcher: Arc<dyn Watcher>,
}

impl Observer for VerifyObserver {
    fn progress(&self, progress: &Progress) {
        self.watcher.event(&Event::Progress {
            stage: &self.stage,
            progress,
        });
    }

    fn metric(&self, name: &str, step: u64, value: f64) {
        self.watcher.event(&Event::Metric {
            stage: &self.stage,
            name,
            step,
            value,
        });
    }

    fn log(&self, level: Level, message: &str) {
        self.watcher.event(&Event::Log {
            stage: &self.stage,
            level,
            message,
        });
    }
}

/// Runs the stage in this process, in a pool of `threads` threads.
fn run_inside(
    instance: &Instance,
    context: &mut StageContext,
    threads: usize,
) -> Result<(), StageError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| StageError::resource(format!("cannot start threads: {e}")))?;
    let stage = &instance.parsed.stage;
    let result = catch_unwind(AssertUnwindSafe(|| pool.install(|| stage.run(context))));
    result.unwrap_or_else(|panic| {
        Err(StageError::Panic {
            message: panic_message(&*panic),
        })
    })
}

#[cfg(test)]
mod tests {
    use natron_artifacts::{Column, ColumnType, Kind, Table};
    use natron_cache::{Durability, Ingredients};

    use super::*;
    use crate::{Tolerance, Tolerances};

    fn table(value: f64, made_by: &str) -> BTreeMap<String, Artifact> {
        let table = Table::builder()
            .f64(Column::new("x", ColumnType::F64), vec![value])
            .build()
            .unwrap();
        BTreeMap::from([("y".to_owned(), table.with_made_by(made_by).into())])
    }

    /// How `found` comes out beside a recorded 1.0.
    fn judged(found: &BTreeMap<String, Artifact>, declared: &Reproducible) -> String {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Durability::None).unwrap();
        let mut ingredients = Ingredients::new("toy", "1");
        ingredients.outputs.insert("y".into(), Kind::Table);
        let recorded = table(1.0, "toy");
        let sealed = BTreeMap::from([("y".to_owned(), recorded["y"].seal().unwrap())]);
        let execution = Execution::default();
        let committed = store.commit(ingredients, &sealed, execution, &[]).unwrap();
        match judge(&store, &committed.record.outputs, found, declared).unwrap() {
            Outcome::Alike(class) => class.name().to_owned(),
            Outcome::Differs { divergence, .. } => divergence.place,
            Outcome::Failed(message) => message,
            Outcome::Interrupted => unreachable!("nothing ran"),
        }
    }

    #[test]
    fn a_class_is_kept_or_missed() {
        let numeric = Reproducible::Numeric(Tolerances {
            all: Tolerance {
                abs: 0.5,
                ..Tolerance::default()
            },
            ..Tolerances::default()
        });
        let classes = [Reproducible::Bytes, Reproducible::Logical, numeric];
        let all = |found: BTreeMap<String, Artifact>| {
            classes.clone().map(|declared| judged(&found, &declared))
        };

        assert_eq!(all(table(1.0, "toy")), ["bytes", "bytes", "bytes"]);
        assert_eq!(all(table(1.0, "other")), ["bytes", "logical", "logical"]);
        let place = "column x, row 0";
        assert_eq!(all(table(1.25, "toy")), [place, place, "numeric"]);
        assert_eq!(all(table(2.0, "toy")), [place; 3]);
    }
}
