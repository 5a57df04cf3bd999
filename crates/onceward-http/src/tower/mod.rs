//! A tower layer, for axum 0.8, tonic 0.14, hyper 1 and every other service of `http` 1 requests.
//!
//! ```
//! use axum::Router;
//! use axum::http::header::AUTHORIZATION;
//! use axum::routing::post;
//! use onceward::Engine;
//! use onceward_http::Profile;
//! use onceward_http::Scope;
//! use onceward_http::tower::IdempotencyLayer;
//!
//! # let engine = Engine::builder().open_in_memory()?;
//! let layer = IdempotencyLayer::new(engine, Profile::deel(), |request| {
//!     Scope::header(&request.headers, &AUTHORIZATION)
//! });
//! let app: Router = Router::new()
//!     .route("/payments", post(async || "paid"))
//!     .layer(layer);
//! # Ok::<(), onceward::Error>(())
//! ```
//!
//! The fingerprint is of the path that the client sent. With the feature `axum` that is so behind `nest` as well; without
//! it, put the layer outside of a nested router, which sees a shortened path.
//!
//! The layer's futures need tokio: a handler runs in a task of its own.

#[cfg(feature = "axum")]
mod extract;
mod future;
mod layer;
mod service;
mod uri;

#[cfg(feature = "axum")]
pub use extract::AttemptMissing;
pub use future::ResponseFuture;
pub use layer::IdempotencyLayer;
pub use service::Idempotency;
