//! Threads that are woken together, with one call of the system for a batch, as onceward wakes its
//! callers.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use futures_channel::oneshot::{Canceled, Receiver};
use rustix::thread::futex::{self, Flags};

const WORDS: usize = 256;

/// The words that threads wait on: all who ask before a batch is taken share one.
pub(crate) struct Words {
    words: [AtomicU32; WORDS],
    current: AtomicUsize,
}

impl Words {
    pub(crate) fn new() -> Self {
        Self {
            words: [const { AtomicU32::new(0) }; WORDS],
            current: AtomicUsize::new(0),
        }
    }

    /// The word of those who ask now.
    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// A batch was taken: who asks from here on waits on another word.
    pub(crate) fn next(&self) {
        let next = self.current.load(Ordering::Relaxed) + 1;
        self.current.store(next % WORDS, Ordering::Relaxed);
    }

    /// Waits on a word until an answer is there.
    pub(crate) fn wait<T>(&self, word: usize, answer: &mut Receiver<T>) -> Result<T, Canceled> {
        let word = &self.words[word];
        loop {
            let seen = word.load(Ordering::SeqCst);
            if let Some(answer) = answer.try_recv()? {
                return Ok(answer);
            }
            // An interruption, or a number that has changed, means to look again.
            let _looks_again = futex::wait(word, Flags::PRIVATE, seen, None);
        }
    }

    pub(crate) fn wake(&self, word: usize) {
        const ALL: u32 = i32::MAX.unsigned_abs();
        self.words[word].fetch_add(1, Ordering::SeqCst);
        let _woken = futex::wake(&self.words[word], Flags::PRIVATE, ALL);
    }

    /// For the end: whoever waits finds its answer, or that there will be none.
    pub(crate) fn wake_all(&self) {
        (0..WORDS).for_each(|word| self.wake(word));
    }
}
