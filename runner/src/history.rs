//! Run records: what every invocation did, below `.natron/runs/`.
//!
//! A run's folder appears when it starts, with a small `start.json` that the process keeps locked; `run.json` replaces it
//! in the end. A folder with a start and no end is a run that is going on or, when the lock is free, one that was killed.
//! A run that saw at a glance that nothing had moved, or only some stages, names in its record the run whose results hold,
//! and lists the other stages only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use natron_artifacts::{Digest, Manifest};
use natron_cache::read_regular;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use crate::{Outcome, Workspace, tensorboard::EventFiles};

/// Version of the record's form.
const VERSION: u32 = 1;

/// A record that names another is not followed further than this: to one that lists some stages, and to one that lists all.
const MOST_LINKS: usize = 2;

/// What one run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of this form.
    pub version: u32,
    /// The run's name: its start in UTC and the process.
    pub id: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The pipeline file, as it was named.
    pub file: String,
    /// The profile.
    pub profile: Option<String>,
    /// Overrides, as they were given.
    pub sets: Vec<String>,
    /// The pipeline's resolved parameters.
    pub params: Value,
    /// When it started, RFC 3339, UTC.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// The machine.
    pub host: String,
    /// The program's version.
    pub natron: String,
    /// The run whose results this one found unchanged at a glance. In the file such a record lists the stages that it had to
    /// look at, if any; [`Self::read`] fills in the others, as hits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// How many stages the run was about.
    #[serde(default)]
    pub n_stages: usize,
    /// The stages, in the graph's order.
    #[serde(default)]
    pub stages: Vec<StageRecord>,
    /// Whether it came to its end.
    #[serde(skip)]
    pub state: RunState,
}

/// Whether a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunState {
    /// It wrote its record.
    #[default]
    Finished,
    /// Its process is at work.
    Running,
    /// Its process ended without a record.
    Killed,
}

/// What one stage did in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Instance name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Key, if it came that far.
    pub key: Option<Digest>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took; for a hit, how long it took when it ran.
    pub seconds: f64,
    /// Its outputs.
    #[serde(default)]
    pub outputs: BTreeMap<String, Manifest>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it has no outputs and the pipeline does not mind: it failed with `on_failure = "ignore"`, or reads such a stage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
}

impl RunRecord {
    /// The stage instance called `name`.
    pub fn stage(&self, name: &str) -> Option<&StageRecord> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Reads the record of the run `id`; of one that has not ended, what it wrote when it started.
    pub fn read(workspace: &Workspace, id: &str) -> io::Result<Self> {
        let mut record = Self::read_own(workspace, id)?;
        let lists_some = !record.stages.is_empty();
        record.fill_in(workspace);
        if lists_some && record.same_as.is_some() && record.stages.len() < record.n_stages {
            return Err(io::Error::other(
                "the record of the run that it goes on from cannot be read",
            ));
        }
        Ok(record)
    }

