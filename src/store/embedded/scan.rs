//! Reading back what the segments hold, at open: indexes, counts, and the attempts in flight.

use std::sync::Arc;

use super::Settings;
use super::folder::Folder;
use super::index::{Slot, SlotKind};
use super::journal::Journal;
use super::manifest::{ManifestState, SegmentRow};
use super::sealed::Sealed;
use super::set::SegmentSet;
use super::tally::{SegmentHeader, Tally};
use super::upkeep::{is_kept_in_memory, may_be_needed};
use super::view::{Attempt, View};
use crate::clock::Timestamp;
use crate::codec::{JournalEntry, Outline, OutlineState};
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::OnAbandon;
use crate::progress::Stage;

/// After how many entries the progress is told.
const TELL_AFTER: u64 = 1 << 14;

/// The segments that were opened, oldest first, and what they tell.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) set: SegmentSet,
    pub(super) highest_time: Timestamp,
    pub(super) last_sequence: u64,
}

impl Scan {
    /// Opens all segments that the manifest lists. Only the ends of journals are read that no checkpoint
    /// covers.
    pub(super) fn of(folder: &Folder, state: &ManifestState, settings: &Settings) -> Result<Self> {
        let mut scan = Self::default();
        let sealed = state.segments.iter().filter(|row| row.is_sealed).count();
        for row in &state.segments {
            let header = SegmentHeader {
                store_id: state.store_id,
                id: row.id,
                first_sequence: row.first_sequence,
            };
            let tally = Arc::new(Tally::new(header, row.live_keys));
            scan.last_sequence = scan.last_sequence.max(row.first_sequence.saturating_sub(1));
            if row.is_sealed {
                scan.open_sealed(folder, &tally, row, sealed, settings)?;
            } else {
                scan.open_journal(folder, tally, row, state, settings)?;
            }
        }
        Ok(scan)
    }

    fn open_sealed(
        &mut self,
        folder: &Folder,
        tally: &Arc<Tally>,
        row: &SegmentRow,
        of_all: usize,
        settings: &Settings,
    ) -> Result<()> {
        let Some(rolled) = row.rolled.filter(|_| self.set.journals.is_empty()) else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the manifest lists a sealed segment after a journal; restore it from a backup",
            ));
        };
        let cache_bytes = settings.budget().sealed(of_all);
        let sealed = Sealed::open(&folder.sealed(row.id), tally, rolled, cache_bytes)?;
        self.last_sequence = self.last_sequence.max(rolled.holds.last_sequence);
        self.set.sealed.push(Arc::new(sealed));
        let done = self.set.sealed.len() as u64;
        settings.progress.tell(Stage::Opening, done, of_all as u64);
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
            row.rolled,
            settings.budget().writable(),
            Arc::new(move |thousandths| progress.tell(Stage::Repairing, thousandths, 1_000)),
        )?);
        journal.load_checkpoint()?;
        // Entries may take the place of others in the same journal.
        self.set.journals.push(Arc::clone(&journal));
        let rows = journal.rows()?;
        journal.scan(journal.last_sequence(), |outline, bytes| {
            check_next(&journal, outline.heading.sequence)?;
            self.highest_time = self.highest_time.max(outline.heading.written_at);
            if outline.heading.sequence > state.counted_to {
                self.count(&journal, &outline);
            }
            index(&journal, &outline, bytes);
            if journal.entries() % TELL_AFTER == 0 {
                settings
                    .progress
                    .tell(Stage::Indexing, journal.entries(), rows);
            }
            Ok(())
        })?;
        if journal.entries() != rows {
            return Err(missing_entry());
        }
        settings.progress.tell(Stage::Indexing, rows, rows);
        self.last_sequence = self.last_sequence.max(journal.last_sequence());
        journal.check_complete(match row.rolled {
            Some(rolled) => Some(rolled.holds),
            None => state.closed_with,
        })
    }

    /// Counts what an entry did to the live keys.
    fn count(&self, journal: &Journal, outline: &Outline) {
        let prior = outline.heading.prior;
        if let Some(prior) = prior.and_then(|prior| self.set.holding(prior)) {
            prior.subtract();
        }
        if outline.state != OutlineState::Removed {
            journal.tally.add();
        }
    }

    /// Puts the attempts in flight that have to be in memory. They are read whole.
    pub(super) fn restore_attempts(
        &self,
        view: &View,
        now: Timestamp,
        on_abandon: OnAbandon,
    ) -> Result<()> {
        let set = &self.set;
        let restore = |id: u64, entry: JournalEntry| -> Result<()> {
            let (digest, sequence) = (entry.digest, entry.heading.sequence);
            let Some(stored) = entry.into_stored().map(Arc::new) else {
                return Ok(());
            };
            if is_kept_in_memory(&stored.record, now, on_abandon)
                && !set.is_superseded(&digest, id)?
            {
                view.restore(Attempt { stored, sequence });
            }
            Ok(())
        };
        for sealed in &set.sealed {
            for attempt in sealed.attempts()? {
                if may_be_needed(attempt.lease_until, now, on_abandon) {
                    restore(sealed.tally.id(), sealed.attempt(&attempt)?)?;
                }
            }
        }
        for journal in &set.journals {
            for (_, slot) in journal.index.slots() {
                if slot.kind() == SlotKind::InFlight {
                    restore(journal.tally.id(), journal.read(slot.sequence())?)?;
                }
            }
        }
        Ok(())
    }
}

/// Refuses an entry before which another one is missing.
fn check_next(journal: &Journal, sequence: u64) -> Result<()> {
    let first = journal.tally.header.first_sequence;
    let expected = (journal.last_sequence() + 1).max(first);
    let begins_epoch = sequence > expected && ManifestState::may_begin_epoch(sequence);
    if sequence == expected || begins_epoch {
        return Ok(());
    }
    Err(missing_entry())
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
    let sequence = outline.heading.sequence;
    let slot = Slot::new(sequence, kind);
    journal.index.insert(outline.digest.short(), slot);
    journal.count(sequence, bytes, ends_at);
}
