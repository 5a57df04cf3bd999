//! The attempt as an argument of axum's handlers.

use std::convert::Infallible;
use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::layer::Attempt;

/// A handler takes an [`Attempt`], and its request has none: it came without a key, or its route has no layer.
///
/// Answered with 500, because it is the server's mistake: take `Option<Attempt>`, or let the profile require a key.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttemptMissing;

impl fmt::Display for AttemptMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the handler takes an Attempt, and the request has none: it has no idempotency key, or the \
             route has no idempotency layer",
        )
    }
}

impl std::error::Error for AttemptMissing {}

impl IntoResponse for AttemptMissing {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// For handlers behind a layer whose profile requires a key; others take `Option<Attempt>`.
impl<S: Sync> FromRequestParts<S> for Attempt {
    type Rejection = AttemptMissing;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, AttemptMissing> {
        parts.extensions.get().cloned().ok_or(AttemptMissing)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Attempt {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        _state: &S,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get().cloned())
    }
}
