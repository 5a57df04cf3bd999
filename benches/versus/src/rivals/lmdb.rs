//! LMDB through heed behind the group's writer thread: one transaction per batch, default flags.

use std::path::Path;

use anyhow::Result;
use heed::types::Bytes as Slice;
use heed::{Database, Env, WithoutTls};
use onceward::Key;
use onceward::bytes::Bytes;

use crate::group::{Backend, Command, Grouped, Step};
use crate::rival::{Answer, Reader, digest};

/// Address space, not memory and not disk.
const MAP_BYTES: usize = 64 << 30;

type Records = Database<Slice, Slice>;

pub(crate) fn open(folder: &Path) -> Result<Grouped> {
    let environment = lmdb_open::open(folder, MAP_BYTES)?;
    let mut transaction = environment.write_txn()?;
    let records: Records = environment.create_database(&mut transaction, None)?;
    transaction.commit()?;
    let reading = environment.clone();
    let writer = Writer {
        environment,
        records,
    };
    Grouped::start("lmdb", writer, move || {
        let environment = reading.clone();
        Ok(Box::new(LmdbReader {
            environment,
            records,
        }) as _)
    })
}

struct Writer {
    environment: Env<WithoutTls>,
    records: Records,
}

impl Backend for Writer {
    fn apply(&mut self, batch: &[Command], answers: &mut Vec<Answer>) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for command in batch {
            let answer = match &command.step {
                Step::Begin => {
                    let known = self
                        .records
                        .get(&transaction, &command.digest)?
                        .map(Answer::of_record);
                    if known.is_none() {
                        // An empty record is an attempt that is running.
                        self.records.put(&mut transaction, &command.digest, &[])?;
                    }
                    known.unwrap_or(Answer::Done)
                }
                Step::Complete(reply) => {
                    self.records.put(&mut transaction, &command.digest, reply)?;
                    Answer::Done
                }
            };
            answers.push(answer);
        }
        transaction.commit()?;
        Ok(())
    }
}

struct LmdbReader {
    environment: Env<WithoutTls>,
    records: Records,
}

impl Reader for LmdbReader {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let transaction = self.environment.read_txn()?;
        let record = self.records.get(&transaction, &digest(key))?;
        Ok(record.and_then(|record| Answer::of_record(record).reply()))
    }
}
