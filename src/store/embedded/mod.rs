//! The embedded store: a folder of segments, each a redb file, behind one writer.
//!
//! `docs/DESIGN.md` draws the folder, the bytes, and what a crash leaves at each step.

mod batch;
mod cache;
mod condition;
mod edge;
mod folder;
mod index;
mod lanes;
mod manifest;
mod recovery;
mod rewrite;
mod segment;
mod upkeep;
mod view;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use self::condition::Condition;
use self::folder::Folder;
use self::lanes::{Job, Lanes};
use self::manifest::Manifest;
use self::segment::Segment;
use self::view::{Found, SegmentSet, View};
use self::writer::Writer;
use super::{Answer, Figures, Glance, Observer, Request, Rules, Store, Swept};
use crate::clock::{Clock, Timeline, Timer, Timestamp};
use crate::decision::{self, Command, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::outcome::OnAbandon;
use crate::record::{Record, Stored};
use crate::secret::{Digest, Pepper, Secret};

pub(crate) use recovery::{Recovered, recover};

/// What the builder was told about the store.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) on_abandon: OnAbandon,
    pub(crate) sweep_interval: Duration,
    pub(crate) queue_depth: usize,
    pub(crate) queue_wait: Duration,
    pub(crate) lock_wait: Duration,
    pub(crate) cache_bytes: usize,
    pub(crate) replay_cache_bytes: usize,
    pub(crate) segment_entries: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) pepper: Option<Pepper>,
    pub(crate) is_restored: bool,
}

/// The store of an opened folder.
#[derive(Debug)]
pub(crate) struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, the sweeper and all callers share.
#[derive(Debug)]
struct Shared {
    secret: Secret,
    timeline: Timeline,
    rules: Rules,
    observer: Arc<dyn Observer>,
    view: View,
    lanes: Arc<Lanes>,
    condition: Condition,
    /// `None` once the store is closed.
    manifest: Mutex<Option<Manifest>>,
    folder: Folder,
    segment_entries: u64,
    segment_bytes: u64,
    segment_cache_bytes: usize,
    /// After a step of the wall clock nothing is unlinked for one sweep interval.
    sweep_not_before: Timestamp,
    clock_step: Option<Duration>,
    commits: AtomicU64,
    entries_written: AtomicU64,
    failed_sweeps: AtomicU64,
}

impl Embedded {
    /// Starts the writer of a recovered store.
    pub(crate) fn start(
        recovered: Recovered,
        timer: Timer,
        rules: Rules,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        let (settings, timeline) = (recovered.settings, recovered.timeline);
        let (lanes, exits) = Lanes::new(
            settings.queue_depth,
            settings.queue_wait,
            timeline.clone(),
            timer,
        );
        let sweep_not_before = match recovered.clock_step {
            Some(_) => timeline.now().plus(settings.sweep_interval),
            None => Timestamp(0),
        };
        let shared = Arc::new(Shared {
            secret: recovered.secret,
            timeline,
            rules,
            observer,
            view: recovered.view,
            lanes,
            condition: Condition::default(),
            manifest: Mutex::new(Some(recovered.manifest)),
            folder: recovered.folder,
            segment_entries: settings.segment_entries,
            segment_bytes: settings.segment_bytes,
            segment_cache_bytes: settings.segment_cache_bytes(),
            sweep_not_before,
            clock_step: recovered.clock_step,
            commits: AtomicU64::new(0),
            entries_written: AtomicU64::new(0),
            failed_sweeps: AtomicU64::new(0),
        });
        let writer = Writer::new(
            Arc::clone(&shared),
            exits,
            recovered.active,
            recovered.next_sequence,
        );
        let thread = std::thread::Builder::new()
            .name("onceward-writer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.work(writer)
            })
            .map_err(|error| {
                Error::with_source(ErrorKind::Io, "the writer's thread can't be started", error)
            })?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(thread)),
        })
    }
}

impl Shared {
    /// The writer's thread, from start to end.
    fn work(&self, mut writer: Writer) {
        let result = catch_unwind(AssertUnwindSafe(|| writer.run()));
        if result.is_err() {
            self.condition.fail("the writer's thread panicked");
        }
        // From here on nobody must wait for an answer: what is queued goes with the writer.
        drop(writer);
        self.lanes.clear();
        if self.condition.check().is_err() {
            self.observer.stopped();
        }
    }

    /// Decides against a published state; nothing is changed.
    fn decide(&self, record: Option<&Record>, command: &Command) -> Glance {
        self.decide_new(record, record.is_some(), command)
    }

    /// The same for a key that may count as live though its record is over.
    fn decide_new(&self, record: Option<&Record>, counts: bool, command: &Command) -> Glance {
        let is_full = !counts && self.view.live_keys() >= self.rules.max_live_keys;
        let context = Context {
            now: self.timeline.now(),
            // A grant is only ever made by the writer, with a token of its own.
            next_token: 0,
            is_full,
            on_abandon: self.rules.on_abandon,
        };
        Glance::of(decision::decide(record, command, &context))
    }

    fn with_manifest<T>(&self, work: impl FnOnce(&mut Manifest) -> Result<T>) -> Result<T> {
        let mut manifest = self.manifest.lock();
        work(manifest.as_mut().ok_or_else(Error::closed)?)
    }

