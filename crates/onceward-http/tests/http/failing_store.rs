//! The store fails, or is full: 503 or 429 with `retry-after`, and the handler isn't called.

use onceward::{Engine, ManualClock};
use onceward_http::Options;
use onceward_http::Profile;
use reqwest::{Client, Response};
use serde_json::Value;

use super::servers::{KINDS, Kind, Server};
use support::engine::{folder, folder_of_child, in_limited_child};

async fn server_on(kind: Kind, engine: Engine) -> Server {
    Server::over(
        kind,
        engine,
        ManualClock::new(),
        Profile::deck(),
        Options::new(),
    )
    .await
}

async fn post(server: &Server, key: &str, bytes: usize) -> Response {
    let request = Client::new().post(server.url("/payments"));
    let request = request
        .header("idempotency-key", key)
        .header("x-bytes", bytes);
    request.send().await.unwrap()
}

async fn assert_unavailable(response: Response) {
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["errors"][0]["code"], "idempotency_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_engine_refuses_keys_and_lets_requests_without_one_pass() {
    for kind in KINDS {
        let folder = folder();
        let engine = Engine::open(folder.path().join("engine")).unwrap();
        let server = server_on(kind, engine.clone()).await;
        assert_eq!(post(&server, "before", 10).await.status(), 201);
        engine.close_async().await.unwrap();
        for key in ["before", "new"] {
            assert_unavailable(post(&server, key, 10).await).await;
        }
        assert_eq!(server.executed(), 1);
        let without_key = Client::new().post(server.url("/payments"));
        assert_eq!(without_key.send().await.unwrap().status(), 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_at_its_limit_is_told_to_come_back_later_and_its_known_keys_are_replayed() {
    for kind in KINDS {
        let folder = folder();
        let limited = Engine::builder().max_live_keys_per_scope(1);
        let engine = limited.open(folder.path().join("engine")).unwrap();
        let server = server_on(kind, engine).await;
        assert_eq!(post(&server, "first", 10).await.status(), 201);
        let refused = post(&server, "second", 10).await;
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "60");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["errors"][0]["code"], "idempotency_limit_reached");
        assert_eq!(post(&server, "first", 10).await.status(), 201);
        assert_eq!(server.executed(), 1);
    }
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_refuses_keys_and_no_handler_runs() {
    for test in [
        "serves_until_the_disk_is_full_on_tower",
        "serves_until_the_disk_is_full_on_actix",
    ] {
        let folder = folder();
        let path = folder.path().join("engine");
        let output = in_limited_child(&format!("failing_store::{test}"), &path);
        assert!(output.contains("refused"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of the test above"]
async fn serves_until_the_disk_is_full_on_tower() {
    serves_until_the_disk_is_full(Kind::Tower).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of the test above"]
async fn serves_until_the_disk_is_full_on_actix() {
    serves_until_the_disk_is_full(Kind::Actix).await;
}

async fn serves_until_the_disk_is_full(kind: Kind) {
    let Some(path) = folder_of_child() else {
        return;
    };
    let server = server_on(kind, Engine::open(path).unwrap()).await;
    let mut answered = 0;
    let refused = loop {
        let response = post(&server, &answered.to_string(), 8_192).await;
        if response.status() != 201 {
            break response;
        }
        // Also if only the completion fails: the client gets the true answer.
        answered += 1;
        assert_eq!(response.bytes().await.unwrap().len(), 8_192);
    };
    assert!(answered > 10);
    assert_eq!(server.executed(), answered);
    assert_unavailable(refused).await;
    assert_eq!(server.executed(), answered);
    assert_eq!(post(&server, "0", 8_192).await.status(), 201);
    assert_eq!(server.executed(), answered);
    // It goes on by itself: in a new file, for which there is room.
    while post(&server, "new", 10).await.status() != 201 {}
    assert_eq!(server.executed(), answered + 1);
    println!("refused after {answered}");
}
