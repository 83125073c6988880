//! The runs of a workspace: a list that opens few records, and runs by the names that people give them.
//!
//! A run's record lists every stage with its outputs, which is megabytes for a thousand stages. What a list needs of each
//! record is therefore kept in one file, `runs.index`, together with length, time and number of the record that it was
//! taken from: an entry whose record has another is read anew, and so is everything when the file is gone or damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use natron_artifacts::{Digest, Kind};
use natron_cache::{Record, StageKey, Store};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::{
    Outcome, Workspace,
    history::{RunRecord, RunState, read_record, run_ids, write_atomically},
};

/// Version of the index. Another one is not read.
const VERSION: u32 = 1;

/// Of so many stages with metrics an entry keeps the keys; of a run with more, the record is read.
const MOST_KEYS: usize = 2_000;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// Every stage has its result.
    Ok,
    /// A stage failed.
    Failed,
    /// It was stopped, and said so.
    Interrupted,
    /// Its process ended without a word.
    Killed,
    /// It goes on.
    Running,
}

/// How the stages of a run ended, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Results that were in the cache.
    pub hit: usize,
    /// Executed.
    pub ran: usize,
    /// Executed, with the content that there was before.
    pub unchanged: usize,
    /// Failed.
    pub failed: usize,
    /// Not started.
    pub skipped: usize,
    /// Stopped.
    pub interrupted: usize,
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEntry {
    /// Its name.
    pub id: String,
    /// Its pipeline.
    pub pipeline: String,
    /// The pipeline file, as it was named.
    pub file: String,
    /// Its profile.
    pub profile: Option<String>,
    /// Its overrides.
    pub set: Vec<String>,
    /// The pipeline's parameters.
    pub params: Value,
    /// When it started, RFC 3339, UTC.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// The machine.
    pub host: String,
    /// The program's version.
    pub natron: String,
    /// The run whose results it found unchanged, but for those of stages that were edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// How many stages it was about.
    pub n_stages: usize,
    /// How they ended.
    pub outcomes: Outcomes,
    /// The first failure: stage and first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<(String, String)>,
    /// Whether it came to its end; not kept, because a run that goes on ends.
    #[serde(skip)]
    pub state: RunState,
    /// Keys of the stages that give metrics; nothing when there are too many.
    keys: Option<BTreeMap<String, Digest>>,
}

impl RunEntry {
    /// How it ended.
    pub fn end(&self) -> RunEnd {
        match self.state {
            RunState::Killed => RunEnd::Killed,
            RunState::Running => RunEnd::Running,
            RunState::Finished if self.outcomes.failed > 0 => RunEnd::Failed,
            RunState::Finished if self.outcomes.interrupted + self.outcomes.skipped > 0 => {
                RunEnd::Interrupted
            }
            RunState::Finished => RunEnd::Ok,
        }
    }
}

/// What of a record a list needs; the rest is skipped.
#[derive(Deserialize)]
struct Light {
    id: String,
    pipeline: String,
    file: String,
    profile: Option<String>,
    sets: Vec<String>,
    params: Value,
    started: String,
    seconds: f64,
    host: String,
    natron: String,
    #[serde(default)]
    same_as: Option<String>,
    #[serde(default)]
    n_stages: usize,
    #[serde(default)]
    stages: Vec<LightStage>,
}

