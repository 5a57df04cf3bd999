//! An attempt's lease, as this node knows it: when it ends on the node's own clock, and whether it
//! is lost.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_channel::oneshot;

use super::core::{Core, lease_lost};
use crate::clock::Sleep;
use crate::clock::Timestamp;
use crate::decision::{Command, Grant, Verdict};
use crate::error::Result;
use crate::key::Key;
use crate::limits::Terms;
use crate::observe::{Meters, SettlementEnding};
use crate::secret::Digest;
use crate::store::{Answer, Request, Seen};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::first::{First, first};

/// The lease of one attempt, shared by its guard and by whoever renews it or watches it.
///
/// Its end is told by the engine's time line, which no other machine's clock moves: counted from
/// when the grant or the renewal was asked for, so that it comes no later than the end in the
/// store.
pub struct Lease {
    pub(super) core: Arc<Core>,
    pub(super) key: Key,
    pub(super) digest: Digest,
    pub(super) terms: Terms,
    pub(super) token: u64,
    pub(super) attempt: u32,
    /// In milliseconds of the engine's time line.
    until_ms: AtomicU64,
    /// The same in the store's time, for those who are shown it.
    store_until_ms: AtomicU64,
    is_lost: AtomicBool,
    watchers: Mutex<Vec<oneshot::Sender<()>>>,
    /// Renewals under way that nobody waits for any more.
    left_behind: Mutex<Vec<Asked>>,
}

/// What the store will answer.
type Asked = Pin<Box<dyn Future<Output = Result<Verdict>> + Send>>;

impl Lease {
    /// Of a grant that was asked for at `sent`.
    pub(super) fn new(
        core: Arc<Core>,
        key: Key,
        digest: Digest,
        terms: Terms,
        (grant, sent): (&Grant, Timestamp),
    ) -> Self {
        let until = core.store.lease_end(sent, terms.lease, grant.lease_until);
        Self {
            core,
            key,
            digest,
            terms,
            token: grant.token,
            attempt: grant.attempt,
            until_ms: AtomicU64::new(until.0),
            store_until_ms: AtomicU64::new(grant.lease_until.0),
            is_lost: AtomicBool::new(false),
            watchers: Mutex::default(),
            left_behind: Mutex::default(),
        }
    }

    /// How long it is when it begins.
    pub fn length(&self) -> Duration {
        self.terms.lease
    }

    /// When it ends in the store, by the store's clock.
    pub(super) fn store_until(&self) -> Timestamp {
        Timestamp(self.store_until_ms.load(Ordering::Relaxed))
    }

    fn until(&self) -> Timestamp {
        Timestamp(self.until_ms.load(Ordering::Acquire))
    }

    /// What is left of it: zero once it is over, or known to be lost.
    pub fn left(&self) -> Duration {
        if self.is_lost.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.until().since(self.core.timeline.now())
    }

    /// Whether a handler has the time to begin: half of it is left.
    pub(super) fn has_half(&self) -> bool {
        2 * self.left() >= self.length()
    }

