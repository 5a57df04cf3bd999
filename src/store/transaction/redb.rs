//! Outcomes in a redb database of the caller's.

use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use tokio::task::spawn_blocking;

use super::{Database, OutcomeRow, Replaces, Transaction, Written};
use crate::store::register::{RecordId, Refused, Value, Version};

/// Version, end in milliseconds since 1970, bytes.
type Row = (u64, u64, &'static [u8]);
type Rows<'a> = Table<'a, &'static [u8; 32], Row>;

const OUTCOMES: TableDefinition<'_, &[u8; 32], Row> = TableDefinition::new("onceward_outcomes");
/// The same rows by their ends, so that a sweep needn't read all of them.
const ENDS: TableDefinition<'_, (u64, &[u8; 32]), ()> =
    TableDefinition::new("onceward_outcome_ends");
/// Is never committed.
const POISON: TableDefinition<'_, (), ()> = TableDefinition::new("onceward_poison");
/// How many rows a sweep removes in one transaction.
const SWEPT_AT_ONCE: usize = 1_000;

/// Keeps outcomes in the tables `onceward_outcomes` and `onceward_outcome_ends` of the same database, which are made when the engine opens.
///
/// [`write`](Transaction::write) doesn't wait for the disk; the caller's commit does. Where an outcome is superseded, the
/// commit fails with `TransactionPoisoned`, and the next write transaction may begin.
///
/// In a program that is built with `panic = "abort"`, a transaction can be kept from committing in one way only, which is
/// that redb never lets another one begin: there, the database takes no more writes after an outcome was superseded, until
/// the program is started again.
impl Transaction<redb::Database> for WriteTransaction {
    async fn write(&self, _: &redb::Database, row: &OutcomeRow) -> Result<Written, Refused> {
        let written = written(self, row);
        if !matches!(written, Ok(Written::Done)) {
            poison(self);
        }
        written.map_err(Refused::unchanged)
    }
}

/// The tables that a [`WriteTransaction`] writes outcomes in.
impl Database for redb::Database {
    async fn put(self: &Arc<Self>, row: &OutcomeRow) -> Result<Written, Refused> {
        let (database, row) = (Arc::clone(self), row.clone());
        blocking(move || {
            let transaction = database.begin_write()?;
            let written = written(&transaction, &row)?;
            match written {
                Written::Done => transaction.commit()?,
                Written::Superseded => transaction.abort()?,
            }
            Ok(written)
        })
        .await
    }

    async fn load(self: &Arc<Self>, id: RecordId) -> Result<Option<Value>, Refused> {
        let database = Arc::clone(self);
        blocking(move || {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(OUTCOMES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other?,
            };
            let row = table.get(id.as_bytes())?;
            Ok(row.map(|row| {
                let (version, _, bytes) = row.value();
                Value {
                    version: Version::from_bits(version),
                    bytes: Bytes::copy_from_slice(bytes),
                }
            }))
        })
        .await
    }

    async fn sweep(self: &Arc<Self>, now_ms: u64) -> Result<u64, Refused> {
        let database = Arc::clone(self);
        blocking(move || {
            let ended = ended(&database, now_ms)?;
            if ended.is_empty() {
                return Ok(0);
            }
            let transaction = database.begin_write()?;
            let mut removed = 0;
            {
                let mut rows = transaction.open_table(OUTCOMES)?;
                let mut ends = transaction.open_table(ENDS)?;
                for (end, id) in &ended {
                    // The row may have been replaced since, and its end with it.
                    let is_there = ends.remove((*end, id))?.is_some();
                    let is_its_own = rows.get(id)?.is_some_and(|row| row.value().1 == *end);
                    if is_there && is_its_own {
                        rows.remove(id)?;
                    }
                    removed += 1;
                }
            }
            transaction.commit()?;
            Ok(removed)
        })
        .await
    }
}

fn written(transaction: &WriteTransaction, row: &OutcomeRow) -> Result<Written, redb::Error> {
    let mut table = transaction.open_table(OUTCOMES)?;
    if !may_be_written(&table, row)? {
        return Ok(Written::Superseded);
    }
    let value = (
        row.value.version.to_bits(),
        row.ends_at_ms,
        &row.value.bytes[..],
    );
    let id = row.id.as_bytes();
    let replaced = table.insert(id, value)?.map(|row| row.value().1);
    let mut ends = transaction.open_table(ENDS)?;
    if let Some(end) = replaced {
        ends.remove((end, id))?;
    }
    ends.insert((row.ends_at_ms, id), ())?;
    Ok(Written::Done)
}

fn may_be_written(table: &Rows<'_>, row: &OutcomeRow) -> Result<bool, redb::Error> {
    if let Some(mark) = row.mark {
        let found = table.get(&[0; 32])?.map(|row| row.value().0);
        if found != Some(mark.to_bits()) {
            return Ok(false);
        }
    }
    let found = table.get(row.id.as_bytes())?;
    let found = found.as_ref().map(redb::AccessGuard::value);
    Ok(match (row.replaces, found) {
        (Replaces::Older(_), None) => true,
        (Replaces::Older(now_ms), Some((version, ends_at_ms, bytes))) => {
            version < row.value.version.to_bits() && (ends_at_ms <= now_ms || bytes.is_empty())
        }
        (Replaces::Version(expected), found) => {
            found.is_some_and(|(version, ..)| version == expected.to_bits())
        }
    })
}

/// Keeps the transaction from committing: redb's rule for one in which an operation on an existing row has panicked.
#[cfg(panic = "unwind")]
fn poison(transaction: &WriteTransaction) {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    let poisoning = || {
        let mut table = transaction.open_table(POISON).ok()?;
        table.insert((), ()).ok()?;
        // Resumed rather than panicked, so that no hook reports it.
        table.retain(|(), ()| resume_unwind(Box::new(()))).ok()
    };
    if catch_unwind(AssertUnwindSafe(poisoning)).is_ok() {
        // It couldn't be brought to panic. A table that is never closed keeps it from committing as well, and redb from beginning another.
        std::mem::forget(transaction.open_table(OUTCOMES));
    }
}

/// Keeps the transaction from committing: redb's rule for one with a table that was never closed.
#[cfg(not(panic = "unwind"))]
fn poison(transaction: &WriteTransaction) {
    std::mem::forget(transaction.open_table(POISON));
}

/// Some ends that have come. They are looked for in a read transaction, which holds up nobody.
fn ended(database: &redb::Database, now_ms: u64) -> Result<Vec<(u64, [u8; 32])>, redb::Error> {
    let transaction = database.begin_read()?;
    let ends = match transaction.open_table(ENDS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        other => other?,
    };
    let mut ended = Vec::new();
    for end in ends.range(..=(now_ms, &[u8::MAX; 32]))?.take(SWEPT_AT_ONCE) {
        let (entry, _) = end?;
        let (end, id) = entry.value();
        ended.push((end, *id));
    }
    Ok(ended)
}

/// In a thread where it may wait for the disk, and for the transaction that somebody else writes.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, redb::Error> + Send + 'static,
) -> Result<T, Refused> {
    let done = spawn_blocking(work).await;
    done.map_err(Refused::unknown)?.map_err(Refused::unknown)
}
