//! The one cell that isn't a key's: what all nodes have in common, and by which they notice that
//! the server has forgotten.
//!
//! A server that was emptied, or that came back without its data, knows nothing of attempts that
//! are running. Whoever finds this cell gone or made anew therefore grants nothing until the
//! longest lease in use has passed, and has all others do the same: the cell says until when.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{RecordId, Refused, Register, Swapped, Value, Version};
use crate::clock::Timestamp;
use crate::codec;
use crate::error::{Error, ErrorKind, Result};
use crate::mutant::{self, Mutant};
use crate::secret::{Digest, Pepper, Secret};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Where it is. No key's digest is all zeroes, nor comes before this one.
pub(super) const FIRST: RecordId = RecordId(Digest([0; 32]));
const WHAT: &str = "the register's first cell";
const FORMAT: u32 = 2;
/// How often the cell is read again because other nodes have changed it meanwhile.
const MOST_CHANGES: usize = 8;
/// How long is waited before it is looked whether a change was made.
const PAUSE: Duration = Duration::from_millis(50);

/// What the cell holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    format: u32,
    secret_check: [u8; 32],
    has_pepper: bool,
    /// Told anew each time that the cell is made.
    generation: u64,
    /// Of all nodes, at all times.
    longest_lease_ms: u64,
    /// Nobody grants anything before, by the server's clock.
    grants_from_ms: u64,
}

/// The first cell as earlier versions wrote it.
#[derive(Deserialize)]
struct Format1 {
    format: u32,
    _secret_check: [u8; 32],
    _material: Option<[u8; 32]>,
}

/// The cell as it is known here.
#[derive(Debug)]
pub(super) struct FirstCell {
    known: Mutex<(Value, Content)>,
    longest_lease_ms: AtomicU64,
    /// On the engine's time line.
    grants_from: AtomicU64,
    /// How many connections had been made when the cell was last seen to be there.
    seen_at: AtomicU64,
    losses: AtomicU64,
}

/// What was found by the first contact.
pub(super) struct Opened {
    pub(super) secret: Secret,
    pub(super) value: Value,
    pub(super) content: Content,
}

/// Reads the cell, which the first of all nodes makes, and notes the lease in it if none is longer.
pub(super) async fn opened<R: Register>(
    register: &R,
    pepper: Option<Pepper>,
    version: Version,
    lease: Duration,
) -> Result<Opened> {
    let secret = match &pepper {
        Some(pepper) => Secret::derive(pepper.as_bytes()),
        None => Secret::public(),
    };
    let mut new = Content {
        format: FORMAT,
        secret_check: secret.check_value(),
        has_pepper: pepper.is_some(),
        generation: version.to_bits(),
        longest_lease_ms: milliseconds(lease),
        grants_from_ms: 0,
    };
    let loaded = register.load(FIRST).await.map_err(Refused::into_error)?;
    let mut found = loaded.value;
    if found.is_none() && has_cells(register).await? {
        // They are of a register whose first cell is lost: nodes may be at work there.
        new.grants_from_ms = Timestamp(loaded.now_ms).plus(lease).0;
    }
    let fresh = new.clone();
    for _ in 0..MOST_CHANGES {
        new = match &found {
            None => fresh.clone(),
            Some(value) => {
                let content = Content::of(value)?;
                content.check(&secret, new.has_pepper)?;
                if content.longest_lease_ms >= fresh.longest_lease_ms {
                    let value = value.clone();
                    return Ok(Opened {
                        secret: content.secret(secret),
                        value,
                        content,
                    });
                }
                content.with_lease(fresh.longest_lease_ms)
            }
        };
        let value = new.value(version)?;
        let expected = found.as_ref().map(|value| value.version);
        let swapped = register.swap(FIRST, expected, value.clone(), u64::MAX);
        let swapped = match swapped.await {
            // It may be there: a replica that has just been started takes its time, say.
            Err(refused) if refused.is_unknown => {
                sleep(PAUSE).await;
                let loaded = register.load(FIRST).await.map_err(Refused::into_error)?;
                found = loaded.value;
                continue;
            }
            swapped => swapped.map_err(Refused::into_error)?,
        };
        match swapped {
            Swapped::Done { .. } => {
                return Ok(Opened {
                    secret: new.secret(secret),
                    value,
                    content: new,
                });
            }
            Swapped::Mismatch(other) => found = other.value,
        }
    }
    Err(contended())
}

