//! From an instance of the graph and what its inputs turned out to be, to the ingredients of its key.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use natron_artifacts::{
    Artifact, Digest, InputColumns, Lineage, LineageStage, Manifest, StageError, canonical,
};
use natron_cache::{ColumnIngredient, Ingredients, InputIngredient, StatCache, StatError};

use crate::{Graph, InputEdge, Instance, Numeric, Part, Rows, gpus};

/// What an input turned out to be.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    /// An output of a stage.
    Output(Manifest),
    /// Some rows of a table that a stage made.
    Rows {
        /// The whole table.
        manifest: Manifest,
        /// What the key holds of the rows.
        ingredient: InputIngredient,
    },
    /// A file or folder of the workspace.
    File {
        /// Where.
        path: PathBuf,
        /// Digest of its content.
        digest: Digest,
    },
}

/// A source could not be digested.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`: {source}", path.display())]
pub(crate) struct SourceError {
    /// The file or folder.
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) source: StatError,
}

/// The ingredients of `instance`'s key. `bound` gives what each of its inputs is.
pub(crate) fn ingredients(
    graph: &Graph,
    instance: &Instance,
    bound: &BTreeMap<String, Vec<Bound>>,
    sources: &Sources<'_>,
) -> Result<Ingredients, SourceError> {
    let inputs = bound
        .iter()
        .map(|(port, bound)| {
            let bound = bound.iter().enumerate();
            let bound = bound.map(|(position, bound)| {
                input_ingredient(&Seen::of(instance, port, position), bound)
            });
            (port.clone(), bound.collect())
        })
        .collect();
    with_inputs(graph, instance, inputs, sources)
}

/// The ingredients of `instance`'s key, given those of its inputs.
pub(crate) fn with_inputs(
    graph: &Graph,
    instance: &Instance,
    inputs: BTreeMap<String, Vec<InputIngredient>>,
    sources: &Sources<'_>,
) -> Result<Ingredients, SourceError> {
    let mut ingredients = Ingredients::new(&instance.kind, &instance.code);
    for (name, path) in &instance.sources {
        ingredients
            .sources
            .insert(name.clone(), sources.digest(path)?);
    }
    ingredients.parameters = instance.key_parameters.clone();
    ingredients.seed = instance.seed;
    match graph.numeric {
        Numeric::Portable => "portable",
        Numeric::Native => "native",
    }
    .clone_into(&mut ingredients.numeric);
    ingredients.inputs = inputs;
    ingredients.device = gpus::class(instance);
    ingredients.environment = instance.signature.environment.clone();
    ingredients.outputs = instance
        .signature
        .outputs
        .iter()
        .map(|port| (port.name.clone(), port.schema.kind))
        .collect();
    ingredients.lineage = instance
        .signature
        .lineage
        .then(|| canonical::digest("natron lineage v1", &lineage(graph, instance)));
    ingredients.salt.clone_from(&instance.salt);
    Ok(ingredients)
}

/// The files and folders outside the store, for those who look at many stages.
pub(crate) struct Sources<'a> {
    stat_cache: &'a StatCache,
    /// The digests of those that were asked for; nothing where each question is a new one.
    known: Option<Mutex<BTreeMap<OsString, Digest>>>,
}

impl<'a> Sources<'a> {
    /// Sources that may change between two questions.
    pub(crate) fn new(stat_cache: &'a StatCache) -> Self {
        Self {
            stat_cache,
            known: None,
        }
    }

    /// Sources of stages that are looked at together, before any of them runs: the system is asked for each once.
    pub(crate) fn together(stat_cache: &'a StatCache) -> Self {
        Self {
            stat_cache,
            known: Some(Mutex::default()),
        }
    }

    /// The digest of a file or folder.
    pub(crate) fn digest(&self, path: &Path) -> Result<Digest, SourceError> {
        let Some(known) = &self.known else {
            return source_digest(self.stat_cache, path);
        };
        let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known().get(path.as_os_str()) {
            return Ok(*digest);
        }
        let digest = source_digest(self.stat_cache, path)?;
        known().insert(path.as_os_str().to_owned(), digest);
        Ok(digest)
    }
}

/// The digest of a file or folder outside the store.
pub(crate) fn source_digest(stat_cache: &StatCache, path: &Path) -> Result<Digest, SourceError> {
    stat_cache.digest(path).map_err(|source| SourceError {
        path: path.to_owned(),
        source,
    })
}

fn input_ingredient(seen: &Seen<'_>, bound: &Bound) -> InputIngredient {
    let manifest = match bound {
        Bound::File { digest, .. } => return InputIngredient::Bytes { digest: *digest },
        Bound::Rows { ingredient, .. } => return ingredient.clone(),
        Bound::Output(manifest) => manifest,
    };
    output_ingredient(seen, manifest)
}

