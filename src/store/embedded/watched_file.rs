//! A file whose operations are recorded, in the fault tests' binary only.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};

use super::disk::forward_locks;
use crate::faults::{self, FileId, Op, Recorder};

/// A file of redb's whose writes, lengths and syncs are recorded.
#[derive(Debug)]
pub(super) struct WatchedFile {
    backend: FileBackend,
    watched: Option<(Arc<Recorder>, FileId)>,
}

impl WatchedFile {
    pub(super) fn new(file: File, path: &Path) -> Result<Self, DatabaseError> {
        let recorder = Recorder::of(path);
        let watched = recorder.and_then(|recorder| {
            let id = recorder.file(path)?;
            Some((recorder, id))
        });
        Ok(Self {
            backend: FileBackend::new(file)?,
            watched,
        })
    }

    fn note(&self, op: impl FnOnce(FileId) -> Op) {
        if let Some((recorder, id)) = &self.watched {
            recorder.push(op(*id));
        }
    }
}

impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.backend.set_len(length)?;
        self.note(|id| Op::SetLen(id, length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let watched = self.watched.as_ref();
        let began_at = watched.map_or(0, |(recorder, _)| recorder.position());
        self.backend.sync_data()?;
        if faults::mutant() != Some("NoFileSync") {
            self.note(|id| Op::Sync(id, began_at));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)?;
        self.note(|id| Op::Write(id, offset, data.to_vec()));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    forward_locks!(backend);
}