#[derive(Deserialize)]
struct LightStage {
    name: String,
    key: Option<Digest>,
    outcome: Outcome,
    #[serde(default)]
    outputs: BTreeMap<String, LightManifest>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct LightManifest {
    kind: Kind,
}

impl From<Light> for RunEntry {
    fn from(run: Light) -> Self {
        let mut outcomes = Outcomes::default();
        let mut keys = BTreeMap::new();
        let mut failure = None;
        let n_stages = run.n_stages.max(run.stages.len());
        for stage in run.stages {
            let count = match stage.outcome {
                Outcome::Hit => &mut outcomes.hit,
                Outcome::Ran => &mut outcomes.ran,
                Outcome::Unchanged => &mut outcomes.unchanged,
                Outcome::Failed => &mut outcomes.failed,
                Outcome::Skipped => &mut outcomes.skipped,
                Outcome::Interrupted => &mut outcomes.interrupted,
            };
            *count += 1;
            let has_metrics = stage.outputs.values().any(|m| m.kind == Kind::Metrics);
            if let (true, Some(key)) = (has_metrics, stage.key) {
                keys.insert(stage.name.clone(), key);
            }
            if let (None, Some(error)) = (&failure, stage.error) {
                let line = error.lines().next().unwrap_or_default().to_owned();
                failure = Some((stage.name, line));
            }
        }
        if run.same_as.is_some() {
            let Outcomes {
                ran,
                unchanged,
                failed,
                skipped,
                interrupted,
                ..
            } = outcomes;
            let others = ran + unchanged + failed + skipped + interrupted;
            outcomes.hit = n_stages.saturating_sub(others);
        }
        Self {
            id: run.id,
            pipeline: run.pipeline,
            file: run.file,
            profile: run.profile,
            set: run.sets,
            params: run.params,
            started: run.started,
            seconds: run.seconds,
            host: run.host,
            natron: run.natron,
            same_as: run.same_as,
            n_stages,
            outcomes,
            failure,
            state: RunState::Finished,
            keys: Some(keys).filter(|keys| keys.len() <= MOST_KEYS),
        }
    }
}

/// Length, time and number of a record's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, i64, i64, u64);

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let stat = fs::metadata(path)?;
        Ok(Self(
            stat.len(),
            // No program can set this time.
            stat.ctime(),
            stat.ctime_nsec(),
            stat.ino(),
        ))
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    version: u32,
    entries: BTreeMap<String, (Stamp, RunEntry)>,
}

/// All runs of a workspace, the newest first.
#[derive(Debug)]
pub struct RunList {
    workspace: Workspace,
    /// The runs.
    pub runs: Vec<RunEntry>,
    /// Runs whose records do not parse.
    pub unreadable: Vec<String>,
    /// What the parameters and metrics of a key are.
    records: Mutex<BTreeMap<Digest, Option<Record>>>,
    /// Keys of all stages, of runs whose records had to be read.
    keys: Mutex<BTreeMap<String, BTreeMap<String, Digest>>>,
    store: Mutex<Option<Store>>,
}

