//! The shape of an entry's body. Changing it means a new entry version.

use std::time::Duration;

use bytes::Bytes;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limited::AtMost;
use super::{ENTRY, EntryState, Heading, Outline, OutlineState, corrupt};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::key::Key;
use crate::limits::{MAX_FINGERPRINT_PARTS, MAX_REPLY_HEADERS};
use crate::record::{CompletedRecord, InFlightRecord, Record, attempt_ends_at};
use crate::reply::Reply;
use crate::secret::{Digest, SealedFingerprint, SealedPart};

#[derive(Serialize, Deserialize)]
pub(super) struct WireEntry<'a> {
    heading: WireHeading,
    #[serde(borrow)]
    digest: Fixed<'a, 32>,
    #[serde(borrow)]
    pub(super) key: Option<&'a str>,
    #[serde(borrow)]
    pub(super) state: WireState<'a>,
}

/// The beginning of an entry, as far as an index needs it: the same fields in the same order.
#[derive(Deserialize)]
pub(super) struct WireHead<'a> {
    heading: WireHeading,
    #[serde(borrow)]
    digest: Fixed<'a, 32>,
    #[serde(borrow)]
    _key: Option<&'a str>,
    #[serde(borrow)]
    state: WireHeadState<'a>,
}

#[derive(Serialize, Deserialize)]
struct WireHeading {
    sequence: u64,
    written_at_ms: u64,
    /// How far before this one the entry stands whose place it took; 0 for none.
    prior_distance: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) enum WireState<'a> {
    #[serde(borrow)]
    InFlight(WireInFlight<'a>),
    #[serde(borrow)]
    Completed(WireCompleted<'a, WireReply<'a>>),
    Removed,
    #[serde(borrow)]
    Encrypted(WireCompleted<'a, WireSealedReply<'a>>),
}

#[derive(Deserialize)]
enum WireHeadState<'a> {
    #[serde(borrow)]
    InFlight(WireInFlight<'a>),
    #[serde(borrow)]
    Completed(WireCompletedHead<'a>),
    Removed,
    #[serde(borrow)]
    Encrypted(WireCompletedHead<'a>),
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireInFlight<'a> {
    #[serde(borrow)]
    pub(super) fingerprint: WireFingerprint<'a>,
    pub(super) token: u64,
    pub(super) attempt: u32,
    pub(super) started_at_ms: u64,
    pub(super) lease_until_ms: u64,
    pub(super) retention_ms: u64,
}

/// With the reply as it is, or encrypted.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a, R: Deserialize<'de>"))]
pub(super) struct WireCompleted<'a, R> {
    #[serde(borrow)]
    fingerprint: WireFingerprint<'a>,
    token: u64,
    attempt: u32,
    completed_at_ms: u64,
    expires_at_ms: u64,
    reply: R,
}

/// A reply that is encrypted as a whole.
#[derive(Serialize, Deserialize)]
pub(super) struct WireSealedReply<'a> {
    encrypted_with: u32,
    #[serde(borrow)]
    sealed: Blob<'a>,
}

/// The beginning of a [`WireCompleted`].
#[derive(Deserialize)]
struct WireCompletedHead<'a> {
    #[serde(borrow)]
    _fingerprint: WireFingerprint<'a>,
    _token: u64,
    _attempt: u32,
    _completed_at_ms: u64,
    expires_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireFingerprint<'a> {
    pub(super) version: u8,
    #[serde(borrow)]
    pub(super) whole: Fixed<'a, 32>,
    #[serde(borrow)]
    pub(super) parts: Option<WireParts<'a>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WireReply<'a> {
    pub(super) status: u16,
    pub(super) is_retained: bool,
    #[serde(borrow)]
    pub(super) headers: WireFields<'a>,
    #[serde(borrow)]
    pub(super) body: Blob<'a>,
    #[serde(borrow)]
    pub(super) trailers: WireFields<'a>,
}

