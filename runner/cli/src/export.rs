//! `natron export`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use natron_artifacts::{Artifact, Table};
use serde_json::json;

use crate::{
    arguments::PipelineOption,
    failure::Failure,
    program::Program,
    results::{self, StageOutput},
    units,
};

mod csv;
mod parquet;
pub(crate) mod place;

const EXAMPLES: &str = "\
Examples:
  natron export features -o features.csv
  natron export features -o features.parquet
  natron export finetune.model -o my-model
  natron export report -o report.html --force";

/// Write a result to a file: a table as CSV, Parquet or Arrow, anything else as it is.
///
/// In CSV, floats have 17 significant digits (single precision: 9), which read back to the same bits; times are RFC 3339 in
/// UTC; a missing value is an empty field. The file appears whole or not at all.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A stage or its output: `stage.output`.
    #[arg(value_name = "STAGE[.OUTPUT]")]
    artifact: String,
    /// Where to write: a file, or a folder for a model or files.
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// How to write a table [default: by the ending of PATH].
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pipeline: PipelineOption,
}

/// The ways to write a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated text.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow IPC: the bytes of the cache.
    Arrow,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            "arrow" | "feather" | "ipc" => Some(Self::Arrow),
            _ => None,
        }
    }
}

pub(crate) fn run(program: &Program, arguments: &Arguments) -> Result<(), Failure> {
    let path = &arguments.output;
    place::check(path, arguments.force)?;
    let (workspace, output) = results::output(program, &arguments.pipeline, &arguments.artifact)?;
    let artifact = output.open(&workspace)?;
    let n_bytes = match &artifact {
        Artifact::Table(table) => write_table(table, arguments)?,
        _ if arguments.format.is_some() => {
            return Err(Failure::usage(format!(
                "`{}` is a {}, not a table",
                output.name(),
                artifact.kind()
            ))
            .help("leave --format away; it is written as it is"));
        }
        _ => place::write_files(path, &output.manifest, &artifact)?,
    };
    report(program, &output, path, n_bytes);
    Ok(())
}

fn write_table(table: &Table, arguments: &Arguments) -> Result<u64, Failure> {
    let path = &arguments.output;
    let Some(format) = arguments.format.or_else(|| Format::of(path)) else {
        return Err(Failure::usage(format!(
            "cannot tell from `{}` how to write the table",
            path.display()
        ))
        .help("end it in .csv, .parquet or .arrow, or give --format"));
    };
    place::write_file(path, false, |file| match format {
        Format::Csv => csv::write(table, file),
        Format::Parquet => parquet::write(table, file),
        Format::Arrow => {
            let bytes = table.to_ipc().map_err(std::io::Error::other)?;
            std::io::Write::write_all(file, &bytes)
        }
    })
}

fn report(program: &Program, output: &StageOutput, path: &Path, n_bytes: u64) {
    let shown = path.display().to_string();
    if program.output.is_json() {
        let kind = output.manifest.kind;
        program.output.json(json!({
            "stage": output.stage, "output": output.port, "kind": kind, "path": shown, "size": n_bytes,
        }));
    } else {
        program
            .output
            .note(&format!("wrote {shown} ({})", units::bytes(n_bytes)));
    }
}
