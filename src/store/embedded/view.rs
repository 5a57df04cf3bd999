//! What is published: everything that readers and the writer look up, and nothing that isn't durable.
//!
//! Look-ups go from the attempts in flight, which are in memory, to the journals' indexes and then to the
//! sealed segments whose filter says 'maybe', newest first; the newest entry of a key is the truth. Readers
//! take locks for the length of a map's look-up only, and never while anything is written to the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::batch::Publication;
use super::index::{Slot, SlotKind};
use super::place::{Place, Spot};
use super::scopes::{Counted, ScopeCounts, ScopesToKeep};
use super::set::SegmentSet;
use super::tally::Tally;
use crate::codec::{self, JournalEntry};
use crate::encryption::Cipher;
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::record::{Record, Stored};
use crate::secret::{BuildDigestHasher, Digest};
use crate::store::Seen;
use crate::store::replay_cache::ReplayCache;
use crate::sync::{Mutex, RwLock};

const STRIPES: usize = 64;

#[derive(Debug)]
pub(super) struct View {
    /// A key's stripe is locked while its index slot, its attempt and its cached reply change together.
    stripes: Vec<RwLock<Stripe>>,
    segments: RwLock<Arc<SegmentSet>>,
    cache: Option<ReplayCache>,
    /// What replies are encrypted with on the disk, and nowhere else.
    cipher: Option<Cipher>,
    in_flight: AtomicU64,
    live_keys: AtomicI64,
    /// Only if there is a limit on the keys of a scope.
    scopes: Option<Mutex<ScopeCounts>>,
}

/// The attempts in flight of the keys of one stripe.
type Stripe = HashMap<u128, Attempt, BuildDigestHasher>;

#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) stored: Arc<Stored>,
    /// Where the journal says so.
    pub(super) sequence: u64,
}

/// What the memory tells of a key.
#[derive(Debug)]
pub(super) enum Found {
    /// No entry, or one that freed the key.
    Nothing(Seen),
    InFlight(Attempt),
    /// There is an entry, or there may be one, and it has to be read.
    OnDisk(Place),
}

/// The state of a key that a decision is made against.
#[derive(Clone, Debug, Default)]
pub(super) struct Current {
    pub(super) stored: Option<Arc<Stored>>,
    /// The entry that makes the key live, if it is.
    pub(super) live_entry: Option<u64>,
    /// What needn't be looked at again, if nothing was found.
    pub(super) seen: Seen,
}

impl Current {
    pub(super) fn nothing(seen: Seen) -> Self {
        Self {
            seen,
            ..Self::default()
        }
    }
}

impl From<Attempt> for Current {
    fn from(attempt: Attempt) -> Self {
        Self {
            stored: Some(attempt.stored),
            live_entry: Some(attempt.sequence),
            seen: Seen::default(),
        }
    }
}

