//! Runs one stage: lease, inputs, the stage itself in a pool of its threads, commit.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use natron_artifacts::{
    Artifact, Cancel, Conditions, DeviceGrant, Digest, FileContent, Files, Input, Kind, Level,
    Lineage, Manifest, Observer, Progress, StageContext, StageContextParts, StageError,
};
use natron_cache::{Execution, Ingredients, Lease, StageKey, StatCache, Store, StoreError, clock};
use rayon::{ThreadPool, ThreadPoolBuilder};
use thiserror::Error;

use crate::{
    Event, Instance, Watcher, Workspace,
    history::RunFolder,
    ingredients::{Bound, Seen, source_digest},
    isolated,
    schedule::grown,
    source_text::SourceTexts,
};

/// A record keeps this many bytes of its stage's log; the run's folder keeps all of it.
const LONGEST_LOG: usize = 1 << 20;

/// The thread pools of one worker. Making one costs more than a small stage does.
#[derive(Default)]
pub(crate) struct ThreadPools {
    /// Of the worker's own thread alone: what runs in it changes no thread.
    own: Option<ThreadPool>,
    /// With several threads, by their number: the one that was used last.
    shared: Option<(usize, ThreadPool)>,
}

impl ThreadPools {
    /// The pool of `threads` threads.
    pub(crate) fn of(&mut self, threads: usize) -> Result<&ThreadPool, StageError> {
        let failed = |e| StageError::resource(format!("cannot start threads: {e}"));
        let builder = ThreadPoolBuilder::new();
        if threads == 1 {
            if self.own.is_none() {
                let pool = builder.num_threads(1).use_current_thread().build();
                self.own = Some(pool.map_err(failed)?);
            }
            return Ok(self.own.as_ref().expect("it was just made"));
        }
        if self.shared.as_ref().is_none_or(|(n, _)| *n != threads) {
            // The old one's threads end first.
            self.shared = None;
            let pool = builder.num_threads(threads).build().map_err(failed)?;
            self.shared = Some((threads, pool));
        }
        Ok(&self.shared.as_ref().expect("it was just made").1)
    }
}

/// What all stages of a run share.
pub(crate) struct Shared {
    pub(crate) workspace: Workspace,
    pub(crate) store: Store,
    pub(crate) stat_cache: StatCache,
    pub(crate) conditions: Conditions,
    /// Artifacts of this run that consumers still wait for, by content.
    pub(crate) live: Mutex<BTreeMap<(Kind, Digest), Artifact>>,
    pub(crate) folder: Arc<RunFolder>,
    pub(crate) watcher: Arc<dyn Watcher>,
    /// The machine's name.
    pub(crate) host: String,
    /// Texts of sources, kept with results so that a later change can be shown.
    pub(crate) source_texts: SourceTexts,
}

/// One execution of one stage.
pub(crate) struct Job<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) key: StageKey,
    pub(crate) ingredients: Ingredients,
    pub(crate) bound: BTreeMap<String, Vec<(String, Bound)>>,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) threads: usize,
    pub(crate) device: DeviceGrant,
    /// The first being 1.
    pub(crate) attempt: u32,
    pub(crate) cancel: Cancel,
    /// Whether a record that is there already is good enough.
    pub(crate) look_up: bool,
}

/// What an execution gave.
pub(crate) struct Executed {
    pub(crate) outputs: BTreeMap<String, Manifest>,
    pub(crate) seconds: f64,
    /// Somebody else had done it by the time we held the lease.
    pub(crate) hit: bool,
}

