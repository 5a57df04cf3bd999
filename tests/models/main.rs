//! Random sequences of calls on the engine, held against a model of what has to come of them.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]

mod model;
mod scope_limit;
