//! Stores that several machines share: anything that can compare and swap one cell.
//!
//! All that a database has to offer is a [`Register`]: to read one key's value, and to replace it if it is still the one
//! that was read. The decision is made by the engine, with the same function as everywhere. A value is one record's
//! bytes, with a version that whoever wrote it chose at random. Who loses a swap gets what is there, and decides again
//! against that. Each answer bears the server's clock, and time is the server's alone: nodes whose own clocks differ agree
//! on when a lease ends.
//!
//! A new key, a replay, a completion, a renewal and a release take one round trip each; a key whose lease has ended, or
//! that was freed or has expired and wasn't swept yet, takes two.
//!
//! # A backend
//!
//! This one keeps everything in a map behind a lock, which all engines of a process share:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::ops::Bound;
//! use std::sync::{Arc, Mutex, PoisonError};
//! use std::time::SystemTime;
//!
//! use onceward::register::{Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version};
//!
//! #[derive(Clone, Default)]
//! struct Shared(Arc<Mutex<BTreeMap<RecordId, (Value, u64)>>>);
//!
//! fn now_ms() -> u64 {
//!     let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
//!     since_1970.map_or(0, |time| time.as_millis() as u64)
//! }
//!
//! impl Register for Shared {
//!     async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
//!         let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         let value = cells.get(&id).map(|(value, _)| value.clone());
//!         Ok(Loaded { value, now_ms: now_ms() })
//!     }
//!
//!     async fn swap(
//!         &self,
//!         id: RecordId,
//!         expected: Option<Version>,
//!         new: Value,
//!         ends_at_ms: u64,
//!     ) -> Result<Swapped, Refused> {
//!         let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         let value = cells.get(&id).map(|(value, _)| value.clone());
//!         if value.as_ref().map(|value| value.version) != expected {
//!             return Ok(Swapped::Mismatch(Loaded { value, now_ms: now_ms() }));
//!         }
//!         cells.insert(id, (new, ends_at_ms));
//!         Ok(Swapped::Done { now_ms: now_ms() })
//!     }
//!
//!     async fn sweep(&self) -> Result<u64, Refused> {
//!         let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         let before = cells.len();
//!         cells.retain(|_, (_, ends_at_ms)| *ends_at_ms > now_ms());
//!         Ok((before - cells.len()) as u64)
//!     }
//!
//!     async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
//!         let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
//!         let after = from.and_then(|cursor| cursor.after());
//!         let after = after.map_or(Bound::Unbounded, Bound::Excluded);
//!         let values = cells.range((after, Bound::Unbounded)).take(most);
//!         let values = values.map(|(id, (value, _))| (*id, value.clone()));
//!         Ok(Page::in_order(values.collect(), most, now_ms()))
//!     }
//! }
//!
//! # use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
//! let shared = Shared::default();
//! let one = Engine::builder().open_on(shared.clone())?;
//! let other = Engine::builder().open_on(shared)?;
//! let (key, fingerprint) = (Key::new("acct_42", "order-17")?, Fingerprint::of("request"));
//! if let Outcome::Proceed(guard) = one.begin(&key, &fingerprint)? {
//!     guard.complete(Reply::new(201, "booked"))?;
//! }
//! assert!(matches!(other.begin(&key, &fingerprint)?, Outcome::Replay(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the feature `testkit`, `onceward::testkit::conformance` tests that a backend does all that is expected of it, and
//! `onceward::testkit::Local` is such a register in this process, for tests.

mod asked;
mod asking;
#[cfg(onceward_faults)]
mod cell;
mod connect;
mod decider;
mod disown;
mod draft;
mod due;
mod first_cell;
mod late;
mod made;
mod news;
mod reach;
mod record;
mod replies;
mod room;
mod row;
mod server_time;
mod store;
#[cfg(test)]
mod tests;
mod tries;
mod versions;
mod walk;
mod watch;
mod worker;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind};
use crate::secret::Digest;

#[cfg(onceward_faults)]
#[doc(hidden)]
pub use cell::{Cell, cell};
pub(crate) use connect::connect;
pub(crate) use replies::Caching;
pub(crate) use room::Limit;
pub use row::{OutcomeRow, Replaces, Written};
pub(crate) use store::RegisterStore;
pub use tries::Tries;
#[cfg(any(test, feature = "register"))]
pub(crate) use worker::{Jobs, Worker};

