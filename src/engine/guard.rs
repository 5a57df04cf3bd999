//! The right to run one attempt, and the duty to settle it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::core::Core;
use super::lease::Lease;
use crate::decision::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::limits::MAX_REPLY_HEADERS;
use crate::observe::{self, Ending};
use crate::reply::Reply;
use crate::sync::block_on;

/// The right to run a request's handler, once, until the lease ends.
///
/// Settle it with [`complete`](Guard::complete), or with [`release`](Guard::release) if the handler
/// failed before it had any effect. A guard that is dropped instead is *abandoned*: the drop does
/// nothing, and the key stays taken until the lease ends, because the effect may have happened.
///
/// A guard doesn't keep the engine open. Once the engine is closed, its calls fail with
/// [`ErrorKind::Closed`], the guard and the reply come back inside the error, and the lease stands.
#[must_use = "a guard that is dropped leaves its key taken until the lease ends"]
pub struct Guard {
    pub(super) lease: Arc<Lease>,
}

impl Guard {
    pub(super) fn new(lease: Lease) -> Self {
        Self {
            lease: Arc::new(lease),
        }
    }

    /// The lease, for whoever renews or watches it beside the handler; see [`layer`](crate::layer).
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Which attempt at the key this is, counted from 1. More than 1 means that an earlier attempt was
    /// abandoned and may have had its effect.
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// The fencing token: unique within the store, rising, kept on the disk, never used again. Hand it
    /// to whatever the handler changes, so that it can refuse a token lower than one it has seen.
    ///
    /// On a register, which several nodes share, this holds for the tokens of one key: two keys that are granted in the same
    /// millisecond can have the same one, by a rare chance, or the later one a lower token.
    pub fn token(&self) -> u64 {
        self.lease.token
    }

    /// The key that is held.
    pub fn key(&self) -> &Key {
        &self.lease.key
    }

    /// When the lease ends unless it is renewed, on the store's clock: for a register, its
    /// server's.
    pub fn lease_until(&self) -> SystemTime {
        self.lease.store_until().to_system_time()
    }

    /// What is left of the lease, zero once it is over or another attempt was found to have taken
    /// the key.
    ///
    /// It is counted on this machine's clock from when the grant, or the last renewal, was asked
    /// for, so that it ends no later than the lease in the store does.
    pub fn lease_left(&self) -> Duration {
        self.lease.left()
    }

    /// Ends once this guard can't rely on its lease: it is over by
    /// [`lease_left`](Guard::lease_left), or a call with the guard was told that the key has
    /// another holder, or the engine was closed.
    ///
    /// A handler that must not run beside another one stops then. Over is not yet taken: until
    /// somebody takes the key, a [renewal](Guard::renew) still works, and a future that is made
    /// after it waits for the new end.
    pub fn lease_lost(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        Arc::clone(&self.lease).lost()
    }

