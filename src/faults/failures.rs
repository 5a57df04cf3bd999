//! Which calls of the system fail.

use std::collections::HashMap;
use std::io;

use super::recorder::FileId;

/// What is to fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failures {
    /// Nothing.
    #[default]
    None,
    /// So many calls, from this one on: reads, writes, lengths, syncs, creations, renames and removals.
    Calls {
        /// How many go through before.
        after: usize,
        /// How many fail.
        count: usize,
    },
    /// The syncs of files, from now on.
    Syncs,
    /// Whatever needs more room than is taken after so many calls.
    NoRoom {
        /// How many go through before.
        after: usize,
    },
}

/// What is asked of the system.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked {
    /// A write that ends there.
    Write(FileId, u64),
    /// A sync of a file.
    Sync,
    Other,
}

/// Counts calls, and says which of them fail.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    which: Failures,
    calls: usize,
    failed: usize,
    /// Up to where each file has room.
    room: HashMap<FileId, u64>,
}

impl Failing {
    pub(crate) fn new(which: Failures) -> Self {
        Self {
            which,
            ..Self::default()
        }
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.calls, self.failed)
    }

    pub(crate) fn ask(&mut self, asked: &Asked) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        let kind = match self.which {
            Failures::Calls { after, count }
                if (after..after.saturating_add(count)).contains(&number) =>
            {
                Some(io::ErrorKind::Other)
            }
            Failures::Syncs if matches!(asked, Asked::Sync) => Some(io::ErrorKind::Other),
            Failures::NoRoom { after } if number >= after && !self.has_room(asked) => {
                Some(io::ErrorKind::StorageFull)
            }
            _ => None,
        };
        if let Some(kind) = kind {
            self.failed += 1;
            return Err(kind.into());
        }
        if let Asked::Write(id, end) = asked {
            let room = self.room.entry(*id).or_default();
            *room = (*end).max(*room);
        }
        Ok(())
    }

    fn has_room(&self, asked: &Asked) -> bool {
        match asked {
            Asked::Write(id, end) => self.room.get(id).is_some_and(|room| end <= room),
            Asked::Sync | Asked::Other => true,
        }
    }
}
