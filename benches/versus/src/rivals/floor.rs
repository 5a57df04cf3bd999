//! The floor: the least that group commit can cost. A log that was filled with zeros in advance, so that
//! no `fdatasync` has to write metadata, one write and one `fdatasync` per batch, and a map in memory.
//!
//! It is no store: it can't be opened again and never forgets.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use onceward::Key;
use onceward::bytes::Bytes;

use crate::group::{Backend, Command, Grouped, Step};
use crate::rival::{Answer, BoxFuture, Caller, Digest, REPLY_BYTES, Reader, Rival, Task, digest};

pub(super) const CHUNK_BYTES: u64 = 64 << 20;
/// How fast a measurement may use up the log without waiting for zeros to be written.
const CHUNKS_PER_SECOND: u64 = 2;

pub(crate) struct Floor {
    grouped: Grouped,
    spares: Arc<Spares>,
}

impl Floor {
    pub(crate) fn open(folder: &Path, is_woken_together: bool) -> Result<Self> {
        let spares = Spares::new(folder);
        let records = Arc::new(RwLock::new(Records {
            slots: HashMap::new(),
            chunks: vec![spares.take()?],
        }));
        let log = Log {
            records: Arc::clone(&records),
            spares: Arc::clone(&spares),
            end: 0,
            buffer: Vec::new(),
        };
        let open_reader = move || {
            let records = Arc::clone(&records);
            Ok(Box::new(FloorReader { records }) as _)
        };
        let grouped = if is_woken_together {
            Grouped::start_woken_together("floor", log, open_reader)?
        } else {
            Grouped::start("floor", log, open_reader)?
        };
        Ok(Self { grouped, spares })
    }
}

impl Rival for Floor {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        self.grouped.caller()
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        self.grouped.tasks(count)
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        self.grouped.reader()
    }

    fn make_ready(&self, measurement: Duration) -> Result<()> {
        self.spares.make_ready(measurement)
    }
}

/// Chunks of the log that are full of zeros and on the disk.
pub(super) struct Spares {
    folder: PathBuf,
    chunks: Mutex<VecDeque<File>>,
}

impl Spares {
    pub(super) fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            chunks: Mutex::default(),
        })
    }

    /// Makes as many as a measurement of this length may use up.
    pub(super) fn make_ready(&self, measurement: Duration) -> Result<()> {
        self.fill_up((measurement.as_secs() + 1) * CHUNKS_PER_SECOND)
    }

    fn fill_up(&self, count: u64) -> Result<()> {
        let mut chunks = self.chunks()?;
        while (chunks.len() as u64) < count {
            chunks.push_back(self.make()?);
        }
        Ok(())
    }

    pub(super) fn take(&self) -> Result<File> {
        match self.chunks()?.pop_front() {
            Some(chunk) => Ok(chunk),
            None => self.make(),
        }
    }

    fn make(&self) -> Result<File> {
        // A file without a name: its space is free again once it is closed.
        let mut file = tempfile::tempfile_in(&self.folder).context("no chunk could be made")?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..CHUNK_BYTES / (1 << 20) {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(file)
    }

    fn chunks(&self) -> Result<MutexGuard<'_, VecDeque<File>>> {
        self.chunks.lock().map_err(|_| anyhow!("a writer panicked"))
    }
}

struct Records {
    slots: HashMap<Digest, Slot>,
    chunks: Vec<File>,
}

#[derive(Clone, Copy)]
enum Slot {
    InFlight,
    Kept { chunk: usize, offset: u64 },
}

impl Records {
    fn answer(&self, slot: Slot) -> Result<Answer> {
        let Slot::Kept { chunk, offset } = slot else {
            return Ok(Answer::InFlight);
        };
        let mut reply = vec![0; REPLY_BYTES];
        self.chunks[chunk].read_exact_at(&mut reply, offset)?;
        Ok(Answer::Reply(reply.into()))
    }
}

struct Log {
    records: Arc<RwLock<Records>>,
    spares: Arc<Spares>,
    end: u64,
    buffer: Vec<u8>,
}

impl Backend for Log {
    fn apply(&mut self, batch: &[Command], answers: &mut Vec<Answer>) -> Result<()> {
        let records = Arc::clone(&self.records);
        // Held until the batch is on the disk: nobody reads what isn't durable.
        let mut records = records.write().map_err(|_| anyhow!("a reader panicked"))?;
        let bytes_most = 64 + batch.len() as u64 * (64 + REPLY_BYTES as u64);
        if self.end + bytes_most > CHUNK_BYTES {
            records.chunks.push(self.spares.take()?);
            self.end = 0;
        }
        let chunk = records.chunks.len() - 1;
        self.buffer.clear();
        // The place of the checksum and the length of the batch, by which a recovery would find its end.
        self.buffer.extend_from_slice(&[0; 24]);
        for command in batch {
            let known = records.slots.get(&command.digest).copied();
            let answer = match (&command.step, known) {
                (Step::Begin, Some(slot)) => records.answer(slot)?,
                (Step::Begin, None) => {
                    self.write(command, &[]);
                    records.slots.insert(command.digest, Slot::InFlight);
                    Answer::Done
                }
                (Step::Complete(reply), _) => {
                    let offset = self.write(command, reply);
                    let slot = Slot::Kept { chunk, offset };
                    records.slots.insert(command.digest, slot);
                    Answer::Done
                }
            };
            answers.push(answer);
        }
        self.append(&records.chunks[chunk])
    }
}

impl Log {
    /// Adds a record to the batch, and gives the offset of its reply in the chunk.
    fn write(&mut self, command: &Command, reply: &[u8]) -> u64 {
        self.buffer.extend_from_slice(&command.digest);
        self.buffer
            .extend_from_slice(&(reply.len() as u64).to_le_bytes());
        let offset = self.end + self.buffer.len() as u64;
        self.buffer.extend_from_slice(reply);
        offset
    }

    fn append(&mut self, chunk: &File) -> Result<()> {
        let (head, body) = self.buffer.split_at_mut(24);
        if body.is_empty() {
            return Ok(());
        }
        head[..16].copy_from_slice(&blake3::hash(body).as_bytes()[..16]);
        head[16..].copy_from_slice(&(body.len() as u64).to_le_bytes());
        chunk.write_all_at(&self.buffer, self.end)?;
        chunk.sync_data()?;
        self.end += self.buffer.len() as u64;
        Ok(())
    }
}

struct FloorReader {
    records: Arc<RwLock<Records>>,
}

impl Reader for FloorReader {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let records = self
            .records
            .read()
            .map_err(|_| anyhow!("the writer panicked"))?;
        match records.slots.get(&digest(key)) {
            Some(slot) => Ok(records.answer(*slot)?.reply()),
            None => Ok(None),
        }
    }
}
