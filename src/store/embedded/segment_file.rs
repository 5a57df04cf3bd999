//! What the files of segments are called.

use super::folder::UNFINISHED;
use super::tally::SegmentHeader;

const JOURNAL_PREFIX: &str = "segment-";
const SEALED_PREFIX: &str = "sealed-";
const LOG_SUFFIX: &str = ".log";
const SEALED_SUFFIX: &str = ".redb";

/// The file of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentFile {
    pub(super) id: u64,
    /// The lowest number of the segments that were merged into it; its own if none was.
    pub(super) first_id: u64,
    pub(super) kind: FileKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    Journal,
    /// One that was being made when the process ended.
    UnfinishedJournal,
    Sealed,
    /// One that was being written when the process ended.
    UnfinishedSealed,
}

impl FileKind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Journal | Self::UnfinishedJournal => LOG_SUFFIX,
            Self::Sealed | Self::UnfinishedSealed => SEALED_SUFFIX,
        }
    }
}

impl SegmentFile {
    /// The file of this name, if it is one of a segment.
    pub(super) fn of(name: &str) -> Option<Self> {
        let (name, is_unfinished) = match name.strip_suffix(UNFINISHED) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (kind, rest) = match (name.strip_prefix(SEALED_PREFIX), is_unfinished) {
            (Some(rest), true) => (FileKind::UnfinishedSealed, rest),
            (Some(rest), false) => (FileKind::Sealed, rest),
            (None, true) => (
                FileKind::UnfinishedJournal,
                name.strip_prefix(JOURNAL_PREFIX)?,
            ),
            (None, false) => (FileKind::Journal, name.strip_prefix(JOURNAL_PREFIX)?),
        };
        let numbers = rest.strip_suffix(kind.suffix())?;
        let (first_id, id) = match numbers.split_once('-') {
            Some(_) if kind.suffix() == LOG_SUFFIX => return None,
            Some((first_id, id)) => (first_id.parse().ok()?, id.parse().ok()?),
            None => {
                let id = numbers.parse().ok()?;
                (id, id)
            }
        };
        (first_id <= id).then_some(Self { id, first_id, kind })
    }

    pub(super) fn journal(id: u64) -> Self {
        Self {
            id,
            first_id: id,
            kind: FileKind::Journal,
        }
    }

    pub(super) fn sealed(header: &SegmentHeader) -> Self {
        Self {
            id: header.id,
            first_id: header.first_id,
            kind: FileKind::Sealed,
        }
    }

    pub(super) fn name(self) -> String {
        let Self { id, first_id, kind } = self;
        let suffix = kind.suffix();
        let (prefix, ending) = match kind {
            FileKind::Journal => (JOURNAL_PREFIX, ""),
            FileKind::UnfinishedJournal => (JOURNAL_PREFIX, UNFINISHED),
            FileKind::Sealed => (SEALED_PREFIX, ""),
            FileKind::UnfinishedSealed => (SEALED_PREFIX, UNFINISHED),
        };
        if first_id == id {
            return format!("{prefix}{id:010}{suffix}{ending}");
        }
        format!("{prefix}{first_id:010}-{id:010}{suffix}{ending}")
    }
}
