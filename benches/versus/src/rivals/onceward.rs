//! The subject: an engine with its default settings, apart from the limit on live keys.

use std::path::Path;

use anyhow::{Context as _, Result};
use onceward::bytes::Bytes;
use onceward::{EncryptionKeys, Engine, Fingerprint, Guard, Key, Outcome, Reply};

use super::{Caches, Kind, SMALL_CACHE_BYTES};
use crate::rival::{Answer, BoxFuture, Caller, Reader, Rival, Task};

const STATUS: u16 = 201;
/// Room for the preloaded keys and what is measured on top of them.
const MAX_LIVE_KEYS: u64 = 100_000_000;

pub(crate) struct Onceward {
    engine: Engine,
}

impl Onceward {
    pub(crate) fn open(folder: &Path, caches: Caches, kind: Kind) -> Result<Self> {
        let builder = Engine::builder().max_live_keys(MAX_LIVE_KEYS);
        let mut builder = match kind {
            Kind::Encrypted => builder.encryption(EncryptionKeys::new(1, [7; 32])),
            Kind::Limited => builder.max_live_keys_per_scope(MAX_LIVE_KEYS),
            _ => builder,
        };
        if caches == Caches::Small {
            builder = builder.cache_bytes(SMALL_CACHE_BYTES).replay_cache_bytes(0);
        }
        let engine = builder.open(folder.join("engine"))?;
        Ok(Self { engine })
    }

    fn handle(&self) -> Handle {
        Handle::of(&self.engine)
    }
}

impl Drop for Onceward {
    fn drop(&mut self) {
        if let Err(error) = self.engine.clone().close() {
            eprintln!("onceward did not close cleanly: {error}");
        }
    }
}

impl Rival for Onceward {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        Ok(Box::new(self.handle()))
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        let tasks = (0..count).map(|_| Box::new(self.handle()) as Box<dyn Task>);
        Box::pin(std::future::ready(Ok(tasks.collect())))
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        Ok(Box::new(self.handle()))
    }
}

/// A caller of an engine.
pub(super) struct Handle {
    engine: Engine,
    fingerprint: Fingerprint,
    /// Of the key that was begun and is to be completed.
    guard: Option<Guard>,
}

impl Handle {
    pub(super) fn of(engine: &Engine) -> Self {
        Self {
            engine: engine.clone(),
            fingerprint: Fingerprint::of(b"POST /payments {\"amount\":100}"),
            guard: None,
        }
    }

    fn answer(&mut self, outcome: Outcome) -> Result<Answer> {
        match outcome {
            Outcome::Proceed(guard) => {
                self.guard = Some(guard);
                Ok(Answer::Done)
            }
            Outcome::Replay(reply) => Ok(Answer::Reply(reply.body().clone())),
            Outcome::InFlight(_) => Ok(Answer::InFlight),
            Outcome::Conflict(conflict) => anyhow::bail!("there was a conflict: {conflict:?}"),
        }
    }

    fn take_guard(&mut self) -> Result<Guard> {
        self.guard.take().context("nothing was begun")
    }
}

impl Caller for Handle {
    fn begin(&mut self, key: &Key) -> Result<Answer> {
        let outcome = self.engine.begin(key, &self.fingerprint)?;
        self.answer(outcome)
    }

    fn complete(&mut self, _: &Key, reply: Bytes) -> Result<()> {
        Ok(self.take_guard()?.complete(Reply::new(STATUS, reply))?)
    }
}

impl Task for Handle {
    fn begin<'a>(&'a mut self, key: &'a Key) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            let outcome = self.engine.begin_async(key, &self.fingerprint).await?;
            self.answer(outcome)
        })
    }

    fn complete<'a>(&'a mut self, _: &'a Key, reply: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let guard = self.take_guard()?;
            Ok(guard.complete_async(Reply::new(STATUS, reply)).await?)
        })
    }
}

impl Reader for Handle {
    fn replay(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let outcome = self.engine.begin(key, &self.fingerprint)?;
        Ok(self.answer(outcome)?.reply())
    }
}
