//! The stores that span machines, on real servers that the tests start, kill and stop: on loopback, in temporary folders.
//!
//! The servers are those of Debian's packages `postgresql` and `redis-server`. A test whose server is missing fails; with
//! `ONCEWARD_SKIP_SERVERS` set, it says so and passes.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]
// The durations here are constants.
#![allow(clippy::unchecked_time_subtraction)]

mod acknowledged;
mod conformance;
mod http;
mod kills;
mod layers;
mod ledger;
mod linearizability;
mod losses;
mod node;
mod nodes;
mod on_postgres;
mod on_redis;
mod profiles;
mod shared;
mod transactions;
