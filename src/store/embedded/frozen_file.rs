//! A file that is read as it is and never written to, whatever redb does to it.
//!
//! After a failed write or sync the page cache may show what never got to the disk, and writing on top of that would
//! bind what is durable to what isn't. redb can't open a file without a repair, though, if its last commit wasn't
//! a clean one. So what it writes then stays in memory, for as long as the file is open.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;

use parking_lot::RwLock;
use redb::{BackendError, StorageBackend};

use super::directory::Name;
use super::disk::{DataFile, file_as_on_disk};

/// What is kept of a write is kept in pieces of this size.
const PIECE: usize = 4_096;

#[derive(Debug)]
pub(super) struct FrozenFile {
    file: DataFile,
    written: RwLock<Written>,
}

#[derive(Debug, Default)]
struct Written {
    length: u64,
    /// Up to where the file itself counts: beyond it there are zeros.
    kept: u64,
    pieces: HashMap<u64, Box<[u8; PIECE]>>,
}

impl FrozenFile {
    pub(super) fn open(name: &Name) -> Result<Self, redb::Error> {
        let file = file_as_on_disk(name)?;
        let length = file.len()?;
        Ok(Self {
            file,
            written: RwLock::new(Written {
                length,
                kept: length,
                pieces: HashMap::new(),
            }),
        })
    }

    /// What the file says, and zeros where it says nothing.
    fn read_file(&self, kept: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = kept.saturating_sub(offset);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(out.len());
        let (there, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        self.file.read(offset, there)
    }
}

/// How far into its piece a place is.
#[allow(clippy::cast_possible_truncation)] // It is below the size of a piece.
fn within(offset: u64) -> usize {
    (offset % PIECE as u64) as usize
}

/// The number of the piece, the range in it, and the range in what is read or written.
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = within(at);
        let more = (PIECE - within).min(length - done);
        let range = done..done + more;
        done += more;
        (more > 0).then_some((at / PIECE as u64, within..within + more, range))
    })
}

impl StorageBackend for FrozenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.read().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.read();
        if offset + out.len() as u64 > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(written.kept, offset, out)?;
        if written.pieces.is_empty() {
            return Ok(());
        }
        for (number, within, range) in pieces(offset, out.len()) {
            if let Some(piece) = written.pieces.get(&number) {
                out[range].copy_from_slice(&piece[within]);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut written = self.written.write();
        if length < written.length {
            // What is cut off comes back as zeros.
            let end = within(length);
            let last = length / PIECE as u64;
            if end > 0 {
                self.piece(&mut written, last)?[end..].fill(0);
            }
            let beyond = if end > 0 { last + 1 } else { last };
            written.pieces.retain(|number, _| *number < beyond);
            written.kept = written.kept.min(length);
        }
        written.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.write();
        for (number, within, range) in pieces(offset, data.len()) {
            self.piece(&mut written, number)?[within].copy_from_slice(&data[range]);
        }
        written.length = written.length.max(offset + data.len() as u64);
        Ok(())
    }

    /// Nobody else uses the file: the folder is locked.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

impl FrozenFile {
    /// A piece to write to.
    fn piece<'a>(
        &self,
        written: &'a mut Written,
        number: u64,
    ) -> io::Result<&'a mut Box<[u8; PIECE]>> {
        use std::collections::hash_map::Entry;
        match written.pieces.entry(number) {
            Entry::Occupied(piece) => Ok(piece.into_mut()),
            Entry::Vacant(vacant) => {
                let mut piece = Box::new([0; PIECE]);
                self.read_file(written.kept, number * PIECE as u64, &mut piece[..])?;
                Ok(vacant.insert(piece))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_the_file_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut model: Vec<u8> = (0..50_000_u32).map(|at| at.to_le_bytes()[0] | 1).collect();
        let before = model.clone();
        std::fs::write(&path, &model).unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let file = FrozenFile::open(&directory.name("file")).unwrap();
        let mut random = 7_usize;
        for round in 0..2_000_usize {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(round);
            let (at, length) = ((random >> 20) % 60_000, (random >> 40) % 9_000);
            if round % 50 == 49 {
                file.set_len(at as u64).unwrap();
                model.resize(at, 0);
                continue;
            }
            let bytes = vec![round.to_le_bytes()[0]; length];
            if length > 0 {
                file.write(at as u64, &bytes).unwrap();
                model.resize(model.len().max(at + length), 0);
                model[at..at + length].copy_from_slice(&bytes);
            }
            assert_eq!(file.len().unwrap(), model.len() as u64);
            let mut found = vec![1; model.len()];
            file.read(0, &mut found).unwrap();
            assert!(found == model, "round {round}");
        }
        assert!(file.read(model.len() as u64, &mut [0]).is_err());
        assert!(std::fs::read(&path).unwrap() == before);
    }
}
