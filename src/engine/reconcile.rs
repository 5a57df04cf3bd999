//! Attempts whose outcome may be in the caller's own database.
//!
//! With outcomes there, a store holds every abandoned attempt: that a lease has ended doesn't say that nothing was
//! committed. Before such a key is granted again, its outcome is looked for. One that is there completes the key; where
//! there is none, the attempt may be taken over. A transaction of it that commits later makes the next one fail.
//!
//! Whatever else settles a key whose earlier attempts may still commit (a later attempt that completes it otherwise, an operator,
//! the end of the retention) first puts a fence where the outcome would be. It waits for a transaction that has written there: either that
//! one was first, and its outcome settles the key, or it can't commit any more.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::clock::{Timeline, Timestamp};
use crate::decision::{Command, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::outcome::{OnAbandon, Resolution};
use crate::record::{CompletedRecord, InFlightRecord, Record, Stored};
use crate::reply::Reply;
use crate::secret::Digest;
use crate::store::{Answer, Later, Request, Seen, Store};

/// How many outcomes are asked for at once.
const ASKED_AT_ONCE: usize = 64;

/// The outcomes in the caller's database.
pub(super) trait Outcomes: Send + Sync + fmt::Debug {
    fn load(&self, digest: &Digest) -> Later<Option<Found>>;

    /// Keeps attempts up to that token from committing, until then. Gives the outcome that is there already.
    fn fence(&self, digest: &Digest, token: u64, times: Times) -> Later<Option<Found>>;

    /// Puts a fence in an outcome's place.
    fn erase(&self, digest: &Digest, found: &Found, times: Times) -> Later<()>;

    /// Removes some that have ended; gives how many.
    fn sweep(&self, now: Timestamp) -> Later<u64>;

    fn database(&self) -> &(dyn Any + Send + Sync);

    /// What the database is known by.
    fn mark(&self) -> u64;

    /// Ends what is under way.
    fn stop(&self);
}

/// When a fence is put, and when it may be removed: no transaction lasts for that long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) now: Timestamp,
    pub(super) until: Timestamp,
}

/// An outcome that was committed.
#[derive(Debug)]
pub(super) struct Found {
    /// Of the attempt that committed it.
    pub(super) token: u64,
    pub(super) record: CompletedRecord,
}

/// What has become of an attempt that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reconciled {
    /// It isn't held any more, or never was.
    Settled,
    /// It is, and had no outcome so far.
    NoOutcome { token: u64 },
}

/// Whether a key is fit to be settled by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fenced {
    /// An attempt's lease is running.
    Running,
    /// Nothing commits any more but what is granted from now on. The record's token, if there is a record.
    Key { token: Option<u64> },
}

/// Brings a store up to date with the outcomes.
#[derive(Debug)]
pub(super) struct Reconciler {
    pub(super) outcomes: Arc<dyn Outcomes>,
    pub(super) store: Arc<dyn Store>,
    pub(super) timeline: Timeline,
    /// What the caller wants of an attempt without an outcome.
    pub(super) on_abandon: OnAbandon,
    pub(super) keeps_keys: bool,
}

impl Reconciler {
    /// Settles one key, if its attempt has an outcome, or is remembered for long enough.
    pub(super) async fn reconcile(&self, key: &Key, digest: Digest) -> Result<Reconciled> {
        let Some(attempt) = self.attempt(&digest)? else {
            return Ok(Reconciled::Settled);
        };
        let outcome = self.outcomes.load(&digest).await?;
        if self.completes(key, digest, &attempt, outcome).await? {
            return Ok(Reconciled::Settled);
        }
        if self.is_remembered_enough(&attempt) {
            self.let_go(key, digest, &attempt).await?;
            return Ok(Reconciled::Settled);
        }
        Ok(Reconciled::NoOutcome {
            token: attempt.token,
        })
    }

    /// The same before an operator decides: of an attempt whose lease is over, nothing can commit any more.
    pub(super) async fn reconcile_for_good(&self, key: &Key, digest: Digest) -> Result<Fenced> {
        let reconciled = self.reconcile(key, digest).await?;
        let record = self.store.load(&digest)?.map(|stored| stored.record);
        let now = self.timeline.now();
        match (reconciled, record) {
            (_, None) => Ok(Fenced::Key { token: None }),
            (_, Some(Record::Completed(record))) => Ok(Fenced::Key {
                token: Some(record.token),
            }),
            (Reconciled::NoOutcome { token }, Some(Record::InFlight(attempt)))
                if attempt.token == token && attempt.lease_until <= now =>
            {
                self.fence(key, digest, &attempt).await?;
                Ok(Fenced::Key { token: Some(token) })
            }
            (_, Some(Record::InFlight(_))) => Ok(Fenced::Running),
        }
    }

