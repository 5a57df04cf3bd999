//! What a [`Register`](crate::register::Register) of your own is tested with.
//!
//! [`conformance`] holds it against everything that the engine expects of it. It is called from a test with what makes
//! a handle to the server, here to a map in this process:
//!
//! ```
//! use onceward::testkit::{Local, conformance};
//!
//! # fn main() {
//! let server = Local::default(); // or your pool of connections
//! let passed = conformance(|| server.clone()); // or your register on that pool
//! assert!(!passed.announces); // yours may
//! println!("{passed}");
//! # }
//! ```
//!
//! It panics if anything is wrong, with the name of each scenario that failed and what it saw. There are three parts:
//!
//! - the contract: loads, swaps, ends, the server's clock, sweeps, scans and announcements, each for itself;
//! - one engine on the register: each row of the table by which it decides about a key;
//! - several engines on it: one grant among many begins, passing on what was abandoned, waiting for another node.
//!
//! If the contract is broken, the others aren't tried: what they would say follows from it.
//!
//! All of it runs on one real server, in cells of its own, and needn't wait for leases and retentions, because the register
//! is [`Shifted`]. Give it a database of the tests' own all the same, which no engine with a
//! [pepper](crate::Builder::pepper) has used: the scans walk through everything that is there, and of a scenario that
//! fails something may stay.
//!
//! A database isn't needed where only your own code is tested: [`Local`] is a register in this process.

// A test kit fails by panicking.
#![allow(clippy::unwrap_used)]

mod contract;
mod local;
mod nodes;
mod random;
mod shifted;
mod suite;
mod table;
#[cfg(test)]
mod tests;

pub use local::Local;
pub use shifted::{Shifted, ShiftedClock};
pub use suite::{Passed, conformance};
