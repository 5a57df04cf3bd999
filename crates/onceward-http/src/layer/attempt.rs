//! What a handler and an outer layer are told.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use onceward::Key;
use onceward::layer::{Lease, SettlementEnding};

use crate::profile::Reason;

/// The attempt that a handler runs for, in its request's extensions.
///
/// A handler that is run without one got a request without a key, or one with a method that the
/// profile doesn't cover. With the feature `axum` it is an extractor there, and with `actix` it is one
/// for actix-web; both give `Option<Attempt>` too.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub(crate) key: Key,
    pub(crate) number: u32,
    pub(crate) token: u64,
    pub(crate) lease: Arc<Lease>,
}

impl Attempt {
    /// The key, in its scope. [`Key::downstream`] makes keys for calls to other services of it.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Which attempt it is, counted from 1. More than 1 means that an earlier attempt was abandoned, and may
    /// have had its effect.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The fencing token: unique, rising from attempt to attempt; see [`Guard::token`](onceward::Guard::token).
    pub fn token(&self) -> u64 {
        self.token
    }

    /// What is left of the attempt's lease, by this machine's clock, as far as it was renewed: zero
    /// once it is over or another attempt was found to have taken the key. The layer renews it
    /// while the handler runs.
    pub fn lease_left(&self) -> Duration {
        self.lease.left()
    }

    /// Ends once the attempt can't rely on its lease: it is over because the store couldn't be
    /// reached for too long, say, another attempt has the key, or the engine was closed.
    ///
    /// Whoever must not run beside another attempt waits for this beside the work, and stops. Over
    /// is not yet taken: the layer goes on trying to renew, and a future that is made after it did
    /// waits for the new end.
    pub fn lease_lost(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        Arc::clone(&self.lease).lost()
    }
}

/// What a layer did with a request that has a key, in its response's extensions: for logs and metrics
/// of a layer further out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// The handler ran.
    #[non_exhaustive]
    Executed {
        /// Which attempt it was.
        attempt: u32,
        /// What became of its answer.
        answer: Fate,
    },
    /// The first answer was given again.
    Replayed,
    /// The handler didn't run.
    Refused(Reason),
}

/// What became of a handler's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is kept: retries get it.
    Kept,
    /// It was too large, or took too long; retries learn that the request was carried out.
    NotRetained,
    /// The profile doesn't keep it: the key is free, and a retry runs the handler again.
    Released,
    /// The store couldn't take it for a reason that may pass: the layer goes on trying in the
    /// background, and keeps the lease running for up to [`renew_for`](super::Options::renew_for).
    /// Retries find the key in flight meanwhile.
    Pending,
    /// It could be neither kept nor released, because the store failed for good or the answer broke
    /// off. The key stays taken until its lease ends.
    Abandoned,
    /// The lease was over, and another attempt had taken the key by then, or the key was forgotten.
    TakenOver,
}

impl From<Fate> for SettlementEnding {
    /// As the metrics count an answer that was pending.
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Kept => Self::Kept,
            Fate::NotRetained => Self::NotRetained,
            Fate::Released => Self::Released,
            Fate::TakenOver => Self::TakenOver,
            Fate::Pending | Fate::Abandoned => Self::Abandoned,
        }
    }
}
