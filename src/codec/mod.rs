//! Bytes to records and back: the only file that names `bincode`.
//!
//! A journal entry is `version (1 byte) · body (bincode) · checksum (8 bytes)`. The checksum is
//! the XXH3 hash of version and body, so that damage is an error and never a different answer; who may write
//! to the folder can forge it. The body names the entry's sequence, that of the entry whose place it took, and the
//! key's whole digest, so that a sound entry in the wrong place is noticed too. Integers are variable-length and little-endian, except for
//! digests, which are plain bytes.

mod encrypted;
mod limited;
#[cfg(test)]
mod tests;
mod wire;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::limits::MAX_REPLY_BYTES;
use crate::record::{Record, Stored};
use crate::reply::Reply;
use crate::secret::Digest;
pub(crate) use encrypted::{decrypted, encrypted};
use wire::{WireEntry, WireHead, WireState};

/// The version that this crate writes. Older ones go on being read.
const VERSION: u8 = 1;
/// What an entry is called in errors.
const ENTRY: &str = "a journal entry";
const CHECKSUM_BYTES: usize = 8;
/// No entry is larger: a reply at the limit, and ample room for everything around it.
const MAX_ENTRY_BYTES: usize = MAX_REPLY_BYTES + (1 << 20);

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_ENTRY_BYTES>,
>;

const CONFIG: Config = bincode::config::standard().with_limit::<MAX_ENTRY_BYTES>();

/// One transition of one key, as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JournalEntry {
    pub(crate) heading: Heading,
    pub(crate) digest: Digest,
    pub(crate) state: EntryState,
}

/// Where and when an entry was written, and what it took the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heading {
    pub(crate) sequence: u64,
    pub(crate) written_at: Timestamp,
    /// The entry that made the key live until this one, if it was.
    pub(crate) prior: Option<u64>,
}

/// What an index needs of an entry, without its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) heading: Heading,
    pub(crate) digest: Digest,
    pub(crate) state: OutlineState,
}

/// What a key became, in outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutlineState {
    InFlight {
        lease_until: Timestamp,
        ends_at: Timestamp,
    },
    Completed {
        ends_at: Timestamp,
    },
    Removed,
}

/// What a key became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryState {
    Put { key: Option<Key>, record: Record },
    Removed,
}

impl JournalEntry {
    pub(crate) fn into_stored(self) -> Option<Stored> {
        match self.state {
            EntryState::Removed => None,
            EntryState::Put { key, record } => Some(Stored {
                digest: self.digest,
                key,
                record,
            }),
        }
    }
}

/// Appends the bytes of the entry that makes `stored` the state of its key.
pub(crate) fn encode_put(out: &mut Vec<u8>, heading: Heading, stored: &Stored) -> Result<()> {
    let key = stored.key.as_ref().map(Key::as_framed);
    let state = WireState::of(&stored.record);
    append(out, &WireEntry::new(heading, &stored.digest, key, state))
}

/// Appends the bytes of the entry that frees a key.
pub(crate) fn encode_removal(out: &mut Vec<u8>, heading: Heading, digest: Digest) -> Result<()> {
    append(
        out,
        &WireEntry::new(heading, &digest, None, WireState::Removed),
    )
}

fn append<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    let start = out.len();
    out.push(VERSION);
    bincode::serde::encode_into_std_write(value, out, CONFIG).map_err(|error| {
        Error::with_source(ErrorKind::Encoding, "a record can't be encoded", error)
    })?;
    let checksum = checksum(&out[start..]);
    out.extend_from_slice(&checksum);
    Ok(())
}

/// Reads an entry and checks it whole.
pub(crate) fn decode(bytes: &[u8]) -> Result<JournalEntry> {
    let entry: WireEntry<'_> = decode_sealed(bytes, ENTRY)?;
    Ok(JournalEntry {
        heading: entry.heading(),
        digest: entry.digest(),
        state: wire::entry_state(entry.key, entry.state)?,
    })
}

/// Reads an entry that was found at `sequence` and checks it whole; an entry that says otherwise is
/// damage.
pub(crate) fn decode_at(bytes: &[u8], sequence: u64) -> Result<JournalEntry> {
    let entry = decode(bytes)?;
    if entry.heading.sequence != sequence {
        return Err(corrupt(ENTRY, "stands in another one's place"));
    }
    Ok(entry)
}

