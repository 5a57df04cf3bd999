//! Numbers that nobody else has: versions of values, and tokens of grants.

use super::Version;
use crate::clock::Timestamp;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The low bits of a token, which are counted; the others are the server's milliseconds.
const COUNTED_BITS: u32 = 20;

#[derive(Debug)]
pub(super) struct Versions {
    seed: u64,
    counted: AtomicU64,
    granted: AtomicU64,
}

impl Versions {
    /// Those after a random one, which was used.
    pub(super) fn after(first: Version) -> Self {
        Self {
            seed: first.0,
            counted: AtomicU64::new(1),
            // Nodes begin apart, so that two of them hardly give the same token in the same millisecond.
            granted: AtomicU64::new(first.0 >> (u64::BITS - COUNTED_BITS + 1)),
        }
    }

    /// Never the same twice here, and as likely as any other elsewhere.
    pub(super) fn next(&self) -> Version {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let count = self.counted.fetch_add(1, Ordering::Relaxed);
        Version(self.seed.wrapping_add(count.wrapping_mul(ODD)))
    }

    /// A token that is higher than the key's last one, and than all that the key had before its value was last removed:
    /// that was longer ago than clocks are apart. Never the same twice here in a millisecond.
    pub(super) fn token_after(&self, last: u64, now: Timestamp) -> u64 {
        let count = self.granted.fetch_add(1, Ordering::Relaxed) % (1 << COUNTED_BITS);
        // Where the clock is behind the last token, two nodes go on from there, and apart.
        let apart = self.seed >> (u64::BITS - COUNTED_BITS);
        (now.0 << COUNTED_BITS | count).max(last.saturating_add(1 + apart))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tokens_of_one_millisecond_are_not_the_same_on_two_nodes_or_for_two_keys() {
        let nodes = [1 << 63, u64::MAX - 1, 0].map(|first| Versions::after(Version(first)));
        let tokens = nodes.iter().flat_map(|node| {
            let now = Timestamp(1_800_000_000_000);
            (0..1_000).map(move |_| node.token_after(0, now))
        });
        let tokens: HashSet<_> = tokens.collect();
        assert_eq!(tokens.len(), 3_000);
    }
}
