//! Sealing: rolled segments are rewritten in the background, one after the other, oldest first. The same thread
//! merges sealed ones when there are many.
//!
//! A crash at any moment leaves the journal or the sealed file listed in the manifest, never neither; the
//! other one is removed by the next open.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::ends::Ends;
use super::files::directory::Name;
use super::files::disk::Step;
use super::folder::Folder;
use super::index::{Slot, SlotKind};
use super::journal::Journal;
use super::manifest::{Manifest, RolledRow};
use super::sealed::{Sealed, SealedAttempt};
use super::sealed_writer::SealedWriter;
use super::set::{Segment, SegmentSet};
use super::shared::Shared;
use super::warnings::Chore;
use crate::codec::{self, OutlineState};
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::observe::Begun;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Receiver, RecvTimeoutError, thread};

/// How long the sealer rests after a failure: at first, and after many.
const LEAST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How much a close seals at most: about a second's work.
const MOST_AT_CLOSE: u64 = 400_000;
const MOST_BYTES_AT_CLOSE: u64 = 256 << 20;
/// How many entries are copied between two pauses: about a millisecond's work.
const AT_ONCE: usize = 256;
/// How much of a journal is read at a time, before that: about as long.
const READ_AT_ONCE: usize = 1 << 20;
/// How long the sealer lets others have the processor and the disk, as a multiple of the time it worked.
const PAUSES_FOR: u32 = 2;
/// A close waits for a pause to end.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// How much a seal gets in the way of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// It pauses, and ends when the store is closed.
    Background,
    AtOnce,
}

/// The way to the sealer's thread.
#[derive(Debug)]
pub(super) struct Sealing {
    bell: Bell,
    is_stopping: AtomicBool,
    is_at_work: AtomicBool,
    failures: AtomicU64,
}

impl Sealing {
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (bell, rung) = Bell::new();
        let sealing = Self {
            bell,
            is_stopping: AtomicBool::new(false),
            is_at_work: AtomicBool::new(false),
            failures: AtomicU64::new(0),
        };
        (sealing, rung)
    }

    /// Says that a segment was rolled.
    pub(super) fn wake(&self) {
        self.bell.ring();
    }

    /// Ends the thread soon; what it was writing is thrown away.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.bell.stop();
    }

    /// Whether a segment is being sealed at this moment.
    pub(super) fn is_at_work(&self) -> bool {
        self.is_at_work.load(Ordering::Relaxed)
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err(Error::closed());
        }
        Ok(())
    }
}

impl Shared {
    /// The sealer's thread, from start to end.
    pub(super) fn seal_until_stopped(&self, woken: &Receiver<()>) {
        // What a former process has rolled comes first.
        let mut rest = LEAST_REST;
        loop {
            self.sealing.is_at_work.store(true, Ordering::Relaxed);
            // A panic is a failure like others: what it left is removed by the next try.
            let work = || {
                let sealed = self.share_caches().and_then(|()| self.seal_all());
                self.warnings.note(Chore::Sealing, &sealed);
                sealed.and_then(|()| self.merge_while_many())
            };
            let result = catch_unwind(AssertUnwindSafe(work));
            let result = result.unwrap_or_else(|_| {
                let message = "the sealing of a segment panicked";
                let panicked = Err(Error::new(ErrorKind::Unavailable, message));
                self.warnings.note(Chore::Sealing, &panicked);
                panicked
            });
            self.sealing.is_at_work.store(false, Ordering::Relaxed);
            if self.sealing.check().is_err() || self.condition.check_readable().is_err() {
                return;
            }
            let is_stopped = if result.is_ok() {
                rest = LEAST_REST;
                woken.recv().is_err()
            } else {
                self.sealing.failures.fetch_add(1, Ordering::Relaxed);
                let is_stopped = self.rest(woken, rest);
                rest = LONGEST_REST.min(2 * rest);
                is_stopped
            };
            if is_stopped {
                return;
            }
        }
    }

