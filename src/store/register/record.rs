//! Records as values.

use std::time::Duration;

use super::{Value, Version};
use crate::clock::Timestamp;
use crate::codec::{self, EntryState, Heading};
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::OnAbandon;
use crate::record::{Record, Stored};
use crate::secret::Digest;

/// How long a key that was freed keeps its last token, so that the next one is higher: longer than any request is under way.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What a value says of its key.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// `None` if the key is free.
    pub(super) stored: Option<Stored>,
    pub(super) token: u64,
}

/// A value to be, and when it ends.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) value: Value,
    pub(super) ends_at: Timestamp,
}

impl Held {
    pub(super) fn of(value: &Value, digest: &Digest) -> Result<Self> {
        let entry = codec::decode(&value.bytes)?;
        if entry.digest != *digest {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the store's server has another key's record under a key; restore it from a backup",
            ));
        }
        let token = match &entry.state {
            EntryState::Put { record, .. } => token_of(record),
            EntryState::Removed => entry.heading.sequence,
        };
        Ok(Self {
            stored: entry.into_stored(),
            token,
        })
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.stored.as_ref().map(|stored| &stored.record)
    }
}

impl New {
    /// Of a key with this record. One that may be held has no end.
    pub(super) fn put(
        stored: &Stored,
        version: Version,
        now: Timestamp,
        on_abandon: OnAbandon,
    ) -> Result<Self> {
        let token = token_of(&stored.record);
        let mut bytes = Vec::new();
        codec::encode_put(&mut bytes, heading(token, now), stored)?;
        let ends_at = match (&stored.record, on_abandon) {
            (Record::InFlight(_), OnAbandon::Hold) => Timestamp::NEVER,
            (record, _) => record.ends_at(),
        };
        Ok(Self::of(version, bytes, ends_at))
    }

    /// Of a key that was freed.
    pub(super) fn freed(
        digest: Digest,
        token: u64,
        version: Version,
        now: Timestamp,
    ) -> Result<Self> {
        let mut bytes = Vec::new();
        codec::encode_removal(&mut bytes, heading(token, now), digest)?;
        Ok(Self::of(version, bytes, now.plus(REMEMBERED)))
    }

    fn of(version: Version, bytes: Vec<u8>, ends_at: Timestamp) -> Self {
        let bytes = bytes.into();
        Self {
            value: Value { version, bytes },
            ends_at,
        }
    }
}

fn token_of(record: &Record) -> u64 {
    match record {
        Record::InFlight(attempt) => attempt.token,
        Record::Completed(completed) => completed.token,
    }
}

fn heading(token: u64, now: Timestamp) -> Heading {
    Heading {
        sequence: token,
        written_at: now,
        prior: None,
    }
}