type WireFields<'a> = AtMost<(&'a str, Blob<'a>), MAX_REPLY_HEADERS>;

type WireParts<'a> = AtMost<(&'a str, Fixed<'a, 8>), MAX_FINGERPRINT_PARTS>;

impl<'a> WireEntry<'a> {
    pub(super) fn new(
        heading: Heading,
        digest: &'a Digest,
        key: Option<&'a str>,
        state: WireState<'a>,
    ) -> Self {
        let prior = heading.prior.unwrap_or(heading.sequence);
        Self {
            heading: WireHeading {
                sequence: heading.sequence,
                written_at_ms: heading.written_at.0,
                prior_distance: heading.sequence.saturating_sub(prior),
            },
            digest: Fixed(&digest.0),
            key,
            state,
        }
    }

    pub(super) fn heading(&self) -> Heading {
        self.heading.heading()
    }

    pub(super) fn digest(&self) -> Digest {
        Digest(*self.digest.0)
    }
}

impl WireHeading {
    fn heading(&self) -> Heading {
        let prior = (self.prior_distance > 0)
            .then(|| self.sequence.checked_sub(self.prior_distance))
            .flatten();
        Heading {
            sequence: self.sequence,
            written_at: Timestamp(self.written_at_ms),
            prior,
        }
    }
}

impl WireHead<'_> {
    pub(super) fn outline(&self) -> Outline {
        let state = match &self.state {
            WireHeadState::InFlight(wire) => OutlineState::InFlight {
                lease_until: Timestamp(wire.lease_until_ms),
                ends_at: attempt_ends_at(
                    Timestamp(wire.lease_until_ms),
                    Duration::from_millis(wire.retention_ms),
                ),
            },
            WireHeadState::Completed(wire) | WireHeadState::Encrypted(wire) => {
                OutlineState::Completed {
                    ends_at: Timestamp(wire.expires_at_ms),
                }
            }
            WireHeadState::Removed => OutlineState::Removed,
        };
        Outline {
            heading: self.heading.heading(),
            digest: Digest(*self.digest.0),
            state,
        }
    }
}

impl<'a> WireState<'a> {
    pub(super) fn of(record: &'a Record) -> Self {
        match record {
            Record::InFlight(record) => Self::InFlight(WireInFlight {
                fingerprint: wire_fingerprint(&record.fingerprint),
                token: record.token,
                attempt: record.attempt,
                started_at_ms: record.started_at.0,
                lease_until_ms: record.lease_until.0,
                retention_ms: u64::try_from(record.retention.as_millis()).unwrap_or(u64::MAX),
            }),
            Record::Completed(record) => match record.reply.encrypted_with() {
                None => Self::Completed(wire_completed(record, wire_reply(&record.reply))),
                Some(encrypted_with) => {
                    let sealed = Blob(record.reply.body());
                    let reply = WireSealedReply {
                        encrypted_with,
                        sealed,
                    };
                    Self::Encrypted(wire_completed(record, reply))
                }
            },
        }
    }
}

pub(super) fn entry_state(key: Option<&str>, state: WireState<'_>) -> Result<EntryState> {
    let record = match state {
        WireState::Removed => return Ok(EntryState::Removed),
        WireState::InFlight(wire) => Record::InFlight(InFlightRecord {
            fingerprint: fingerprint(wire.fingerprint),
            token: wire.token,
            attempt: wire.attempt,
            started_at: Timestamp(wire.started_at_ms),
            lease_until: Timestamp(wire.lease_until_ms),
            retention: Duration::from_millis(wire.retention_ms),
        }),
        WireState::Completed(wire) => Record::Completed(completed(wire, reply)),
        WireState::Encrypted(wire) => Record::Completed(completed(wire, |reply| {
            let sealed = Bytes::copy_from_slice(reply.sealed.0);
            Reply::encrypted(reply.encrypted_with, sealed)
        })),
    };
    let key = key
        .map(|framed| Key::from_framed(framed).ok_or_else(|| corrupt(ENTRY, "holds no valid key")))
        .transpose()?;
    Ok(EntryState::Put { key, record })
}

