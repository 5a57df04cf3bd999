//! Execute or replay: the four cases handled for callers that treat them alike.

use std::fmt;
use std::future::Future;

use super::{CompleteError, Engine, Outcome};
use crate::error::{Error, ErrorKind};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::outcome::{Conflict, InFlight};
use crate::reply::Reply;

impl Engine {
    /// Runs `handler` if the key is granted and keeps its reply, or gives the reply that is kept.
    ///
    /// An `Err` of the handler releases the key, so it has to mean that nothing was done: not a time-out
    /// of which nobody knows. A panic abandons the key. A handler that wants to know its attempt, its token,
    /// or to renew its lease takes [`begin`](Engine::begin) instead. Waits for the disk, before and after the handler. A reply over the limit is given
    /// to this caller and kept as [`Reply::not_retained`], so that no retry runs the handler again.
    ///
    /// # Errors
    ///
    /// [`RunError`] says in which of the ways it came to no reply.
    ///
    /// ```
    /// use onceward::{Engine, Fingerprint, Key, Reply};
    ///
    /// let engine = Engine::builder().open_in_memory()?;
    /// let (key, fingerprint) = (Key::new("tenant", "key")?, Fingerprint::of("request"));
    /// let mut charges = 0;
    /// for _ in 0..3 {
    ///     let reply = engine.run(&key, &fingerprint, || {
    ///         charges += 1;
    ///         Ok::<_, std::io::Error>(Reply::new(201, "charged"))
    ///     })?;
    ///     assert_eq!(reply.body(), "charged");
    /// }
    /// assert_eq!(charges, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run<E>(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
        handler: impl FnOnce() -> Result<Reply, E>,
    ) -> Result<Reply, RunError<E>> {
        let guard = match self.begin(key, fingerprint).map_err(RunError::Engine)? {
            Outcome::Proceed(guard) => guard,
            other => return settled(other),
        };
        match handler() {
            Ok(reply) => {
                let kept = match guard.complete(reply.clone()) {
                    Err(error) if error.kind() == ErrorKind::ReplyTooLarge => {
                        let note = Reply::not_retained(reply.status());
                        error.into_parts().0.complete(note)
                    }
                    other => other,
                };
                kept.map_err(RunError::Complete)?;
                Ok(reply)
            }
            // If the release fails too, the lease's end frees the key; the handler's error is the news.
            Err(error) => {
                drop(guard.release());
                Err(RunError::Handler(error))
            }
        }
    }

    /// [`run`](Engine::run) as a future, for any executor.
    ///
    /// Dropped while the handler runs, it abandons the key; dropped during the completion, the reply is
    /// kept all the same.
    ///
    /// # Errors
    ///
    /// As [`run`](Engine::run).
    pub async fn run_async<E, F: Future<Output = Result<Reply, E>>>(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
        handler: impl FnOnce() -> F,
    ) -> Result<Reply, RunError<E>> {
        let outcome = self.begin_async(key, fingerprint).await;
        let guard = match outcome.map_err(RunError::Engine)? {
            Outcome::Proceed(guard) => guard,
            other => return settled(other),
        };
        match handler().await {
            Ok(reply) => {
                let kept = match guard.complete_async(reply.clone()).await {
                    Err(error) if error.kind() == ErrorKind::ReplyTooLarge => {
                        let note = Reply::not_retained(reply.status());
                        error.into_parts().0.complete_async(note).await
                    }
                    other => other,
                };
                kept.map_err(RunError::Complete)?;
                Ok(reply)
            }
            Err(error) => {
                drop(guard.release_async().await);
                Err(RunError::Handler(error))
            }
        }
    }
}

fn settled<E>(outcome: Outcome) -> Result<Reply, RunError<E>> {
    match outcome {
        Outcome::Replay(reply) => Ok(reply),
        Outcome::Conflict(conflict) => Err(RunError::Conflict(conflict)),
        Outcome::InFlight(in_flight) => Err(RunError::InFlight(in_flight)),
        Outcome::Proceed(_) => unreachable!("a grant runs the handler"),
    }
}

/// Why [`Engine::run`] gave no reply.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The handler failed, and the key was released; if that failed too, its lease runs out.
    Handler(E),
    /// The key belongs to another request; the handler didn't run.
    Conflict(Conflict),
    /// The same request is in flight; the handler didn't run.
    InFlight(InFlight),
    /// The engine couldn't answer; the handler didn't run.
    Engine(Error),
    /// The handler ran, and its reply couldn't be kept. The error holds guard and reply.
    Complete(CompleteError),
}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(error) => write!(f, "the handler failed: {error}"),
            Self::Conflict(_) => f.write_str("the key was used with another request"),
            Self::InFlight(in_flight) => write!(
                f,
                "the same request is in flight; retry after {} s",
                in_flight.retry_after().as_secs()
            ),
            Self::Engine(error) => error.fmt(f),
            Self::Complete(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RunError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Handler(error) => error.source(),
            Self::Engine(error) => error.source(),
            Self::Complete(error) => error.source(),
            Self::Conflict(_) | Self::InFlight(_) => None,
        }
    }
}
