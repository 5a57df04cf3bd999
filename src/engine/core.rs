//! What all handles and guards of one engine share, and the one path that every call takes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Outcome;
use super::offload::Offload;
use super::reconcile::{Reconciled, Reconciler};
use super::sweeper::Sweeper;
use super::waiters::Waiters;
use crate::clock::{Timeline, Timer};
use crate::decision::{Command, Holder, Limit, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::limits::Terms;
use crate::observe::{self, Ending, Meters};
use crate::outcome::OnAbandon;
use crate::secret::{Digest, SealedFingerprint};
use crate::store::{Answer, Glance, Reads, Request, Seen, Store, gone};
use crate::sync::Mutex;
use crate::sync::thread::JoinHandle;

#[derive(Debug)]
pub(crate) struct Core {
    pub(super) store: Arc<dyn Store>,
    pub(super) timeline: Timeline,
    pub(super) waiters: Arc<Waiters>,
    pub(super) sweeper: Sweeper,
    pub(super) offload: Offload,
    pub(super) limits: EngineLimits,
    pub(super) on_abandon: OnAbandon,
    /// Where outcomes may be of attempts that were abandoned.
    pub(super) reconciler: Option<Arc<Reconciler>>,
    pub(super) refused: Refused,
    pub(super) meters: Meters,
    pub(super) timer: Timer,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The limits that the engine itself upholds, and those that it shows in its stats.
#[derive(Clone, Copy, Debug)]
pub(super) struct EngineLimits {
    pub(super) terms: Terms,
    pub(super) max_reply_bytes: usize,
    pub(super) max_live_keys: u64,
    pub(super) queue_depth: usize,
}

/// How often a limit has refused something.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) full: AtomicU64,
    pub(super) scope_full: AtomicU64,
    pub(super) oversize: AtomicU64,
}

/// What a begin finds before anything is changed.
pub(super) enum Approach {
    /// This is the answer.
    Settled(Verdict),
    /// The store has to decide this, and may rely on what was seen.
    Open(Command, Seen),
}

impl Core {
    pub(super) async fn begin(
        self: &Arc<Self>,
        key: &Key,
        fingerprint: &Fingerprint,
        terms: Terms,
        reads: Reads,
    ) -> Result<Outcome> {
        let begin = self.begin_once(key, fingerprint, terms, reads);
        self.observed(begin).await
    }

    /// Lets those who watch the engine see a begin.
    pub(super) async fn observed(
        &self,
        begin: impl Future<Output = Result<Outcome>>,
    ) -> Result<Outcome> {
        let result = observe::in_begin(begin, ending).await;
        self.meters.ended(ending(&result));
        result
    }

    pub(super) async fn begin_once(
        self: &Arc<Self>,
        key: &Key,
        fingerprint: &Fingerprint,
        terms: Terms,
        reads: Reads,
    ) -> Result<Outcome> {
        let digest = self.store.secret().digest(key);
        let verdict = match self
            .approach(key, digest, fingerprint, terms, reads)
            .await?
        {
            Approach::Settled(verdict) => verdict,
            Approach::Open(command, seen) => {
                return self.decided((key, digest), command, seen, terms).await;
            }
        };
        self.outcome(verdict)
    }

    /// Looks at what is published. The parts of a fingerprint are sealed only where more than the whole is
    /// needed: not for a retry.
    pub(super) async fn approach(
        &self,
        key: &Key,
        digest: Digest,
        fingerprint: &Fingerprint,
        terms: Terms,
        reads: Reads,
    ) -> Result<Approach> {
        let approach = self.look(digest, fingerprint, terms, reads).await?;
        let Some(reconciler) = &self.reconciler else {
            return Ok(approach);
        };
        let (this, key) = (Arc::clone(reconciler), key.clone());
        let looked = match &approach {
            Approach::Settled(Verdict::InFlight(found)) if found.is_held => {
                reconciler.run(async move { this.reconcile(&key, digest).await.map(Some) })
            }
            // The store holds what is over, too.
            Approach::Settled(Verdict::Conflict(_)) => {
                reconciler.run(async move { this.reconcile_if_over(&key, digest).await })
            }
            Approach::Settled(_) | Approach::Open(..) => return Ok(approach),
        };
        let takes_over = match looked.await? {
            None => return Ok(approach),
            Some(Reconciled::Settled) => None,
            Some(Reconciled::NoOutcome { .. }) if self.on_abandon == OnAbandon::Hold => {
                return Ok(approach);
            }
            Some(Reconciled::NoOutcome { token }) => Some(token),
        };
        let secret = self.store.secret();
        let sealed = secret
            .seal_whole(fingerprint)
            .with_parts(secret, fingerprint);
        let command = begin(sealed, terms, takes_over);
        Ok(Approach::Open(command, Seen::default()))
    }

    async fn look(
        &self,
        digest: Digest,
        fingerprint: &Fingerprint,
        terms: Terms,
        reads: Reads,
    ) -> Result<Approach> {
        let secret = self.store.secret();
        let whole = secret.seal_whole(fingerprint);
        let command = begin(whole.clone(), terms, None);
        let mut glance = self.store.glance(&digest, &command, reads)?;
        if let Glance::Decided(verdict @ (Verdict::Replay(_) | Verdict::InFlight(_))) = glance {
            return Ok(Approach::Settled(verdict));
        }
        let command = begin(whole.with_parts(secret, fingerprint), terms, None);
        if matches!(glance, Glance::Decided(_)) {
            glance = self.store.glance(&digest, &command, reads)?;
        }
        if matches!(glance, Glance::Read) {
            glance = self.glance_elsewhere(digest, command.clone()).await?;
        }
        Ok(match glance {
            Glance::Decided(verdict) => Approach::Settled(verdict),
            Glance::Write(seen) => Approach::Open(command, seen),
            Glance::Read => Approach::Open(command, Seen::default()),
        })
    }

    /// What a verdict is to the caller, if it grants nothing.
    pub(super) fn outcome(&self, verdict: Verdict) -> Result<Outcome> {
        match verdict {
            Verdict::Replay(reply) => Ok(Outcome::Replay(reply)),
            Verdict::Conflict(conflict) => Ok(Outcome::Conflict(conflict)),
            Verdict::InFlight(mut in_flight) => {
                // Held for its outcome only, which the next begin looks for.
                in_flight.is_held &= self.on_abandon == OnAbandon::Hold;
                Ok(Outcome::InFlight(in_flight))
            }
            Verdict::Full(limit) => Err(self.refused(limit)),
            other => unreachable!("begin is never answered with {other:?}"),
        }
    }

    fn refused(&self, limit: Limit) -> Error {
        let (count, error) = match limit {
            Limit::LiveKeys => (&self.refused.full, full(self.limits.max_live_keys)),
            Limit::Disk => (&self.refused.full, disk_full()),
            Limit::LiveKeysPerScope => (&self.refused.scope_full, scope_full()),
        };
        count.fetch_add(1, Ordering::Relaxed);
        error
    }

    /// Reads what a glance didn't tell, in the reader's thread.
    async fn glance_elsewhere(&self, digest: Digest, command: Command) -> Result<Glance> {
        let read = move |store: &dyn Store| store.glance(&digest, &command, Reads::Here);
        self.reading(Reads::Elsewhere, read).await
    }

    /// Queues the command at once, whether or not the future is polled; ends once the store answered.
    pub(super) fn submit(
        &self,
        key: &Key,
        digest: Digest,
        command: Command,
        seen: Seen,
    ) -> impl Future<Output = Result<Verdict>> + Send + use<'_> {
        let request = Request {
            key: key.clone(),
            digest,
            command,
            seen,
        };
        let (answer, pending) = Answer::new(Arc::downgrade(&self.store), &request);
        self.store.submit(request, answer);
        async move { pending.await.unwrap_or_else(|| Err(self.gone())) }
    }

    /// Runs a read here or in the reader's thread.
    pub(super) async fn reading<T: Send + 'static>(
        &self,
        reads: Reads,
        read: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match reads {
            Reads::Here => read(&*self.store),
            Reads::Elsewhere => {
                let store = Arc::clone(&self.store);
                self.offload.run(move || read(&*store)).await
            }
        }
    }

    /// Why the store answered nothing; whether it has changed something is unknown.
    pub(super) fn gone(&self) -> Error {
        gone(&*self.store)
    }

    /// Refuses new work, finishes what is queued, ends the threads and wakes every waiter.
    pub(super) fn shut_down(&self) -> Result<()> {
        if let Some(reconciler) = &self.reconciler {
            // What it has begun still needs the store.
            reconciler.running.close();
        }
        let result = self.store.close();
        if let Some(reconciler) = &self.reconciler {
            reconciler.outcomes.stop();
        }
        self.waiters.close();
        self.sweeper.stop();
        self.offload.stop();
        self.timer.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A thread that panicked has told its callers by dropping their channels.
            drop(thread.join());
        }
        result
    }
}

