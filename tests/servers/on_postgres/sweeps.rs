//! Rows that are over, and who may remove them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use onceward::register::{RecordId, Register, Swapped, Value, Version};
use onceward_postgres::Postgres;
use tokio::runtime::Runtime;

use support::start::postgres::PostgresServer;

const OVER: u64 = 5_000;
const LIVE: u64 = 500;

fn id(number: u64) -> RecordId {
    let mut bytes = [0x7b; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    RecordId::from_bytes(bytes)
}

async fn put(register: &Postgres, number: u64, ends_at_ms: u64) {
    let value = Value {
        version: Version::from_bits(number + 1),
        bytes: "bytes".into(),
    };
    let swapped = register.swap(id(number), None, value, ends_at_ms).await;
    assert!(matches!(swapped, Ok(Swapped::Done { .. })));
}

#[test]
fn many_nodes_sweep_at_once_and_each_row_that_is_over_goes_once() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let register = Postgres::builder(server.url()).build().unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let now_ms = register.load(id(0)).await.unwrap().now_ms;
        for number in 0..OVER + LIVE {
            let is_over = number % 11 != 0;
            let ends_at_ms = if is_over { now_ms } else { now_ms + 3_600_000 };
            put(&register, number, ends_at_ms).await;
        }
    });
    let rows = || server.query("SELECT count(*) FROM onceward_records");
    assert_eq!(rows(), (OVER + LIVE).to_string());
    let swept = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let node = Postgres::builder(server.url()).build().unwrap();
                Runtime::new().unwrap().block_on(async {
                    loop {
                        match node.sweep().await.unwrap() {
                            0 => break,
                            some => drop(swept.fetch_add(some, Ordering::SeqCst)),
                        }
                    }
                });
            });
        }
        // Meanwhile others work.
        runtime.block_on(async {
            for number in OVER + LIVE..OVER + 2 * LIVE {
                put(&register, number, u64::MAX).await;
            }
        });
    });
    assert_eq!(swept.into_inner(), OVER);
    assert_eq!(rows(), (2 * LIVE).to_string());
}
