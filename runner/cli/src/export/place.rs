//! Files and folders that appear whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use natron_artifacts::{Artifact, Kind, Manifest};

use crate::failure::Failure;

/// Refuses to replace what is at `path`, unless forced.
///
/// A device, a pipe or a link is not replaced in any case: what it stands for is elsewhere.
pub(crate) fn check(path: &Path, force: bool) -> Result<(), Failure> {
    if path.file_name().is_none() {
        return Err(Failure::usage(format!(
            "`{}` is no name for a file",
            path.display()
        )));
    }
    let Ok(found) = path.symlink_metadata() else {
        return Ok(());
    };
    if !found.is_file() && !found.is_dir() {
        let what = if found.is_symlink() {
            "a link"
        } else {
            "no regular file"
        };
        return Err(Failure::usage(format!(
            "`{}` is {what}, and is not replaced",
            path.display()
        ))
        .help("name a file, or pipe the standard output"));
    }
    if force {
        return Ok(());
    }
    Err(
        Failure::usage(format!("`{}` is there already", path.display()))
            .help("--force replaces it"),
    )
}

/// Writes one file and returns its size.
pub(super) fn write_file(
    path: &Path,
    executable: bool,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<u64, Failure> {
    let temporary = beside(path, "tmp");
    let result = (|| {
        make_folder(path)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        write(&mut file)?;
        if executable {
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
        }
        file.sync_all()?;
        let size = file.metadata()?.len();
        if path.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a folder",
            ));
        }
        fs::rename(&temporary, path)?;
        Ok(size)
    })();
    result.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Failure::file("write", path, &error)
    })
}

/// Writes what is no table as it is, and returns its size.
pub(super) fn write_files(
    path: &Path,
    manifest: &Manifest,
    artifact: &Artifact,
) -> Result<u64, Failure> {
    let sealed = artifact.seal()?;
    if !matches!(manifest.kind, Kind::Model | Kind::Files) {
        let file = &sealed.manifest.files[0];
        return write_file(path, file.executable, |out| {
            out.write_all(&sealed.contents[0])
        });
    }
    let temporary = beside(path, "tmp");
    let result = (|| {
        make_folder(path)?;
        fs::create_dir(&temporary)?;
        for (file, bytes) in sealed.manifest.files.iter().zip(&sealed.contents) {
            let target = temporary.join(&file.name);
            make_folder(&target)?;
            let mut out = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&target)?;
            out.write_all(bytes)?;
            if file.executable {
                out.set_permissions(fs::Permissions::from_mode(0o755))?;
            }
            out.sync_all()?;
        }
        replace_folder(&temporary, path)
    })();
    result.map_err(|error| {
        let _ = fs::remove_dir_all(&temporary);
        Failure::file("write", path, &error)
    })?;
    Ok(sealed.manifest.size())
}

/// A folder cannot be renamed over another: the old one steps aside first.
fn replace_folder(new: &Path, path: &Path) -> io::Result<()> {
    let aside = beside(path, "old");
    let existed = match fs::rename(path, &aside) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if let Err(error) = fs::rename(new, path) {
        if existed {
            fs::rename(&aside, path)?;
        }
        return Err(error);
    }
    if existed {
        let is_folder = aside.symlink_metadata()?.is_dir();
        if is_folder {
            fs::remove_dir_all(&aside)?;
        } else {
            fs::remove_file(&aside)?;
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::create_dir_all(folder),
        _ => Ok(()),
    }
}

/// A name beside `path` that nobody else has.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.{what}", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        fs::write(&path, "old").unwrap();

        assert!(check(&path, false).is_err());
        let failed = write_file(&path, false, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().code(), 5);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(
            write_file(&path, false, |file| file.write_all(b"new")).unwrap(),
            3
        );
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_folder_replaces_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (new, path) = (folder.path().join("new"), folder.path().join("model"));
        for (place, text) in [(&new, "new"), (&path, "old")] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("model.json"), text).unwrap();
        }

        replace_folder(&new, &path).unwrap();
        assert_eq!(fs::read(path.join("model.json")).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
