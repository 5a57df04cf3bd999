//! Threads. `shuttle`'s own `park` returns whenever its scheduler likes, which takes most of the steps of a schedule,
//! and a thread's priority from it; this one returns when the thread was unparked.

use std::sync::Arc;

pub(crate) use shuttle::thread::{Builder, JoinHandle, sleep, yield_now};

use super::{Condvar, Mutex};

#[derive(Debug, Default)]
struct Token {
    is_there: Mutex<bool>,
    changed: Condvar,
}

shuttle::thread_local! {
    static TOKEN: Arc<Token> = Arc::default();
}

#[derive(Clone, Debug)]
pub(crate) struct Thread {
    inner: shuttle::thread::Thread,
    token: Arc<Token>,
}

impl Thread {
    pub(crate) fn name(&self) -> Option<&str> {
        self.inner.name()
    }

    pub(crate) fn unpark(&self) {
        *self.token.is_there.lock() = true;
        self.token.changed.notify_one();
    }
}

pub(crate) fn current() -> Thread {
    Thread {
        inner: shuttle::thread::current(),
        token: TOKEN.with(Arc::clone),
    }
}

pub(crate) fn park() {
    let token = TOKEN.with(Arc::clone);
    let mut is_there = token.is_there.lock();
    while !*is_there {
        token.changed.wait(&mut is_there);
    }
    *is_there = false;
}
