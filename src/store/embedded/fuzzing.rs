//! What the fuzz targets read of the store's files beside entries.

use super::block;
use super::manifest::ManifestState;
use super::scopes::{self, Counted, ScopeCounts};
use crate::codec;
use crate::error::Result;

/// What the manifest says.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest(ManifestState);

impl Manifest {
    /// Reads the manifest's row.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        codec::decode_sealed(bytes, "the manifest").map(Self)
    }

    /// The bytes of the same row.
    pub fn encode(&self) -> Result<Vec<u8>> {
        codec::encode_sealed(&self.0)
    }
}

/// A block of a sealed segment.
#[derive(Debug)]
pub struct Block<'a>(block::Block<'a>);

impl<'a> Block<'a> {
    /// Reads the block with this number.
    pub fn parse(number: u64, bytes: &'a [u8]) -> Result<Self> {
        block::Block::parse(number, bytes).map(Self)
    }

    /// The prefixes of the entries that begin in the block, their lengths and what of them stands here.
    pub fn entries(&self) -> impl Iterator<Item = Result<(u64, usize, &'a [u8])>> {
        let entries = self.0.entries();
        entries.map(|begun| begun.map(|begun| (begun.prefix, begun.length, begun.bytes)))
    }

    /// How many entries with this prefix begin in the block.
    pub fn count_with_prefix(&self, prefix: u64) -> usize {
        self.0.with_prefix(prefix).count()
    }

    /// What goes on from an earlier block.
    pub fn continuation(&self, wanted: usize) -> &'a [u8] {
        self.0.continuation(wanted)
    }
}

/// The counts by scope.
#[derive(Debug)]
pub struct Scopes(ScopeCounts);

impl Scopes {
    /// Reads what was kept for the store with this number.
    pub fn decode(bytes: &[u8], store_id: [u8; 16]) -> Option<Self> {
        ScopeCounts::from_bytes(bytes, store_id).map(Self)
    }

    /// The bytes of the same counts.
    pub fn encode(&self, store_id: [u8; 16]) -> Vec<u8> {
        self.0.to_keep().to_bytes(store_id)
    }

    /// Fits them to segments that begin there, the later half of them journals, and lets the older half go.
    pub fn use_for(&mut self, firsts: &[u64]) {
        let middle = firsts.len() / 2;
        let listed = firsts.iter().enumerate();
        let listed: Vec<_> = listed.map(|(at, first)| (*first, at >= middle)).collect();
        self.0.fit(&listed);
        for (at, first) in firsts.iter().enumerate() {
            self.0.count(Counted {
                sequence: *first,
                scope: at as u64,
                prior: firsts.get(at / 2).copied(),
                is_live: at % 3 > 0,
            });
        }
        self.0.end_before(firsts.get(middle).copied().unwrap_or(0));
    }
}

/// Adds the checksum that makes bytes counts by scope.
pub fn checked_scopes(bytes: &[u8]) -> Vec<u8> {
    let checksum = codec::numbered_checksum(scopes::VERSION, bytes);
    [bytes, &checksum].concat()
}

/// Puts the checksum before a count and its list, which make it a block with this number.
pub fn checked_block(number: u64, count_and_list: &[u8]) -> Vec<u8> {
    let count = count_and_list
        .first_chunk()
        .map_or(0, |count| u16::from_le_bytes(*count));
    let end = count_and_list.len().min(2 + 14 * usize::from(count));
    let checksum = codec::numbered_checksum(number, &count_and_list[..end]);
    [&checksum, count_and_list].concat()
}
