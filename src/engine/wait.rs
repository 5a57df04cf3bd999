//! A begin that waits for another attempt to end.

use std::sync::Arc;
use std::time::Duration;

use super::Outcome;
use super::core::{Core, begin};
use super::waiters::{Turn, Wake};
use crate::clock::Timestamp;
use crate::decision::Verdict;
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::mutant::{self, Mutant};
use crate::secret::Digest;
use crate::store::{Glance, Reads};

/// Where nobody wakes those who wait for a key, they look again after this time at the latest.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

impl Core {
    pub(super) async fn begin_or_wait(
        self: &Arc<Self>,
        key: &Key,
        fingerprint: &Fingerprint,
        patience: Duration,
        reads: Reads,
    ) -> Result<Outcome> {
        let begin = self.begin_until(key, fingerprint, patience, reads);
        self.observed(begin).await
    }

    async fn begin_until(
        self: &Arc<Self>,
        key: &Key,
        fingerprint: &Fingerprint,
        patience: Duration,
        reads: Reads,
    ) -> Result<Outcome> {
        let terms = self.limits.terms;
        let digest = self.store.secret().digest(key);
        let deadline = self.timeline.now().plus(patience);
        let mut turn: Option<Turn<'_>> = None;
        let mut look = self.store.looks_again_after();
        loop {
            // On an error, the turn is passed on as it goes out of scope.
            let outcome = self.begin_once(key, fingerprint, terms, reads).await?;
            let Outcome::InFlight(in_flight) = outcome else {
                if let Some(turn) = turn.take() {
                    turn.used();
                }
                return Ok(outcome);
            };
            if self.timeline.now() >= deadline {
                // A turn passes to the next in line, who sees to it that the lease's end is waited for.
                return Ok(Outcome::InFlight(in_flight));
            }
            if let Some(turn) = turn.take() {
                turn.used();
            }
            let lease_end = if in_flight.is_held {
                Timestamp::NEVER
            } else {
                self.store.local(in_flight.lease_until)
            };
            let until = match look {
                Some(pause) => deadline.min(self.timeline.now().plus(pause)),
                None => deadline,
            };
            let wait = self.waiters.join(digest, lease_end, until);
            // Nobody waits for what can't happen.
            self.store.condition()?;
            let looks_again = look.is_none() && !mutant::is_on(Mutant::NoSecondLook);
            if looks_again && !self.is_still_in_flight(&digest, fingerprint)? {
                continue;
            }
            look = look.map(|pause| LONGEST_LOOK.min(2 * pause));
            let waiting = self.meters.wait();
            let wake = wait.await;
            drop(waiting);
            match wake {
                Wake::Look => {}
                Wake::Turn => turn = Some(Turn::new(&self.waiters, digest)),
                Wake::TimedOut if until < deadline => {}
                Wake::TimedOut => {
                    return self.begin_once(key, fingerprint, terms, reads).await;
                }
            }
        }
    }

    fn is_still_in_flight(&self, digest: &Digest, fingerprint: &Fingerprint) -> Result<bool> {
        let whole = self.store.secret().seal_whole(fingerprint);
        let command = begin(whole, self.limits.terms, None);
        let glance = self.store.glance(digest, &command, Reads::Elsewhere)?;
        Ok(matches!(glance, Glance::Decided(Verdict::InFlight(_))))
    }
}
