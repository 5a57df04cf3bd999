//! Opening a folder: what is there, whether it is whole, and where to go on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Settings;
use super::folder::Folder;
use super::journal::Journal;
use super::log::{Log, LogWriter, Seed};
use super::manifest::{Manifest, ManifestState, RolledRow, SegmentRow};
use super::scan::Scan;
use super::segment_file::{FileKind, SegmentFile};
use super::tally::{SegmentHeader, Tally};
use super::view::View;
use crate::clock::{Timeline, Timestamp};
use crate::encryption::Cipher;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::store::replay_cache::ReplayCache;
use crate::sync::Mutex;

/// A wall clock further ahead of the record than this is reported, and delays the first unlinking.
const CLOCK_STEP: Duration = Duration::from_secs(60 * 60);

/// A folder that was opened, checked and indexed.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(super) settings: Settings,
    pub(super) timeline: Timeline,
    pub(super) folder: Arc<Folder>,
    pub(super) manifest: Manifest,
    pub(super) secret: Secret,
    pub(super) view: View,
    pub(super) active: Arc<Journal>,
    pub(super) log: LogWriter,
    pub(super) next_sequence: u64,
    pub(super) clock_step: Option<Duration>,
}

impl Recovered {
    /// The engine's time, which begins no lower than the highest time on record.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }
}

/// Opens a folder, or makes it.
pub(crate) fn recover(path: &Path, settings: &Settings) -> Result<Recovered> {
    let folder = Arc::new(Folder::open(path, settings.lock_wait)?);
    let (mut manifest, secret) = if folder.has_manifest()? {
        let manifest = Manifest::open(&folder)?;
        let secret = known_secret(&folder, manifest.state(), settings)?;
        check_encryption(manifest.state(), settings)?;
        (manifest, secret)
    } else {
        new_store(&folder, settings)?
    };
    manifest.settle()?;
    let state = manifest.state();
    remove_orphans(&folder, state, &secret)?;

    let mut scan = Scan::of(&folder, state, &secret, settings)?;
    remove_replaced(&folder, state)?;
    let highest_time = scan.highest_time.max(Timestamp(state.time_mark_ms));
    let step = Timestamp::of(settings.clock.wall()).since(highest_time);
    let clock_step = (highest_time > Timestamp(0) && step > CLOCK_STEP).then_some(step);
    let timeline = Timeline::new(Arc::clone(&settings.clock), highest_time);

    scan.end_damaged(timeline.now());
    mark_open(&folder, &mut manifest, &scan, settings)?;
    let next_sequence = manifest.state().last_sequence.max(scan.last_sequence) + 1;
    let (active, log) = new_active(
        &folder,
        &mut manifest,
        &mut scan,
        &secret,
        timeline.now(),
        settings,
    )?;
    scan.set.journals.push(Arc::clone(&active));
    let cache = ReplayCache::new(settings.replay_cache_bytes);
    let scopes = scan.scopes.take().map(Mutex::into_inner);
    let view = View::new(scan.set.clone(), cache, settings.cipher.clone(), scopes);
    scan.restore_attempts(&view, timeline.now(), settings.on_abandon)?;
    drop(scan);
    Ok(Recovered {
        settings: settings.clone(),
        timeline,
        folder,
        manifest,
        secret,
        view,
        active,
        log,
        next_sequence,
        clock_step,
    })
}

/// Begins a store in a folder that holds no more than a lock and what a crash left of a beginning.
fn new_store(folder: &Arc<Folder>, settings: &Settings) -> Result<(Manifest, Secret)> {
    if !folder.segment_files()?.is_empty() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the folder has segments and no manifest; restore it from a backup",
        ));
    }
    let no_random =
        |error| Error::with_source(ErrorKind::Io, "the system gives no random bytes", error);
    let secret = if let Some(pepper) = &settings.pepper {
        Secret::derive(pepper.as_bytes())
    } else {
        let material = Secret::random_material().map_err(no_random)?;
        folder.keep_secret(&material)?;
        Secret::derive(&material)
    };
    let random = Secret::random_material().map_err(no_random)?;
    let store_id = *random.first_chunk().expect("32 bytes hold 16");
    let state = ManifestState {
        store_id,
        secret_check: secret.check_value(),
        is_peppered: settings.pepper.is_some(),
        encryption_keys: Vec::new(),
        folder_identity: folder.identity(),
        last_sequence: 0,
        last_id: 0,
        counted_to: 0,
        time_mark_ms: 0,
        segments: Vec::new(),
        closed_with: None,
    };
    Ok((Manifest::create(folder, &state)?, secret))
}

