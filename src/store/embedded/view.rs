//! What is published: everything that readers and the writer look up, and nothing that isn't durable.
//!
//! Look-ups go from the attempts in flight, which are all in memory, to the segments' indexes, newest
//! first; the newest entry of a key is the truth. Readers take locks for the length of a map's look-up
//! only, and never while anything is written to the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::cache::ReplayCache;
use super::index::{Slot, SlotKind};
use super::segment::Segment;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, Stored};
use crate::secret::{BuildDigestHasher, Digest};

const STRIPES: usize = 64;

#[derive(Debug)]
pub(super) struct View {
    /// A key's stripe is locked while its index slot, its attempt and its cached reply change together.
    stripes: Vec<RwLock<Stripe>>,
    segments: RwLock<Arc<SegmentSet>>,
    cache: Option<ReplayCache>,
    in_flight: AtomicU64,
}

/// The attempts in flight of the keys of one stripe.
type Stripe = HashMap<u128, Attempt, BuildDigestHasher>;

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) stored: Arc<Stored>,
    /// Where the journal says so.
    pub(super) sequence: u64,
}

/// The segments from the oldest to the active one, which is the last.
#[derive(Debug, Default)]
pub(super) struct SegmentSet {
    pub(super) segments: Vec<Arc<Segment>>,
}

/// What is published of one key.
#[derive(Debug)]
pub(super) enum Found {
    /// No entry, or one that freed the key.
    Nothing,
    /// An attempt that was pruned because it is over; its entry still counts as the key's.
    Over {
        sequence: u64,
    },
    InFlight(Attempt),
    Completed {
        segment: Arc<Segment>,
        sequence: u64,
    },
}

impl Found {
    /// The entry that makes the key one of the live keys.
    pub(super) fn live_entry(&self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Over { sequence } | Self::Completed { sequence, .. } => Some(*sequence),
            Self::InFlight(attempt) => Some(attempt.sequence),
        }
    }
}

/// One entry to publish.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) digest: Digest,
    pub(super) sequence: u64,
    /// `None` if the entry freed the key.
    pub(super) stored: Option<Arc<Stored>>,
    /// The entry that made the key live before, if it was.
    pub(super) prior: Option<u64>,
}

impl SegmentSet {
    /// The newest slot of a key, and its segment.
    pub(super) fn newest(&self, short: u128) -> Option<(&Arc<Segment>, Slot)> {
        self.segments
            .iter()
            .rev()
            .find_map(|segment| segment.index.get(short).map(|slot| (segment, slot)))
    }

    pub(super) fn active(&self) -> Option<&Arc<Segment>> {
        self.segments.last()
    }

    /// The segment that an entry was written to, unless it has been unlinked.
    fn holding(&self, sequence: u64) -> Option<&Arc<Segment>> {
        let after = self
            .segments
            .partition_point(|segment| segment.header.first_sequence <= sequence);
        after.checked_sub(1).map(|at| &self.segments[at])
    }
}

