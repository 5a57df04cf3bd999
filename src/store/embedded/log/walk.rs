//! Reading a log from its first frame to its end, and telling a torn end from damage.

use std::ops::Range;

use super::file::Log;
use super::frame::{BLOCK_BYTES, Frame, HEADER_BYTES, Header, begins_like_one};
use crate::error::Result;
use crate::mutant::{self, Mutant};

/// How much is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A walk through the frames of a log.
#[derive(Debug)]
pub(in super::super) struct Walk<'a> {
    log: &'a Log,
    /// Up to where there may be frames.
    limit: u64,
    at: u64,
    /// The checksum that the next frame has to name; `None` after damage.
    previous: Option<u64>,
    /// How long the file was when the last frame was written.
    file_length: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

/// What comes next in a log.
#[derive(Debug)]
pub(in super::super) enum Step<'a> {
    Frame(Frame<'a>),
    /// No whole frame stands here, and one does behind it: what was acknowledged is damaged.
    Damage(Range<u64>),
    /// No whole frame stands here, nor anywhere behind.
    End,
}

impl<'a> Walk<'a> {
    /// From the first frame on, up to a place in the file.
    pub(super) fn new(log: &'a Log, limit: u64) -> Self {
        Self {
            log,
            limit,
            at: 0,
            previous: Some(log.seed().before_first()),
            file_length: 0,
            chunk: Vec::new(),
            chunk_at: 0,
        }
    }

    /// Goes on where [`place`](Walk::place) was.
    pub(in super::super) fn go_on(mut self, (at, previous): (u64, Option<u64>)) -> Self {
        (self.at, self.previous) = (at, previous);
        self
    }

    /// How far it has come.
    pub(in super::super) fn place(&self) -> (u64, Option<u64>) {
        (self.at, self.previous)
    }

    pub(in super::super) fn at(&self) -> u64 {
        self.at
    }

    /// What the file lacks at its end, by what a frame says of its length, once all of it was
    /// walked through.
    pub(in super::super) fn cut_off(&self) -> Option<Range<u64>> {
        (self.limit < self.file_length).then_some(self.limit..self.file_length)
    }

    pub(in super::super) fn next(&mut self) -> Result<Step<'_>> {
        let offset = self.at;
        let header = self.whole_at(offset)?;
        let is_next = |header: &Header| self.previous.is_none_or(|sum| sum == header.previous);
        if let Some(header) = header.filter(is_next) {
            self.at = offset + header.taken();
            self.previous = Some(header.checksum);
            self.file_length = self.file_length.max(header.file_length);
            let bytes = self.bytes(offset, header.length)?.unwrap_or_default();
            let entries = &bytes[HEADER_BYTES..];
            return Ok(Step::Frame(Frame {
                header,
                offset,
                entries,
            }));
        }
        match self.next_whole()? {
            Some(whole) => {
                (self.at, self.previous) = (whole, None);
                Ok(Step::Damage(offset..whole))
            }
            None => Ok(Step::End),
        }
    }

    /// The first place from here on where a whole frame stands.
    fn next_whole(&mut self) -> Result<Option<u64>> {
        if mutant::is_on(Mutant::TailCutAtDamage) {
            return Ok(None);
        }
        for at in (self.at..self.limit).step_by(BLOCK_BYTES) {
            if self.whole_at(at)?.is_some() {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The header of the frame that stands here, if all of it does.
    fn whole_at(&mut self, at: u64) -> Result<Option<Header>> {
        let seed = self.log.seed();
        let Some(begin) = self.bytes(at, HEADER_BYTES)?.filter(|b| begins_like_one(b)) else {
            return Ok(None);
        };
        let Some(header) = Header::read(begin, seed, at) else {
            return Ok(None);
        };
        let bytes = self.bytes(at, header.length)?;
        let is_whole = bytes.is_some_and(|bytes| header.has(&bytes[HEADER_BYTES..], seed, at));
        Ok(is_whole.then_some(header))
    }

    /// So many bytes of the file; `None` if they go beyond the limit.
    fn bytes(&mut self, at: u64, length: usize) -> Result<Option<&[u8]>> {
        let Some(left) = self.limit.checked_sub(at) else {
            return Ok(None);
        };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if length > left {
            return Ok(None);
        }
        let is_there = |from: usize| from.saturating_add(length) <= self.chunk.len();
        let from = at.checked_sub(self.chunk_at);
        let from = from.and_then(|from| usize::try_from(from).ok());
        let known = from.filter(|from| is_there(*from));
        let from = known.unwrap_or(0);
        if known.is_none() {
            self.chunk.clear();
            self.chunk.resize(length.max(CHUNK_BYTES).min(left), 0);
            let read = self.log.read_at(at, &mut self.chunk);
            read.inspect_err(|_| self.chunk.clear())?;
            self.chunk_at = at;
        }
        Ok(Some(&self.chunk[from..from + length]))
    }
}
