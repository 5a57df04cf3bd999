//! actix-web with one middleware: a payment that is sent twice with one key is made once.
//!
//! ```sh
//! cargo run --features actix --example quickstart_actix
//! curl -i -X POST localhost:3000/payments -H 'authorization: me' -H 'idempotency-key: 1'
//! ```

use actix_web::{App, HttpServer, http::header::AUTHORIZATION, web};
use onceward::middleware::{Attempt, Scope, actix::IdempotencyMiddleware};
use onceward::{Engine, http::Profile};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open("idempotency")?; // a folder
    let idempotency = IdempotencyMiddleware::new(engine.clone(), Profile::deel(), |request| {
        // Whose key it is.
        let token = request.headers().get(AUTHORIZATION);
        token.map_or_else(Scope::unknown, |token| Scope::digest(token.as_bytes()))
    });
    let app = move || {
        App::new()
            .wrap(idempotency.clone())
            .route("/payments", web::post().to(pay))
    };
    HttpServer::new(app).bind("127.0.0.1:3000")?.run().await?;
    Ok(engine.close_async().await?)
}

async fn pay(attempt: Option<Attempt>) -> String {
    format!(
        "paid in attempt {}\n",
        attempt.map_or(0, |attempt| attempt.number())
    )
}
