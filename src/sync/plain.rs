//! What the engine runs on.

use std::time::Instant;

pub(crate) use std::sync::atomic;
pub(crate) use std::{thread, thread_local};

pub(crate) use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded, unbounded,
};
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

/// The next message of the first channel or, if that is empty, of the second, turned by `turn`; waits for one. `None`
/// once the senders of one of them are gone.
pub(crate) fn recv_either<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    turn: impl FnOnce(B) -> A,
) -> Option<A> {
    crossbeam_channel::select_biased! {
        recv(first) -> message => message.ok(),
        recv(second) -> message => message.ok().map(turn),
    }
}

/// [`recv_either`], which waits until then. `None` if nothing came, too.
pub(crate) fn recv_either_until<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    turn: impl FnOnce(B) -> A,
    until: Instant,
) -> Option<A> {
    crossbeam_channel::select_biased! {
        recv(first) -> message => message.ok(),
        recv(second) -> message => message.ok().map(turn),
        default(until.saturating_duration_since(Instant::now())) => None,
    }
}
