//! What is told from what in a log: its end, damage, and what only looks like a frame.

use std::fs;
use std::path::PathBuf;

use super::frame::BLOCK_BYTES;
use super::{FrameBuffer, Log, LogWriter, Seed, Span, Step};
use crate::error::ErrorKind;
use crate::store::embedded::files::directory::{Directory, Name};

const SEED: Seed = Seed(0x5EED);
const FILL: u64 = 1 << 16;

struct Bench {
    folder: tempfile::TempDir,
    name: Name,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = Directory::open(folder.path()).unwrap().name("log");
        Self { folder, name }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn create(&self) -> LogWriter {
        Log::create(&self.name, SEED, FILL).unwrap()
    }

    fn open(&self) -> Log {
        let bytes = fs::read(self.path()).unwrap();
        let number = bytes.get(..56).map_or(0, |header| {
            super::frame::number_in(header.try_into().unwrap())
        });
        Log::open(&self.name, SEED, number, false).unwrap()
    }

    /// Changes the file's bytes.
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path()).unwrap();
        change(&mut bytes);
        fs::write(self.path(), bytes).unwrap();
    }
}

fn frame(entries: &[&[u8]]) -> FrameBuffer {
    let mut frame = FrameBuffer::default();
    for entry in entries {
        frame
            .push(|out| {
                out.extend_from_slice(entry);
                Ok(())
            })
            .unwrap();
    }
    frame
}

/// A log of frames with two entries each, and where each frame begins.
fn filled(bench: &Bench, frames: u64) -> Vec<usize> {
    let mut writer = bench.create();
    let mut begins = Vec::new();
    for number in 0..frames {
        begins.push(usize::try_from(writer.end()).unwrap());
        let body = vec![7; usize::try_from(number).unwrap() * 1_000];
        let mut frame = frame(&[b"first", &body]);
        writer.append(&mut frame, 2 * number + 1).unwrap();
    }
    begins
}

/// What a walk meets: the sequences, and each range that is damaged.
fn walked(log: &Log) -> (Vec<u64>, Vec<std::ops::Range<u64>>) {
    let (mut sequences, mut damaged) = (Vec::new(), Vec::new());
    let mut walk = log.walk().unwrap();
    loop {
        match walk.next().unwrap() {
            Step::Frame(frame) => {
                let entries = frame.entries().map(|entry| entry.unwrap().0);
                sequences.extend(entries);
            }
            Step::Damage(range) => damaged.push(range),
            Step::End => return (sequences, damaged),
        }
    }
}

#[test]
fn entries_are_read_again_in_their_order_and_by_their_places() {
    let bench = Bench::new();
    let mut writer = bench.create();
    let large = vec![9; 3 << 20];
    let mut spans: Vec<Span> = Vec::new();
    let written: [&[&[u8]]; 3] = [&[b"a", b""], &[&large], &[b"b", &[5; BLOCK_BYTES]]];
    let mut sequence = 1;
    for entries in written {
        let mut frame = frame(entries);
        spans.extend(frame.spans(writer.end()));
        writer.append(&mut frame, sequence).unwrap();
        sequence += entries.len() as u64;
    }
    let flat: Vec<&[u8]> = written.concat();
    for log in [writer.log().as_ref(), &bench.open()] {
        let mut walk = log.walk().unwrap();
        assert!(matches!(walk.next().unwrap(), Step::Frame(frame) if frame.entries().count() == 0));
        let mut found = Vec::new();
        while let Step::Frame(frame) = walk.next().unwrap() {
            let entries = frame.entries().map(Result::unwrap);
            found.extend(entries.map(|(sequence, span, bytes)| (sequence, span, bytes.to_vec())));
        }
        let mut bytes = Vec::new();
        for (at, (sequence, span, entry)) in found.iter().enumerate() {
            assert_eq!((*sequence, *span), (at as u64 + 1, spans[at]));
            assert_eq!(entry, flat[at]);
            log.read(*span, &mut bytes).unwrap();
            assert_eq!(bytes, flat[at]);
        }
        assert_eq!(found.len(), flat.len());
    }
}

