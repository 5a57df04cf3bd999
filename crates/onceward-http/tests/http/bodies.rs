//! Bodies of every sort, in and out.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use onceward_http::profile::{Answer, Profile, Refusal};
use onceward_http::{Disposition, Fate, Options};
use reqwest::{Client, Response};
use serde_json::Value;

use super::raw::Connection;
use super::servers::{KINDS, Kind, Server};

async fn post(server: &Server, key: &str, body: Vec<u8>) -> Response {
    let request = Client::new().post(server.url("/payments"));
    request
        .header("idempotency-key", key)
        .body(body)
        .send()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_reaches_the_handler_as_it_was_sent_and_so_does_its_answer_the_client() {
    let compressed = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&[b'a'; 10_000]).unwrap();
        encoder.finish().unwrap()
    };
    let bodies = [
        Vec::new(),
        b"{}".to_vec(),
        (0..=255).collect(),
        vec![0; 100_000],
        compressed,
    ];
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        for (number, body) in bodies.iter().enumerate() {
            let key = number.to_string();
            let expected = [format!("run {}: ", number + 1).as_bytes(), body].concat();
            for repeat in [false, true] {
                let response = post(&server, &key, body.clone()).await;
                assert_eq!(
                    response.headers().contains_key("idempotent-replayed"),
                    repeat
                );
                assert!(response.bytes().await.unwrap() == expected, "body {number}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_and_a_chunked_one_of_length_0_are_the_same_request() {
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        let mut connection = Connection::open(server.address).await;
        let head = "POST /payments HTTP/1.1\r\nhost: localhost\r\nidempotency-key: k\r\n";
        for rest in [
            "content-length: 0\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "\r\n",
        ] {
            connection
                .send(format!("{head}{rest}").as_bytes())
                .await
                .unwrap();
            let response = connection.response().await.unwrap();
            assert_eq!(
                (response.status, &response.body[..]),
                (201, &b"run 1: "[..])
            );
        }
        assert_eq!(server.executed(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_at_the_limit_is_taken_and_one_byte_more_is_413() {
    const LIMIT: usize = 100_000;
    for kind in KINDS {
        let options = Options::new().max_body_bytes(LIMIT);
        let server = Server::with(kind, Profile::deck(), options).await;
        let at_limit = post(&server, "at", vec![b'x'; LIMIT]).await;
        assert_eq!(at_limit.status(), 201);
        let over = post(&server, "over", vec![b'x'; LIMIT + 1]).await;
        assert_eq!(over.status(), 413);
        let body: Value = over.json().await.unwrap();
        assert_eq!(body["errors"][0]["code"], "request_too_large");
        // Not announced, but streamed.
        let chunks = (0..11).map(|_| Ok::<_, std::io::Error>(vec![b'x'; LIMIT / 10]));
        let stream = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
        let request = Client::new().post(server.url("/payments"));
        let streamed = request
            .header("idempotency-key", "streamed")
            .body(stream)
            .send()
            .await;
        assert_eq!(streamed.unwrap().status(), 413);
        assert_eq!(server.executed(), 1);
        // Without a key nothing is read, and nothing limited.
        let request = Client::new()
            .post(server.url("/payments"))
            .body(vec![b'x'; LIMIT + 1]);
        assert_eq!(request.send().await.unwrap().status(), 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_runs_nothing_and_leaves_the_key_free() {
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        let mut connection = Connection::open(server.address).await;
        let head = "POST /payments HTTP/1.1\r\nhost: localhost\r\nidempotency-key: k\r\n";
        let half = format!("{head}content-length: 10\r\n\r\nhalf");
        connection.send(half.as_bytes()).await.unwrap();
        drop(connection);
        let response = post(&server, "k", b"whole".to_vec()).await;
        assert_eq!(response.bytes().await.unwrap(), "run 1: whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_goes_whole_to_the_first_caller_and_is_not_retained() {
    const LARGE: usize = (1 << 20) + 1;
    for kind in KINDS {
        for profile in [
            Profile::deck(),
            Profile::deel(),
            Profile::stripe(),
            Profile::ietf(),
        ] {
            let server = Server::start(kind, profile).await;
            let request = || {
                let request = Client::new().post(server.url("/payments"));
                request
                    .header("idempotency-key", "\"k\"")
                    .header("x-bytes", LARGE)
            };
            let first = request().send().await.unwrap();
            assert_eq!(first.status(), 201);
            let body = first.bytes().await.unwrap();
            assert_eq!(body.len(), LARGE);
            assert!(body.starts_with(b"00000000000000010000000000000001"));
            for _ in 0..2 {
                let again = request().send().await.unwrap();
                assert_eq!(again.status(), 201);
                assert_eq!(again.headers()["location"], "/payments/1");
                assert_eq!(again.headers()["idempotent-not-retained"], "true");
                assert_ne!(again.headers()["content-type"], "text/plain");
                let text = again.text().await.unwrap();
                assert!(
                    text.contains("too large, or took too long, to keep"),
                    "{text}"
                );
            }
            assert_eq!(server.executed(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_at_the_limit_is_kept() {
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        // The headers count, too.
        let request = || {
            let request = Client::new().post(server.url("/payments"));
            request
                .header("idempotency-key", "k")
                .header("x-bytes", (1 << 20) - 1_000)
        };
        let first = request().send().await.unwrap().bytes().await.unwrap();
        let again = request().send().await.unwrap().bytes().await.unwrap();
        assert!(first == again);
        assert_eq!(server.executed(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_for_what_is_not_retained_is_data_like_any_other() {
    let gone = Answer::new(410).problem("about:blank", "Gone", "status was {detail}");
    let profile = Profile::deck()
        .to_builder()
        .answer(Refusal::NotRetained, gone)
        .build()
        .unwrap();
    let server = Server::start(Kind::Tower, profile).await;
    for status in [201, 410] {
        let request = Client::new().post(server.url("/payments"));
        let request = request
            .header("idempotency-key", "k")
            .header("x-bytes", 2 << 20);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_replayed_only_where_the_user_says_so_and_other_headers_dropped() {
    let builder = Profile::deck().to_builder();
    let builder = builder.replay_header("set-cookie".parse().unwrap());
    let profile = builder
        .drop_header("x-multi".parse().unwrap())
        .build()
        .unwrap();
    for kind in KINDS {
        let server = Server::start(kind, profile.clone()).await;
        post(&server, "k", Vec::new()).await;
        let again = post(&server, "k", Vec::new()).await;
        assert_eq!(again.headers()["set-cookie"], "session=1");
        assert!(!again.headers().contains_key("x-multi"));
        assert!(!again.headers().contains_key("x-auth-token"));
    }
}

#[test]
fn compressed_answers_are_replayed_as_they_were() {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use onceward_http::Scope;
    use onceward_http::tower::IdempotencyLayer;
    use tower::ServiceExt;

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = onceward::Engine::builder().open_in_memory().unwrap();
        let layer = IdempotencyLayer::new(engine, Profile::deck(), |_| Scope::everybody());
        let app = axum::Router::new().route(
            "/",
            axum::routing::post(async || {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(b"compressed").unwrap();
                ([("content-encoding", "gzip")], encoder.finish().unwrap())
            }),
        );
        let app = app.layer(layer);
        for answer in [None, Some(Disposition::Replayed)] {
            let request = Request::post("/").header("idempotency-key", "k");
            let request = request.body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.headers()["content-encoding"], "gzip");
            let disposition = response.extensions().get::<Disposition>().cloned();
            match answer {
                Some(answer) => assert_eq!(disposition, Some(answer)),
                None => assert!(matches!(
                    disposition,
                    Some(Disposition::Executed {
                        attempt: 1,
                        answer: Fate::Kept,
                        ..
                    })
                )),
            }
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let mut text = String::new();
            GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
            assert_eq!(text, "compressed");
        }
    });
}
