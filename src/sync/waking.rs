//! Waking threads: each by itself or, where many get their answers at the same time, with one call of the system.
//!
//! A thread that waits in [`block_on`](super::block_on) may *join* a group when it asks for something; then it waits on
//! the group's word, and whoever answers all of a group wakes them together. Who is in a group is only ever a question
//! of how many calls it takes: a thread looks whether it was woken after it has said where it waits, and whoever wakes it
//! says so before it looks where that is.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::Wake;

use super::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::thread_local;
use super::word::{Word, words};
use crate::mutant::{self, Mutant};

/// Where a thread waits that is in no group.
const ALONE: usize = usize::MAX;

/// A thread that waits, and where.
pub(super) struct ThreadWaker {
    is_woken: AtomicBool,
    /// Which of the words it waits on, or [`ALONE`].
    group: AtomicUsize,
    own: Word,
}

impl ThreadWaker {
    pub(super) fn new() -> Self {
        Self {
            is_woken: AtomicBool::new(false),
            group: AtomicUsize::new(ALONE),
            own: Word::default(),
        }
    }

    /// Has this thread, in which `poll` runs, wait alone unless it joins a group there.
    pub(super) fn blocking<T>(self: &Arc<Self>, poll: impl FnOnce() -> T) -> T {
        // Mostly it is alone already, and a replay pays for no barrier.
        if self.group.load(Ordering::Relaxed) != ALONE {
            self.group.store(ALONE, Ordering::SeqCst);
        }
        let before = BLOCKED.with(|blocked| blocked.replace(Some(Arc::clone(self))));
        let _blocked_no_more = Restores(before);
        poll()
    }

    /// Waits until somebody has woken this thread.
    pub(super) fn wait(&self) {
        let word = self.word(self.group.load(Ordering::SeqCst));
        loop {
            let seen = word.value();
            if self.is_woken.swap(false, Ordering::SeqCst) {
                return;
            }
            word.wait(seen);
        }
    }

    fn word(&self, group: usize) -> &Word {
        if group == ALONE {
            &self.own
        } else {
            &words()[group]
        }
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_woken.swap(true, Ordering::SeqCst) {
            return;
        }
        let group = self.group.load(Ordering::SeqCst);
        if group == ALONE || !is_deferred(group) {
            self.word(group).wake_all();
        }
    }
}

/// Puts back at the end, and on a panic, what was there before.
struct Restores(Option<Arc<ThreadWaker>>);

impl Drop for Restores {
    fn drop(&mut self) {
        let before = self.0.take();
        BLOCKED.with(|blocked| *blocked.borrow_mut() = before);
    }
}

thread_local! {
    /// The thread itself, while it polls what it waits for.
    static BLOCKED: RefCell<Option<Arc<ThreadWaker>>> = const { RefCell::new(None) };
    /// The groups that are to be woken once all of their answers are given; `None` if each is woken at once.
    static DEFERRED: RefCell<Option<Vec<usize>>> = const { RefCell::new(None) };
}

/// Whether this thread waits for what it asks, and does nothing else meanwhile.
pub(crate) fn is_blocking() -> bool {
    // What a thread drops as it ends may ask for something, too.
    BLOCKED
        .try_with(|blocked| blocked.borrow().is_some())
        .unwrap_or(false)
}

/// Notes that a group is to be woken, if this thread is giving answers to many.
fn is_deferred(group: usize) -> bool {
    let note = |deferred: &RefCell<Option<Vec<usize>>>| {
        let mut deferred = deferred.borrow_mut();
        let Some(groups) = &mut *deferred else {
            return false;
        };
        if !groups.contains(&group) {
            groups.push(group);
        }
        true
    };
    DEFERRED.try_with(note).unwrap_or(false)
}

/// Gives answers to many, who are woken when all have theirs.
pub(crate) fn together(answer: impl FnOnce()) {
    let begin = |deferred: &RefCell<Option<Vec<usize>>>| deferred.replace(Some(Vec::new()));
    let Ok(outer) = DEFERRED.try_with(begin) else {
        return answer();
    };
    // On a panic nobody has to be left asleep.
    let _woken_at_the_end = WakesDeferred { outer };
    answer();
}

struct WakesDeferred {
    /// Of whoever gives answers, and one of whose wakes has led here.
    outer: Option<Vec<usize>>,
}

impl Drop for WakesDeferred {
    fn drop(&mut self) {
        let outer = self.outer.take();
        let groups = DEFERRED.with(|deferred| deferred.replace(outer));
        let lost = usize::from(mutant::is_on(Mutant::WakeLost));
        for group in groups.unwrap_or_default().into_iter().skip(lost) {
            words()[group].wake_all();
        }
    }
}

/// Those who ask for something until a batch begins, which answers all of them.
#[derive(Debug)]
pub(crate) struct Groups {
    current: AtomicUsize,
}

impl Groups {
    pub(crate) fn new() -> Self {
        // Engines begin with different words.
        const APART: usize = 31;
        static ENGINES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let first = APART * ENGINES.fetch_add(1, Ordering::Relaxed);
        Self {
            current: AtomicUsize::new(first % words().len()),
        }
    }

    /// Puts this thread into the current group, if it blocks for what it asks.
    pub(crate) fn join(&self) {
        let join = |blocked: &RefCell<Option<Arc<ThreadWaker>>>| {
            if let Some(thread) = &*blocked.borrow() {
                let group = self.current.load(Ordering::Relaxed);
                thread.group.store(group, Ordering::SeqCst);
            }
        };
        let _joined = BLOCKED.try_with(join);
    }

    /// Whoever joins from here on is in another group.
    pub(crate) fn next(&self) {
        let next = self.current.load(Ordering::Relaxed) + 1;
        self.current.store(next % words().len(), Ordering::Relaxed);
    }
}
