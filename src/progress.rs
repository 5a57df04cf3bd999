//! How far a long piece of work has got.

use std::fmt;
use std::sync::Arc;

/// How far a long piece of work has got; from [`Builder::on_progress`](crate::Builder::on_progress) and
/// [`Engine::verify`](crate::Engine::verify).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How much of it is done, in the stage's unit.
    pub done: u64,
    /// How much there is to do, in the stage's unit; about, for some stages.
    pub total: u64,
}

/// A stage of a long piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Opening the sealed segments; in segments.
    Opening,
    /// Reading the logs of segments that aren't sealed; in bytes.
    Indexing,
    /// Reading everything and checking it; in keys.
    Verifying,
}

impl Progress {
    pub(crate) fn new(stage: Stage, done: u64, total: u64) -> Self {
        let total = total.max(done);
        Self { stage, done, total }
    }

    /// How much is done, from 0 to 1.
    #[allow(clippy::cast_precision_loss)] // A bar on a screen has no 52 bits.
    pub fn fraction(&self) -> f64 {
        if self.total == 0 {
            return 1.0;
        }
        self.done as f64 / self.total as f64
    }
}

/// Who is told of the progress.
#[derive(Clone)]
pub(crate) struct OnProgress(pub(crate) Arc<dyn Fn(Progress) + Send + Sync>);

impl OnProgress {
    pub(crate) fn tell(&self, stage: Stage, done: u64, total: u64) {
        (self.0)(Progress::new(stage, done, total));
    }
}

impl Default for OnProgress {
    fn default() -> Self {
        Self(Arc::new(|_| {}))
    }
}

impl fmt::Debug for OnProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnProgress")
    }
}
