//! Where records live: the seam between the engine and its stores.
//!
//! A store answers commands about one key at a time. It runs [`decide`](crate::decision::decide) and
//! nothing of its own, makes the change durable in its own sense, publishes it, and then answers.

mod answer;
#[cfg(any(test, feature = "testkit"))]
pub(crate) mod conformance;
pub(crate) mod embedded;
pub(crate) mod memory;
#[cfg(any(test, feature = "register"))]
pub mod register;
mod replay_cache;
#[cfg(any(test, feature = "register"))]
pub mod transaction;

#[cfg(any(test, feature = "register"))]
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::decision::{Command, Decision, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::outcome::OnAbandon;
use crate::progress::Progress;
use crate::record::{Record, Stored};
use crate::secret::{Digest, Secret};
use crate::verification::Verification;

pub(crate) use answer::Answer;

/// A store of records, shared by all threads of an engine.
pub(crate) trait Store: Send + Sync + fmt::Debug + 'static {
    /// What keys and fingerprints are hashed with.
    fn secret(&self) -> &Secret;

    /// Decides, if the command changes nothing: from memory without waiting for anything, or else, if that
    /// may happen here, with a read from the disk.
    fn glance(&self, digest: &Digest, command: &Command, reads: Reads) -> Result<Glance>;

    /// Decides, if the command changes nothing, by what all nodes have: their server is asked, and no thread waits for it. `None`
    /// if there is none.
    fn ask(&self, digest: &Digest, command: &Command) -> Option<Later<Glance>> {
        let _ = (digest, command);
        None
    }

    /// The record, unless it is over; may read from the disk.
    fn load(&self, digest: &Digest) -> Result<Option<Stored>>;

    /// The same from a server, for which no thread waits. `None` if there is none.
    fn ask_for(&self, digest: &Digest) -> Option<Later<Option<Stored>>> {
        let _ = digest;
        None
    }

    /// When a moment of the store's time comes on the engine's time line, at the earliest.
    fn local(&self, at: Timestamp) -> Timestamp {
        at
    }

    /// The end of a lease on the engine's time line, of a grant or renewal that was asked for at
    /// `sent`.
    fn lease_end(&self, sent: Timestamp, lease: Duration, until: Timestamp) -> Timestamp {
        let _ = (sent, lease);
        until
    }

    /// Decides and makes the change durable, then answers. Never blocks.
    fn submit(&self, request: Request, answer: Answer);

    /// The attempts that were granted and not settled, except those abandoned long ago.
    fn in_flight(&self) -> Result<Vec<Arc<Stored>>>;

    /// Removes what is over.
    fn sweep(&self) -> Result<Swept>;

    /// How many keys have a record; never too low.
    fn live_keys(&self) -> u64;

    /// How long a caller that waits for a key waits at first before it looks again, because nobody may wake it: others
    /// change the keys, too.
    fn looks_again_after(&self) -> Option<Duration> {
        None
    }

    /// Whether new keys are refused for want of disk space.
    fn is_disk_full(&self) -> bool {
        false
    }

    /// Whether what is counted in several ways comes to the same, while nobody changes anything; `None` if not
    /// everything is.
    #[cfg(onceward_faults)]
    fn do_counts_agree(&self) -> Option<bool> {
        None
    }

    /// What the store holds and has done. May ask the file system.
    fn figures(&self) -> Figures;

    /// Reads everything and checks it.
    fn verify(&self, tell: &mut dyn FnMut(Progress)) -> Result<Verification>;

    /// Everything that is live, in chunks; it ends after an error.
    fn export(&self) -> Chunks;

    /// `Ok` while grants are possible, else why they aren't.
    fn condition(&self) -> Result<()>;

    /// The same, as far as it is known without trying: a store that asks a server tries all the same when the last calls have failed.
    fn readiness(&self) -> Result<()> {
        self.condition()
    }

    /// `Ok` unless what was acknowledged is lost to whoever opens the store next: its folder was
    /// moved or removed.
    #[cfg(any(test, feature = "register"))]
    fn check_place(&self) -> Result<()> {
        Ok(())
    }

    /// What fails behind the scenes while grants are possible.
    fn warnings(&self) -> Vec<Error> {
        Vec::new()
    }

    /// The database that the caller's transactions may complete keys in, if the store keeps its records there.
    #[cfg(any(test, feature = "register"))]
    fn database(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }

    /// The row that carries out a completion in a transaction of the caller's.
    #[cfg(any(test, feature = "register"))]
    fn draft(&self, completion: Request) -> Option<Later<Draft>> {
        let _ = completion;
        None
    }

    /// Is told that a draft fitted nothing that is there.
    #[cfg(any(test, feature = "register"))]
    fn mistaken(&self, digest: &Digest) {
        let _ = digest;
    }

    /// Looks whether a transaction has completed a key for the attempt with that token. `None` if there are no transactions.
    #[cfg(any(test, feature = "register"))]
    fn confirmed(&self, digest: &Digest, token: u64) -> Option<Later<bool>> {
        let _ = (digest, token);
        None
    }

    /// Refuses new work, finishes what is queued, ends the store's threads and lets go of its files.
    fn close(&self) -> Result<()>;
}