/// What a key holds of an output of which all rows are seen.
pub(crate) fn output_ingredient(seen: &Seen<'_>, manifest: &Manifest) -> InputIngredient {
    match seen.columns() {
        Some(columns) => InputIngredient::Columns {
            rows: manifest.rows,
            columns: manifest
                .columns
                .iter()
                .filter(|known| columns.contains(&known.column.name))
                .map(|known| ColumnIngredient {
                    name: known.column.name.clone(),
                    column_type: known.column.column_type,
                    unit: known.column.unit.clone(),
                    digest: known.digest,
                })
                .collect(),
        },
        None => InputIngredient::Logical {
            kind: manifest.kind,
            digest: manifest.logical,
        },
    }
}

/// What a stage sees of one source of a port: the part that the pipeline file names, and of it the columns to which the
/// port limits itself.
pub(crate) struct Seen<'a> {
    part: Option<&'a Part>,
    only: Option<Vec<String>>,
}

impl<'a> Seen<'a> {
    /// What `instance` sees of the source at `position` of `port`.
    pub(crate) fn of(instance: &'a Instance, port: &str, position: usize) -> Self {
        let part = instance
            .parts
            .get(port)
            .and_then(|parts| parts.get(position));
        Self {
            part: part.filter(|part| !part.is_whole()),
            only: only_columns(instance, port),
        }
    }

    /// Names of the columns, the time index among them; nothing for all.
    pub(crate) fn columns(&self) -> Option<Vec<String>> {
        let of_part = || self.part.and_then(Part::shown_columns);
        self.only.clone().or_else(of_part)
    }

    /// The part, if it is made of some rows.
    pub(crate) fn rows(&self) -> Option<&'a Part> {
        self.part.filter(|part| part.rows != Rows::All)
    }

    /// What of `artifact` is seen.
    pub(crate) fn project(&self, artifact: Artifact) -> Result<Artifact, StageError> {
        let artifact = match self.part {
            Some(part) => part.of(artifact)?,
            None => artifact,
        };
        match (&self.only, artifact) {
            (Some(columns), Artifact::Table(table)) => {
                let names: Vec<String> = columns
                    .iter()
                    .filter(|name| table.has(name))
                    .cloned()
                    .collect();
                Ok(table.select(&names)?.into())
            }
            (_, artifact) => Ok(artifact),
        }
    }

    /// Digest of what is seen of an artifact, `seen` being its projection: nothing else is in the key.
    pub(crate) fn digest(&self, manifest: &Manifest, seen: &Artifact) -> Digest {
        match seen {
            Artifact::Table(table) if self.only.is_some() || self.part.is_some() => {
                table.logical_digest()
            }
            _ => manifest.logical,
        }
    }
}

/// The columns that a port limits itself to, the time index among them.
fn only_columns(instance: &Instance, port: &str) -> Option<Vec<String>> {
    let port = instance
        .signature
        .inputs
        .iter()
        .find(|declared| declared.name == port)?;
    match &port.columns {
        InputColumns::Only(columns) => {
            let mut columns = columns.clone();
            columns.push("ts_ns".to_owned());
            Some(columns)
        }
        InputColumns::Any | InputColumns::Required(_) => None,
    }
}

/// The graph above `instance`, itself last.
pub(crate) fn lineage(graph: &Graph, instance: &Instance) -> Lineage {
    let mut wanted = std::collections::BTreeSet::new();
    let mut open = vec![instance];
    while let Some(next) = open.pop() {
        if wanted.insert(next.name.as_str()) {
            open.extend(producers(graph, next));
        }
    }
    let stages = graph
        .instances
        .iter()
        .filter(|stage| wanted.contains(stage.name.as_str()));
    let stages = stages.map(|stage| {
        let mut reads: Vec<_> = producers(graph, stage).map(|p| p.name.clone()).collect();
        reads.sort();
        reads.dedup();
        LineageStage {
            name: stage.name.clone(),
            kind: stage.kind.clone(),
            parameters: (*stage.key_parameters).clone(),
            reads,
        }
    });
    Lineage {
        pipeline: graph.name.clone(),
        stages: stages.collect(),
    }
}

fn producers<'a>(
    graph: &'a Graph,
    instance: &'a Instance,
) -> impl Iterator<Item = &'a Instance> + 'a {
    instance
        .producers()
        .map(|position| &graph.instances[position])
}

impl Instance {
    /// Positions of the instances whose outputs it reads; one that it reads twice comes twice.
    pub fn producers(&self) -> impl Iterator<Item = usize> + '_ {
        self.inputs
            .values()
            .flatten()
            .filter_map(|edge| match edge {
                InputEdge::Output { instance, .. } => Some(*instance),
                InputEdge::File { .. } => None,
            })
    }
}
