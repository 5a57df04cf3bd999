//! A sealed segment: the newest entry per key of a journal, in the order of their digests, read-only.

use std::fmt;
use std::io;
use std::sync::Arc;

use redb::{Database, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, TableDefinition};
use serde::{Deserialize, Serialize};

use super::blob::{self, Run};
use super::block::{self, Begun, Block};
use super::ends::Ends;
use super::files::directory::Name;
use super::files::disk::data_file;
use super::files::edge::{Edge, Owned, io_error, redb_call};
use super::filter::Filter;
use super::manifest::{RolledRow, SegmentContent};
use super::tally::{SegmentHeader, Tally};
use crate::clock::Timestamp;
use crate::codec::{self, JournalEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Digest;

pub(super) const HEADER: TableDefinition<'_, (), &[u8]> = TableDefinition::new("sealed header");
pub(super) const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
pub(super) const RUNS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("runs");
pub(super) const WHAT: &str = "a sealed segment";
/// What a sealed segment's file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SealedHeader {
    pub(super) segment: SegmentHeader,
    /// What the journal held.
    pub(super) held: SegmentContent,
    /// How many of its entries are here: the newest of each key.
    pub(super) keys: u64,
    pub(super) blocks: u64,
    /// When the last of the records is over that isn't one of the listed attempts.
    pub(super) answers_end_ms: u64,
    /// When the last of the attempts is over, settled or not, unless it is held.
    pub(super) attempts_end_ms: u64,
}

/// An attempt that was in flight when its segment was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealedAttempt {
    pub(super) short: u128,
    pub(super) lease_until: Timestamp,
}

const ATTEMPT_BYTES: usize = 24;

/// A sealed segment, open for reading. Shared by all threads.
pub(super) struct Sealed {
    pub(super) tally: Arc<Tally>,
    pub(super) rolled: RolledRow,
    header: SealedHeader,
    filter: Arc<Filter>,
    /// The least prefix that may be found in each block.
    fences: Arc<[u64]>,
    blocks: ReadOnlyTable<u64, &'static [u8]>,
    runs: ReadOnlyTable<u64, &'static [u8]>,
    file: Owned<ReadOnlyDatabase>,
    cache_bytes: usize,
    disk_bytes: u64,
    edge: Edge,
}

