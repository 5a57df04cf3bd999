//! An engine on a server like that of the rival `redis` or `postgres`, with the same durability.
//!
//! The rivals have a connection for each blocking caller. On Redis the engine has one that all callers share, the
//! default; on PostgreSQL it has at most 16, the default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use onceward::Engine;
use onceward_postgres::Postgres;
use onceward_redis::Redis;
use redis::Client;

use super::onceward::Handle;
use super::redis::CommandStats;
use crate::proxy::Proxy;
use crate::rival::{BoxFuture, Caller, Reader, Rival, Task};
use crate::round_trips::Trips;
use crate::servers::{POSTGRES_USER, PostgresServer, RedisServer};

pub(crate) struct Shared {
    engine: Engine,
    store: Store,
}

enum Store {
    Redis(RedisServer),
    Postgres {
        sockets: PathBuf,
        _server: PostgresServer,
    },
}

impl Store {
    fn engine(&self, replay_cache_time: Option<Duration>) -> Result<Engine> {
        let mut builder = Engine::builder();
        if let Some(time) = replay_cache_time {
            builder = builder.replay_cache_time(time);
        }
        let engine = match self {
            Self::Redis(server) => builder.open_on(Redis::builder(&url(server)).build()?),
            Self::Postgres { sockets, .. } => {
                let host = sockets.display();
                let database = format!("host={host} user={POSTGRES_USER} dbname=postgres");
                builder.open_on(Postgres::builder(database).build()?)
            }
        };
        Ok(engine?)
    }
}

fn url(server: &RedisServer) -> String {
    format!("redis://127.0.0.1:{}/", server.port())
}

impl Shared {
    pub(crate) fn on_redis(folder: &Path) -> Result<Self> {
        Self::on(Store::Redis(RedisServer::start(folder)?))
    }

    pub(crate) fn on_postgres(folder: &Path) -> Result<Self> {
        let server = PostgresServer::start(folder)?;
        Self::on(Store::Postgres {
            sockets: server.sockets().to_owned(),
            _server: server,
        })
    }

    fn on(store: Store) -> Result<Self> {
        let engine = store.engine(None)?;
        Ok(Self { engine, store })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.engine.clone().close() {
            eprintln!("onceward did not close cleanly: {error}");
        }
    }
}

impl Rival for Shared {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        Ok(Box::new(Handle::of(&self.engine)))
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        let tasks = (0..count).map(|_| Box::new(Handle::of(&self.engine)) as Box<dyn Task>);
        Box::pin(std::future::ready(Ok(tasks.collect())))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Handle::of(&self.engine)))
    }

    fn shrink_caches(&mut self) -> Result<()> {
        let engine = self.store.engine(Some(Duration::ZERO))?;
        std::mem::replace(&mut self.engine, engine).close()?;
        Ok(())
    }

    fn count_trips(&mut self) -> Result<Option<Box<dyn Trips>>> {
        let trips: Box<dyn Trips> = match &mut self.store {
            Store::Redis(server) => Box::new(CommandStats {
                client: Client::open(url(server))?,
                // Once in each script, and beside each key that is set without one.
                commands: &["time"],
            }),
            Store::Postgres { sockets, .. } => {
                let proxy = Proxy::to(sockets)?;
                proxy.sockets().clone_into(sockets);
                Box::new(proxy)
            }
        };
        self.shrink_caches()?;
        Ok(Some(trips))
    }
}
