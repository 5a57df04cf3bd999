//! Effects that commit with their reply: the caller's own transaction writes both.
//!
//! An effect and the completion of its key are two things, and a crash can come between them: the money has moved, and the
//! engine doesn't know. Where the effect is a change in a database, [`Guard::complete_in`](crate::Guard::complete_in)
//! closes that gap. It writes the reply in the transaction that makes the effect, so that both commit or neither does.
//!
//! - With a [register on PostgreSQL](crate::register) and the effect in the same database, the row of the key itself is
//!   completed. Nothing else is needed.
//! - With an engine of its own folder, the reply goes into a small table of the caller's database, an *outcome*, and the
//!   engine is told after the commit. [`Builder::outcomes_in`](crate::Builder::outcomes_in) tells it where to look:
//!   at open, and before a lapsed lease is granted again, so that a crash between the commit and the confirmation ends in a
//!   replay.
//!
//! The first outcome of a key wins. The transaction of an attempt that comes late can't commit: it is brought into a state in
//! which the database rolls it back whatever it is told. Nor can one commit whose key was completed, forgotten or resolved
//! meanwhile by others.
//!
//! This is exactly once for what the transaction changes, and for nothing else: a mail that is sent in it is sent again by the
//! next attempt, if the transaction rolls back.
//!
//! # What is up to the caller
//!
//! - The whole transaction: pass the outermost one. Rolling back to a savepoint takes the reply along, and what keeps a late
//!   transaction from committing, too.
//! - The commit: [`confirm`](crate::Uncommitted::confirm) after it has returned without an error. PostgreSQL answers the commit of a transaction in which a
//!   statement has failed by rolling back, and `tokio_postgres` reports no error then; so don't go on after one. `confirm` notices
//!   where an outcome isn't there.
//! - How durable it is: redb's `Durability::None`, or a standby that isn't synchronous and is promoted, can lose a commit whose
//!   reply the engine has kept.
//! - How long it takes: an attempt whose predecessor's transaction is open waits for that one in `complete_in`. Set
//!   `lock_timeout` on PostgreSQL. With redb, no engine call that may settle a key ([`Guard::complete`](crate::Guard::complete) of a later attempt, `forget`,
//!   `resolve`, `sweep`) may be waited for by a thread that has a write transaction open: it would wait for itself, and fails after
//!   5 seconds.
//!
//! # Databases
//!
//! `redb::WriteTransaction` of redb 4 (feature `redb`) and `tokio_postgres::Transaction` of tokio-postgres 0.7 (crate `onceward-postgres`) are there; for
//! another one, implement [`Transaction`] and [`Database`]. This is one for a bank in memory, whose transactions are checked as they commit:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::{Arc, Mutex};
//!
//! use onceward::register::{RecordId, Refused, Value};
//! use onceward::transaction::{Database, OutcomeRow, Replaces, Transaction, Written};
//! use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
//!
//! type Outcomes = BTreeMap<RecordId, OutcomeRow>;
//!
//! #[derive(Default)]
//! struct Bank {
//!     data: Mutex<(i64, Outcomes)>, // the balance, and the table of outcomes
//! }
//!
//! /// The rule: what a row may replace, and that the mark is there.
//! fn may_be_written(outcomes: &Outcomes, row: &OutcomeRow) -> bool {
//!     let version = |id| outcomes.get(&id).map(|row: &OutcomeRow| row.value.version);
//!     let is_marked = row.mark.is_none() || row.mark == version(RecordId::from_bytes([0; 32]));
//!     is_marked
//!         && match row.replaces {
//!             Replaces::Version(expected) => version(row.id) == Some(expected),
//!             Replaces::Older(now_ms) => outcomes.get(&row.id).is_none_or(|found| {
//!                 found.value.version.to_bits() < row.value.version.to_bits()
//!                     && (found.ends_at_ms <= now_ms || found.value.bytes.is_empty())
//!             }),
//!         }
//! }
//!
//! impl Bank {
//!     fn write(&self, amount: i64, row: &OutcomeRow) -> Written {
//!         let (balance, outcomes) = &mut *self.data.lock().unwrap();
//!         if !may_be_written(outcomes, row) {
//!             return Written::Superseded;
//!         }
//!         *balance += amount;
//!         outcomes.insert(row.id, row.clone());
//!         Written::Done
//!     }
//! }
//!
//! struct Deposit {
//!     amount: i64,
//!     row: Mutex<Option<OutcomeRow>>,
//! }
//!
//! impl Deposit {
//!     fn commit(self, bank: &Bank) -> Result<(), &'static str> {
//!         let row = self.row.into_inner().unwrap().ok_or("there is no reply")?;
//!         match bank.write(self.amount, &row) {
//!             Written::Done => Ok(()),
//!             Written::Superseded => Err("another attempt was first"),
//!         }
//!     }
//! }
//!
//! impl Transaction<Bank> for Deposit {
//!     async fn write(&self, _: &Bank, row: &OutcomeRow) -> Result<Written, Refused> {
//!         *self.row.lock().unwrap() = Some(row.clone());
//!         Ok(Written::Done) // the commit looks whether that stays so
//!     }
//! }
//!
//! impl Database for Bank {
//!     async fn put(self: &Arc<Self>, row: &OutcomeRow) -> Result<Written, Refused> {
//!         Ok(self.write(0, row))
//!     }
//!
//!     async fn load(self: &Arc<Self>, id: RecordId) -> Result<Option<Value>, Refused> {
//!         let found = self.data.lock().unwrap().1.get(&id).cloned();
//!         Ok(found.map(|row| row.value))
//!     }
//!
//!     async fn sweep(self: &Arc<Self>, now_ms: u64) -> Result<u64, Refused> {
//!         let outcomes = &mut self.data.lock().unwrap().1;
//!         let before = outcomes.len();
//!         outcomes.retain(|_, row| row.ends_at_ms > now_ms);
//!         Ok((before - outcomes.len()) as u64)
//!     }
//! }
//!
//! let bank = Arc::new(Bank::default());
//! let builder = Engine::builder().outcomes_in(Arc::clone(&bank));
//! let engine = builder.open_in_memory()?;
//! let (key, fingerprint) = (Key::new("ada", "deposit-17")?, Fingerprint::of("30"));
//! for _ in 0..3 {
//!     if let Outcome::Proceed(guard) = engine.begin(&key, &fingerprint)? {
//!         let deposit = Deposit { amount: 30, row: Mutex::default() };
//!         let uncommitted = guard.complete_in(&deposit, Reply::new(201, "30 more"))?;
//!         deposit.commit(&bank)?; // both or neither
//!         uncommitted.confirm()?;
//!     }
//! }
//! assert_eq!(bank.data.lock().unwrap().0, 30);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "redb")]
mod redb;

