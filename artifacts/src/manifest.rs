//! What the store knows of an artifact without opening it.

use serde::{Deserialize, Serialize};

use crate::{Column, Digest, Kind};

/// An artifact's description: its kind, its digests and the files that it consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Kind of the artifact.
    pub kind: Kind,
    /// Digest of the bytes: of the one file, or of the sorted listing of several.
    pub bytes: Digest,
    /// Digest of the content, whatever its layout in bytes.
    pub logical: Digest,
    /// The files, sorted by name.
    pub files: Vec<FileDigest>,
    /// Rows of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Columns of a table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnDigest>,
    /// Tensors of a model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorDigest>,
}

/// One file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Relative path.
    pub name: String,
    /// Digest of its bytes: its name in the store.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it may be run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnDigest {
    /// The column.
    pub column: Column,
    /// Digest of its values.
    pub digest: Digest,
}

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorDigest {
    /// Its name.
    pub name: String,
    /// Digest of its shape and values.
    pub digest: Digest,
}

impl Manifest {
    /// The sum of the files' lengths, in bytes.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}
