//! What the tests of several packages share: engines on a clock that is moved, and servers of their own.

// Everything here is for tests, which say what it does by using it, and fail by panicking.
#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    clippy::unwrap_used
)]

pub mod engine;
pub mod start;
