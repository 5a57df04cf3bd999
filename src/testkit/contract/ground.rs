//! Where the contract's scenarios run: handles to one server, and cells that are cleared away after each.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::store::register::{Cursor, Loaded, Page, RecordId, Register, Swapped, Value, Version};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::testkit::random;

/// How long one scenario may take. A call that never ends is a failure as well.
const LONGEST: Duration = Duration::from_secs(60);
const HOUR_MS: u64 = 3_600_000;
/// How often a sweep may find something. Another test's cells may have ended, too.
const MOST_SWEEPS: usize = 10_000;

pub(in crate::testkit) struct Ground<'a, R> {
    make: &'a (dyn Fn() -> R + Sync),
    used: Mutex<Vec<RecordId>>,
    announces: AtomicBool,
}

/// A way to the server whose refusals are failures.
pub(super) struct Handle<R> {
    pub(super) register: Arc<R>,
    /// An hour before the handle was made, by the server's clock, and an hour after it.
    pub(super) ended_ms: u64,
    pub(super) later_ms: u64,
}

impl<'a, R: Register> Ground<'a, R> {
    pub(in crate::testkit) fn new(make: &'a (dyn Fn() -> R + Sync)) -> Self {
        Self {
            make,
            used: Mutex::default(),
            announces: AtomicBool::new(false),
        }
    }

    /// Whether anything that was announced was heard.
    pub(in crate::testkit) fn announces(&self) -> bool {
        self.announces.load(Ordering::Relaxed)
    }

    pub(super) fn note_that_it_announces(&self) {
        self.announces.store(true, Ordering::Relaxed);
    }

    /// Runs a scenario to its end, and then ends all cells that it has used.
    pub(super) fn run(&self, scenario: impl Future<Output = ()>) {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("onceward-testkit")
            .enable_all()
            .build()
            .unwrap();
        let in_time = runtime.block_on(async {
            let work = async {
                scenario.await;
                self.clear().await;
            };
            timeout(LONGEST, work).await
        });
        runtime.shutdown_background();
        assert!(
            in_time.is_ok(),
            "it took longer than {LONGEST:?}: a call doesn't end, or takes too long"
        );
    }

    async fn clear(&self) {
        let used = std::mem::take(&mut *self.used.lock());
        let handle = self.handle().await;
        for id in used {
            let Some(found) = handle.load(id).await.value else {
                continue;
            };
            let ended = value(found.version.to_bits().wrapping_add(1), "");
            let version = Some(found.version);
            handle.swap(id, version, &ended, handle.ended_ms).await;
        }
        handle.sweep_all().await;
    }

    /// A fresh way to the server.
    pub(super) async fn handle(&self) -> Handle<R> {
        let register = Arc::new((self.make)());
        let loaded = register.load(random::id()).await;
        let loaded = loaded.unwrap_or_else(|refused| panic!("a load was refused: {refused:?}"));
        Handle {
            register,
            ended_ms: loaded.now_ms.saturating_sub(HOUR_MS),
            later_ms: loaded.now_ms.saturating_add(HOUR_MS),
        }
    }

    /// A cell that was never written.
    pub(super) fn id(&self) -> RecordId {
        self.uses(random::id())
    }

    /// A cell that the scenario writes.
    pub(super) fn uses(&self, id: RecordId) -> RecordId {
        self.used.lock().push(id);
        id
    }
}

/// A value with this version.
pub(super) fn value(version: u64, bytes: impl AsRef<[u8]>) -> Value {
    Value {
        version: Version::from_bits(version),
        bytes: bytes.as_ref().to_vec().into(),
    }
}

/// Some value, with a version that nobody else has.
pub(super) fn some_value(bytes: impl AsRef<[u8]>) -> Value {
    value(random::number(), bytes)
}

impl<R: Register> Handle<R> {
    pub(super) async fn load(&self, id: RecordId) -> Loaded {
        let loaded = self.register.load(id).await;
        loaded.unwrap_or_else(|refused| panic!("a load was refused: {refused:?}"))
    }

    pub(super) async fn swap(
        &self,
        id: RecordId,
        expected: Option<Version>,
        new: &Value,
        ends_at_ms: u64,
    ) -> Swapped {
        let swapped = self.register.swap(id, expected, new.clone(), ends_at_ms);
        swapped
            .await
            .unwrap_or_else(|refused| panic!("a swap was refused: {refused:?}"))
    }

    pub(super) async fn sweep(&self) -> u64 {
        let swept = self.register.sweep().await;
        swept.unwrap_or_else(|refused| panic!("a sweep was refused: {refused:?}"))
    }

    pub(super) async fn scan(&self, from: Option<Cursor>, most: usize) -> Page {
        let page = self.register.scan(from, most).await;
        page.unwrap_or_else(|refused| panic!("a scan was refused: {refused:?}"))
    }

    /// Sweeps until there is nothing to sweep.
    pub(super) async fn sweep_all(&self) {
        for _ in 0..MOST_SWEEPS {
            if self.sweep().await == 0 {
                return;
            }
        }
        panic!("a sweep still finds something after {MOST_SWEEPS} of them");
    }

    /// Makes or replaces a cell that ends in an hour. Nothing stands against it.
    pub(super) async fn put(&self, id: RecordId, expected: Option<&Value>, new: &Value) {
        self.put_until(id, expected, new, self.later_ms).await;
    }

    pub(super) async fn put_until(
        &self,
        id: RecordId,
        expected: Option<&Value>,
        new: &Value,
        ends_at_ms: u64,
    ) {
        let version = expected.map(|value| value.version);
        match self.swap(id, version, new, ends_at_ms).await {
            Swapped::Done { .. } => (),
            Swapped::Mismatch(found) => panic!(
                "a swap that expected what is there, {expected:?}, was answered with a mismatch: {:?}",
                found.value
            ),
        }
    }

    /// Makes a swap that expects something else than what is there.
    pub(super) async fn fail_to_put(
        &self,
        id: RecordId,
        expected: Option<Version>,
        there: Option<&Value>,
    ) {
        let new = some_value("must not be written");
        match self.swap(id, expected, &new, self.later_ms).await {
            Swapped::Done { .. } => {
                panic!("a swap that expected {expected:?} was made where {there:?} is")
            }
            Swapped::Mismatch(found) => assert!(
                found.value.as_ref() == there,
                "a mismatch shows {:?} where {there:?} is",
                found.value
            ),
        }
        self.has(id, there).await;
    }

    /// Checks what is there.
    pub(super) async fn has(&self, id: RecordId, there: Option<&Value>) {
        let found = self.load(id).await.value;
        assert!(
            found.as_ref() == there,
            "a load gives {found:?} where {there:?} has to be"
        );
    }

    /// Checks that a cell that may be gone is gone or as it was written.
    pub(super) async fn has_or_lost(&self, id: RecordId, written: &Value) -> Option<Version> {
        let found = self.load(id).await.value?;
        assert!(
            found == *written,
            "a cell that has ended was altered: {found:?} instead of {written:?}"
        );
        Some(found.version)
    }
}
