//! A redis-server on loopback that syncs its append-only file before it answers.

use std::path::Path;

use anyhow::{Context as _, Result};
use onceward::Key;
use onceward::bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Connection, cmd};

use crate::rival::{Answer, BoxFuture, Caller, Digest, Reader, Rival, Task, digest};
use crate::round_trips::Trips;
use crate::servers::RedisServer;

/// How many multiplexed connections the tasks share.
const SHARED_CONNECTIONS: usize = 4;

pub(crate) struct Redis {
    client: Client,
    /// Runs as long as this does.
    _server: RedisServer,
}

impl Redis {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let server = RedisServer::start(folder)?;
        let client = Client::open(format!("redis://127.0.0.1:{}/", server.port()))?;
        let redis = Self {
            client,
            _server: server,
        };
        redis.check_durability()?;
        Ok(redis)
    }

    fn check_durability(&self) -> Result<()> {
        let mut connection = self.client.get_connection()?;
        for (setting, wanted) in [("appendonly", "yes"), ("appendfsync", "always")] {
            let (_, value): (String, String) = cmd("CONFIG")
                .arg("GET")
                .arg(setting)
                .query(&mut connection)?;
            anyhow::ensure!(value == wanted, "redis has {setting} {value}");
        }
        Ok(())
    }

    fn connect(&self) -> Result<Blocking> {
        let connection = self.client.get_connection().context("no connection")?;
        Ok(Blocking { connection })
    }
}

impl Rival for Redis {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        Ok(Box::new(self.connect()?))
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        Box::pin(async move {
            // A disk that is slow is no reason to give up.
            let config = AsyncConnectionConfig::new().set_response_timeout(None);
            let mut shared = Vec::new();
            for _ in 0..SHARED_CONNECTIONS {
                let connection = self
                    .client
                    .get_multiplexed_async_connection_with_config(&config);
                shared.push(connection.await?);
            }
            let connections = shared.iter().cycle().take(count).cloned();
            Ok(connections
                .map(|connection| Box::new(Multiplexed { connection }) as Box<dyn Task>)
                .collect())
        })
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(self.connect()?))
    }

    fn count_trips(&mut self) -> Result<Option<Box<dyn Trips>>> {
        let commands = CommandStats {
            client: self.client.clone(),
            commands: &["set", "get"],
        };
        Ok(Some(Box::new(commands)))
    }
}

/// How often a server was asked for commands, by what it says itself.
pub(super) struct CommandStats {
    pub(super) client: Client,
    pub(super) commands: &'static [&'static str],
}

impl CommandStats {
    fn calls(&self, commands: &[&str]) -> Result<u64> {
        let mut connection = self.client.get_connection()?;
        let stats: String = cmd("INFO").arg("commandstats").query(&mut connection)?;
        let mut sum = 0;
        for command in commands {
            let head = format!("cmdstat_{command}:calls=");
            let line = stats.lines().find_map(|line| line.strip_prefix(&head));
            if let Some((calls, _)) = line.and_then(|line| line.split_once(',')) {
                sum += calls.parse::<u64>()?;
            }
        }
        Ok(sum)
    }
}

impl Trips for CommandStats {
    fn operations(&self) -> Result<u64> {
        self.calls(self.commands)
    }

    fn announcements(&self) -> Result<u64> {
        self.calls(&["publish"])
    }
}

/// An empty value is an attempt that is running; any other is the reply.
fn take(digest: &Digest) -> Cmd {
    let mut command = cmd("SET");
    command.arg(digest).arg("").arg("NX");
    command
}

fn look_up(digest: &Digest) -> Cmd {
    let mut command = cmd("GET");
    command.arg(digest);
    command
}

fn keep(digest: &Digest, reply: &[u8]) -> Cmd {
    let mut command = cmd("SET");
    command.arg(digest).arg(reply);
    command
}

struct Blocking {
    connection: Connection,
}

impl Caller for Blocking {
    fn begin(&mut self, key: &Key) -> Result<Answer> {
        let digest = digest(key);
        let taken: Option<String> = take(&digest).query(&mut self.connection)?;
        if taken.is_some() {
            return Ok(Answer::Done);
        }
        let record: Vec<u8> = look_up(&digest).query(&mut self.connection)?;
        Ok(Answer::of_record(&record))
    }

    fn complete(&mut self, key: &Key, reply: Bytes) -> Result<()> {
        Ok(keep(&digest(key), &reply).exec(&mut self.connection)?)
    }
}

impl Reader for Blocking {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let record: Option<Vec<u8>> = look_up(&digest(key)).query(&mut self.connection)?;
        Ok(record.filter(|record| !record.is_empty()).map(Bytes::from))
    }
}

struct Multiplexed {
    connection: MultiplexedConnection,
}

impl Task for Multiplexed {
    fn begin<'a>(&'a mut self, key: &'a Key) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            let digest = digest(key);
            let taken: Option<String> = take(&digest).query_async(&mut self.connection).await?;
            if taken.is_some() {
                return Ok(Answer::Done);
            }
            let record: Vec<u8> = look_up(&digest).query_async(&mut self.connection).await?;
            Ok(Answer::of_record(&record))
        })
    }

    fn complete<'a>(&'a mut self, key: &'a Key, reply: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let command = keep(&digest(key), &reply);
            Ok(command.exec_async(&mut self.connection).await?)
        })
    }
}
