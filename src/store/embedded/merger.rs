//! Merging: adjacent sealed segments become one, so that their number stays bounded as the keys grow.
//!
//! Every sealed segment costs a begin on a new key one access of the memory. A merged segment has the numbers
//! of all that went into it, from the first to the last, and is looked for by the last. A crash at any moment
//! leaves the old segments or the merged one listed in the manifest; the others are removed by the next open.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::budget::Budget;
use super::folder::Folder;
use super::manifest::{ManifestState, RolledRow, SegmentContent, SegmentRow};
use super::merge_input::{Input, newest_of_next_key};
use super::sealed::{Sealed, SealedAttempt};
use super::sealed_writer::SealedWriter;
use super::set::SegmentSet;
use super::shared::Shared;
use super::tally::{SegmentHeader, Tally};
use crate::clock::Timestamp;
use crate::codec::OutlineState;
use crate::error::{ErrorKind, Result};
use crate::observe::Begun;

/// How many segments become one.
const MERGED_AT_ONCE: usize = 4;
/// The first of them may wait for the last one's end by this fraction of what it has left, which bounds how
/// much longer it takes up the disk.
const WAITS_AT_MOST: u32 = 8;
/// How many entries are copied between two pauses: about a millisecond's work.
const AT_ONCE: usize = 256;

/// When segments may be merged.
#[derive(Debug)]
pub(super) struct Merging {
    /// Above how many sealed segments there is something to do.
    most_segments: usize,
    /// The numbers of those that hold something damaged: they stay as they are.
    damaged: Mutex<Vec<u64>>,
    held: Arc<Mutex<usize>>,
}

/// As long as there is one of these, the set of segments isn't merged: whoever has it walks through them, one
/// after the other.
#[derive(Debug)]
pub(super) struct MergesHeld(Arc<Mutex<usize>>);

impl Merging {
    pub(super) fn new(most_segments: usize) -> Self {
        Self {
            most_segments,
            damaged: Mutex::default(),
            held: Arc::default(),
        }
    }

    /// Waits for a merge that is being listed at this moment.
    pub(super) fn hold(&self) -> MergesHeld {
        *self.held.lock() += 1;
        MergesHeld(Arc::clone(&self.held))
    }

    /// Which segments to merge: of all that may be, those with the least work.
    fn choose<'a>(
        &self,
        set: &'a SegmentSet,
        due: impl Fn(&Sealed) -> Timestamp,
        now: Timestamp,
    ) -> Option<&'a [Arc<Sealed>]> {
        if set.sealed.len() <= self.most_segments || *self.held.lock() > 0 {
            return None;
        }
        let damaged = self.damaged.lock();
        let may_be_merged = |group: &&[Arc<Sealed>]| {
            let is_damaged = |sealed: &Arc<Sealed>| damaged.contains(&sealed.tally.id());
            let due: Vec<Timestamp> = group.iter().map(|sealed| due(sealed)).collect();
            !group.iter().any(is_damaged) && may_end_together(&due, now)
        };
        let work = |group: &&[Arc<Sealed>]| -> u64 { group.iter().map(|one| one.keys()).sum() };
        let groups = set.sealed.windows(MERGED_AT_ONCE);
        groups.filter(may_be_merged).min_by_key(work)
    }
}

impl Drop for MergesHeld {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
    }
}

/// Whether segments that are due to be unlinked at these times may wait for the last of them.
fn may_end_together(due: &[Timestamp], now: Timestamp) -> bool {
    let (Some(first), Some(last)) = (due.iter().min(), due.iter().max()) else {
        return false;
    };
    now < *first && last.since(*first) <= first.since(now) / WAITS_AT_MOST
}

