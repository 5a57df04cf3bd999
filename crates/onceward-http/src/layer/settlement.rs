//! What becomes of a key once its handler has answered: tried once while the client waits, and then
//! for as long as it can still be done.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onceward::layer::{Backoff, Lease, Timestamp};
use onceward::{ErrorKind, Guard, Reply};

use super::attempt::Fate;
use super::exchange::Shared;
use super::lease::{is_final, under_lease};
use super::running::Slot;

/// The pauses between tries in the background, where the lease isn't shorter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is to become of the key.
pub(crate) enum Settlement {
    Keep(Reply),
    KeepNote(Reply),
    Release,
    Abandon,
}

/// What couldn't be settled, for a reason that may pass.
pub(crate) struct Unsettled {
    guard: Guard,
    settlement: Settlement,
}

/// How one try has failed.
struct Failed {
    unsettled: Unsettled,
    kind: ErrorKind,
}

/// Settles the key as far as the store lets it. What is too large is replaced by its note, and that
/// by one without headers.
pub(crate) async fn tried(
    guard: Guard,
    settlement: Settlement,
    note: impl Fn() -> Reply,
) -> Result<Fate, Unsettled> {
    let mut unsettled = Unsettled { guard, settlement };
    loop {
        let is_release = matches!(unsettled.settlement, Settlement::Release);
        let failed = match unsettled.once().await {
            Ok(fate) => return Ok(fate),
            Err(failed) => failed,
        };
        let Unsettled { guard, settlement } = failed.unsettled;
        let settlement = match (failed.kind, settlement) {
            (ErrorKind::ReplyTooLarge, Settlement::Keep(_)) => Settlement::KeepNote(note()),
            (ErrorKind::ReplyTooLarge, Settlement::KeepNote(note)) if has_headers(&note) => {
                Settlement::KeepNote(Reply::not_retained(note.status()))
            }
            (kind, settlement) if !is_final(kind) => {
                return Err(Unsettled { guard, settlement });
            }
            // The client still gets the handler's answer: it is true, and a refusal would invite a
            // retry. So it does if the key was taken over, unless another answer stands by now.
            (ErrorKind::LeaseLost, _) if !is_release => return Ok(Fate::TakenOver),
            _ => return Ok(Fate::Abandoned),
        };
        unsettled = Unsettled { guard, settlement };
    }
}

fn has_headers(note: &Reply) -> bool {
    note.headers().len() + note.trailers().len() > 0
}

impl Unsettled {
    async fn once(self) -> Result<Fate, Failed> {
        let Self { guard, settlement } = self;
        let (reply, fate, kept): (_, _, fn(Reply) -> Settlement) = match settlement {
            Settlement::Keep(reply) => (reply, Fate::Kept, Settlement::Keep),
            Settlement::KeepNote(note) => (note, Fate::NotRetained, Settlement::KeepNote),
            Settlement::Release => return released(guard).await,
            Settlement::Abandon => return Ok(Fate::Abandoned),
        };
        let error = match guard.complete_async(reply).await {
            Ok(()) => return Ok(fate),
            Err(error) => error,
        };
        let (guard, reply, error) = error.into_parts();
        Err(Failed {
            kind: error.kind(),
            unsettled: Self {
                guard,
                settlement: kept(reply),
            },
        })
    }
}

async fn released(guard: Guard) -> Result<Fate, Failed> {
    let error = match guard.release_async().await {
        Ok(()) => return Ok(Fate::Released),
        Err(error) => error,
    };
    let (guard, error) = error.into_parts();
    Err(Failed {
        kind: error.kind(),
        unsettled: Unsettled {
            guard,
            settlement: Settlement::Release,
        },
    })
}

/// How many bytes of replies wait to be kept in the background.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingBytes(Arc<AtomicUsize>);

/// So many bytes, until it is dropped.
struct Taken {
    of: PendingBytes,
    bytes: usize,
}

impl PendingBytes {
    fn take(&self, bytes: usize, most: usize) -> Option<Taken> {
        let add = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= most);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.ok().map(|_| Taken {
            of: self.clone(),
            bytes,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A key that is settled in the background.
pub(crate) struct Later {
    unsettled: Unsettled,
    renew_until: Timestamp,
    _taken: Option<Taken>,
}

impl Later {
    /// Keeps the reply in memory until then, or a note in its place if too many bytes are kept so
    /// already.
    pub(crate) fn new(
        shared: &Shared,
        unsettled: Unsettled,
        renew_until: Timestamp,
        note: impl Fn() -> Reply,
    ) -> Self {
        let Unsettled { guard, settlement } = unsettled;
        let take = |bytes| {
            let most = shared.options.max_pending_bytes;
            shared.pending.take(bytes, most)
        };
        let (settlement, taken) = match settlement {
            Settlement::Keep(reply) => match take(reply.size_bytes()) {
                Some(taken) => (Settlement::Keep(reply), Some(taken)),
                None => (Settlement::KeepNote(note()), None),
            },
            other => (other, None),
        };
        Self {
            unsettled: Unsettled { guard, settlement },
            renew_until,
            _taken: taken,
        }
    }

    /// Tries until it is settled, or somebody else has settled it, or that can't be any more.
    /// Renews the lease meanwhile for as long as that is allowed. The slot is held until then.
    pub(crate) fn settle(self, slot: Slot) -> impl Future<Output = ()> + Send {
        let lease = Arc::clone(self.unsettled.guard.lease());
        async move {
            let renew_until = self.renew_until;
            under_lease(&lease, renew_until, self.settling(&lease)).await;
            drop(slot);
        }
    }

    async fn settling(self, lease: &Lease) {
        let Self {
            mut unsettled,
            _taken,
            ..
        } = self;
        let counted = lease.settles_later();
        let longest = (lease.length() / 4).min(LONGEST_PAUSE);
        let mut backoff = Backoff::new(FIRST_PAUSE.min(longest), longest);
        loop {
            lease.pause(backoff.pause()).await;
            let Unsettled { guard, settlement } = unsettled;
            let bare = settlement.bare_note();
            match tried(guard, settlement, || bare.clone()).await {
                Ok(fate) => return counted.ended(fate.into()),
                Err(again) => unsettled = again,
            }
        }
    }
}

impl Settlement {
    /// What is kept in place of a reply that turns out to be too large.
    fn bare_note(&self) -> Reply {
        let status = match self {
            Self::Keep(reply) | Self::KeepNote(reply) => reply.status(),
            Self::Release | Self::Abandon => 500,
        };
        Reply::not_retained(status)
    }
}
