//! A file whose operations are recorded, and may be made to fail, in the fault tests' binary only.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};

use super::disk::{Call, Step, forward_locks};
use crate::faults::{self, Asked, FileId, Op, Recorder};

/// A file of redb's whose reads, writes, lengths and syncs are recorded.
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
}

impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Some((recorder, _)) = &self.watched {
            recorder.ask(&Asked::Other)?;
        }
        self.backend.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let Some((recorder, id)) = &self.watched else {
            return self.backend.set_len(length);
        };
        recorder.ask(&Asked::Other)?;
        self.backend.set_len(length)?;
        recorder.push(Op::SetLen(*id, length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let Some((recorder, id)) = &self.watched else {
            return self.backend.sync_data();
        };
        let began_at = recorder.position();
        recorder.wait_to_sync();
        let asked = recorder.ask(&Asked::Sync);
        // That it failed doesn't say that nothing got to the disk.
        self.backend.sync_data()?;
        recorder.push(match asked {
            Ok(()) if faults::mutant() == Some("NoFileSync") => return Ok(()),
            Ok(()) => Op::Sync(*id, began_at),
            Err(_) => Op::FailedSync(*id),
        });
        asked
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some((recorder, id)) = &self.watched else {
            return self.backend.write(offset, data);
        };
        let asked = recorder.ask(&Asked::Write(*id, offset + data.len() as u64));
        // A write that fails may have got half way.
        let data = match asked {
            Ok(()) => data,
            Err(_) => &data[..data.len() / 2],
        };
        self.backend.write(offset, data)?;
        recorder.push(Op::Write(*id, offset, data.to_vec()));
        asked
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    forward_locks!(backend);
}

/// Asks the system for something, unless it is to fail, and records it.
pub(super) fn call<T>(call: Call<'_>, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let path = match call {
        Call::Create(path)
        | Call::Write(path, _)
        | Call::Sync(path)
        | Call::Rename(path, _)
        | Call::Remove(path)
        | Call::SyncFolder(path) => path,
    };
    let Some(recorder) = Recorder::of(path) else {
        return run();
    };
    let began_at = recorder.position();
    if let Err(error) = recorder.ask(&Asked::Other) {
        match call {
            Call::SyncFolder(_) => recorder.push(Op::FailedSyncFolder),
            Call::Sync(path) => recorder.push_to(path, Op::FailedSync),
            // It may have taken effect all the same.
            _ if began_at.is_multiple_of(2) && run().is_ok() => record(&recorder, call, began_at),
            _ => {}
        }
        return Err(error);
    }
    let result = run()?;
    record(&recorder, call, began_at);
    Ok(result)
}

fn record(recorder: &Recorder, call: Call<'_>, began_at: usize) {
    match call {
        Call::Create(path) => recorder.created(path),
        Call::Write(path, bytes) => recorder.push_to(path, |id| Op::Write(id, 0, bytes.to_vec())),
        Call::Sync(_) if faults::mutant() == Some("NoFileSync") => {}
        Call::Sync(path) => recorder.push_to(path, |id| Op::Sync(id, began_at)),
        Call::Rename(from, to) => recorder.renamed(from, to),
        Call::Remove(path) => recorder.removed(path),
        Call::SyncFolder(_) if faults::mutant() == Some("NoFolderSync") => {}
        Call::SyncFolder(_) => recorder.push(Op::SyncFolder(began_at)),
    }
}

/// A step of one of the store's threads, which may have to panic there.
pub(super) fn step(folder: &Path, step: Step) {
    if let Some(recorder) = Recorder::of(folder) {
        recorder.step(&format!("{step:?}"));
    }
}

/// Shows what is on the disk from here on, if a sync of the file failed.
pub(super) fn drop_from_cache(_: &File, path: &Path) -> io::Result<()> {
    match Recorder::of(path) {
        Some(recorder) => recorder.reveal(path),
        None => Ok(()),
    }
}
