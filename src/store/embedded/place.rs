//! Where an entry stands that has to be read from the disk.

use std::sync::Arc;

use super::index::Slot;
use super::set::SegmentSet;
use crate::codec::{EntryState, JournalEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Digest;

/// Where the newest entry of a key stands.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) set: Arc<SegmentSet>,
    pub(super) spot: Spot,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    /// In this of the set's journals.
    Journal { at: usize, slot: Slot },
    /// Perhaps in this of the set's sealed segments, or else in an older one with a higher number than the second.
    Sealed { at: usize, above: u64 },
}

impl Place {
    pub(super) fn read(&self, digest: &Digest) -> Result<Option<JournalEntry>> {
        match self.spot {
            Spot::Sealed { at, above } => self.set.read_sealed(digest, at, above),
            Spot::Journal { at, slot } => {
                let entry = self.set.journals[at].read(slot)?;
                if entry.state == EntryState::Removed {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        "a segment's entry isn't what its index says; restore it from a backup",
                    ));
                }
                Ok(Some(entry))
            }
        }
    }

    /// Whether the entry that was read here is still the newest of its key, as far as the memory can tell.
    pub(super) fn is_still_newest(&self, set: &SegmentSet, short: u128) -> bool {
        if set.newest_sealed() != self.set.newest_sealed() {
            return false;
        }
        let newest = set.newest_slot(short).map(|(_, slot)| slot.sequence());
        match self.spot {
            Spot::Journal { slot, .. } => newest == Some(slot.sequence()),
            Spot::Sealed { .. } => newest.is_none(),
        }
    }
}
