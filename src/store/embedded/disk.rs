//! Where the fault tests take hold of the files. Without them a file is redb's own, and nothing is noted.

use std::fs::File;
use std::path::Path;

use redb::DatabaseError;

#[cfg(onceward_faults)]
pub(super) use crate::faults::{
    WatchedFile as DataFile, created, removed, renamed, synced_folder, synced_whole,
    syncing_folder, wrote_whole,
};

#[cfg(not(onceward_faults))]
pub(super) type DataFile = redb::backends::FileBackend;

/// The file at a path, as redb writes to it.
#[cfg(onceward_faults)]
pub(super) fn data_file(file: File, path: &Path) -> Result<DataFile, DatabaseError> {
    DataFile::new(file, path)
}

/// The file at a path, as redb writes to it.
#[cfg(not(onceward_faults))]
pub(super) fn data_file(file: File, _: &Path) -> Result<DataFile, DatabaseError> {
    DataFile::new(file)
}

#[cfg(not(onceward_faults))]
pub(super) fn created(_: &Path) {}
#[cfg(not(onceward_faults))]
pub(super) fn renamed(_: &Path, _: &Path) {}
#[cfg(not(onceward_faults))]
pub(super) fn removed(_: &Path) {}
#[cfg(not(onceward_faults))]
pub(super) fn syncing_folder(_: &Path) -> usize {
    0
}
#[cfg(not(onceward_faults))]
pub(super) fn synced_folder(_: &Path, _: usize) {}
#[cfg(not(onceward_faults))]
pub(super) fn synced_whole(_: &Path) {}
#[cfg(not(onceward_faults))]
pub(super) fn wrote_whole(_: &Path, _: &[u8]) {}
