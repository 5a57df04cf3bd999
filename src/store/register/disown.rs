//! Grants that reach nobody: their begin has failed, and they may have been made all the same.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::decider::{Decider, in_time};
use super::record::{Held, New};
use super::{RecordId, Refused, Register, Swapped, Version};
use crate::clock::{Backoff, Timestamp};
use crate::decision::Command;
use crate::key::Key;
use crate::record::Record;
use crate::secret::Digest;
use crate::store::{Request, Seen};
use crate::sync::atomic::Ordering;
use crate::sync::running::Run;

/// A grant that was asked for, until somebody has it.
#[derive(Clone, Debug)]
pub(super) struct Unowned {
    pub(super) key: Key,
    pub(super) digest: Digest,
    pub(super) expected: Option<Version>,
    pub(super) new: New,
    pub(super) token: u64,
    pub(super) lease: Duration,
    /// When its lease is over in any case, on the engine's time line.
    pub(super) until: Timestamp,
}

/// How many are looked after at once. The keys of further ones are free when their leases end.
const MOST_AT_ONCE: usize = 1_024;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

fn pauses(lease: Duration) -> Backoff {
    Backoff::new(FIRST_PAUSE.min(lease / 20), LONGEST_PAUSE.min(lease / 4))
}

impl<R: Register> Decider<R> {
    /// Looks after a grant that reached nobody, unless that is done for too many.
    pub(super) fn disown_later(self: &Arc<Self>, unowned: Unowned) {
        let (this, disown) = (Arc::clone(self), Arc::clone(self).disown(unowned));
        if self.disowning.fetch_add(1, Ordering::Relaxed) >= MOST_AT_ONCE {
            self.disowning.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tokio::spawn(async move {
            disown.await;
            this.disowning.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Releases a key that nobody has the guard of, however long the server refuses that: until its
    /// lease is over at the latest. A close waits for the first try.
    pub(super) async fn release_unseen(self: Arc<Self>, release: Request, first: Run) {
        let longest = self.first.longest_lease();
        let until = self.time.asking().plus(longest);
        let (mut pauses, mut first) = (pauses(longest), Some(first));
        while let Err(error) = self.carry_out(release.clone()).await {
            drop(first.take());
            if !error.is_transient() || self.running.is_closed() || self.time.asking() >= until {
                return;
            }
            sleep(pauses.pause()).await;
        }
    }

    /// Goes on asking until it is known whether the grant was made, and releases it then, so that
    /// its key isn't taken for a lease with nobody who has the guard.
    fn disown(self: Arc<Self>, unowned: Unowned) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let mut backoff = pauses(unowned.lease);
            while self.time.asking() < unowned.until && !self.running.is_closed() {
                match self.is_made(&unowned).await {
                    Some(false) => return,
                    Some(true) if self.is_released(&unowned).await => return,
                    Some(true) | None => sleep(backoff.pause()).await,
                }
            }
        })
    }

    /// `None` if nobody says. The change is asked for once more: were it not made yet, it might
    /// still be later.
    async fn is_made(&self, unowned: &Unowned) -> Option<bool> {
        let swap = async {
            let (id, value) = (RecordId(unowned.digest), unowned.new.value.clone());
            let ends_at_ms = unowned.new.ends_at.0;
            let swapped = self.register.swap(id, unowned.expected, value, ends_at_ms);
            swapped.await.map_err(Refused::into_error)
        };
        let found = match in_time(&self.register, swap).await.ok()? {
            Swapped::Done { .. } => return Some(true),
            Swapped::Mismatch(found) => found.value,
        };
        let held = found.and_then(|value| Held::of(&value, &unowned.digest).ok());
        let record = held.as_ref().and_then(Held::record);
        Some(matches!(record, Some(Record::InFlight(attempt)) if attempt.token == unowned.token))
    }

    /// Whether the key isn't this grant's any more.
    async fn is_released(self: &Arc<Self>, unowned: &Unowned) -> bool {
        let release = Request {
            key: unowned.key.clone(),
            digest: unowned.digest,
            command: Command::Release {
                token: unowned.token,
            },
            seen: Seen::default(),
        };
        self.carry_out(release).await.is_ok()
    }
}