    /// Notes what the active segment holds, so that the next open can tell if it is all there.
    fn note_clean_close(&self, manifest: &mut Manifest, set: &SegmentSet) -> Result<()> {
        let (Some(active), false) = (set.active(), self.condition.has_failed()) else {
            return Ok(());
        };
        let holds = active.content();
        let now = self.timeline.now();
        manifest.update(|state| {
            state.time_mark_ms = state.time_mark_ms.max(now.0);
            state.closed_with = Some(holds);
        })
    }

    /// Closes every file, once the writer is gone, and lets go of the folder.
    fn close_files(&self) -> Result<()> {
        // Not held while the files are closed: the sweeper may be waiting for it.
        let taken = self.manifest.lock().take();
        let Some(mut manifest) = taken else {
            return Ok(());
        };
        let set = self.view.set_segments(Vec::new());
        let mut result = self.note_clean_close(&mut manifest, &set);
        for segment in into_segments(set) {
            result = result.and(segment.close());
        }
        result = result.and(manifest.close());
        self.folder.unlock();
        result
    }
}

/// The segments themselves, once no reader is in them any more: a read takes microseconds.
fn into_segments(mut set: Arc<SegmentSet>) -> Vec<Segment> {
    let set = loop {
        match Arc::try_unwrap(set) {
            Ok(set) => break set,
            Err(shared) => set = shared,
        }
        std::thread::yield_now();
    };
    let mut segments = Vec::new();
    for mut segment in set.segments {
        segments.push(loop {
            match Arc::try_unwrap(segment) {
                Ok(segment) => break segment,
                Err(shared) => segment = shared,
            }
            std::thread::yield_now();
        });
    }
    segments
}

impl Store for Embedded {
    fn secret(&self) -> &Secret {
        &self.shared.secret
    }

    fn glance(&self, digest: &Digest, command: &Command) -> Result<Glance> {
        let shared = &*self.shared;
        shared.condition.check()?;
        if let Some(stored) = shared.view.cached(digest) {
            return Ok(shared.decide(Some(&stored.record), command));
        }
        Ok(match shared.view.find(digest)? {
            Found::Nothing => shared.decide(None, command),
            Found::Over { .. } => shared.decide_new(None, true, command),
            Found::InFlight(attempt) => shared.decide(Some(&attempt.stored.record), command),
            Found::Completed { .. } => Glance::Read,
        })
    }

    fn read(&self, digest: &Digest, command: &Command) -> Result<Glance> {
        let stored = self.load_any(digest)?;
        let record = stored.as_ref().map(|stored| &stored.record);
        Ok(self.shared.decide(record, command))
    }

    fn load(&self, digest: &Digest) -> Result<Option<Stored>> {
        let shared = &*self.shared;
        shared.condition.check()?;
        let stored = self.load_any(digest)?;
        // Closing empties the view: what wasn't found after that says nothing.
        shared.condition.check()?;
        let now = shared.timeline.now();
        Ok(stored
            .filter(|stored| !decision::is_over(&stored.record, now, shared.rules.on_abandon))
            .map(|stored| Stored::clone(&stored)))
    }

    fn submit(&self, request: Request, answer: Answer) {
        match self.shared.condition.check() {
            // A grant that reached nobody is given back while the writer finishes its queue, too.
            Err(error) if !matches!(request.command, Command::Release { .. }) => {
                answer.send(Err(error));
            }
            _ => self.shared.lanes.ask(request, answer),
        }
    }

    fn in_flight(&self) -> Vec<Arc<Stored>> {
        self.shared.attempts()
    }

    fn sweep(&self) -> Result<Swept> {
        self.shared.sweep().inspect_err(|_| {
            self.shared.failed_sweeps.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn live_keys(&self) -> u64 {
        self.shared.view.live_keys()
    }

    fn figures(&self) -> Figures {
        let shared = &*self.shared;
        let set = shared.view.segments();
        let sizes = set.segments.iter().map(|segment| {
            let path = shared.folder.segment(segment.header.id);
            std::fs::metadata(path).map_or(0, |metadata| metadata.len())
        });
        Figures {
            in_flight: shared.view.in_flight(),
            queued: shared.lanes.queued(),
            segments: set.segments.len() as u64,
            disk_bytes: sizes.sum(),
            replay_cache_bytes: shared.view.cached_bytes(),
            commits: shared.commits.load(Ordering::Relaxed),
            entries_written: shared.entries_written.load(Ordering::Relaxed),
            refused_overloaded: shared.lanes.refused(),
            failed_sweeps: shared.failed_sweeps.load(Ordering::Relaxed),
            clock_step: shared.clock_step,
        }
    }

    fn condition(&self) -> Result<()> {
        self.shared.condition.check()
    }

    fn close(&self) -> Result<()> {
        // Held to the end, so that a second close returns no earlier than the first.
        let mut writer = self.writer.lock();
        self.shared.condition.close();
        self.shared.lanes.job(Job::Stop);
        if let Some(thread) = writer.take() {
            // A writer that panicked has marked the store as failed.
            drop(thread.join());
        }
        self.shared.lanes.clear();
        self.shared.close_files()
    }
}

impl Embedded {
    /// The newest record of a key, over or not; may read from the disk.
    fn load_any(&self, digest: &Digest) -> Result<Option<Arc<Stored>>> {
        let view = &self.shared.view;
        Ok(match view.find(digest)? {
            Found::Nothing | Found::Over { .. } => None,
            Found::InFlight(attempt) => Some(attempt.stored),
            Found::Completed { segment, sequence } => match view.cached(digest) {
                Some(stored) => Some(stored),
                None => Some(view.read(digest, &segment, sequence)?),
            },
        })
    }
}
