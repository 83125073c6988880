//! Any artifact, and its way to bytes and back.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Bytes, ColumnDigest, Digest, FileContent, FileDigest, Files, Hasher, Manifest, Metrics, Model,
    Report, Table, TensorDigest,
};

/// The kinds of artifacts.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Columns of equal length: an Arrow IPC file.
    Table,
    /// Weights and a card: safetensors and JSON.
    Model,
    /// A tree of numbers: JSON.
    Metrics,
    /// One self-contained HTML page.
    Report,
    /// One file of any content.
    File,
    /// A folder.
    Files,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Table => "table",
            Self::Model => "model",
            Self::Metrics => "metrics",
            Self::Report => "report",
            Self::File => "file",
            Self::Files => "files",
        })
    }
}

/// An artifact is not what it should be. The message says what, and where in it.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ArtifactError(String);

impl ArtifactError {
    /// An error with its message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<arrow::error::ArrowError> for ArtifactError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self(error.to_string())
    }
}

/// A typed value on an edge of the graph. A clone shares the content.
#[derive(Debug, Clone, PartialEq)]
pub enum Artifact {
    /// See [`Table`].
    Table(Arc<Table>),
    /// See [`Model`].
    Model(Arc<Model>),
    /// See [`Metrics`].
    Metrics(Arc<Metrics>),
    /// See [`Report`].
    Report(Arc<Report>),
    /// One file: its bytes, and the name it goes by outside.
    File(Arc<FileContent>),
    /// See [`Files`].
    Files(Arc<Files>),
}

/// An artifact in the form that the store keeps.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What it is.
    pub manifest: Manifest,
    /// The bytes of each file of the manifest, in its order.
    pub contents: Vec<Bytes>,
}

