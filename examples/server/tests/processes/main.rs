//! The payment server as processes that are killed and stopped, with clients that people use, and on stores that several of them
//! share.

// A test fails by panicking; in helpers outside of `#[test]` functions, too.
#![allow(clippy::unwrap_used)]

mod clients;
mod demo;
mod process;
mod stores;