    /// Keeps the reply for every retry inside the retention, and ends the attempt.
    ///
    /// Waits for the disk: once this has returned, the reply survives a crash and a power cut. It
    /// works after the lease's end too, as long as nobody else was granted the key, and is never
    /// refused because a queue is full or the keys are at their limit.
    ///
    /// # Errors
    ///
    /// The error gives guard and reply back. [`ErrorKind::LeaseLost`] if another attempt has taken
    /// the key or its record is gone; [`ErrorKind::ReplyTooLarge`] if the reply is over the engine's
    /// limit (complete with [`Reply::not_retained`] then); [`ErrorKind::Io`],
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::Closed`] if the store couldn't take it. After an
    /// error of the store it is unclear whether the reply was kept.
    pub fn complete(self, reply: Reply) -> Result<(), CompleteError> {
        block_on(self.complete_async(reply))
    }

    /// [`complete`](Guard::complete) as a future, for any executor.
    ///
    /// Dropped before its first poll, it abandons the guard. Dropped later, the completion goes on and
    /// takes effect; only its result is lost.
    ///
    /// # Errors
    ///
    /// As [`complete`](Guard::complete).
    pub async fn complete_async(self, reply: Reply) -> Result<(), CompleteError> {
        let attempt = self.attempt();
        let ending = move |result: &Result<()>| match result {
            Ok(()) => Ending::Completed { attempt },
            Err(_) => Ending::Error,
        };
        let result = observe::in_complete(self.keep(&reply), ending).await;
        if result.is_ok() {
            self.lease.core.meters.ended(Ending::Completed { attempt });
        }
        result.map_err(|error| CompleteError(Box::new((self, reply, error))))
    }

    /// Frees the key at once, for a handler that failed before it had any effect.
    ///
    /// Waits for the disk. On a later attempt than the first, the count of attempts is kept, since an
    /// earlier attempt may have had its effect: the next begin is granted as the attempt after.
    ///
    /// # Errors
    ///
    /// As [`complete`](Guard::complete); the error gives the guard back.
    pub fn release(self) -> Result<(), ReleaseError> {
        block_on(self.release_async())
    }

    /// [`release`](Guard::release) as a future, for any executor.
    ///
    /// Dropped before its first poll, it abandons the guard. Dropped later, the release goes on.
    ///
    /// # Errors
    ///
    /// As [`release`](Guard::release).
    pub async fn release_async(self) -> Result<(), ReleaseError> {
        match self.lease.release().await {
            Ok(()) => {
                self.lease.core.meters.released();
                Ok(())
            }
            Err(error) => Err(ReleaseError(Box::new((self, error)))),
        }
    }

    /// Starts the lease over: it ends its whole length after now.
    ///
    /// Waits for the disk. It works after the lease's end too, as long as nobody else was granted the
    /// key.
    ///
    /// # Errors
    ///
    /// As [`complete`](Guard::complete), without the size limit. After [`ErrorKind::LeaseLost`] the
    /// handler should stop: another attempt may be running.
    pub fn renew(&mut self) -> Result<()> {
        block_on(self.renew_async())
    }

    /// [`renew`](Guard::renew) as a future, for any executor.
    ///
    /// Dropped after its first poll, the renewal goes on; [`lease_until`](Guard::lease_until) then
    /// shows the earlier end.
    ///
    /// # Errors
    ///
    /// As [`renew`](Guard::renew).
    pub async fn renew_async(&mut self) -> Result<()> {
        self.lease.renew().await
    }

    async fn keep(&self, reply: &Reply) -> Result<()> {
        self.check_size(reply)?;
        let completion = self.completion(reply);
        let reconciler = self.lease.core.reconciler.as_ref();
        let Some(reconciler) = reconciler.filter(|_| self.attempt() > 1) else {
            return self.lease.settle(completion).await.map(drop);
        };
        let of_key = (&self.lease.key, self.lease.digest);
        let of_attempt = (self.token(), reply);
        let verdict = reconciler.complete_after(of_key, of_attempt, completion);
        self.lease.settled(verdict.await?).map(drop)
    }

    pub(super) fn completion(&self, reply: &Reply) -> Command {
        Command::Complete {
            token: self.lease.token,
            reply: reply.clone(),
            retention: self.lease.terms.retention,
        }
    }

    pub(super) fn check_size(&self, reply: &Reply) -> Result<()> {
        let check = self.lease.core.check_reply(reply);
        if check.is_err() {
            self.lease
                .core
                .refused
                .oversize
                .fetch_add(1, Ordering::Relaxed);
        }
        check
    }
}

impl Core {
    /// Refuses a reply that is over the limits.
    pub(super) fn check_reply(&self, reply: &Reply) -> Result<()> {
        let (bytes, most) = (reply.size_bytes(), self.limits.max_reply_bytes);
        let headers = reply.headers().len().max(reply.trailers().len());
        if bytes <= most && headers <= MAX_REPLY_HEADERS {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ReplyTooLarge,
            format!(
                "the reply has {bytes} bytes and {headers} headers; the limits are {most} bytes \
                 (max_reply_bytes) and {MAX_REPLY_HEADERS} headers: raise the limit, or complete \
                 with Reply::not_retained"
            ),
        ))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("attempt", &self.attempt())
            .field("token", &self.token())
            .field("lease_until", &self.lease_until())
            .finish_non_exhaustive()
    }
}

/// A completion that didn't go through, with the guard and the reply, so that neither is lost.
///
/// Under `?` it turns into the crate's [`Error`], and the guard is dropped: the attempt is abandoned, and
/// a retry after the lease's end runs the handler again. Take it [apart](CompleteError::into_parts) to try
/// once more or, if the reply was too large, to complete with [`Reply::not_retained`].
#[derive(Debug)]
pub struct CompleteError(Box<(Guard, Reply, Error)>);

impl CompleteError {
    #[cfg(any(test, feature = "register"))]
    pub(super) fn new(guard: Guard, reply: Reply, error: Error) -> Self {
        Self(Box::new((guard, reply, error)))
    }

    /// Why it didn't go through.
    pub fn error(&self) -> &Error {
        &self.0.2
    }

    /// What sort of failure it is; short for `error().kind()`.
    pub fn kind(&self) -> ErrorKind {
        self.error().kind()
    }

    /// The guard and the reply, to try again or to settle in another way, and the error.
    pub fn into_parts(self) -> (Guard, Reply, Error) {
        *self.0
    }
}

impl fmt::Display for CompleteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the reply was not kept: {}", self.error())
    }
}

impl std::error::Error for CompleteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self.error())
    }
}

impl From<CompleteError> for Error {
    fn from(error: CompleteError) -> Self {
        error.into_parts().2
    }
}

/// A release that didn't go through, with the guard.
///
/// Under `?` it turns into the crate's [`Error`].
#[derive(Debug)]
pub struct ReleaseError(Box<(Guard, Error)>);

impl ReleaseError {
    /// Why it didn't go through.
    pub fn error(&self) -> &Error {
        &self.0.1
    }

    /// What sort of failure it is; short for `error().kind()`.
    pub fn kind(&self) -> ErrorKind {
        self.error().kind()
    }

    /// The guard, to try again, and the error.
    pub fn into_parts(self) -> (Guard, Error) {
        *self.0
    }
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key was not released: {}", self.error())
    }
}

impl std::error::Error for ReleaseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self.error())
    }
}

impl From<ReleaseError> for Error {
    fn from(error: ReleaseError) -> Self {
        error.into_parts().1
    }
}
