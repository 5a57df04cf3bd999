//! What the store's threads and all callers share, and how it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::ahead::Ahead;
use super::batch::Added;
use super::budget::Budget;
use super::condition::Condition;
use super::folder::Folder;
use super::lanes::{Job, Lanes};
use super::manifest::{Manifest, RolledRow};
use super::merger::Merging;
use super::sealer::Sealing;
use super::set::SegmentSet;
use super::tally::Tally;
use super::view::{Current, View};
use super::warnings::Warnings;
use crate::clock::{Timeline, Timestamp};
use crate::decision::{self, Command, Context, Limit};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::Meters;
use crate::record::Record;
use crate::secret::{Digest, Secret};
use crate::store::{Glance, Observer, Rules, Seen};
use crate::sync::{Mutex, thread};

/// This part of the disk space is kept for the completions of what was granted.
const KEPT_FREE: u64 = 8;

/// What the writer, the sweeper and all callers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) secret: Secret,
    pub(super) timeline: Timeline,
    pub(super) rules: Rules,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) view: View,
    pub(super) lanes: Arc<Lanes>,
    pub(super) condition: Condition,
    /// `None` once the store is closed.
    pub(super) manifest: Mutex<Option<Manifest>>,
    pub(super) folder: Arc<Folder>,
    pub(super) segment_entries: u64,
    pub(super) segment_bytes: u64,
    /// How much of a new log is filled with zeros before it is used.
    pub(super) first_fill: u64,
    pub(super) max_disk_bytes: Option<u64>,
    pub(super) budget: Budget,
    pub(super) sealing: Sealing,
    pub(super) ahead: Ahead,
    pub(super) merging: Merging,
    pub(super) warnings: Warnings,
    pub(super) meters: Meters,
    /// After a step of the wall clock nothing is unlinked for one sweep interval.
    pub(super) sweep_not_before: Timestamp,
    pub(super) clock_step: Option<Duration>,
    pub(super) commits: AtomicU64,
    pub(super) entries_written: AtomicU64,
    pub(super) failed_sweeps: AtomicU64,
    pub(super) resumptions: AtomicU64,
}

impl Shared {
    /// Lets everybody go who waits for the writer, which is gone.
    pub(super) fn ended(&self) {
        self.lanes.end();
        if self.condition.check().is_err() {
            self.observer.stopped();
        }
    }

    /// What leaves no room for a new key, with what isn't published yet.
    pub(super) fn limit_to(&self, digest: &Digest, added: Added) -> Option<Limit> {
        let live_keys = self.view.live_keys().saturating_add_signed(added.keys);
        if live_keys >= self.rules.max_live_keys {
            return Some(Limit::LiveKeys);
        }
        if self.is_disk_full() {
            return Some(Limit::Disk);
        }
        let most = self.rules.max_live_keys_per_scope?;
        let of_scope = self.view.live_keys_of_scope(digest);
        let of_scope = of_scope.saturating_add_signed(added.keys_of_scope);
        (of_scope >= most).then_some(Limit::LiveKeysPerScope)
    }

    /// Whether the segments take so much of the disk that the rest is kept for the completions of what was granted.
    pub(super) fn is_disk_full(&self) -> bool {
        self.max_disk_bytes
            .is_some_and(|most| self.disk_bytes() >= most - most / KEPT_FREE)
    }