impl View {
    pub(super) fn new(segments: Vec<Arc<Segment>>, cache: Option<ReplayCache>) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            segments: RwLock::new(Arc::new(SegmentSet { segments })),
            cache,
            in_flight: AtomicU64::new(0),
        }
    }

    fn stripe(&self, short: u128) -> &RwLock<Stripe> {
        // Other bits than those that pick an index's shard and a map's bucket.
        &self.stripes[(short >> 32) as usize % STRIPES]
    }

    pub(super) fn segments(&self) -> Arc<SegmentSet> {
        Arc::clone(&self.segments.read())
    }

    /// Replaces the set of segments. Only ever called with the manifest locked.
    pub(super) fn set_segments(&self, segments: Vec<Arc<Segment>>) -> Arc<SegmentSet> {
        let set = Arc::new(SegmentSet { segments });
        std::mem::replace(&mut *self.segments.write(), set)
    }

    /// A completed record from the cache. It may be over.
    pub(super) fn cached(&self, digest: &Digest) -> Option<Arc<Stored>> {
        self.cache
            .as_ref()?
            .get(digest.short())
            .filter(|stored| stored.digest == *digest)
    }

    /// What is published of a key.
    pub(super) fn find(&self, digest: &Digest) -> Result<Found> {
        let short = digest.short();
        let stripe = self.stripe(short).read();
        if let Some(attempt) = stripe.get(&short) {
            if attempt.stored.digest != *digest {
                return Err(collision());
            }
            return Ok(Found::InFlight(attempt.clone()));
        }
        let set = self.segments();
        Ok(match set.newest(short) {
            None => Found::Nothing,
            Some((segment, slot)) => match slot.kind() {
                SlotKind::Removed => Found::Nothing,
                SlotKind::InFlight => Found::Over {
                    sequence: slot.sequence(),
                },
                SlotKind::Completed => Found::Completed {
                    segment: Arc::clone(segment),
                    sequence: slot.sequence(),
                },
            },
        })
    }

    /// Reads a completed record and keeps it for the next retry, unless it has been superseded.
    pub(super) fn read(
        &self,
        digest: &Digest,
        segment: &Segment,
        sequence: u64,
    ) -> Result<Arc<Stored>> {
        let entry = segment.read(sequence)?;
        if entry.digest != *digest {
            return Err(collision());
        }
        let stored = entry.into_stored().ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                "a segment's entry isn't what its index says; restore it from a backup",
            )
        })?;
        let stored = Arc::new(stored);
        if let Some(cache) = &self.cache {
            let short = digest.short();
            let _stripe = self.stripe(short).read();
            let newest = self
                .segments()
                .newest(short)
                .map(|(_, slot)| slot.sequence());
            if newest == Some(sequence) {
                cache.insert(short, Arc::clone(&stored));
            }
        }
        Ok(stored)
    }

    /// Makes a durable entry visible: index, attempt and cache change as one.
    pub(super) fn publish(&self, set: &SegmentSet, publication: &Publication) {
        let Publication {
            digest,
            sequence,
            stored,
            prior,
        } = publication;
        let short = digest.short();
        let record = stored.as_ref().map(|stored| &stored.record);
        let kind = match record {
            None => SlotKind::Removed,
            Some(Record::InFlight(_)) => SlotKind::InFlight,
            Some(Record::Completed(_)) => SlotKind::Completed,
        };
        let active = set.active().expect("a set has an active segment");
        let mut stripe = self.stripe(short).write();
        active.index.insert(short, Slot::new(*sequence, kind));
        let attempt = match (stored, kind) {
            (Some(stored), SlotKind::InFlight) => Some(Attempt {
                stored: Arc::clone(stored),
                sequence: *sequence,
            }),
            _ => None,
        };
        self.set_attempt(&mut stripe, short, attempt);
        if let Some(cache) = &self.cache {
            match stored {
                Some(stored) if kind == SlotKind::Completed => {
                    cache.insert(short, Arc::clone(stored));
                }
                _ => cache.remove(short),
            }
        }
        drop(stripe);
        if let Some(prior) = prior.and_then(|sequence| set.holding(sequence)) {
            prior.live_keys.fetch_sub(1, Ordering::Relaxed);
        }
        if stored.is_some() {
            active.live_keys.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts an attempt in flight that the journal is known to hold; for recovery.
    pub(super) fn restore(&self, attempt: Attempt) {
        let short = attempt.stored.digest.short();
        let mut stripe = self.stripe(short).write();
        self.set_attempt(&mut stripe, short, Some(attempt));
    }

    fn set_attempt(&self, stripe: &mut Stripe, short: u128, attempt: Option<Attempt>) {
        let before = match attempt {
            Some(attempt) => {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                stripe.insert(short, attempt)
            }
            None => stripe.remove(&short),
        };
        if before.is_some() {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Lets go of attempts that are over by time.
    pub(super) fn prune(&self, is_over: impl Fn(&Record) -> bool) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write();
            let before = stripe.len();
            stripe.retain(|_, attempt| !is_over(&attempt.stored.record));
            let pruned = before - stripe.len();
            self.in_flight.fetch_sub(pruned as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.stripes
            .iter()
            .flat_map(|stripe| stripe.read().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn live_keys(&self) -> u64 {
        let set = self.segments.read();
        let live: i64 = set
            .segments
            .iter()
            .map(|segment| segment.live_keys.load(Ordering::Relaxed))
            .sum();
        u64::try_from(live).unwrap_or(0)
    }

    pub(super) fn cached_bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, ReplayCache::bytes)
    }
}

fn collision() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "an entry belongs to another key than its index says; restore the folder from a backup",
    )
}
