//! A register on either server, by its URL.

use std::time::Duration;

use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};
use onceward_postgres::Postgres;
use onceward_redis::Redis;

#[allow(clippy::large_enum_variant)] // There are few of them.
#[derive(Clone)]
pub(crate) enum Shared {
    Postgres(Postgres),
    Redis(Redis),
}

/// The same call on whichever it is.
macro_rules! on {
    ($shared:expr, $register:ident => $call:expr) => {
        match $shared {
            Shared::Postgres($register) => $call,
            Shared::Redis($register) => $call,
        }
    };
}

impl Shared {
    pub(crate) fn at(url: &str) -> Self {
        Self::within(url, Duration::from_secs(5))
    }

    /// One that gives up after that time.
    pub(crate) fn within(url: &str, timeout: Duration) -> Self {
        if url.starts_with("postgres:") {
            Self::Postgres(Postgres::builder(url).timeout(timeout).build().unwrap())
        } else {
            Self::Redis(Redis::builder(url).timeout(timeout).build().unwrap())
        }
    }
}

impl Register for Shared {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        on!(self, register => register.load(id).await)
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        on!(self, register => register.swap(id, expected, new, ends_at_ms).await)
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        on!(self, register => register.sweep().await)
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        on!(self, register => register.scan(from, most).await)
    }

    async fn announce(&self, changed: Vec<RecordId>) {
        on!(self, register => register.announce(changed).await);
    }

    async fn listen(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        on!(self, register => register.listen(changed).await);
    }

    fn timeout(&self) -> Duration {
        on!(self, register => register.timeout())
    }
}
