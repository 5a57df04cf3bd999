//! Stands in for the facade `tracing`: every call compiles to nothing.

use std::future::Future;

use super::Ending;

/// A begin.
pub(crate) fn in_begin<F: Future>(begin: F, _ending: impl FnOnce(&F::Output) -> Ending) -> F {
    begin
}

/// A completion.
pub(crate) fn in_complete<F: Future>(complete: F, _ending: impl FnOnce(&F::Output) -> Ending) -> F {
    complete
}

/// Work that goes on elsewhere, in the caller's span.
#[cfg(any(feature = "tower", feature = "actix"))]
pub(crate) fn follow<F: Future>(work: F) -> F {
    work
}

/// Says what an operator should change.
#[cfg(any(test, feature = "register"))]
pub(crate) fn warn(_message: &str) {}
