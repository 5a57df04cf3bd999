//! After an error of the disk: how the writer goes on.
//!
//! A commit that failed may be on the disk, in part or whole, and the page cache may show it though it isn't. So
//! nothing is ever written to that file again. What was acknowledged is in it, by commits that succeeded: the
//! segment is cut off after the last of these, which the manifest notes, and a new segment takes its place. Only then
//! is anybody answered again. The cut segment is sealed like others, and its file goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::Step;
use super::lanes::Job;
use super::manifest::RolledRow;
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::store::interrupted;

/// How long the writer waits between two tries: from the first to the second, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Writer {
    /// Everybody who waits gets an error, and nothing changes until [`resume`](Writer::resume) has succeeded.
    pub(super) fn interrupt(&mut self, error: &Error) {
        let shared = &self.shared;
        shared.condition.interrupt(&error.to_string());
        self.step(Step::Interrupted);
        for (answer, _) in self.batch.answers.drain(..) {
            answer.send(Err(Error::new(
                ErrorKind::Io,
                format!("whether this took effect is unclear, because the disk failed: {error}"),
            )));
        }
        for done in self.batch.dones.drain(..) {
            drop(done.send(Err(interrupted("the disk failed"))));
        }
        self.batch.clear();
        shared.lanes.clear();
        shared.observer.interrupted();
        self.refuse_queued();
    }

    /// Tries to go on until that succeeds. Gives whether it did; not if the store is to stop.
    pub(super) fn resume(&mut self) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.begin_anew() {
                Ok(()) => {
                    self.shared.resumed();
                    return true;
                }
                Err(error) => self.shared.condition.interrupt(&error.to_string()),
            }
            self.refuse_for(pause);
            if self.is_stopping {
                return false;
            }
            pause = LONGEST_PAUSE.min(2 * pause);
        }
    }

    /// Cuts the active segment off after the last entry that is surely in it, and makes a new one.
    fn begin_anew(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let now = shared.timeline.now();
        let holds = self.active.content();
        // Noted first, in case there is no room for a new segment and the process ends.
        shared.with_manifest(|manifest| {
            manifest.settle()?;
            let is_noted = manifest.state().segments.last();
            if is_noted.is_some_and(|row| row.rolled.is_some()) {
                return Ok(());
            }
            shared.note_cut(manifest, holds, shared.view.segments().tallies())
        })?;
        let rolled = RolledRow {
            rolled_at_ms: now.0,
            first_due_ms: 0,
            holds,
            is_cut: true,
        };
        let path = shared.folder.journal(self.active.tally.id());
        let cache_bytes = shared.budget.writable();
        let frozen = self.active.freeze(&path, rolled, cache_bytes)?;
        let journal = self.next_journal(now)?;
        self.step(Step::Resuming);
        self.go_on_in(journal, &Arc::new(frozen), rolled)
    }

    /// Answers with an error whatever comes up, for some time or until the store is to stop.
    fn refuse_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopping
            && let Some(job) = self.exits.next_until(until)
        {
            self.refuse(job);
        }
        self.refuse_queued();
    }

    fn refuse_queued(&mut self) {
        while let Some(job) = self.exits.try_next() {
            self.refuse(job);
        }
    }

    fn refuse(&mut self, job: Job) {
        let refusal = self.shared.condition.check();
        let refusal = refusal
            .err()
            .unwrap_or_else(|| interrupted("the disk failed"));
        match job {
            Job::Ask((_, answer)) => answer.send(Err(refusal)),
            Job::Carry(_, done) | Job::Tidy(done) => drop(done.send(Err(refusal))),
            Job::Renew => {}
            Job::Stop => self.is_stopping = true,
        }
    }
}
