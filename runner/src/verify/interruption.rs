//! Killed at random points, continued, compared: whether a checkpoint loses no bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, BufRead as _, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use natron_artifacts::{Cancel, Conditions, Manifest, Stream, Streams};
use natron_cache::{Durability, StageKey, Store};
use serde::{Deserialize, Serialize};

use crate::{
    Divergence, Event, Forecast, Graph, Outcome, RunError, RunOptions, Watcher, Workspace,
    first_divergence, run, standings, with_producers,
};

/// A stage writes about this many checkpoints in its time, if it can.
const CHECKPOINTS: f64 = 25.0;

/// More kills than this of one execution say nothing new.
const MOST_KILLS: u64 = 3;

/// A child that takes longer than so many times what was expected, and this, hangs.
const PATIENCE_FACTOR: f64 = 20.0;
const PATIENCE: Duration = Duration::from_mins(1);

/// What to interrupt.
#[derive(Debug, Clone)]
pub struct InterruptionOptions {
    /// Position of the instance in the graph.
    pub index: usize,
    /// How many executions are interrupted.
    pub times: usize,
    /// Seed of the points.
    pub seed: u64,
}

/// One kill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kill {
    /// How long after the stage's start in that process.
    pub after_seconds: f64,
    /// How far the stage said it was.
    pub position: Option<u64>,
    /// Where the next process said that it went on, or the first position that it reported.
    pub resumed: Option<String>,
    /// What lay in the checkpoint folder, by name and size in bytes.
    pub checkpoint: BTreeMap<String, u64>,
}

/// One execution that was interrupted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InterruptionTrial {
    /// The kills; none if the stage was faster.
    pub kills: Vec<Kill>,
    /// Whether it gave a result in the end.
    pub completed: bool,
    /// Whether every output has the recorded bytes.
    pub equal: bool,
    /// What is wrong, if something is.
    pub difference: Option<String>,
    /// How long it took, all processes together.
    pub seconds: f64,
}

/// What interrupting a stage gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interruption {
    /// Instance name.
    pub stage: String,
    /// Key.
    pub key: StageKey,
    /// Seed of the points.
    pub seed: u64,
    /// How long the stage takes when nothing interrupts it.
    pub uninterrupted_seconds: f64,
    /// What was asked for.
    pub times: usize,
    /// The executions; those that were faster than their kills are tried again and not counted.
    pub trials: Vec<InterruptionTrial>,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

impl Interruption {
    /// Executions that were interrupted.
    pub fn interrupted(&self) -> usize {
        self.trials.iter().filter(|t| !t.kills.is_empty()).count()
    }

    /// Executions that were interrupted and went on from something in the checkpoint folder.
    pub fn resumed(&self) -> usize {
        let has_content = |t: &&InterruptionTrial| t.kills.iter().any(|k| !k.checkpoint.is_empty());
        self.trials.iter().filter(has_content).count()
    }

    /// Executions that came out otherwise or not at all.
    pub fn failures(&self) -> usize {
        self.trials.iter().filter(|t| !t.equal).count()
    }

    /// Whether as many as asked for were interrupted, and all came out with the recorded bytes.
    pub fn succeeded(&self) -> bool {
        !self.stopped && self.failures() == 0 && self.interrupted() >= self.times
    }
}

/// A line of a child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Started,
    Position(u64),
    Log(String),
    Failed(String),
}

