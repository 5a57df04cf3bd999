//! Each cell of the profile table, against a running server of either kind.

use std::time::Duration;

use onceward_http::Profile;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use super::engines::{AFTER, BEFORE};
use super::servers::{KINDS, Kind, Server};
use support::engine::{LEASE, RETENTION};

/// A body for a request with this id.
type Body = fn(&str) -> Value;
/// One that also says after how many seconds to retry.
type WaitingBody = fn(&str, u64) -> Value;

/// What the table says of one profile.
struct Api {
    profile: fn() -> Profile,
    methods: &'static [&'static str],
    max_key_chars: usize,
    is_quoted: bool,
    requires_key: bool,
    keeps_failures: bool,
    conflict: (u16, Body),
    in_flight: (u16, WaitingBody),
    content_type: &'static str,
    mark: Option<(&'static str, &'static str)>,
}

const APIS: [Api; 4] = [
    Api {
        profile: Profile::deck,
        methods: &["POST"],
        max_key_chars: 256,
        is_quoted: false,
        requires_key: false,
        keeps_failures: true,
        conflict: (409, deck_mismatch),
        in_flight: (409, deck_in_flight),
        content_type: "application/json",
        mark: Some(("idempotent-replayed", "true")),
    },
    Api {
        profile: Profile::deel,
        methods: &["POST", "PATCH"],
        max_key_chars: 64,
        is_quoted: false,
        requires_key: false,
        keeps_failures: false,
        conflict: (409, deck_mismatch),
        in_flight: (429, deck_in_flight),
        content_type: "application/json",
        mark: Some(("x-original-request-id", "req_first")),
    },
    Api {
        profile: Profile::stripe,
        methods: &["POST"],
        max_key_chars: 255,
        is_quoted: false,
        requires_key: false,
        keeps_failures: true,
        conflict: (400, stripe_mismatch),
        in_flight: (409, stripe_in_flight),
        content_type: "application/json",
        mark: Some(("idempotent-replayed", "true")),
    },
    Api {
        profile: Profile::ietf,
        methods: &["POST", "PATCH"],
        max_key_chars: 256,
        is_quoted: true,
        requires_key: true,
        keeps_failures: true,
        conflict: (422, ietf_mismatch),
        in_flight: (409, ietf_in_flight),
        content_type: "application/problem+json",
        mark: None,
    },
];

fn deck_mismatch(request_id: &str) -> Value {
    json!({
        "errors": [{
            "type": "idempotency",
            "code": "idempotency_error",
            "message": "Idempotency key has already been used with different parameters.",
        }],
        "request_id": request_id,
    })
}

fn stripe_mismatch(_request_id: &str) -> Value {
    json!({
        "error": {
            "type": "idempotency_error",
            "message": "Idempotency key has already been used with different parameters.",
        }
    })
}

fn ietf_mismatch(_request_id: &str) -> Value {
    json!({
        "type": "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07#section-2.7",
        "title": "Idempotency-Key is already used",
        "status": 422,
        "detail": "The Idempotency-Key was used with another request before: the requests differ in this part: body.",
    })
}

fn still_running(seconds: u64) -> String {
    format!(
        "A request with this Idempotency-Key is still being processed; retry after {seconds} s."
    )
}

fn deck_in_flight(request_id: &str, seconds: u64) -> Value {
    json!({
        "errors": [{
            "type": "idempotency",
            "code": "idempotency_in_progress",
            "message": still_running(seconds),
        }],
        "request_id": request_id,
    })
}

fn stripe_in_flight(_request_id: &str, seconds: u64) -> Value {
    json!({
        "error": {
            "type": "idempotency_error",
            "code": "idempotency_key_in_use",
            "message": still_running(seconds),
        }
    })
}

fn ietf_in_flight(_request_id: &str, seconds: u64) -> Value {
    json!({
        "type": "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header-07#section-2.7",
        "title": "A request is outstanding for this Idempotency-Key",
        "status": 409,
        "detail": still_running(seconds),
    })
}

struct Caller<'a> {
    api: &'a Api,
    server: Server,
    client: Client,
}

