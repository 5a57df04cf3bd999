//! How many live keys each scope has, for the limit on that.
//!
//! Counted by segment, because it is segments that go: what a sweep unlinks is counted no more. A file beside the
//! segments keeps the counts across an open. It is written before a journal goes that they were made of, and says up
//! to which entry they were; an open counts the entries after that one, which are all in journals that it reads.
//!
//! A segment that is merged with others goes on being counted by itself, under its own first sequence.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::codec::{self, Outline, OutlineState};
use crate::secret::{BuildDigestHasher, Digest};

pub(super) const VERSION: u64 = 1;
/// In place of the number of a segment's scopes.
const NOT_COUNTED: u64 = u64::MAX;

/// Counts by what [`Digest::scope`] gives.
type Scopes = HashMap<u64, i64, BuildDigestHasher>;

/// The counts of each segment, by its first sequence. `None` if some of its keys were begun while nobody counted: none
/// of them counts. Shared, so that nobody waits while they are written.
type Segments = BTreeMap<u64, Option<Arc<Scopes>>>;

/// The live keys of each scope.
#[derive(Debug, Default)]
pub(super) struct ScopeCounts {
    totals: Scopes,
    segments: Segments,
    /// The last entry that is counted.
    counted_to: u64,
}

/// The counts of one moment.
#[derive(Debug)]
pub(super) struct ScopesToKeep {
    segments: Segments,
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
            add_to(Arc::make_mut(segment), scope, keys);
            add_to(&mut self.totals, scope, keys);
        }
    }

    pub(super) fn live_keys(&self, digest: &Digest) -> u64 {
        let live = self.totals.get(&digest.scope()).copied();
        u64::try_from(live.unwrap_or(0)).unwrap_or(0)
    }

    /// The live keys of all scopes together; `None` if not all keys are counted.
    #[cfg(any(test, onceward_faults))]
    pub(super) fn all_live_keys(&self) -> Option<i64> {
        let are_counted = self.segments.values().all(Option::is_some);
        are_counted.then(|| self.totals.values().sum())
    }

    pub(super) fn counted_to(&self) -> u64 {
        self.counted_to
    }

    /// Begins to count in a new segment.
    pub(super) fn begin(&mut self, first_sequence: u64) {
        self.segments.insert(first_sequence, Some(Arc::default()));
    }

    /// Counts the keys of all segments before this one no more.
    pub(super) fn end_before(&mut self, first_sequence: u64) {
        while let Some(segment) = self.segments.first_entry()
            && *segment.key() < first_sequence
        {
            for (scope, keys) in segment.remove().iter().flat_map(|scopes| &**scopes) {
                add_to(&mut self.totals, *scope, -keys);
            }
        }
    }

    /// Counts by the segments that there are: each first sequence, and whether it is a journal, oldest first. Some may
    /// have been unlinked since the counts were kept, and others begun.
    pub(super) fn fit(&mut self, listed: &[(u64, bool)]) {
        let oldest = listed.first().map_or(u64::MAX, |(first, _)| *first);
        self.segments.retain(|first, _| *first >= oldest);
        let ends = listed.iter().skip(1).map(|(first, _)| *first);
        for (&(first, is_journal), end) in listed.iter().zip(ends.chain([u64::MAX])) {
            if first < end && self.segments.range(first..end).next().is_none() {
                let is_new = is_journal && first > self.counted_to;
                self.segments.insert(first, is_new.then(Arc::default));
            }
        }
        self.totals.clear();
        for (scope, keys) in self
            .segments
            .values()
            .flatten()
            .flat_map(|scopes| &**scopes)
        {
            add_to(&mut self.totals, *scope, *keys);
        }
    }

    /// Counts none of the keys that there are: the counts are of another state of the folder than this.
    pub(super) fn begin_anew(&mut self, counted_to: u64) {
        self.segments.values_mut().for_each(|scopes| *scopes = None);
        self.totals.clear();
        self.counted_to = counted_to;
    }

    /// What is to be kept of this moment.
    pub(super) fn to_keep(&self) -> ScopesToKeep {
        ScopesToKeep {
            segments: self.segments.clone(),
            counted_to: self.counted_to,
        }
    }

    /// `None` if these are not what [`to_bytes`](ScopesToKeep::to_bytes) gave for this store. The counts have to be
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
                    let mut next = || {
                        let scope = words.next()?;
                        let keys = i64::try_from(words.next()?).ok();
                        keys.filter(|keys| *keys > 0).map(|keys| (scope, keys))
                    };
                    let scopes: Option<Scopes> = (0..many).map(|_| next()).collect();
                    Some(Arc::new(scopes?))
                }
            };
            counts.segments.insert(first, scopes);
        }
        Some(counts)
    }
}