impl RunList {
    /// Reads the list. Records that the index does not know, or knows otherwise, are opened; then the index is brought up to
    /// date, if it can be written.
    pub fn read(workspace: &Workspace) -> io::Result<Self> {
        let path = workspace.state().join("runs.index");
        let folder = workspace.state().join("runs");
        let known = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice::<Index>(&text).ok())
            .filter(|index| index.version == VERSION)
            .unwrap_or_default();
        let ids = run_ids(workspace)?;
        let n_known = known.entries.len();
        let known = Mutex::new(known.entries);
        let look = |id: &String| -> Found {
            let record = folder.join(id).join("run.json");
            let Ok(stamp) = Stamp::of(&record) else {
                return unfinished(workspace, id);
            };
            let known = known
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(id)
                .filter(|(of, entry)| *of == stamp && entry.id == *id);
            match known {
                Some((_, entry)) => Found::Known(stamp, Box::new(entry)),
                None => match read_light(&record) {
                    Ok(entry) => Found::New(stamp, Box::new(entry)),
                    Err(_) => Found::Unreadable(id.clone()),
                },
            }
        };
        let found: Vec<Found> = ids.par_iter().rev().map(look).collect();
        let mut runs = Vec::new();
        let mut unreadable = Vec::new();
        let mut entries = BTreeMap::new();
        let mut n_new = 0;
        for found in found {
            match found {
                Found::Known(stamp, entry) => {
                    entries.insert(entry.id.clone(), (stamp, (*entry).clone()));
                    runs.push(*entry);
                }
                Found::New(stamp, entry) => {
                    n_new += 1;
                    entries.insert(entry.id.clone(), (stamp, (*entry).clone()));
                    runs.push(*entry);
                }
                Found::Unfinished(entry) => runs.push(*entry),
                Found::Unreadable(id) => unreadable.push(id),
                Found::Nothing => {}
            }
        }
        if n_new > 0 || entries.len() != n_known {
            let index = Index {
                version: VERSION,
                entries,
            };
            // Without it the next list takes longer, nothing else.
            if let Ok(text) = serde_json::to_vec(&index) {
                let _ = write_atomically(&path, &text);
            }
        }
        let mut list = Self {
            workspace: workspace.clone(),
            runs,
            unreadable,
            records: Mutex::default(),
            keys: Mutex::default(),
            store: Mutex::default(),
        };
        list.fill_in();
        Ok(list)
    }

    /// Gives runs that go on from another the keys of its stages, and those that found nothing to do its parameters.
    fn fill_in(&mut self) {
        let mut full: BTreeMap<String, (Value, Option<BTreeMap<String, Digest>>)> = BTreeMap::new();
        let named: BTreeSet<String> = self.runs.iter().filter_map(|r| r.same_as.clone()).collect();
        // The oldest first: what a run names is older.
        for run in self.runs.iter_mut().rev() {
            let same = run.same_as.as_ref().and_then(|id| full.get(id));
            if let Some((params, keys)) = same {
                if run.params.is_null() {
                    run.params.clone_from(params);
                }
                let own = run.keys.take().unwrap_or_default();
                run.keys = keys.clone().map(|mut keys| {
                    keys.extend(own);
                    keys
                });
            }
            if named.contains(&run.id) {
                full.insert(run.id.clone(), (run.params.clone(), run.keys.clone()));
            }
        }
    }

    /// The metric `name` of a run: `STAGE.PATH` or `STAGE.OUTPUT.PATH`. Nothing when the run has none, or the store has
    /// forgotten it.
    pub fn metric(&self, run: &RunEntry, name: &str) -> Option<f64> {
        let (path, key) = self.rest_and_key(run, name, run.keys.is_none())?;
        self.with_record(key, |record| {
            let metrics = &record.execution.metrics;
            let ports = record.outputs.iter();
            metrics.get(path).copied().or_else(|| {
                ports
                    .filter(|(_, manifest)| manifest.kind == Kind::Metrics)
                    .find_map(|(port, _)| metrics.get(&format!("{port}.{path}")).copied())
            })
        })
        .flatten()
    }

    /// The parameter `name` of a run: one of the pipeline (`lr` or `params.lr`), or of a stage (`train.lr`).
    pub fn parameter(&self, run: &RunEntry, name: &str) -> Option<Value> {
        let at = |value: &Value, path: &str| {
            let value = path
                .split('.')
                .try_fold(value, |value, part| value.get(part))?;
            (!value.is_object()).then(|| value.clone())
        };
        let plain = name.strip_prefix("params.").unwrap_or(name);
        if let Some(value) = at(&run.params, plain) {
            return Some(value);
        }
        let (path, key) = self.rest_and_key(run, name, true)?;
        self.with_record(key, |record| {
            let parameters = &record.ingredients.parameters;
            // A command's own are one level down.
            at(parameters, path).or_else(|| at(parameters.get("parameters")?, path))
        })
        .flatten()
    }

    /// All metrics of a run, by `STAGE.PATH` (the output's name left out where a stage has one output of metrics).
    pub fn metric_names(&self, run: &RunEntry) -> Vec<String> {
        let mut names = Vec::new();
        for (stage, key) in run.keys.iter().flatten() {
            let found = self.with_record(*key, |record| {
                let ports: Vec<&String> = record
                    .outputs
                    .iter()
                    .filter(|(_, manifest)| manifest.kind == Kind::Metrics)
                    .map(|(port, _)| port)
                    .collect();
                let short = |path: &String| match ports.as_slice() {
                    [only] => path
                        .strip_prefix(&format!("{only}."))
                        .unwrap_or(path)
                        .to_owned(),
                    _ => path.clone(),
                };
                let metrics = record.execution.metrics.keys();
                metrics
                    .map(|path| format!("{stage}.{}", short(path)))
                    .collect::<Vec<_>>()
            });
            names.extend(found.into_iter().flatten());
        }
        names
    }

    /// What follows the longest stage name that `name` begins with, and the stage's key. With `all`, the run's record is
    /// opened for stages that the entry does not name.
    fn rest_and_key<'a>(
        &self,
        run: &RunEntry,
        name: &'a str,
        all: bool,
    ) -> Option<(&'a str, Digest)> {
        let longest = |keys: &BTreeMap<String, Digest>| {
            let starts = |stage: &str| name.strip_prefix(stage).is_some_and(|r| r.starts_with('.'));
            let (stage, key) = keys
                .iter()
                .filter(|(stage, _)| starts(stage))
                .max_by_key(|(stage, _)| stage.len())?;
            Some((&name[stage.len() + 1..], *key))
        };
        if let Some(found) = run.keys.as_ref().and_then(longest) {
            return Some(found);
        }
        if !all || !name.contains('.') {
            return None;
        }
        let id = &run.id;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains_key(id) {
            let record = RunRecord::read(&self.workspace, id).ok()?;
            let all = record.stages.into_iter();
            let all = all.filter_map(|stage| Some((stage.name, stage.key?)));
            keys.insert(id.clone(), all.collect());
        }
        keys.get(id).and_then(longest)
    }

    fn with_record<T>(&self, key: Digest, look: impl FnOnce(&Record) -> T) -> Option<T> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let record = records.entry(key).or_insert_with(|| {
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            if store.is_none() {
                *store = Store::open_to_read(self.workspace.cache()).ok();
            }
            store.as_ref()?.record(&StageKey::new(key))
        });
        record.as_ref().map(look)
    }
}

