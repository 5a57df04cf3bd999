//! Callers that wait for another one's attempt to end.
//!
//! A waiter stands in its key's line until an event wakes it; nothing is polled. A completion wakes
//! the whole line, since each can take the reply. A key that becomes free, and a lease that ends, wake
//! one waiter, since only one can be granted. That one has the *turn*: if it goes without having been
//! granted the key, it passes the turn on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use futures_channel::oneshot;

use crate::clock::{Timer, TimerId, Timestamp};
use crate::mutant::{self, Mutant};
use crate::secret::Digest;
use crate::store::{Observed, Observer};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Lines longer than this are woken by the timer's thread instead of the store's.
const WOKEN_IN_PLACE: usize = 32;

/// All lines of an engine.
pub(super) struct Waiters {
    this: Weak<Self>,
    timer: Timer,
    state: Mutex<State>,
    /// How many wait, so that a store's thread passes by without a lock while nobody does.
    count: AtomicUsize,
}

#[derive(Default)]
struct State {
    lines: HashMap<Digest, Line>,
    /// Seats whose turn is being handed over. A waiter that goes takes its number out, which says no.
    turns: HashSet<u64>,
    next_seat: u64,
    is_closed: bool,
}

struct Line {
    /// By seat number, so the first is who has waited longest.
    seats: BTreeMap<u64, Seat>,
    lease_end: Option<TimerId>,
}

struct Seat {
    sender: oneshot::Sender<Wake>,
    timeout: TimerId,
}

/// Why a waiter was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Everybody may look at the key again.
    Look,
    /// Nobody else was woken: whoever gets this begins, or passes it on.
    Turn,
    /// The waiter's own time is up.
    TimedOut,
}

impl Waiters {
    pub(super) fn new(timer: Timer) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            timer,
            state: Mutex::default(),
            count: AtomicUsize::new(0),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes a place in the key's line. What happened before this call is not told: the caller has to
    /// look at the key once more before it waits.
    pub(super) fn join(
        self: &Arc<Self>,
        digest: Digest,
        lease_until: Timestamp,
        deadline: Timestamp,
    ) -> Wait {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        let seat = state.next_seat;
        state.next_seat += 1;
        if !state.is_closed {
            let this = Weak::clone(&self.this);
            let timeout = self.timer.schedule(deadline, move || {
                if let Some(waiters) = this.upgrade() {
                    waiters.time_out(digest, seat);
                }
            });
            let line = state.lines.entry(digest).or_insert_with(|| Line {
                seats: BTreeMap::new(),
                lease_end: None,
            });
            line.seats.insert(seat, Seat { sender, timeout });
            self.count.fetch_add(1, Ordering::SeqCst);
            if line.lease_end.is_none() {
                self.arm(line, digest, lease_until);
            }
        }
        drop(state);
        Wait {
            waiters: Arc::clone(self),
            digest,
            seat,
            receiver,
            is_over: false,
        }
    }

    /// Wakes whoever has waited longest for the key and takes the turn.
    pub(super) fn wake_one(&self, digest: &Digest) {
        loop {
            let mut state = self.state.lock();
            let first = state
                .lines
                .get_mut(digest)
                .and_then(|line| line.seats.pop_first());
            let Some((number, seat)) = first else {
                return;
            };
            self.leave(&mut state, digest);
            state.turns.insert(number);
            drop(state);
            self.timer.cancel(seat.timeout);
            // Not under the lock: waking runs the code of an executor.
            let _ = seat.sender.send(Wake::Turn);
            if self.state.lock().turns.remove(&number) {
                return;
            }
            // The waiter went in between and has declined.
        }
    }

    /// Wakes everybody, for good.
    pub(super) fn close(&self) {
        self.wake_all_lines(true);
    }

    fn wake_all_lines(&self, for_good: bool) {
        let mut state = self.state.lock();
        state.is_closed |= for_good;
        let lines = std::mem::take(&mut state.lines);
        self.count.store(0, Ordering::SeqCst);
        drop(state);
        for line in lines.into_values() {
            self.wake_all(line);
        }
    }

    fn wake_line(&self, digest: &Digest) {
        let mut state = self.state.lock();
        let Some(line) = state.lines.remove(digest) else {
            return;
        };
        self.count.fetch_sub(line.seats.len(), Ordering::SeqCst);
        drop(state);
        if line.seats.len() <= WOKEN_IN_PLACE {
            return self.wake_all(line);
        }
        let this = Weak::clone(&self.this);
        self.timer.schedule(Timestamp(0), move || {
            if let Some(waiters) = this.upgrade() {
                waiters.wake_all(line);
            }
        });
    }

