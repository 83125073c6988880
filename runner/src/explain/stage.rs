//! What is known of the stages that are to be explained: of a graph that may run, or of a run that is over.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use natron_artifacts::{Digest, Kind, Manifest};
use natron_cache::{Ingredients, InputIngredient, StageKey, StatCache, Store};

use crate::{
    Forecast, Graph, InputEdge, Instance, Outcome, RunError, RunOptions, Standing, Workspace,
    history::RunRecord,
    ingredients::{Bound, Seen, Sources, ingredients, source_digest},
    source_text::{input_name, relative},
    standings, views,
};

use super::Past;

/// Where an input comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// From a stage that is explained, too.
    Output {
        /// Its position.
        stage: usize,
        /// Its output.
        output: String,
    },
    /// From the workspace, or nobody knows.
    Elsewhere,
}

/// One stage that is to be explained.
#[derive(Debug)]
pub(super) struct Explained {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) forecast: Forecast,
    pub(super) outcome: Option<Outcome>,
    pub(super) error: Option<String>,
    pub(super) key: Option<StageKey>,
    pub(super) ingredients: Option<Ingredients>,
    /// Some inputs are not known yet.
    pub(super) is_partial: bool,
    pub(super) is_forced: bool,
    pub(super) inputs: BTreeMap<String, Vec<Source>>,
    /// Files of the workspace that it reads, as the facts name them.
    pub(super) files: BTreeMap<String, (PathBuf, Digest)>,
    pub(super) outputs: BTreeMap<String, Manifest>,
    pub(super) edited_views: Vec<String>,
    pub(super) seconds: Option<f64>,
}

impl Explained {
    /// Positions of the stages that it reads from.
    pub(super) fn producers(&self) -> impl Iterator<Item = usize> {
        self.inputs
            .values()
            .flatten()
            .filter_map(|source| match source {
                Source::Output { stage, .. } => Some(*stage),
                Source::Elsewhere => None,
            })
    }
}

/// The stages of a graph that a run with `options` is about.
pub(super) fn of_graph(
    graph: &Graph,
    workspace: &Workspace,
    options: &RunOptions,
) -> Result<Vec<Explained>, RunError> {
    let standings = standings(graph, workspace, options)?;
    let stat_cache = StatCache::load(&workspace.state().join("stat.bin"), options.paranoid);
    let positions: BTreeMap<&str, usize> = standings
        .iter()
        .enumerate()
        .map(|(position, standing)| (standing.name.as_str(), position))
        .collect();
    let by_name: BTreeMap<&str, &Instance> = graph
        .instances
        .iter()
        .map(|instance| (instance.name.as_str(), instance))
        .collect();
    let stages = standings.iter().map(|standing| {
        let instance = by_name[standing.name.as_str()];
        let is_partial = standing.ingredients.is_none();
        let ingredients = standing.ingredients.clone().or_else(|| {
            let known = known_inputs(graph, instance, &standings, &positions, &stat_cache);
            ingredients(graph, instance, &known, &Sources::new(&stat_cache)).ok()
        });
        let source = |edge: &InputEdge| match edge {
            InputEdge::Output { instance, output } => {
                let name = graph.instances[*instance].name.as_str();
                positions.get(name).map_or(Source::Elsewhere, |&stage| {
                    let output = output.clone();
                    Source::Output { stage, output }
                })
            }
            InputEdge::File { .. } => Source::Elsewhere,
        };
        let inputs = instance.inputs.iter();
        Explained {
            name: standing.name.clone(),
            kind: standing.kind.clone(),
            forecast: standing.forecast,
            outcome: None,
            error: None,
            key: standing.key,
            files: files(instance, ingredients.as_ref()),
            ingredients,
            is_partial,
            is_forced: is_named(&options.force, instance),
            inputs: inputs
                .map(|(port, edges)| (port.clone(), edges.iter().map(source).collect()))
                .collect(),
            outputs: standing.outputs.clone(),
            edited_views: edited_views(instance, standing, workspace.root(), &stat_cache),
            seconds: standing.expected_seconds,
        }
    });
    Ok(stages.collect())
}

fn is_named(names: &[String], instance: &Instance) -> bool {
    names
        .iter()
        .any(|name| *name == instance.name || *name == instance.stage)
}

/// What comes in at those ports of which everything is known.
fn known_inputs(
    graph: &Graph,
    instance: &Instance,
    standings: &[Standing],
    positions: &BTreeMap<&str, usize>,
    stat_cache: &StatCache,
) -> BTreeMap<String, Vec<Bound>> {
    let bound = |edge: &InputEdge| match edge {
        InputEdge::File { path } => Some(Bound::File {
            digest: source_digest(stat_cache, path).ok()?,
            path: path.clone(),
        }),
        InputEdge::Output { instance, output } => {
            let name = graph.instances[*instance].name.as_str();
            let manifest = standings[*positions.get(name)?].outputs.get(output)?;
            Some(Bound::Output(manifest.clone()))
        }
    };
    let ports = instance.inputs.iter();
    ports
        .filter_map(|(port, edges)| {
            // What some rows of a table are is known only from the table.
            let has_rows = |i: usize| Seen::of(instance, port, i).rows().is_some();
            if (0..edges.len()).any(has_rows) {
                return None;
            }
            let bound: Option<Vec<Bound>> = edges.iter().map(bound).collect();
            Some((port.clone(), bound?))
        })
        .collect()
}

