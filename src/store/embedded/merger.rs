//! Merging: adjacent sealed segments become one, so that their number stays bounded as the keys grow.
//!
//! Every sealed segment costs a begin on a new key one access of the memory. A merged segment has the numbers
//! of all that went into it, from the first to the last, and is looked for by the last. A crash at any moment
//! leaves the old segments or the merged one listed in the manifest; the others are removed by the next open.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::block::BLOCK_BYTES;
use super::budget::Budget;
use super::files::disk::Step;
use super::folder::Folder;
use super::manifest::{Manifest, ManifestState, RolledRow, SegmentContent, SegmentRow};
use super::merge_choice::{self, Candidate, MERGED_AT_ONCE, Most};
use super::merge_input::{Input, newest_of_next_key};
use super::sealed::{Sealed, SealedAttempt};
use super::sealed_writer::SealedWriter;
use super::set::SegmentSet;
use super::shared::Shared;
use super::tally::{SegmentHeader, Tally};
use super::warnings::Chore;
use crate::clock::Timestamp;
use crate::codec::OutlineState;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::Begun;
use crate::sync::Mutex;

/// How many entries are copied between two pauses: about a millisecond's work.
const AT_ONCE: usize = 256;
/// How long the thread lets others have the processor and the disk, as a multiple of the time it worked: longer
/// than when it seals, because nothing waits for a merge.
const PAUSES_FOR: u32 = 6;
/// After a failure, merging rests for this part of the retention: it is never urgent, and each try takes room.
const RESTS_FOR: u32 = 24;

/// When segments may be merged.
#[derive(Debug)]
pub(super) struct Merging {
    most: Most,
    /// The numbers of those that couldn't be read whole: they stay as they are.
    unreadable: Mutex<Vec<u64>>,
    not_before: Mutex<Timestamp>,
    /// How many walk through the segments.
    held: Mutex<usize>,
}

/// As long as there is one of these, no segments are merged: whoever has it walks through them, one after
/// the other.
#[derive(Debug)]
pub(super) struct MergesHeld<S: Deref<Target = Shared>>(S);

impl Merging {
    pub(super) fn new(most: Most) -> Self {
        Self {
            most,
            unreadable: Mutex::default(),
            not_before: Mutex::new(Timestamp(0)),
            held: Mutex::default(),
        }
    }

    fn is_held(&self) -> bool {
        *self.held.lock() > 0
    }
}

impl<S: Deref<Target = Shared>> MergesHeld<S> {
    /// Waits for a merge that is being listed at this moment; ends one that is being written.
    pub(super) fn new(shared: S) -> Self {
        *shared.merging.held.lock() += 1;
        Self(shared)
    }
}

impl<S: Deref<Target = Shared>> Drop for MergesHeld<S> {
    fn drop(&mut self) {
        *self.0.merging.held.lock() -= 1;
        self.0.sealing.wake();
    }
}

impl Shared {
    /// Merges sealed segments as long as there are too many, and any that may be merged.
    pub(super) fn merge_while_many(&self) -> Result<()> {
        while let Some(members) = self.choose_members() {
            let unreadable_before = self.merging.unreadable.lock().len();
            let begun = Begun::now();
            let result = self.merge(&members);
            self.meters.merged(begun, &result);
            if let Err(error) = &result {
                self.warnings.failed(Chore::Merging, error);
            }
            match result {
                Ok(true) => self.share_caches()?,
                // Somebody walks through the segments, and will wake this thread; or the oldest was swept.
                Ok(false) => return Ok(()),
                // There may be others that can be merged.
                Err(_) if self.merging.unreadable.lock().len() > unreadable_before => {}
                Err(error) => {
                    let rest = self.rules.retention / RESTS_FOR;
                    *self.merging.not_before.lock() = self.timeline.now().plus(rest);
                    return Err(error);
                }
            }
        }
        self.note_merged();
        Ok(())
    }

    /// Takes back what was said of a merge that failed, once none is left to be made.
    fn note_merged(&self) {
        let rests = self.timeline.now() < *self.merging.not_before.lock();
        let set = self.view.segments();
        let unreadable = self.merging.unreadable.lock();
        let is_unreadable = |sealed: &Arc<Sealed>| unreadable.contains(&sealed.tally.id());
        if !rests && !self.merging.is_held() && !set.sealed.iter().any(is_unreadable) {
            self.warnings.clear(Chore::Merging);
        }
    }

