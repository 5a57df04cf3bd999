//! Reading everything and checking it.

use super::index::Slot;
use super::journal::Journal;
use super::manifest::ManifestState;
use super::merger::MergesHeld;
use super::sealed::Sealed;
use super::set::Segment;
use super::shared::Shared;
use crate::codec::{self, JournalEntry};
use crate::error::Result;
use crate::progress::{Progress, Stage};
use crate::verification::Verification;

/// How many blocks, or rows, are checked between two tellings of the progress. A close waits for that long.
const BLOCKS_AT_ONCE: u64 = 256;
const ROWS_AT_ONCE: usize = 4_096;

impl Shared {
    /// Walks through every segment that was there at the beginning. None is held while the progress is told:
    /// whoever is told may close the engine.
    pub(super) fn verify(&self, tell: &mut dyn FnMut(Progress)) -> Result<Verification> {
        self.condition.check()?;
        let _held = MergesHeld::new(self);
        let set = self.view.segments();
        let sealed_keys = set.sealed.iter().map(|sealed| sealed.keys());
        let journal_entries = set.journals.iter().map(|journal| journal.entries());
        let total = sealed_keys.chain(journal_entries).sum();
        let ids: Vec<u64> = set.tallies().map(|tally| tally.id()).collect();
        drop(set);
        let mut found = Verification::default();
        for id in ids {
            let mut place = Place::default();
            loop {
                let has_more = self.verify_some(id, &mut place, &mut found)?;
                tell(Progress::new(Stage::Verifying, found.entries, total));
                if !has_more {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Goes on in a segment; gives whether there is more of it.
    fn verify_some(&self, id: u64, place: &mut Place, found: &mut Verification) -> Result<bool> {
        let set = self.view.segments();
        // Closing empties the view.
        self.condition.check()?;
        let segment = set.segments().find(|segment| segment.id() == id);
        let Some(segment) = segment else {
            // It was swept.
            return Ok(false);
        };
        let file = match &segment {
            Segment::Sealed(sealed) => self.folder.sealed(&sealed.tally.header),
            Segment::Journal(_) => self.folder.journal(id),
        };
        let mut walk = Walk {
            found,
            file: file.as_str(),
        };
        let has_more = match &segment {
            Segment::Sealed(sealed) => walk.sealed(sealed, place),
            Segment::Journal(journal) => walk.journal(journal, place),
        };
        if has_more {
            return Ok(true);
        }
        found.segments += 1;
        // Looked for before the set, so that one that is replaced meanwhile isn't taken for lost.
        if !file.is_there().unwrap_or(false) && self.view.segments().contains(&segment) {
            found.note(
                file.as_str(),
                "the file was removed from the folder; it goes on as long as the engine is open: export \
                 what is live before you close it",
            );
        }
        Ok(false)
    }
}

/// How far a walk has come within a segment.
#[derive(Debug, Default)]
struct Place {
    /// In a journal, after this sequence; up to the second one, which was the last when it began.
    row: Option<(u64, u64)>,
    block: u64,
    keys: u64,
    last: u128,
}

/// What is found in one file.
struct Walk<'a> {
    found: &'a mut Verification,
    file: &'a str,
}

impl Walk<'_> {
    fn note(&mut self, what: impl Into<String>) {
        self.found.note(self.file, what);
    }

    fn sealed(&mut self, sealed: &Sealed, place: &mut Place) -> bool {
        let end = sealed.blocks().min(place.block + BLOCKS_AT_ONCE);
        for block in place.block..end {
            match sealed.entries_of(block) {
                Err(error) => self.note(error.to_string()),
                Ok(entries) => {
                    for entry in entries {
                        self.found.entries += 1;
                        place.keys += 1;
                        match entry {
                            Err(error) => self.note(error.to_string()),
                            Ok(entry) => self.sealed_entry(sealed, &entry, &mut place.last),
                        }
                    }
                }
            }
        }
        place.block = end;
        if end < sealed.blocks() {
            return true;
        }
        if place.keys != sealed.keys() {
            self.note(format!(
                "it holds {} keys where its header says {}; restore the folder from a backup",
                place.keys,
                sealed.keys()
            ));
        }
        if let Err(error) = sealed.attempts() {
            self.note(error.to_string());
        }
        false
    }

    fn sealed_entry(&mut self, sealed: &Sealed, entry: &JournalEntry, last: &mut u128) {
        let short = entry.digest.short();
        let is_in_order = *last < short || *last == 0;
        *last = short;
        // A look-up has to come to the same entry.
        let found = sealed.find(&entry.digest);
        let is_found = found.is_ok_and(|found| found.as_ref() == Some(entry));
        if !is_in_order || !is_found || !sealed.may_hold(short) {
            self.note(
                "an entry stands where no look-up finds it; restore the folder from a backup",
            );
        }
    }

    fn journal(&mut self, journal: &Journal, place: &mut Place) -> bool {
        // What is appended meanwhile isn't looked at.
        let before_first = journal.tally.header.first_sequence.saturating_sub(1);
        let begin = || (before_first, journal.last_sequence());
        let (after, last) = *place.row.get_or_insert_with(begin);
        let mut problems = Vec::new();
        let mut at = after;
        let result = journal.scan(after, last, ROWS_AT_ONCE, |sequence, bytes| {
            self.found.entries += 1;
            if sequence != at + 1 && !ManifestState::may_begin_epoch(sequence) {
                problems.push("an entry is missing; restore the folder from a backup".to_owned());
            }
            at = sequence;
            match codec::decode_at(bytes, sequence) {
                Ok(entry) if is_indexed(journal, &entry) => {}
                Ok(_) => problems.push(
                    "an entry stands where no look-up finds it; restore the folder from a backup"
                        .to_owned(),
                ),
                Err(error) => problems.push(error.to_string()),
            }
            Ok(())
        });
        problems.extend(result.err().map(|error| error.to_string()));
        let is_stuck = at == after;
        if is_stuck && at < last {
            problems
                .push("its last entries are missing; restore the folder from a backup".to_owned());
        }
        for problem in problems {
            self.note(problem);
        }
        place.row = Some((at, last));
        !is_stuck && at < last
    }
}

/// Whether the index names the entry, or a newer one of the same key.
fn is_indexed(journal: &Journal, entry: &JournalEntry) -> bool {
    let newest = journal.index.get(entry.digest.short());
    newest.map(Slot::sequence) >= Some(entry.heading.sequence)
}
