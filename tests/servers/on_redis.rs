//! Engines on Redis.

mod cluster;
mod contract;
mod engines;
mod outages;
mod passing;

use std::time::Duration;

use onceward::register::Register;
use onceward::{Engine, Error, Outcome, Reply};
use onceward_redis::Redis;

use support::engine::{granted, key, request};

/// A hasty one's.
const TIMEOUT: Duration = Duration::from_secs(1);

fn register(urls: &str) -> Redis {
    Redis::builder(urls).build().unwrap()
}

/// One that gives up soon.
fn hasty(urls: &str) -> Redis {
    let builder = Redis::builder(urls).timeout(TIMEOUT);
    builder.build().unwrap()
}

/// An engine that answers no replay from its memory.
fn engine(register: impl Register) -> Engine {
    let builder = Engine::builder().replay_cache_time(Duration::ZERO);
    builder.open_on(register).unwrap()
}

fn begin(engine: &Engine, name: &str) -> Result<Outcome, Error> {
    engine.begin(&key(name), &request())
}

fn completed(engine: &Engine, name: &str) {
    let body = format!("the answer to {name}");
    let guard = granted(engine, name);
    guard.complete(Reply::new(201, body)).unwrap();
}

fn is_replayed(engine: &Engine, name: &str) -> bool {
    match begin(engine, name).unwrap() {
        Outcome::Replay(reply) => reply.body() == format!("the answer to {name}").as_str(),
        _ => false,
    }
}