async fn has_cells<R: Register>(register: &R) -> Result<bool> {
    let page = register.scan(None, 1).await.map_err(Refused::into_error)?;
    Ok(!page.values.is_empty())
}

impl FirstCell {
    /// As it was found. Grants are held back for as long as it says.
    pub(super) fn new((value, content): (Value, Content), grants_from: Timestamp) -> Self {
        Self {
            longest_lease_ms: AtomicU64::new(content.longest_lease_ms),
            known: Mutex::new((value, content)),
            grants_from: AtomicU64::new(grants_from.0),
            seen_at: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        }
    }

    /// What it holds as far as is known.
    pub(super) fn value(&self) -> Value {
        self.known.lock().0.clone()
    }

    /// How often it was found gone, or made anew.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// Whether anything may be granted at this moment of the engine's.
    pub(super) fn check(&self, now: Timestamp) -> Result<()> {
        let from = Timestamp(self.grants_from.load(Ordering::Acquire));
        if now >= from {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the store's server has lost its first cell (it was emptied, or came back without its data), \
                 and with it maybe attempts that are running: nothing is granted for {:?} more, until the longest lease in \
                 use has passed; replays and completions go on. See to it that the server keeps what it is given",
                from.since(now)
            ),
        ))
    }

    /// Whether it was seen since the last of so many connections was made.
    pub(super) fn was_seen_at(&self, connections: u64) -> bool {
        self.seen_at.load(Ordering::Acquire) >= connections
    }

    pub(super) fn seen(&self, connections: u64) {
        self.seen_at.fetch_max(connections, Ordering::AcqRel);
    }

    pub(super) fn covers(&self, lease: Duration) -> bool {
        milliseconds(lease) <= self.longest_lease_ms.load(Ordering::Relaxed)
    }

    pub(super) fn longest_lease(&self) -> Duration {
        Duration::from_millis(self.longest_lease_ms.load(Ordering::Relaxed))
    }

    /// Grants nothing before this moment of the engine's.
    pub(super) fn hold_until(&self, from: Timestamp) {
        self.grants_from.fetch_max(from.0, Ordering::AcqRel);
    }

    fn known(&self) -> (Value, Content) {
        self.known.lock().clone()
    }

    /// Notes what is there.
    pub(super) fn adopt(&self, value: Value, content: Content) {
        self.longest_lease_ms
            .fetch_max(content.longest_lease_ms, Ordering::Relaxed);
        *self.known.lock() = (value, content);
    }
}

/// What a look at the cell calls for.
pub(super) enum Looked {
    /// It is as it was left, or another node has noted a longer lease.
    There,
    /// It was lost, and others have seen to everything.
    Lost,
    /// This is to be written.
    Mend {
        expected: Option<Version>,
        value: Value,
        content: Content,
    },
}

impl FirstCell {
    /// Compares what was found with what is known; `now` is the server's time, and `version` is one
    /// to write with.
    pub(super) fn compare(
        &self,
        found: Option<&Value>,
        now: Timestamp,
        version: Version,
    ) -> Result<Looked> {
        let (value, known) = self.known();
        let longest = self.longest_lease();
        let from = now.plus(longest).0;
        let Some(found) = found else {
            let content = Content {
                generation: version.to_bits(),
                grants_from_ms: from,
                ..known.with_lease(milliseconds(longest))
            };
            return content.mends(None, version);
        };
        if found.version == value.version {
            return Ok(Looked::There);
        }
        let content = Content::of(found)?;
        if content.secret_check != known.secret_check {
            return Err(other_pepper());
        }
        let is_lost = content.generation != known.generation;
        let covers = content.longest_lease_ms >= milliseconds(longest);
        let known_from = if is_lost { 1 } else { known.grants_from_ms };
        if covers && content.grants_from_ms >= known_from {
            self.adopt(found.clone(), content);
            return Ok(if is_lost { Looked::Lost } else { Looked::There });
        }
        let content = content.with_lease(milliseconds(longest));
        let content = Content {
            grants_from_ms: if is_lost { from } else { known_from }.max(content.grants_from_ms),
            ..content
        };
        content.mends(Some(found.version), version)
    }

