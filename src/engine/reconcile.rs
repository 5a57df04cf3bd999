//! Attempts whose outcome may be in the caller's own database.
//!
//! With outcomes there, a store holds every abandoned attempt: that a lease has ended doesn't say that nothing was
//! committed. Before such a key is granted again, its outcome is looked for. One that is there completes the key; where
//! there is none, the attempt may be taken over. A transaction of it that commits later makes the next one fail.
//!
//! Whatever else settles such a key first puts a [fence](super::fence).

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_channel::oneshot;

use crate::clock::{Timeline, Timestamp};
use crate::decision::{Command, Verdict};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::outcome::OnAbandon;
use crate::record::{CompletedRecord, InFlightRecord, Record, Stored};
use crate::secret::Digest;
use crate::store::{Answer, Later, Request, Seen, Store, gone};
use crate::sync::running::Running;

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

    /// Runs something in the thread that asks the database.
    fn run(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>);

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

/// Brings a store up to date with the outcomes.
#[derive(Debug)]
pub(super) struct Reconciler {
    pub(super) outcomes: Arc<dyn Outcomes>,
    pub(super) store: Arc<dyn Store>,
    pub(super) timeline: Timeline,
    /// What the caller wants of an attempt without an outcome.
    pub(super) on_abandon: OnAbandon,
    pub(super) keeps_keys: bool,
    /// What is run to its end.
    pub(super) running: Arc<Running>,
}

impl Reconciler {
    /// Runs something to its end, whether or not anybody waits for it; it may read from the disk.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Later<T> {
        let (sender, receiver) = oneshot::channel();
        if let Some(run) = self.running.begin() {
            self.outcomes.run(Box::pin(async move {
                drop(sender.send(work.await));
                drop(run);
            }));
        }
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(Error::closed())) })
    }

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

    /// Settles one key, if its attempt is remembered for long enough; `None` if it isn't.
    pub(super) async fn reconcile_if_over(
        &self,
        key: &Key,
        digest: Digest,
    ) -> Result<Option<Reconciled>> {
        match self.attempt(&digest)? {
            Some(attempt) if self.is_remembered_enough(&attempt) => {
                self.reconcile(key, digest).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Completes every attempt that has an outcome.
    pub(super) async fn reconcile_all(&self) -> Result<()> {
        self.over_all(false).await.map(drop)
    }

    /// What a sweep does beside the store's own: also lets go of attempts that are remembered for long enough.
    pub(super) async fn tidy(&self) -> Result<()> {
        // Until it has settled its key, an outcome is the only proof of what was committed, though it has ended.
        if self.over_all(true).await? {
            while self.outcomes.sweep(self.timeline.now()).await? > 0 {}
        }
        Ok(())
    }

    /// Goes on after an error, which may be one key's alone; gives the first, or else whether every outcome has settled its key.
    async fn over_all(&self, lets_go: bool) -> Result<bool> {
        let (mut all, mut first) = (true, Ok(()));
        for some in self.store.in_flight()?.chunks(ASKED_AT_ONCE) {
            let asked: Vec<_> = some
                .iter()
                .map(|stored| (stored, self.outcomes.load(&stored.digest)))
                .collect();
            for (stored, outcome) in asked {
                match self.settle(stored, outcome.await, lets_go).await {
                    Ok(is_settled) => all &= is_settled,
                    Err(error) => first = first.and(Err(error)),
                }
            }
        }
        first.map(|()| all)
    }

    /// `false` if there is an outcome whose key isn't known, which an operator may have to know of.
    async fn settle(
        &self,
        stored: &Stored,
        outcome: Result<Option<Found>>,
        lets_go: bool,
    ) -> Result<bool> {
        let Record::InFlight(attempt) = &stored.record else {
            return Ok(true);
        };
        let outcome = outcome?;
        let Some(key) = self.key_of(stored)? else {
            return Ok(outcome.is_none() || self.on_abandon == OnAbandon::Rerun);
        };
        let digest = stored.digest;
        let is_settled = self.completes(&key, digest, attempt, outcome).await?;
        if !is_settled && lets_go && self.is_remembered_enough(attempt) {
            self.let_go(&key, digest, attempt).await?;
        }
        Ok(true)
    }

    /// Completes an attempt with an outcome, if it is one of its request. Gives whether it was.
    pub(super) async fn completes(
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
    pub(super) async fn complete(
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

    pub(super) fn is_remembered_enough(&self, attempt: &InFlightRecord) -> bool {
        let is_rerun = self.on_abandon == OnAbandon::Rerun;
        is_rerun && Record::InFlight(attempt.clone()).ends_at() <= self.timeline.now()
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

    pub(super) fn attempt(&self, digest: &Digest) -> Result<Option<InFlightRecord>> {
        let stored = self.store.load(digest)?;
        Ok(stored.and_then(|stored| match stored.record {
            Record::InFlight(attempt) => Some(attempt),
            Record::Completed(_) => None,
        }))
    }

    pub(super) async fn submit(
        &self,
        key: &Key,
        digest: Digest,
        command: Command,
    ) -> Result<Verdict> {
        let request = Request {
            key: key.clone(),
            digest,
            command,
            seen: Seen::default(),
        };
        let (answer, pending) = Answer::new(Arc::downgrade(&self.store), &request);
        self.store.submit(request, answer);
        pending.await.unwrap_or_else(|| Err(gone(&*self.store)))
    }
}

impl Found {
    /// Whether it answers the attempt's request: the key may have been used for another one before.
    pub(super) fn is_of(&self, attempt: &InFlightRecord) -> bool {
        self.record.fingerprint.matches(&attempt.fingerprint)
    }
}
