//! A grant, from the store's decision to the caller's hands.

use std::sync::Arc;

use super::Outcome;
use super::core::Core;
use super::guard::Guard;
use super::lease::Lease;
use crate::clock::Timestamp;
use crate::decision::{Command, Grant, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::limits::Terms;
use crate::secret::Digest;
use crate::store::Seen;

impl Core {
    /// Has the store decide a begin.
    pub(super) async fn decided(
        self: &Arc<Self>,
        (key, digest): (&Key, Digest),
        command: Command,
        seen: Seen,
        terms: Terms,
    ) -> Result<Outcome> {
        let sent = self.timeline.now();
        let verdict = match self.submit(key, digest, command, seen).await? {
            Verdict::Proceed(grant) => {
                // No await before somebody has it: a grant that is dropped here would reach nobody.
                let lease = self.lease((key, digest), terms, (&grant, sent));
                if lease.has_half() {
                    return Ok(Outcome::Proceed(Guard::new(lease)));
                }
                return Unseen::new(lease).with_half().await;
            }
            other => other,
        };
        self.outcome(verdict)
    }

    fn lease(
        self: &Arc<Self>,
        (key, digest): (&Key, Digest),
        terms: Terms,
        granted: (&Grant, Timestamp),
    ) -> Lease {
        Lease::new(Arc::clone(self), key.clone(), digest, terms, granted)
    }
}

/// A grant that nobody has yet. Dropped, it is released: no handler has run.
struct Unseen(Option<Lease>);

impl Unseen {
    fn new(lease: Lease) -> Self {
        Self(Some(lease))
    }

    /// Renews it, once, and hands it out if half of its lease is left then.
    async fn with_half(mut self) -> Result<Outcome> {
        let lease = self.0.as_ref().expect("it is there until it is handed out");
        let renewed = lease.renew().await;
        if renewed.is_ok() && lease.has_half() {
            let lease = self.0.take().expect("it was just there");
            return Ok(Outcome::Proceed(Guard::new(lease)));
        }
        // The key is free once the caller is told; if this is dropped, or that fails, soon after.
        let released = lease.release().await;
        let is_settled = match &released {
            Ok(()) => true,
            Err(error) => error.kind() == ErrorKind::LeaseLost,
        };
        if is_settled {
            self.0 = None;
        }
        let error = match renewed {
            Err(error) if matches!(error.kind(), ErrorKind::Closed | ErrorKind::Failed) => error,
            _ => too_late(),
        };
        Err(if is_settled {
            error
        } else {
            error.of_unknown_outcome()
        })
    }
}

fn too_late() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the store took so long that less than half of the grant's lease was left, and a renewal didn't help; the grant \
         is released: see to the store, or set a longer lease",
    )
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.release_unseen();
        }
    }
}
