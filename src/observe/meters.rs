//! The metrics of one engine, by name. docs/OBSERVABILITY.md lists them for users.

use super::recorder::{Counter, Gauge, Histogram, Moment, counter, counts, gauge, seconds};
use crate::error::{Error, ErrorKind, Result};

/// The handles of one engine's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    verdicts: Verdicts,
    takeovers: Counter,
    completions: Counter,
    releases: Counter,
    pending: Pending,
    commit_seconds: Histogram,
    commit_entries: Histogram,
    queued: Gauge,
    waiters: Gauge,
    in_flight: Gauge,
    live_keys: Gauge,
    segments: Gauge,
    unsealed: Gauge,
    disk_bytes: Gauge,
    sweeps: Counter,
    failed_sweeps: Counter,
    swept_records: Counter,
    sweep_seconds: Histogram,
    seal_seconds: Histogram,
    failed_seals: Counter,
    merge_seconds: Histogram,
    cache: Cache,
    #[cfg(any(test, feature = "register"))]
    register_losses: Counter,
}

/// How often a begin has ended in which way.
#[derive(Clone, Debug)]
struct Verdicts {
    proceed: Counter,
    replay: Counter,
    conflict: Counter,
    in_flight: Counter,
    error: Counter,
}

/// What an engine holds at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    pub(crate) in_flight: u64,
    pub(crate) live_keys: u64,
    pub(crate) segments: u64,
    pub(crate) sealed_segments: u64,
    pub(crate) disk_bytes: u64,
}

/// When a piece of work began; nothing if nobody wants to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun(Moment);

impl Begun {
    pub(crate) fn now() -> Self {
        Self(Moment::now())
    }
}

/// A caller that waits.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lower();
    }
}

/// How a begin or a completion has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Proceed { attempt: u32 },
    Completed { attempt: u32 },
    Replay,
    Conflict,
    InFlight,
    Error,
}

impl Meters {
    /// The handles, from the recorder that is installed at this moment.
    pub(crate) fn new(engine: &str) -> Self {
        let plain = |name, about| counter(name, engine, None, about);
        let level = |name, about| gauge(name, engine, about);
        let time = |name, about| seconds(name, engine, about);
        Self {
            verdicts: Verdicts::new(engine),
            takeovers: plain(
                "onceward_takeovers_total",
                "Grants of a second or later attempt: an earlier one was abandoned.",
            ),
            completions: plain("onceward_completions_total", "Replies that were kept."),
            releases: plain(
                "onceward_releases_total",
                "Keys that were released by their guard.",
            ),
            pending: Pending::new(engine),
            commit_seconds: time(
                "onceward_commit_seconds",
                "How long a commit to the disk took.",
            ),
            commit_entries: counts(
                "onceward_commit_entries",
                engine,
                "How many entries shared a commit.",
            ),
            queued: level("onceward_queued", "Commands that wait for the writer."),
            waiters: level("onceward_waiters", "Callers that wait for another attempt."),
            in_flight: level(
                "onceward_in_flight",
                "Attempts that were granted and not settled.",
            ),
            live_keys: level("onceward_live_keys", "Keys that have a record."),
            segments: level("onceward_segments", "Segments on the disk."),
            unsealed: level(
                "onceward_unsealed_segments",
                "Segments that are not sealed yet, the active one included.",
            ),
            disk_bytes: level("onceward_disk_bytes", "The size of all segment files."),
            sweeps: plain("onceward_sweeps_total", "Sweeps that ended well."),
            failed_sweeps: plain("onceward_failed_sweeps_total", "Sweeps that failed."),
            swept_records: plain("onceward_swept_records_total", "Records that were swept."),
            sweep_seconds: time("onceward_sweep_seconds", "How long a sweep took."),
            seal_seconds: time(
                "onceward_seal_seconds",
                "How long it took to seal a segment.",
            ),
            failed_seals: plain(
                "onceward_failed_seals_total",
                "Seals and merges of segments that failed.",
            ),
            merge_seconds: time(
                "onceward_merge_seconds",
                "How long it took to merge segments.",
            ),
            cache: Cache::new(engine),
            #[cfg(any(test, feature = "register"))]
            register_losses: plain(
                "onceward_register_losses_total",
                "How often a register's first cell was found gone, or made anew.",
            ),
        }
    }

    pub(crate) fn ended(&self, ending: Ending) {
        let verdicts = &self.verdicts;
        match ending {
            Ending::Proceed { attempt } => {
                verdicts.proceed.add(1);
                if attempt > 1 {
                    self.takeovers.add(1);
                }
            }
            Ending::Completed { .. } => self.completions.add(1),
            Ending::Replay => verdicts.replay.add(1),
            Ending::Conflict => verdicts.conflict.add(1),
            Ending::InFlight => verdicts.in_flight.add(1),
            Ending::Error => verdicts.error.add(1),
        }
    }

    pub(crate) fn released(&self) {
        self.releases.add(1);
    }

    /// Counts an answer that is settled in the background.
    pub(crate) fn settles_later(&self) {
        self.pending.begun.add(1);
    }