/// Executes the stage at `index` in processes of their own with a cache of their own, kills these, and compares what comes
/// out in the end with the recorded result.
///
/// `child` gives the command that calls [`interrupted_child`] with a folder and the shortest time between checkpoints in
/// seconds; `done` hears of every execution.
///
/// # Errors
///
/// [`RunError::NotCached`] when there is nothing to compare with.
pub fn interrupt(
    graph: &Graph,
    workspace: &Workspace,
    options: &InterruptionOptions,
    child: &dyn Fn(&Path, f64) -> Command,
    cancel: &Cancel,
    done: &mut dyn FnMut(usize, &InterruptionTrial),
) -> Result<Interruption, RunError> {
    let instance = &graph.instances[options.index];
    let all = standings(graph, workspace, &RunOptions::default())?;
    let needed = with_producers(graph, &BTreeSet::from([options.index]));
    let names: BTreeSet<&str> = needed
        .iter()
        .map(|&i| graph.instances[i].name.as_str())
        .collect();
    for standing in all.iter().filter(|s| names.contains(s.name.as_str())) {
        if standing.forecast != Forecast::Hit {
            return Err(RunError::NotCached {
                stage: standing.name.clone(),
            });
        }
    }
    let not_cached = || RunError::NotCached {
        stage: instance.name.clone(),
    };
    let own = all.iter().find(|s| s.name == instance.name);
    let own = own.ok_or_else(not_cached)?;
    let key = own.key.ok_or_else(not_cached)?;
    let store = Store::open(workspace.cache(), Durability::None)?;
    let scratch = store.scratch()?;
    let template = scratch.path().join("template");
    {
        let copy = Store::open(&template, Durability::None)?;
        let producers = all
            .iter()
            .filter(|s| names.contains(s.name.as_str()) && s.name != instance.name);
        for standing in producers {
            let Some(ingredients) = &standing.ingredients else {
                continue;
            };
            let mut sealed = BTreeMap::new();
            for (port, manifest) in &standing.outputs {
                let artifact = store.open_artifact(manifest)?;
                let parts = artifact
                    .seal()
                    .map_err(|e| io::Error::other(e.to_string()))?;
                sealed.insert(port.clone(), parts);
            }
            let execution = natron_cache::Execution::default();
            copy.commit(ingredients.clone(), &sealed, execution, &[])?;
        }
    }
    let mut bench = Bench {
        store: &store,
        expected: &own.outputs,
        key,
        template,
        folder: scratch.path().to_owned(),
        child,
        cancel,
        expected_seconds: own.expected_seconds.unwrap_or(1.0).max(0.001),
        uninterrupted: 0.0,
        stream: Streams::new(options.seed).stream("kill points"),
        n: 0,
    };
    let mut result = Interruption {
        stage: instance.name.clone(),
        key,
        seed: options.seed,
        uninterrupted_seconds: 0.0,
        times: options.times,
        trials: Vec::new(),
        stopped: false,
    };
    // Without any kill first: what it gives then is no fault of a checkpoint, and the time is this machine's.
    let undisturbed = bench.trial(&[])?;
    result.uninterrupted_seconds = bench.uninterrupted;
    if !undisturbed.equal {
        let mut undisturbed = undisturbed;
        let what = undisturbed.difference.take().unwrap_or_default();
        let text = format!("without any interruption already: {what}");
        undisturbed.difference = Some(text);
        done(0, &undisturbed);
        result.trials.push(undisturbed);
        result.stopped = cancel.is_set();
        return Ok(result);
    }
    for _ in 0..options.times * 2 + 10 {
        if cancel.is_set() {
            result.stopped = true;
        }
        let n = result.interrupted();
        if result.stopped || n >= options.times {
            break;
        }
        let points = bench.points(n, options.times);
        let trial = bench.trial(&points)?;
        if cancel.is_set() && !trial.completed {
            result.stopped = true;
            break;
        }
        done(n + usize::from(!trial.kills.is_empty()), &trial);
        result.trials.push(trial);
    }
    Ok(result)
}

struct Bench<'a> {
    store: &'a Store,
    expected: &'a BTreeMap<String, Manifest>,
    key: StageKey,
    /// A cache with what the stage reads.
    template: PathBuf,
    folder: PathBuf,
    child: &'a dyn Fn(&Path, f64) -> Command,
    cancel: &'a Cancel,
    expected_seconds: f64,
    uninterrupted: f64,
    stream: Stream,
    n: usize,
}

/// How a child ended.
enum End {
    /// By itself, well.
    Well,
    /// By itself, badly.
    Badly(String),
    /// Killed as planned.
    Killed(f64),
    /// Killed because it never ended.
    Hung,
    /// Somebody asked us to stop.
    Stopped,
}

