//! The manifest: which segments there are, and what must outlive them.
//!
//! A small redb file with one row, replaced as a whole by each roll, unlink and change of epoch. A
//! segment file that isn't listed was never answered from and is removed at open; a listed one that is
//! missing is damage.

use std::fmt;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, TableDefinition};
use serde::{Deserialize, Serialize};

use super::files::disk::{data_file, existing_file};
use super::files::edge::{Owned, redb_call};
use super::folder::Folder;
use super::tally::{SegmentHeader, Tally};
use crate::clock::Timestamp;
use crate::codec;
use crate::error::{Error, ErrorKind, Result};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("onceward manifest");
/// The folder's format version, readable by every version of the crate: 4 bytes, little-endian.
const FORMAT_ROW: &str = "format";
const STATE_ROW: &str = "state";
const FORMAT: u32 = 4;
const WHAT: &str = "the manifest";
const CACHE_BYTES: usize = 256 << 10;
/// An epoch begins at a multiple of two to this power: about a million sequences for each millisecond
/// since 1970, which no store ever catches up with.
const EPOCH_BITS: u32 = 20;

/// The manifest's file, and what it says.
pub(super) struct Manifest {
    folder: Arc<Folder>,
    file: Owned<Database>,
    state: ManifestState,
    /// Whether the last change failed, or may have: what is on the disk then isn't known.
    is_unsure: bool,
}

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManifestState {
    /// Tells this store's segments from another one's.
    pub(super) store_id: [u8; 16],
    /// Tells whether a secret is the store's.
    pub(super) secret_check: [u8; 32],
    pub(super) is_peppered: bool,
    /// The numbers of all keys that replies were ever encrypted with, and what tells each from another one. The last is
    /// the one that is written with.
    pub(super) encryption_keys: Vec<(u32, [u8; 32])>,
    /// The [identity](Folder::identity) of the folder that the current epoch began in.
    pub(super) folder_identity: (u64, u64),
    /// No entry that was ever written has a higher sequence, except in segments that are listed.
    pub(super) last_sequence: u64,
    /// The engine's time when the manifest was last written, in milliseconds since 1970.
    pub(super) time_mark_ms: u64,
    /// No segment that was ever listed has a higher number.
    pub(super) last_id: u64,
    /// From the oldest to the active one, which is the last.
    pub(super) segments: Vec<SegmentRow>,
    /// Up to which sequence the rows' live keys are counted.
    pub(super) counted_to: u64,
    /// What the active segment held when the store was closed; `None` while it is open.
    pub(super) closed_with: Option<SegmentContent>,
}

/// One listed segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentRow {
    pub(super) id: u64,
    /// The lowest number of the segments that were merged into it; its own if none was.
    pub(super) first_id: u64,
    pub(super) first_sequence: u64,
    pub(super) opened_at_ms: u64,
    /// What tells its log from others of the same name; nothing once it is sealed.
    pub(super) log_number: u64,
    /// How many keys had their newest entry here, and weren't free by it, after the last entry that was
    /// [counted](ManifestState::counted_to).
    pub(super) live_keys: u64,
    /// `None` for the active segment.
    pub(super) rolled: Option<RolledRow>,
    /// Whether the sealed file has taken the journal's place.
    pub(super) is_sealed: bool,
}

/// What is known for good of a segment once it has been rolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RolledRow {
    pub(super) rolled_at_ms: u64,
    /// When the first of those that were merged into the segment would have been unlinked; 0 if none was.
    pub(super) first_due_ms: u64,
    pub(super) holds: SegmentContent,
    /// Whether a commit to the segment failed: its file may hold more than this, which isn't for sure on the disk,
    /// doesn't count, and isn't written to any more.
    pub(super) is_cut: bool,
    /// Whether something is missing in the log before its end, which was accepted: it isn't among
    /// what the segment holds.
    pub(super) is_damaged: bool,
}

/// By what a segment that lost something is told from a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentContent {
    pub(super) entries: u64,
    pub(super) last_sequence: u64,
}

impl RolledRow {
    /// Of a segment that ends now, cleanly or not.
    pub(super) fn ending(now: Timestamp, holds: SegmentContent, is_cut: bool) -> Self {
        Self {
            rolled_at_ms: now.0,
            first_due_ms: 0,
            holds,
            is_cut,
            is_damaged: false,
        }
    }

