//! The engine's folder as the system has it: its files, by their names.
//!
//! On Unix everything goes through an open handle of the directory, so that nothing can land in
//! another one that has taken its place at the path, and a path can be compared with what is held
//! open. Elsewhere everything goes by the path.

#[cfg(unix)]
#[path = "directory/by_handle.rs"]
mod system;
#[cfg(not(unix))]
#[path = "directory/by_path.rs"]
mod system;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::system::Handle;
use super::disk::{self, Call};

pub(in crate::store::embedded) use self::system::{
    FileId, id_of, make, origin_of, place_of, read_at, write_at,
};

/// How a file is opened. A link is never followed, and what is made is for its owner alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    /// To read and to write what is there.
    Change,
    /// To write blocks past the page cache, each of which is on the disk when its call returns.
    Through,
    /// To read and to write what isn't there yet.
    Create,
    /// To read and to write, made if it isn't there; waits for nobody at the other end of a pipe.
    Lock,
}

/// What the system says of a name, links not followed.
#[derive(Clone, Copy, Debug)]
pub(in crate::store::embedded) struct Found {
    /// Not so for a link, a directory, or whatever else isn't a file with bytes in it.
    pub(in crate::store::embedded) is_file: bool,
    pub(in crate::store::embedded) bytes: u64,
    /// How many bytes of the disk it takes, holes left out where the system tells.
    pub(in crate::store::embedded) taken_bytes: u64,
}

/// A directory that is held open.
#[derive(Debug)]
pub(in crate::store::embedded) struct Directory {
    path: PathBuf,
    handle: Handle,
}

impl Directory {
    /// Opens the directory at an absolute path.
    pub(in crate::store::embedded) fn open(path: &Path) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            path: path.to_owned(),
            handle: Handle::open(path)?,
        }))
    }

    /// Where it was when it was opened.
    pub(in crate::store::embedded) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::store::embedded) fn name(self: &Arc<Self>, name: impl Into<String>) -> Name {
        let text = name.into();
        Name {
            path: self.path.join(&text),
            directory: Arc::clone(self),
            text,
        }
    }

    /// The names of all that is in it.
    pub(in crate::store::embedded) fn names(&self) -> io::Result<Vec<String>> {
        self.handle.names()
    }

    /// How much room there is in its file system; `None` where the system doesn't say.
    pub(in crate::store::embedded) fn free_bytes(&self) -> Option<u64> {
        self.handle.free_bytes()
    }

    /// Whether its mode lets others than its owner write to it. Never so where there are no such
    /// modes.
    pub(in crate::store::embedded) fn may_others_write(&self) -> io::Result<bool> {
        self.handle.may_others_write()
    }

    /// Makes creations, renames and removals in it durable.
    pub(in crate::store::embedded) fn sync(&self) -> io::Result<()> {
        disk::call(Call::SyncFolder(&self.path), || self.handle.sync())
    }
}

/// Makes durable what was created in a directory that isn't the engine's.
pub(in crate::store::embedded) fn sync_parent(path: &Path) -> io::Result<()> {
    disk::call(Call::SyncFolder(path), || system::sync(path))
}

/// A name in a directory, whether or not there is a file that has it.
#[derive(Clone, Debug)]
pub(in crate::store::embedded) struct Name {
    directory: Arc<Directory>,
    text: String,
    path: PathBuf,
}

impl Name {
    pub(in crate::store::embedded) fn as_str(&self) -> &str {
        &self.text
    }

    /// The whole path, to show it or to tell files apart by; nothing is opened by it.
    pub(in crate::store::embedded) fn path(&self) -> &Path {
        &self.path
    }

    /// A new, empty file that only its owner may read.
    pub(in crate::store::embedded) fn create(&self) -> io::Result<File> {
        disk::call(Call::Create(&self.path), || self.open(Access::Create))
    }

    pub(in crate::store::embedded) fn open_to_read(&self) -> io::Result<File> {
        self.open(Access::Read)
    }

    pub(in crate::store::embedded) fn open_to_change(&self) -> io::Result<File> {
        self.open(Access::Change)
    }

    /// Opens it to write whole blocks past the page cache, from blocks of the memory, durably.
    /// `None` where the system or the file system has no such thing.
    pub(in crate::store::embedded) fn open_to_write_through(&self) -> Option<File> {
        let can = cfg!(target_os = "linux");
        can.then(|| self.open(Access::Through).ok()).flatten()
    }

    pub(in crate::store::embedded) fn open_to_lock(&self) -> io::Result<File> {
        self.open(Access::Lock)
    }

    /// What there is of this name, if there is anything.
    pub(in crate::store::embedded) fn look(&self) -> io::Result<Option<Found>> {
        self.directory.handle.look(&self.text)
    }

    /// How many bytes the file has.
    pub(in crate::store::embedded) fn bytes(&self) -> io::Result<u64> {
        let found = self.look()?.ok_or(io::ErrorKind::NotFound)?;
        Ok(found.bytes)
    }

    pub(in crate::store::embedded) fn is_there(&self) -> io::Result<bool> {
        Ok(self.look()?.is_some())
    }

    pub(in crate::store::embedded) fn rename(&self, to: &Self) -> io::Result<()> {
        let rename = || self.directory.handle.rename(&self.text, &to.text);
        disk::call(Call::Rename(&self.path, &to.path), rename)
    }

    pub(in crate::store::embedded) fn remove(&self) -> io::Result<()> {
        let remove = || self.directory.handle.remove(&self.text);
        disk::call(Call::Remove(&self.path), remove)
    }

    fn open(&self, access: Access) -> io::Result<File> {
        self.directory.handle.open_file(&self.text, access)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_done_by_name_stays_in_the_directory_that_was_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("path"), folder.path().join("moved"));
        fs::create_dir(&path).unwrap();
        let directory = Directory::open(&path).unwrap();
        let (name, other) = (directory.name("name"), directory.name("other"));
        name.create().unwrap();
        fs::rename(&path, &moved).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("name"), "another's").unwrap();

        assert_eq!(name.bytes().unwrap(), 0);
        name.rename(&other).unwrap();
        assert!(!name.is_there().unwrap());
        assert_eq!(directory.names().unwrap(), ["other"]);
        name.create().unwrap();
        assert!(name.create().is_err(), "it is there already");
        name.remove().unwrap();
        directory.sync().unwrap();
        assert!(moved.join("other").exists());
        assert_eq!(fs::read_to_string(path.join("name")).unwrap(), "another's");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let link = directory.name("link");
        assert!(link.open_to_read().is_err());
        assert!(link.open_to_change().is_err());
        assert!(link.open_to_lock().is_err());
        assert!(!link.look().unwrap().unwrap().is_file);
        link.remove().unwrap();
        assert!(outside.path().exists());
        assert!(!link.is_there().unwrap());
    }
}
