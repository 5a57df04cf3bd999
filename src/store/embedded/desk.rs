//! Where the writer sits: in its own thread, or for one batch in that of a caller who is alone.
//!
//! A hand-over to another thread and back costs a lone caller a fifth of its time. So a caller that blocks takes the
//! writer's seat if that is free and nobody waits for anything, commits its one request, and gives the seat back. What
//! an error or a panic ends there is taken up by the writer's thread. Futures never do so: a poll doesn't wait for the
//! disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lanes::{Ask, Exits, Job};
use super::shared::Shared;
use super::writer::Writer;
use crate::mutant::{self, Mutant};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, waking};

/// After how long without a commit the last frame gets a witness.
const WITNESS_AFTER: Duration = Duration::from_millis(100);

/// The writer, and who waits for work to do.
#[derive(Debug)]
pub(super) struct Desk {
    shared: Arc<Shared>,
    /// `None` once it is gone.
    seat: Mutex<Option<Writer>>,
    /// Whether damage to the last frame could be taken for a torn end.
    lacks_witness: AtomicBool,
    /// Whether the writer's thread waits until there is a job, however long that is.
    is_asleep: AtomicBool,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer) -> Arc<Self> {
        Arc::new(Self {
            shared,
            seat: Mutex::new(Some(writer)),
            lacks_witness: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
        })
    }

    /// The writer's thread, from start to end.
    pub(super) fn work(&self, exits: Exits) {
        while self.wait_and_serve(&exits) {}
        // From here on nobody must wait for an answer: what is queued goes with the writer.
        drop(self.seat.lock().take());
        drop(exits);
        self.shared.ended();
    }

    /// After a panic nothing is ever changed again: what the writer had in its hands isn't known. Nobody takes the
    /// seat in between.
    fn fail(&self, seat: &mut Option<Writer>) {
        self.shared.condition.fail("the writer's thread panicked");
        *seat = None;
    }

    /// Gives whether there is more to do: not once the writer has stopped, has failed for good, or is gone.
    fn wait_and_serve(&self, exits: &Exits) -> bool {
        let may_have_job = self.wait(exits);
        let mut seat = self.seat.lock();
        let Some(writer) = &mut *seat else {
            return false;
        };
        let served = catch_unwind(AssertUnwindSafe(|| {
            let goes_on = self.serve(writer, exits, may_have_job);
            self.note(writer);
            goes_on
        }));
        if served.is_err() {
            self.fail(&mut seat);
        }
        served.unwrap_or(false)
    }

    fn serve(&self, writer: &mut Writer, exits: &Exits, may_have_job: bool) -> bool {
        // Taken only now: what waits for a caller who leads still waits in the queue.
        let mut goes_on = match exits.try_next() {
            Some(job) => writer.serve(job, exits),
            None if may_have_job => true,
            None => writer.witness(exits),
        };
        while goes_on && writer.is_stopping() {
            self.shared.lanes.unpark();
            let Some(job) = exits.try_next() else {
                return false;
            };
            goes_on = writer.serve(job, exits);
        }
        goes_on
    }

    /// Waits until there may be a job, or the last frame is to get its witness. Gives whether the former.
    fn wait(&self, exits: &Exits) -> bool {
        loop {
            if self.lacks_witness.load(Ordering::SeqCst) {
                let commits = self.shared.commits.load(Ordering::Relaxed);
                let may_have_job = exits.wait(Some(Instant::now() + WITNESS_AFTER));
                if may_have_job || commits == self.shared.commits.load(Ordering::Relaxed) {
                    return may_have_job;
                }
                continue;
            }
            self.is_asleep.store(true, Ordering::SeqCst);
            // Of this thread and a caller who writes a frame, one sees the other.
            if !self.lacks_witness.load(Ordering::SeqCst) {
                let may_have_job = exits.wait(None);
                self.is_asleep.store(false, Ordering::SeqCst);
                return may_have_job;
            }
            self.is_asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Notes whether the last frame lacks its witness now.
    fn note(&self, writer: &Writer) {
        let lacks_witness = writer.lacks_witness();
        self.lacks_witness.store(lacks_witness, Ordering::SeqCst);
    }

    /// Commits a request in this thread, if it blocks for it and nobody else has anything to do; gives it back
    /// otherwise.
    pub(super) fn lead(&self, ask: Ask) -> Option<Ask> {
        let lanes = &self.shared.lanes;
        // Whoever leads returns after the commit, whenever the answer is given.
        let is_leading_no_use = mutant::is_on(Mutant::AnswerFirst);
        if !waking::is_blocking() || !lanes.are_empty() || is_leading_no_use {
            return Some(ask);
        }
        let Some(mut seat) = self.seat.try_lock() else {
            return Some(ask);
        };
        let Some(writer) = seat.as_mut().filter(|writer| writer.may_be_led()) else {
            return Some(ask);
        };
        // Somebody may have come in between, who goes first.
        if !lanes.are_empty() {
            return Some(ask);
        }
        let led = catch_unwind(AssertUnwindSafe(|| writer.lead(ask)));
        self.note(writer);
        let mut wants_thread = self.is_asleep.swap(false, Ordering::SeqCst);
        if led.is_err() {
            self.fail(&mut seat);
        }
        wants_thread |= !led.unwrap_or(false);
        drop(seat);
        if wants_thread {
            lanes.job(Job::Renew);
        }
        None
    }
}