impl Artifact {
    /// Kind of the artifact.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Table(_) => Kind::Table,
            Self::Model(_) => Kind::Model,
            Self::Metrics(_) => Kind::Metrics,
            Self::Report(_) => Kind::Report,
            Self::File(_) => Kind::File,
            Self::Files(_) => Kind::Files,
        }
    }

    /// The same artifact with the kind of the stage that made it, where its format has room for that.
    #[must_use]
    pub fn made_by(self, kind: &str) -> Self {
        match self {
            Self::Table(table) => {
                Self::Table(Arc::new(Arc::unwrap_or_clone(table).with_made_by(kind)))
            }
            Self::Model(model) => {
                let mut model = Arc::unwrap_or_clone(model);
                kind.clone_into(&mut model.card.made_by);
                Self::Model(Arc::new(model))
            }
            other => other,
        }
    }

    /// The canonical bytes and their description.
    pub fn seal(&self) -> Result<Sealed, ArtifactError> {
        let single = |name: &str, bytes: Bytes| vec![(name.to_owned(), bytes, false)];
        let files: Vec<(String, Bytes, bool)> = match self {
            Self::Table(table) => single("table.arrow", table.to_ipc()?.into()),
            Self::Model(model) => vec![
                ("model.json".into(), model.card_json().into(), false),
                ("model.safetensors".into(), model.weights()?.into(), false),
            ],
            Self::Metrics(metrics) => single("metrics.json", metrics.to_json().into()),
            Self::Report(report) => single("report.html", report.html.clone().into()),
            Self::File(file) => vec![("file".into(), file.bytes.clone(), file.executable)],
            Self::Files(files) => files
                .iter()
                .map(|(name, file)| (name.to_owned(), file.bytes.clone(), file.executable))
                .collect(),
        };
        let listing: Vec<FileDigest> = files
            .iter()
            .map(|(name, bytes, executable)| FileDigest {
                name: name.clone(),
                digest: bytes.digest(),
                size: bytes.len() as u64,
                executable: *executable,
            })
            .collect();
        let bytes = match self {
            Self::Model(_) | Self::Files(_) => listing_digest(&listing),
            _ => listing[0].digest,
        };
        let logical = match self {
            Self::Table(table) => table.logical_digest(),
            Self::Model(model) => model.logical_digest(),
            _ => bytes,
        };
        let (rows, columns) = match self {
            Self::Table(table) => {
                let digests = table.columns().iter().cloned().zip(table.column_digests());
                let columns = digests
                    .map(|(column, digest)| ColumnDigest { column, digest })
                    .collect();
                (Some(table.n_rows() as u64), columns)
            }
            _ => (None, Vec::new()),
        };
        let tensors = match self {
            Self::Model(model) => model
                .tensor_digests()
                .into_iter()
                .map(|(name, digest)| TensorDigest { name, digest })
                .collect(),
            _ => Vec::new(),
        };
        let manifest = Manifest {
            kind: self.kind(),
            bytes,
            logical,
            files: listing,
            rows,
            columns,
            tensors,
        };
        Ok(Sealed {
            manifest,
            contents: files.into_iter().map(|(_, bytes, _)| bytes).collect(),
        })
    }

    /// The artifact that `manifest` describes, from the bytes of its files in the manifest's order.
    ///
    /// # Errors
    ///
    /// Content that does not parse as its kind. The bytes' digests are the caller's to check.
    pub fn open(manifest: &Manifest, contents: Vec<Bytes>) -> Result<Self, ArtifactError> {
        if contents.len() != manifest.files.len() {
            let (found, expected) = (contents.len(), manifest.files.len());
            return Err(ArtifactError::new(format!(
                "{found} files for an artifact of {expected}"
            )));
        }
        let part = |name: &str| {
            let i = manifest.files.iter().position(|file| file.name == name);
            i.map(|i| &contents[i])
                .ok_or_else(|| ArtifactError::new(format!("the artifact has no file `{name}`")))
        };
        Ok(match manifest.kind {
            Kind::Table => Self::Table(Arc::new(Table::from_ipc(part("table.arrow")?)?)),
            Kind::Model => Self::Model(Arc::new(Model::from_files(
                part("model.json")?,
                part("model.safetensors")?,
            )?)),
            Kind::Metrics => {
                let metrics =
                    Metrics::from_json(part("metrics.json")?).map_err(ArtifactError::new)?;
                Self::Metrics(Arc::new(metrics))
            }
            Kind::Report => {
                let html = String::from_utf8(part("report.html")?.to_vec())
                    .map_err(|_| ArtifactError::new("the report is not UTF-8"))?;
                Self::Report(Arc::new(Report { html }))
            }
            Kind::File => {
                let executable = manifest.files[0].executable;
                Self::File(Arc::new(FileContent {
                    bytes: part("file")?.clone(),
                    executable,
                }))
            }
            Kind::Files => {
                let mut files = Files::new();
                for (file, bytes) in manifest.files.iter().zip(contents) {
                    files
                        .insert(
                            &file.name,
                            FileContent {
                                bytes,
                                executable: file.executable,
                            },
                        )
                        .map_err(ArtifactError::new)?;
                }
                Self::Files(Arc::new(files))
            }
        })
    }
}

fn listing_digest(files: &[FileDigest]) -> Digest {
    let mut hasher = Hasher::new("natron listing v1");
    for file in files {
        hasher = hasher
            .part(file.name.as_bytes())
            .part(file.digest.as_bytes())
            .part(&[u8::from(file.executable)]);
    }
    hasher.finish()
}

macro_rules! from_parts {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Artifact {
            fn from(value: $kind) -> Self {
                Self::$kind(Arc::new(value))
            }
        })*
    };
}
from_parts!(Table, Model, Metrics, Report, Files);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_to_the_same_bytes() {
        let mut metrics = Metrics::new();
        metrics.set("auc", 0.5).unwrap();
        let mut files = Files::new();
        let content = |text: &str, executable| FileContent {
            bytes: Bytes::from(text.as_bytes()),
            executable,
        };
        files.insert("b/run.sh", content("true", true)).unwrap();
        files.insert("a.txt", content("x", false)).unwrap();
        let artifacts: Vec<Artifact> = vec![
            metrics.into(),
            files.into(),
            Report {
                html: "<p>ok</p>".into(),
            }
            .into(),
            Table::builder()
                .time_index(vec![1, 2])
                .build()
                .unwrap()
                .into(),
            Artifact::File(Arc::new(content("raw", false))),
        ];

        for artifact in artifacts {
            let sealed = artifact.seal().unwrap();
            let again = Artifact::open(&sealed.manifest, sealed.contents.clone()).unwrap();
            assert_eq!(again, artifact);
            assert_eq!(again.seal().unwrap().manifest, sealed.manifest);
        }
    }
}
