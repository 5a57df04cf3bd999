//! Writing a sealed segment's file.

use std::ops::Bound;

use redb::Database;

use super::blob::{self, Run};
use super::block::{self, Packed, Packer};
use super::ends::Ends;
use super::files::directory::Name;
use super::files::disk::data_file;
use super::files::edge::{Owned, redb_call};
use super::filter::Filter;
use super::folder::Folder;
use super::manifest::SegmentContent;
use super::sealed::{BLOCKS, HEADER, RUNS, SealedAttempt, SealedHeader, WHAT};
use super::tally::SegmentHeader;
use crate::codec;
use crate::error::Result;

/// How many bytes of blocks go to the disk at a time. While they do, the journal's commits wait for the
/// disk, and each caller is held up once: many small commits would hold up more of them than few larger ones.
const COMMIT_BYTES: usize = 4 << 20;

/// Writes a sealed segment. Until [`finish`](SealedWriter::finish) has returned, the file is worth nothing.
pub(super) struct SealedWriter {
    file: Owned<Database>,
    packer: Packer,
    filter: Filter,
    fences: Vec<u64>,
    /// Blocks that are not written yet.
    packed: Vec<Packed>,
    attempts: Vec<SealedAttempt>,
    /// When what the segment holds is over; an attempt that isn't noted counts as an answer.
    pub(super) ends: Ends,
    keys: u64,
}

impl SealedWriter {
    /// Begins a file for at most so many keys.
    pub(super) fn create(name: &Name, keys: usize, cache_bytes: usize) -> Result<Self> {
        let file = Folder::create_file(name)?;
        let file = redb_call(WHAT, || {
            let database = Database::builder()
                .set_cache_size(cache_bytes)
                .create_with_backend(data_file(file, name)?)?;
            Ok(Owned::new(database))
        })?;
        Ok(Self {
            file,
            packer: Packer::default(),
            filter: Filter::for_keys(keys),
            fences: Vec::new(),
            packed: Vec::new(),
            attempts: Vec::new(),
            ends: Ends::default(),
            keys: 0,
        })
    }

    /// Adds the newest entry of a key, in the order of the short digests. Now and then this waits for
    /// the disk.
    pub(super) fn push(&mut self, short: u128, entry: &[u8]) -> Result<()> {
        let packed = &mut self.packed;
        self.packer.push(block::prefix(short), entry, |block| {
            packed.push(block);
            Ok(())
        })?;
        self.filter.insert(short);
        self.keys += 1;
        if self.packed.len() * block::BLOCK_BYTES >= COMMIT_BYTES {
            self.write_blocks()?;
        }
        Ok(())
    }

    /// Notes that the entry that was just added is an attempt in flight.
    pub(super) fn note_attempt(&mut self, attempt: SealedAttempt) {
        self.attempts.push(attempt);
    }

    /// Forgets the attempts that have ended since.
    pub(super) fn retain_attempts(&mut self, is_in_flight: impl Fn(&SealedAttempt) -> bool) {
        self.attempts.retain(is_in_flight);
    }

    fn write_blocks(&mut self) -> Result<()> {
        let mut next = self.fences.len() as u64;
        redb_call(WHAT, || {
            let transaction = self.file.begin_write()?;
            {
                let mut table = transaction.open_table(BLOCKS)?;
                let mut end = table.upper_bound_mut(Bound::<u64>::Unbounded)?;
                for packed in &self.packed {
                    end.insert_before(next, &packed.bytes[..])?;
                    next += 1;
                }
                end.close()?;
            }
            transaction.commit()?;
            Ok(())
        })?;
        self.fences
            .extend(self.packed.drain(..).map(|packed| packed.fence));
        Ok(())
    }

    /// Ends the file and closes it: everything is on the disk, and no open has to repair it.
    pub(super) fn finish(mut self, segment: SegmentHeader, held: SegmentContent) -> Result<()> {
        let packer = std::mem::take(&mut self.packer);
        self.packed.extend(packer.last());
        self.write_blocks()?;
        let header = codec::encode_sealed(&SealedHeader {
            segment,
            held,
            keys: self.keys,
            blocks: self.fences.len() as u64,
            answers_end_ms: self.ends.answers().0,
            attempts_end_ms: self.ends.attempts().0,
        })?;
        let fences: Vec<u8> = self
            .fences
            .iter()
            .flat_map(|fence| fence.to_le_bytes())
            .collect();
        let attempts = self.attempts.iter().flat_map(|attempt| attempt.to_bytes());
        let attempts: Vec<u8> = attempts.collect();
        redb_call(WHAT, || {
            let transaction = self.file.begin_write()?;
            {
                let mut runs = transaction.open_table(RUNS)?;
                blob::write(&mut runs, Run::Filter, &self.filter.to_bytes())?;
                blob::write(&mut runs, Run::Fences, &fences)?;
                blob::write(&mut runs, Run::Attempts, &attempts)?;
                transaction.open_table(HEADER)?.insert((), &header[..])?;
            }
            transaction.commit()?;
            // Trims the file, too.
            self.file.into_inner().close()?;
            Ok(())
        })
    }
}
