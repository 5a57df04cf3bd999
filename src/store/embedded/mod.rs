//! The embedded store: a folder of segments, first a log and later a redb file each, behind one writer.
//!
//! `docs/DESIGN.md` draws the folder, the bytes, and what a crash leaves at each step.

mod ahead;
mod batch;
mod bell;
mod blob;
mod block;
mod budget;
mod condition;
mod desk;
mod ends;
mod export;
mod files;
mod filter;
mod folder;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod index;
mod journal;
mod journal_scan;
mod lanes;
mod log;
mod manifest;
mod merge_choice;
mod merge_input;
mod merger;
mod place;
mod recovery;
mod resume;
mod roll;
mod scan;
mod scopes;
mod sealed;
mod sealed_writer;
mod sealer;
mod segment_file;
mod set;
mod shared;
mod tally;
#[cfg(test)]
mod tests;
mod upkeep;
mod verify;
mod view;
mod warnings;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::ahead::Ahead;
use self::budget::Budget;
use self::condition::Condition;
use self::desk::Desk;
use self::export::Export;
use self::lanes::{Exits, Job, Lanes};
use self::merge_choice::Most;
use self::merger::Merging;
use self::sealer::Sealing;
use self::shared::Shared;
use self::view::{Current, Found};
use self::warnings::{Chore, Warnings};
use self::writer::Writer;
use super::{Answer, Chunks, Figures, Glance, Observer, Reads, Request, Rules, Seen, Store, Swept};
use crate::clock::{Clock, Timer, Timestamp};
use crate::damage::OnDamage;
use crate::decision::{self, Command};
use crate::encryption::Cipher;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::Meters;
use crate::outcome::OnAbandon;
use crate::progress::{OnProgress, Progress};
use crate::record::Stored;
use crate::secret::{Digest, Pepper, Secret};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, Receiver};
use crate::verification::Verification;

pub(crate) use recovery::{Recovered, recover};

/// How many full segments the disk space is good for, if it is limited.
const SEGMENTS_AT_LEAST: u64 = 16;
/// A new log takes so many bytes of the disk, whatever comes: a sixteenth of its segment's limit, between these.
const LEAST_FIRST_FILL: u64 = 64 << 10;
const MOST_FIRST_FILL: u64 = 1 << 20;
/// No merged segment holds more than so many full ones did.
const MERGED_AT_MOST: u64 = 16;

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
    pub(crate) max_disk_bytes: Option<u64>,
    /// Whether the live keys of each scope are counted.
    pub(crate) counts_scopes: bool,
    pub(crate) merge_above: usize,
    pub(crate) pepper: Option<Pepper>,
    pub(crate) cipher: Option<Cipher>,
    pub(crate) is_restored: bool,
    pub(crate) accepts_damage: Option<OnDamage>,
    pub(crate) progress: OnProgress,
    pub(crate) meters: Meters,
}

impl Settings {
    /// Segments are small beside the room that there is for all of them.
    fn segment_bytes(&self) -> u64 {
        let most = self.max_disk_bytes.unwrap_or(u64::MAX);
        self.segment_bytes.min(most / SEGMENTS_AT_LEAST)
    }

    /// How much of a new log is filled with zeros before it is used.
    fn first_fill(&self) -> u64 {
        (self.segment_bytes() / 16).clamp(LEAST_FIRST_FILL, MOST_FIRST_FILL)
    }

    fn most_merged(&self) -> Most {
        Most {
            segments: self.merge_above,
            entries: self.segment_entries.saturating_mul(MERGED_AT_MOST),
            bytes: self.segment_bytes().saturating_mul(MERGED_AT_MOST),
        }
    }

    fn budget(&self) -> Budget {
        Budget(self.cache_bytes)
    }
}

