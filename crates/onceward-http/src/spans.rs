//! Spans that work goes on in.

use std::future::Future;

/// Work that goes on elsewhere, in the caller's span.
#[cfg(feature = "tracing")]
pub(crate) fn follow<F: Future>(work: F) -> impl Future<Output = F::Output> {
    tracing::Instrument::in_current_span(work)
}

/// Work that goes on elsewhere.
#[cfg(not(feature = "tracing"))]
pub(crate) fn follow<F: Future>(work: F) -> F {
    work
}
