//! The next segment's log, made in the background while the active one comes to its end.
//!
//! A frame that overwrites zeros is synced in about half the time of one that needs blocks of its
//! own, and a roll that finds its file ready has none to fill. How much is filled follows the load:
//! nothing of a log that stays small, and otherwise as much as the active one is about to take, up
//! to a limit, in step with it. Without such a log everything goes on: the writer makes one itself,
//! and fills it as it goes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::bell::Bell;
use super::folder::Folder;
use super::log::{Log, LogWriter, Seed};
use super::shared::Shared;
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, Receiver};

/// How much is filled and synced at a time. A roll waits for it.
const CHUNK: u64 = 1 << 20;
/// No log is filled further: after a crash its zeros are searched for frames. From there on the
/// writer fills it as it goes.
const MOST: u64 = 32 << 20;
/// The next log is begun once the active one has come this far, in thousandths of where it ends.
const BEGINS_AT: u64 = 500;
const WHOLE: u64 = 1_000;

/// The way to the thread that makes logs ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    bell: Bell,
    wanted: Mutex<Option<Wanted>>,
    made: Mutex<Option<Made>>,
    /// How much of the disk what is made takes.
    bytes: AtomicU64,
    /// The segment whose log couldn't be made or filled, and isn't tried again; 0 if there is none.
    given_up: AtomicU64,
}

/// A log of this segment, filled up to there.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    id: u64,
    seed: Seed,
    bytes: u64,
}

#[derive(Debug)]
struct Made {
    id: u64,
    log: LogWriter,
}

impl Ahead {
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (bell, rung) = Bell::new();
        let ahead = Self {
            bell,
            wanted: Mutex::new(None),
            made: Mutex::new(None),
            bytes: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        };
        (ahead, rung)
    }

    fn want(&self, wanted: Wanted) {
        *self.wanted.lock() = Some(wanted);
        self.bell.ring();
    }

    /// Ends the thread, once it has filled what it is filling.
    pub(super) fn stop(&self) {
        self.bell.stop();
    }

    /// How much of the disk is taken by what isn't in use yet.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The log of this segment if it is made, however much of it is filled; it has its unfinished
    /// name. Waits for a chunk that is being filled.
    pub(super) fn take(&self, id: u64) -> Option<LogWriter> {
        self.wanted.lock().take();
        let made = self.made.lock().take()?;
        self.bytes.store(0, Ordering::Relaxed);
        (made.id == id).then_some(made.log)
    }
}

impl Writer {
    /// Has the next log made, and filled in step with how this one fills.
    pub(super) fn look_ahead(&mut self) {
        let end = self.log.end();
        if end < self.looks_ahead_at {
            return;
        }
        self.looks_ahead_at = end + CHUNK / 2;
        let shared = &*self.shared;
        let of_entries = self.active.entries() * WHOLE / shared.segment_entries;
        let of_bytes = end * WHOLE / shared.segment_bytes;
        let come = of_entries.max(of_bytes).min(WHOLE);
        if come < BEGINS_AT {
            return;
        }
        let in_all = (end / come).saturating_mul(WHOLE);
        let in_all = in_all.min(shared.segment_bytes).min(MOST);
        let bytes = in_all / (WHOLE - BEGINS_AT) * (come - BEGINS_AT) + CHUNK;
        // Near the limit of the disk space it is left to what is known to be needed.
        let most = shared.max_disk_bytes.unwrap_or(u64::MAX);
        if shared.view.segments().disk_bytes().saturating_add(bytes) > most / 2 {
            return;
        }
        let header = self.active.tally.header;
        let id = header.id + 1;
        if shared.ahead.given_up.load(Ordering::Relaxed) == id {
            return;
        }
        let seed = Seed(shared.secret.log_seed(&header.store_id, id));
        shared.ahead.want(Wanted { id, seed, bytes });
    }
}

impl Shared {
    /// The thread that makes logs ahead, from start to end.
    pub(super) fn make_ahead_until_stopped(&self, rung: &Receiver<()>) {
        while rung.recv().is_ok() {
            while let Some(wanted) = self.still_wanted() {
                let fill = AssertUnwindSafe(|| self.fill_ahead(wanted));
                if !matches!(catch_unwind(fill), Ok(Ok(()))) {
                    // Whoever needs the file makes it, and meets what was met here.
                    self.ahead.given_up.store(wanted.id, Ordering::Relaxed);
                    break;
                }
            }
        }
    }

    /// What is wanted and not filled yet.
    fn still_wanted(&self) -> Option<Wanted> {
        let wanted = (*self.ahead.wanted.lock())?;
        let is_open = self.condition.check().is_ok() && !self.ahead.bell.is_stopped();
        let is_less = self.ahead.bytes() < wanted.bytes;
        (is_open && is_less).then_some(wanted)
    }

    /// Makes the file, or fills another chunk of it. On an error it is removed again.
    fn fill_ahead(&self, wanted: Wanted) -> Result<()> {
        // In a folder that is another one's now nothing is made, nor removed.
        self.check_place()?;
        let mut made = self.ahead.made.lock();
        // The writer may have gone on to another segment meanwhile.
        if !matches!(*self.ahead.wanted.lock(), Some(Wanted { id, .. }) if id == wanted.id) {
            return Ok(());
        }
        let filled = self.check_room(wanted).and_then(|()| {
            if made.as_ref().is_none_or(|made| made.id != wanted.id) {
                let name = self.folder.unfinished_journal(wanted.id);
                Folder::remove_file(&name)?;
                let log = Log::create(&name, wanted.seed, self.first_fill)?;
                *made = Some(Made { id: wanted.id, log });
            }
            let Some(made) = &mut *made else {
                return Ok(());
            };
            let taken = made.log.log().taken();
            made.log.fill(wanted.bytes.min(taken + CHUNK))?;
            let taken = made.log.log().taken();
            self.ahead.bytes.store(taken, Ordering::Relaxed);
            Ok(())
        });
        if filled.is_err() {
            self.remove_made(&mut made, wanted.id);
        }
        filled
    }

    /// Refuses to take room that others may need sooner.
    fn check_room(&self, wanted: Wanted) -> Result<()> {
        let needed = wanted.bytes.saturating_add(self.segment_bytes);
        match self.folder.free_bytes() {
            Some(free) if free < needed => {
                let message = "the disk has no room to make a log ahead";
                Err(Error::new(ErrorKind::Io, message))
            }
            _ => Ok(()),
        }
    }

    /// Removes what was made and isn't needed. If that fails, the next open does it.
    pub(super) fn drop_ahead(&self) {
        self.ahead.wanted.lock().take();
        let mut made = self.ahead.made.lock();
        if let Some(Made { id, .. }) = *made {
            self.remove_made(&mut made, id);
        }
    }

    fn remove_made(&self, made: &mut Option<Made>, id: u64) {
        *made = None;
        self.ahead.bytes.store(0, Ordering::Relaxed);
        drop(Folder::remove_file(&self.folder.unfinished_journal(id)));
    }
}