    /// The same without the stages of the run that it says is the same.
    pub(crate) fn read_own(workspace: &Workspace, id: &str) -> io::Result<Self> {
        let folder = runs(workspace).join(id);
        let record: Self = match read_record(&folder.join("run.json")) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::read_start(&folder)?,
            Err(error) => return Err(error),
        };
        if record.id != id {
            return Err(io::Error::other("it is the record of another run"));
        }
        Ok(record)
    }

    fn read_start(folder: &Path) -> io::Result<Self> {
        let path = folder.join("start.json");
        let mut record: Self =
            serde_json::from_slice(&read_regular(&path)?).map_err(io::Error::other)?;
        record.state = match File::open(&path)?.try_lock_shared() {
            Err(TryLockError::WouldBlock) => RunState::Running,
            _ => RunState::Killed,
        };
        Ok(record)
    }

    /// Takes the stages that are not listed from the run whose results this one found, as hits.
    pub fn fill_in(&mut self, workspace: &Workspace) {
        self.fill_in_from(workspace, MOST_LINKS);
    }

    fn fill_in_from(&mut self, workspace: &Workspace, links: usize) {
        let is_whole = !self.stages.is_empty() && self.stages.len() >= self.n_stages;
        let Some(same) = self.same_as.as_ref().filter(|_| links > 0 && !is_whole) else {
            return;
        };
        let Ok(mut same) = Self::read_own(workspace, same) else {
            return;
        };
        same.fill_in_from(workspace, links - 1);
        let own = std::mem::take(&mut self.stages);
        if own.is_empty() {
            self.params = same.params;
        }
        let mut own: BTreeMap<String, StageRecord> = own
            .into_iter()
            .map(|stage| (stage.name.clone(), stage))
            .collect();
        self.stages = same.stages;
        for stage in &mut self.stages {
            match own.remove(&stage.name) {
                Some(own) => *stage = own,
                None => stage.outcome = Outcome::Hit,
            }
        }
        self.stages.extend(own.into_values());
    }

    /// Whether the record tells what no other does.
    fn is_telling(&self) -> bool {
        self.same_as.is_none() || !self.stages.is_empty()
    }

    /// All runs of the workspace, the newest first; records that do not parse are left out.
    pub fn all(workspace: &Workspace) -> io::Result<Vec<Self>> {
        let ids = run_ids(workspace)?;
        Ok(ids
            .iter()
            .rev()
            .filter_map(|id| Self::read(workspace, id).ok())
            .collect())
    }

    /// The newest `n` runs of the workspace; records that do not parse are left out.
    pub fn newest(workspace: &Workspace, n: usize) -> io::Result<Vec<Self>> {
        let ids = run_ids(workspace)?;
        Ok(ids
            .iter()
            .rev()
            .filter_map(|id| Self::read(workspace, id).ok())
            .take(n)
            .collect())
    }

    /// The newest run of `pipeline`.
    pub fn latest(workspace: &Workspace, pipeline: &str) -> Option<Self> {
        let ids = run_ids(workspace).ok()?;
        ids.iter()
            .rev()
            .filter_map(|id| Self::read(workspace, id).ok())
            .find(|run| run.pipeline == pipeline)
    }

    /// The newest finished results of each stage instance of `pipeline`, over its last 20 runs that did anything, or back
    /// to the newest in which every stage has a result.
    pub fn last_results(workspace: &Workspace, pipeline: &str) -> BTreeMap<String, StageRecord> {
        let mut results = BTreeMap::new();
        let ids = run_ids(workspace).unwrap_or_default();
        let runs = ids
            .iter()
            .rev()
            .filter_map(|id| Self::read_own(workspace, id).ok())
            .filter(|run| run.pipeline == pipeline && run.is_telling());
        for mut run in runs.take(20) {
            run.fill_in(workspace);
            let is_whole = !run.stages.is_empty() && run.stages.len() == run.n_stages;
            let is_done = run.stages.iter().all(|stage| stage.outcome.is_done());
            for stage in run
                .stages
                .into_iter()
                .filter(|stage| stage.outcome.is_done())
            {
                results.entry(stage.name.clone()).or_insert(stage);
            }
            if is_whole && is_done {
                break;
            }
        }
        results
    }
}

/// What a run wants to know of the newest finished result of a stage in earlier runs.
#[derive(Debug)]
pub(crate) struct LastResult {
    /// How long it took.
    pub(crate) seconds: f64,
    /// Logical digests of its outputs, in order of their ports.
    pub(crate) outputs: Vec<(String, Digest)>,
}

/// A record, as far as [`LastResult`] needs it: a tenth of what it holds.
#[derive(Deserialize)]
struct Results {
    id: String,
    pipeline: String,
    #[serde(default)]
    same_as: Option<String>,
    #[serde(default)]
    n_stages: usize,
    #[serde(default)]
    stages: Vec<StageResult>,
}

#[derive(Deserialize)]
struct StageResult {
    name: String,
    outcome: Outcome,
    seconds: f64,
    #[serde(default)]
    outputs: LogicalDigests,
}

/// The ports of a stage and the logical digests of what it made.
#[derive(Default)]
struct LogicalDigests(Vec<(String, Digest)>);