/// The store of an opened folder.
#[derive(Debug)]
pub(crate) struct Embedded {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    threads: Mutex<Vec<JoinHandle<()>>>,
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
        let (sealing, to_seal) = Sealing::new();
        let (ahead, to_fill) = Ahead::new();
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
            segment_bytes: settings.segment_bytes(),
            first_fill: settings.first_fill(),
            max_disk_bytes: settings.max_disk_bytes,
            budget: settings.budget(),
            sealing,
            ahead,
            merging: Merging::new(settings.most_merged()),
            warnings: Warnings::default(),
            meters: settings.meters,
            sweep_not_before,
            clock_step: recovered.clock_step,
            commits: AtomicU64::new(0),
            entries_written: AtomicU64::new(0),
            failed_sweeps: AtomicU64::new(0),
            resumptions: AtomicU64::new(0),
        });
        let writer = Writer::new(
            Arc::clone(&shared),
            recovered.active,
            recovered.log,
            recovered.next_sequence,
        );
        let desk = Desk::new(Arc::clone(&shared), writer);
        let store = Self {
            shared,
            desk,
            threads: Mutex::default(),
        };
        if let Err(error) = store.start_threads(to_seal, to_fill, exits) {
            // Ends the threads that were started.
            drop(store.close());
            return Err(error);
        }
        Ok(store)
    }

    fn start_threads(
        &self,
        to_seal: Receiver<()>,
        to_fill: Receiver<()>,
        exits: Exits,
    ) -> Result<()> {
        let shared = || Arc::clone(&self.shared);
        let (sealer, filler, desk) = (shared(), shared(), Arc::clone(&self.desk));
        self.start_thread("onceward-sealer", move || {
            sealer.seal_until_stopped(&to_seal);
        })?;
        self.start_thread("onceward-filler", move || {
            filler.make_ahead_until_stopped(&to_fill);
        })?;
        self.start_thread("onceward-writer", move || desk.work(exits))
    }

    fn start_thread(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(work).map_err(|error| {
            let message = "a thread of the store can't be started";
            Error::with_source(ErrorKind::Io, message, error)
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }
}

impl Store for Embedded {
    fn secret(&self) -> &Secret {
        &self.shared.secret
    }

    fn glance(&self, digest: &Digest, command: &Command, reads: Reads) -> Result<Glance> {
        let shared = &*self.shared;
        shared.condition.check_readable()?;
        if let Some(stored) = shared.view.cached(digest) {
            shared.meters.found_in_cache();
            return Ok(shared.decide(digest, Some(&stored.record), command, Seen::default()));
        }
        let current = match shared.view.find(digest, Seen::default())? {
            Found::Nothing(seen) => Current::nothing(seen),
            Found::InFlight(attempt) => attempt.into(),
            Found::OnDisk(_) if reads == Reads::Elsewhere => return Ok(Glance::Read),
            Found::OnDisk(place) => {
                shared.meters.read_from_disk();
                let read = shared.view.read(digest, &place);
                read.inspect_err(|error| shared.note_unread(error))?
            }
        };
        let record = current.stored.as_ref().map(|stored| &stored.record);
        Ok(shared.decide(digest, record, command, current.seen))
    }

    fn load(&self, digest: &Digest) -> Result<Option<Stored>> {
        let shared = &*self.shared;
        shared.condition.check_readable()?;
        let current = shared.look(digest, Seen::default())?;
        // Closing empties the view: what wasn't found after that says nothing.
        shared.condition.check_readable()?;
        let now = shared.timeline.now();
        Ok(current
            .stored
            .filter(|stored| !decision::is_over(&stored.record, now, shared.rules.on_abandon))
            .map(|stored| Stored::clone(&stored)))
    }

    fn submit(&self, request: Request, answer: Answer) {
        match self.shared.condition.check() {
            // A grant that reached nobody is given back while the writer finishes its queue, too.
            Err(error) if !matches!(request.command, Command::Release { .. }) => {
                answer.send(Err(error));
            }
            _ => {
                if let Some((request, answer)) = self.desk.lead((request, answer)) {
                    self.shared.lanes.ask(request, answer);
                }
            }
        }
    }

    fn in_flight(&self) -> Result<Vec<Arc<Stored>>> {
        Ok(self.shared.attempts())
    }

    fn sweep(&self) -> Result<Swept> {
        let swept = self.shared.sweep();
        self.shared.warnings.note(Chore::Sweeping, &swept);
        swept.inspect_err(|error| {
            self.shared.note_unread(error);
            self.shared.failed_sweeps.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn live_keys(&self) -> u64 {
        self.shared.view.live_keys()
    }

    fn is_disk_full(&self) -> bool {
        self.shared.is_disk_full()
    }

    #[cfg(onceward_faults)]
    fn do_counts_agree(&self) -> Option<bool> {
        self.shared.view.do_counts_agree()
    }

    fn figures(&self) -> Figures {
        let shared = &*self.shared;
        let set = shared.view.segments();
        let sealed_caches = set.sealed.iter().map(|sealed| sealed.page_cache_bytes());
        Figures {
            in_flight: shared.view.in_flight(),
            queued: shared.lanes.queued(),
            segments: set.len() as u64,
            sealed_segments: set.sealed.len() as u64,
            disk_bytes: shared.folder.segment_bytes(),
            index_bytes: set.index_bytes(),
            page_cache_bytes: sealed_caches.sum(),
            replay_cache_bytes: shared.view.cached_bytes(),
            commits: shared.commits.load(Ordering::Relaxed),
            entries_written: shared.entries_written.load(Ordering::Relaxed),
            refused_overloaded: shared.lanes.refused(),
            failed_seals: shared.sealing.failures(),
            failed_sweeps: shared.failed_sweeps.load(Ordering::Relaxed),
            resumptions: shared.resumptions.load(Ordering::Relaxed),
            clock_step: shared.clock_step,
            register_losses: 0,
        }
    }

    fn verify(&self, tell: &mut dyn FnMut(Progress)) -> Result<Verification> {
        let found = self.shared.verify(tell);
        // What couldn't be read may be readable later.
        self.shared.sealing.wake();
        found
    }

    fn export(&self) -> Chunks {
        Box::new(Export::new(Arc::clone(&self.shared)))
    }

    fn condition(&self) -> Result<()> {
        self.shared.condition.check()
    }

    /// Looks whether the folder is where it was: nobody may have written anything since.
    fn readiness(&self) -> Result<()> {
        self.condition()?;
        self.shared.check_place()?;
        self.condition()
    }

    #[cfg(any(test, feature = "register"))]
    fn check_place(&self) -> Result<()> {
        self.shared.condition.check_readable()?;
        self.shared.check_place()
    }

    fn warnings(&self) -> Vec<Error> {
        self.shared.warnings.all()
    }

    fn close(&self) -> Result<()> {
        // Held to the end, so that a second close returns no earlier than the first.
        let mut threads = self.threads.lock();
        self.shared.condition.close();
        self.shared.lanes.job(Job::Stop);
        self.shared.sealing.stop();
        self.shared.ahead.stop();
        for thread in threads.drain(..) {
            // A thread that panicked has left the store as a crash would.
            drop(thread.join());
        }
        self.shared.close_files()
    }
}
