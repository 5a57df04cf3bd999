//! Completing a key in the caller's own transaction.

use std::any::Any;
use std::fmt;

use bytes::Bytes;

use super::core::lease_lost;
use super::guard::{CompleteError, Guard};
use crate::clock::Timestamp;
use crate::codec::{self, Heading};
use crate::decision::{self, Change, Context, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::{self, Ending};
use crate::outcome::OnAbandon;
use crate::record::{Record, Stored};
use crate::reply::Reply;
use crate::store::register::{RecordId, Refused, Value, Version};
use crate::store::transaction::{OutcomeRow, Replaces, Transaction, Written};
use crate::store::{Draft, Request, Seen};
use crate::sync::block_on;

/// The version of nothing: of no token, and as good as never a random one.
const NO_VERSION: Version = Version::from_bits(0);

impl Guard {
    /// Keeps the reply in the caller's own transaction, so that effect and reply commit together; see
    /// [`transaction`](crate::transaction).
    ///
    /// Waits for what the database says, and no disk; the caller's commit does that. Nothing is kept before the commit.
    /// After it, [confirm](Uncommitted::confirm).
    ///
    /// Don't call this where the thread also has to serve the transaction's connection, as in an async task: use
    /// [`complete_in_async`](Guard::complete_in_async) there.
    ///
    /// # Errors
    ///
    /// The error gives guard and reply back. [`ErrorKind::LeaseLost`] if another attempt has taken the key or was first to
    /// commit: this transaction can't be committed then, and a begin gets the other one's reply. [`ErrorKind::InvalidConfig`]
    /// if the engine knows nothing of outcomes in such a database. [`ErrorKind::ReplyTooLarge`] as for
    /// [`complete`](Guard::complete). [`ErrorKind::Unavailable`] if the database refuses: roll back.
    pub fn complete_in<D: Send + Sync + 'static>(
        self,
        transaction: &impl Transaction<D>,
        reply: Reply,
    ) -> Result<Uncommitted, CompleteError> {
        block_on(self.complete_in_async(transaction, reply))
    }

    /// [`complete_in`](Guard::complete_in) as a future, for the executor that the transaction needs.
    ///
    /// Dropped before its end, it abandons the guard; roll back then.
    ///
    /// # Errors
    ///
    /// As [`complete_in`](Guard::complete_in).
    pub async fn complete_in_async<D: Send + Sync + 'static>(
        self,
        transaction: &impl Transaction<D>,
        reply: Reply,
    ) -> Result<Uncommitted, CompleteError> {
        match self.write_in(transaction, &reply).await {
            Ok(()) => Ok(Uncommitted { guard: self, reply }),
            Err(error) => Err(CompleteError::new(self, reply, error)),
        }
    }

    async fn write_in<D: Send + Sync + 'static>(
        &self,
        transaction: &impl Transaction<D>,
        reply: &Reply,
    ) -> Result<()> {
        self.check_size(reply)?;
        let core = &self.lease.core;
        let database = match &core.reconciler {
            Some(reconciler) => Some(reconciler.outcomes.database()),
            None => core.store.database(),
        };
        let database = database.and_then(<dyn Any + Send + Sync>::downcast_ref::<D>);
        let database = database.ok_or_else(other_database)?;
        let row = match self.row(reply).await? {
            Ok(row) => row,
            Err(verdict) => {
                // Whatever the caller makes of the error, the transaction must not commit.
                let doomed = transaction.write(database, &self.doomed_row()).await;
                drop(doomed);
                return Err(not_completed(&verdict));
            }
        };
        match transaction.write(database, &row).await {
            Ok(Written::Done) => Ok(()),
            Ok(Written::Superseded) => Err(self.superseded().await),
            Err(refused) => Err(refused_by_transaction(refused)),
        }
    }

    /// What is to be there once the transaction has committed.
    async fn row(&self, reply: &Reply) -> Result<Draft> {
        if self.lease.core.reconciler.is_some() {
            return self.outcome_row(reply);
        }
        let drafted = self.lease.core.store.draft(Request {
            key: self.lease.key.clone(),
            digest: self.lease.digest,
            command: self.completion(reply),
            seen: Seen::default(),
        });
        drafted.ok_or_else(other_database)?.await
    }

    /// One that can replace nothing.
    fn doomed_row(&self) -> OutcomeRow {
        OutcomeRow {
            id: RecordId(self.lease.digest),
            replaces: Replaces::Version(NO_VERSION),
            mark: None,
            value: Value {
                version: NO_VERSION,
                bytes: Bytes::new(),
            },
            ends_at_ms: 0,
        }
    }

    fn outcome_row(&self, reply: &Reply) -> Result<Draft> {
        self.lease.core.store.check_place()?;
        let now = self.lease.core.timeline.now();
        let stored = self.lease.core.store.load(&self.lease.digest)?;
        let context = Context {
            now,
            next_token: 0,
            full: None,
            on_abandon: OnAbandon::Hold,
        };
        let record = stored.as_ref().map(|stored| &stored.record);
        let decision = decision::decide(record, &self.completion(reply), &context);
        let (Verdict::Done, Some(Change::Put(Record::Completed(record)))) =
            (&decision.verdict, decision.change)
        else {
            return Ok(Err(decision.verdict));
        };
        let (token, expires_at) = (record.token, record.expires_at);
        let stored = Stored {
            digest: self.lease.digest,
            key: None,
            record: Record::Completed(record),
        };
        let mark = self
            .lease
            .core
            .reconciler
            .as_ref()
            .map(|reconciler| reconciler.outcomes.mark());
        outcome_row(&stored, token, mark, (now, expires_at)).map(Ok)
    }

    /// Another attempt's outcome is there: retries get that.
    async fn superseded(&self) -> Error {
        let Some(reconciler) = &self.lease.core.reconciler else {
            return self.superseded_on_register().await;
        };
        match reconciler
            .give_way(&self.lease.key, self.lease.digest, self.token())
            .await
        {
            Ok(true) => first_was_another(),
            Ok(false) => Error::new(
                ErrorKind::LeaseLost,
                "the transaction isn't one of the database that was named with outcomes_in, or the key was completed, forgotten or resolved \
                 meanwhile: roll it back",
            ),
            Err(error) => error,
        }
    }
}

