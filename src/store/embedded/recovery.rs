//! Opening a folder: what is there, whether it is whole, and where to go on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Settings;
use super::cache::ReplayCache;
use super::folder::Folder;
use super::index::{Slot, SlotKind};
use super::manifest::{Manifest, ManifestState, SegmentRow};
use super::rewrite;
use super::segment::{Segment, SegmentHeader};
use super::view::{Attempt, View};
use crate::clock::{Timeline, Timestamp};
use crate::codec::EntryState;
use crate::decision;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, Stored};
use crate::secret::Secret;

/// A wall clock further ahead of the record than this is reported, and delays the first unlinking.
const CLOCK_STEP: Duration = Duration::from_secs(60 * 60);
/// What each segment's cache gets of the budget.
const CACHE_SHARES: usize = 32;
/// redb needs room for the pages of one commit.
const LEAST_CACHE_BYTES: usize = 256 << 10;

/// A folder that was opened, checked and indexed.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(super) settings: Settings,
    pub(super) timeline: Timeline,
    pub(super) folder: Folder,
    pub(super) manifest: Manifest,
    pub(super) secret: Secret,
    pub(super) view: View,
    pub(super) active: Arc<Segment>,
    pub(super) next_sequence: u64,
    pub(super) clock_step: Option<Duration>,
}

impl Recovered {
    /// The engine's time, which begins no lower than the highest time on record.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }
}

/// Opens a folder, or makes it.
pub(crate) fn recover(path: &Path, settings: &Settings) -> Result<Recovered> {
    let folder = Folder::open(path, settings.lock_wait)?;
    let (mut manifest, secret) = if folder.has_manifest()? {
        let manifest = Manifest::open(&folder.manifest())?;
        let secret = known_secret(&folder, manifest.state(), settings)?;
        (manifest, secret)
    } else {
        new_store(&folder, settings)?
    };
    let state = manifest.state();
    remove_orphans(&folder, state, settings)?;

    let mut scan = Scan::default();
    let mut segments = Vec::new();
    for row in &state.segments {
        segments.push(Arc::new(scan.open(&folder, state, row, settings)?));
    }
    let highest_time = scan.highest_time.max(Timestamp(state.time_mark_ms));
    let step = Timestamp::of(settings.clock.wall()).since(highest_time);
    let clock_step = (highest_time > Timestamp(0) && step > CLOCK_STEP).then_some(step);
    let timeline = Timeline::new(Arc::clone(&settings.clock), highest_time);

    if manifest.state().is_suspect {
        rewrite::rewrite_active(&folder, &mut manifest, &mut scan, &mut segments, settings)?;
    }
    mark_open(&folder, &mut manifest, scan.last_sequence, settings)?;
    let next_sequence = manifest.state().last_sequence.max(scan.last_sequence) + 1;
    if segments.is_empty() {
        let opened_at = timeline.now();
        segments.push(first_segment(
            &folder,
            &mut manifest,
            next_sequence,
            opened_at,
            settings,
        )?);
    }
    let active = Arc::clone(segments.last().expect("there is at least the first one"));
    let view = View::new(segments, ReplayCache::new(settings.replay_cache_bytes));
    scan.publish(&view, timeline.now(), settings);
    Ok(Recovered {
        settings: settings.clone(),
        timeline,
        folder,
        manifest,
        secret,
        view,
        active,
        next_sequence,
        clock_step,
    })
}

impl Settings {
    pub(super) fn segment_cache_bytes(&self) -> usize {
        (self.cache_bytes / CACHE_SHARES).max(LEAST_CACHE_BYTES)
    }
}

