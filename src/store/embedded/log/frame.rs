//! The bytes of a frame: a header, and entries, each after its length.

use std::fmt;
use std::ops::Range;

use twox_hash::XxHash3_64;

use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};

/// Where a frame may begin: at a multiple of this, so that no write touches what was acknowledged before.
pub(in super::super) const BLOCK_BYTES: usize = 4_096;
/// Nothing that is zeros begins like this.
const MAGIC: [u8; 8] = *b"1WARDlog";
pub(super) const HEADER_BYTES: usize = 56;
const LENGTH_BYTES: usize = 4;

/// What the checksums of one segment's log begin with: nobody who doesn't know the store's secret can make a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Seed(pub(in super::super) u64);

impl Seed {
    /// A checksum of bytes that only count at this offset.
    fn checksum(self, offset: u64, bytes: &[u8]) -> u64 {
        // Odd, so that no bit of the offset is multiplied away.
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        let place = if mutant::is_on(Mutant::FrameAnywhere) {
            0
        } else {
            offset.wrapping_mul(SPREAD)
        };
        let secret = if mutant::is_on(Mutant::FrameOfAnybody) {
            0
        } else {
            self.0
        };
        XxHash3_64::oneshot_with_seed(secret ^ place, bytes)
    }

    /// The seed of a file's frames: another for each file, whatever it is called.
    pub(super) fn of_file(self, number: u64) -> Self {
        if mutant::is_on(Mutant::FrameOfEarlierFile) {
            return self;
        }
        Self(self.checksum(u64::MAX, &number.to_le_bytes()))
    }

    /// What the first frame has in place of the checksum of the one before.
    pub(super) fn before_first(self) -> u64 {
        self.checksum(0, &MAGIC)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

/// Where an entry's bytes stand in the log: the offset, and below it the length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Span(u64);

/// An entry has less than 128 MiB, and a log less than 128 GiB: its segment rolls after 64 at the latest.
const SPAN_LENGTH_BITS: u32 = 27;
pub(in super::super) const MOST_LOG_BYTES: u64 = 1 << (64 - SPAN_LENGTH_BITS);

impl Span {
    pub(in super::super) fn new(offset: u64, length: usize) -> Self {
        let is_short = length < 1 << SPAN_LENGTH_BITS;
        debug_assert!(is_short && offset < MOST_LOG_BYTES, "{length} at {offset}");
        Self(offset << SPAN_LENGTH_BITS | length as u64)
    }

    pub(in super::super) fn offset(self) -> u64 {
        self.0 >> SPAN_LENGTH_BITS
    }

    pub(in super::super) fn end(self) -> u64 {
        self.offset() + self.length() as u64
    }

    #[allow(clippy::cast_possible_truncation)] // It is below 128 MiB.
    pub(in super::super) fn length(self) -> usize {
        (self.0 & ((1 << SPAN_LENGTH_BITS) - 1)) as usize
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {}", self.length(), self.offset())
    }
}

/// The header of a frame that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The header's own, which covers the one of the entries: the next frame has it again.
    pub(super) checksum: u64,
    entries_checksum: u64,
    pub(super) previous: u64,
    pub(super) first_sequence: u64,
    /// How long the file is at least, for sure: no torn write shortens it.
    pub(super) file_length: u64,
    /// Of header and entries.
    pub(super) length: usize,
    pub(super) count: u32,
}

impl Header {
    /// The header that begins these bytes, which stand at this offset; `None` if they begin with none.
    pub(super) fn read(bytes: &[u8], seed: Seed, offset: u64) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        if !begins_like_one(header) {
            return None;
        }
        let word = |at: usize| Some(u64::from_le_bytes(*header[at..].first_chunk()?));
        let half = |at: usize| Some(u32::from_le_bytes(*header[at..].first_chunk()?));
        let found = Self {
            checksum: word(8)?,
            entries_checksum: word(16)?,
            previous: word(24)?,
            first_sequence: word(32)?,
            file_length: word(40)?,
            length: usize::try_from(half(48)?).ok()?,
            count: half(52)?,
        };
        let is_sound = found.checksum == seed.checksum(offset, &header[16..]);
        (is_sound && found.length >= HEADER_BYTES).then_some(found)
    }

    /// Whether these are the entries of the frame.
    pub(super) fn has(&self, entries: &[u8], seed: Seed, offset: u64) -> bool {
        self.entries_checksum == seed.checksum(offset, entries)
    }

    /// How much of the file the frame takes.
    pub(super) fn taken(&self) -> u64 {
        self.length.next_multiple_of(BLOCK_BYTES) as u64
    }
}

