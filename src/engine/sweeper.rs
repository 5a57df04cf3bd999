//! The background thread that removes what is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use super::reconcile::Reconciler;
use super::stats::Sweep;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::{Begun, Levels, Meters};
use crate::store::Store;
use crate::sync::block_on;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, RecvTimeoutError, Sender, bounded};

type Asked = oneshot::Sender<Result<Sweep>>;

/// The thread `onceward-sweeper` and the way to it.
///
/// It sweeps once per interval, and whenever it is asked to. Expiry doesn't depend on it: a record
/// that is over is never answered from, whether it has been removed or not.
#[derive(Debug)]
pub(super) struct Sweeper {
    asks: Mutex<Option<Sender<Asked>>>,
}

impl Sweeper {
    pub(super) fn start(
        store: Arc<dyn Store>,
        reconciler: Option<Arc<Reconciler>>,
        meters: Meters,
        interval: Duration,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        // One ask per caller that waits is queued, and each caller waits for its answer.
        let (asks, queue) = bounded::<Asked>(64);
        let sweep = move || {
            let begun = Begun::now();
            let swept = catch_unwind(AssertUnwindSafe(|| {
                let tidied = reconciler
                    .as_ref()
                    .map(|reconciler| block_on(reconciler.tidy()));
                let swept = store.sweep()?;
                tidied.transpose().map(|_| swept)
            }));
            let swept = swept
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "the sweep panicked")));
            meters.swept(begun, swept.as_ref().ok().map(|swept| swept.records));
            observe_levels(&*store, &meters);
            let swept = swept?;
            Ok(Sweep {
                records: swept.records,
                segments: swept.segments,
            })
        };
        let thread = thread::Builder::new()
            .name("onceward-sweeper".to_owned())
            .spawn(move || {
                loop {
                    match queue.recv_timeout(interval) {
                        Ok(asked) => drop(asked.send(sweep())),
                        // A sweep that fails is counted, and tried again after the next interval.
                        Err(RecvTimeoutError::Timeout) => drop(sweep()),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })?;
        let sweeper = Self {
            asks: Mutex::new(Some(asks)),
        };
        Ok((sweeper, thread))
    }

    /// Sweeps now; ends when the sweep has.
    pub(super) async fn sweep(&self) -> Result<Sweep> {
        let (sender, receiver) = oneshot::channel();
        let asks = self.asks.lock().clone();
        match asks.map(|asks| asks.try_send(sender)) {
            None => Err(Error::closed()),
            Some(Err(_)) => Err(Error::new(
                ErrorKind::Overloaded,
                "64 sweeps are waiting already; one is enough",
            )),
            Some(Ok(())) => receiver.await.unwrap_or_else(|_| Err(Error::closed())),
        }
    }

    /// Ends the thread after the sweep that is under way.
    pub(super) fn stop(&self) {
        self.asks.lock().take();
    }
}

/// Tells those who watch what the store holds; asks the file system only if somebody does.
fn observe_levels(store: &dyn Store, meters: &Meters) {
    meters.holds(|| {
        let figures = store.figures();
        Levels {
            in_flight: figures.in_flight,
            live_keys: store.live_keys(),
            segments: figures.segments,
            sealed_segments: figures.sealed_segments,
            disk_bytes: figures.disk_bytes,
        }
    });
}
