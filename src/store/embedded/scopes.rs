//! How many live keys each scope has, for the limit on that.
//!
//! Counted by segment, because it is segments that go: what a sweep unlinks is counted no more. A file beside the
//! segments keeps the counts across an open. It is written before a journal goes that they were made of, and says up
//! to which entry they were; an open counts the entries after that one, which are all in journals that it reads.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use crate::codec::{self, Outline, OutlineState};
use crate::secret::{BuildDigestHasher, Digest};

pub(super) const VERSION: u64 = 1;
/// In place of the number of a segment's scopes.
const NOT_COUNTED: u64 = u64::MAX;

/// Counts by what [`Digest::scope`] gives.
type Scopes = HashMap<u64, i64, BuildDigestHasher>;

/// The live keys of each scope.
#[derive(Debug, Default)]
pub(super) struct ScopeCounts {
    totals: Scopes,
    /// The counts of each segment, by its first sequence. `None` if some of its keys were begun while nobody counted:
    /// none of them counts.
    segments: BTreeMap<u64, Option<Scopes>>,
    /// The last entry that is counted.
    counted_to: u64,
}

/// What an entry did to the counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) sequence: u64,
    pub(super) scope: u64,
    /// The entry that made the key live before, if it was.
    pub(super) prior: Option<u64>,
    pub(super) is_live: bool,
}

impl From<&Outline> for Counted {
    fn from(outline: &Outline) -> Self {
        Self {
            sequence: outline.heading.sequence,
            scope: outline.digest.scope(),
            prior: outline.heading.prior,
            is_live: outline.state != OutlineState::Removed,
        }
    }
}

impl ScopeCounts {
    /// Counts an entry that is durable.
    pub(super) fn count(&mut self, entry: Counted) {
        if let Some(prior) = entry.prior {
            self.add(prior, entry.scope, -1);
        }
        if entry.is_live {
            self.add(entry.sequence, entry.scope, 1);
        }
        self.counted_to = self.counted_to.max(entry.sequence);
    }

    /// Counts an entry that was found when the folder was opened, unless it is counted. They may come in any order.
    pub(super) fn recount(&mut self, entry: Counted, counted_before: u64) {
        if entry.sequence > counted_before {
            self.count(entry);
        }
    }

    fn add(&mut self, sequence: u64, scope: u64, keys: i64) {
        let mut up_to = self.segments.range_mut(..=sequence);
        if let Some((_, Some(segment))) = up_to.next_back() {
            add_to(segment, scope, keys);
            add_to(&mut self.totals, scope, keys);
        }
    }

    pub(super) fn live_keys(&self, digest: &Digest) -> u64 {
        let live = self.totals.get(&digest.scope()).copied();
        u64::try_from(live.unwrap_or(0)).unwrap_or(0)
    }

    pub(super) fn counted_to(&self) -> u64 {
        self.counted_to
    }

    /// Begins to count in a new segment.
    pub(super) fn begin(&mut self, first_sequence: u64) {
        self.segments
            .insert(first_sequence, Some(Scopes::default()));
    }

    /// Counts the keys of a segment no more.
    pub(super) fn end(&mut self, first_sequence: u64) {
        let ended = self.segments.remove(&first_sequence).flatten();
        for (scope, keys) in ended.into_iter().flatten() {
            add_to(&mut self.totals, scope, -keys);
        }
    }

    /// Counts those segments as one, the first.
    pub(super) fn merge(&mut self, first_sequences: RangeInclusive<u64>) {
        let first = *first_sequences.start();
        let members = self
            .segments
            .range(first_sequences)
            .map(|(first, _)| *first);
        let members: Vec<u64> = members.collect();
        let scopes = members
            .iter()
            .map(|first| self.segments.remove(first).flatten());
        let merged = scopes.reduce(sum).flatten();
        self.segments.insert(first, merged);
    }

    /// Counts by the segments that there are: each first sequence, and whether it is a journal. Some may have been
    /// merged or unlinked since the counts were kept, and others begun.
    pub(super) fn fit(&mut self, listed: &[(u64, bool)]) {
        let known = std::mem::take(&mut self.segments);
        for &(first, is_journal) in listed {
            let is_new = is_journal && first > self.counted_to;
            let begins = is_new || known.contains_key(&first);
            let begins = begins.then(Scopes::default);
            self.segments.insert(first, begins);
        }
        for (first, scopes) in known {
            if let Some((_, into)) = self.segments.range_mut(..=first).next_back() {
                *into = sum(into.take(), scopes);
            }
        }
        self.totals.clear();
        for (scope, keys) in self.segments.values().flatten().flatten() {
            add_to(&mut self.totals, *scope, *keys);
        }
    }
}

