//! Keys that are settled otherwise than by a transaction that has committed.
//!
//! A later attempt that completes by itself, an operator, or the end of the retention settles a key whose earlier attempts may
//! still commit. It first puts a fence where the outcome would be, and so waits for a transaction that has written there: either that one was
//! first, and its outcome settles the key, or it can't commit any more.

use std::sync::Arc;

use super::reconcile::{Found, Reconciled, Reconciler, Times};
use crate::clock::Timestamp;
use crate::decision::{Command, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::outcome::Resolution;
use crate::record::{InFlightRecord, Record};
use crate::reply::Reply;
use crate::secret::Digest;
use crate::store::Later;

/// Whether a key is fit to be settled by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fenced {
    /// An attempt's lease is running.
    Running,
    /// Nothing commits any more but what is granted from now on. The record's token, if there is a record.
    Key { token: Option<u64> },
}

impl Reconciler {
    /// Completes a key for an attempt after the first: of an earlier one nothing can commit any more, or its outcome stands.
    pub(super) fn complete_after(
        self: &Arc<Self>,
        (key, digest): (&Key, Digest),
        (token, reply): (u64, &Reply),
        completion: Command,
    ) -> Later<Verdict> {
        let (this, key, reply) = (Arc::clone(self), key.clone(), reply.clone());
        self.run(async move {
            if this.outruns(&key, digest, token, &reply).await? {
                return this.submit(&key, digest, completion).await;
            }
            Err(Error::new(
                ErrorKind::LeaseLost,
                "an earlier attempt at the key has committed its effect and its reply; begin again to get that one's reply",
            ))
        })
    }

    /// Completes a key after its transaction has committed. Gives whether it has.
    pub(super) fn confirm(
        self: &Arc<Self>,
        (key, digest): (&Key, Digest),
        token: u64,
        completion: Command,
    ) -> Later<bool> {
        let (this, key) = (Arc::clone(self), key.clone());
        self.run(async move {
            match this.outcomes.load(&digest).await? {
                Some(found) if found.token == token => {}
                _ => return Ok(false),
            }
            if let Verdict::LeaseLost(_) = this.submit(&key, digest, completion).await? {
                // Whoever was granted the key meanwhile gives way to this outcome.
                this.reconcile(&key, digest).await?;
            }
            Ok(true)
        })
    }

    /// Forgets a key, and its outcome; gives whether there was one.
    pub(super) fn forget(self: &Arc<Self>, key: &Key, digest: Digest) -> Later<(bool, Verdict)> {
        let (this, key) = (Arc::clone(self), key.clone());
        self.run(async move {
            let (had_outcome, fenced) = this.erase(&key, digest).await?;
            let verdict = this.settle_by_hand(&key, digest, fenced, Command::Forget);
            Ok((had_outcome, verdict.await?))
        })
    }

    /// Settles a key by an operator's decision. What was committed isn't for anybody to decide any more.
    pub(super) fn resolve(
        self: &Arc<Self>,
        key: &Key,
        digest: Digest,
        resolution: Resolution,
    ) -> Later<Verdict> {
        let (this, key) = (Arc::clone(self), key.clone());
        self.run(async move {
            let fenced = this.fence_for_good(&key, digest).await?;
            let command = Command::Resolve(resolution);
            this.settle_by_hand(&key, digest, fenced, command).await
        })
    }

    /// Carries a command out, as long as nobody else is granted the key before.
    async fn settle_by_hand(
        &self,
        key: &Key,
        digest: Digest,
        fenced: Fenced,
        command: Command,
    ) -> Result<Verdict> {
        match fenced {
            Fenced::Running => Ok(Verdict::Running),
            Fenced::Key { token } => {
                let then = Box::new(command);
                self.submit(key, digest, Command::If { token, then }).await
            }
        }
    }

    /// Before an operator decides: of an attempt whose lease is over, nothing can commit any more.
    async fn fence_for_good(&self, key: &Key, digest: Digest) -> Result<Fenced> {
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

    /// Takes away a key's outcome, unless an attempt at the key is running. Gives whether there was one.
    async fn erase(&self, key: &Key, digest: Digest) -> Result<(bool, Fenced)> {
        if self.is_running(&digest)? {
            return Ok((false, Fenced::Running));
        }
        // While the record is unsettled, an outcome is the only proof of what was committed.
        let fenced = self.fence_for_good(key, digest).await?;
        let Fenced::Key { token } = fenced else {
            return Ok((false, fenced));
        };
        let Some(found) = self.outcomes.load(&digest).await? else {
            return Ok((false, fenced));
        };
        if self.token(&digest)? != token {
            // It may be the outcome of whoever was granted the key meanwhile.
            return Ok((false, Fenced::Running));
        }
        let times = self.times(found.record.expires_at);
        self.outcomes.erase(&digest, &found, times).await?;
        Ok((true, fenced))
    }

    /// Before a later attempt completes its key otherwise than in a transaction: `false` if an earlier one was first, whose outcome
    /// the key has then.
    async fn outruns(&self, key: &Key, digest: Digest, token: u64, reply: &Reply) -> Result<bool> {
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

    /// Frees a key, if no transaction was first.
    pub(super) async fn let_go(
        &self,
        key: &Key,
        digest: Digest,
        attempt: &InFlightRecord,
    ) -> Result<()> {
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

    fn is_running(&self, digest: &Digest) -> Result<bool> {
        let (now, attempt) = (self.timeline.now(), self.attempt(digest)?);
        Ok(attempt.is_some_and(|attempt| now < attempt.lease_until))
    }

    /// The record's, if there is one.
    fn token(&self, digest: &Digest) -> Result<Option<u64>> {
        let stored = self.store.load(digest)?;
        Ok(stored.map(|stored| match stored.record {
            Record::InFlight(attempt) => attempt.token,
            Record::Completed(record) => record.token,
        }))
    }
}

fn of_another_request() -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        "the database has an outcome of the same key with another request, which the engine knows nothing of: look into it, and forget \
         the key before it is used again",
    )
}
