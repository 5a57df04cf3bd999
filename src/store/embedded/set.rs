//! The segments of one moment, and the look-ups through them.

use std::sync::Arc;

use super::ends::Ends;
use super::index::Slot;
use super::journal::Journal;
use super::manifest::RolledRow;
use super::sealed::Sealed;
use super::tally::Tally;
use crate::codec::JournalEntry;
use crate::error::Result;
use crate::secret::Digest;

/// All segments, from the oldest to the active one. The newest entry of a key is the truth.
#[derive(Clone, Debug, Default)]
pub(super) struct SegmentSet {
    /// All of them are older than the journals.
    pub(super) sealed: Vec<Arc<Sealed>>,
    /// The last is the active one.
    pub(super) journals: Vec<Arc<Journal>>,
}

/// A segment of either kind.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    Sealed(Arc<Sealed>),
    Journal(Arc<Journal>),
}

impl Segment {
    pub(super) fn tally(&self) -> &Arc<Tally> {
        match self {
            Self::Sealed(sealed) => &sealed.tally,
            Self::Journal(journal) => &journal.tally,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.tally().id()
    }

    /// `None` for the active segment.
    pub(super) fn rolled(&self) -> Option<&RolledRow> {
        match self {
            Self::Sealed(sealed) => Some(&sealed.rolled),
            Self::Journal(journal) => journal.rolled(),
        }
    }

    /// When the last of its records is over. Attempts count that were settled since.
    pub(super) fn ends(&self) -> Ends {
        match self {
            Self::Sealed(sealed) => sealed.ends(),
            Self::Journal(journal) => Ends::new(journal.ends.answers(), journal.ends.attempts()),
        }
    }

    pub(super) fn last_sequence(&self) -> u64 {
        match self {
            Self::Sealed(sealed) => sealed.rolled.holds.last_sequence,
            Self::Journal(journal) => journal.last_sequence(),
        }
    }
}

impl SegmentSet {
    pub(super) fn active(&self) -> Option<&Arc<Journal>> {
        self.journals.last()
    }

    pub(super) fn len(&self) -> usize {
        self.sealed.len() + self.journals.len()
    }

    /// What indexes, filters and fences take in memory, about.
    pub(super) fn index_bytes(&self) -> u64 {
        let sealed = self.sealed.iter().map(|sealed| sealed.index_bytes());
        let journals = self
            .journals
            .iter()
            .map(|journal| journal.index.size_bytes());
        sealed.chain(journals).sum()
    }

    /// How many bytes of the disk the segments take, what is still to be sealed counted twice.
    pub(super) fn disk_bytes(&self) -> u64 {
        let sealed = self.sealed.iter().map(|sealed| sealed.disk_bytes());
        let journals = self.journals.iter().map(|journal| journal.disk_bytes());
        sealed.chain(journals).fold(0, u64::saturating_add)
    }

    /// How many entries the journals of the sealed segments held.
    pub(super) fn sealed_entries(&self) -> u64 {
        let entries = self.sealed.iter().map(|sealed| sealed.rolled.holds.entries);
        entries.fold(0, u64::saturating_add)
    }

    /// All segments, oldest first.
    pub(super) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let sealed = self.sealed.iter().cloned().map(Segment::Sealed);
        sealed.chain(self.journals.iter().cloned().map(Segment::Journal))
    }

    /// Whether the set has this segment, in this form.
    pub(super) fn contains(&self, segment: &Segment) -> bool {
        let id = segment.id();
        match segment {
            Segment::Sealed(_) => self.sealed.iter().any(|listed| listed.tally.id() == id),
            Segment::Journal(_) => self.journals.iter().any(|listed| listed.tally.id() == id),
        }
    }

    pub(super) fn tallies(&self) -> impl Iterator<Item = &Arc<Tally>> {
        let sealed = self.sealed.iter().map(|sealed| &sealed.tally);
        sealed.chain(self.journals.iter().map(|journal| &journal.tally))
    }

    /// The segment that an entry was written to, unless it has been unlinked.
    pub(super) fn holding(&self, sequence: u64) -> Option<&Arc<Tally>> {
        // From the newest on: what is superseded was mostly written a moment ago.
        let mut newest_first = self.journals.iter().rev();
        let journal = newest_first.find(|journal| journal.tally.header.first_sequence <= sequence);
        if let Some(journal) = journal {
            return Some(&journal.tally);
        }
        let after = self
            .sealed
            .partition_point(|sealed| sealed.tally.header.first_sequence <= sequence);
        after.checked_sub(1).map(|at| &self.sealed[at].tally)
    }

    /// The newest slot of a key in the journals, and which of them has it.
    pub(super) fn newest_slot(&self, short: u128) -> Option<(usize, Slot)> {
        let mut newest_first = self.journals.iter().enumerate().rev();
        newest_first.find_map(|(at, journal)| journal.index.get(short).map(|slot| (at, slot)))
    }

    /// The number of the newest sealed segment; 0 if there is none.
    pub(super) fn newest_sealed(&self) -> u64 {
        self.sealed.last().map_or(0, |sealed| sealed.tally.id())
    }

    /// The newest of the first `count` sealed segments that may hold a key and has a higher number than
    /// `above`. Looks at the memory only.
    pub(super) fn newest_maybe(&self, short: u128, count: usize, above: u64) -> Option<usize> {
        let newest_first = self.sealed[..count].iter().enumerate().rev();
        newest_first
            .take_while(|(_, sealed)| sealed.tally.id() > above)
            .find(|(_, sealed)| sealed.may_hold(short))
            .map(|(at, _)| at)
    }

    /// The newest entry of a key in the sealed segment `at`, which may hold it, and those before it with a
    /// higher number than `above`.
    pub(super) fn read_sealed(
        &self,
        digest: &Digest,
        mut at: usize,
        above: u64,
    ) -> Result<Option<JournalEntry>> {
        loop {
            if let Some(entry) = self.sealed[at].find(digest)? {
                return Ok(Some(entry));
            }
            match self.newest_maybe(digest.short(), at, above) {
                Some(older) => at = older,
                None => return Ok(None),
            }
        }
    }

    /// Newest first.
    fn sealed_above(&self, above: u64) -> impl Iterator<Item = &Arc<Sealed>> {
        let newest_first = self.sealed.iter().rev();
        newest_first.take_while(move |sealed| sealed.tally.id() > above)
    }

    /// Whether a segment with a higher number than `id` has an entry of the key.
    pub(super) fn is_superseded(&self, short: u128, id: u64) -> Result<bool> {
        let newer = self.journals.iter().rev();
        let mut newer = newer.take_while(|journal| journal.tally.id() > id);
        if newer.any(|journal| journal.index.get(short).is_some()) {
            return Ok(true);
        }
        for sealed in self.sealed_above(id) {
            if sealed.may_hold(short) && sealed.find_short(short)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
