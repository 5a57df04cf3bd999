//! Locks, atomics, channels and threads, for every place where threads of an engine meet.
//!
//! They are `parking_lot`'s, `crossbeam_channel`'s and the standard library's. With `--cfg onceward_shuttle` the same
//! names stand for `shuttle`'s, which decides at each of them which thread goes on (`docs/RELIABILITY.md`). All of them
//! are then one thread to the system. So a lock that isn't from here must not be held while anything from here is
//! used: that is why redb and its backends have locks of their own, and call nothing that has one from here.

mod blocking;
#[cfg(onceward_shuttle)]
mod explored;
pub(crate) mod first;
#[cfg(not(onceward_shuttle))]
mod plain;
#[cfg_attr(not(any(test, feature = "register")), allow(dead_code))]
pub(crate) mod running;
pub(crate) mod waking;
#[cfg(all(target_os = "linux", not(onceward_shuttle)))]
#[path = "word/futex.rs"]
mod word;
#[cfg(not(all(target_os = "linux", not(onceward_shuttle))))]
#[path = "word/condvar.rs"]
mod word;

pub(crate) use blocking::block_on;
#[cfg(onceward_shuttle)]
pub(crate) use explored::*;
#[cfg(not(onceward_shuttle))]
pub(crate) use plain::*;
