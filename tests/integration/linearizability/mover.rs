//! Who moves the clock, and notes when.

use std::sync::RwLock;
use std::time::Duration;

use onceward::ManualClock;

use super::reference::Time;
use super::worker::Random;

pub(super) struct Mover<'a> {
    clock: &'a ManualClock,
    /// Held while it moves.
    moving: &'a RwLock<()>,
    random: Random,
    pub(super) moves: Vec<Move>,
}

/// A move of the clock, between two moments.
#[derive(Clone, Copy)]
pub(super) struct Move {
    pub(super) called: u64,
    pub(super) returned: u64,
    pub(super) by: Time,
}

impl<'a> Mover<'a> {
    pub(super) fn new(clock: &'a ManualClock, moving: &'a RwLock<()>) -> Self {
        Self {
            clock,
            moving,
            random: Random(0x2545_f491_4f6c_dd1d),
            moves: Vec::new(),
        }
    }

    /// Passes every fourth time that it is asked; gives whether it has.
    pub(super) fn may_pass(&mut self, moment: &impl Fn() -> u64) -> bool {
        let is_due = self.random.below(4) == 0;
        if is_due {
            self.pass(moment);
        }
        is_due
    }

    pub(super) fn pass(&mut self, moment: &impl Fn() -> u64) {
        let by = self.random.step();
        let _moving = self.moving.write().unwrap();
        let called = moment();
        self.clock.advance(Duration::from_millis(by));
        let returned = moment();
        self.moves.push(Move {
            called,
            returned,
            by,
        });
    }
}