impl Guard {
    /// The row wasn't as it was known here.
    async fn superseded_on_register(&self) -> Error {
        let store = &self.lease.core.store;
        store.mistaken(&self.lease.digest);
        let Some(asked) = store.ask_for(&self.lease.digest) else {
            return other_database();
        };
        match asked.await {
            Ok(Some(Stored {
                record: Record::InFlight(record),
                ..
            })) if record.token == self.token() => Error::new(
                ErrorKind::Unavailable,
                "a renewal of this guard's own came between: roll back, and complete with the same guard in a new transaction",
            ),
            Ok(_) => first_was_another(),
            Err(error) => error,
        }
    }
}

/// A completion that was written in a transaction of the caller's and isn't committed yet.
///
/// After the commit, [confirm](Uncommitted::confirm) it; after a rollback, take the [guard](Uncommitted::rolled_back) back. If
/// it is dropped, or the process dies, the key stays taken until the lease ends; what was committed is then found, and
/// replayed. Where it isn't clear whether the commit went through, drop it.
#[must_use = "confirm it after the commit; until then, retries find the key in flight"]
pub struct Uncommitted {
    guard: Guard,
    reply: Reply,
}

impl Uncommitted {
    /// Lets retries have the reply, after the commit.
    ///
    /// Looks into the database whether the reply is there. With an engine of a folder, waits for the disk then.
    ///
    /// # Errors
    ///
    /// As [`Guard::complete`]; what was committed stands, and is found by the next begin after the lease's end. Drop the guard then
    /// that is in the error, unless it is [`ErrorKind::LeaseLost`]: the transaction hasn't committed. PostgreSQL rolls back, and says so to nobody, where a transaction is committed in which a statement has failed.
    pub fn confirm(self) -> Result<(), CompleteError> {
        block_on(self.confirm_async())
    }

    /// [`confirm`](Uncommitted::confirm) as a future, for any executor. Dropped after its first poll, it goes on.
    ///
    /// # Errors
    ///
    /// As [`confirm`](Uncommitted::confirm).
    pub async fn confirm_async(self) -> Result<(), CompleteError> {
        let Self { guard, reply } = self;
        let attempt = guard.attempt();
        let ending = move |result: &Result<()>| match result {
            Ok(()) => Ending::Completed { attempt },
            Err(_) => Ending::Error,
        };
        let result = observe::in_complete(guard.confirmed(&reply), ending).await;
        match result {
            Ok(()) => {
                guard.lease.core.meters.ended(Ending::Completed { attempt });
                Ok(())
            }
            Err(error) => Err(CompleteError::new(guard, reply, error)),
        }
    }

    /// The guard again, after a rollback: to try once more, or to [release](Guard::release) it.
    ///
    /// Only where it is certain that nothing was committed.
    pub fn rolled_back(self) -> Guard {
        self.guard
    }
}

impl fmt::Debug for Uncommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uncommitted")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl Guard {
    async fn confirmed(&self, reply: &Reply) -> Result<()> {
        let not_committed = || {
            Error::new(
                ErrorKind::LeaseLost,
                "the transaction hasn't committed, or the key was forgotten since: nothing is confirmed",
            )
        };
        let Some(reconciler) = &self.lease.core.reconciler else {
            let confirmed = self
                .lease
                .core
                .store
                .confirmed(&self.lease.digest, self.token());
            let is_there = confirmed.ok_or_else(other_database)?.await?;
            return is_there.then_some(()).ok_or_else(not_committed);
        };
        let completion = self.completion(reply);
        let of_key = (&self.lease.key, self.lease.digest);
        let is_there = reconciler.confirm(of_key, self.token(), completion).await?;
        is_there.then_some(()).ok_or_else(not_committed)
    }
}

fn first_was_another() -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        "another attempt at the key was first; this transaction can't be committed: roll it back, and begin again to get the \
         other one's reply",
    )
}

fn outcome_row(
    stored: &Stored,
    token: u64,
    mark: Option<u64>,
    (now, expires_at): (Timestamp, Timestamp),
) -> Result<OutcomeRow> {
    let heading = Heading {
        sequence: token,
        written_at: now,
        prior: None,
    };
    let mut bytes = Vec::new();
    codec::encode_put(&mut bytes, heading, stored)?;
    Ok(OutcomeRow {
        id: RecordId(stored.digest),
        replaces: Replaces::Older(now.0),
        mark: mark.map(Version::from_bits),
        value: Value {
            // No other attempt of the store has it.
            version: Version::from_bits(token),
            bytes: bytes.into(),
        },
        ends_at_ms: expires_at.0,
    })
}

fn other_database() -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "the engine keeps no outcomes in a database of the transaction's sort; name it with Builder::outcomes_in, or open the \
         engine on it",
    )
}

fn not_completed(verdict: &Verdict) -> Error {
    match verdict {
        Verdict::LeaseLost(holder) => lease_lost(*holder),
        _ => Error::new(
            ErrorKind::LeaseLost,
            "the key is completed already, with the same reply; roll back",
        ),
    }
}

fn refused_by_transaction(refused: Refused) -> Error {
    Error::with_source(
        ErrorKind::Unavailable,
        "the transaction couldn't take the reply; roll it back, and try again with a new one",
        refused.into_cause(),
    )
}
