//! What follows from a change that was made, or that is found made.

use std::time::Duration;

use super::asked::Asked;
use super::asking::{Doubt, Made};
use super::decider::{Decider, Own, View};
use super::late::has_slept;
use super::record::{Held, New};
use super::replies::Since;
use super::{Register, Value};
use crate::clock::Timestamp;
use crate::decision::{Command, Verdict};
use crate::error::Result;
use crate::record::{Record, Stored};
use crate::secret::Digest;
use crate::store::Observed;

impl Asked<'_> {
    /// A completion that is there already: whoever made it may have been told that its outcome is
    /// unknown, because it isn't replicated, say.
    pub(super) fn found_made<'v>(&self, verdict: &Verdict, view: &'v View) -> Option<&'v Value> {
        let is_completion = matches!(self.command, Command::Complete { .. });
        let is_made = is_completion && *verdict == Verdict::Done;
        view.value.as_ref().filter(|_| is_made)
    }
}

impl<R: Register> Decider<R> {
    /// Notes what was changed, and tells who has to know. Gives what is there instead, if it had to
    /// be written once more and isn't there any more.
    pub(super) async fn took(
        &self,
        asked: &Asked<'_>,
        (mut stored, new): (Option<Stored>, New),
        verdict: &Verdict,
        (view, late): (&View, Duration),
    ) -> Result<Option<View>> {
        let version = new.value.version;
        if let (Command::Complete { retention, .. }, Some(completed)) = (asked.command, &stored)
            && has_slept(late, *retention)
        {
            let again = self.write_later(asked, completed.clone(), version, (view, late));
            match Box::pin(again).await? {
                Ok(completed) => stored = Some(completed),
                Err(found) => return Ok(Some(found)),
            }
        }
        let observed = Observed::of(stored.as_ref().map(|stored| &stored.record));
        self.note_own(asked.digest, new.value, verdict);
        self.keep_reply(stored, asked.since, view.now);
        self.observer.changed(&asked.digest, self.here(observed));
        self.news.tell(asked.digest, observed);
        Ok(None)
    }

    /// The same on the engine's time line.
    fn here(&self, observed: Observed) -> Observed {
        match observed {
            Observed::InFlight { lease_until } => Observed::InFlight {
                lease_until: self.time.local(lease_until),
            },
            other => other,
        }
    }

    /// Writes over itself what is found made: that it is there doesn't say that it is as durable as
    /// what is acknowledged. Gives what is there instead, if something is.
    pub(super) async fn written_over_itself(
        &self,
        digest: Digest,
        value: &Value,
        doubt: &Doubt,
    ) -> Result<Option<View>> {
        let held = Held::of(value, &digest)?;
        let same = New {
            value: value.clone(),
            ends_at: held.record().map_or(Timestamp::NEVER, Record::ends_at),
        };
        match self.swap(digest, Some(value.version), &same, doubt).await? {
            Made::Done { .. } => Ok(None),
            Made::Not(found) => Ok(Some(found)),
        }
    }

    pub(super) fn keep_reply(&self, stored: Option<Stored>, since: Since, now: Timestamp) {
        if let Some(stored) = stored {
            self.replies.keep(stored, since, now);
        }
    }

    fn note_own(&self, digest: Digest, value: Value, verdict: &Verdict) {
        let mut own = self.own.lock();
        match verdict {
            Verdict::Proceed(grant) => {
                let granted = Own {
                    value,
                    token: grant.token,
                    lease_until: grant.lease_until,
                };
                own.insert(digest, granted);
            }
            Verdict::Renewed { lease_until } => {
                if let Some(own) = own.get_mut(&digest) {
                    own.value = value;
                    own.lease_until = *lease_until;
                }
            }
            _ => drop(own.remove(&digest)),
        }
    }
}
