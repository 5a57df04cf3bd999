//! The engine beside what programs use with it: executors, a recorder of metrics, a subscriber of spans.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]

mod async_forms;
mod observability;
