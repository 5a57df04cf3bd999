//! What each rival has to do.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Result, bail};
use onceward::Key;
use onceward::bytes::Bytes;

use crate::load::{Load, Window};
use crate::round_trips::Trips;

pub(crate) const REPLY_BYTES: usize = 512;

/// What the rivals key their records by.
pub(crate) type Digest = [u8; 16];

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The key was free and is taken now, durably; or the reply is kept, durably.
    Done,
    /// The key is taken and has no reply yet.
    InFlight,
    Reply(Bytes),
}

impl Answer {
    /// What a record says to a begin: an empty one stands for an attempt that is running.
    pub(crate) fn of_record(record: &[u8]) -> Self {
        if record.is_empty() {
            Self::InFlight
        } else {
            Self::Reply(Bytes::copy_from_slice(record))
        }
    }

    /// The reply alone, for a lookup.
    pub(crate) fn reply(self) -> Option<Bytes> {
        match self {
            Self::Reply(reply) => Some(reply),
            Self::Done | Self::InFlight => None,
        }
    }
}

/// A store that takes keys and keeps replies.
pub(crate) trait Rival: Send + Sync {
    /// A blocking caller, with a connection of its own where there are connections.
    fn caller(&self) -> Result<Box<dyn Caller>>;

    /// As many callers for tokio tasks; called within the runtime that they will run in.
    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>>;

    /// A caller that looks up replies in the cheapest way that the store has.
    fn reader(&self) -> Result<Box<dyn Reader>>;

    /// Lets go of what it keeps in this process, for cold replays.
    fn shrink_caches(&mut self) -> Result<()> {
        Ok(())
    }

    /// Counts from now on what it asks of its server, with nothing kept in this process. `None` if it has none.
    fn count_trips(&mut self) -> Result<Option<Box<dyn Trips>>> {
        Ok(None)
    }

    /// Measures itself in the place of so many callers, if it has none.
    fn measure_alone(&self, _callers: usize, _window: Window) -> Option<Result<Load>> {
        None
    }

    /// Called before each measurement of this length, outside of it.
    fn make_ready(&self, _measurement: Duration) -> Result<()> {
        Ok(())
    }
}

pub(crate) trait Caller: Send {
    /// Takes the key if it is free. Durable before it returns.
    fn begin(&mut self, key: &Key) -> Result<Answer>;

    /// Keeps the reply of the key that this caller has begun. Durable before it returns.
    fn complete(&mut self, key: &Key, reply: Bytes) -> Result<()>;
}

/// A [`Caller`] in async code.
pub(crate) trait Task: Send {
    fn begin<'a>(&'a mut self, key: &'a Key) -> BoxFuture<'a, Result<Answer>>;

    fn complete<'a>(&'a mut self, key: &'a Key, reply: Bytes) -> BoxFuture<'a, Result<()>>;
}

pub(crate) trait Reader: Send {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>>;
}

/// The key of a request by its number; each number is used once per run.
pub(crate) fn key(number: u64) -> Result<Key> {
    Ok(Key::new(
        "bench",
        format!("3fa85f64-5717-4562-b3fc-{number:012}"),
    )?)
}

/// The reply to a request by its number: bytes that can't be compressed, so that nobody gains by trying.
pub(crate) fn reply(number: u64) -> Bytes {
    let mut bytes = vec![0; REPLY_BYTES];
    blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

pub(crate) fn digest(key: &Key) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.scope().unwrap_or_default().as_bytes());
    hasher.update(b"\n");
    hasher.update(key.key().as_bytes());
    let mut digest = Digest::default();
    hasher.finalize_xof().fill(&mut digest);
    digest
}

/// Refuses an answer other than a grant to a key that was never used.
pub(crate) fn expect_grant(answer: &Answer, key: &Key) -> Result<()> {
    if *answer != Answer::Done {
        bail!("the fresh key {key:?} was not granted: {answer:?}");
    }
    Ok(())
}
