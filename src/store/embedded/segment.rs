//! One segment: a redb file with a journal, and the index of what it holds.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTable, ReadableTableMetadata, TableDefinition, TransactionError,
};
use serde::{Deserialize, Serialize};

use super::edge::redb_call;
use super::folder::Folder;
use super::index::Index;
use super::manifest::{RolledRow, SegmentContent};
use crate::clock::Timestamp;
use crate::codec::{self, JournalEntry};
use crate::error::{Error, ErrorKind, Result};

const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
const HEADER: TableDefinition<'_, (), &[u8]> = TableDefinition::new("header");
const WHAT: &str = "a segment";
/// What redb makes of a new segment's file is no larger.
const FRESH_FILE_BYTES: u64 = 2 << 20;

type Journal = ReadOnlyTable<u64, &'static [u8]>;

/// One segment, active or rolled. Shared by the writer, the sweeper and all readers.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) opened_at: Timestamp,
    pub(super) index: Index,
    /// How many keys have their newest entry here, and aren't free by it.
    pub(super) live_keys: AtomicI64,
    file: SegmentFile,
    /// A standing view of the journal, once nothing is written to it any more.
    standing: OnceLock<Journal>,
    rolled: OnceLock<RolledRow>,
    entries: AtomicU64,
    entry_bytes: AtomicU64,
    last_sequence: AtomicU64,
    /// When the last of its records is over, unless it is held.
    ends_at: AtomicU64,
}

/// What a segment's file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentHeader {
    pub(super) store_id: [u8; 16],
    pub(super) id: u64,
    pub(super) first_sequence: u64,
}

enum SegmentFile {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

impl SegmentFile {
    fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        match self {
            Self::Writable(database) => database.begin_read(),
            Self::ReadOnly(database) => database.begin_read(),
        }
    }
}

impl Segment {
    /// Makes an empty segment, durable but for its folder's entry.
    pub(super) fn create(
        path: &Path,
        header: SegmentHeader,
        opened_at: Timestamp,
        cache_bytes: usize,
    ) -> Result<Self> {
        let file = Folder::create_file(path)?;
        let header_bytes = codec::encode_sealed(&header)?;
        let database = redb_call(WHAT, || {
            let database = Database::builder()
                .set_cache_size(cache_bytes)
                .create_with_backend(FileBackend::new(file)?)?;
            let transaction = database.begin_write()?;
            transaction
                .open_table(HEADER)?
                .insert((), &header_bytes[..])?;
            transaction.open_table(JOURNAL)?;
            transaction.commit()?;
            Ok(database)
        })?;
        let file = SegmentFile::Writable(database);
        Ok(Self::new(header, opened_at, file))
    }

