//! The first contact with a register: it tells the secret that all nodes have in common, and the time.

use std::future::Future;
use std::sync::Arc;

use super::decider::in_time;
use super::meta::{self, META};
use super::worker::{Jobs, Worker};
use super::{Refused, Register, Value, Version};
use crate::clock::{Clock, Timeline, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::{Pepper, Secret};
use crate::sync::bounded;

/// A register that answered, and what it said.
pub(crate) struct Connected<R> {
    pub(super) worker: Worker,
    pub(super) register: R,
    pub(super) secret: Secret,
    /// What the first cell holds.
    pub(super) first: Value,
    pub(super) timeline: Timeline,
    /// The first version, which was used for the secret.
    pub(super) seed: Version,
}

/// Connects to a register, in a runtime of the store's own. The first node makes the secret.
pub(crate) fn connect<R: Register>(
    register: R,
    pepper: Option<Pepper>,
    clock: Arc<dyn Clock>,
) -> Result<Connected<R>> {
    let worker = Worker::start("onceward-register")?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| {
        let error = std::io::Error::other(error);
        Error::with_source(ErrorKind::Io, "the system gives no random bytes", error)
    })?;
    let seed = Version(u64::from_le_bytes(seed));
    let (register, (secret, first), timeline) = waited_in(worker.jobs(), async move {
        let found = in_time(&register, meta::secret(&register, pepper, seed)).await?;
        let load = async { register.load(META).await.map_err(Refused::into_error) };
        let loaded = in_time(&register, load).await?;
        let timeline = Timeline::beginning_at(clock, Timestamp(loaded.now_ms));
        Ok::<_, Error>((register, found, timeline))
    })??;
    Ok(Connected {
        worker,
        register,
        secret,
        first,
        timeline,
        seed,
    })
}

impl<R> Connected<R> {
    /// The engine's time, which is the server's.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }
}

/// What a future comes to in that thread, while this thread waits.
pub(super) fn waited_in<T: Send + 'static>(
    jobs: &Jobs,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let (done, answer) = bounded(1);
    jobs.run(async move { drop(done.try_send(work.await)) });
    answer.recv().map_err(|_| Error::closed())
}
