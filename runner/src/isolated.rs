//! `isolation = "process"`: a stage in a process of its own.
//!
//! The runner executes its own program again as `stage exec` in a scratch folder. There lie the request (on standard
//! input, too), the content of every input, and afterwards that of every output with the reply; progress, metrics and
//! log lines come as JSON on descriptor 3. A stage that panics, aborts, ends its process or is killed is then a failed
//! stage like any other. Its results are those of the same stage in the runner's own process, byte for byte, under the
//! same key: the process gets the parameters, seed, threads and inputs that the key is made of.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use natron_artifacts::{
    Artifact, Bytes, Cancel, DeviceGrant, Digest, Input, Level, Limits, Lineage, Manifest,
    Observer, Progress, Registry, Signature, StageContext, StageContextParts, StageError,
};
use natron_process::{Channel, End, Lines, ProcessError, Program, shown};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Instance, worker::panic_message};

/// Name of the request in the scratch folder.
const REQUEST: &str = "request.json";

/// Name of the reply in the scratch folder.
const REPLY: &str = "reply.json";

/// Later lines of what the process writes are dropped.
const MOST_LINES: usize = 10_000;

/// How many of the last lines an error shows.
const LAST_LINES: usize = 20;

/// More units of progress than these are not told apart.
const MOST_UNITS: usize = 64;

/// All that a stage's process is told.
#[derive(Serialize, Deserialize)]
struct Request {
    kind: String,
    parameters: Value,
    signature: Signature,
    inputs: BTreeMap<String, Vec<RequestInput>>,
    sources: BTreeMap<String, PathBuf>,
    seed: u64,
    identity: Digest,
    threads: usize,
    /// Ordinals of the granted CUDA devices.
    gpus: Vec<u32>,
    checkpoints: PathBuf,
    workspace: PathBuf,
    lineage: Option<Lineage>,
    limits: Limits,
}

#[derive(Serialize, Deserialize)]
struct RequestInput {
    label: String,
    logical: Digest,
    manifest: Manifest,
}

/// How it went.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Outputs(BTreeMap<String, Manifest>),
    Failed(Failed),
}

/// A [`StageError`] on its way between processes.
#[derive(Serialize, Deserialize)]
struct Failed {
    what: What,
    message: String,
    row: Option<u64>,
    column: Option<String>,
    parameter: String,
    help: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Data,
    Parameters,
    Interrupted,
    Resource,
    NonFinite,
    Panic,
    Other,
}

/// A line on descriptor 3.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Progress {
        done: u64,
        total: Option<u64>,
        unit: String,
        loss: Option<f64>,
        note: String,
    },
    Metric {
        name: String,
        step: u64,
        value: Option<f64>,
    },
    Log(String),
    Warning(String),
}

