//! After an error of the disk: how the writer goes on.
//!
//! A frame that failed may be on the disk, in part or whole, and the page cache may show it though it isn't. So
//! nothing is ever written to that file again. What was acknowledged is in it, in blocks that nothing has touched since
//! they were synced: the segment is cut off after the last of these, which the manifest notes, and a new segment takes
//! its place. Only then is anybody answered again. The cut segment is sealed like others, and its file goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::disk::Step;
use super::files::edge::with_causes;
use super::lanes::{Exits, Job};
use super::manifest::RolledRow;
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::store::interrupted;

/// How long the writer waits between two tries: from the first to the second, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether nothing will ever go on.
pub(super) fn has_failed(result: &Result<()>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::Failed)
}

impl Writer {
    /// Everybody who waits gets an error, and nothing changes until [`resume`](Writer::resume) has
    /// succeeded, if ever.
    pub(super) fn interrupt(&mut self, error: &Error, exits: &Exits) {
        self.tell_interrupted(error);
        self.refuse_queued(exits);
    }

    /// Those of the batch are told, and everybody who looks.
    pub(super) fn tell_interrupted(&mut self, error: &Error) {
        let shared = &self.shared;
        let reason = with_causes(error);
        shared.condition.interrupt(&reason);
        self.step(Step::Interrupted);
        let (kind, cause) = match error.kind() {
            ErrorKind::Failed => (ErrorKind::Failed, "the store has failed"),
            _ => (ErrorKind::Io, "the disk failed"),
        };
        for (answer, _) in self.batch.answers.drain(..) {
            let message = format!("whether this took effect is unclear, because {cause}: {reason}");
            answer.send(Err(Error::new(kind, message).of_unknown_outcome()));
        }
        for done in std::mem::take(&mut self.batch.dones) {
            drop(done.send(Err(self.refusal())));
        }
        self.batch.clear();
        self.shared.observer.interrupted();
    }

    /// Tries to go on until that succeeds. Gives whether it did; not if the store is to stop, or
    /// has failed for good.
    pub(super) fn resume(&mut self, exits: &Exits) -> bool {
        loop {
            self.refuse_for(self.pause, exits);
            let result = self.begin_anew();
            if has_failed(&result) {
                self.refuse_queued(exits);
                return false;
            }
            // Until a commit succeeds.
            self.pause = (2 * self.pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            if result.is_ok() {
                self.shared.resumed();
                return self.shared.condition.check_not_failed().is_ok();
            }
            if self.is_stopping {
                return false;
            }
        }
    }

    /// Cuts the active segment off after the last entry that is surely in it, and makes a new one.
    fn begin_anew(&mut self) -> Result<()> {
        self.shared.check_place()?;
        let shared = Arc::clone(&self.shared);
        let now = shared.timeline.now();
        let cut = RolledRow::ending(now, self.active.content(), true);
        // Noted first, in case there is no room for a new segment and the process ends.
        shared.with_manifest(|manifest| {
            manifest.settle()?;
            let last = manifest.state().segments.last();
            if last.is_some_and(|row| row.rolled.is_some()) {
                return Ok(());
            }
            manifest.update(|state| state.end_last(cut, shared.view.segments().tallies()))
        })?;
        let next = self.next_journal(now)?;
        self.step(Step::Resuming);
        self.go_on_in(next, cut)
    }

    /// Answers with an error whatever comes up, for some time or until the store is to stop.
    fn refuse_for(&mut self, time: Duration, exits: &Exits) {
        let until = Instant::now() + time;
        while !self.is_stopping
            && let Some(job) = exits.next_until(until)
        {
            self.refuse(job);
        }
        self.refuse_queued(exits);
    }

    pub(super) fn refuse_queued(&mut self, exits: &Exits) {
        while let Some(job) = exits.try_next() {
            self.refuse(job);
        }
        for ask in self.shared.lanes.take_parked() {
            self.refuse(Job::Ask(ask));
        }
    }

    /// Why nothing is done now.
    fn refusal(&self) -> Error {
        let refusal = self.shared.condition.check().err();
        refusal.unwrap_or_else(|| interrupted("the disk failed"))
    }

    pub(super) fn refuse(&mut self, job: Job) {
        let refusal = self.refusal();
        match job {
            Job::Ask((_, answer)) => answer.send(Err(refusal)),
            Job::Carry(_, done) | Job::Tidy(done) => drop(done.send(Err(refusal))),
            Job::Renew => {}
            Job::Stop => self.is_stopping = true,
        }
    }
}
