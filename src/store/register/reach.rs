//! Whether the server does what it is asked to, as far as the last calls have told.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::sleep;

use super::Register;
use super::decider::{Decider, in_time};
use crate::error::{Error, ErrorKind, Result};

/// The pause after the first try to reach a server again; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Reach {
    is_lost: AtomicBool,
}

impl Reach {
    pub(super) fn check(&self) -> Result<()> {
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the store's server doesn't answer, or refuses what it is asked; it is asked again until it does",
            ));
        }
        Ok(())
    }
}

impl<R: Register> Decider<R> {
    /// Gives up what takes longer than the register's calls may, and notes whether the server has failed.
    pub(super) async fn in_time<T>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.noted(in_time(&self.register, work).await)
    }

    /// Notes whether the server has failed.
    pub(super) fn noted<T>(self: &Arc<Self>, result: Result<T>) -> Result<T> {
        let is_lost = matches!(&result, Err(error) if error.kind() == ErrorKind::Unavailable);
        if is_lost && !self.reach.is_lost.swap(true, Ordering::Relaxed) {
            tokio::spawn(reach_again(Arc::downgrade(self)));
        }
        result
    }
}

/// Asks until the server writes, so that an engine which nobody sends anything to is found ready again.
async fn reach_again<R: Register>(decider: Weak<Decider<R>>) {
    let mut pause = FIRST_PAUSE;
    while let Some(decider) = decider.upgrade().filter(|it| !it.running.is_closed()) {
        if decider.writes().await {
            return decider.reach.is_lost.store(false, Ordering::Relaxed);
        }
        drop(decider);
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}
