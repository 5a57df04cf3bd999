//! PLACEHOLDER

pub mod limits;

mod clock;
mod codec;
mod decision;
mod engine;
mod error;
mod fingerprint;
mod key;
mod outcome;
mod record;
mod reply;
mod secret;
mod store;

pub use clock::{Clock, ManualClock, SystemClock};
pub use engine::{
    Builder, CompleteError, Engine, Guard, Health, ReleaseError, RunError, Stats, Sweep,
};
pub use error::{Error, ErrorKind, Result};
pub use fingerprint::{Fingerprint, FingerprintBuilder};
pub use key::Key;
pub use limits::Terms;
pub use outcome::{Conflict, Entry, EntryState, InFlight, OnAbandon, Outcome, Resolution};
pub use reply::Reply;
