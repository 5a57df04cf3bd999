//! What can happen to a file that nobody has open.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SECTOR: usize = 512;

#[derive(Debug)]
pub(super) struct Harm {
    file: String,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Bits, counted from the beginning of the file.
    Flip(Vec<usize>),
    CutTo(usize),
    ProlongBy(usize),
    /// A sector that reads as zeros.
    Lose(usize),
    Remove,
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 16).unwrap() % limit.max(1)
    }

    /// A byte of a file. Files are mostly empty: what is in use is hit more often.
    fn place(&mut self, bytes: &[u8]) -> usize {
        let tries = [1, 30, 30, 30][self.below(4)];
        let places = (0..tries).map(|_| self.below(bytes.len()));
        let places: Vec<_> = places.collect();
        let is_used = |at: &&usize| {
            let around = **at / 16 * 16..(**at / 16 * 16 + 16).min(bytes.len());
            bytes[around].iter().any(|byte| *byte != 0)
        };
        *places.iter().find(is_used).unwrap_or(&places[0])
    }
}

impl Harm {
    /// The same for the same seed, as far as the files are.
    pub(super) fn of(seed: u64, files: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut dice = Dice(seed);
        // The lock and the secret are a few bytes.
        let is_any = dice.below(12) == 0;
        let among = files
            .iter()
            .filter(|(name, _)| is_any || name.contains('.'));
        let among: Vec<_> = among.collect();
        let (file, bytes) = among[dice.below(among.len())];
        let what = match dice.below(20) {
            0..13 => {
                let bits = 1 + dice.below(3);
                let mut bit = || dice.place(bytes) * 8 + dice.below(8);
                What::Flip((0..bits).map(|_| bit()).collect())
            }
            13..17 => What::CutTo(dice.place(bytes)),
            17 => What::ProlongBy(1 + dice.below(3 * SECTOR)),
            18 => What::Lose(dice.place(bytes) / SECTOR),
            _ => What::Remove,
        };
        Self {
            file: file.clone(),
            what,
        }
    }

    pub(super) fn inflict(&self, folder: &Path) {
        let path = folder.join(&self.file);
        let mut bytes = fs::read(&path).unwrap();
        match &self.what {
            What::Flip(bits) => {
                for bit in bits {
                    if let Some(byte) = bytes.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                }
            }
            What::CutTo(length) => bytes.truncate(*length),
            What::ProlongBy(more) => bytes.extend((0..*more).map(|at| at.to_le_bytes()[0])),
            What::Lose(sector) => {
                let lost = bytes.chunks_mut(SECTOR).nth(*sector);
                if let Some(sector) = lost {
                    sector.fill(0);
                }
            }
            What::Remove => return fs::remove_file(path).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    }
}
