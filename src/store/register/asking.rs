//! Asking the register, and asking again.

use std::time::Duration;

use tokio::time::sleep;

use super::decider::{Decider, View};
use super::record::New;
use super::{Loaded, RecordId, Register, Swapped, Value, Version};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Digest;

/// How often a swap of unknown outcome is asked for. It is the same swap, so that it can't be made twice.
pub(super) const MOST_TRIES: usize = 6;
/// The pause after the first try, as a part of the time that there is; each further one is four times as long. Together they
/// are two thirds of it: little things a server or a cluster has got over by then.
const PAUSES: u32 = 512;
/// What became of a change.
pub(super) enum Made {
    Done {
        /// The server's time when it was asked for, at the earliest.
        asked_at: Timestamp,
    },
    /// This is there.
    Not(View),
}

impl From<Loaded> for View {
    fn from(Loaded { value, now_ms }: Loaded) -> Self {
        Self {
            value,
            now: Timestamp(now_ms),
            is_assumed: false,
        }
    }
}

impl<R: Register> Decider<R> {
    pub(super) async fn load(&self, digest: Digest) -> Result<View> {
        let mut pauses = self.pauses();
        loop {
            let asked = self.time.asking();
            match self.register.load(RecordId(digest)).await {
                Ok(loaded) => {
                    self.time.learn(asked, Timestamp(loaded.now_ms));
                    return Ok(loaded.into());
                }
                Err(refused) => match pauses.next().filter(|_| refused.is_unknown) {
                    Some(pause) => sleep(pause).await,
                    None => return Err(refused.into_error()),
                },
            }
        }
    }

    /// How long is waited before an answer that got lost is asked for again, each time.
    fn pauses(&self) -> impl Iterator<Item = Duration> + use<R> {
        let first = self.register.timeout() / PAUSES;
        (1..MOST_TRIES).scan(first, |next, _| {
            let pause = *next;
            *next *= 4;
            Some(pause)
        })
    }

    pub(super) async fn swap(
        &self,
        digest: Digest,
        expected: Option<Version>,
        new: &New,
    ) -> Result<Made> {
        let (mut may_be_made, mut pauses) = (false, self.pauses());
        loop {
            let asked = self.time.asking();
            let (value, ends_at_ms) = (new.value.clone(), new.ends_at.0);
            let swapped = self
                .register
                .swap(RecordId(digest), expected, value, ends_at_ms)
                .await;
            let refused = match swapped {
                Ok(Swapped::Done { now_ms }) => {
                    let asked_at = self.time.learn(asked, Timestamp(now_ms));
                    return Ok(Made::Done { asked_at });
                }
                Ok(Swapped::Mismatch(found)) => {
                    let asked_at = self.time.learn(asked, Timestamp(found.now_ms));
                    let is_new = |value: &Value| value.version == new.value.version;
                    // An earlier try was made after all.
                    return Ok(if found.value.as_ref().is_some_and(is_new) {
                        Made::Done { asked_at }
                    } else {
                        Made::Not(found.into())
                    });
                }
                Err(refused) => refused,
            };
            may_be_made |= refused.is_unknown;
            if !may_be_made {
                return Err(refused.into_error());
            }
            match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => return Err(unknown_outcome(refused.cause)),
            }
        }
    }
}

fn unknown_outcome(cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::with_source(
        ErrorKind::Unavailable,
        "the store's server didn't say whether it made the change: it may have been made, or may still be; the same call can be \
         made again",
        cause,
    )
    .of_unknown_outcome()
}
