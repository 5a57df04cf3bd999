//! Unix: everything is done through the directory's handle.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstatvfs, openat, renameat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::{Access, Found};

/// What a group or others need to write.
const OTHERS_WRITE: u32 = 0o022;
/// The system's unit for the room that a file takes, whatever the file system's blocks are.
const BLOCK_BYTES: u64 = 512;

/// Tells a file from all others that are there at the same time: its device and its inode.
pub(in crate::store::embedded) type FileId = Option<(u64, u64)>;

#[cfg(target_os = "linux")]
const THROUGH: OFlags = OFlags::WRONLY.union(OFlags::DIRECT).union(OFlags::DSYNC);
/// Nobody opens a file like that.
#[cfg(not(target_os = "linux"))]
const THROUGH: OFlags = OFlags::WRONLY;

#[derive(Debug)]
pub(super) struct Handle(File);

impl Handle {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    pub(super) fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        let access = match access {
            Access::Read => OFlags::RDONLY,
            Access::Change => OFlags::RDWR,
            Access::Through => THROUGH,
            Access::Create => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            Access::Lock => OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK,
        };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(retry_on_intr(|| openat(&self.0, name, flags, mode))?.into())
    }

    pub(super) fn look(&self, name: &str) -> io::Result<Option<Found>> {
        match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(Found {
                is_file: FileType::from_raw_mode(found.st_mode).is_file(),
                bytes: u64::try_from(found.st_size).unwrap_or(0),
                taken_bytes: u64::try_from(found.st_blocks).unwrap_or(0) * BLOCK_BYTES,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        let found = fstatvfs(&self.0).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    pub(super) fn may_others_write(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.mode() & OTHERS_WRITE != 0)
    }
}

/// Fills `out` from there; an error if the file ends before.
pub(in crate::store::embedded) fn read_at(
    file: &File,
    offset: u64,
    out: &mut [u8],
) -> io::Result<()> {
    file.read_exact_at(out, offset)
}

pub(in crate::store::embedded) fn write_at(
    file: &File,
    offset: u64,
    bytes: &[u8],
) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Makes a directory that is its owner's alone.
pub(in crate::store::embedded) fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Which file a path leads to, links in its last part not followed; one call of the system.
pub(in crate::store::embedded) fn place_of(path: &Path) -> io::Result<FileId> {
    let found = path.symlink_metadata()?;
    Ok(Some((found.dev(), found.ino())))
}

/// Which file it is that is open.
pub(in crate::store::embedded) fn id_of(file: &File) -> io::Result<FileId> {
    let metadata = file.metadata()?;
    Ok(Some((metadata.dev(), metadata.ino())))
}

/// What changes when a file is copied and stays when it is moved: its inode and, where the file
/// system knows it, the moment when it was made.
pub(in crate::store::embedded) fn origin_of(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    let born = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .and_then(|age| u64::try_from(age.as_nanos()).ok());
    Ok((metadata.ino(), born.unwrap_or(0)))
}
