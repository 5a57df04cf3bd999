//! What a layer needs of the engine beyond what everybody calls.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::core::{Approach, Core};
use crate::clock::{Sleep, Timestamp};
use crate::decision::Command;
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::limits::Terms;
use crate::observe::Ending;
use crate::outcome::Outcome;
use crate::secret::Digest;
use crate::store::{Glance, Reads, Seen};

impl Engine {
    /// The most bytes that a reply can have.
    pub(crate) fn max_reply_bytes(&self) -> usize {
        self.core.limits.max_reply_bytes
    }

    /// The name of a credential's scope, keyed with the store's secret.
    pub(crate) fn scope_of(&self, credential: &[u8]) -> String {
        self.core.store.secret().scope(credential)
    }

    /// The first half of a begin: what is published under the key, or the way to a grant. Changes nothing.
    pub(crate) async fn approach(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
        terms: Terms,
    ) -> Result<Approached> {
        let terms = terms.check()?;
        let core = &self.core;
        let digest = core.store.secret().digest(key);
        let approach = core
            .approach(key, digest, fingerprint, terms, Reads::Elsewhere)
            .await
            .inspect_err(|_| core.meters.ended(Ending::Error))?;
        match approach {
            Approach::Settled(verdict) => {
                let outcome = async { core.outcome(verdict) };
                Ok(Approached::Settled(core.observed(outcome).await?))
            }
            Approach::Open(command, seen) => Ok(Approached::Open(Opening {
                core: Arc::clone(core),
                key: key.clone(),
                digest,
                terms,
                command,
                seen,
            })),
        }
    }

    /// The moment that lies `duration` ahead on the engine's clock.
    pub(crate) fn moment_in(&self, duration: Duration) -> Timestamp {
        self.core.timeline.now().plus(duration)
    }

    /// Ends at `when`, or at once when the engine closes.
    pub(crate) fn sleep_until(&self, when: Timestamp) -> Sleep {
        self.core.timer.sleep_until(when)
    }
}

/// What [`Engine::approach`] found.
pub(crate) enum Approached {
    /// A replay, a conflict, or an attempt in flight.
    Settled(Outcome),
    /// Nothing that settles it: the store has to be asked for a grant.
    Open(Opening),
}

/// The second half of a begin.
pub(crate) struct Opening {
    core: Arc<Core>,
    key: Key,
    digest: Digest,
    terms: Terms,
    command: Command,
    seen: Seen,
}

impl Opening {
    /// What settles the begin after all, if anything does. Only a store that other nodes change is asked: what the
    /// approach has seen was all that any other has. Changes nothing.
    pub(crate) async fn look(&self) -> Result<Option<Outcome>> {
        let core = &self.core;
        let Some(glance) = core.store.ask(&self.digest, &self.command) else {
            return Ok(None);
        };
        match glance.await? {
            Glance::Decided(verdict) => {
                let outcome = async { core.outcome(verdict) };
                core.observed(outcome).await.map(Some)
            }
            Glance::Read | Glance::Write(_) => Ok(None),
        }
    }

    /// Asks for the grant. By now the outcome may be another one. Dropping the future is safe, as with
    /// [`Engine::begin_async`].
    pub(crate) async fn begin(self) -> Result<Outcome> {
        let core = Arc::clone(&self.core);
        core.observed(self.begin_once()).await
    }

    async fn begin_once(self) -> Result<Outcome> {
        let of_key = (&self.key, self.digest);
        self.core
            .decided(of_key, self.command, self.seen, self.terms)
            .await
    }
}