impl Caller<'_> {
    fn request(&self, method: &str, key: Option<&str>, body: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.client.request(method, self.server.url("/payments"));
        let request = request.body(body.to_owned());
        match key {
            Some(key) if self.api.is_quoted => {
                request.header("idempotency-key", format!("\"{key}\""))
            }
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
    }

    async fn post(&self, key: &str, body: &str) -> Response {
        self.request("POST", Some(key), body).send().await.unwrap()
    }
}

/// Runs a test for each profile behind each kind of server.
macro_rules! for_each_profile {
    (|$caller:ident| $body:block) => {
        for api in &APIS {
            for kind in KINDS {
                let server = Server::start(kind, (api.profile)()).await;
                let client = plain_client();
                let $caller = Caller {
                    api,
                    server,
                    client,
                };
                $body
            }
        }
    };
}

/// A client that does nothing by itself.
fn plain_client() -> Client {
    let no_redirects = reqwest::redirect::Policy::none();
    Client::builder().redirect(no_redirects).build().unwrap()
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    Some(response.headers().get(name)?.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_covered_method_is_executed_once_and_others_are_never_touched() {
    for_each_profile!(|caller| {
        let mut executed = 0;
        for method in ["POST", "PATCH", "PUT", "DELETE", "GET"] {
            for repeat in [false, true] {
                let request = caller.request(method, Some(method), "{}");
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), 201);
                let is_covered = caller.api.methods.contains(&method);
                executed += u64::from(!repeat || !is_covered);
                assert_eq!(caller.server.executed(), executed, "{method}");
                if !is_covered {
                    assert_eq!(header(&response, "x-request-id"), None);
                }
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_be_as_long_as_documented_and_no_longer() {
    for_each_profile!(|caller| {
        let longest = "k".repeat(caller.api.max_key_chars);
        let response = caller.post(&longest, "{}").await;
        assert_eq!(response.status(), 201);
        let too_long = format!("{longest}k");
        let response = caller.post(&too_long, "{}").await;
        assert_eq!(response.status(), 400);
        let body = response.text().await.unwrap();
        let chars = format!("it has {} characters", caller.api.max_key_chars + 1);
        assert!(body.contains(&chars), "{body}");
        assert!(!body.contains(&too_long), "{body}");
        assert_eq!(caller.server.executed(), 1);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_in_the_profiles_syntax() {
    for_each_profile!(|caller| {
        let post = |value: &str| {
            let request = caller.request("POST", None, "{}");
            request.header("idempotency-key", value).send()
        };
        let (bare, quoted) = (post("k").await.unwrap(), post(r#""k""#).await.unwrap());
        let escaped = post(r#""a\"b\\c""#).await.unwrap();
        assert_eq!(
            (quoted.status().as_u16(), escaped.status().as_u16()),
            (201, 201)
        );
        if caller.api.is_quoted {
            assert_eq!(bare.status(), 400);
            assert_eq!(post(r#""a\b""#).await.unwrap().status(), 400);
            let attempts = caller.server.works.attempts.lock().unwrap();
            let keys: Vec<_> = attempts.iter().map(|attempt| attempt.key().key()).collect();
            assert_eq!(keys, ["k", r#"a"b\c"#]);
        } else {
            assert_eq!(bare.status(), 201);
            let attempts = caller.server.works.attempts.lock().unwrap();
            let keys: Vec<_> = attempts.iter().map(|attempt| attempt.key().key()).collect();
            assert_eq!(keys, ["k", r#""k""#, r#""a\"b\\c""#]);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_key_passes_or_is_told_that_it_needs_one() {
    for_each_profile!(|caller| {
        for _ in 0..2 {
            let response = caller.request("POST", None, "{}").send().await.unwrap();
            if !caller.api.requires_key {
                assert_eq!(response.status(), 201);
                continue;
            }
            assert_eq!(response.status(), 400);
            assert_eq!(
                header(&response, "content-type"),
                Some("application/problem+json")
            );
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["title"], "Idempotency-Key is missing");
            assert_eq!(body["status"], 400);
        }
        assert_eq!(
            caller.server.executed(),
            if caller.api.requires_key { 0 } else { 2 }
        );
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_answer_marked_as_documented() {
    for_each_profile!(|caller| {
        let request = || caller.request("POST", Some("k"), "{\"amount\":1}");
        let first = request()
            .header("x-request-id", "req_first")
            .send()
            .await
            .unwrap();
        let again = request()
            .header("x-request-id", "req_again")
            .send()
            .await
            .unwrap();
        assert_eq!(caller.server.executed(), 1);
        assert_eq!(
            (first.status().as_u16(), again.status().as_u16()),
            (201, 201)
        );
        assert_eq!(header(&first, "x-request-id"), Some("req_first"));
        assert_eq!(header(&again, "x-request-id"), Some("req_again"));
        assert_eq!(header(&first, "set-cookie"), Some("session=1"));
        for name in ["content-type", "location", "x-first-run"] {
            assert_eq!(header(&first, name), header(&again, name));
        }
        for name in ["x-multi", "x-raw"] {
            let all = |response: &Response| -> Vec<Vec<u8>> {
                let values = response.headers().get_all(name).iter();
                values.map(|value| value.as_bytes().to_vec()).collect()
            };
            assert_eq!(all(&first), all(&again));
        }
        for name in ["set-cookie", "x-auth-token"] {
            assert_eq!(header(&again, name), None);
        }
        for name in ["idempotent-replayed", "x-original-request-id"] {
            let mark = caller.api.mark.filter(|(mark, _)| *mark == name);
            assert_eq!(header(&again, name), mark.map(|(_, value)| value));
            assert_eq!(header(&first, name), None);
        }
        let body = first.bytes().await.unwrap();
        assert_eq!(body, "run 1: {\"amount\":1}");
        assert_eq!(body, again.bytes().await.unwrap());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_kept_where_documented_and_free_the_key_elsewhere() {
    for_each_profile!(|caller| {
        let mut executed = 0;
        for status in ["200", "204", "302", "400", "404", "500", "503"] {
            let is_kept = caller.api.keeps_failures || status.starts_with('2');
            for repeat in [false, true] {
                let request = caller.request("POST", Some(status), "{}");
                let response = request.header("x-status", status).send().await.unwrap();
                executed += u64::from(!repeat || !is_kept);
                assert_eq!(response.status().as_str(), status);
                assert_eq!(caller.server.executed(), executed, "{status}");
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_with_the_key_is_refused_as_documented() {
    for_each_profile!(|caller| {
        assert_eq!(caller.post("k", "{\"amount\":1}").await.status(), 201);
        let other = caller.request("POST", Some("k"), "{\"amount\":2}");
        let other = other
            .header("x-request-id", "req_a1b2c3d4")
            .send()
            .await
            .unwrap();
        let (status, body) = caller.api.conflict;
        assert_eq!(other.status(), status);
        assert_eq!(header(&other, "x-request-id"), Some("req_a1b2c3d4"));
        assert_eq!(
            header(&other, "content-type"),
            Some(caller.api.content_type)
        );
        let text = other.text().await.unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            body("req_a1b2c3d4")
        );
        if (caller.api.profile)().covers(&Method::PATCH) {
            let patch = caller.request("PATCH", Some("k"), "{\"amount\":1}");
            assert_eq!(patch.send().await.unwrap().status(), status);
        }
        let path = caller.client.post(caller.server.url("/payments/1"));
        let query = caller.client.post(caller.server.url("/payments?x=1"));
        for request in [path, query] {
            let key = if caller.api.is_quoted { "\"k\"" } else { "k" };
            let request = request
                .header("idempotency-key", key)
                .body("{\"amount\":1}");
            assert_eq!(request.send().await.unwrap().status(), status);
        }
        assert_eq!(caller.server.executed(), 1);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn decks_mismatch_is_answered_to_the_letter() {
    for kind in KINDS {
        let server = Server::start(kind, Profile::deck()).await;
        let post = |body: &'static str| {
            let request = Client::new().post(server.url("/payments"));
            let request = request.header("idempotency-key", "550e8400");
            request
                .header("x-request-id", "req_a1b2c3d4")
                .body(body)
                .send()
        };
        post("{\"amount\":1}").await.unwrap();
        let response = post("{\"amount\":2}").await.unwrap();
        assert_eq!(response.status(), 409);
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        assert_eq!(
            response.text().await.unwrap(),
            "{\"errors\":[{\"type\":\"idempotency\",\"code\":\"idempotency_error\",\"message\":\
             \"Idempotency key has already been used with different parameters.\"}],\
             \"request_id\":\"req_a1b2c3d4\"}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_id_is_given_one_which_the_body_names() {
    let server = Server::start(Kind::Tower, Profile::deck()).await;
    let mut ids = std::collections::HashSet::new();
    for amount in 0..100 {
        let request = Client::new().post(server.url("/payments"));
        let request = request
            .header("idempotency-key", "k")
            .body(amount.to_string());
        let response = request.send().await.unwrap();
        let id = header(&response, "x-request-id").unwrap().to_owned();
        assert!(id.starts_with("req_"), "{id}");
        if amount > 0 {
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["request_id"], id);
        }
        assert!(ids.insert(id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_still_running_is_answered_as_documented() {
    for_each_profile!(|caller| {
        let gated = || {
            caller
                .request("POST", Some("k"), "{}")
                .header("x-gate", "1")
        };
        let first = tokio::spawn(gated().send());
        caller.server.executed_reaches(1).await;
        let taken = Duration::from_secs(30);
        caller.server.clock.advance(taken);
        let second = gated()
            .header("x-request-id", "req_second")
            .send()
            .await
            .unwrap();
        let (status, body) = caller.api.in_flight;
        assert_eq!(second.status(), status);
        let seconds: u64 = header(&second, "retry-after").unwrap().parse().unwrap();
        let near = (taken - AFTER).as_secs()..=(taken + BEFORE).as_secs();
        assert!(near.contains(&seconds), "{seconds}");
        assert_eq!(
            header(&second, "content-type"),
            Some(caller.api.content_type)
        );
        assert_eq!(header(&second, "x-request-id"), Some("req_second"));
        let expected = body("req_second", seconds);
        assert_eq!(second.json::<Value>().await.unwrap(), expected);
        caller.server.open_gate();
        let first = first.await.unwrap().unwrap();
        let third = gated().send().await.unwrap();
        assert_eq!(
            (first.status().as_u16(), third.status().as_u16()),
            (201, 201)
        );
        assert_eq!(first.bytes().await.unwrap(), third.bytes().await.unwrap());
        assert_eq!(caller.server.executed(), 1);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_for_24_hours_and_no_longer() {
    for_each_profile!(|caller| {
        caller.post("k", "{}").await;
        caller.server.clock.advance(RETENTION - BEFORE);
        caller.post("k", "{}").await;
        assert_eq!(caller.server.executed(), 1);
        caller.server.clock.advance(BEFORE + AFTER);
        caller.post("k", "{}").await;
        assert_eq!(caller.server.executed(), 2);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_panic_the_key_is_free_again_in_2_minutes_and_the_handler_learns_of_it() {
    for_each_profile!(|caller| {
        let panicking = || {
            caller
                .request("POST", Some("k"), "{}")
                .header("x-panic", "1")
                .send()
        };
        // Without a layer, too, a panic cuts the connection.
        assert!(panicking().await.is_err());
        caller.server.clock.advance(LEASE - BEFORE);
        assert_eq!(panicking().await.unwrap().status(), caller.api.in_flight.0);
        caller.server.clock.advance(BEFORE + AFTER);
        let again = caller.post("k", "{}").await;
        assert_eq!(again.status(), 201);
        let attempts = caller.server.works.attempts.lock().unwrap();
        let numbers: Vec<_> = attempts
            .iter()
            .map(onceward_http::Attempt::number)
            .collect();
        assert_eq!(numbers, [1, 2]);
        assert!(attempts[0].token() < attempts[1].token());
    });
}