fn wire_completed<R>(record: &CompletedRecord, reply: R) -> WireCompleted<'_, R> {
    WireCompleted {
        fingerprint: wire_fingerprint(&record.fingerprint),
        token: record.token,
        attempt: record.attempt,
        completed_at_ms: record.completed_at.0,
        expires_at_ms: record.expires_at.0,
        reply,
    }
}

fn completed<R>(wire: WireCompleted<'_, R>, reply: impl FnOnce(R) -> Reply) -> CompletedRecord {
    CompletedRecord {
        fingerprint: fingerprint(wire.fingerprint),
        token: wire.token,
        attempt: wire.attempt,
        completed_at: Timestamp(wire.completed_at_ms),
        expires_at: Timestamp(wire.expires_at_ms),
        reply: reply(wire.reply),
    }
}

fn wire_fingerprint(fingerprint: &SealedFingerprint) -> WireFingerprint<'_> {
    WireFingerprint {
        version: fingerprint.version,
        whole: Fixed(&fingerprint.whole),
        parts: fingerprint.parts.as_ref().map(|parts| {
            let parts = parts.iter();
            AtMost(
                parts
                    .map(|part| (part.name.as_ref(), Fixed(&part.tag)))
                    .collect(),
            )
        }),
    }
}

fn fingerprint(wire: WireFingerprint<'_>) -> SealedFingerprint {
    SealedFingerprint {
        version: wire.version,
        whole: *wire.whole.0,
        parts: wire.parts.map(|parts| {
            let parts = parts.0.into_iter();
            parts
                .map(|(name, tag)| SealedPart {
                    name: name.into(),
                    tag: *tag.0,
                })
                .collect()
        }),
    }
}

pub(super) fn wire_reply(reply: &Reply) -> WireReply<'_> {
    WireReply {
        status: reply.status(),
        is_retained: reply.is_retained(),
        headers: wire_fields(reply.headers()),
        body: Blob(reply.body()),
        trailers: wire_fields(reply.trailers()),
    }
}

fn wire_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a Bytes)>) -> WireFields<'a> {
    AtMost(fields.map(|(name, value)| (name, Blob(value))).collect())
}

pub(super) fn reply(wire: WireReply<'_>) -> Reply {
    Reply::from_parts(
        wire.status,
        wire.is_retained,
        fields(wire.headers),
        Bytes::copy_from_slice(wire.body.0),
        fields(wire.trailers),
    )
}

fn fields(wire: WireFields<'_>) -> Vec<(String, Bytes)> {
    let owned =
        |(name, value): (&str, Blob<'_>)| (name.to_owned(), Bytes::copy_from_slice(value.0));
    wire.0.into_iter().map(owned).collect()
}

/// A run of bytes that is written and read whole; serde takes `&[u8]` for a list of numbers.
pub(super) struct Blob<'a>(&'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Blob<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BlobVisitor).map(Blob)
    }
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = &'de [u8];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a run of bytes")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
        Ok(bytes)
    }
}

/// A [`Blob`] of a length that is known; serde takes arrays for tuples of numbers.
#[derive(Clone, Copy)]
pub(super) struct Fixed<'a, const LENGTH: usize>(&'a [u8; LENGTH]);

impl<const LENGTH: usize> Serialize for Fixed<'_, LENGTH> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a, const LENGTH: usize> Deserialize<'de> for Fixed<'a, LENGTH> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_bytes(BlobVisitor)?;
        let fixed = bytes.try_into().map_err(|_| {
            serde::de::Error::invalid_length(bytes.len(), &"another number of bytes")
        })?;
        Ok(Self(fixed))
    }
}