/// A cell per key, on a server that all nodes share.
///
/// What is swapped has to be as durable, and as visible to every later call of any node, as the promises are meant
/// to hold: a swap that was answered with [`Swapped::Done`] and is then lost is a lost answer, or a double grant.
///
/// All calls are made in a tokio runtime of the engine's own, with its timers and sockets. It has one thread, so that what blocks belongs
/// into `spawn_blocking`, and `block_in_place` panics.
pub trait Register: Send + Sync + 'static {
    /// Reads a cell.
    fn load(&self, id: RecordId) -> impl Future<Output = Result<Loaded, Refused>> + Send;

    /// Replaces the cell if its version is the expected one; `None` is expected of a key that has none. The same value may be written
    /// over itself: so an engine finds out whether a server that has failed writes again.
    ///
    /// The register may remove the cell once its own clock says `ends_at_ms`, in milliseconds since 1970, which may be
    /// past; [`u64::MAX`] stands for never. A cell that is replaced ends when the new value does.
    fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> impl Future<Output = Result<Swapped, Refused>> + Send;

    /// Removes some of the cells that have ended; gives how many. It is called until there are none, by several nodes at
    /// the same time.
    fn sweep(&self) -> impl Future<Output = Result<u64, Refused>> + Send;

    /// Some cells, about `most`, from where the page before ended or from the first on. Each cell that is there all the
    /// while is on one of the pages, or on several.
    fn scan(
        &self,
        from: Option<Cursor>,
        most: usize,
    ) -> impl Future<Output = Result<Page, Refused>> + Send;

    /// Tells other nodes that these cells have changed, so that whoever waits for one looks at once. No promise: who isn't
    /// told looks after a while. Does nothing by default.
    fn announce(&self, changed: Vec<RecordId>) -> impl Future<Output = ()> + Send {
        let _ = changed;
        std::future::ready(())
    }

    /// Hears what other nodes announce, for as long as the engine is open. Hears nothing by default.
    fn listen(
        &self,
        changed: impl Fn(RecordId) + Send + Sync + 'static,
    ) -> impl Future<Output = ()> + Send {
        let _ = changed;
        std::future::pending()
    }

    /// How often a connection was made, as a number that only rises: before anything is granted
    /// over a new one, the engine looks whether the server still has what it had. Always 0 by
    /// default: then that is found out within ten seconds.
    ///
    /// Count a connection before anything is asked over it.
    fn connections(&self) -> u64 {
        0
    }

    /// How long one of the engine's calls waits for the register, with everything that it asks again, before it fails
    /// closed with [`ErrorKind::Unavailable`]: 5 seconds by default.
    fn timeout(&self) -> Duration {
        DEFAULT_TIMEOUT
    }
}

/// How long a call waits for a register that doesn't say otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// By what a register tells its cells apart: a keyed hash of scope and key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(pub(crate) Digest);

/// Tells what one writer wrote from what any other did. Random, so that no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u64);

/// What a register keeps of one key: opaque bytes of up to a reply's size and some more, and their version.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // There is nothing else to keep.
pub struct Value {
    /// The version.
    pub version: Version,
    /// The bytes.
    pub bytes: Bytes,
}

/// What a register has of a key.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)] // Backends make it.
pub struct Loaded {
    /// `None` if there is no such cell.
    pub value: Option<Value>,
    /// When it was read, by the server's clock: milliseconds since 1970.
    pub now_ms: u64,
}

/// What became of a swap.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)] // Backends make it.
pub enum Swapped {
    /// The cell has the new value.
    Done {
        /// When it was made, by the server's clock: milliseconds since 1970.
        now_ms: u64,
    },
    /// Another version is there than the expected one.
    Mismatch(Loaded),
}

/// Where a page ended, in words of the backend's own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs)] // Backends make it.
pub struct Cursor(pub Bytes);

/// Some of a register's cells.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)] // Backends make it.
pub struct Page {
    /// The cells.
    pub values: Vec<(RecordId, Value)>,
    /// From where the next page goes on; `None` after the last.
    pub next: Option<Cursor>,
    /// When they were read, by the server's clock: milliseconds since 1970.
    pub now_ms: u64,
}

/// Why a register didn't answer.
#[derive(Debug)]
pub struct Refused {
    is_unknown: bool,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl Refused {
    /// Nothing has changed, and nothing will.
    pub fn unchanged(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            is_unknown: false,
            cause: cause.into(),
        }
    }

    /// The change may have been made, or may still be: the connection broke, or the time was up. The engine asks for
    /// the same swap again, which can't be made twice.
    pub fn unknown(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            is_unknown: true,
            cause: cause.into(),
        }
    }

    /// What the backend said.
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.cause
    }

    /// The same, for whoever is done with the rest.
    pub fn into_cause(self) -> Box<dyn std::error::Error + Send + Sync> {
        self.cause
    }

    fn into_error(self) -> Error {
        let message = "the store's server refused, or can't be reached (the error's source says why); retry later";
        Error::with_source(ErrorKind::Unavailable, message, self.cause)
    }
}

impl Cursor {
    /// After this cell, where cells have an order.
    pub fn at(id: RecordId) -> Self {
        Self(Bytes::copy_from_slice(id.as_bytes()))
    }

    /// The cell that [`at`](Cursor::at) was given.
    pub fn after(&self) -> Option<RecordId> {
        let bytes: [u8; 32] = self.0[..].try_into().ok()?;
        Some(RecordId::from_bytes(bytes))
    }
}

impl Page {
    /// A page of cells in an order, `most` of them unless there are no more.
    pub fn in_order(values: Vec<(RecordId, Value)>, most: usize, now_ms: u64) -> Self {
        let is_last = values.len() < most;
        let last = values.last().filter(|_| !is_last);
        let next = last.map(|(id, _)| Cursor::at(*id));
        Self {
            values,
            next,
            now_ms,
        }
    }
}

impl RecordId {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }

    /// The id with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Digest(bytes))
    }
}

impl Version {
    /// As a number.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Of a number that [`to_bits`](Version::to_bits) gave.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordId")
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("version", &self.version)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}
