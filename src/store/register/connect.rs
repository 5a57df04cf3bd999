//! The first contact with a register: it tells what all nodes have in common, and the time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::decider::in_time;
use super::first_cell::{self, Content, FIRST, FirstCell};
use super::server_time::ServerTime;
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
    pub(super) first: (Value, Content),
    pub(super) timeline: Timeline,
    /// The first version, which was used for the secret.
    pub(super) seed: Version,
}

/// Connects to a register, in a runtime of the store's own. The first node makes the secret.
pub(crate) fn connect<R: Register>(
    register: R,
    pepper: Option<Pepper>,
    clock: Arc<dyn Clock>,
    lease: Duration,
) -> Result<Connected<R>> {
    let worker = Worker::start("onceward-register")?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| {
        let error = std::io::Error::other(error);
        Error::with_source(ErrorKind::Io, "the system gives no random bytes", error)
    })?;
    let seed = Version(u64::from_le_bytes(seed));
    let (register, opened, timeline) = waited_in(worker.jobs(), async move {
        let opened = first_cell::opened(&register, pepper, seed, lease);
        let opened = in_time(&register, opened).await?;
        let load = async { register.load(FIRST).await.map_err(Refused::into_error) };
        let loaded = in_time(&register, load).await?;
        let timeline = Timeline::beginning_at(clock, Timestamp(loaded.now_ms));
        Ok::<_, Error>((register, opened, timeline))
    })??;
    Ok(Connected {
        worker,
        register,
        secret: opened.secret,
        first: (opened.value, opened.content),
        timeline,
        seed,
    })
}

/// The first cell as it is watched from now on.
pub(super) fn watched((value, content): (Value, Content), time: &ServerTime) -> FirstCell {
    let from = content.grants_from();
    let grants_from = if from <= time.earliest() {
        Timestamp(0)
    } else {
        time.local_at_latest(from)
    };
    FirstCell::new((value, content), grants_from)
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
