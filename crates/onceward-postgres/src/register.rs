//! One row per key as a register.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use tokio::time::timeout_at;
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::Postgres;
use super::failure::is_locked;
use super::link::{Parameters, Statement};
use super::news;
use super::patience::given_up;
use super::together::Change;

/// After what part of the timeout changes that aren't answered are believed to hang.
const STUCK_AFTER: u32 = 10;

impl Register for Postgres {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        let row = self
            .row(&self.shared.sql.load, &[&Opaque(id.as_bytes())])
            .await?;
        loaded(&row, 0)
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        let until = self.shared.link.tries().end();
        if expected.is_none() && self.shared.queue.is_stuck(self.timeout() / STUCK_AFTER) {
            // What is there already needs no change.
            let found = timeout_at(until, Box::pin(self.load(id))).await;
            let found =
                found.map_err(|_| Refused::unchanged("the server didn't answer in time"))?;
            let found = found?;
            if found.value.is_some() {
                return Ok(Swapped::Mismatch(found));
            }
        }
        let (before, version) = (expected.map(number), number(new.version));
        let change = Change::new(id, before, version, new.bytes, end(ends_at_ms));
        let rows = match self.shared.make(change, until).await {
            Ok(rows) => rows,
            Err(refused) if is_locked(&refused) => return self.locked(id, expected, refused).await,
            Err(refused) => return Err(refused),
        };
        let Some(row) = rows.first() else {
            // Something else is there, or somebody was faster just now.
            return self.load(id).await.map(Swapped::Mismatch);
        };
        if expected.is_some() {
            let now_ms = milliseconds(row, 0)?;
            return Ok(Swapped::Done { now_ms });
        }
        let found = loaded(row, 0)?;
        Ok(match found.value {
            None => Swapped::Done {
                now_ms: found.now_ms,
            },
            Some(_) => Swapped::Mismatch(found),
        })
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.sweep_by(None).await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        let after = from.map_or_else(Bytes::new, |cursor| cursor.0);
        let rows_most = i64::try_from(most).unwrap_or(i64::MAX);
        let parameters: Parameters<'_> = &[&Opaque(&after), &rows_most];
        let rows = self.rows(&self.shared.sql.scan, parameters).await?;
        let mut now_ms = 0;
        let mut values = Vec::with_capacity(rows.len());
        for row in &rows {
            let bytes: &[u8] = column(row, 0)?;
            let bytes: [u8; 32] = bytes.try_into().map_err(|_| {
                Refused::unchanged(
                    "the table has a row whose id isn't of 32 bytes: it isn't the engine's",
                )
            })?;
            let found = loaded(row, 1)?;
            now_ms = found.now_ms;
            values.extend(
                found
                    .value
                    .map(|value| (RecordId::from_bytes(bytes), value)),
            );
        }
        Ok(Page::in_order(values, most, now_ms))
    }

    async fn announce(&self, changed: Vec<RecordId>) {
        news::announce(&self.shared, &changed).await;
    }

    async fn listen(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        news::listen(&self.shared, changed).await;
    }

    /// But for those that only hear.
    fn connections(&self) -> u64 {
        self.shared.link.made()
    }

    fn timeout(&self) -> Duration {
        self.shared.link.settings.timeout
    }
}

impl Postgres {
    /// A transaction of somebody's has changed the row and isn't over: what was there before it is enough to refuse.
    async fn locked(
        &self,
        id: RecordId,
        expected: Option<Version>,
        refused: Refused,
    ) -> Result<Swapped, Refused> {
        let found = self.load(id).await?;
        if found.value.as_ref().map(|value| value.version) == expected {
            return Err(refused);
        }
        Ok(Swapped::Mismatch(found))
    }

    async fn rows(&self, statement: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Refused> {
        let (link, sql) = (&self.shared.link, &self.shared.sql);
        match link.rows(sql, statement, parameters, link.tries()).await {
            // Somebody changes the table itself.
            Err(refused) if is_locked(&refused) => {
                let parameters = parameters.to_vec();
                let text = statement;
                let statement = Statement { text, parameters };
                link.patiently(sql, statement, link.tries()).await
            }
            done => done,
        }
    }

    /// Sweeps by the server's time, or an earlier one. One at a time: each that hangs would take a
    /// further connection.
    pub(super) async fn sweep_by(&self, now_ms: Option<i64>) -> Result<u64, Refused> {
        let turn = Arc::clone(&self.shared.sweeping).lock_owned().await;
        let shared = Arc::clone(&self.shared);
        let swept = tokio::spawn(async move {
            let itself = Self { shared };
            let sql = &itself.shared.sql;
            let swept = match &now_ms {
                None => itself.row(&sql.sweep, &[]).await,
                Some(now_ms) => itself.row(&sql.sweep_by, &[now_ms]).await,
            };
            drop(turn);
            swept
        });
        let row = swept.await.unwrap_or_else(|_| Err(given_up()))?;
        let removed: i64 = column(&row, 0)?;
        Ok(removed.max(0).cast_unsigned())
    }

    /// For a statement that gives exactly one.
    pub(super) async fn row(
        &self,
        statement: &str,
        parameters: Parameters<'_>,
    ) -> Result<Row, Refused> {
        let rows = self.rows(statement, parameters).await?;
        let row = rows.into_iter().next();
        row.ok_or_else(|| Refused::unknown("the server gave no row for a statement that has one"))
    }
}

/// What the columns from `first` on say: version, value, and the server's time.
fn loaded(row: &Row, first: usize) -> Result<Loaded, Refused> {
    let version: Option<i64> = column(row, first)?;
    let bytes: Option<&[u8]> = column(row, first + 1)?;
    let value = version.zip(bytes).map(|(version, bytes)| Value {
        version: Version::from_bits(version.cast_unsigned()),
        bytes: Bytes::copy_from_slice(bytes),
    });
    Ok(Loaded {
        value,
        now_ms: milliseconds(row, first + 2)?,
    })
}

fn milliseconds(row: &Row, index: usize) -> Result<u64, Refused> {
    let milliseconds: i64 = column(row, index)?;
    Ok(milliseconds.max(0).cast_unsigned())
}

/// Bytes of a parameter, whose `Debug` doesn't show them: `tokio_postgres` logs its parameters.
pub(super) struct Opaque<'a>(pub(super) &'a [u8]);

impl fmt::Debug for Opaque<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl ToSql for Opaque<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&[u8]>::accepts(ty)
    }

    to_sql_checked!();
}

pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, Refused> {
    row.try_get(index).map_err(Refused::unknown)
}

/// A version as a column has it.
pub(super) fn number(version: Version) -> i64 {
    version.to_bits().cast_signed()
}

/// An end as a column has it.
pub(super) fn end(ends_at_ms: u64) -> i64 {
    i64::try_from(ends_at_ms).unwrap_or(i64::MAX)
}
