//! Channels with `crossbeam_channel`'s semantics, as far as the engine relies on them: a channel with a limit keeps
//! what it holds when its receivers are gone, one without discards it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use crossbeam_channel::{RecvTimeoutError, TryRecvError, TrySendError};

use super::Mutex;
use super::thread::{self, Thread};

struct Shared<T> {
    state: Mutex<State<T>>,
    most: Option<usize>,
}

struct State<T> {
    messages: VecDeque<T>,
    senders: usize,
    receivers: usize,
    /// Who is to look again when there is something new.
    waiting: Vec<Thread>,
}

pub(crate) struct Sender<T>(Arc<Shared<T>>);
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

pub(crate) fn bounded<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    channel(Some(most))
}

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    channel(None)
}

fn channel<T>(most: Option<usize>) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            messages: VecDeque::new(),
            senders: 1,
            receivers: 1,
            waiting: Vec::new(),
        }),
        most,
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut state = self.0.state.lock();
        if state.receivers == 0 {
            drop(state);
            return Err(TrySendError::Disconnected(message));
        }
        if self.0.most.is_some_and(|most| state.messages.len() >= most) {
            drop(state);
            return Err(TrySendError::Full(message));
        }
        state.messages.push_back(message);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.iter().for_each(Thread::unpark);
        Ok(())
    }

    /// Nobody in the engine waits for room.
    pub(crate) fn send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.try_send(message).inspect_err(|error| {
            assert!(error.is_disconnected(), "the channel is full");
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.state.lock().messages.len()
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.0.state.lock();
        match state.messages.pop_front() {
            Some(message) => Ok(message),
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    pub(crate) fn recv(&self) -> Result<T, RecvTimeoutError> {
        loop {
            match self.try_recv_or_enlist() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => thread::park(),
            }
        }
    }

    pub(crate) fn recv_timeout(&self, _time: Duration) -> Result<T, RecvTimeoutError> {
        self.recv()
    }

    pub(crate) fn recv_deadline(&self, _until: Instant) -> Result<T, RecvTimeoutError> {
        self.recv()
    }

    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    /// Whether there is a message, or never will be; has this thread unparked otherwise when there may be one.
    fn is_ready_or_enlist(&self) -> bool {
        let mut state = self.0.state.lock();
        let is_ready = !state.messages.is_empty() || state.senders == 0;
        if !is_ready {
            state.waiting.push(thread::current());
        }
        is_ready
    }

    /// Takes a message, or has this thread unparked when there may be one. It may be unparked in vain later on.
    fn try_recv_or_enlist(&self) -> Result<T, TryRecvError> {
        let mut state = self.0.state.lock();
        match state.messages.pop_front() {
            Some(message) => Ok(message),
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => {
                state.waiting.push(thread::current());
                Err(TryRecvError::Empty)
            }
        }
    }
}

pub(crate) fn ready_either<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    _until: Option<Instant>,
) -> bool {
    while !first.is_ready_or_enlist() && !second.is_ready_or_enlist() {
        thread::park();
    }
    true
}

fn recv_either<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    turn: impl FnOnce(B) -> A,
) -> Option<A> {
    loop {
        match first.try_recv_or_enlist() {
            Err(TryRecvError::Empty) => {}
            taken => return taken.ok(),
        }
        match second.try_recv_or_enlist() {
            Err(TryRecvError::Empty) => thread::park(),
            taken => return taken.ok().map(turn),
        }
    }
}

pub(crate) fn recv_either_until<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    turn: impl FnOnce(B) -> A,
    _until: Instant,
) -> Option<A> {
    recv_either(first, second, turn)
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().receivers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.senders -= 1;
        let waiting = match state.senders {
            0 => std::mem::take(&mut state.waiting),
            _ => Vec::new(),
        };
        drop(state);
        waiting.iter().for_each(Thread::unpark);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.receivers -= 1;
        let discarded = match (state.receivers, self.0.most) {
            (0, None) => std::mem::take(&mut state.messages),
            _ => VecDeque::new(),
        };
        // What is discarded may wake others, or ask them to do something.
        drop(state);
        drop(discarded);
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}

pub(crate) struct IntoIter<T>(Receiver<T>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}
