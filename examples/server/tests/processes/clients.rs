//! Clients that people use, against the example server: `reqwest`, `curl`, and the retry clients of the
//! guide in JavaScript (Node), Python and Go. The first answer is dropped on the floor; the retry gets it.
//!
//! Needs `curl`, `node` (18 or newer), `python3` and `go`; `scripts/test` installs what is missing.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::demo::Demo;
use support::engine::folder;
use support::start::{on_path, skip};

/// Stands before a server and swallows the first answers: the request gets there, the client hears nothing.
struct DroppingProxy {
    address: SocketAddr,
    answers: Arc<AtomicUsize>,
}

impl DroppingProxy {
    async fn start(server: &str, to_drop: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = server.strip_prefix("http://").unwrap().to_owned();
        let answers = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answers);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server.clone(), Arc::clone(&count), to_drop));
            }
        });
        Self { address, answers }
    }
}

async fn relay(client: TcpStream, server: String, answers: Arc<AtomicUsize>, to_drop: usize) {
    let server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move {
        // An error here is a client that has gone.
        let _end = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut chunk = vec![0; 65_536];
    while let Ok(bytes @ 1..) = from_server.read(&mut chunk).await {
        let answer = answers.fetch_add(1, Ordering::SeqCst);
        if answer < to_drop {
            // Both connections are closed: with the answer unread, and in the middle of the next one.
            if answer > 0 {
                drop(to_client.write_all(&chunk[..bytes - 10]).await);
            }
            return;
        }
        if to_client.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
}

fn printed(output: &Output) -> Value {
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a retry client against a server whose first answer gets lost, and whose second one is cut in half.
async fn retries_to_the_original_answer(command: &[&str]) {
    if is_missing(command[0]) {
        return;
    }
    let folder = folder();
    for profile in ["deck", "deel", "stripe"] {
        let demo = Demo::start(&folder.path().join(profile), profile);
        let proxy = DroppingProxy::start(&demo.url, 2).await;
        let url = format!("http://{}/payments", proxy.address);
        let mut client = Command::new(command[0]);
        client.args(&command[1..]).arg(&url);
        let output = client
            .output()
            .await
            .unwrap_or_else(|error| panic!("{} can't be run ({error}); install it", command[0]));
        let answer = printed(&output);
        assert_eq!(answer, serde_json::json!({ "id": "pay_1", "amount": 100 }));
        assert!(proxy.answers.load(Ordering::SeqCst) >= 3);
        let state = demo.state().await;
        assert_eq!(state["executed"], 1);
        assert_eq!(state["payments"], serde_json::json!([answer]));
    }
}

/// Says so where a client's program isn't there.
fn is_missing(program: &str) -> bool {
    let is_missing = on_path(program).is_none();
    if is_missing {
        skip(program, "scripts/test installs it");
    }
    is_missing
}

fn client_file(name: &str) -> String {
    format!("{}/../clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_fetch_retries_three_times_with_one_key_and_pays_once() {
    retries_to_the_original_answer(&["node", &client_file("retry.mjs")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_retries_three_times_with_one_key_and_pays_once() {
    retries_to_the_original_answer(&["python3", &client_file("retry.py")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_retries_three_times_with_one_key_and_pays_once() {
    retries_to_the_original_answer(&["go", "run", &client_file("retry.go")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reqwest_loses_an_answer_and_gets_it_again() {
    let folder = folder();
    let demo = Demo::start(&folder.path().join("db"), "deck");
    let proxy = DroppingProxy::start(&demo.url, 1).await;
    let url = format!("http://{}/payments", proxy.address);
    // A client each, so that neither the pool nor its own retries hide the loss.
    let post = || {
        let client = reqwest::Client::builder()
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        client
            .post(&url)
            .header("idempotency-key", "k")
            .body(r#"{"amount":1}"#)
            .send()
    };
    assert!(post().await.is_err());
    let again = post().await.unwrap();
    assert_eq!(again.status(), 201);
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    let answer: Value = again.json().await.unwrap();
    assert_eq!(answer, serde_json::json!({ "id": "pay_1", "amount": 1 }));
    assert_eq!(demo.executed().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_retries_by_itself_and_pays_once() {
    if is_missing("curl") {
        return;
    }
    let folder = folder();
    let demo = Demo::start(&folder.path().join("db"), "ietf");
    let proxy = DroppingProxy::start(&demo.url, 1).await;
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--retry",
            "3",
        ])
        .args([
            "--retry-all-errors",
            "--retry-delay",
            "0",
            "--json",
            r#"{"amount":1}"#,
        ])
        .args(["--header", r#"idempotency-key: "550e8400""#])
        .arg(format!("http://{}/payments", proxy.address))
        .output()
        .await
        .expect("curl can't be run; install it");
    assert_eq!(
        printed(&output),
        serde_json::json!({ "id": "pay_1", "amount": 1 })
    );
    assert_eq!(demo.executed().await, 1);
}
