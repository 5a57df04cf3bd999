//! The tests of what the documented APIs answer, the same as in `tests/integration`: on the store that this process was
//! told, where [`profiles`](crate::profiles) starts it; otherwise on a register in this process.

#[path = "../integration/http/bad_keys.rs"]
mod bad_keys;
#[path = "../integration/http/bodies.rs"]
mod bodies;
#[path = "../integration/http/concurrency.rs"]
mod concurrency;
mod engines;
#[path = "../integration/http/profiles.rs"]
mod profiles;
#[allow(dead_code)] // Trailers are another test's.
#[path = "../integration/http/raw.rs"]
mod raw;
#[path = "../integration/http/servers.rs"]
mod servers;