    /// Whether what is to be written is of another making than what is known.
    pub(super) fn is_lost_by(&self, content: &Content) -> bool {
        self.known.lock().1.generation != content.generation
    }

    pub(super) fn count_loss(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// Until when nothing is granted, by the server's clock.
    pub(super) fn grants_from(&self) -> Timestamp {
        Timestamp(self.known.lock().1.grants_from_ms)
    }

    /// What is to be written so that the cell covers a lease.
    pub(super) fn with_lease(&self, lease: Duration, version: Version) -> Result<(Version, Value)> {
        let (value, content) = self.known();
        let new = content.with_lease(milliseconds(lease)).value(version)?;
        Ok((value.version, new))
    }

    /// Notes that this was written.
    pub(super) fn covers_now(&self, value: Value) -> Result<()> {
        let content = Content::of(&value)?;
        self.adopt(value, content);
        Ok(())
    }
}

impl Content {
    fn of(value: &Value) -> Result<Self> {
        let content = match codec::decode_sealed::<Self>(&value.bytes, WHAT) {
            Ok(content) => content,
            Err(error) => match codec::decode_sealed::<Format1>(&value.bytes, WHAT) {
                Ok(old) => return Err(other_format(old.format)),
                Err(_) => return Err(error),
            },
        };
        if content.format != FORMAT {
            return Err(other_format(content.format));
        }
        Ok(content)
    }

    fn value(&self, version: Version) -> Result<Value> {
        let bytes = codec::encode_sealed(self)?.into();
        Ok(Value { version, bytes })
    }

    fn with_lease(self, longest_lease_ms: u64) -> Self {
        Self {
            longest_lease_ms: self.longest_lease_ms.max(longest_lease_ms),
            ..self
        }
    }

    pub(super) fn grants_from(&self) -> Timestamp {
        Timestamp(self.grants_from_ms)
    }

    fn mends(self, expected: Option<Version>, version: Version) -> Result<Looked> {
        Ok(Looked::Mend {
            expected,
            value: self.value(version)?,
            content: self,
        })
    }

    /// What keys are hashed with: nothing in the cell makes a difference to that, lest a loss of it
    /// does.
    fn secret(&self, secret: Secret) -> Secret {
        if mutant::is_on(Mutant::FirstCellMakesSecret) && !self.has_pepper {
            return Secret::derive(&self.generation.to_le_bytes());
        }
        secret
    }

    fn check(&self, secret: &Secret, has_pepper: bool) -> Result<()> {
        let message = match (has_pepper, self.has_pepper) {
            (false, true) => "the register was first used with a pepper; use the same one",
            (true, false) => "the register was first used without a pepper; use it without one",
            _ if secret.check_value() == self.secret_check => return Ok(()),
            _ => return Err(other_pepper()),
        };
        Err(Error::new(ErrorKind::InvalidConfig, message))
    }
}

fn other_pepper() -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        "the pepper is not the one that the register was first used with",
    )
}

fn other_format(format: u32) -> Error {
    Error::new(
        ErrorKind::UnsupportedFormat,
        format!(
            "the register has the format {format}, and this version of onceward reads {FORMAT}: give the engine a register of its \
             own, or use the version that wrote it"
        ),
    )
}

fn contended() -> Error {
    Error::new(
        ErrorKind::Overloaded,
        "other nodes changed the register's first cell each time that it was tried to; retry later",
    )
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