    /// Opens a segment's file, repairs it after a crash, and checks that it is the expected one.
    pub(super) fn open(
        path: &Path,
        header: SegmentHeader,
        opened_at: Timestamp,
        rolled: Option<RolledRow>,
        cache_bytes: usize,
    ) -> Result<Self> {
        let (file, found) = redb_call(WHAT, || {
            let file = open_file(path, rolled.is_some(), cache_bytes)?;
            let table = file.begin_read()?.open_table(HEADER)?;
            let found = table.get(())?.map(|row| row.value().to_vec());
            Ok((file, found.unwrap_or_default()))
        })?;
        let found: SegmentHeader = codec::decode_sealed(&found, "a segment's header")?;
        if found != header {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a segment's file is of another store or another segment; restore it from a backup",
            ));
        }
        let segment = Self::new(header, opened_at, file);
        if let Some(rolled) = rolled {
            segment.rolled.set(rolled).expect("it was just made");
            segment.stand()?;
        }
        Ok(segment)
    }

    /// Whether a file is a segment that was made and never written to, or not even made to the end.
    pub(super) fn is_blank(path: &Path, cache_bytes: usize) -> Result<bool> {
        let holds_something = redb_call(WHAT, || {
            let file = open_file(path, false, cache_bytes)?;
            let journal = file.begin_read()?.open_table(JOURNAL)?;
            Ok(journal.len()? > 0)
        });
        match holds_something {
            Ok(holds_something) => Ok(!holds_something),
            // Made, but not to the end. A larger file has held more than a beginning.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let bytes = std::fs::metadata(path).map_or(u64::MAX, |metadata| metadata.len());
                Ok(bytes <= FRESH_FILE_BYTES)
            }
            Err(error) => Err(error),
        }
    }

    fn new(header: SegmentHeader, opened_at: Timestamp, file: SegmentFile) -> Self {
        Self {
            header,
            opened_at,
            index: Index::new(),
            live_keys: AtomicI64::new(0),
            file,
            standing: OnceLock::new(),
            rolled: OnceLock::new(),
            entries: AtomicU64::new(0),
            entry_bytes: AtomicU64::new(0),
            last_sequence: AtomicU64::new(header.first_sequence.saturating_sub(1)),
            ends_at: AtomicU64::new(0),
        }
    }

    /// Appends entries in one durable commit. On an error it is unclear whether they are there.
    pub(super) fn append<'a>(&self, entries: impl Iterator<Item = (u64, &'a [u8])>) -> Result<()> {
        let SegmentFile::Writable(database) = &self.file else {
            unreachable!("only the active segment is appended to");
        };
        redb_call(WHAT, || {
            let transaction = database.begin_write()?;
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
    pub(super) fn count(&self, sequence: u64, bytes: usize, ends_at: Timestamp) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.entry_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_sequence.fetch_max(sequence, Ordering::Relaxed);
        self.ends_at.fetch_max(ends_at.0, Ordering::Relaxed);
    }

    /// Ends the journal: a last commit saves redb's allocator state, so that no open has to repair the
    /// file, and readers get a standing view.
    pub(super) fn finish(&self) -> Result<()> {
        let SegmentFile::Writable(database) = &self.file else {
            return Ok(());
        };
        redb_call(WHAT, || {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.commit()?;
            Ok(())
        })?;
        self.stand()
    }

    /// Notes that the manifest lists the segment as rolled.
    pub(super) fn mark_rolled(&self, row: RolledRow) {
        // A segment is rolled once; a second mark would be the same.
        let _ = self.rolled.set(row);
    }

    fn stand(&self) -> Result<()> {
        let journal = redb_call(WHAT, || Ok(self.file.begin_read()?.open_table(JOURNAL)?))?;
        let _ = self.standing.set(journal);
        Ok(())
    }

    /// Reads one entry and checks it.
    pub(super) fn read(&self, sequence: u64) -> Result<JournalEntry> {
        let read = |journal: &Journal| {
            // Decoded inside the call: the bytes are a view of redb's page.
            let entry = redb_call(WHAT, || {
                let row = journal.get(sequence)?;
                Ok(row.map(|row| codec::decode(row.value(), sequence)))
            })?;
            entry.unwrap_or_else(|| {
                Err(Error::new(
                    ErrorKind::Corrupt,
                    "a segment lacks an entry that it held; restore it from a backup",
                ))
            })
        };
        match self.standing.get() {
            Some(journal) => read(journal),
            None => read(&redb_call(WHAT, || {
                Ok(self.file.begin_read()?.open_table(JOURNAL)?)
            })?),
        }
    }

    /// Reads all entries in order, with their sizes.
    pub(super) fn scan(
        &self,
        mut visit: impl FnMut(JournalEntry, usize) -> Result<()>,
    ) -> Result<()> {
        let journal = redb_call(WHAT, || Ok(self.file.begin_read()?.open_table(JOURNAL)?))?;
        let mut rows = redb_call(WHAT, || Ok(journal.iter()?))?;
        loop {
            let row = redb_call(WHAT, || {
                let Some((sequence, bytes)) = rows.next().transpose()? else {
                    return Ok(None);
                };
                let bytes = bytes.value();
                Ok(Some((codec::decode(bytes, sequence.value()), bytes.len())))
            })?;
            let Some((entry, bytes)) = row else {
                return Ok(());
            };
            visit(entry?, bytes)?;
        }
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
        redb_call(WHAT, || match self.file {
            SegmentFile::Writable(database) => Ok(database.close()?),
            SegmentFile::ReadOnly(database) => Ok(database.close()?),
        })
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

    pub(super) fn ends_at(&self) -> Timestamp {
        Timestamp(self.ends_at.load(Ordering::Relaxed))
    }
}

/// A rolled segment that was closed cleanly is opened read-only, which writes nothing.
fn open_file(path: &Path, is_rolled: bool, cache_bytes: usize) -> Result<SegmentFile, redb::Error> {
    if is_rolled {
        match Database::builder()
            .set_cache_size(cache_bytes)
            .open_read_only(path)
        {
            Ok(database) => return Ok(SegmentFile::ReadOnly(database)),
            Err(DatabaseError::RepairAborted) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let database = Database::builder().set_cache_size(cache_bytes).open(path)?;
    Ok(SegmentFile::Writable(database))
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("id", &self.header.id)
            .field("entries", &self.entries())
            .field("is_rolled", &self.rolled.get().is_some())
            .finish_non_exhaustive()
    }
}