/// The number in the place of a sequence, whatever else is there.
pub(super) fn number_in(header: &[u8; HEADER_BYTES]) -> u64 {
    let word = header[32..].first_chunk();
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

/// Whether a block may begin a frame; to be asked before anything is computed.
pub(super) fn begins_like_one(block: &[u8]) -> bool {
    block.first_chunk() == Some(&MAGIC)
}

/// The entries of a whole frame.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Frame<'a> {
    pub(super) header: Header,
    pub(super) offset: u64,
    pub(super) entries: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The sequence of its first entry, or of the first in the next frame that has some. The first
    /// frame of a file has something else there.
    pub(in super::super) fn first_sequence(&self) -> u64 {
        self.header.first_sequence
    }

    /// The entries, each with its sequence and its place.
    pub(in super::super) fn entries(
        &self,
    ) -> impl Iterator<Item = Result<(u64, Span, &'a [u8])>> + use<'a> {
        let (mut rest, mut left) = (self.entries, self.header.count);
        let mut sequence = self.header.first_sequence;
        let mut offset = self.offset + HEADER_BYTES as u64;
        std::iter::from_fn(move || {
            if left == 0 {
                return (!std::mem::take(&mut rest).is_empty()).then(|| Err(malformed()));
            }
            left -= 1;
            let length = rest.first_chunk::<LENGTH_BYTES>();
            let length = length.and_then(|bytes| usize::try_from(u32::from_le_bytes(*bytes)).ok());
            let length = length.filter(|length| *length < 1 << SPAN_LENGTH_BITS);
            let entry = length.and_then(|length| {
                let entry = rest.get(LENGTH_BYTES..LENGTH_BYTES + length)?;
                Some((length, entry))
            });
            let Some((length, entry)) = entry else {
                (rest, left) = (&[], 0);
                return Some(Err(malformed()));
            };
            let at = offset + LENGTH_BYTES as u64;
            let found = (sequence, Span::new(at, length), entry);
            rest = &rest[LENGTH_BYTES + length..];
            offset = at + length as u64;
            sequence += 1;
            Some(Ok(found))
        })
    }
}

fn malformed() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "a frame of the log has other entries than it says; restore the folder from a backup",
    )
}

/// What a frame says of what came before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) checksum: u64,
    pub(super) file_length: u64,
}

/// A frame that is being made, kept and reused.
#[derive(Debug)]
pub(in super::super) struct FrameBuffer {
    bytes: Vec<u8>,
    /// Where the frame begins in these: at a block of the memory, from where a disk takes it
    /// without a copy.
    start: usize,
    /// Counted from there.
    entries: Vec<Range<usize>>,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        let mut empty = Self {
            bytes: Vec::with_capacity(2 * BLOCK_BYTES),
            start: 0,
            entries: Vec::new(),
        };
        empty.clear();
        empty
    }
}

impl FrameBuffer {
    pub(in super::super) fn clear(&mut self) {
        self.start = self.first_block();
        self.bytes.clear();
        self.bytes.resize(self.start + HEADER_BYTES, 0);
        self.entries.clear();
    }

    /// Where in the buffer a block of the memory begins.
    fn first_block(&self) -> usize {
        let at = self.bytes.as_ptr().align_offset(BLOCK_BYTES);
        // Where that can't be said, the disk is written to in another way.
        if at < BLOCK_BYTES { at } else { 0 }
    }

    /// Fills the frame up with zeros to whole blocks, and moves it to where one begins, if the
    /// buffer has grown.
    fn fill_up(&mut self) -> &[u8] {
        let taken = self.bytes().next_multiple_of(BLOCK_BYTES);
        self.bytes.resize(self.start + taken, 0);
        if self.start != self.first_block() {
            self.bytes.reserve(BLOCK_BYTES);
            let (from, to) = (self.start, self.first_block());
            self.bytes.resize(from.max(to) + taken, 0);
            self.bytes.copy_within(from..from + taken, to);
            self.start = to;
        }
        &self.bytes[self.start..self.start + taken]
    }

    /// Adds what is encoded as one entry. On an error nothing is added.
    pub(in super::super) fn push(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        let begin = self.bytes.len();
        let encoded = encode(&mut self.bytes).and_then(|()| {
            let length = self.bytes.len() - begin;
            let length = u32::try_from(length)
                .ok()
                .filter(|_| length < 1 << SPAN_LENGTH_BITS);
            let length = length.ok_or_else(too_long)?;
            self.bytes[before..begin].copy_from_slice(&length.to_le_bytes());
            Ok(())
        });
        if encoded.is_err() {
            self.bytes.truncate(before);
            return encoded;
        }
        self.entries
            .push(begin - self.start..self.bytes.len() - self.start);
        Ok(())
    }

    /// How many bytes the frame has so far.
    pub(in super::super) fn bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Where the entries will stand, in their order, if the frame is written at this offset.
    pub(in super::super) fn spans(&self, offset: u64) -> impl Iterator<Item = Span> + '_ {
        let span = move |range: &Range<usize>| Span::new(offset + range.start as u64, range.len());
        self.entries.iter().map(span)
    }

    /// The bytes to write at this offset, up to the end of a block, and the checksum that the next frame needs.
    pub(super) fn finish(
        &mut self,
        seed: Seed,
        offset: u64,
        before: Before,
        first_sequence: u64,
    ) -> Result<(&[u8], u64)> {
        let length = self.bytes();
        let frame = &mut self.bytes[self.start..];
        let entries_checksum = seed.checksum(offset, &frame[HEADER_BYTES..]);
        let (length_half, count) = (u32::try_from(length), u32::try_from(self.entries.len()));
        let (Ok(length_half), Ok(count)) = (length_half, count) else {
            return Err(too_long());
        };
        let header = &mut frame[..HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[16..24].copy_from_slice(&entries_checksum.to_le_bytes());
        header[24..32].copy_from_slice(&before.checksum.to_le_bytes());
        header[32..40].copy_from_slice(&first_sequence.to_le_bytes());
        header[40..48].copy_from_slice(&before.file_length.to_le_bytes());
        header[48..52].copy_from_slice(&length_half.to_le_bytes());
        header[52..56].copy_from_slice(&count.to_le_bytes());
        let checksum = seed.checksum(offset, &header[16..]);
        header[8..16].copy_from_slice(&checksum.to_le_bytes());
        Ok((self.fill_up(), checksum))
    }
}

fn too_long() -> Error {
    Error::new(
        ErrorKind::Encoding,
        "an entry of a log has less than 128 MiB, and a frame at most 4 GiB",
    )
}
