//! Views: workspace paths that show outputs. They are projections of the store and kept as the store has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use natron_artifacts::{Artifact, Digest, Kind, Manifest};
use serde::{Deserialize, Serialize};

use crate::{Graph, InputEdge, SessionError, Workspace, history::write_atomically, lock_path};

/// What the runs of a workspace have written for views: path and content. Only that may be replaced.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Written(BTreeMap<PathBuf, Digest>);

impl Written {
    /// The workspace's list; empty when there is none.
    pub(crate) fn read(workspace: &Workspace) -> Self {
        let text = fs::read(Self::path(workspace)).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    pub(crate) fn save(&self, workspace: &Workspace) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_atomically(&Self::path(workspace), &text)
    }

    /// Whether a run has written to `path`.
    pub(crate) fn knows(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// Whether `path` holds what a run left there.
    pub(crate) fn is_as_left(&self, path: &Path, content: Option<Digest>) -> bool {
        self.0.get(path).copied() == content
    }

    pub(crate) fn note(&mut self, path: &Path, content: Option<Digest>) {
        if let Some(content) = content {
            self.0.insert(path.to_owned(), content);
        }
    }

    fn path(workspace: &Workspace) -> PathBuf {
        workspace.state().join("views.json")
    }
}

/// Refuses views that would replace what the pipeline reads, or that lead out of the workspace through a link.
pub(crate) fn check(graph: &Graph, workspace: &Workspace, file: &Path) -> Result<(), SessionError> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let mut read: BTreeSet<PathBuf> = [real(file), real(&lock_path(file))]
        .into_iter()
        .flatten()
        .collect();
    for instance in &graph.instances {
        read.extend(instance.sources.values().filter_map(|path| real(path)));
        read.extend(
            instance
                .inputs
                .values()
                .flatten()
                .filter_map(|edge| match edge {
                    InputEdge::File { path } => real(path),
                    InputEdge::Output { .. } => None,
                }),
        );
    }
    let root = real(workspace.root());
    for path in graph
        .instances
        .iter()
        .flat_map(|instance| instance.views.values())
    {
        let refused = |why: &str| {
            Err(SessionError::ViewRefused {
                path: path.clone(),
                why: why.to_owned(),
            })
        };
        if real(path).is_some_and(|path| read.contains(&path)) {
            return refused("the pipeline reads this file; name another path");
        }
        let folder = path.ancestors().skip(1).find_map(real);
        if let (Some(root), Some(folder)) = (&root, folder)
            && !folder.starts_with(root)
        {
            return refused("a link leads out of the workspace; name a path inside");
        }
    }
    Ok(())
}

/// Whether the files at `path` have the content of `manifest`. `digest` gives a file's digest, or `None` when it is not there.
pub(crate) fn is_current(
    manifest: &Manifest,
    path: &Path,
    digest: &mut dyn FnMut(&Path) -> Option<Digest>,
) -> bool {
    manifest
        .files
        .iter()
        .all(|file| digest(&place(manifest, path, &file.name)) == Some(file.digest))
}

/// Writes `artifact` to `path`: a file, or for a model and files a folder. Each file appears whole or not at all.
pub fn write_view(manifest: &Manifest, artifact: &Artifact, path: &Path) -> io::Result<()> {
    let sealed = artifact.seal().map_err(io::Error::other)?;
    for (file, bytes) in sealed.manifest.files.iter().zip(&sealed.contents) {
        let target = place(manifest, path, &file.name);
        let folder = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut temporary, bytes)?;
        let mode = if file.executable { 0o755 } else { 0o644 };
        temporary
            .as_file()
            .set_permissions(fs::Permissions::from_mode(mode))?;
        temporary.persist(&target).map_err(|error| error.error)?;
    }
    Ok(())
}

/// Where a file of the artifact lies when the artifact is shown at `path`.
fn place(manifest: &Manifest, path: &Path, name: &str) -> PathBuf {
    match manifest.kind {
        Kind::Model | Kind::Files => path.join(name),
        Kind::Table | Kind::Metrics | Kind::Report | Kind::File => path.to_owned(),
    }
}
