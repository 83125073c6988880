//! Verification: every stage executed again from its recorded inputs, every byte compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use natron_artifacts::{
    Artifact, Cancel, DeviceGrant, Gpu, Input, Level, Manifest, Observer, Progress, StageContext,
    StageContextParts, StageError, Threads,
};
use natron_cache::{Store, StoreError};
use serde::Serialize;

use crate::{
    Divergence, Event, Forecast, Graph, InputEdge, LockDifference, LockEntry, Outcome, RunError,
    RunOptions, Watcher, Workspace,
    divergence::first_divergence,
    execute::select,
    ingredients::{Seen, lineage},
    lock, standings,
    worker::panic_message,
};

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Only these stages or instances; all when empty.
    pub stages: Vec<String>,
    /// Threads for each stage; the recorded results may come from any other number.
    pub threads: Option<usize>,
    /// Repeat under the same conditions instead of perturbed ones.
    pub unperturbed: bool,
}

/// How one stage came out of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum Verdict {
    /// Every output has the same bytes.
    Bytes,
    /// Every output has the same content, some in other bytes.
    Logical,
    /// Some output differs.
    Differs {
        /// Which.
        output: String,
        /// Where.
        divergence: Divergence,
    },
    /// The stage failed this time.
    Failed {
        /// Why.
        message: String,
    },
    /// There is no result to compare with.
    NotCached,
}

/// One stage of a verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageVerdict {
    /// Instance name.
    pub stage: String,
    /// How it came out.
    pub verdict: Verdict,
    /// How long the repetition took.
    pub seconds: f64,
}

/// A verification's result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// The stages, in the graph's order.
    pub stages: Vec<StageVerdict>,
    /// Threads that each stage had.
    pub threads: usize,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

impl Verification {
    /// Whether every stage gave the same content again.
    pub fn succeeded(&self) -> bool {
        !self.interrupted
            && self
                .stages
                .iter()
                .all(|s| matches!(s.verdict, Verdict::Bytes | Verdict::Logical))
    }

    /// The first stage that did not.
    pub fn first_failure(&self) -> Option<&StageVerdict> {
        self.stages
            .iter()
            .find(|s| !matches!(s.verdict, Verdict::Bytes | Verdict::Logical))
    }

    /// The result as a `JUnit` report.
    pub fn junit(&self) -> String {
        let escape = |text: &str| {
            text.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
                .replace('"', "&quot;")
        };
        let bad = |s: &&StageVerdict| !matches!(s.verdict, Verdict::Bytes | Verdict::Logical);
        let failures = self.stages.iter().filter(bad).count();
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"natron verify\" tests=\"{}\" failures=\"{failures}\">\n",
            self.stages.len()
        );
        for stage in &self.stages {
            let (name, seconds) = (escape(&stage.stage), stage.seconds);
            let _ = write!(text, "  <testcase name=\"{name}\" time=\"{seconds:.3}\"");
            let message = match &stage.verdict {
                Verdict::Bytes | Verdict::Logical => {
                    text.push_str("/>\n");
                    continue;
                }
                Verdict::Differs { output, divergence } => format!("output {output}: {divergence}"),
                Verdict::Failed { message } => message.clone(),
                Verdict::NotCached => "no result to compare with".to_owned(),
            };
            let _ = writeln!(
                text,
                "><failure message=\"{}\"/></testcase>",
                escape(&message)
            );
        }
        text.push_str("</testsuite>\n");
        text
    }
}

