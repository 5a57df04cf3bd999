//! The folder: who may use it, what lies in it, and how its entries get to the disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::disk::{self, Call, Step};
use super::edge::io_error;
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
    path: PathBuf,
    /// Holds the operating system's lock while it is open. The file is never unlinked.
    lock: Mutex<Option<File>>,
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
            Ok(metadata) if metadata.is_dir() => check_ours(path)?,
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::NotAStore,
                    "the path is a file; the engine needs a folder of its own",
                ));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(io_error("the engine's folder can't be looked at", error)),
        }
        let lock = owner_only()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|error| {
                io_error("the folder's lock file can't be opened for writing", error)
            })?;
        acquire(&lock, lock_wait)?;
        let folder = Self {
            path: path.to_owned(),
            lock: Mutex::new(Some(lock)),
            failed_syncs: AtomicU64::new(0),
        };
        folder.sync()?;
        Ok(folder)
    }

    /// Lets other engines in.
    pub(super) fn unlock(&self) {
        if let Some(lock) = self.lock.lock().take() {
            // Closing the file is not enough: a process that is being forked at this moment has a copy
            // of it, and would hold the lock until it runs its program. An error leaves just that.
            drop(lock.unlock());
        }
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.path.join(MANIFEST)
    }

    pub(super) fn unfinished_manifest(&self) -> PathBuf {
        self.path.join(format!("{MANIFEST}{UNFINISHED}"))
    }

    pub(super) fn journal(&self, id: u64) -> PathBuf {
        self.segment(SegmentFile::journal(id))
    }

    pub(super) fn sealed(&self, header: &SegmentHeader) -> PathBuf {
        self.segment(SegmentFile::sealed(header))
    }

    pub(super) fn unfinished_sealed(&self, header: &SegmentHeader) -> PathBuf {
        self.segment(SegmentFile {
            kind: FileKind::UnfinishedSealed,
            ..SegmentFile::sealed(header)
        })
    }

    pub(super) fn segment(&self, file: SegmentFile) -> PathBuf {
        self.path.join(file.name())
    }

    pub(super) fn has_manifest(&self) -> Result<bool> {
        self.manifest()
            .try_exists()
            .map_err(|error| io_error("the manifest can't be looked for", error))
    }

    /// All files of segments, listed in the manifest or not, in the order of their numbers.
    pub(super) fn segment_files(&self) -> Result<Vec<SegmentFile>> {
        let names = names(&self.path)?;
        let files = names.iter().filter_map(|name| SegmentFile::of(name));
        let mut files: Vec<SegmentFile> = files.collect();
        files.sort_unstable();
        Ok(files)
    }

    /// The bytes of all files of segments. What is unlinked meanwhile isn't counted.
    pub(super) fn segment_bytes(&self) -> u64 {
        let files = self.segment_files().unwrap_or_default();
        let sizes = files.into_iter().map(|file| {
            let path = self.segment(file);
            fs::metadata(path).map_or(0, |metadata| metadata.len())
        });
        sizes.sum()
    }

    /// A new, empty file that only its owner may read.
    pub(super) fn create_file(path: &Path) -> Result<File> {
        let mut options = owner_only();
        options.read(true).write(true).create_new(true);
        disk::call(Call::Create(path), || options.open(path))
            .map_err(|error| io_error("a file of the engine's folder can't be created", error))
    }

    /// Removes a file if it is there.
    pub(super) fn remove_file(path: &Path) -> Result<()> {
        match disk::call(Call::Remove(path), || fs::remove_file(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(
                "a file of the engine's folder can't be removed",
                error,
            )),
            _ => Ok(()),
        }
    }

    /// A step of one of the store's threads: nothing, but in the fault tests.
    pub(super) fn step(&self, step: Step) {
        disk::step(&self.path, step);
    }

    /// Gives a file its final name and makes that durable.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.durably(|| {
            disk::call(Call::Rename(from, to), || fs::rename(from, to))
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
        sync_folder(&self.path).inspect_err(|_| {
            self.failed_syncs.fetch_add(1, Ordering::SeqCst);
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
            Self::remove_file(&self.path.join(format!("{SCOPES}{UNFINISHED}")))?;
            Self::remove_file(&self.path.join(SCOPES))
        })
    }

    /// What a file holds, but no more than so many bytes of it: a longer one isn't ours, and what was cut off it fails its check.
    fn kept(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let unreadable = |error| io_error("a file of the engine's folder can't be read", error);
        match File::open(self.path.join(name)) {
            Ok(file) => {
                let mut bytes = Vec::new();
                let read = file.take(most).read_to_end(&mut bytes);
                read.map_err(unreadable)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        Self::remove_file(&unfinished)?;
        let mut file = Self::create_file(&unfinished)?;
        disk::call(Call::Write(&unfinished, bytes), || file.write_all(bytes))
            .and_then(|()| disk::call(Call::Sync(&unfinished), || file.sync_all()))
            .map_err(|error| io_error("a file of the engine's folder can't be written", error))?;
        self.rename(&unfinished, &self.path.join(name))
    }

    /// What changes when the folder is copied, and stays when it is moved: the lock file's inode and,
    /// where the file system knows it, the moment when the file was made.
    #[cfg(unix)]
    pub(super) fn identity(&self) -> Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(self.path.join(LOCK))
            .map_err(|error| io_error("the folder's lock file can't be looked at", error))?;
        let born = metadata
            .created()
            .ok()
            .and_then(|time| time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok())
            .and_then(|age| u64::try_from(age.as_nanos()).ok());
        Ok((metadata.ino(), born.unwrap_or(0)))
    }

    #[cfg(not(unix))]
    pub(super) fn identity(&self) -> Result<(u64, u64)> {
        Ok((0, 0))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// Options for a file that only its owner may read.
fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
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
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        // Another process was faster; the lock decides between the two.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => check_ours(path)?,
        other => other.map_err(|error| io_error("the engine's folder can't be created", error))?,
    }
    sync_folder(parent)
}

/// Refuses a folder that holds something, and nothing of an engine's.
fn check_ours(path: &Path) -> Result<()> {
    let names = names(path)?;
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

fn names(path: &Path) -> Result<Vec<String>> {
    let unreadable = |error| io_error("the engine's folder can't be listed", error);
    fs::read_dir(path)
        .map_err(unreadable)?
        .map(|entry| {
            let entry = entry.map_err(unreadable)?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
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

/// Syncs a folder's entries. Windows has no such call, and needs none for its journalled file system.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let sync = || File::open(path).and_then(|folder| folder.sync_all());
    disk::call(Call::SyncFolder(path), sync)
        .map_err(|error| io_error("the engine's folder can't be synced", error))
}
