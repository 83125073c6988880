//! Views: workspace paths that show outputs. They are projections of the store and kept as the store has them.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use natron_artifacts::{Artifact, Kind, Manifest};

/// Whether the files at `path` have the content of `manifest`. `digest` gives a file's digest, or `None` when it is not there.
pub(crate) fn is_current(
    manifest: &Manifest,
    path: &Path,
    digest: &mut dyn FnMut(&Path) -> Option<natron_artifacts::Digest>,
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