/// Runs the stage of `instance` in a process of its own.
pub(crate) fn run(
    instance: &Instance,
    parts: &StageContextParts,
) -> Result<BTreeMap<String, Artifact>, StageError> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|e| StageError::io(format!("`{}`", path.display()), e))
    };
    let scratch = absolute(&parts.scratch)?;
    let folder = Folder(&scratch);
    fs::create_dir_all(&scratch)
        .map_err(|e| StageError::io(format!("cannot create `{}`", scratch.display()), e))?;
    let mut inputs: BTreeMap<String, Vec<RequestInput>> = BTreeMap::new();
    for (port, list) in &parts.inputs {
        for (position, input) in list.iter().enumerate() {
            let manifest = folder.write("in", port, position, &input.artifact)?;
            inputs.entry(port.clone()).or_default().push(RequestInput {
                label: input.label.clone(),
                logical: input.logical,
                manifest,
            });
        }
    }
    let mut sources = BTreeMap::new();
    for (name, path) in &parts.sources {
        sources.insert(name.clone(), absolute(path)?);
    }
    // The process makes it when the stage first asks for it.
    let checkpoints = absolute(&parts.checkpoints)?;
    let request = Request {
        kind: instance.kind.clone(),
        parameters: (*instance.parsed.parameters).clone(),
        signature: instance.signature.clone(),
        inputs,
        sources,
        seed: parts.seed,
        identity: parts.identity,
        threads: parts.threads,
        gpus: parts.device.ordinals(),
        checkpoints,
        workspace: absolute(&parts.workspace)?,
        lineage: parts.lineage.clone(),
        limits: parts.limits,
    };
    folder.write_json(REQUEST, &request)?;
    // The keeper's own executable, which is ours, also where the file was replaced since we started.
    let mut program = Program::new(Path::new("/proc/self/exe"), &scratch);
    program.arguments = vec!["stage".into(), "exec".into()];
    program.environment = std::env::vars_os().collect();
    program.input = Some(REQUEST.into());
    program.limits = natron_process::Limits {
        memory_bytes: parts.limits.memory_bytes,
        processes: parts.limits.processes,
        cpu_seconds: parts.limits.cpu_seconds,
        timeout: None,
    };
    let mut listener = Listener::new(parts.observer.as_ref());
    let cancel = &parts.cancel;
    let ended = natron_process::run(&program, &|| cancel.is_set(), &mut |channel, bytes| {
        listener.take(channel, bytes);
    });
    let last_lines = listener.finish();
    let ended = ended.map_err(|error| match error {
        ProcessError::Program(e) => {
            StageError::io("cannot start a process for the stage".to_owned(), e)
        }
        other => StageError::resource(format!("the stage's process: {other}")),
    })?;
    parts.observer.peak_memory(ended.peak_bytes);
    if matches!(ended.end, End::Stopped) {
        return Err(StageError::Interrupted);
    }
    let reply = matches!(ended.end, End::Exited(0))
        .then(|| fs::read(scratch.join(REPLY)).ok())
        .flatten();
    let Some(reply) = reply else {
        let said = if last_lines.is_empty() {
            String::new()
        } else {
            format!("; it last wrote:\n  {}", last_lines.join("\n  "))
        };
        let how = match ended.end {
            End::Exited(0) => "ended without a result".to_owned(),
            End::Killed(signal @ 6) => format!("aborted (signal {signal})"),
            End::Killed(signal @ (7 | 11)) => {
                format!("broke off with a memory fault (signal {signal})")
            }
            end => end.to_string(),
        };
        return Err(StageError::Other {
            message: format!("the stage's process {how}{said}"),
            source: None,
        });
    };
    let reply: Reply = serde_json::from_slice(&reply)
        .map_err(|e| StageError::other("the stage's process answered with nonsense", e))?;
    match reply {
        Reply::Failed(failed) => Err(failed.into()),
        Reply::Outputs(manifests) => manifests
            .into_iter()
            .map(|(port, manifest)| {
                let artifact = folder.read("out", &port, 0, &manifest)?;
                Ok((port, artifact))
            })
            .collect(),
    }
}

/// The process's side: runs the stage that the request on standard input names, in the current directory.
///
/// # Errors
///
/// When there is no sound request, or no reply could be written. What the stage itself says is in the reply.
pub fn execute_isolated(registry: &Registry, cancel: &Cancel) -> Result<(), StageError> {
    let request: Request = serde_json::from_reader(io::stdin().lock())
        .map_err(|e| StageError::other("the standard input holds no request for a stage", e))?;
    let directory = std::env::current_dir()
        .map_err(|e| StageError::io("the current directory cannot be used".to_owned(), e))?;
    let folder = Folder(&directory);
    let reply = match execute(registry, cancel, request, &folder) {
        Ok(manifests) => Reply::Outputs(manifests),
        Err(error) => Reply::Failed(error.into()),
    };
    folder.write_json(REPLY, &reply)
}

fn execute(
    registry: &Registry,
    cancel: &Cancel,
    request: Request,
    folder: &Folder<'_>,
) -> Result<BTreeMap<String, Manifest>, StageError> {
    let kind = registry.get(&request.kind).ok_or_else(|| {
        StageError::resource(format!("this program knows no kind `{}`", request.kind))
    })?;
    let parsed = kind
        .parse(&request.parameters)
        .map_err(|e| StageError::data(e.to_string()))?;
    let mut inputs: BTreeMap<String, Vec<Input>> = BTreeMap::new();
    for (port, list) in request.inputs {
        for (position, input) in list.into_iter().enumerate() {
            let artifact = folder.read("in", &port, position, &input.manifest)?;
            inputs.entry(port.clone()).or_default().push(Input {
                label: input.label,
                artifact,
                logical: input.logical,
            });
        }
    }
    let parts = StageContextParts {
        inputs,
        sources: request.sources,
        seed: request.seed,
        identity: request.identity,
        threads: request.threads,
        device: DeviceGrant::cuda(&request.gpus),
        checkpoints: request.checkpoints,
        scratch: folder.0.join("scratch"),
        workspace: request.workspace,
        lineage: request.lineage,
        observer: Arc::new(Teller::open()?),
        cancel: cancel.clone(),
        limits: request.limits,
    };
    let mut context = StageContext::new(parts, request.signature);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(request.threads)
        .build()
        .map_err(|e| StageError::resource(format!("cannot start threads: {e}")))?;
    let stage = &parsed.stage;
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.install(|| stage.run(&mut context))
    }));
    match result {
        Ok(result) => result?,
        Err(panic) => {
            return Err(StageError::Panic {
                message: panic_message(&*panic),
            });
        }
    }
    let outputs = context.finish()?.into_iter();
    outputs
        .map(|(port, artifact)| {
            let manifest = folder.write("out", &port, 0, &artifact)?;
            Ok((port, manifest))
        })
        .collect()
}