impl<'de> Deserialize<'de> for LogicalDigests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Logical {
            logical: Digest,
        }

        struct Outputs;

        impl<'de> Visitor<'de> for Outputs {
            type Value = LogicalDigests;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outputs by port")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut digests = Vec::new();
                while let Some((port, Logical { logical })) = map.next_entry()? {
                    digests.push((port, logical));
                }
                digests.shrink_to_fit();
                Ok(LogicalDigests(digests))
            }
        }

        deserializer.deserialize_map(Outputs)
    }
}

impl LastResult {
    /// The same results as [`RunRecord::last_results`].
    pub(crate) fn of(workspace: &Workspace, pipeline: &str) -> BTreeMap<String, Self> {
        let mut results = BTreeMap::new();
        let ids = run_ids(workspace).unwrap_or_default();
        let runs = ids
            .iter()
            .rev()
            .filter_map(|id| Results::read(workspace, id))
            .filter(|run| run.pipeline == pipeline && run.is_telling());
        for mut run in runs.take(20) {
            run.fill_in(workspace);
            let is_whole = !run.stages.is_empty() && run.stages.len() == run.n_stages;
            let is_done = run.stages.iter().all(|stage| stage.outcome.is_done());
            let done = run.stages.into_iter().filter(|s| s.outcome.is_done());
            for stage in done {
                results.entry(stage.name).or_insert(Self {
                    seconds: stage.seconds,
                    outputs: stage.outputs.0,
                });
            }
            if is_whole && is_done {
                break;
            }
        }
        results
    }
}

impl Results {
    fn read(workspace: &Workspace, id: &str) -> Option<Self> {
        let folder = runs(workspace).join(id);
        let text = match read_record(&folder.join("run.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                read_regular(&folder.join("start.json")).ok()?
            }
            text => text.ok()?,
        };
        let results: Self = serde_json::from_slice(&text).ok()?;
        (results.id == id).then_some(results)
    }

    /// As [`RunRecord::is_telling`].
    fn is_telling(&self) -> bool {
        self.same_as.is_none() || !self.stages.is_empty()
    }

    /// As [`RunRecord::fill_in`], with the stages in another order. Such a record names one that is whole.
    fn fill_in(&mut self, workspace: &Workspace) {
        let same = self.same_as.as_ref();
        let Some(same) = same.and_then(|same| Self::read(workspace, same)) else {
            return;
        };
        let own: BTreeSet<String> = self.stages.iter().map(|stage| stage.name.clone()).collect();
        let others = same.stages.into_iter();
        let others = others.filter(|stage| !own.contains(&stage.name));
        self.stages.extend(others.map(|stage| StageResult {
            outcome: Outcome::Hit,
            ..stage
        }));
    }
}

/// The folder of a run that is being written: its log, its live metrics, in the end its record.
#[derive(Debug)]
pub struct RunFolder {
    /// The run's name.
    pub id: String,
    /// When it started, RFC 3339, UTC.
    pub started: String,
    files: Option<RunFiles>,
}

#[derive(Debug)]
struct RunFiles {
    path: PathBuf,
    log: Lines,
    metrics: Lines,
    events: EventFiles,
    /// Locked while the run goes on.
    start: Mutex<Option<File>>,
}

/// A file of lines that appears with its first one. A full disk costs the line, not the run.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Lines {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: Mutex::default(),
        }
    }

    fn add(&self, lines: &[u8]) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = File::options()
                .create(true)
                .append(true)
                .open(&self.path)
                .ok();
        }
        if let Some(file) = &mut *file {
            let _ = file.write_all(lines);
        }
    }
}

