//! Reading a log at open: into the index, and past its damage if that is to be accepted.

use std::ops::Range;

use super::files::directory::Name;
use super::index::{Slot, SlotKind};
use super::journal::Journal;
use super::log::{Frame, Span, Step};
use super::manifest::{ManifestState, SegmentContent};
use super::scopes::ScopeCounts;
use super::set::SegmentSet;
use crate::clock::Timestamp;
use crate::codec::{self, Outline, OutlineState};
use crate::damage::Damage;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{OnProgress, Stage};
use crate::sync::Mutex;

/// After how many bytes of a log the progress is told.
const TELL_AFTER: u64 = 8 << 20;

/// The entries of a journal.
pub(super) struct JournalScan<'a> {
    pub(super) set: &'a SegmentSet,
    pub(super) journal: &'a Journal,
    pub(super) file: &'a Name,
    pub(super) counted_to: u64,
    pub(super) scopes: Option<&'a Mutex<ScopeCounts>>,
    pub(super) scopes_kept_to: u64,
    /// What the journal holds for sure; what else is in its log doesn't count. `None` after a
    /// crash.
    pub(super) holds: Option<SegmentContent>,
    /// Whether damage is to be accepted, or was by an earlier open.
    pub(super) passes_damage: bool,
    pub(super) progress: &'a OnProgress,
}

/// What was found beside the entries.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) highest_time: Timestamp,
    /// What is missing. Nothing is, unless damage is passed.
    pub(super) damages: Vec<Damage>,
}

impl JournalScan<'_> {
    /// Indexes and counts all entries. Adds the sequences that are missing.
    pub(super) fn read(&self, lost: &mut Vec<Range<u64>>) -> Result<Found> {
        let journal = self.journal;
        let mut walk = journal.log.walk()?;
        let (mut found, mut told_at) = (Found::default(), 0);
        let holds = self.holds.unwrap_or(SegmentContent {
            entries: u64::MAX,
            last_sequence: u64::MAX,
        });
        // The first frame is made with the file, and is its own.
        let mut gap = match walk.next()? {
            Step::Frame(_) => None,
            Step::Damage(range) => Some(self.accept(range.clone(), |scan| scan.damaged(&range))?),
            Step::End => Some(self.accept(0..journal.log.taken(), Self::of_another)?),
        };
        while journal.entries() < holds.entries {
            match walk.next()? {
                Step::Frame(frame) => {
                    if let Some(bytes) = gap.take() {
                        let next = Some(frame.first_sequence());
                        found.damages.push(self.lose(bytes, next, lost));
                    }
                    let time = self.take(&frame, holds, lost)?;
                    found.highest_time = found.highest_time.max(time);
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
        let is_end_missing = self.holds.is_some() && self.next(lost) <= holds.last_sequence;
        if self.passes_damage && (is_end_missing || gap.is_some()) {
            let rest = walk.at()..journal.log.taken();
            let next = self.holds.map(|holds| holds.last_sequence + 1);
            found.damages.push(self.lose(rest, next, lost));
        } else if let Some(cut_off) = walk.cut_off().filter(|_| self.holds.is_none()) {
            let cut_off = self.accept(walk.at()..cut_off.end, Self::cut_short)?;
            found.damages.push(self.lose(cut_off, None, lost));
        }
        self.tell(journal.log.taken());
        Ok(found)
    }

    /// Refuses damage, unless it is to be accepted or was.
    fn accept(
        &self,
        bytes: Range<u64>,
        refusal: impl FnOnce(&Self) -> Error,
    ) -> Result<Range<u64>> {
        if self.passes_damage {
            return Ok(bytes);
        }
        Err(refusal(self))
    }

    /// Indexes and counts the entries of a frame, as far as they are for sure in the journal; gives
    /// the highest time in them.
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
            // What is missing was never counted, and what it took the place of still is.
            let is_lost = |prior: &u64| lost.iter().any(|lost| lost.contains(prior));
            if outline.heading.prior.as_ref().is_some_and(is_lost) {
                let newest = self.set.newest_slot(outline.digest.short());
                let newest = newest.map(|(_, slot)| slot);
                let live = newest.filter(|slot| slot.kind() != SlotKind::Removed);
                outline.heading.prior = live.map(Slot::sequence);
            }
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

    /// Notes that entries are missing, up to the one with this sequence.
    fn lose(&self, bytes: Range<u64>, next: Option<u64>, lost: &mut Vec<Range<u64>>) -> Damage {
        let first = self.next(lost);
        let most = self.holds.map_or(u64::MAX, |holds| holds.last_sequence + 1);
        let numbers = next.map(|next| first..next.min(most).max(first));
        lost.push(numbers.clone().unwrap_or(first..first));
        Damage {
            file: self.file.as_str().to_owned(),
            bytes,
            numbers,
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
                "{} is of another store or another segment, or its beginning is damaged; restore it from a backup, or take \
                 what is left of the folder with Builder::accept_damage",
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
