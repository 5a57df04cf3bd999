//! Completions in the caller's own transactions.

use std::sync::Arc;

use onceward::register::{RecordId, Refused, Register, Value};
use onceward::transaction::{Database, OutcomeRow, Replaces, Transaction, Written};
use tokio_postgres::Transaction as OwnTransaction;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::Postgres;
use super::link::Statement;
use super::register::{Opaque, column, end, number};

/// Completes a key in the transaction: its row in the register's table, or an outcome in the same sort of table for an engine
/// with a folder of its own. Give outcomes a [table](super::PostgresBuilder::table) of their own.
///
/// One round trip; the commit waits for the disk, for which `synchronous_commit` is turned on in this transaction where it is
/// `off` or `local`. A transaction that has changed the same row and isn't over yet is waited for: set `lock_timeout` to bound
/// that. Until this one is over, a begin of the same key on another node finds it in flight, and once the lease is over, unavailable. Of a
/// pool's wrapper, such as deadpool's, give what is in it: `&*transaction`; and the outermost transaction, not a savepoint.
///
/// Where another attempt was first, the statement fails, and PostgreSQL rolls back whatever it is told:
/// [`commit`](OwnTransaction::commit) then gives no error, since this client library doesn't look at what the server answers. Go by
/// the error of [`complete_in_async`](onceward::Guard::complete_in_async).
impl Transaction<Postgres> for OwnTransaction<'_> {
    async fn write(&self, database: &Postgres, row: &OutcomeRow) -> Result<Written, Refused> {
        let sql = &database.shared.sql;
        let statement = match row.replaces {
            Replaces::Version(_) => &sql.complete,
            Replaces::Older(_) => &sql.write_outcome,
        };
        let columns = Columns::of(row);
        let types = [
            Type::BYTEA,
            Type::INT8,
            Type::BYTEA,
            Type::INT8,
            Type::INT8,
            Type::INT8,
        ];
        let values = columns.parameters();
        let parameters: Vec<_> = values.into_iter().zip(types).collect();
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
}

/// The table that a transaction writes outcomes in.
impl Database for Postgres {
    async fn put(self: &Arc<Self>, row: &OutcomeRow) -> Result<Written, Refused> {
        let sql = &self.shared.sql;
        let statement = match row.replaces {
            Replaces::Version(_) => &sql.put_version,
            Replaces::Older(_) => &sql.put_outcome,
        };
        let columns = Columns::of(row);
        let link = &self.shared.link;
        let statement = Statement {
            text: statement,
            parameters: columns.parameters().to_vec(),
        };
        let rows = link.patiently(sql, statement, link.tries()).await?;
        let written: i64 = match rows.first() {
            Some(row) => column(row, 0)?,
            None => 0,
        };
        Ok(if written > 0 {
            Written::Done
        } else {
            Written::Superseded
        })
    }

    async fn load(self: &Arc<Self>, id: RecordId) -> Result<Option<Value>, Refused> {
        Ok(Register::load(&**self, id).await?.value)
    }

    async fn sweep(self: &Arc<Self>, now_ms: u64) -> Result<u64, Refused> {
        self.sweep_by(Some(end(now_ms))).await
    }
}

/// A row as the statements take it.
struct Columns<'a> {
    id: Opaque<'a>,
    version: i64,
    bytes: Opaque<'a>,
    ends_at_ms: i64,
    condition: i64,
    mark: Option<i64>,
}

impl<'a> Columns<'a> {
    fn of(row: &'a OutcomeRow) -> Self {
        Self {
            id: Opaque(row.id.as_bytes()),
            version: number(row.value.version),
            bytes: Opaque(&row.value.bytes),
            ends_at_ms: end(row.ends_at_ms),
            condition: match row.replaces {
                Replaces::Version(version) => number(version),
                Replaces::Older(now_ms) => end(now_ms),
            },
            mark: row.mark.map(number),
        }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 6] {
        [
            &self.id,
            &self.version,
            &self.bytes,
            &self.ends_at_ms,
            &self.condition,
            &self.mark,
        ]
    }
}