    /// Counts how that has ended.
    pub(crate) fn settled_later(&self, ending: SettlementEnding) {
        let of_ending = self.pending.ended.iter().find(|(of, _)| *of == ending);
        if let Some((_, counter)) = of_ending {
            counter.add(1);
        }
    }

    /// Notes a commit that has just ended, and what waits behind it.
    pub(crate) fn committed(&self, begun: Begun, entries: usize, queued: impl FnOnce() -> u64) {
        self.commit_seconds.note_since(begun.0);
        self.commit_entries.note(entries);
        if cfg!(feature = "metrics") {
            self.queued.put(queued());
        }
    }

    /// Counts a caller that waits, until what this gives is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiters.raise();
        Waiting(&self.waiters)
    }

    /// Notes what an engine holds. Nobody is asked if nobody wants to know.
    pub(crate) fn holds(&self, levels: impl FnOnce() -> Levels) {
        if !cfg!(feature = "metrics") {
            return;
        }
        let levels = levels();
        self.in_flight.put(levels.in_flight);
        self.live_keys.put(levels.live_keys);
        self.segments.put(levels.segments);
        self.unsealed
            .put(levels.segments.saturating_sub(levels.sealed_segments));
        self.disk_bytes.put(levels.disk_bytes);
    }

    pub(crate) fn swept(&self, begun: Begun, records: Option<u64>) {
        match records {
            Some(records) => {
                self.sweeps.add(1);
                self.swept_records.add(records);
            }
            None => self.failed_sweeps.add(1),
        }
        self.sweep_seconds.note_since(begun.0);
    }

    pub(crate) fn sealed(&self, begun: Begun, result: &Result<()>) {
        match result {
            Ok(()) => self.seal_seconds.note_since(begun.0),
            Err(error) => self.failed_to_seal(error),
        }
    }

    pub(crate) fn merged(&self, begun: Begun, result: &Result<bool>) {
        match result {
            Ok(true) => self.merge_seconds.note_since(begun.0),
            Ok(false) => {}
            Err(error) => self.failed_to_seal(error),
        }
    }

    fn failed_to_seal(&self, error: &Error) {
        // A close ends what goes on.
        if error.kind() != ErrorKind::Closed {
            self.failed_seals.add(1);
        }
    }

    /// Counts a register that has lost its first cell.
    #[cfg(any(test, feature = "register"))]
    pub(crate) fn register_lost(&self) {
        self.register_losses.add(1);
    }

    pub(crate) fn found_in_cache(&self) {
        self.cache.hits.add(1);
    }

    pub(crate) fn read_from_disk(&self) {
        self.cache.misses.add(1);
    }
}

/// Answers that are settled in the background, and how that has ended, each with its name.
#[derive(Clone, Debug)]
struct Pending {
    begun: Counter,
    ended: [(SettlementEnding, Counter); 5],
}

impl Pending {
    fn new(engine: &str) -> Self {
        let ended = SettlementEnding::ALL.map(|ending| {
            let counter = counter(
                "onceward_pending_settlements_ended_total",
                engine,
                Some(("ending", ending.name())),
                "How answers ended that were settled in the background.",
            );
            (ending, counter)
        });
        Self {
            begun: counter(
                "onceward_pending_settlements_total",
                engine,
                None,
                "Answers of handlers that the store couldn't take at once: they are kept or released in the background.",
            ),
            ended,
        }
    }
}

/// How an answer has ended that was settled after its client had heard it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettlementEnding {
    /// The reply is kept.
    Kept,
    /// A note is kept in its place.
    NotRetained,
    /// The key is free.
    Released,
    /// Another attempt had taken the key.
    TakenOver,
    /// Neither could be done, and the lease ends by itself.
    Abandoned,
}

impl SettlementEnding {
    const ALL: [Self; 5] = [
        Self::Kept,
        Self::NotRetained,
        Self::Released,
        Self::TakenOver,
        Self::Abandoned,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::NotRetained => "not_retained",
            Self::Released => "released",
            Self::TakenOver => "taken_over",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Looks for a reply that is in the replay cache, or isn't.
#[derive(Clone, Debug)]
struct Cache {
    hits: Counter,
    misses: Counter,
}

impl Cache {
    fn new(engine: &str) -> Self {
        Self {
            hits: counter(
                "onceward_replay_cache_hits_total",
                engine,
                None,
                "Looks that found their reply in the replay cache; a conflict looks twice.",
            ),
            misses: counter(
                "onceward_replay_cache_misses_total",
                engine,
                None,
                "Looks that had to read the disk.",
            ),
        }
    }
}

impl Verdicts {
    fn new(engine: &str) -> Self {
        let of = |verdict| {
            counter(
                "onceward_begins_total",
                engine,
                Some(("verdict", verdict)),
                "Begins by their outcome; replay, conflict and in_flight are suppressed duplicates.",
            )
        };
        Self {
            proceed: of("proceed"),
            replay: of("replay"),
            conflict: of("conflict"),
            in_flight: of("in_flight"),
            error: of("error"),
        }
    }
}
