//! The suite for registers, and what a server's types and limits could break of the contract.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onceward::register::{RecordId, Register, Swapped, Value, Version};
use onceward::testkit::conformance;

use crate::node::{Node, Told, say};
use crate::shared::Shared;
use support::start::postgres::PostgresServer;
use support::start::redis::{Cluster, Server};

const PROCESSES: usize = 4;

#[test]
fn postgresql_passes_in_one_process_and_in_four_at_once() {
    if let Some(server) = PostgresServer::start() {
        passes(&server.url());
    }
}

#[test]
fn a_redis_cluster_passes_in_one_process_and_in_four_at_once() {
    if let Some(cluster) = Cluster::start() {
        passes(&cluster.urls());
    }
}

#[test]
fn one_redis_server_passes_in_one_process_and_in_four_at_once() {
    if let Some(server) = Server::start() {
        passes(&server.url());
    }
}

fn passes(url: &str) {
    let start = Instant::now();
    let alone = conformance(|| Shared::at(url));
    println!("{alone}\nalone in {:?}", start.elapsed());
    assert!(alone.announces);
    let start = Instant::now();
    let processes: Vec<_> = (0..PROCESSES)
        .map(|number| Node::start("conformance::passes_beside_others", url, number))
        .collect();
    let wanted = format!("passed {}", alone.scenarios.len());
    for process in processes {
        let said = process.finish();
        assert!(said.contains(&wanted), "{said:?}");
    }
    println!("{PROCESSES} processes at once in {:?}", start.elapsed());
}

#[test]
#[ignore = "a child process of the tests above"]
fn passes_beside_others() {
    let Some(told) = Told::here() else {
        return;
    };
    let passed = conformance(|| Shared::at(&told.store));
    assert!(passed.announces);
    say(&format!("\npassed {}", passed.scenarios.len()));
}

#[test]
fn postgresql_takes_the_first_ends_and_far_ones_and_announces_512_ids_at_once() {
    if let Some(server) = PostgresServer::start() {
        run(takes_all_ends_and_announces_many(&server.url()));
    }
}

#[test]
fn a_redis_cluster_takes_the_first_ends_and_far_ones_and_announces_512_ids_at_once() {
    if let Some(cluster) = Cluster::start() {
        run(takes_all_ends_and_announces_many(&cluster.urls()));
    }
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build();
    runtime.unwrap().block_on(work);
}

async fn takes_all_ends_and_announces_many(url: &str) {
    ends_are_taken(&Shared::at(url)).await;
    many_are_heard(Shared::at(url), Shared::at(url)).await;
}

fn id(number: u16) -> RecordId {
    let mut bytes = [0x5a; 32];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    RecordId::from_bytes(bytes)
}

async fn ends_are_taken(register: &Shared) {
    const TEN_YEARS_MS: u64 = 3_653 * 86_400_000;
    let now_ms = register.load(id(0)).await.unwrap().now_ms;
    let ends = [
        (0, false),
        (1, false),
        (now_ms + TEN_YEARS_MS, true),
        (u64::MAX - 1, true),
        (u64::MAX, true),
    ];
    for (number, (ends_at_ms, stays)) in ends.into_iter().enumerate() {
        let id = id(u16::try_from(number).unwrap());
        let value = |bits| Value {
            version: Version::from_bits(bits),
            bytes: "bytes".into(),
        };
        let made = register.swap(id, None, value(1), u64::MAX).await.unwrap();
        assert!(matches!(made, Swapped::Done { .. }));
        let version = Some(Version::from_bits(1));
        let replaced = register.swap(id, version, value(2), ends_at_ms).await;
        let is_done = matches!(replaced, Ok(Swapped::Done { .. }));
        assert!(is_done, "an end {ends_at_ms} ms after 1970: {replaced:?}");
        while register.sweep().await.unwrap() > 0 {}
        let found = register.load(id).await.unwrap().value;
        assert_eq!(found, stays.then(|| value(2)), "{ends_at_ms}");
    }
}

async fn many_are_heard(one: Shared, other: Shared) {
    const MANY: u16 = 512;
    const LONGEST: Duration = Duration::from_secs(10);
    const PROBE: u16 = u16::MAX;
    let heard: Arc<Mutex<HashSet<RecordId>>> = Arc::default();
    let noted = Arc::clone(&heard);
    // As an engine does, both look before they speak.
    for register in [&one, &other] {
        register.load(id(0)).await.unwrap();
    }
    let listener = tokio::spawn(async move {
        let note = move |id| {
            noted.lock().unwrap().insert(id);
        };
        other.listen(note).await;
    });
    let heard = || heard.lock().unwrap();
    let start = Instant::now();
    // What is announced before the other one listens is lost.
    while !heard().contains(&id(PROBE)) {
        assert!(start.elapsed() < LONGEST, "nothing was heard");
        one.announce(vec![id(PROBE)]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let start = Instant::now();
    one.announce((0..MANY).map(id).collect()).await;
    while heard().len() <= usize::from(MANY) {
        let so_far = heard().len() - 1;
        assert!(start.elapsed() < LONGEST, "{so_far} of {MANY} were heard");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("{MANY} ids were heard after {:?}", start.elapsed());
    listener.abort();
}
