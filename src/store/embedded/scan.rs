//! Reading back what the segments hold, at open: indexes, counts, and the attempts in flight.

use std::ops::Range;
use std::sync::Arc;

use super::Settings;
use super::files::directory::Name;
use super::folder::Folder;
use super::index::SlotKind;
use super::journal::Journal;
use super::journal_scan::JournalScan;
use super::log::Seed;
use super::manifest::{ManifestState, RolledRow, SegmentContent, SegmentRow};
use super::scopes::ScopeCounts;
use super::sealed::Sealed;
use super::set::SegmentSet;
use super::tally::Tally;
use super::upkeep::{is_kept_in_memory, may_be_needed};
use super::view::{Attempt, View};
use crate::clock::Timestamp;
use crate::codec::JournalEntry;
use crate::damage::OnDamage;
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::OnAbandon;
use crate::progress::Stage;
use crate::record::Record;
use crate::secret::Secret;
use crate::sync::Mutex;

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
    /// The segments in whose logs something is missing, which was accepted now.
    pub(super) damaged: Vec<u64>,
    /// The sequences that are missing there.
    lost: Vec<Range<u64>>,
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
    /// Opens all segments that the manifest lists, and reads those that aren't sealed.
    pub(super) fn of(
        folder: &Folder,
        state: &ManifestState,
        secret: &Secret,
        settings: &Settings,
    ) -> Result<Self> {
        let scopes = known_scopes(folder, state, settings);
        let kept_to = scopes.as_ref().map(ScopeCounts::counted_to);
        let mut scan = Self {
            scopes: scopes.map(Mutex::new),
            scopes_kept_to: kept_to.unwrap_or(u64::MAX),
            ..Self::default()
        };
        let sealed = OfAll::new(state);
        // All logs first: the system reads one while another is taken in.
        let unsealed = state.segments.iter().filter(|row| !row.is_sealed);
        let journals = unsealed.map(|row| open_journal(folder, row, state, secret));
        let mut journals = journals.collect::<Result<Vec<_>>>()?.into_iter();
        for row in &state.segments {
            scan.last_sequence = scan.last_sequence.max(row.first_sequence.saturating_sub(1));
            if row.is_sealed {
                let tally = Arc::new(Tally::new(row.header(state.store_id), row.live_keys));
                scan.open_sealed(folder, &tally, row, sealed, settings)?;
            } else if let Some((name, journal)) = journals.next() {
                scan.read_journal(&name, &journal, row, state, settings)?;
            }
        }
        let last = scan.last_sequence.max(state.last_sequence);
        if let Some(scopes) = &scan.scopes
            && scan.lost.is_empty()
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

    fn read_journal(
        &mut self,
        name: &Name,
        journal: &Arc<Journal>,
        row: &SegmentRow,
        state: &ManifestState,
        settings: &Settings,
    ) -> Result<()> {
        let holds = holds(row, state);
        // Entries may take the place of others in the same journal.
        self.set.journals.push(Arc::clone(journal));
        let is_known = row.rolled.is_some_and(|rolled| rolled.is_damaged);
        let scanned = JournalScan {
            set: &self.set,
            journal,
            file: name,
            counted_to: state.counted_to,
            scopes: self.scopes.as_ref(),
            scopes_kept_to: self.scopes_kept_to,
            holds,
            passes_damage: is_known || settings.accepts_damage.is_some(),
            progress: &settings.progress,
        };
        let found = scanned.read(&mut self.lost)?;
        self.highest_time = self.highest_time.max(found.highest_time);
        self.last_sequence = self.last_sequence.max(journal.last_sequence());
        let is_as_noted = is_known && holds == Some(journal.content());
        let mut rolled = row.rolled;
        match &settings.accepts_damage {
            Some(OnDamage(tell)) if !found.damages.is_empty() && !is_as_noted => {
                found.damages.iter().for_each(|damage| tell(damage));
                self.damaged.push(row.id);
                if let Some(rolled) = &mut rolled {
                    rolled.holds = journal.content();
                    (rolled.is_cut, rolled.is_damaged) = (true, true);
                }
            }
            _ => journal.check_complete(holds)?,
        }
        if let Some(rolled) = rolled {
            journal.mark_rolled(rolled);
        }
        Ok(())
    }

    /// Notes of a last log in which something is missing, and which wasn't rolled, that it ends
    /// now.
    pub(super) fn end_damaged(&self, now: Timestamp) {
        let last = self.set.active();
        let last = last.filter(|last| self.damaged.contains(&last.tally.id()));
        if let Some(last) = last.filter(|last| last.rolled().is_none()) {
            last.mark_rolled(RolledRow {
                is_damaged: true,
                ..RolledRow::ending(now, last.content(), true)
            });
        }
    }

    /// No entry that was ever in a log has a higher sequence, missing ones included as far as they
    /// are known.
    pub(super) fn last_possible(&self) -> u64 {
        let lost = self.lost.iter().map(|lost| lost.end.saturating_sub(1));
        lost.fold(self.last_sequence, u64::max)
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
                    restore(journal.read(slot)?);
                }
            }
        }
        Ok(())
    }
}

/// What a segment that isn't sealed holds, if the manifest knows it.
fn holds(row: &SegmentRow, state: &ManifestState) -> Option<SegmentContent> {
    let rolled = row.rolled.map(|rolled| rolled.holds);
    rolled.or(state.closed_with.filter(|_| row.rolled.is_none()))
}

/// Opens the log of a segment, which is then to be read.
fn open_journal(
    folder: &Folder,
    row: &SegmentRow,
    state: &ManifestState,
    secret: &Secret,
) -> Result<(Name, Arc<Journal>)> {
    let name = folder.journal(row.id);
    let seed = Seed(secret.log_seed(&state.store_id, row.id));
    let is_cut = row.rolled.is_some_and(|rolled| rolled.is_cut);
    let journal = Journal::open(
        &name,
        Arc::new(Tally::new(row.header(state.store_id), row.live_keys)),
        Timestamp(row.opened_at_ms),
        (seed, row.log_number),
        holds(row, state).is_some() && !is_cut,
    )?;
    Ok((name, Arc::new(journal)))
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
