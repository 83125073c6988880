//! From an instance of the graph and what its inputs turned out to be, to the ingredients of its key.

use std::{collections::BTreeMap, path::PathBuf};

use natron_artifacts::{Digest, InputColumns, Lineage, LineageStage, Manifest, canonical};
use natron_cache::{ColumnIngredient, Ingredients, InputIngredient, StatCache, StatError};

use crate::{Graph, InputEdge, Instance, Numeric};

/// What an input turned out to be.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    /// An output of a stage.
    Output(Manifest),
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
    stat_cache: &StatCache,
) -> Result<Ingredients, SourceError> {
    let inputs = bound
        .iter()
        .map(|(port, bound)| {
            let bound = bound
                .iter()
                .map(|bound| input_ingredient(instance, port, bound));
            (port.clone(), bound.collect())
        })
        .collect();
    with_inputs(graph, instance, inputs, stat_cache)
}

/// The ingredients of `instance`'s key, given those of its inputs.
pub(crate) fn with_inputs(
    graph: &Graph,
    instance: &Instance,
    inputs: BTreeMap<String, Vec<InputIngredient>>,
    stat_cache: &StatCache,
) -> Result<Ingredients, SourceError> {
    let mut ingredients = Ingredients::new(&instance.kind, &instance.code);
    for (name, path) in &instance.sources {
        ingredients
            .sources
            .insert(name.clone(), source_digest(stat_cache, path)?);
    }
    ingredients.parameters = instance.key_parameters.clone();
    ingredients.seed = instance.seed;
    match graph.numeric {
        Numeric::Portable => "portable",
        Numeric::Native => "native",
    }
    .clone_into(&mut ingredients.numeric);
    ingredients.inputs = inputs;
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

/// The digest of a file or folder outside the store.
pub(crate) fn source_digest(
    stat_cache: &StatCache,
    path: &std::path::Path,
) -> Result<Digest, SourceError> {
    stat_cache.digest(path).map_err(|source| SourceError {
        path: path.to_owned(),
        source,
    })
}

fn input_ingredient(instance: &Instance, port: &str, bound: &Bound) -> InputIngredient {
    let manifest = match bound {
        Bound::File { digest, .. } => return InputIngredient::Bytes { digest: *digest },
        Bound::Output(manifest) => manifest,
    };
    match only_columns(instance, port) {
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

/// The columns that a port limits itself to, the time index among them.
pub(crate) fn only_columns(instance: &Instance, port: &str) -> Option<Vec<String>> {
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
            parameters: stage.key_parameters.clone(),
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