impl Shared {
    /// Merges sealed segments as long as there are too many, and any that may be merged.
    pub(super) fn merge_while_many(&self) -> Result<()> {
        loop {
            let set = self.view.segments();
            let due = |sealed: &Sealed| {
                let rolled_at = Timestamp(sealed.rolled.rolled_at_ms);
                sealed.ends_at().min(rolled_at.plus(self.rules.retention))
            };
            let chosen = self.merging.choose(&set, due, self.timeline.now());
            let Some(members) = chosen else {
                return Ok(());
            };
            let damaged_before = self.merging.damaged.lock().len();
            let begun = Begun::now();
            let result = self.merge(&set, members);
            self.meters.merged(begun, result.is_ok());
            match result {
                Ok(()) => self.share_caches()?,
                // There may be others that can be merged.
                Err(error)
                    if error.kind() == ErrorKind::Corrupt
                        && self.merging.damaged.lock().len() > damaged_before => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts one sealed file in the place of adjacent ones.
    fn merge(&self, set: &SegmentSet, members: &[Arc<Sealed>]) -> Result<()> {
        let (header, rolled) = what_is_merged(members);
        let unfinished = self.folder.unfinished_sealed(&header);
        Folder::remove_file(&unfinished)?;
        let merged = self
            .write_merged(set, members, header, rolled)
            .inspect_err(|_| drop(Folder::remove_file(&unfinished)))?;
        let path = self.folder.sealed(&header);
        self.folder.rename(&unfinished, &path)?;
        if !self.list_merged(members, merged)? {
            return Folder::remove_file(&path);
        }
        for sealed in members {
            // If this fails, the file is an orphan, and the next open removes it.
            Folder::remove_file(&self.folder.sealed(&sealed.tally.header))?;
        }
        Ok(())
    }

    /// Writes the newest entry of each key into a file, opens that, and tries it.
    fn write_merged(
        &self,
        set: &SegmentSet,
        members: &[Arc<Sealed>],
        header: SegmentHeader,
        rolled: RolledRow,
    ) -> Result<Sealed> {
        let path = self.folder.unfinished_sealed(&header);
        let is_older = |sealed: &&Arc<Sealed>| sealed.tally.id() < header.first_id;
        let older = set.sealed.iter().take_while(is_older).count();
        let keys: u64 = members.iter().map(|sealed| sealed.keys()).sum();
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        let mut writer = SealedWriter::create(&path, keys, self.budget.sealing())?;
        let mut inputs = self.inputs(members)?;
        let (mut first, mut last) = (None, None);
        let mut copied = 0;
        let mut begun = Instant::now();
        while let Some(entry) =
            newest_of_next_key(&mut inputs).inspect_err(|_| self.note_damaged(&inputs))?
        {
            let is_wanted = entry.outline.state != OutlineState::Removed
                || set.newest_maybe(entry.short, older, 0).is_some();
            if is_wanted {
                writer.push(entry.short, &entry.bytes)?;
                first.get_or_insert(entry.short);
                last = Some(entry.short);
            }
            if let OutlineState::InFlight { lease_until, .. } = entry.outline.state {
                let short = entry.short;
                writer.note_attempt(SealedAttempt { short, lease_until });
            }
            copied += 1;
            if copied % AT_ONCE == 0 {
                self.sealing.check()?;
                self.pause(begun.elapsed());
                // What is rolled meanwhile doesn't wait for the end of this.
                self.seal_all()?;
                begun = Instant::now();
            }
        }
        let newer = self.view.segments();
        writer.retain_attempts(|attempt| newer.newest_slot(attempt.short).is_none());
        let ends_at = members.iter().map(|sealed| sealed.ends_at()).max();
        writer.finish(header, rolled.holds, ends_at.unwrap_or(Timestamp(0)))?;
        let tallies = members.iter().map(|sealed| Arc::clone(&sealed.tally));
        let tally = Arc::new(Tally::merging(header, tallies.collect()));
        let all = newer.sealed_entries();
        let cache_bytes = self.budget.sealed(rolled.holds.entries, all);
        let sealed = Sealed::open(&path, &tally, rolled, cache_bytes)?;
        sealed.check_holds([first, last].into_iter().flatten())?;
        Ok(sealed)
    }

    fn inputs(&self, members: &[Arc<Sealed>]) -> Result<Vec<Input>> {
        let share = Budget::passing();
        let open = |sealed: &Arc<Sealed>| {
            // A handle of its own, so that what others read stays in their cache.
            Input::new(sealed.reopen(&self.folder.sealed(&sealed.tally.header), share)?)
        };
        members
            .iter()
            .map(|sealed| {
                open(sealed).inspect_err(|error| {
                    if error.kind() == ErrorKind::Corrupt {
                        self.merging.damaged.lock().push(sealed.tally.id());
                    }
                })
            })
            .collect()
    }

    fn note_damaged(&self, inputs: &[Input]) {
        let damaged = inputs.iter().filter(|input| input.is_damaged());
        let ids = damaged.map(|input| input.id());
        self.merging.damaged.lock().extend(ids);
    }

    /// Lists the merged segment in its members' place, unless one of them is no longer there or somebody walks
    /// through them. Gives whether it is listed.
    fn list_merged(&self, members: &[Arc<Sealed>], merged: Sealed) -> Result<bool> {
        let held = self.merging.held.lock();
        if *held > 0 {
            return Ok(false);
        }
        self.with_manifest(|manifest| {
            let mut segments = SegmentSet::clone(&self.view.segments());
            let is_member = |listed: &Arc<Sealed>, member: &Arc<Sealed>| {
                Arc::ptr_eq(&listed.tally, &member.tally)
            };
            let first = segments
                .sealed
                .iter()
                .position(|listed| is_member(listed, &members[0]));
            // Only the oldest ever go; the others follow it.
            let Some(first) = first else {
                return Ok(false);
            };
            let (header, rolled) = (merged.tally.header, merged.rolled);
            manifest.update(|state| list(state, header, rolled))?;
            let replaced = first..first + members.len();
            segments.sealed.splice(replaced, [Arc::new(merged)]);
            drop(self.view.set_segments(segments));
            Ok(true)
        })
        .inspect_err(|error| self.fail(error))
    }
}

/// How the segment is called that others are merged into, and what it counts as.
fn what_is_merged(members: &[Arc<Sealed>]) -> (SegmentHeader, RolledRow) {
    let [first, .., last] = members else {
        unreachable!("one segment alone isn't merged");
    };
    let header = SegmentHeader {
        id: last.tally.header.id,
        ..first.tally.header
    };
    let entries = members.iter().map(|sealed| sealed.rolled.holds.entries);
    let rolled = RolledRow {
        rolled_at_ms: last.rolled.rolled_at_ms,
        holds: SegmentContent {
            entries: entries.sum(),
            last_sequence: last.rolled.holds.last_sequence,
        },
    };
    (header, rolled)
}

fn list(state: &mut ManifestState, header: SegmentHeader, rolled: RolledRow) {
    let is_member = |row: &SegmentRow| header.first_id <= row.first_id && row.id <= header.id;
    let members = || state.segments.iter().filter(|row| is_member(row));
    let row = SegmentRow {
        id: header.id,
        first_id: header.first_id,
        first_sequence: header.first_sequence,
        opened_at_ms: members().next().map_or(0, |row| row.opened_at_ms),
        // As of the last count, like all rows.
        live_keys: members().map(|row| row.live_keys).sum(),
        rolled: Some(rolled),
        is_sealed: true,
    };
    let at = state.segments.iter().position(is_member).unwrap_or(0);
    state.segments.retain(|row| !is_member(row));
    state.segments.insert(at, row);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_end_together_only_if_none_waits_long_for_it() {
        let now = Timestamp(1_000);
        let may = |due: &[u64]| {
            let due: Vec<Timestamp> = due.iter().map(|due| Timestamp(*due)).collect();
            may_end_together(&due, now)
        };
        assert!(may(&[1_800, 1_900]));
        assert!(!may(&[1_800, 1_901]));
        assert!(may(&[1_900, 1_850, 1_800]));
        assert!(!may(&[1_901, 1_800, 1_850]));
        assert!(may(&[1_001, 1_001]));
        assert!(!may(&[1_000, 1_000]), "these are about to go");
        assert!(!may(&[900, 9_000]));
        assert!(!may(&[]));
    }

    #[test]
    fn a_merged_row_takes_its_members_place_and_count() {
        let row = |id, live_keys| SegmentRow {
            id,
            first_id: id,
            first_sequence: id * 10,
            opened_at_ms: id * 100,
            live_keys,
            rolled: None,
            is_sealed: true,
        };
        let header = SegmentHeader {
            store_id: [1; 16],
            id: 3,
            first_id: 2,
            first_sequence: 20,
        };
        let rolled = RolledRow {
            rolled_at_ms: 5,
            holds: SegmentContent {
                entries: 9,
                last_sequence: 39,
            },
        };
        let mut state = ManifestState {
            store_id: [1; 16],
            secret_check: [0; 32],
            is_peppered: false,
            folder_identity: (0, 0),
            last_sequence: 0,
            time_mark_ms: 0,
            segments: vec![row(1, 1), row(2, 2), row(3, 3), row(4, 4)],
            counted_to: 0,
            closed_with: None,
            is_suspect: false,
        };
        list(&mut state, header, rolled);
        let merged = SegmentRow {
            id: 3,
            rolled: Some(rolled),
            ..row(2, 5)
        };
        assert_eq!(state.segments, [row(1, 1), merged, row(4, 4)]);
    }
}
