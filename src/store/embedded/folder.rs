//! The folder: who may use it, what lies in it, and how its entries get to the disk.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::files::directory::{self, Directory, FileId, Name};
use super::files::disk::{self, Call, Step};
use super::files::edge::io_error;
use super::segment_file::{FileKind, SegmentFile};
use super::tally::SegmentHeader;
use crate::error::{Error, ErrorKind, Result};

const LOCK: &str = "LOCK";
const SECRET: &str = "secret";
const MANIFEST: &str = "manifest.redb";
/// How many live keys each scope has, where there is a limit on them.
const SCOPES: &str = "scopes";
const MOST_SECRET_BYTES: u64 = 1 << 10;
/// Counts of about 60 million scopes. If there ever are more, counting begins anew with each open.
const MOST_SCOPES_BYTES: u64 = 1 << 30;
/// The ending of files that are renamed once they are whole.
pub(super) const UNFINISHED: &str = ".new";

/// An engine's folder, locked against every other engine.
#[derive(Debug)]
pub(super) struct Folder {
    directory: Arc<Directory>,
    /// Holds the operating system's lock while it is open. The file is never unlinked.
    lock: Mutex<Option<File>>,
    /// Which file that is, and where it is as long as the folder is at its path.
    locked: FileId,
    place: PathBuf,
    /// What changes when the folder is copied, and stays when it is moved.
    origin: (u64, u64),
    failed_syncs: AtomicU64,
}