/// The counts as bytes: 64-bit words, little-endian, and a checksum.
impl ScopeCounts {
    pub(super) fn to_bytes(&self, store_id: [u8; 16]) -> Vec<u8> {
        let mut bytes = store_id.to_vec();
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        put(self.counted_to);
        for (first, scopes) in &self.segments {
            put(*first);
            put(scopes
                .as_ref()
                .map_or(NOT_COUNTED, |scopes| scopes.len() as u64));
            for (scope, keys) in scopes.iter().flatten() {
                put(*scope);
                put(keys.cast_unsigned());
            }
        }
        let checksum = codec::numbered_checksum(VERSION, &bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// `None` if these are not what [`to_bytes`](ScopeCounts::to_bytes) gave for this store. The counts have to be
    /// [fitted](ScopeCounts::fit) to the segments.
    pub(super) fn from_bytes(bytes: &[u8], store_id: [u8; 16]) -> Option<Self> {
        let (checked, checksum) = bytes.split_last_chunk()?;
        let words = checked.strip_prefix(&store_id)?;
        if codec::numbered_checksum(VERSION, checked) != *checksum {
            return None;
        }
        let (words, rest) = words.as_chunks();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut counts = Self {
            counted_to: words.next().filter(|_| rest.is_empty())?,
            ..Self::default()
        };
        while let Some(first) = words.next() {
            let scopes = match words.next()? {
                NOT_COUNTED => None,
                many => {
                    let mut next = || Some((words.next()?, words.next()?.cast_signed()));
                    Some((0..many).map(|_| next()).collect::<Option<_>>()?)
                }
            };
            counts.segments.insert(first, scopes);
        }
        Some(counts)
    }
}

fn sum(one: Option<Scopes>, other: Option<Scopes>) -> Option<Scopes> {
    let (mut one, other) = (one?, other?);
    for (scope, keys) in other {
        add_to(&mut one, scope, keys);
    }
    Some(one)
}

fn add_to(scopes: &mut Scopes, scope: u64, keys: i64) {
    let count = scopes.entry(scope).or_default();
    *count += keys;
    if *count == 0 {
        scopes.remove(&scope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: [u8; 16] = [7; 16];

    fn entry(sequence: u64, scope: u64, prior: Option<u64>, is_live: bool) -> Counted {
        Counted {
            sequence,
            scope,
            prior,
            is_live,
        }
    }

    fn live(counts: &ScopeCounts, scope: u64) -> u64 {
        let mut digest = [0; 32];
        digest[24..].copy_from_slice(&scope.to_le_bytes());
        counts.live_keys(&Digest(digest))
    }

    fn reread(counts: &ScopeCounts) -> ScopeCounts {
        ScopeCounts::from_bytes(&counts.to_bytes(STORE), STORE).unwrap()
    }

    /// Two segments, from 1 and from 10: two keys of scope 1 and one of scope 2 in the first, of which the second has
    /// taken one over, and one key of scope 2.
    fn counts() -> ScopeCounts {
        let mut counts = ScopeCounts::default();
        counts.begin(1);
        for (sequence, scope) in [(1, 1), (2, 1), (3, 2)] {
            counts.count(entry(sequence, scope, None, true));
        }
        counts.begin(10);
        counts.count(entry(10, 1, Some(2), true));
        counts.count(entry(11, 2, None, true));
        counts
    }

    #[test]
    fn a_key_counts_once_in_the_segment_of_its_newest_entry() {
        let mut counts = counts();
        assert_eq!(
            [live(&counts, 1), live(&counts, 2), live(&counts, 3)],
            [2, 2, 0]
        );
        counts.end(1);
        assert_eq!([live(&counts, 1), live(&counts, 2)], [1, 1]);
        // An entry of a segment that is gone isn't counted off.
        counts.count(entry(12, 2, Some(3), true));
        counts.count(entry(13, 1, Some(10), false));
        assert_eq!([live(&counts, 1), live(&counts, 2)], [0, 2]);
    }

    #[test]
    fn a_segment_begun_while_nobody_counted_counts_nothing() {
        let mut counts = ScopeCounts::default();
        counts.fit(&[(1, false), (10, true)]);
        counts.count(entry(10, 1, Some(2), true));
        assert_eq!(live(&counts, 1), 1);
        counts.merge(1..=10);
        counts.end(1);
        assert_eq!(live(&counts, 1), 1);
    }

    #[test]
    fn counts_that_were_kept_fit_segments_that_were_merged_unlinked_and_begun_since() {
        let mut merged = reread(&counts());
        merged.fit(&[(1, false), (20, true)]);
        assert_eq!([live(&merged, 1), live(&merged, 2)], [2, 2]);
        merged.count(entry(20, 1, Some(10), true));
        merged.end(1);
        assert_eq!([live(&merged, 1), live(&merged, 2)], [1, 0]);
        let mut unlinked = reread(&counts());
        unlinked.fit(&[(10, true)]);
        assert_eq!([live(&unlinked, 1), live(&unlinked, 2)], [1, 1]);
        let mut itself = reread(&counts());
        itself.merge(1..=10);
        itself.end(1);
        assert_eq!([live(&itself, 1), live(&itself, 2)], [0, 0]);
    }

    #[test]
    fn what_an_open_finds_after_the_counts_were_kept_is_counted_in_any_order() {
        let mut counts = reread(&counts());
        counts.fit(&[(1, false), (10, true)]);
        let kept_to = counts.counted_to();
        for found in [
            entry(13, 1, Some(12), false),
            entry(12, 1, None, true),
            entry(11, 2, None, true),
            entry(14, 3, None, true),
        ] {
            counts.recount(found, kept_to);
        }
        assert_eq!(
            [live(&counts, 1), live(&counts, 2), live(&counts, 3)],
            [2, 2, 1]
        );
    }

    #[test]
    fn damaged_counts_and_those_of_another_store_are_refused() {
        let mut kept = counts();
        kept.fit(&[(0, false), (1, false), (10, true)]);
        let bytes = kept.to_bytes(STORE);
        assert_eq!(reread(&kept).to_bytes(STORE), bytes);
        assert!(ScopeCounts::from_bytes(&bytes, [8; 16]).is_none());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(ScopeCounts::from_bytes(&damaged, STORE).is_none(), "{at}");
            assert!(
                ScopeCounts::from_bytes(&bytes[..at], STORE).is_none(),
                "{at}"
            );
        }
    }
}