impl Sealed {
    /// Opens a sealed segment and checks that it is the expected one. Reads its filter and its fences,
    /// and none of its entries.
    pub(super) fn open(
        name: &Name,
        tally: &Arc<Tally>,
        rolled: RolledRow,
        cache_bytes: usize,
    ) -> Result<Self> {
        let opened = Opened::open(name, cache_bytes)?;
        let (filter, fences) = redb_call(WHAT, || {
            let filter = blob::read(&opened.runs, Run::Filter)?;
            Ok((filter, blob::read(&opened.runs, Run::Fences)?))
        })?;
        let header: SealedHeader = codec::decode_sealed(&opened.header, WHAT)?;
        if header.segment != tally.header || header.held != rolled.holds {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a sealed segment is of another store, or of another segment; restore the folder from \
                 a backup",
            ));
        }
        let filter = blob::sound(filter, "a sealed segment's filter")?;
        let fences = blob::sound(fences, "a sealed segment's list of blocks")?;
        let fences: Arc<[u64]> = words(&fences).collect();
        let filter = Filter::from_bytes(&filter).filter(|_| fences.len() as u64 == header.blocks);
        let filter = filter.ok_or_else(|| corrupt("doesn't have the parts that it lists"))?;
        Ok(Self {
            tally: Arc::clone(tally),
            rolled,
            header,
            filter: Arc::new(filter),
            fences,
            blocks: opened.blocks,
            runs: opened.runs,
            file: opened.file,
            cache_bytes,
            disk_bytes: taken_by(name)?,
            edge: Edge::default(),
        })
    }

    /// The same segment, opened anew with another share of the page caches.
    pub(super) fn reopen(&self, name: &Name, cache_bytes: usize) -> Result<Self> {
        let opened = Opened::open(name, cache_bytes)?;
        Ok(Self {
            tally: Arc::clone(&self.tally),
            rolled: self.rolled,
            header: self.header,
            filter: Arc::clone(&self.filter),
            fences: Arc::clone(&self.fences),
            blocks: opened.blocks,
            runs: opened.runs,
            file: opened.file,
            cache_bytes,
            disk_bytes: taken_by(name)?,
            edge: Edge::default(),
        })
    }

    /// Whether an entry of the key may be here. Looks at the memory only.
    pub(super) fn may_hold(&self, short: u128) -> bool {
        self.filter.may_hold(short)
    }

    /// The entry of a key, checked whole.
    pub(super) fn find(&self, digest: &Digest) -> Result<Option<JournalEntry>> {
        match self.find_short(digest.short())? {
            Some(entry) if entry.digest != *digest => Err(corrupt("holds another key's entry")),
            found => Ok(found),
        }
    }

    pub(super) fn find_short(&self, short: u128) -> Result<Option<JournalEntry>> {
        let prefix = block::prefix(short);
        for at in block::candidates(&self.fences, prefix) {
            let mut cut = Vec::new();
            let found = self.with_block(at as u64, |block| {
                for begun in block.with_prefix(prefix) {
                    let begun = begun?;
                    if begun.bytes.len() < begun.length {
                        cut.push((begun.bytes.to_vec(), begun.length));
                        continue;
                    }
                    if let Some(entry) = self.check(begun.bytes, short)? {
                        return Ok(Some(entry));
                    }
                }
                Ok(None)
            })?;
            if found.is_some() {
                return Ok(found);
            }
            for (bytes, length) in cut {
                let whole = self.complete(at as u64, bytes, length)?;
                if let Some(entry) = self.check(&whole, short)? {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// Refuses a segment that was just written and in which these keys' entries aren't found.
    pub(super) fn check_holds(&self, shorts: impl IntoIterator<Item = u128>) -> Result<()> {
        for short in shorts {
            if self.may_hold(short) && self.has(short)? {
                continue;
            }
            return Err(Error::new(
                ErrorKind::Io,
                "a segment that was just sealed lacks an entry; what it was made of is kept",
            ));
        }
        Ok(())
    }

    /// Whether an entry of the key is here, damaged or not.
    fn has(&self, short: u128) -> Result<bool> {
        match self.find_short(short) {
            // No entry of another key is looked at, unless half of its digest is the same.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(true),
            found => Ok(found?.is_some()),
        }
    }

    /// The entry in these bytes, unless it is of another key with the same prefix.
    fn check(&self, bytes: &[u8], short: u128) -> Result<Option<JournalEntry>> {
        let entry = codec::decode(bytes)?;
        self.check_sequence(entry.heading.sequence)?;
        let found = entry.digest.short();
        if block::prefix(found) != block::prefix(short) {
            return Err(corrupt("lists an entry as another one"));
        }
        Ok((found == short).then_some(entry))
    }

    /// Refuses an entry with this sequence if it can't be one of the segment's.
    pub(super) fn check_sequence(&self, sequence: u64) -> Result<()> {
        let first = self.header.segment.first_sequence;
        if (first..=self.header.held.last_sequence).contains(&sequence) {
            return Ok(());
        }
        Err(corrupt("holds an entry of another segment"))
    }

    /// The whole bytes of an entry that begins in the block `at` with `bytes` and ends in a later one.
    fn complete(&self, at: u64, mut bytes: Vec<u8>, length: usize) -> Result<Vec<u8>> {
        let mut next = at + 1;
        while bytes.len() < length {
            self.with_block(next, |block| {
                let more = block.continuation(length - bytes.len());
                if more.is_empty() {
                    return Err(corrupt("lacks the end of an entry"));
                }
                bytes.extend_from_slice(more);
                Ok(())
            })?;
            next += 1;
        }
        Ok(bytes)
    }

    fn with_block<T>(&self, at: u64, work: impl FnOnce(Block<'_>) -> Result<T>) -> Result<T> {
        // Worked on inside the call: the bytes are a view of redb's page.
        let result = self.call(|| {
            let row = self.blocks.get(at)?;
            Ok(row.map(|row| Block::parse(at, row.value()).and_then(work)))
        })?;
        result.unwrap_or_else(|| Err(corrupt("lacks a block")))
    }

    fn call<T>(&self, call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T> {
        self.edge.call(WHAT, call)
    }

    /// Whether the file has to be opened anew.
    pub(super) fn is_stale(&self) -> bool {
        self.edge.is_stale()
    }

    pub(super) fn blocks(&self) -> u64 {
        self.header.blocks
    }

    /// The entries that begin in a block, each checked whole or an error of its own.
    pub(super) fn entries_of(&self, at: u64) -> Result<Vec<Result<JournalEntry>>> {
        let entries = self.bytes_of(at)?.into_iter();
        Ok(entries.map(|bytes| codec::decode(&bytes?)).collect())
    }

    /// The bytes of the entries that begin in a block.
    pub(super) fn bytes_of(&self, at: u64) -> Result<Vec<Result<Vec<u8>>>> {
        let begun: Vec<Result<(Vec<u8>, usize)>> = self.with_block(at, |block| {
            let copied = |begun: Begun<'_>| (begun.bytes.to_vec(), begun.length);
            Ok(block.entries().map(|begun| begun.map(copied)).collect())
        })?;
        let complete = |begun: Result<(Vec<u8>, usize)>| {
            let (bytes, length) = begun?;
            self.complete(at, bytes, length)
        };
        Ok(begun.into_iter().map(complete).collect())
    }

    /// The attempts that were in flight when the segment was sealed.
    pub(super) fn attempts(&self) -> Result<Vec<SealedAttempt>> {
        let bytes = self.call(|| blob::read(&self.runs, Run::Attempts))?;
        let bytes = blob::sound(bytes, "a sealed segment's list of attempts")?;
        let (rows, _) = bytes.as_chunks::<ATTEMPT_BYTES>();
        Ok(rows.iter().map(SealedAttempt::from_bytes).collect())
    }

    /// The whole entry of one of the attempts.
    pub(super) fn attempt(&self, attempt: &SealedAttempt) -> Result<JournalEntry> {
        let entry = self.find_short(attempt.short)?;
        entry.ok_or_else(|| corrupt("lacks an attempt that it lists"))
    }

    pub(super) fn keys(&self) -> u64 {
        self.header.keys
    }

    /// When the last of its records is over. What isn't one of the listed attempts counts as an
    /// answer.
    pub(super) fn ends(&self) -> Ends {
        let header = &self.header;
        Ends::new(
            Timestamp(header.answers_end_ms),
            Timestamp(header.attempts_end_ms),
        )
    }

    /// What the filter and the fences take in memory.
    pub(super) fn index_bytes(&self) -> u64 {
        (self.filter.size_bytes() + self.fences.len() * 8) as u64
    }

    /// How many bytes of the disk it takes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Its share of the page caches.
    pub(super) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    pub(super) fn page_cache_bytes(&self) -> u64 {
        self.file.cache_stats().used_bytes() as u64
    }

    /// Closes the file and reports what stands in the way of that.
    pub(super) fn close(self) -> Result<()> {
        drop((self.blocks, self.runs));
        redb_call(WHAT, || Ok(self.file.into_inner().close()?))
    }
}

/// What there is in a sealed segment's file.
struct Opened {
    file: Owned<ReadOnlyDatabase>,
    header: Vec<u8>,
    blocks: ReadOnlyTable<u64, &'static [u8]>,
    runs: ReadOnlyTable<u64, &'static [u8]>,
}

impl Opened {
    fn open(name: &Name, cache_bytes: usize) -> Result<Self> {
        redb_call(WHAT, || {
            let file = Database::builder()
                .set_cache_size(cache_bytes)
                .open_read_only_with_backend(data_file(name.open_to_read()?, name)?)?;
            let transaction = file.begin_read()?;
            let header = transaction.open_table(HEADER)?.get(())?;
            let header = header.map(|row| row.value().to_vec()).unwrap_or_default();
            let blocks = transaction.open_table(BLOCKS)?;
            let runs = transaction.open_table(RUNS)?;
            Ok(Self {
                file: Owned::new(file),
                header,
                blocks,
                runs,
            })
        })
    }
}

impl SealedAttempt {
    pub(super) fn to_bytes(self) -> [u8; ATTEMPT_BYTES] {
        let mut bytes = [0; ATTEMPT_BYTES];
        bytes[..16].copy_from_slice(&self.short.to_le_bytes());
        bytes[16..].copy_from_slice(&self.lease_until.0.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ATTEMPT_BYTES]) -> Self {
        let mut words = words(bytes);
        let mut next = || words.next().expect("there are three words");
        let short = u128::from(next()) | u128::from(next()) << 64;
        Self {
            short,
            lease_until: Timestamp(next()),
        }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes
        .as_chunks::<8>()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word))
}

fn corrupt(problem: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("a sealed segment {problem}; restore the folder from a backup"),
    )
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed")
            .field("id", &self.header.segment.id)
            .field("keys", &self.header.keys)
            .finish_non_exhaustive()
    }
}
/// How many bytes of the disk a file takes, holes left out where the system tells.
fn taken_by(name: &Name) -> Result<u64> {
    let found = name
        .look()
        .and_then(|found| found.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let found = found.map_err(|error| io_error("a sealed segment can't be looked at", error))?;
    Ok(found.taken_bytes)
}
