//! What an engine tells those who watch it: metrics and spans, through the facades `metrics` and `tracing`.
//!
//! Without the features everything here is empty and compiles to nothing. No key, scope or body is ever in
//! a label or a field.

mod meters;
#[cfg_attr(feature = "metrics", path = "facade.rs")]
#[cfg_attr(not(feature = "metrics"), path = "no_facade.rs")]
mod recorder;
#[cfg_attr(feature = "tracing", path = "spans.rs")]
#[cfg_attr(not(feature = "tracing"), path = "no_spans.rs")]
mod spans;

pub use meters::SettlementEnding;
pub(crate) use meters::{Begun, Ending, Levels, Meters};
#[cfg(any(test, feature = "register"))]
pub(crate) use spans::warn;
pub(crate) use spans::{in_begin, in_complete};