/// What comes of something that goes on whether or not it is polled.
pub(crate) type Later<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A completion's row, or the verdict where there is none to be written.
#[cfg(any(test, feature = "register"))]
pub(crate) type Draft = std::result::Result<transaction::OutcomeRow, Verdict>;

/// Records that are streamed. One that can't be read is an error among the others.
pub(crate) type Chunks = Box<dyn Iterator<Item = Vec<Result<Stored>>> + Send>;

/// A command about one key.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) key: Key,
    pub(crate) digest: Digest,
    pub(crate) command: Command,
    /// What a look of the caller's own has told of the key.
    pub(crate) seen: Seen,
}

/// What a look at a key has told for good, so that the store needn't look there again. It means something
/// to the store only that gave it; the default says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(pub(crate) u64);

/// Whether a read from the disk may happen in the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    Here,
    Elsewhere,
}

/// How far a look at the published state has got.
#[derive(Debug)]
pub(crate) enum Glance {
    /// The verdict, which changes nothing.
    Decided(Verdict),
    /// The record has to be read from the disk, and that may not happen here.
    Read,
    /// The state has to change.
    Write(Seen),
}

impl Glance {
    /// What a decision against the published state amounts to.
    pub(crate) fn of(decision: Decision, seen: Seen) -> Self {
        match decision.change {
            None => Self::Decided(decision.verdict),
            Some(_) => Self::Write(seen),
        }
    }
}

/// Is told what became of a key, after it was made durable and before anybody is answered.
pub(crate) trait Observer: Send + Sync + fmt::Debug + 'static {
    fn changed(&self, digest: &Digest, now: Observed);

    /// Nothing changes until the store can go on, if ever.
    fn interrupted(&self);

    /// The store has failed for good or was closed: nothing changes any more.
    fn stopped(&self);
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    Free,
    InFlight { lease_until: Timestamp },
    Completed,
}

impl Observed {
    pub(crate) fn of(record: Option<&Record>) -> Self {
        match record {
            None => Self::Free,
            Some(Record::Completed(_)) => Self::Completed,
            Some(Record::InFlight(attempt)) => Self::InFlight {
                lease_until: attempt.lease_until,
            },
        }
    }
}

/// The rules that every store of an engine needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) on_abandon: OnAbandon,
    pub(crate) max_live_keys: u64,
    /// No limit if `None`.
    pub(crate) max_live_keys_per_scope: Option<u64>,
    pub(crate) retention: Duration,
    /// Whether the text of scopes and keys is kept.
    pub(crate) keeps_keys: bool,
}

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) records: u64,
    pub(crate) segments: u64,
}

/// What a store holds and has done since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) in_flight: u64,
    pub(crate) queued: u64,
    pub(crate) segments: u64,
    pub(crate) sealed_segments: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) page_cache_bytes: u64,
    pub(crate) replay_cache_bytes: u64,
    pub(crate) commits: u64,
    pub(crate) entries_written: u64,
    pub(crate) refused_overloaded: u64,
    pub(crate) failed_sweeps: u64,
    pub(crate) failed_seals: u64,
    pub(crate) resumptions: u64,
    pub(crate) register_losses: u64,
    pub(crate) clock_step: Option<Duration>,
}

/// The answer to a write that found the store failed.
pub(crate) fn failed(reason: &str) -> Error {
    Error::new(
        ErrorKind::Failed,
        format!(
            "the store failed earlier ({reason}) and grants nothing until the engine is closed and \
             opened again"
        ),
    )
}

/// Why a store answered nothing: it is closed, or its thread is ending by a panic that may not be
/// noted yet. What was asked may have been in that thread's hands, and may be found made once the
/// engine is opened again.
pub(crate) fn gone(store: &dyn Store) -> Error {
    let reason = store.condition().err();
    // An interruption that was noted before the panic isn't why nobody answers.
    let reason = reason.filter(|reason| reason.kind() != ErrorKind::Unavailable);
    let reason = reason.unwrap_or_else(|| failed("its thread panicked"));
    reason.of_unknown_outcome()
}

/// The answer to a write that finds the store busy to go on after an error.
pub(crate) fn interrupted(reason: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the store is interrupted ({reason}); it tries again and again to go on, and grants nothing until \
             it can: see to the disk, or retry later"
        ),
    )
}