/// The secret that the store was made with, or why it can't be had.
fn known_secret(folder: &Folder, state: &ManifestState, settings: &Settings) -> Result<Secret> {
    let config = |message: &str| Err(Error::new(ErrorKind::InvalidConfig, message));
    let secret = match (&settings.pepper, state.is_peppered) {
        (Some(pepper), true) => Secret::derive(pepper.as_bytes()),
        (None, false) => {
            let material = folder.secret()?.ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    "the store's secret is missing; restore the file 'secret' from a backup",
                )
            })?;
            Secret::derive(&material)
        }
        (None, true) => {
            return config("the folder was made with a pepper; open it with the same one");
        }
        (Some(_), false) => {
            return config("the folder was made without a pepper; open it without one");
        }
    };
    if secret.check_value() == state.secret_check {
        return Ok(secret);
    }
    if state.is_peppered {
        return config("the pepper is not the one that the folder was made with");
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "the store's secret is damaged; restore the file 'secret' from a backup",
    ))
}

/// Refuses keys that aren't those which the folder's replies were encrypted with.
fn check_encryption(state: &ManifestState, settings: &Settings) -> Result<()> {
    let config = |message: String| Err(Error::new(ErrorKind::InvalidConfig, message));
    let given = settings.cipher.as_ref().map(Cipher::checks);
    let given = given.unwrap_or_default();
    for (number, check) in &given {
        let known = state.encryption_keys.iter();
        let mut known = known.filter(|(other, _)| other == number);
        if known.any(|(_, known)| known != check) {
            return config(format!(
                "the encryption key number {number} isn't the one that replies here were encrypted with"
            ));
        }
    }
    match state.encryption_keys.last() {
        Some((last, _)) if !given.iter().any(|(number, _)| number == last) => config(format!(
            "replies in the folder are encrypted with the key number {last}; give it to Builder::encryption, to write \
             with or to read with"
        )),
        _ => Ok(()),
    }
}

/// All keys that replies were ever encrypted with, the one that is written with now included.
fn keys_written_with(state: &ManifestState, settings: &Settings) -> Vec<(u32, [u8; 32])> {
    let mut keys = state.encryption_keys.clone();
    if let Some(cipher) = &settings.cipher {
        let mut given = cipher.checks().into_iter();
        let primary = given.find(|(number, _)| *number == cipher.primary());
        keys.retain(|(number, _)| *number != cipher.primary());
        keys.extend(primary);
    }
    keys
}

/// Notes, before anything is appended, that the store is open and what of it is missing, and begins
/// a new epoch in a copy, after a restore, and where something is missing.
fn mark_open(
    folder: &Folder,
    manifest: &mut Manifest,
    scan: &Scan,
    settings: &Settings,
) -> Result<()> {
    let identity = folder.identity();
    let state = manifest.state();
    let begins_epoch =
        settings.is_restored || identity != state.folder_identity || !scan.damaged.is_empty();
    let encryption_keys = keys_written_with(state, settings);
    if !begins_epoch && state.closed_with.is_none() && encryption_keys == state.encryption_keys {
        return Ok(());
    }
    let last = state.last_sequence.max(scan.last_possible());
    let wall = Timestamp::of(settings.clock.wall());
    manifest.update(|state| {
        state.closed_with = None;
        state.encryption_keys = encryption_keys;
        for journal in &scan.set.journals {
            let rolled = journal.rolled().filter(|rolled| rolled.is_damaged);
            let row = state.segments.iter_mut();
            let mut row = row.filter(|row| row.id == journal.tally.id());
            if let (Some(rolled), Some(row)) = (rolled, row.next()) {
                row.rolled = Some(*rolled);
            }
        }
        if begins_epoch {
            state.begin_epoch(identity, wall, last);
        }
    })
}

/// Removes files of segments that the manifest doesn't list: one that was taken off the list before a crash
/// came, one that was made and not yet listed, and what an unfinished seal or merge left. A journal that was made and
/// not listed is empty; if it isn't, the manifest is an older one than the segments.
fn remove_orphans(folder: &Folder, state: &ManifestState, secret: &Secret) -> Result<()> {
    let files = folder.segment_files()?;
    let last = state.last_id;
    let first = state.segments.first().map_or(last + 1, |row| row.first_id);
    let mut spare = Vec::new();
    for &file in &files {
        let row = state.segments.iter().find(|row| row.covers(file.id));
        let is_spare = match file.kind {
            FileKind::UnfinishedSealed | FileKind::UnfinishedJournal => true,
            // What a listed file has taken the place of goes once that one was opened.
            FileKind::Journal if row.is_some() => continue,
            FileKind::Sealed if row.is_some_and(|row| is_replaced_or_listed(row, file)) => continue,
            // It was swept, or ended empty.
            FileKind::Journal if file.id <= last => true,
            FileKind::Journal => {
                let seed = Seed(secret.log_seed(&state.store_id, file.id));
                file.id == last + 1 && Log::is_blank(&folder.segment(file), seed)?
            }
            // As long as everything is there that it was made of, it is worth nothing yet.
            FileKind::Sealed => file.id < first || has_sources(&files, state, file),
        };
        check_orphan(is_spare)?;
        spare.push(file);
    }
    for file in spare {
        Folder::remove_file(&folder.segment(file))?;
    }
    Ok(())
}

