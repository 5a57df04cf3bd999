//! The facade `tracing`, as much of it as is needed.

use std::future::Future;

use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

use super::Ending;

/// A begin.
pub(crate) async fn in_begin<F: Future>(
    begin: F,
    ending: impl FnOnce(&F::Output) -> Ending,
) -> F::Output {
    let span = debug_span!(target: "onceward", "begin", verdict = Empty, attempt = Empty);
    within(span, begin, ending).await
}

/// A completion.
pub(crate) async fn in_complete<F: Future>(
    complete: F,
    ending: impl FnOnce(&F::Output) -> Ending,
) -> F::Output {
    let span = debug_span!(target: "onceward", "complete", verdict = Empty, attempt = Empty);
    within(span, complete, ending).await
}

async fn within<F: Future>(
    span: Span,
    work: F,
    ending: impl FnOnce(&F::Output) -> Ending,
) -> F::Output {
    let output = work.instrument(span.clone()).await;
    if !span.is_disabled() {
        let (verdict, attempt) = match ending(&output) {
            Ending::Proceed { attempt } => ("proceed", Some(attempt)),
            Ending::Completed { attempt } => ("completed", Some(attempt)),
            Ending::Replay => ("replay", None),
            Ending::Conflict => ("conflict", None),
            Ending::InFlight => ("in_flight", None),
            Ending::Error => ("error", None),
        };
        span.record("verdict", verdict);
        if let Some(attempt) = attempt {
            span.record("attempt", attempt);
        }
    }
    output
}

/// Says what an operator should change.
#[cfg(any(test, feature = "register"))]
pub(crate) fn warn(message: &str) {
    tracing::warn!(target: "onceward", "{message}");
}
