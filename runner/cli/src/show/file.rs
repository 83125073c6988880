//! Artifacts in files that are not in the store.

use std::{fs, fs::File, path::Path, sync::Arc};

use arrow::{
    array::RecordBatch, compute::concat_batches, datatypes::SchemaRef, ipc::reader::FileReader,
};
use natron_artifacts::{Artifact, Bytes, FileContent, Metrics, Model, Report, Table};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::is_model_folder;
use crate::{failure::Failure, style::printable};

/// The artifact in the file or folder, by its name's ending.
pub(super) fn read(path: &Path) -> Result<Artifact, Failure> {
    if is_model_folder(path) {
        return model(path);
    }
    if path.is_dir() {
        return Err(Failure::usage(format!(
            "`{}` is a folder, and not of an exported model",
            path.display()
        )));
    }
    let damaged = |error: &dyn std::fmt::Display| {
        Failure::usage(format!(
            "`{}` is damaged, or not what its name says: {error}",
            path.display()
        ))
    };
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default()
        .to_ascii_lowercase();
    match ending.as_str() {
        "arrow" | "feather" | "ipc" => {
            let reader = FileReader::try_new(open(path)?, None).map_err(|e| damaged(&e))?;
            let schema = reader.schema();
            let batches = reader
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| damaged(&e))?;
            table(&schema, &batches).map_err(|e| damaged(&e))
        }
        "parquet" => {
            let builder =
                ParquetRecordBatchReaderBuilder::try_new(open(path)?).map_err(|e| damaged(&e))?;
            // The reader's own schema is without our facts.
            let schema = Arc::clone(builder.schema());
            let reader = builder.build().map_err(|e| damaged(&e))?;
            let batches = reader
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| damaged(&e))?;
            table(&schema, &batches).map_err(|e| damaged(&e))
        }
        "safetensors" => match path.parent() {
            Some(folder) if is_model_folder(folder) => model(folder),
            _ => Err(Failure::usage(format!(
                "`{}` has no `model.json` beside it",
                path.display()
            ))),
        },
        "json" if path.file_name().is_some_and(|name| name == "model.json") => {
            model(path.parent().unwrap_or(Path::new(".")))
        }
        "json" => {
            let metrics = Metrics::from_json(&bytes(path)?).map_err(|e| damaged(&e))?;
            Ok(metrics.into())
        }
        "html" => {
            let html = String::from_utf8(bytes(path)?).map_err(|e| damaged(&e))?;
            Ok(Report { html }.into())
        }
        _ => Ok(Artifact::File(Arc::new(FileContent {
            bytes: bytes(path)?.into(),
            executable: false,
        }))),
    }
}

fn table(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Artifact, String> {
    let batch = concat_batches(schema, batches).map_err(|e| e.to_string())?;
    Ok(Table::from_arrow(&batch).map_err(|e| e.to_string())?.into())
}

fn model(folder: &Path) -> Result<Artifact, Failure> {
    let (card, weights) = (folder.join("model.json"), folder.join("model.safetensors"));
    let model = Model::from_files(&bytes(&card)?, &bytes(&weights)?)
        .map_err(|error| Failure::usage(format!("`{}`: {error}", folder.display())))?;
    Ok(model.into())
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::file("read", path, &error))
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::file("read", path, &error))
}

/// The first lines of the content, if it is text.
pub(super) fn text_of(content: &Bytes) -> Option<String> {
    const MOST_LINES: usize = 20;
    let text = std::str::from_utf8(content).ok()?;
    let lines: Vec<String> = text.lines().take(MOST_LINES).map(printable).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}
