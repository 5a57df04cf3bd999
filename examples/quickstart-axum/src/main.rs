//! axum with one layer: a payment that is sent twice with one key is made once.
//!
//! ```sh
//! cargo run -p quickstart-axum
//! curl -i -X POST localhost:3000/payments -H 'authorization: me' -H 'idempotency-key: 1'
//! ```

use axum::{Router, http::header::AUTHORIZATION, routing::post};
use onceward_http::{Engine, Profile, Scope, tower::IdempotencyLayer};
use tokio::signal::{ctrl_c, unix};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open("idempotency")?; // a folder
    let idempotency = IdempotencyLayer::new(engine.clone(), Profile::deck(), |request| {
        Scope::header(&request.headers, &AUTHORIZATION) // whose key it is: an API key's owner
    });
    let drain = idempotency.drain();
    let app = Router::new()
        .route("/payments", post(async || "paid\n"))
        .route_layer(idempotency);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::select!(_ = terminate.recv() => {}, _ = ctrl_c() => {});
        })
        .await?;
    drain.wait().await; // the handlers whose clients hung up
    Ok(engine.close_async().await?)
}
