//! How the one budget for page caches is split: redb fixes a file's share when it is opened.

/// redb needs room for the pages of one commit.
const LEAST_WRITABLE_BYTES: usize = 256 << 10;
/// Room for the pages of one look-up.
const LEAST_SEALED_BYTES: usize = 32 << 10;

/// The bytes of all page caches together.
///
/// A sixteenth each goes to the file that is being sealed and the one that others are merged into, and three quarters to
/// the sealed segments, each according to its size. Logs have none: what is read from them is in the system's cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(pub(super) usize);

impl Budget {
    /// The share of the file that is being sealed, and of the one that others are merged into. Nothing is read
    /// from these while they are written.
    pub(super) fn sealing(self) -> usize {
        (self.0 / 16).max(LEAST_WRITABLE_BYTES)
    }

    /// The share of a file that is read once, from end to end.
    pub(super) fn passing() -> usize {
        LEAST_SEALED_BYTES
    }

    /// The share of a sealed segment with so many entries, of all. It changes with their sum in few steps only,
    /// because a change means to open them all anew.
    pub(super) fn sealed(self, entries: u64, of_all: u64) -> usize {
        let power = u128::from(of_all.max(entries).max(4)).next_power_of_two();
        let step = if u128::from(of_all) <= power / 4 * 3 {
            power / 4 * 3
        } else {
            power
        };
        let share = (self.0 / 4 * 3) as u128 * u128::from(entries) / step;
        usize::try_from(share).unwrap_or(0).max(LEAST_SEALED_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_stay_within_the_budget_and_change_seldom() {
        let budget = Budget(64 << 20);
        let mut changes = 0;
        for segments in 1..1_000 {
            let share = |segments| budget.sealed(400_000, segments * 400_000);
            let all = share(segments) as u64 * segments;
            let others = 2 * budget.sealing();
            assert!(all + others as u64 <= 64 << 20);
            assert!(all >= 24 << 20, "{segments}");
            changes += usize::from(share(segments) != share(segments + 1));
        }
        assert!(changes < 24, "{changes}");
    }

    #[test]
    fn a_larger_segment_has_a_larger_share() {
        let budget = Budget(64 << 20);
        let (small, large) = (budget.sealed(100, 1_000), budget.sealed(400, 1_000));
        assert!(large >= 4 * small && large <= 4 * (small + 1));
        for (entries, of_all) in [(0, 0), (1, u64::MAX), (u64::MAX, u64::MAX), (9, 3)] {
            let share = budget.sealed(entries, of_all);
            assert!((LEAST_SEALED_BYTES..=48 << 20).contains(&share));
        }
    }
}
