//! What an engine tells about itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::core::{Core, disk_full, full};
use crate::error::{Error, Result};

/// The figures of an engine; from [`Engine::stats`](crate::Engine::stats).
///
/// Counts that only rise are since the engine was opened. Each figure is right on its own; together
/// they are not a snapshot of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys that have a record. A record that is over counts until it is swept, or its key is begun
    /// anew: the figure is never too low. 0 on a [register](crate::Builder::open_on), where nobody counts them.
    pub live_keys: u64,
    /// The limit on `live_keys`.
    pub max_live_keys: u64,
    /// Attempts that were granted and are not settled. Abandoned ones are counted until about 5 minutes after their
    /// lease's end, under [`Hold`](crate::OnAbandon::Hold) for as long as they are held. On a register: those that this engine
    /// has granted.
    pub in_flight: u64,
    /// Commands that wait for the store's writer, or for its server's answer, those that wait for room in the queue included.
    pub queued: u64,
    /// The limit on queued begins.
    pub queue_depth: u64,
    /// Callers that wait in `begin_or_wait`.
    pub waiters: u64,
    /// Segments on the disk.
    pub segments: u64,
    /// Those of them that are sealed. All others but one wait for it.
    pub sealed_segments: u64,
    /// The size of all segment files, in bytes, those that are just being written included.
    pub disk_bytes: u64,
    /// What the segments' indexes and filters take in memory, in bytes, about.
    pub index_bytes: u64,
    /// What the page caches hold, in bytes. [`cache_bytes`](crate::Builder::cache_bytes) is the budget.
    pub page_cache_bytes: u64,
    /// What the cache of recent replies holds, in bytes.
    pub replay_cache_bytes: u64,
    /// The limit on one reply, in bytes.
    pub max_reply_bytes: u64,
    /// Commits to the disk.
    pub commits: u64,
    /// Journal entries in those commits.
    pub entries_written: u64,
    /// Begins refused because the keys, or the disk space of their segments, were at their limit.
    pub refused_full: u64,
    /// Begins refused because the keys of their scope were at their limit.
    pub refused_scope_full: u64,
    /// Begins refused because the queue stayed full.
    pub refused_overloaded: u64,
    /// Completions refused because the reply was too large.
    pub refused_oversize: u64,
    /// Sweeps that failed. While they do, what is over keeps its disk space and counts as live.
    pub failed_sweeps: u64,
    /// Segments that couldn't be sealed, or merged, mostly for want of disk space. They are tried again, and take
    /// more memory until then.
    pub failed_seals: u64,
    /// How often the store went on in a new segment after an error of the disk.
    pub resumptions: u64,
    /// How often a register's first cell was found gone, or made anew: the server was emptied, or
    /// came back without its data. Nothing is granted then until the longest lease in use has
    /// passed.
    pub register_losses: u64,
    /// By how much the wall clock at open was ahead of the newest record, if by more than an hour. The
    /// time that has passed and a clock that was set wrong look alike; if the engine wasn't down for
    /// that long, leases and retentions have ended early.
    pub clock_step: Option<Duration>,
}

/// What one sweep removed; from [`Engine::sweep`](crate::Engine::sweep).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sweep {
    /// Records that were over and no longer count as live keys.
    pub records: u64,
    /// Segments that were unlinked.
    pub segments: u64,
}

/// Whether an engine can grant keys; from [`Engine::health`](crate::Engine::health).
#[derive(Debug)]
pub struct Health {
    error: Option<Error>,
    warnings: Vec<Error>,
}

impl Health {
    /// Whether a new key would be granted now.
    pub fn is_ready(&self) -> bool {
        self.error.is_none()
    }

    /// Why not: the store failed or is closed, or its server doesn't answer, or the keys are at their limit
    /// or their segments at the limit on disk space ([`ErrorKind::Full`](crate::ErrorKind::Full): known keys still work).
    pub fn reason(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// What fails behind the scenes while the engine goes on: a full segment can't be rolled, or
    /// rolled ones can't be sealed or merged, or a sweep fails. Each is tried again by itself, and
    /// is gone from here once that succeeds. Until then it takes memory or disk space, and time at
    /// the next open. On a register: none.
    pub fn warnings(&self) -> &[Error] {
        &self.warnings
    }
}

impl Core {
    pub(super) fn stats(&self) -> Stats {
        let figures = self.store.figures();
        Stats {
            live_keys: self.store.live_keys(),
            max_live_keys: self.limits.max_live_keys,
            in_flight: figures.in_flight,
            queued: figures.queued,
            queue_depth: self.limits.queue_depth as u64,
            waiters: self.waiters.count() as u64,
            segments: figures.segments,
            sealed_segments: figures.sealed_segments,
            disk_bytes: figures.disk_bytes,
            index_bytes: figures.index_bytes,
            page_cache_bytes: figures.page_cache_bytes,
            replay_cache_bytes: figures.replay_cache_bytes,
            max_reply_bytes: self.limits.max_reply_bytes as u64,
            commits: figures.commits,
            entries_written: figures.entries_written,
            refused_full: self.refused.full.load(Ordering::Relaxed),
            refused_scope_full: self.refused.scope_full.load(Ordering::Relaxed),
            refused_overloaded: figures.refused_overloaded,
            refused_oversize: self.refused.oversize.load(Ordering::Relaxed),
            failed_sweeps: figures.failed_sweeps,
            failed_seals: figures.failed_seals,
            resumptions: figures.resumptions,
            register_losses: figures.register_losses,
            clock_step: figures.clock_step,
        }
    }

    pub(super) fn health(&self) -> Health {
        let error = self.store.readiness().and_then(|()| self.room()).err();
        let warnings = self.store.warnings();
        Health { error, warnings }
    }

    /// Whether there is room for a new key.
    pub(super) fn room(&self) -> Result<()> {
        let most = self.limits.max_live_keys;
        if self.store.live_keys() >= most {
            return Err(full(most));
        }
        if self.store.is_disk_full() {
            return Err(disk_full());
        }
        Ok(())
    }
}
