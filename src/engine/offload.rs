//! Runs blocking work of `_async` calls in a thread of its own, so that no executor's thread waits for
//! the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_channel::oneshot;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// The thread `onceward-reader` and the way to it.
///
/// The channel has no limit of its own: it holds one read per call that was made and is not answered.
#[derive(Debug)]
pub(super) struct Offload {
    jobs: Mutex<Option<Sender<Job>>>,
}

impl Offload {
    pub(super) fn start() -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = unbounded::<Job>();
        let thread = thread::Builder::new()
            .name("onceward-reader".to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))?;
        let offload = Self {
            jobs: Mutex::new(Some(jobs)),
        };
        Ok((offload, thread))
    }

    /// Runs `work` in the thread. Dropping the future leaves the work running, its result unused.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move || {
            // The thread outlives a panic; the caller learns of it by the channel's end.
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                drop(sender.send(result));
            }
        });
        let is_queued = match &*self.jobs.lock() {
            Some(jobs) => jobs.send(job).is_ok(),
            None => false,
        };
        if !is_queued {
            return Err(Error::closed());
        }
        receiver.await.unwrap_or_else(|_| Err(no_result()))
    }

    /// Ends the thread once it has run what is queued.
    pub(super) fn stop(&self) {
        self.jobs.lock().take();
    }
}

/// Runs `work` in a new thread, for calls that happen once: opening and closing.
pub(super) async fn in_new_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || drop(sender.send(work())))
        .map_err(no_thread)?;
    receiver.await.unwrap_or_else(|_| Err(no_result()))
}

fn no_result() -> Error {
    Error::new(
        ErrorKind::Failed,
        "the thread that did the work panicked and has no result",
    )
}

/// The error for a thread that the system wouldn't start.
pub(super) fn no_thread(error: std::io::Error) -> Error {
    Error::with_source(
        ErrorKind::Io,
        "a thread of the engine couldn't be started",
        error,
    )
}
