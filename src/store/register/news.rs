//! What nodes tell one another: which keys have changed, so that nobody waits for longer than needed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;

use super::decider::Decider;
use super::worker::Jobs;
use super::{RecordId, Register};
use crate::secret::Digest;
use crate::store::Observed;

/// How many keys are announced at once, and how many may be queued. Further ones aren't announced.
const MOST_AT_ONCE: usize = 512;
const QUEUED: usize = 4_096;
/// How long changes are gathered after an announcement. The first one after a pause is announced at once.
const GATHERED: Duration = Duration::from_millis(5);

/// The way to whoever announces.
#[derive(Debug)]
pub(super) struct News(Sender<RecordId>);

impl News {
    pub(super) fn new() -> (Self, Receiver<RecordId>) {
        let (sender, receiver) = channel(QUEUED);
        (Self(sender), receiver)
    }

    /// Has a change announced that others may wait for.
    pub(super) fn tell(&self, digest: Digest, observed: Observed) {
        if !matches!(observed, Observed::InFlight { .. }) {
            // Whoever isn't told looks after a while.
            let _ = self.0.try_send(RecordId(digest));
        }
    }
}

/// Announces what is told, and hears what others announce, until the thread ends.
pub(super) fn start<R: Register>(jobs: &Jobs, shared: &Arc<Decider<R>>, told: Receiver<RecordId>) {
    jobs.run(announce(Arc::clone(shared), told));
    let listening = Arc::clone(shared);
    let heard = hears(Arc::downgrade(shared));
    jobs.run(async move { listening.register.listen(heard).await });
}

async fn announce<R: Register>(shared: Arc<Decider<R>>, mut told: Receiver<RecordId>) {
    loop {
        let mut changed = Vec::new();
        if told.recv_many(&mut changed, MOST_AT_ONCE).await == 0 {
            return;
        }
        shared.register.announce(changed).await;
        sleep(GATHERED).await;
    }
}

fn hears<R: Register>(shared: Weak<Decider<R>>) -> impl Fn(RecordId) + Send + Sync + 'static {
    move |id| {
        if let Some(shared) = shared.upgrade() {
            shared.replies.forget(&id.0);
            // Whatever it was, everybody looks.
            shared.observer.changed(&id.0, Observed::Completed);
        }
    }
}
