#![doc = include_str!("../../docs/HTTP.md")]
//!
//! JavaScript:
//!
//! ```js
#![doc = include_str!("../../examples/clients/retry.mjs")]
//! ```
//!
//! Python:
//!
//! ```python
#![doc = include_str!("../../examples/clients/retry.py")]
//! ```
//!
//! Go:
//!
//! ```go
#![doc = include_str!("../../examples/clients/retry.go")]
//! ```
//!
//! # In an API's description
//!
//! A fragment of `OpenAPI` 3.1 for Deck's profile; a test holds its examples against what the profile answers.
//!
//! ```json
#![doc = include_str!("../../docs/openapi.json")]
//! ```

#[cfg(feature = "actix")]
pub mod actix;
#[cfg(feature = "tower")]
pub mod tower;

mod attempt;
mod body;
mod exchange;
mod execution;
mod gather;
mod lease;
mod options;
mod running;
mod scope;
mod settlement;

pub use attempt::{Attempt, Disposition, Fate};
pub use body::LayerBody;
pub use options::Options;
pub use running::Drain;
pub use scope::Scope;