impl Bench<'_> {
    /// Kill points of one execution as times after the stage's start, one for each process.
    fn points(&mut self, n: usize, times: usize) -> Vec<f64> {
        let whole = self.uninterrupted;
        let first = (n as f64 + self.stream.uniform()) / times.max(1) as f64 * whole;
        let more = self.stream.below(MOST_KILLS);
        let mut points = vec![first];
        for _ in 0..more {
            points.push(self.stream.uniform() * (whole - first).max(whole * 0.1));
        }
        points
    }

    fn trial(&mut self, points: &[f64]) -> Result<InterruptionTrial, RunError> {
        self.n += 1;
        let folder = self.folder.join(format!("trial-{}", self.n));
        copy_cache(&self.template, &folder.join("cache"))?;
        let started = Instant::now();
        let mut trial = InterruptionTrial {
            kills: Vec::new(),
            completed: false,
            equal: false,
            difference: None,
            seconds: 0.0,
        };
        let ends = points.iter().map(|p| Some(*p)).chain([None]);
        for point in ends {
            let (end, reports, seconds) = self.process(&folder, point)?;
            if let Some(kill) = trial.kills.last_mut() {
                kill.resumed = resumed(&reports);
            }
            let position = reports.iter().rev().find_map(|report| match report {
                Report::Position(done) => Some(*done),
                _ => None,
            });
            match end {
                End::Killed(after_seconds) => trial.kills.push(Kill {
                    after_seconds,
                    position,
                    resumed: None,
                    checkpoint: self.checkpoint(&folder),
                }),
                End::Well => {
                    // As long as the stage takes here and now: other kills come in time.
                    if trial.kills.is_empty() && seconds > 0.0 {
                        self.uninterrupted = match self.uninterrupted {
                            0.0 => seconds,
                            known => known.min(seconds),
                        };
                    }
                    trial.completed = true;
                    break;
                }
                End::Badly(message) => {
                    trial.difference = Some(format!("failed: {message}"));
                    break;
                }
                End::Hung => {
                    trial.difference = Some("never ended".into());
                    break;
                }
                End::Stopped => break,
            }
        }
        trial.seconds = started.elapsed().as_secs_f64();
        if trial.completed {
            trial.difference = self.difference(&folder)?;
            trial.equal = trial.difference.is_none();
        }
        if trial.difference.is_none() {
            let _ = fs::remove_dir_all(&folder);
        }
        Ok(trial)
    }

    /// Runs one child, until it ends or for `point` seconds after the stage's start; how it ended, what it said, and how
    /// many seconds after the stage's start.
    fn process(
        &self,
        folder: &Path,
        point: Option<f64>,
    ) -> Result<(End, Vec<Report>, f64), RunError> {
        let known = if self.uninterrupted > 0.0 {
            self.uninterrupted
        } else {
            self.expected_seconds
        };
        let mut command = (self.child)(folder, known / CHECKPOINTS);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let Some(output) = child.stdout.take() else {
            return Err(io::Error::other("a child has no output").into());
        };
        let (send, reports) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(report) = serde_json::from_str::<Report>(&line)
                    && send.send((Instant::now(), report)).is_err()
                {
                    break;
                }
            }
        });
        let patience = PATIENCE + Duration::from_secs_f64(known * PATIENCE_FACTOR);
        let watched = self.watch(&mut child, &reports, point, patience);
        let (end, mut all) = watched?;
        let ended = Instant::now();
        // A program that a killed child has left keeps the pipe open until it is killed itself; nobody waits for it.
        if !matches!(end, End::Killed(_) | End::Hung) {
            let _ = reader.join();
        }
        all.extend(reports.try_iter());
        let started = all.iter().find(|(_, r)| matches!(r, Report::Started));
        let seconds = started.map_or(0.0, |(at, _)| (ended - *at).as_secs_f64());
        let all: Vec<Report> = all.into_iter().map(|(_, report)| report).collect();
        let end = match end {
            End::Badly(status) => {
                let why = all.iter().rev().find_map(|report| match report {
                    Report::Failed(why) => Some(why.clone()),
                    _ => None,
                });
                End::Badly(why.unwrap_or(status))
            }
            end => end,
        };
        Ok((end, all, seconds))
    }

    fn watch(
        &self,
        child: &mut Child,
        reports: &Receiver<(Instant, Report)>,
        point: Option<f64>,
        patience: Duration,
    ) -> io::Result<(End, Vec<(Instant, Report)>)> {
        let begun = Instant::now();
        let mut all = Vec::new();
        let mut kill_at: Option<(Instant, Instant)> = None;
        loop {
            let now = Instant::now();
            if let Some((started, at)) = kill_at
                && now >= at
            {
                // It may have ended by itself just now.
                if let Some(status) = child.try_wait()? {
                    return Ok((ended(status), all));
                }
                child.kill()?;
                child.wait()?;
                return Ok((End::Killed(started.elapsed().as_secs_f64()), all));
            }
            if let Some(status) = child.try_wait()? {
                return Ok((ended(status), all));
            }
            if self.cancel.is_set() || begun.elapsed() > patience {
                child.kill()?;
                child.wait()?;
                let end = if self.cancel.is_set() {
                    End::Stopped
                } else {
                    End::Hung
                };
                return Ok((end, all));
            }
            let pause = Duration::from_millis(10);
            let pause = kill_at.map_or(pause, |(_, at)| {
                pause.min(at.saturating_duration_since(now))
            });
            match reports.recv_timeout(pause) {
                Ok((at, report)) => {
                    if let (Report::Started, Some(point)) = (&report, point) {
                        kill_at = Some((at, at + Duration::from_secs_f64(point)));
                    }
                    all.push((at, report));
                }
                Err(RecvTimeoutError::Timeout) => {}
                // Nothing more will be said; the end is near.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause),
            }
        }
    }

    /// Names and sizes of what is in the checkpoint folder.
    fn checkpoint(&self, folder: &Path) -> BTreeMap<String, u64> {
        // Below the folder of the store's version.
        let versions = fs::read_dir(folder.join("cache"));
        let entries = versions
            .into_iter()
            .flatten()
            .flatten()
            .map(|version| version.path().join("ckpt").join(self.key.to_string()))
            .flat_map(|path| fs::read_dir(path).into_iter().flatten().flatten());
        entries
            .filter_map(|entry| {
                let size = entry.metadata().ok()?.len();
                Some((entry.file_name().into_string().ok()?, size))
            })
            .collect()
    }

    /// How the result in `folder` differs from the recorded one.
    fn difference(&self, folder: &Path) -> Result<Option<String>, RunError> {
        let store = Store::open(&folder.join("cache"), Durability::None)?;
        let Some(record) = store.lookup_fresh(&self.key)? else {
            return Ok(Some("the process ended well and kept no result".into()));
        };
        for (port, expected) in self.expected {
            let Some(found) = record.outputs.get(port) else {
                return Ok(Some(format!("there is no output `{port}`")));
            };
            if found.bytes == expected.bytes {
                // The record says so; the bytes are hashed as they are read.
                store.open_artifact(found)?;
                continue;
            }
            let before = self.store.open_artifact(expected)?;
            let divergence = first_divergence(&before, &store.open_artifact(found)?);
            let divergence = divergence.unwrap_or_else(|| {
                Divergence::at("bytes", expected.bytes.short(), found.bytes.short())
            });
            return Ok(Some(format!("output `{port}`: {divergence}")));
        }
        Ok(None)
    }
}

