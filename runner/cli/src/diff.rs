//! `natron diff`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use natron_cache::{Record, StageKey, Store, diff};
use natron_runner::{
    Workspace,
    history::{RunRecord, StageRecord},
};
use serde_json::{Value, json};

use crate::{
    explain::difference_text,
    failure::Failure,
    layout::{Align, Block, columns},
    program::Program,
    style::Style,
    units,
};

const EXAMPLES: &str = "\
Examples:
  natron diff latest~1                    the newest run against the one before
  natron diff 20260102T1 20260103T0 --json";

/// Compare two runs: what their stages were made of, their results, their metrics.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A run: its id, the start of it, `latest`, or `latest~N` for the Nth before.
    #[arg(value_name = "RUN")]
    before: String,
    /// The run to compare it with.
    #[arg(value_name = "RUN", default_value = "latest")]
    after: String,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let workspace = program.workspace()?;
    let runs = RunRecord::all(&workspace)
        .map_err(|error| Failure::file("read", &workspace.state().join("runs"), &error))?;
    let before = find(&runs, &arguments.before)?;
    let after = find(&runs, &arguments.after)?;
    let stages = compare(&workspace, before, after)?;
    let output = &program.output;
    if output.is_json() {
        let stages: Vec<Value> = stages.iter().map(StageDiff::to_json).collect();
        output.json(json!({ "before": before.id, "after": after.id, "stages": stages }));
        return Ok(());
    }
    let style = output.data_style();
    let mut block = Block::default();
    block.line(&format!(
        "{} -> {}",
        style.bold(&before.id),
        style.bold(&after.id)
    ));
    for stage in &stages {
        stage.lines(&mut block, style);
    }
    if stages.is_empty() {
        block.line("the same stages, made of the same, with the same results");
    }
    output.data(&block.text());
    Ok(())
}

/// The run that `name` means, of `runs` with the newest first.
fn find<'a>(runs: &'a [RunRecord], name: &str) -> Result<&'a RunRecord, Failure> {
    if runs.is_empty() {
        return Err(Failure::usage("there are no runs in this workspace yet")
            .help("`natron run` makes one"));
    }
    if let Some(back) = name.strip_prefix("latest") {
        let back = if back.is_empty() {
            Some(0)
        } else {
            back.strip_prefix('~').and_then(|n| n.parse().ok())
        };
        return back.and_then(|n: usize| runs.get(n)).ok_or_else(|| {
            Failure::usage(format!("there is no run `{name}`")).help(format!(
                "there are {}: `latest` to `latest~{}`",
                runs.len(),
                runs.len() - 1
            ))
        });
    }
    let matching: Vec<&RunRecord> = runs.iter().filter(|run| run.id.starts_with(name)).collect();
    match matching.as_slice() {
        [only] => Ok(only),
        [] => {
            Err(Failure::usage(format!("there is no run `{name}`"))
                .help("`natron runs` lists them"))
        }
        several => Err(
            Failure::usage(format!("`{name}` is the start of {} runs", several.len()))
                .help("give more of the id; `natron runs` lists them"),
        ),
    }
}

/// How one stage differs.
struct StageDiff {
    stage: String,
    /// Why there is nothing to compare.
    presence: Option<&'static str>,
    ingredients: Vec<natron_cache::Difference>,
    /// Outputs whose content differs.
    outputs: Vec<String>,
    /// Whether the keys are equal although outputs differ.
    is_irreproducible: bool,
    /// The keys differ, but the store no longer knows what one of them was made of.
    is_forgotten: bool,
    metrics: Vec<(String, Option<f64>, Option<f64>)>,
}

fn compare(
    workspace: &Workspace,
    before: &RunRecord,
    after: &RunRecord,
) -> Result<Vec<StageDiff>, Failure> {
    let store = Store::open_to_read(workspace.cache())?;
    let by_name = |run: &'_ RunRecord| -> BTreeMap<String, StageRecord> {
        run.stages
            .iter()
            .map(|stage| (stage.name.clone(), stage.clone()))
            .collect()
    };
    let (old, new) = (by_name(before), by_name(after));
    // In the order of the newer run; what only the older one has comes last.
    let only_old = before
        .stages
        .iter()
        .filter(|stage| !new.contains_key(&stage.name));
    let names = after
        .stages
        .iter()
        .chain(only_old)
        .map(|stage| stage.name.as_str());
    Ok(names
        .filter_map(|name| stage_diff(&store, name, old.get(name), new.get(name)))
        .collect())
}