/// The scratch folder, as both sides use it.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    /// One file of an artifact. Numbers instead of names: a port may be called anything.
    fn path(&self, side: &str, port: &str, position: usize, file: usize) -> PathBuf {
        let port = &Digest::of(port.as_bytes()).to_hex()[..16];
        self.0.join(format!("{side}-{port}-{position}-{file}"))
    }

    fn write(
        &self,
        side: &str,
        port: &str,
        position: usize,
        artifact: &Artifact,
    ) -> Result<Manifest, StageError> {
        let sealed = artifact
            .seal()
            .map_err(|e| StageError::data(format!("`{port}`: {e}")))?;
        for (file, bytes) in sealed.contents.iter().enumerate() {
            let path = self.path(side, port, position, file);
            fs::write(&path, &**bytes)
                .map_err(|e| StageError::io(format!("cannot write `{}`", path.display()), e))?;
        }
        Ok(sealed.manifest)
    }

    fn read(
        &self,
        side: &str,
        port: &str,
        position: usize,
        manifest: &Manifest,
    ) -> Result<Artifact, StageError> {
        let mut contents = Vec::with_capacity(manifest.files.len());
        for (file, described) in manifest.files.iter().enumerate() {
            let path = self.path(side, port, position, file);
            let bytes = Bytes::read(&path, &described.digest)
                .map_err(|e| StageError::other(format!("cannot read `{}`", path.display()), e))?;
            contents.push(bytes);
        }
        Artifact::open(manifest, contents).map_err(|e| StageError::data(format!("`{port}`: {e}")))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StageError> {
        let path = self.0.join(name);
        let text = serde_json::to_vec(value)
            .map_err(|e| StageError::other(format!("cannot put `{name}` into words"), e))?;
        fs::write(&path, text)
            .map_err(|e| StageError::io(format!("cannot write `{}`", path.display()), e))
    }
}

impl From<StageError> for Failed {
    fn from(error: StageError) -> Self {
        let help = error.help().unwrap_or_default().to_owned();
        let mut failed = Self {
            what: What::Other,
            message: String::new(),
            row: None,
            column: None,
            parameter: String::new(),
            help,
        };
        (failed.what, failed.message) = match error {
            StageError::Data {
                message,
                row,
                column,
                ..
            } => {
                (failed.row, failed.column) = (row, column);
                (What::Data, message)
            }
            StageError::Parameters {
                parameter, message, ..
            } => {
                failed.parameter = parameter;
                (What::Parameters, message)
            }
            StageError::Interrupted => (What::Interrupted, String::new()),
            StageError::Resource { message } => (What::Resource, message),
            StageError::NonFinite { message } => (What::NonFinite, message),
            StageError::Panic { message } => (What::Panic, message),
            other => {
                let mut text = other.to_string();
                let mut cause = std::error::Error::source(&other);
                while let Some(source) = cause {
                    let more = source.to_string();
                    if !text.contains(&more) {
                        text = format!("{text}: {more}");
                    }
                    cause = source.source();
                }
                (What::Other, text)
            }
        };
        failed
    }
}

impl From<Failed> for StageError {
    fn from(failed: Failed) -> Self {
        let message = failed.message;
        match failed.what {
            What::Data => Self::Data {
                message,
                row: failed.row,
                column: failed.column,
                help: failed.help,
            },
            What::Parameters => Self::Parameters {
                parameter: failed.parameter,
                message,
                help: failed.help,
                // Places in the file are shown before anything runs.
                at: None,
            },
            What::Interrupted => Self::Interrupted,
            What::Resource => Self::Resource { message },
            What::NonFinite => Self::NonFinite { message },
            What::Panic => Self::Panic { message },
            What::Other => Self::Other {
                message,
                source: None,
            },
        }
    }
}

