//! Sweeping: old segments are unlinked whole, oldest first, once nothing in them is wanted any more.

use std::sync::Arc;
use std::time::Duration;

use super::ends::latest_due;
use super::files::disk::Step;
use super::folder::Folder;
use super::index::SlotKind;
use super::journal::Journal;
use super::lanes::{Carried, Done, Job};
use super::sealed::Sealed;
use super::set::{Segment, SegmentSet};
use super::shared::Shared;
use crate::clock::Timestamp;
use crate::codec::JournalEntry;
use crate::decision;
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::outcome::OnAbandon;
use crate::record::{Record, Stored};
use crate::store::{Swept, failed};
use crate::sync::bounded;

/// How many records, and about how many bytes, are carried forward in one commit.
const CARRIED_AT_ONCE: usize = 256;
const CARRIED_BYTES_AT_ONCE: usize = 1 << 20;

/// How long an attempt stays in memory once its lease has ended. After that it is read from the disk, like
/// a completed record, by the begin that takes it over.
const ABANDONED_IN_MEMORY: Duration = Duration::from_secs(300);

/// Whether an attempt has to be in memory: those that are held are listed from there.
pub(super) fn is_kept_in_memory(record: &Record, now: Timestamp, on_abandon: OnAbandon) -> bool {
    let Record::InFlight(attempt) = record else {
        return false;
    };
    may_be_needed(attempt.lease_until, now, on_abandon)
        && !decision::is_over(record, now, on_abandon)
}

/// Whether an attempt with this lease may have to be in memory.
pub(super) fn may_be_needed(lease_until: Timestamp, now: Timestamp, on_abandon: OnAbandon) -> bool {
    let is_recent = now < lease_until.plus(ABANDONED_IN_MEMORY);
    is_recent || on_abandon == OnAbandon::Hold
}

/// When the last of a segment's records is over, unless it is held: no later than with its last
/// answer, if its attempts were all settled since, in newer segments, say.
fn ends_at(set: &SegmentSet, segment: &Segment, now: Timestamp) -> Timestamp {
    let ends = segment.ends();
    let (answers_end, ends_at) = (ends.answers(), ends.last());
    let is_told_by_attempts = (answers_end..ends_at).contains(&now);
    // What can't be read isn't over.
    if is_told_by_attempts && !has_attempts(set, segment).unwrap_or(true) {
        return answers_end;
    }
    ends_at
}

