//! The lock file beside a pipeline: what every stage's key and outputs have to be.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use natron_artifacts::{Digest, Manifest, canonical};
use natron_cache::{
    Durability, Ingredients, InputIngredient, StageKey, StatCache, Store, StoreError,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Class, Comparison, Graph, InputEdge, Instance, Reproducible, RunError, RunSummary, Workspace,
    compare,
    history::write_atomically,
    ingredients::{SourceError, Sources, with_inputs},
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
    let sources = Sources::new(&stat_cache);
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
                        let digest = sources.digest(path).map_err(failed)?;
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
        let ingredients = with_inputs(graph, instance, inputs, &sources).map_err(failed)?;
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

/// How the key of a stage differs from its entry.
pub(crate) fn key_difference(
    stage: &str,
    entry: &LockEntry,
    ingredients: &Ingredients,
) -> Option<LockDifference> {
    let difference = |what: &str, why: String| LockDifference {
        stage: stage.to_owned(),
        what: what.to_owned(),
        why,
    };
    if entry.device != device(ingredients) {
        let here = device(ingredients);
        let why = format!("locked on `{}`, running on `{here}`", entry.device);
        return Some(difference("device", why));
    }
    if entry.key == ingredients.key().digest() {
        return None;
    }
    let parts = entry.differing_parts(ingredients);
    let why = if parts.is_empty() {
        "the lock was written for another form of keys".to_owned()
    } else {
        format!("differs in `{}`", parts.join("`, `"))
    };
    Some(difference("key", why))
}

/// The results that the lock names, as far as they are in the store, by instance name and output.
pub(crate) fn kept_results(
    workspace: &Workspace,
    entries: &BTreeMap<String, LockEntry>,
) -> Result<BTreeMap<String, BTreeMap<String, Manifest>>, StoreError> {
    let store = Store::open(workspace.cache(), Durability::default())?;
    let of_entry = |entry: &LockEntry| {
        let record = store.record(&StageKey::new(entry.key))?;
        let outputs = record.outputs.into_iter().filter(|(port, manifest)| {
            let locked = entry.outputs.get(port);
            locked.is_some_and(|locked| locked.bytes == manifest.bytes)
        });
        Some(outputs.collect())
    };
    Ok(entries
        .iter()
        .filter_map(|(name, entry)| Some((name.clone(), of_entry(entry)?)))
        .collect())
}

/// How the stages of a finished run differ from the lock's entries, in the graph's order; `kept` is what the lock names.
///
/// A stage has to be as alike as it declares. One that differs only because it read what another stage made otherwise is
/// told as following from that one, and is no difference of its own where the other one was alike enough.
pub(crate) fn compare_run(
    graph: &Graph,
    workspace: &Workspace,
    summary: &RunSummary,
    entries: &BTreeMap<String, LockEntry>,
    kept: &BTreeMap<String, BTreeMap<String, Manifest>>,
) -> Result<Vec<LockDifference>, StoreError> {
    let mut judge = Judge {
        workspace,
        kept,
        store: None,
    };
    let mut found = Vec::new();
    // Stages whose outputs hold something else, and whether that is alike enough.
    let mut moved: BTreeMap<&str, bool> = BTreeMap::new();
    for instance in &graph.instances {
        let name = instance.name.as_str();
        let (Some(stage), Some(entry), Some(ingredients)) = (
            summary.record.stage(name),
            entries.get(name),
            summary.ingredients.get(name),
        ) else {
            continue;
        };
        let differs_in_content = entry.outputs.iter().any(|(port, locked)| {
            let output = stage.outputs.get(port);
            output.is_none_or(|output| output.logical != locked.logical)
        });
        let parts = if entry.key == ingredients.key().digest() {
            Vec::new()
        } else {
            entry.differing_parts(ingredients)
        };
        if let Some(causes) = causes(graph, instance, &parts, &moved)
            && entry.device == device(ingredients)
        {
            if let Some((cause, _)) = causes.iter().find(|(_, is_alike)| !is_alike) {
                if differs_in_content {
                    moved.insert(name, false);
                }
                found.push(LockDifference {
                    stage: name.to_owned(),
                    what: "key".to_owned(),
                    why: format!("follows from `{cause}`"),
                });
                continue;
            }
        } else if let Some(difference) = key_difference(name, entry, ingredients) {
            let is_device = difference.what == "device";
            found.push(difference);
            if is_device {
                continue;
            }
        }
        let before = found.len();
        for (port, output) in &stage.outputs {
            if let Some(why) = judge.output(instance, entry, port, output, parts.is_empty())? {
                found.push(LockDifference {
                    stage: name.to_owned(),
                    what: format!("output `{port}`"),
                    why,
                });
            }
        }
        if differs_in_content {
            moved.insert(name, found.len() == before);
        }
    }
    Ok(found)
}

/// The stages that explain every part of the key that differs, and whether they are alike enough; nothing when some part
/// differs for another reason, or none does.
fn causes<'a>(
    graph: &'a Graph,
    instance: &'a Instance,
    parts: &[String],
    moved: &BTreeMap<&str, bool>,
) -> Option<Vec<(&'a str, bool)>> {
    let mut causes = Vec::new();
    for part in parts {
        let edges = instance.inputs.get(part.strip_prefix("inputs.")?)?;
        let before = causes.len();
        causes.extend(edges.iter().filter_map(|edge| match edge {
            InputEdge::Output { instance, .. } => {
                let producer = graph.instances[*instance].name.as_str();
                Some((producer, *moved.get(producer)?))
            }
            InputEdge::File { .. } => None,
        }));
        if causes.len() == before {
            return None;
        }
    }
    (!causes.is_empty()).then_some(causes)
}

