//! What the fuzz targets reach inside the crate. Compiled with `--cfg fuzzing` only: nothing of it is in what users
//! build.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::codec::{self, EntryState, JournalEntry, OutlineState};
use crate::encryption::EncryptionKeys;
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::record::{CompletedRecord, Record, Stored};
use crate::reply::Reply;
use crate::secret::{Digest, Secret};
pub use crate::store::embedded::fuzzing::{
    Block, LogFile, Manifest, Scopes, Walked, checked_block, checked_scopes,
};

const KEY_NUMBER: u32 = 1;

/// A journal entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry(JournalEntry);

/// As much of a journal entry as an index reads.
#[derive(Debug)]
pub struct Outline(codec::Outline);

impl Entry {
    /// Reads an entry.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        codec::decode(bytes).map(Self)
    }

    /// The bytes of the same entry.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let JournalEntry {
            heading, digest, ..
        } = self.0;
        match &self.0.state {
            EntryState::Removed => codec::encode_removal(&mut out, heading, digest)?,
            EntryState::Put { key, record } => {
                let stored = Stored {
                    digest,
                    key: key.clone(),
                    record: record.clone(),
                };
                codec::encode_put(&mut out, heading, &stored)?;
            }
        }
        Ok(out)
    }

    /// The bytes of the same entry with its reply encrypted; `None` if it has none.
    pub fn encrypted(self) -> Result<Option<Vec<u8>>> {
        let JournalEntry {
            heading, digest, ..
        } = self.0;
        let EntryState::Put { key, record } = self.0.state else {
            return Ok(None);
        };
        let stored = Stored {
            digest,
            key,
            record,
        };
        let Some(encrypted) = codec::encrypted(&stored, &keys())? else {
            return Ok(None);
        };
        let mut out = Vec::new();
        codec::encode_put(&mut out, heading, &encrypted)?;
        Ok(Some(out))
    }

    /// The entry with its reply as it was before it was encrypted.
    pub fn decrypted(self) -> Result<Self> {
        let EntryState::Put { key, record } = self.0.state else {
            return Ok(self);
        };
        let stored = Stored {
            digest: self.0.digest,
            key,
            record,
        };
        let Stored { key, record, .. } = codec::decrypted(stored, Some(&keys()))?;
        Ok(Self(JournalEntry {
            state: EntryState::Put { key, record },
            ..self.0
        }))
    }

    /// Whether the reply is encrypted.
    pub fn is_encrypted(&self) -> bool {
        let EntryState::Put { record, .. } = &self.0.state else {
            return false;
        };
        matches!(record, Record::Completed(record) if record.reply.encrypted_with().is_some())
    }

    /// Whether an index was told the same.
    pub fn agrees_with(&self, outline: &Outline) -> bool {
        let state = match &self.0.state {
            EntryState::Removed => OutlineState::Removed,
            EntryState::Put { record, .. } => match record {
                Record::InFlight(attempt) => OutlineState::InFlight {
                    lease_until: attempt.lease_until,
                    ends_at: record.ends_at(),
                },
                Record::Completed(_) => OutlineState::Completed {
                    ends_at: record.ends_at(),
                },
            },
        };
        outline.0
            == codec::Outline {
                heading: self.0.heading,
                digest: self.0.digest,
                state,
            }
    }
}

impl Outline {
    /// Reads an entry as far as an index needs it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        codec::outline(bytes).map(Self)
    }
}

/// Adds the checksum that makes a version and a body an entry.
pub fn checked(version_and_body: &[u8]) -> Vec<u8> {
    codec::checked(version_and_body)
}

/// Reads a key's text as entries hold it.
pub fn key_from_framed(text: &str) -> Option<Key> {
    Key::from_framed(text)
}

/// A key's text as entries hold it.
pub fn framed(key: &Key) -> &str {
    key.as_framed()
}

/// What a fingerprint is told from another one by.
pub fn whole(fingerprint: &Fingerprint) -> [u8; 32] {
    *fingerprint.whole()
}

/// Encrypts any bytes as if they were a reply, for [`reply_from_encrypted`].
pub fn encrypted_reply(plain: &[u8]) -> Result<Vec<u8>> {
    let identity = crate::encryption::Identity {
        digest: Digest([7; 32]),
        token: 7,
    };
    keys().seal(identity, plain)
}

/// Reads an encrypted reply.
pub fn reply_from_encrypted(sealed: Vec<u8>) -> Result<Reply> {
    let fingerprint = Secret::derive(b"secret").seal_whole(&Fingerprint::of("request"));
    let record = Record::Completed(CompletedRecord {
        fingerprint,
        token: 7,
        attempt: 1,
        completed_at: Timestamp(0),
        expires_at: Timestamp(0).plus(Duration::from_secs(1)),
        reply: Reply::encrypted(KEY_NUMBER, sealed.into()),
    });
    let stored = Stored {
        digest: Digest([7; 32]),
        key: None,
        record,
    };
    match codec::decrypted(stored, Some(&keys()))?.record {
        Record::Completed(record) => Ok(record.reply),
        Record::InFlight(_) => unreachable!("decrypting completes nothing and undoes nothing"),
    }
}

fn keys() -> EncryptionKeys {
    EncryptionKeys::new(KEY_NUMBER, [7; 32])
}