    /// How many bytes of the disk the segments take, and the next one's log.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.view.segments().disk_bytes() + self.ahead.bytes()
    }

    /// Decides against a published state; nothing is changed.
    pub(super) fn decide(
        &self,
        digest: &Digest,
        record: Option<&Record>,
        command: &Command,
        seen: Seen,
    ) -> Glance {
        // A key whose record is over counts as live all the same.
        let full = match record {
            Some(_) => None,
            None => self.limit_to(digest, Added::default()),
        };
        let context = Context {
            now: self.timeline.now(),
            // A grant is only ever made by the writer, with a token of its own.
            next_token: 0,
            full,
            on_abandon: self.rules.on_abandon,
        };
        Glance::of(decision::decide(record, command, &context), seen)
    }

    /// The state of a key, from the memory or the disk.
    pub(super) fn look(&self, digest: &Digest, seen: Seen) -> Result<Current> {
        let found = self.view.look(digest, seen);
        found.inspect_err(|error| self.note_unread(error))
    }

    /// After an error of the system redb answers nothing from a file until it is opened anew, which the sealer's
    /// thread does.
    pub(super) fn note_unread(&self, error: &Error) {
        if error.kind() == ErrorKind::Io {
            self.sealing.wake();
        }
    }

    /// Ends the store if its folder isn't at its path any more: what is written from then on would
    /// be lost to whoever opens that path. The writer, which may be waiting for something to do, is
    /// told.
    pub(super) fn check_place(&self) -> Result<()> {
        self.folder.check_place().inspect_err(|error| {
            if error.kind() == ErrorKind::Failed {
                self.condition.fail(&error.to_string());
                self.lanes.job(Job::Renew);
            }
        })
    }

    /// Ends an interruption.
    pub(super) fn resumed(&self) {
        self.resumptions.fetch_add(1, Ordering::Relaxed);
        self.condition.resume();
        self.lanes.unpark();
    }

    /// Changes the set of segments, if `change` says that it did.
    pub(super) fn replace(&self, change: impl FnOnce(&mut SegmentSet) -> bool) -> Result<()> {
        self.with_manifest(|_| {
            let mut segments = SegmentSet::clone(&self.view.segments());
            if change(&mut segments) {
                drop(self.view.set_segments(segments));
            }
            Ok(())
        })
    }

    pub(super) fn with_manifest<T>(
        &self,
        work: impl FnOnce(&mut Manifest) -> Result<T>,
    ) -> Result<T> {
        let mut manifest = self.manifest.lock();
        work(manifest.as_mut().ok_or_else(Error::closed)?)
    }

    /// Keeps the counts by scope, if there are any, beside the segments. If they can't be, none are: that they are
    /// missing costs less than what waits for them, and old ones would be taken for those of now.
    pub(super) fn keep_scopes(&self, store_id: [u8; 16]) -> Result<()> {
        let Some(counts) = self.view.scopes_to_keep() else {
            return Ok(());
        };
        let kept = self.folder.keep_scopes(&counts.to_bytes(store_id));
        kept.or_else(|_| self.folder.remove_scopes())
    }

    /// Closes every file, once the threads are gone, and lets go of the folder.
    ///
    /// The manifest says last what the active segment holds for sure, if that isn't sealed.
    pub(super) fn close_files(&self) -> Result<()> {
        let has_failed = self.condition.has_failed();
        self.drop_ahead();
        if !has_failed {
            // What isn't sealed now is by the next open: nothing is lost, whatever happens here.
            let seal = AssertUnwindSafe(|| self.seal_for_rest());
            drop(catch_unwind(seal));
        }
        // Not held while the files are closed: the sweeper may be waiting for it.
        let taken = self.manifest.lock().take();
        let Some(mut manifest) = taken else {
            return Ok(());
        };
        let set = self.view.set_segments(SegmentSet::default());
        let active = set.active().map(|active| active.content());
        let tallies: Vec<Arc<Tally>> = set.tallies().cloned().collect();
        let mut result = Ok(());
        if !has_failed {
            result = self.keep_scopes(manifest.state().store_id);
        }
        result = result.and(close_all(set));
        let now = self.timeline.now();
        result = match (&result, active) {
            (Ok(()), Some(holds)) if !has_failed => manifest.update(|state| {
                state.time_mark_ms = state.time_mark_ms.max(now.0);
                state.closed_with = Some(holds);
                state.count(holds.last_sequence, tallies.iter());
            }),
            (_, Some(holds)) => {
                // Why it failed is what the caller is told.
                let cut = RolledRow::ending(now, holds, true);
                drop(manifest.update(|state| state.end_last(cut, tallies.iter())));
                result
            }
            (_, None) => result,
        };
        result = result.and(manifest.close());
        if !has_failed {
            result = result.and_then(|()| self.folder.check_place());
        }
        self.folder.unlock();
        result
    }
}

fn close_all(set: Arc<SegmentSet>) -> Result<()> {
    let SegmentSet { sealed, .. } = once_unshared(set);
    let mut result = Ok(());
    for sealed in sealed {
        result = result.and(once_unshared(sealed).close());
    }
    result
}

/// What is shared, once no reader has it any more: none holds it for longer than a few reads take.
fn once_unshared<T>(mut shared: Arc<T>) -> T {
    loop {
        match Arc::try_unwrap(shared) {
            Ok(own) => return own,
            Err(still_shared) => shared = still_shared,
        }
        thread::yield_now();
    }
}
