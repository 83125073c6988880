//! `natron show`.

use std::path::{Path, PathBuf};

use clap::Args;
use natron_artifacts::{Artifact, Files};
use natron_cache::Confirmed;
use serde_json::{Value, json};

use crate::{
    arguments::PipelineOption,
    failure::Failure,
    layout::{Align, Block, columns},
    program::Program,
    results::{self, StageOutput},
    units,
};

mod file;
mod metrics;
mod model;
mod statistics;
mod table;

const EXAMPLES: &str = "\
Examples:
  natron show features
  natron show finetune.model
  natron show evaluate.metrics --json
  natron show candles --columns close,volume --rows 20
  natron show my-table.parquet";

/// Show a result: a table, a model, metrics, files.
///
/// Of a table: rows, schema and statistics. Of a model: its card and tensors.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A stage or its output (`stage.output`), or a file that `export` or another program wrote.
    #[arg(value_name = "STAGE[.OUTPUT] | FILE")]
    artifact: String,
    /// Rows to show at the head and at the tail of a table.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rows: usize,
    /// Only these columns, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
    #[command(flatten)]
    pipeline: PipelineOption,
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let name = &arguments.artifact;
    if results::is_path(name) || is_model_folder(Path::new(name)) {
        let artifact = file::read(&PathBuf::from(name))?;
        return show(program, arguments, name, &artifact, None);
    }
    let (workspace, outputs) = results::outputs(program, &arguments.pipeline, name)?;
    let Some(first) = outputs.first() else {
        return Ok(());
    };
    let confirmed = first.confirmed(&workspace);
    match outputs.as_slice() {
        [only] => {
            let artifact = only.open(&workspace)?;
            show(
                program,
                arguments,
                &only.name(),
                &artifact,
                Some(&confirmed),
            )?;
        }
        several => list(program, several, &confirmed),
    }
    if !program.output.is_json() {
        let style = program.output.note_style();
        program.output.note(&style.dim(&verified(&confirmed)));
    }
    Ok(())
}

/// How often the stage was verified, in words.
fn verified(confirmed: &Confirmed) -> String {
    if confirmed.times == 0 {
        return "never verified; `natron verify` computes it again and compares".to_owned();
    }
    let times = match confirmed.times {
        1 => "once".to_owned(),
        n => format!("{} times", units::count(n)),
    };
    let classes: Vec<&str> = confirmed.classes.keys().map(String::as_str).collect();
    let hosts: Vec<&str> = confirmed.hosts.keys().map(String::as_str).collect();
    let last = jiff::Timestamp::from_millisecond(confirmed.last_unix_ms as i64);
    let last = last.map_or_else(|_| "unknown".into(), |t| t.strftime("%Y-%m-%d").to_string());
    format!(
        "verified {times} ({}), on {}, last on {last}",
        classes.join(", "),
        hosts.join(", ")
    )
}

/// The outputs of a stage that has several.
fn list(program: &Program, outputs: &[StageOutput], confirmed: &Confirmed) {
    let output = &program.output;
    if output.is_json() {
        let outputs: Vec<Value> = outputs
            .iter()
            .map(|o| {
                json!({
                    "stage": o.stage, "output": o.port, "kind": o.manifest.kind, "size": o.manifest.size(),
                    "rows": o.manifest.rows, "bytes": o.manifest.bytes, "logical": o.manifest.logical,
                })
            })
            .collect();
        output.json(json!({ "outputs": outputs, "verified": confirmed }));
        return;
    }
    let style = output.data_style();
    let rows: Vec<Vec<String>> = outputs
        .iter()
        .map(|o| {
            let rows = o
                .manifest
                .rows
                .map(|n| format!("{} rows", units::count(n)))
                .unwrap_or_default();
            vec![
                style.cyan(&o.name()),
                o.manifest.kind.to_string(),
                units::bytes(o.manifest.size()),
                rows,
                style.dim(&o.manifest.logical.short()),
            ]
        })
        .collect();
    let align = [
        Align::Left,
        Align::Left,
        Align::Right,
        Align::Right,
        Align::Left,
    ];
    for line in columns(&rows, &align) {
        output.data(&line);
    }
    if let Some(first) = outputs.first() {
        output.note(
            &output
                .note_style()
                .dim(&format!("`natron show {}` shows one of them", first.name())),
        );
    }
}

