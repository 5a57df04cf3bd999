//! The layer: what a service is wrapped by.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use onceward::{Engine, Result};
use tower_layer::Layer;

use super::service::Idempotency;
use crate::layer::exchange::Exchange;
use crate::layer::{Drain, Options, Scope};
use crate::profile::Profile;

pub(super) type ScopeRule = dyn Fn(&Parts) -> Scope + Send + Sync;

/// Gives a service's answers again to retries with the same idempotency key.
///
/// Clones share the engine and the count of running handlers.
#[derive(Clone)]
pub struct IdempotencyLayer {
    exchange: Exchange,
    scope: Arc<ScopeRule>,
}

impl IdempotencyLayer {
    /// A layer with every option at its default.
    ///
    /// `scope` tells whose key it is from a request's head; see [`Scope`]. It is called for requests with
    /// a key only.
    pub fn new(
        engine: Engine,
        profile: Profile,
        scope: impl Fn(&Parts) -> Scope + Send + Sync + 'static,
    ) -> Self {
        Self {
            exchange: Exchange::new(engine, profile),
            scope: Arc::new(scope),
        }
    }

    /// The same layer with these options in place of all that it has; for one route, clone it first.
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

    /// Waits for the handlers that this layer and its clones run. It doesn't see those of a clone
    /// that was given a `max_running` of its own. Take it after [`with_options`](Self::with_options).
    pub fn drain(&self) -> Drain {
        self.exchange.shared.drain.clone()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(inner, self.exchange.clone(), Arc::clone(&self.scope))
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}
