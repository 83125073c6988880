//! The lock file beside a pipeline: what every stage's key and outputs have to be.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use natron_artifacts::{Digest, Manifest, canonical};
use natron_cache::{Ingredients, InputIngredient, StatCache};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Graph, InputEdge, RunError, Workspace,
    history::write_atomically,
    ingredients::{SourceError, source_digest, with_inputs},
};

/// Version of the file's form.
const FORMAT: u32 = 1;

/// The profile's name in the file when there is none.
const NO_PROFILE: &str = "default";

const HEADER: &str = "# Written by `natron run --write-lock`; commit it. `natron run --locked` and `natron verify --locked`\n\
# compare with it. One table per profile and stage, sorted.\n\n";

/// A lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    format: u32,
    /// Entries by profile and instance name.
    #[serde(default)]
    profiles: BTreeMap<String, BTreeMap<String, LockEntry>>,
}

/// What one stage instance has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockEntry {
    /// Kind.
    pub kind: String,
    /// Key.
    pub key: Digest,
    /// Class of the device that the results depend on.
    pub device: String,
    /// Digests of the key's parts, to say which of them differs.
    pub parts: BTreeMap<String, String>,
    /// Content of inputs that the key holds by column, as the key has it: what cannot be told from the producers' entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Outputs.
    pub outputs: BTreeMap<String, LockedOutput>,
}

/// What one output has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedOutput {
    /// Digest of the bytes.
    pub bytes: Digest,
    /// Digest of the content.
    pub logical: Digest,
}

/// One difference from the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockDifference {
    /// Instance name.
    pub stage: String,
    /// What differs: `missing in the lock`, `not in the pipeline`, `key`, `output X`, `device`.
    pub what: String,
    /// Why, as far as known.
    pub why: String,
}

/// A lock file could not be used.
#[derive(Debug, Error)]
pub enum LockError {
    /// It is not there.
    #[error("there is no lock file `{}`; `natron run --write-lock` writes it", .0.display())]
    Missing(PathBuf),
    /// It has nothing for the profile.
    #[error("`{}` has no entries for profile `{profile}`; `natron run --write-lock` adds them", path.display())]
    NoProfile {
        /// The file.
        path: PathBuf,
        /// The profile.
        profile: String,
    },
    /// It does not parse.
    #[error("`{}` is not a lock file: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// It could not be read or written.
    #[error("cannot access `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock file of the pipeline file at `pipeline`.
pub fn lock_path(pipeline: &Path) -> PathBuf {
    pipeline.with_extension("lock")
}

impl LockFile {
    /// Reads the file at `path`; a missing one is empty.
    pub fn read_or_empty(path: &Path) -> Result<Self, LockError> {
        match Self::read(path) {
            Err(LockError::Missing(_)) => Ok(Self {
                format: FORMAT,
                profiles: BTreeMap::new(),
            }),
            other => other,
        }
    }

    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, LockError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LockError::Missing(path.to_owned()));
            }
            Err(source) => {
                return Err(LockError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let malformed = |message: String| LockError::Malformed {
            path: path.to_owned(),
            message,
        };
        let file: Self = toml::from_str(&text).map_err(|e| malformed(e.message().to_owned()))?;
        if file.format == FORMAT {
            Ok(file)
        } else {
            Err(malformed(format!(
                "format {} is not {FORMAT}, which this program writes",
                file.format
            )))
        }
    }

    /// Writes the file, sorted.
    pub fn write(&self, path: &Path) -> Result<(), LockError> {
        let text = toml::to_string(self).map_err(|e| LockError::Malformed {
            path: path.to_owned(),
            message: e.to_string(),
        })?;
        write_atomically(path, format!("{HEADER}{text}").as_bytes()).map_err(|source| {
            LockError::Io {
                path: path.to_owned(),
                source,
            }
        })
    }

    /// The keys of all entries, whatever their profile.
    pub fn keys(&self) -> impl Iterator<Item = natron_cache::StageKey> {
        let entries = self.profiles.values().flat_map(BTreeMap::values);
        entries.map(|entry| natron_cache::StageKey::new(entry.key))
    }

    /// The entries for `graph`'s profile.
    pub fn entries(&self, graph: &Graph) -> Option<&BTreeMap<String, LockEntry>> {
        self.profiles
            .get(graph.profile.as_deref().unwrap_or(NO_PROFILE))
    }

    /// The entries for `graph`'s profile.
    ///
    /// # Errors
    ///
    /// [`LockError::NoProfile`] when there are none.
    pub fn required_entries(
        &self,
        graph: &Graph,
        path: &Path,
    ) -> Result<&BTreeMap<String, LockEntry>, LockError> {
        self.entries(graph).ok_or_else(|| LockError::NoProfile {
            path: path.to_owned(),
            profile: graph.profile.clone().unwrap_or_else(|| NO_PROFILE.into()),
        })
    }

    /// Replaces the entries for `graph`'s profile.
    pub fn set_entries(&mut self, graph: &Graph, entries: BTreeMap<String, LockEntry>) {
        let profile = graph.profile.clone().unwrap_or_else(|| NO_PROFILE.into());
        self.profiles.insert(profile, entries);
    }
}

impl LockEntry {
    /// The entry of a stage with these ingredients and outputs.
    pub fn new(ingredients: &Ingredients, outputs: &BTreeMap<String, Manifest>) -> Self {
        Self {
            kind: ingredients.kind.clone(),
            key: ingredients.key().digest(),
            device: device(ingredients).to_owned(),
            parts: parts(ingredients),
            columns: by_column(ingredients),
            outputs: outputs
                .iter()
                .map(|(port, manifest)| {
                    let output = LockedOutput {
                        bytes: manifest.bytes,
                        logical: manifest.logical,
                    };
                    (port.clone(), output)
                })
                .collect(),
        }
    }

