//! The files as redb and the log see them, and where the fault tests take hold of them. Without those a file is the
//! system's own, and nothing is noted.

use std::fs::File;
use std::io;
use std::path::Path;

use redb::DatabaseError;

use super::directory::{self, Name};
#[cfg(onceward_faults)]
use super::watched_file::drop_from_cache;
#[cfg(onceward_faults)]
pub(in crate::store::embedded) use super::watched_file::{
    Watched, WatchedFile as DataFile, call, step,
};
#[cfg(not(onceward_faults))]
pub(in crate::store::embedded) type DataFile = redb::backends::FileBackend;

/// The file of this name, as redb writes to it.
#[cfg(onceward_faults)]
pub(in crate::store::embedded) fn data_file(
    file: File,
    name: &Name,
) -> Result<DataFile, DatabaseError> {
    DataFile::new(file, name.path())
}

/// The file of this name, as redb writes to it.
#[cfg(not(onceward_faults))]
pub(in crate::store::embedded) fn data_file(
    file: File,
    _: &Name,
) -> Result<DataFile, DatabaseError> {
    DataFile::new(file)
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

/// A file that is read and written at offsets, by any thread.
#[derive(Debug)]
pub(in crate::store::embedded) struct PlainFile {
    file: File,
    watched: Watched,
}

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

impl PlainFile {
    pub(in crate::store::embedded) fn new(file: File, name: &Name) -> Self {
        let watched = Watched::of(name.path());
        Self { file, watched }
    }

    pub(in crate::store::embedded) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Fills `out`; an error if the file ends before.
    pub(in crate::store::embedded) fn read_at(
        &self,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<()> {
        let read = || directory::read_at(&self.file, offset, out);
        self.watched.read(read)
    }

    pub(in crate::store::embedded) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let write = |bytes: &[u8]| directory::write_at(&self.file, offset, bytes);
        self.watched.write(offset, bytes, write)
    }

    /// Writes zeros where there was nothing.
    pub(in crate::store::embedded) fn write_zeros(
        &self,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.watched.lengthen(offset + length, || {
            let mut done = 0;
            while done < length {
                let more = usize::try_from(length - done).unwrap_or(usize::MAX);
                let zeros = &ZEROS[..more.min(ZEROS.len())];
                directory::write_at(&self.file, offset + done, zeros)?;
                done += zeros.len() as u64;
            }
            Ok(())
        })
    }

    pub(in crate::store::embedded) fn sync_data(&self) -> io::Result<()> {
        self.watched.sync(|| self.file.sync_data())
    }

    /// Sees to it that what is read from here on is on the disk: what was written and not synced is synced first, and
    /// what the page cache shows though a sync of it once failed is dropped from there, where the system can do that.
    pub(in crate::store::embedded) fn settle(&self, name: &Name) -> io::Result<()> {
        self.sync_data()?;
        drop_from_cache(&self.file, name.path())
    }
}

/// Nobody watches.
#[cfg(not(onceward_faults))]
#[derive(Debug)]
struct Watched;

#[cfg(not(onceward_faults))]
#[allow(clippy::unused_self)] // In the fault tests it is somebody.
impl Watched {
    fn of(_: &Path) -> Self {
        Self
    }

    fn read(&self, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        run()
    }

    fn write(
        &self,
        _: u64,
        bytes: &[u8],
        run: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        run(bytes)
    }

    fn lengthen(&self, _: u64, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        run()
    }

    fn sync(&self, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        run()
    }
}

/// Opens a file that holds a database already: redb would begin a new one in an empty file.
pub(in crate::store::embedded) fn existing_file(name: &Name) -> Result<DataFile, redb::Error> {
    let file = name.open_to_change()?;
    if file.metadata()?.len() == 0 {
        return Err(redb::Error::Io(io::ErrorKind::InvalidData.into()));
    }
    Ok(data_file(file, name)?)
}

/// The locks of a backend that wraps another one, in the field of this name.
#[cfg(onceward_faults)]
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
#[cfg(onceward_faults)]
pub(in crate::store::embedded) use forward_locks;

/// What is done to the folder, or to a file of it as a whole.
#[cfg_attr(not(onceward_faults), allow(dead_code))] // Only the fault tests look at it.
#[derive(Clone, Copy, Debug)]
pub(in crate::store::embedded) enum Call<'a> {
    Create(&'a Path),
    Write(&'a Path, &'a [u8]),
    Sync(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    SyncFolder(&'a Path),
}

/// A step of one of the store's threads, where the fault tests let it panic.
#[cfg(not(onceward_faults))]
pub(in crate::store::embedded) const fn step(_: &Path, _: Step) {}

/// Where a thread of the store is.
#[cfg_attr(not(onceward_faults), allow(dead_code))] // Only the fault tests look at it.
#[derive(Clone, Copy, Debug)]
pub(in crate::store::embedded) enum Step {
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
pub(in crate::store::embedded) fn call<T>(
    _: Call<'_>,
    run: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    run()
}
