//! What a layer needs of the engine beyond what everybody calls.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Approach, Core};
use super::{Engine, Outcome};
use crate::clock::{Sleep, Timestamp};
use crate::decision::Command;
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::limits::Terms;
use crate::observe::Ending;
use crate::secret::Digest;
use crate::store::{Glance, Reads, Seen};

impl Engine {
    /// The most bytes that a reply can have; see [`Builder::max_reply_bytes`](crate::Builder::max_reply_bytes).
    pub fn max_reply_bytes(&self) -> usize {
        self.core.limits.max_reply_bytes
    }

    /// A scope's name for a credential, such as an API key: 64 hexadecimal digits, from which the credential can't be guessed
    /// without the store's secret. Each store gives another name, unless two have the same pepper.
    pub fn scope_of(&self, credential: &[u8]) -> String {
        self.core.store.secret().scope(credential)
    }

    /// The first half of a begin, for a [layer](crate::layer) that has something to do before a grant: what is published under the
    /// key, or the way to a grant. Changes nothing; waits for a read from the disk where the record isn't in memory.
    ///
    /// # Errors
    ///
    /// As [`begin_with`](Engine::begin_with), but for those of a change.
    pub async fn approach(
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
    pub fn moment_in(&self, duration: Duration) -> Timestamp {
        self.core.timeline.now().plus(duration)
    }

    /// Ends at `when`, or at once when the engine closes.
    pub fn sleep_until(&self, when: Timestamp) -> Sleep {
        self.core.timer.sleep_until(when)
    }
}

/// What [`Engine::approach`] found.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums)] // A layer has to know both.
pub enum Approached {
    /// A replay, a conflict, or an attempt in flight.
    Settled(Outcome),
    /// Nothing that settles it: the store has to be asked for a grant.
    Open(Opening),
}

/// The second half of a begin.
#[must_use = "nothing is granted before `begin`"]
pub struct Opening {
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
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the store can't be asked.
    pub async fn look(&self) -> Result<Option<Outcome>> {
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
    ///
    /// # Errors
    ///
    /// As [`begin_with`](Engine::begin_with).
    pub async fn begin(self) -> Result<Outcome> {
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

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}
