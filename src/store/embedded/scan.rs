//! Reading back what the segments hold, at open: indexes, counts, and the attempts in flight.

use std::sync::Arc;

use super::Settings;
use super::folder::Folder;
use super::index::{Slot, SlotKind};
use super::journal::{How, Journal};
use super::manifest::{ManifestState, SegmentRow};
use super::scopes::ScopeCounts;
use super::sealed::Sealed;
use super::set::SegmentSet;
use super::tally::Tally;
use super::upkeep::{is_kept_in_memory, may_be_needed};
use super::view::{Attempt, View};
use crate::clock::Timestamp;
use crate::codec::{self, JournalEntry, Outline, OutlineState};
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::outcome::OnAbandon;
use crate::progress::Stage;
use crate::record::Record;
use crate::sync::Mutex;

/// After how many entries the progress is told.
const TELL_AFTER: usize = 1 << 14;
/// No entry is shorter: its digest, its checksum and its page's share alone are as long.
const LEAST_ENTRY_BYTES: u64 = 64;
/// From how many entries on two threads read them.
const READ_BY_TWO: u64 = 1 << 14;

/// The segments that were opened, oldest first, and what they tell.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) set: SegmentSet,
    pub(super) highest_time: Timestamp,
    pub(super) last_sequence: u64,
    /// Only if there is a limit on the keys of a scope.
    pub(super) scopes: Option<Mutex<ScopeCounts>>,
    /// Up to which entry those were kept; the greatest number if there are none.
    scopes_kept_to: u64,
}

/// All sealed segments together.
#[derive(Clone, Copy)]
struct OfAll {
    segments: u64,
    entries: u64,
}

impl OfAll {
    fn new(state: &ManifestState) -> Self {
        let sealed = state.segments.iter().filter(|row| row.is_sealed);
        let entries = |row: &SegmentRow| row.rolled.map_or(0, |rolled| rolled.holds.entries);
        Self {
            segments: sealed.clone().count() as u64,
            entries: sealed.map(entries).fold(0, u64::saturating_add),
        }
    }
}

impl Scan {
    /// Opens all segments that the manifest lists. Only the ends of journals are read that no checkpoint
    /// covers.
    pub(super) fn of(folder: &Folder, state: &ManifestState, settings: &Settings) -> Result<Self> {
        let scopes = known_scopes(folder, state, settings);
        let kept_to = scopes.as_ref().map(ScopeCounts::counted_to);
        let mut scan = Self {
            scopes: scopes.map(Mutex::new),
            scopes_kept_to: kept_to.unwrap_or(u64::MAX),
            ..Self::default()
        };
        let sealed = OfAll::new(state);
        for row in &state.segments {
            let tally = Arc::new(Tally::new(row.header(state.store_id), row.live_keys));
            scan.last_sequence = scan.last_sequence.max(row.first_sequence.saturating_sub(1));
            if row.is_sealed {
                scan.open_sealed(folder, &tally, row, sealed, settings)?;
            } else {
                scan.open_journal(folder, tally, row, state, settings)?;
            }
        }
        let last = scan.last_sequence.max(state.last_sequence);
        if let Some(scopes) = &scan.scopes
            && scopes.lock().counted_to() > last
        {
            // They were kept by a later state of the folder than this, which was restored.
            scopes.lock().begin_anew(last);
        }
        Ok(scan)
    }

