//! `SQLite` behind the group's writer thread: WAL, `synchronous=FULL`, one transaction per batch.
//!
//! As rusqlite bundles it, it calls `fsync` where `fdatasync` would do. A build with
//! `LIBSQLITE3_FLAGS=-DHAVE_FDATASYNC=1` in its environment has the other.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use onceward::Key;
use onceward::bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::{Caches, SMALL_CACHE_BYTES};
use crate::group::{Backend, Command, Grouped, Step};
use crate::rival::{Answer, Reader, digest};

const CACHE_BYTES: usize = 64 << 20;
const STATEMENTS: usize = 16;

pub(crate) fn open(folder: &Path, caches: Caches) -> Result<Grouped> {
    let path = folder.join("records.sqlite");
    let connection = connect(&path, caches)?;
    connection.execute(
        "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, reply BLOB NOT NULL) WITHOUT ROWID",
        (),
    )?;
    Grouped::start("sqlite", Writer { connection }, move || {
        let connection = connect(&path, caches)?;
        Ok(Box::new(SqliteReader { connection }) as _)
    })
}

fn connect(path: &PathBuf, caches: Caches) -> Result<Connection> {
    let connection = Connection::open(path)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| {
        row.get("journal_mode")
    })?;
    ensure!(mode == "wal", "SQLite's journal mode is {mode}");
    connection.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i64 =
        connection.pragma_query_value(None, "synchronous", |row| row.get("synchronous"))?;
    ensure!(synchronous == 2, "SQLite's synchronous is {synchronous}");
    let cache_bytes = match caches {
        Caches::Usual => CACHE_BYTES,
        Caches::Small => SMALL_CACHE_BYTES,
    };
    // A negative number counts in KiB.
    let cache_size = format!("-{}", cache_bytes >> 10);
    connection.pragma_update(None, "cache_size", cache_size)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

struct Writer {
    connection: Connection,
}

impl Backend for Writer {
    fn apply(&mut self, batch: &[Command], answers: &mut Vec<Answer>) -> Result<()> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            // An empty reply is an attempt that is running.
            let mut insert = transaction
                .prepare_cached("INSERT INTO records VALUES (?1, x'') ON CONFLICT DO NOTHING")?;
            let mut select =
                transaction.prepare_cached("SELECT reply FROM records WHERE key = ?1")?;
            let mut update =
                transaction.prepare_cached("UPDATE records SET reply = ?2 WHERE key = ?1")?;
            for command in batch {
                let answer = match &command.step {
                    Step::Begin if insert.execute((&command.digest,))? == 1 => Answer::Done,
                    Step::Begin => select.query_row((&command.digest,), |row| {
                        Ok(Answer::of_record(row.get_ref(0)?.as_blob()?))
                    })?,
                    Step::Complete(reply) => {
                        let changed = update.execute((&command.digest, &reply[..]))?;
                        ensure!(changed == 1, "a key was completed that isn't there");
                        Answer::Done
                    }
                };
                answers.push(answer);
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

struct SqliteReader {
    connection: Connection,
}

impl Reader for SqliteReader {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let mut select = self
            .connection
            .prepare_cached("SELECT reply FROM records WHERE key = ?1")?;
        let answer = select
            .query_row((&digest(key),), |row| {
                Ok(Answer::of_record(row.get_ref(0)?.as_blob()?))
            })
            .optional()?;
        Ok(answer.and_then(Answer::reply))
    }
}
