#![doc = include_str!("../docs/HTTP.md")]
//!
//! JavaScript:
//!
//! ```js
#![doc = include_str!("../clients/retry.mjs")]
//! ```
//!
//! Python:
//!
//! ```python
#![doc = include_str!("../clients/retry.py")]
//! ```
//!
//! Go:
//!
//! ```go
#![doc = include_str!("../clients/retry.go")]
//! ```
//!
//! # In an API's description
//!
//! A fragment of `OpenAPI` 3.1 for Deck's profile; a test holds its examples against what the profile answers.
//!
//! ```json
#![doc = include_str!("../docs/openapi.json")]
//! ```

#[cfg(feature = "actix")]
pub mod actix;
pub mod profile;
#[cfg(feature = "tower")]
pub mod tower;

#[cfg(feature = "layer")]
mod layer;
#[cfg(feature = "layer")]
mod mutant;
#[cfg(feature = "layer")]
mod spans;

#[cfg(feature = "layer")]
pub use layer::{Attempt, Disposition, Drain, Fate, LayerBody, Options, Scope};
pub use profile::Profile;

pub use http;
pub use onceward;
#[cfg(feature = "encryption")]
pub use onceward::EncryptionKeys;
pub use onceward::{
    Builder, Clock, Conflict, Engine, Error, ErrorKind, Fingerprint, FingerprintBuilder, Guard,
    Health, InFlight, Key, ManualClock, OnAbandon, Outcome, Reply, Result, Stats, SystemClock,
    Terms,
};
