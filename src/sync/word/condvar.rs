//! Where there is no call of the system that wakes all who wait for a number: a condition does.

use super::{Condvar, Mutex};

/// A number that changes whenever those who wait for it are woken.
#[derive(Debug, Default)]
pub(crate) struct Word {
    value: Mutex<u32>,
    changed: Condvar,
}

impl Word {
    pub(crate) fn value(&self) -> u32 {
        *self.value.lock()
    }

    /// Waits until it isn't what was seen, or for no reason.
    pub(crate) fn wait(&self, seen: u32) {
        let mut value = self.value.lock();
        if *value == seen {
            self.changed.wait(&mut value);
        }
    }

    pub(crate) fn wake_all(&self) {
        let mut value = self.value.lock();
        *value = value.wrapping_add(1);
        drop(value);
        self.changed.notify_all();
    }
}

const WORDS: usize = 16;

/// Shared by all engines of the process, or of a schedule.
#[cfg(not(onceward_shuttle))]
pub(crate) fn words() -> &'static [Word] {
    static ALL: std::sync::OnceLock<Vec<Word>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| std::iter::repeat_with(Word::default).take(WORDS).collect())
}

#[cfg(onceward_shuttle)]
pub(crate) fn words() -> &'static [Word] {
    shuttle::lazy_static! {
        static ref ALL: Vec<Word> = std::iter::repeat_with(Word::default).take(WORDS).collect();
    }
    &ALL
}
