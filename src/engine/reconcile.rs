//! Attempts whose outcome may be in the caller's own database.
//!
//! With outcomes there, a store holds every abandoned attempt: that a lease has ended doesn't say that nothing was
//! committed. Before such a key is granted again, its outcome is looked for. One that is there completes the key; where
//! there is none, the attempt may be taken over. A transaction of it that commits later makes the next one fail.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::{Timeline, Timestamp};
use crate::decision::{Command, Verdict};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::outcome::{OnAbandon, Resolution};
use crate::record::{CompletedRecord, InFlightRecord, Record, Stored};
use crate::secret::Digest;
use crate::store::{Answer, Request, Seen, Store};

/// What comes of something that goes on whether or not it is polled.
pub(super) type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// How many outcomes are asked for at once.
const ASKED_AT_ONCE: usize = 64;

/// The outcomes in the caller's database.
pub(super) trait Outcomes: Send + Sync + fmt::Debug {
    /// Sees to what transactions need to find there.
    #[cfg_attr(not(feature = "register"), allow(dead_code))] // Nothing is opened without the feature.
    fn prepare(&self) -> Later<()>;

    fn load(&self, digest: &Digest) -> Later<Option<Found>>;

    fn remove(&self, digest: &Digest, found: &Found) -> Later<()>;

    /// Removes some that have ended; gives how many.
    fn sweep(&self, now: Timestamp) -> Later<u64>;

    #[cfg_attr(not(feature = "register"), allow(dead_code))] // Transactions are there with the feature.
    fn database(&self) -> &(dyn Any + Send + Sync);

    /// Ends what is under way.
    fn stop(&self);
}

/// An outcome that was committed.
#[derive(Debug)]
pub(super) struct Found {
    #[cfg_attr(not(feature = "register"), allow(dead_code))]
    // Nothing is found without the feature.
    pub(super) version: u64,
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
}

impl Reconciler {
    /// Settles one key.
    pub(super) async fn reconcile(&self, key: &Key, digest: Digest) -> Result<Reconciled> {
        let Some(attempt) = self.attempt(&digest)? else {
            return Ok(Reconciled::Settled);
        };
        match self.outcomes.load(&digest).await? {
            Some(found) if found.record.expires_at > self.timeline.now() => {
                self.complete(key.clone(), digest, attempt.token, found.record)
                    .await?;
                Ok(Reconciled::Settled)
            }
            _ => Ok(Reconciled::NoOutcome {
                token: attempt.token,
            }),
        }
    }

    /// Completes every attempt that has an outcome; lets go of those that are remembered for long enough.
    pub(super) async fn reconcile_all(&self) -> Result<()> {
        for some in self.store.in_flight().chunks(ASKED_AT_ONCE) {
            let asked: Vec<_> = some
                .iter()
                .map(|stored| (stored, self.outcomes.load(&stored.digest)))
                .collect();
            for (stored, outcome) in asked {
                let Record::InFlight(attempt) = &stored.record else {
                    continue;
                };
                let (digest, token, now) = (stored.digest, attempt.token, self.timeline.now());
                let Some(key) = self.key_of(stored)? else {
                    continue;
                };
                match outcome.await? {
                    Some(found) if found.record.expires_at > now => {
                        self.complete(key, digest, token, found.record).await?;
                    }
                    _ if self.on_abandon == OnAbandon::Rerun && stored.record.ends_at() <= now => {
                        let release = Command::Resolve(Resolution::Release);
                        self.submit(key, digest, release).await?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What a sweep does beside the store's own.
    pub(super) async fn tidy(&self) -> Result<()> {
        self.reconcile_all().await?;
        while self.outcomes.sweep(self.timeline.now()).await? > 0 {}
        Ok(())
    }

    /// Removes a key's outcome, unless the key is running. Gives whether there was one.
    pub(super) async fn forget(&self, digest: &Digest) -> Result<bool> {
        let Some(found) = self.outcomes.load(digest).await? else {
            return Ok(false);
        };
        let now = self.timeline.now();
        let attempt = self.attempt(digest)?;
        if attempt.is_some_and(|attempt| now < attempt.lease_until) {
            return Ok(false);
        }
        self.outcomes.remove(digest, &found).await?;
        Ok(true)
    }

    /// Completes an attempt with what was committed, whichever attempt that was.
    pub(super) async fn complete(
        &self,
        key: Key,
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

    /// The key that a new record of the same digest gets. `None` where a text is to be kept and isn't there: such a key
    /// waits for its next begin.
    fn key_of(&self, stored: &Stored) -> Result<Option<Key>> {
        match &stored.key {
            Some(key) => Ok(Some(key.clone())),
            None if self.keeps_keys => Ok(None),
            None => Key::unscoped("not kept").map(Some),
        }
    }

    fn attempt(&self, digest: &Digest) -> Result<Option<InFlightRecord>> {
        let stored = self.store.load(digest)?;
        Ok(stored.and_then(|stored| match stored.record {
            Record::InFlight(attempt) => Some(attempt),
            Record::Completed(_) => None,
        }))
    }

    async fn submit(&self, key: Key, digest: Digest, command: Command) -> Result<Verdict> {
        let request = Request {
            key,
            digest,
            command,
            seen: Seen::default(),
        };
        let (answer, pending) = Answer::new(Arc::downgrade(&self.store), &request);
        self.store.submit(request, answer);
        pending.await.unwrap_or_else(|| Err(Error::closed()))
    }
}