fn ended(status: std::process::ExitStatus) -> End {
    if status.success() {
        End::Well
    } else {
        End::Badly(status.to_string())
    }
}

/// Where a process says that it went on.
fn resumed(reports: &[Report]) -> Option<String> {
    let log = reports.iter().find_map(|report| match report {
        Report::Log(message) if message.contains("going on") || message.contains("continu") => {
            Some(message.clone())
        }
        _ => None,
    });
    log.or_else(|| {
        reports.iter().find_map(|report| match report {
            Report::Position(done) => Some(format!("first seen at {done}")),
            _ => None,
        })
    })
}

/// A copy of the cache `from` at `to`. Objects, which nobody writes a second time, are shared.
fn copy_cache(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_cache(&path, &target)?;
            continue;
        }
        let is_object = path.components().any(|part| part.as_os_str() == "cas");
        if !is_object || fs::hard_link(&path, &target).is_err() {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// What a child of [`interrupt`] does: runs the instance called `stage` with cache and state in `folder`, and says on
/// `output` how far it is.
pub fn interrupted_child(
    graph: &Graph,
    workspace: &Workspace,
    stage: &str,
    folder: &Path,
    checkpoint_every: Duration,
    output: Box<dyn Write + Send>,
) -> Result<bool, RunError> {
    let own = Workspace::new(workspace.root(), Some(folder.join("cache")))
        .with_state(folder.join("state"));
    let options = RunOptions {
        until: vec![stage.to_owned()],
        unrecorded: true,
        conditions: Conditions {
            checkpoint_every: Some(checkpoint_every),
            ..Conditions::default()
        },
        ..RunOptions::default()
    };
    let watcher = Arc::new(Teller {
        stage: stage.to_owned(),
        output: Mutex::new(output),
    });
    let heard = Arc::clone(&watcher) as Arc<dyn Watcher>;
    let summary = run(graph, &own, &options, &heard, &Cancel::new())?;
    for stage in &summary.record.stages {
        if let Some(error) = &stage.error {
            watcher.tell(&Report::Failed(format!("stage `{}`: {error}", stage.name)));
        }
        if stage.outcome == Outcome::Failed {
            return Ok(false);
        }
    }
    Ok(summary.succeeded())
}

/// Tells the parent what happens to one stage.
struct Teller {
    stage: String,
    output: Mutex<Box<dyn Write + Send>>,
}

impl Teller {
    fn tell(&self, report: &Report) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(line) = serde_json::to_string(report) {
            // The parent may have heard enough.
            let _ = writeln!(output, "{line}").and_then(|()| output.flush());
        }
    }
}

impl Watcher for Teller {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Started { stage, .. } if *stage == self.stage => self.tell(&Report::Started),
            Event::Progress { stage, progress } if *stage == self.stage => {
                self.tell(&Report::Position(progress.done));
            }
            Event::Log { stage, message, .. } if *stage == self.stage => {
                self.tell(&Report::Log((*message).to_owned()));
            }
            _ => {}
        }
    }
}
