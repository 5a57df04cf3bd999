//! A middleware for actix-web 4.
//!
//! ```
//! use actix_web::http::header::AUTHORIZATION;
//! use actix_web::{App, web};
//! use onceward::Engine;
//! use onceward_http::Profile;
//! use onceward_http::Scope;
//! use onceward_http::actix::IdempotencyMiddleware;
//!
//! # let engine = Engine::builder().open_in_memory()?;
//! let idempotency = IdempotencyMiddleware::new(engine, Profile::deel(), |request| {
//!     match request.headers().get(AUTHORIZATION) {
//!         Some(value) => Scope::credential(value.as_bytes()),
//!         None => Scope::unknown(),
//!     }
//! });
//! let app = move || {
//!     App::new()
//!         .wrap(idempotency.clone())
//!         .route("/payments", web::post().to(async || "paid"))
//! };
//! # let _ = app;
//! # Ok::<(), onceward::Error>(())
//! ```
//!
//! Make one outside of the server's closure and clone it into each worker's application, so that all
//! workers share its count of running handlers.
//!
//! An error of a service further in is kept or freed like the response that actix-web makes of it.
//!
//! # Shutting down
//!
//! Handlers run in the worker that took the request, and end with it. A graceful stop waits for requests whose
//! client is still there; for the others, pause the server, wait for the [`Drain`](super::Drain), then
//! stop it: `handle.pause().await; drain.wait().await; handle.stop(true).await`. A paused server takes no new connections, but goes on
//! with the open ones; a handler that begins there after the wait, and whose client hangs up, ends with its worker.

mod body;
mod convert;
mod extract;
mod service;
mod transform;

pub use service::Idempotency;
pub use transform::IdempotencyMiddleware;
