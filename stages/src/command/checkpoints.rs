//! The checkpoint folder of a program, which most programs leave empty.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use natron_artifacts::{StageContext, StageError};

/// Empty folders that wait to become a checkpoint folder. Renaming one costs a hundredth of making and removing one where
/// the disk is told of every freed block.
static SPARE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// More empty folders than these are not kept.
const MOST_SPARE: usize = 64;

/// The checkpoint folder while a program runs.
pub(super) struct Checkpoints {
    path: PathBuf,
    /// Where empty ones are kept.
    parent: PathBuf,
}

impl Checkpoints {
    /// The folder, made if it was not there.
    pub(super) fn open(context: &StageContext) -> Result<Self, StageError> {
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|e| StageError::io(format!("cannot find `{}`", path.display()), e))
        };
        let path = absolute(context.checkpoints_path())?;
        let parent = absolute(context.scratch_parent())?;
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let position = spare
            .iter()
            .rposition(|folder| folder.parent() == Some(&parent));
        let found = position.map(|i| spare.swap_remove(i));
        drop(spare);
        // A folder with something in it is not replaced.
        if found.is_none_or(|found| fs::rename(&found, &path).is_err()) {
            context.checkpoints()?;
        }
        Ok(Self { path, parent })
    }

    /// Where it is, for a program that runs in another folder than we do.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the folder away if it is empty.
    fn retract(&self) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if fs::read_dir(&self.path)?.next().is_some() {
            return Ok(());
        }
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let spare_path = self.parent.join(format!("checkpoints-{n}"));
        fs::rename(&self.path, &spare_path)?;
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() == MOST_SPARE {
            // Its owner removes it with the folder that it lies in.
            spare.remove(0);
        }
        spare.push(spare_path);
        Ok(())
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        // One that stays, empty, is found again by the next attempt.
        let _ = self.retract();
    }
}