    pub(super) fn first_due(&self) -> Option<Timestamp> {
        (self.first_due_ms > 0).then_some(Timestamp(self.first_due_ms))
    }
}

impl SegmentRow {
    /// The row of a segment that was just made.
    pub(super) fn new(header: SegmentHeader, opened_at: Timestamp) -> Self {
        Self {
            id: header.id,
            first_id: header.first_id,
            first_sequence: header.first_sequence,
            opened_at_ms: opened_at.0,
            log_number: 0,
            live_keys: 0,
            rolled: None,
            is_sealed: false,
        }
    }

    /// What the segment's files say of themselves.
    pub(super) fn header(&self, store_id: [u8; 16]) -> SegmentHeader {
        SegmentHeader {
            store_id,
            id: self.id,
            first_id: self.first_id,
            first_sequence: self.first_sequence,
        }
    }

    /// Whether the segment has ended without an entry, so that it needs no file.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_sealed && self.rolled.is_some_and(|rolled| rolled.holds.entries == 0)
    }

    /// Whether the row lists the segment with this number, or the one that it was merged into.
    pub(super) fn covers(&self, id: u64) -> bool {
        (self.first_id..=self.id).contains(&id)
    }
}

impl ManifestState {
    /// Takes over the segments' counts, which include all entries up to `counted_to`.
    pub(super) fn count<'a>(
        &mut self,
        counted_to: u64,
        tallies: impl Iterator<Item = &'a Arc<Tally>>,
    ) {
        self.counted_to = counted_to;
        for tally in tallies {
            if let Some(row) = self.segments.iter_mut().find(|row| row.id == tally.id()) {
                row.live_keys = tally.live_keys();
            }
        }
    }

    /// Notes what the last segment holds for good, unless that was noted.
    pub(super) fn end_last<'a>(
        &mut self,
        rolled: RolledRow,
        tallies: impl Iterator<Item = &'a Arc<Tally>>,
    ) {
        self.time_mark_ms = self.time_mark_ms.max(rolled.rolled_at_ms);
        // An epoch that began since the last entry is ahead of it.
        self.last_sequence = self.last_sequence.max(rolled.holds.last_sequence);
        let active = self.segments.last_mut().filter(|row| row.rolled.is_none());
        if let Some(active) = active {
            active.rolled = Some(rolled);
            self.count(rolled.holds.last_sequence, tallies);
        }
    }

    /// Lists a new segment after the last, which has ended. One that ended empty is listed no more.
    pub(super) fn begin_next(
        &mut self,
        header: SegmentHeader,
        opened_at: Timestamp,
        log_number: u64,
    ) {
        if self.segments.last().is_some_and(SegmentRow::is_empty) {
            self.segments.pop();
        }
        self.last_id = self.last_id.max(header.id);
        self.segments.push(SegmentRow {
            log_number,
            ..SegmentRow::new(header, opened_at)
        });
    }

    /// Begins a new epoch: sequences go on far above all that were ever handed out, here or in another
    /// copy of the folder. The clock sees to it that two copies, or two restores of one backup, don't
    /// begin at the same number.
    pub(super) fn begin_epoch(&mut self, identity: (u64, u64), wall: Timestamp, last: u64) {
        const LATEST_MS: u64 = 1 << 41;
        let by_count = (last >> EPOCH_BITS) + 2;
        let by_clock = wall.0.min(LATEST_MS);
        self.last_sequence = by_count.max(by_clock) << EPOCH_BITS;
        self.folder_identity = identity;
    }

    /// Whether a sequence may follow none or a much lower one: it is the first of an epoch.
    pub(super) fn may_begin_epoch(sequence: u64) -> bool {
        sequence % (1 << EPOCH_BITS) == 1
    }
}

impl Manifest {
    /// Makes the manifest of a new store.
    pub(super) fn create(folder: &Arc<Folder>, state: &ManifestState) -> Result<Self> {
        write_whole(folder, state)?;
        Self::read(folder)
    }

