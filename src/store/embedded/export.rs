//! Streaming what is live, from the oldest segment to the newest.

use std::sync::Arc;

use super::index::{Slot, SlotKind};
use super::merger::MergesHeld;
use super::set::{Segment, SegmentSet};
use super::shared::Shared;
use crate::codec::JournalEntry;
use crate::decision;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Stored;

/// How many entries of a journal are read at a time.
const CHUNK: usize = 256;

/// A walk through the segments. It holds none of them between two chunks, so that nobody has to wait for
/// it, whether to close the store or to unlink a file.
pub(super) struct Export {
    shared: Arc<Shared>,
    /// The number of the last segment that was walked through.
    done: u64,
    within: Option<(u64, Cursor)>,
    /// `None` at the end.
    held: Option<MergesHeld<Arc<Shared>>>,
}

/// How far a walk has come within a segment.
enum Cursor {
    /// The next block.
    Sealed(u64),
    /// What the journal held when the walk came to it, in the order of the sequences.
    Journal(std::vec::IntoIter<(u128, Slot)>),
}

impl Export {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            held: Some(MergesHeld::new(Arc::clone(&shared))),
            shared,
            done: 0,
            within: None,
        }
    }

    /// What is live of the next chunk; `None` at the end.
    fn chunk(&mut self) -> Result<Option<Vec<Result<Stored>>>> {
        self.shared.condition.check()?;
        let set = self.shared.view.segments();
        // Closing empties the view.
        self.shared.condition.check()?;
        let Some((id, mut cursor)) = self.within.take().or_else(|| self.begin_next(&set)) else {
            return Ok(None);
        };
        let segment = set.segments().find(|segment| segment.id() == id);
        let entries = match segment {
            Some(segment) => cursor.read(&segment)?,
            // It was swept.
            None => None,
        };
        let Some(entries) = entries else {
            self.done = id;
            return Ok(Some(Vec::new()));
        };
        self.within = Some((id, cursor));
        let live = |entry: Result<JournalEntry>| self.live(&set, id, entry).transpose();
        Ok(Some(entries.into_iter().filter_map(live).collect()))
    }

    fn begin_next(&self, set: &SegmentSet) -> Option<(u64, Cursor)> {
        let next = set.segments().find(|segment| segment.id() > self.done)?;
        let cursor = match &next {
            Segment::Sealed(_) => Cursor::Sealed(0),
            Segment::Journal(journal) => {
                let slots = journal.index.slots();
                let mut slots: Vec<_> = slots
                    .filter(|(_, slot)| slot.kind() != SlotKind::Removed)
                    .collect();
                slots.sort_unstable_by_key(|(_, slot)| slot.sequence());
                Cursor::Journal(slots.into_iter())
            }
        };
        Some((next.id(), cursor))
    }

    /// The record of an entry, if it is live and the newest of its key.
    fn live(
        &self,
        set: &SegmentSet,
        id: u64,
        entry: Result<JournalEntry>,
    ) -> Result<Option<Stored>> {
        let entry = entry?;
        let digest = entry.digest;
        let (now, on_abandon) = (self.shared.timeline.now(), self.shared.rules.on_abandon);
        let stored = self
            .shared
            .view
            .stored(entry)?
            .filter(|stored| !decision::is_over(&stored.record, now, on_abandon));
        if stored.is_none() || set.is_superseded(digest.short(), id)? {
            return Ok(None);
        }
        Ok(stored)
    }
}

impl Cursor {
    /// The next entries, each checked whole or an error of its own; `None` at the segment's end.
    fn read(&mut self, segment: &Segment) -> Result<Option<Vec<Result<JournalEntry>>>> {
        match (self, segment) {
            (Self::Sealed(next), Segment::Sealed(sealed)) => {
                if *next == sealed.blocks() {
                    return Ok(None);
                }
                *next += 1;
                Ok(Some(match sealed.entries_of(*next - 1) {
                    // The blocks after it may be sound.
                    Err(error) if error.kind() == ErrorKind::Corrupt => vec![Err(error)],
                    entries => entries?,
                }))
            }
            (Self::Journal(slots), segment) => {
                let chunk: Vec<_> = slots.by_ref().take(CHUNK).collect();
                let is_end = chunk.is_empty();
                let entries = chunk
                    .into_iter()
                    .filter_map(|slot| read_slot(segment, slot).transpose());
                Ok((!is_end).then(|| entries.collect()))
            }
            (Self::Sealed(_), Segment::Journal(_)) => Err(Error::new(
                ErrorKind::Corrupt,
                "a sealed segment is none any more; restore the folder from a backup",
            )),
        }
    }
}

/// An entry that a journal held, which may have been sealed meanwhile. What is superseded isn't sealed.
fn read_slot(segment: &Segment, (short, slot): (u128, Slot)) -> Result<Option<JournalEntry>> {
    match segment {
        Segment::Journal(journal) => journal.read(slot).map(Some),
        Segment::Sealed(sealed) => sealed.find_short(short),
    }
}

impl Iterator for Export {
    type Item = Vec<Result<Stored>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.held.as_ref()?;
        let chunk = self.chunk();
        let errors = chunk
            .iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.as_ref().err());
        errors
            .chain(chunk.as_ref().err())
            .for_each(|error| self.shared.note_unread(error));
        if !matches!(chunk, Ok(Some(_))) {
            self.held = None;
        }
        chunk.unwrap_or_else(|error| Some(vec![Err(error)]))
    }
}
