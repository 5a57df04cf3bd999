//! Two servers whose engines share a register.

use std::sync::Arc;
use std::time::Duration;

use onceward::testkit::Local;
use onceward::{Engine, ManualClock};
use onceward_http::Options;
use onceward_http::Profile;
use reqwest::{Client, Response};
use tokio::task::JoinHandle;

use super::servers::{KINDS, Kind, Server};
use support::engine::LEASE;

async fn two(kind: Kind, options: &Options) -> (Arc<Server>, Arc<Server>, ManualClock) {
    let clock = ManualClock::new();
    let register = Local::new(clock.clone());
    let node = async || {
        let builder = Engine::builder().clock(clock.clone());
        let engine = builder.open_on(register.clone()).unwrap();
        let profile = Profile::deck();
        Server::over(kind, engine, clock.clone(), profile, options.clone()).await
    };
    (Arc::new(node().await), Arc::new(node().await), clock)
}

fn post(server: &Server, key: &'static str, is_gated: bool) -> JoinHandle<Response> {
    let request = Client::new().post(server.url("/payments")).body("{}");
    let request = request.header("idempotency-key", key);
    let request = if is_gated {
        request.header("x-gate", "1")
    } else {
        request
    };
    tokio::spawn(async move { request.send().await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_has_answered_is_replayed_while_no_further_handler_may_run() {
    for kind in KINDS {
        let options = Options::new().max_running(1);
        let (one, other, _clock) = two(kind, &options).await;
        assert_eq!(post(&other, "done", false).await.unwrap().status(), 201);
        let running = post(&one, "running", true);
        one.executed_reaches(1).await;
        let replayed = post(&one, "done", false).await.unwrap();
        assert_eq!(replayed.headers()["idempotent-replayed"], "true");
        one.open_gate();
        assert_eq!(running.await.unwrap().status(), 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_an_attempt_that_another_server_took_over_gets_what_each_retry_gets() {
    for kind in KINDS {
        let options = Options::new().renew_for(Duration::ZERO);
        let (one, other, clock) = two(kind, &options).await;
        let first = post(&one, "k", true);
        one.executed_reaches(1).await;
        clock.advance(LEASE);
        let second = post(&other, "k", true);
        other.executed_reaches(1).await;
        one.open_gate();
        assert_eq!(first.await.unwrap().status(), 409);
        other.open_gate();
        assert_eq!(second.await.unwrap().status(), 201);
    }
}
