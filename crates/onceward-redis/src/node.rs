//! One server, and the connections to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, Pipeline, RedisError, Value};
use tokio::sync::Mutex;

/// How many requests may be queued for one connection.
const QUEUED: usize = 1_024;

/// A server. Its connections are made when they are needed, and anew after they broke.
pub(super) struct Node {
    info: ConnectionInfo,
    limits: Limits,
    lanes: Box<[Mutex<Lane>]>,
    /// How many connections were made, to all servers.
    made: Arc<AtomicU64>,
}

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) connecting: Duration,
    pub(super) answering: Duration,
}

/// The place of a connection.
#[derive(Default)]
struct Lane {
    open: Option<MultiplexedConnection>,
    /// How many there have been.
    count: u64,
    /// When none could be made, and why.
    failed: Option<(Instant, RedisError)>,
}

/// Why a server gave no answer at all.
#[derive(Debug)]
pub(super) enum Silence {
    /// Nothing was sent.
    NotConnected(RedisError),
    /// What was sent may be carried out, or may have been.
    Broken(RedisError),
}

impl Silence {
    pub(super) fn into_error(self) -> RedisError {
        let (Self::NotConnected(error) | Self::Broken(error)) = self;
        error
    }
}

impl Node {
    pub(super) fn new(
        info: ConnectionInfo,
        limits: Limits,
        lanes: usize,
        made: Arc<AtomicU64>,
    ) -> Self {
        Self {
            info,
            limits,
            lanes: (0..lanes).map(|_| Mutex::default()).collect(),
            made,
        }
    }

    pub(super) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Sends commands in one go, on the connection of that number. Their answers are in order; a refused command's is an error value.
    pub(super) async fn ask(
        &self,
        lane: usize,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, Silence> {
        let lane = &self.lanes[lane % self.lanes.len()];
        let (mut connection, number) =
            self.connection(lane).await.map_err(Silence::NotConnected)?;
        let asked = connection.send_packed_commands(commands, 0, commands.len());
        match asked.await {
            Ok(answers) => Ok(answers),
            Err(error) => {
                let mut lane = lane.lock().await;
                if lane.count == number {
                    lane.open = None;
                }
                Err(Silence::Broken(error))
            }
        }
    }

    /// Has the connection of that number made anew: another server may have the address now.
    pub(super) async fn hang_up(&self, lane: usize) {
        let lane = &self.lanes[lane % self.lanes.len()];
        lane.lock().await.open = None;
    }

    async fn connection(
        &self,
        lane: &Mutex<Lane>,
    ) -> Result<(MultiplexedConnection, u64), RedisError> {
        let asked_at = Instant::now();
        let mut lane = lane.lock().await;
        if let Some(open) = &lane.open {
            return Ok((open.clone(), lane.count));
        }
        if let Some((failed_at, error)) = &lane.failed
            && *failed_at >= asked_at
        {
            // Those who waited for the connection don't each try in turn.
            return Err(error.clone());
        }
        // Boxed, so that each request isn't as large as the making of a connection.
        let open = match Box::pin(self.connect()).await {
            Ok(open) => open,
            Err(error) => {
                lane.failed = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        lane.count += 1;
        // Before anything is sent on it: whoever has an answer of a new connection's finds it
        // counted.
        self.made.fetch_add(1, Ordering::SeqCst);
        lane.open = Some(open.clone());
        Ok((open, lane.count))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limits.connecting))
            .set_response_timeout(Some(self.limits.answering))
            .set_pipeline_buffer_size(QUEUED);
        let client = Client::open(self.info.clone())?;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}
