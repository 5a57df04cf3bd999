//! Records what is done to the files of a folder, in the order in which it was done.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use super::failures::{Asked, Failing, Failures};
use super::image::Image;
use super::random::Random;

/// Tells files apart, whatever they are called at the moment.
pub type FileId = u64;

/// One operation on the files of a watched folder.
#[derive(Clone, Debug)]
pub enum Op {
    /// A new, empty file.
    Create(FileId, PathBuf),
    /// Bytes at an offset.
    Write(FileId, u64, Vec<u8>),
    /// A new length.
    SetLen(FileId, u64),
    /// Writes and lengths of the file are on the disk that were recorded before this position in the log, where
    /// the call began.
    Sync(FileId, usize),
    /// A sync failed: what was recorded before of the file may be on the disk or not, and no later sync changes that.
    FailedSync(FileId),
    /// This is what the file holds on the disk.
    Settled(FileId, Vec<u8>),
    /// The second name is the file's that had the first.
    Rename(PathBuf, PathBuf),
    /// The name is gone.
    Remove(PathBuf),
    /// Creations, renames and removals are on the disk that were recorded before this position.
    SyncFolder(usize),
    /// A sync of the folder failed: as with a file's.
    FailedSyncFolder,
    /// Something that the test noted.
    Mark(usize),
}

impl Op {
    /// The operation without the bytes.
    pub fn summary(&self) -> String {
        match self {
            Self::Write(id, offset, bytes) => {
                format!("a write of {} bytes at {offset} of file {id}", bytes.len())
            }
            Self::Settled(id, bytes) => format!("file {id} found with {} bytes", bytes.len()),
            other => format!("{other:?}"),
        }
    }
}

/// Watches one folder.
#[derive(Debug)]
pub struct Recorder {
    root: PathBuf,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<PathBuf, FileId>,
    next: FileId,
    log: Vec<Op>,
    failing: Failing,
    panic: Option<(String, usize)>,
    has_panicked: bool,
    are_syncs_held: bool,
    syncs_held: usize,
    /// How often those that were held have been let go.
    releases: u64,
}

static WATCHED: Mutex<Vec<Weak<Recorder>>> = Mutex::new(Vec::new());

impl Recorder {
    /// Records what happens in a folder from now on, for as long as the handle lives. What is there counts as
    /// created, written and synced.
    pub fn watch(root: &Path) -> io::Result<Arc<Self>> {
        let root = std::path::absolute(root)?;
        let mut state = State::default();
        if root.exists() {
            for entry in fs::read_dir(&root)? {
                let path = entry?.path();
                let id = state.name(path.clone());
                state.log.push(Op::Create(id, path.clone()));
                state.log.push(Op::Write(id, 0, fs::read(&path)?));
                let began_at = state.log.len();
                state.log.push(Op::Sync(id, began_at));
            }
            let began_at = state.log.len();
            state.log.push(Op::SyncFolder(began_at));
        }
        let recorder = Arc::new(Self {
            root,
            state: Mutex::new(state),
            released: Condvar::new(),
        });
        WATCHED.lock().push(Arc::downgrade(&recorder));
        Ok(recorder)
    }

    /// Notes something between the operations before and after it.
    pub fn mark(&self, number: usize) {
        self.state.lock().log.push(Op::Mark(number));
    }

    /// What was recorded so far.
    pub fn log(&self) -> Vec<Op> {
        self.state.lock().log.clone()
    }

    /// Who watches the folder of a file.
    pub(crate) fn of(path: &Path) -> Option<Arc<Self>> {
        let mut watched = WATCHED.lock();
        watched.retain(|recorder| recorder.strong_count() > 0);
        let mut alive = watched.iter().filter_map(Weak::upgrade);
        alive.find(|recorder| path.starts_with(&recorder.root))
    }

    /// The file that has this name, if it was seen to get it.
    pub(crate) fn file(&self, path: &Path) -> Option<FileId> {
        self.state.lock().names.get(path).copied()
    }

    /// How much was recorded so far.
    pub(crate) fn position(&self) -> usize {
        self.state.lock().log.len()
    }

    pub(crate) fn push(&self, op: Op) {
        self.state.lock().log.push(op);
    }

