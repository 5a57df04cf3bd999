//! A filter over the digests of a sealed segment: 'surely not here', or 'maybe'.

/// One cache line, so that a look costs one access of the memory.
const LINE_WORDS: usize = 8;
const LINE_BITS: usize = 64 * LINE_WORDS;
/// 2 bytes per key: about one look in a thousand says 'maybe' of a key that isn't there.
const BITS_PER_KEY: usize = 16;
/// Each takes 9 of the 64 bits that pick places within a line.
const PROBES: u32 = 7;

/// A blocked Bloom filter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// A filter for so many keys, which holds none yet.
    pub(super) fn for_keys(keys: usize) -> Self {
        let lines = (keys * BITS_PER_KEY).div_ceil(LINE_BITS).max(1);
        Self {
            words: vec![0; lines * LINE_WORDS],
        }
    }

    pub(super) fn insert(&mut self, digest: u128) {
        let line = self.line(digest);
        for bit in bits(digest) {
            self.words[line + bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether the digest may have been inserted.
    pub(super) fn may_hold(&self, digest: u128) -> bool {
        let line = &self.words[self.line(digest)..][..LINE_WORDS];
        // All bits are looked at: a branch for each would be guessed wrong half of the time, and the next
        // filter's memory would only be asked for after that.
        let all = bits(digest).fold(1, |all, bit| all & (line[bit / 64] >> (bit % 64)));
        all & 1 == 1
    }

    /// Where the line of a digest begins. Digests that are close to each other share a line, so that
    /// filling the filter in their order goes through the memory in order, too.
    fn line(&self, digest: u128) -> usize {
        let lines = (self.words.len() / LINE_WORDS) as u128;
        // Both factors have at most 64 bits, and the product's upper half is less than `lines`.
        let line = ((digest >> 64) * lines) >> 64;
        usize::try_from(line).unwrap_or(0) * LINE_WORDS
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.words.len() * 8
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    /// `None` if these are no filter's bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let is_whole = rest.is_empty() && !words.is_empty() && words.len() % LINE_WORDS == 0;
        is_whole.then(|| Self {
            words: words.iter().map(|word| u64::from_le_bytes(*word)).collect(),
        })
    }
}

/// The places within a line, from the half of the digest that doesn't pick the line.
fn bits(digest: u128) -> impl Iterator<Item = usize> {
    (0..PROBES).map(move |probe| (digest >> (9 * probe)) as usize % LINE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> u128 {
        let hash = blake3::hash(&number.to_le_bytes());
        u128::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())
    }

    #[test]
    fn what_was_inserted_is_never_denied() {
        for count in [0, 1, 31, 32, 33, 10_000] {
            let mut filter = Filter::for_keys(count);
            let keys = count as u64;
            (0..keys).for_each(|number| filter.insert(digest(number)));
            let back = Filter::from_bytes(&filter.to_bytes()).unwrap();
            assert_eq!(back, filter);
            assert!((0..keys).all(|number| back.may_hold(digest(number))));
        }
    }

    #[test]
    fn few_of_the_others_are_taken_for_there() {
        const KEYS: u64 = 100_000;
        let mut filter = Filter::for_keys(100_000);
        (0..KEYS).for_each(|number| filter.insert(digest(number)));
        let false_hits = (KEYS..11 * KEYS).filter(|number| filter.may_hold(digest(*number)));
        let false_hits = false_hits.count();
        assert!(false_hits < 3_000, "{false_hits} of a million");
        assert!(!Filter::for_keys(100_000).may_hold(digest(1)));
    }

    #[test]
    fn bytes_of_another_length_are_no_filter() {
        assert!(Filter::from_bytes(&[]).is_none());
        assert!(Filter::from_bytes(&[0; 63]).is_none());
        assert!(Filter::from_bytes(&[0; 72]).is_none());
        assert!(Filter::from_bytes(&[0; 128]).is_some());
    }
}
