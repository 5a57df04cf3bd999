//! The physical limit: one thread that writes and syncs in a loop, so many records at a time as
//! there would be callers. Nobody asks and nobody is told; for what that leaves out it is the
//! floor.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::floor::{CHUNK_BYTES, Floor, Spares};
use crate::load::{Load, Tally, Window};
use crate::rival::{BoxFuture, Caller, REPLY_BYTES, Reader, Rival, Task};

/// What a record has beside its reply, as the floor writes it: a digest and a length.
const HEAD_BYTES: usize = 24;

pub(crate) struct Raw {
    floor: Floor,
    spares: Arc<Spares>,
    log: Mutex<Option<(File, u64)>>,
}

impl Raw {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            floor: Floor::open(folder, false)?,
            spares: Spares::new(folder),
            log: Mutex::default(),
        })
    }

    fn append(&self, log: &mut Option<(File, u64)>, bytes: &[u8]) -> Result<()> {
        let is_full = |(_, end): &(File, u64)| end + bytes.len() as u64 > CHUNK_BYTES;
        if log.as_ref().is_none_or(is_full) {
            *log = Some((self.spares.take()?, 0));
        }
        if let Some((file, end)) = log {
            file.write_all_at(bytes, *end)?;
            file.sync_data()?;
            *end += bytes.len() as u64;
        }
        Ok(())
    }
}

impl Rival for Raw {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        self.floor.caller()
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        self.floor.tasks(count)
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        self.floor.reader()
    }

    fn make_ready(&self, measurement: Duration) -> Result<()> {
        self.spares.make_ready(measurement)
    }

    fn measure_alone(&self, callers: usize, window: Window) -> Option<Result<Load>> {
        let begins = vec![7; callers * HEAD_BYTES];
        let completions = vec![7; callers * (HEAD_BYTES + REPLY_BYTES)];
        let measured = || {
            let mut log = self
                .log
                .lock()
                .map_err(|_| anyhow!("a measurement panicked"))?;
            let mut tally = Tally::starting_now(window);
            while tally.goes_on() {
                let started = Instant::now();
                self.append(&mut log, &begins)?;
                (0..callers).for_each(|_| tally.begun());
                self.append(&mut log, &completions)?;
                (0..callers).for_each(|_| tally.cycled_unnamed(started));
            }
            tally.alone(window)
        };
        Some(measured())
    }
}
