//! Recent replies, so that hot retries are answered from memory.

use std::fmt;
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::clock::Timestamp;
use crate::record::{Record, Stored};
use crate::secret::BuildDigestHasher;

/// What a record costs besides its reply, about: itself, its key's text, its place in the cache, and the
/// allocator's part of four allocations.
const RECORD_BYTES: u64 = 512;
/// Each header costs two allocations' bookkeeping beside its bytes, about.
const HEADER_BYTES: u64 = 64;

/// Completed records by short digest, bounded in bytes.
///
/// Whoever puts in and takes out sees to it that nothing stale can be found here; the time has to be checked by whoever
/// finds something.
pub(super) struct ReplayCache {
    cache: Cache<u128, Cached, ByBytes, BuildDigestHasher>,
}

/// A completed record, and until when it may be answered from.
#[derive(Clone)]
pub(super) struct Cached {
    pub(super) stored: Arc<Stored>,
    // Only a register's records are kept for a time.
    #[cfg_attr(not(any(test, feature = "register")), allow(dead_code))]
    pub(super) until: Timestamp,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<u128, Cached> for ByBytes {
    fn weight(&self, _digest: &u128, cached: &Cached) -> u64 {
        match &cached.stored.record {
            Record::InFlight(_) => RECORD_BYTES,
            Record::Completed(record) => {
                let reply = &record.reply;
                let fields = (reply.headers().len() + reply.trailers().len()) as u64;
                RECORD_BYTES + HEADER_BYTES * fields + reply.size_bytes() as u64
            }
        }
    }
}

impl ReplayCache {
    /// A cache of at most so many bytes; `None` for 0.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let expected_replies = bytes as u64 / (2 * RECORD_BYTES);
        let options = OptionsBuilder::new()
            .weight_capacity(bytes as u64)
            .estimated_items_capacity(usize::try_from(expected_replies).unwrap_or(usize::MAX))
            .build()
            .ok()
            .filter(|_| bytes > 0)?;
        let cache = Cache::with_options(
            options,
            ByBytes,
            BuildDigestHasher::default(),
            DefaultLifecycle::default(),
        );
        Some(Self { cache })
    }

    pub(super) fn get(&self, digest: u128) -> Option<Cached> {
        self.cache.get(&digest)
    }

    /// Keeps a record for as long as there is room.
    pub(super) fn insert(&self, digest: u128, stored: Arc<Stored>) {
        self.insert_until(digest, stored, Timestamp::NEVER);
    }

    pub(super) fn insert_until(&self, digest: u128, stored: Arc<Stored>, until: Timestamp) {
        self.cache.insert(digest, Cached { stored, until });
    }

    pub(super) fn remove(&self, digest: u128) {
        self.cache.remove(&digest);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }
}

impl fmt::Debug for ReplayCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayCache")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
