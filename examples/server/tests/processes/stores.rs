//! Two processes that share a store.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::{Client, Response};
use serde_json::Value;

use support::start::folder;
use support::start::postgres::PostgresServer;
use support::start::redis::{Cluster, Server};

fn command(db: &Path, store: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.args(["--listen", "127.0.0.1:0", "--profile", "deck"]);
    command.arg("--db").arg(db).args(["--store", store]);
    command.stdout(Stdio::piped());
    command
}

/// A process that is killed when this is dropped.
struct Example {
    process: Child,
    payments: String,
}

impl Example {
    fn start(db: &Path, store: &str) -> Self {
        let mut process = command(db, store).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let url = line.strip_prefix("listening on ").expect("it is up");
        Self {
            process,
            payments: format!("{}/payments", url.trim_end()),
        }
    }

    async fn pay(&self, key: &str) -> Response {
        let request = Client::new().post(&self.payments);
        let request = request
            .header("idempotency-key", key)
            .body(r#"{"amount":5}"#);
        request.send().await.unwrap()
    }

    /// How often a handler has run.
    async fn executed(&self) -> u64 {
        let state = reqwest::get(&self.payments).await.unwrap();
        let state: Value = state.json().await.unwrap();
        state["executed"].as_u64().unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What one has answered, the other answers, and still does after the one was killed.
async fn share(store: &str) {
    let folder = folder();
    let start = |name| Example::start(&folder.path().join(name), store);
    let (one, other) = (start("one"), start("other"));
    let first = one.pay("a-key").await;
    assert_eq!(first.status(), 201);
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let first = first.text().await.unwrap();
    drop(one);
    for server in [other, start("third")] {
        let retry = server.pay("a-key").await;
        assert_eq!(retry.status(), 201);
        assert_eq!(retry.headers()["idempotent-replayed"], "true");
        assert_eq!(retry.text().await.unwrap(), first);
        assert_eq!(server.executed().await, 0);
        assert_eq!(server.pay("another-key").await.status(), 201);
    }
}

#[tokio::test]
async fn on_postgres_a_retry_to_another_process_is_replayed() {
    if let Some(server) = PostgresServer::start() {
        share(&server.url()).await;
    }
}

#[tokio::test]
async fn on_redis_a_retry_to_another_process_is_replayed() {
    if let Some(server) = Server::start() {
        share(&server.url()).await;
    }
}

#[tokio::test]
async fn on_a_redis_cluster_a_retry_to_another_process_is_replayed() {
    if let Some(cluster) = Cluster::start() {
        share(&cluster.urls()).await;
    }
}

#[test]
fn a_store_of_another_sort_is_refused() {
    let folder = folder();
    let mut refused = command(&folder.path().join("db"), "mysql://localhost");
    let output = refused.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("where built with --features postgres,redis"),
        "{said}"
    );
}
