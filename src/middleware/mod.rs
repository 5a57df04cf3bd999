//! Layers around a server's handlers.

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

pub use attempt::{Attempt, Disposition, Fate};
pub use body::LayerBody;
pub use options::Options;
pub use running::Drain;
pub use scope::Scope;
