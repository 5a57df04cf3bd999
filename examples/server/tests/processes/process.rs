//! The example server as a process: SIGTERM under load, and SIGKILL.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Client;
use serde_json::{Value, json};

use super::demo::Demo;
use support::engine::{folder, is_full_run};

/// What a caller knows of one payment.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// This answer arrived whole.
    Answer(String),
    /// The connection was refused or closed before any byte of an answer.
    Nothing,
}

/// Pays under fresh keys until the server is gone. An answer that breaks off panics.
async fn pay_until_the_end(url: String, caller: u64, told: Arc<AtomicU64>) -> Vec<(String, Told)> {
    let client = Client::builder()
        .retry(reqwest::retry::never())
        .build()
        .unwrap();
    let mut payments = Vec::new();
    for number in 0.. {
        let key = format!("{caller}-{number}");
        let request = client.post(&url).header("idempotency-key", &key);
        let request = request
            .header("x-demo-delay-ms", number % 20)
            .json(&json!({ "key": key }));
        if let Ok(response) = request.send().await {
            assert_eq!(response.status(), 201, "{key}");
            let body = response.text().await.expect("an answer was cut");
            payments.push((key, Told::Answer(body)));
            told.fetch_add(1, Ordering::SeqCst);
        } else {
            payments.push((key, Told::Nothing));
            break;
        }
    }
    payments
}

/// Starts the callers, and gives their payments once `stop` has ended the server.
async fn under_load(demo: &mut Demo, stop: impl FnOnce(&Demo)) -> Vec<(String, Told)> {
    const CALLERS: u64 = 16;
    let told = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            tokio::spawn(pay_until_the_end(
                demo.payments(),
                caller,
                Arc::clone(&told),
            ))
        })
        .collect();
    while told.load(Ordering::SeqCst) < CALLERS * 10 {
        tokio::task::yield_now().await;
    }
    stop(demo);
    let mut payments = Vec::new();
    for caller in callers {
        payments.extend(caller.await.unwrap());
    }
    payments
}

/// The payments in the effects log by the key that they were made for, and how many there are of each.
fn made(effects: &[Value]) -> HashMap<String, Vec<String>> {
    let mut made: HashMap<String, Vec<String>> = HashMap::new();
    for payment in effects.iter().filter_map(|entry| entry.get("payment")) {
        let key = payment["key"].as_str().unwrap().to_owned();
        made.entry(key).or_default().push(payment.to_string());
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_cuts_no_request_that_was_accepted() {
    let folder = folder();
    let mut demo = Demo::start(&folder.path().join("db"), "deck");
    // A client that hangs up: its handler is waited for, too.
    let client = Client::new();
    let slow = client
        .post(demo.payments())
        .header("idempotency-key", "slow");
    let slow = slow
        .header("x-demo-delay-ms", "5000")
        .json(&json!({ "key": "slow" }));
    let slow = tokio::spawn(slow.send());
    while demo.executed().await == 0 {
        tokio::task::yield_now().await;
    }
    slow.abort();
    let payments = under_load(&mut demo, |demo| demo.tell("-TERM")).await;
    assert!(demo.ended(), "the server did not end well");
    // It was still running when the server was told to stop.
    let ended_last = demo.effects().last().unwrap()["payment"]["key"] == "slow";
    assert!(ended_last, "the slow handler didn't outlast the load");
    let effects = demo.effects();
    let made = made(&effects);
    for (key, told) in &payments {
        let made = made.get(key).map(Vec::as_slice).unwrap_or_default();
        match told {
            Told::Answer(body) => assert_eq!(made, std::slice::from_ref(body)),
            // Refused before it was accepted: nothing may have been done.
            Told::Nothing => assert!(made.is_empty(), "{key} was cut"),
        }
    }
    assert_eq!(made["slow"].len(), 1);
    // Everything that was answered is replayed by the next process.
    let demo = Demo::start(&folder.path().join("db"), "deck");
    assert_replayed(&demo, &payments).await;
    let slow = client
        .post(demo.payments())
        .header("idempotency-key", "slow");
    let slow = slow.json(&json!({ "key": "slow" })).send().await.unwrap();
    assert_eq!(slow.text().await.unwrap(), made["slow"][0]);
}

async fn assert_replayed(demo: &Demo, payments: &[(String, Told)]) {
    let client = Client::new();
    for (key, told) in payments {
        let Told::Answer(body) = told else { continue };
        let request = client.post(demo.payments()).header("idempotency-key", key);
        let response = request.json(&json!({ "key": key })).send().await.unwrap();
        assert_eq!(response.headers()["idempotent-replayed"], "true", "{key}");
        assert_eq!(&response.text().await.unwrap(), body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigkill_each_answer_that_arrived_is_replayed_and_had_one_effect() {
    let rounds = if is_full_run() { 50 } else { 5 };
    for _ in 0..rounds {
        let folder = folder();
        let db = folder.path().join("db");
        let mut demo = Demo::start(&db, "deck");
        let payments = under_load(&mut demo, |demo| demo.tell("-KILL")).await;
        assert!(!demo.ended());
        let demo = Demo::start(&db, "deck");
        assert_replayed(&demo, &payments).await;
        let effects = demo.effects();
        let made = made(&effects);
        let client = Client::new();
        for (key, told) in &payments {
            let made = made.get(key).map(Vec::as_slice).unwrap_or_default();
            match told {
                Told::Answer(body) => assert_eq!(made, std::slice::from_ref(body)),
                // Nobody knows; the key is held until its lease ends, replayed, or new.
                Told::Nothing => {
                    assert!(made.len() <= 1);
                    let request = client.post(demo.payments()).header("idempotency-key", key);
                    let response = request.json(&json!({ "key": key })).send().await.unwrap();
                    let status = response.status().as_u16();
                    let is_new = made.is_empty() && status == 201;
                    let is_kept =
                        status == 201 && response.headers().contains_key("idempotent-replayed");
                    assert!(is_new || is_kept || status == 409, "{key}: {status}");
                }
            }
        }
    }
}
