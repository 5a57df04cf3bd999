//! What the fuzz targets read of the store's files beside entries.

use std::path::Path;

use super::block;
use super::files::directory::{Directory, Name};
use super::log::{FrameBuffer, Log, Seed, Step};
use super::manifest::ManifestState;
use super::scopes::{self, Counted, ScopeCounts};
use crate::codec;
use crate::error::{Error, ErrorKind, Result};

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

/// The log of a segment in a folder.
#[derive(Debug)]
pub struct LogFile(Name);

/// What a walk through a log meets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Sequences and bytes.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// How often no whole frame stood where one should.
    pub damages: usize,
    /// Whether the file is shorter than it was.
    pub is_cut_short: bool,
}

impl LogFile {
    const SEED: Seed = Seed(0x5EED);

    /// In this folder, which has no such file yet.
    pub fn within(folder: &Path) -> Result<Self> {
        let directory = Directory::open(folder);
        let directory = directory.map_err(|error| {
            Error::with_source(ErrorKind::Io, "the folder can't be opened", error)
        })?;
        Ok(Self(directory.name("log")))
    }

    /// Writes frames of such entries, numbered from 1 on; gives the file's number and where each frame begins.
    pub fn write(&self, frames: &[Vec<Vec<u8>>]) -> Result<(u64, Vec<u64>)> {
        let mut writer = Log::create(&self.0, Self::SEED, 1 << 15)?;
        let (mut sequence, mut begins) = (1, Vec::new());
        for entries in frames {
            let mut frame = FrameBuffer::default();
            for entry in entries {
                frame.push(|out| {
                    out.extend_from_slice(entry);
                    Ok(())
                })?;
            }
            begins.push(writer.end());
            writer.append(&mut frame, sequence)?;
            sequence += entries.len() as u64;
        }
        Ok((writer.log().number(), begins))
    }

    /// Reads the file from its beginning, whatever is in it.
    pub fn walk(&self, number: u64) -> Result<Walked> {
        let log = Log::open(&self.0, Self::SEED, number, true)?;
        let (mut walk, mut found) = (log.walk()?, Walked::default());
        loop {
            match walk.next()? {
                Step::Frame(frame) => {
                    for entry in frame.entries() {
                        let (sequence, _, bytes) = entry?;
                        found.entries.push((sequence, bytes.to_vec()));
                    }
                }
                Step::Damage(_) => found.damages += 1,
                Step::End => break,
            }
        }
        found.is_cut_short = walk.cut_off().is_some();
        Ok(found)
    }
}
