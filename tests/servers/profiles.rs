//! What the documented APIs answer, on engines of 4 processes at once.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use onceward::Engine;

use crate::node::Node;
use crate::shared::Shared;
use support::start::postgres::PostgresServer;
use support::start::redis::Cluster;

const PROCESSES: usize = 4;
/// What the names of those tests begin with.
const TESTS: &str = "http::";

#[test]
fn four_processes_at_once_answer_as_documented_on_postgresql() {
    if let Some(server) = PostgresServer::start() {
        all_pass("PostgreSQL", &server.url());
    }
}

#[test]
fn four_processes_at_once_answer_as_documented_on_a_redis_cluster() {
    if let Some(cluster) = Cluster::start() {
        all_pass("Redis Cluster", &cluster.urls());
    }
}

fn all_pass(name: &str, url: &str) {
    /// Fewer keys than this one process makes, if it is on this store.
    const KEYS: usize = 500;
    let start = Instant::now();
    let wanted = tests();
    assert!(wanted.len() > 30, "{wanted:?}");
    assert!(wanted.iter().any(|test| test.contains("profiles::")));
    let processes: Vec<_> = (0..PROCESSES)
        .map(|number| Node::run(TESTS, url, number))
        .collect();
    for process in processes {
        assert_eq!(passed(&process.finish()), wanted);
    }
    let engine = Engine::builder().open_on(Shared::at(url)).unwrap();
    let keys = engine.export().map(Result::unwrap).count();
    assert!(keys > PROCESSES * KEYS, "{keys}");
    println!(
        "{name}: {} tests in each of {PROCESSES} processes passed in {:?}; {keys} keys",
        wanted.len(),
        start.elapsed()
    );
}

/// The names of all of them that this program has.
fn tests() -> BTreeSet<String> {
    let mut list = Command::new(std::env::current_exe().unwrap());
    let output = list.args([TESTS, "--list"]).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let names = lines.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

/// The names of those that a process says have passed.
fn passed(said: &[String]) -> BTreeSet<String> {
    let names = said
        .iter()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"));
    names.map(str::to_owned).collect()
}
