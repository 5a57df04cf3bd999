//! A file whose operations are recorded, and may be made to fail, in the fault tests' binary only.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend};

use super::disk::{Call, Step, forward_locks};
use crate::faults::{self, Asked, FileId, Op, Recorder};

/// Who watches a file, if anybody does.
#[derive(Debug)]
pub(in crate::store::embedded) struct Watched(Option<(Arc<Recorder>, FileId)>);

impl Watched {
    pub(in crate::store::embedded) fn of(path: &Path) -> Self {
        let recorder = Recorder::of(path);
        Self(recorder.and_then(|recorder| {
            let id = recorder.file(path)?;
            Some((recorder, id))
        }))
    }

    pub(in crate::store::embedded) fn read(
        &self,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some((recorder, _)) = &self.0 {
            recorder.ask(&Asked::Other)?;
        }
        run()
    }

    pub(in crate::store::embedded) fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        run: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((recorder, id)) = &self.0 else {
            return run(bytes);
        };
        let asked = recorder.ask(&Asked::Write(*id, offset + bytes.len() as u64));
        // A write that fails may have got half way.
        let bytes = match asked {
            Ok(()) => bytes,
            Err(_) => &bytes[..bytes.len() / 2],
        };
        run(bytes)?;
        recorder.push(Op::Write(*id, offset, bytes.to_vec()));
        asked
    }

    /// A length, or zeros up to there, where there was nothing.
    pub(in crate::store::embedded) fn lengthen(
        &self,
        length: u64,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((recorder, id)) = &self.0 else {
            return run();
        };
        recorder.ask(&Asked::Write(*id, length))?;
        run()?;
        recorder.push(Op::SetLen(*id, length));
        Ok(())
    }

    pub(in crate::store::embedded) fn set_len(
        &self,
        length: u64,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((recorder, id)) = &self.0 else {
            return run();
        };
        recorder.ask(&Asked::Other)?;
        run()?;
        recorder.push(Op::SetLen(*id, length));
        Ok(())
    }

    pub(in crate::store::embedded) fn sync(
        &self,
        run: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((recorder, id)) = &self.0 else {
            return run();
        };
        let began_at = recorder.position();
        recorder.wait_to_sync();
        let asked = recorder.ask(&Asked::Sync);
        // That it failed doesn't say that nothing got to the disk.
        run()?;
        recorder.push(match asked {
            Ok(()) if faults::mutant() == Some("NoFileSync") => return Ok(()),
            Ok(()) => Op::Sync(*id, began_at),
            Err(_) => Op::FailedSync(*id),
        });
        asked
    }
}

/// A file of redb's whose reads, writes, lengths and syncs are recorded.
#[derive(Debug)]
pub(in crate::store::embedded) struct WatchedFile {
    backend: FileBackend,
    watched: Watched,
}

impl WatchedFile {
    pub(in crate::store::embedded) fn new(file: File, path: &Path) -> Result<Self, DatabaseError> {
        Ok(Self {
            backend: FileBackend::new(file)?,
            watched: Watched::of(path),
        })
    }
}

impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.watched.read(|| self.backend.read(offset, out))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let set = || self.backend.set_len(length);
        self.watched.set_len(length, set)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watched.sync(|| self.backend.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let write = |data: &[u8]| self.backend.write(offset, data);
        self.watched.write(offset, data, write)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    forward_locks!(backend);
}

/// Asks the system for something, unless it is to fail, and records it.
pub(in crate::store::embedded) fn call<T>(
    call: Call<'_>,
    run: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
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
pub(in crate::store::embedded) fn step(folder: &Path, step: Step) {
    if let Some(recorder) = Recorder::of(folder) {
        recorder.step(&format!("{step:?}"));
    }
}

/// Shows what is on the disk from here on, if a sync of the file failed.
pub(in crate::store::embedded) fn drop_from_cache(_: &File, path: &Path) -> io::Result<()> {
    match Recorder::of(path) {
        Some(recorder) => recorder.reveal(path),
        None => Ok(()),
    }
}
