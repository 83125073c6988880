//! Views: workspace paths that show outputs. They are projections of the store and kept as the store has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use natron_artifacts::{Artifact, Digest, Kind, Manifest};
use natron_cache::read_regular;

use crate::{
    Graph, InputEdge, SessionError, Workspace,
    history::{Flush, write_whole},
    lock_path,
};

/// What the runs of a workspace have written for views: path and content. Only that may be replaced.
#[derive(Debug, Default)]
pub(crate) struct Written {
    root: PathBuf,
    /// Paths below the workspace are relative to it, so that it can be moved. Without a digest: about to be written, by a
    /// run that may have been killed meanwhile.
    contents: BTreeMap<PathBuf, Option<Digest>>,
}

impl Written {
    /// The workspace's list; empty when there is none.
    pub(crate) fn read(workspace: &Workspace) -> Self {
        let text = read_regular(&Self::path(workspace)).ok();
        let contents: BTreeMap<PathBuf, Option<Digest>> = text
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let mut written = Self {
            root: workspace.root().to_owned(),
            contents: BTreeMap::new(),
        };
        for (path, content) in contents {
            let path = written.relative(&path);
            written.contents.insert(path, content);
        }
        written
    }

    pub(crate) fn save(&self, workspace: &Workspace) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.contents).map_err(io::Error::other)?;
        let path = Self::path(workspace);
        if fs::symlink_metadata(&path).is_ok_and(|there| there.is_dir()) {
            // Whoever put a folder there may want it back.
            fs::rename(
                &path,
                path.with_extension(format!("{}.aside", std::process::id())),
            )?;
        }
        // After a power cut, views whose writing it does not tell of are left alone, with an error that says so.
        write_whole(&path, &text, Flush::Never)
    }

    /// Whether a run has written to `path`, or was about to.
    pub(crate) fn knows(&self, path: &Path) -> bool {
        self.contents.contains_key(&self.relative(path))
    }

    /// Whether `path` may hold what a run left there.
    pub(crate) fn is_as_left(&self, path: &Path, content: Option<Digest>) -> bool {
        match self.contents.get(&self.relative(path)) {
            Some(Some(left)) => content == Some(*left),
            Some(None) => true,
            None => content.is_none(),
        }
    }

    /// Whether the list says already that `path` holds `content`.
    pub(crate) fn says(&self, path: &Path, content: Option<Digest>) -> bool {
        self.contents.get(&self.relative(path)) == Some(&content)
    }

    /// Notes that `path` will be written.
    pub(crate) fn announce(&mut self, path: &Path) {
        let path = self.relative(path);
        self.contents.insert(path, None);
    }

    pub(crate) fn note(&mut self, path: &Path, content: Option<Digest>) {
        if content.is_some() {
            let path = self.relative(path);
            self.contents.insert(path, content);
        }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    fn path(workspace: &Workspace) -> PathBuf {
        workspace.state().join("views.json")
    }
}

/// Refuses views that would replace what the pipeline reads, or that lead out of the workspace through a link.
pub(crate) fn check(graph: &Graph, workspace: &Workspace, file: &Path) -> Result<(), SessionError> {
    if graph
        .instances
        .iter()
        .all(|instance| instance.views.is_empty())
    {
        return Ok(());
    }
    let mut paths: BTreeSet<&Path> = BTreeSet::new();
    for instance in &graph.instances {
        paths.extend(instance.sources.values().map(PathBuf::as_path));
        for edge in instance.inputs.values().flatten() {
            if let InputEdge::File { path } = edge {
                paths.insert(path);
            }
        }
    }
    let lock = lock_path(file);
    paths.extend([file, &lock]);
    // Whatever name leads to it, a file is the same by its number.
    let identity = |path: &Path| {
        let stat = fs::metadata(path).ok()?;
        Some((stat.dev(), stat.ino()))
    };
    let read: BTreeSet<(u64, u64)> = paths.into_iter().filter_map(identity).collect();
    let mut folders: BTreeMap<PathBuf, Option<PathBuf>> = BTreeMap::new();
    let mut real = |folder: &Path| {
        if let Some(known) = folders.get(folder) {
            return known.clone();
        }
        let real = fs::canonicalize(folder).ok();
        folders.insert(folder.to_owned(), real.clone());
        real
    };
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
        if identity(path).is_some_and(|identity| read.contains(&identity)) {
            return refused("the pipeline reads this file; name another path");
        }
        let folder = path.ancestors().skip(1).find_map(&mut real);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_was_about_to_write_is_known_in_a_moved_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let workspace = Workspace::new(&old, None);
        let mut written = Written::read(&workspace);
        written.announce(&old.join("half"));
        let content = Some(Digest::of(b"whole"));
        written.note(&old.join("whole"), content);
        written.save(&workspace).unwrap();
        fs::rename(&old, &new).unwrap();

        let found = Written::read(&Workspace::new(&new, None));

        assert!(found.knows(&new.join("half")) && found.knows(&new.join("whole")));
        assert!(!found.knows(&new.join("other")));
        assert!(found.is_as_left(&new.join("half"), Some(Digest::of(b"ha"))));
        assert!(found.is_as_left(&new.join("whole"), content));
        assert!(!found.is_as_left(&new.join("whole"), Some(Digest::of(b"edited"))));
        assert!(found.says(&new.join("whole"), content));
    }
}
