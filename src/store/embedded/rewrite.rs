//! After a failed sync: the active segment's content goes into a new file before it is trusted.
//!
//! The operating system may show what it read into its cache and never got to the disk, and a later sync
//! may say nothing of it. So what the journal holds is written again, synced, and listed in the old one's
//! place; then the old file goes. A crash in between leaves the old one listed and suspect, and the next
//! open begins again.

use std::sync::Arc;

use super::Settings;
use super::folder::Folder;
use super::index::Slot;
use super::journal::Journal;
use super::manifest::{Manifest, SegmentRow};
use super::scan::Scan;
use super::tally::{SegmentHeader, Tally};
use crate::clock::Timestamp;
use crate::codec::{self, EntryState, Heading, JournalEntry};
use crate::error::Result;
use crate::record::Stored;

/// From how many bytes on the entries so far are committed.
const COMMIT_BYTES: usize = 4 << 20;

/// Replaces the last of the segments by a new one with the newest entry of each of its keys.
pub(super) fn rewrite_active(
    folder: &Folder,
    manifest: &mut Manifest,
    scan: &mut Scan,
    settings: &Settings,
) -> Result<()> {
    let Some(suspect) = scan.set.journals.pop() else {
        return manifest.update(|state| state.is_suspect = false);
    };
    let id = suspect.tally.id() + 1;
    let header = SegmentHeader {
        id,
        first_id: id,
        first_sequence: scan.last_sequence + 1,
        ..suspect.tally.header
    };
    let tally = Arc::new(Tally::new(header, suspect.tally.live_keys()));
    let cache_bytes = settings.budget().writable();
    let journal = folder.create_journal(tally, suspect.opened_at, cache_bytes)?;
    copy_newest(&suspect, &journal, scan)?;
    scan.set.journals.push(Arc::new(journal));
    manifest.update(|state| {
        state.segments.pop();
        let row = SegmentRow::new(header, suspect.opened_at);
        state.segments.push(row);
        // The copies say nothing of what they took the place of.
        state.count(scan.last_sequence, scan.set.tallies());
        state.last_sequence = state.last_sequence.max(scan.last_sequence);
        state.is_suspect = false;
    })?;
    let path = folder.journal(suspect.tally.id());
    // Nothing is wanted of the old file any more, nor of an error at its close.
    drop(suspect);
    Folder::remove_file(&path)?;
    folder.sync()
}

fn copy_newest(from: &Journal, to: &Journal, scan: &mut Scan) -> Result<()> {
    let mut slots: Vec<(u128, Slot)> = from.index.slots().collect();
    slots.sort_unstable_by_key(|(_, slot)| slot.sequence());
    let mut batch: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    for (short, slot) in slots {
        scan.last_sequence += 1;
        let sequence = scan.last_sequence;
        let entry = from.read(slot.sequence())?;
        let (encoded, ends_at) = encode_again(entry, sequence)?;
        to.index.insert(short, Slot::new(sequence, slot.kind()));
        to.count(sequence, encoded.len(), ends_at);
        bytes += encoded.len();
        batch.push((sequence, encoded));
        if bytes >= COMMIT_BYTES {
            append(to, &batch)?;
            batch.clear();
            bytes = 0;
        }
    }
    append(to, &batch)
}

fn append(journal: &Journal, batch: &[(u64, Vec<u8>)]) -> Result<()> {
    journal.append(
        batch
            .iter()
            .map(|(sequence, bytes)| (*sequence, bytes.as_slice())),
    )
}

/// The bytes of an entry under another sequence, and when its record ends.
fn encode_again(entry: JournalEntry, sequence: u64) -> Result<(Vec<u8>, Timestamp)> {
    let mut bytes = Vec::new();
    let heading = Heading {
        sequence,
        written_at: entry.heading.written_at,
        prior: None,
    };
    let digest = entry.digest;
    match entry.state {
        EntryState::Removed => {
            codec::encode_removal(&mut bytes, heading, digest)?;
            Ok((bytes, Timestamp(0)))
        }
        EntryState::Put { key, record } => {
            let ends_at = record.ends_at();
            let stored = Stored {
                digest,
                key,
                record,
            };
            codec::encode_put(&mut bytes, heading, &stored)?;
            Ok((bytes, ends_at))
        }
    }
}
