//! Axes that artifacts list: the graph grows when an artifact is known. It only ever gains stages.

use std::{collections::BTreeMap, path::Path};

use natron_artifacts::{Manifest, Registry};
use natron_cache::Store;

use crate::{
    AxisValues, Diagnostic, Forecast, Graph, LoadOptions, RunError, RunOptions, Workspace, load,
    standings,
};

/// The graph of the pipeline file at `path`, with all stages whose axes are known: an artifact that lists an axis is read when
/// it is in the store. What is not known stays in [`Graph::awaited`].
///
/// # Errors
///
/// All mistakes, in order of their places.
pub fn load_known(
    path: &Path,
    options: &LoadOptions,
    registry: &Registry,
    workspace: &Workspace,
) -> Result<Graph, Vec<Diagnostic>> {
    let mut options = options.clone();
    expanded(path, &mut options, registry, workspace)
}

/// The same; `options` then hold the values that were found.
pub(crate) fn expanded(
    path: &Path,
    options: &mut LoadOptions,
    registry: &Registry,
    workspace: &Workspace,
) -> Result<Graph, Vec<Diagnostic>> {
    loop {
        let graph = load(path, options, registry)?;
        if graph.awaited.is_empty() || !workspace.cache().exists() {
            return Ok(graph);
        }
        // What cannot be seen now is seen, or complained about, by the run.
        let found = stored(&graph, workspace).unwrap_or_default();
        if found.is_empty() {
            return Ok(graph);
        }
        options.axes.extend(found);
    }
}

/// The values of awaited axes whose artifacts are in the store.
fn stored(graph: &Graph, workspace: &Workspace) -> Result<BTreeMap<String, AxisValues>, RunError> {
    let options = RunOptions {
        until: producers(graph),
        ..RunOptions::default()
    };
    let standings = standings(graph, workspace, &options)?;
    let hits = standings
        .into_iter()
        .filter(|standing| standing.forecast == Forecast::Hit);
    let outputs: BTreeMap<_, _> = hits.map(|hit| (hit.name, hit.outputs)).collect();
    values(graph, workspace, &outputs)
}

/// The names of the instances that list awaited axes, each once.
pub(crate) fn producers(graph: &Graph) -> Vec<String> {
    let mut names: Vec<String> = graph
        .awaited
        .iter()
        .map(|axis| graph.instances[axis.instance].name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The values of the awaited axes that the outputs list, by instance and port.
pub(crate) fn values(
    graph: &Graph,
    workspace: &Workspace,
    outputs: &BTreeMap<String, BTreeMap<String, Manifest>>,
) -> Result<BTreeMap<String, AxisValues>, RunError> {
    let store = Store::open_to_read(workspace.cache())?;
    let mut found = BTreeMap::new();
    for axis in &graph.awaited {
        let name = &graph.instances[axis.instance].name;
        let Some(manifest) = outputs.get(name).and_then(|ports| ports.get(&axis.output)) else {
            continue;
        };
        // An object that is gone is made again by the run.
        let Ok(artifact) = store.open_artifact(manifest) else {
            continue;
        };
        found.insert(axis.id.clone(), axis.take.values(&artifact));
    }
    Ok(found)
}
