//! What a layer needs of the engine beyond what everybody calls.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_channel::oneshot;

use super::Engine;
use super::core::Reads;
use crate::clock::{Timer, TimerId};
use crate::decision::{Command, Verdict};
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::outcome::Outcome;
use crate::store::Glance;

impl Engine {
    /// The most bytes that a reply can have.
    pub(crate) fn max_reply_bytes(&self) -> usize {
        self.core.limits.max_reply_bytes
    }

    /// What stands under the key, if that settles a begin without a grant; `None` if only a grant could.
    pub(crate) async fn standing(
        &self,
        key: &Key,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Outcome>> {
        let (store, terms) = (&self.core.store, self.core.limits.terms);
        let digest = store.secret().digest(key);
        let command = Command::Begin {
            fingerprint: store.secret().seal(fingerprint),
            lease: terms.lease,
            retention: terms.retention,
        };
        let mut glance = store.glance(&digest, &command)?;
        if matches!(glance, Glance::Read) {
            let read = move |store: &dyn crate::store::Store| store.read(&digest, &command);
            glance = self.core.reading(Reads::Elsewhere, read).await?;
        }
        Ok(match glance {
            Glance::Decided(Verdict::Replay(reply)) => Some(Outcome::Replay(reply)),
            Glance::Decided(Verdict::Conflict(conflict)) => Some(Outcome::Conflict(conflict)),
            Glance::Decided(Verdict::InFlight(in_flight)) => Some(Outcome::InFlight(in_flight)),
            Glance::Decided(_) | Glance::Read | Glance::Write => None,
        })
    }

    /// Ends after `duration` on the engine's clock, or at once when the engine closes.
    pub(crate) fn sleep(&self, duration: Duration) -> Sleep {
        let (sender, done) = oneshot::channel();
        let when = self.core.timeline.now().plus(duration);
        let timer = self.core.timer.clone();
        let id = timer.schedule(when, move || {
            let _is_waited_for = sender.send(());
        });
        Sleep { timer, id, done }
    }
}

/// The future of [`Engine::sleep`]; dropping it takes it off the timer.
#[derive(Debug)]
pub(crate) struct Sleep {
    timer: Timer,
    id: TimerId,
    done: oneshot::Receiver<()>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.done).poll(context).map(drop)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.timer.cancel(self.id);
    }
}
