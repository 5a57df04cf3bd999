//! The stores that span machines, on real servers that the tests start, kill and stop: on loopback, in temporary folders.
//!
//! The servers are those of Debian's packages `postgresql` and `redis-server`. A test whose server is missing fails; with
//! `ONCEWARD_SKIP_SERVERS` set, it says so and passes.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]

mod example_server;
mod kills;
mod ledger;
mod node;
mod nodes;
mod on_postgres;
mod on_redis;
mod shared;
mod start;
mod transactions;

use onceward::{Fingerprint, Key};

fn key(text: impl AsRef<str>) -> Key {
    Key::new("tenant", text).unwrap()
}

fn request() -> Fingerprint {
    Fingerprint::of("request")
}
