//! The middleware: what an application is wrapped by.

use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::Error;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use onceward::{Engine, Result};

use super::service::Idempotency;
use crate::layer::exchange::Exchange;
use crate::layer::{Drain, Options, Scope};
use crate::profile::Profile;

pub(super) type ScopeRule = dyn Fn(&ServiceRequest) -> Scope + Send + Sync;

/// Gives a service's answers again to retries with the same idempotency key.
///
/// Clones share the engine and the count of running handlers.
#[derive(Clone)]
pub struct IdempotencyMiddleware {
    exchange: Exchange,
    scope: Arc<ScopeRule>,
}

impl IdempotencyMiddleware {
    /// A middleware with every option at its default.
    ///
    /// `scope` tells whose key it is from a request; see [`Scope`]. It is called for requests with a key
    /// only, before the body is read.
    pub fn new(
        engine: Engine,
        profile: Profile,
        scope: impl Fn(&ServiceRequest) -> Scope + Send + Sync + 'static,
    ) -> Self {
        Self {
            exchange: Exchange::new(engine, profile),
            scope: Arc::new(scope),
        }
    }

    /// The same middleware with these options in place of all that it has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](onceward::ErrorKind::InvalidConfig) if an option is out of range.
    pub fn with_options(self, options: Options) -> Result<Self> {
        Ok(Self {
            exchange: self.exchange.with(options)?,
            scope: self.scope,
        })
    }

    /// Waits for the handlers that this middleware and its clones run. It doesn't see those of a clone
    /// that was given a `max_running` of its own. Take it after [`with_options`](Self::with_options).
    pub fn drain(&self) -> Drain {
        self.exchange.shared.drain.clone()
    }
}

impl<S, B> Transform<S, ServiceRequest> for IdempotencyMiddleware
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = Idempotency<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let (exchange, scope) = (self.exchange.clone(), Arc::clone(&self.scope));
        ready(Ok(Idempotency::new(service, exchange, scope)))
    }
}

impl fmt::Debug for IdempotencyMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyMiddleware")
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}