/// Tells the runner what the stage says.
struct Teller(Mutex<File>);

impl Teller {
    fn open() -> Result<Self, StageError> {
        let file = OpenOptions::new()
            .write(true)
            .open("/proc/self/fd/3")
            .map_err(|e| StageError::io("cannot open descriptor 3".to_owned(), e))?;
        Ok(Self(Mutex::new(file)))
    }

    fn tell(&self, message: &Message) {
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A runner that is gone ends this process anyway.
        let _ = file.write_all(&line);
    }
}

impl Observer for Teller {
    fn progress(&self, progress: &Progress) {
        self.tell(&Message::Progress {
            done: progress.done,
            total: progress.total,
            unit: progress.unit.to_owned(),
            loss: progress.loss,
            note: progress.note.clone(),
        });
    }

    fn metric(&self, name: &str, step: u64, value: f64) {
        self.tell(&Message::Metric {
            name: name.to_owned(),
            step,
            value: value.is_finite().then_some(value),
        });
    }

    fn log(&self, level: Level, message: &str) {
        let text = message.to_owned();
        self.tell(&match level {
            Level::Info => Message::Log(text),
            Level::Warning => Message::Warning(text),
        });
    }
}

/// Passes on what the process says.
struct Listener<'a> {
    observer: &'a dyn Observer,
    lines: [Lines; 3],
    last: VecDeque<String>,
    logged: usize,
}

impl<'a> Listener<'a> {
    fn new(observer: &'a dyn Observer) -> Self {
        Self {
            observer,
            lines: Default::default(),
            last: VecDeque::new(),
            logged: 0,
        }
    }

    fn take(&mut self, channel: Channel, bytes: &[u8]) {
        let mut lines = std::mem::take(&mut self.lines[channel as usize]);
        lines.push(bytes, &mut |line, _| self.line(channel, line));
        self.lines[channel as usize] = lines;
    }

    /// The last lines that are no messages.
    fn finish(mut self) -> Vec<String> {
        for channel in [Channel::Output, Channel::Errors, Channel::Messages] {
            let mut lines = std::mem::take(&mut self.lines[channel as usize]);
            lines.finish(&mut |line, _| self.line(channel, line));
        }
        self.last.into()
    }

    fn line(&mut self, channel: Channel, line: &[u8]) {
        if channel == Channel::Messages
            && let Ok(message) = serde_json::from_slice(line)
        {
            return self.message(message);
        }
        let text = shown(line, &[]);
        self.log(Level::Info, &text);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Progress {
                done,
                total,
                unit,
                loss,
                note,
            } => self.observer.progress(&Progress {
                done,
                total,
                unit: interned(&unit),
                loss,
                note,
            }),
            Message::Metric { name, step, value } => {
                let value = value.unwrap_or(f64::NAN);
                self.observer.metric(&name, step, value);
            }
            Message::Log(text) => self.log(Level::Info, &text),
            Message::Warning(text) => self.log(Level::Warning, &text),
        }
    }

    fn log(&mut self, level: Level, text: &str) {
        self.logged += 1;
        if self.logged <= MOST_LINES {
            self.observer.log(level, text);
        }
    }
}

/// The unit as text that lives on; there are a handful of them.
fn interned(unit: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(unit) {
        return found;
    }
    if known.len() == MOST_UNITS {
        return "";
    }
    let leaked: &'static str = Box::leak(unit.to_owned().into_boxed_str());
    known.insert(leaked);
    leaked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_as_it_was() {
        let errors = [
            StageError::data_at(3, "close", "is negative").with_help("look at it"),
            StageError::parameter("window_bars", "is 0").with_help("1 or more"),
            StageError::Interrupted,
            StageError::resource("no GPU"),
            StageError::Panic {
                message: "x".into(),
            },
            StageError::NonFinite {
                message: "loss".into(),
            },
            StageError::io("cannot read `a`", io::Error::other("why")),
        ];
        for error in errors {
            let (text, help) = (error.to_string(), error.help().map(str::to_owned));
            let json = serde_json::to_string(&Failed::from(error)).unwrap();
            let again: StageError = serde_json::from_str::<Failed>(&json).unwrap().into();

            assert_eq!(again.to_string(), text);
            assert_eq!(again.help().map(str::to_owned), help);
        }
    }

    #[test]
    fn units_are_the_same_again() {
        assert_eq!(interned("steps"), "steps");
        assert!(std::ptr::eq(interned("steps"), interned("steps")));
    }
}
