//! Where the newest entry of each key stands in one segment.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::clock::Timestamp;
use crate::secret::BuildDigestHasher;

const SHARDS: usize = 16;

/// From short digests to slots, in memory. Written by one thread and read by all, without anybody
/// waiting longer than for one insertion.
#[derive(Debug, Default)]
pub(super) struct Index {
    shards: [RwLock<HashMap<u128, Slot, BuildDigestHasher>>; SHARDS],
}

/// An entry's sequence, and what the entry made of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotKind {
    InFlight,
    Completed,
    Removed,
}

/// Sequences are shifted by two bits to make room for the kind.
pub(super) const MAX_SEQUENCE: u64 = u64::MAX >> 2;

impl Slot {
    pub(super) fn new(sequence: u64, kind: SlotKind) -> Self {
        let bits = match kind {
            SlotKind::InFlight => 0,
            SlotKind::Completed => 1,
            SlotKind::Removed => 2,
        };
        debug_assert!(sequence <= MAX_SEQUENCE, "sequences have 62 bits");
        Self(sequence << 2 | bits)
    }

    pub(super) fn sequence(self) -> u64 {
        self.0 >> 2
    }

    pub(super) fn kind(self) -> SlotKind {
        match self.0 & 3 {
            0 => SlotKind::InFlight,
            1 => SlotKind::Completed,
            _ => SlotKind::Removed,
        }
    }
}

impl Index {
    pub(super) fn get(&self, digest: u128) -> Option<Slot> {
        self.shard(digest).read().get(&digest).copied()
    }

    /// Makes room for so many keys, so that filling the index doesn't grow it again and again.
    pub(super) fn reserve(&self, keys: usize) {
        for shard in &self.shards {
            shard.write().reserve(keys / SHARDS);
        }
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

    /// The same for entries that don't come in their order.
    pub(super) fn insert_newer(&self, digest: u128, slot: Slot) {
        let mut shard = self.shard(digest).write();
        let kept = shard.entry(digest).or_insert(slot);
        if kept.sequence() < slot.sequence() {
            *kept = slot;
        }
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

/// An index and the counts that go with it, as a journal's file keeps them: right for all entries up to
/// `last_sequence`, whatever was appended since.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) entries: u64,
    pub(super) entry_bytes: u64,
    pub(super) last_sequence: u64,
    pub(super) answers_end: Timestamp,
    pub(super) attempts_end: Timestamp,
    pub(super) slots: Vec<(u128, Slot)>,
}

const COUNTS_BYTES: usize = 40;
const SLOT_BYTES: usize = 24;

impl Checkpoint {
    pub(super) fn fill(&self, index: &Index) {
        index.reserve(self.slots.len());
        for (digest, slot) in &self.slots {
            index.insert(*digest, *slot);
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(COUNTS_BYTES + SLOT_BYTES * self.slots.len());
        for count in [
            self.entries,
            self.entry_bytes,
            self.last_sequence,
            self.answers_end.0,
            self.attempts_end.0,
        ] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        for (digest, slot) in &self.slots {
            bytes.extend_from_slice(&digest.to_le_bytes());
            bytes.extend_from_slice(&slot.0.to_le_bytes());
        }
        bytes
    }

    /// `None` if these are no checkpoint's bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (counts, slots) = bytes.split_first_chunk::<COUNTS_BYTES>()?;
        let (slots, rest) = slots.as_chunks::<SLOT_BYTES>();
        let word = |at: usize| {
            let word = counts[8 * at..].first_chunk().copied();
            word.map(u64::from_le_bytes)
        };
        let slot = |slot: &[u8; SLOT_BYTES]| {
            let digest = u128::from_le_bytes(*slot.first_chunk()?);
            Some((digest, Slot(u64::from_le_bytes(*slot.last_chunk()?))))
        };
        Some(Self {
            entries: word(0)?,
            entry_bytes: word(1)?,
            last_sequence: word(2)?,
            answers_end: Timestamp(word(3)?),
            attempts_end: Timestamp(word(4)?),
            slots: slots.iter().map(slot).collect::<Option<_>>()?,
        })
        .filter(|_| rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_sequence_and_kind() {
        for kind in [SlotKind::InFlight, SlotKind::Completed, SlotKind::Removed] {
            for sequence in [0, 1, 1 << 46, MAX_SEQUENCE] {
                let slot = Slot::new(sequence, kind);
                assert_eq!((slot.sequence(), slot.kind()), (sequence, kind));
            }
        }
    }

    #[test]
    fn the_newest_slot_of_a_digest_wins() {
        let index = Index::default();
        for digest in 0..100_u128 {
            index.insert(digest, Slot::new(1, SlotKind::InFlight));
            index.insert(digest, Slot::new(2, SlotKind::Completed));
        }
        assert_eq!(index.get(7), Some(Slot::new(2, SlotKind::Completed)));
        assert_eq!(index.get(100), None);
        assert_eq!(index.slots().count(), 100);
    }
}
