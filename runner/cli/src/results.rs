//! The artifacts that a user names: `stage`, `stage.output`, a file.

use std::path::Path;

use natron_artifacts::{Artifact, Manifest};
use natron_cache::{Confirmed, StageKey, Store};
use natron_runner::{
    Forecast, Graph, RunOptions, Workspace, history::RunRecord, select, standings,
};

use crate::{
    arguments::PipelineOption,
    failure::Failure,
    program::{Loaded, Program},
};

/// One output of a stage.
pub(crate) struct StageOutput {
    /// Instance name.
    pub(crate) stage: String,
    /// Output port.
    pub(crate) port: String,
    /// Key of the stage, where it is known.
    pub(crate) key: Option<StageKey>,
    /// What the store knows of it.
    pub(crate) manifest: Manifest,
}

impl StageOutput {
    /// `stage.output`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.stage, self.port)
    }

    /// How often `natron verify` computed it again with the result that it has to have.
    pub(crate) fn confirmed(&self, workspace: &Workspace) -> Confirmed {
        let read = |key: StageKey| {
            let store = Store::open_to_read(workspace.cache()).ok()?;
            store.confirmed().ok()?.remove(&key)
        };
        self.key.and_then(read).unwrap_or_default()
    }

    /// The artifact itself, its bytes checked.
    pub(crate) fn open(&self, workspace: &Workspace) -> Result<Artifact, Failure> {
        let store = Store::open_to_read(workspace.cache())?;
        store.open_artifact(&self.manifest).map_err(|error| {
            let failure = Failure::from(error.clone());
            if error.is_missing() {
                // Else the next run would see at a glance that nothing has moved.
                let _ = natron_runner::forget(workspace);
                failure.help("`natron run` makes it again")
            } else {
                failure
            }
        })
    }
}

/// The outputs that `name` (`stage` or `stage.output`) means, and where their store is.
///
/// A stage whose result is not current is answered with its newest result here, and a warning; with parameters of the
/// caller's own (`--set`) it is an error, because the newest result is that of others.
pub(crate) fn outputs(
    program: &Program,
    pipeline: &PipelineOption,
    name: &str,
) -> Result<(Workspace, Vec<StageOutput>), Failure> {
    let loaded = program.load(pipeline.pipeline.as_deref(), &pipeline.overrides)?;
    let Loaded {
        graph, workspace, ..
    } = loaded;
    let (stage, port) = split(&graph, name);
    let selected = select(&graph, &[stage.to_owned()])?;
    let names: Vec<&str> = selected
        .iter()
        .map(|&i| graph.instances[i].name.as_str())
        .collect();
    let [only] = names.as_slice() else {
        return Err(
            Failure::usage(format!("`{stage}` has {} instances", names.len()))
                .help(format!("name one of them: {}", few(&names))),
        );
    };
    let instance = &graph.instances[graph.position(only).expect("it was just found")];
    let ports: Vec<&str> = instance
        .signature
        .outputs
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    if let Some(port) = port
        && !ports.contains(&port)
    {
        let near = natron_runner::did_you_mean(port, ports.iter().copied());
        let help = match near {
            Some(near) => format!("did you mean `{only}.{near}`?"),
            None => format!("it has {}", few(&ports)),
        };
        return Err(Failure::usage(format!("stage `{only}` has no output `{port}`")).help(help));
    }
    let options = RunOptions {
        until: vec![(*only).to_owned()],
        ..RunOptions::default()
    };
    let standing = standings(&graph, &workspace, &options)?
        .into_iter()
        .find(|s| s.name == **only);
    let current = standing
        .filter(|s| s.forecast == Forecast::Hit)
        .map(|s| (s.key, s.outputs));
    let (key, outputs) = if let Some(current) = current {
        current
    } else {
        let mut last = RunRecord::last_results(&workspace, &graph.name);
        let Some(record) = last.remove(*only) else {
            return Err(Failure::usage(format!("stage `{only}` has no result yet"))
                .help(format!("`natron run --until {only}` makes it")));
        };
        if !pipeline.overrides.set.is_empty() {
            let text = format!("`{only}` has no result for these parameters");
            return Err(Failure::usage(text).help(format!(
                "`natron run --until {only}` with the same `--set` makes it"
            )));
        }
        program.output.warn(&format!(
            "`{only}` would run again; this is its newest result (`natron explain {only}` says why)"
        ));
        (record.key.map(StageKey::new), record.outputs)
    };
    let outputs = outputs
        .into_iter()
        .filter(|(name, _)| port.is_none_or(|port| port == name))
        .map(|(port, manifest)| StageOutput {
            stage: (*only).to_owned(),
            key,
            port,
            manifest,
        })
        .collect();
    Ok((workspace, outputs))
}

/// Like [`outputs`], exactly one.
pub(crate) fn output(
    program: &Program,
    pipeline: &PipelineOption,
    name: &str,
) -> Result<(Workspace, StageOutput), Failure> {
    let (workspace, mut outputs) = outputs(program, pipeline, name)?;
    if outputs.len() == 1 {
        return Ok((workspace, outputs.remove(0)));
    }
    let names: Vec<String> = outputs.iter().map(StageOutput::name).collect();
    Err(
        Failure::usage(format!("`{name}` has {} outputs", names.len()))
            .help(format!("name one of them: {}", few(&names))),
    )
}

/// Stage and output of `stage.output`. Coordinates of an instance (`train[lr=0.1]`) may hold dots.
fn split<'a>(graph: &Graph, name: &'a str) -> (&'a str, Option<&'a str>) {
    let is_stage = |name: &str| {
        graph
            .instances
            .iter()
            .any(|i| i.name == name || i.stage == name)
    };
    match name.rsplit_once('.') {
        Some((stage, port)) if !is_stage(name) && !port.contains(']') => (stage, Some(port)),
        _ => (name, None),
    }
}

fn few<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|n| format!("`{}`", n.as_ref()))
        .collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Whether `name` is meant as a path: it names something that exists and looks like a path or a file of a known kind.
pub(crate) fn is_path(name: &str) -> bool {
    const ENDINGS: [&str; 8] = [
        "arrow",
        "parquet",
        "json",
        "safetensors",
        "html",
        "csv",
        "feather",
        "ipc",
    ];
    let path = Path::new(name);
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    name.contains('/') || (ENDINGS.contains(&ending) && path.exists())
}
