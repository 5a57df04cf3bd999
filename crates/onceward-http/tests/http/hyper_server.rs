//! hyper without a framework: its own body type, and trailers over HTTP/1.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use onceward::Engine;
use onceward_http::Profile;
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{LayerBody, Scope};
use tower::Layer;

use super::raw::{Connection, RawResponse};

/// Echoes a request's trailers as the answer's, with the number of its run.
async fn started() -> (SocketAddr, Arc<AtomicU64>) {
    let runs = Arc::new(AtomicU64::new(0));
    let handler = {
        let runs = Arc::clone(&runs);
        tower::service_fn(move |request: Request<LayerBody<Incoming>>| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                let body = request.into_body().collect().await.unwrap();
                let mut trailers = body.trailers().cloned().unwrap_or_default();
                trailers.insert("x-run", HeaderValue::from(run));
                let answer = Full::new(body.to_bytes()).with_trailers(async { Some(Ok(trailers)) });
                let response = Response::builder().header("trailer", "x-run, x-sum");
                Ok::<_, Infallible>(response.body(answer).unwrap())
            }
        })
    };
    let engine = Engine::builder().open_in_memory().unwrap();
    let layer = IdempotencyLayer::new(engine, Profile::deck(), |_| Scope::everybody());
    let service = layer.layer(handler);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    (address, runs)
}

async fn post(address: SocketAddr, sum: &str) -> RawResponse {
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nte: trailers\r\ntrailer: x-sum\r\n\
         idempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n\
         4\r\nwiki\r\n5\r\npedia\r\n0\r\nx-sum: {sum}\r\n\r\n"
    );
    let mut connection = Connection::open(address).await;
    connection.send(request.as_bytes()).await.unwrap();
    connection.response().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_reach_the_handler_and_are_replayed_behind_the_body() {
    let (address, runs) = started().await;
    for repeat in [false, true] {
        let response = post(address, "17").await;
        assert_eq!(
            (response.status, &response.body[..]),
            (200, &b"wikipedia"[..])
        );
        assert_eq!(response.header("idempotent-replayed").is_some(), repeat);
        let mut trailers = response.trailers;
        trailers.sort();
        let expected = [("x-run", "1"), ("x-sum", "17")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        assert_eq!(trailers, expected);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[test]
fn public_types_are_send_and_bodies_need_not_be_sync() {
    fn is_send_and_sync<T: Send + Sync>() {}
    fn is_send<T: Send>() {}
    is_send_and_sync::<IdempotencyLayer>();
    is_send_and_sync::<onceward_http::Drain>();
    is_send_and_sync::<onceward_http::Profile>();
    is_send::<LayerBody<Incoming>>();
}