enum Found {
    Known(Stamp, Box<RunEntry>),
    New(Stamp, Box<RunEntry>),
    Unfinished(Box<RunEntry>),
    Unreadable(String),
    /// A folder without a record and without a start: it is just being made, or is no run.
    Nothing,
}

fn read_light(path: &Path) -> io::Result<RunEntry> {
    let text = read_record(path)?;
    let light: Light = serde_json::from_slice(&text).map_err(io::Error::other)?;
    Ok(light.into())
}

fn unfinished(workspace: &Workspace, id: &str) -> Found {
    match RunRecord::read(workspace, id) {
        Ok(run) => {
            let light = Light {
                id: run.id,
                pipeline: run.pipeline,
                file: run.file,
                profile: run.profile,
                sets: run.sets,
                params: run.params,
                started: run.started,
                seconds: run.seconds,
                host: run.host,
                natron: run.natron,
                same_as: None,
                n_stages: run.n_stages,
                stages: Vec::new(),
            };
            let mut entry = RunEntry::from(light);
            entry.state = run.state;
            Found::Unfinished(Box::new(entry))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(_) => Found::Unreadable(id.to_owned()),
    }
}

/// A name means no run.
#[derive(Debug, Error)]
pub enum FindRunError {
    /// There are none.
    #[error("there are no runs in this workspace yet")]
    NoRuns,
    /// `latest~N` goes back too far.
    #[error("there is no run `{name}`")]
    TooFar {
        /// The name.
        name: String,
        /// How many runs there are.
        runs: usize,
    },
    /// No run is called so.
    #[error("there is no run `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Several runs' names begin so.
    #[error("`{name}` is the start of {matching} runs")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        matching: usize,
    },
    /// The run's record does not parse.
    #[error("the record of run `{id}` cannot be read: {source}")]
    Unreadable {
        /// The run.
        id: String,
        /// Why.
        source: io::Error,
    },
    /// The folder of the runs could not be read.
    #[error("cannot read the runs below `.natron`: {0}")]
    Io(#[from] io::Error),
}

/// The run that `name` means: its id, the start of it, `latest`, or `latest~N` for the Nth before.
pub fn find_run(workspace: &Workspace, name: &str) -> Result<RunRecord, FindRunError> {
    let ids = run_ids(workspace)?;
    let back = name.strip_prefix("latest").and_then(|rest| match rest {
        "" => Some(Ok(0)),
        rest => rest.strip_prefix('~').map(str::parse::<usize>),
    });
    if let Some(back) = back {
        let back = back.map_err(|_| FindRunError::Unknown { name: name.into() })?;
        let mut readable = ids
            .iter()
            .rev()
            .filter_map(|id| RunRecord::read(workspace, id).ok());
        let mut runs = 0;
        loop {
            match readable.next() {
                Some(run) if runs == back => return Ok(run),
                Some(_) => runs += 1,
                None if runs == 0 => return Err(FindRunError::NoRuns),
                None => {
                    let name = name.to_owned();
                    return Err(FindRunError::TooFar { name, runs });
                }
            }
        }
    }
    let exact = ids.iter().filter(|id| *id == name);
    let starting = ids.iter().filter(|id| id.starts_with(name));
    let matching: Vec<&String> = match exact.count() {
        0 => starting.collect(),
        _ => ids.iter().filter(|id| *id == name).collect(),
    };
    match matching.as_slice() {
        [] if ids.is_empty() => Err(FindRunError::NoRuns),
        [] => Err(FindRunError::Unknown { name: name.into() }),
        [id] => RunRecord::read(workspace, id).map_err(|source| FindRunError::Unreadable {
            id: (*id).clone(),
            source,
        }),
        several => Err(FindRunError::Ambiguous {
            name: name.into(),
            matching: several.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{RunFolder, StageRecord};

    fn finished(workspace: &Workspace, change: impl FnOnce(&mut RunRecord)) -> String {
        let run = RunFolder::create(workspace).unwrap();
        let mut record = run.record();
        record.pipeline = "p".into();
        change(&mut record);
        run.finish(&record).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        run.id
    }

    fn stage(name: &str, outcome: Outcome) -> StageRecord {
        StageRecord {
            name: name.into(),
            kind: "toy".into(),
            key: Some(Digest::of(name.as_bytes())),
            outcome,
            seconds: 1.0,
            outputs: BTreeMap::new(),
            ignored: false,
            error: (outcome == Outcome::Failed).then(|| "broke\nbadly".to_owned()),
        }
    }

    #[test]
    fn runs_go_by_id_start_and_age() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        assert!(matches!(
            find_run(&workspace, "latest"),
            Err(FindRunError::NoRuns)
        ));
        let ids: Vec<String> = (0..3).map(|_| finished(&workspace, |_| ())).collect();

        let found = |name: &str| find_run(&workspace, name).map(|run| run.id);
        assert_eq!(found("latest").unwrap(), ids[2]);
        assert_eq!(found("latest~2").unwrap(), ids[0]);
        assert_eq!(found(&ids[1]).unwrap(), ids[1]);
        assert!(matches!(
            found("latest~3"),
            Err(FindRunError::TooFar { runs: 3, .. })
        ));
        assert!(matches!(
            found("2"),
            Err(FindRunError::Ambiguous { matching: 3, .. })
        ));
        assert!(matches!(found("x"), Err(FindRunError::Unknown { .. })));
    }

    #[test]
    fn the_index_is_believed_only_while_the_record_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        let id = finished(&workspace, |record| {
            record.stages = vec![stage("a", Outcome::Ran), stage("b", Outcome::Failed)];
        });
        let list = RunList::read(&workspace).unwrap();
        assert_eq!(list.runs[0].end(), RunEnd::Failed);
        assert_eq!(
            list.runs[0].failure,
            Some(("b".to_owned(), "broke".to_owned()))
        );
        let index = workspace.state().join("runs.index");
        assert!(index.is_file());

        // An index that lies about a record that has not changed would be believed; one of another record is not.
        let path = workspace.state().join("runs").join(&id).join("run.json");
        let mut record = RunRecord::read(&workspace, &id).unwrap();
        record.stages.pop();
        fs::remove_file(&path).unwrap();
        fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        let list = RunList::read(&workspace).unwrap();
        assert_eq!(list.runs[0].end(), RunEnd::Ok);
        assert_eq!(list.runs[0].outcomes.ran, 1);

        fs::write(&index, b"{\"version\": 1, \"entries\": nonsense").unwrap();
        let list = RunList::read(&workspace).unwrap();
        assert_eq!(list.runs.len(), 1);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(RunList::read(&workspace).unwrap().runs.is_empty());
    }

    #[test]
    fn a_damaged_record_is_said_and_not_listed() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        let id = finished(&workspace, |record| {
            record.stages = vec![stage("a", Outcome::Ran)];
        });
        let path = workspace.state().join("runs").join(&id).join("run.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"ran\"", "\"hit\"")).unwrap();

        let list = RunList::read(&workspace).unwrap();
        assert!(list.runs.is_empty());
        assert_eq!(list.unreadable, [id]);
    }

    #[test]
    fn a_run_that_did_nothing_is_as_the_run_it_found() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        let full = finished(&workspace, |record| {
            record.params = serde_json::json!({"lr": 0.1});
            record.n_stages = 1;
            record.stages = vec![stage("a", Outcome::Ran)];
        });
        finished(&workspace, |record| {
            record.same_as = Some(full.clone());
            record.n_stages = 1;
        });

        for _ in 0..2 {
            // The second time from the index.
            let list = RunList::read(&workspace).unwrap();
            let run = &list.runs[0];
            assert_eq!(run.same_as.as_deref(), Some(full.as_str()));
            assert_eq!((run.outcomes.hit, run.end()), (1, RunEnd::Ok));
            assert_eq!(list.parameter(run, "lr"), Some(Value::from(0.1)));
        }
    }

    #[test]
    fn a_run_without_an_end_was_killed_or_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        let run = RunFolder::create(&workspace).unwrap();
        run.begin(&run.record()).unwrap();
        let list = RunList::read(&workspace).unwrap();
        assert_eq!(list.runs[0].end(), RunEnd::Running);

        drop(run);
        let list = RunList::read(&workspace).unwrap();
        assert_eq!(list.runs[0].end(), RunEnd::Killed);
    }
}