    /// Completes every attempt that has an outcome.
    pub(super) async fn reconcile_all(&self) -> Result<()> {
        self.over_all(false).await
    }

    /// What a sweep does beside the store's own: also lets go of attempts that are remembered for long enough.
    pub(super) async fn tidy(&self) -> Result<()> {
        let reconciled = self.over_all(true).await;
        while self.outcomes.sweep(self.timeline.now()).await? > 0 {}
        reconciled
    }

    /// Goes on after an error, which may be one key's alone; gives the first.
    async fn over_all(&self, lets_go: bool) -> Result<()> {
        let mut first = Ok(());
        for some in self.store.in_flight()?.chunks(ASKED_AT_ONCE) {
            let asked: Vec<_> = some
                .iter()
                .map(|stored| (stored, self.outcomes.load(&stored.digest)))
                .collect();
            for (stored, outcome) in asked {
                let settled = self.settle(stored, outcome.await, lets_go).await;
                first = first.and(settled);
            }
        }
        first
    }

    async fn settle(
        &self,
        stored: &Stored,
        outcome: Result<Option<Found>>,
        lets_go: bool,
    ) -> Result<()> {
        let Record::InFlight(attempt) = &stored.record else {
            return Ok(());
        };
        let Some(key) = self.key_of(stored)? else {
            return Ok(());
        };
        let digest = stored.digest;
        let is_settled = self.completes(&key, digest, attempt, outcome?).await?;
        if !is_settled && lets_go && self.is_remembered_enough(attempt) {
            self.let_go(&key, digest, attempt).await?;
        }
        Ok(())
    }

    /// Takes away a key's outcome, unless an attempt at the key is running. Gives whether there was one.
    pub(super) async fn forget(&self, key: &Key, digest: Digest) -> Result<(bool, Fenced)> {
        if self.is_running(&digest)? {
            return Ok((false, Fenced::Running));
        }
        // While the record is unsettled, an outcome is the only proof of what was committed.
        let fenced = self.reconcile_for_good(key, digest).await?;
        if fenced == Fenced::Running {
            return Ok((false, fenced));
        }
        let Some(found) = self.outcomes.load(&digest).await? else {
            return Ok((false, fenced));
        };
        let times = self.times(found.record.expires_at);
        self.outcomes.erase(&digest, &found, times).await?;
        Ok((true, fenced))
    }

    /// Before a later attempt completes its key otherwise than in a transaction: `false` if an earlier one was first, whose outcome
    /// the key has then.
    pub(super) async fn outruns(
        &self,
        key: &Key,
        digest: Digest,
        token: u64,
        reply: &Reply,
    ) -> Result<bool> {
        let Some(attempt) = self.attempt(&digest)?.filter(|found| found.token == token) else {
            // The store will say so.
            return Ok(true);
        };
        let earlier = InFlightRecord {
            token: token.saturating_sub(1),
            ..attempt.clone()
        };
        match self.fence_at(digest, &earlier).await? {
            Some(found) if found.token == token => {
                // Its own transaction has committed after all, with this reply or another one.
                let is_same = found.record.reply == *reply;
                self.complete(key, digest, token, found.record).await?;
                Ok(is_same)
            }
            Some(found) if found.is_of(&attempt) => {
                self.complete(key, digest, token, found.record).await?;
                Ok(false)
            }
            Some(_) => Err(of_another_request()),
            None => Ok(true),
        }
    }

    /// Gives an attempt the outcome that another one has committed; `false` if there is none.
    pub(super) async fn give_way(&self, key: &Key, digest: Digest, token: u64) -> Result<bool> {
        let Some(attempt) = self.attempt(&digest)?.filter(|found| found.token == token) else {
            return Ok(true);
        };
        match self.outcomes.load(&digest).await? {
            Some(found) if found.is_of(&attempt) => {
                self.complete(key, digest, token, found.record).await?;
                Ok(true)
            }
            Some(_) => Err(of_another_request()),
            None => Ok(false),
        }
    }

