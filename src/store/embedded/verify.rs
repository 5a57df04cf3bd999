//! Reading everything and checking it.

use super::index::Slot;
use super::journal::Journal;
use super::sealed::Sealed;
use super::set::Segment;
use super::shared::Shared;
use crate::codec::{self, JournalEntry};
use crate::error::Result;
use crate::progress::{Progress, Stage};
use crate::verification::Verification;

/// How many entries are checked between two tellings of the progress, and two looks whether the store is
/// closed: a close waits for that long.
const TELL_AFTER: u64 = 1 << 12;

impl Shared {
    /// Walks through every segment that was there at the beginning.
    pub(super) fn verify(&self, tell: &mut dyn FnMut(Progress)) -> Result<Verification> {
        self.condition.check()?;
        let set = self.view.segments();
        let sealed_keys = set.sealed.iter().map(|sealed| sealed.keys());
        let journal_entries = set.journals.iter().map(|journal| journal.entries());
        let mut walk = Walk {
            shared: self,
            found: Verification::default(),
            total: sealed_keys.chain(journal_entries).sum(),
            tell,
        };
        for segment in set.segments() {
            walk.segment(&segment)?;
        }
        walk.tell_progress();
        Ok(walk.found)
    }
}

struct Walk<'a> {
    shared: &'a Shared,
    found: Verification,
    total: u64,
    tell: &'a mut dyn FnMut(Progress),
}

impl Walk<'_> {
    fn tell_progress(&mut self) {
        (self.tell)(Progress::new(
            Stage::Verifying,
            self.found.entries,
            self.total,
        ));
    }

    /// Counts an entry that was checked; an error if the store is closed.
    fn count(&mut self) -> Result<()> {
        self.found.entries += 1;
        if self.found.entries.is_multiple_of(TELL_AFTER) {
            self.tell_progress();
            self.shared.condition.check()?;
        }
        Ok(())
    }

    fn segment(&mut self, segment: &Segment) -> Result<()> {
        self.found.segments += 1;
        let folder = &self.shared.folder;
        let path = match segment {
            Segment::Sealed(sealed) => folder.sealed(sealed.tally.id()),
            Segment::Journal(journal) => folder.journal(journal.tally.id()),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match segment {
            Segment::Sealed(sealed) => self.sealed(sealed, &name)?,
            Segment::Journal(journal) => self.journal(journal, &name)?,
        }
        // Looked for before the set, so that one that is replaced meanwhile isn't taken for lost.
        if !path.exists() && self.shared.view.segments().contains(segment) {
            self.found.note(
                &name,
                "the file was removed from the folder; it goes on as long as the engine is open: export \
                 what is live before you close it",
            );
        }
        Ok(())
    }

    fn sealed(&mut self, sealed: &Sealed, file: &str) -> Result<()> {
        let (mut keys, mut last) = (0, 0);
        for block in 0..sealed.blocks() {
            let entries = match sealed.entries_of(block) {
                Ok(entries) => entries,
                Err(error) => {
                    self.found.note(file, error.to_string());
                    continue;
                }
            };
            for entry in entries {
                self.count()?;
                keys += 1;
                match entry {
                    Err(error) => self.found.note(file, error.to_string()),
                    Ok(entry) => self.sealed_entry(sealed, &entry, &mut last, file),
                }
            }
        }
        if keys != sealed.keys() {
            let what = format!(
                "it holds {keys} keys where its header says {}; restore the folder from a backup",
                sealed.keys()
            );
            self.found.note(file, what);
        }
        if let Err(error) = sealed.attempts() {
            self.found.note(file, error.to_string());
        }
        Ok(())
    }

    fn sealed_entry(&mut self, sealed: &Sealed, entry: &JournalEntry, last: &mut u128, file: &str) {
        let short = entry.digest.short();
        let is_in_order = *last < short || *last == 0;
        *last = short;
        // A look-up has to come to the same entry.
        let found = sealed.find(&entry.digest);
        let is_found = found.is_ok_and(|found| found.as_ref() == Some(entry));
        if !is_in_order || !is_found || !sealed.may_hold(short) {
            self.found.note(
                file,
                "an entry stands where no look-up finds it; restore the folder from a backup",
            );
        }
    }

    fn journal(&mut self, journal: &Journal, file: &str) -> Result<()> {
        // What is appended meanwhile isn't looked at.
        let last = journal.last_sequence();
        let mut problems = Vec::new();
        let result = journal.scan(0, last, |sequence, bytes| {
            self.count()?;
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
        for problem in problems {
            self.found.note(file, problem);
        }
        self.shared.condition.check()?;
        if let Err(error) = result {
            self.found.note(file, error.to_string());
        }
        Ok(())
    }
}

/// Whether the index names the entry, or a newer one of the same key.
fn is_indexed(journal: &Journal, entry: &JournalEntry) -> bool {
    let newest = journal.index.get(entry.digest.short());
    newest.map(Slot::sequence) >= Some(entry.heading.sequence)
}
