//! One way around a handler, the same for every framework.

mod attempt;
mod body;
pub(crate) mod exchange;
pub(crate) mod execution;
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
