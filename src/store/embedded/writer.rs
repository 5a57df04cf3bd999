//! The one thread that changes anything: decides, commits in groups, publishes, answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batch::{Batch, Publication};
use super::files::disk::Step;
use super::folder::Folder;
use super::journal::Journal;
use super::lanes::{Ask, Carried, Done, Exits, Job};
use super::log::{LogWriter, Seed};
use super::manifest::{Manifest, RolledRow};
use super::set::SegmentSet;
use super::shared::Shared;
use super::tally::{SegmentHeader, Tally};
use super::upkeep;
use super::view::Current;
use super::warnings::Chore;
use crate::clock::Timestamp;
use crate::decision::{self, Change, Command, Context, Verdict};
use crate::error::{ErrorKind, Result};
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
/// A segment rolls after this fraction of the retention.
const ROLLS_PER_RETENTION: u32 = 24;
/// With more segments than this that aren't sealed, the active one included, rolling waits.
const MOST_UNSEALED: usize = 2;
/// After how long without a job the last frame gets a witness.
const WITNESS_AFTER: Duration = Duration::from_millis(100);
/// How long the writer goes on with a full segment before it tries again to make a new one.
const ROLL_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) exits: Exits,
    pub(super) active: Arc<Journal>,
    /// The active segment's.
    log: LogWriter,
    pub(super) next_sequence: u64,
    pub(super) batch: Batch,
    pub(super) is_stopping: bool,
    next_roll: Timestamp,
    /// How long the writer waits before it tries to go on after an error: not at all, unless the last tries were in vain.
    pub(super) pause: Duration,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        exits: Exits,
        active: Arc<Journal>,
        log: LogWriter,
        next_sequence: u64,
    ) -> Self {
        let batch = Batch::new(shared.rules.max_live_keys_per_scope.is_some());
        Self {
            shared,
            exits,
            active,
            log,
            next_sequence,
            batch,
            is_stopping: false,
            next_roll: Timestamp(0),
            pause: Duration::ZERO,
        }
    }

    /// Works until it is told to stop and everything queued is done, or the store has failed for
    /// good. After an error of the disk it goes on as soon as it can.
    pub(super) fn run(&mut self) {
        while let Err(error) = self.run_until_error() {
            self.interrupt(&error);
            if error.kind() == ErrorKind::Failed || !self.resume() {
                return;
            }
        }
    }

    fn run_until_error(&mut self) -> Result<()> {
        while let Some(first) = self.next()? {
            self.batch.clear();
            self.take(first);
            while self.batch.answers.len() < MAX_BATCH_JOBS
                && self.batch.frame.bytes() < MAX_BATCH_BYTES
            {
                let Some(job) = self.exits.try_next() else {
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
        }
        Ok(())
    }

    /// The next job. Once nothing has come for a while, the last frame gets its witness.
    fn next(&mut self) -> Result<Option<Job>> {
        if self.is_stopping {
            self.shared.lanes.unpark();
            return Ok(self.exits.try_next());
        }
        if self.log.lacks_witness() {
            let until = Instant::now() + WITNESS_AFTER;
            if let Some(job) = self.exits.next_until(until) {
                return Ok(Some(job));
            }
            self.log.witness(self.next_sequence)?;
        }
        Ok(self.exits.next())
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

    fn roll_if_due(&mut self) -> Result<()> {
        if self.active.entries() == 0 || self.is_stopping {
            return Ok(());
        }
        let now = self.shared.timeline.now();
        let oldest_wanted = self.shared.rules.retention / ROLLS_PER_RETENTION;
        let is_old = now.since(self.active.opened_at) >= oldest_wanted;
        if now < self.next_roll || !(is_old || self.is_full_enough()) {
            return Ok(());
        }
        self.roll(now)
    }

    /// Whether the active segment is to roll by its size. It goes on for a while if the sealer hasn't caught
    /// up: what isn't sealed takes memory, and time at the next open.
    fn is_full_enough(&self) -> bool {
        let shared = &self.shared;
        let is_past = |times: u64| {
            self.active.entries() >= times * shared.segment_entries
                || self.log.end() >= times.saturating_mul(shared.segment_bytes)
        };
        let is_sealer_behind =
            || shared.sealing.is_at_work() && shared.view.segments().journals.len() > MOST_UNSEALED;
        is_past(1) && (is_past(2) || !is_sealer_behind())
    }

    /// Goes on in a new segment. What the old one holds for good is noted in the manifest.
    fn roll(&mut self, now: Timestamp) -> Result<()> {
        self.shared.check_place()?;
        let next = match self.next_journal(now) {
            Ok(next) => next,
            // Nothing refers to it yet: the old segment can take more, and the disk may recover.
            Err(error) => {
                self.shared.warnings.failed(Chore::Rolling, &error);
                self.next_roll = now.plus(ROLL_RETRY);
                return Ok(());
            }
        };
        self.step(Step::Rolling);
        let rolled = RolledRow::ending(now, self.active.content(), false);
        self.go_on_in(next, rolled)
    }

    /// An empty journal after the active one, that nothing refers to yet.
    pub(super) fn next_journal(&self, now: Timestamp) -> Result<(Journal, LogWriter)> {
        let shared = &self.shared;
        // If a change that failed did list one of this number, its file can't be made anew.
        shared.with_manifest(Manifest::settle)?;
        let id = self.active.tally.id() + 1;
        let header = SegmentHeader {
            id,
            first_id: id,
            first_sequence: self.next_sequence,
            ..self.active.tally.header
        };
        let tally = Arc::new(Tally::new(header, 0));
        let seed = shared.secret.log_seed(&header.store_id, header.id);
        let seed = Seed(seed);
        shared
            .folder
            .create_journal(tally, now, seed, shared.first_fill)
    }

    /// Lists a new journal after the active one, which ends, and goes on in it.
    pub(super) fn go_on_in(
        &mut self,
        (new, log): (Journal, LogWriter),
        rolled: RolledRow,
    ) -> Result<()> {
        let shared = &self.shared;
        let (new, ended) = (Arc::new(new), Arc::clone(&self.active));
        let is_empty = rolled.holds.entries == 0;
        ended.mark_rolled(rolled);
        shared.with_manifest(|manifest| {
            let mut segments = SegmentSet::clone(&shared.view.segments());
            if is_empty {
                segments.journals.pop();
            }
            segments.journals.push(Arc::clone(&new));
            manifest.update(|state| {
                state.end_last(rolled, segments.tallies());
                state.begin_next(new.tally.header, new.opened_at);
            })?;
            drop(shared.view.set_segments(segments));
            Ok(())
        })?;
        shared.view.begin_scopes(new.tally.header.first_sequence);
        (self.active, self.log) = (new, log);
        shared.warnings.clear(Chore::Rolling);
        self.step(Step::RollListed);
        if is_empty {
            // If this fails, the file is an orphan, and the next open removes it.
            drop(Folder::remove_file(
                &self.shared.folder.journal(ended.tally.id()),
            ));
        }
        self.shared.sealing.wake();
        Ok(())
    }
}
