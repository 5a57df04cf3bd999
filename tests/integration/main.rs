//! The engine from outside: real folders, real threads, real processes.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]
// The durations here are constants.
#![allow(clippy::unchecked_time_subtraction)]

mod api;
mod async_forms;
mod bad_input;
mod crash;
mod damage;
#[cfg(feature = "encryption")]
mod encryption;
mod failing_disk;
mod flood;
#[cfg(all(feature = "axum", feature = "actix"))]
mod http;
mod layering;
mod limits;
mod linearizability;
mod merging;
mod model;
#[cfg(unix)]
mod moved_folder;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod observability;
#[cfg(feature = "redb")]
mod outcomes;
mod race;
#[cfg(feature = "testkit")]
mod register;
mod reopen;
mod scope_limit;
mod sealing;
mod support;
mod suspended;
mod time;
mod waiting;