/// Why an execution gave nothing.
#[derive(Debug, Error)]
pub(crate) enum JobError {
    /// The stage said so.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// An input's object is gone or damaged; the stage that made it has to run again.
    #[error("input `{port}` is not in the store any more")]
    LostInput {
        /// The port.
        port: String,
        /// Position among the artifacts of the port.
        position: usize,
        /// What was wrong, if it was damaged.
        warning: Option<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `job` to its end.
pub(crate) fn execute(
    shared: &Shared,
    pools: &mut ThreadPools,
    job: Job<'_>,
) -> Result<Executed, JobError> {
    let Some(lease) = lease(shared, &job) else {
        return Err(StageError::Interrupted.into());
    };
    if job.look_up
        && let Some(record) = shared.store.lookup_fresh(&job.key)?
    {
        let seconds = record.execution.seconds;
        return Ok(Executed {
            outputs: record.outputs,
            seconds,
            hit: true,
        });
    }
    let stage = &job.instance.name;
    shared.watcher.event(&Event::Started {
        stage,
        kind: &job.instance.kind,
    });
    let inputs = inputs(shared, &job)?;
    let (started, started_unix_ms) = (Instant::now(), clock::unix_ms());
    let heard = Arc::new(Mutex::new(Heard::default()));
    let artifacts = run_stage(shared, pools, &job, inputs, &heard)?;
    let seconds = started.elapsed().as_secs_f64();
    let mut opened = BTreeMap::new();
    let mut sealed = BTreeMap::new();
    let mut metrics = BTreeMap::new();
    for (port, artifact) in artifacts {
        let artifact = artifact.made_by(&job.instance.kind);
        let parts = artifact
            .seal()
            .map_err(|e| StageError::data(format!("output `{port}` of `{stage}`: {e}")))?;
        if let Artifact::Metrics(tree) = &artifact {
            let numbers = tree.numbers().into_iter();
            metrics.extend(numbers.map(|(path, value)| (format!("{port}.{path}"), value)));
        }
        opened.insert((parts.manifest.kind, parts.manifest.bytes), artifact);
        sealed.insert(port, parts);
    }
    check_sources(shared, &job)?;
    let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    let log = heard.log;
    let execution = Execution {
        seconds,
        peak_memory_bytes: heard.peak_memory_bytes,
        host: shared.host.clone(),
        threads: job.threads as u32,
        runner_version: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_ms,
        metrics,
        ..Execution::default()
    };
    let texts = shared
        .source_texts
        .of(job.instance, &job.ingredients, &shared.stat_cache);
    // Others wait for the lease until the result is on the disk; who needs it in this run does not.
    let committed =
        shared
            .store
            .commit_later(job.ingredients, &sealed, execution, &log, texts, lease)?;
    let outputs = committed.record.outputs.clone();
    if committed.contradicts.is_some() {
        let message = "not reproducible: an earlier execution with the same key gave other outputs";
        shared.watcher.event(&Event::Log {
            stage,
            level: Level::Warning,
            message,
        });
        shared.folder.log(stage, message);
    }
    let mut live = shared.live.lock().unwrap_or_else(PoisonError::into_inner);
    live.extend(opened);
    drop(live);
    Ok(Executed {
        outputs,
        seconds,
        hit: false,
    })
}

/// The right to compute the job's key; nothing when the job was stopped first. Says whom it waits for.
fn lease(shared: &Shared, job: &Job<'_>) -> Option<Lease> {
    let stage = &job.instance.name;
    let mut tell = |holder: Option<u32>| {
        let who = match holder {
            Some(pid) if pid != std::process::id() => format!("process {pid}"),
            _ => "another stage".to_owned(),
        };
        let message = format!("waits for {who}, which computes the same");
        shared.folder.log(stage, &message);
        shared.watcher.event(&Event::Log {
            stage,
            level: Level::Warning,
            message: &message,
        });
    };
    let is_cancelled = || job.cancel.is_set();
    let store = &shared.store;
    store.lease_telling(&job.key, &is_cancelled, &mut tell)
}

fn run_stage(
    shared: &Shared,
    pools: &mut ThreadPools,
    job: &Job<'_>,
    inputs: BTreeMap<String, Vec<Input>>,
    heard: &Arc<Mutex<Heard>>,
) -> Result<BTreeMap<String, Artifact>, JobError> {
    let scratch = shared.store.scratch()?;
    let mut limits = job.instance.limits;
    limits.memory_bytes = limits
        .memory_bytes
        .map(|bytes| grown(bytes, job.instance, job.attempt));
    let parts = StageContextParts {
        inputs,
        sources: job.instance.sources.clone(),
        seed: job.instance.seed,
        identity: job.key.digest(),
        threads: job.threads,
        device: job.device,
        checkpoints: shared.store.checkpoints_path(&job.key),
        scratch: scratch.path().to_owned(),
        workspace: shared.workspace.root().to_owned(),
        lineage: job.lineage.clone(),
        observer: Arc::new(StageObserver {
            stage: job.instance.name.clone(),
            watcher: Arc::clone(&shared.watcher),
            folder: Arc::clone(&shared.folder),
            heard: Arc::clone(heard),
        }),
        cancel: job.cancel.clone(),
        limits,
    };
    if job.instance.isolated {
        return Ok(isolated::run(job.instance, &parts)?);
    }
    let context = StageContext::new(parts, job.instance.signature.clone());
    let mut context = context.under(shared.conditions.clone());
    let pool = pools.of(job.threads)?;
    let stage = &job.instance.parsed.stage;
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.install(|| stage.run(&mut context))
    }));
    match result {
        Ok(Ok(())) => Ok(context.finish()?),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => Err(StageError::Panic {
            message: panic_message(&*panic),
        }
        .into()),
    }
}

/// The artifacts that come in, each with only the columns that its port declares.
fn inputs(shared: &Shared, job: &Job<'_>) -> Result<BTreeMap<String, Vec<Input>>, JobError> {
    let mut inputs: BTreeMap<String, Vec<Input>> = BTreeMap::new();
    for (port, bound) in &job.bound {
        for (position, (label, bound)) in bound.iter().enumerate() {
            let input = match bound {
                Bound::Output(manifest) | Bound::Rows { manifest, .. } => {
                    let lost = |warning| JobError::LostInput {
                        port: port.clone(),
                        position,
                        warning,
                    };
                    let seen = Seen::of(job.instance, port, position);
                    let artifact = seen.project(open(shared, manifest, lost)?)?;
                    Input {
                        label: label.clone(),
                        logical: seen.digest(manifest, &artifact),
                        artifact,
                    }
                }
                Bound::File { path, .. } => file_input(path)?,
            };
            inputs.entry(port.clone()).or_default().push(input);
        }
    }
    Ok(inputs)
}