    fn wake_all(&self, line: Line) {
        if let Some(id) = line.lease_end {
            self.timer.cancel(id);
        }
        for seat in line.seats.into_values() {
            self.timer.cancel(seat.timeout);
            let _ = seat.sender.send(Wake::Look);
        }
    }

    fn time_out(&self, digest: Digest, seat: u64) {
        let mut state = self.state.lock();
        let Some(line) = state.lines.get_mut(&digest) else {
            return;
        };
        if let Some(seat) = line.seats.remove(&seat) {
            self.leave(&mut state, &digest);
            drop(state);
            let _ = seat.sender.send(Wake::TimedOut);
        }
    }

    /// Has the line's longest waiter woken when the lease ends; replaces an earlier time.
    fn arm(&self, line: &mut Line, digest: Digest, lease_until: Timestamp) {
        if let Some(id) = line.lease_end.take() {
            self.timer.cancel(id);
        }
        if lease_until == Timestamp::NEVER {
            return;
        }
        let this = Weak::clone(&self.this);
        line.lease_end = Some(self.timer.schedule(lease_until, move || {
            if let Some(waiters) = this.upgrade() {
                waiters.lease_ended(digest);
            }
        }));
    }

    fn lease_ended(&self, digest: Digest) {
        if let Some(line) = self.state.lock().lines.get_mut(&digest) {
            line.lease_end = None;
        }
        self.wake_one(&digest);
    }

    /// Counts one waiter less and drops the line if it was the last.
    fn leave(&self, state: &mut State, digest: &Digest) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        let is_empty = state
            .lines
            .get(digest)
            .is_some_and(|line| line.seats.is_empty());
        if is_empty
            && let Some(line) = state.lines.remove(digest)
            && let Some(id) = line.lease_end
        {
            self.timer.cancel(id);
        }
    }
}

impl Observer for Waiters {
    fn interrupted(&self) {
        self.wake_all_lines(false);
    }

    fn stopped(&self) {
        self.close();
    }

    fn changed(&self, digest: &Digest, now: Observed) {
        // A waiter counts itself before it looks at the key again; this thread published the change
        // before it reads the count. One of the two sees the other.
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        match now {
            Observed::Completed => self.wake_line(digest),
            Observed::Free => self.wake_one(digest),
            Observed::InFlight { lease_until } => {
                if let Some(line) = self.state.lock().lines.get_mut(digest) {
                    self.arm(line, *digest, lease_until);
                }
            }
        }
    }
}

/// A place in a line: a future that ends when its holder has something to do.
pub(super) struct Wait {
    waiters: Arc<Waiters>,
    digest: Digest,
    seat: u64,
    receiver: oneshot::Receiver<Wake>,
    is_over: bool,
}

impl Future for Wait {
    type Output = Wake;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Wake> {
        let wake = Pin::new(&mut self.receiver).poll(context);
        wake.map(|wake| {
            self.is_over = true;
            // A line that is closed has no sender: look again, and find the engine closed.
            wake.unwrap_or(Wake::Look)
        })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut state = self.waiters.state.lock();
        let seat = state
            .lines
            .get_mut(&self.digest)
            .and_then(|line| line.seats.remove(&self.seat));
        let Some(seat) = seat else {
            let declined = state.turns.remove(&self.seat);
            drop(state);
            // Woken, but never polled again. A turn must not go with it.
            let mut context = Context::from_waker(Waker::noop());
            let message = Pin::new(&mut self.receiver).poll(&mut context);
            let is_mutant = mutant::is_on(Mutant::TurnTaken);
            if !declined && message == Poll::Ready(Ok(Wake::Turn)) && !is_mutant {
                self.waiters.wake_one(&self.digest);
            }
            return;
        };
        self.waiters.leave(&mut state, &self.digest);
        drop(state);
        self.waiters.timer.cancel(seat.timeout);
    }
}

/// The duty of the one waiter who was woken: begin, or pass the turn on by dropping this.
pub(super) struct Turn<'a> {
    waiters: &'a Waiters,
    digest: Digest,
    is_used: bool,
}

impl<'a> Turn<'a> {
    pub(super) fn new(waiters: &'a Waiters, digest: Digest) -> Self {
        Self {
            waiters,
            digest,
            is_used: false,
        }
    }

    /// The key was looked at: whatever holds it now will wake the others.
    pub(super) fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_used && !mutant::is_on(Mutant::TurnKept) {
            self.waiters.wake_one(&self.digest);
        }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}