    fn choose_members(&self) -> Option<Vec<Arc<Sealed>>> {
        let now = self.timeline.now();
        if self.merging.is_held() || now < *self.merging.not_before.lock() {
            return None;
        }
        let set = self.view.segments();
        let unreadable = self.merging.unreadable.lock();
        let candidate = |sealed: &Arc<Sealed>| Candidate {
            entries: sealed.rolled.holds.entries,
            bytes: sealed.blocks() * BLOCK_BYTES as u64,
            due: self.due(sealed),
            first_due: self.first_due(sealed),
            is_readable: !unreadable.contains(&sealed.tally.id()),
        };
        let candidates: Vec<Candidate> = set.sealed.iter().map(candidate).collect();
        let at = merge_choice::choose(&candidates, self.merging.most, now)?;
        let members = &set.sealed[at..at + MERGED_AT_ONCE];
        let taken_meanwhile: u64 = members.iter().map(|sealed| sealed.disk_bytes()).sum();
        let most = self.max_disk_bytes.unwrap_or(u64::MAX);
        (self.disk_bytes() + taken_meanwhile < most).then(|| members.to_vec())
    }

    /// When a segment will be unlinked, about, unless attempts in it are held.
    fn due(&self, sealed: &Sealed) -> Timestamp {
        let rolled_at = Timestamp(sealed.rolled.rolled_at_ms);
        sealed
            .ends()
            .last()
            .min(rolled_at.plus(self.rules.retention))
    }

    /// When the first of those would have been that went into a segment.
    fn first_due(&self, sealed: &Sealed) -> Timestamp {
        let noted = sealed.rolled.first_due();
        noted.unwrap_or_else(|| self.due(sealed))
    }

    /// Puts one sealed file in the place of adjacent ones; gives whether it did.
    pub(super) fn merge(&self, members: &[Arc<Sealed>]) -> Result<bool> {
        let first_due = members.iter().map(|sealed| self.first_due(sealed)).min();
        let (header, rolled) = what_is_merged(members, first_due);
        let unfinished = self.folder.unfinished_sealed(&header);
        self.check_place()?;
        self.with_manifest(Manifest::settle)?;
        Folder::remove_file(&unfinished)?;
        self.folder.step(Step::Merging);
        let merged = self
            .write_merged(members, header, rolled)
            .inspect_err(|_| drop(Folder::remove_file(&unfinished)))?;
        let Some(merged) = merged else {
            Folder::remove_file(&unfinished)?;
            return Ok(false);
        };
        self.folder.step(Step::MergeWritten);
        let finished = self.folder.sealed(&header);
        self.folder
            .rename(&unfinished, &finished)
            .inspect_err(|_| drop(Folder::remove_file(&finished)))?;
        if !self.list_merged(members, merged)? {
            Folder::remove_file(&finished)?;
            return Ok(false);
        }
        self.folder.step(Step::MergeListed);
        let files = members.iter().map(|sealed| &sealed.tally.header);
        // If one of these fails, the file is an orphan, and the next open removes it.
        let mut result = Ok(true);
        for header in files {
            let removed = Folder::remove_file(&self.folder.sealed(header));
            result = result.and_then(|is_done| removed.map(|()| is_done));
        }
        result
    }

    /// Writes the newest entry of each key into a file, opens that, and tries it. `None` if it had to give up,
    /// because somebody walks through the segments.
    fn write_merged(
        &self,
        members: &[Arc<Sealed>],
        header: SegmentHeader,
        rolled: RolledRow,
    ) -> Result<Option<Sealed>> {
        let name = self.folder.unfinished_sealed(&header);
        let keys: u64 = members.iter().map(|sealed| sealed.keys()).sum();
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        let mut writer = SealedWriter::create(&name, keys, self.budget.sealing())?;
        let mut inputs = self.inputs(members)?;
        let listed = attempts_of(members)?;
        let (mut first, mut last) = (None, None);
        loop {
            let begun = Instant::now();
            for _ in 0..AT_ONCE {
                let next = newest_of_next_key(&mut inputs)
                    .inspect_err(|error| self.note_unreadable(error, &inputs))?;
                let Some(entry) = next else {
                    let sealed = self.finish_merged(writer, members, header, rolled)?;
                    sealed.check_holds([first, last].into_iter().flatten())?;
                    return Ok(Some(sealed));
                };
                let short = entry.short;
                if entry.outline.state == OutlineState::Removed && !self.hides(short, header) {
                    continue;
                }
                writer.push(short, &entry.bytes)?;
                first.get_or_insert(short);
                last = Some(short);
                if let OutlineState::InFlight { lease_until, .. } = entry.outline.state
                    && listed.contains(&short)
                {
                    writer.note_attempt(SealedAttempt { short, lease_until });
                }
            }
            self.sealing.check()?;
            if self.merging.is_held() {
                return Ok(None);
            }
            self.pause(PAUSES_FOR * begun.elapsed());
            // What is rolled meanwhile, or has to be opened anew, doesn't wait for the end of this.
            self.share_caches()?;
            self.seal_all()?;
        }
    }

