//! What a disk holds after a power cut.
//!
//! What was synced is there. Of what was done since, any part may be: each sector of 512 bytes of each write by
//! itself, each length that a file had meanwhile, each creation, rename and removal.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::recorder::{FileId, Op};

const SECTOR: usize = 512;

/// Names and contents.
pub type Folder = BTreeMap<PathBuf, Vec<u8>>;

/// The state of a disk after some operations: what it surely holds, and what it may hold.
#[derive(Clone, Debug, Default)]
pub struct Image {
    files: HashMap<FileId, File>,
    names: BTreeMap<PathBuf, FileId>,
    pending_names: Vec<NameOp>,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
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
    /// Takes in one operation.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(id, path) => {
                self.files.insert(*id, File::default());
                let op = NameOp::Create(*id, path.clone());
                self.pending_names.push(op);
            }
            Op::Write(id, offset, bytes) => {
                self.change(*id, Change::Write(to_usize(*offset), bytes.clone()));
            }
            Op::SetLen(id, length) => self.change(*id, Change::SetLen(to_usize(*length))),
            Op::Sync(id) => {
                let file = self.files.entry(*id).or_default();
                for change in file.pending.drain(..) {
                    change.apply(&mut file.durable);
                }
            }
            Op::Rename(from, to) => {
                if let Some(id) = self.current(from) {
                    let op = NameOp::Rename(id, from.clone(), to.clone());
                    self.pending_names.push(op);
                }
            }
            Op::Remove(path) => self.pending_names.push(NameOp::Remove(path.clone())),
            Op::SyncFolder => {
                for op in std::mem::take(&mut self.pending_names) {
                    op.apply(&mut self.names);
                }
                let names = &self.names;
                // What has no name and no handle that matters any more.
                self.files
                    .retain(|id, _| names.values().any(|named| named == id));
            }
            Op::Mark(_) => {}
        }
    }

    fn change(&mut self, id: FileId, change: Change) {
        // Of files without a name nothing is left.
        if let Some(file) = self.files.get_mut(&id) {
            file.pending.push(change);
        }
    }

    fn current(&self, path: &PathBuf) -> Option<FileId> {
        let mut names = self.names.clone();
        for op in &self.pending_names {
            op.clone().apply(&mut names);
        }
        names.get(path).copied()
    }

    /// What the disk holds if the power goes now.
    pub fn cut(&self, random: &mut Random) -> Folder {
        let mut names = self.names.clone();
        let kept = random.share();
        for op in &self.pending_names {
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
        for change in self.pending {
            match change {
                Change::SetLen(new) => length = new,
                Change::Write(offset, data) => {
                    length = length.max(offset + data.len());
                    let mut at = 0;
                    while at < data.len() {
                        let end = data.len().min(at + SECTOR - (offset + at) % SECTOR);
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
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(length) => bytes.resize(length, 0),
            Self::Write(offset, data) => put(bytes, offset, &data),
        }
    }
}

impl NameOp {
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

/// A generator whose seed names a case.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        to_usize(self.next() % end.max(1) as u64)
    }

    /// A share in 256ths: none, all, half, or any.
    fn share(&mut self) -> usize {
        match self.below(4) {
            0 => 0,
            1 => 256,
            2 => 128,
            _ => self.below(257),
        }
    }

    fn is_below(&mut self, share: usize) -> bool {
        self.below(256) < share
    }
}
