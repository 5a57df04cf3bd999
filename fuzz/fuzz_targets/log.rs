//! A log that something has happened to: what is read from it was written there, in its order, and nothing that stands
//! before the first byte that was touched is missing or changed.
#![no_main]

use std::fs;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use onceward::fuzzing::LogFile;

#[derive(Arbitrary, Debug)]
struct Input {
    frames: Vec<Vec<Entry>>,
    harm: Vec<Harm>,
}

#[derive(Arbitrary, Debug)]
struct Entry {
    length: u16,
    byte: u8,
    begin: [u8; 8],
}

#[derive(Arbitrary, Debug)]
enum Harm {
    Set {
        at: u32,
        byte: u8,
    },
    Zero {
        at: u32,
        length: u16,
    },
    /// Blocks that stand elsewhere, too.
    Copy {
        from: u8,
        to: u8,
        blocks: u8,
    },
    CutTo(u32),
    Append {
        length: u16,
        byte: u8,
    },
}

const BLOCK: usize = 4_096;

fn place(at: u32, bytes: &[u8]) -> usize {
    at as usize % bytes.len().max(1)
}

impl Harm {
    /// Does it, and gives the first byte that it touches.
    fn inflict(&self, bytes: &mut Vec<u8>) -> usize {
        match *self {
            Self::Set { at, byte } => {
                let at = place(at, bytes);
                if let Some(found) = bytes.get_mut(at) {
                    *found = byte;
                }
                at
            }
            Self::Zero { at, length } => {
                let at = place(at, bytes);
                let end = bytes.len().min(at + usize::from(length));
                bytes[at..end].fill(0);
                at
            }
            Self::Copy { from, to, blocks } => {
                let (from, to) = (usize::from(from) * BLOCK, usize::from(to) * BLOCK);
                let length = usize::from(blocks) * BLOCK;
                if from.max(to) + length <= bytes.len() {
                    bytes.copy_within(from..from + length, to);
                }
                to
            }
            Self::CutTo(at) => {
                let at = place(at, bytes);
                bytes.truncate(at);
                at
            }
            Self::Append { length, byte } => {
                let end = bytes.len();
                bytes.resize(end + usize::from(length), byte);
                end
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let frames: Vec<Vec<Vec<u8>>> = input
        .frames
        .iter()
        .take(12)
        .map(|entries| {
            let entries = entries.iter().take(6).map(|entry| {
                let mut bytes = vec![entry.byte; usize::from(entry.length % 9_000)];
                let begin = bytes.len().min(8);
                bytes[..begin].copy_from_slice(&entry.begin[..begin]);
                bytes
            });
            entries.collect()
        })
        .collect();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let log = LogFile::within(folder.path()).expect("it is a folder");
    let (number, begins) = log.write(&frames).expect("it can be written");
    let written: Vec<(u64, Vec<u8>)> = (1..).zip(frames.concat()).collect();
    let sound = log.walk(number).expect("it can be read");
    assert!(sound.entries == written && sound.damages == 0 && !sound.is_cut_short);

    let path = folder.path().join("log");
    let mut bytes = fs::read(&path).expect("it is there");
    let touched = input
        .harm
        .iter()
        .take(8)
        .map(|harm| harm.inflict(&mut bytes))
        .min();
    fs::write(&path, &bytes).expect("it can be changed");
    let found = log.walk(number).expect("whatever is in it");
    let mut rest = written.iter();
    for entry in &found.entries {
        assert!(
            rest.any(|written| written == entry),
            "it was written, and after the one before"
        );
    }
    // Frames that end before anything was touched are all there.
    let touched = touched.unwrap_or(usize::MAX) as u64;
    let ends = begins.iter().skip(1).copied().chain([u64::MAX]);
    let untouched = frames
        .iter()
        .zip(ends)
        .take_while(|(_, end)| *end <= touched);
    let whole: usize = untouched.map(|(entries, _)| entries.len()).sum();
    assert!(found.entries.len() >= whole && found.entries[..whole] == written[..whole]);
});
