//! One thread that runs short actions when their moment has come.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::{Timeline, Timestamp};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard};

type Action = Box<dyn FnOnce() + Send>;

/// While a machine is suspended, a sleep doesn't go on, and the time line does: so much later it is
/// noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Runs actions on the engine's time line, in the thread `onceward-timer`.
///
/// The thread sleeps until the earliest moment, or until an earlier one is added, but for no longer
/// than [`LONGEST_SLEEP`].
/// A [`ManualClock`](super::ManualClock) wakes it whenever it is moved.
#[derive(Clone)]
pub(crate) struct Timer {
    shared: Arc<Shared>,
}

struct Shared {
    timeline: Timeline,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    actions: BTreeMap<TimerId, Action>,
    next_number: u64,
    /// When the thread will look again by itself; only what comes earlier has to wake it.
    looks_at: Timestamp,
    is_stopped: bool,
}

/// Names a scheduled action, so that it can be cancelled. Ids order by moment, then by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerId(Timestamp, u64);

impl Timer {
    /// Starts the thread; the handle is for whoever stops it.
    pub(crate) fn start(timeline: Timeline) -> std::io::Result<(Self, JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            timeline,
            state: Mutex::new(State {
                actions: BTreeMap::new(),
                next_number: 0,
                looks_at: Timestamp::NEVER,
                is_stopped: false,
            }),
            changed: Condvar::new(),
        });
        let weak = Arc::downgrade(&shared);
        shared.timeline.on_step(Box::new(move || {
            if let Some(shared) = weak.upgrade() {
                // Under the lock, so that the step can't fall between a look and a sleep.
                let _state = shared.state.lock();
                shared.changed.notify_one();
            }
        }));
        let thread_shared = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("onceward-timer".to_owned())
            .spawn(move || thread_shared.run())?;
        Ok((Self { shared }, thread))
    }

    /// Runs `action` at `when`, at once if that has passed. Actions have to be short, and must not
    /// block. After [`stop`](Timer::stop) the action is dropped.
    pub(crate) fn schedule(
        &self,
        when: Timestamp,
        action: impl FnOnce() + Send + 'static,
    ) -> TimerId {
        let mut state = self.shared.state.lock();
        let id = TimerId(when, state.next_number);
        state.next_number += 1;
        if !state.is_stopped {
            state.actions.insert(id, Box::new(action));
            if when < state.looks_at {
                self.shared.changed.notify_one();
            }
        }
        id
    }

    /// Drops an action that hasn't run. The thread is not woken for it: it looks once in vain, and a
    /// steady flow of actions that are scheduled and cancelled costs it nothing.
    pub(crate) fn cancel(&self, id: TimerId) {
        // The action is dropped after the lock is, since it may own what takes locks of its own.
        let action = self.shared.state.lock().actions.remove(&id);
        drop(action);
    }

    /// Drops every action and ends the thread.
    pub(crate) fn stop(&self) {
        let mut state = self.shared.state.lock();
        state.is_stopped = true;
        let actions = std::mem::take(&mut state.actions);
        self.shared.changed.notify_one();
        drop(state);
        drop(actions);
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.is_stopped {
            let Some(TimerId(when, _)) = state.actions.first_key_value().map(|(id, _)| *id) else {
                state.looks_at = Timestamp::NEVER;
                self.changed.wait(&mut state);
                continue;
            };
            let now = self.timeline.now();
            if when > now {
                state.looks_at = when;
                let sleep = when.since(now).min(LONGEST_SLEEP);
                self.changed.wait_for(&mut state, sleep);
                continue;
            }
            let (_, action) = state.actions.pop_first().expect("it was just seen");
            MutexGuard::unlocked(&mut state, || {
                // A waker of somebody's executor may panic; the other waiters still need a timer.
                drop(catch_unwind(AssertUnwindSafe(action)));
            });
        }
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ManualClock;
    use super::*;
    use std::sync::mpsc;

    fn timer() -> (ManualClock, Timeline, Timer, JoinHandle<()>) {
        let clock = ManualClock::new();
        let timeline = Timeline::new(Arc::new(clock.clone()), Timestamp(0));
        let (timer, thread) = Timer::start(timeline.clone()).unwrap();
        (clock, timeline, timer, thread)
    }

    #[test]
    fn actions_run_in_the_order_of_their_moments() {
        let (clock, timeline, timer, thread) = timer();
        let (sender, receiver) = mpsc::channel();
        for seconds in [3, 1, 2] {
            let sender = sender.clone();
            let when = timeline.now().plus(Duration::from_secs(seconds));
            timer.schedule(when, move || sender.send(seconds).unwrap());
        }
        clock.advance(Duration::from_secs(2));
        assert_eq!(receiver.recv().unwrap(), 1);
        assert_eq!(receiver.recv().unwrap(), 2);
        assert!(receiver.try_recv().is_err());
        clock.advance(Duration::from_secs(1));
        assert_eq!(receiver.recv().unwrap(), 3);
        timer.stop();
        thread.join().unwrap();
    }

    #[test]
    fn an_earlier_action_wakes_the_thread_that_sleeps_for_a_later_one() {
        // On the system's clock: a manual one wakes the thread with each step.
        let clock = Arc::new(super::super::SystemClock::new());
        let timeline = Timeline::new(clock, Timestamp(0));
        let (timer, thread) = Timer::start(timeline.clone()).unwrap();
        let (sender, receiver) = mpsc::channel();
        let start = std::time::Instant::now();
        for seconds in [3_600, 1_800, 0] {
            let sender = sender.clone();
            let when = timeline.now().plus(Duration::from_secs(seconds));
            timer.schedule(when, move || sender.send(seconds).unwrap());
            // The thread sleeps for it before the next one comes.
            while seconds > 0 && timer.shared.state.lock().looks_at != when {
                assert!(
                    start.elapsed() < Duration::from_secs(120),
                    "it was not told"
                );
                std::thread::yield_now();
            }
        }
        let limit = Duration::from_secs(120);
        assert_eq!(receiver.recv_timeout(limit), Ok(0));
        timer.stop();
        thread.join().unwrap();
    }

    #[test]
    fn a_cancelled_action_never_runs() {
        let (clock, timeline, timer, thread) = timer();
        let (sender, receiver) = mpsc::channel();
        let cancelled = sender.clone();
        let when = timeline.now().plus(Duration::from_secs(1));
        let id = timer.schedule(when, move || cancelled.send("cancelled").unwrap());
        timer.schedule(when, move || sender.send("kept").unwrap());
        timer.cancel(id);
        clock.advance(Duration::from_secs(1));
        assert_eq!(receiver.recv().unwrap(), "kept");
        timer.stop();
        thread.join().unwrap();
    }

    #[test]
    fn stopping_drops_what_was_scheduled() {
        let (_clock, timeline, timer, thread) = timer();
        let (sender, receiver) = mpsc::channel::<()>();
        timer.schedule(timeline.now().plus(Duration::from_secs(1)), move || {
            drop(sender);
        });
        timer.stop();
        thread.join().unwrap();
        assert!(receiver.recv().is_err());
    }
}
