//! How a register on Redis is set up.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use onceward::{Error, ErrorKind, Result};
use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::Redis;
use super::node::{Limits, Node};

const MOST_CONNECTIONS: usize = 64;
const WAITING_CONNECTIONS: usize = 8;
const MOST_PREFIX_BYTES: usize = 128;
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Sets up a [`Redis`]; from [`Redis::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisBuilder {
    urls: Urls,
    prefix: Vec<u8>,
    timeout: Duration,
    /// `None` for what suits the rest.
    connections: Option<usize>,
    replicas: Option<Replicas>,
}

/// They may hold passwords.
#[derive(Clone)]
struct Urls(String);

impl std::fmt::Debug for Urls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

/// How many replicas have to have a change before it counts as made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replicas {
    pub(super) count: u32,
    pub(super) timeout: Duration,
}

/// What was checked.
pub(super) struct Config {
    /// At least one.
    pub(super) seeds: Vec<ConnectionInfo>,
    pub(super) prefix: Vec<u8>,
    pub(super) timeout: Duration,
    pub(super) connections: usize,
    pub(super) replicas: Option<Replicas>,
}

impl RedisBuilder {
    pub(super) fn new(urls: &str) -> Self {
        Self {
            urls: Urls(urls.to_owned()),
            prefix: b"onceward:".to_vec(),
            timeout: Duration::from_secs(5),
            connections: None,
            replicas: None,
        }
    }

    /// What all keys and the channel begin with, 1 to 128 bytes; `onceward:` by default. Engines with the same prefix share
    /// their keys. With a part in braces, as in `{jobs}:`, all keys are on one server of a cluster.
    pub fn prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long one of the engine's calls waits for the servers, with everything that is asked again, before it fails with
    /// [`ErrorKind::Unavailable`]: 100 ms to 10 minutes; 5 seconds by default.
    ///
    /// One request waits for two fifths of it, so that a connection that says nothing is given up in time for another try. A
    /// failover takes longer than a cluster's `cluster-node-timeout`: a call lives through it if its timeout is longer, too.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many connections there are to each server, 1 to 64; by default 1, or 8 if each change
    /// [waits for replicas](RedisBuilder::wait_for_replicas). Each is shared by all callers: without a wait, several are no faster.
    /// What is heard from other nodes has a further one.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = Some(connections);
        self
    }

    /// Has each change wait, with `WAIT`, until this many replicas have it in memory, for up to so long: whole milliseconds, less
    /// than two fifths of the [timeout](RedisBuilder::timeout). One that fewer have by then has an unknown outcome: the call fails with
    /// [`ErrorKind::Unavailable`], and may be made again.
    ///
    /// It takes no further round trip, but a connection does nothing else while it waits, so that their
    /// [number](RedisBuilder::connections) bounds how many changes are made at once. While replicas are missing, each
    /// connection makes one change per timeout: keep it short. What this changes of the promises, and what it doesn't, is told in the
    /// [module's docs](super).
    pub fn wait_for_replicas(mut self, replicas: u32, timeout: Duration) -> Self {
        let count = replicas;
        self.replicas = (count > 0).then_some(Replicas { count, timeout });
        self
    }

    /// Checks the settings. Nothing is connected before an engine is opened on it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if an URL can't be read or asks for TLS, or a setting is out of its range.
    pub fn build(self) -> Result<Redis> {
        let seeds = self.urls.0.split(',').map(seed).collect::<Result<_>>()?;
        let connections = self.connections.unwrap_or(match self.replicas {
            None => 1,
            // Each does nothing else while it waits.
            Some(_) => WAITING_CONNECTIONS,
        });
        check(
            (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&self.timeout),
            "the timeout has to be 100 ms to 10 minutes",
        )?;
        check(
            (1..=MOST_CONNECTIONS).contains(&connections),
            "there have to be 1 to 64 connections",
        )?;
        check(
            (1..=MOST_PREFIX_BYTES).contains(&self.prefix.len()),
            "the prefix has to have 1 to 128 bytes",
        )?;
        if let Some(replicas) = &self.replicas {
            let longest = answering(self.timeout);
            check(
                replicas.timeout >= Duration::from_millis(1) && replicas.timeout < longest,
                "the wait for replicas has to be 1 ms to two fifths of the timeout",
            )?;
        }
        Ok(Redis::of(Arc::new(Config {
            seeds,
            prefix: self.prefix,
            timeout: self.timeout,
            connections,
            replicas: self.replicas,
        })))
    }
}

impl Config {
    pub(super) fn node(&self, info: ConnectionInfo, made: Arc<AtomicU64>) -> Node {
        Node::new(info, self.limits(), self.connections, made)
    }

    /// How long each step may take.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            connecting: self.timeout / 5,
            answering: answering(self.timeout),
        }
    }
}

fn answering(timeout: Duration) -> Duration {
    timeout / 5 * 2
}

fn seed(url: &str) -> Result<ConnectionInfo> {
    let url = url.trim();
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("redis://{url}")
    };
    let info = url.into_connection_info().map_err(|error| {
        let message =
            "the store's URLs have to be like redis://host:port, with commas between them";
        Error::with_source(ErrorKind::InvalidConfig, message, error)
    })?;
    let has_host = match info.addr() {
        ConnectionAddr::Tcp(host, _) => !host.is_empty(),
        address => address.is_supported(),
    };
    check(
        has_host,
        "the store's URL has no host, or asks for TLS, which this crate's redis feature doesn't have",
    )?;
    Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn check(is_right: bool, message: &str) -> Result<()> {
    if is_right {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, message))
}