    /// Records something of the file that has this name, if it was seen to get it.
    pub(crate) fn push_to(&self, path: &Path, op: impl FnOnce(FileId) -> Op) {
        let mut state = self.state.lock();
        if let Some(id) = state.names.get(path).copied() {
            state.log.push(op(id));
        }
    }

    /// Whether a call goes through, or the error that it gets.
    pub(crate) fn ask(&self, asked: &Asked) -> io::Result<()> {
        self.state.lock().failing.ask(asked)
    }

    /// Lets calls fail from now on; counts them anew.
    pub fn fail(&self, which: Failures) {
        self.state.lock().failing = Failing::new(which);
    }

    /// How many calls there were since it was last said which are to fail, and how many of them did.
    pub fn calls(&self) -> (usize, usize) {
        self.state.lock().failing.counts()
    }

    /// Lets syncs of files take until it is said otherwise.
    pub fn hold_syncs(&self, are_held: bool) {
        self.state.lock().are_syncs_held = are_held;
        if !are_held {
            self.release_held_syncs();
        }
    }

    /// Lets those syncs go on that wait now; later ones are held like them.
    pub fn release_held_syncs(&self) {
        let mut state = self.state.lock();
        state.releases += 1;
        state.syncs_held = 0;
        self.released.notify_all();
    }

    /// How many syncs wait for that.
    pub fn syncs_held(&self) -> usize {
        self.state.lock().syncs_held
    }

    pub(crate) fn wait_to_sync(&self) {
        let mut state = self.state.lock();
        if !state.are_syncs_held {
            return;
        }
        state.syncs_held += 1;
        let releases = state.releases;
        while state.releases == releases {
            self.released.wait(&mut state);
        }
    }

    /// Lets a thread of the store panic when it comes to a step for the n-th time, beginning with 0.
    pub fn panic_at(&self, step: &str, nth: usize) {
        self.state.lock().panic = Some((step.to_owned(), nth));
    }

    /// Whether a thread has panicked as it was told to.
    pub fn has_panicked(&self) -> bool {
        self.state.lock().has_panicked
    }

    pub(crate) fn step(&self, step: &str) {
        let mut state = self.state.lock();
        let Some((at, left)) = &mut state.panic else {
            return;
        };
        if at != step {
            return;
        }
        if *left > 0 {
            *left -= 1;
            return;
        }
        state.panic = None;
        state.has_panicked = true;
        drop(state);
        panic!("as it was told to, at the step {step}");
    }

    /// Puts into a file what the disk may hold of it, if a sync of it has failed: until now it was what the page cache
    /// shows.
    pub(crate) fn reveal(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(id) = state.names.get(path).copied() else {
            return Ok(());
        };
        let mut newest_first = state.log.iter().rev();
        let is_told =
            |op: &&Op| matches!(op, Op::FailedSync(file) | Op::Settled(file, _) if *file == id);
        if !matches!(newest_first.find(is_told), Some(Op::FailedSync(_))) {
            return Ok(());
        }
        let mut image = Image::default();
        state.log.iter().for_each(|op| image.apply(op));
        let bytes = image.content(id, &mut Random::new(state.log.len() as u64));
        fs::write(path, &bytes)?;
        state.log.push(Op::Settled(id, bytes));
        Ok(())
    }

    /// A file was created.
    pub(crate) fn created(&self, path: &Path) {
        let mut state = self.state.lock();
        let id = state.name(path.to_owned());
        state.log.push(Op::Create(id, path.to_owned()));
    }

    /// A file got another name.
    pub(crate) fn renamed(&self, from: &Path, to: &Path) {
        let mut state = self.state.lock();
        if let Some(id) = state.names.remove(from) {
            state.names.insert(to.to_owned(), id);
        }
        state.log.push(Op::Rename(from.to_owned(), to.to_owned()));
    }

    /// A file was unlinked.
    pub(crate) fn removed(&self, path: &Path) {
        let mut state = self.state.lock();
        if state.names.remove(path).is_some() {
            state.log.push(Op::Remove(path.to_owned()));
        }
    }
}

impl State {
    fn name(&mut self, path: PathBuf) -> FileId {
        let id = self.next;
        self.next += 1;
        self.names.insert(path, id);
        id
    }
}
