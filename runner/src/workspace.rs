//! Where a run happens: the user's folder and the program's own state in it.

use std::path::{Path, PathBuf};

/// A workspace: the folder whose files the pipelines name, with the program's state below `.natron/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    root: PathBuf,
    cache: PathBuf,
    state: PathBuf,
}

impl Workspace {
    /// The workspace at `root`, with its cache in `.natron/cache` unless `cache` says otherwise.
    pub fn new(root: impl Into<PathBuf>, cache: Option<PathBuf>) -> Self {
        let root = root.into();
        let cache = cache.unwrap_or_else(|| root.join(".natron").join("cache"));
        let state = root.join(".natron");
        Self { root, cache, state }
    }

    /// The same with the program's state elsewhere.
    #[must_use]
    pub fn with_state(mut self, state: impl Into<PathBuf>) -> Self {
        self.state = state.into();
        self
    }

    /// The workspace that `start` lies in: the nearest folder upwards with a `.natron` or `pipelines` in it, else `start`.
    pub fn find(start: &Path) -> PathBuf {
        let marked =
            |folder: &&Path| folder.join(".natron").is_dir() || folder.join("pipelines").is_dir();
        start.ancestors().find(marked).unwrap_or(start).to_owned()
    }

    /// The user's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The program's state: runs, plan, stat cache.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// The store of results.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where `path` of a pipeline file is.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}
