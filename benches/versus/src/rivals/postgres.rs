//! A Postgres cluster of the bench's own, over its Unix socket, every commit synchronous.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use onceward::Key;
use onceward::bytes::Bytes;
use postgres::{NoTls, Statement};

use crate::proxy::Proxy;
use crate::rival::{Answer, BoxFuture, Caller, Reader, Rival, Task, digest};
use crate::round_trips::Trips;
use crate::servers::{POSTGRES_USER, PostgresServer};

/// How many connections the tasks share; with 300 at most, these and a few to spare.
const SHARED_CONNECTIONS: usize = 256;
/// How long the backends of connections that were closed may hold their places.
const PATIENCE: Duration = Duration::from_secs(20);

// An empty reply is an attempt that is running.
const TAKE: &str = "INSERT INTO records VALUES ($1, '') ON CONFLICT DO NOTHING";
const LOOK_UP: &str = "SELECT reply FROM records WHERE key = $1";
const KEEP: &str = "UPDATE records SET reply = $2 WHERE key = $1";

pub(crate) struct Postgres {
    sockets: PathBuf,
    /// Runs as long as this does.
    _server: PostgresServer,
}

impl Postgres {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let server = PostgresServer::start(folder)?;
        let postgres = Self {
            sockets: server.sockets().to_owned(),
            _server: server,
        };
        let mut client = postgres.connect()?;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String = client.query_one(&format!("SHOW {setting}"), &[])?.get(0);
            ensure!(value == "on", "PostgreSQL has {setting} {value}");
        }
        client
            .batch_execute("CREATE TABLE records (key bytea PRIMARY KEY, reply bytea NOT NULL)")?;
        Ok(postgres)
    }

    fn connect(&self) -> Result<postgres::Client> {
        let mut config = postgres::Config::new();
        config
            .host_path(&self.sockets)
            .user(POSTGRES_USER)
            .dbname("postgres");
        let since = Instant::now();
        loop {
            match config.connect(NoTls) {
                Ok(client) => return Ok(client),
                Err(error) if since.elapsed() > PATIENCE => {
                    return Err(error).context("no connection");
                }
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    fn blocking(&self) -> Result<Blocking> {
        let mut client = self.connect()?;
        Ok(Blocking {
            take: client.prepare(TAKE)?,
            look_up: client.prepare(LOOK_UP)?,
            keep: client.prepare(KEEP)?,
            client,
        })
    }

    async fn shared(&self) -> Result<Arc<Shared>> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.sockets)
            .user(POSTGRES_USER)
            .dbname("postgres");
        let since = Instant::now();
        let (client, connection) = loop {
            match config.connect(NoTls).await {
                Ok(connected) => break connected,
                Err(error) if since.elapsed() > PATIENCE => {
                    return Err(error).context("no connection");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        // Ends when the client is dropped; its errors reach the client's calls.
        drop(tokio::spawn(connection));
        Ok(Arc::new(Shared {
            take: client.prepare(TAKE).await?,
            look_up: client.prepare(LOOK_UP).await?,
            keep: client.prepare(KEEP).await?,
            client,
        }))
    }
}

impl Rival for Postgres {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        Ok(Box::new(self.blocking()?))
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        Box::pin(async move {
            let mut shared = Vec::new();
            for _ in 0..count.min(SHARED_CONNECTIONS) {
                shared.push(self.shared().await?);
            }
            let clients = shared.iter().cycle().take(count).cloned();
            Ok(clients
                .map(|shared| Box::new(Pipelined { shared }) as Box<dyn Task>)
                .collect())
        })
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(self.blocking()?))
    }

    fn count_trips(&mut self) -> Result<Option<Box<dyn Trips>>> {
        let proxy = Proxy::to(&self.sockets)?;
        proxy.sockets().clone_into(&mut self.sockets);
        Ok(Some(Box::new(proxy)))
    }
}

struct Blocking {
    client: postgres::Client,
    take: Statement,
    look_up: Statement,
    keep: Statement,
}

impl Caller for Blocking {
    fn begin(&mut self, key: &Key) -> Result<Answer> {
        let digest = digest(key);
        if self.client.execute(&self.take, &[&&digest[..]])? == 1 {
            return Ok(Answer::Done);
        }
        let row = self.client.query_one(&self.look_up, &[&&digest[..]])?;
        Ok(Answer::of_record(row.try_get(0)?))
    }

    fn complete(&mut self, key: &Key, reply: Bytes) -> Result<()> {
        let parameters: [&(dyn postgres::types::ToSql + Sync); 2] =
            [&&digest(key)[..], &&reply[..]];
        let changed = self.client.execute(&self.keep, &parameters)?;
        ensure!(changed == 1, "a key was completed that isn't there");
        Ok(())
    }
}

impl Reader for Blocking {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let row = self.client.query_opt(&self.look_up, &[&&digest(key)[..]])?;
        let Some(row) = row else { return Ok(None) };
        Ok(Answer::of_record(row.try_get(0)?).reply())
    }
}

/// A connection that several tasks may use, one command behind another.
struct Shared {
    client: tokio_postgres::Client,
    take: Statement,
    look_up: Statement,
    keep: Statement,
}

struct Pipelined {
    shared: Arc<Shared>,
}

impl Task for Pipelined {
    fn begin<'a>(&'a mut self, key: &'a Key) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            let (shared, digest) = (&self.shared, digest(key));
            let taken = shared.client.execute(&shared.take, &[&&digest[..]]).await?;
            if taken == 1 {
                return Ok(Answer::Done);
            }
            let (client, look_up) = (&shared.client, &shared.look_up);
            let row = client.query_one(look_up, &[&&digest[..]]).await?;
            Ok(Answer::of_record(row.try_get(0)?))
        })
    }

    fn complete<'a>(&'a mut self, key: &'a Key, reply: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (shared, digest) = (&self.shared, digest(key));
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
                [&&digest[..], &&reply[..]];
            let changed = shared.client.execute(&shared.keep, &parameters).await?;
            ensure!(changed == 1, "a key was completed that isn't there");
            Ok(())
        })
    }
}