    /// Starts it over, as [`Guard::renew`](crate::Guard::renew) does. Works after its end, too, if nobody has taken over meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Guard::renew`](crate::Guard::renew).
    pub async fn renew(&self) -> Result<()> {
        let command = Command::Renew {
            token: self.token,
            lease: self.terms.lease,
        };
        let sent = self.core.timeline.now();
        let renewing = Renewing {
            lease: self,
            asked: Some(self.pending(command)),
        };
        if let Some(lease_until) = self.settled(renewing.await?)? {
            let until = self
                .core
                .store
                .lease_end(sent, self.terms.lease, lease_until);
            self.store_until_ms.store(lease_until.0, Ordering::Relaxed);
            // An earlier renewal may be answered later.
            self.until_ms.fetch_max(until.0, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Has the store decide; gives the new end of the lease if there is one.
    pub(super) async fn settle(&self, command: Command) -> Result<Option<Timestamp>> {
        let seen = Seen::default();
        let verdict = self.core.submit(&self.key, self.digest, command, seen);
        self.settled(verdict.await?)
    }

    /// Frees the key. A renewal that was made after it would take the key again, for nobody: what
    /// is under way comes first.
    pub(super) async fn release(&self) -> Result<()> {
        loop {
            let asked = self.left_behind.lock().pop();
            let Some(asked) = asked else { break };
            // What it comes to makes no difference.
            let _ = asked.await;
        }
        let release = Command::Release { token: self.token };
        self.settle(release).await.map(drop)
    }

    fn pending(&self, command: Command) -> Asked {
        let request = self.request(command);
        let (answer, pending) = Answer::new(Arc::downgrade(&self.core.store), &request);
        self.core.store.submit(request, answer);
        let core = Arc::clone(&self.core);
        Box::pin(async move { pending.await.unwrap_or_else(|| Err(core.gone())) })
    }

    fn request(&self, command: Command) -> Request {
        Request {
            key: self.key.clone(),
            digest: self.digest,
            command,
            seen: Seen::default(),
        }
    }

    /// What a verdict means for the attempt.
    pub(super) fn settled(&self, verdict: Verdict) -> Result<Option<Timestamp>> {
        match verdict {
            Verdict::Done => Ok(None),
            Verdict::Renewed { lease_until } => Ok(Some(lease_until)),
            Verdict::LeaseLost(holder) => {
                self.lose();
                Err(lease_lost(holder))
            }
            other => unreachable!("a guard is never answered with {other:?}"),
        }
    }

    /// Frees the key, whether or not anybody waits for it.
    pub(super) fn release_unseen(&self) {
        let release = self.request(Command::Release { token: self.token });
        self.core.store.submit(release, Answer::ignored());
    }

    /// Notes that it can't be renewed any more, and tells whoever watches.
    fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
        let watchers = std::mem::take(&mut *self.watchers.lock());
        for watcher in watchers {
            // Not under the lock: waking runs the code of an executor.
            let _ = watcher.send(());
        }
    }

    fn watch(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| !watcher.is_canceled());
        watchers.push(sender);
        receiver
    }

    /// Ends once the lease is over or known to be lost, or the engine is closed.
    pub async fn lost(self: Arc<Self>) {
        loop {
            let told = self.watch();
            let left = self.left();
            if left.is_zero() {
                return;
            }
            let end = self.core.timeline.now().plus(left);
            let over = self.core.timer.sleep_until(end);
            match first(pin!(told), pin!(over)).await {
                First::Left(_) => return,
                // The timer ends early only with the engine.
                First::Right(()) if self.core.timeline.now() < end => return,
                First::Right(()) => {}
            }
        }
    }
}

/// A renewal; dropped before its answer, it is left behind.
struct Renewing<'a> {
    lease: &'a Lease,
    asked: Option<Asked>,
}

impl Future for Renewing<'_> {
    type Output = Result<Verdict>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let asked = self
            .asked
            .as_mut()
            .expect("a future is polled until it is ready");
        let verdict = ready!(asked.as_mut().poll(context));
        self.asked = None;
        Poll::Ready(verdict)
    }
}

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        self.lease.left_behind.lock().extend(self.asked.take());
    }
}

/// For a layer, which doesn't keep the engine open while it settles what is left.
impl Lease {
    /// The engine's time.
    pub fn now(&self) -> Timestamp {
        self.core.timeline.now()
    }

    /// Waits for so long, or until the engine is closed.
    pub fn pause(&self, pause: Duration) -> Sleep {
        let until = self.now().plus(pause);
        self.core.timer.sleep_until(until)
    }

    /// Counts in the engine's metrics an answer that is settled after its client has heard it, and how that ends.
    pub fn settles_later(&self) -> PendingSettlement<'_> {
        let meters = &self.core.meters;
        meters.settles_later();
        PendingSettlement {
            meters,
            ending: SettlementEnding::Abandoned,
        }
    }
}

/// An answer that is settled after its client has heard it, as the metrics count it: abandoned, unless it is told to have
/// [ended](PendingSettlement::ended) otherwise before this is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it counts as abandoned"]
pub struct PendingSettlement<'a> {
    meters: &'a Meters,
    ending: SettlementEnding,
}

impl PendingSettlement<'_> {
    /// Says how it has ended.
    pub fn ended(mut self, ending: SettlementEnding) {
        self.ending = ending;
    }
}

impl Drop for PendingSettlement<'_> {
    fn drop(&mut self) {
        self.meters.settled_later(self.ending);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("attempt", &self.attempt)
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}
