//! The writer, which alone changes anything: decides, commits in groups, publishes, answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::batch::{Batch, Publication};
use super::files::disk::Step;
use super::journal::Journal;
use super::lanes::{Ask, Carried, Done, Exits, Job};
use super::log::LogWriter;
use super::shared::Shared;
use super::upkeep;
use super::view::Current;
use crate::clock::Timestamp;
use crate::decision::{self, Change, Command, Context, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::observe::Begun;
use crate::record::Stored;
use crate::secret::Digest;
use crate::store::{Observed, Request, Seen};
use crate::sync::waking;

/// How many jobs share a commit at most.
const MAX_BATCH_JOBS: usize = 1_024;
/// From how many bytes of entries on a batch takes no further job.
const MAX_BATCH_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) active: Arc<Journal>,
    /// The active segment's.
    pub(super) log: LogWriter,
    pub(super) next_sequence: u64,
    pub(super) batch: Batch,
    pub(super) is_stopping: bool,
    pub(super) next_roll: Timestamp,
    /// How far the log comes before the next one is thought of again.
    pub(super) looks_ahead_at: u64,
    /// How long the writer waits before it tries to go on after an error: not at all, unless the last tries were in vain.
    pub(super) pause: Duration,
    /// What a caller has met, and the writer's thread is to go on from.
    led_into: Option<Error>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        active: Arc<Journal>,
        log: LogWriter,
        next_sequence: u64,
    ) -> Self {
        let batch = Batch::new(shared.rules.max_live_keys_per_scope.is_some());
        let first_fill = shared.first_fill;
        Self {
            shared,
            active,
            log,
            next_sequence,
            batch,
            is_stopping: false,
            next_roll: Timestamp(0),
            looks_ahead_at: first_fill,
            pause: Duration::ZERO,
            led_into: None,
        }
    }

    /// Does a job and what is queued behind it, as one batch. After an error of the disk it goes on as soon as it can.
    /// Gives whether it does: not once the store has failed for good.
    pub(super) fn serve(&mut self, first: Job, exits: &Exits) -> bool {
        if self.led_into.is_some() {
            // Whoever asked for it doesn't wait until the disk is well again.
            self.refuse(first);
            return self.is_well(exits);
        }
        match self.batch(first, exits) {
            Ok(()) => true,
            Err(error) => {
                self.interrupt(&error, exits);
                self.recover(&error, exits)
            }
        }
    }

    fn recover(&mut self, error: &Error, exits: &Exits) -> bool {
        error.kind() != ErrorKind::Failed && self.resume(exits)
    }

    /// Goes on after an error that a caller has met.
    fn is_well(&mut self, exits: &Exits) -> bool {
        match self.led_into.take() {
            None => true,
            Some(error) => {
                self.refuse_queued(exits);
                self.recover(&error, exits)
            }
        }
    }

    fn batch(&mut self, first: Job, exits: &Exits) -> Result<()> {
        self.batch.clear();
        self.take(first);
        while self.batch.answers.len() < MAX_BATCH_JOBS
            && self.batch.frame.bytes() < MAX_BATCH_BYTES
        {
            let Some(job) = exits.try_next() else {
                break;
            };
            self.take(job);
        }
        self.shared.lanes.batch_taken();
        self.shared.lanes.unpark();
        self.shared.condition.check_not_failed()?;
        self.commit()?;
        self.roll_if_due()?;
        // The sweep goes on once the roll that it asked for is done, too.
        for done in self.batch.dones.drain(..) {
            drop(done.send(Ok(())));
        }
        Ok(())
    }

    /// Whether a caller may do its request with this.
    pub(super) fn may_be_led(&self) -> bool {
        !self.is_stopping && self.led_into.is_none()
    }

    /// Does one request in its caller's thread. Gives whether all is well: an error is for the writer's thread to go on
    /// from.
    pub(super) fn lead(&mut self, ask: Ask) -> bool {
        self.batch.clear();
        self.ask(ask);
        let committed = self.shared.condition.check_not_failed();
        let committed = committed.and_then(|()| self.commit());
        let Err(error) = committed.and_then(|()| self.roll_if_due()) else {
            return true;
        };
        self.tell_interrupted(&error);
        if !mutant::is_on(Mutant::LeaderLeavesOthers) {
            self.led_into = Some(error);
        }
        false
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    pub(super) fn lacks_witness(&self) -> bool {
        self.log.lacks_witness()
    }

    /// Puts an empty frame behind the last one.
    pub(super) fn witness(&mut self, exits: &Exits) -> bool {
        if !self.is_well(exits) {
            return false;
        }
        if !self.log.lacks_witness() {
            return true;
        }
        match self.log.witness(self.next_sequence) {
            Ok(()) => true,
            Err(error) => {
                self.batch.clear();
                self.interrupt(&error, exits);
                self.recover(&error, exits)
            }
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Ask((request, answer)) => self.ask((request, answer)),
            Job::Carry(carried, done) => self.carry(carried, done),
            Job::Tidy(done) => self.tidy(done),
            Job::Renew => {}
            Job::Stop => self.is_stopping = true,
        }
    }

    fn ask(&mut self, (request, answer): Ask) {
        let verdict = self.decide(request);
        self.batch.answers.push((answer, verdict));
    }

    /// Decides one request against the truth, which includes what this batch decided before it.
    fn decide(&mut self, request: Request) -> Result<Verdict> {
        if matches!(request.command, Command::Begin { .. }) {
            // Whoever was granted a key now could never complete it.
            self.shared.condition.check()?;
        }
        let current = self.current(&request.digest, request.seen)?;
        let now = self.shared.timeline.now();
        let context = Context {
            now,
            next_token: self.next_sequence,
            // A key that counts already, because its old record is still to be swept, adds nothing.
            full: match current.live_entry {
                Some(_) => None,
                None => self
                    .shared
                    .limit_to(&request.digest, self.batch.added(&request.digest)),
            },
            on_abandon: self.shared.rules.on_abandon,
        };
        let record = current.stored.as_ref().map(|stored| &stored.record);
        let decision = decision::decide(record, &request.command, &context);
        if let Some(change) = decision.change {
            let stored = match change {
                Change::Remove => None,
                Change::Put(record) => Some(Arc::new(Stored {
                    digest: request.digest,
                    key: self.shared.rules.keeps_keys.then_some(request.key),
                    record,
                })),
            };
            self.stage(request.digest, now, stored, current.live_entry)?;
        }
        self.step(Step::Decided);
        Ok(decision.verdict)
    }

    fn stage(
        &mut self,
        digest: Digest,
        now: Timestamp,
        stored: Option<Arc<Stored>>,
        prior: Option<u64>,
    ) -> Result<()> {
        let cipher = self.shared.view.cipher();
        self.batch
            .stage(digest, self.next_sequence, now, stored, prior, cipher)?;
        self.next_sequence += 1;
        Ok(())
    }

    fn current(&self, digest: &Digest, seen: Seen) -> Result<Current> {
        match self.batch.current(digest) {
            Some(current) => Ok(current),
            None => self.shared.look(digest, seen),
        }
    }

    /// Writes records again whose entries are still their keys' newest.
    fn carry(&mut self, carried: Vec<Carried>, done: Done) {
        let now = self.shared.timeline.now();
        for Carried { sequence, stored } in carried {
            let digest = stored.digest;
            let staged = self.is_newest(&digest, sequence).and_then(|is_newest| {
                if is_newest {
                    self.stage(digest, now, Some(stored), Some(sequence))?;
                }
                Ok(())
            });
            if let Err(error) = staged {
                drop(done.send(Err(error)));
                return;
            }
        }
        self.batch.dones.push(done);
    }

    /// Whether neither this batch nor an earlier one has superseded an entry.
    fn is_newest(&self, digest: &Digest, sequence: u64) -> Result<bool> {
        if self.batch.current(digest).is_some() {
            return Ok(false);
        }
        let is_newest = self.shared.view.is_newest(digest, sequence);
        is_newest.inspect_err(|error| self.shared.note_unread(error))
    }

    fn tidy(&mut self, done: Done) {
        let now = self.shared.timeline.now();
        let on_abandon = self.shared.rules.on_abandon;
        // Attempts that this batch touches are pruned next time.
        self.shared
            .view
            .prune(|record| !upkeep::is_kept_in_memory(record, now, on_abandon));
        self.batch.dones.push(done);
    }

    /// Commits the batch, publishes it, tells the waiters, and only then answers.
    fn commit(&mut self) -> Result<()> {
        if mutant::is_on(Mutant::AnswerFirst) {
            self.answer();
        }
        if !self.batch.publications.is_empty() {
            let begun = Begun::now();
            self.step(Step::Committing);
            let first = self.batch.publications[0].sequence;
            let offset = self.log.end();
            self.log.append(&mut self.batch.frame, first)?;
            self.shared.check_place()?;
            self.step(Step::Committed);
            let entries = self.batch.publications.len();
            let meters = &self.shared.meters;
            meters.committed(begun, entries, || self.shared.lanes.queued());
            self.publish(offset);
            self.step(Step::Published);
            self.pause = Duration::ZERO;
        }
        self.answer();
        Ok(())
    }

    fn answer(&mut self) {
        waking::together(|| {
            for (answer, verdict) in self.batch.answers.drain(..) {
                answer.send(verdict);
                self.shared.folder.step(Step::Answering);
            }
        });
    }

    pub(super) fn step(&self, step: Step) {
        self.shared.folder.step(step);
    }

    /// Shows what is durable; its frame stands at this offset.
    fn publish(&self, offset: u64) {
        let shared = &self.shared;
        let set = shared.view.segments();
        let spans = self.batch.frame.spans(offset);
        for (publication, span) in self.batch.publications.iter().zip(spans) {
            let ends_at = match &publication.stored {
                Some(stored) => stored.record.ends_at(),
                None => Timestamp(0),
            };
            let slot = publication.slot(span);
            let count = || self.active.count(slot, ends_at);
            if mutant::is_on(Mutant::CountsFirst) {
                count();
            }
            shared.view.publish(&set, publication, slot);
            // Whoever walks through what is counted looks for it in the index.
            if !mutant::is_on(Mutant::CountsFirst) {
                count();
            }
            self.step(Step::Publishing);
        }
        shared.commits.fetch_add(1, Ordering::Relaxed);
        let entries = self.batch.publications.len() as u64;
        shared.entries_written.fetch_add(entries, Ordering::Relaxed);
        for Publication { digest, stored, .. } in &self.batch.publications {
            let record = stored.as_ref().map(|stored| &stored.record);
            shared.observer.changed(digest, Observed::of(record));
        }
    }
}