impl RunFolder {
    /// A new folder.
    pub fn create(workspace: &Workspace) -> io::Result<Self> {
        let now = jiff::Timestamp::now();
        let stamp = now.strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
        fs::create_dir_all(runs(workspace))?;
        for attempt in 0.. {
            let id = format!("{stamp}-{}{}", std::process::id(), "x".repeat(attempt));
            let path = runs(workspace).join(&id);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let files = Some(RunFiles {
                        log: Lines::new(path.join("log.txt")),
                        metrics: Lines::new(path.join("metrics.jsonl")),
                        events: EventFiles::new(path.join("tensorboard")),
                        start: Mutex::default(),
                        path,
                    });
                    return Ok(Self {
                        id,
                        started: now.to_string(),
                        files,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 20 => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop returns")
    }

    /// No folder: nothing is written.
    pub fn nowhere() -> Self {
        Self {
            id: String::new(),
            started: jiff::Timestamp::now().to_string(),
            files: None,
        }
    }

    /// Says that the run has started: `record` is what is known of it by now.
    pub fn begin(&self, record: &RunRecord) -> io::Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let mut file = File::create(files.path.join("start.json"))?;
        // Where locks are not to be had, a run that goes on looks like one that was killed.
        let _ = file.try_lock();
        file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
        *files.start.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    /// Adds lines to the log.
    pub fn log(&self, stage: &str, message: &str) {
        let Some(files) = &self.files else { return };
        let lines: String = message
            .lines()
            .map(|line| format!("{stage}\t{line}\n"))
            .collect();
        files.log.add(lines.as_bytes());
    }

    /// Adds a point to the live metrics.
    pub fn metric(&self, stage: &str, name: &str, step: u64, value: f64) {
        let Some(files) = &self.files else { return };
        let line =
            serde_json::json!({ "stage": stage, "name": name, "step": step, "value": value });
        files.metrics.add(format!("{line}\n").as_bytes());
        // As with lines: a full disk costs the point, not the run.
        let _ = files.events.add(stage, name, step, value);
    }

    /// Writes the record; it appears whole or not at all.
    pub fn finish(&self, record: &RunRecord) -> io::Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let text = sealed(&serde_json::to_vec(record).map_err(io::Error::other)?);
        let path = files.path.join("run.json");
        let is_all_known = record
            .stages
            .iter()
            .all(|stage| stage.outcome == Outcome::Hit);
        // What says nothing that other runs do not, a power cut may have.
        let flush = if is_all_known {
            Flush::Never
        } else {
            Flush::Data
        };
        write_whole(&path, &text, flush)?;
        let _ = fs::remove_file(files.path.join("start.json"));
        Ok(())
    }

    /// A record with this run's identity and no stages.
    pub fn record(&self) -> RunRecord {
        RunRecord {
            version: VERSION,
            id: self.id.clone(),
            pipeline: String::new(),
            file: String::new(),
            profile: None,
            sets: Vec::new(),
            params: Value::Null,
            started: self.started.clone(),
            seconds: 0.0,
            host: host(),
            natron: env!("CARGO_PKG_VERSION").to_owned(),
            same_as: None,
            n_stages: 0,
            stages: Vec::new(),
            state: RunState::Finished,
        }
    }
}

/// Writes a file of the workspace so that it appears whole or not at all.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole(path, bytes, Flush::Data)
}

/// Whether a file is on the disk before it appears under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// It is, so that it survives a power cut.
    Data,
    /// It is not: a power cut may leave an empty file, which its readers have to take for none.
    Never,
}

/// As [`write_atomically`], with a choice.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], flush: Flush) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.is_dir() {
        fs::create_dir_all(folder)?;
    }
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    if flush == Flush::Data {
        file.as_file().sync_data()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The names of the workspace's runs, the oldest first.
pub fn run_ids(workspace: &Workspace) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(runs(workspace)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(entry?.file_name().into_string());
    }
    ids.sort();
    Ok(ids)
}

fn runs(workspace: &Workspace) -> PathBuf {
    workspace.state().join("runs")
}

/// The machine's name.
pub(crate) fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

/// Before the digest of a record's text, and behind it.
const SEAL: (&[u8], &[u8]) = (b"{\"digest\":\"", b"\",");

/// A record's text with the digest of what follows as its first field: its results are shown to people and programs without
/// a look at the store.
fn sealed(text: &[u8]) -> Vec<u8> {
    let Some(rest) = text.strip_prefix(b"{") else {
        return text.to_vec();
    };
    let digest = Digest::of(rest).to_hex();
    [SEAL.0, digest.as_bytes(), SEAL.1, rest].concat()
}

/// The text of the record at `path`, its seal checked.
pub(crate) fn read_record(path: &Path) -> io::Result<Vec<u8>> {
    let text = read_regular(path)?;
    check_seal(&text)?;
    Ok(text)
}