/// Reads an entry, checks it whole, and decodes it as far as an index needs it.
pub(crate) fn outline(bytes: &[u8]) -> Result<Outline> {
    let body = open_sealed(bytes, ENTRY)?;
    let (head, _): (WireHead<'_>, _) = bincode::serde::borrow_decode_from_slice(body, CONFIG)
        .map_err(|error| undecodable(ENTRY, error))?;
    Ok(head.outline())
}

/// [`outline`] of an entry that was found at `sequence`.
pub(crate) fn outline_at(bytes: &[u8], sequence: u64) -> Result<Outline> {
    let outline = outline(bytes)?;
    if outline.heading.sequence != sequence {
        return Err(corrupt(ENTRY, "stands in another one's place"));
    }
    Ok(outline)
}

/// The bytes of something that is kept beside the journal: version, body and checksum, as in entries.
pub(crate) fn encode_sealed<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    append(&mut out, value)?;
    Ok(out)
}

/// Reads what [`encode_sealed`] gave and checks it whole; `what` names it in an error.
pub(crate) fn decode_sealed<'de, T: Deserialize<'de>>(bytes: &'de [u8], what: &str) -> Result<T> {
    let body = open_sealed(bytes, what)?;
    let (value, used) = bincode::serde::borrow_decode_from_slice(body, CONFIG)
        .map_err(|error| undecodable(what, error))?;
    if used != body.len() {
        return Err(corrupt(what, "has bytes after its end"));
    }
    Ok(value)
}

/// Checks checksum and version, and gives the body between them.
fn open_sealed<'a>(bytes: &'a [u8], what: &str) -> Result<&'a [u8]> {
    let Some((checked, found)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(corrupt(what, "is too short"));
    };
    if checksum(checked) != *found {
        return Err(corrupt(what, "does not match its checksum"));
    }
    match checked.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((&version, _)) if version > VERSION => Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!(
                "{what} has the format version {version}; this version of onceward reads up to \
                 {VERSION}: use a newer one"
            ),
        )),
        _ => Err(corrupt(what, "has no valid format version")),
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_64::oneshot(bytes).to_le_bytes()
}

/// The checksum of bytes that only count in one place, which has this number.
pub(crate) fn numbered_checksum(number: u64, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_64::oneshot_with_seed(number, bytes).to_le_bytes()
}

/// Adds the checksum that makes a version and a body an entry.
#[cfg(any(fuzzing, test))]
pub(crate) fn checked(version_and_body: &[u8]) -> Vec<u8> {
    let checksum = checksum(version_and_body);
    [version_and_body, &checksum].concat()
}

fn undecodable(what: &str, error: bincode::error::DecodeError) -> Error {
    let message = format!("{what} can't be decoded; restore the folder from a backup");
    Error::with_source(ErrorKind::Corrupt, message, error)
}

fn corrupt(what: &str, problem: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{what} {problem}; restore the folder from a backup"),
    )
}

/// Replies for callers that don't speak HTTP: a value in, a value out.
impl Reply {
    /// A reply whose body is `value`, with the status 0.
    ///
    /// The body can be read with [`decode`](Reply::decode) by any later version of the crate, as long
    /// as the type's shape stays: fields are neither named nor tagged in the bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encoding`] if the value refuses to be serialized or takes over 64 MiB.
    ///
    /// ```
    /// use onceward::Reply;
    ///
    /// let reply = Reply::encode(&("booked", 17_u32))?;
    /// let (word, seat): (String, u32) = reply.decode()?;
    /// assert_eq!((word.as_str(), seat), ("booked", 17));
    /// # Ok::<(), onceward::Error>(())
    /// ```
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let body = bincode::serde::encode_to_vec(value, CONFIG).map_err(|error| {
            Error::with_source(
                ErrorKind::Encoding,
                "the value can't be turned into a reply",
                error,
            )
        })?;
        if body.len() > MAX_REPLY_BYTES {
            return Err(Error::new(
                ErrorKind::Encoding,
                format!(
                    "the value takes {} bytes; a reply has at most {MAX_REPLY_BYTES}",
                    body.len()
                ),
            ));
        }
        Ok(Self::new(0, body))
    }

    /// The value that [`encode`](Reply::encode) was given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Encoding`] if the body isn't a value of that type, or goes on after it.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let (value, used) =
            bincode::serde::decode_from_slice(self.body(), CONFIG).map_err(|error| {
                Error::with_source(
                    ErrorKind::Encoding,
                    "the reply's body is not a value of the type asked for",
                    error,
                )
            })?;
        if used != self.body().len() {
            return Err(Error::new(
                ErrorKind::Encoding,
                "the reply's body goes on after the value of the type asked for",
            ));
        }
        Ok(value)
    }
}
