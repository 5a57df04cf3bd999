//! What the files of segments are called.

use super::folder::UNFINISHED;
use super::tally::SegmentHeader;

const JOURNAL_PREFIX: &str = "segment-";
const SEALED_PREFIX: &str = "sealed-";
const SEGMENT_SUFFIX: &str = ".redb";

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
    Sealed,
    /// One that was being written when the process ended.
    UnfinishedSealed,
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
            (None, false) => (FileKind::Journal, name.strip_prefix(JOURNAL_PREFIX)?),
            (None, true) => return None,
        };
        let numbers = rest.strip_suffix(SEGMENT_SUFFIX)?;
        let (first_id, id) = match numbers.split_once('-') {
            Some(_) if kind == FileKind::Journal => return None,
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
        let (prefix, ending) = match kind {
            FileKind::Journal => (JOURNAL_PREFIX, ""),
            FileKind::Sealed => (SEALED_PREFIX, ""),
            FileKind::UnfinishedSealed => (SEALED_PREFIX, UNFINISHED),
        };
        if first_id == id {
            return format!("{prefix}{id:010}{SEGMENT_SUFFIX}{ending}");
        }
        format!("{prefix}{first_id:010}-{id:010}{SEGMENT_SUFFIX}{ending}")
    }
}
