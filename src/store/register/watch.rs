//! Watching the first cell: with each sweep, at least every ten seconds, and before the first grant
//! over a new connection.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::sleep;

use super::asked::Asked;
use super::decider::{Decider, in_time};
use super::first_cell::{FIRST, Looked};
use super::worker::Jobs;
use super::{Loaded, Refused, Register, Swapped};
use crate::clock::Timestamp;
use crate::decision::{Command, Verdict};
use crate::error::{Error, Result};
use crate::observe;

const LOOKS_EVERY: Duration = Duration::from_secs(10);
/// How often a change of the cell is tried again because another node was faster.
const MOST_TRIES: usize = 8;

/// Looks every now and then, until the engine is closed.
pub(super) fn start<R: Register>(jobs: &Jobs, shared: &Arc<Decider<R>>) {
    jobs.run(look_for_ever(Arc::downgrade(shared)));
}

async fn look_for_ever<R: Register>(decider: Weak<Decider<R>>) {
    loop {
        sleep(LOOKS_EVERY).await;
        let Some(decider) = decider.upgrade().filter(|it| !it.running.is_closed()) else {
            return;
        };
        // What is wrong is told by `noted`, and looked at again.
        let _ = decider.in_time(decider.look_at_first()).await;
    }
}

impl<R: Register> Decider<R> {
    /// Whether a grant may be made with this lease.
    pub(super) async fn may_grant(&self, asked: &Asked<'_>, verdict: &Verdict) -> Result<()> {
        let (Verdict::Proceed(_), Command::Begin { lease, .. }) = (verdict, asked.command) else {
            return Ok(());
        };
        self.is_held_back(asked)?;
        if self.first.covers(*lease) {
            return Ok(());
        }
        Box::pin(self.cover(*lease)).await
    }

    /// Whether a grant that was made may be handed out: a connection that was made meanwhile may
    /// lead to a server that has forgotten, or somebody may have found out.
    pub(super) async fn may_hand_out(&self, asked: &Asked<'_>, verdict: &Verdict) -> Result<()> {
        if !matches!(verdict, Verdict::Proceed(_)) {
            return Ok(());
        }
        if !self.first.was_seen_at(self.register.connections()) {
            Box::pin(self.look_over_new_connection()).await?;
        }
        self.is_held_back(asked)
    }

    fn is_held_back(&self, asked: &Asked<'_>) -> Result<()> {
        let held_back = self.first.check(self.time.asking());
        held_back.map_err(|error| asked.held_back(error))
    }

    /// One look is enough for all who have come to need one meanwhile.
    async fn look_over_new_connection(&self) -> Result<()> {
        let looking = self.looking.lock().await;
        if self.first.was_seen_at(self.register.connections()) {
            return Ok(());
        }
        self.look(looking).await
    }

    /// Reads the first cell, and puts it back if it is gone.
    pub(super) async fn look_at_first(&self) -> Result<()> {
        let looking = self.looking.lock().await;
        self.look(looking).await
    }

    async fn look(&self, _looking: MutexGuard<'_, ()>) -> Result<()> {
        let connections = self.register.connections();
        let asked = self.time.asking();
        let loaded = self.register.load(FIRST).await;
        let mut found = loaded.map_err(Refused::into_error)?;
        self.time.learn(asked, Timestamp(found.now_ms));
        for _ in 0..MOST_TRIES {
            match self.mend(found).await? {
                None => {
                    self.first.seen(connections);
                    return Ok(());
                }
                Some(other) => found = other,
            }
        }
        Err(super::decider::contended())
    }

    /// Gives what is there if another node was faster.
    async fn mend(&self, found: Loaded) -> Result<Option<Loaded>> {
        let now = Timestamp(found.now_ms);
        let compared = self
            .first
            .compare(found.value.as_ref(), now, self.versions.next());
        let looked = compared.inspect_err(|_| {
            // It isn't the register any more that the engine was opened on.
            let longest = self.first.longest_lease();
            self.first.hold_until(self.time.asking().plus(longest));
        })?;
        let (expected, value, content) = match looked {
            Looked::There => {
                self.hold(now);
                return Ok(None);
            }
            Looked::Lost => {
                // The others wait for as long as the cell says, and so does whoever has come to
                // know only now.
                let longest = self.first.longest_lease();
                self.first.hold_until(self.time.asking().plus(longest));
                self.tell_of_loss();
                return Ok(None);
            }
            Looked::Mend {
                expected,
                value,
                content,
            } => (expected, value, content),
        };
        if self.first.is_lost_by(&content) {
            // Held back before the server is told: it may refuse.
            let longest = self.first.longest_lease();
            self.first.hold_until(self.time.asking().plus(longest));
        }
        let swapped = self
            .register
            .swap(FIRST, expected, value.clone(), u64::MAX)
            .await;
        match swapped.map_err(Refused::into_error)? {
            Swapped::Mismatch(other) => Ok(Some(other)),
            Swapped::Done { .. } => {
                let is_loss = self.first.is_lost_by(&content);
                self.first.adopt(value, content);
                self.hold(now);
                if is_loss {
                    self.tell_of_loss();
                }
                Ok(None)
            }
        }
    }

    /// Holds grants back for as long as the cell says, but for no longer than a lease: by a clock
    /// that was set back it may say more.
    fn hold(&self, now: Timestamp) {
        let from = self.first.grants_from();
        if from > now && from.since(now) <= self.first.longest_lease() {
            self.first.hold_until(self.time.local_at_latest(from));
        }
    }

    fn tell_of_loss(&self) {
        self.first.count_loss();
        self.meters.register_lost();
        if let Err(error) = self.first.check(self.time.asking()) {
            observe::warn(&error.to_string());
        }
    }

    /// Notes a lease in the cell that is longer than any before.
    async fn cover(&self, lease: Duration) -> Result<()> {
        for _ in 0..MOST_TRIES {
            let (expected, value) = self.first.with_lease(lease, self.versions.next())?;
            let swapped = self
                .register
                .swap(FIRST, Some(expected), value.clone(), u64::MAX)
                .await;
            match swapped.map_err(Refused::into_error)? {
                Swapped::Done { .. } => return self.first.covers_now(value),
                Swapped::Mismatch(_) => {
                    self.look_at_first().await?;
                    if self.first.covers(lease) {
                        return Ok(());
                    }
                }
            }
        }
        Err(super::decider::contended())
    }

    /// Whether the server writes: the first cell over itself.
    pub(super) async fn writes(&self) -> bool {
        let first = self.first.value();
        let swap = async {
            let version = Some(first.version);
            let swapped = self.register.swap(FIRST, version, first, u64::MAX).await;
            match swapped.map_err(Refused::into_error)? {
                Swapped::Done { .. } => Ok::<(), Error>(()),
                Swapped::Mismatch(_) => self.look_at_first().await,
            }
        };
        in_time(&self.register, swap).await.is_ok()
    }
}