/// A file or folder of the workspace as an input.
pub(crate) fn file_input(path: &Path) -> Result<Input, StageError> {
    let artifact = read_workspace(path)
        .map_err(|e| StageError::io(format!("cannot read `{}`", path.display()), e))?;
    let sealed = artifact.seal()?;
    let label = path
        .file_name()
        .map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
    Ok(Input {
        label,
        artifact,
        logical: sealed.manifest.logical,
    })
}

/// The artifact of `manifest`, from memory or the store.
pub(crate) fn open(
    shared: &Shared,
    manifest: &Manifest,
    lost: impl FnOnce(Option<String>) -> JobError,
) -> Result<Artifact, JobError> {
    let live = shared.live.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(artifact) = live.get(&(manifest.kind, manifest.bytes)) {
        return Ok(artifact.clone());
    }
    drop(live);
    match shared.store.open_artifact(manifest) {
        Ok(artifact) => {
            let mut live = shared.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.insert((manifest.kind, manifest.bytes), artifact.clone());
            Ok(artifact)
        }
        Err(StoreError::Missing { .. }) => Err(lost(None)),
        Err(error) if error.is_missing() => Err(lost(Some(error.to_string()))),
        Err(error) => Err(error.into()),
    }
}

/// D5: a result is only a result of its key if the sources are still what the key says.
fn check_sources(shared: &Shared, job: &Job<'_>) -> Result<(), JobError> {
    let stat_cache = &shared.stat_cache;
    for (name, path) in &job.instance.sources {
        let now = source_digest(stat_cache, path)
            .map_err(|e| StageError::other("a source vanished while the stage ran", e))?;
        if job.ingredients.sources.get(name) != Some(&now) {
            let path = path.display();
            let message = format!("`{path}` was changed while the stage read it");
            return Err(StageError::data(message)
                .with_help("run again when it stands still")
                .into());
        }
    }
    for (_, bound) in job.bound.values().flatten() {
        if let Bound::File { path, digest } = bound {
            let now = source_digest(stat_cache, path)
                .map_err(|e| StageError::other("an input vanished while the stage ran", e))?;
            if now != *digest {
                let message = format!("`{}` was changed while the stage read it", path.display());
                return Err(StageError::data(message)
                    .with_help("run again when it stands still")
                    .into());
            }
        }
    }
    Ok(())
}

fn read_workspace(path: &Path) -> std::io::Result<Artifact> {
    if !path.is_dir() {
        return Ok(Artifact::File(Arc::new(file_content(path)?)));
    }
    let mut files = Files::new();
    let mut open: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
                continue;
            }
            let full = entry.path();
            let relative = full.strip_prefix(path).map_err(std::io::Error::other)?;
            let name = relative
                .to_str()
                .ok_or_else(|| std::io::Error::other("a name is not UTF-8"))?;
            files
                .insert(name, file_content(&full)?)
                .map_err(std::io::Error::other)?;
        }
    }
    Ok(files.into())
}

fn file_content(path: &Path) -> std::io::Result<FileContent> {
    use std::os::unix::fs::PermissionsExt;
    let executable = std::fs::metadata(path)?.permissions().mode() & 0o111 != 0;
    Ok(FileContent {
        bytes: natron_artifacts::Bytes::read_any(path)?.0,
        executable,
    })
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}

struct StageObserver {
    stage: String,
    watcher: Arc<dyn Watcher>,
    folder: Arc<RunFolder>,
    heard: Arc<Mutex<Heard>>,
}

/// What a stage said that becomes part of its record.
#[derive(Default)]
struct Heard {
    log: Vec<u8>,
    peak_memory_bytes: Option<u64>,
}

impl Observer for StageObserver {
    fn progress(&self, progress: &Progress) {
        self.watcher.event(&Event::Progress {
            stage: &self.stage,
            progress,
        });
    }

    fn metric(&self, name: &str, step: u64, value: f64) {
        self.folder.metric(&self.stage, name, step, value);
        self.watcher.event(&Event::Metric {
            stage: &self.stage,
            name,
            step,
            value,
        });
    }

    fn log(&self, level: Level, message: &str) {
        self.folder.log(&self.stage, message);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.log.len() < LONGEST_LOG {
            heard.log.extend(message.as_bytes());
            heard.log.push(b'\n');
        }
        drop(heard);
        self.watcher.event(&Event::Log {
            stage: &self.stage,
            level,
            message,
        });
    }

    fn peak_memory(&self, bytes: u64) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.peak_memory_bytes = Some(bytes);
    }
}
