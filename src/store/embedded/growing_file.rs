//! A journal's file, which is filled with zeros a little ahead of what is written.
//!
//! A sync that has to allocate blocks takes about twice as long as one that overwrites what is there. So
//! each write that goes beyond all earlier ones takes some zeros along, and the commits after it overwrite
//! those. Nothing depends on it: a hole reads as zeros, too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use redb::{DatabaseError, StorageBackend};

use super::disk::{DataFile, forward_locks};

/// How much is filled at a time: a quarter of what was written, between these. The commit that takes it
/// along is slower by that.
const LEAST_FILL: usize = 64 << 10;
const MOST_FILL: usize = 512 << 10;

static ZEROS: [u8; MOST_FILL] = [0; MOST_FILL];

#[derive(Debug)]
pub(super) struct GrowingFile {
    backend: DataFile,
    ends: Mutex<Ends>,
    /// Up to where the file was written, for others to see: what is beyond takes no room.
    taken: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    /// Of what was ever written, zeros included: beyond it the file is a hole.
    written: u64,
    /// Of the file.
    file: u64,
}

impl GrowingFile {
    pub(super) fn new(backend: DataFile, taken: Arc<AtomicU64>) -> Result<Self, DatabaseError> {
        let length = backend.len().map_err(redb::StorageError::from)?;
        taken.store(length, Ordering::Relaxed);
        Ok(Self {
            backend,
            taken,
            // Where the holes are isn't known.
            ends: Mutex::new(Ends {
                written: length,
                file: length,
            }),
        })
    }
}

impl StorageBackend for GrowingFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut ends = self.ends.lock();
        self.backend.set_len(length)?;
        ends.file = length;
        ends.written = ends.written.min(length);
        self.taken.store(ends.written, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        // Held while zeros are written, so that none go over another thread's data.
        let mut ends = self.ends.lock();
        self.backend.write(offset, data)?;
        let end = offset + data.len() as u64;
        if end <= ends.written {
            return Ok(());
        }
        ends.written = end;
        let room = usize::try_from(ends.file.saturating_sub(end)).unwrap_or(MOST_FILL);
        let wanted = usize::try_from(end / 4).unwrap_or(MOST_FILL);
        let zeros = &ZEROS[..wanted.clamp(LEAST_FILL, MOST_FILL).min(room)];
        // The data is written, and that is what counts.
        if self.backend.write(end, zeros).is_ok() {
            ends.written = end + zeros.len() as u64;
        }
        self.taken.store(ends.written, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    forward_locks!(backend);
}

#[cfg(test)]
mod tests {
    use super::super::directory::Directory;
    use super::super::disk::data_file;
    use super::*;

    fn growing(file: std::fs::File) -> GrowingFile {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path()).unwrap();
        let file = data_file(file, &directory.name("file")).unwrap();
        GrowingFile::new(file, Arc::default()).unwrap()
    }

    #[test]
    fn zeros_never_go_over_what_was_written_and_holes_read_as_zeros() {
        const LENGTH: usize = 3 << 20;
        let file = growing(tempfile::tempfile().unwrap());
        file.set_len(LENGTH as u64).unwrap();
        let mut model = vec![0_u8; LENGTH];
        let mut random = 7_usize;
        for round in 1..2_000_usize {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(round);
            let page = (random >> 33) % (LENGTH / 4_096);
            let pages = 1 + round % 3;
            let (from, to) = (page * 4_096, ((page + pages) * 4_096).min(LENGTH));
            let bytes = vec![round.to_le_bytes()[0] | 1; to - from];
            file.write(from as u64, &bytes).unwrap();
            model[from..to].copy_from_slice(&bytes);
        }
        let mut found = vec![1; LENGTH];
        file.read(0, &mut found).unwrap();
        assert!(found == model);
        assert_eq!(file.len().unwrap(), LENGTH as u64);
    }

    #[test]
    fn a_file_that_shrinks_and_grows_again_is_zeros_there() {
        let file = growing(tempfile::tempfile().unwrap());
        file.set_len(1 << 20).unwrap();
        file.write(0, &vec![7; 1 << 20]).unwrap();
        file.set_len(4_096).unwrap();
        file.set_len(2 << 20).unwrap();
        file.write(8_192, &[9; 4_096]).unwrap();
        let mut found = vec![1; 2 << 20];
        file.read(0, &mut found).unwrap();
        assert!(found[..4_096].iter().all(|byte| *byte == 7));
        assert!(found[4_096..8_192].iter().all(|byte| *byte == 0));
        assert!(found[8_192..12_288].iter().all(|byte| *byte == 9));
        assert!(found[12_288..].iter().all(|byte| *byte == 0));
    }
}