/// Whether a sealed file is the one that is listed, or was merged into that.
fn is_replaced_or_listed(row: &SegmentRow, file: SegmentFile) -> bool {
    row.is_sealed && row.first_id <= file.first_id
}

/// Whether the files that an unlisted sealed one was made of are there, or those that hold the same: a journal,
/// or the segments that were to be merged. Of these the oldest may have been unlinked meanwhile.
fn has_sources(files: &[SegmentFile], state: &ManifestState, file: SegmentFile) -> bool {
    let has_file = |row: &SegmentRow| {
        let source = if row.is_sealed {
            SegmentFile::sealed(&row.header(state.store_id))
        } else {
            SegmentFile::journal(row.id)
        };
        files.contains(&source)
    };
    let holds_some = |row: &&SegmentRow| row.first_id <= file.id && file.first_id <= row.id;
    let mut sources = state.segments.iter().filter(holds_some);
    let is_listed_to_its_end = state.segments.iter().any(|row| row.covers(file.id));
    is_listed_to_its_end && sources.all(has_file)
}

/// Removes the files whose place others have taken, which were just opened.
fn remove_replaced(folder: &Folder, state: &ManifestState) -> Result<()> {
    for file in folder.segment_files()? {
        let row = state.segments.iter().find(|row| row.covers(file.id));
        let Some(row) = row.filter(|row| row.is_sealed) else {
            continue;
        };
        if file != SegmentFile::sealed(&row.header(state.store_id)) {
            Folder::remove_file(&folder.segment(file))?;
        }
    }
    Ok(())
}

fn check_orphan(is_spare: bool) -> Result<()> {
    if is_spare {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "the folder has a segment that the manifest doesn't list: the manifest is older than the \
         segments; restore the whole folder from one backup",
    ))
}

/// Makes a new active segment. To the log of a former process nothing is ever appended: what it shows may be bound to
/// what isn't on the disk.
fn new_active(
    folder: &Folder,
    manifest: &mut Manifest,
    scan: &mut Scan,
    secret: &Secret,
    now: Timestamp,
    settings: &Settings,
) -> Result<(Arc<Journal>, LogWriter)> {
    let state = manifest.state();
    let id = state.last_id + 1;
    let header = SegmentHeader {
        store_id: state.store_id,
        id,
        first_id: id,
        first_sequence: state.last_sequence.max(scan.last_sequence) + 1,
    };
    let tally = Arc::new(Tally::new(header, 0));
    let seed = Seed(secret.log_seed(&state.store_id, id));
    let (journal, log) = folder.create_journal(tally, now, seed, settings.first_fill())?;
    let ended = scan.set.active().cloned();
    let rolled = ended.as_ref().map(|ended| {
        let cut = RolledRow::ending(now, ended.content(), true);
        *ended.rolled().unwrap_or(&cut)
    });
    manifest.update(|state| {
        if let Some(rolled) = rolled {
            state.end_last(rolled, scan.set.tallies());
        }
        state.begin_next(header, now, journal.log.number());
    })?;
    if let Some(scopes) = &scan.scopes {
        scopes.lock().begin(header.first_sequence);
    }
    if let (Some(ended), Some(rolled)) = (ended, rolled) {
        ended.mark_rolled(rolled);
        if rolled.holds.entries == 0 {
            scan.set.journals.pop();
            Folder::remove_file(&folder.journal(ended.tally.id()))?;
        }
    }
    Ok((Arc::new(journal), log))
}

impl Folder {
    /// Makes an empty journal under its final name, durably. A file that a failed try left there isn't
    /// listed, and goes.
    pub(super) fn create_journal(
        &self,
        tally: Arc<Tally>,
        opened_at: Timestamp,
        seed: Seed,
        fill: u64,
    ) -> Result<(Journal, LogWriter)> {
        let name = self.journal(tally.id());
        let unfinished = self.unfinished_journal(tally.id());
        Self::remove_file(&unfinished)?;
        Self::remove_file(&name)?;
        let log = Log::create(&unfinished, seed, fill)?;
        self.take_journal(tally, opened_at, log)
    }

    /// Gives an empty log its final name, durably: it is a segment's from now on.
    pub(super) fn take_journal(
        &self,
        tally: Arc<Tally>,
        opened_at: Timestamp,
        log: LogWriter,
    ) -> Result<(Journal, LogWriter)> {
        let id = tally.id();
        self.rename(&self.unfinished_journal(id), &self.journal(id))?;
        let journal = Journal::new(tally, opened_at, Arc::clone(log.log()));
        Ok((journal, log))
    }
}
