//! What a register has to do, by its own words.

use std::collections::HashSet;
use std::future::Future;

use onceward::register::{RecordId, Register, Swapped, Value, Version};
use onceward_redis::Redis;

use super::register;
use support::start::eventually;
use support::start::redis::{Cluster, Server};

const NEVER: u64 = u64::MAX;

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build();
    runtime.unwrap().block_on(work);
}

fn id(number: u64) -> RecordId {
    let mut bytes = [0x7b; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    RecordId::from_bytes(bytes)
}

fn value(version: u64, bytes: &'static [u8]) -> Value {
    Value {
        version: Version::from_bits(version),
        bytes: bytes.into(),
    }
}

fn version(bits: u64) -> Version {
    Version::from_bits(bits)
}

async fn holds(redis: &Redis, id: RecordId) -> Option<Value> {
    redis.load(id).await.unwrap().value
}

fn is_done(swapped: &Swapped) -> bool {
    matches!(swapped, Swapped::Done { .. })
}

async fn swaps_only_what_is_expected(redis: &Redis) {
    let id = id(1);
    let (first, second) = (value(1, b"\x00first\xff"), value(2, b""));
    assert_eq!(holds(redis, id).await, None);
    let refused = redis.swap(id, Some(version(9)), first.clone(), NEVER).await;
    assert!(matches!(refused, Ok(Swapped::Mismatch(found)) if found.value.is_none()));
    let swapped = redis.swap(id, None, first.clone(), NEVER).await.unwrap();
    assert!(is_done(&swapped));
    assert_eq!(holds(redis, id).await, Some(first.clone()));
    for expected in [None, Some(version(9))] {
        let refused = redis.swap(id, expected, second.clone(), NEVER).await;
        let Ok(Swapped::Mismatch(found)) = refused else {
            panic!("it was swapped");
        };
        assert_eq!(found.value.as_ref(), Some(&first));
    }
    let swapped = redis
        .swap(id, Some(version(1)), second.clone(), NEVER)
        .await;
    assert!(is_done(&swapped.unwrap()));
    // The same swap, asked for again.
    let swapped = redis
        .swap(id, Some(version(1)), second.clone(), NEVER)
        .await;
    assert!(is_done(&swapped.unwrap()));
    assert_eq!(holds(redis, id).await, Some(second));
}

async fn cells_end_by_the_servers_clock(redis: &Redis) {
    let id = id(2);
    let now_ms = redis.load(id).await.unwrap().now_ms;
    let ends_at_ms = now_ms + 300;
    let swapped = redis.swap(id, None, value(1, b"short"), ends_at_ms).await;
    assert!(is_done(&swapped.unwrap()));
    loop {
        let loaded = redis.load(id).await.unwrap();
        if loaded.value.is_none() {
            assert!(loaded.now_ms >= ends_at_ms);
            break;
        }
        assert!(loaded.now_ms <= ends_at_ms);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let swapped = redis.swap(id, None, value(2, b"past"), now_ms).await;
    assert!(is_done(&swapped.unwrap()));
    assert_eq!(holds(redis, id).await, None);
    assert_eq!(redis.sweep().await.unwrap(), 0);
}

/// Fills cells, and finds them all; slots may move after the first page.
async fn finds_all_cells(redis: &Redis, after_a_page: impl FnOnce()) {
    const CELLS: u64 = 5_000;
    let meta = RecordId::from_bytes([0; 32]);
    let mut wanted = HashSet::from([meta]);
    let swapped = redis.swap(meta, None, value(3, b"meta"), NEVER).await;
    assert!(is_done(&swapped.unwrap()));
    for number in 0..CELLS {
        let cell = id(1_000 + number);
        let swapped = redis.swap(cell, None, value(number, b"cell"), NEVER).await;
        assert!(is_done(&swapped.unwrap()));
        wanted.insert(cell);
    }
    let mut after_a_page = Some(after_a_page);
    let (mut found, mut pages, mut from) = (HashSet::new(), 0, None);
    loop {
        let page = redis.scan(from, 700).await.unwrap();
        pages += 1;
        for (id, value) in page.values {
            let is_whole = &value.bytes[..] == b"cell" || &value.bytes[..] == b"meta";
            assert!(is_whole || !wanted.contains(&id));
            found.insert(id);
        }
        if let Some(after_a_page) = after_a_page.take() {
            after_a_page();
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert!(wanted.is_subset(&found));
    assert!(pages >= 7);
    assert_eq!(holds(redis, meta).await, Some(value(3, b"meta")));
}

async fn announcements_are_heard_by_others_alone(redis: &Redis) {
    let other = redis.clone();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let own = sender.clone();
    let (redis, listener) = (std::sync::Arc::new(redis.clone()), other);
    let listening = std::sync::Arc::clone(&redis);
    listening.load(id(1)).await.unwrap();
    let tasks = [
        tokio::spawn(async move {
            let tell = move |id| {
                let _ = own.send(("own", id));
            };
            listening.listen(tell).await;
        }),
        tokio::spawn(async move {
            let tell = move |id| {
                let _ = sender.send(("other", id));
            };
            listener.listen(tell).await;
        }),
    ];
    // Which of the cluster's servers they listen to is theirs to choose: it is announced until it is heard.
    let first = loop {
        redis.announce(vec![id(1), id(2)]).await;
        let wait = std::time::Duration::from_millis(50);
        if let Ok(heard) = tokio::time::timeout(wait, heard.recv()).await {
            break heard;
        }
    };
    assert_eq!(first.map(|(who, _)| who), Some("other"));
    assert_eq!(heard.recv().await, Some(("other", id(2))));
    for task in tasks {
        task.abort();
    }
    while let Ok((who, _)) = heard.try_recv() {
        assert_eq!(who, "other");
    }
}

#[test]
fn one_server_keeps_a_registers_contract() {
    let Some(server) = Server::start() else {
        return;
    };
    run(async {
        let redis = register(&server.url());
        swaps_only_what_is_expected(&redis).await;
        cells_end_by_the_servers_clock(&redis).await;
        finds_all_cells(&redis, || {}).await;
        announcements_are_heard_by_others_alone(&redis).await;
        assert_eq!(redis.warnings(), Vec::<String>::new());
    });
}

#[test]
fn a_cluster_keeps_a_registers_contract() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    run(async {
        let redis = register(&cluster.urls());
        swaps_only_what_is_expected(&redis).await;
        cells_end_by_the_servers_clock(&redis).await;
        // From a server that is walked through late to the one that was first.
        let mut by_address = cluster.primaries();
        by_address.sort_by_key(|place| cluster.servers[*place].address());
        finds_all_cells(&redis, || {
            cluster.reshard(by_address[2], by_address[0], 200);
        })
        .await;
        announcements_are_heard_by_others_alone(&redis).await;
        assert_eq!(redis.warnings(), Vec::<String>::new());
    });
    for place in cluster.primaries() {
        eventually("each primary has keys", || {
            let size = cluster.servers[place].cli(&["DBSIZE"]);
            (size.trim().parse::<u64>().unwrap() > 1_000).then_some(())
        });
    }
}

#[test]
fn registers_with_other_prefixes_have_other_cells() {
    let Some(server) = Server::start() else {
        return;
    };
    run(async {
        let with = |prefix: &str| {
            let builder = Redis::builder(&server.url());
            builder.prefix(prefix).build().unwrap()
        };
        let (one, other) = (with("a*:"), with("ab:"));
        let done = one.swap(id(1), None, value(1, b"one"), NEVER).await;
        assert!(is_done(&done.unwrap()));
        assert_eq!(holds(&other, id(1)).await, None);
        let done = other.swap(id(1), None, value(2, b"other"), NEVER).await;
        assert!(is_done(&done.unwrap()));
        let page = one.scan(None, 100).await.unwrap();
        assert_eq!(page.values, [(id(1), value(1, b"one"))]);
    });
}
