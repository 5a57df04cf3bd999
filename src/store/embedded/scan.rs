//! Reading back what the segments hold, at open: indexes, counts, and the attempts in flight.

use std::ops::Range;
use std::sync::Arc;

use super::Settings;
use super::files::directory::Name;
use super::folder::Folder;
use super::index::{Slot, SlotKind};
use super::journal::Journal;
use super::log::{Frame, Seed, Span, Step};
use super::manifest::{ManifestState, SegmentContent, SegmentRow};
use super::scopes::ScopeCounts;
use super::sealed::Sealed;
use super::set::SegmentSet;
use super::tally::Tally;
use super::upkeep::{is_kept_in_memory, may_be_needed};
use super::view::{Attempt, View};
use crate::clock::Timestamp;
use crate::codec::{self, JournalEntry, Outline, OutlineState};
use crate::damage::{Damage, OnDamage};
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::OnAbandon;
use crate::progress::{OnProgress, Stage};
use crate::record::Record;
use crate::secret::Secret;
use crate::sync::Mutex;

/// After how many bytes of a log the progress is told.
const TELL_AFTER: u64 = 8 << 20;

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
        for row in &state.segments {
            let tally = Arc::new(Tally::new(row.header(state.store_id), row.live_keys));
            scan.last_sequence = scan.last_sequence.max(row.first_sequence.saturating_sub(1));
            if row.is_sealed {
                scan.open_sealed(folder, &tally, row, sealed, settings)?;
            } else {
                let seed = Seed(secret.log_seed(&state.store_id, row.id));
                scan.open_journal(folder, tally, row, state, seed, settings)?;
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
        seed: Seed,
        settings: &Settings,
    ) -> Result<()> {
        let holds = match row.rolled {
            Some(rolled) => Some(rolled.holds),
            None => state.closed_with,
        };
        let name = folder.journal(row.id);
        let journal = Arc::new(Journal::open(
            &name,
            tally,
            Timestamp(row.opened_at_ms),
            (seed, row.log_number),
            holds.is_some() && !row.rolled.is_some_and(|rolled| rolled.is_cut),
        )?);
        // Entries may take the place of others in the same journal.
        self.set.journals.push(Arc::clone(&journal));
        let scanned = JournalScan {
            set: &self.set,
            journal: &journal,
            file: &name,
            counted_to: state.counted_to,
            scopes: self.scopes.as_ref(),
            scopes_kept_to: self.scopes_kept_to,
            holds,
            is_known: row.rolled.is_some_and(|rolled| rolled.is_damaged),
            accepts: settings.accepts_damage.as_ref(),
            progress: &settings.progress,
        };
        let lost_before = self.lost.len();
        let highest_time = scanned.read(&mut self.lost)?;
        self.highest_time = self.highest_time.max(highest_time);
        self.last_sequence = self.last_sequence.max(journal.last_sequence());
        let mut rolled = row.rolled;
        if self.lost.len() > lost_before && !scanned.is_known {
            self.damaged.push(row.id);
            if let Some(rolled) = &mut rolled {
                rolled.holds = journal.content();
                (rolled.is_cut, rolled.is_damaged) = (true, true);
            }
        } else {
            journal.check_complete(holds)?;
        }
        if let Some(rolled) = rolled {
            journal.mark_rolled(rolled);
        }
        Ok(())
    }

    /// No entry that was ever in a log has a higher sequence, missing ones included as far as they are known.
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

/// The entries of a journal.
struct JournalScan<'a> {
    set: &'a SegmentSet,
    journal: &'a Journal,
    file: &'a Name,
    counted_to: u64,
    scopes: Option<&'a Mutex<ScopeCounts>>,
    scopes_kept_to: u64,
    /// What the journal holds for sure; what else is in its log doesn't count. `None` after a crash.
    holds: Option<SegmentContent>,
    /// Whether something is missing and was accepted by an earlier open.
    is_known: bool,
    /// Who is told of what is missing, if it is to be accepted.
    accepts: Option<&'a OnDamage>,
    progress: &'a OnProgress,
}

