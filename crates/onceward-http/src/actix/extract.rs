//! The attempt as an argument of actix-web's handlers.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::error::ErrorInternalServerError;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest};

use crate::layer::Attempt;

/// For handlers behind a middleware whose profile requires a key; others take `Option<Attempt>`.
///
/// Fails with 500 where there is no attempt, because a route that isn't behind a middleware is the server's mistake.
impl FromRequest for Attempt {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let attempt = request.extensions().get().cloned();
        ready(attempt.ok_or_else(|| {
            ErrorInternalServerError(
                "the handler takes an Attempt, and the request has none: it has no idempotency key, or \
                 the route has no idempotency middleware",
            )
        }))
    }
}
