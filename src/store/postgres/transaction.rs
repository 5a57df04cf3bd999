//! Completions in the caller's own transactions.

use tokio_postgres::Transaction as OwnTransaction;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::Postgres;
use super::register::{column, end, number};
use crate::store::register::{RecordId, Refused, Register, Value, Version};
use crate::store::transaction::{OutcomeRow, Replaces, Transaction, Written};

/// Completes a key in the transaction: its row in the register's table, or an outcome in the same sort of table for an engine
/// with a folder of its own.
///
/// One round trip; the commit waits for the disk. A transaction that has changed the same row and isn't over yet is waited for.
/// Until this one is over, a begin of the same key on another node waits for it up to a second. Of a pool's wrapper, such as
/// deadpool's, give what is in it: `&*transaction`.
///
/// Where another attempt was first, the statement fails, and PostgreSQL rolls back whatever it is told:
/// [`commit`](OwnTransaction::commit) then gives no error, since this client library doesn't look at what the server answers. Go by
/// the error of [`complete_in_async`](crate::Guard::complete_in_async). In a savepoint, that fails as far as the savepoint only: make
/// the effect in the same one, or none.
impl Transaction for OwnTransaction<'_> {
    type Database = Postgres;

    async fn prepare(database: &Postgres) -> Result<(), Refused> {
        database.shared.link.contact(&database.shared.sql).await
    }

    async fn write(&self, database: &Postgres, row: &OutcomeRow) -> Result<Written, Refused> {
        let sql = &database.shared.sql;
        let (statement, condition) = match row.replaces {
            Replaces::Version(version) => (&sql.complete, number(version)),
            Replaces::Ended(now_ms) => (&sql.write_outcome, end(now_ms)),
        };
        let (id, bytes) = (&row.id.as_bytes()[..], &row.value.bytes[..]);
        let (version, ends_at_ms) = (number(row.value.version), end(row.ends_at_ms));
        let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
            (&id, Type::BYTEA),
            (&version, Type::INT8),
            (&bytes, Type::BYTEA),
            (&ends_at_ms, Type::INT8),
            (&condition, Type::INT8),
        ];
        match self.execute_typed(statement, &parameters).await {
            Ok(_) => Ok(Written::Done),
            // The statement divides by the number of rows that it has written.
            Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                Ok(Written::Superseded)
            }
            // Whatever it was, the transaction can't commit.
            Err(error) => Err(Refused::unchanged(error)),
        }
    }

    async fn load(database: &Postgres, id: RecordId) -> Result<Option<Value>, Refused> {
        Ok(Register::load(database, id).await?.value)
    }

    async fn remove(database: &Postgres, id: RecordId, version: Version) -> Result<(), Refused> {
        let sql = &database.shared.sql.remove;
        let (id, version) = (&id.as_bytes()[..], number(version));
        database.row(sql, &[&id, &version]).await.map(drop)
    }

    async fn sweep(database: &Postgres, now_ms: u64) -> Result<u64, Refused> {
        let sql = &database.shared.sql.sweep_by;
        let row = database.row(sql, &[&end(now_ms)]).await?;
        let removed: i64 = column(&row, 0)?;
        Ok(removed.max(0).cast_unsigned())
    }
}
