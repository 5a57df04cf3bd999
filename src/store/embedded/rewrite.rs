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
use super::manifest::{Manifest, SegmentRow};
use super::recovery::Scan;
use super::segment::{Segment, SegmentHeader};
use crate::clock::Timestamp;
use crate::codec::{self, EntryState, JournalEntry};
use crate::error::Result;
use crate::record::Stored;

/// From how many bytes on the entries so far are committed.
const COMMIT_BYTES: usize = 4 << 20;

/// Replaces the last of the segments by a new one with the newest entry of each of its keys.
pub(super) fn rewrite_active(
    folder: &Folder,
    manifest: &mut Manifest,
    scan: &mut Scan,
    segments: &mut Vec<Arc<Segment>>,
    settings: &Settings,
) -> Result<()> {
    let Some(suspect) = segments.pop() else {
        return manifest.update(|state| state.is_suspect = false);
    };
    let header = SegmentHeader {
        id: suspect.header.id + 1,
        first_sequence: scan.last_sequence + 1,
        ..suspect.header
    };
    let cache_bytes = settings.segment_cache_bytes();
    let segment = folder.create_segment(header, suspect.opened_at, cache_bytes)?;
    copy_newest(&suspect, &segment, scan)?;
    manifest.update(|state| {
        state.segments.pop();
        state.segments.push(SegmentRow {
            id: header.id,
            first_sequence: header.first_sequence,
            opened_at_ms: segment.opened_at.0,
            rolled: None,
        });
        state.last_sequence = state.last_sequence.max(scan.last_sequence);
        state.is_suspect = false;
    })?;
    segments.push(Arc::new(segment));
    let path = folder.segment(suspect.header.id);
    // Nothing is wanted of the old file any more, nor of an error at its close.
    drop(suspect);
    Folder::remove_file(&path)?;
    folder.sync()
}

fn copy_newest(from: &Segment, to: &Segment, scan: &mut Scan) -> Result<()> {
    let mut slots: Vec<(u128, Slot)> = from.index.slots().collect();
    slots.sort_unstable_by_key(|(_, slot)| slot.sequence());
    let mut batch: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    for (short, slot) in slots {
        scan.last_sequence += 1;
        let sequence = scan.last_sequence;
        let entry = from.read(slot.sequence())?;
        if let Some(attempt) = scan.attempts.get_mut(&short) {
            attempt.sequence = sequence;
        }
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

fn append(segment: &Segment, batch: &[(u64, Vec<u8>)]) -> Result<()> {
    segment.append(
        batch
            .iter()
            .map(|(sequence, bytes)| (*sequence, bytes.as_slice())),
    )
}

/// The bytes of an entry under another sequence, and when its record ends.
fn encode_again(entry: JournalEntry, sequence: u64) -> Result<(Vec<u8>, Timestamp)> {
    let mut bytes = Vec::new();
    let (written_at, digest) = (entry.written_at, entry.digest);
    match entry.state {
        EntryState::Removed => {
            codec::encode_removal(&mut bytes, sequence, written_at, digest)?;
            Ok((bytes, Timestamp(0)))
        }
        EntryState::Put { key, record } => {
            let ends_at = record.ends_at();
            let stored = Stored {
                digest,
                key,
                record,
            };
            codec::encode_put(&mut bytes, sequence, written_at, &stored)?;
            Ok((bytes, ends_at))
        }
    }
}