impl JournalScan<'_> {
    /// Indexes and counts all entries; gives the highest time in them. Adds the sequences that are missing, if that is
    /// accepted.
    fn read(&self, lost: &mut Vec<Range<u64>>) -> Result<Timestamp> {
        let journal = self.journal;
        let mut walk = journal.log.walk()?;
        let (mut highest_time, mut told_at) = (Timestamp(0), 0);
        let holds = self.holds.unwrap_or(SegmentContent {
            entries: u64::MAX,
            last_sequence: u64::MAX,
        });
        // The first frame is made with the file, and is its own.
        let mut gap = match walk.next()? {
            Step::Frame(_) => None,
            Step::Damage(range) => Some(self.accept(range, Self::of_another)?),
            Step::End => return Err(self.of_another()),
        };
        while journal.entries() < holds.entries {
            match walk.next()? {
                Step::Frame(frame) => {
                    if let Some(bytes) = gap.take() {
                        self.lose(bytes, Some(frame.first_sequence()), lost);
                    }
                    highest_time = highest_time.max(self.take(&frame, holds, lost)?);
                }
                Step::Damage(range) => {
                    let refusal = |scan: &Self| scan.damaged(&range);
                    gap = Some(self.accept(range.clone(), refusal)?);
                }
                Step::End => break,
            }
            if walk.at() - told_at >= TELL_AFTER {
                told_at = walk.at();
                self.tell(told_at);
            }
        }
        if self.accepts.is_some() && self.holds.is_some() && self.next(lost) <= holds.last_sequence
        {
            let rest = walk.at()..journal.log.taken();
            self.lose(rest, Some(holds.last_sequence + 1), lost);
        }
        if let Some(cut_off) = walk.cut_off().filter(|_| self.holds.is_none()) {
            let cut_off = self.accept(cut_off, Self::cut_short)?;
            self.lose(cut_off, None, lost);
        }
        self.tell(journal.log.taken());
        Ok(highest_time)
    }

    /// Indexes and counts the entries of a frame, as far as they are for sure in the journal.
    fn take(
        &self,
        frame: &Frame<'_>,
        holds: SegmentContent,
        lost: &[Range<u64>],
    ) -> Result<Timestamp> {
        let journal = self.journal;
        let mut highest_time = Timestamp(0);
        // Whoever panicked may have counted a part of a frame.
        let left = usize::try_from(holds.entries - journal.entries()).unwrap_or(usize::MAX);
        for entry in frame.entries().take(left) {
            let (sequence, span, bytes) = entry?;
            if sequence > holds.last_sequence {
                break;
            }
            let mut outline = codec::outline_at(bytes, sequence)?;
            highest_time = highest_time.max(outline.heading.written_at);
            self.check_next(sequence, lost)?;
            // What is missing was never counted.
            let is_there = |prior: &u64| !lost.iter().any(|lost| lost.contains(prior));
            outline.heading.prior = outline.heading.prior.filter(is_there);
            self.count(&outline);
            index(journal, &outline, span);
        }
        Ok(highest_time)
    }

    /// The sequence that comes next, after what is there and what is missing.
    fn next(&self, lost: &[Range<u64>]) -> u64 {
        let next = self.journal.last_sequence() + 1;
        lost.last().map_or(next, |lost| next.max(lost.end))
    }

    /// Refuses damage, unless it is to be accepted or was.
    fn accept(
        &self,
        bytes: Range<u64>,
        refusal: impl FnOnce(&Self) -> Error,
    ) -> Result<Range<u64>> {
        if self.accepts.is_some() || self.is_known {
            return Ok(bytes);
        }
        Err(refusal(self))
    }

    /// Notes and tells that entries are missing, up to the one with this sequence.
    fn lose(&self, bytes: Range<u64>, next: Option<u64>, lost: &mut Vec<Range<u64>>) {
        let first = self.next(lost);
        let most = self.holds.map_or(u64::MAX, |holds| holds.last_sequence + 1);
        let numbers = next.map(|next| first..next.min(most).max(first));
        lost.push(numbers.clone().unwrap_or(first..first));
        if let Some(OnDamage(tell)) = self.accepts.filter(|_| !self.is_known) {
            tell(&Damage {
                file: self.file.as_str().to_owned(),
                bytes,
                numbers,
            });
        }
    }

    fn tell(&self, done: u64) {
        let all = self.journal.log.taken();
        self.progress.tell(Stage::Indexing, done, all);
    }

    /// Refuses an entry before which another one is missing.
    fn check_next(&self, sequence: u64, lost: &[Range<u64>]) -> Result<()> {
        let expected = self.next(lost);
        let begins_epoch = sequence > expected && ManifestState::may_begin_epoch(sequence);
        if sequence == expected || begins_epoch {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} lacks an entry; restore it from a backup",
                self.file.as_str()
            ),
        ))
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

    fn of_another(&self) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} is of another store or another segment, or its beginning is damaged; restore it from a backup",
                self.file.as_str()
            ),
        )
    }

    fn cut_short(&self) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} is shorter than it was; restore it from a backup, or take what is left with Builder::accept_damage",
                self.file.as_str()
            ),
        )
    }

    fn damaged(&self, range: &Range<u64>) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} is damaged from {} to {}: there are whole frames behind that; restore it from a backup, or take what is left with \
                 Builder::accept_damage",
                self.file.as_str(),
                range.start,
                range.end
            ),
        )
    }
}

fn index(journal: &Journal, outline: &Outline, span: Span) {
    let (kind, ends_at) = match outline.state {
        OutlineState::InFlight { ends_at, .. } => (SlotKind::InFlight, ends_at),
        OutlineState::Completed { ends_at } => (SlotKind::Completed, ends_at),
        OutlineState::Removed => (SlotKind::Removed, Timestamp(0)),
    };
    let slot = Slot::new(outline.heading.sequence, kind, span);
    journal.index.insert(outline.digest.short(), slot);
    journal.count(slot, ends_at);
}
