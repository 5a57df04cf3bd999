//! Linux: threads wait on a number in memory, and one call of the system wakes all of them.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex::{self, Flags};

/// A number that changes whenever those who wait for it are woken.
#[derive(Debug, Default)]
pub(crate) struct Word(AtomicU32);

impl Word {
    const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn value(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until it isn't what was seen, or for no reason.
    pub(crate) fn wait(&self, seen: u32) {
        // An interruption, or a number that has changed, means to look again.
        let _looks_again = futex::wait(&self.0, Flags::PRIVATE, seen, None);
    }

    pub(crate) fn wake_all(&self) {
        const ALL: u32 = i32::MAX.unsigned_abs();
        self.0.fetch_add(1, Ordering::SeqCst);
        // It only fails for what isn't a number in memory.
        let _woken = futex::wake(&self.0, Flags::PRIVATE, ALL);
    }
}

/// Shared by all engines of the process.
pub(crate) fn words() -> &'static [Word] {
    static WORDS: [Word; 256] = [const { Word::new() }; 256];
    &WORDS
}
