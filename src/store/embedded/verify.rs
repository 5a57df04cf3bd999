//! Reading everything and checking it.

use std::ops::Range;

use super::index::Slot;
use super::journal::Journal;
use super::log::Step;
use super::manifest::ManifestState;
use super::merger::MergesHeld;
use super::sealed::Sealed;
use super::set::Segment;
use super::shared::Shared;
use crate::codec::{self, JournalEntry};
use crate::error::Result;
use crate::progress::{Progress, Stage};
use crate::verification::Verification;

/// How many blocks, or bytes of a log, are checked between two tellings of the progress. A close waits for that long.
const BLOCKS_AT_ONCE: u64 = 256;
const BYTES_AT_ONCE: u64 = 1 << 20;

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
    log: Option<LogPlace>,
    block: u64,
    keys: u64,
    last: u128,
}

/// How far a walk has come in a log.
#[derive(Debug)]
struct LogPlace {
    at: Option<(u64, Option<u64>)>,
    /// The sequences of the last entry that was seen, and of the last one that there was when the walk began.
    seen: u64,
    last: u64,
    is_after_damage: bool,
}

impl LogPlace {
    fn begin(journal: &Journal) -> Self {
        Self {
            at: None,
            seen: journal.tally.header.first_sequence.saturating_sub(1),
            last: journal.last_sequence(),
            is_after_damage: false,
        }
    }
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
        let log = place.log.get_or_insert_with(|| LogPlace::begin(journal));
        self.frames(journal, log).unwrap_or_else(|error| {
            self.note(error.to_string());
            false
        })
    }

    /// Goes on in a log; gives whether there is more. What is appended meanwhile isn't looked at.
    fn frames(&mut self, journal: &Journal, place: &mut LogPlace) -> Result<bool> {
        let mut walk = journal.log.walk()?;
        if let Some(at) = place.at {
            walk = walk.go_on(at);
        }
        let begun_at = walk.at();
        while place.seen < place.last && walk.at() - begun_at < BYTES_AT_ONCE {
            match walk.next()? {
                Step::Frame(frame) => {
                    for entry in frame.entries() {
                        let (sequence, _, bytes) = entry?;
                        if sequence > place.last {
                            // Appended meanwhile, or by a batch that a panic has cut off.
                            break;
                        }
                        self.log_entry(journal, place, sequence, bytes);
                    }
                }
                Step::Damage(Range { start, end }) => {
                    self.note(format!(
                        "the bytes from {start} to {end} are damaged; restore the folder from a backup"
                    ));
                    place.is_after_damage = true;
                }
                Step::End => {
                    self.note("its last entries are missing; restore the folder from a backup");
                    place.seen = place.last;
                }
            }
        }
        place.at = Some(walk.place());
        Ok(place.seen < place.last)
    }

    fn log_entry(&mut self, journal: &Journal, place: &mut LogPlace, sequence: u64, bytes: &[u8]) {
        self.found.entries += 1;
        let is_next = sequence == place.seen + 1 || ManifestState::may_begin_epoch(sequence);
        if !is_next && !place.is_after_damage {
            self.note("an entry is missing; restore the folder from a backup");
        }
        place.seen = sequence;
        place.is_after_damage = false;
        match codec::decode_at(bytes, sequence) {
            Ok(entry) if is_indexed(journal, &entry) => {}
            Ok(_) => self.note(
                "an entry stands where no look-up finds it; restore the folder from a backup",
            ),
            Err(error) => self.note(error.to_string()),
        }
    }
}

/// Whether the index names the entry, or a newer one of the same key.
fn is_indexed(journal: &Journal, entry: &JournalEntry) -> bool {
    let newest = journal.index.get(entry.digest.short());
    newest.map(Slot::sequence) >= Some(entry.heading.sequence)
}
