//! The engine from outside: real folders, real threads, real processes.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]
// The durations here are constants.
#![allow(clippy::unchecked_time_subtraction)]

mod accept_damage;
mod ahead;
mod api;
mod bad_input;
mod crash;
mod damage;
#[cfg(feature = "encryption")]
mod encryption;
mod failing_disk;
mod flood;
mod layering;
mod limits;
mod linearizability;
mod merging;
#[cfg(unix)]
mod moved_folder;
#[cfg(feature = "redb")]
mod outcomes;
mod race;
#[cfg(feature = "testkit")]
mod register;
mod reopen;
mod sealing;
#[allow(dead_code, unreachable_pub)] // The tests of other packages use the rest.
#[path = "../support/src/engine.rs"]
mod support;
mod suspended;
mod time;
mod waiting;