    /// After a failure: for so long only what has to be opened anew is, whenever somebody found it so. Gives whether the
    /// thread is to stop.
    fn rest(&self, woken: &Receiver<()>, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            match woken.recv_deadline(until) {
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
                // Tried again before long if it fails.
                Ok(()) => drop(self.share_caches()),
            }
        }
    }

    /// Seals all segments that were rolled, oldest first.
    pub(super) fn seal_all(&self) -> Result<()> {
        loop {
            let set = self.view.segments();
            let [oldest, _, ..] = &set.journals[..] else {
                return Ok(());
            };
            let begun = Begun::now();
            let sealed = self.seal(&set, oldest, Pace::Background);
            let result = sealed.and_then(|()| self.share_caches());
            self.meters.sealed(begun, &result);
            result?;
        }
    }

    /// Seals what isn't sealed, if there is little of it, so that the folder of a closed engine is redb's files alone.
    pub(super) fn seal_for_rest(&self) -> Result<()> {
        let set = self.view.segments();
        let Some(active) = set.active() else {
            return Ok(());
        };
        let entries = set.journals.iter().map(|journal| journal.entries());
        let bytes = set.journals.iter().map(|journal| journal.entry_bytes());
        if entries.sum::<u64>() > MOST_AT_CLOSE || bytes.sum::<u64>() > MOST_BYTES_AT_CLOSE {
            return Ok(());
        }
        let ended = RolledRow::ending(self.timeline.now(), active.content(), false);
        let is_empty = ended.holds.entries == 0;
        active.mark_rolled(ended);
        self.with_manifest(|manifest| {
            manifest.settle()?;
            manifest.update(|state| {
                state.end_last(ended, set.tallies());
                if is_empty {
                    state.segments.pop();
                }
            })
        })?;
        if is_empty {
            // If this fails, the file is an orphan, and the next open removes it.
            drop(Folder::remove_file(&self.folder.journal(active.tally.id())));
        }
        for at in 0..set.journals.len() - usize::from(is_empty) {
            let left = SegmentSet {
                sealed: self.view.segments().sealed.clone(),
                journals: set.journals[at..].to_vec(),
            };
            self.seal(&left, &left.journals[0], Pace::AtOnce)?;
        }
        Ok(())
    }

    /// Puts a sealed file in the place of a rolled segment's journal.
    fn seal(&self, set: &SegmentSet, journal: &Arc<Journal>, pace: Pace) -> Result<()> {
        let id = journal.tally.id();
        let header = &journal.tally.header;
        let unfinished = self.folder.unfinished_sealed(header);
        let finished = self.folder.sealed(header);
        self.check_place()?;
        self.with_manifest(Manifest::settle)?;
        Folder::remove_file(&unfinished)?;
        self.folder.step(Step::Sealing);
        let sealed = self
            .write_sealed(&unfinished, set, journal, pace)
            .inspect_err(|_| drop(Folder::remove_file(&unfinished)))?;
        self.folder.step(Step::SealWritten);
        if mutant::is_on(Mutant::JournalDroppedEarly) {
            Folder::remove_file(&self.folder.journal(id))?;
        }
        self.folder.rename(&unfinished, &finished)?;
        self.folder.step(Step::SealRenamed);
        // No open can count the journal's entries once it is gone.
        if !mutant::is_on(Mutant::ScopesNotKept) {
            self.keep_scopes(journal.tally.header.store_id)?;
        }
        let is_listed = self.with_manifest(|manifest| {
            // The sweeper may have been faster.
            if !manifest.state().segments.iter().any(|row| row.id == id) {
                return Ok(false);
            }
            let mut segments = SegmentSet::clone(&self.view.segments());
            segments.journals.retain(|listed| listed.tally.id() != id);
            segments.sealed.push(Arc::new(sealed));
            manifest.update(|state| {
                let row = state.segments.iter_mut().find(|row| row.id == id);
                row.expect("it was just there").is_sealed = true;
            })?;
            drop(self.view.set_segments(segments));
            Ok(true)
        })?;
        self.folder.step(Step::SealListed);
        // If this fails, the file is an orphan, and the next open removes it.
        Folder::remove_file(&if is_listed {
            self.folder.journal(id)
        } else {
            finished
        })
    }

    /// Writes the newest entry of each key of a journal into a file, opens that, and tries it.
    fn write_sealed(
        &self,
        name: &Name,
        set: &SegmentSet,
        journal: &Journal,
        pace: Pace,
    ) -> Result<Sealed> {
        let newer = &set.journals[1..];
        let mut slots = wanted_slots(set, journal);
        self.read_in_order(journal, &slots, pace)?;
        slots.sort_unstable_by_key(|(short, _)| *short);
        let cache_bytes = self.budget.sealing();
        let mut writer = SealedWriter::create(name, slots.len(), cache_bytes)?;
        let mut entry = Vec::new();
        for slots in slots.chunks(AT_ONCE) {
            if pace == Pace::Background {
                self.sealing.check()?;
            }
            let begun = Instant::now();
            for slot in slots {
                copy_entry(journal, *slot, &mut entry, &mut writer)?;
            }
            if pace == Pace::Background {
                self.pause(PAUSES_FOR * begun.elapsed());
            }
        }
        // Most of those that were in flight when the segment was rolled have ended meanwhile.
        writer.retain_attempts(|attempt| !is_superseded(newer, attempt.short));
        let Some(rolled) = journal.rolled() else {
            unreachable!("only rolled segments are sealed");
        };
        writer.ends.include(&journal.ends);
        writer.finish(journal.tally.header, rolled.holds)?;
        let entries = rolled.holds.entries;
        let cache_bytes = self.budget.sealed(entries, set.sealed_entries() + entries);
        let sealed = Sealed::open(name, &journal.tally, *rolled, cache_bytes)?;
        let ends = [slots.first(), slots.last()].into_iter().flatten();
        sealed.check_holds(ends.map(|(short, _)| *short))?;
        Ok(sealed)
    }

    /// Brings what is wanted of a journal into the page cache, which its frames went past, from its
    /// beginning to its end: the order of the digests would be a read of the disk for each entry.
    fn read_in_order(&self, journal: &Journal, wanted: &[(u128, Slot)], pace: Pace) -> Result<()> {
        let ends = wanted.iter().map(|(_, slot)| slot.span().end());
        let end = ends.max().unwrap_or(0);
        let mut bytes = Vec::new();
        for at in (0..end).step_by(READ_AT_ONCE) {
            let begun = Instant::now();
            // What can't be read is met again, by whom it concerns; the last piece goes beyond the
            // file's end.
            drop(journal.log.read_raw(at, READ_AT_ONCE, &mut bytes));
            if pace == Pace::Background {
                self.sealing.check()?;
                self.pause(PAUSES_FOR * begun.elapsed());
            }
        }
        Ok(())
    }

    /// Lets others have the processor and the disk for a while, unless segments are rolled faster than they are sealed.
    pub(super) fn pause(&self, pause: Duration) {
        let is_behind = self.view.segments().journals.len() > 2;
        if !is_behind {
            thread::sleep(pause.min(LONGEST_PAUSE));
        }
    }

    /// Opens the sealed segments anew, if their number has made their share of the page caches another, or the system
    /// refused a read once: redb answers nothing from such a file any more.
    pub(super) fn share_caches(&self) -> Result<()> {
        let set = self.view.segments();
        let all = set.sealed_entries();
        for sealed in &set.sealed {
            let share = self.budget.sealed(sealed.rolled.holds.entries, all);
            if sealed.cache_bytes() == share && !sealed.is_stale() {
                continue;
            }
            self.sealing.check()?;
            let name = self.folder.sealed(&sealed.tally.header);
            let reopened = match sealed.reopen(&name, share) {
                // It was swept meanwhile.
                Err(_)
                    if !self
                        .view
                        .segments()
                        .contains(&Segment::Sealed(Arc::clone(sealed))) =>
                {
                    continue;
                }
                reopened => Arc::new(reopened?),
            };
            self.replace(|segments| {
                let listed = segments.sealed.iter_mut();
                let mut listed = listed.filter(|listed| Arc::ptr_eq(&listed.tally, &sealed.tally));
                listed.next().map(|listed| *listed = reopened).is_some()
            })?;
        }
        Ok(())
    }
}