struct Judge<'a> {
    workspace: &'a Workspace,
    kept: &'a BTreeMap<String, BTreeMap<String, Manifest>>,
    /// Opened when something has to be compared.
    store: Option<Store>,
}

impl Judge<'_> {
    /// Why an output is not as alike as declared.
    fn output(
        &mut self,
        instance: &Instance,
        entry: &LockEntry,
        port: &str,
        output: &Manifest,
        same_key: bool,
    ) -> Result<Option<String>, StoreError> {
        let Some(locked) = entry.outputs.get(port) else {
            return Ok(Some("the lock has no such output".to_owned()));
        };
        if locked.bytes == output.bytes {
            return Ok(None);
        }
        let class = instance.reproducible.class();
        if locked.logical == output.logical {
            let is_enough = class >= Class::Logical;
            return Ok((!is_enough).then(|| "other bytes with equal content".to_owned()));
        }
        let kept = self.kept.get(&instance.name).and_then(|o| o.get(port));
        let comparison = match kept {
            Some(kept) => self.compare(instance, port, kept, output)?,
            None => None,
        };
        let tail = match &comparison {
            Some(Comparison { beyond: None, .. }) if class == Class::Numeric => return Ok(None),
            Some(Comparison {
                beyond: Some(divergence),
                ..
            }) => format!("; {divergence}"),
            None if class == Class::Numeric => {
                "; whether it is within the tolerance cannot be told: the locked result is not in this cache".to_owned()
            }
            _ => String::new(),
        };
        let (here, there) = (output.bytes.short(), locked.bytes.short());
        Ok(Some(if same_key {
            format!(
                "the same key gave {here} here and {there} when it was locked: the stage is not reproducible{tail}"
            )
        } else {
            format!("{here} instead of {there}{tail}")
        }))
    }

    /// The output beside the locked one; nothing if one of them is gone.
    fn compare(
        &mut self,
        instance: &Instance,
        port: &str,
        kept: &Manifest,
        output: &Manifest,
    ) -> Result<Option<Comparison>, StoreError> {
        let store = match &mut self.store {
            Some(store) => store,
            none => {
                let opened = Store::open(self.workspace.cache(), Durability::default())?;
                none.insert(opened)
            }
        };
        let tolerances = match &instance.reproducible {
            Reproducible::Numeric(tolerances) => Some(tolerances),
            Reproducible::Bytes | Reproducible::Logical => None,
        };
        let (before, after) = match (store.open_artifact(kept), store.open_artifact(output)) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(error), _) | (_, Err(error)) if error.is_missing() => return Ok(None),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let comparison = compare(&before, &after, port, tolerances);
        // The digests may see something that the walk does not.
        Ok(comparison.first.is_some().then_some(comparison))
    }
}
