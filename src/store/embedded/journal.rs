//! A segment that isn't sealed: its log, and the index of what that holds.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::ends::Ends;
use super::files::directory::Name;
use super::index::{Index, Slot};
use super::log::{Log, Seed, Span};
use super::manifest::{RolledRow, SegmentContent};
use super::tally::Tally;
use crate::clock::Timestamp;
use crate::codec::{self, JournalEntry};
use crate::error::{Error, ErrorKind, Result};

/// The journal of one segment. Shared by the writer, the sealer, the sweeper and all readers.
pub(super) struct Journal {
    pub(super) tally: Arc<Tally>,
    pub(super) opened_at: Timestamp,
    pub(super) index: Index,
    pub(super) log: Arc<Log>,
    rolled: OnceLock<RolledRow>,
    entries: AtomicU64,
    entry_bytes: AtomicU64,
    last_sequence: AtomicU64,
    pub(super) ends: Ends,
}

impl Journal {
    /// Opens a segment's file, to which nothing is written any more. It is read by a scan.
    pub(super) fn open(
        name: &Name,
        tally: Arc<Tally>,
        opened_at: Timestamp,
        (seed, number): (Seed, u64),
        is_confirmed: bool,
    ) -> Result<Self> {
        let log = Log::open(name, seed, number, is_confirmed)?;
        Ok(Self::new(tally, opened_at, Arc::new(log)))
    }

    /// A segment that holds nothing yet, or that nothing was read of.
    pub(super) fn new(tally: Arc<Tally>, opened_at: Timestamp, log: Arc<Log>) -> Self {
        let before_first = tally.header.first_sequence.saturating_sub(1);
        Self {
            tally,
            opened_at,
            index: Index::default(),
            log,
            rolled: OnceLock::new(),
            entries: AtomicU64::new(0),
            entry_bytes: AtomicU64::new(0),
            last_sequence: AtomicU64::new(before_first),
            ends: Ends::default(),
        }
    }

    /// Notes an entry that is in the journal.
    pub(super) fn count(&self, slot: Slot, ends_at: Timestamp) {
        let bytes = slot.span().length() as u64;
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.entry_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last_sequence
            .fetch_max(slot.sequence(), Ordering::Relaxed);
        self.ends.note(slot, ends_at);
    }

    /// Notes that the manifest lists the segment as rolled.
    pub(super) fn mark_rolled(&self, row: RolledRow) {
        // A segment is rolled once; a second mark would be the same.
        let _ = self.rolled.set(row);
    }

    /// Reads one entry and checks it whole.
    pub(super) fn read(&self, slot: Slot) -> Result<JournalEntry> {
        let (mut bytes, span) = (Vec::new(), slot.span());
        self.log.read(span, &mut bytes)?;
        codec::decode_at(&bytes, slot.sequence()).map_err(|error| damaged(span, error))
    }

    /// Refuses a segment that doesn't hold what the manifest says.
    pub(super) fn check_complete(&self, expected: Option<SegmentContent>) -> Result<()> {
        match expected {
            Some(expected) if expected != self.content() => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "a segment holds {} entries where the manifest lists {}; restore it from a backup, or take what is left \
                     with Builder::accept_damage",
                    self.entries(),
                    expected.entries
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn content(&self) -> SegmentContent {
        SegmentContent {
            entries: self.entries(),
            last_sequence: self.last_sequence(),
        }
    }

    pub(super) fn rolled(&self) -> Option<&RolledRow> {
        self.rolled.get()
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.last_sequence.load(Ordering::Relaxed)
    }

    /// How many bytes its entries have.
    pub(super) fn entry_bytes(&self) -> u64 {
        self.entry_bytes.load(Ordering::Relaxed)
    }

    /// How many bytes of the disk it takes now, and will take in all until it is sealed and gone.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.log.taken() + self.entry_bytes()
    }
}

/// Says where the damage is.
fn damaged(span: Span, error: Error) -> Error {
    if error.kind() != ErrorKind::Corrupt {
        return error;
    }
    let message = format!("the {span:?} of a segment's log: {error}");
    Error::with_source(ErrorKind::Corrupt, message, error)
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("id", &self.tally.id())
            .field("entries", &self.entries())
            .field("is_rolled", &self.rolled.get().is_some())
            .finish_non_exhaustive()
    }
}
