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
    /// The same, for what is written past the page cache.
    through: Option<File>,
    watched: Watched,
}

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

impl PlainFile {
    pub(in crate::store::embedded) fn new(file: File, name: &Name) -> Self {
        Self {
            file,
            through: None,
            watched: Watched::of(name.path()),
        }
    }

    /// Opens it for [`write_through`](PlainFile::write_through), too.
    pub(in crate::store::embedded) fn and_through(mut self, name: &Name) -> Self {
        self.through = name.open_to_write_through();
        self
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

    /// Overwrites blocks that are on the disk, from blocks of the memory, past the page cache: they
    /// are on the disk when this returns. Gives whether that could be done here; otherwise nothing
    /// has happened that a write doesn't mend.
    pub(in crate::store::embedded) fn write_through(
        &self,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<bool> {
        let Some(through) = &self.through else {
            return Ok(false);
        };
        let write = |part: &[u8]| {
            // Half of it, which a fault test leaves, isn't made of whole blocks.
            let is_whole = part.len() == bytes.len();
            let file = if is_whole { through } else { &self.file };
            directory::write_at(file, offset, part)
        };
        match self.watched.write(offset, bytes, write) {
            Ok(()) => self.watched.sync(|| Ok(())).map(|()| true),
            Err(error) => match error.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => Ok(false),
                _ => Err(error),
            },
        }
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

    /// Says that all of it will be read soon, which the system can begin with.
    pub(in crate::store::embedded) fn will_be_read(&self) {
        #[cfg(target_os = "linux")]
        // Without it everything is read all the same.
        let _is_begun = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::WillNeed);
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

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::*;

    #[test]
    fn what_cannot_be_written_past_the_cache_is_told_and_can_be_written_otherwise() {
        const BLOCK: usize = 4_096;
        let folder = tempfile::tempdir().unwrap();
        let name = Directory::open(folder.path()).unwrap().name("file");
        let file = PlainFile::new(name.create().unwrap(), &name).and_through(&name);
        file.write_zeros(0, 8 * BLOCK as u64).unwrap();
        file.sync_data().unwrap();
        let memory = vec![7; 3 * BLOCK];
        let aligned = memory.as_ptr().align_offset(BLOCK);
        // A block as it should be, one in the middle of the file's, and one from the middle of the
        // memory's.
        for (offset, from) in [
            (BLOCK, aligned),
            (2 * BLOCK + 1, aligned),
            (4 * BLOCK, aligned + 1),
        ] {
            let (offset, bytes) = (offset as u64, &memory[from..from + BLOCK]);
            if !file.write_through(offset, bytes).unwrap() {
                file.write_at(offset, bytes).unwrap();
                file.sync_data().unwrap();
            }
            let mut read = vec![0; BLOCK];
            file.read_at(offset, &mut read).unwrap();
            assert_eq!(read, bytes, "at {offset}");
        }
    }
}
