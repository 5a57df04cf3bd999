//! An embedded, persistent idempotency engine for Rust servers.
//!
//! A handler is wrapped in [`begin`](Engine::begin) and [`complete`](Guard::complete). A retry with the
//! same idempotency key gets the first answer back instead of a second execution:
//!
//! ```
//! use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("idempotency");
//! # let request_bytes = b"{\"amount\":100}";
//! let engine = Engine::open(&path)?; // a folder of the engine's own
//! let key = Key::new("acct_42", "550e8400-e29b-41d4-a716-446655440000")?; // scope, then key
//! let fingerprint = Fingerprint::of(request_bytes);
//!
//! match engine.begin(&key, &fingerprint)? {
//!     Outcome::Proceed(guard) => {
//!         let body = "charged"; // the handler's work, done once
//!         guard.complete(Reply::new(201, body))?;
//!     }
//!     Outcome::Replay(reply) => println!("again: {}", reply.status()),
//!     Outcome::Conflict(_) => println!("the key was used with another request"),
//!     Outcome::InFlight(in_flight) => println!("retry after {:?}", in_flight.retry_after()),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What happens to a key
//!
//! - A **key** lives in a **scope**, such as a tenant: [`Key`].
//! - The **fingerprint** tells a retry from another request under the same key: [`Fingerprint`].
//! - A grant is an **attempt**. Its [`Guard`] holds the key under a **lease** of 2 minutes, which can be
//!   renewed. An attempt that is abandoned (dropped guard, panic, dead process) leaves the key taken until
//!   its lease ends; then the next begin is granted, as attempt 2.
//! - A completed attempt's [`Reply`] is **replayed** for the **retention**, 24 hours from its completion.
//! - Each grant has a **fencing token** that rises and is never used again: [`Guard::token`].
//!
//! # What is promised
//!
//! In this order, across threads, `kill -9`, restarts and, for the embedded store, power cuts. While the engine
//! is open, no step of the wall clock matters; across a restart, a clock that was set forward is believed.
//!
//! 1. While a lease runs, at most one guard exists per key.
//! 2. Once `complete` has returned, every retry inside the retention gets exactly those bytes.
//! 3. An answer reaches only the scope, key and fingerprint that produced it. Damage is an error, never a
//!    different answer and never 'absent'.
//! 4. A guard whose lease was taken over can't complete, renew or release.
//! 5. An abandoned key is available again, to the same request, when its lease ends: not earlier, not later.
//! 6. If the store can't answer, the caller gets an error, never `Proceed`.
//!
//! What can't be promised: if the process dies after the side effect and before `complete`, the next attempt
//! runs the handler again. [`Guard::attempt`] is then greater than 1, until the lease has been over
//! for a retention. Derive the keys of downstream calls from this key, so that they are idempotent
//! in their turn, or check first whether the effect is there. Under [`OnAbandon::Hold`] nothing is
//! ever run again by itself; an operator decides with [`Engine::resolve`].
//!
//! # In async code
//!
//! Each call that may wait for the disk has an `_async` form that works on any executor:
//!
//! ```
//! use onceward::{Engine, Fingerprint, Key, Reply};
//!
//! # async fn charge() -> Result<Reply, std::io::Error> { Ok(Reply::new(201, "charged")) }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { futures::executor::block_on(async {
//! let engine = Engine::builder().open_in_memory()?;
//! let key = Key::new("acct_42", "order-17")?;
//! let reply = engine
//!     .run_async(&key, &Fingerprint::of("request"), || charge())
//!     .await?;
//! assert_eq!(reply.status(), 201);
//! # Ok(()) }) }
//! ```
//!
//! # In front of HTTP handlers
//!
//! The crate [`onceward-http`](https://docs.rs/onceward-http) has layers for axum, tonic, hyper and actix-web that do all of this
//! around a handler, and answer as a documented API does: Deck's, Deel's, Stripe's, the IETF draft's, or your own.
//!
//! # On several machines
//!
//! With [`onceward-postgres`](https://docs.rs/onceward-postgres) or [`onceward-redis`](https://docs.rs/onceward-redis), engines share
//! a server instead of having a folder each, and a handler's change in a database can commit together with its reply.
#![cfg_attr(feature = "register", doc = "The guide is in [`machines`].")]
//!
//! # Features
//!
//! All are off by default.
//!
//! - `metrics`, `tracing`: what happens, for those who watch it.
//! - `encryption`: of replies on the disk.
//! - `register`: engines on several machines that share a store, and effects that commit with their reply.
//! - `redb`: replies in the transactions of a redb 4 database of your own.
//! - `testkit`: the suite that tests a register of your own.
//!
//! # Limits
//!
//! Everything has one: see [`limits`] and [`Builder`]. [`Engine::stats`] shows what is used, and
//! [`Engine::health`] whether grants are possible.
//!
//! # Requirements
//!
//! The folder has to be on a local file system that honours `fdatasync` and file locks. Every test
//! runs on Linux; macOS and Windows are meant to work and are not tested. Keep `panic = "unwind"`: redb may panic on a damaged file,
//! and the engine turns that into [`ErrorKind::Corrupt`]; with `panic = "abort"` it ends the process.
//!
//! The [`design`] page explains the states, the bytes on the disk, and what a crash leaves at each step.

pub mod layer;
pub mod limits;

#[cfg(doc)]
#[doc = include_str!("../docs/DESIGN.md")]
pub mod design {}

#[cfg(all(doc, not(doctest), feature = "register"))]
#[doc = include_str!("../docs/MACHINES.md")]
pub mod machines {}

#[cfg(doc)]
#[doc = include_str!("../docs/OBSERVABILITY.md")]
pub mod observability {}

mod clock;
mod codec;
mod damage;
mod decision;
mod encryption;
mod engine;
mod error;
#[cfg(onceward_faults)]
#[doc(hidden)]
pub mod faults;
mod fingerprint;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod mutant;
mod observe;
mod outcome;
mod progress;
#[cfg(onceward_faults)]
#[doc(hidden)]
pub mod protocol_model;
mod record;
mod reply;
mod secret;
mod store;
mod sync;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
mod verification;

pub use bytes;

pub use clock::{Clock, ManualClock, SystemClock};
pub use damage::Damage;
#[cfg(feature = "encryption")]
pub use encryption::EncryptionKeys;
#[cfg(any(test, feature = "register"))]
pub use engine::Uncommitted;
pub use engine::{
    Builder, CompleteError, Engine, Export, Guard, Health, Outcome, ReleaseError, RunError, Stats,
    Sweep,
};
pub use error::{Error, ErrorKind, Result};
pub use fingerprint::{Fingerprint, FingerprintBuilder};
pub use key::Key;
pub use limits::Terms;
pub use outcome::{Conflict, Entry, EntryState, InFlight, OnAbandon, Resolution};
pub use progress::{Progress, Stage};
pub use reply::Reply;
#[cfg(any(test, feature = "register"))]
pub use store::register;
#[cfg(any(test, feature = "register"))]
pub use store::transaction;
pub use verification::{Problem, Verification};

/// The README's code, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
