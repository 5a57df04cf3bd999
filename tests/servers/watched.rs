//! A register whose clock the test sets forward, and whose calls are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onceward::register::{
    Cursor, Loaded, Page, RecordId, Refused, Register, Swapped, Value, Version,
};

#[derive(Clone, Default)]
pub(crate) struct Watch {
    ahead_ms: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
}

pub(crate) struct Watched<R> {
    register: R,
    watch: Watch,
}

impl Watch {
    /// The same clock for several engines.
    pub(crate) fn over<R>(&self, register: R) -> Watched<R> {
        let watch = self.clone();
        Watched { register, watch }
    }

    pub(crate) fn advance(&self, time: Duration) {
        let time_ms = u64::try_from(time.as_millis()).unwrap();
        self.ahead_ms.fetch_add(time_ms, Ordering::SeqCst);
    }

    /// How many loads and swaps were asked for.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }

    fn later(&self, now_ms: u64) -> u64 {
        now_ms + self.ahead_ms.load(Ordering::SeqCst)
    }

    fn loaded(&self, mut loaded: Loaded) -> Loaded {
        loaded.now_ms = self.later(loaded.now_ms);
        loaded
    }
}

impl<R: Register> Register for Watched<R> {
    async fn load(&self, id: RecordId) -> Result<Loaded, Refused> {
        self.watch.count();
        let loaded = self.register.load(id).await?;
        Ok(self.watch.loaded(loaded))
    }

    async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: Value,
        ends_at_ms: u64,
    ) -> Result<Swapped, Refused> {
        self.watch.count();
        let ahead_ms = self.watch.ahead_ms.load(Ordering::SeqCst);
        let ends_at_ms = match ends_at_ms {
            u64::MAX => u64::MAX,
            ends_at_ms => ends_at_ms.saturating_sub(ahead_ms),
        };
        let swapped = self.register.swap(id, expected, new, ends_at_ms).await?;
        Ok(match swapped {
            Swapped::Done { now_ms } => Swapped::Done {
                now_ms: self.watch.later(now_ms),
            },
            Swapped::Mismatch(found) => Swapped::Mismatch(self.watch.loaded(found)),
        })
    }

    async fn sweep(&self) -> Result<u64, Refused> {
        self.register.sweep().await
    }

    async fn scan(&self, from: Option<Cursor>, most: usize) -> Result<Page, Refused> {
        let mut page = self.register.scan(from, most).await?;
        page.now_ms = self.watch.later(page.now_ms);
        Ok(page)
    }

    async fn announce(&self, changed: Vec<RecordId>) {
        self.register.announce(changed).await;
    }

    async fn listen(&self, changed: impl Fn(RecordId) + Send + Sync + 'static) {
        self.register.listen(changed).await;
    }

    fn timeout(&self) -> Duration {
        self.register.timeout()
    }
}
