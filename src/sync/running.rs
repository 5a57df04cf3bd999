//! How many commands are under way, so that a close can wait for them.

use std::sync::Arc;

use super::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(crate) struct Running {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    commands: usize,
    is_closed: bool,
}

/// A command that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Run(Arc<Running>);

impl Running {
    /// `None` once the store was closed.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Run> {
        let mut state = self.state.lock();
        if state.is_closed {
            return None;
        }
        state.commands += 1;
        Some(Run(Arc::clone(self)))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Lets no more commands begin, and waits for those that have begun.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        while state.commands > 0 {
            self.changed.wait(&mut state);
        }
    }

    pub(crate) fn commands(&self) -> usize {
        self.state.lock().commands
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.commands -= 1;
        if state.commands == 0 {
            // Several may close at once.
            self.0.changed.notify_all();
        }
    }
}
