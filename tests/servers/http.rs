//! The tests of what the documented APIs answer, the same as in `crates/onceward-http`: on the store that this process was
//! told, where [`profiles`](crate::profiles) starts it; otherwise on a register in this process.

#[path = "../../crates/onceward-http/tests/http/bad_keys.rs"]
mod bad_keys;
#[path = "../../crates/onceward-http/tests/http/bodies.rs"]
mod bodies;
#[path = "../../crates/onceward-http/tests/http/concurrency.rs"]
mod concurrency;
mod engines;
#[path = "../../crates/onceward-http/tests/http/profiles.rs"]
mod profiles;
#[allow(dead_code)] // Trailers are another test's.
#[path = "../../crates/onceward-http/tests/http/raw.rs"]
mod raw;
#[path = "../../crates/onceward-http/tests/http/servers.rs"]
mod servers;
