//! Asking the register, and asking again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::decider::{Decider, View};
use super::record::New;
use super::{Loaded, RecordId, Register, Swapped, Version};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Digest;
use crate::sync::Mutex;

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

    /// Makes a change, unless something else is there than what is expected.
    ///
    /// What is found made after an answer got lost is written over itself: that it is there doesn't
    /// say that it is as durable as a change that was acknowledged.
    pub(super) async fn swap(
        &self,
        digest: Digest,
        mut expected: Option<Version>,
        new: &New,
        doubt: &Doubt,
    ) -> Result<Made> {
        // Over itself, it is there already.
        let mut may_be_made = expected == Some(new.value.version);
        let (was_in_doubt, mut pauses) = (doubt.is_on(), self.pauses());
        loop {
            let asked = self.time.asking();
            let (value, ends_at_ms) = (new.value.clone(), new.ends_at.0);
            doubt.set(true);
            let swapped = self
                .register
                .swap(RecordId(digest), expected, value, ends_at_ms)
                .await;
            let cause = match swapped {
                Ok(Swapped::Done { now_ms }) => {
                    doubt.set(false);
                    let asked_at = self.time.learn(asked, Timestamp(now_ms));
                    return Ok(Made::Done { asked_at });
                }
                Ok(Swapped::Mismatch(found)) => {
                    self.time.learn(asked, Timestamp(found.now_ms));
                    let version = Some(new.value.version);
                    let is_made = found.value.as_ref().map(|value| value.version) == version;
                    if !is_made || expected == version {
                        doubt.set(false);
                        return Ok(Made::Not(found.into()));
                    }
                    may_be_made = true;
                    expected = version;
                    continue;
                }
                Err(refused) => {
                    may_be_made |= refused.is_unknown;
                    if !may_be_made {
                        doubt.set(was_in_doubt);
                        return Err(refused.into_error());
                    }
                    refused.cause
                }
            };
            match pauses.next() {
                Some(pause) => {
                    doubt.note(unknown_outcome(cause));
                    sleep(pause).await;
                }
                None => return Err(unknown_outcome(cause)),
            }
        }
    }
}

/// Whether a change was asked for whose answer isn't there.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    is_on: AtomicBool,
    /// What the last try came to.
    last: Mutex<Option<Error>>,
}

impl Doubt {
    fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    fn note(&self, error: Error) {
        *self.last.lock() = Some(error);
    }

    pub(super) fn last(&self) -> Option<Error> {
        self.last.lock().take()
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
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
