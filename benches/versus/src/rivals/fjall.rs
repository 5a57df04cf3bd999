//! fjall behind the group's writer thread: one write batch per group, its journal synced at each.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use onceward::Key;
use onceward::bytes::Bytes;

use super::{Caches, SMALL_CACHE_BYTES};
use crate::group::{Backend, Command, Grouped, Step};
use crate::rival::{Answer, Digest, Reader, digest};

const CACHE_BYTES: usize = 64 << 20;

pub(crate) fn open(folder: &Path, caches: Caches) -> Result<Grouped> {
    let cache_bytes = match caches {
        Caches::Usual => CACHE_BYTES,
        Caches::Small => SMALL_CACHE_BYTES,
    };
    let database = Database::builder(folder.join("records"))
        .cache_size(cache_bytes as u64)
        .open()?;
    let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
    let reading = records.clone();
    let writer = Writer {
        database,
        records,
        staged: HashMap::new(),
    };
    Grouped::start("fjall", writer, move || {
        let records = reading.clone();
        Ok(Box::new(FjallReader { records }) as _)
    })
}

struct Writer {
    database: Database,
    records: Keyspace,
    /// What a begin is answered after the batch's own writes, which the keyspace doesn't show before the
    /// commit.
    staged: HashMap<Digest, Answer>,
}

impl Backend for Writer {
    fn apply(&mut self, batch: &[Command], answers: &mut Vec<Answer>) -> Result<()> {
        let mut writes = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        self.staged.clear();
        for command in batch {
            let digest = command.digest;
            let answer = match &command.step {
                Step::Begin => {
                    let known = self.known(&digest)?;
                    if known.is_none() {
                        // An empty record is an attempt that is running.
                        writes.insert(&self.records, digest, []);
                        self.staged.insert(digest, Answer::InFlight);
                    }
                    known.unwrap_or(Answer::Done)
                }
                Step::Complete(reply) => {
                    writes.insert(&self.records, digest, &reply[..]);
                    self.staged.insert(digest, Answer::Reply(reply.clone()));
                    Answer::Done
                }
            };
            answers.push(answer);
        }
        writes.commit()?;
        Ok(())
    }
}

impl Writer {
    fn known(&self, digest: &Digest) -> Result<Option<Answer>> {
        if let Some(answer) = self.staged.get(digest) {
            return Ok(Some(answer.clone()));
        }
        let record = self.records.get(digest)?;
        Ok(record.map(|record| Answer::of_record(&record)))
    }
}

struct FjallReader {
    records: Keyspace,
}

impl Reader for FjallReader {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let record = self.records.get(digest(key))?;
        Ok(record.and_then(|record| Answer::of_record(&record).reply()))
    }
}