/// How a begin has ended, for those who watch.
pub(super) fn ending(result: &Result<Outcome>) -> Ending {
    match result {
        Ok(Outcome::Proceed(guard)) => Ending::Proceed {
            attempt: guard.attempt(),
        },
        Ok(Outcome::Replay(_)) => Ending::Replay,
        Ok(Outcome::Conflict(_)) => Ending::Conflict,
        Ok(Outcome::InFlight(_)) => Ending::InFlight,
        Err(_) => Ending::Error,
    }
}

pub(super) fn begin(
    fingerprint: SealedFingerprint,
    terms: Terms,
    takes_over: Option<u64>,
) -> Command {
    Command::Begin {
        fingerprint,
        lease: terms.lease,
        retention: terms.retention,
        takes_over,
    }
}

pub(super) fn full(max_live_keys: u64) -> Error {
    Error::new(
        ErrorKind::Full,
        format!(
            "the engine holds {max_live_keys} live keys, as many as it may; new keys are refused \
             until some expire, are released or are forgotten, or max_live_keys is raised"
        ),
    )
}

fn scope_full() -> Error {
    Error::new(
        ErrorKind::ScopeFull,
        "the key's scope holds as many live keys as it may; its new keys are refused until some expire, are released or \
         are forgotten, or max_live_keys_per_scope is raised",
    )
}

pub(super) fn disk_full() -> Error {
    Error::new(
        ErrorKind::Full,
        "the segments take as much of the disk as max_disk_bytes leaves to new keys; they are refused until some \
         expire, or it is raised",
    )
}

pub(super) fn lease_lost(holder: Holder) -> Error {
    let what = match holder {
        Holder::Nobody => "nothing holds the key any more".to_owned(),
        Holder::InFlight { attempt } => format!("attempt {attempt} is in flight now"),
        Holder::Completed { attempt } => format!("attempt {attempt} has completed it"),
    };
    Error::new(
        ErrorKind::LeaseLost,
        format!("this guard's attempt can't change its key any more: {what}"),
    )
}

pub(super) fn running(what: &str) -> Error {
    Error::new(
        ErrorKind::InFlight,
        format!("the key can't be {what} while an attempt's lease is running; wait for its end"),
    )
}
