//! The thread that everything on a register runs in.

use std::future::Future;
use std::pin::Pin;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::bounded;

/// How many jobs are started before those that run have a turn.
const MOST_AT_ONCE: usize = 256;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The thread, which ends when this is dropped; what it runs then is dropped at its next pause. Nobody waits for it, so that this can
/// be dropped in async code.
///
/// Its tasks take turns in the order in which they were woken: whoever writes to a connection comes
/// after all that have something to send, and sends it in one go. With tokio's other scheduler it comes after the first.
#[derive(Debug)]
pub(crate) struct Worker {
    jobs: Jobs,
    _end: oneshot::Sender<()>,
}

/// The way to the thread.
///
/// The channel has no limit of its own: it holds one job per call that was made and is not answered. It wakes the thread
/// once for all that come while it is busy; a task that is spawned from another thread wakes it each time.
#[derive(Clone, Debug)]
pub(crate) struct Jobs(UnboundedSender<Job>);

impl Worker {
    pub(crate) fn start(name: &str) -> Result<Self> {
        let no_thread =
            |error| Error::with_source(ErrorKind::Io, "a thread can't be started", error);
        let (jobs, queue) = unbounded_channel();
        let (end, ended) = oneshot::channel();
        let (tell, has_runtime) = bounded(1);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Made here, since it may not be dropped in async code, where the caller may be.
                let runtime = Builder::new_current_thread().enable_all().build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(tell.send(Err(error))),
                };
                drop(tell.send(Ok(())));
                runtime.spawn(start_jobs(queue));
                drop(runtime.block_on(ended));
                runtime.shutdown_background();
            })
            .map_err(no_thread)?;
        let has_runtime = has_runtime.recv().map_err(|_| Error::closed())?;
        has_runtime.map_err(no_thread)?;
        Ok(Self {
            jobs: Jobs(jobs),
            _end: end,
        })
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }
}

impl Jobs {
    /// Runs something in the thread. It is dropped if the thread has ended.
    pub(crate) fn run(&self, job: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.send(Box::pin(job)));
    }
}

async fn start_jobs(mut queue: UnboundedReceiver<Job>) {
    let mut jobs = Vec::new();
    while queue.recv_many(&mut jobs, MOST_AT_ONCE).await > 0 {
        for job in jobs.drain(..) {
            tokio::spawn(job);
        }
    }
}
