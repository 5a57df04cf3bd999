//! What happens to the process that makes a transfer.

use std::process::abort;
use std::thread::{sleep, spawn};
use std::time::Duration;

use super::LEASE;
use crate::node::say;

/// How many transfers out of a hundred meet with something.
const FATED: u64 = 6;
/// A commit takes about so long.
const COMMIT: Duration = Duration::from_millis(2);

/// Numbers that a seed gives, by `SplitMix64`.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1);
            items.swap(last, usize::try_from(other).unwrap());
        }
    }

    pub(super) fn part_of(&mut self, whole: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(whole.as_micros()).unwrap()))
    }
}

/// A moment in the course of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    BeforeCompletion,
    BeforeCommit,
    DuringCommit,
    BeforeConfirmation,
    AfterConfirmation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Undisturbed,
    DiesAt(Moment),
    /// For longer than the lease.
    StallsAt(Moment),
    NeverConfirms,
}

impl Fate {
    /// All that a run has to have met with.
    pub(super) const ALL: [Self; 8] = [
        Self::DiesAt(Moment::BeforeCompletion),
        Self::DiesAt(Moment::BeforeCommit),
        Self::DiesAt(Moment::DuringCommit),
        Self::DiesAt(Moment::BeforeConfirmation),
        Self::DiesAt(Moment::AfterConfirmation),
        Self::StallsAt(Moment::BeforeCompletion),
        Self::StallsAt(Moment::BeforeCommit),
        Self::NeverConfirms,
    ];

    pub(super) fn drawn(random: &mut Random) -> Self {
        if random.below(100) >= FATED {
            return Self::Undisturbed;
        }
        let one = random.below(Self::ALL.len() as u64);
        Self::ALL[usize::try_from(one).unwrap()]
    }

    /// Is told which moment it is.
    pub(super) fn meets(self, moment: Moment, random: &mut Random) {
        match self {
            Self::DiesAt(last) if last == moment && moment == Moment::DuringCommit => {
                let wait = random.part_of(COMMIT);
                spawn(move || {
                    sleep(wait);
                    self.is_met();
                    abort();
                });
            }
            Self::DiesAt(last) if last == moment => {
                self.is_met();
                abort();
            }
            Self::StallsAt(stall) if stall == moment => {
                self.is_met();
                sleep(2 * LEASE);
            }
            _ => {}
        }
    }

    pub(super) fn confirms(self) -> bool {
        if self == Self::NeverConfirms {
            self.is_met();
        }
        self != Self::NeverConfirms
    }

    fn is_met(self) {
        say(&format!("met {self:?}"));
    }
}
