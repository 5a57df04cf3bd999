//! Rolling: the writer goes on in a new segment.

use std::sync::Arc;
use std::time::Duration;

use super::files::disk::Step;
use super::folder::Folder;
use super::journal::Journal;
use super::log::{LogWriter, MOST_LOG_BYTES, Seed};
use super::manifest::{Manifest, RolledRow};
use super::set::SegmentSet;
use super::tally::{SegmentHeader, Tally};
use super::warnings::Chore;
use super::writer::Writer;
use crate::clock::Timestamp;
use crate::error::Result;

/// A segment rolls after this fraction of the retention.
const ROLLS_PER_RETENTION: u32 = 24;
/// With more segments than this that aren't sealed, the active one included, rolling waits.
const MOST_UNSEALED: usize = 2;
/// How long the writer goes on with a full segment before it tries again to make a new one.
const ROLL_RETRY: Duration = Duration::from_secs(1);

impl Writer {
    /// Goes on in a new segment if this one is full or old.
    pub(super) fn roll_if_due(&mut self) -> Result<()> {
        let now = self.shared.timeline.now();
        if self.is_roll_due(now) {
            return self.roll(now);
        }
        self.look_ahead();
        Ok(())
    }

    fn is_roll_due(&self, now: Timestamp) -> bool {
        if self.active.entries() == 0 || self.is_stopping {
            return false;
        }
        let oldest_wanted = self.shared.rules.retention / ROLLS_PER_RETENTION;
        let is_old = now.since(self.active.opened_at) >= oldest_wanted;
        now >= self.next_roll && (is_old || self.is_full_enough())
    }

    /// Whether the active segment is to roll by its size. It goes on for a while if the sealer hasn't caught
    /// up: what isn't sealed takes memory, and time at the next open.
    fn is_full_enough(&self) -> bool {
        let shared = &self.shared;
        let is_past = |times: u64| {
            self.active.entries() >= times * shared.segment_entries
                || self.log.end() >= times.saturating_mul(shared.segment_bytes)
        };
        let is_sealer_behind =
            || shared.sealing.is_at_work() && shared.view.segments().journals.len() > MOST_UNSEALED;
        let is_almost_too_long = self.log.end() >= MOST_LOG_BYTES / 2;
        is_almost_too_long || is_past(1) && (is_past(2) || !is_sealer_behind())
    }

    /// Goes on in a new segment. What the old one holds for good is noted in the manifest.
    fn roll(&mut self, now: Timestamp) -> Result<()> {
        self.shared.check_place()?;
        let next = match self.next_journal(now) {
            Ok(next) => next,
            // Nothing refers to it yet: the old segment can take more, and the disk may recover.
            Err(error) => {
                self.shared.warnings.failed(Chore::Rolling, &error);
                self.next_roll = now.plus(ROLL_RETRY);
                return Ok(());
            }
        };
        self.step(Step::Rolling);
        let rolled = RolledRow::ending(now, self.active.content(), false);
        self.go_on_in(next, rolled)
    }

    /// An empty journal after the active one, that nothing refers to yet.
    pub(super) fn next_journal(&self, now: Timestamp) -> Result<(Journal, LogWriter)> {
        let shared = &self.shared;
        // If a change that failed did list one of this number, its file can't be made anew.
        shared.with_manifest(Manifest::settle)?;
        let id = self.active.tally.id() + 1;
        let header = SegmentHeader {
            id,
            first_id: id,
            first_sequence: self.next_sequence,
            ..self.active.tally.header
        };
        let tally = Arc::new(Tally::new(header, 0));
        let seed = shared.secret.log_seed(&header.store_id, header.id);
        let seed = Seed(seed);
        match shared.ahead.take(id) {
            Some(made) => shared.folder.take_journal(tally, now, made),
            None => shared
                .folder
                .create_journal(tally, now, seed, shared.first_fill),
        }
    }

    /// Lists a new journal after the active one, which ends, and goes on in it.
    pub(super) fn go_on_in(
        &mut self,
        (new, log): (Journal, LogWriter),
        rolled: RolledRow,
    ) -> Result<()> {
        let shared = &self.shared;
        let (new, ended) = (Arc::new(new), Arc::clone(&self.active));
        let is_empty = rolled.holds.entries == 0;
        ended.mark_rolled(rolled);
        shared.with_manifest(|manifest| {
            let mut segments = SegmentSet::clone(&shared.view.segments());
            if is_empty {
                segments.journals.pop();
            }
            segments.journals.push(Arc::clone(&new));
            manifest.update(|state| {
                state.end_last(rolled, segments.tallies());
                state.begin_next(new.tally.header, new.opened_at, new.log.number());
            })?;
            drop(shared.view.set_segments(segments));
            Ok(())
        })?;
        shared.view.begin_scopes(new.tally.header.first_sequence);
        (self.active, self.log) = (new, log);
        self.looks_ahead_at = shared.first_fill;
        shared.warnings.clear(Chore::Rolling);
        self.step(Step::RollListed);
        if is_empty {
            // If this fails, the file is an orphan, and the next open removes it.
            drop(Folder::remove_file(
                &self.shared.folder.journal(ended.tally.id()),
            ));
        }
        self.shared.sealing.wake();
        Ok(())
    }
}