impl Folder {
    /// Makes the folder if there is none, and locks it. Nothing in it is read before it is locked, and
    /// a folder of somebody else's is left as it is.
    pub(super) fn open(path: &Path, lock_wait: Duration) -> Result<Self> {
        // Absolute, so that the engine stays where it is when the process changes its folder.
        let path = &std::path::absolute(path)
            .map_err(|error| io_error("the path of the engine's folder is not valid", error))?;
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::NotAStore,
                    "the path is a file; the engine needs a folder of its own",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(io_error("the engine's folder can't be looked at", error)),
        }
        let directory = Directory::open(path)
            .map_err(|error| io_error("the engine's folder can't be opened", error))?;
        check_ours(&directory)?;
        let name = directory.name(LOCK);
        let lock = open_lock(&name)?;
        acquire(&lock, lock_wait)?;
        let looked = |error| io_error("the folder's lock file can't be looked at", error);
        let folder = Self {
            directory,
            locked: directory::id_of(&lock).map_err(looked)?,
            place: name.path().to_owned(),
            origin: directory::origin_of(&lock).map_err(looked)?,
            lock: Mutex::new(Some(lock)),
            failed_syncs: AtomicU64::new(0),
        };
        folder.sync()?;
        // It may have been moved while its lock was waited for.
        match folder.check_place() {
            Err(error) if error.kind() == ErrorKind::Failed => Err(Error::new(
                ErrorKind::Unavailable,
                "the folder was moved, or its LOCK replaced, while it was opened; open it again",
            )),
            checked => checked.map(|()| folder),
        }
    }

    /// Compares what is at the path with what is locked: one call of the system.
    /// [`ErrorKind::Failed`] if the folder was moved or removed, another one is at its path, or its
    /// lock file isn't the one any more that keeps others out.
    pub(super) fn check_place(&self) -> Result<()> {
        use io::ErrorKind::{NotADirectory, NotFound};
        let found = match directory::place_of(&self.place) {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => None,
            Err(error) => {
                return Err(io_error(
                    "the path of the engine's folder can't be looked at",
                    error,
                ));
            }
        };
        if found == self.locked {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Failed,
            format!(
                "the folder that the engine has open, with its file LOCK, isn't at {} any more: it \
                 was moved or removed, or something else took its place; close the engine and see \
                 which folder is the right one",
                self.directory.path().display()
            ),
        ))
    }

    /// Lets other engines in.
    pub(super) fn unlock(&self) {
        if let Some(lock) = self.lock.lock().take() {
            // Closing the file is not enough: a process that is being forked at this moment has a copy
            // of it, and would hold the lock until it runs its program. An error leaves just that.
            drop(lock.unlock());
        }
    }

    pub(super) fn manifest(&self) -> Name {
        self.directory.name(MANIFEST)
    }

    pub(super) fn unfinished_manifest(&self) -> Name {
        self.unfinished(MANIFEST)
    }

    fn unfinished(&self, name: &str) -> Name {
        self.directory.name(format!("{name}{UNFINISHED}"))
    }

    pub(super) fn journal(&self, id: u64) -> Name {
        self.segment(SegmentFile::journal(id))
    }

    pub(super) fn unfinished_journal(&self, id: u64) -> Name {
        self.segment(SegmentFile {
            kind: FileKind::UnfinishedJournal,
            ..SegmentFile::journal(id)
        })
    }

    pub(super) fn sealed(&self, header: &SegmentHeader) -> Name {
        self.segment(SegmentFile::sealed(header))
    }

    pub(super) fn unfinished_sealed(&self, header: &SegmentHeader) -> Name {
        self.segment(SegmentFile {
            kind: FileKind::UnfinishedSealed,
            ..SegmentFile::sealed(header)
        })
    }

    pub(super) fn segment(&self, file: SegmentFile) -> Name {
        self.directory.name(file.name())
    }

    pub(super) fn has_manifest(&self) -> Result<bool> {
        self.manifest()
            .is_there()
            .map_err(|error| io_error("the manifest can't be looked for", error))
    }

    /// All files of segments, listed in the manifest or not, in the order of their numbers.
    pub(super) fn segment_files(&self) -> Result<Vec<SegmentFile>> {
        let names = names(&self.directory)?;
        let files = names.iter().filter_map(|name| SegmentFile::of(name));
        let mut files: Vec<SegmentFile> = files.collect();
        files.sort_unstable();
        Ok(files)
    }

    /// How much room there is on the disk for whom the engine runs as; `None` where the system
    /// doesn't say.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.directory.free_bytes()
    }

    /// The bytes of all files of segments. What is unlinked meanwhile isn't counted.
    pub(super) fn segment_bytes(&self) -> u64 {
        let files = self.segment_files().unwrap_or_default();
        let bytes = |file| self.segment(file).bytes().unwrap_or(0);
        files.into_iter().map(bytes).sum()
    }

    /// A new, empty file that only its owner may read.
    pub(super) fn create_file(name: &Name) -> Result<File> {
        name.create()
            .map_err(|error| io_error("a file of the engine's folder can't be created", error))
    }

    /// Removes a file if it is there.
    pub(super) fn remove_file(name: &Name) -> Result<()> {
        match name.remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(
                "a file of the engine's folder can't be removed",
                error,
            )),
            _ => Ok(()),
        }
    }

    /// A step of one of the store's threads: nothing, but in the fault tests.
    pub(super) fn step(&self, step: Step) {
        disk::step(self.directory.path(), step);
    }

    /// Gives a file its final name and makes that durable.
    pub(super) fn rename(&self, from: &Name, to: &Name) -> Result<()> {
        self.durably(|| {
            from.rename(to)
                .map_err(|error| io_error("a file can't be renamed", error))
        })
    }

    /// Changes names in the folder and makes that durable. A sync that fails meanwhile may have lost the change,
    /// whoever called it, and a later one wouldn't say so.
    pub(super) fn durably<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let failed_before = self.failed_syncs.load(Ordering::SeqCst);
        let changed = change()?;
        self.sync()?;
        if self.failed_syncs.load(Ordering::SeqCst) == failed_before {
            return Ok(changed);
        }
        let message = "a sync of the engine's folder failed in another thread";
        Err(Error::new(ErrorKind::Io, message))
    }

    /// Makes creations, renames and removals in the folder durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.directory.sync().map_err(|error| {
            self.failed_syncs.fetch_add(1, Ordering::SeqCst);
            io_error("the engine's folder can't be synced", error)
        })
    }

    /// The secret that is kept in the folder, if there is one.
    pub(super) fn secret(&self) -> Result<Option<Vec<u8>>> {
        self.kept(SECRET, MOST_SECRET_BYTES)
    }

    /// Keeps a secret in the folder, durably.
    pub(super) fn keep_secret(&self, material: &[u8]) -> Result<()> {
        self.keep(SECRET, material)
    }

    /// The counts by scope that are kept in the folder, if there are any.
    pub(super) fn scopes(&self) -> Result<Option<Vec<u8>>> {
        self.kept(SCOPES, MOST_SCOPES_BYTES)
    }

    /// Keeps counts by scope in the folder, durably, in place of those that were.
    pub(super) fn keep_scopes(&self, counts: &[u8]) -> Result<()> {
        self.keep(SCOPES, counts)
    }

    pub(super) fn remove_scopes(&self) -> Result<()> {
        self.durably(|| {
            Self::remove_file(&self.unfinished(SCOPES))?;
            Self::remove_file(&self.directory.name(SCOPES))
        })
    }

    /// What a file holds, but no more than so many bytes of it: a longer one isn't ours, and what was cut off it fails its check.
    fn kept(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let unreadable = |error| io_error("a file of the engine's folder can't be read", error);
        match self.directory.name(name).open_to_read() {
            Ok(file) => {
                let mut bytes = Vec::new();
                let read = file.take(most).read_to_end(&mut bytes);
                read.map_err(unreadable)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let unfinished = self.unfinished(name);
        Self::remove_file(&unfinished)?;
        let mut file = Self::create_file(&unfinished)?;
        disk::call(Call::Write(unfinished.path(), bytes), || {
            file.write_all(bytes)
        })
        .and_then(|()| disk::call(Call::Sync(unfinished.path()), || file.sync_all()))
        .map_err(|error| io_error("a file of the engine's folder can't be written", error))?;
        self.rename(&unfinished, &self.directory.name(name))
    }

    /// What changes when the folder is copied, and stays when it is moved. The same for all folders
    /// elsewhere than on Unix.
    pub(super) fn identity(&self) -> (u64, u64) {
        self.origin
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.unlock();
    }
}

fn make(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(Error::new(
            ErrorKind::NotAStore,
            "the parent of the engine's folder doesn't exist; create it first",
        ));
    }
    match directory::make(path) {
        // Another process was faster; the lock decides between the two.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|error| io_error("the engine's folder can't be created", error))?,
    }
    directory::sync_parent(parent)
        .map_err(|error| io_error("the parent of the engine's folder can't be synced", error))
}

