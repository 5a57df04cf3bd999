//! What a layer in front of handlers needs of the engine, beyond what everybody calls: `onceward-http` is made of it, and so can
//! one of your own be.
//!
//! - A begin in two halves, so that there is time between them to wait for a free slot:
//!   [`Engine::approach`](crate::Engine::approach) and [`Opening::begin`].
//! - The attempt's [`Lease`], which is renewed and watched beside the handler that has the guard:
//!   [`Guard::lease`](crate::Guard::lease). It doesn't keep the engine open.
//! - The engine's time, which a test's [clock](crate::Builder::clock) moves:
//!   [`Engine::moment_in`](crate::Engine::moment_in) and [`Engine::sleep_until`](crate::Engine::sleep_until).
//! - Pauses between tries: [`Backoff`].
//! - [`Lease::settles_later`], so that the engine's metrics tell of answers that couldn't be kept at once.

pub use crate::clock::{Backoff, Sleep, Timestamp};
pub use crate::engine::{Approached, Lease, Opening, PendingSettlement};
pub use crate::observe::SettlementEnding;
