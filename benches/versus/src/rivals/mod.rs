//! The rivals, by name.

mod fjall;
mod floor;
mod lmdb;
mod onceward;
mod onceward_shared;
mod postgres;
mod raw;
mod redb_grouped;
mod redb_naive;
mod redis;
mod sqlite;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::rival::Rival;
use crate::servers;

pub(crate) use self::onceward::Onceward;
pub(crate) use self::redb_grouped::preload as preload_redb;

/// How much memory the stores that have caches of their own give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caches {
    Usual,
    /// For cold replays.
    Small,
}

pub(crate) const SMALL_CACHE_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Onceward,
    Floor,
    /// The floor with its callers woken once per batch.
    FloorWoken,
    /// A thread that writes and syncs.
    Raw,
    RedbNaive,
    RedbGrouped,
    Sqlite,
    Lmdb,
    Fjall,
    Redis,
    /// onceward on Redis.
    OncewardRedis,
    Postgres,
    /// onceward on PostgreSQL.
    OncewardPostgres,
    /// onceward with its replies encrypted on the disk.
    Encrypted,
    /// onceward with a limit on the keys of each scope.
    Limited,
}

impl Kind {
    /// In the order of the tables; the subject comes first.
    pub(crate) const ALL: [Self; 15] = [
        Self::Onceward,
        Self::Floor,
        Self::FloorWoken,
        Self::Raw,
        Self::RedbNaive,
        Self::RedbGrouped,
        Self::Sqlite,
        Self::Lmdb,
        Self::Fjall,
        Self::Redis,
        Self::OncewardRedis,
        Self::Postgres,
        Self::OncewardPostgres,
        Self::Encrypted,
        Self::Limited,
    ];

    /// Whether it is the subject with another setting, which is measured only if it is asked for.
    pub(crate) fn is_variant(self) -> bool {
        matches!(self, Self::Encrypted | Self::Limited)
    }

    /// Whether what it was given can be looked up.
    pub(crate) fn keeps_replies(self) -> bool {
        self != Self::Raw
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Onceward => "onceward",
            Self::Floor => "floor",
            Self::FloorWoken => "floor-woken",
            Self::Raw => "raw",
            Self::RedbNaive => "redb-naive",
            Self::RedbGrouped => "redb-grouped",
            Self::Sqlite => "sqlite",
            Self::Lmdb => "lmdb",
            Self::Fjall => "fjall",
            Self::Redis => "redis",
            Self::OncewardRedis => "onceward-redis",
            Self::Postgres => "postgres",
            Self::OncewardPostgres => "onceward-postgres",
            Self::Encrypted => "encrypted",
            Self::Limited => "limited",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The rival on the same kind of server, for an engine that is on a server.
    pub(crate) fn raw(self) -> Option<Self> {
        match self {
            Self::OncewardRedis => Some(Self::Redis),
            Self::OncewardPostgres => Some(Self::Postgres),
            _ => None,
        }
    }

    pub(crate) fn has_server(self) -> bool {
        matches!(
            self,
            Self::Redis | Self::OncewardRedis | Self::Postgres | Self::OncewardPostgres
        )
    }

    /// What has to be installed first, if anything.
    pub(crate) fn missing(self) -> Option<&'static str> {
        match self {
            Self::Redis | Self::OncewardRedis if servers::redis_program().is_none() => {
                Some("redis-server isn't there: install the Debian package redis-server")
            }
            Self::Postgres | Self::OncewardPostgres if servers::postgres_programs().is_none() => {
                Some("initdb and postgres aren't there: install the Debian package postgresql")
            }
            _ => None,
        }
    }

    /// Whether it can be opened again on what it has written, with smaller caches. The others read from the
    /// system's page cache or from a server's memory in either case.
    pub(crate) fn has_caches(self) -> bool {
        matches!(
            self,
            Self::Onceward
                | Self::Encrypted
                | Self::Limited
                | Self::RedbNaive
                | Self::RedbGrouped
                | Self::Sqlite
                | Self::Fjall
        )
    }

    /// Opens the rival in a folder of its own, which exists.
    pub(crate) fn open(self, folder: &Path, caches: Caches) -> Result<Box<dyn Rival>> {
        let rival: Result<Box<dyn Rival>> = match self {
            Self::Onceward | Self::Encrypted | Self::Limited => {
                Onceward::open(folder, caches, self).map(|rival| Box::new(rival) as _)
            }
            Self::Floor | Self::FloorWoken => {
                let is_woken_together = self == Self::FloorWoken;
                let opened = floor::Floor::open(folder, is_woken_together);
                opened.map(|rival| Box::new(rival) as _)
            }
            Self::Raw => raw::Raw::open(folder).map(|rival| Box::new(rival) as _),
            Self::RedbNaive => {
                redb_naive::Naive::open(folder, caches).map(|rival| Box::new(rival) as _)
            }
            Self::RedbGrouped => {
                redb_grouped::open(folder, caches).map(|rival| Box::new(rival) as _)
            }
            Self::Sqlite => sqlite::open(folder, caches).map(|rival| Box::new(rival) as _),
            Self::Lmdb => lmdb::open(folder).map(|rival| Box::new(rival) as _),
            Self::Fjall => fjall::open(folder, caches).map(|rival| Box::new(rival) as _),
            Self::Redis => redis::Redis::start(folder).map(|rival| Box::new(rival) as _),
            Self::OncewardRedis => {
                onceward_shared::Shared::on_redis(folder).map(|rival| Box::new(rival) as _)
            }
            Self::Postgres => postgres::Postgres::start(folder).map(|rival| Box::new(rival) as _),
            Self::OncewardPostgres => {
                onceward_shared::Shared::on_postgres(folder).map(|rival| Box::new(rival) as _)
            }
        };
        rival.with_context(|| format!("{} could not be opened", self.name()))
    }
}
