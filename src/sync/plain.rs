//! What the engine runs on.

use std::time::Instant;

pub(crate) use std::sync::atomic;
pub(crate) use std::{thread, thread_local};

pub(crate) use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded, unbounded,
};
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

/// Waits until one of two channels has a message, or no senders any more, or until then. It may be so in vain. Gives
/// whether it is so.
pub(crate) fn ready_either<A, B>(
    first: &Receiver<A>,
    second: &Receiver<B>,
    until: Option<Instant>,
) -> bool {
    let mut select = crossbeam_channel::Select::new();
    select.recv(first);
    select.recv(second);
    match until {
        None => {
            select.ready();
            true
        }
        Some(until) => select.ready_deadline(until).is_ok(),
    }
}

/// The next message of the first channel or, if that is empty, of the second, turned by `turn`; waits for one until
/// then. `None` if nothing came, or once the senders of one of them are gone.
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