#[test]
fn every_frame_begins_at_a_block_of_its_own() {
    let bench = Bench::new();
    for begin in filled(&bench, 9) {
        assert_eq!(begin % BLOCK_BYTES, 0);
    }
}

#[test]
fn a_last_frame_that_is_torn_anywhere_is_no_damage() {
    let bench = Bench::new();
    let begins = filled(&bench, 5);
    let whole = fs::read(bench.path()).unwrap();
    let end = begins[4] + 56 + 2 * 4 + 5 + 4_000;
    // In sectors, and one byte alone.
    for at in (begins[4]..end).step_by(512).chain([end - 1]) {
        let mut torn = whole.clone();
        let sector = at..(at + 512).min(end);
        torn[sector].fill(0);
        fs::write(bench.path(), torn).unwrap();
        assert_eq!(walked(&bench.open()), ((1..=8).collect(), vec![]), "{at}");
        let mut torn = whole.clone();
        torn[at] ^= 1;
        fs::write(bench.path(), torn).unwrap();
        assert_eq!(walked(&bench.open()).0.len(), 8, "{at}");
    }
}

#[test]
fn damage_to_any_byte_of_a_frame_before_the_last_is_damage() {
    let bench = Bench::new();
    let begins = filled(&bench, 5);
    let whole = fs::read(bench.path()).unwrap();
    let end = begins[2] + 56 + 2 * 4 + 5 + 2_000;
    for at in (begins[2]..end).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(bench.path(), damaged).unwrap();
        let (sequences, ranges) = walked(&bench.open());
        assert_eq!(sequences, [1, 2, 3, 4, 7, 8, 9, 10], "{at}");
        let third = begins[2] as u64..begins[3] as u64;
        assert_eq!(ranges, vec![third], "{at}");
    }
}

#[test]
fn a_frame_of_the_same_log_that_stands_elsewhere_is_none() {
    let bench = Bench::new();
    let begins = filled(&bench, 5);
    // The third one, copied over the fifth and behind the end.
    bench.change(|bytes| {
        let third = bytes[begins[2]..begins[3]].to_vec();
        let behind = begins[4] + 2 * BLOCK_BYTES;
        bytes[begins[4]..behind].fill(0);
        bytes[begins[4]..begins[4] + third.len()].copy_from_slice(&third);
        bytes[behind..behind + third.len()].copy_from_slice(&third);
    });
    assert_eq!(walked(&bench.open()), ((1..=8).collect(), vec![]));
}

#[test]
fn a_frame_of_another_segment_or_store_is_none() {
    let (bench, other) = (Bench::new(), Bench::new());
    let begins = filled(&bench, 3);
    let mut writer = Log::create(&other.name, Seed(0x0DD), FILL).unwrap();
    for number in 0..9 {
        writer.append(&mut frame(&[b"entry"]), number).unwrap();
    }
    let others = fs::read(other.path()).unwrap();
    let end = begins[2] + 2 * BLOCK_BYTES;
    bench.change(|bytes| {
        let more = end..end + 8 * BLOCK_BYTES;
        bytes[more.clone()].copy_from_slice(&others[more]);
    });
    assert_eq!(walked(&bench.open()), ((1..=6).collect(), vec![]));
}

#[test]
fn frames_of_an_earlier_file_of_the_segment_are_none() {
    let (bench, earlier) = (Bench::new(), Bench::new());
    let begins = filled(&bench, 3);
    filled(&earlier, 9);
    let earlier = fs::read(earlier.path()).unwrap();
    let end = begins[2] + 2 * BLOCK_BYTES;
    bench.change(|bytes| {
        let behind = end..earlier.len().min(bytes.len());
        bytes[behind.clone()].copy_from_slice(&earlier[behind]);
    });
    assert_eq!(walked(&bench.open()), ((1..=6).collect(), vec![]));
}