fn show(
    program: &Program,
    arguments: &Arguments,
    name: &str,
    artifact: &Artifact,
    confirmed: Option<&Confirmed>,
) -> Result<(), Failure> {
    let output = &program.output;
    let (style, width) = (output.data_style(), crate::output::terminal_width());
    let mut value = match artifact {
        Artifact::Table(table) => {
            let table = if arguments.columns.is_empty() {
                table.as_ref().clone()
            } else {
                table.select(&arguments.columns).map_err(|error| {
                    Failure::usage(error.to_string())
                        .help("`natron show` without --columns lists them")
                })?
            };
            if !output.is_json() {
                output.data(&table::text(name, &table, arguments.rows, style, width)?);
                return Ok(());
            }
            table::json(&table, arguments.rows)?
        }
        Artifact::Model(model) => {
            if !output.is_json() {
                output.data(&model::text(name, model, style, width));
                return Ok(());
            }
            model::json(model)
        }
        Artifact::Metrics(metrics) => {
            if !output.is_json() {
                output.data(&metrics::text(name, metrics, style));
                return Ok(());
            }
            json!({ "metrics": metrics.tree() })
        }
        Artifact::Report(report) => {
            let html = &report.html;
            if !output.is_json() {
                output.data(&format!(
                    "{}: a page of {}",
                    style.bold(name),
                    units::bytes(html.len() as u64)
                ));
                output.note(&format!(
                    "`natron export {name} -o report.html` writes it, for a browser"
                ));
                return Ok(());
            }
            json!({ "size": html.len() })
        }
        Artifact::File(content) => {
            if !output.is_json() {
                let size = units::bytes(content.bytes.len() as u64);
                output.data(&format!("{}: a file of {size}", style.bold(name)));
                if let Some(text) = file::text_of(&content.bytes) {
                    output.data(&text);
                }
                return Ok(());
            }
            json!({ "size": content.bytes.len(), "executable": content.executable })
        }
        Artifact::Files(files) => {
            if !output.is_json() {
                output.data(&listing(name, files, style));
                return Ok(());
            }
            let files: Vec<Value> = files
                .iter()
                .map(|(name, f)| json!({ "name": name, "size": f.bytes.len(), "executable": f.executable }))
                .collect();
            json!({ "files": files })
        }
    };
    if let Some(confirmed) = confirmed {
        value["verified"] = json!(confirmed);
    }
    value["name"] = name.into();
    value["kind"] = artifact.kind().to_string().into();
    output.json(value);
    Ok(())
}

fn listing(name: &str, files: &Files, style: crate::style::Style) -> String {
    let mut block = Block::default();
    let size: usize = files.iter().map(|(_, file)| file.bytes.len()).sum();
    block.line(&format!(
        "{}: {}, {}",
        style.bold(name),
        units::plural(files.len(), "file"),
        units::bytes(size as u64)
    ));
    let rows: Vec<Vec<String>> = files
        .iter()
        .map(|(name, file)| {
            let mark = if file.executable { "*" } else { "" };
            vec![
                format!("{}{mark}", style.cyan(name)),
                units::bytes(file.bytes.len() as u64),
            ]
        })
        .collect();
    block.lines(2, columns(&rows, &[Align::Left, Align::Right]));
    block.text()
}

/// Whether the folder holds an exported model.
pub(crate) fn is_model_folder(path: &Path) -> bool {
    path.join("model.json").is_file() && path.join("model.safetensors").is_file()
}

/// The artifact in a file or folder, by its name's ending.
pub(crate) fn read_file(path: &Path) -> Result<Artifact, Failure> {
    file::read(path)
}
