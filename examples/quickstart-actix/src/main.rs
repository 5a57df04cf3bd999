//! actix-web with one middleware: a payment that is sent twice with one key is made once.
//!
//! ```sh
//! cargo run -p quickstart-actix
//! curl -i -X POST localhost:3000/payments -H 'authorization: me' -H 'idempotency-key: 1'
//! ```

use actix_web::{App, HttpServer, http::header::AUTHORIZATION, rt, web};
use onceward_http::{Attempt, Engine, Profile, Scope, actix::IdempotencyMiddleware};
use tokio::signal::{ctrl_c, unix};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::open("idempotency")?; // a folder
    let idempotency = IdempotencyMiddleware::new(engine.clone(), Profile::deel(), |request| {
        // Whose key it is: an API key's owner.
        let token = request.headers().get(AUTHORIZATION);
        token.map_or_else(Scope::unknown, |token| Scope::credential(token.as_bytes()))
    });
    let drain = idempotency.drain();
    let app = move || {
        App::new()
            .wrap(idempotency.clone())
            .route("/payments", web::post().to(pay))
    };
    let server = HttpServer::new(app)
        .disable_signals()
        .bind("127.0.0.1:3000")?
        .run();
    let handle = server.handle();
    let mut terminate = unix::signal(unix::SignalKind::terminate())?;
    rt::spawn(async move {
        tokio::select!(_ = terminate.recv() => {}, _ = ctrl_c() => {});
        handle.pause().await; // no new connections
        drain.wait().await; // the handlers whose clients hung up: they end with their worker
        handle.stop(true).await;
    });
    server.await?;
    Ok(engine.close_async().await?)
}

async fn pay(attempt: Option<Attempt>) -> String {
    let attempt = attempt.map_or(0, |attempt| attempt.number());
    format!("paid in attempt {attempt}\n")
}
