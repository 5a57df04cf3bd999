//! The journal of an active or a rolled segment: a redb file, and the index of what it holds.

use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use redb::{ReadOnlyTable, ReadableTable, ReadableTableMetadata, TableDefinition, TableError};

use super::blob::{self, Run};
use super::directory::Name;
use super::edge::{Edge, redb_call};
use super::ends::Ends;
use super::folder::Folder;
use super::index::{Checkpoint, Index, Slot};
use super::journal_file::{HEADER, JournalFile, OnRepair, WHAT};
use super::manifest::{RolledRow, SegmentContent};
use super::tally::Tally;
use crate::clock::Timestamp;
use crate::codec::{self, JournalEntry};
use crate::error::{Error, ErrorKind, Result};

pub(super) const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
const RUNS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("runs");

type Rows = ReadOnlyTable<u64, &'static [u8]>;

/// How a segment was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Active, and closed cleanly.
    Active,
    Rolled(RolledRow),
    /// Active, and not closed at all, or not cleanly.
    Crashed,
}

/// The journal of one segment. Shared by the writer, the sealer, the sweeper and all readers.
pub(super) struct Journal {
    pub(super) tally: Arc<Tally>,
    pub(super) opened_at: Timestamp,
    pub(super) index: Arc<Index>,
    file: JournalFile,
    edge: Edge,
    /// A standing view of the rows, once nothing is written any more.
    standing: OnceLock<Rows>,
    rolled: OnceLock<RolledRow>,
    entries: AtomicU64,
    entry_bytes: AtomicU64,
    last_sequence: AtomicU64,
    pub(super) ends: Ends,
}

impl Journal {
    /// Makes an empty segment, durable but for its folder's entry.
    pub(super) fn create(
        name: &Name,
        tally: Arc<Tally>,
        opened_at: Timestamp,
        cache_bytes: usize,
    ) -> Result<Self> {
        let file = Folder::create_file(name)?;
        let header_bytes = codec::encode_sealed(&tally.header)?;
        let file = redb_call(WHAT, || {
            let file = JournalFile::create(file, name, cache_bytes)?;
            let transaction = file.begin_write()?;
            transaction
                .open_table(HEADER)?
                .insert((), &header_bytes[..])?;
            transaction.open_table(JOURNAL)?;
            transaction.commit()?;
            Ok(file)
        })?;
        Ok(Self::new(tally, opened_at, file))
    }

    /// Opens a segment's file and checks that it is the expected one.
    pub(super) fn open(
        name: &Name,
        tally: Arc<Tally>,
        opened_at: Timestamp,
        how: How,
        cache_bytes: usize,
        on_repair: OnRepair,
    ) -> Result<Self> {
        let file = redb_call(WHAT, || match how {
            How::Active => JournalFile::open(name, cache_bytes, on_repair),
            How::Rolled(rolled) if !rolled.is_cut => {
                JournalFile::open_rolled(name, cache_bytes, on_repair)
            }
            How::Rolled(_) | How::Crashed => JournalFile::freeze(name, cache_bytes, on_repair),
        })?;
        file.check_header(&tally.header)?;
        let segment = Self::new(tally, opened_at, file);
        if let How::Rolled(rolled) = how {
            segment.mark_rolled(rolled);
        }
        if how != How::Active {
            segment.stand()?;
        }
        Ok(segment)
    }

    /// The same segment with a new handle of its file, to which nothing is written any more.
    pub(super) fn freeze(&self, name: &Name, cache_bytes: usize) -> Result<Self> {
        let file = redb_call(WHAT, || {
            JournalFile::freeze(name, cache_bytes, Arc::new(|_| {}))
        })?;
        file.check_header(&self.tally.header)?;
        let frozen = Self {
            index: Arc::clone(&self.index),
            rolled: self.rolled.clone(),
            entries: AtomicU64::new(self.entries()),
            entry_bytes: AtomicU64::new(self.entry_bytes()),
            last_sequence: AtomicU64::new(self.last_sequence()),
            ends: Ends::new(self.ends.answers(), self.ends.attempts()),
            ..Self::new(Arc::clone(&self.tally), self.opened_at, file)
        };
        frozen.stand()?;
        if frozen.entries() > 0 {
            frozen.read(frozen.last_sequence())?;
        }
        Ok(frozen)
    }