/// Opens the lock file, or makes it, and nothing that a link leads to.
fn open_lock(name: &Name) -> Result<File> {
    let not_ours = || {
        Error::new(
            ErrorKind::NotAStore,
            "the folder's LOCK is a link or no file; an engine's is a file of its own",
        )
    };
    let unopened = |error| io_error("the folder's lock file can't be opened for writing", error);
    let found = name.look().map_err(unopened)?;
    if found.is_some_and(|found| !found.is_file) {
        return Err(not_ours());
    }
    let lock = name.open_to_lock().map_err(unopened)?;
    // It may have been replaced since.
    if lock.metadata().map_err(unopened)?.is_file() {
        return Ok(lock);
    }
    Err(not_ours())
}

/// Refuses a folder that others may write to, and one that holds something, and nothing of an
/// engine's.
fn check_ours(directory: &Directory) -> Result<()> {
    let may_others_write = directory.may_others_write();
    if may_others_write
        .map_err(|error| io_error("the engine's folder can't be looked at", error))?
    {
        return Err(Error::new(
            ErrorKind::NotAStore,
            "others than its owner may write to the folder, and could take its files away: run \
             chmod go-w on it, or give the engine a folder of its own below it",
        ));
    }
    let names = names(directory)?;
    let is_ours = |name: &String| {
        let finished = name.strip_suffix(UNFINISHED).unwrap_or(name);
        [LOCK, SECRET, MANIFEST, SCOPES].contains(&finished) || SegmentFile::of(name).is_some()
    };
    // Without a manifest, everything has to be what a beginning that crashed leaves, or damage.
    if names.iter().any(|name| name == MANIFEST) || names.iter().all(is_ours) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotAStore,
        "the folder holds something that isn't an engine's; give the engine a folder of its own",
    ))
}

fn names(directory: &Directory) -> Result<Vec<String>> {
    let names = directory.names();
    names.map_err(|error| io_error("the engine's folder can't be listed", error))
}

fn acquire(lock: &File, wait: Duration) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => {
                return Err(io_error("the folder can't be locked", error));
            }
            Err(TryLockError::WouldBlock) if start.elapsed() >= wait => {
                return Err(Error::new(
                    ErrorKind::Locked,
                    "another engine, in this process or another one, has the folder open; close it \
                     first, or let open wait for it with lock_wait",
                ));
            }
            // The system has no lock call with a time-out.
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
}
