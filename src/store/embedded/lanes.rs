//! The ways to the writer: one with a limit for begins, one that never refuses for everything else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::clock::{Timeline, Timer, TimerId};
use crate::decision::Command;
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::record::Stored;
use crate::store::{Answer, Request};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::waking::Groups;
use crate::sync::{
    Mutex, Receiver, Sender, TryRecvError, TrySendError, bounded, ready_either, recv_either_until,
    unbounded,
};

/// A request and the way back.
pub(super) type Ask = (Request, Answer);

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    Ask(Ask),
    /// Writes records of an old segment again, so that the segment can go.
    Carry(Vec<Carried>, Done),
    /// Lets go of attempts that are over, and rolls the active segment if it is old enough.
    Tidy(Done),
    /// Begins a new active segment if the file of this one has to be opened anew.
    Renew,
    Stop,
}

/// A record to carry forward, and the entry that it was read from.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) sequence: u64,
    pub(super) stored: Arc<Stored>,
}

/// Says when a job of upkeep is durable.
pub(super) type Done = Sender<Result<()>>;

/// The senders' side.
///
/// Begins go through a bounded channel. Those that find it full are parked, in order, until there is
/// room or their time is up; a parked begin costs its caller's memory, and no thread. Completions,
/// releases and the like go through a channel of their own without a limit: it holds one command per
/// call that was made and is not answered.
pub(super) struct Lanes {
    this: Weak<Self>,
    begins: Sender<Ask>,
    /// The writer's end as well: a bounded channel keeps what it holds when its receiver goes.
    begins_exit: Receiver<Ask>,
    /// Whether the writer is gone.
    is_ended: AtomicBool,
    others: Sender<Job>,
    parked: Mutex<Parked>,
    parked_count: AtomicUsize,
    queue_wait: Duration,
    timeline: Timeline,
    timer: Timer,
    refused: AtomicU64,
    /// Callers that block are woken with those of their batch.
    groups: Groups,
}

#[derive(Default)]
struct Parked {
    asks: BTreeMap<u64, (Ask, TimerId)>,
    next_number: u64,
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct Exits {
    pub(super) begins: Receiver<Ask>,
    pub(super) others: Receiver<Job>,
}

impl Lanes {
    pub(super) fn new(
        queue_depth: usize,
        queue_wait: Duration,
        timeline: Timeline,
        timer: Timer,
    ) -> (Arc<Self>, Exits) {
        let (begins, begins_exit) = bounded(queue_depth);
        let (others, others_exit) = unbounded();
        let lanes = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            begins,
            begins_exit: begins_exit.clone(),
            is_ended: AtomicBool::new(false),
            others,
            parked: Mutex::default(),
            parked_count: AtomicUsize::new(0),
            queue_wait,
            timeline,
            timer,
            refused: AtomicU64::new(0),
            groups: Groups::new(),
        });
        let exits = Exits {
            begins: begins_exit,
            others: others_exit,
        };
        (lanes, exits)
    }

    /// Queues a request; never blocks. If the writer is gone, the answer is dropped, now or as it goes.
    pub(super) fn ask(&self, request: Request, answer: Answer) {
        self.groups.join();
        if !matches!(request.command, Command::Begin { .. }) {
            return self.job(Job::Ask((request, answer)));
        }
        // Whoever is parked goes first.
        if self.parked_count.load(Ordering::Acquire) > 0 {
            return self.park((request, answer));
        }
        if let Err(TrySendError::Full(ask)) = self.begins.try_send((request, answer)) {
            self.park(ask);
        }
        self.drop_if_ended();
    }

    /// A batch was taken: whoever asks from here on is answered with a later one.
    pub(super) fn batch_taken(&self) {
        self.groups.next();
    }

    /// Queues something else than a begin; never blocks. If the writer is gone, the job is dropped.
    pub(super) fn job(&self, job: Job) {
        drop(self.others.send(job));
    }

    fn park(&self, ask: Ask) {
        let mut parked = self.parked.lock();
        let number = parked.next_number;
        parked.next_number += 1;
        let this = Weak::clone(&self.this);
        let deadline = self.timeline.now().plus(self.queue_wait);
        let timer = self.timer.schedule(deadline, move || {
            if let Some(lanes) = this.upgrade() {
                lanes.refuse(number);
            }
        });
        parked.asks.insert(number, (ask, timer));
        self.parked_count
            .store(parked.asks.len(), Ordering::Release);
        drop(parked);
        // The writer may have emptied the channel in between, and would not look here again.
        self.unpark();
    }

    /// Moves parked begins into the channel, as far as there is room. The writer calls it whenever it
    /// has made some.
    pub(super) fn unpark(&self) {
        if self.parked_count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut parked = self.parked.lock();
        while let Some((number, (ask, timer))) = parked.asks.pop_first() {
            match self.begins.try_send(ask) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => self.timer.cancel(timer),
                Err(TrySendError::Full(ask)) => {
                    parked.asks.insert(number, (ask, timer));
                    break;
                }
            }
        }
        self.parked_count
            .store(parked.asks.len(), Ordering::Release);
        drop(parked);
        self.drop_if_ended();
    }

    fn refuse(&self, number: u64) {
        let mut parked = self.parked.lock();
        let refused = parked.asks.remove(&number);
        self.parked_count
            .store(parked.asks.len(), Ordering::Release);
        drop(parked);
        if let Some(((_, answer), _)) = refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
            answer.send(Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "the store's queue stayed full for {:?}; retry later, or raise queue_depth or \
                     queue_wait",
                    self.queue_wait
                ),
            )));
        }
    }

    /// Notes that the writer is gone. Whatever is queued from here on goes at once.
    pub(super) fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.drop_if_ended();
    }

    /// Drops every queued begin once the writer is gone. Whoever queues one comes here afterwards, and so does the
    /// writer's end: of the two, one sees the other.
    fn drop_if_ended(&self) {
        fence(Ordering::SeqCst);
        if self.is_ended.load(Ordering::SeqCst) && !mutant::is_on(Mutant::LeftInQueue) {
            self.begins_exit.try_iter().for_each(drop);
            drop(self.take_parked());
        }
    }

    /// Every parked begin.
    pub(super) fn take_parked(&self) -> Vec<Ask> {
        let mut parked = self.parked.lock();
        let asks = std::mem::take(&mut parked.asks);
        self.parked_count.store(0, Ordering::Release);
        drop(parked);
        let asks = asks.into_values();
        asks.map(|(ask, timer)| {
            self.timer.cancel(timer);
            ask
        })
        .collect()
    }

    pub(super) fn are_empty(&self) -> bool {
        self.others.is_empty()
            && self.begins.is_empty()
            && self.parked_count.load(Ordering::Acquire) == 0
    }

    pub(super) fn queued(&self) -> u64 {
        (self.begins.len() + self.others.len() + self.parked_count.load(Ordering::Relaxed)) as u64
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Exits {
    /// Waits until there may be a job, but no longer than until then. Gives whether there may.
    pub(super) fn wait(&self, until: Option<Instant>) -> bool {
        ready_either(&self.others, &self.begins, until)
    }

    /// The next job, waiting for one until then.
    pub(super) fn next_until(&self, until: Instant) -> Option<Job> {
        recv_either_until(&self.others, &self.begins, Job::Ask, until)
    }

    /// The next job if one is there.
    pub(super) fn try_next(&self) -> Option<Job> {
        match self.others.try_recv() {
            Ok(job) => Some(job),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                self.begins.try_recv().ok().map(Job::Ask)
            }
        }
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}