    pub(super) fn is_writable(&self) -> bool {
        self.file.is_writable()
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.file.is_frozen()
    }

    fn new(tally: Arc<Tally>, opened_at: Timestamp, file: JournalFile) -> Self {
        let before_first = tally.header.first_sequence.saturating_sub(1);
        Self {
            tally,
            opened_at,
            index: Arc::default(),
            file,
            edge: Edge::default(),
            standing: OnceLock::new(),
            rolled: OnceLock::new(),
            entries: AtomicU64::new(0),
            entry_bytes: AtomicU64::new(0),
            last_sequence: AtomicU64::new(before_first),
            ends: Ends::default(),
        }
    }

    /// Appends entries in one durable commit. On an error it is unclear whether they are there.
    pub(super) fn append<'a>(&self, entries: impl Iterator<Item = (u64, &'a [u8])>) -> Result<()> {
        self.call(|| {
            let transaction = self.file.begin_write()?;
            {
                let mut table = transaction.open_table(JOURNAL)?;
                let mut end = table.upper_bound_mut(Bound::<u64>::Unbounded)?;
                for (sequence, bytes) in entries {
                    end.insert_before(sequence, bytes)?;
                }
                end.close()?;
            }
            transaction.commit()?;
            Ok(())
        })
    }

    /// Notes an entry that is in the journal.
    pub(super) fn count(&self, slot: Slot, bytes: usize, ends_at: Timestamp) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.entry_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_sequence
            .fetch_max(slot.sequence(), Ordering::Relaxed);
        self.ends.note(slot, ends_at);
    }

    /// Ends the journal: a last commit saves redb's allocator state, so that no open has to repair the
    /// file, and readers get a standing view.
    pub(super) fn finish(&self) -> Result<()> {
        if !self.file.is_writable() {
            return Ok(());
        }
        self.call(|| {
            let mut transaction = self.file.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.commit()?;
            Ok(())
        })?;
        self.stand()
    }

    fn call<T>(&self, call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
        self.edge.call(WHAT, call)
    }

    /// Whether the file has to be opened anew.
    pub(super) fn is_stale(&self) -> bool {
        self.edge.is_stale()
    }

    /// Notes that the manifest lists the segment as rolled.
    pub(super) fn mark_rolled(&self, row: RolledRow) {
        // A segment is rolled once; a second mark would be the same.
        let _ = self.rolled.set(row);
    }

    fn stand(&self) -> Result<()> {
        let rows = self.call(|| Ok(self.file.begin_read()?.open_table(JOURNAL)?))?;
        let _ = self.standing.set(rows);
        Ok(())
    }

    /// Reads one entry and checks it whole.
    pub(super) fn read(&self, sequence: u64) -> Result<JournalEntry> {
        self.with_row(sequence, |row| {
            let row = row.ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    "a segment lacks an entry that it held; restore it from a backup",
                )
            })?;
            codec::decode_at(row, sequence)
        })
    }

    /// Works on the bytes of one entry; `None` if the row is missing.
    pub(super) fn with_row<T>(
        &self,
        sequence: u64,
        work: impl FnOnce(Option<&[u8]>) -> Result<T>,
    ) -> Result<T> {
        // Worked on inside the call: the bytes are a view of redb's page.
        let read = |rows: &Rows| {
            self.call(|| {
                let row = rows.get(sequence)?;
                Ok(work(row.as_ref().map(redb::AccessGuard::value)))
            })?
        };
        match self.standing.get() {
            Some(rows) => read(rows),
            None => read(&self.call(|| Ok(self.file.begin_read()?.open_table(JOURNAL)?))?),
        }
    }

    /// The sequence of the newest row in the file.
    pub(super) fn newest_row(&self) -> Result<Option<u64>> {
        self.call(|| {
            let rows = self.file.begin_read()?.open_table(JOURNAL)?;
            Ok(rows.last()?.map(|(sequence, _)| sequence.value()))
        })
    }

    /// Gives the rows after `after` up to `last`, in order, but no more than `most` of them. `visit` may not
    /// run anybody else's code: a panic would be taken for redb's.
    pub(super) fn scan(
        &self,
        after: u64,
        last: u64,
        most: usize,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let rows = self.call(|| Ok(self.file.begin_read()?.open_table(JOURNAL)?))?;
        let range = (Bound::Excluded(after), Bound::Included(last));
        let mut rows = self.call(|| Ok(rows.range::<u64>(range)?))?;
        for _ in 0..most {
            let visited = self.call(|| {
                let row = rows.next().transpose()?;
                Ok(row.map(|(sequence, bytes)| visit(sequence.value(), bytes.value())))
            })?;
            match visited {
                None => return Ok(()),
                Some(visited) => visited?,
            }
        }
        Ok(())
    }

    /// How many rows the file has.
    pub(super) fn rows(&self) -> Result<u64> {
        self.call(|| Ok(self.file.begin_read()?.open_table(JOURNAL)?.len()?))
    }

    /// Writes the index into the file, so that the next open needn't rebuild it.
    pub(super) fn write_checkpoint(&self) -> Result<()> {
        if !self.file.is_writable() {
            return Ok(());
        }
        let checkpoint = Checkpoint {
            entries: self.entries(),
            entry_bytes: self.entry_bytes(),
            last_sequence: self.last_sequence(),
            answers_end: self.ends.answers(),
            attempts_end: self.ends.attempts(),
            slots: self.index.slots().collect(),
        };
        let bytes = checkpoint.to_bytes();
        self.call(|| {
            let transaction = self.file.begin_write()?;
            blob::write(&mut transaction.open_table(RUNS)?, Run::Checkpoint, &bytes)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Takes over what the last checkpoint says, if there is a sound one that covers no entry after `counted_to`:
    /// the manifest has counted what such a one covers, and it only saves time.
    pub(super) fn load_checkpoint(&self, counted_to: u64) -> Result<()> {
        let bytes = self.call(|| match self.file.begin_read()?.open_table(RUNS) {
            Ok(runs) => blob::read(&runs, Run::Checkpoint),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        });
        let bytes = match bytes {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(()),
            bytes => bytes?,
        };
        let Some((bytes, true)) = bytes else {
            return Ok(());
        };
        let checkpoint = Checkpoint::from_bytes(&bytes);
        let Some(checkpoint) = checkpoint.filter(|found| found.last_sequence <= counted_to) else {
            return Ok(());
        };
        checkpoint.fill(&self.index);
        self.entries.store(checkpoint.entries, Ordering::Relaxed);
        self.entry_bytes
            .store(checkpoint.entry_bytes, Ordering::Relaxed);
        self.last_sequence
            .store(checkpoint.last_sequence, Ordering::Relaxed);
        self.ends
            .include(&Ends::new(checkpoint.answers_end, checkpoint.attempts_end));
        Ok(())
    }

    /// Refuses a segment that doesn't hold what the manifest says.
    pub(super) fn check_complete(&self, expected: Option<SegmentContent>) -> Result<()> {
        match expected {
            Some(expected) if expected != self.content() => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "a segment holds {} entries where the manifest lists {}; restore it from a backup",
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

    /// Closes the file and reports what stands in the way of that.
    pub(super) fn close(self) -> Result<()> {
        drop(self.standing);
        redb_call(WHAT, || self.file.close())
    }

    pub(super) fn rolled(&self) -> Option<&RolledRow> {
        self.rolled.get()
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    pub(super) fn entry_bytes(&self) -> u64 {
        self.entry_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.last_sequence.load(Ordering::Relaxed)
    }

    /// How many bytes of the disk it takes now, and will take in all until it is sealed and gone.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.file.taken() + self.entry_bytes()
    }

    pub(super) fn page_cache_bytes(&self) -> u64 {
        self.file.page_cache_bytes()
    }
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
