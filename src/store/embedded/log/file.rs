//! A log's file: written by one thread, read by all.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::frame::{
    BLOCK_BYTES, Before, FrameBuffer, HEADER_BYTES, MOST_LOG_BYTES, Seed, Span, number_in,
};
use super::walk::{Step, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::store::embedded::files::directory::Name;
use crate::store::embedded::files::disk::PlainFile;
use crate::store::embedded::files::edge::io_error;

/// How much is filled with zeros at a time: a quarter of what was written, between these. The write that takes it
/// along is slower by that.
const LEAST_FILL: u64 = 64 << 10;
const MOST_FILL: u64 = 512 << 10;

/// The file of one segment's log.
pub(in super::super) struct Log {
    file: PlainFile,
    /// By chance, so that what an earlier file of the same name has left on the disk is nothing here.
    number: u64,
    seed: Seed,
    /// Up to where the file is filled, whether with frames or zeros.
    filled: AtomicU64,
}

/// Where the next frame goes. There is one of a log, as long as nothing has failed.
#[derive(Debug)]
pub(in super::super) struct LogWriter {
    log: Arc<Log>,
    end: u64,
    before: Before,
    /// Whether an empty frame proves that the one before it was acknowledged.
    is_witnessed: bool,
    /// Whether what overwrites zeros is written past the page cache.
    goes_through: bool,
}

impl Log {
    /// Makes a file with so many bytes of zeros behind its first frame, which is empty. Durable but for its name.
    pub(in super::super) fn create(name: &Name, seed: Seed, zeros: u64) -> Result<LogWriter> {
        let file = name.create().map_err(unwritten)?;
        let number = getrandom::u64().map_err(|error| {
            Error::with_source(ErrorKind::Io, "the system gives no random bytes", error)
        })?;
        let log = Self {
            file: PlainFile::new(file, name).and_through(name),
            number,
            seed: seed.of_file(number),
            filled: AtomicU64::new(0),
        };
        let zeros = zeros.next_multiple_of(BLOCK_BYTES as u64);
        log.file.write_zeros(0, zeros).map_err(unwritten)?;
        log.filled.store(zeros, Ordering::Relaxed);
        let mut writer = LogWriter {
            before: Before {
                checksum: log.seed.before_first(),
                // Nobody looks for the file before the first frame is synced, and the zeros with it.
                file_length: zeros,
            },
            log: Arc::new(log),
            end: 0,
            is_witnessed: true,
            // The first frame is synced together with the zeros.
            goes_through: false,
        };
        writer.append(&mut FrameBuffer::default(), number)?;
        (writer.is_witnessed, writer.goes_through) = (true, true);
        Ok(writer)
    }

    /// Opens a file that nothing is written to any more. Where it may hold what no sync has confirmed, what is read is
    /// on the disk all the same.
    pub(in super::super) fn open(
        name: &Name,
        seed: Seed,
        number: u64,
        is_confirmed: bool,
    ) -> Result<Self> {
        // Not every system syncs what was opened to be read only.
        let file = if is_confirmed {
            name.open_to_read()
        } else {
            name.open_to_change()
        };
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::with_source(
                ErrorKind::Corrupt,
                "a segment is missing; restore it from a backup",
                error,
            ),
            _ => io_error("a segment's log can't be opened", error),
        })?;
        let file = PlainFile::new(file, name);
        if is_confirmed {
            file.will_be_read();
        } else {
            file.settle(name).map_err(unread)?;
        }
        let length = file.len().map_err(unread)?;
        Ok(Self {
            file,
            number,
            seed: seed.of_file(number),
            filled: AtomicU64::new(length),
        })
    }

    pub(super) fn seed(&self) -> Seed {
        self.seed
    }

    /// What tells the file from others of its name.
    pub(in super::super) fn number(&self) -> u64 {
        self.number
    }

    /// A walk through all of the file. What it finds behind what was acknowledged isn't for sure on the disk.
    pub(in super::super) fn walk(&self) -> Result<Walk<'_>> {
        let length = self.file.len().map_err(unread)?;
        Ok(Walk::new(self, length))
    }

    /// Whether a file that nobody has listed is this segment's and holds no entry. One that isn't whole doesn't say so.
    pub(in super::super) fn is_blank(name: &Name, seed: Seed) -> Result<bool> {
        let mut begin = [0; HEADER_BYTES];
        let unlisted = Self::open(name, seed, 0, true)?;
        if unlisted.taken() < begin.len() as u64 {
            return Ok(false);
        }
        unlisted.read_at(0, &mut begin)?;
        let named = Self {
            seed: seed.of_file(number_in(&begin)),
            ..unlisted
        };
        let mut walk = named.walk()?;
        let is_ours = matches!(walk.next()?, Step::Frame(_));
        Ok(is_ours && matches!(walk.next()?, Step::End))
    }

    /// Reads an entry. Whether it is the one that was written, its bytes say.
    pub(in super::super) fn read(&self, span: Span, out: &mut Vec<u8>) -> Result<()> {
        self.read_raw(span.offset(), span.length(), out)
    }

    /// Reads some bytes of the file, whatever they are.
    pub(in super::super) fn read_raw(
        &self,
        offset: u64,
        length: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        out.resize(length, 0);
        self.read_at(offset, out)
    }

    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, out).map_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return unread(error);
            }
            let message = format!(
                "a segment's log is cut short, at {offset} or behind; restore it from a backup"
            );
            Error::with_source(ErrorKind::Corrupt, message, error)
        })
    }

    /// How many bytes of the disk the file takes.
    pub(in super::super) fn taken(&self) -> u64 {
        self.filled.load(Ordering::Relaxed)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)?;
        let end = offset + bytes.len() as u64;
        if end > self.taken() {
            // A sync that has to allocate blocks takes about twice as long as one that overwrites what is there. The
            // frame is written, and that is what counts.
            let zeros = (end / 4).clamp(LEAST_FILL, MOST_FILL);
            let zeros = zeros.next_multiple_of(BLOCK_BYTES as u64);
            let is_filled = self.file.write_zeros(end, zeros).is_ok();
            let filled = if is_filled { end + zeros } else { end };
            self.filled.store(filled, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl LogWriter {
    pub(in super::super) fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Where the next frame will stand, and how many bytes come before it.
    pub(in super::super) fn end(&self) -> u64 {
        self.end
    }

    /// Writes a frame and waits until the disk has it. After an error nothing may be appended any more.
    pub(in super::super) fn append(
        &mut self,
        frame: &mut FrameBuffer,
        first_sequence: u64,
    ) -> Result<()> {
        let (end, seed) = (self.end, self.log.seed);
        let (bytes, checksum) = frame.finish(seed, end, self.before, first_sequence)?;
        if end + bytes.len() as u64 > MOST_LOG_BYTES {
            return Err(Error::new(
                ErrorKind::Io,
                "a segment's log is full, and no new one could be made",
            ));
        }
        let put = self.put(bytes).map_err(unwritten);
        if !mutant::is_on(Mutant::BelievesFailedSync) {
            put?;
        }
        self.end = end + bytes.len() as u64;
        self.before = Before {
            checksum,
            file_length: self.log.taken(),
        };
        self.is_witnessed = false;
        Ok(())
    }

    /// Brings a frame to the disk. What overwrites zeros that are there needs no sync of the file,
    /// which costs a small frame up to a third of its time.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let log = &self.log;
        if self.goes_through && self.end + bytes.len() as u64 <= log.taken() {
            if log.file.write_through(self.end, bytes)? {
                return Ok(());
            }
            self.goes_through = false;
        }
        log.write(self.end, bytes)?;
        if self.end == 0 && mutant::is_on(Mutant::NewLogNotSynced) {
            return Ok(());
        }
        log.file.sync_data()
    }

    /// Fills a file with zeros up to there, durably, before anything is written to it.
    pub(in super::super) fn fill(&mut self, bytes: u64) -> Result<()> {
        let (log, from) = (&self.log, self.log.taken());
        let to = bytes
            .next_multiple_of(BLOCK_BYTES as u64)
            .min(MOST_LOG_BYTES);
        if to <= from {
            return Ok(());
        }
        log.file.write_zeros(from, to - from).map_err(unwritten)?;
        log.file.sync_data().map_err(unwritten)?;
        log.filled.store(to, Ordering::Relaxed);
        self.before.file_length = to;
        Ok(())
    }

    /// Whether damage to the last frame could be taken for a torn end.
    pub(in super::super) fn lacks_witness(&self) -> bool {
        !self.is_witnessed
    }

    /// Puts an empty frame behind the last one, if that has none.
    pub(in super::super) fn witness(&mut self, next_sequence: u64) -> Result<()> {
        self.append(&mut FrameBuffer::default(), next_sequence)?;
        self.is_witnessed = true;
        Ok(())
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("taken", &self.taken())
            .finish_non_exhaustive()
    }
}

fn unread(error: io::Error) -> Error {
    io_error("a segment's log can't be read", error)
}

fn unwritten(error: io::Error) -> Error {
    io_error("a segment's log can't be written", error)
}