fn stage_diff(
    store: &Store,
    name: &str,
    before: Option<&StageRecord>,
    after: Option<&StageRecord>,
) -> Option<StageDiff> {
    let record = |stage: Option<&StageRecord>| store.record(&StageKey::new(stage?.key?));
    let (old, new) = (record(before), record(after));
    let mut stage_diff = StageDiff {
        stage: name.to_owned(),
        presence: match (before, after) {
            (None, _) => Some("only in the second run"),
            (_, None) => Some("only in the first run"),
            (Some(before), Some(after))
                if before.outputs.is_empty() && !after.outputs.is_empty() =>
            {
                Some("no result in the first run")
            }
            (Some(before), Some(after))
                if !before.outputs.is_empty() && after.outputs.is_empty() =>
            {
                Some("no result in the second run")
            }
            _ => None,
        },
        ingredients: Vec::new(),
        outputs: Vec::new(),
        is_irreproducible: false,
        is_forgotten: false,
        metrics: metric_differences(old.as_ref(), new.as_ref()),
    };
    if let (Some(before), Some(after)) = (before, after) {
        let same_key = before.key.is_some() && before.key == after.key;
        if let (Some(old), Some(new)) = (&old, &new) {
            stage_diff.ingredients = diff(&old.ingredients, &new.ingredients);
        } else {
            stage_diff.is_forgotten = !same_key && before.key.is_some() && after.key.is_some();
        }
        let ports: BTreeSet<&String> = before.outputs.keys().chain(after.outputs.keys()).collect();
        let differs = |port: &&String| {
            let logical =
                |stage: &StageRecord| stage.outputs.get(*port).map(|manifest| manifest.logical);
            logical(before) != logical(after)
        };
        stage_diff.outputs = ports.into_iter().filter(differs).cloned().collect();
        stage_diff.is_irreproducible = same_key
            && !stage_diff.outputs.is_empty()
            && !before.outputs.is_empty()
            && !after.outputs.is_empty();
    }
    let is_same = stage_diff.presence.is_none()
        && stage_diff.ingredients.is_empty()
        && stage_diff.outputs.is_empty()
        && !stage_diff.is_forgotten;
    (!is_same).then_some(stage_diff)
}

fn metric_differences(
    before: Option<&Record>,
    after: Option<&Record>,
) -> Vec<(String, Option<f64>, Option<f64>)> {
    let metrics = |record: Option<&Record>| {
        record
            .map(|r| r.execution.metrics.clone())
            .unwrap_or_default()
    };
    let (before, after) = (metrics(before), metrics(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            (
                name.clone(),
                before.get(name).copied(),
                after.get(name).copied(),
            )
        })
        .filter(|(_, before, after)| before.map(f64::to_bits) != after.map(f64::to_bits))
        .collect()
}

impl StageDiff {
    fn lines(&self, block: &mut Block, style: Style) {
        block.line("");
        block.line(&style.bold(&self.stage));
        if let Some(presence) = self.presence {
            block.line(&format!("  {presence}"));
            return;
        }
        for difference in &self.ingredients {
            block.line(&format!("  {}", difference_text(difference, style)));
        }
        if self.is_forgotten {
            block.line(
                "  the keys differ; the cache no longer has the record of what they were made of",
            );
        }
        if self.is_irreproducible {
            let text = format!(
                "  the same key gave other results: {}",
                self.outputs.join(", ")
            );
            block.line(&style.red(&text));
        } else if self.outputs.is_empty() {
            block.line(&style.dim("  the results are the same"));
        } else {
            block.line(&format!("  other results: {}", self.outputs.join(", ")));
        }
        let text = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), units::number);
        let rows: Vec<Vec<String>> = self
            .metrics
            .iter()
            .map(|(name, before, after)| {
                let change = match (before, after) {
                    (Some(before), Some(after)) => format!("({:+.3e})", after - before),
                    _ => String::new(),
                };
                vec![
                    style.cyan(name),
                    text(*before),
                    "->".to_owned(),
                    text(*after),
                    style.dim(&change),
                ]
            })
            .collect();
        let align = [
            Align::Left,
            Align::Right,
            Align::Left,
            Align::Right,
            Align::Left,
        ];
        block.lines(2, columns(&rows, &align));
    }

    fn to_json(&self) -> Value {
        let metrics: Vec<Value> = self
            .metrics
            .iter()
            .map(|(name, before, after)| json!({ "name": name, "before": before, "after": after }))
            .collect();
        json!({
            "stage": self.stage, "presence": self.presence, "ingredients": self.ingredients,
            "outputs": self.outputs, "irreproducible": self.is_irreproducible, "metrics": metrics,
        })
    }
}