#[test]
fn a_frame_that_somebody_has_put_into_a_body_is_none() {
    let bench = Bench::new();
    let mut writer = bench.create();
    writer.append(&mut frame(&[b"sound"]), 1).unwrap();
    // Whole frames of a log of the same kind, at the right offsets, in an entry of a frame that is torn.
    let begin = usize::try_from(writer.end()).unwrap();
    let crafted = Bench::new();
    let mut crafting = Log::create(&crafted.name, Seed(0), FILL).unwrap();
    while crafting.end() < 12 * BLOCK_BYTES as u64 {
        crafting.append(&mut frame(&[b"crafted"]), 2).unwrap();
    }
    let crafted = fs::read(crafted.path()).unwrap();
    let body = begin + 56 + 4;
    writer
        .append(&mut frame(&[&crafted[body..12 * BLOCK_BYTES]]), 2)
        .unwrap();
    bench.change(|bytes| bytes[begin..begin + 512].fill(0));
    assert_eq!(walked(&bench.open()), (vec![1], vec![]));
}

#[test]
fn garbage_behind_the_end_is_no_frame() {
    let bench = Bench::new();
    let begins = filled(&bench, 3);
    let end = begins[2] + 2 * BLOCK_BYTES;
    bench.change(|bytes| {
        for (at, byte) in bytes[end..].iter_mut().enumerate() {
            *byte = (at * 31 % 251).to_le_bytes()[0] | 1;
        }
    });
    assert_eq!(walked(&bench.open()), ((1..=6).collect(), vec![]));
}

#[test]
fn an_empty_frame_tells_damage_to_the_last_one_from_a_torn_end() {
    let bench = Bench::new();
    let mut writer = bench.create();
    writer.append(&mut frame(&[b"one"]), 1).unwrap();
    let last = usize::try_from(writer.end()).unwrap();
    writer.append(&mut frame(&[b"two"]), 2).unwrap();
    assert!(writer.lacks_witness());
    writer.witness(3).unwrap();
    assert!(!writer.lacks_witness());
    bench.change(|bytes| bytes[last + 50] ^= 1);
    let (sequences, damaged) = walked(&bench.open());
    assert_eq!((sequences, damaged.len()), (vec![1], 1));
}

#[test]
fn only_a_log_that_was_just_made_is_blank() {
    let bench = Bench::new();
    let mut writer = bench.create();
    let is_blank = |seed| Log::is_blank(&bench.name, seed).unwrap();
    assert!(is_blank(SEED));
    assert!(!is_blank(Seed(0x0DD)), "it is another segment's");
    writer.append(&mut frame(&[b"entry"]), 1).unwrap();
    assert!(!is_blank(SEED));
    // Its entry is still there, whatever has become of the beginning.
    bench.change(|bytes| bytes[..BLOCK_BYTES].fill(0));
    assert!(!is_blank(SEED));
    bench.change(Vec::clear);
    assert!(!is_blank(SEED));
}

#[test]
fn an_entry_beyond_the_files_end_is_damage_and_not_an_end() {
    let bench = Bench::new();
    filled(&bench, 3);
    bench.change(|bytes| bytes.truncate(BLOCK_BYTES));
    let error = bench
        .open()
        .read(Span::new(BLOCK_BYTES as u64, 10), &mut Vec::new())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("4096"), "{error}");
}

#[test]
fn an_entry_that_cannot_be_encoded_leaves_the_frame_as_it_was() {
    let mut frame = frame(&[b"entry"]);
    let before = frame.bytes();
    let refused = || crate::error::Error::new(ErrorKind::Encoding, "no");
    let pushed = frame.push(|out| {
        out.extend_from_slice(b"half");
        Err(refused())
    });
    assert_eq!(pushed.unwrap_err().kind(), ErrorKind::Encoding);
    assert_eq!((frame.bytes(), frame.spans(0).count()), (before, 1));
}

#[test]
fn a_file_that_was_cut_short_is_told_from_one_that_ends() {
    let bench = Bench::new();
    let begins = filled(&bench, 9);
    let whole = fs::read(bench.path()).unwrap();
    let is_cut_short = || {
        let log = bench.open();
        let mut walk = log.walk().unwrap();
        while matches!(walk.next().unwrap(), Step::Frame(_)) {}
        walk.cut_off().is_some()
    };
    assert!(!is_cut_short());
    for at in begins {
        fs::write(bench.path(), &whole[..at]).unwrap();
        assert!(is_cut_short(), "{at}");
    }
}