    /// Opens the manifest of a former process, which may have been written by a change that failed: it has to be
    /// [settled](Manifest::settle) before anything is done by it.
    pub(super) fn open(folder: &Arc<Folder>) -> Result<Self> {
        let found = Self::read(folder)?;
        Ok(Self {
            is_unsure: true,
            ..found
        })
    }

    /// Reads a manifest and checks it whole.
    fn read(folder: &Arc<Folder>) -> Result<Self> {
        let (file, format, state) = redb_call(WHAT, || {
            let file = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(existing_file(&folder.manifest())?)?;
            let file = Owned::new(file);
            let table = file.begin_read()?.open_table(TABLE)?;
            let row = |name| -> Result<Option<Vec<u8>>, redb::Error> {
                Ok(table.get(name)?.map(|row| row.value().to_vec()))
            };
            let (format, state) = (row(FORMAT_ROW)?, row(STATE_ROW)?);
            drop(table);
            Ok((file, format, state))
        })?;
        check_format(format.as_deref())?;
        let state = codec::decode_sealed(&state.unwrap_or_default(), "the manifest's state")?;
        Ok(Self {
            folder: Arc::clone(folder),
            file,
            state,
            is_unsure: false,
        })
    }

    pub(super) fn state(&self) -> &ManifestState {
        &self.state
    }

    /// Replaces what the manifest says, durably. On an error it is unclear which of the two it says; the next change
    /// is written to a new file.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut ManifestState)) -> Result<()> {
        let mut state = self.state.clone();
        change(&mut state);
        if self.is_unsure {
            self.replace(&state)?;
        } else {
            let bytes = codec::encode_sealed(&state)?;
            self.is_unsure = true;
            self.write(&bytes)?;
            self.is_unsure = false;
        }
        self.state = state;
        Ok(())
    }

    /// Sees to it that the manifest on the disk is this one. To be called before anything is touched that a change
    /// which failed may have listed.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.is_unsure {
            self.replace(&self.state.clone())?;
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        redb_call(WHAT, || {
            let mut transaction = self.file.begin_write()?;
            // Two syncs: a damaged last commit is then an error, where redb would otherwise go back to
            // the one before it without a word.
            transaction.set_two_phase_commit(true);
            transaction.open_table(TABLE)?.insert(STATE_ROW, bytes)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Goes on in a new file: the old one may show what never got to the disk.
    fn replace(&mut self, state: &ManifestState) -> Result<()> {
        write_whole(&self.folder, state)?;
        *self = Self::read(&self.folder)?;
        Ok(())
    }

    /// Takes a segment off the list, durably; the time mark keeps what its entries said of the time.
    pub(super) fn unlist(&mut self, id: u64, now: Timestamp) -> Result<()> {
        self.update(|state| {
            state.time_mark_ms = state.time_mark_ms.max(now.0);
            state.segments.retain(|row| row.id != id);
        })
    }

    pub(super) fn close(self) -> Result<()> {
        redb_call(WHAT, || Ok(self.file.into_inner().close()?))
    }
}

/// Writes a manifest into a file of its own, which gets its name once it is whole and synced.
fn write_whole(folder: &Folder, state: &ManifestState) -> Result<()> {
    let unfinished = folder.unfinished_manifest();
    Folder::remove_file(&unfinished)?;
    let file = Folder::create_file(&unfinished)?;
    let state_bytes = codec::encode_sealed(state)?;
    redb_call(WHAT, || {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(data_file(file, &unfinished)?)?;
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            table.insert(FORMAT_ROW, &FORMAT.to_le_bytes()[..])?;
            table.insert(STATE_ROW, &state_bytes[..])?;
        }
        transaction.commit()?;
        database.close()?;
        Ok(())
    })?;
    folder.rename(&unfinished, &folder.manifest())
}

fn check_format(row: Option<&[u8]>) -> Result<()> {
    let format = row
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    match format {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!(
                "the folder has the format {newer}; this version of onceward reads up to {FORMAT}: \
                 use a newer one"
            ),
        )),
        Some(older @ 1..FORMAT) => Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!(
                "the folder has the format {older}, which no release of onceward has written: use a new \
                 folder"
            ),
        )),
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            "the manifest states no valid format; restore it from a backup",
        )),
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest")
            .field("segments", &self.state.segments.len())
            .finish_non_exhaustive()
    }
}
