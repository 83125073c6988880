//! Run records: what every invocation did, below `.natron/runs/`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use natron_artifacts::{Digest, Manifest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Outcome, Workspace};

/// Version of the record's form.
const VERSION: u32 = 1;

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
    /// The stages, in the graph's order.
    pub stages: Vec<StageRecord>,
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
}

impl RunRecord {
    /// The stage instance called `name`.
    pub fn stage(&self, name: &str) -> Option<&StageRecord> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Reads the record of the run `id`.
    pub fn read(workspace: &Workspace, id: &str) -> io::Result<Self> {
        let text = fs::read(runs(workspace).join(id).join("run.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
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

    /// The newest run of `pipeline`.
    pub fn latest(workspace: &Workspace, pipeline: &str) -> Option<Self> {
        let ids = run_ids(workspace).ok()?;
        ids.iter()
            .rev()
            .filter_map(|id| Self::read(workspace, id).ok())
            .find(|run| run.pipeline == pipeline)
    }

    /// The newest finished results of each stage instance of `pipeline`, over the last 20 runs.
    pub fn last_results(workspace: &Workspace, pipeline: &str) -> BTreeMap<String, StageRecord> {
        let mut results = BTreeMap::new();
        let ids = run_ids(workspace).unwrap_or_default();
        let runs = ids
            .iter()
            .rev()
            .filter_map(|id| Self::read(workspace, id).ok());
        for run in runs.filter(|run| run.pipeline == pipeline).take(20) {
            for stage in run
                .stages
                .into_iter()
                .filter(|stage| stage.outcome.is_done())
            {
                results.entry(stage.name.clone()).or_insert(stage);
            }
        }
        results
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
    log: Mutex<File>,
    metrics: Mutex<File>,
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
                    let log = Mutex::new(File::create(path.join("log.txt"))?);
                    let metrics = Mutex::new(File::create(path.join("metrics.jsonl"))?);
                    let files = Some(RunFiles { path, log, metrics });
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

    /// Adds a line to the log. A full disk costs the line, not the run.
    pub fn log(&self, stage: &str, message: &str) {
        let Some(files) = &self.files else { return };
        let mut file = files.log.lock().unwrap_or_else(PoisonError::into_inner);
        for line in message.lines() {
            let _ = writeln!(file, "{stage}\t{line}");
        }
    }

    /// Adds a point to the live metrics.
    pub fn metric(&self, stage: &str, name: &str, step: u64, value: f64) {
        let Some(files) = &self.files else { return };
        let line =
            serde_json::json!({ "stage": stage, "name": name, "step": step, "value": value });
        let mut file = files.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{line}");
    }

    /// Writes the record; it appears whole or not at all.
    pub fn finish(&self, record: &RunRecord) -> io::Result<()> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
        write_atomically(&files.path.join("run.json"), &text)
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
            stages: Vec::new(),
        }
    }
}

/// Writes a file of the workspace so that it appears whole or not at all.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
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
            };
            record.stages.push(stage);
            run.finish(&record).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }

        let last = RunRecord::last_results(&workspace, "p");
        assert_eq!(last["train"].outcome, Outcome::Hit);
        assert_eq!(RunRecord::all(&workspace).unwrap().len(), 3);
        assert!(RunRecord::latest(&workspace, "other").is_none());
    }
}
