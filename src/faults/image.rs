//! What a disk holds after a power cut.
//!
//! What was synced is there. Of what was done since, any part may be: each sector of each write by
//! itself, where a disk has sectors of 512 bytes or of 4 KiB; each length that a file had
//! meanwhile, each creation, rename and removal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use super::random::Random;
use super::recorder::{FileId, Op};

const SECTOR: usize = 512;
const LARGE_SECTOR: usize = 4_096;

/// Names and contents.
pub type Folder = BTreeMap<PathBuf, Vec<u8>>;

/// The state of a disk after some operations: what it surely holds, and what it may hold.
#[derive(Clone, Debug, Default)]
pub struct Image {
    files: HashMap<FileId, File>,
    names: BTreeMap<PathBuf, FileId>,
    /// As with a file's bytes.
    unsure_names: Vec<NameOp>,
    /// With their positions in the log.
    pending_names: Vec<(usize, NameOp)>,
    position: usize,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    /// What may be on the disk or not, whatever is synced from now on: a sync of it has failed.
    unsure: Vec<Change>,
    /// With their positions in the log.
    pending: Vec<(usize, Change)>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Clone, Debug)]
enum NameOp {
    Create(FileId, PathBuf),
    Rename(FileId, PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Image {
    /// Takes in the next operation of the log.
    pub fn apply(&mut self, op: &Op) {
        let position = self.position;
        self.position += 1;
        match op {
            Op::Create(id, path) => {
                self.files.insert(*id, File::default());
                let op = NameOp::Create(*id, path.clone());
                self.pending_names.push((position, op));
            }
            Op::Write(id, offset, bytes) => {
                self.change(*id, Change::Write(to_usize(*offset), bytes.clone()));
            }
            Op::SetLen(id, length) => self.change(*id, Change::SetLen(to_usize(*length))),
            Op::Sync(id, began_at) => {
                let file = self.files.entry(*id).or_default();
                let later = file.pending.partition_point(|(at, _)| at < began_at);
                for (_, change) in file.pending.drain(..later) {
                    file.unsure.retain(|unsure| !change.covers(unsure));
                    change.apply(&mut file.durable);
                }
            }
            Op::FailedSync(id) => {
                let file = self.files.entry(*id).or_default();
                let pending = file.pending.drain(..).map(|(_, change)| change);
                file.unsure.extend(pending.flat_map(Change::sectors));
            }
            Op::Settled(id, bytes) => {
                let file = self.files.entry(*id).or_default();
                *file = File {
                    durable: bytes.clone(),
                    ..File::default()
                };
            }
            Op::FailedSyncFolder => {
                let pending = self.pending_names.drain(..).map(|(_, op)| op);
                self.unsure_names.extend(pending);
            }
            Op::Rename(from, to) => {
                if let Some(id) = self.current(from) {
                    let op = NameOp::Rename(id, from.clone(), to.clone());
                    self.pending_names.push((position, op));
                }
            }
            Op::Remove(path) => {
                let op = NameOp::Remove(path.clone());
                self.pending_names.push((position, op));
            }
            Op::SyncFolder(began_at) => {
                let later = self.pending_names.partition_point(|(at, _)| at < began_at);
                for (_, op) in self.pending_names.drain(..later) {
                    self.unsure_names.retain(|unsure| !op.covers(unsure));
                    op.apply(&mut self.names);
                }
                self.forget_nameless();
            }
            Op::Mark(_) => {}
        }
    }

    /// Lets go of files that have no name and get none.
    fn forget_nameless(&mut self) {
        let pending = self.pending_names.iter().map(|(_, op)| op);
        let unsure = self.unsure_names.iter().chain(pending);
        let unsure = unsure.filter_map(NameOp::file);
        let named: HashSet<FileId> = self.names.values().copied().chain(unsure).collect();
        self.files.retain(|id, _| named.contains(id));
    }

    fn change(&mut self, id: FileId, change: Change) {
        // Of files without a name nothing is left.
        if let Some(file) = self.files.get_mut(&id) {
            file.pending.push((self.position - 1, change));
        }
    }

    fn current(&self, path: &PathBuf) -> Option<FileId> {
        let mut names = self.names.clone();
        let pending = self.pending_names.iter().map(|(_, op)| op);
        for op in self.unsure_names.iter().chain(pending) {
            op.clone().apply(&mut names);
        }
        names.get(path).copied()
    }

    /// What the disk may hold of one file.
    pub(crate) fn content(&self, id: FileId, random: &mut Random) -> Vec<u8> {
        let file = self.files.get(&id).cloned().unwrap_or_default();
        file.cut(random)
    }

    /// What the disk holds if the power goes now.
    pub fn cut(&self, random: &mut Random) -> Folder {
        let mut names = self.names.clone();
        let kept = random.share();
        let pending = self.pending_names.iter().map(|(_, op)| op);
        for op in self.unsure_names.iter().chain(pending) {
            if random.is_below(kept) {
                op.clone().apply(&mut names);
            }
        }
        let contents = names.into_iter().map(|(path, id)| {
            let file = self.files.get(&id).cloned().unwrap_or_default();
            (path, file.cut(random))
        });
        contents.collect()
    }
}

impl File {
    fn cut(self, random: &mut Random) -> Vec<u8> {
        let mut length = self.durable.len();
        let mut lengths = vec![length];
        let mut bytes = self.durable;
        let kept = random.share();
        let sector = [SECTOR, LARGE_SECTOR][random.below(2)];
        let pending = self.pending.into_iter().map(|(_, change)| change);
        for change in self.unsure.into_iter().chain(pending) {
            match change {
                Change::SetLen(new) => {
                    // What was cut off may come back as zeros.
                    if new < bytes.len() && random.is_below(kept) {
                        bytes.truncate(new);
                    }
                    length = new;
                }
                Change::Write(offset, data) => {
                    length = length.max(offset + data.len());
                    let mut at = 0;
                    while at < data.len() {
                        let end = data.len().min(at + sector - (offset + at) % sector);
                        if random.is_below(kept) {
                            put(&mut bytes, offset + at, &data[at..end]);
                        }
                        at = end;
                    }
                }
            }
            lengths.push(length);
        }
        // Mostly the last length is there, or the first still is.
        let at = match random.below(4) {
            0 => 0,
            1 => random.below(lengths.len()),
            _ => lengths.len() - 1,
        };
        bytes.resize(lengths[at], 0);
        bytes
    }
}

impl Change {
    /// Whether another change is of no account after this one.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write(at, data), Self::Write(earlier, bytes)) => {
                *earlier < at + data.len() && *at < earlier + bytes.len()
            }
            (Self::SetLen(_), Self::SetLen(_)) => true,
            _ => false,
        }
    }

    /// The change, sector by sector.
    fn sectors(self) -> Vec<Self> {
        let Self::Write(offset, data) = self else {
            return vec![self];
        };
        let first = (SECTOR - offset % SECTOR).min(data.len());
        let (first, rest) = data.split_at(first);
        let mut at = offset;
        let mut sectors = Vec::new();
        for sector in std::iter::once(first).chain(rest.chunks(SECTOR)) {
            sectors.push(Self::Write(at, sector.to_vec()));
            at += sector.len();
        }
        sectors
    }

    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(length) => bytes.resize(length, 0),
            Self::Write(offset, data) => put(bytes, offset, &data),
        }
    }
}

impl NameOp {
    /// Whether another operation is of no account after this one.
    fn covers(&self, other: &Self) -> bool {
        self.names().iter().any(|name| other.names().contains(name))
    }

    fn names(&self) -> Vec<&PathBuf> {
        match self {
            Self::Create(_, path) | Self::Remove(path) => vec![path],
            Self::Rename(_, from, to) => vec![from, to],
        }
    }

    fn file(&self) -> Option<FileId> {
        match self {
            Self::Create(id, _) | Self::Rename(id, ..) => Some(*id),
            Self::Remove(_) => None,
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            Self::Create(id, path) => {
                names.insert(path, id);
            }
            Self::Rename(id, from, to) => {
                names.remove(&from);
                names.insert(to, id);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