/// Whether the run `id` has a whole record.
pub(crate) fn has_record(workspace: &Workspace, id: &str) -> bool {
    read_record(&runs(workspace).join(id).join("run.json")).is_ok()
}

/// An error for a text that is not as it was [`sealed`]. Texts without a seal are older than it.
fn check_seal(text: &[u8]) -> io::Result<()> {
    let Some((digest, rest)) = text
        .strip_prefix(SEAL.0)
        .and_then(|text| text.split_at_checked(64))
    else {
        return Ok(());
    };
    let rest = rest.strip_prefix(SEAL.1);
    if rest.is_some_and(|rest| Digest::of(rest).to_hex().as_bytes() == digest) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the record of the run is damaged",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_result_of_each_stage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        for (outcome, seconds) in [
            (Outcome::Ran, 1.0),
            (Outcome::Hit, 2.0),
            (Outcome::Failed, 3.0),
        ] {
            let run = RunFolder::create(&workspace).unwrap();
            let mut record = run.record();
            record.pipeline = "p".into();
            let stage = StageRecord {
                name: "train".into(),
                kind: "finetune".into(),
                key: None,
                outcome,
                seconds,
                outputs: BTreeMap::new(),
                error: None,
                ignored: false,
            };
            record.stages.push(stage);
            run.finish(&record).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }

        let last = RunRecord::last_results(&workspace, "p");
        assert_eq!(last["train"].outcome, Outcome::Hit);
        let slim = LastResult::of(&workspace, "p");
        assert_eq!(slim.keys().collect::<Vec<_>>(), ["train"]);
        assert!((slim["train"].seconds - last["train"].seconds).abs() < 1e-12);
        assert_eq!(RunRecord::all(&workspace).unwrap().len(), 3);
        assert!(RunRecord::latest(&workspace, "other").is_none());
    }

    #[test]
    fn a_run_without_an_end_is_going_on_or_was_killed() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        let run = RunFolder::create(&workspace).unwrap();
        let mut record = run.record();
        record.pipeline = "p".into();
        run.begin(&record).unwrap();

        let read = || RunRecord::read(&workspace, &record.id).unwrap();
        assert_eq!(read().state, RunState::Running);
        let (id, files) = (run.id.clone(), run.files);
        drop(files);
        assert_eq!(read().state, RunState::Killed);
        assert_eq!((read().id, read().pipeline.as_str()), (id, "p"));
    }

    #[test]
    fn the_record_of_another_run_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        let [one, other] = [(), ()].map(|()| {
            let run = RunFolder::create(&workspace).unwrap();
            run.finish(&run.record()).unwrap();
            run.id
        });
        assert_eq!(RunRecord::read(&workspace, &one).unwrap().id, one);

        let path = |id: &str| runs(&workspace).join(id).join("run.json");
        fs::copy(path(&other), path(&one)).unwrap();
        assert!(RunRecord::read(&workspace, &one).is_err());
    }

    #[test]
    fn a_run_that_found_nothing_to_do_has_the_stages_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(folder.path(), None);
        let first = RunFolder::create(&workspace).unwrap();
        let mut record = first.record();
        record.stages.push(StageRecord {
            name: "train".into(),
            kind: "finetune".into(),
            key: None,
            outcome: Outcome::Ran,
            seconds: 1.0,
            outputs: BTreeMap::new(),
            error: None,
            ignored: false,
        });
        first.finish(&record).unwrap();
        let second = RunFolder::create(&workspace).unwrap();
        let mut again = second.record();
        again.same_as = Some(record.id.clone());
        second.finish(&again).unwrap();

        let again = RunRecord::read(&workspace, &again.id).unwrap();
        assert_eq!(again.stages[0].outcome, Outcome::Hit);
        assert_eq!(again.stages[0].name, record.stages[0].name);
    }

    #[test]
    fn a_damaged_record_is_noticed() {
        let text = sealed(br#"{"a":1,"b":"c0ffee"}"#);
        check_seal(&text).unwrap();
        check_seal(br#"{"a":1}"#).unwrap();

        let start = SEAL.0.len();
        for at in start..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert!(check_seal(&damaged).is_err(), "byte {at}");
        }
    }
}
