//! How the one budget for page caches is split: redb fixes a file's share when it is opened.

/// redb needs room for the pages of one commit.
const LEAST_WRITABLE_BYTES: usize = 256 << 10;
/// Room for the pages of one look-up.
const LEAST_SEALED_BYTES: usize = 32 << 10;
/// Shares are cut for at least so many sealed segments.
const LEAST_SEALED: usize = 8;

/// The bytes of all page caches together.
///
/// An eighth goes to each journal, of which there are at most three as long as sealing works (the active one and two
/// that wait), an eighth to the file that is being sealed, and half to the sealed segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(pub(super) usize);

impl Budget {
    /// The share of a file that is written to.
    pub(super) fn writable(self) -> usize {
        (self.0 / 8).max(LEAST_WRITABLE_BYTES)
    }

    /// The share of each of so many sealed segments. It changes with the number in few steps only,
    /// because a change means to open them all anew.
    pub(super) fn sealed(self, segments: usize) -> usize {
        let segments = segments.max(LEAST_SEALED);
        let power = segments.next_power_of_two();
        let step = if segments <= power / 4 * 3 {
            power / 4 * 3
        } else {
            power
        };
        (self.0 / 2 / step).max(LEAST_SEALED_BYTES)
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
            let share = budget.sealed(segments);
            assert!(share * segments + 4 * budget.writable() <= budget.0);
            assert!(
                share * segments.max(LEAST_SEALED) >= budget.0 / 4,
                "{segments}"
            );
            changes += usize::from(share != budget.sealed(segments + 1));
        }
        assert!(changes < 16, "{changes}");
    }
}