impl ScopesToKeep {
    /// The counts as 64-bit words, little-endian, and a checksum.
    pub(super) fn to_bytes(&self, store_id: [u8; 16]) -> Vec<u8> {
        let scopes = self.segments.values().flatten().map(|scopes| scopes.len());
        let words = 2 + 2 * self.segments.len() + 2 * scopes.sum::<usize>();
        let mut bytes = Vec::with_capacity(store_id.len() + 8 * words);
        bytes.extend_from_slice(&store_id);
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        put(self.counted_to);
        for (first, scopes) in &self.segments {
            // None of them is below zero, unless something was counted wrong.
            let counted = || {
                scopes
                    .iter()
                    .flat_map(|scopes| scopes.iter())
                    .filter(|(_, keys)| **keys > 0)
            };
            put(*first);
            put(match scopes {
                Some(_) => counted().count() as u64,
                None => NOT_COUNTED,
            });
            for (scope, keys) in counted() {
                put(*scope);
                put(keys.cast_unsigned());
            }
        }
        let checksum = codec::numbered_checksum(VERSION, &bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }
}

fn add_to(scopes: &mut Scopes, scope: u64, keys: i64) {
    let count = scopes.entry(scope).or_default();
    *count = count.saturating_add(keys);
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

    fn live(counts: &ScopeCounts) -> [u64; 3] {
        [1_u64, 2, 3].map(|scope| {
            let mut digest = [0; 32];
            digest[24..].copy_from_slice(&scope.to_le_bytes());
            counts.live_keys(&Digest(digest))
        })
    }

    fn bytes(counts: &ScopeCounts) -> Vec<u8> {
        counts.to_keep().to_bytes(STORE)
    }

    fn reread(counts: &ScopeCounts) -> ScopeCounts {
        ScopeCounts::from_bytes(&bytes(counts), STORE).unwrap()
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
        assert_eq!(live(&counts), [2, 2, 0]);
        assert_eq!(counts.all_live_keys(), Some(4));
        counts.end_before(10);
        assert_eq!(live(&counts), [1, 1, 0]);
        // An entry of a segment that is gone isn't counted off.
        counts.count(entry(12, 2, Some(3), true));
        counts.count(entry(13, 1, Some(10), false));
        assert_eq!(live(&counts), [0, 2, 0]);
    }

    #[test]
    fn a_segment_begun_while_nobody_counted_counts_nothing() {
        let mut counts = ScopeCounts::default();
        counts.fit(&[(1, false), (10, true)]);
        counts.count(entry(10, 1, Some(2), true));
        assert_eq!(live(&counts), [1, 0, 0]);
        assert_eq!(counts.all_live_keys(), None);
        counts.end_before(10);
        assert_eq!(live(&counts), [1, 0, 0]);
        counts.end_before(20);
        assert_eq!(live(&counts), [0, 0, 0]);
    }

    #[test]
    fn a_segment_that_ended_empty_keeps_no_count_of_the_next_one() {
        let mut counts = ScopeCounts::default();
        // The first sequences went to a batch that failed.
        counts.begin(1);
        counts.begin(5);
        counts.count(entry(5, 1, None, true));
        counts.begin(10);
        counts.end_before(10);
        counts.count(entry(10, 1, Some(5), true));
        assert_eq!(live(&counts), [1, 0, 0]);
    }

    #[test]
    fn counts_that_were_kept_fit_segments_that_were_merged_unlinked_and_begun_since() {
        let mut merged = reread(&counts());
        merged.fit(&[(1, false), (20, true)]);
        assert_eq!(live(&merged), [2, 2, 0]);
        merged.count(entry(20, 1, Some(10), true));
        merged.end_before(20);
        assert_eq!(live(&merged), [1, 0, 0]);
        let mut unlinked = reread(&counts());
        unlinked.fit(&[(10, true)]);
        assert_eq!(live(&unlinked), [1, 1, 0]);
    }

    #[test]
    fn merged_segments_of_which_one_was_not_counted_count_what_the_others_do() {
        let mut kept = counts();
        // The oldest was sealed before anybody counted.
        kept.segments.insert(0, None);
        let mut counts = reread(&kept);
        counts.fit(&[(0, false), (20, true)]);
        assert_eq!(live(&counts), [2, 2, 0]);
        counts.end_before(20);
        assert_eq!(live(&counts), [0, 0, 0]);
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
        assert_eq!(live(&counts), [2, 2, 1]);
    }

    #[test]
    fn what_is_counted_while_counts_are_written_is_not_written() {
        let mut counts = counts();
        let to_keep = counts.to_keep();
        let before = bytes(&counts);
        counts.count(entry(12, 3, Some(1), true));
        assert_eq!(to_keep.to_bytes(STORE).len(), before.len());
        let mut kept = ScopeCounts::from_bytes(&to_keep.to_bytes(STORE), STORE).unwrap();
        kept.fit(&[(1, false), (10, true)]);
        assert_eq!((live(&kept), kept.counted_to()), ([2, 2, 0], 11));
    }

    #[test]
    fn damaged_counts_and_those_of_another_store_are_refused() {
        let mut kept = counts();
        kept.fit(&[(0, false), (1, false), (10, true)]);
        let sound = bytes(&kept);
        let mut again = reread(&kept);
        again.fit(&[(0, false), (1, false), (10, true)]);
        assert_eq!(live(&again), live(&kept));
        assert!(ScopeCounts::from_bytes(&sound, [8; 16]).is_none());
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            assert!(ScopeCounts::from_bytes(&damaged, STORE).is_none(), "{at}");
            assert!(
                ScopeCounts::from_bytes(&sound[..at], STORE).is_none(),
                "{at}"
            );
        }
    }

    #[test]
    fn counts_that_add_up_to_more_than_there_can_be_are_no_panic() {
        let mut forged = ScopeCounts::default();
        for first in [1, 10] {
            let scopes = Scopes::from_iter([(1, i64::MAX)]);
            forged.segments.insert(first, Some(Arc::new(scopes)));
        }
        let mut counts = reread(&forged);
        counts.fit(&[(1, false), (10, true)]);
        counts.count(entry(12, 1, None, true));
        counts.end_before(20);
        assert!(live(&counts)[0] < u64::MAX);
    }
}