use std::future::Future;
use std::sync::Arc;

pub use super::register::{OutcomeRow, Replaces, Written};
use super::register::{RecordId, Refused, Value};

/// A transaction of the caller's, in which an outcome can be written, in a database of sort `D`: a [`Database`], or a
/// [register](crate::register) that keeps its rows there.
pub trait Transaction<D> {
    /// Writes a row, if it may replace what is there, and if the row's [mark](OutcomeRow::mark) is there. If not, it must
    /// also see to it that this transaction can't commit any more.
    ///
    /// The row has to be locked, or the check repeated at the commit, so that of two transactions only one can commit.
    fn write(
        &self,
        database: &D,
        row: &OutcomeRow,
    ) -> impl Future<Output = Result<Written, Refused>>;
}

/// A database of the caller's, for the reads and the clean-up of outcomes outside of any transaction of the caller's.
///
/// An outcome is one row of a table of its own: an id, a version, bytes, and when it ends. A row without bytes is a *fence*: it
/// keeps earlier attempts at the key from committing, and says nothing else. The methods are called in a tokio runtime of the
/// engine's own.
pub trait Database: Send + Sync + Sized + 'static {
    /// Writes a row as [`Transaction::write`] does, in a transaction of its own, on the disk once this returns. A row that may not
    /// be replaced stays as it is.
    ///
    /// It has to wait for a transaction that has written the same row and isn't over, or fail.
    fn put(
        self: &Arc<Self>,
        row: &OutcomeRow,
    ) -> impl Future<Output = Result<Written, Refused>> + Send;

    /// Reads what was committed under an id, though it has ended.
    fn load(
        self: &Arc<Self>,
        id: RecordId,
    ) -> impl Future<Output = Result<Option<Value>, Refused>> + Send;

    /// Removes some rows that have ended by then, in milliseconds since 1970; gives how many. It is called until there are
    /// none.
    fn sweep(self: &Arc<Self>, now_ms: u64) -> impl Future<Output = Result<u64, Refused>> + Send;
}
