//! How a sealed segment's entries lie in blocks of one size.
//!
//! The entries form one run of bytes, in the order of their digests, which is cut into blocks: an entry
//! may begin in one and end in another, so that no block is left half empty whatever the entries' sizes.
//! Each block begins with a list of the entries that begin in it:
//!
//! ```text
//! 8 bytes   checksum of the block's number and the list
//! 2 bytes   how many entries begin here
//! 14 bytes  for each: the upper half of its short digest (8), its length (4), where in the rest it begins (2)
//! …         the rest: what is left of an earlier entry, then the entries
//! ```
//!
//! The list has a checksum, because a key that it doesn't name is absent; the entries have their own. A block fills two of redb's pages to the byte.

use crate::codec;
use crate::error::{Error, ErrorKind, Result};

/// A row's value that makes a leaf of two pages: redb adds 4 bytes for the page, 4 for the value's end and
/// 8 for the key.
pub(super) const BLOCK_BYTES: usize = 2 * 4_096 - 16;
const CHECKSUM_BYTES: usize = 8;
const COUNT_BYTES: usize = 2;
const ROW_BYTES: usize = 14;
/// An entry doesn't begin in less room than this.
const LEAST_ROOM: usize = ROW_BYTES + 64;

/// The half of a short digest that blocks are ordered and searched by.
pub(super) fn prefix(short: u128) -> u64 {
    (short >> 64) as u64
}

/// Cuts entries into blocks.
#[derive(Debug, Default)]
pub(super) struct Packer {
    rows: Vec<u8>,
    rest: Vec<u8>,
    /// The prefix of the first entry that begins here, or of the one that goes on into this block.
    fence: u64,
    /// How many blocks were finished.
    number: u64,
}

/// A full block, and the least prefix that may be found in it.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) fence: u64,
    pub(super) bytes: Vec<u8>,
}

impl Packer {
    /// Adds an entry, whose prefix must not be lower than the last one's, and gives each block that is
    /// full to `full`.
    pub(super) fn push(
        &mut self,
        prefix: u64,
        mut entry: &[u8],
        mut full: impl FnMut(Packed) -> Result<()>,
    ) -> Result<()> {
        if self.room() < LEAST_ROOM {
            full(self.finish(prefix))?;
        }
        if self.rows.is_empty() && self.rest.is_empty() {
            self.fence = prefix;
        }
        let length = u32::try_from(entry.len()).map_err(|_| too_long())?;
        let begins_at = u16::try_from(self.rest.len()).map_err(|_| too_long())?;
        self.rows.extend_from_slice(&prefix.to_le_bytes());
        self.rows.extend_from_slice(&length.to_le_bytes());
        self.rows.extend_from_slice(&begins_at.to_le_bytes());
        loop {
            let (now, later) = entry.split_at(entry.len().min(self.room()));
            self.rest.extend_from_slice(now);
            if later.is_empty() {
                return Ok(());
            }
            full(self.finish(prefix))?;
            entry = later;
        }
    }

    /// The last block, unless it is empty.
    pub(super) fn last(mut self) -> Option<Packed> {
        (!self.rows.is_empty() || !self.rest.is_empty()).then(|| self.finish(0))
    }

    fn room(&self) -> usize {
        BLOCK_BYTES - CHECKSUM_BYTES - COUNT_BYTES - self.rows.len() - self.rest.len()
    }

    fn finish(&mut self, next_fence: u64) -> Packed {
        let count = u16::try_from(self.rows.len() / ROW_BYTES).unwrap_or(u16::MAX);
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        bytes.extend_from_slice(&[0; CHECKSUM_BYTES]);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.append(&mut self.rows);
        let checksum = codec::numbered_checksum(self.number, &bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum);
        bytes.append(&mut self.rest);
        self.number += 1;
        Packed {
            fence: std::mem::replace(&mut self.fence, next_fence),
            bytes,
        }
    }
}

/// A block that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    rows: &'a [[u8; ROW_BYTES]],
    rest: &'a [u8],
}

/// An entry that begins in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun<'a> {
    pub(super) prefix: u64,
    /// Its whole length, which may be more than what is here.
    pub(super) length: usize,
    /// As much of it as stands in this block.
    pub(super) bytes: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads the block with this number and checks its list.
    pub(super) fn parse(number: u64, bytes: &'a [u8]) -> Result<Self> {
        let parse = || {
            let (checksum, checked) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
            let (count, after) = checked.split_first_chunk::<COUNT_BYTES>()?;
            let count = usize::from(u16::from_le_bytes(*count));
            let (rows, rest) = after.split_at_checked(count * ROW_BYTES)?;
            let checked = &checked[..COUNT_BYTES + rows.len()];
            let is_sound = codec::numbered_checksum(number, checked) == *checksum;
            is_sound.then_some(Self {
                rows: rows.as_chunks().0,
                rest,
            })
        };
        parse().ok_or_else(damaged)
    }

    /// The entries that begin here.
    pub(super) fn entries(self) -> impl Iterator<Item = Result<Begun<'a>>> {
        self.rows.iter().map(move |row| self.begun(row))
    }

    /// The entries with this prefix that begin here; more than one only if two digests share it.
    pub(super) fn with_prefix(self, prefix: u64) -> impl Iterator<Item = Result<Begun<'a>>> {
        let wanted = prefix.to_le_bytes();
        self.rows
            .iter()
            .filter(move |row| row[..8] == wanted)
            .map(move |row| self.begun(row))
    }

    /// How an entry that began in an earlier block goes on, at most `wanted` bytes of it.
    pub(super) fn continuation(self, wanted: usize) -> &'a [u8] {
        &self.rest[..wanted.min(self.rest.len())]
    }

    fn begun(self, row: &[u8; ROW_BYTES]) -> Result<Begun<'a>> {
        let [p0, p1, p2, p3, p4, p5, p6, p7, l0, l1, l2, l3, b0, b1] = *row;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let begins_at = usize::from(u16::from_le_bytes([b0, b1]));
        let from_there = self.rest.get(begins_at..).ok_or_else(damaged)?;
        Ok(Begun {
            prefix: u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            length,
            bytes: &from_there[..length.min(from_there.len())],
        })
    }
}

