//! The attempt as an argument of axum's handlers.

use std::convert::Infallible;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::StatusCode;
use http::request::Parts;

use crate::middleware::Attempt;

/// For handlers behind a layer whose profile requires a key; others take `Option<Attempt>`.
///
/// Rejects with 500 where there is no attempt, because a route that isn't behind a layer is the server's mistake.
impl<S: Sync> FromRequestParts<S> for Attempt {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "the handler takes an Attempt, and the request has none: it has no idempotency key, or the \
             route has no idempotency layer",
        ))
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