/// The slots whose entries go into the sealed file. An entry that a newer segment supersedes is never
/// looked for; a removal is needed only while an older segment may hold its key.
fn wanted_slots(set: &SegmentSet, journal: &Journal) -> Vec<(u128, Slot)> {
    let newer = &set.journals[1..];
    let is_wanted = |(short, slot): &(u128, Slot)| {
        let hides_nothing = slot.kind() == SlotKind::Removed
            && set.newest_maybe(*short, set.sealed.len(), 0).is_none();
        !is_superseded(newer, *short) && !hides_nothing
    };
    journal.index.slots().filter(is_wanted).collect()
}

fn is_superseded(newer: &[Arc<Journal>], short: u128) -> bool {
    newer.iter().any(|newer| newer.index.get(short).is_some())
}

/// Copies the bytes of one entry as they are. What is damaged stays so, and is reported when it is read.
fn copy_entry(
    journal: &Journal,
    (short, slot): (u128, Slot),
    entry: &mut Vec<u8>,
    writer: &mut SealedWriter,
) -> Result<()> {
    let sequence = slot.sequence();
    match journal.log.read(slot.span(), entry) {
        Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
        _ => writer.push(short, entry)?,
    }
    if slot.kind() != SlotKind::InFlight {
        return Ok(());
    }
    let state = codec::outline_at(entry, sequence).map(|outline| outline.state);
    if let Ok(OutlineState::InFlight { lease_until, .. }) = state {
        writer.note_attempt(SealedAttempt { short, lease_until });
    } else {
        let attempts_end = journal.ends.attempts();
        writer.ends.include(&Ends::new(attempts_end, attempts_end));
    }
    Ok(())
}