/// Whether a key's newest entry may be an attempt in this segment.
fn has_attempts(set: &SegmentSet, segment: &Segment) -> Result<bool> {
    let id = segment.id();
    let shorts: Vec<u128> = match segment {
        Segment::Sealed(sealed) => {
            let attempts = sealed.attempts()?.into_iter();
            attempts.map(|attempt| attempt.short).collect()
        }
        Segment::Journal(journal) => {
            let slots = journal.index.slots();
            let attempts = slots.filter(|(_, slot)| slot.kind() == SlotKind::InFlight);
            attempts.map(|(short, _)| short).collect()
        }
    };
    for short in shorts {
        if !set.is_superseded(short, id)? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Shared {
    /// Unlinks what is over. Runs in the sweeper's thread; the writer is only asked to tidy its memory
    /// and to write again what must outlive its segment.
    pub(super) fn sweep(&self) -> Result<Swept> {
        self.condition.check_readable()?;
        self.check_place()?;
        if self.condition.check().is_ok() {
            self.ask_writer(Job::Tidy)?;
        }
        self.folder.step(Step::Tidied);
        let mut swept = Swept::default();
        // What is carried forward may fill segments of its own; those are for a later sweep.
        let newest = self
            .view
            .segments()
            .active()
            .map(|active| active.tally.id());
        loop {
            // While the store is interrupted, perhaps for want of room, what is over can go all the same.
            self.condition.check_readable()?;
            let now = self.timeline.now();
            let set = self.view.segments();
            let Some(oldest) = self.next_to_sweep(&set, now) else {
                return Ok(swept);
            };
            let is_late = newest.is_none_or(|newest| oldest.id() >= newest);
            if is_late || now < self.sweep_not_before || !self.is_due(&set, &oldest, now) {
                return Ok(swept);
            }
            if !mutant::is_on(Mutant::UnlinkedEarly) {
                self.carry_forward(&set, &oldest, now)?;
            }
            self.folder.step(Step::Carried);
            if let Some(records) = self.unlink(&oldest, now)? {
                swept.records += records;
                swept.segments += 1;
            }
        }
    }

    /// Whether a segment, the oldest one, has been rolled for about a retention, or everything in
    /// it is over before that. Attempts that are held are never over, and are carried once in a
    /// retention.
    fn is_due(&self, set: &SegmentSet, segment: &Segment, now: Timestamp) -> bool {
        segment.rolled().is_some_and(|rolled| {
            let rolled_at = Timestamp(rolled.rolled_at_ms);
            let kept_for = if mutant::is_on(Mutant::UnlinkedEarly) {
                self.rules.retention / 8
            } else {
                self.rules.retention
            };
            // What became of its attempts is worth a look only where it may go but for them.
            let has_answers = segment.ends().answers() > Timestamp(0);
            let ends_at = if has_answers || now >= rolled_at.plus(kept_for) {
                ends_at(set, segment, now)
            } else {
                segment.ends().last()
            };
            let is_over = now >= ends_at && self.wanted_attempts(segment, now).next().is_none();
            is_over || now >= latest_due(rolled_at, ends_at, kept_for)
        })
    }

    /// The oldest segment: a newer one may hold what says that an entry in it is superseded.
    fn next_to_sweep(&self, set: &SegmentSet, now: Timestamp) -> Option<Segment> {
        let mut segments = set.segments();
        if mutant::is_on(Mutant::UnlinkedOutOfOrder) {
            return segments.find(|segment| self.is_due(set, segment, now));
        }
        segments.next()
    }

    /// The attempts whose newest entry is in the oldest segment and that aren't over.
    fn wanted_attempts(
        &self,
        oldest: &Segment,
        now: Timestamp,
    ) -> impl Iterator<Item = Carried> + use<> {
        let on_abandon = self.rules.on_abandon;
        let last = oldest.last_sequence();
        let attempts = self.view.attempts().into_iter();
        attempts
            .filter(move |attempt| {
                let is_over = decision::is_over(&attempt.stored.record, now, on_abandon);
                attempt.sequence <= last && !is_over
            })
            .map(|attempt| Carried {
                sequence: attempt.sequence,
                stored: attempt.stored,
            })
    }

    /// Writes again, in the active segment, what the oldest one holds and is still wanted: attempts
    /// that are held or have a long lease, and answers with a longer retention of their own.
    fn carry_forward(&self, set: &SegmentSet, oldest: &Segment, now: Timestamp) -> Result<()> {
        let mut wanted = Vec::new();
        let mut bytes = 0;
        self.collect_wanted(set, oldest, now, |carried| {
            if let Record::Completed(record) = &carried.stored.record {
                bytes += record.reply.size_bytes();
            }
            wanted.push(carried);
            if wanted.len() < CARRIED_AT_ONCE && bytes < CARRIED_BYTES_AT_ONCE {
                return Ok(());
            }
            bytes = 0;
            let chunk = std::mem::take(&mut wanted);
            self.ask_writer(|done| Job::Carry(chunk, done))
        })?;
        if wanted.is_empty() {
            return Ok(());
        }
        self.ask_writer(|done| Job::Carry(wanted, done))
    }

    fn collect_wanted(
        &self,
        set: &SegmentSet,
        oldest: &Segment,
        now: Timestamp,
        mut wanted: impl FnMut(Carried) -> Result<()>,
    ) -> Result<()> {
        for carried in self.wanted_attempts(oldest, now) {
            wanted(carried)?;
        }
        if now >= ends_at(set, oldest, now) {
            return Ok(());
        }
        let mut visit = |entry: JournalEntry| {
            self.condition.check_readable()?;
            let (sequence, digest) = (entry.heading.sequence, entry.digest);
            let Some(stored) = self.view.stored(entry)?.map(Arc::new) else {
                return Ok(());
            };
            let is_over = decision::is_over(&stored.record, now, self.rules.on_abandon);
            if is_over || set.is_superseded(digest.short(), oldest.id())? {
                return Ok(());
            }
            wanted(Carried { sequence, stored })
        };
        match oldest {
            Segment::Sealed(sealed) => each_sealed(sealed, &mut visit),
            Segment::Journal(journal) => each_newest(journal, &mut visit),
        }
    }

    /// Takes a segment off the manifest, then out of the readers' sight, then off the disk. Gives how
    /// many keys had their newest entry in it, or `None` if it was merged with others meanwhile.
    pub(super) fn unlink(&self, segment: &Segment, now: Timestamp) -> Result<Option<u64>> {
        let header = segment.tally().header;
        let id = header.id;
        let is_listed = self.with_manifest(|manifest| {
            let mut segments = SegmentSet::clone(&self.view.segments());
            if !segments.tallies().any(|tally| tally.header == header) {
                return Ok(false);
            }
            segments.sealed.retain(|listed| listed.tally.id() != id);
            segments.journals.retain(|listed| listed.tally.id() != id);
            manifest.unlist(id, now)?;
            drop(self.view.set_segments(segments));
            Ok(true)
        })?;
        if !is_listed {
            return Ok(None);
        }
        let records = self.view.uncount(segment.tally());
        self.folder.step(Step::Unlisted);
        // If this fails, the file is an orphan, and the next open removes it.
        Folder::remove_file(&self.folder.journal(id))?;
        Folder::remove_file(&self.folder.sealed(&header))?;
        self.folder.step(Step::Unlinked);
        self.folder.sync()?;
        Ok(Some(records))
    }

    fn ask_writer(&self, job: impl FnOnce(Done) -> Job) -> Result<()> {
        let (done, answer) = bounded(1);
        self.lanes.job(job(done));
        answer.recv().unwrap_or_else(|_| Err(self.gone()))
    }

    /// Why the writer doesn't answer.
    fn gone(&self) -> Error {
        let reason = self.condition.check().err();
        // An interruption that was noted before the panic isn't why nobody answers.
        let reason = reason.filter(|reason| reason.kind() != ErrorKind::Unavailable);
        reason.unwrap_or_else(|| failed("its thread panicked"))
    }

    /// The attempts of all keys, for listing.
    pub(super) fn attempts(&self) -> Vec<Arc<Stored>> {
        let attempts = self.view.attempts();
        attempts.into_iter().map(|attempt| attempt.stored).collect()
    }
}

/// Visits the entries of a sealed segment.
fn each_sealed(sealed: &Sealed, visit: &mut impl FnMut(JournalEntry) -> Result<()>) -> Result<()> {
    for block in 0..sealed.blocks() {
        for entry in sealed.entries_of(block)? {
            visit(entry?)?;
        }
    }
    Ok(())
}

/// Visits the newest entry in a journal of each key.
fn each_newest(
    journal: &Journal,
    visit: &mut impl FnMut(JournalEntry) -> Result<()>,
) -> Result<()> {
    for (_, slot) in journal.index.slots() {
        if slot.kind() != SlotKind::Removed {
            visit(journal.read(slot)?)?;
        }
    }
    Ok(())
}