/// The blocks that entries with a prefix may begin in, by the blocks' fences: the one before the first
/// fence that isn't lower, and all whose fence it is.
pub(super) fn candidates(fences: &[u64], prefix: u64) -> std::ops::Range<usize> {
    let first = fences.partition_point(|fence| *fence < prefix);
    let same = fences[first..].iter().take_while(|fence| **fence == prefix);
    first.saturating_sub(1)..first + same.count()
}

fn damaged() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "a block of a sealed segment is damaged; restore the folder from a backup",
    )
}

fn too_long() -> Error {
    Error::new(ErrorKind::Encoding, "an entry is too long to be sealed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(entries: &[(u64, Vec<u8>)]) -> (Vec<u64>, Vec<Vec<u8>>) {
        let (mut fences, mut blocks) = (Vec::new(), Vec::new());
        let mut packer = Packer::default();
        let mut keep = |packed: Packed| {
            fences.push(packed.fence);
            blocks.push(packed.bytes);
            Ok(())
        };
        for (prefix, entry) in entries {
            packer.push(*prefix, entry, &mut keep).unwrap();
        }
        packer
            .last()
            .into_iter()
            .for_each(|last| keep(last).unwrap());
        (fences, blocks)
    }

    fn find(fences: &[u64], blocks: &[Vec<u8>], prefix: u64) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for at in candidates(fences, prefix) {
            let block = Block::parse(at as u64, &blocks[at]).unwrap();
            for begun in block.with_prefix(prefix) {
                let begun = begun.unwrap();
                let mut whole = begun.bytes.to_vec();
                let mut next = at + 1;
                while whole.len() < begun.length {
                    let block = Block::parse(next as u64, &blocks[next]).unwrap();
                    whole.extend_from_slice(block.continuation(begun.length - whole.len()));
                    next += 1;
                }
                found.push(whole);
            }
        }
        found
    }

    #[test]
    fn entries_of_all_sizes_are_found_whole() {
        for sizes in [
            vec![1_usize],
            vec![0; 3_000],
            vec![64; 3_000],
            vec![700; 300],
            vec![40, 100_000, 8_000, 8_160, 8_176, 8_177, 3, 1_000_000, 70],
        ] {
            let entries: Vec<(u64, Vec<u8>)> = sizes
                .iter()
                .zip(1_u64..)
                .map(|(size, at)| (at * 10 + 5, vec![at.to_le_bytes()[0]; *size]))
                .collect();
            let (fences, blocks) = pack(&entries);
            assert!(fences.is_sorted());
            for (prefix, entry) in &entries {
                assert_eq!(find(&fences, &blocks, *prefix), std::slice::from_ref(entry));
                assert!(find(&fences, &blocks, prefix + 1).is_empty());
                assert!(find(&fences, &blocks, prefix - 1).is_empty());
            }
            assert!(find(&fences, &blocks, 0).is_empty());
            assert!(find(&fences, &blocks, u64::MAX).is_empty());
        }
    }

    #[test]
    fn digests_that_share_a_prefix_are_all_found_though_they_fill_many_blocks() {
        for size in [100, 5_000, 20_000] {
            let mut entries = vec![(1, vec![0; size])];
            entries.extend((0..9).map(|at| (7, vec![at; size])));
            entries.push((9, vec![0; size]));
            let (fences, blocks) = pack(&entries);
            let expected: Vec<Vec<u8>> = (0..9).map(|at| vec![at; size]).collect();
            assert_eq!(find(&fences, &blocks, 7), expected);
        }
    }

    #[test]
    fn blocks_are_full_but_for_the_last() {
        let entries: Vec<(u64, Vec<u8>)> = (0..10_000).map(|at| (at, vec![1; 690])).collect();
        let (_, blocks) = pack(&entries);
        let (_, others) = blocks.split_last().unwrap();
        let used: usize = others.iter().map(Vec::len).sum();
        let room = others.len() * BLOCK_BYTES;
        assert!(used * 100 > room * 99, "{used} of {room}");
        assert!(others.iter().all(|block| block.len() <= BLOCK_BYTES));
    }

    #[test]
    fn a_flipped_bit_in_a_list_and_a_block_in_anothers_place_are_errors() {
        let entries: Vec<(u64, Vec<u8>)> = (0..9).map(|at| (at, vec![1; 600])).collect();
        let (_, blocks) = pack(&entries);
        let sound = &blocks[0];
        assert!(Block::parse(0, sound).is_ok());
        assert!(Block::parse(1, sound).is_err());
        for bit in 0..8 * (CHECKSUM_BYTES + COUNT_BYTES + 9 * ROW_BYTES) {
            let mut damaged = sound.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::parse(0, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..CHECKSUM_BYTES + COUNT_BYTES + 9 * ROW_BYTES {
            assert!(Block::parse(0, &sound[..length]).is_err());
        }
        // What is cut off after the list is missed by whoever reads the entries.
        let cut = &sound[..sound.len() - 5_000];
        let entries = Block::parse(0, cut).unwrap().entries();
        assert!(entries.last().unwrap().is_err());
    }
}