    fn open_sealed(
        &mut self,
        folder: &Folder,
        tally: &Arc<Tally>,
        row: &SegmentRow,
        all: OfAll,
        settings: &Settings,
    ) -> Result<()> {
        let Some(rolled) = row.rolled.filter(|_| self.set.journals.is_empty()) else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the manifest lists a sealed segment after a journal; restore it from a backup",
            ));
        };
        let cache_bytes = settings.budget().sealed(rolled.holds.entries, all.entries);
        let name = folder.sealed(&tally.header);
        let sealed = Sealed::open(&name, tally, rolled, cache_bytes)?;
        self.last_sequence = self.last_sequence.max(rolled.holds.last_sequence);
        self.set.sealed.push(Arc::new(sealed));
        let done = self.set.sealed.len() as u64;
        settings.progress.tell(Stage::Opening, done, all.segments);
        Ok(())
    }

    fn open_journal(
        &mut self,
        folder: &Folder,
        tally: Arc<Tally>,
        row: &SegmentRow,
        state: &ManifestState,
        settings: &Settings,
    ) -> Result<()> {
        let progress = settings.progress.clone();
        let journal = Arc::new(Journal::open(
            &folder.journal(row.id),
            tally,
            Timestamp(row.opened_at_ms),
            match (row.rolled, state.closed_with) {
                (Some(rolled), _) => How::Rolled(rolled),
                (None, Some(_)) => How::Active,
                (None, None) if mutant::is_on(Mutant::AppendsAfterCrash) => How::Active,
                (None, None) => How::Crashed,
            },
            settings.budget().writable(),
            Arc::new(move |thousandths| progress.tell(Stage::Repairing, thousandths, 1_000)),
        )?);
        journal.load_checkpoint(state.counted_to.min(self.scopes_kept_to))?;
        // Entries may take the place of others in the same journal.
        self.set.journals.push(Arc::clone(&journal));
        let cut = row.rolled.filter(|rolled| rolled.is_cut);
        let rows = match cut {
            Some(cut) => cut.holds.entries,
            None => journal.rows()?,
        };
        // Mostly there are two entries per key.
        let unread = rows.saturating_sub(journal.entries());
        // What the file says of itself isn't checked yet; its length is what it is.
        let bytes = folder.journal(row.id).bytes().unwrap_or(0);
        let keys = (unread / 2).min(bytes / LEAST_ENTRY_BYTES);
        journal.index.reserve(usize::try_from(keys).unwrap_or(0));
        let tell = || {
            settings
                .progress
                .tell(Stage::Indexing, journal.entries(), rows);
        };
        let tail = Tail {
            set: &self.set,
            journal: &journal,
            counted_to: state.counted_to,
            scopes: self.scopes.as_ref(),
            scopes_kept_to: self.scopes_kept_to,
            cut_at: cut.map(|cut| cut.holds.last_sequence),
            tell: &tell,
        };
        self.highest_time = self.highest_time.max(tail.read()?);
        if journal.entries() != rows {
            return Err(missing_entry());
        }
        tell();
        self.last_sequence = self.last_sequence.max(journal.last_sequence());
        journal.check_complete(match row.rolled {
            Some(rolled) => Some(rolled.holds),
            None => state.closed_with,
        })
    }

    /// Puts the attempts in flight that have to be in memory. They are read whole.
    pub(super) fn restore_attempts(
        &self,
        view: &View,
        now: Timestamp,
        on_abandon: OnAbandon,
    ) -> Result<()> {
        let set = &self.set;
        let is_kept = |record: &Record| is_kept_in_memory(record, now, on_abandon);
        let restore = |entry: JournalEntry| {
            let sequence = entry.heading.sequence;
            let stored = entry.into_stored().map(Arc::new);
            if let Some(stored) = stored.filter(|stored| is_kept(&stored.record)) {
                view.restore(Attempt { stored, sequence });
            }
        };
        for sealed in &set.sealed {
            for attempt in sealed.attempts()? {
                let (short, id) = (attempt.short, sealed.tally.id());
                if may_be_needed(attempt.lease_until, now, on_abandon)
                    && !set.is_superseded(short, id)?
                {
                    restore(sealed.attempt(&attempt)?);
                }
            }
        }
        for journal in &set.journals {
            for (short, slot) in journal.index.slots() {
                if slot.kind() == SlotKind::InFlight
                    && !set.is_superseded(short, journal.tally.id())?
                {
                    restore(journal.read(slot.sequence())?);
                }
            }
        }
        Ok(())
    }
}

/// The counts by scope as they were kept. There are some if there is a limit on them or, so that an open without it
/// doesn't lose them, if there ever was. Where they are missing or can't be read, the keys begun so far don't count.
fn known_scopes(
    folder: &Folder,
    state: &ManifestState,
    settings: &Settings,
) -> Option<ScopeCounts> {
    let kept = folder.scopes().ok().flatten();
    let kept = kept.and_then(|bytes| ScopeCounts::from_bytes(&bytes, state.store_id));
    if kept.is_none() && !settings.counts_scopes {
        return None;
    }
    let mut counts = kept.unwrap_or_default();
    let listed = state.segments.iter();
    let listed = listed.map(|row| (row.first_sequence, !row.is_sealed));
    counts.fit(&listed.collect::<Vec<_>>());
    Some(counts)
}

