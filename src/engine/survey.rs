//! Walks through everything that an engine holds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::Engine;
use super::core::Core;
use super::offload::in_new_thread;
use crate::error::Result;
use crate::outcome::Entry;
use crate::progress::Progress;
use crate::record::Stored;
use crate::store::Chunks;
use crate::verification::Verification;

impl Engine {
    /// Reads every segment through, checks each entry whole, and says what is wrong. Changes nothing.
    ///
    /// `on_progress` is told after every few thousand entries. Reads the disk in the calling thread, or the operating
    /// system's cache where that has the pages; others are not held up, but for the disk's time. A segment that is
    /// swept meanwhile keeps its disk space until the walk ends.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) or
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the store can't answer, or doesn't to the end. Damage is no error
    /// here: it is in [`Verification::problems`].
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let engine = onceward::Engine::open(folder.path().join("engine"))?;
    /// let found = engine.verify(|progress| eprintln!("{:.0} %", 100.0 * progress.fraction()))?;
    /// for problem in &found.problems {
    ///     eprintln!("{}: {}", problem.file, problem.what);
    /// }
    /// assert!(found.is_sound());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(&self, mut on_progress: impl FnMut(Progress)) -> Result<Verification> {
        self.core.store.verify(&mut on_progress)
    }

    /// [`verify`](Engine::verify) as a future, which reads in a thread of its own. Once polled, it reads on
    /// though the future be dropped.
    ///
    /// # Errors
    ///
    /// As [`verify`](Engine::verify), and [`ErrorKind::Io`](crate::ErrorKind::Io) if the thread can't be started.
    pub async fn verify_async(
        &self,
        mut on_progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Verification> {
        let store = Arc::clone(&self.core.store);
        in_new_thread("onceward-verify", move || store.verify(&mut on_progress)).await
    }

    /// Everything that is live, completed or in flight, one entry after the other, about in the order in
    /// which it was written.
    ///
    /// What was live at the call and stays as it is comes once. What changes meanwhile may come twice, the newer entry
    /// later, and what is begun meanwhile may be missing. The memory that it takes doesn't depend on the number
    /// of keys, and nobody has to wait for it: the engine can be closed at any moment, which ends it with an error.
    ///
    /// ```
    /// use onceward::{Engine, Fingerprint, Key, Outcome, Reply};
    /// # let folder = tempfile::tempdir()?;
    /// # let engine = Engine::open(folder.path().join("engine"))?;
    /// # let key = Key::new("acct_42", "order-17")?;
    /// # let Outcome::Proceed(guard) = engine.begin(&key, &Fingerprint::of("request"))? else { panic!() };
    /// # guard.complete(Reply::new(201, "created"))?;
    /// for entry in engine.export() {
    ///     let entry = entry?;
    ///     println!("{:?} {:?}", entry.key, entry.state);
    /// }
    /// # assert_eq!(engine.export().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn export(&self) -> Export {
        Export {
            core: Arc::clone(&self.core),
            chunks: Some(self.core.store.export()),
            ready: VecDeque::new(),
        }
    }
}

/// Live entries, one after the other; from [`Engine::export`].
///
/// Each step may read from the disk. An entry that can't be read is an error in its place, and the walk goes on;
/// after [`ErrorKind::Closed`](crate::ErrorKind::Closed) or
/// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) it ends.
pub struct Export {
    core: Arc<Core>,
    /// `None` while a chunk is read elsewhere, and once there are no more.
    chunks: Option<Chunks>,
    ready: VecDeque<Result<Stored>>,
}

impl Export {
    /// The next entry as a future, which reads in the engine's reader thread. If it is dropped while it reads,
    /// the export has come to its end.
    pub async fn next_async(&mut self) -> Option<Result<Entry>> {
        while self.ready.is_empty() {
            let mut chunks = self.chunks.take()?;
            let read = move || {
                let chunk = chunks.next();
                Ok((chunks, chunk))
            };
            match self.core.offload.run(read).await {
                Err(error) => return Some(Err(error)),
                Ok((_, None)) => return None,
                Ok((chunks, Some(chunk))) => {
                    self.chunks = Some(chunks);
                    self.ready.extend(chunk);
                }
            }
        }
        self.pop()
    }

    fn pop(&mut self) -> Option<Result<Entry>> {
        let stored = self.ready.pop_front()?;
        Some(stored.map(|stored| self.core.entry(&stored)))
    }
}

impl Iterator for Export {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            let chunk = self.chunks.as_mut()?.next();
            match chunk {
                Some(chunk) => self.ready.extend(chunk),
                None => self.chunks = None,
            }
        }
        self.pop()
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}