    /// Completes an attempt with an outcome, if it is one of its request. Gives whether it was.
    async fn completes(
        &self,
        key: &Key,
        digest: Digest,
        attempt: &InFlightRecord,
        outcome: Option<Found>,
    ) -> Result<bool> {
        let Some(found) = outcome.filter(|found| found.is_of(attempt)) else {
            return Ok(false);
        };
        self.complete(key, digest, attempt.token, found.record)
            .await?;
        Ok(true)
    }

    /// Completes an attempt with what was committed, whichever attempt that was.
    async fn complete(
        &self,
        key: &Key,
        digest: Digest,
        token: u64,
        outcome: CompletedRecord,
    ) -> Result<()> {
        let completion = Command::Complete {
            token,
            retention: outcome.expires_at.since(self.timeline.now()),
            reply: outcome.reply,
        };
        self.submit(key, digest, completion).await.map(drop)
    }

    fn is_remembered_enough(&self, attempt: &InFlightRecord) -> bool {
        let is_rerun = self.on_abandon == OnAbandon::Rerun;
        is_rerun && Record::InFlight(attempt.clone()).ends_at() <= self.timeline.now()
    }

    /// Frees a key, if no transaction was first.
    async fn let_go(&self, key: &Key, digest: Digest, attempt: &InFlightRecord) -> Result<()> {
        if self.fence(key, digest, attempt).await? {
            let release = Command::If {
                token: Some(attempt.token),
                then: Box::new(Command::Resolve(Resolution::Release)),
            };
            self.submit(key, digest, release).await?;
        }
        Ok(())
    }

    /// Keeps an attempt and those before it from committing. `false` if one of them was first, whose outcome the key has then.
    async fn fence(&self, key: &Key, digest: Digest, attempt: &InFlightRecord) -> Result<bool> {
        let first = self.fence_at(digest, attempt).await?;
        let was_first = self.completes(key, digest, attempt, first).await?;
        Ok(!was_first)
    }

    async fn fence_at(&self, digest: Digest, attempt: &InFlightRecord) -> Result<Option<Found>> {
        let until = self.timeline.now().plus(attempt.retention);
        let times = self.times(until);
        self.outcomes.fence(&digest, attempt.token, times).await
    }

    fn times(&self, until: Timestamp) -> Times {
        Times {
            now: self.timeline.now(),
            until,
        }
    }

    /// The key that a new record of the same digest gets. `None` where a text is to be kept and isn't there: such a key
    /// waits for its next begin.
    fn key_of(&self, stored: &Stored) -> Result<Option<Key>> {
        match &stored.key {
            Some(key) => Ok(Some(key.clone())),
            None if self.keeps_keys => Ok(None),
            None => Key::unscoped("not kept").map(Some),
        }
    }

    fn is_running(&self, digest: &Digest) -> Result<bool> {
        let (now, attempt) = (self.timeline.now(), self.attempt(digest)?);
        Ok(attempt.is_some_and(|attempt| now < attempt.lease_until))
    }

    fn attempt(&self, digest: &Digest) -> Result<Option<InFlightRecord>> {
        let stored = self.store.load(digest)?;
        Ok(stored.and_then(|stored| match stored.record {
            Record::InFlight(attempt) => Some(attempt),
            Record::Completed(_) => None,
        }))
    }

    async fn submit(&self, key: &Key, digest: Digest, command: Command) -> Result<Verdict> {
        let request = Request {
            key: key.clone(),
            digest,
            command,
            seen: Seen::default(),
        };
        let (answer, pending) = Answer::new(Arc::downgrade(&self.store), &request);
        self.store.submit(request, answer);
        pending.await.unwrap_or_else(|| Err(Error::closed()))
    }
}

impl Fenced {
    /// The command, as long as nobody else is granted the key before. `None` while somebody is.
    pub(super) fn then(self, command: Command) -> Option<Command> {
        match self {
            Self::Running => None,
            Self::Key { token } => Some(Command::If {
                token,
                then: Box::new(command),
            }),
        }
    }
}

impl Found {
    /// Whether it answers the attempt's request: the key may have been used for another one before.
    fn is_of(&self, attempt: &InFlightRecord) -> bool {
        self.record.fingerprint.matches(&attempt.fingerprint)
    }
}

fn of_another_request() -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        "the database has an outcome of the same key with another request, which the engine knows nothing of: look into it, and forget \
         the key before it is used again",
    )
}
