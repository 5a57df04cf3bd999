//! The files as redb sees them, and where the fault tests take hold of them. Without those a file is redb's own, and
//! nothing is noted.

use std::fs::File;
use std::io;
use std::path::Path;

use redb::{DatabaseError, StorageBackend};

use super::directory::Name;
#[cfg(onceward_faults)]
use super::watched_file::drop_from_cache;
#[cfg(onceward_faults)]
pub(super) use super::watched_file::{WatchedFile as DataFile, call, step};
#[cfg(not(onceward_faults))]
pub(super) type DataFile = redb::backends::FileBackend;

/// The file of this name, as redb writes to it.
#[cfg(onceward_faults)]
pub(super) fn data_file(file: File, name: &Name) -> Result<DataFile, DatabaseError> {
    DataFile::new(file, name.path())
}

/// The file of this name, as redb writes to it.
#[cfg(not(onceward_faults))]
pub(super) fn data_file(file: File, _: &Name) -> Result<DataFile, DatabaseError> {
    DataFile::new(file)
}

/// Opens a file such that what is read from it is on the disk: what was written and not synced is synced first, and what
/// the page cache shows though a sync of it once failed is dropped from there, where the system can do that.
pub(super) fn file_as_on_disk(name: &Name) -> Result<DataFile, redb::Error> {
    let file = name.open_to_read()?;
    let data = data_file(file.try_clone()?, name)?;
    data.sync_data()?;
    drop_from_cache(&file, name.path())?;
    Ok(data)
}

#[cfg(not(onceward_faults))]
fn drop_from_cache(file: &File, _: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    // Read again in one go: page by page, in redb's order, that takes far longer.
    for advice in [rustix::fs::Advice::DontNeed, rustix::fs::Advice::WillNeed] {
        rustix::fs::fadvise(file, 0, None, advice)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
    Ok(())
}

/// Opens a file that holds a database already: redb would begin a new one in an empty file.
pub(super) fn existing_file(name: &Name) -> Result<DataFile, redb::Error> {
    let file = name.open_to_change()?;
    if file.metadata()?.len() == 0 {
        return Err(redb::Error::Io(io::ErrorKind::InvalidData.into()));
    }
    Ok(data_file(file, name)?)
}

/// The locks of a backend that wraps another one, in the field of this name.
macro_rules! forward_locks {
    ($inner:ident) => {
        fn try_lock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            self.$inner.try_lock_range(start, end)
        }

        fn try_lock_shared_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            self.$inner.try_lock_shared_range(start, end)
        }

        fn lock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            self.$inner.lock_range(start, end)
        }

        fn lock_shared_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            self.$inner.lock_shared_range(start, end)
        }

        fn unlock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<(), redb::BackendError> {
            self.$inner.unlock_range(start, end)
        }

        fn query_lock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> Result<bool, redb::BackendError> {
            self.$inner.query_lock_range(start, end)
        }
    };
}
pub(super) use forward_locks;

/// What is done to the folder, or to a file of it as a whole.
#[cfg_attr(not(onceward_faults), allow(dead_code))] // Only the fault tests look at it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call<'a> {
    Create(&'a Path),
    Write(&'a Path, &'a [u8]),
    Sync(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    SyncFolder(&'a Path),
}

/// A step of one of the store's threads, where the fault tests let it panic.
#[cfg(not(onceward_faults))]
pub(super) const fn step(_: &Path, _: Step) {}

/// Where a thread of the store is.
#[cfg_attr(not(onceward_faults), allow(dead_code))] // Only the fault tests look at it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Decided,
    Committing,
    Committed,
    Publishing,
    Published,
    Answering,
    Rolling,
    RollListed,
    Interrupted,
    Resuming,
    Sealing,
    SealWritten,
    SealRenamed,
    SealListed,
    Merging,
    MergeWritten,
    MergeListed,
    Tidied,
    Carried,
    Unlisted,
    Unlinked,
}

/// Asks the system for something.
#[cfg(not(onceward_faults))]
pub(super) fn call<T>(_: Call<'_>, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    run()
}
