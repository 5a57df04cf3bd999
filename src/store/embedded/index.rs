//! Where the newest entry of each key stands in one segment.

use std::collections::HashMap;

use parking_lot::RwLock;

use super::log::Span;
use crate::secret::BuildDigestHasher;

const SHARDS: usize = 16;

/// From short digests to slots, in memory. Written by one thread and read by all, without anybody
/// waiting longer than for one insertion.
#[derive(Debug, Default)]
pub(super) struct Index {
    shards: [RwLock<HashMap<u128, Slot, BuildDigestHasher>>; SHARDS],
}

/// An entry's sequence, what the entry made of its key, and where its bytes stand in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Shifted by two bits to make room for the kind.
    sequence_and_kind: u64,
    span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotKind {
    InFlight,
    Completed,
    Removed,
}

/// Sequences have 62 bits.
pub(super) const MAX_SEQUENCE: u64 = u64::MAX >> 2;

impl Slot {
    pub(super) fn new(sequence: u64, kind: SlotKind, span: Span) -> Self {
        let bits = match kind {
            SlotKind::InFlight => 0,
            SlotKind::Completed => 1,
            SlotKind::Removed => 2,
        };
        debug_assert!(sequence <= MAX_SEQUENCE, "sequences have 62 bits");
        Self {
            sequence_and_kind: sequence << 2 | bits,
            span,
        }
    }

    pub(super) fn sequence(self) -> u64 {
        self.sequence_and_kind >> 2
    }

    pub(super) fn kind(self) -> SlotKind {
        match self.sequence_and_kind & 3 {
            0 => SlotKind::InFlight,
            1 => SlotKind::Completed,
            _ => SlotKind::Removed,
        }
    }

    pub(super) fn span(self) -> Span {
        self.span
    }
}

impl Index {
    pub(super) fn get(&self, digest: u128) -> Option<Slot> {
        self.shard(digest).read().get(&digest).copied()
    }

    pub(super) fn insert(&self, digest: u128, slot: Slot) {
        self.shard(digest).write().insert(digest, slot);
    }

    /// All slots, shard by shard; nobody waits longer than for the copy of one shard.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u128, Slot)> + '_ {
        self.shards.iter().flat_map(|shard| {
            let copied: Vec<_> = shard
                .read()
                .iter()
                .map(|(key, slot)| (*key, *slot))
                .collect();
            copied
        })
    }

    /// What the index takes in memory, about.
    pub(super) fn size_bytes(&self) -> u64 {
        // A table is at most seven eighths full, and has a byte beside each place.
        let places = self
            .shards
            .iter()
            .map(|shard| shard.read().capacity() * 8 / 7);
        (places.sum::<usize>() * (size_of::<(u128, Slot)>() + 1)) as u64
    }

    fn shard(&self, digest: u128) -> &RwLock<HashMap<u128, Slot, BuildDigestHasher>> {
        &self.shards[digest as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_sequence_kind_and_place() {
        for kind in [SlotKind::InFlight, SlotKind::Completed, SlotKind::Removed] {
            for sequence in [0, 1, 1 << 46, MAX_SEQUENCE] {
                let span = Span::new(4_096, 100);
                let slot = Slot::new(sequence, kind, span);
                assert_eq!((slot.sequence(), slot.kind()), (sequence, kind));
                assert_eq!(slot.span(), span);
            }
        }
    }

    #[test]
    fn the_newest_slot_of_a_digest_wins() {
        let (index, anywhere) = (Index::default(), Span::new(4_096, 100));
        for digest in 0..100_u128 {
            index.insert(digest, Slot::new(1, SlotKind::InFlight, anywhere));
            index.insert(digest, Slot::new(2, SlotKind::Completed, anywhere));
        }
        let newest = Slot::new(2, SlotKind::Completed, anywhere);
        assert_eq!(index.get(7), Some(newest));
        assert_eq!(index.get(100), None);
        assert_eq!(index.slots().count(), 100);
    }
}
