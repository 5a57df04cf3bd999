//! The state of one key.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::key::Key;
use crate::reply::Reply;
use crate::secret::{Digest, SealedFingerprint};

/// What is kept of one key. No record means that the key is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    InFlight(InFlightRecord),
    Completed(CompletedRecord),
}

/// An attempt that was granted and hasn't been settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InFlightRecord {
    pub(crate) fingerprint: SealedFingerprint,
    pub(crate) token: u64,
    pub(crate) attempt: u32,
    /// When this attempt was granted.
    pub(crate) started_at: Timestamp,
    pub(crate) lease_until: Timestamp,
    /// How long the answer will be kept, and how long an abandoned attempt is remembered after its
    /// lease.
    pub(crate) retention: Duration,
}

/// An attempt whose answer is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompletedRecord {
    pub(crate) fingerprint: SealedFingerprint,
    pub(crate) token: u64,
    pub(crate) attempt: u32,
    pub(crate) completed_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) reply: Reply,
}

impl Record {
    pub(crate) fn fingerprint(&self) -> &SealedFingerprint {
        match self {
            Self::InFlight(record) => &record.fingerprint,
            Self::Completed(record) => &record.fingerprint,
        }
    }

    pub(crate) fn token(&self) -> u64 {
        match self {
            Self::InFlight(record) => record.token,
            Self::Completed(record) => record.token,
        }
    }

    /// When the record turns into 'absent' by itself, unless an operator's hold keeps it.
    pub(crate) fn ends_at(&self) -> Timestamp {
        match self {
            Self::InFlight(record) => attempt_ends_at(record.lease_until, record.retention),
            Self::Completed(record) => record.expires_at,
        }
    }
}

/// When an attempt that nobody settles is over: once its lease has been over for a retention,
/// however long the two are, so that its retries find it after its lease.
pub(crate) fn attempt_ends_at(lease_until: Timestamp, retention: Duration) -> Timestamp {
    lease_until.plus(retention)
}

/// A record with what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    /// The key's text; `None` where the store keeps digests only.
    pub(crate) key: Option<Key>,
    pub(crate) record: Record,
}
