//! The layers over real sockets, with real clients.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]
// The durations here are constants.
#![allow(clippy::unchecked_time_subtraction)]

mod engines;
mod raw;
mod servers;

mod bad_keys;
mod bodies;
mod concurrency;
mod failing_store;
mod hyper_server;
mod layer;
mod nodes;
mod openapi;
mod pending;
mod profiles;
