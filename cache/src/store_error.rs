//! What can go wrong with the store.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use natron_artifacts::Digest;
use thiserror::Error;

use crate::StageKey;

/// Trouble with the store. [`StoreError::Missing`] and [`StoreError::Damaged`] mean: make the artifact anew.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The system refused something.
    #[error("cannot {action} `{}`: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The refusal.
        source: Arc<io::Error>,
    },
    /// The directory holds something else, or a store that this program does not understand.
    #[error("`{}` is not a store that this program can use: {reason}", path.display())]
    Format {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// An object is not in the store.
    #[error("object {} is not in the store; the stage that makes it has to run again", digest.short())]
    Missing {
        /// Its name.
        digest: Digest,
    },
    /// An object's bytes were not what its name says. It now counts as missing.
    #[error("object {} was damaged{}; the stage that makes it has to run again", digest.short(), kept(quarantined.as_deref()))]
    Damaged {
        /// Its name.
        digest: Digest,
        /// Where it was moved to, if it could be moved.
        quarantined: Option<PathBuf>,
    },
    /// The bytes are right, but they are not an artifact of the kind that the manifest says.
    #[error("artifact {} does not open: {reason}", digest.short())]
    Unreadable {
        /// Digest of the artifact's bytes.
        digest: Digest,
        /// Why.
        reason: String,
    },
    /// A commit holds bytes that are not what its manifest says: a mistake of the program.
    #[error("output `{output}` holds {found} where its manifest says {expected}")]
    Mismatch {
        /// Name of the output.
        output: String,
        /// Digest or size of the manifest.
        expected: String,
        /// Digest or size of what is there.
        found: String,
    },
    /// A result that had been handed over could not be kept.
    #[error("the result of key {} was not kept: {source}", key.short())]
    NotKept {
        /// The key.
        key: StageKey,
        /// Why.
        source: Box<Self>,
    },
    /// The store can be read, not written.
    #[error("the store `{}` is read-only, so results cannot be kept", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },
    /// Somebody else has the store open.
    #[error("the store `{}` is in use by another run; collect when it has ended", path.display())]
    Busy {
        /// The store.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source: Arc::new(source),
        }
    }

    /// Whether making the artifact anew is the cure.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::Damaged { .. } | Self::Unreadable { .. }
        )
    }
}

fn kept(quarantined: Option<&Path>) -> String {
    quarantined.map_or(String::new(), |path| {
        format!(" and was moved to `{}`", path.display())
    })
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, for example with `natron gc`"
        }
        io::ErrorKind::PermissionDenied => "; check who owns the store",
        _ => "",
    }
}
