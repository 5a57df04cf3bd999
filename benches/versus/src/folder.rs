//! The folder that everything is written to, removed in the end.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

#[derive(Debug)]
pub(crate) struct WorkFolder(PathBuf);

impl WorkFolder {
    /// A new one inside of `place`, by default beside the program, which was built on a disk.
    pub(crate) fn make(place: Option<&Path>) -> Result<Self> {
        let program = std::env::current_exe()?;
        let place = match place {
            Some(place) => place,
            None => program.parent().context("the program is in no folder")?,
        };
        fs::create_dir_all(place)?;
        let folder = tempfile::Builder::new()
            .prefix("versus-")
            .tempdir_in(place.canonicalize()?)
            .with_context(|| format!("{} can't be written", place.display()))?;
        // PostgreSQL runs as another user and has to get through.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        Ok(Self(folder.keep()))
    }

    /// One that an earlier life of this process has made.
    pub(crate) fn adopt(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a folder that isn't needed any more; says so if that fails.
pub(crate) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("{} could not be removed: {error}", folder.display());
    }
}