/// Executes the selected stages again, one at a time, each from its recorded inputs, and compares what they give.
///
/// Nothing is written to the store. Unless told otherwise the conditions are others than before: the number of threads, the
/// place and depth of the scratch directory; the caller perturbs the environment of the process.
pub fn verify(
    graph: &Graph,
    workspace: &Workspace,
    options: &VerifyOptions,
    watcher: &Arc<dyn Watcher>,
    cancel: &Cancel,
) -> Result<Verification, RunError> {
    let selected = if options.stages.is_empty() {
        (0..graph.instances.len()).collect()
    } else {
        select(graph, &options.stages)?
    };
    let run_options = RunOptions::default();
    let standings = standings(graph, workspace, &run_options)?;
    let outputs: BTreeMap<&str, &BTreeMap<String, Manifest>> = standings
        .iter()
        .filter(|s| s.forecast == Forecast::Hit)
        .map(|s| (s.name.as_str(), &s.outputs))
        .collect();
    let store = Store::open(workspace.cache(), run_options.durability)?;
    let all = std::thread::available_parallelism().map_or(1, Into::into);
    let threads = options
        .threads
        .unwrap_or(if options.unperturbed { all } else { 1 });
    let mut verification = Verification {
        stages: Vec::new(),
        threads,
        interrupted: false,
    };
    watcher.event(&Event::Planned {
        stages: selected.len(),
    });
    for index in selected {
        if cancel.is_set() {
            verification.interrupted = true;
            break;
        }
        let name = graph.instances[index].name.as_str();
        let started = Instant::now();
        let verdict = match outputs.get(name) {
            None => Verdict::NotCached,
            Some(expected) => {
                watcher.event(&Event::Started {
                    stage: name,
                    kind: &graph.instances[index].kind,
                });
                let again = Again {
                    graph,
                    workspace,
                    store: &store,
                    outputs: &outputs,
                    threads,
                    options,
                };
                match again.execute(index, watcher, cancel) {
                    Ok(artifacts) => compare(&store, expected, &artifacts)?,
                    Err(StageError::Interrupted) => {
                        verification.interrupted = true;
                        break;
                    }
                    Err(error) => Verdict::Failed {
                        message: error.to_string(),
                    },
                }
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        let same = matches!(verdict, Verdict::Bytes | Verdict::Logical);
        let outcome = if same {
            Outcome::Unchanged
        } else {
            Outcome::Failed
        };
        watcher.event(&Event::Finished {
            stage: name,
            outcome,
            seconds,
        });
        verification.stages.push(StageVerdict {
            stage: name.to_owned(),
            verdict,
            seconds,
        });
    }
    Ok(verification)
}

struct Again<'a> {
    graph: &'a Graph,
    workspace: &'a Workspace,
    store: &'a Store,
    outputs: &'a BTreeMap<&'a str, &'a BTreeMap<String, Manifest>>,
    threads: usize,
    options: &'a VerifyOptions,
}

impl Again<'_> {
    fn execute(
        &self,
        index: usize,
        watcher: &Arc<dyn Watcher>,
        cancel: &Cancel,
    ) -> Result<BTreeMap<String, Artifact>, StageError> {
        let instance = &self.graph.instances[index];
        let scratch = self
            .store
            .scratch()
            .map_err(|e| StageError::other("no scratch directory", e))?;
        let deep = if self.options.unperturbed {
            scratch.path().to_owned()
        } else {
            scratch.path().join("verify").join("somewhere").join("else")
        };
        let threads = match instance.resources.threads {
            Threads::One => 1,
            Threads::Count(n) => self.threads.min(n.max(1) as usize),
            Threads::All => self.threads,
        };
        if instance.resources.gpu == Gpu::Required {
            return Err(StageError::resource(
                "the stage requires a GPU, and this run has none",
            ));
        }
        let parts = StageContextParts {
            inputs: self.inputs(index)?,
            sources: instance.sources.clone(),
            seed: instance.seed,
            identity: natron_artifacts::Digest::of(b"verify"),
            threads,
            device: DeviceGrant::Cpu,
            checkpoints: deep.join("checkpoints"),
            scratch: deep.join("scratch"),
            workspace: self.workspace.root().to_owned(),
            lineage: instance
                .signature
                .lineage
                .then(|| lineage(self.graph, instance)),
            observer: Arc::new(VerifyObserver {
                stage: instance.name.clone(),
                watcher: Arc::clone(watcher),
            }),
            cancel: cancel.clone(),
            limits: instance.limits,
        };
        let made_by =
            |(port, artifact): (String, Artifact)| (port, artifact.made_by(&instance.kind));
        if instance.isolated {
            let outputs = crate::isolated::run(instance, &parts)?;
            return Ok(outputs.into_iter().map(made_by).collect());
        }
        let mut context = StageContext::new(parts, instance.signature.clone());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| StageError::resource(format!("cannot start threads: {e}")))?;
        let stage = &instance.parsed.stage;
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.install(|| stage.run(&mut context))
        }));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(panic) => {
                return Err(StageError::Panic {
                    message: panic_message(&*panic),
                });
            }
        }
        Ok(context.finish()?.into_iter().map(made_by).collect())
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

fn compare(
    store: &Store,
    expected: &BTreeMap<String, Manifest>,
    found: &BTreeMap<String, Artifact>,
) -> Result<Verdict, StoreError> {
    let mut verdict = Verdict::Bytes;
    for (port, artifact) in found {
        let manifest = match artifact.seal() {
            Ok(sealed) => sealed.manifest,
            Err(error) => {
                return Ok(Verdict::Failed {
                    message: format!("output `{port}`: {error}"),
                });
            }
        };
        let Some(expected) = expected.get(port) else {
            return Ok(Verdict::Failed {
                message: format!("the recorded result has no output `{port}`"),
            });
        };
        if manifest.bytes == expected.bytes {
            continue;
        }
        if manifest.logical == expected.logical {
            verdict = Verdict::Logical;
            continue;
        }
        let before = store.open_artifact(expected)?;
        let divergence = first_divergence(&before, artifact).unwrap_or_else(|| Divergence {
            place: format!("output {port}"),
            expected: expected.logical.short(),
            found: manifest.logical.short(),
            count: None,
            max_absolute: None,
            max_relative: None,
        });
        return Ok(Verdict::Differs {
            output: port.clone(),
            divergence,
        });
    }
    Ok(verdict)
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

/// Compares what stands in the work tree with the lock's entries: every key that can be known without running anything,
/// with the lock's own digests for what is between stages.
pub fn verify_locked(
    graph: &Graph,
    workspace: &Workspace,
    entries: &BTreeMap<String, LockEntry>,
) -> Result<Vec<LockDifference>, RunError> {
    let locked = lock::locked_ingredients(graph, workspace, entries)?;
    let mut differences = Vec::new();
    for (instance, ingredients) in graph.instances.iter().zip(locked) {
        let difference = |what: &str, why: &str| LockDifference {
            stage: instance.name.clone(),
            what: what.to_owned(),
            why: why.to_owned(),
        };
        match (entries.get(&instance.name), ingredients) {
            (None, _) => differences.push(difference("entry", "the lock file has no such stage")),
            (Some(entry), Some(ingredients)) => {
                differences.extend(lock::differences(&instance.name, entry, &ingredients, None));
            }
            // What it reads has no entry; that is reported there.
            (Some(_), None) => {}
        }
    }
    let known: BTreeSet<&str> = graph.instances.iter().map(|i| i.name.as_str()).collect();
    for name in entries.keys().filter(|name| !known.contains(name.as_str())) {
        differences.push(LockDifference {
            stage: name.clone(),
            what: "entry".to_owned(),
            why: "the pipeline has no such stage".to_owned(),
        });
    }
    Ok(differences)
}
