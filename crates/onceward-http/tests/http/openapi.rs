//! The `OpenAPI` fragment of the guide: its examples are what Deck's profile answers.

use onceward::{Engine, ManualClock};
use onceward_http::Options;
use onceward_http::Profile;
use reqwest::Client;
use serde_json::Value;

use super::servers::{Kind, Server};
use support::engine::folder;

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_fragment_are_what_a_server_answers() {
    let text = include_str!("../../docs/openapi.json");
    let fragment: Value = serde_json::from_str(text).unwrap();
    let responses = fragment["components"]["responses"].as_object().unwrap();
    let codes = &fragment["components"]["schemas"]["IdempotencyError"]["properties"]["errors"];
    let codes = &codes["items"]["properties"]["code"]["enum"];
    let folder = folder();
    let limited = Engine::builder().max_live_keys_per_scope(1);
    let engine = limited.open(folder.path().join("engine")).unwrap();
    let (profile, clock) = (Profile::deck(), ManualClock::new());
    let server = Server::over(Kind::Tower, engine, clock, profile, Options::new()).await;
    let post = |key: &'static str, body: Vec<u8>| {
        let request = Client::new().post(server.url("/payments")).body(body);
        let request = request.header("x-request-id", "req_a1b2c3d4");
        request.header("idempotency-key", key).send()
    };
    let mut seen = Vec::new();
    for (key, bytes) in [
        ("k", 1),
        ("", 1),
        ("k", 2),
        ("large", (1 << 20) + 1),
        ("one too many", 1),
        ("down", 1),
    ] {
        if key == "down" {
            server.engine.clone().close_async().await.unwrap();
        }
        let response = post(key, vec![b'x'; bytes]).await.unwrap();
        let status = response.status().as_str().to_owned();
        let has_retry_after = response.headers().contains_key("retry-after");
        if status == "201" {
            continue;
        }
        let documented = &responses[&status];
        let body: Value = response.json().await.unwrap();
        assert_eq!(body, documented["content"]["application/json"]["example"]);
        assert!(
            codes
                .as_array()
                .unwrap()
                .contains(&body["errors"][0]["code"])
        );
        assert!(documented["headers"].get("Retry-After").is_some() || !has_retry_after);
        seen.push(status);
    }
    assert_eq!(seen, responses.keys().cloned().collect::<Vec<_>>());
}
