//! Where there are no handles of directories: everything is done by the path.

#![allow(clippy::unnecessary_wraps, clippy::unused_self)] // On Unix the system is asked.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::{Access, Found};

/// Nothing tells files apart here.
pub(in crate::store::embedded) type FileId = Option<(u64, u64)>;

#[derive(Debug)]
pub(super) struct Handle(PathBuf);

impl Handle {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(path.to_owned()))
    }

    pub(super) fn open_file(&self, name: &str, access: Access) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(access != Access::Read)
            .create_new(access == Access::Create)
            .create(access == Access::Lock);
        options.open(self.0.join(name))
    }

    pub(super) fn look(&self, name: &str) -> io::Result<Option<Found>> {
        match self.0.join(name).symlink_metadata() {
            Ok(found) => Ok(Some(Found {
                is_file: found.is_file(),
                bytes: found.len(),
                taken_bytes: found.len(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.0)?;
        let name =
            |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        entries.map(name).collect()
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        sync(&self.0)
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        None
    }

    pub(super) fn may_others_write(&self) -> io::Result<bool> {
        Ok(false)
    }
}

/// Makes a directory.
pub(in crate::store::embedded) fn make(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

/// Windows has no such call, and needs none for its journalled file system.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(path)?.sync_all()
}

pub(in crate::store::embedded) fn place_of(_: &Path) -> io::Result<FileId> {
    Ok(None)
}

pub(in crate::store::embedded) fn id_of(_: &File) -> io::Result<FileId> {
    Ok(None)
}

pub(in crate::store::embedded) fn origin_of(_: &File) -> io::Result<(u64, u64)> {
    Ok((0, 0))
}

/// Fills `out` from there; an error if the file ends before.
#[cfg(windows)]
pub(in crate::store::embedded) fn read_at(
    file: &File,
    mut offset: u64,
    mut out: &mut [u8],
) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        let read = file.seek_read(out, offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[read..];
        offset += read as u64;
    }
    Ok(())
}

#[cfg(windows)]
pub(in crate::store::embedded) fn write_at(
    file: &File,
    mut offset: u64,
    mut bytes: &[u8],
) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let written = file.seek_write(bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

#[cfg(not(windows))]
pub(in crate::store::embedded) fn read_at(_: &File, _: u64, _: &mut [u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(windows))]
pub(in crate::store::embedded) fn write_at(_: &File, _: u64, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