/// The entries of a journal that no checkpoint covers.
struct Tail<'a> {
    set: &'a SegmentSet,
    journal: &'a Journal,
    counted_to: u64,
    scopes: Option<&'a Mutex<ScopeCounts>>,
    scopes_kept_to: u64,
    /// The last entry that counts, if there may be others.
    cut_at: Option<u64>,
    tell: &'a (dyn Fn() + Sync),
}

/// What one pass over some of the entries has seen.
#[derive(Clone, Copy, Default)]
struct Pass {
    first: Option<u64>,
    last: u64,
    highest_time: Timestamp,
}

impl Tail<'_> {
    /// Indexes and counts all entries; gives the highest time in them. Two threads share the work if there
    /// is much of it: it is all decoding.
    fn read(&self) -> Result<Timestamp> {
        let after = self.journal.last_sequence();
        let newest = match self.cut_at {
            Some(last) => Some(last),
            None => self.journal.newest_row()?,
        };
        let newest = newest.unwrap_or(after).max(after);
        let middle = after + (newest - after) / 2;
        if newest - after < READ_BY_TWO {
            let all = self.pass(after, newest)?;
            self.check_first(after, &all)?;
            return Ok(all.highest_time);
        }
        let (older, newer) = std::thread::scope(|scope| {
            let newer = std::thread::Builder::new()
                .name("onceward-open".to_owned())
                .spawn_scoped(scope, || self.pass(middle, newest));
            let older = self.pass(after, middle);
            let newer = match newer {
                Ok(newer) => newer.join().unwrap_or_else(|_| Err(missing_entry())),
                // There are no threads to be had: one does it all.
                Err(_) => self.pass(middle, newest),
            };
            (older, newer)
        });
        let (older, newer) = (older?, newer?);
        self.check_first(after, &older)?;
        self.check_first(older.last, &newer)?;
        Ok(older.highest_time.max(newer.highest_time))
    }

    /// Indexes and counts the entries after `after` up to `last`.
    fn pass(&self, after: u64, last: u64) -> Result<Pass> {
        let mut pass = Pass {
            last: after,
            ..Pass::default()
        };
        loop {
            let before = pass.last;
            self.journal
                .scan(before, last, TELL_AFTER, |sequence, bytes| {
                    let outline = codec::outline_at(bytes, sequence)?;
                    if pass.first.is_some() {
                        self.check_next(pass.last, sequence)?;
                    }
                    pass.first.get_or_insert(sequence);
                    pass.last = sequence;
                    pass.highest_time = pass.highest_time.max(outline.heading.written_at);
                    self.count(&outline);
                    index(self.journal, &outline, bytes.len());
                    Ok(())
                })?;
            if pass.last == before {
                return Ok(pass);
            }
            (self.tell)();
        }
    }

    fn check_first(&self, last: u64, pass: &Pass) -> Result<()> {
        pass.first
            .map_or(Ok(()), |first| self.check_next(last, first))
    }

    /// Refuses an entry before which another one is missing.
    fn check_next(&self, last: u64, sequence: u64) -> Result<()> {
        let expected = (last + 1).max(self.journal.tally.header.first_sequence);
        let begins_epoch = sequence > expected && ManifestState::may_begin_epoch(sequence);
        if sequence == expected || begins_epoch {
            return Ok(());
        }
        Err(missing_entry())
    }

    /// Counts what an entry did to the live keys.
    fn count(&self, outline: &Outline) {
        if let Some(scopes) = self.scopes {
            scopes.lock().recount(outline.into(), self.scopes_kept_to);
        }
        if outline.heading.sequence <= self.counted_to {
            return;
        }
        let prior = outline.heading.prior;
        if let Some(prior) = prior.and_then(|prior| self.set.holding(prior)) {
            prior.subtract();
        }
        if outline.state != OutlineState::Removed {
            self.journal.tally.add();
        }
    }
}

fn missing_entry() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "a segment lacks an entry of its journal; restore it from a backup",
    )
}

fn index(journal: &Journal, outline: &Outline, bytes: usize) {
    let (kind, ends_at) = match outline.state {
        OutlineState::InFlight { ends_at, .. } => (SlotKind::InFlight, ends_at),
        OutlineState::Completed { ends_at } => (SlotKind::Completed, ends_at),
        OutlineState::Removed => (SlotKind::Removed, Timestamp(0)),
    };
    let slot = Slot::new(outline.heading.sequence, kind);
    journal.index.insert_newer(outline.digest.short(), slot);
    journal.count(slot, bytes, ends_at);
}