/// The files that a stage reads, with the digests that its key has.
fn files(
    instance: &Instance,
    ingredients: Option<&Ingredients>,
) -> BTreeMap<String, (PathBuf, Digest)> {
    let mut files = BTreeMap::new();
    let Some(ingredients) = ingredients else {
        return files;
    };
    for (name, path) in &instance.sources {
        if let Some(digest) = ingredients.sources.get(name) {
            files.insert(format!("sources.{name}"), (path.clone(), *digest));
        }
    }
    for (port, edges) in &instance.inputs {
        let known = ingredients.inputs.get(port).into_iter().flatten();
        for (i, (edge, ingredient)) in edges.iter().zip(known).enumerate() {
            if let (InputEdge::File { path }, InputIngredient::Bytes { digest }) =
                (edge, ingredient)
            {
                files.insert(input_name(port, i), (path.clone(), *digest));
            }
        }
    }
    files
}

/// The paths that show outputs of a hit and do not hold them.
fn edited_views(
    instance: &Instance,
    standing: &Standing,
    workspace: &Path,
    stat_cache: &StatCache,
) -> Vec<String> {
    if standing.forecast != Forecast::Hit {
        return Vec::new();
    }
    let mut digest = |path: &Path| stat_cache.digest(path).ok();
    instance
        .views
        .iter()
        .filter(|(port, path)| {
            let manifest = standing.outputs.get(*port);
            manifest.is_some_and(|manifest| !views::is_current(manifest, path, &mut digest))
        })
        .map(|(_, path)| relative(workspace, path))
        .collect()
}

/// Which output has which content.
#[derive(Default)]
struct Makers {
    whole: BTreeMap<(Kind, Digest), (usize, String)>,
    columns: BTreeMap<Digest, (usize, String)>,
}

impl Makers {
    fn add(&mut self, stage: usize, outputs: &BTreeMap<String, Manifest>) {
        for (output, manifest) in outputs {
            let maker = || (stage, output.clone());
            let content = (manifest.kind, manifest.logical);
            self.whole.entry(content).or_insert_with(maker);
            for column in &manifest.columns {
                self.columns.entry(column.digest).or_insert_with(maker);
            }
        }
    }

    fn sources(&self, ingredients: &Ingredients) -> BTreeMap<String, Vec<Source>> {
        let source = |ingredient: &InputIngredient| {
            let found = match ingredient {
                InputIngredient::Logical { kind, digest } => self.whole.get(&(*kind, *digest)),
                InputIngredient::Bytes { .. } => None,
                // The time index is the same in many tables.
                InputIngredient::Columns { columns, .. } => columns
                    .iter()
                    .rev()
                    .find_map(|column| self.columns.get(&column.digest)),
            };
            found.map_or(Source::Elsewhere, |(stage, output)| Source::Output {
                stage: *stage,
                output: output.clone(),
            })
        };
        let inputs = ingredients.inputs.iter();
        inputs
            .map(|(port, list)| (port.clone(), list.iter().map(source).collect()))
            .collect()
    }
}

/// Gives stages that did not come to their inputs the producers that they had in the earlier run: what failed above them is
/// why they did not run.
pub(super) fn edges_as_before(stages: &mut [Explained], past: &Past, store: &Store) {
    let positions: BTreeMap<String, usize> = stages
        .iter()
        .enumerate()
        .map(|(position, stage)| (stage.name.clone(), position))
        .collect();
    let mut makers_of: BTreeMap<String, Makers> = BTreeMap::new();
    for stage in stages {
        let Some(past) = past.result(&stage.name) else {
            continue;
        };
        let record = past.record().key;
        let record = record.and_then(|key| store.record(&StageKey::new(key)));
        let (None, Some(record)) = (&stage.ingredients, record) else {
            continue;
        };
        let makers = makers_of.entry(past.run.id.clone()).or_insert_with(|| {
            let mut makers = Makers::default();
            for (name, stage) in &past.run.stages {
                if let Some(&position) = positions.get(name) {
                    makers.add(position, &stage.outputs);
                }
            }
            makers
        });
        stage.inputs = makers.sources(&record.ingredients);
    }
}

/// The stages of a run that is over. Which stage made which input is told by the content.
pub(super) fn of_run(run: &RunRecord, store: &Store) -> Vec<Explained> {
    let mut makers = Makers::default();
    let mut stages = Vec::new();
    for (index, stage) in run.stages.iter().enumerate() {
        let key = stage.key.map(StageKey::new);
        let ingredients = key
            .and_then(|key| store.record(&key))
            .map(|record| record.ingredients);
        let inputs = ingredients
            .as_ref()
            .map(|ingredients| makers.sources(ingredients))
            .unwrap_or_default();
        stages.push(Explained {
            name: stage.name.clone(),
            kind: stage.kind.clone(),
            forecast: match stage.outcome {
                Outcome::Hit => Forecast::Hit,
                Outcome::Skipped => Forecast::Maybe,
                Outcome::Ran | Outcome::Unchanged | Outcome::Failed | Outcome::Interrupted => {
                    Forecast::Run
                }
            },
            outcome: Some(stage.outcome),
            error: stage.error.clone(),
            key,
            is_partial: false,
            ingredients,
            is_forced: false,
            inputs,
            files: BTreeMap::new(),
            outputs: stage.outputs.clone(),
            edited_views: Vec::new(),
            seconds: Some(stage.seconds),
        });
        makers.add(index, &stage.outputs);
    }
    stages
}