    fn finish_merged(
        &self,
        mut writer: SealedWriter,
        members: &[Arc<Sealed>],
        header: SegmentHeader,
        rolled: RolledRow,
    ) -> Result<Sealed> {
        let name = self.folder.unfinished_sealed(&header);
        let set = self.view.segments();
        writer.retain_attempts(|attempt| set.newest_slot(attempt.short).is_none());
        for sealed in members {
            writer.ends.include(&sealed.ends());
        }
        writer.finish(header, rolled.holds)?;
        let tallies = members.iter().map(|sealed| &sealed.tally);
        let tally = Arc::new(Tally::merging(header, tallies));
        let cache_bytes = self
            .budget
            .sealed(rolled.holds.entries, set.sealed_entries());
        Sealed::open(&name, &tally, rolled, cache_bytes)
    }

    /// Whether a removal may still be needed: a segment that is older than all that are merged may hold the key.
    fn hides(&self, short: u128, merged: SegmentHeader) -> bool {
        let set = self.view.segments();
        let is_older = |sealed: &Arc<Sealed>| sealed.tally.id() < merged.first_id;
        let older = set.sealed.partition_point(is_older);
        set.newest_maybe(short, older, 0).is_some()
    }

    fn inputs(&self, members: &[Arc<Sealed>]) -> Result<Vec<Input>> {
        let open = |sealed: &Arc<Sealed>| {
            // A handle of its own, so that what others read stays in their cache.
            let name = self.folder.sealed(&sealed.tally.header);
            let opened = sealed.reopen(&name, Budget::passing());
            opened.and_then(Input::new).inspect_err(|error| {
                if error.kind() != ErrorKind::Io {
                    self.merging.unreadable.lock().push(sealed.tally.id());
                }
            })
        };
        members.iter().map(open).collect()
    }

    fn note_unreadable(&self, error: &Error, inputs: &[Input]) {
        // What the system refuses to read now it may read later.
        if error.kind() == ErrorKind::Io {
            return;
        }
        let unreadable = inputs.iter().filter(|input| input.has_failed());
        let mut noted = self.merging.unreadable.lock();
        noted.extend(unreadable.map(Input::id));
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
            let is_first = |listed: &Arc<Sealed>| Arc::ptr_eq(&listed.tally, &members[0].tally);
            // Only the oldest ever go; the others follow it.
            let Some(first) = segments.sealed.iter().position(is_first) else {
                return Ok(false);
            };
            let (header, rolled) = (merged.tally.header, merged.rolled);
            let replaced = first..first + members.len();
            segments.sealed.splice(replaced, [Arc::new(merged)]);
            manifest.update(|state| list(state, header, rolled))?;
            drop(self.view.set_segments(segments));
            Ok(true)
        })
    }
}

/// The keys of the attempts that the segments list as in flight.
fn attempts_of(members: &[Arc<Sealed>]) -> Result<HashSet<u128>> {
    let mut shorts = HashSet::new();
    for sealed in members {
        shorts.extend(sealed.attempts()?.iter().map(|attempt| attempt.short));
    }
    Ok(shorts)
}

/// How the segment is called that others are merged into, and what it counts as.
fn what_is_merged(
    members: &[Arc<Sealed>],
    first_due: Option<Timestamp>,
) -> (SegmentHeader, RolledRow) {
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
        first_due_ms: first_due.map_or(0, |due| due.0),
        holds: SegmentContent {
            entries: entries.sum(),
            last_sequence: last.rolled.holds.last_sequence,
        },
        is_cut: false,
        is_damaged: false,
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
        log_number: 0,
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
    fn a_merged_row_takes_its_members_place_and_count() {
        let row = |id, live_keys| SegmentRow {
            id,
            first_id: id,
            first_sequence: id * 10,
            opened_at_ms: id * 100,
            log_number: 0,
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
            first_due_ms: 4,
            holds: SegmentContent {
                entries: 9,
                last_sequence: 39,
            },
            is_cut: false,
            is_damaged: false,
        };
        let mut state = ManifestState {
            store_id: [1; 16],
            secret_check: [0; 32],
            is_peppered: false,
            encryption_keys: Vec::new(),
            folder_identity: (0, 0),
            last_sequence: 0,
            last_id: 4,
            time_mark_ms: 0,
            segments: vec![row(1, 1), row(2, 2), row(3, 3), row(4, 4)],
            counted_to: 0,
            closed_with: None,
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
