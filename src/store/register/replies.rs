//! Completed replies that this node has seen, so that a hot retry takes no round trip.
//!
//! A completed record never changes, so that one is right for as long as its key isn't forgotten. This node's own
//! `forget` takes it out; another node's does if it is announced, and else the time that a reply is kept runs out.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::record::{Record, Stored};
use crate::secret::Digest;
use crate::store::replay_cache::ReplayCache;
use crate::sync::Mutex;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caching {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

#[derive(Debug)]
pub(super) struct Replies {
    /// `None` if nothing is kept.
    cache: Option<ReplayCache>,
    time: Duration,
    /// How often a key was forgotten.
    forgotten: Mutex<u64>,
}

/// Since when nothing was forgotten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since(u64);

impl Replies {
    pub(super) fn new(caching: Caching) -> Self {
        let Caching { bytes, time } = caching;
        let is_on = time > Duration::ZERO;
        Self {
            cache: is_on.then(|| ReplayCache::new(bytes)).flatten(),
            time,
            forgotten: Mutex::default(),
        }
    }

    /// To be asked for before the register is, for [`keep`](Replies::keep).
    pub(super) fn since(&self) -> Since {
        Since(*self.forgotten.lock())
    }

    /// Keeps a record that the register had, unless some key was forgotten meanwhile: it might be this one.
    pub(super) fn keep(&self, stored: Stored, since: Since, now: Timestamp) {
        let Some(cache) = &self.cache else { return };
        if !matches!(stored.record, Record::Completed(_)) {
            return;
        }
        let forgotten = self.forgotten.lock();
        if *forgotten == since.0 {
            let short = stored.digest.short();
            cache.insert_until(short, Arc::new(stored), now.plus(self.time));
        }
    }

    /// A completed record. It may be over.
    pub(super) fn get(&self, digest: &Digest, now: Timestamp) -> Option<Arc<Stored>> {
        let cached = self.cache.as_ref()?.get(digest.short())?;
        let is_right = cached.until > now && cached.stored.digest == *digest;
        is_right.then_some(cached.stored)
    }

    pub(super) fn forget(&self, digest: &Digest) {
        let Some(cache) = &self.cache else { return };
        let mut forgotten = self.forgotten.lock();
        *forgotten += 1;
        cache.remove(digest.short());
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, ReplayCache::bytes)
    }
}
