//! Choices that can be made again.

/// A generator whose seed names a case, or that makes the choices it was given.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    /// The last one comes first.
    given: Vec<u8>,
}

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        let given = Vec::new();
        Self { seed, given }
    }

    /// Each number is one of these bytes, and then one of a fixed seed's.
    pub fn given(bytes: &[u8]) -> Self {
        let given = bytes.iter().rev().copied().collect();
        Self { seed: 0, given }
    }

    /// Whether there are bytes that were given and not used.
    pub fn has_given(&self) -> bool {
        !self.given.is_empty()
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        if let Some(byte) = self.given.pop() {
            return u64::from(byte);
        }
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let below = self.next() % end.max(1) as u64;
        usize::try_from(below).unwrap_or(usize::MAX)
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        if let Some(byte) = self.given.pop() {
            // One choice is enough: what is in them makes no difference.
            return vec![byte; count];
        }
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// A share in 256ths: none, all, half, or any.
    pub(super) fn share(&mut self) -> usize {
        match self.below(4) {
            0 => 0,
            1 => 256,
            2 => 128,
            _ => self.below(257),
        }
    }

    pub(super) fn is_below(&mut self, share: usize) -> bool {
        self.below(256) < share
    }
}