impl View {
    pub(super) fn new(
        segments: SegmentSet,
        cache: Option<ReplayCache>,
        cipher: Option<Cipher>,
        scopes: Option<ScopeCounts>,
    ) -> Self {
        let live_keys: u64 = segments.tallies().map(|tally| tally.live_keys()).sum();
        Self {
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            segments: RwLock::new(Arc::new(segments)),
            cache,
            cipher,
            in_flight: AtomicU64::new(0),
            live_keys: AtomicI64::new(i64::try_from(live_keys).unwrap_or(i64::MAX)),
            scopes: scopes.map(Mutex::new),
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
    pub(super) fn set_segments(&self, segments: SegmentSet) -> Arc<SegmentSet> {
        std::mem::replace(&mut *self.segments.write(), Arc::new(segments))
    }

    /// Counts the keys of a segment no more that isn't in the set, and gives how many they were.
    pub(super) fn uncount(&self, tally: &Tally) -> u64 {
        let live_keys = tally.take();
        let less = i64::try_from(live_keys).unwrap_or(i64::MAX);
        self.live_keys.fetch_sub(less, Ordering::Relaxed);
        // Only the oldest ever go.
        let set = self.segments();
        let oldest = set
            .tallies()
            .map(|tally| tally.header.first_sequence)
            .next();
        if !mutant::is_on(Mutant::ScopesNotEnded) {
            self.change_scopes(|scopes| scopes.end_before(oldest.unwrap_or(0)));
        }
        live_keys
    }

    /// Begins to count the keys of a new segment by scope.
    pub(super) fn begin_scopes(&self, first_sequence: u64) {
        self.change_scopes(|scopes| scopes.begin(first_sequence));
    }

    fn change_scopes(&self, change: impl FnOnce(&mut ScopeCounts)) {
        if let Some(scopes) = &self.scopes {
            change(&mut scopes.lock());
        }
    }

    /// The counts by scope as they are kept beside the segments, if there are any.
    pub(super) fn scopes_to_keep(&self) -> Option<ScopesToKeep> {
        Some(self.scopes.as_ref()?.lock().to_keep())
    }

    /// Whether all scopes together have as many live keys as there are; `None` if not all are counted.
    #[cfg(onceward_faults)]
    pub(super) fn do_counts_agree(&self) -> Option<bool> {
        let all = self.scopes.as_ref()?.lock().all_live_keys()?;
        Some(all == self.live_keys.load(Ordering::Relaxed))
    }

    /// A completed record from the cache. It may be over.
    pub(super) fn cached(&self, digest: &Digest) -> Option<Arc<Stored>> {
        self.cache
            .as_ref()?
            .get(digest.short())
            .map(|cached| cached.stored)
            .filter(|stored| stored.digest == *digest)
    }

    /// What the memory tells of a key. `seen` is what an earlier look has told of it, if there was one.
    pub(super) fn find(&self, digest: &Digest, seen: Seen) -> Result<Found> {
        let short = digest.short();
        let stripe = self.stripe(short).read();
        if let Some(attempt) = stripe.get(&short) {
            if attempt.stored.digest != *digest {
                return Err(collision());
            }
            return Ok(Found::InFlight(attempt.clone()));
        }
        let set = self.segments();
        let newest = set.newest_slot(short);
        // What is sealed doesn't change any more.
        drop(stripe);
        let spot = match newest {
            Some((_, slot)) if slot.kind() == SlotKind::Removed => {
                return Ok(Found::Nothing(Seen::default()));
            }
            Some((at, slot)) => Spot::Journal { at, slot },
            None => match set.newest_maybe(short, set.sealed.len(), seen.0) {
                Some(at) => Spot::Sealed { at, above: seen.0 },
                None => return Ok(Found::Nothing(Seen(set.newest_sealed()))),
            },
        };
        Ok(Found::OnDisk(Place { set, spot }))
    }

    /// The state of a key, from the memory or the disk.
    pub(super) fn look(&self, digest: &Digest, seen: Seen) -> Result<Current> {
        match self.find(digest, seen)? {
            Found::Nothing(seen) => Ok(Current::nothing(seen)),
            Found::InFlight(attempt) => Ok(attempt.into()),
            Found::OnDisk(place) => self.read(digest, &place),
        }
    }

    /// Whether an entry is the newest of its key. May read from the disk.
    pub(super) fn is_newest(&self, digest: &Digest, sequence: u64) -> Result<bool> {
        let short = digest.short();
        let stripe = self.stripe(short).read();
        let attempt = stripe.get(&short).map(|attempt| attempt.sequence);
        let set = self.segments();
        let slot = set.newest_slot(short).map(|(_, slot)| slot.sequence());
        drop(stripe);
        if let Some(newest) = attempt.or(slot) {
            return Ok(newest == sequence);
        }
        let Some(at) = set.newest_maybe(short, set.sealed.len(), 0) else {
            return Ok(false);
        };
        let newest = set.read_sealed(digest, at, 0)?;
        Ok(newest.is_some_and(|newest| newest.heading.sequence == sequence))
    }

    /// Reads the newest entry of a key, and keeps a completed record for the next retry unless it has been
    /// superseded.
    pub(super) fn read(&self, digest: &Digest, place: &Place) -> Result<Current> {
        let Some(entry) = place.read(digest)? else {
            return Ok(Current::nothing(Seen(place.set.newest_sealed())));
        };
        if entry.digest != *digest {
            return Err(collision());
        }
        let sequence = entry.heading.sequence;
        let Some(stored) = self.stored(entry)?.map(Arc::new) else {
            return Ok(Current::default());
        };
        if let (Some(cache), Record::Completed(_)) = (&self.cache, &stored.record) {
            let short = digest.short();
            let stripe = self.stripe(short).read();
            let is_newest =
                !stripe.contains_key(&short) && place.is_still_newest(&self.segments(), short);
            if is_newest || mutant::is_on(Mutant::KeepsSuperseded) {
                cache.insert(short, Arc::clone(&stored));
            }
        }
        Ok(Current {
            stored: Some(stored),
            live_entry: Some(sequence),
            seen: Seen::default(),
        })
    }

    /// The record of an entry that was read from the disk.
    pub(super) fn stored(&self, entry: JournalEntry) -> Result<Option<Stored>> {
        let stored = entry.into_stored();
        let decrypted = stored.map(|stored| codec::decrypted(stored, self.cipher.as_ref()));
        decrypted.transpose()
    }

    /// What replies are encrypted with.
    pub(super) fn cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref()
    }

    /// Makes a durable entry visible: index, attempt and cache change as one.
    pub(super) fn publish(&self, set: &SegmentSet, publication: &Publication, slot: Slot) {
        let Publication {
            digest,
            sequence,
            stored,
            prior,
        } = publication;
        let short = digest.short();
        let kind = slot.kind();
        let active = set.active().expect("a set has an active segment");
        let mut stripe = self.stripe(short).write();
        active.index.insert(short, slot);
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
        let mut added = 0;
        if let Some(prior) = prior.and_then(|sequence| set.holding(sequence)) {
            added -= i64::from(prior.subtract());
        }
        if stored.is_some() {
            active.tally.add();
            added += 1;
        }
        self.live_keys.fetch_add(added, Ordering::Relaxed);
        self.change_scopes(|scopes| {
            scopes.count(Counted {
                sequence: *sequence,
                scope: digest.scope(),
                prior: *prior,
                is_live: stored.is_some(),
            });
        });
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

    /// Lets go of attempts that needn't be in memory any more; their entries stay where they are.
    pub(super) fn prune(&self, is_done_with: impl Fn(&Record) -> bool) {
        for stripe in &self.stripes {
            let mut stripe = stripe.write();
            let before = stripe.len();
            stripe.retain(|_, attempt| !is_done_with(&attempt.stored.record));
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
        u64::try_from(self.live_keys.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// 0 if nobody counts them.
    pub(super) fn live_keys_of_scope(&self, digest: &Digest) -> u64 {
        let scopes = self.scopes.as_ref();
        scopes.map_or(0, |scopes| scopes.lock().live_keys(digest))
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
