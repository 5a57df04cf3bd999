//! A sealed segment, read from end to end as one of those that are merged.

use super::sealed::Sealed;
use crate::codec::{self, Outline};
use crate::error::{Error, ErrorKind, Result};

/// One of the segments, and how far it was read.
pub(super) struct Input {
    sealed: Sealed,
    next_block: u64,
    /// What was read and not looked at yet.
    entries: std::vec::IntoIter<Result<Vec<u8>>>,
    next: Option<InputEntry>,
    has_failed: bool,
}

/// An entry as it stands in its segment.
pub(super) struct InputEntry {
    pub(super) short: u128,
    pub(super) outline: Outline,
    pub(super) bytes: Vec<u8>,
}

impl Input {
    pub(super) fn new(sealed: Sealed) -> Result<Self> {
        let mut input = Self {
            sealed,
            next_block: 0,
            entries: Vec::new().into_iter(),
            next: None,
            has_failed: false,
        };
        input.advance()?;
        Ok(input)
    }

    pub(super) fn id(&self) -> u64 {
        self.sealed.tally.id()
    }

    /// Whether something in it couldn't be read, or not as what it should be.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Gives the next entry, and reads the one after it.
    fn take(&mut self) -> Result<Option<InputEntry>> {
        let taken = self.next.take();
        if let Some(taken) = &taken {
            self.advance()?;
            let is_in_order = |next: &InputEntry| next.short > taken.short;
            if !self.next.as_ref().is_none_or(is_in_order) {
                self.has_failed = true;
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "a sealed segment's entries are out of order; restore the folder from a backup",
                ));
            }
        }
        Ok(taken)
    }

    fn advance(&mut self) -> Result<()> {
        let next = self.read();
        self.has_failed = next.is_err();
        self.next = next?;
        Ok(())
    }

    fn read(&mut self) -> Result<Option<InputEntry>> {
        loop {
            if let Some(bytes) = self.entries.next() {
                let bytes = bytes?;
                let outline = codec::outline(&bytes)?;
                let short = outline.digest.short();
                self.sealed.check_sequence(outline.heading.sequence)?;
                return Ok(Some(InputEntry {
                    short,
                    outline,
                    bytes,
                }));
            }
            if self.next_block == self.sealed.blocks() {
                return Ok(None);
            }
            self.entries = self.sealed.bytes_of(self.next_block)?.into_iter();
            self.next_block += 1;
        }
    }
}

/// The newest entry of the lowest key that none of the inputs, oldest first, has given yet.
pub(super) fn newest_of_next_key(inputs: &mut [Input]) -> Result<Option<InputEntry>> {
    let shorts = inputs
        .iter()
        .filter_map(|input| Some(input.next.as_ref()?.short));
    let Some(lowest) = shorts.min() else {
        return Ok(None);
    };
    let mut newest = None;
    for input in inputs {
        if input.next.as_ref().is_some_and(|next| next.short == lowest) {
            newest = input.take()?;
        }
    }
    Ok(newest)
}