/// Begins a store in a folder that holds no more than a lock and what a crash left of a beginning.
fn new_store(folder: &Folder, settings: &Settings) -> Result<(Manifest, Secret)> {
    if !folder.segment_ids()?.is_empty() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the folder has segments and no manifest; restore it from a backup",
        ));
    }
    let no_random =
        |error| Error::with_source(ErrorKind::Io, "the system gives no random bytes", error);
    let secret = if let Some(pepper) = &settings.pepper {
        Secret::derive(pepper.as_bytes())
    } else {
        let material = Secret::random_material().map_err(no_random)?;
        folder.keep_secret(&material)?;
        Secret::derive(&material)
    };
    let random = Secret::random_material().map_err(no_random)?;
    let store_id = *random.first_chunk().expect("32 bytes hold 16");
    let state = ManifestState {
        store_id,
        secret_check: secret.check_value(),
        is_peppered: settings.pepper.is_some(),
        folder_identity: folder.identity()?,
        last_sequence: 0,
        time_mark_ms: 0,
        segments: Vec::new(),
        closed_with: None,
        is_suspect: false,
    };
    Ok((Manifest::create(folder, &state)?, secret))
}

/// The secret that the store was made with, or why it can't be had.
fn known_secret(folder: &Folder, state: &ManifestState, settings: &Settings) -> Result<Secret> {
    let config = |message: &str| Err(Error::new(ErrorKind::InvalidConfig, message));
    let secret = match (&settings.pepper, state.is_peppered) {
        (Some(pepper), true) => Secret::derive(pepper.as_bytes()),
        (None, false) => {
            let material = folder.secret()?.ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    "the store's secret is missing; restore the file 'secret' from a backup",
                )
            })?;
            Secret::derive(&material)
        }
        (None, true) => {
            return config("the folder was made with a pepper; open it with the same one");
        }
        (Some(_), false) => {
            return config("the folder was made without a pepper; open it without one");
        }
    };
    if secret.check_value() == state.secret_check {
        return Ok(secret);
    }
    if state.is_peppered {
        return config("the pepper is not the one that the folder was made with");
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "the store's secret is damaged; restore the file 'secret' from a backup",
    ))
}

/// Notes, before anything is appended, that the store is open, and begins a new epoch in a copy or
/// after a restore.
fn mark_open(
    folder: &Folder,
    manifest: &mut Manifest,
    last_sequence: u64,
    settings: &Settings,
) -> Result<()> {
    let identity = folder.identity()?;
    let state = manifest.state();
    let is_copy = settings.is_restored || identity != state.folder_identity;
    if !is_copy && state.closed_with.is_none() {
        return Ok(());
    }
    let last = state.last_sequence.max(last_sequence);
    let wall = Timestamp::of(settings.clock.wall());
    manifest.update(|state| {
        state.closed_with = None;
        if is_copy {
            state.begin_epoch(identity, wall, last);
        }
    })
}

/// Removes segment files that the manifest doesn't list: one that was taken off the list before a crash
/// came, and one that was made and not yet listed. The latter is empty, unless a suspect segment was
/// being rewritten; if it isn't, the manifest is an older one than the segments, and nothing is touched.
fn remove_orphans(folder: &Folder, state: &ManifestState, settings: &Settings) -> Result<()> {
    let (Some(first), Some(last)) = (state.segments.first(), state.segments.last()) else {
        return remove_unlisted(folder, 0, 1, state, settings);
    };
    remove_unlisted(folder, first.id, last.id + 1, state, settings)
}

fn remove_unlisted(
    folder: &Folder,
    first: u64,
    next: u64,
    state: &ManifestState,
    settings: &Settings,
) -> Result<()> {
    for id in folder.segment_ids()? {
        if state.segments.iter().any(|row| row.id == id) {
            continue;
        }
        let path = folder.segment(id);
        if id < first || (id == next && Segment::is_blank(&path, settings.segment_cache_bytes())?) {
            Folder::remove_file(&path)?;
            continue;
        }
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the folder has a segment that the manifest doesn't list: the manifest is older than the \
             segments; restore the whole folder from one backup",
        ));
    }
    Ok(())
}

fn first_segment(
    folder: &Folder,
    manifest: &mut Manifest,
    first_sequence: u64,
    opened_at: Timestamp,
    settings: &Settings,
) -> Result<Arc<Segment>> {
    let header = SegmentHeader {
        store_id: manifest.state().store_id,
        id: 1,
        first_sequence,
    };
    let segment = folder.create_segment(header, opened_at, settings.segment_cache_bytes())?;
    manifest.update(|state| {
        state.segments.push(SegmentRow {
            id: header.id,
            first_sequence,
            opened_at_ms: opened_at.0,
            rolled: None,
        });
    })?;
    Ok(Arc::new(segment))
}