    /// The parts of the key that are not what the lock says.
    pub fn differing_parts(&self, ingredients: &Ingredients) -> Vec<String> {
        let now = parts(ingredients);
        let names: std::collections::BTreeSet<&String> =
            self.parts.keys().chain(now.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.parts.get(*name) != now.get(*name))
            .cloned()
            .collect()
    }
}

fn device(ingredients: &Ingredients) -> &str {
    ingredients.device.as_deref().unwrap_or("cpu")
}

/// The inputs that are keyed by column, as JSON.
fn by_column(ingredients: &Ingredients) -> BTreeMap<String, String> {
    let is_columns = |input: &InputIngredient| matches!(input, InputIngredient::Columns { .. });
    let inputs = ingredients
        .inputs
        .iter()
        .filter(|(_, list)| list.iter().any(is_columns));
    inputs
        .map(|(port, list)| {
            (
                port.clone(),
                serde_json::to_string(list).expect("ingredients are plain values"),
            )
        })
        .collect()
}

/// For every instance, the ingredients of its key, with the lock's digests for what other stages make; `None` where the
/// lock has no entry for something that it reads.
pub(crate) fn locked_ingredients(
    graph: &Graph,
    workspace: &Workspace,
    entries: &BTreeMap<String, LockEntry>,
) -> Result<Vec<Option<Ingredients>>, RunError> {
    let stat_path = workspace.state().join("stat.bin");
    let stat_cache = StatCache::load(&stat_path, false);
    let mut all = Vec::new();
    for instance in &graph.instances {
        let failed = |error: SourceError| RunError::Source {
            stage: instance.name.clone(),
            message: error.to_string(),
        };
        let mut inputs = BTreeMap::new();
        let mut complete = true;
        for (port, edges) in &instance.inputs {
            let by_column = entries
                .get(&instance.name)
                .and_then(|entry| entry.columns.get(port));
            if let Some(list) = by_column.and_then(|text| serde_json::from_str(text).ok()) {
                inputs.insert(port.clone(), list);
                continue;
            }
            let mut list = Vec::new();
            for edge in edges {
                match edge {
                    InputEdge::File { path } => {
                        let digest = source_digest(&stat_cache, path).map_err(failed)?;
                        list.push(InputIngredient::Bytes { digest });
                    }
                    InputEdge::Output {
                        instance: producer,
                        output,
                    } => {
                        let producer = &graph.instances[*producer];
                        let kind = producer
                            .signature
                            .output_port(output)
                            .map(|port| port.schema.kind);
                        let locked = entries
                            .get(&producer.name)
                            .and_then(|e| e.outputs.get(output));
                        match (kind, locked) {
                            (Some(kind), Some(locked)) => {
                                list.push(InputIngredient::Logical {
                                    kind,
                                    digest: locked.logical,
                                });
                            }
                            _ => complete = false,
                        }
                    }
                }
            }
            inputs.insert(port.clone(), list);
        }
        let ingredients = with_inputs(graph, instance, inputs, &stat_cache).map_err(failed)?;
        all.push(complete.then_some(ingredients));
    }
    // What is lost is read again next time.
    let _ = stat_cache.save();
    Ok(all)
}

/// Short digests of the parts that a key is made of.
fn parts(ingredients: &Ingredients) -> BTreeMap<String, String> {
    let value = serde_json::to_value(ingredients).expect("ingredients are plain values");
    let short = |value: &serde_json::Value| {
        canonical::digest("natron key part v1", value).to_hex()[..16].to_owned()
    };
    let mut parts = BTreeMap::new();
    for (name, value) in value.as_object().expect("a struct is an object") {
        match (name.as_str(), value.as_object()) {
            ("key" | "kind" | "device" | "format" | "outputs", _) => {}
            ("parameters" | "inputs" | "sources" | "environment", Some(map)) => {
                parts.extend(
                    map.iter()
                        .map(|(key, item)| (format!("{name}.{key}"), short(item))),
                );
            }
            (_, _) if value.is_null() => {}
            _ => {
                parts.insert(name.clone(), short(value));
            }
        }
    }
    parts
}

/// How a finished stage differs from its entry.
pub fn differences(
    stage: &str,
    entry: &LockEntry,
    ingredients: &Ingredients,
    outputs: Option<&BTreeMap<String, Manifest>>,
) -> Vec<LockDifference> {
    let difference = |what: String, why: String| LockDifference {
        stage: stage.to_owned(),
        what,
        why,
    };
    if entry.device != device(ingredients) {
        let here = device(ingredients);
        let why = format!("locked on `{}`, running on `{here}`", entry.device);
        return vec![difference("device".into(), why)];
    }
    let mut found = Vec::new();
    let same_key = entry.key == ingredients.key().digest();
    if !same_key {
        let parts = entry.differing_parts(ingredients).join("`, `");
        found.push(difference("key".into(), format!("differs in `{parts}`")));
    }
    for (port, output) in outputs.into_iter().flatten() {
        let why = match entry.outputs.get(port) {
            None => "the lock has no such output".to_owned(),
            Some(locked) if locked.bytes == output.bytes => continue,
            Some(locked) if locked.logical == output.logical => {
                "other bytes with equal content".to_owned()
            }
            Some(locked) if same_key => format!(
                "the same key gave {} here and {} when it was locked: the stage is not reproducible",
                output.bytes.short(),
                locked.bytes.short()
            ),
            Some(locked) => format!(
                "{} instead of {}",
                output.bytes.short(),
                locked.bytes.short()
            ),
        };
        found.push(difference(format!("output `{port}`"), why));
    }
    found
}
