//! The stores that span machines, on real servers that the tests start, kill and stop.
//!
//! They need the servers' programs. With `ONCEWARD_SKIP_SERVERS` set, a test whose program is missing says so and passes.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]

mod on_redis;
mod start;
mod watched;