impl Folder {
    /// Makes an empty segment under its final name, durably. A file that a failed try left there isn't
    /// listed, and goes.
    pub(super) fn create_segment(
        &self,
        header: SegmentHeader,
        opened_at: Timestamp,
        cache_bytes: usize,
    ) -> Result<Segment> {
        let path = self.segment(header.id);
        Self::remove_file(&path)?;
        let segment = Segment::create(&path, header, opened_at, cache_bytes)?;
        self.sync()?;
        Ok(segment)
    }
}

/// What reading all segments, oldest first, has found.
#[derive(Default)]
pub(super) struct Scan {
    highest_time: Timestamp,
    pub(super) last_sequence: u64,
    /// The newest attempt of each key whose newest entry is one.
    pub(super) attempts: HashMap<u128, Attempt>,
}

impl Scan {
    fn open(
        &mut self,
        folder: &Folder,
        state: &ManifestState,
        row: &SegmentRow,
        settings: &Settings,
    ) -> Result<Segment> {
        let header = SegmentHeader {
            store_id: state.store_id,
            id: row.id,
            first_sequence: row.first_sequence,
        };
        self.last_sequence = self.last_sequence.max(row.first_sequence.saturating_sub(1));
        let segment = Segment::open(
            &folder.segment(row.id),
            header,
            Timestamp(row.opened_at_ms),
            row.rolled,
            settings.segment_cache_bytes(),
        )?;
        segment.scan(|entry, bytes| {
            let expected = (segment.last_sequence() + 1).max(row.first_sequence);
            let is_next = entry.sequence == expected
                || (entry.sequence > expected && ManifestState::may_begin_epoch(entry.sequence));
            if !is_next {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "a segment lacks an entry of its journal; restore it from a backup",
                ));
            }
            self.last_sequence = self.last_sequence.max(entry.sequence);
            self.highest_time = self.highest_time.max(entry.written_at);
            let (sequence, short, digest) = (entry.sequence, entry.digest.short(), entry.digest);
            let (kind, ends_at) = match entry.state {
                EntryState::Removed => (SlotKind::Removed, Timestamp(0)),
                EntryState::Put { key, record } => {
                    let ends_at = record.ends_at();
                    if matches!(record, Record::Completed(_)) {
                        (SlotKind::Completed, ends_at)
                    } else {
                        let stored = Arc::new(Stored {
                            digest,
                            key,
                            record,
                        });
                        self.attempts.insert(short, Attempt { stored, sequence });
                        (SlotKind::InFlight, ends_at)
                    }
                }
            };
            if kind != SlotKind::InFlight {
                self.attempts.remove(&short);
            }
            segment.index.insert(short, Slot::new(sequence, kind));
            segment.count(sequence, bytes, ends_at);
            Ok(())
        })?;
        segment.check_complete(match row.rolled {
            Some(rolled) => Some(rolled.holds),
            None => state.closed_with,
        })?;
        Ok(segment)
    }

    /// Counts each key where its newest entry stands, and puts the attempts in flight.
    fn publish(self, view: &View, now: Timestamp, settings: &Settings) {
        let set = view.segments();
        for (at, segment) in set.segments.iter().enumerate() {
            let newer = &set.segments[at + 1..];
            let live = segment.index.slots().filter(|(short, slot)| {
                slot.kind() != SlotKind::Removed
                    && newer.iter().all(|newer| newer.index.get(*short).is_none())
            });
            let live = i64::try_from(live.count()).unwrap_or(i64::MAX);
            segment.live_keys.store(live, Ordering::Relaxed);
        }
        for attempt in self.attempts.into_values() {
            if !decision::is_over(&attempt.stored.record, now, settings.on_abandon) {
                view.restore(attempt);
            }
        }
    }
}
